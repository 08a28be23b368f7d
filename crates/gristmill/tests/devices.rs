//! The choice of a device, through the binary: what is named and is not there, what is taken without
//! being named, layers on two devices. On an adapter where `GRISTMILL_TEST_DEVICE` names one.

mod common;

use common::{code, data, ids, json_of, read_json, stderr};
use std::process::{Command, Output};

/// The adapter to test, if any.
fn device() -> Option<String> {
    common::device().filter(|d| d.starts_with("wgpu"))
}

/// The binary, left to choose.
fn gristmill() -> Command {
    let mut command = common::gristmill();
    command.env_remove("GRISTMILL_DEVICE");
    command
}

fn run(args: &[&str]) -> Output {
    gristmill().args(args).output().expect("the binary starts")
}

const BRIEF: [&str; 8] = ["run", "--raw", "-p", "Once", "-n", "1", "--temp", "0"];

#[test]
fn names_that_are_none() {
    for wrong in ["gpu", "wgpu:x", "wgpu:-1", "wgpu:", "cpu:1", "wgpu:99999999999", "vulkan"] {
        let said = run(&[&BRIEF[..], &["--device", wrong]].concat());
        assert_eq!(code(&said), 2, "{wrong}: {}", stderr(&said));
        assert!(stderr(&said).contains("--device"), "{wrong}: {}", stderr(&said));
    }
}

#[test]
fn devices_that_are_not_there() {
    for absent in ["cuda", "cuda:0", "wgpu:97"] {
        let mut command = gristmill();
        let said = command.args(BRIEF).env("GRISTMILL_DEVICE", absent).output().unwrap();
        assert_eq!(code(&said), 4, "{absent}: {}", stderr(&said));
        let said = run(&["devices", "--device", absent]);
        assert!(stderr(&said).contains(absent.split(':').next().unwrap()), "{}", stderr(&said));
    }
}

/// Without a GPU that is one, `wgpu` alone is an error that says what there is.
#[test]
fn software_is_not_taken_unless_it_is_named() {
    let all = json_of(gristmill().args(["devices", "--json"]));
    let adapters = all["devices"].as_array().unwrap().iter();
    let mut adapters = adapters.filter(|d| d["id"].as_str().unwrap().starts_with("wgpu"));
    let software = |d: &serde_json::Value| d["reason"].as_str().unwrap().contains("software");
    if adapters.any(|d| !software(d) && d["usable"] == true) {
        println!("SKIPPED: this machine has a GPU");
        return;
    }
    let said = run(&[&BRIEF[..], &["--device", "wgpu"]].concat());
    assert_eq!(code(&said), 4, "{}", stderr(&said));
}

#[test]
fn small_models_open_no_gpu() {
    let said = run(&BRIEF);
    assert_eq!(code(&said), 0, "{}", stderr(&said));
    let said = stderr(&said);
    assert!(said.contains("device: cpu") && said.contains("none was looked for"), "{said}");
    // Layers on a GPU that is not taken are an error, never left out in silence.
    let said = run(&[&BRIEF[..], &["--gpu-layers", "2"]].concat());
    assert_eq!(code(&said), 4, "{}", stderr(&said));
    let said = run(&[&BRIEF[..], &["--gpu-layers", "2", "--device", "cpu"]].concat());
    assert_eq!(code(&said), 4, "{}", stderr(&said));
}

/// Greedy ids to the letter, whatever the number of layers on the adapter.
#[test]
fn layers_on_both() {
    let (Some(data), Some(device)) = (data(), device()) else { return };
    let folder = data.join("models/stories260K");
    let golden = read_json(&folder.join("golden.json"));
    let expected = &ids(&golden["greedy_ids"])[..16];
    for layers in ["1", "4", "all"] {
        let mut command = gristmill();
        command.arg("run").arg(folder.join("stories260K-f32.gguf"));
        command.args(["--json", "--ids", "1", "--temp", "0", "--activations", "f32", "-n", "16"]);
        let v = json_of(command.args(["--device", &device, "--gpu-layers", layers]));
        assert_eq!(ids(&v["ids"]), expected, "{layers}");
        let said = v["device"].as_str().unwrap();
        let shared = ["1", "4"].contains(&layers);
        assert_eq!(said.contains(", then from blk."), shared, "{layers}: {said}");
    }
}

/// Operation by operation, the adapter computes what the processor does.
#[test]
fn no_operation_departs() {
    let (Some(data), Some(device)) = (data(), device()) else { return };
    let model = data.join("models/stories260K/stories260K-f32.gguf");
    let two = format!("cpu,{device}");
    let mut command = gristmill();
    command.arg("diff").arg(model).args(["--ids", "1,403,407,261,378", "--device", &two, "--json"]);
    let v = json_of(&mut command);
    assert!(v["first"].is_null(), "{}", v["first"]);
    assert!(v["values"].as_array().unwrap().len() > 30);
}

