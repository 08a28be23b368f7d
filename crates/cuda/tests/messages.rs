//! What is said where there is no NVIDIA GPU to be used, each with its way out: by libraries that are
//! not there, too old, or show what cannot be used.

use gristmill_core::Error;
use gristmill_cuda::driver::Facts;
use gristmill_cuda::driver::choose::{Device, Library, devices_of, take};

/// A driver's library that says what a test wants.
struct Said {
    present: bool,
    start: Result<(), (u32, String)>,
    interface: u32,
    found: Vec<Facts>,
}

impl Library for Said {
    fn present(&self) -> bool {
        self.present
    }
    fn start(&self) -> Result<(), (u32, String)> {
        self.start.clone()
    }
    fn interface(&self) -> u32 {
        self.interface
    }
    fn list(&self) -> Result<Vec<Facts>, (u32, String)> {
        Ok(self.found.clone())
    }
}

fn gpu(index: u32, name: &str, chip: [u32; 2], gib: u64) -> Facts {
    Facts {
        index,
        name: name.into(),
        uuid: format!("GPU-{index}abcdef0"),
        chip,
        processors: 100,
        memory: gib << 30,
        unified: false,
        interface: 12_040,
    }
}

fn library(found: Vec<Facts>) -> Said {
    Said { present: true, start: Ok(()), interface: 12_040, found }
}

fn refused(library: &Said) -> Error {
    devices_of(library).map(|_| ()).expect_err("nothing can be used")
}

/// The error, its exit code and the words in it.
fn says(e: &Error, code: u8, words: &[&str]) {
    let text = e.to_string();
    assert_eq!(e.exit_code(), code, "{text}");
    for word in words {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
}

#[test]
fn no_library() {
    let e = refused(&Said { present: false, ..library(vec![]) });
    says(&e, 4, &["no NVIDIA driver", "libcuda.so.1", "--device cpu"]);
}

#[test]
fn a_library_without_a_device() {
    let words = ["shows no GPU", "--gpus all", "CUDA_VISIBLE_DEVICES"];
    says(&refused(&Said { start: Err((100, "no device".into())), ..library(vec![]) }), 4, &words);
    says(&refused(&library(vec![])), 4, &words);
}

#[test]
fn a_driver_that_is_too_old() {
    let e = refused(&Said { interface: 11_080, ..library(vec![]) });
    says(&e, 4, &["CUDA 11.8", "12.0", "525"]);
    // The text that chips of later kinds get is of a newer compiler.
    let newer = Facts { interface: 12_000, ..gpu(0, "X100", [14, 0], 180) };
    let all = devices_of(&library(vec![newer])).unwrap();
    let what = all[0].lacks.clone().expect("what runs on it needs a newer driver");
    for word in ["CUDA 12.0", "12.4", "550", "X100"] {
        assert!(what.contains(word), "no `{word}` in: {what}");
    }
}

#[test]
fn busy_out_of_memory_and_others() {
    for (code, exit, word) in [
        (46, 4, "busy"),
        (2, 5, "no memory left"),
        (803, 4, "restart"),
        (802, 4, "nvidia-fabricmanager"),
        (999, 4, "unknown error (999)"),
    ] {
        let start = Err((code, "unknown error".into()));
        says(&refused(&Said { start, ..library(vec![]) }), exit, &[word]);
    }
}

#[test]
fn chips_that_are_too_old_or_unknown() {
    let all =
        devices_of(&library(vec![gpu(0, "V100", [7, 0], 16), gpu(1, "T4", [7, 5], 15)])).unwrap();
    let what = all[0].lacks.clone().expect("too old");
    assert!(
        what.contains("7.0") && what.contains("7.5") && what.contains("--device wgpu"),
        "{what}"
    );
    assert_eq!(all[1].lacks, None);
    // Newer than all of them: the driver compiles the text.
    let all = devices_of(&library(vec![gpu(0, "new", [14, 0], 100)])).unwrap();
    assert_eq!(all[0].lacks, None);
}

#[test]
fn devices_are_taken_by_number_and_uuid() {
    let list = || {
        let found = vec![
            gpu(0, "K80", [3, 7], 100),
            gpu(1, "RTX 3060", [8, 6], 12),
            gpu(2, "L40", [8, 9], 48),
        ];
        devices_of(&library(found)).unwrap()
    };
    let index = |d: Device| d.facts.index;
    assert_eq!(take(list(), "").map(index).unwrap(), 2, "the usable one with the most memory");
    assert_eq!(take(list(), "1").map(index).unwrap(), 1);
    assert_eq!(take(list(), "gpu-2abc").map(index).unwrap(), 2);
    says(&take(list(), "0").expect_err("too old"), 4, &["K80", "3.7", "7.5"]);
    says(&take(list(), "7").expect_err("none"), 4, &["cuda:7", "cuda:1 RTX 3060", "12 GiB"]);
}
