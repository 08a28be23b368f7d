//! Gaussian diffusion by its formulas: Ho et al. 2020, equations 6, 7 and 11; Song et al. 2021,
//! equations 12 and 16.

use super::{Reference, Table};
use crate::work::{Part, TokenOf, Work};
use gristmill_core::philox;
use gristmill_ir::*;
use std::f64::consts::PI;

impl Reference<'_> {
    /// `sin(t w_i)`, then `cos(t w_i)`, with `w_i = 10000^(-i / (width/2 - 1))`.
    pub(super) fn time_embed(&self, width: u32, work: &Work) -> Table {
        let half = width / 2;
        let angles = |part: &Part| {
            let t = part.times.expect("a diffusion has times")[0];
            let angle =
                |i: u32| f64::from(t) * (10000f64.ln() * -f64::from(i) / f64::from(half - 1)).exp();
            let angles: Vec<f64> = (0..half).map(angle).collect();
            let sin = angles.iter().map(|a| a.sin());
            sin.chain(angles.iter().map(|a| a.cos())).collect()
        };
        work.parts.iter().map(angles).collect()
    }

    /// The rows that a sequence last stored, zeros where it begins anew.
    pub(super) fn load_slot(&mut self, state: State, width: u32, work: &Work) -> Table {
        let width = width as usize;
        let row = |t: TokenOf<'_>| {
            let slot = self.slot(t.part.seq, state, t.part.begins());
            slot[t.at * width..][..width].to_vec()
        };
        work.tokens().map(row).collect()
    }

    pub(super) fn store_slot(&mut self, x: &Table, state: State, work: &Work) {
        for (t, row) in work.tokens().zip(x) {
            let slot = self.slot(t.part.seq, state, false);
            slot[t.at * row.len()..][..row.len()].copy_from_slice(row);
        }
    }

    pub(super) fn denoise(&self, op: &Op, values: &[Table], work: &Work) -> Table {
        let Op::Denoise { x, eps, schedule, eta, rule, noise } = op else {
            unreachable!("called for a denoise")
        };
        let alphas = self.vector(*schedule);
        let alpha = |t: u32| if t == u32::MAX { 1.0 } else { alphas[t as usize] };
        let eta = f64::from(*eta);
        let mut all = vec![];
        for (i, t) in work.tokens().enumerate() {
            let [now, next] = t.part.times.expect("a diffusion has times");
            let (ab_t, ab_s) = (alpha(now), alpha(next));
            let (x, e) = (&values[x.index()][i], &values[eps.index()][i]);
            let element = |k: usize| {
                let z = || match noise {
                    Some(z) => values[z.index()][i][k],
                    None => normal(t.part.seed, k as u32, t.part.kv_index[t.at], now),
                };
                let x0 = (x[k] - (1.0 - ab_t).sqrt() * e[k]) / ab_t.sqrt();
                match rule {
                    DenoiseRule::Estimate => x0,
                    DenoiseRule::Ddim => {
                        let sigma =
                            eta * ((1.0 - ab_s) / (1.0 - ab_t)).sqrt() * (1.0 - ab_t / ab_s).sqrt();
                        let along = (1.0 - ab_s - sigma.powi(2)).max(0.0).sqrt();
                        ab_s.sqrt() * x0 + along * e[k] + sigma * z()
                    }
                    DenoiseRule::Ddpm => {
                        // Beta, and the variance of the posterior.
                        let beta = 1.0 - ab_t / ab_s;
                        let variance = (1.0 - ab_s) / (1.0 - ab_t) * beta;
                        let mean = (x[k] - beta / (1.0 - ab_t).sqrt() * e[k]) / (1.0 - beta).sqrt();
                        mean + eta * variance.sqrt() * z()
                    }
                }
            };
            all.push((0..x.len()).map(element).collect());
        }
        all
    }
}

/// Standard normal noise (Box and Muller 1958).
fn normal(seed: u64, element: u32, token: u32, time: u32) -> f64 {
    let words = philox(seed, [element / 4, token, time, 4]);
    let first = (element % 4 / 2 * 2) as usize;
    let [u, v] = [first, first + 1].map(|i| (f64::from(words[i]) + 0.5) / 2f64.powi(32));
    let (radius, angle) = ((-2.0 * u.ln()).sqrt(), 2.0 * PI * v);
    radius * if element.is_multiple_of(2) { angle.cos() } else { angle.sin() }
}
