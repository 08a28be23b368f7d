//! A Gaussian denoiser against numpy in f64 (`oracles/denoiser.py`), on every instruction set: a
//! block, and fifty steps with stored noise by each rule.

#[path = "denoiser/traces.rs"]
mod traces;

use gristmill_cpu::{Cpu, CpuOptions, Isa};
use gristmill_engine::denoise::{Denoiser, sqrt_schedule};
use gristmill_ir::{DenoiseRule, Program};
use gristmill_models::arch;
use traces::{OPTIONS, drawn, far, model, numbers};

fn cpu(isa: Isa, threads: usize) -> Cpu {
    Cpu::new(CpuOptions { isa, threads, poison: true }).unwrap()
}

#[test]
fn a_block() {
    for isa in Isa::available() {
        traces::block(isa.name(), cpu(isa, 2));
    }
}

#[test]
fn fifty_steps() {
    for isa in Isa::available() {
        traces::fifty_steps(isa.name(), &mut || cpu(isa, 2));
    }
}

/// By the device's own noise: the seed's, on any instruction set, any number of threads, and it is
/// not that of another seed.
#[test]
fn noise_of_the_device() {
    let run = |isa, threads, seed| drawn(cpu(isa, threads), seed);
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
    let rule = (DenoiseRule::Ddim, 0.0, true);
    let mut d = traces::denoiser(cpu(Isa::best(), 2), &program, &gguf, rule);
    let x = numbers("start");
    let mut run =
        |x: &[f32], times: &[u32]| d.run(x, times, 0, &mut |_| x.to_vec(), None).map(|_| ());
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
