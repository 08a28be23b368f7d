//! A seed gives the same tokens alone and among others, on any number of threads and on every
//! instruction set, in f32, with every sampler.

use gristmill_conformance::model::Decoder;
use gristmill_conformance::random::Random;
use gristmill_conformance::weights::Weights;
use gristmill_core::DType;
use gristmill_cpu::{Cpu, CpuOptions, Isa};
use gristmill_engine::*;
use gristmill_ir::{Activations, Op, Options, Program, TensorDecl};
use std::collections::BTreeMap;

/// One request of each kind, all with the same seed.
fn requests() -> Vec<Request> {
    let hot = SamplingParams { temperature: 0.9, seed: 1 << 40, ..SamplingParams::default() };
    let kinds = [
        hot.clone(),
        SamplingParams { top_k: 20, top_p: 0.9, min_p: 0.02, ..hot.clone() },
        SamplingParams { top_n_sigma: 1.5, typical_p: 0.8, ..hot.clone() },
        SamplingParams { xtc_probability: 0.5, xtc_threshold: 0.05, ..hot.clone() },
        SamplingParams { repeat_penalty: 1.3, frequency_penalty: 0.1, ..hot.clone() },
        SamplingParams { dry_multiplier: 1.0, dry_allowed_length: 0, ..hot.clone() },
        SamplingParams { mirostat: Mirostat::V1, logit_bias: vec![(9, 2.0)], ..hot.clone() },
        SamplingParams { mirostat: Mirostat::V2, mirostat_tau: 3.0, ..hot },
    ];
    let mut random = Random::new(4);
    let request = |(i, sampling): (usize, SamplingParams)| Request {
        sampling,
        ..Request::new(random.ids(5 + 9 * i, 131), 40)
    };
    kinds.into_iter().enumerate().map(request).collect()
}

/// The tokens of each request, run together in steps of so many sequences.
fn run(cpu: Cpu, program: &Program, weights: &Weights, batch: u32) -> Vec<Vec<u32>> {
    let options = EngineOptions {
        context: 256,
        max_seqs: batch,
        token_budget: 48,
        options: Options { activations: Activations::F32, ..Options::default() },
        ..EngineOptions::default()
    };
    let mut load = |d: &TensorDecl| weights.tensor(d);
    let mut engine = Engine::new(cpu, program.clone(), &mut load, options).unwrap();
    let mut ids = BTreeMap::new();
    for request in requests() {
        ids.insert(engine.submit(request).unwrap(), vec![]);
    }
    for event in engine.run_to_end().unwrap() {
        ids.get_mut(&event.id).unwrap().extend(event.token);
    }
    ids.into_values().collect()
}

#[test]
fn a_seed_gives_the_same_tokens_everywhere() {
    let model = Decoder { width: 64, ffn: 96, ..Decoder::default() };
    let mut program = model.record().unwrap();
    // Random weights are too sure of themselves: with smaller logits there is something to choose.
    let head = program.nodes.last_mut().unwrap();
    let Op::Linear { scale, .. } = &mut head.op else { panic!("the head is no matrix") };
    *scale = 0.1;
    let weights = Weights::random(&program, 1, |_| DType::F32);
    let mut first: Option<Vec<Vec<u32>>> = None;
    for isa in Isa::available() {
        for threads in [1, 2] {
            for batch in [1, 3, 8] {
                // WebAssembly has no threads.
                let threads = if cfg!(target_family = "wasm") { 1 } else { threads };
                let cpu = Cpu::new(CpuOptions { isa, threads, poison: false }).unwrap();
                let got = run(cpu, &program, &weights, batch);
                let first = first.get_or_insert_with(|| got.clone());
                assert_eq!(&got, first, "{isa}, {threads} threads, steps of {batch}");
            }
        }
    }
    let first = first.unwrap();
    assert!(first.iter().all(|ids| ids.len() == 40));
    // It is the kind that makes the difference, and few keep to one token.
    assert!(first.iter().enumerate().all(|(i, ids)| !first[..i].contains(ids)));
    let varied = first.iter().filter(|ids| ids.iter().any(|id| id != &ids[0])).count();
    assert!(varied >= 6, "{first:?}");
}
