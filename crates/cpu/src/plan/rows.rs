//! Whole rows: sums, selection, pooling, scaling to length one.

use super::{At, Step};
use crate::pool::Team;
use gristmill_ir::Pooling;

/// A row of a value.
///
/// # Safety
/// The value has this row in this step, and nobody writes it meanwhile.
pub(super) unsafe fn row<'a>(step: &'a Step<'_>, at: At, r: usize) -> &'a [f32] {
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(step.value(at).add(r * at.width), at.width) }
}

/// A row of a value, to write.
///
/// # Safety
/// The value has this row in this step, and it is this member's alone.
#[allow(clippy::mut_from_ref)] // the workspace is shared; the contract above keeps rows apart
pub(super) unsafe fn row_mut<'a>(step: &'a Step<'_>, at: At, r: usize) -> &'a mut [f32] {
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts_mut(step.value(at).add(r * at.width), at.width) }
}

/// `x + y`, or `x + σ(gate) y`.
pub(super) struct Add {
    pub(super) x: At,
    pub(super) y: At,
    pub(super) gate: Option<At>,
    pub(super) out: At,
}

impl Add {
    /// # Safety
    /// See [`super::Plan::run`]; members take different rows.
    pub(super) unsafe fn run(&self, step: &Step<'_>, team: &Team<'_>) {
        let n = step.rows(self.out.rows);
        team.each(n, team.chunk(n), |range| {
            for r in range {
                // SAFETY: all values have the rows of the step.
                let (x, y, out, gate) = unsafe {
                    let gate = self.gate.map(|g| row(step, g, r)[0]);
                    (row(step, self.x, r), row(step, self.y, r), row_mut(step, self.out, r), gate)
                };
                let factor = gate.map_or(1.0, |g| 1.0 / (1.0 + (-g).exp()));
                for ((o, x), y) in out.iter_mut().zip(x).zip(y) {
                    *o = x + factor * y;
                }
            }
        });
    }
}

/// The wanted rows.
pub(super) struct SelectRows {
    pub(super) x: At,
    pub(super) out: At,
}

impl SelectRows {
    /// # Safety
    /// See [`super::Plan::run`]; members take different rows.
    pub(super) unsafe fn run(&self, step: &Step<'_>, team: &Team<'_>) {
        team.each(step.ints.rows.len(), 16, |range| {
            for r in range {
                // SAFETY: wanted rows were checked to be tokens.
                unsafe {
                    let from = row(step, self.x, step.ints.rows[r] as usize);
                    row_mut(step, self.out, r).copy_from_slice(from);
                }
            }
        });
    }
}

/// One vector a sequence.
pub(super) struct Pool {
    pub(super) x: At,
    pub(super) how: Pooling,
    pub(super) out: At,
}

impl Pool {
    /// # Safety
    /// See [`super::Plan::run`]; members take different sequences.
    pub(super) unsafe fn run(&self, step: &Step<'_>, team: &Team<'_>) {
        let starts = &step.ints.seq_starts;
        team.each(starts.len() - 1, 1, |range| {
            for s in range {
                let tokens = starts[s] as usize..starts[s + 1] as usize;
                // SAFETY: the tokens are of this step, the sequence is this member's.
                unsafe {
                    let out = row_mut(step, self.out, s);
                    match self.how {
                        Pooling::Cls => out.copy_from_slice(row(step, self.x, tokens.start)),
                        Pooling::Last => out.copy_from_slice(row(step, self.x, tokens.end - 1)),
                        Pooling::Mean => {
                            out.fill(0.0);
                            let share = 1.0 / tokens.len() as f32;
                            for t in tokens {
                                for (o, v) in out.iter_mut().zip(row(step, self.x, t)) {
                                    *o += v * share;
                                }
                            }
                        }
                    }
                }
            }
        });
    }
}

/// The first elements of each row, scaled to length one.
pub(super) struct Normalize {
    pub(super) x: At,
    pub(super) out: At,
}

impl Normalize {
    /// # Safety
    /// See [`super::Plan::run`]; members take different rows.
    pub(super) unsafe fn run(&self, step: &Step<'_>, team: &Team<'_>) {
        let n = step.rows(self.out.rows);
        team.each(n, team.chunk(n), |range| {
            for r in range {
                // SAFETY: both values have the rows of the step.
                let (x, out) = unsafe { (row(step, self.x, r), row_mut(step, self.out, r)) };
                let square: f64 = x[..out.len()].iter().map(|&v| f64::from(v).powi(2)).sum();
                let factor = (1.0 / square.sqrt().max(1e-12)) as f32;
                for (o, v) in out.iter_mut().zip(x) {
                    *o = v * factor;
                }
            }
        });
    }
}
