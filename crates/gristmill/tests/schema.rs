//! What machines read: the JSON of `run`, `devices`, `inspect`, `bench`, and the array of `logits`.

mod common;

use common::{code, json, read_npy, run, stderr, stdout};
use serde_json::Value;

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn run_json() {
    let v = json(&["run", "--json", "-n", "20", "--temp", "0", "Tell me a story about a fox"]);
    let expected = [
        "ids",
        "text",
        "prompt_ids",
        "finish",
        "load_ms",
        "prefill_ms",
        "prefill_tok_s",
        "decode_tok_s",
        "device",
    ];
    assert_eq!(keys(&v), expected);
    let ids = common::ids(&v["ids"]);
    assert!(!ids.is_empty() && ids.len() <= 20);
    assert!(common::ids(&v["prompt_ids"]).len() > 5);
    assert!(v["text"].is_string() && v["device"].as_str().unwrap().starts_with("cpu"));
    assert!(matches!(v["finish"].as_str(), Some("stop" | "length")));
    for number in ["load_ms", "prefill_ms", "prefill_tok_s", "decode_tok_s"] {
        assert!(v[number].as_f64().is_some_and(|x| x > 0.0), "{number}: {}", v[number]);
    }
    // The same words without JSON, and nothing else on stdout.
    let args = ["run", "-n", "20", "--temp", "0", "Tell me a story about a fox"];
    let output = run(&args);
    assert_eq!(stdout(&output), v["text"].as_str().unwrap());
    let lines = stderr(&output);
    assert_eq!(lines.lines().filter(|l| l.starts_with("device: cpu (")).count(), 1, "{lines}");
    assert!(lines.contains("no model named") && lines.contains("tok/s"), "{lines}");
    let quiet = run(&[&args[..], &["-q"]].concat());
    assert_eq!((stderr(&quiet).as_str(), stdout(&quiet)), ("", stdout(&output)));
}

#[test]
fn the_same_seed_the_same_text() {
    let text = |seed: &str| {
        stdout(&run(&["run", "-q", "-n", "24", "--temp", "1.5", "-s", seed, "-p", "a fox"]))
    };
    assert_eq!(text("7"), text("7"));
    assert_ne!(text("7"), text("8"));
}

#[test]
fn devices_json() {
    let v = json(&["devices", "--json"]);
    assert_eq!(keys(&v), ["chosen", "devices", "cpu"]);
    assert_eq!(v["chosen"], "cpu");
    let devices = v["devices"].as_array().unwrap();
    for d in devices {
        assert_eq!(keys(d), ["id", "name", "kind", "usable", "reason", "offers", "memory"]);
        assert!(d["usable"].is_boolean() && d["reason"].is_string());
    }
    let cpu = &devices[0];
    assert!(cpu["id"] == "cpu" && cpu["usable"] == true && cpu["memory"].as_u64() > Some(1 << 20));
    assert_eq!(keys(&v["cpu"]), ["instruction_sets", "flags"]);
    let sets = v["cpu"]["instruction_sets"].as_array().unwrap();
    assert!(sets.contains(&"naive".into()) && sets.contains(&"scalar".into()), "{sets:?}");
    let text = stdout(&run(&["devices"]));
    for (name, state) in v["cpu"]["flags"].as_object().unwrap() {
        let state = state.as_str().unwrap();
        assert!(["used", "present, not used", "absent"].contains(&state), "{name}: {state}");
        let line = text.lines().find(|l| l.starts_with(&format!("{state}: "))).unwrap();
        assert!(line.split(' ').any(|w| w == name), "{name} in {line}");
    }
    let output = run(&["devices", "--json", "--device", "cuda"]);
    assert_eq!(code(&output), 4);
    let v: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(v["chosen"].is_null());
}

