//! Gaussian diffusion: the embedding of time, latents in slots, and the step from one time to the next.

use super::{At, Compiler, Count, Resource};
use crate::shader::Recipe;
use crate::weights::Weights;
use gristmill_core::{Error, Result};
use gristmill_ir::{DenoiseRule, Op, Program, Rows, State, Tensor, Value};
use std::f64::consts::TAU;

fn part(at: At) -> Resource {
    Resource::Part(at.offset, at.bytes)
}

/// Cumulative alphas by time.
///
/// # Errors
/// [`Error::Model`] for a schedule that is none.
pub(super) fn schedule<'w>(w: &'w Weights, program: &Program, t: Tensor) -> Result<&'w [f32]> {
    let name = &program.decl(t).name;
    let alphas = w.values(name)?;
    if let Some(a) = alphas.iter().find(|&&a| !(a > 0.0 && a < 1.0)) {
        let what = format!("holds {a}; cumulative alphas lie between 0 and 1");
        return Err(Error::model(name, what));
    }
    Ok(alphas)
}

/// What `denoise.wgsl` needs of an alpha: it and what it lacks to one, the root and inverse root of each.
fn of_alpha(a: f64) -> [f32; 6] {
    let b = 1.0 - a;
    // At the end there is no noise left to divide by, and nobody starts there.
    let inverse = if b > 0.0 { 1.0 / b.sqrt() } else { 0.0 };
    [a, b, a.sqrt(), 1.0 / a.sqrt(), b.sqrt(), inverse].map(|v| v as f32)
}

/// `10000^(-i / (half - 1))` a time, in units of 2^-64 turns: low words and high words.
fn frequencies(half: usize) -> Vec<u32> {
    let radians = |i: usize| 10000f64.powf(-(i as f64) / (half - 1) as f64);
    let units = |i: usize| (radians(i) / TAU * 2f64.powi(64)) as u64;
    (0..half).map(units).flat_map(|u| [u as u32, (u >> 32) as u32]).collect()
}

impl Compiler<'_> {
    pub(super) fn time_embed(&mut self, out: At) -> Result<()> {
        let half = out.width / 2;
        let key = format!("times as {} angles", half);
        let table = self.weights.derive(key, || frequencies(half))?;
        let resources = [(1, Resource::Ints), (2, Resource::Held(table)), (3, part(out))];
        let params = vec![half as u32, out.stride() as u32];
        let groups = Count::Fixed((half as u32).div_ceil(64));
        let grid = [groups, Count::Rows(Rows::Seqs, 1), Count::Fixed(1)];
        self.call(&Recipe::new("time_embed"), &resources, params, grid)
    }

    /// Rows of tokens in slots: written from `x`, or read where there is none.
    pub(super) fn slot_rows(&mut self, state: State, x: Option<At>, out: At) -> Result<()> {
        let params = vec![out.width as u32, out.stride() as u32, self.capacity, self.slot(state)?];
        let mut resources = vec![
            (1, Resource::Ints),
            (2, Resource::Derived),
            (3, Resource::State(state.index())),
            (4, part(out)),
        ];
        resources.extend(x.map(|x| (5, part(x))));
        let groups = Count::Fixed((out.width as u32).div_ceil(64));
        let grid = [groups, Count::Rows(Rows::Tokens, 1), Count::Fixed(1)];
        self.call(&Recipe::new("slots").flag("STORE", x.is_some()), &resources, params, grid)
    }

    pub(super) fn denoise(&mut self, op: &Op, at: &dyn Fn(Value) -> At, out: At) -> Result<()> {
        let Op::Denoise { x, eps, schedule: alphas, eta, rule, noise } = op else {
            return Err(Error::Runtime("not a denoise".into()));
        };
        let times = schedule(self.weights, self.program, *alphas)?;
        let table = || {
            let all = times.iter().map(|&a| f64::from(a)).chain([1.0]);
            all.flat_map(of_alpha).collect::<Vec<f32>>()
        };
        let key = format!("{} and its roots", self.program.decl(*alphas).name);
        let table = self.weights.derive(key, table)?;
        let rule = match rule {
            DenoiseRule::Estimate => 0,
            DenoiseRule::Ddim => 1,
            DenoiseRule::Ddpm => 2,
        };
        let square = f64::from(*eta) * f64::from(*eta);
        let params = vec![
            out.width as u32,
            out.stride() as u32,
            self.capacity,
            times.len() as u32,
            rule,
            eta.to_bits(),
            (square as f32).to_bits(),
            ((1.0 - square) as f32).to_bits(),
        ];
        let mut resources = vec![
            (1, Resource::Ints),
            (2, Resource::Derived),
            (3, part(at(*x))),
            (4, part(at(*eps))),
            (5, part(out)),
            (6, Resource::Held(table)),
        ];
        resources.extend(noise.map(|z| (7, part(at(z)))));
        let groups = Count::Fixed((out.width as u32).div_ceil(256));
        let grid = [groups, Count::Rows(Rows::Tokens, 1), Count::Fixed(1)];
        self.call(&super::recipes::denoise(noise.is_some()), &resources, params, grid)
    }
}
