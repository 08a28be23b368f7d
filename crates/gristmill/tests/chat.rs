//! The chat, driven through a pipe.

mod common;

use common::{code, gristmill, stderr, stdout};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Output, Stdio};

fn spawn(args: &[&str]) -> Child {
    let mut command = gristmill();
    command.args(["run", "-i", "--temp", "0"]).args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the binary starts")
}

/// A chat in which all of `typed` is typed.
fn chat(args: &[&str], typed: impl AsRef<[u8]>) -> Output {
    let mut child = spawn(args);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(typed.as_ref()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
    output
}

/// A chat of which no more is looked at than what is saved at its end.
fn saved(args: &[&str], typed: &str, path: &Path) -> serde_json::Value {
    let _ = std::fs::remove_file(path);
    let output = chat(args, format!("{typed}\n/save {}\n", path.display()));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    common::read_json(path)
}

/// The number before each of these words, line by line of the statistics.
fn counts(output: &Output) -> Vec<[usize; 3]> {
    let text = stderr(output);
    let lines = text.lines().filter(|l| l.starts_with("prompt: ") && l.contains("generated: "));
    let number = |line: &str, before: &str| -> Option<usize> {
        let words: Vec<&str> = line.split(before).next()?.split_whitespace().collect();
        words.last()?.trim_matches(',').parse().ok()
    };
    lines
        .map(|l| {
            let (prompt, rest) = l.split_once("; generated").unwrap();
            let tokens = number(prompt, " tokens").unwrap();
            let run = number(prompt, " of them").unwrap_or(tokens);
            [tokens, run, number(rest, " tokens").unwrap()]
        })
        .collect()
}

#[test]
fn turns_run_only_what_is_new() {
    let output = chat(&["-v", "-n", "40"], "A story about a fox\nAnd a bear?\nWhy?\n");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let counts = counts(&output);
    assert_eq!(counts.len(), 3, "{}", stderr(&output));
    for two in counts.windows(2) {
        let ([before, _, generated], [tokens, run, _]) = (two[0], two[1]);
        // The last token of an answer was never run.
        assert_eq!(run, tokens - (before + generated - 1), "{counts:?}");
    }
    assert_eq!(counts[0][0], counts[0][1]);
    assert!(stdout(&output).lines().count() >= 3, "an answer begins on a line of its own");
}

#[test]
fn a_first_question_on_the_command_line() {
    let output = chat(&["-v", "-n", "5", "-p", "A fox"], "And then?\n");
    assert_eq!(counts(&output).len(), 2, "{}", stderr(&output));
}

#[test]
fn commands_and_what_is_wrong_with_them() {
    let typed = "/help\n/nonsense\n/set temp warm\n/set ctx-size 5\n/set predict 3\n/set\n\
                 /bye now\n/system\n/system Be brief.\n/system\n/load /no/such/file\nhello\n/bye\n\
                 never asked\n";
    let output = chat(&["-v"], typed);
    assert_eq!(code(&output), 0);
    let text = stderr(&output);
    for expected in [
        "/save FILE",
        "no /nonsense",
        "'warm'",
        "no option 'ctx-size'",
        "takes nothing",
        "Be brief.",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(text.contains("leaves the system message out"), "{text}");
    assert_eq!(text.lines().filter(|l| l.starts_with("error: ")).count(), 5, "{text}");
    let counts = counts(&output);
    assert_eq!(counts.len(), 1, "what comes after /bye is not read");
    assert_eq!(counts[0][2], 3, "/set predict 3");
}

#[test]
fn a_message_of_many_lines() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("talk.json");
    let typed = "\"\"\"\nTell me\n\n/bye\n  of a fox.\n\"\"\"\n//help me";
    let talk = saved(&["-n", "3"], typed, &path);
    assert_eq!(talk["messages"][0]["content"], "Tell me\n\n/bye\n  of a fox.");
    assert_eq!(talk["messages"][2]["content"], "/help me");
    let output = chat(&["-n", "3"], "\"\"\"\nno end");
    assert!(stderr(&output).contains("has no end"), "{}", stderr(&output));
    assert_eq!((code(&output), stdout(&output)), (0, String::new()));
}

#[test]
fn saved_and_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("my talk.json"), dir.path().join("other.json"));
    let args = ["-n", "20", "--system", "Be kind."];
    let first = saved(&args, "A fox", &path);
    assert_eq!(first["messages"][0]["content"], "Be kind.");
    // What is asked after loading is answered as if it had been asked at once.
    let load = format!("/load {}\nAnd then?", path.display());
    let resumed = saved(&["-n", "20"], &load, &other);
    let at_once = saved(&args, "A fox\nAnd then?", &other);
    assert_eq!(resumed, at_once);
    // A file that is not ours stays, one that is damaged is one line, and the talk goes on.
    std::fs::write(&other, "a letter").unwrap();
    let typed = format!("/save {0}\n/load {0}\nA fox\n", other.display());
    let output = chat(&["-n", "3", "-v"], typed);
    let errors = stderr(&output).lines().filter(|l| l.starts_with("error: ")).count();
    assert_eq!((code(&output), errors, counts(&output).len()), (0, 2, 1), "{}", stderr(&output));
    assert_eq!(std::fs::read(&other).unwrap(), b"a letter");
}

