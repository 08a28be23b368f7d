//! Sampling the rows of a step, as [`gristmill_ir::sample`] defines it.

mod pick;
mod unmask;

pub(crate) use pick::{Candidate, likelier, pick};
pub(crate) use unmask::propose;

use gristmill_core::{Error, Result};
use gristmill_ir::{Penalty, SampleBatch};

/// Checks that everything to sample exists: `rows` rows of `vocab` logits, `slots` slots.
pub(crate) fn check_batch(
    b: &SampleBatch<'_>,
    rows: usize,
    vocab: usize,
    slots: usize,
) -> Result<()> {
    let bad = |what: String| Err(Error::Runtime(format!("sampling: {what}")));
    if !b.unmask.is_empty() {
        check_unmask(b, rows)?;
    } else if b.params.len() != rows {
        return bad(format!("parameters of {} rows for {rows} rows of logits", b.params.len()));
    }
    for (what, n) in [("slots", b.slots.len()), ("masks", b.allow_row.len())] {
        if n != 0 && n != rows {
            return bad(format!("{n} {what} for {rows} rows of logits"));
        }
    }
    b.params.iter().try_for_each(|p| p.check())?;
    if let Some(slot) = b.slots.iter().find(|&&s| s != u32::MAX && s as usize >= slots) {
        return bad(format!("slot {slot} does not exist"));
    }
    let masks = b.allow.len() / vocab.div_ceil(32).max(1);
    if let Some(mask) = b.allow_row.iter().find(|&&m| m >= masks as i32) {
        return bad(format!("mask {mask} does not exist"));
    }
    let tokens = b.bias.iter().map(|&(row, token, _)| (row, token)).chain(b.want.iter().copied());
    for (row, token) in tokens.chain(b.penalties.iter().map(|p| (p.row, p.token))) {
        if row as usize >= rows || token as usize >= vocab {
            return bad(format!("there is no token {token} in row {row}"));
        }
    }
    // Minus infinity forbids a token; what is no number would spoil the whole row.
    if let Some(&(_, token, v)) = b.bias.iter().find(|c| c.2.is_nan() || c.2 == f32::INFINITY) {
        return bad(format!("a bias of {v} for token {token}"));
    }
    if !b.penalties.is_sorted_by_key(|p| p.row) {
        return bad("penalties do not come row after row".into());
    }
    let sound =
        |p: &&Penalty| p.repeat > 0.0 && p.repeat.is_finite() && p.subtract > f32::NEG_INFINITY;
    if let Some(p) = b.penalties.iter().find(|p| !sound(p)) {
        return bad(format!("token {} divided by {}, less {}", p.token, p.repeat, p.subtract));
    }
    match b.combine.iter().find(|c| c.0.max(c.1) as usize >= rows) {
        Some(c) => bad(format!("guidance of row {} from row {}", c.0, c.1)),
        None => Ok(()),
    }
}

/// Checks the masked places to propose tokens for.
fn check_unmask(b: &SampleBatch<'_>, rows: usize) -> Result<()> {
    let bad = |what: String| Err(Error::Runtime(format!("sampling: {what}")));
    let others = [b.params.len(), b.slots.len(), b.want.len(), b.top_logprobs as usize];
    if others != [0; 4] {
        return bad("masked places and tokens that follow in one step".into());
    }
    if let Some(u) = b.unmask.iter().find(|u| u.row as usize >= rows) {
        return bad(format!("a masked place of row {}, and there are {rows}", u.row));
    }
    b.unmask.iter().try_for_each(|u| u.check())
}

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
