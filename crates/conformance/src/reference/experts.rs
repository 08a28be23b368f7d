//! Mixtures of experts by their definitions.

use super::{Reference, Table, sum, unit};
use crate::scalar::activate;
use gristmill_ir::*;

impl Reference<'_> {
    /// The chosen experts of each row, the best first, then their weights. Of equal scores the
    /// lower number counts as the better.
    pub(super) fn route(&mut self, op: &Op, x: &Table) -> Table {
        let Op::Route { w, bias, choice_bias, k, gating, renormalise, scale, .. } = op else {
            unreachable!("called for a route")
        };
        let k = *k as usize;
        let mut nearest = self.nearest;
        let row = |x: &Vec<f64>| {
            let scores = self.project(x, &[*w], bias.as_slice());
            let scores = match gating {
                Gating::Softmax => softmax(&scores),
                Gating::SoftmaxChosen => scores,
                Gating::Sigmoid => scores.into_iter().map(|s| activate(Act::Sigmoid, s)).collect(),
            };
            let added = choice_bias.map(|b| self.vector(b));
            let value = |e: usize| scores[e] + added.map_or(0.0, |b| b[e]);
            let mut order: Vec<usize> = (0..scores.len()).collect();
            order.sort_by(|&a, &b| value(b).total_cmp(&value(a)).then(a.cmp(&b)));
            for pair in order[..(k + 1).min(order.len())].windows(2) {
                let [better, worse] = [value(pair[0]), value(pair[1])];
                if better != worse {
                    let size = better.abs().max(worse.abs());
                    nearest = nearest.min((better - worse) / size);
                }
            }
            let chosen = &order[..k];
            let mut weights: Vec<f64> = chosen.iter().map(|&e| scores[e]).collect();
            if *gating == Gating::SoftmaxChosen {
                weights = softmax(&weights);
            }
            let total = if *renormalise { weights.iter().sum() } else { 1.0 };
            let ids = chosen.iter().map(|&e| e as f64);
            ids.chain(weights.iter().map(|w| w / total * f64::from(*scale))).collect()
        };
        let rows = x.iter().map(row).collect();
        self.nearest = nearest;
        rows
    }

    /// A row for each (token, choice).
    pub(super) fn expert_gate_up(
        &self,
        x: &Table,
        route: &Table,
        (w, bias): (&[Tensor], &[Tensor]),
        act: Act,
    ) -> Table {
        let token = |(x, route): (&Vec<f64>, &Vec<f64>)| {
            let ids = &route[..route.len() / 2];
            let one = |&e: &f64| unit(act, &self.project_by(e as usize, x, w, bias));
            ids.iter().map(one).collect::<Table>()
        };
        x.iter().zip(route).flat_map(token).collect()
    }

    /// The sum over the choices of each token, weighted.
    pub(super) fn expert_down(
        &self,
        x: &Table,
        route: &Table,
        w: Tensor,
        bias: Option<Tensor>,
    ) -> Table {
        let mut choices = x.iter();
        let token = |route: &Vec<f64>| {
            let (ids, weights) = route.split_at(route.len() / 2);
            let one =
                |(&e, x): (&f64, &Vec<f64>)| self.project_by(e as usize, x, &[w], bias.as_slice());
            let parts: Table = ids.iter().zip(choices.by_ref().take(ids.len())).map(one).collect();
            let none = vec![0.0; parts[0].len()];
            weights.iter().zip(&parts).fold(none, |y, (&weight, part)| sum(&y, weight, part))
        };
        route.iter().map(token).collect()
    }
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let most = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = x.iter().map(|v| (v - most).exp()).sum();
    x.iter().map(|v| (v - most).exp() / total).collect()
}
