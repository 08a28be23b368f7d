//! `--stop-after`, `diff`, `perplexity` and what `inspect` says of devices.

mod common;

use common::{code, json, read_npy, run, stderr, stdout};
use gristmill::core::quant;
use gristmill::{Model, Program};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/bundled/stories.gguf");

#[test]
fn the_embedding_is_the_table_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("embed.npy");
    let file = path.display().to_string();
    let args = ["logits", FILE, "--ids", "7,0,2047", "--stop-after", "embed", "-o", &file];
    let output = run(&args);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let (shape, values) = read_npy(&path);
    let table = Model::open(FILE).unwrap().gguf().tensor("token_embd.weight").unwrap();
    assert_eq!(shape, [3, table.cols]);
    for (row, id) in [7, 0, 2047].into_iter().enumerate() {
        let n = table.row_bytes();
        let mut expected = vec![0.0; table.cols];
        quant::dequantize(table.dtype, &table.bytes()[id * n..(id + 1) * n], &mut expected)
            .unwrap();
        assert_eq!(values[row * table.cols..(row + 1) * table.cols], expected);
    }
}

#[test]
fn every_node_can_be_stopped_after() {
    let program: Program = stdout(&run(&["inspect", "--program"])).parse().unwrap();
    let names = program.nodes.iter().map(|n| n.name.as_str());
    let some: Vec<&str> = names.enumerate().filter(|(i, _)| i % 5 == 0).map(|n| n.1).collect();
    for name in some {
        let output = run(&["logits", "--ids", "1,2", "--stop-after", name]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert!(stdout(&output).starts_with(&format!("{name}: [2 ")), "{}", stdout(&output));
    }
    // The second value of one that computes two, and one that is not there.
    let two = program.nodes.iter().find(|n| n.outputs.len() == 2).expect("a residual");
    let second = format!("{}:1", two.name);
    let output = run(&["logits", "--ids", "1,2", "--stop-after", &second]);
    assert!(stdout(&output).starts_with(&second), "{}", stderr(&output));
    for wrong in [&format!("{}:2", two.name)[..], "blk.99.attn", "nonsense"] {
        let output = run(&["logits", "--ids", "1,2", "--stop-after", wrong]);
        assert_eq!(code(&output), 2, "{}", stderr(&output));
        assert!(stderr(&output).contains("there "), "{}", stderr(&output));
    }
}

/// The last operation of the cut program gives what the engine gives, bit for bit.
#[test]
fn stopping_after_the_last_is_not_stopping() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = ["a.npy", "b.npy"].map(|n| dir.path().join(n));
    let program: Program = stdout(&run(&["inspect", "--program"])).parse().unwrap();
    let last = program.nodes.last().unwrap().name.clone();
    for (path, more) in [(&a, &[][..]), (&b, &["--stop-after", &last])] {
        let path = path.display().to_string();
        let args = [&["logits", "--ids", "3,1,4,1,5", "-o", &path][..], more].concat();
        assert_eq!(code(&run(&args)), 0);
    }
    assert_eq!(read_npy(&a), read_npy(&b));
}

#[test]
fn diff_finds_where_sides_part() {
    // The same twice.
    let same = ["diff", "--ids", "1,2,3", "--a", "cpu=scalar", "--b", "cpu=scalar", "--json"];
    let v = json(&same);
    assert!(v["first"].is_null());
    let values = v["values"].as_array().unwrap();
    assert!(values.iter().all(|r| r["max_abs"] == 0.0 && r["departs"] == false));
    let program: Program = stdout(&run(&["inspect", "--program"])).parse().unwrap();
    let all: usize = program.nodes.iter().map(|n| n.outputs.len()).sum();
    assert_eq!(values.len(), all);

    // Eight-bit activations: the embedding is the same, the first projection is not.
    let args = ["diff", "--ids", "1,2,3", "--tolerance", "1e-4", "-q"];
    let output = run(&args);
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.starts_with("error: the first operation to depart is `blk.0."), "{said}");
    let table = stdout(&output);
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows.len(), all + 1);
    assert!(rows[0].contains("max abs") && !rows[1].contains("departs"), "{table}");
    let parted = rows.iter().find(|r| r.ends_with("departs")).unwrap();
    let first = said.split('`').nth(1).unwrap();
    assert!(parted.starts_with(first), "{parted}: {said}");
    // With a tolerance that allows for it, all is well.
    let output = run(&["diff", "--ids", "1,2,3", "--tolerance", "0.5", "-q"]);
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
}

