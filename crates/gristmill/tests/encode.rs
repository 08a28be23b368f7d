//! Embeddings and rerankers against `transformers`, through the binary.

mod common;

use common::{code, data, gristmill, ids, json_of, read_json, read_npy, run, stderr};
use serde_json::Value;
use std::path::Path;

/// Largest difference of a number of a vector or of a score.
const TOLERANCE: f32 = 1e-4;

fn strings(v: &Value) -> Vec<String> {
    v.as_array().unwrap().iter().map(|s| s.as_str().unwrap().to_owned()).collect()
}

/// Vectors of texts, one after the other.
fn embed(model: &Path, texts: &[String], more: &[&str]) -> (Vec<usize>, Vec<f32>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vectors.npy");
    let mut command = gristmill();
    command.arg("embed").arg("-m").arg(model).args(more).arg("-o").arg(&path);
    for t in texts {
        command.arg("-p").arg(t);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    read_npy(&path)
}

fn far(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

const EXACT: [&str; 2] = ["--activations", "f32"];

/// Both poolings from the folder and from every GGUF.
#[test]
fn golden_bert() {
    let Some(data) = data() else { return };
    let folder = data.join("golden/bert");
    let golden = read_json(&folder.join("golden.json"));
    let texts = strings(&golden["sentences"]);
    let check = |model: &Path, pooling: &str, file: &Value| {
        let expected = read_npy(&folder.join(file.as_str().unwrap()));
        let got = embed(model, &texts, &[&EXACT[..], &["--pooling", pooling]].concat());
        assert_eq!(got.0, expected.0);
        let far = far(&got.1, &expected.1);
        println!("{} {pooling}: at most {far:e} away", model.display());
        assert!(far < TOLERANCE, "{} {pooling}: {far}", model.display());
    };
    for pooling in ["mean", "cls"] {
        check(&folder, pooling, &golden["exact"][pooling]);
        check(&folder.join("model-f16.gguf"), pooling, &golden["exact"][pooling]);
    }
    let kinds: &[&str] = if common::short() { &["q4_k"] } else { &["q8_0", "q4_k", "q6_k"] };
    for kind in kinds {
        let file = &golden["gguf"][kind]["golden"]["mean"];
        check(&folder.join(format!("model-{kind}.gguf")), "mean", file);
    }
}

/// A batch gives the same bits as one text at a time, and so do files and lines of them.
#[test]
fn a_batch_changes_nothing() {
    let Some(data) = data() else { return };
    let folder = data.join("golden/bert");
    let mut texts = strings(&read_json(&folder.join("golden.json"))["sentences"]);
    // Those that are one line each.
    texts.retain(|t| t.lines().count() == 1 && !t.trim().is_empty());
    for (model, more) in [("model-f16.gguf", &EXACT[..]), ("model-q4_k.gguf", &[])] {
        let model = folder.join(model);
        let (shape, all) = embed(&model, &texts, more);
        for (i, text) in texts.iter().enumerate() {
            let (_, one) = embed(&model, std::slice::from_ref(text), more);
            assert_eq!(one, all[i * shape[1]..][..shape[1]], "text {i} of {}", model.display());
        }
        let dir = tempfile::tempdir().unwrap();
        let lines = dir.path().join("lines.txt");
        std::fs::write(&lines, texts.join("\n")).unwrap();
        let mut command = gristmill();
        command.arg("embed").arg(&model).arg("--lines").arg(&lines).args(more);
        let v = json_of(&mut command);
        assert_eq!(v["dimensions"], shape[1]);
        let rows = v["data"].as_array().unwrap();
        let numbers = |v: &Value| v.as_f64().unwrap() as f32;
        for (i, row) in rows.iter().enumerate() {
            let got: Vec<f32> = row["embedding"].as_array().unwrap().iter().map(numbers).collect();
            assert_eq!(got, all[i * shape[1]..][..shape[1]], "line {i}");
            assert_eq!(row["name"], format!("{}:{}", lines.display(), i + 1));
        }
        let mut command = gristmill();
        let csv = command.arg("embed").arg(&model).arg("--lines").arg(&lines).args(more);
        let output = csv.args(["--format", "csv"]).output().unwrap();
        let text = common::stdout(&output);
        let got: Vec<f32> = text.split([',', '\n']).filter_map(|n| n.parse().ok()).collect();
        assert_eq!(got, all, "as CSV");
    }
}

/// The first numbers of a vector, of length one again, and vectors as long as they come.
#[test]
fn dimensions_and_lengths() {
    let Some(data) = data() else { return };
    let folder = data.join("golden/bert");
    let texts = strings(&read_json(&folder.join("golden.json"))["sentences"]);
    let (shape, all) = embed(&folder, &texts, &EXACT);
    let (few, cut) = embed(&folder, &texts, &[&EXACT[..], &["--dimensions", "64"]].concat());
    assert_eq!((few[0], few[1]), (shape[0], 64));
    let length = |v: &[f32]| v.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    for (whole, part) in all.chunks(shape[1]).zip(cut.chunks(64)) {
        let scale = length(&whole[..64]);
        for (a, b) in whole.iter().zip(part) {
            assert!((f64::from(*a) / scale - f64::from(*b)).abs() < 1e-6);
        }
    }
    let (_, raw) = embed(&folder, &texts, &[&EXACT[..], &["--no-normalize"]].concat());
    for (raw, unit) in raw.chunks(shape[1]).zip(all.chunks(shape[1])) {
        let scale = length(raw);
        assert!((scale - 1.0).abs() > 1e-3, "it was of another length");
        for (a, b) in raw.iter().zip(unit) {
            assert!((f64::from(*a) / scale - f64::from(*b)).abs() < 1e-6);
        }
    }
}

/// The real sentence model.
#[test]
fn minilm() {
    let Some(data) = data() else { return };
    let folder = data.join("models/all-MiniLM-L6-v2");
    let golden = read_json(&folder.join("golden.json"));
    let texts = strings(&golden["sentences"]);
    let model = folder.join("all-MiniLM-L6-v2-f16.gguf");
    for (file, more, least) in [
        ("golden_embeddings_f16.npy", &EXACT[..], 0.999_999),
        ("golden_embeddings_f32.npy", &EXACT[..], 0.9999),
        ("golden_embeddings_f32.npy", &[][..], 0.9999),
    ] {
        let expected = read_npy(&folder.join(file));
        let (shape, got) = embed(&model, &texts, more);
        assert_eq!(shape, expected.0);
        let product = |(a, b): (&[f32], &[f32])| -> f64 {
            a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
        };
        let pairs = got.chunks(shape[1]).zip(expected.1.chunks(shape[1]));
        let cosine = pairs.map(product).fold(f64::INFINITY, f64::min);
        println!("{file} {more:?}: cosine at least {cosine}, {:e} away", far(&got, &expected.1));
        assert!(cosine > least, "{file}: {cosine}");
    }
}

fn rerank(model: &Path, query: &str, docs: &[String], more: &[&str]) -> Vec<(usize, f32, f32)> {
    let dir = tempfile::tempdir().unwrap();
    let mut command = gristmill();
    command.arg("rerank").arg("-m").arg(model).arg(query).args(more).arg("--json");
    for (i, text) in docs.iter().enumerate() {
        let path = dir.path().join(format!("{i}.txt"));
        std::fs::write(&path, text).unwrap();
        command.arg(path);
    }
    let v = json_of(&mut command);
    let of = |r: &Value| {
        let number = |k: &str| r[k].as_f64().unwrap() as f32;
        (r["index"].as_u64().unwrap() as usize, number("score"), number("relevance"))
    };
    v["results"].as_array().unwrap().iter().map(of).collect()
}

#[test]
fn golden_bert_rerank() {
    let Some(data) = data() else { return };
    let folder = data.join("golden/bert-rerank");
    let golden = read_json(&folder.join("golden.json"));
    let (query, docs) = (golden["query"].as_str().unwrap(), strings(&golden["docs"]));
    let numbers = |v: &Value| -> Vec<f32> {
        v.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
    };
    let exact = numbers(&golden["scores"]);
    let mut files = vec![(folder.clone(), exact.clone()), (folder.join("model-f16.gguf"), exact)];
    for kind in ["q8_0", "q4_0"] {
        let scores = numbers(&golden["gguf"][kind]["golden"]["scores"]);
        files.push((folder.join(format!("model-{kind}.gguf")), scores));
    }
    let sigmoid = numbers(&golden["sigmoid"]);
    for (i, (model, expected)) in files.iter().enumerate() {
        let found = rerank(model, query, &docs, &EXACT);
        assert_eq!(found.len(), docs.len());
        assert!(found.is_sorted_by(|a, b| a.1 >= b.1), "the best first");
        for (at, score, probability) in found {
            let far = (score - expected[at]).abs();
            assert!(far < TOLERANCE, "{} {at}: {far}", model.display());
            assert!(i > 1 || (probability - sigmoid[at]).abs() < TOLERANCE);
        }
    }
    let best = rerank(&folder, query, &docs, &[&EXACT[..], &["--top-n", "2"]].concat());
    assert_eq!(best.len(), 2);
    // The ids of a pair are those that were scored.
    let mut command = gristmill();
    command.args(["tokenize", "--ids", "--no-bos"]).arg(&folder).arg(query);
    let shown = common::stdout(&command.output().unwrap());
    let of_query: Vec<u32> =
        shown.trim().trim_matches(['[', ']']).split(", ").filter_map(|n| n.parse().ok()).collect();
    assert_eq!(ids(&golden["ids"][0])[1..of_query.len() + 1], of_query);
}

/// Texts that are too long are refused, or cut.
#[test]
fn long_texts() {
    let Some(data) = data() else { return };
    let long = "the cat sat on the mat. ".repeat(100);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("long.txt");
    std::fs::write(&path, &long).unwrap();
    let path = path.to_str().unwrap();
    for (verb, model) in [("embed", "golden/bert"), ("rerank", "golden/bert-rerank")] {
        let model = data.join(model);
        let mut args = vec![verb, "-m", model.to_str().unwrap()];
        if verb == "rerank" {
            args.push("a cat");
        }
        args.push(path);
        let output = run(&args);
        assert_eq!(code(&output), 2, "{}", stderr(&output));
        assert!(stderr(&output).contains("--truncate"), "{}", stderr(&output));
        args.push("--truncate");
        assert_eq!(code(&run(&args)), 0, "{verb}");
    }
}

/// What cannot embed or rerank says so, and what can.
#[test]
fn models_of_another_kind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.txt");
    std::fs::write(&path, "a text").unwrap();
    let path = path.to_str().unwrap();
    let output = run(&["embed", "stories", path]);
    assert_eq!(code(&output), 2, "{}", stderr(&output));
    assert!(stderr(&output).contains("--pooling"), "{}", stderr(&output));
    let output = run(&["embed", "stories", path, "--pooling", "last", "--dimensions", "8"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let output = run(&["rerank", "-m", "stories", "nothing", path]);
    assert!([2, 3].contains(&code(&output)), "{}", stderr(&output));
    let bad = dir.path().join("bad.txt");
    std::fs::write(&bad, [0xff, 0xfe]).unwrap();
    let output = run(&["embed", "stories", bad.to_str().unwrap(), "--pooling", "last"]);
    assert!(stderr(&output).contains("bad.txt is not UTF-8"), "{}", stderr(&output));
    if let Some(data) = data() {
        for (verb, model) in [("rerank", "golden/bert"), ("embed", "golden/bert-rerank")] {
            let model = data.join(model);
            let output = run(&[verb, "-m", model.to_str().unwrap(), "query", path]);
            assert!([2, 3].contains(&code(&output)), "{}", stderr(&output));
        }
    }
}