#[test]
fn inspect() {
    let v = json(&["inspect", "--json"]);
    assert_eq!((&v["architecture"], &v["runs"]["cpu"]), (&"llama".into(), &true.into()));
    let tensors = v["tensors"].as_array().unwrap();
    let bytes: u64 = tensors.iter().map(|t| t["bytes"].as_u64().unwrap()).sum();
    assert_eq!(v["tensor_bytes"].as_u64(), Some(bytes));
    let text = stdout(&run(&["inspect", "stories"]));
    for part in ["general.name = \"Gristmill Stories\"", "token_embd.weight", "runs on cpu"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(text.lines().all(|l| l.len() < 400), "long arrays are cut");
    let program = stdout(&run(&["inspect", "--program"]));
    let parsed: gristmill::Program = program.parse().expect("the program parses");
    assert_eq!(parsed.to_string(), program);
}

#[test]
fn bench_formats() {
    let args =
        ["bench", "-q", "-p", "16", "-n", "4", "--pg", "8,2", "-r", "2", "-d", "0,40", "-t", "1"];
    let all = |format: &str| {
        let output = run(&[&args[..], &["-o", format]].concat());
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        stdout(&output)
    };
    let rows: Value = serde_json::from_str(&all("json")).unwrap();
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 6);
    for row in rows {
        for key in [
            "build_commit",
            "cpu_info",
            "model_filename",
            "model_type",
            "model_size",
            "model_n_params",
            "n_threads",
            "type_k",
            "n_prompt",
            "n_gen",
            "n_depth",
            "test_time",
            "avg_ns",
            "stddev_ns",
            "avg_ts",
            "stddev_ts",
            "samples_ns",
            "samples_ts",
            "ceiling_read_gb_s",
        ] {
            assert!(row.get(key).is_some(), "{key}");
        }
        assert_eq!(row["samples_ns"].as_array().unwrap().len(), 2);
        assert!(row["avg_ts"].as_f64().unwrap() > 0.0);
    }
    assert!(rows[1]["read_share"].as_f64().unwrap() > 0.0 && rows[1]["gop_share"].is_null());
    assert!(rows[0]["gop_share"].as_f64().unwrap() > 0.0 && rows[0]["read_share"].is_null());
    // Half of the steps take no longer than the first, and the steps of a test as long as the test.
    let ns = |key: &str| rows[1][key].as_f64().unwrap();
    assert!(0.0 < ns("step_p50_ns") && ns("step_p50_ns") <= ns("step_p95_ns"));
    let samples = rows[1]["samples_ns"].as_array().unwrap();
    assert!(ns("step_p95_ns") <= samples.iter().filter_map(Value::as_f64).fold(0.0, f64::max));
    assert!(rows[0]["step_p50_ns"].is_null() && rows[2]["step_p95_ns"].is_null());
    let md = all("md");
    for test in ["pp16 |", "tg4 |", "pp8+tg2 |", "pp16 @ d40 |"] {
        assert!(md.contains(test), "{test} in {md}");
    }
    assert!(md.starts_with("| model ") && md.contains(" t/s |") && md.contains('±'));
}

#[test]
fn logits_shape() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("l.npy");
    let file = path.display().to_string();
    let output = run(&["logits", "stories", "--ids", "0,2,5", "-o", &file]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let (shape, values) = read_npy(&path);
    assert_eq!(shape, [3, 2048]);
    assert_eq!(values.len(), 3 * 2048);
    assert!(values.iter().all(|v| v.is_finite()));
    let text = run(&["logits", "-p", "Once"]);
    assert_eq!(stdout(&text).lines().count(), 10);
}

#[test]
fn quantized_again_it_is_smaller_and_still_runs() {
    let Some(data) = common::data() else { return };
    let dir = tempfile::tempdir().unwrap();
    let source = data.join("models/stories260K/stories260K-f32.gguf").display().to_string();
    for (kind, error) in [
        ("q8_0", 0.02),
        ("f16", 0.001),
        ("q6_k", 0.02),
        ("q4_k", 0.2),
        ("q5_1", 0.1),
        ("iq4_nl", 0.2),
    ] {
        let target = dir.path().join(format!("{kind}.gguf")).display().to_string();
        let output = run(&["quantize", &source, &target, "--type", kind, "-v"]);
        let said = stderr(&output);
        assert_eq!(code(&output), 0, "{said}");
        // Rows of 64 or 172 are no blocks of 256, nor 172 of 32: they become F16, and it says so.
        assert_eq!(said.contains("no whole number"), kind != "f16", "{said}");
        let worst = said
            .lines()
            .filter_map(|l| l.split_once("relative RMS error ")?.1.parse::<f64>().ok())
            .fold(0.0, f64::max);
        assert!(worst > 0.0 && worst < error, "{kind}: {worst}");
        let v = json(&["run", "--json", "-m", &target, "--ids", "1", "--temp", "0", "-n", "10"]);
        assert!(v["text"].as_str().unwrap().starts_with(" Once upon a time"), "{kind}: {v}");
    }
    let output = run(&[
        "quantize",
        &source,
        &format!("{}.2", dir.path().join("none").display()),
        "--type",
        "iq2_xxs",
    ]);
    assert_eq!(code(&output), 2, "{}", stderr(&output));
    assert!(stderr(&output).contains("IQ2_XXS") && stderr(&output).contains("no quantizer"));
    let again = dir.path().join("q8_0.gguf").display().to_string();
    let output = run(&["quantize", &again, &format!("{again}.2"), "--type", "q4_0"]);
    assert_eq!(code(&output), 3, "{}", stderr(&output));
}
