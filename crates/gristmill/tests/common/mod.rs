//! The binary under test, and the reference data beside the repository.
#![allow(dead_code)] // each test file uses a part

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The binary, with nothing of the caller's environment that changes what it does. It may be that of
/// another processor, with the emulator before it: `GRISTMILL_TEST_COMMAND="qemu-x BINARY"`; and it may
/// run on another device, `GRISTMILL_TEST_DEVICE=wgpu:0`.
pub fn gristmill() -> Command {
    let asked = std::env::var("GRISTMILL_TEST_COMMAND").unwrap_or_default();
    let mut words = asked.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or(env!("CARGO_BIN_EXE_gristmill")));
    command.args(words);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GRISTMILL_") {
            command.env_remove(name);
        }
    }
    // A layer of Mesa looks for a display, and complains on stderr where there is none.
    command.env("NODEVICE_SELECT", "1");
    command.envs(device().map(|d| ("GRISTMILL_DEVICE", d)));
    command.stdin(Stdio::null());
    command
}

/// The device to test, where it is not the processor.
pub fn device() -> Option<String> {
    std::env::var("GRISTMILL_TEST_DEVICE").ok().filter(|d| !d.is_empty())
}

/// Whether files that differ from others in their format alone are left out: `GRISTMILL_TEST_SHORT`.
/// Every format is in the conformance suite too.
pub fn short() -> bool {
    std::env::var_os("GRISTMILL_TEST_SHORT").is_some_and(|v| !v.is_empty())
}

/// Runs it with arguments.
pub fn run(args: &[&str]) -> Output {
    gristmill().args(args).output().expect("the binary starts")
}

/// The exit code, checked to be an exit and not a signal.
pub fn code(output: &Output) -> i32 {
    output.status.code().expect("it exits by itself")
}

/// Stderr as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Stdout as text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Stdout as JSON, of a run that succeeded.
pub fn json(args: &[&str]) -> Value {
    json_of(gristmill().args(args))
}

/// The same for a prepared command.
pub fn json_of(command: &mut Command) -> Value {
    let output = command.output().expect("the binary starts");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).expect("JSON on stdout")
}

/// The folder of reference data; `None` where it is not beside the repository, and the test has
/// nothing to compare with.
pub fn data() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let found = path.is_dir();
    if !found {
        eprintln!("no reference data beside the repository: left out");
    }
    found.then_some(path)
}

/// A JSON file.
pub fn read_json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).expect("the reference file is readable");
    serde_json::from_str(&text).expect("the reference file is JSON")
}

/// A list of numbers.
pub fn ids(value: &Value) -> Vec<u32> {
    let list = value.as_array().expect("a list of ids");
    list.iter().map(|v| v.as_u64().expect("an id") as u32).collect()
}

/// Ids as `--ids` takes them.
pub fn ids_arg(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// An array of f32: its shape and its numbers.
pub fn read_npy(path: &Path) -> (Vec<usize>, Vec<f32>) {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00", "{}", path.display());
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = String::from_utf8_lossy(&bytes[10..start]).into_owned();
    assert!(header.contains("'<f4'") && header.contains("'fortran_order': False"), "{header}");
    let dims =
        header.split_once("'shape': (").expect("a shape").1.split_once(')').expect("its end").0;
    let shape = dims.split(',').filter_map(|d| d.trim().parse().ok()).collect();
    let numbers = bytes[start..].chunks_exact(4);
    (shape, numbers.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// The instruction sets that the reference tests run on: those of the binary's machine, of which one will
/// do where another device is tested.
pub fn instruction_sets() -> Vec<String> {
    let devices = json(&["devices", "--json"]);
    let all = devices["cpu"]["instruction_sets"].as_array().expect("a list");
    let known = all.iter().filter_map(Value::as_str).filter(|&s| s != "naive").map(String::from);
    known.take(if device().is_some() { 1 } else { usize::MAX }).collect()
}

/// Largest difference of a logit from the reference.
pub const TOLERANCE: f32 = 1e-3;

/// Holds the logits of a model, at every place of a prompt, against a reference.
pub fn check_logits(model: &Path, prompt: &[u32], (shape, expected): &(Vec<usize>, Vec<f32>)) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("logits.npy");
    let mut command = gristmill();
    command.arg("logits").arg(model).args(["--activations", "f32", "--ids", &ids_arg(prompt)]);
    let output = command.arg("-o").arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let (got_shape, got) = read_npy(&path);
    assert_eq!(&got_shape, shape, "{}", model.display());
    let far = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(far < TOLERANCE, "{}: {far} from the reference", model.display());
    println!("{}: {} tokens, at most {far:e} away", model.display(), shape[0]);
}
