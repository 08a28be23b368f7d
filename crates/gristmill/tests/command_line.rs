//! Options, their variables, help and completion.

mod common;

use common::{code, gristmill, json_of, run, stderr, stdout};
use std::process::{Command, Stdio};

#[test]
fn variables_stand_for_options() {
    let ids = |command: &mut Command| {
        let json = json_of(command.args(["run", "--json", "-p", "a fox"]));
        json["ids"].as_array().unwrap().len()
    };
    let with = |variables: &[(&str, &str)], args: &[&str]| {
        let mut command = gristmill();
        command.envs(variables.iter().copied());
        let json = json_of(command.args(["run", "--json", "-p", "a fox"]).args(args));
        json["ids"].as_array().unwrap().len()
    };
    assert_eq!(ids(gristmill().env("GRISTMILL_PREDICT", "3")), 3);
    assert_eq!(with(&[("GRISTMILL_PREDICT", "3")], &["-n", "2"]), 2, "the flag goes first");
    assert_eq!(with(&[("GRISTMILL_PREDICT", "3"), ("GRISTMILL_IGNORE_EOS", "1")], &[]), 3);
    // A variable of an option that the command line excludes does not count, nor an empty one.
    let odd = [
        ("GRISTMILL_PREDICT", "3"),
        ("GRISTMILL_IDS", "1,2"),
        ("GRISTMILL_RAW", "no"),
        ("GRISTMILL_QUIET", "yes"),
        ("GRISTMILL_CTX_SIZE", ""),
    ];
    assert_eq!(with(&odd, &["-v"]), 3);
    // So it is with a model that is a word.
    assert_eq!(with(&[("GRISTMILL_MODEL", "/no/such.gguf")], &["stories", "-n", "1"]), 1);
    let mut command = gristmill();
    command.env("GRISTMILL_MODEL", "/no/such.gguf").args(["run", "a prompt"]);
    assert_eq!(code(&command.output().unwrap()), 3);
    let mut command = gristmill();
    command.env("GRISTMILL_MODEL", "/no/such.gguf").args(["inspect", "stories"]);
    assert_eq!(code(&command.output().unwrap()), 0);
    // A verb's own options have its name.
    let mut command = gristmill();
    command.env("GRISTMILL_BENCH_OUTPUT", "json").env("GRISTMILL_OUTPUT", "nonsense");
    command.args(["bench", "-q", "-p", "4", "-n", "0", "-r", "1"]);
    assert!(json_of(&mut command).is_array());
    let wrong = gristmill().env("GRISTMILL_TEMP", "warm").args(["run", "x"]).output().unwrap();
    assert_eq!(code(&wrong), 2, "{}", stderr(&wrong));
}

#[test]
fn help_has_groups_defaults_and_variables() {
    for flag in ["-h", "--help"] {
        let help = stdout(&run(&["run", flag]));
        for part in [
            "Prompt:",
            "Chat:",
            "Length:",
            "Sampling:",
            "Device and precision:",
            "Output:",
            "[default: 0.8]",
            "GRISTMILL_CTX_SIZE",
            "GRISTMILL_TEMP",
            "--interactive",
            "Examples:",
        ] {
            assert!(help.contains(part), "{part}: {help}");
        }
        assert!(!help.contains("\x1b["), "no colours in a pipe");
    }
}

#[test]
fn spellings_of_other_programs() {
    let args = ["run", "--json", "-n", "1", "-p", "x", "-ngl", "0", "-dev", "cpu", "-ub", "64"];
    common::json(&args);
    common::json(&["run", "--json", "-n", "1", "-p", "x", "-sys", "Be brief.", "--jinja"]);
    for layers in ["all", "99"] {
        assert_eq!(code(&run(&["run", "-p", "x", "-ngl", layers])), 4);
    }
    let devices = run(&["run", "--list-devices"]);
    assert_eq!(code(&devices), 0);
    assert!(stdout(&devices).contains("cpu"));
}

#[test]
fn smaller_batches_say_the_same() {
    let long = "a fox and a bear ".repeat(20);
    let with = |batch: &str| {
        common::json(&["run", "--json", "--temp", "0", "-n", "20", "-b", batch, "-p", &long])
    };
    assert_eq!(with("0")["ids"], with("16")["ids"]);
}

#[test]
fn a_prompt_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("prompt.txt").display().to_string();
    std::fs::write(&path, "A story\nabout a fox\n").unwrap();
    let ids = |args: &[&str]| {
        let all = [&["run", "--json", "-n", "1"], args].concat();
        common::json(&all)["prompt_ids"].clone()
    };
    assert_eq!(ids(&["-f", &path]), ids(&["-p", "A story\nabout a fox"]));
    let mut command = gristmill();
    command.args(["run", "--json", "-n", "1", "-f", "-"]);
    command.stdin(Stdio::from(std::fs::File::open(&path).unwrap()));
    assert_eq!(json_of(&mut command)["prompt_ids"], ids(&["-f", &path]));
    std::fs::write(&path, b"\xff").unwrap();
    assert_eq!(code(&run(&["run", "-f", &path])), 2);
    assert_eq!(code(&run(&["run", "-f", "/no/such/file"])), 1);
    assert_eq!(code(&run(&["run", "-f", &path, "-p", "x"])), 2);
    assert_eq!(code(&run(&["run", "-f", &path, "a prompt"])), 2);
}

#[test]
fn completion_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout(&run(&["completion", shell]));
        assert!(script.contains("ctx-size") && script.contains("perplexity"), "{shell}");
    }
    assert_eq!(code(&run(&["completion", "csh"])), 2);
    let script = stdout(&run(&["completion", "bash"]));
    let Ok(read) = Command::new("bash").args(["-n", "-c", &script]).output() else { return };
    assert!(read.status.success(), "{}", stderr(&read));
}
