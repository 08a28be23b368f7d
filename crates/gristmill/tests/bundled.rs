//! The models inside the binary: found by name, and the embedder judged on texts that its training
//! never saw (`training/heldout_embedder.py` writes them, with PyTorch's vectors and scores of a few).

mod common;

use common::{code, gristmill, json_of, read_json, read_npy, run, stderr, stdout};
use serde_json::Value;
use std::path::Path;

fn held_out() -> Value {
    read_json(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tales-embed.json"))
}

fn strings(v: &Value) -> Vec<String> {
    v.as_array().unwrap().iter().map(|s| s.as_str().unwrap().to_owned()).collect()
}

fn numbers(v: &Value) -> Vec<f32> {
    v.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

/// Vectors of texts by the model that `embed` takes where none is named.
fn embed(texts: &[String], more: &[&str]) -> Vec<Vec<f32>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vectors.npy");
    let mut command = gristmill();
    command.arg("embed").args(more).arg("-o").arg(&path);
    for t in texts {
        command.arg("-p").arg(t);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let (shape, values) = read_npy(&path);
    values.chunks(shape[1]).map(<[f32]>::to_vec).collect()
}

/// The scores of passages, in their order, by the model that `rerank` takes where none is named.
fn rerank(query: &str, passages: &[String], more: &[&str]) -> Vec<f32> {
    let dir = tempfile::tempdir().unwrap();
    let mut command = gristmill();
    command.args(["rerank", "--json", query]).args(more);
    for (i, text) in passages.iter().enumerate() {
        let path = dir.path().join(format!("{i}.txt"));
        std::fs::write(&path, text).unwrap();
        command.arg(path);
    }
    let found = json_of(&mut command);
    let mut scores = vec![f32::NAN; passages.len()];
    for r in found["results"].as_array().unwrap() {
        scores[r["index"].as_u64().unwrap() as usize] = r["score"].as_f64().unwrap() as f32;
    }
    scores
}

fn product(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// Vectors and scores are those of the network in PyTorch, with the weights of the file.
#[test]
fn vectors_and_scores_are_pytorchs() {
    let reference = &held_out()["reference"];
    let exact = ["--activations", "f32"];
    let got = embed(&strings(&reference["texts"]), &exact);
    let expected: Vec<_> = reference["vectors"].as_array().unwrap().iter().map(numbers).collect();
    assert_eq!(got.len(), expected.len());
    for (i, (a, b)) in got.iter().zip(&expected).enumerate() {
        let far = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(a.len() == b.len() && far < 1e-4, "text {i}: {far} away");
        assert!(product(a, b) > 0.9999, "text {i}: cosine {}", product(a, b));
    }
    let query = reference["query"].as_str().unwrap();
    let got = rerank(query, &strings(&reference["passages"]), &exact);
    for (i, (a, b)) in got.iter().zip(numbers(&reference["scores"])).enumerate() {
        // A score is a sum of 256 products, not of length one: a part of it.
        assert!((a - b).abs() < 1e-4 * b.abs().max(1.0), "passage {i}: {a} and {b}");
    }
}

/// How many of 100 texts have their paraphrase as the nearest of all 100.
fn paraphrases_first(pool: &Value) -> usize {
    let (texts, others) = (strings(&pool["texts"]), strings(&pool["paraphrases"]));
    assert_eq!((texts.len(), others.len()), (100, 100));
    let (texts, others) = (embed(&texts, &[]), embed(&others, &[]));
    let nearest = |text: &[f32]| {
        let near = |i: &usize| product(text, &others[*i]);
        (0..100).max_by(|a, b| near(a).total_cmp(&near(b)))
    };
    (0..100).filter(|&i| nearest(&texts[i]) == Some(i)).count()
}

/// The paraphrase is first at least 95 times in 100. Where nine of the others differ from it in one thing
/// that is told, the card says how often.
#[test]
fn paraphrases_are_first() {
    let held = held_out();
    let [first, near] = [&held, &held["near"]].map(paraphrases_first);
    println!("the paraphrase is first {first} times of 100, {near} where nine others are near");
    assert!(first >= 95, "{first} of 100");
    assert!(near >= 80, "{near} of 100, where counts of words find 4");
}

/// The mean reciprocal rank of the passage that answers, of 20 each, is at least 0.95.
#[test]
fn answers_are_first() {
    let held = held_out();
    let (mut sum, mut asked) = (0.0, 0);
    for cluster in held["ranking"].as_array().unwrap() {
        let passages = strings(&cluster["passages"]);
        assert_eq!(passages.len(), 20);
        let answers = cluster["answers"].as_array().unwrap();
        for (query, answer) in strings(&cluster["queries"]).iter().zip(answers) {
            let scores = rerank(query, &passages, &[]);
            let right = scores[answer.as_u64().unwrap() as usize];
            sum += 1.0 / scores.iter().filter(|&&s| s >= right).count() as f64;
            asked += 1;
        }
    }
    let mean = sum / f64::from(asked);
    println!("mean reciprocal rank {mean:.4} over {asked} queries");
    assert!(asked >= 50 && mean >= 0.95, "{mean} over {asked}");
}

/// One file does both, whether it is named, by a flag or by a word, or not.
#[test]
fn by_name_and_without() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.txt");
    std::fs::write(&file, "A fox lost a lantern.").unwrap();
    let file = file.to_str().unwrap();
    let same = |ways: [&[&str]; 3]| {
        let all = ways.map(|w| {
            let output = run(w);
            assert_eq!(code(&output), 0, "{w:?}: {}", stderr(&output));
            stdout(&output)
        });
        assert!(!all[0].is_empty() && all[0] == all[1] && all[0] == all[2], "{all:?}");
    };
    same([
        &["embed", file],
        &["embed", "tales-embed", file],
        &["embed", "-m", "Tales-Embed", file],
    ]);
    same([
        &["rerank", "a fox", file],
        &["rerank", "TALES-EMBED", "a fox", file],
        &["rerank", "-m", "tales-embed", "a fox", file],
    ]);
    // A variable that names another model is heard, also where the first word is a text's file.
    let mut command = gristmill();
    let output = command.env("GRISTMILL_MODEL", "stories").args(["embed", file]).output().unwrap();
    assert_eq!(code(&output), 2, "{}", stderr(&output));
    // It generates nothing, and says so.
    let output = run(&["run", "-m", "tales-embed", "hello"]);
    assert_eq!(code(&output), 4, "{}", stderr(&output));
}

/// Every one opens, and is named where somebody looks for it.
#[test]
fn all_are_listed() {
    let unknown = [
        &["run", "-m", "no-such"][..],
        &["run", "no-such"],
        &["inspect", "no-such"],
        &["embed", "no-such"],
        &["embed", "-m", "no-such", "-p", "x"],
        &["rerank", "-m", "no-such", "x"],
    ];
    let messages = unknown.map(|args| {
        let output = run(args);
        assert_eq!(code(&output), 3, "{args:?}: {}", stderr(&output));
        stderr(&output)
    });
    let helps =
        ["run", "embed", "rerank", "inspect", "bench"].map(|v| stdout(&run(&[v, "--help"])));
    for one in gristmill::bundled::MODELS {
        for text in messages.iter().chain(&helps) {
            assert!(text.contains(one.name), "{} in: {text}", one.name);
        }
        let model = gristmill::Model::bundled_as(one.name).unwrap();
        assert!(model.parameters() > 1_000_000);
        assert_eq!(code(&run(&["inspect", one.name])), 0);
    }
    assert!(gristmill::Model::bundled_as("no-such").unwrap_err().to_string().contains("stories"));
}
