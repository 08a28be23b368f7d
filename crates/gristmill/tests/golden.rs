//! Models against reference implementations, through the binary: on the processor, or on the device that
//! `GRISTMILL_TEST_DEVICE` names.

mod common;

use common::{
    TOLERANCE, check_logits, data, device, gristmill, ids, ids_arg, json_of, read_json, read_npy,
    short,
};
use serde_json::Value;
use std::path::Path;

#[test]
fn stories260k_greedy_to_the_letter() {
    let Some(data) = data() else { return };
    let folder = data.join("models/stories260K");
    let golden = read_json(&folder.join("golden.json"));
    let expected = ids(&golden["greedy_ids"]);
    let n = expected.len().to_string();
    for isa in common::instruction_sets() {
        let mut command = gristmill();
        command.env("GRISTMILL_CPU", &isa).arg("run").arg(folder.join("stories260K-f32.gguf"));
        command.args(["--json", "--ids", "1", "--temp", "0", "--activations", "f32", "-n", &n]);
        let v = json_of(&mut command);
        assert_eq!(ids(&v["ids"]), expected, "{isa}");
        assert_eq!(v["text"], golden["text"], "{isa}");
        if device().is_some() {
            break; // instruction sets make no difference there
        }
        assert!(v["device"].as_str().unwrap().contains(&isa), "{v}");
        println!("{isa}: {n} ids");
    }
}

#[test]
fn stories260k_logits() {
    let Some(data) = data() else { return };
    let folder = data.join("models/stories260K");
    let golden = read_json(&folder.join("golden.json"));
    let mut prompt = vec![1];
    prompt.extend(&ids(&golden["greedy_ids"])[..63]);
    let reference = read_npy(&folder.join("logits_f32.npy"));
    check_logits(&folder.join("stories260K-f32.gguf"), &prompt, &reference);
}

#[test]
fn golden_llama() {
    golden("llama");
}

#[test]
fn golden_qwen3() {
    golden("qwen3");
}

#[test]
fn golden_qwen3moe() {
    golden("qwen3moe");
}

/// The same models as they were published: `config.json` and safetensors.
#[test]
fn golden_safetensors() {
    let Some(data) = data() else { return };
    let all = ["llama", "mistral", "qwen2", "qwen3", "qwen3moe", "gemma2"];
    for arch in if short() { &all[4..] } else { &all[..] } {
        let folder = data.join("golden").join(arch);
        let golden = read_json(&folder.join("golden.json"));
        for (name, file) in golden["exact"]["logits"].as_object().expect("arrays by prompt") {
            let expected = read_npy(&folder.join(file.as_str().expect("a file name")));
            check_logits(&folder, &ids(&golden["prompts"][name]), &expected);
        }
    }
}

/// Every GGUF of a folder on every stored prompt.
fn golden(arch: &str) {
    let Some(data) = data() else { return };
    let folder = data.join("golden").join(arch);
    let golden = read_json(&folder.join("golden.json"));
    let mut checked = 0;
    for (kind, entry) in golden["gguf"].as_object().expect("files by type") {
        let model = folder.join(format!("model-{kind}.gguf"));
        let exact = entry["exact"].as_bool().unwrap_or(false);
        if short() && !exact && kind != "q4_k" {
            continue;
        }
        let reference = if exact { &golden["exact"] } else { &entry["golden"] };
        for (name, file) in reference["logits"].as_object().expect("arrays by prompt") {
            let prompt = ids(&golden["prompts"][name]);
            let expected = read_npy(&folder.join(file.as_str().expect("a file name")));
            check_logits(&model, &prompt, &expected);
            checked += 1;
        }
        for (name, greedy) in reference["greedy"].as_object().expect("ids by prompt") {
            check_greedy(&model, &ids(&golden["prompts"][name]), greedy);
        }
    }
    assert!(checked > 0, "{arch} has files");
}

/// Greedy ids up to the first step where the two best are too near to tell.
fn check_greedy(model: &Path, prompt: &[u32], golden: &Value) {
    let expected = ids(&golden["ids"]);
    let margins = golden["margins"].as_array().expect("a margin a step");
    let near = |m: &Value| m.as_f64().is_none_or(|m| m < f64::from(TOLERANCE));
    let sure = margins.iter().position(near).unwrap_or(expected.len());
    assert!(sure > 0, "{}: no step is sure", model.display());
    let mut command = gristmill();
    command.arg("run").arg(model).args(["--json", "--temp", "0", "--activations", "f32"]);
    command.args(["--ignore-eos", "--ids", &ids_arg(prompt), "-n", &sure.to_string()]);
    let v = json_of(&mut command);
    assert_eq!(ids(&v["ids"]), expected[..sure], "{}", model.display());
}
