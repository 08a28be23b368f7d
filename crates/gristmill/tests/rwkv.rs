//! RWKV-7 against reference implementations: logits, states, text, and states in files.

mod common;

use common::{code, data, gristmill, ids, ids_arg, json_of, read_json, read_npy, run, stderr};
use gristmill::{Model, Request, SequenceId, Settings};
use std::path::{Path, PathBuf};

/// Largest difference of a logit from the reference.
const LOGITS: f32 = 1e-3;
/// Largest difference of a number of a state.
const STATES: f32 = 1e-4;

fn far(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Logits of every position through the binary.
fn logits(model: &Path, prompt: &[u32], more: &[&str]) -> (Vec<usize>, Vec<f32>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("logits.npy");
    let mut command = gristmill();
    command.arg("logits").arg(model).args(["--activations", "f32", "--ids", &ids_arg(prompt)]);
    let output = command.args(more).arg("-o").arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    read_npy(&path)
}

/// The golden model in all its files, the trained one, and both as they were published.
#[test]
fn logits_of_every_file() {
    let Some(data) = data() else { return };
    let folder = data.join("golden/rwkv7");
    let golden = read_json(&folder.join("golden.json"));
    let mut files: Vec<(PathBuf, &serde_json::Value)> = vec![];
    for (kind, entry) in golden["gguf"].as_object().unwrap() {
        let exact = entry["exact"].as_bool().unwrap_or(false);
        if common::short() && !exact && kind != "q4_k" {
            continue;
        }
        let reference = if exact { &golden["exact"] } else { &entry["golden"] };
        files.push((folder.join(format!("model-{kind}.gguf")), reference));
    }
    files.push((folder.clone(), &golden["exact"]));
    for (model, reference) in files {
        for (name, file) in reference["logits"].as_object().unwrap() {
            let expected = read_npy(&folder.join(file.as_str().unwrap()));
            for more in [&[][..], &["--chunked"]] {
                let got = logits(&model, &ids(&golden["prompts"][name]), more);
                assert_eq!(got.0, expected.0);
                let far = far(&got.1, &expected.1);
                println!("{} {name} {more:?}: at most {far:e} away", model.display());
                assert!(far < LOGITS, "{} {name} {more:?}: {far}", model.display());
            }
        }
        for (name, greedy) in reference["greedy"].as_object().unwrap() {
            let margins = greedy["margins"].as_array().unwrap();
            let near = |m: &serde_json::Value| m.as_f64().is_none_or(|m| m < f64::from(LOGITS));
            let expected = ids(&greedy["ids"]);
            let sure = margins.iter().position(near).unwrap_or(expected.len());
            let mut command = gristmill();
            command.arg("run").arg(&model).args(["--json", "--temp", "0", "--activations", "f32"]);
            command.args(["--ignore-eos", "--ids", &ids_arg(&ids(&golden["prompts"][name]))]);
            let v = json_of(command.args(["-n", &sure.to_string()]));
            assert_eq!(ids(&v["ids"]), expected[..sure], "{} {name}", model.display());
        }
    }
}

#[test]
fn the_trained_model() {
    let Some(data) = data() else { return };
    let folder = data.join("models/tiny-rwkv-7v0");
    let golden = read_json(&folder.join("golden.json"));
    let expected = read_npy(&folder.join("logits_f32.npy"));
    for file in ["tiny-rwkv-7v0-f32.gguf", "model.safetensors"] {
        for isa in common::instruction_sets() {
            let got =
                logits(&folder.join(file), &ids(&golden["prompt"]), &["--cpu", &isa, "-t", "1"]);
            let far = far(&got.1, &expected.1);
            println!("{file} {isa}: at most {far:e} away");
            assert!(far < LOGITS, "{file} {isa}: {far}");
        }
    }
    let model = folder.join("tiny-rwkv-7v0-f32.gguf");
    let greedy = ids(&golden["greedy"]["ids"]);
    let mut command = gristmill();
    command.arg("run").arg(&model).args(["--json", "--temp", "0", "--activations", "f32"]);
    command.args(["--ids", &ids_arg(&ids(&golden["prompt"])), "--ignore-eos"]);
    let v = json_of(command.args(["-n", &greedy.len().to_string()]));
    assert_eq!(ids(&v["ids"]), greedy);
    assert_eq!(v["text"], golden["greedy_text"]);
}

/// What rwkv.cpp's own test expects after three bytes, computed by the original implementation.
#[test]
fn the_logits_that_another_program_expects() {
    let Some(data) = data() else { return };
    let folder = data.join("models/tiny-rwkv-7v0");
    let bytes = std::fs::read(folder.join("expected-logits-7v0-834K.bin")).unwrap();
    let number = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    let expected: Vec<f32> = bytes.chunks_exact(4).map(number).collect();
    let (_, got) = logits(&folder.join("tiny-rwkv-7v0-f32.gguf"), &[0x22, 0x69, 0x6e], &[]);
    let far = far(&got[2 * 256..], &expected);
    println!("at most {far:e} away");
    assert!(far < 1e-4, "{far}");
}

/// States after a prompt, against those stored: `[layer][time mix, channel mix][width]` of the last
/// tokens, `[layer][head][value][key]` of the recurrence.
#[test]
fn states() {
    let Some(data) = data() else { return };
    let golden = data.join("golden/rwkv7");
    let trained = data.join("models/tiny-rwkv-7v0");
    let prompt = |folder: &Path, key: &str| {
        let v = read_json(&folder.join("golden.json"));
        ids(v.pointer(key).unwrap())
    };
    for (model, ids, shift, wkv) in [
        (
            golden.join("model-f16.gguf"),
            prompt(&golden, "/prompts/medium"),
            golden.join("state_shift_medium.npy"),
            golden.join("state_wkv_medium.npy"),
        ),
        (
            trained.join("tiny-rwkv-7v0-f32.gguf"),
            prompt(&trained, "/prompt"),
            trained.join("state_shift.npy"),
            trained.join("state_wkv.npy"),
        ),
    ] {
        let mut engine = Model::open(&model).unwrap().engine(&Settings::exact()).unwrap();
        let mut request = Request::new(ids.clone(), 1);
        request.keep = true;
        let id = engine.submit(request).unwrap();
        engine.run_to_end().unwrap();
        let saved = engine.state(SequenceId(id.0)).unwrap();
        assert_eq!(saved.computed as usize, ids.len());
        let number = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let state: Vec<f32> = saved.bytes.chunks_exact(4).map(number).collect();
        let (shape, wkv) = read_npy(&wkv);
        let (_, shift) = read_npy(&shift);
        let [layers, heads, n, _] = shape[..] else { panic!("{shape:?}") };
        let width = heads * n;
        let mut worst = 0.0f32;
        for layer in 0..layers {
            let own = &state[layer * (2 * width + width * n)..][..2 * width + width * n];
            let (time, rest) = own.split_at(width);
            let (matrix, channel) = rest.split_at(width * n);
            let stored = &shift[layer * 2 * width..][..2 * width];
            worst = worst.max(far(time, &stored[..width])).max(far(channel, &stored[width..]));
            for head in 0..heads {
                let stored = &wkv[(layer * heads + head) * n * n..][..n * n];
                let got = &matrix[head * n * n..][..n * n];
                for (key, row) in got.chunks(n).enumerate() {
                    for (value, x) in row.iter().enumerate() {
                        worst = worst.max((x - stored[value * n + key]).abs());
                    }
                }
            }
        }
        println!("{}: states at most {worst:e} away", model.display());
        assert!(worst < STATES, "{}: {worst}", model.display());
    }
}

/// A prompt read once and saved, then gone on from in another process, gives the ids of the whole
/// prompt read at once; so does a saved conversation.
#[test]
fn a_saved_state_goes_on() {
    let Some(data) = data() else { return };
    let folder = data.join("golden/rwkv7");
    let long = common::ids(&read_json(&folder.join("golden.json"))["prompts"]["long"]);
    let model = folder.join("model-q4_k.gguf");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.state");
    let answer = |ids: &[u32], more: &[&str]| {
        let mut command = gristmill();
        command.arg("run").arg(&model).args(["--json", "--temp", "0", "--ignore-eos", "-q"]);
        json_of(command.args(["--ids", &ids_arg(ids)]).args(more))
    };
    let path = file.to_str().unwrap();
    let whole = common::ids(&answer(&long, &["-n", "24"])["ids"]);
    for cut in [1, 16, 100, long.len() - 1] {
        let read = answer(&long[..cut], &["-n", "0", "--state-out", path]);
        assert_eq!(ids(&read["ids"]), [] as [u32; 0]);
        let got = answer(&long[cut..], &["-n", "24", "--state-in", path]);
        assert_eq!(ids(&got["ids"]), whole, "cut at {cut}");
    }
    // With what was generated in it, twice over.
    answer(&long, &["-n", "10", "--state-out", path]);
    answer(&whole[10..12], &["-n", "2", "--state-in", path, "--state-out", path]);
    let got = answer(&whole[14..15], &["-n", "9", "--state-in", path]);
    assert_eq!(ids(&got["ids"]), whole[15..], "after what was generated");

    // Another model's, a damaged one, and something else.
    let other = data.join("models/tiny-rwkv-7v0/tiny-rwkv-7v0-f32.gguf");
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(dir.path().join("damaged"), &bytes).unwrap();
    bytes.truncate(at);
    std::fs::write(dir.path().join("short"), &bytes).unwrap();
    std::fs::write(dir.path().join("letter"), "Dear Sir").unwrap();
    for (model, file, what) in [
        (&other, "a.state", "another model"),
        (&model, "damaged", "damaged"),
        (&model, "short", "damaged"),
        (&model, "letter", "no saved state"),
        (&model, "nothing", "nothing"),
    ] {
        let path = dir.path().join(file);
        let (model, path) = (model.to_str().unwrap(), path.to_str().unwrap());
        let output = run(&["run", model, "--ids", "1", "--state-in", path]);
        assert!([1, 2].contains(&code(&output)), "{file}: {}", stderr(&output));
        assert!(stderr(&output).contains(what), "{file}: {}", stderr(&output));
    }
}

/// A model that keeps keys and values has no state to save.
#[test]
fn decoders_have_no_state() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.state");
    let output = run(&["run", "hello", "-n", "1", "--state-out", path.to_str().unwrap()]);
    assert_eq!(code(&output), 2, "{}", stderr(&output));
    assert!(stderr(&output).contains("recurrent"), "{}", stderr(&output));
    assert!(!path.exists());
}

/// The other verbs.
#[test]
fn other_verbs() {
    let Some(data) = data() else { return };
    let model = data.join("models/tiny-rwkv-7v0/tiny-rwkv-7v0-f16.gguf");
    let model = model.to_str().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text.txt");
    std::fs::write(&text, "\"in the beginning there was a small house. ".repeat(40)).unwrap();
    for args in [
        vec!["perplexity", model, "-f", text.to_str().unwrap(), "-c", "256", "-t", "1"],
        vec!["inspect", model],
        vec!["bench", model, "-p", "64", "-n", "8", "-r", "1", "-t", "1"],
        vec!["logits", model, "-p", "in the", "--stop-after", "blk.3.wkv"],
        vec!["tokenize", model, "in the"],
    ] {
        let output = run(&args);
        assert_eq!(code(&output), 0, "{args:?}: {}", stderr(&output));
    }
}
