//! `gristmill bench` beyond its table: several sequences, records, comparison, plots, kernels.

mod common;

use common::{code, run, stderr, stdout};
use serde_json::Value;
use std::process::Output;

fn bench(more: &[&str]) -> Output {
    run(&[&["bench", "-q", "-r", "1", "-t", "1"], more].concat())
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn several_sequences_at_once() {
    let done = bench(&["-p", "8", "-n", "4", "-d", "0,16", "--n-parallel", "1,3", "-o", "jsonl"]);
    assert_eq!(code(&done), 0, "{}", stderr(&done));
    let rows = lines(&stdout(&done));
    let of = |row: &Value| ["n_depth", "n_parallel", "n_prompt"].map(|f| row[f].as_u64().unwrap());
    let want: Vec<[u64; 3]> = [0, 16]
        .into_iter()
        .flat_map(|d| [1, 3].into_iter().flat_map(move |n| [[d, n, 8], [d, n, 0]]))
        .collect();
    assert_eq!(rows.iter().map(of).collect::<Vec<_>>(), want);
    // Speeds count the tokens of all sequences.
    for row in &rows {
        let tokens = (row["n_prompt"].as_u64().unwrap() + row["n_gen"].as_u64().unwrap())
            * row["n_parallel"].as_u64().unwrap();
        let per_second = row["avg_ts"].as_f64().unwrap();
        let counted = per_second * row["avg_ns"].as_f64().unwrap() / 1e9;
        assert!((counted - tokens as f64).abs() < 1e-3 * tokens as f64, "{counted} of {tokens}");
    }
}

#[test]
fn records_are_kept_and_compared() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (kept, page) = (path("rows.jsonl"), path("page.html"));
    let first = ["-p", "8", "-n", "4", "--append", &kept, "--title", "first", "--note", "a <b>"];
    for _ in 0..2 {
        let done = bench(&first);
        assert_eq!(code(&done), 0, "{}", stderr(&done));
    }
    let text = std::fs::read_to_string(&kept).unwrap();
    let mut rows = lines(&text);
    assert_eq!(rows.len(), 4);
    assert!(rows.iter().all(|r| r["title"] == "first" && r["note"] == "a <b>"));

    // Against rows ten times as slow, and ten times as fast: an array this time.
    let scale = |rows: &mut Vec<Value>, by: f64| {
        for row in rows.iter_mut() {
            row["avg_ts"] = (row["avg_ts"].as_f64().unwrap() * by).into();
        }
    };
    let slow = path("slow.json");
    scale(&mut rows, 0.1);
    std::fs::write(&slow, serde_json::to_vec(&rows).unwrap()).unwrap();
    let again = ["-p", "8", "-n", "4", "--html", &page, "--title", "<now>"];
    let done = bench(&[&again[..], &["--compare", &slow]].concat());
    assert_eq!(code(&done), 0, "{}", stderr(&done));
    assert!(stdout(&done).contains("| pp8 | 1 |") && stdout(&done).contains("| tg4 | 1 |"));
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("&lt;now&gt;") && !html.contains("<now>"));
    assert!(
        html.contains("Roofline") && html.contains("<svg") && html.trim_end().ends_with("</html>")
    );
    assert!(!html.contains("http://") && !html.contains("https://"), "it loads nothing");
    scale(&mut rows, 1000.0);
    std::fs::write(&slow, serde_json::to_vec(&rows).unwrap()).unwrap();
    let done = bench(&["-p", "8", "-n", "4", "--compare", &slow]);
    assert_eq!(code(&done), 1, "{}", stderr(&done));
    assert!(stderr(&done).contains("slower than 0.95 times"), "{}", stderr(&done));
}

#[test]
fn what_cannot_be_compared_or_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let other = r#"[{"avg_ts": 1.0, "n_prompt": 7, "model_type": "another"}]"#;
    for (name, text, what) in [
        ("empty", "", "holds no rows"),
        ("text", "once upon a time", "line 1: is not JSON"),
        ("list", "[1, 2", "is not JSON"),
        ("rows", "[{\"a\": 1}]", "row 1 is none of `gristmill bench`"),
        ("other", other, "no test of this run is among the earlier rows"),
    ] {
        let done = bench(&["-p", "4", "-n", "0", "--compare", &file(name, text)]);
        assert_eq!(code(&done), 2, "{name}: {}", stderr(&done));
        assert!(stderr(&done).contains(what), "{name}: {}", stderr(&done));
    }
    for flag in ["--compare", "--append", "--html"] {
        let done = bench(&["-p", "4", "-n", "0", flag, "/nowhere/at/all/file"]);
        assert_eq!(code(&done), 1, "{flag}: {}", stderr(&done));
        assert!(stderr(&done).contains("/nowhere/at/all/file"), "{flag}: {}", stderr(&done));
    }
}

#[test]
fn kernels_by_instruction_set() {
    let done = bench(&["--kernels=softmax,norm,Q8_0,scalar,naive", "-o", "jsonl"]);
    // Q8_0 leaves nothing of what has no weights in that format.
    assert_eq!(code(&done), 2, "{}", stderr(&done));
    let done = bench(&["--kernels=softmax,norm,dequantize,f32,scalar,naive", "-o", "json"]);
    assert_eq!(code(&done), 0, "{}", stderr(&done));
    let rows: Value = serde_json::from_str(&stdout(&done)).unwrap();
    let rows = rows.as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|r| r["kernel"].as_str().unwrap()).collect();
    let each = ["dequantize 4096x64", "norm 4096x64", "softmax 4096"];
    assert_eq!(names, each.map(|n| [n, n]).concat());
    for row in rows {
        assert!(row["us"].as_f64().unwrap() > 0.0 && row["GB/s"].as_f64().is_some());
        let isa = row["isa"].as_str().unwrap();
        let over = row[format!("x {isa}")].as_f64().unwrap();
        assert_eq!(over, 1.0, "{isa} over itself");
    }
    let done = bench(&["--kernels=experts,Q4_K,scalar", "-o", "json"]);
    assert_eq!(code(&done), 0, "{}", stderr(&done));
    let rows: Value = serde_json::from_str(&stdout(&done)).unwrap();
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 4, "gates with ups and downs, of one token and of many");
    for row in rows {
        assert!(row["kernel"].as_str().unwrap().starts_with("experts "), "{row}");
        assert!(row["us"].as_f64().unwrap() > 0.0 && row["GOP/s"].as_f64().unwrap() > 0.0, "{row}");
    }
    let done = bench(&["--kernels=nonsense"]);
    assert_eq!(code(&done), 2, "{}", stderr(&done));
    assert!(stderr(&done).contains("there is no such kernel"), "{}", stderr(&done));
}
