//! The bundled denoiser against PyTorch in f64 with the same weights, dequantized:
//! `training/oracle.py` wrote what is expected, from the noise that seeds stand for. No file from
//! outside is needed.

mod common;

use common::{code, gristmill, ids, json, json_of, read_json, run, stderr, stdout};
use gristmill::engine::denoise::{first_noise, spread};
use gristmill::{Cpu, CpuOptions, Isa, Model, Settings};
use serde_json::Value;
use std::path::Path;

/// Largest difference of a latent; the tokens of the end are to be the same.
const TOLERANCE: f64 = 1e-3;

/// The model, by its name.
const MODEL: &str = "tales-denoiser";

/// What PyTorch made: the text of each of a few seeds.
fn expected() -> Value {
    read_json(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tales-denoiser.json"))
}

fn number(v: &Value) -> u64 {
    v.as_u64().expect("a number")
}

/// The latents of each step, and the tokens of the last.
fn trace(isa: Isa, told: &Value) -> (Vec<Vec<f32>>, Vec<u32>) {
    let model = Model::bundled_as(MODEL).unwrap();
    let settings = Settings::exact();
    let tokens = model.info(settings.kv).unwrap().context_length;
    let cpu = Cpu::new(CpuOptions { isa, threads: 2, poison: false }).unwrap();
    let program = model.program(settings.kv).unwrap();
    let options = settings.engine_options(tokens).options;
    let eta = told["eta"].as_f64().unwrap() as f32;
    let mut denoiser = model
        .denoiser_on(
            gristmill::Device::Cpu(cpu),
            program,
            tokens,
            eta,
            &options,
            &mut |_, _| Ok(()),
        )
        .unwrap();
    let (seed, mut latents) = (number(&told["seed"]), vec![]);
    let times = spread(denoiser.times(), number(&told["steps"]) as u32).unwrap();
    let noise = first_noise(seed, tokens, denoiser.width());
    let mut watch = |_: usize, x: &[f32], _: &[u32]| {
        latents.push(x.to_vec());
        Ok(())
    };
    let ids = denoiser.run(&noise, &times, seed, &mut |_| vec![], Some(&mut watch)).unwrap();
    (latents, ids)
}

/// Latents on the way and the tokens at its end, without new noise and with it, on every instruction
/// set.
#[test]
fn latents_and_tokens_are_pytorchs() {
    let expected = expected();
    let every = number(&expected["every"]) as usize;
    for isa in Isa::available() {
        let mut worst = 0.0f64;
        let texts = expected["texts"].as_array().expect("texts");
        // Those that are not the machine's own are slow: two will do.
        for told in texts.iter().step_by(if isa == Isa::best() { 1 } else { 3 }) {
            let (latents, got) = trace(isa, told);
            let what = format!("{isa}: seed {} at eta {}", told["seed"], told["eta"]);
            assert_eq!(got, ids(&told["ids"]), "{what}");
            for stored in told["latents"].as_array().expect("steps") {
                let step = &latents[number(&stored["step"]) as usize];
                let width = step.len() / got.len();
                let rows = step.chunks_exact(width).step_by(every);
                let stored = stored["values"].as_array().expect("rows");
                assert_eq!(rows.len(), stored.len());
                for (a, b) in rows.flatten().zip(stored.iter().flat_map(|r| r.as_array().unwrap()))
                {
                    worst = worst.max((f64::from(*a) - b.as_f64().unwrap()).abs());
                }
            }
        }
        println!("{isa}: latents at most {worst:e} away");
        assert!(worst < TOLERANCE, "{isa}: {worst}");
    }
}

/// The same tokens and their text through the binary, on whatever device is tested.
#[test]
fn the_binary_writes_what_pytorch_writes() {
    for told in expected()["texts"].as_array().expect("texts") {
        let mut command = gristmill();
        command.args(["run", "--json", "-q", "-m", MODEL, "--activations", "f32"]);
        for flag in ["steps", "eta", "seed"] {
            command.args([&format!("--{flag}"), &told[flag].to_string()]);
        }
        let v = json_of(&mut command);
        assert_eq!((&v["ids"], &v["text"]), (&told["ids"], &told["text"]), "{v}");
    }
}

#[test]
fn what_is_said() {
    let v = json(&["run", "--json", "-m", MODEL, "--seed", "5", "--steps", "20"]);
    let keys: Vec<&String> = v.as_object().expect("an object").keys().collect();
    let expected = [
        "ids",
        "text",
        "finish",
        "steps",
        "eta",
        "seed",
        "tok_s",
        "denoise_ms",
        "load_ms",
        "device",
    ];
    assert_eq!(keys, expected);
    assert_eq!((number(&v["seed"]), number(&v["steps"]), v["eta"].as_f64()), (5, 20, Some(0.0)));
    // The same seed, the same text; plain where there is no terminal, with what it took on stderr.
    let output = run(&["run", MODEL, "-s", "5", "--steps", "20"]);
    assert_eq!(stdout(&output), v["text"].as_str().unwrap());
    let lines = stderr(&output);
    assert!(lines.contains("24 tokens in 20 steps") && lines.contains("tok/s"), "{lines}");
    let quiet = run(&["run", MODEL, "-q", "-s", "5", "--steps", "20"]);
    assert_eq!((stdout(&quiet), stderr(&quiet)), (stdout(&output), String::new()));
    let text = |args: &[&str]| stdout(&run(&[&["run", MODEL, "-q"], args].concat()));
    assert_ne!(text(&["-s", "5"]), text(&["-s", "6"]));
    // New noise is the seed's too.
    assert_eq!(text(&["-s", "5", "--eta", "1"]), text(&["-s", "5", "--eta", "1"]));
    // Without one each run has another.
    assert_ne!(text(&[]), text(&[]));
}

/// What means nothing to it is refused by name; and what only it knows, by the others.
#[test]
fn refused() {
    for (args, named) in [
        (&["a fox"][..], "there is a prompt"),
        (&["--prompt", "a fox"], "there is a prompt"),
        (&["--ids", "1,2"], "--ids"),
        (&["--raw"], "--raw"),
        (&["--system", "x"], "--system"),
        (&["-n", "9"], "--predict"),
        (&["-c", "9"], "--ctx-size"),
        (&["-b", "9"], "--batch-size"),
        (&["--temp", "1"], "--temp"),
        (&["--top-k", "4"], "--top-k"),
        (&["--min-p", "0.1"], "--min-p"),
        (&["--ignore-eos"], "--ignore-eos"),
        (&["-i"], "--interactive"),
        (&["--threshold", "0.9"], "--threshold"),
        (&["--block-length", "4"], "--block-length"),
        (&["--cache", "dual"], "--cache"),
        (&["--profile"], "--profile"),
        (&["--state-out", "x"], "--state-out"),
        (&["--eta", "1.5"], "between 0 and 1"),
        (&["--eta", "-0.5"], "between 0 and 1"),
        (&["--eta", "nan"], "between 0 and 1"),
        (&["--steps", "401"], "1 to 400"),
        (&["--steps", "0"], "--steps"),
    ] {
        let output = run(&[&["run", "-m", MODEL], args].concat());
        assert_eq!(code(&output), 2, "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(named), "{args:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{args:?}");
    }
    let output = run(&["run", "--eta", "0.5", "a fox"]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("--eta is for Gaussian diffusion"), "{}", stderr(&output));
}

#[test]
fn other_verbs_refuse_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.txt");
    std::fs::write(&file, "A fox lost a lantern. ".repeat(200)).unwrap();
    let file = file.to_str().unwrap();
    for args in [
        &["logits", MODEL, "--ids", "1,2"][..],
        &["logits", MODEL, "--ids", "1,2", "--stop-after", "latents"],
        &["perplexity", MODEL, "--file", file],
        &["bench", "-m", MODEL, "-p", "4", "-n", "1"],
        &["embed", "-m", MODEL, file],
        &["embed", "-m", MODEL, "--pooling", "mean", file],
        &["rerank", "-m", MODEL, "a fox", file],
    ] {
        let output = run(args);
        assert_eq!(code(&output), 2, "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("Gristmill Tales Denoiser"), "{}", stderr(&output));
    }
    // What is in it can be looked at.
    let output = run(&["inspect", MODEL]);
    assert_eq!(code(&output), 0);
    assert!(stdout(&output).contains("runs on cpu") && stdout(&output).contains("denoise"));
}