#[test]
fn diff_of_two_files() {
    let Some(data) = common::data() else { return };
    let at = |n: &str| data.join(format!("models/stories260K/stories260K-{n}.gguf"));
    let [f32_file, q8] = ["f32", "q8_0"].map(|n| at(n).display().to_string());
    let output = run(&["diff", &f32_file, &q8, "--ids", "1,2,3", "--tolerance", "1e-5"]);
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    assert!(stderr(&output).contains("depart is `embed`"), "{}", stderr(&output));
    let output = run(&["diff", &f32_file, "--b", "model=stories", "--ids", "1,2,3"]);
    assert_eq!(code(&output), 2, "{}", stderr(&output));
    assert!(stderr(&output).contains("different programs"), "{}", stderr(&output));
    for wrong in [&["diff", "--ids", "1", "--a", "cpu=quantum"][..], &["diff"]] {
        assert_eq!(code(&run(wrong)), 2);
    }
}

/// The formula of llama-perplexity, over the logits that `logits` writes.
#[test]
fn perplexity_of_a_text() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text.txt");
    let story = "Once upon a time there was a fox. The fox lived in a wood and was happy. ";
    std::fs::write(&text, story.repeat(6)).unwrap();
    let text = text.display().to_string();
    let exact = ["--activations", "f32"];
    let v =
        json(&[&["perplexity", FILE, "--file", &text, "-c", "32", "--json"][..], &exact].concat());
    let model = Model::open(FILE).unwrap();
    let ids = model.tokenizer().unwrap().prompt(&story.repeat(6));
    let bos = model.tokenizer().unwrap().bos().filter(|b| *b == ids[0]);
    let (mut sum, mut count) = (0f64, 0u64);
    for chunk in ids.chunks_exact(32) {
        let mut chunk = chunk.to_vec();
        chunk[0] = bos.unwrap_or(chunk[0]);
        let npy = dir.path().join("chunk.npy");
        let file = npy.display().to_string();
        let list = common::ids_arg(&chunk);
        let args = [&["logits", FILE, "--ids", &list, "-o", &file][..], &exact].concat();
        assert_eq!(code(&run(&args)), 0);
        let (shape, values) = read_npy(&npy);
        for at in 16..31 {
            let row: Vec<f64> =
                values[at * shape[1]..(at + 1) * shape[1]].iter().map(|&x| f64::from(x)).collect();
            let max = row.iter().copied().fold(f64::MIN, f64::max);
            let log_sum = row.iter().map(|x| (x - max).exp()).sum::<f64>().ln() + max;
            sum += log_sum - row[chunk[at + 1] as usize];
            count += 1;
        }
    }
    assert_eq!(v["tokens"].as_u64(), Some(count));
    let (ours, wanted) = (v["perplexity"].as_f64().unwrap(), (sum / count as f64).exp());
    assert!((ours / wanted - 1.0).abs() < 1e-5, "{ours} {wanted}");

    let output = run(&["perplexity", FILE, "--file", &text, "-c", "1000"]);
    assert_eq!(code(&output), 2, "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("too few") && said.contains("at least 2000"), "{said}");
}

#[test]
fn inspect_says_what_runs_where() {
    let v = json(&["inspect", "--json"]);
    assert!(v["tensors"].as_array().unwrap().iter().all(|t| t["device"] == "cpu"));
    assert!(v["operations"].as_array().unwrap().iter().all(|o| o["device"] == "cpu"));
    assert!(v["lacking"].as_array().unwrap().is_empty());
    assert!(v["memory"]["weights"].as_u64().unwrap() > 1 << 20);
    assert_eq!(v["load"]["mode"], "memory");
    let text = stdout(&run(&["inspect"]));
    for part in ["operation            times  runs on", "memory: weights", "runs on cpu"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}