#[test]
fn a_full_context_is_said() {
    let typed = "A story about a fox\nAnd a bear?\n/clear\nA story about a fox\n";
    let output = chat(&["-v", "-c", "48", "--ignore-eos"], typed);
    let text = stderr(&output);
    assert_eq!(code(&output), 0, "{text}");
    assert_eq!(text.matches("context of 48 tokens is full").count(), 2, "{text}");
    assert_eq!(text.matches("the context of 48 holds no answer").count(), 1, "{text}");
    assert!(text.contains("/clear begins a new"), "{text}");
    let counts = counts(&output);
    assert_eq!(counts.len(), 2, "{text}");
    assert_eq!(counts[0][0] + counts[0][2], 48, "full to the last token");
    assert_eq!(counts[0], counts[1], "a new conversation begins from nothing");
}

#[test]
fn what_is_no_text() {
    let output = chat(&["-n", "2", "-v"], b"\xff\xfe\nA fox\n\0\x1b[2J\n");
    assert_eq!(code(&output), 0);
    assert!(stderr(&output).contains("not UTF-8"), "{}", stderr(&output));
    assert_eq!(counts(&output).len(), 2, "{}", stderr(&output));
}

#[test]
fn whole_characters_only() {
    // Any tokens at all: the model is made to write bytes that are no text.
    let output = chat(&["--temp", "50", "--top-k", "0", "--top-p", "1", "--min-p", "0"], "x\ny\n");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(String::from_utf8(output.stdout).is_ok());
}

#[test]
fn calls_that_contradict_themselves() {
    for args in [
        &["--json"][..],
        &["--raw"],
        &["--ids", "1"],
        &["--chat-template", "chatml"],
        &["--think", "maybe"],
        &["-f", "Cargo.toml", "-p", "x"],
    ] {
        let output = chat(args, "");
        assert_eq!(code(&output), 2, "{args:?}: {}", stderr(&output));
    }
    let output = chat(&["--chat-template", "{% if %}"], "");
    assert_eq!(code(&output), 3, "{}", stderr(&output));
}

#[test]
fn another_template() {
    let output = chat(&["-n", "3", "--chat-template", "{{ messages[-1].content }}"], "A fox\n");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    // One that refuses the conversation ends the turn, not the chat.
    let template = "{% if messages|length > 1 %}{{ raise_exception('only one') }}{% endif %}x";
    let output = chat(&["-v", "-n", "3", "--chat-template", template], "a\nb\n/clear\nc\n");
    assert!(stderr(&output).contains("only one"), "{}", stderr(&output));
    assert_eq!((code(&output), counts(&output).len()), (0, 2), "{}", stderr(&output));
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_answer_only() {
    let mut child = spawn(&["--ignore-eos", "-c", "100000", "-n", "90000", "-v"]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"A fox\n").unwrap();
    // It is writing: the handler is there.
    let mut begun = [0; 8];
    child.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
    let id = child.id().to_string();
    let sent = std::process::Command::new("kill").args(["-INT", &id]).status().unwrap();
    assert!(sent.success());
    stdin.write_all(b"/set predict 4\nAnd then?\n").unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stderr(&output).contains("(stopped)"), "{}", stderr(&output));
    let counts = counts(&output);
    assert_eq!(counts.len(), 2, "{}", stderr(&output));
    assert!(counts[1][1] < 30, "what was said of the first answer stays: {counts:?}");
}
