//! `gristmill run --profile`, through the binary.

use serde_json::Value;
use std::process::{Command, Output};

fn run(args: &[&str], variable: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gristmill"));
    command.args(["run", "--ids", "1,5,9,2", "-n", "6", "--ignore-eos", "--seed", "1", "-t", "2"]);
    command.args(args).env_remove("GRISTMILL_PROFILE");
    command.envs(variable.map(|v| ("GRISTMILL_PROFILE", v)));
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_trace_holds_every_operation_of_every_step_in_order() {
    let path = std::env::temp_dir().join(format!("gristmill-trace-{}.json", std::process::id()));
    let done = run(&[&format!("--profile={}", path.display())], None);
    assert!(done.status.success(), "{}", said(&done));
    let trace: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    std::fs::remove_file(&path).unwrap();
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
        let said = said(&done);
        assert!(done.status.success(), "{said}");
        assert!(said.contains("prompt: 1 steps, 4 tokens"), "{said}");
        assert!(said.contains("generation: 5 steps, 5 tokens"), "{said}");
        assert!(said.contains("measured ceilings: "), "{said}");
        let part = said.split("generation: 5 steps").nth(1).unwrap();
        let rows = part.lines().skip(2).take_while(|l| !l.trim_start().starts_with("layer"));
        let shares: f64 = rows
            .map(|l| l.split_whitespace().find_map(|w| w.parse::<u32>().ok().map(|_| l)).unwrap())
            .map(|l| {
                let numbers = l.split_whitespace().filter_map(|w| w.parse::<f64>().ok());
                numbers.collect::<Vec<_>>()[2]
            })
            .sum();
        assert!((99.0..101.0).contains(&shares), "{shares}\n{said}");
    }
    for quiet in [run(&[], None), run(&[], Some("0")), run(&[], Some(""))] {
        assert!(quiet.status.success() && !said(&quiet).contains("ceilings"), "{}", said(&quiet));
    }
}

#[test]
fn what_cannot_be() {
    let done = run(&["--profile=/nowhere/at/all/trace.json"], None);
    assert_eq!(done.status.code(), Some(1), "{}", said(&done));
    assert!(said(&done).contains("writing /nowhere/at/all/trace.json"), "{}", said(&done));
    let chat = Command::new(env!("CARGO_BIN_EXE_gristmill"))
        .args(["run", "-i", "--profile"])
        .output()
        .unwrap();
    assert_eq!(chat.status.code(), Some(2), "{}", said(&chat));
}
