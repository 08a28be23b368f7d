//! The operations of RWKV by their definitions.

use super::{Reference, Table, dot};
use crate::work::Work;
use gristmill_ir::*;

impl Reference<'_> {
    /// The state of the part that holds token `t`: zeros where the sequence begins with the part.
    fn slot(&mut self, seq: usize, state: State, begins: bool) -> &mut Vec<f64> {
        let StateKind::Slot { elems, .. } = self.program.states[state.index()] else {
            unreachable!("a recurrence has a slot")
        };
        let slot = &mut self.cache(seq, state).slot;
        if begins || slot.is_empty() {
            *slot = vec![0.0; elems as usize];
        }
        slot
    }

    /// `x + mix (last - x)` for each row of `mix`.
    pub(super) fn token_shift(&mut self, x: &Table, mix: Tensor, s: State, w: &Work) -> Vec<Table> {
        let mixes = self.weights[mix.index()].rows;
        let mut results = vec![vec![]; mixes];
        for (t, x) in w.tokens().zip(x) {
            let begins = t.at == 0 && t.part.kv_index[0] == 0;
            let last = std::mem::replace(self.slot(t.part.seq, s, begins), x.clone());
            for (i, rows) in results.iter_mut().enumerate() {
                let mix = self.row(mix, i as u32);
                let element = |((x, last), m): ((&f64, &f64), &f64)| x + m * (last - x);
                rows.push(x.iter().zip(&last).zip(mix).map(element).collect());
            }
        }
        results
    }

    /// The whole of `wkv7`, a token after the other, as in section 6 of the paper's formulas: the
    /// state has a row for each key.
    pub(super) fn wkv7(&mut self, op: &Op, values: &[Table], work: &Work) -> Table {
        let Op::Wkv7 { r, decay, k, v, a, g, k_k, k_a, r_k, heads, norm, state } = op else {
            unreachable!("called for a wkv7")
        };
        let of = |x: &Value| &values[x.index()];
        let mut rows = vec![];
        for (i, t) in work.tokens().enumerate() {
            let [r, w, k, v, a, g] = [r, decay, k, v, a, g].map(|x| of(x)[i].as_slice());
            let n = r.len() / *heads as usize;
            let begins = t.at == 0 && t.part.kv_index[0] == 0;
            let mut states = std::mem::take(self.slot(t.part.seq, *state, begins));
            let mut row = vec![];
            for (h, s) in states.chunks_mut(n * n).enumerate() {
                let head = h * n..h * n + n;
                let [r, w, k, v, a, g] = [r, w, k, v, a, g].map(|x| &x[head.clone()]);
                let [k_k, k_a, r_k] = [k_k, k_a, r_k].map(|&t| &self.vector(t)[head.clone()]);
                let raw: Vec<f64> = k.iter().zip(k_k).map(|(k, s)| k * s).collect();
                let length = dot(&raw, &raw).sqrt().max(1e-12);
                let kappa: Vec<f64> = raw.iter().map(|x| x / length).collect();
                let new = |j: usize| k[j] + k[j] * (a[j] - 1.0) * k_a[j];
                let k: Vec<f64> = (0..n).map(new).collect();
                let seen: Vec<f64> =
                    (0..n).map(|c| (0..n).map(|j| s[j * n + c] * kappa[j]).sum()).collect();
                for j in 0..n {
                    for c in 0..n {
                        let old = &mut s[j * n + c];
                        *old = w[j] * *old - kappa[j] * a[j] * seen[c] + k[j] * v[c];
                    }
                }
                let y: Vec<f64> =
                    (0..n).map(|c| (0..n).map(|j| s[j * n + c] * r[j]).sum()).collect();
                let own: f64 = (0..n).map(|j| r[j] * k[j] * r_k[j]).sum();
                let mean = y.iter().sum::<f64>() / n as f64;
                let variance = y.iter().map(|y| (y - mean).powi(2)).sum::<f64>() / n as f64;
                let factor = 1.0 / (variance + f64::from(norm.eps)).sqrt();
                for c in 0..n {
                    let weight = norm.weight.map_or(1.0, |t| self.vector(t)[head.start + c]);
                    let bias = norm.bias.map_or(0.0, |t| self.vector(t)[head.start + c]);
                    row.push(((y[c] - mean) * factor * weight + bias + own * v[c]) * g[c]);
                }
            }
            *self.slot(t.part.seq, *state, false) = states;
            rows.push(row);
        }
        rows
    }
}
