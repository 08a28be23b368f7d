//! What several test files share: a small model file in memory, and the reference data beside
//! the project.
#![allow(dead_code)] // each test file uses its own part

use gristmill_core::{DType, HostTensor};
use gristmill_models::gguf::{Gguf, GgufWriter};
use std::path::PathBuf;
use std::sync::Arc;

/// A file's bytes: all kinds of metadata, three tensors.
pub fn small() -> Vec<u8> {
    let mut w = GgufWriter::new("small");
    w.set("general.architecture", "llama").unwrap();
    w.set("general.alignment", 32u32).unwrap();
    w.set("llama.block_count", 5u32).unwrap();
    w.set("a.u8", 200u8).unwrap();
    w.set("a.i8", -3i8).unwrap();
    w.set("a.u16", 60_000u16).unwrap();
    w.set("a.i16", -300i16).unwrap();
    w.set("a.i32", -70_000i32).unwrap();
    w.set("a.u64", 1u64 << 40).unwrap();
    w.set("a.i64", -(1i64 << 40)).unwrap();
    w.set("a.f32", 0.5f32).unwrap();
    w.set("a.f64", 0.25f64).unwrap();
    w.set("a.bool", true).unwrap();
    w.set("a.strings", ["one", "", "über"].as_slice()).unwrap();
    w.set("a.floats", [1.0f32, -2.0].as_slice()).unwrap();
    w.set("a.empty", [0i32; 0].as_slice()).unwrap();
    w.set("a.bools", [true, false].as_slice()).unwrap();
    let q8: Vec<u8> = (0..2 * 3 * 34u32).map(|i| i as u8).collect();
    let tensors = [
        HostTensor::from_f32("vector", 1, 5, &[1.0, 2.0, 3.0, 4.0, 5.0]),
        HostTensor::new("stack", DType::Q8_0, [2, 3, 32], Arc::new(q8.clone()), 0..q8.len())
            .unwrap(),
        HostTensor::from_f32("matrix", 2, 3, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
    ];
    w.write(Vec::new(), &tensors).unwrap()
}

pub fn open(bytes: Vec<u8>) -> gristmill_core::Result<Gguf> {
    Gguf::from_bytes("small", Arc::new(bytes))
}

/// The message of opening `bytes`, which must fail.
pub fn refusal(bytes: Vec<u8>) -> String {
    open(bytes).expect_err("must be refused").to_string()
}

/// A path below the reference data, or `None`, with a message, where it is absent.
pub fn data(path: &str) -> Option<PathBuf> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data");
    let path = PathBuf::from(root).join(path);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: no {}", path.display());
    None
}

/// Every GGUF file below the reference data.
pub fn all_files() -> Vec<PathBuf> {
    files_below("")
}

/// Every GGUF file below a folder of the reference data.
pub fn files_below(folder: &str) -> Vec<PathBuf> {
    fn walk(dir: PathBuf, out: &mut Vec<PathBuf>) {
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        for path in entries.map(|e| e.unwrap().path()) {
            if path.is_dir() {
                walk(path, out);
            } else if path.extension().is_some_and(|e| e == "gguf") {
                out.push(path);
            }
        }
    }
    let mut out = Vec::new();
    if let Some(root) = data(folder) {
        walk(root, &mut out);
    }
    out.sort();
    out
}
