//! The stored denoiser with its traces, and a backend against them.

use gristmill_engine::denoise::{Denoiser, spread};
use gristmill_ir::{Activations, Backend, DenoiseRule, Options, Output, Prefill, Program};
use gristmill_models::Gguf;
use gristmill_models::arch::{self, KvTypes, architecture};
use std::path::{Path, PathBuf};

const STEPS: u32 = 50;
pub const OPTIONS: Options = Options {
    compute: gristmill_core::DType::F32,
    activations: Activations::F32,
    batch_invariant: true,
    prefill: Prefill::Exact,
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/tests/denoiser")
}

pub fn numbers(name: &str) -> Vec<f32> {
    let bytes = std::fs::read(folder().join(format!("{name}.bin"))).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

pub fn model() -> (Gguf, Program) {
    let gguf = Gguf::open(folder().join("model.gguf")).unwrap();
    let f32s = KvTypes { k: gristmill_core::DType::F32, v: gristmill_core::DType::F32 };
    let program = architecture(&gguf, f32s).unwrap().program().unwrap();
    assert_eq!(arch::check_tensors(&program, &gguf).unwrap(), [""; 0]);
    (gguf, program)
}

/// Noise is given where `rule` does not say that it is drawn.
pub fn denoiser<B: Backend>(
    backend: B,
    program: &Program,
    gguf: &Gguf,
    rule: (DenoiseRule, f32, bool),
) -> Denoiser<B> {
    let mut tensor = |d: &_| arch::tensor(d, gguf);
    Denoiser::new(backend, program, &mut tensor, 16, rule, &OPTIONS).unwrap()
}

/// The largest difference.
pub fn far(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// What the first layer adds up to, at the first time.
pub fn block<B: Backend>(name: &str, backend: B) {
    let (gguf, program) = model();
    let sum = program.stop_after("blk.1.attn_norm").unwrap().outputs[0].1;
    // Still a denoiser, so that it is driven as one.
    let mut cut = program.clone();
    cut.outputs.retain(|o| o.0 == Output::Logits);
    cut.outputs.push((Output::Hidden, sum));
    let expected = numbers("block");
    let mut d = denoiser(backend, &cut, &gguf, (DenoiseRule::Ddim, 0.0, true));
    let mut block = vec![];
    let first = [spread(400, STEPS).unwrap()[0], u32::MAX];
    let x = numbers("start");
    let mut watch = |_: usize, h: &[f32], _: &[u32]| {
        block = h.to_vec();
        Ok(())
    };
    d.run(&x, &first, 0, &mut |_| x.clone(), Some(&mut watch)).unwrap();
    let far = far(&block, &expected);
    println!("{name}: at most {far:e} away");
    assert!(far < 1e-4, "{name}: {far}");
}

/// Fifty steps by each rule, with stored noise.
pub fn fifty_steps<B: Backend>(name: &str, backend: &mut dyn FnMut() -> B) {
    let (gguf, program) = model();
    let (start, noise) = (numbers("start"), numbers("noise"));
    let times = spread(400, STEPS).unwrap();
    let ids = std::fs::read_to_string(folder().join("ids.txt")).unwrap();
    let rules = [
        ("ddim0", (DenoiseRule::Ddim, 0.0, true)),
        ("ddim1", (DenoiseRule::Ddim, 1.0, true)),
        ("ddpm", (DenoiseRule::Ddpm, 1.0, true)),
    ];
    let mut traces = vec![];
    for ((rule_name, rule), line) in rules.into_iter().zip(ids.lines()) {
        let expected = numbers(rule_name);
        let mut d = denoiser(backend(), &program, &gguf, rule);
        assert_eq!((d.width(), d.times()), (8, 400));
        let n = start.len();
        let mut worst = 0.0f32;
        let mut trace = vec![];
        let mut given = |i: usize| noise[i * n..][..n].to_vec();
        let mut told = vec![];
        let mut watch = |i: usize, x: &[f32], ids: &[u32]| {
            worst = worst.max(far(x, &expected[i * n..][..n]));
            trace.extend_from_slice(x);
            told = ids.to_vec();
            Ok(())
        };
        let got = d.run(&start, &times, 0, &mut given, Some(&mut watch)).unwrap();
        let expected_ids: Vec<u32> = line.split(' ').map(|n| n.parse().unwrap()).collect();
        assert_eq!(got, expected_ids, "{name} {rule_name}");
        assert_eq!(told, expected_ids, "{name} {rule_name}");
        println!("{name} {rule_name}: at most {worst:e} away");
        assert!(worst < 1e-3, "{name} {rule_name}: {worst}");
        // Nobody needs to look.
        assert_eq!(d.run(&start, &times, 0, &mut given, None).unwrap(), expected_ids);
        traces.push(trace);
    }
    // At eta 1 the two are one.
    assert!(far(&traces[1], &traces[2]) < 1e-3, "{name}");
}

/// The latents after ten steps by the device's own noise.
pub fn drawn<B: Backend>(backend: B, seed: u64) -> Vec<f32> {
    let (gguf, program) = model();
    let times = spread(400, 10).unwrap();
    let mut d = denoiser(backend, &program, &gguf, (DenoiseRule::Ddpm, 1.0, false));
    let mut last = vec![];
    let mut watch = |_: usize, x: &[f32], _: &[u32]| {
        last = x.to_vec();
        Ok(())
    };
    d.run(&numbers("start"), &times, seed, &mut |_| vec![], Some(&mut watch)).unwrap();
    last
}