/// Several devices are for comparing, and only where that is done.
#[test]
fn several_devices() {
    let said = run(&[&BRIEF[..], &["--device", "cpu,cpu"]].concat());
    assert_eq!(code(&said), 2, "{}", stderr(&said));
    assert!(stderr(&said).contains("bench"), "{}", stderr(&said));
}

/// The same tests on two devices in turns: rows of both, shares of the processor's ceilings for its own.
#[test]
fn a_benchmark_on_two_devices() {
    let Some(device) = device() else { return };
    let two = format!("{device},cpu");
    let brief = ["bench", "-q", "-r", "1", "-p", "4", "-n", "2", "-o", "jsonl"];
    let said = run(&[&brief[..], &["--device", &two]].concat());
    assert_eq!(code(&said), 0, "{}", stderr(&said));
    let rows: Vec<serde_json::Value> =
        common::stdout(&said).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let of = |r: &serde_json::Value| (r["backends"].clone(), r["read_share"].is_null());
    let generation: Vec<_> = rows.iter().filter(|r| r["n_gen"] == 2).map(of).collect();
    assert_eq!(generation, [("WGPU".into(), true), ("CPU".into(), false)]);
    assert_eq!(rows.len(), 4);
    assert!(rows.iter().all(|r| r["avg_ts"].as_f64().unwrap() > 0.0));
}

/// Single operations by the device's clock, beside those of the processor.
#[test]
fn kernels_on_two_devices() {
    let Some(device) = device() else { return };
    let two = format!("{device},cpu");
    let said = run(&[
        "bench",
        "--kernels=norm,softmax,decode",
        "-q",
        "-r",
        "1",
        "-o",
        "jsonl",
        "--device",
        &two,
    ]);
    assert_eq!(code(&said), 0, "{}", stderr(&said));
    let rows: Vec<serde_json::Value> =
        common::stdout(&said).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(rows.len(), 6, "{rows:?}");
    for pair in rows.chunks(2) {
        assert_eq!(pair[0]["kernel"], pair[1]["kernel"]);
        assert_eq!(pair[0]["isa"].as_str(), Some(&*device));
        assert!(pair.iter().all(|r| r["us"].as_f64().unwrap() > 0.0), "{pair:?}");
        assert!(pair[0]["% ceiling"].is_null() && pair[1]["% ceiling"].is_number(), "{pair:?}");
    }
}

/// Products in f16 are what the device makes of them, and the processor has none.
#[test]
fn products_in_f16() {
    let said = run(&[&BRIEF[..], &["--device", "cpu", "--compute", "f16"]].concat());
    assert_eq!(code(&said), 4, "{}", stderr(&said));
    assert!(stderr(&said).contains("--compute"), "{}", stderr(&said));
    let (Some(data), Some(device)) = (data(), device()) else { return };
    let folder = data.join("golden/llama");
    let golden = read_json(&folder.join("golden.json"));
    let (name, file) = golden["exact"]["logits"].as_object().unwrap().iter().next().unwrap();
    let (_, expected) = common::read_npy(&folder.join(file.as_str().unwrap()));
    let prompt = common::ids_arg(&ids(&golden["prompts"][name]));
    let dir = tempfile::tempdir().unwrap();
    let far = |compute: &str| {
        let path = dir.path().join("logits.npy");
        let mut command = gristmill();
        command.arg("logits").arg(folder.join("model-f16.gguf")).args(["--ids", &prompt]);
        command.args(["--activations", "f32", "--device", &device, "--compute", compute]);
        let said = command.arg("-o").arg(&path).output().unwrap();
        if stderr(&said).contains("--compute asks for") {
            return None;
        }
        assert_eq!(code(&said), 0, "{}", stderr(&said));
        let (_, got) = common::read_npy(&path);
        assert_eq!(got.len(), expected.len());
        Some(got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max))
    };
    let exact = far("f32").expect("f32 runs everywhere");
    let Some(half) = far("f16") else {
        println!("SKIPPED: {device} has no f16");
        return;
    };
    // The suite's tolerance: eight roundings to eleven bits for each matrix on the way.
    let config = read_json(&folder.join("config.json"));
    let layers = config["num_hidden_layers"].as_f64().expect("a number of layers");
    let matrices = 7.0 * layers as f32 + 1.0;
    let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    println!("f32 {exact:.1e}, f16 {half:.1e} from the reference, whose largest is {largest:.1}");
    assert!(half > exact && half < 8.0 / 2048.0 * matrices * largest, "{exact} {half}");
}
