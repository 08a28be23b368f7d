//! `gristmill run --profile`, through the binary.

mod common;

use common::{code, gristmill, stderr};
use serde_json::Value;
use std::process::Output;

fn run(args: &[&str], variable: Option<&str>) -> Output {
    let mut command = gristmill();
    command.args(["run", "--ids", "1,5,9,2", "-n", "6", "--ignore-eos", "--seed", "1", "-t", "2"]);
    command.args(args).envs(variable.map(|v| ("GRISTMILL_PROFILE", v)));
    command.output().unwrap()
}

#[test]
fn a_trace_holds_every_operation_of_every_step_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trace.json");
    let done = run(&[&format!("--profile={}", path.display())], None);
    assert!(done.status.success(), "{}", stderr(&done));
    let trace: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let all = trace["traceEvents"].as_array().unwrap();
    let of = |thread: u64| all.iter().filter(move |e| e["ph"] == "X" && e["tid"] == thread);
    // The prompt gives the first token, each other one is a step.
    let names: Vec<&str> = of(1).map(|e| e["name"].as_str().unwrap()).collect();
    assert_eq!(names, [&["prompt"][..], &["generation"; 5]].concat());
    let at = |e: &Value| {
        let from = e["ts"].as_f64().unwrap();
        (from, from + e["dur"].as_f64().unwrap())
    };
    let steps: Vec<(f64, f64)> = of(1).map(at).collect();
    assert!(steps.windows(2).all(|w| w[0].1 <= w[1].0), "steps overlap: {steps:?}");
    for &(from, to) in &steps {
        let inside = |e: &&Value| (from..=to).contains(&((at(e).0 + at(e).1) / 2.0));
        let mut operations: Vec<&Value> = of(2).filter(inside).collect();
        operations.sort_by(|a, b| at(a).0.total_cmp(&at(b).0));
        let named = |name: &str| operations.iter().filter(|e| e["name"] == name).count();
        assert_eq!((named("embed"), named("blk.0.attn"), named("output")), (1, 1, 1));
        assert_eq!(named("sampling"), 1);
        let gap = |w: &[&Value]| (at(w[1]).0 - at(w[0]).1).abs();
        assert!(operations.windows(2).all(|w| gap(w) < 0.002), "operations overlap");
    }
    // What generation reads: all matrices but the table, of which it is one row; and keys and values.
    let reads = |step: usize, name: &str| -> f64 {
        let (from, to) = steps[step];
        let bytes = |e: &Value| e["args"]["bytes"].as_f64().unwrap_or(0.0);
        let inside = |e: &&Value| (from..=to).contains(&at(e).0);
        of(2).filter(inside).filter(|e| name.is_empty() || e["name"] == name).map(bytes).sum()
    };
    let each = reads(2, "blk.0.attn") - reads(1, "blk.0.attn");
    assert_eq!(reads(3, "blk.0.attn") - reads(2, "blk.0.attn"), each);
    assert_eq!(reads(1, "blk.0.attn"), 5.0 * each);
    assert_eq!(reads(1, "output"), reads(5, "output"));
}

#[test]
fn the_tables_say_where_the_time_goes() {
    for done in [run(&["--profile"], None), run(&[], Some("1"))] {
        let said = stderr(&done);
        assert!(done.status.success(), "{said}");
        assert!(said.contains("prompt: 1 steps, 4 tokens"), "{said}");
        assert!(said.contains("generation: 5 steps, 5 tokens"), "{said}");
        assert!(said.contains("measured ceilings: "), "{said}");
        let part = said.split("generation: 5 steps").nth(1).unwrap();
        let rows = part.lines().skip(2).take_while(|l| !l.trim_start().starts_with("layer"));
        // Calls, milliseconds and the share come after the name.
        let share = |row: &str| {
            let mut numbers = row.split_whitespace().filter_map(|w| w.parse::<f64>().ok());
            numbers.nth(2).unwrap_or_else(|| panic!("no share in {row}"))
        };
        let shares: f64 = rows.map(share).sum();
        assert!((99.0..101.0).contains(&shares), "{shares}\n{said}");
    }
    for quiet in [run(&[], None), run(&[], Some("0")), run(&[], Some(""))] {
        assert!(
            quiet.status.success() && !stderr(&quiet).contains("ceilings"),
            "{}",
            stderr(&quiet)
        );
    }
}

#[test]
fn what_cannot_be() {
    let done = run(&["--profile=/nowhere/at/all/trace.json"], None);
    assert_eq!(code(&done), 1, "{}", stderr(&done));
    assert!(stderr(&done).contains("writing /nowhere/at/all/trace.json"), "{}", stderr(&done));
    let chat = common::run(&["run", "-i", "--profile"]);
    assert_eq!(code(&chat), 2, "{}", stderr(&chat));
}
