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
