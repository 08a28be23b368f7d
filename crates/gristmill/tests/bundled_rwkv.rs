//! The bundled RWKV-7 against PyTorch with the same weights, dequantized: `training/oracle.py` wrote
//! what is expected. No file from outside is needed.

mod common;

use common::{gristmill, ids, ids_arg, json_of, read_json, read_npy, stderr};
use serde_json::Value;
use std::path::Path;

/// Largest difference of a logit; below this a lead is a tie that rounding may decide.
const TOLERANCE: f64 = 1e-3;

/// The model, by its name.
const MODEL: &str = "tales-rwkv";

/// Logits of every place of a text.
fn logits(text: &[u32]) -> (Vec<usize>, Vec<f32>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("logits.npy");
    let mut command = gristmill();
    command.args(["logits", MODEL, "--activations", "f32", "--ids", &ids_arg(text)]);
    let output = command.arg("-o").arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    read_npy(&path)
}

/// Holds a row of logits against the largest ones expected of it.
fn check_largest(row: &[f32], largest: &Value, what: &str) {
    let numbers = largest["logits"].as_array().expect("logits").iter().map(|v| v.as_f64().unwrap());
    for (id, number) in ids(&largest["ids"]).into_iter().zip(numbers) {
        let far = (f64::from(row[id as usize]) - number).abs();
        assert!(far < TOLERANCE, "{what}: logit of {id} is {far} away");
    }
}

/// Logits after a prompt, and the greedy continuation to its end.
#[test]
fn rwkv_tells_what_pytorch_tells() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tales-rwkv.json");
    let list = read_json(Path::new(file));
    for told in list["continuations"].as_array().expect("continuations") {
        let prompt = ids(&told["prompt_ids"]);
        let (shape, numbers) = logits(&prompt);
        let last = &numbers[(shape[0] - 1) * shape[1]..];
        check_largest(last, &told["first_logits"], &format!("{told}"));
        let margin = told["smallest_margin"].as_f64().unwrap();
        if margin < TOLERANCE {
            eprintln!("a lead of {margin} may go either way: left out");
            continue;
        }
        let mut command = gristmill();
        command.args(["run", "--json", "-q", "--temp", "0", "--activations", "f32"]);
        command.args(["-m", MODEL, "--ids", &ids_arg(&prompt)]);
        let got = ids(&json_of(&mut command)["ids"]);
        // The token that ends a text may or may not be among them.
        let greedy = ids(&told["greedy_ids"]);
        assert_eq!(got[..got.len().min(greedy.len())], greedy[..got.len()], "{prompt:?}");
        assert!(got.len() + 1 >= greedy.len(), "{prompt:?}: it ended early");
    }
}
