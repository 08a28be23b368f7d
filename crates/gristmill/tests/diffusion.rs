//! Masked diffusion against reference implementations, through the binary.

mod common;

use common::{
    check_logits, code, data, gristmill, ids, ids_arg, json_of, read_json, read_npy, stderr,
};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files of a folder, and the folder itself.
fn models(folder: &Path, kinds: &[&str]) -> Vec<PathBuf> {
    let files = kinds.iter().map(|kind| folder.join(format!("model-{kind}.gguf")));
    files.chain([folder.to_owned()]).collect()
}

/// Logits of a prompt with masks behind it, of every place at once.
#[test]
fn logits() {
    let Some(data) = data() else { return };
    for arch in ["llada", "dream"] {
        let folder = data.join("golden").join(arch);
        let golden = read_json(&folder.join("golden.json"));
        for (name, file) in golden["exact"]["logits"].as_object().expect("arrays by prompt") {
            let npy = folder.join(file.as_str().expect("a file name"));
            for model in models(&folder, &["f16"]) {
                check_logits(&model, &ids(&golden["inputs"][name]), &read_npy(&npy));
            }
        }
    }
    let folder = data.join("golden/llada");
    let golden = read_json(&folder.join("golden.json"));
    let prompt = ids(&golden["inputs"]["medium"]);
    check_logits(
        &folder.join("model-q4_k.gguf"),
        &prompt,
        &read_npy(&folder.join("logits_q4_k_medium.npy")),
    );
}

/// `run` on a model, exactly, with JSON.
fn fill_in(model: &Path, prompt: &[u32], length: u64) -> Command {
    let mut command = gristmill();
    command.arg("run").arg(model).args(["--json", "-q", "--activations", "f32"]);
    command.args(["--ids", &ids_arg(prompt), "-n", &length.to_string()]);
    command
}

/// Checks the whole text and the places of every pass that committed something.
fn check_trace(v: &Value, sample: &Value, what: &str) {
    let mut text = ids(&sample["prompt"]);
    text.extend(ids(&v["ids"]));
    assert_eq!(text, ids(&sample["result"]), "{what}");
    let of = |list: &Value| -> Vec<Vec<u32>> {
        list.as_array().expect("a list").iter().map(ids).collect()
    };
    let stored = sample["trace"].as_array().expect("steps").iter().map(|t| ids(&t["pos"]));
    let stored: Vec<Vec<u32>> = stored.filter(|places| !places.is_empty()).collect();
    assert_eq!(of(&v["passes"]), stored, "{what}");
}

/// Runs every stored sample of an architecture, from GGUF and safetensors, on every instruction set,
/// and checks its trace; `check` gets the JSON and the sample.
fn traces(arch: &str, args: impl Fn(&Value) -> Vec<String>, check: impl Fn(&Value, &Value)) {
    let Some(data) = data() else { return };
    let folder = data.join("golden").join(arch);
    let golden = read_json(&folder.join("golden.json"));
    for sample in golden[format!("{arch}_samples")].as_array().expect("samples") {
        for model in models(&folder, &["f16"]) {
            for isa in common::instruction_sets() {
                let length = sample["gen_length"].as_u64().unwrap();
                let mut command = fill_in(&model, &ids(&sample["prompt"]), length);
                let v = json_of(command.env("GRISTMILL_CPU", &isa).args(args(sample)));
                check_trace(&v, sample, &format!("{} on {isa}: {sample}", model.display()));
                check(&v, sample);
            }
        }
    }
}

/// LLaDA's sampler, guidance included.
#[test]
fn llada_traces() {
    let fields = ["steps", "block_length", "cfg_scale"];
    let arg = |s: &Value, f: &str| [format!("--{}", f.replace('_', "-")), s[f].to_string()];
    let args = |s: &Value| fields.iter().flat_map(|f| arg(s, f)).collect();
    traces("llada", args, |v, sample| {
        let guided = sample["cfg_scale"].as_f64().unwrap() > 0.0;
        let steps = sample["steps"].as_u64().unwrap();
        assert_eq!(v["forwards"].as_u64().unwrap(), steps * if guided { 2 } else { 1 });
    });
}

/// Dream's.
#[test]
fn dream_traces() {
    let args = |s: &Value| {
        let algorithm = s["alg"].as_str().unwrap().replace('_', "-");
        vec!["--steps".into(), s["steps"].to_string(), "--algorithm".into(), algorithm]
    };
    traces("dream", args, |_, _| {});
}

