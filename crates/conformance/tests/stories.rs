//! A published model, from its file to its tokens, without the command line: the same program runs
//! where there is none, in WebAssembly.

use gristmill_core::DType;
use gristmill_cpu::{Cpu, CpuOptions, Isa};
use gristmill_engine::{Engine, EngineOptions, Request, SamplingParams};
use gristmill_ir::{Activations, Options, TensorDecl};
use gristmill_models::arch::{self, KvTypes};
use gristmill_models::{Gguf, LoadMode};
use serde_json::Value;
use std::path::Path;

/// stories260K in f32, after BOS: every greedy token as the reference has it.
#[test]
fn stories260k_greedy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let folder = root.join("models/stories260K");
    if !folder.is_dir() {
        eprintln!("no reference data beside the repository: left out");
        return;
    }
    let golden = std::fs::read_to_string(folder.join("golden.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let expected = golden["greedy_ids"].as_array().unwrap().iter();
    let expected: Vec<u32> = expected.map(|v| v.as_u64().unwrap() as u32).collect();

    let file = folder.join("stories260K-f32.gguf");
    let gguf = Gguf::open_with(&file, LoadMode::Auto).unwrap();
    let kv = KvTypes { k: DType::F32, v: DType::F32 };
    let program = arch::architecture(&gguf, kv).unwrap().program().unwrap();
    for isa in Isa::available() {
        let cpu = Cpu::new(CpuOptions { isa, threads: 1, poison: false }).unwrap();
        let options = EngineOptions {
            context: 1 + expected.len() as u32,
            max_seqs: 1,
            options: Options { activations: Activations::F32, ..Options::default() },
            ..EngineOptions::default()
        };
        let program = arch::fit_to_context(program.clone(), &gguf, options.context).unwrap();
        let mut tensor = |d: &TensorDecl| arch::tensor(d, &gguf);
        let mut engine = Engine::new(cpu, program, &mut tensor, options).unwrap();
        let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
        let request = Request { sampling, ..Request::new(vec![1], expected.len()) };
        engine.submit(request).unwrap();
        let ids: Vec<u32> =
            engine.run_to_end().unwrap().into_iter().filter_map(|e| e.token).collect();
        assert_eq!(ids, expected, "{isa}");
        println!("{isa}: {} ids", ids.len());
    }
}
