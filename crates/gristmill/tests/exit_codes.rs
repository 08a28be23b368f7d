//! What the binary says and returns when something is wrong: one line, and the right code.

mod common;

use common::{code, gristmill, run, stderr, stdout};
use std::fs;
use std::io::{Read, Write};
use std::process::{Output, Stdio};

/// One line of error, no panic, nothing on stdout.
fn one_line(output: &Output, expected: i32) -> String {
    let text = stderr(output);
    assert_eq!(code(output), expected, "{text}");
    let errors: Vec<&str> = text.lines().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{text}");
    assert!(!text.contains("panicked"), "{text}");
    assert_eq!(stdout(output), "");
    errors[0].to_owned()
}

#[test]
fn damaged_models() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let bundled = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/bundled/stories.gguf")).unwrap();
    fs::write(at("empty.gguf"), b"").unwrap();
    fs::write(at("garbage.gguf"), (0..5000u32).map(|i| (i * 7919) as u8).collect::<Vec<_>>())
        .unwrap();
    fs::write(at("text.gguf"), "This is not a model.\n".repeat(50)).unwrap();
    fs::write(at("weights.safetensors"), b"\x08\0\0\0\0\0\0\0{}      ").unwrap();
    fs::create_dir(at("folder.gguf")).unwrap();
    for (i, cut) in
        [3, 8, 20, 100, 5000, bundled.len() / 2, bundled.len() - 100].into_iter().enumerate()
    {
        fs::write(at(&format!("cut{i}.gguf")), &bundled[..cut]).unwrap();
    }
    let mut names: Vec<String> = (0..7).map(|i| format!("cut{i}.gguf")).collect();
    names.extend(
        [
            "empty.gguf",
            "garbage.gguf",
            "text.gguf",
            "weights.safetensors",
            "folder.gguf",
            "no.gguf",
        ]
        .map(str::to_owned),
    );
    for name in names {
        let path = at(&name);
        let error = one_line(&run(&["run", "-q", "-m", &path, "-p", "hi"]), 3);
        assert!(error.contains(&path), "{error}");
        one_line(&run(&["inspect", &path]), 3);
    }
    for verb in ["bench", "logits"] {
        one_line(&run(&[verb, &at("garbage.gguf"), "-p", "1"]), 3);
    }
    one_line(&run(&["perplexity", &at("garbage.gguf"), "--file", &at("text.gguf")]), 3);
    let args = ["quantize", &at("cut5.gguf"), &at("out.gguf"), "--type", "q8_0"];
    one_line(&run(&args), 3);
}

#[test]
fn names_that_resolve_to_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("qwen3-0.6b-q4_k.gguf"), b"").unwrap();
    let output = gristmill().current_dir(&dir).args(["run", "qwen3-0.6b"]).output().unwrap();
    let error = one_line(&output, 3);
    assert!(error.contains("qwen3-0.6b-q4_k.gguf"), "{error}");
    for word in ["llama3", "some/path", "a:b", "missing.gguf", "x.safetensors"] {
        one_line(&run(&["run", word]), 3);
    }
}

#[test]
fn wrong_calls() {
    for args in [
        &["run", "--temp", "nan", "-p", "x"][..],
        &["run", "--temp", "-1", "-p", "x"],
        &["run", "--temp", "inf", "-p", "x"],
        &["run", "--top-p", "0", "-p", "x"],
        &["run", "--top-p", "1.5", "-p", "x"],
        &["run", "--min-p", "-0.1", "-p", "x"],
        &["run", "-n", "0", "-p", "x"],
        &["run", "--ids", "1,x"],
        &["run", "--ids", "99999999"],
        &["run", "tell", "me"],
        &["run", "-c", "2", "-p", "one two three four five"],
        &["run", "--device", "toaster", "-p", "x"],
        &["bench", "-p", "0", "-n", "0"],
        &["bench", "-o", "xml"],
        &["logits"],
        &["perplexity", "--ids-file", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")],
        &["nonsense"],
    ] {
        let output = run(args);
        assert_eq!(code(&output), 2, "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("error: "), "{args:?}");
    }
}

#[test]
fn devices_that_are_not_there() {
    for kind in ["cuda", "cuda:1", "wgpu:99"] {
        let error = one_line(&run(&["run", "--device", kind, "-p", "x"]), 4);
        assert!(error.contains("no"), "{error}");
        let output = gristmill().env("GRISTMILL_DEVICE", kind).args(["run", "x"]).output().unwrap();
        one_line(&output, 4);
    }
    let output = gristmill().env("GRISTMILL_CPU", "quantum").args(["run", "x"]).output().unwrap();
    one_line(&output, 4);
    // The flag goes before the environment.
    let mut command = gristmill();
    command.env("GRISTMILL_DEVICE", "cuda").args(["run", "--device", "cpu", "x", "-n", "1"]);
    assert_eq!(code(&command.output().unwrap()), 0);
}

#[test]
fn without_a_verb_there_are_examples() {
    let output = run(&[]);
    assert_eq!(code(&output), 0);
    assert_eq!(stdout(&output).matches("\n  gristmill ").count(), 6);
}

#[test]
fn a_reader_that_has_seen_enough() {
    let mut child = gristmill()
        .args(["run", "-p", "a fox", "-n", "100", "--ignore-eos"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 0);
    assert!(!stderr(&output).contains("error"), "{}", stderr(&output));
}

#[test]
fn a_prompt_from_a_pipe() {
    let mut child = gristmill()
        .args(["run", "-n", "1", "--json", "--raw"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"Once there was a fox\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let piped: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let given = common::json(&["run", "-n", "1", "--json", "--raw", "-p", "Once there was a fox"]);
    assert_eq!(piped["prompt_ids"], given["prompt_ids"]);
    assert!(given["prompt_ids"].as_array().unwrap().len() > 1);
}

#[cfg(unix)]
#[test]
fn interrupted() {
    let mut child = gristmill()
        .args(["run", "-p", "a fox", "--ignore-eos", "-c", "100000", "-n", "90000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It is writing: the handler is there.
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 8]).unwrap();
    let id = child.id().to_string();
    let sent = std::process::Command::new("kill").args(["-INT", &id]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 130, "{}", stderr(&output));
    assert!(stderr(&output).contains("cancelled"), "{}", stderr(&output));
}
