//! Sampling the rows of a step, as [`gristmill_ir::sample`] defines it.

mod pick;

pub(crate) use pick::{Candidate, likelier, pick};

use gristmill_ir::{Penalty, SampleBatch};

/// The logits of a row that is to be sampled: as they are, or changed in `adjusted`.
pub(crate) fn adjust<'a>(
    row: usize,
    logits_of: impl Fn(usize) -> &'a [f32],
    b: &SampleBatch<'_>,
    adjusted: &'a mut Vec<f32>,
) -> &'a [f32] {
    let logits = logits_of(row);
    let mask = b.allow_row.get(row).copied().unwrap_or(-1);
    let guided = b.combine.iter().find(|g| g.0 as usize == row);
    let biased = b.bias.iter().any(|&(r, ..)| r as usize == row);
    let penalties = penalties_of(row, b.penalties);
    if mask < 0 && guided.is_none() && !biased && penalties.is_empty() {
        return logits;
    }
    adjusted.clear();
    adjusted.extend_from_slice(logits);
    if let Some(&(_, other, g)) = guided {
        for (a, &o) in adjusted.iter_mut().zip(logits_of(other as usize)) {
            *a = o + (g + 1.0) * (*a - o);
        }
    }
    for &(_, token, v) in b.bias.iter().filter(|c| c.0 as usize == row) {
        adjusted[token as usize] += v;
    }
    for p in penalties {
        let logit = &mut adjusted[p.token as usize];
        *logit = p.apply(*logit);
    }
    if mask >= 0 {
        let words = logits.len().div_ceil(32);
        let bits = &b.allow[mask as usize * words..][..words];
        for (i, a) in adjusted.iter_mut().enumerate() {
            if bits[i / 32] >> (i % 32) & 1 == 0 {
                *a = f32::NEG_INFINITY;
            }
        }
    }
    adjusted
}

/// Those of one row, which lie together.
fn penalties_of(row: usize, all: &[Penalty]) -> &[Penalty] {
    let from = all.partition_point(|p| (p.row as usize) < row);
    let to = all.partition_point(|p| p.row as usize <= row);
    &all[from..to]
}
