//! Every architecture of decoders, and matrices of integers in the layouts of other programs, through the
//! binary: tiny random models with the logits of `transformers` (`oracles/make.py --stored` writes them;
//! the files that it writes for any other seed are checked by hand).

mod common;

use common::{check_logits, device, ids, read_json, read_npy, short};
use std::path::{Path, PathBuf};

fn folders() -> Vec<PathBuf> {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/families");
    let mut folders: Vec<_> = std::fs::read_dir(all).unwrap().map(|d| d.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() > 20, "{folders:?}");
    folders
}

/// On every prompt, or on a device that has little time on the longest.
fn check(folder: &Path, model: &Path) {
    let prompts = read_json(&folder.join("prompts.json"));
    let prompts: Vec<_> = prompts.as_array().unwrap().iter().map(ids).enumerate().collect();
    let some = if device().is_some() && short() { &prompts[prompts.len() - 1..] } else { &prompts };
    for (i, prompt) in some {
        check_logits(model, prompt, &read_npy(&folder.join(format!("logits_{i}.npy"))));
    }
}

#[test]
fn from_gguf() {
    let models = folders().into_iter().map(|f| (f.join("model-f16.gguf"), f));
    models.filter(|(file, _)| file.exists()).for_each(|(file, folder)| check(&folder, &file));
}

/// As they are published. A device with little time has read those with a GGUF file already.
#[test]
fn from_safetensors() {
    let again = |f: &PathBuf| device().is_some() && short() && f.join("model-f16.gguf").exists();
    folders().iter().filter(|f| !again(f)).for_each(|folder| check(folder, folder));
}