/// With a threshold above 1 one place is committed a pass, as by the plain algorithm; run anew in
/// every pass, the caches change nothing. Kept for a block, they save tokens and still give a text.
#[test]
fn caches() {
    let Some(data) = data() else { return };
    for arch in ["llada", "dream"] {
        let folder = data.join("golden").join(arch);
        let golden = read_json(&folder.join("golden.json"));
        let prompt = ids(&golden["prompts"]["medium"]);
        let run = |args: &[&str]| {
            let mut command = fill_in(&folder.join("model-f16.gguf"), &prompt, 32);
            json_of(command.args(["--block-length", "8", "--algorithm", "llada"]).args(args))
        };
        let plain = run(&["--steps", "32"]);
        for cache in ["prefix", "dual"] {
            let anew = run(&["--cache", cache, "--threshold", "1.5", "--refresh", "1"]);
            for field in ["ids", "passes", "forwards"] {
                assert_eq!(anew[field], plain[field], "{arch} {cache} {field}");
            }
            let kept = run(&["--cache", cache, "--threshold", "0.9"]);
            let masks = kept["ids"].as_array().unwrap().iter().filter(|&id| *id == 3).count();
            assert_eq!(masks, 0, "{kept}");
            let fewer = run(&["--cache", cache, "--factor", "1.9"]);
            assert!(fewer["forwards"].as_u64() <= plain["forwards"].as_u64());
        }
    }
}

/// The text as such: the same with JSON and without, nothing drawn where there is no terminal.
#[test]
fn plain_text_and_statistics() {
    let Some(data) = data() else { return };
    let model = data.join("golden/llada/model-f16.gguf");
    let mut command = gristmill();
    command.arg("run").arg(&model).args(["--raw", "-p", "The list is empty.", "-n", "32"]);
    let output = command.output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let v = json_of(command.arg("--json"));
    assert_eq!(common::stdout(&output), v["text"].as_str().unwrap());
    assert!(!common::stdout(&output).contains('\x1b'));
    let said = stderr(&output);
    assert!(said.contains("32 forwards, 1.00 a forward, at ") && said.contains(" tok/s"), "{said}");
    assert_eq!(v["tokens_per_forward"], 1.0);
    for number in ["tok_s", "fill_ms", "load_ms"] {
        assert!(v[number].as_f64().is_some_and(|x| x > 0.0), "{v}");
    }
}

/// The same seed gives the same text by chance, on every number of threads.
#[test]
fn chance_is_the_seeds() {
    let Some(data) = data() else { return };
    let model = data.join("golden/llada/model-f16.gguf");
    for algorithm in ["llada", "origin", "subs", "first-hitting"] {
        let text = |seed: &str, threads: &str| {
            let mut command = fill_in(&model, &[340, 414, 310], 32);
            command.args(["--algorithm", algorithm, "--temp", "1", "-s", seed, "-t", threads]);
            ids(&json_of(&mut command)["ids"])
        };
        assert_eq!(text("7", "1"), text("7", "2"), "{algorithm}");
        assert_ne!(text("7", "1"), text("8", "1"), "{algorithm}");
    }
}

/// What does not divide, does not apply or makes no sense is refused with exit code 2.
#[test]
fn refused() {
    let Some(data) = data() else { return };
    let llada = data.join("golden/llada/model-f16.gguf");
    for (args, what) in [
        (
            &["-n", "30", "--block-length", "8"][..],
            "30 tokens to fill in are no multiple of the block length, 8; take 24 or 32",
        ),
        (
            &["-n", "32", "--block-length", "8", "--steps", "30"],
            "30 steps are no multiple of the number of blocks, 4; take 28 or 32",
        ),
        (&["-n", "9999"], "context"),
        (&["-n", "32", "--threshold", "-1"], "threshold is -1"),
        (&["-n", "32", "--cfg-scale", "nan"], "guidance is NaN"),
        (&["-n", "32", "--min-p", "0.1"], "--min-p says how a next token is chosen"),
        (&["-n", "32", "--state-out", "x"], "--state-out is for recurrent models"),
        (&["-n", "32", "-b", "16"], "--batch-size cuts a prompt"),
        (&["-n", "32", "--algorithm", "entropy", "--remasking", "random"], "--remasking is of"),
        (&["-n", "32", "--threshold", "0.9", "--steps", "8"], "cannot be used with"),
    ] {
        let mut command = gristmill();
        let output = command.arg("run").arg(&llada).args(["--ids", "1,2"]).args(args);
        let output = output.output().unwrap();
        assert_eq!(code(&output), 2, "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(what), "{args:?}: {}", stderr(&output));
    }
    let masked = gristmill().arg("run").arg(&llada).args(["--ids", "1,3"]).output().unwrap();
    assert!(stderr(&masked).contains("token 1 of the prompt is the mask"), "{}", stderr(&masked));
    let told = gristmill().arg("perplexity").args(["--ids-file", "x", "-m"]).arg(&llada).output();
    let told = told.unwrap();
    assert!(
        code(&told) == 2 && stderr(&told).contains("sees what comes after"),
        "{}",
        stderr(&told)
    );
    let causal = gristmill().args(["run", "--steps", "4", "hello there"]).output().unwrap();
    assert_eq!(code(&causal), 2);
    assert!(stderr(&causal).contains("--steps is for diffusion"), "{}", stderr(&causal));
}
