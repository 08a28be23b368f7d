//! Sampling through the binary.

mod common;

use common::{code, gristmill, ids, instruction_sets, json_of, run, stderr};

/// Everything at once.
const ALL: [&str; 26] = [
    "--temp",
    "1.3",
    "--top-nsigma",
    "4",
    "--top-k",
    "60",
    "--typical",
    "0.97",
    "--top-p",
    "0.97",
    "--min-p",
    "0.01",
    "--xtc-probability",
    "0.3",
    "--xtc-threshold",
    "0.2",
    "--repeat-penalty",
    "1.05",
    "--presence-penalty",
    "0.1",
    "--frequency-penalty",
    "0.1",
    "--dry-multiplier",
    "0.8",
    "-l",
    "300+0.5",
];

fn tokens(command: &mut std::process::Command) -> Vec<u32> {
    command.args(["--json", "--ignore-eos", "-n", "24", "-p", "a fox", "--activations", "f32"]);
    ids(&json_of(command)["ids"])
}

#[test]
fn a_seed_gives_the_same_text_on_every_instruction_set() {
    for mirostat in ["0", "1", "2"] {
        let mut all = vec![];
        for isa in instruction_sets() {
            for threads in ["1", "2"] {
                let mut command = gristmill();
                command.env("GRISTMILL_CPU", &isa).args(["run", "-s", "77", "-t", threads]);
                command.args(ALL).args(["--mirostat", mirostat]);
                all.push((isa.clone(), threads, tokens(&mut command)));
            }
        }
        for (isa, threads, ids) in &all {
            assert_eq!(ids, &all[0].2, "{isa} with {threads} threads, mirostat {mirostat}");
        }
    }
}

/// What greedy generation does is changed by a bias, by penalties and by DRY, as asked.
#[test]
fn flags_reach_the_model() {
    let greedy = |args: &[&str]| tokens(gristmill().args(["run", "--temp", "0"]).args(args));
    let plain = greedy(&[]);
    let first = plain[0].to_string();
    let never = greedy(&["--logit-bias", &format!("{first}-inf")]);
    assert!(!never.contains(&plain[0]));
    let always = greedy(&["--logit-bias", &format!("{first}+1000")]);
    assert!(always.iter().all(|&id| id == plain[0]));
    // A huge penalty on what is there: no token comes twice, not even from the prompt.
    let args = ["--presence-penalty", "100", "--repeat-last-n", "-1"];
    let mut once = greedy(&args);
    once.sort_unstable();
    assert!(once.windows(2).all(|w| w[0] != w[1]), "{once:?}");
    // DRY without breakers against the bias that repeats one token: not for long.
    let bias = format!("{first}+50");
    let dry = ["--logit-bias", &bias, "--dry-multiplier", "1", "--dry-base", "4"];
    let dry = greedy(&[&dry[..], &["--dry-sequence-breaker", "none"]].concat());
    let longest = dry.chunk_by(|a, b| a == b).map(<[u32]>::len).max().unwrap();
    assert!((3..8).contains(&longest), "{dry:?}");
}

#[test]
fn a_token_that_is_not_there() {
    let output = run(&["run", "-q", "-p", "x", "-l", "999999999+1"]);
    assert_eq!(code(&output), 2, "{}", stderr(&output));
    assert!(stderr(&output).contains("999999999"), "{}", stderr(&output));
}

/// Wherever a text that ends repetitions comes, one of its sequences of tokens is there; and none of
/// them is without it.
#[test]
fn breakers_are_found_in_text() {
    let tokenizer = gristmill::Model::bundled().unwrap().tokenizer().unwrap();
    let mut found = 0;
    for breaker in ["\n", ":", "\"", "*", ".", "fox", "said"] {
        let all = tokenizer.sequences_with(breaker);
        for ids in &all {
            let bytes: Vec<u8> =
                ids.iter().flat_map(|&id| tokenizer.token_bytes(id).to_vec()).collect();
            let text = String::from_utf8_lossy(&bytes);
            assert!(text.contains(breaker), "{breaker:?}: {text:?}");
        }
        // One character lies in one token; what has more may be cut in ways nobody lists.
        for before in ["", "Once", "she said ", "a.\n", "\"*"].iter().filter(|_| breaker.len() == 1)
        {
            for after in ["", " and", "\n\n", "."] {
                let ids = tokenizer.encode(&format!("{before}{breaker}{after}"), false, false);
                if !tokenizer.decode(&ids).contains(breaker) {
                    continue; // the vocabulary does not have it
                }
                let there = |at: usize| all.iter().any(|b| ids[at..].starts_with(b));
                assert!((0..ids.len()).any(there), "{before:?} {breaker:?} {after:?}");
                found += 1;
            }
        }
    }
    assert!(found >= 40, "{found}");
    assert!(tokenizer.sequences_with("").is_empty());
}
