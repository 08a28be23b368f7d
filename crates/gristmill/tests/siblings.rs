//! The bundled RWKV-7 and the bundled masked diffusion model against PyTorch with the same weights,
//! dequantized: `training/oracle.py` wrote what is expected. No file from outside is needed.

mod common;

use common::{gristmill, ids, ids_arg, json_of, read_json, read_npy, stderr};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Largest difference of a logit; below this a lead is a tie that rounding may decide.
const TOLERANCE: f64 = 1e-3;

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("bundled/{name}.gguf"))
}

fn expected(name: &str) -> Value {
    read_json(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/{name}.json")))
}

/// Logits of every place of a text.
fn logits(name: &str, text: &[u32]) -> (Vec<usize>, Vec<f32>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("logits.npy");
    let mut command = gristmill();
    command.arg("logits").arg(model(name)).args(["--activations", "f32", "--ids", &ids_arg(text)]);
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
    let list = expected("tales-rwkv");
    for told in list["continuations"].as_array().expect("continuations") {
        let prompt = ids(&told["prompt_ids"]);
        let (shape, numbers) = logits("tales-rwkv", &prompt);
        let last = &numbers[(shape[0] - 1) * shape[1]..];
        check_largest(last, &told["first_logits"], &format!("{told}"));
        let margin = told["smallest_margin"].as_f64().unwrap();
        if margin < TOLERANCE {
            eprintln!("a lead of {margin} may go either way: left out");
            continue;
        }
        let mut command = gristmill();
        command.args(["run", "--json", "-q", "--temp", "0", "--activations", "f32"]);
        command.arg("-m").arg(model("tales-rwkv")).args(["--ids", &ids_arg(&prompt)]);
        let got = ids(&json_of(&mut command)["ids"]);
        // The token that ends a text may or may not be among them.
        let greedy = ids(&told["greedy_ids"]);
        assert_eq!(got[..got.len().min(greedy.len())], greedy[..got.len()], "{prompt:?}");
        assert!(got.len() + 1 >= greedy.len(), "{prompt:?}: it ended early");
    }
}

/// Logits of a text with masks in it, rows of told and of masked places.
#[test]
fn diffusion_sees_what_pytorch_sees() {
    let list = expected("tales-diffusion");
    let (shape, numbers) = logits("tales-diffusion", &ids(&list["masked_ids"]));
    for row in list["rows"].as_array().expect("rows") {
        let at = row["row"].as_u64().unwrap() as usize;
        check_largest(&numbers[at * shape[1]..][..shape[1]], row, &format!("row {at}"));
    }
}

/// The plain algorithm and that of a threshold, pass by pass: which places are filled in, with what.
#[test]
fn diffusion_fills_in_what_pytorch_fills_in() {
    let list = expected("tales-diffusion");
    for trace in list["traces"].as_array().expect("traces") {
        let margins = trace["margins"].as_array().unwrap().iter().map(|m| m.as_f64().unwrap());
        // Sureties near 1 lie close together: a tie that rounding may decide ends what is compared.
        let sure = margins.take_while(|&m| m > 2e-5).count();
        let mut command = gristmill();
        command.args(["run", "--json", "-q", "--activations", "f32", "--algorithm", "llada"]);
        for (option, field) in [("-n", "length"), ("--block-length", "block_length")] {
            command.args([option, &trace[field].to_string()]);
        }
        command.args(["--blocks", trace["blocks"].as_str().unwrap()]);
        if let Some(threshold) = trace["threshold"].as_f64() {
            command.args(["--threshold", &threshold.to_string()]);
        }
        command.arg("-m").arg(model("tales-diffusion"));
        let prompt = ids(&trace["prompt_ids"]);
        let got = json_of(command.args(["--ids", &ids_arg(&prompt)]));
        let mut before = vec![list["mask"].as_u64().unwrap() as u32; ids(&trace["ids"]).len()];
        let passes = trace["passes"].as_array().expect("passes");
        for (i, pass) in passes.iter().take(sure).enumerate() {
            let now = ids(pass);
            let changed = (0..now.len()).filter(|&p| now[p] != before[p]);
            let places: Vec<u32> = changed.map(|p| (p + prompt.len()) as u32).collect();
            assert_eq!(ids(&got["passes"][i]), places, "pass {i} of {prompt:?}");
            before = now;
        }
        println!("{sure} of {} passes compared", passes.len());
        assert!(sure >= 5, "only {sure} passes of {prompt:?} can be compared");
        if sure == passes.len() {
            assert_eq!(got["ids"], trace["ids"]);
        }
    }
}
