//! Weights kept as they are packed: the same words, a file for each order of bytes, and damage is said.

mod common;

use common::{code, gristmill, stderr, stdout};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

fn run(cache: &Path, args: &[&str]) -> Output {
    let mut command = gristmill();
    command.env("GRISTMILL_CACHE_DIR", cache).args(["run", "-q", "-s", "3", "-n", "40"]);
    command.args(args).arg("A fox").output().unwrap()
}

fn kept(cache: &Path) -> Vec<PathBuf> {
    let Ok(files) = fs::read_dir(cache.join("packed")) else { return vec![] };
    let mut files: Vec<PathBuf> = files.map(|f| f.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn kept_weights_say_the_same() {
    if common::device().is_some() {
        return; // only the processor keeps weights
    }
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path();
    let plain = run(cache, &[]);
    assert_eq!(code(&plain), 0, "{}", stderr(&plain));
    assert!(kept(cache).is_empty());
    for _ in 0..2 {
        let output = run(cache, &["--pack-cache"]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert_eq!(stdout(&output), stdout(&plain));
        assert_eq!(kept(cache).len(), 1);
    }
    let [file] = &kept(cache)[..] else { panic!() };
    let written = fs::metadata(file).unwrap().modified().unwrap();

    // Portable code packs rows by fours, in a file of its own.
    let scalar = run(cache, &["--cpu", "scalar"]);
    for _ in 0..2 {
        let output = run(cache, &["--cpu", "scalar", "--pack-cache"]);
        assert_eq!(stdout(&output), stdout(&scalar), "{}", stderr(&output));
    }
    assert!((1..=2).contains(&kept(cache).len()));
    assert_eq!(fs::metadata(file).unwrap().modified().unwrap(), written);

    // Cut, and of another order under the name of this one.
    let whole = fs::read(file).unwrap();
    for damage in [&whole[..whole.len() / 2], &whole[..100], b"no GGUF file"] {
        fs::write(file, damage).unwrap();
        let output = run(cache, &["--pack-cache"]);
        assert_eq!(code(&output), 3, "{}", stderr(&output));
        assert!(stderr(&output).contains(&file.display().to_string()), "{}", stderr(&output));
        assert!(stderr(&output).contains("delete it"), "{}", stderr(&output));
    }
    let form = file.file_stem().unwrap().to_str().unwrap().split_once('-').unwrap().1.as_bytes();
    let at = whole.windows(form.len()).position(|w| w == form).unwrap();
    let mut other = whole.clone();
    other[at] ^= 1;
    fs::write(file, other).unwrap();
    let output = run(cache, &["--pack-cache"]);
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    assert!(stderr(&output).contains("another order"), "{}", stderr(&output));
    fs::remove_file(file).unwrap();
    assert_eq!(stdout(&run(cache, &["--pack-cache"])), stdout(&plain));
}

#[test]
fn what_cannot_be_kept_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "a file where a directory must be").unwrap();
    let output = run(&file, &["--pack-cache", "--device", "cpu"]);
    assert_ne!(code(&output), 0);
    assert!(stderr(&output).contains(&file.display().to_string()), "{}", stderr(&output));
    assert!(!stderr(&output).contains("panicked"));
}
