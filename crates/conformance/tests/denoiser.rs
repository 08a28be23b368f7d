//! A Gaussian denoiser against numpy in f64 (`oracles/denoiser.py`), on every instruction set: a
//! block, and fifty steps with stored noise by each rule.

use gristmill_cpu::{Cpu, CpuOptions, Isa};
use gristmill_engine::denoise::{Denoiser, spread, sqrt_schedule};
use gristmill_ir::{Activations, DenoiseRule, Options, Output, Prefill, Program};
use gristmill_models::Gguf;
use gristmill_models::arch::{self, KvTypes, architecture};
use std::path::{Path, PathBuf};

const TOKENS: u32 = 11;
const STEPS: u32 = 50;
const OPTIONS: Options = Options {
    compute: gristmill_core::DType::F32,
    activations: Activations::F32,
    batch_invariant: true,
    prefill: Prefill::Exact,
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/denoiser")
}

fn numbers(name: &str) -> Vec<f32> {
    let bytes = std::fs::read(folder().join(format!("{name}.bin"))).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn model() -> (Gguf, Program) {
    let gguf = Gguf::open(folder().join("model.gguf")).unwrap();
    let f32s = KvTypes { k: gristmill_core::DType::F32, v: gristmill_core::DType::F32 };
    let program = architecture(&gguf, f32s).unwrap().program().unwrap();
    assert_eq!(arch::check_tensors(&program, &gguf).unwrap(), [""; 0]);
    (gguf, program)
}

fn cpu(isa: Isa, threads: usize) -> Cpu {
    Cpu::new(CpuOptions { isa, threads, poison: true }).unwrap()
}

fn denoiser(isa: Isa, program: &Program, gguf: &Gguf, rule: (DenoiseRule, f32)) -> Denoiser<Cpu> {
    let (rule, eta) = rule;
    let mut tensor = |d: &_| arch::tensor(d, gguf);
    Denoiser::new(cpu(isa, 2), program, &mut tensor, 16, (rule, eta, true), &OPTIONS).unwrap()
}

/// The largest difference.
fn far(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// What the first layer adds up to, at the first time.
#[test]
fn a_block() {
    let (gguf, program) = model();
    let sum = program.stop_after("blk.1.attn_norm").unwrap().outputs[0].1;
    // Still a denoiser, so that it is driven as one.
    let mut cut = program.clone();
    cut.outputs.retain(|o| o.0 == Output::Logits);
    cut.outputs.push((Output::Hidden, sum));
    let expected = numbers("block");
    for isa in Isa::available() {
        let mut d = denoiser(isa, &cut, &gguf, (DenoiseRule::Ddim, 0.0));
        let mut block = vec![];
        let first = [spread(400, STEPS).unwrap()[0], u32::MAX];
        let x = numbers("start");
        d.run(&x, &first, 0, &mut |_| x.clone(), &mut |_, h| {
            block = h.to_vec();
            Ok(())
        })
        .unwrap();
        let far = far(&block, &expected);
        println!("{isa}: at most {far:e} away");
        assert!(far < 1e-4, "{isa}: {far}");
    }
}

#[test]
fn fifty_steps() {
    let (gguf, program) = model();
    let (start, noise) = (numbers("start"), numbers("noise"));
    let times = spread(400, STEPS).unwrap();
    let ids = std::fs::read_to_string(folder().join("ids.txt")).unwrap();
    let rules = [
        ("ddim0", (DenoiseRule::Ddim, 0.0)),
        ("ddim1", (DenoiseRule::Ddim, 1.0)),
        ("ddpm", (DenoiseRule::Ddpm, 1.0)),
    ];
    for isa in Isa::available() {
        let mut traces = vec![];
        for ((name, rule), line) in rules.into_iter().zip(ids.lines()) {
            let expected = numbers(name);
            let mut d = denoiser(isa, &program, &gguf, rule);
            assert_eq!((d.width(), d.times()), (8, 400));
            let n = start.len();
            let mut worst = 0.0f32;
            let mut trace = vec![];
            let mut given = |i: usize| noise[i * n..][..n].to_vec();
            let got = d.run(&start, &times, 0, &mut given, &mut |i, x| {
                worst = worst.max(far(x, &expected[i * n..][..n]));
                trace.extend_from_slice(x);
                Ok(())
            });
            let expected_ids: Vec<u32> = line.split(' ').map(|n| n.parse().unwrap()).collect();
            assert_eq!(got.unwrap(), expected_ids, "{isa} {name}");
            println!("{isa} {name}: at most {worst:e} away");
            assert!(worst < 1e-3, "{isa} {name}: {worst}");
            traces.push(trace);
        }
        // At eta 1 the two are one.
        assert!(far(&traces[1], &traces[2]) < 1e-3, "{isa}");
    }
}

/// By the device's own noise: the seed's, on any instruction set, any number of threads, and it is
/// not that of another seed.
#[test]
fn noise_of_the_device() {
    let (gguf, program) = model();
    let times = spread(400, 10).unwrap();
    let x = numbers("start");
    let run = |isa, threads, seed| {
        let mut tensor = |d: &_| arch::tensor(d, &gguf);
        let rule = (DenoiseRule::Ddpm, 1.0, false);
        let mut d = Denoiser::new(cpu(isa, threads), &program, &mut tensor, TOKENS, rule, &OPTIONS)
            .unwrap();
        let mut last = vec![];
        d.run(&x, &times, seed, &mut |_| vec![], &mut |_, x| {
            last = x.to_vec();
            Ok(())
        })
        .unwrap();
        last
    };
    let one = run(Isa::best(), 1, 5);
    assert_eq!(one, run(Isa::best(), 2, 5));
    for isa in Isa::available() {
        assert!(far(&one, &run(isa, 1, 5)) < 1e-3, "{isa}");
    }
    assert!(far(&one, &run(Isa::best(), 1, 6)) > 0.1);
}

/// Steps that no model has, latents that are not whole, times beyond the schedule.
#[test]
fn refused() {
    let (gguf, program) = model();
    let mut d = denoiser(Isa::best(), &program, &gguf, (DenoiseRule::Ddim, 0.0));
    let x = numbers("start");
    let mut run = |x: &[f32], times: &[u32]| {
        d.run(x, times, 0, &mut |_| x.to_vec(), &mut |_, _| Ok(())).map(|_| ())
    };
    for (x, times) in [
        (&x[1..], &[9, u32::MAX][..]),
        (&[], &[9, u32::MAX]),
        (&[0.0; 8 * 17], &[9, u32::MAX]),
        (&x, &[400, 5]),
        (&x, &[9]),
        (&x, &[5, 9]),
        (&x, &[9, 400]),
    ] {
        assert!(run(x, times).is_err(), "{} numbers, {times:?}", x.len());
    }
    assert!(run(&x, &[9, u32::MAX]).is_ok());
    let mut tensor = |d: &_| arch::tensor(d, &gguf);
    let mut new = |p: &Program, eta| {
        Denoiser::new(
            cpu(Isa::best(), 1),
            p,
            &mut tensor,
            8,
            (DenoiseRule::Ddim, eta, false),
            &OPTIONS,
        )
        .map(|_| ())
    };
    assert!(new(&program, 1.5).is_err() && new(&program, f32::NAN).is_err());
    let none = program.stop_after("blk.1.attn_norm").unwrap();
    assert!(new(&none, 0.0).unwrap_err().to_string().contains("is no denoiser"));
}

/// The file's schedule is the square root one.
#[test]
fn the_schedule_of_the_file() {
    let (gguf, _) = model();
    let stored = gguf.tensor("diffusion.alphas").unwrap();
    let ours = sqrt_schedule(400);
    let mut values = vec![0.0; ours.len()];
    gristmill_core::quant::dequantize(stored.dtype, stored.bytes(), &mut values).unwrap();
    assert!(far(&values, &ours) < 1e-7);
}
