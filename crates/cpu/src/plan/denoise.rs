//! Gaussian diffusion: the embedding of time, what it is added to, latents in slots, and the step
//! from one time to the next.
//!
//! A step is a sum of two or three terms whose factors, at the end of the noise, are a hundred times
//! the result: so the factors are worked out in f64 and the sum runs in f64.

use super::rows::{row, row_mut};
use super::{At, Compiler, Step};
use crate::context::{Integers, StateMemory};
use crate::pool::Team;
use gristmill_core::{DType, Error, Result, normals};
use gristmill_ir::{self as ir, DenoiseRule, StateKind};

/// In place of a time: the end, where alpha is 1. In place of a slot: none.
const NONE: u32 = u32::MAX;

/// The sequence that a token is of.
fn sequence_of(ints: &Integers, token: usize) -> usize {
    ints.seq_starts.partition_point(|&start| start as usize <= token) - 1
}

/// Checks that every sequence of a step has its times.
pub(super) fn check_times(ints: &Integers, times: usize) -> Result<()> {
    let (got, seqs) = (ints.times.len(), ints.seq_starts.len() - 1);
    if got != seqs {
        return Err(Error::Runtime(format!("batch: times of {got} of {seqs} sequences")));
    }
    match ints.times.iter().find(|t| t[0] as usize >= times) {
        Some(t) => Err(Error::Runtime(format!("batch: time {} of {times}", t[0]))),
        None => Ok(()),
    }
}

/// sin then cos of `t · 10000^(-i / (width/2 - 1))`.
pub(super) struct TimeEmbed {
    pub(super) out: At,
}

impl TimeEmbed {
    /// # Safety
    /// See [`super::Plan::run`]; members take different sequences.
    pub(super) unsafe fn run(&self, step: &Step<'_>, team: &Team<'_>) {
        team.each(step.ints.times.len(), 1, |range| {
            for s in range {
                // SAFETY: the value has a row for each sequence, and this one is this member's.
                let out = unsafe { row_mut(step, self.out, s) };
                let half = out.len() / 2;
                let t = f64::from(step.ints.times[s][0]);
                for i in 0..half {
                    let angle = t * 10000f64.powf(-(i as f64) / (half - 1) as f64);
                    out[i] = angle.sin() as f32;
                    out[half + i] = angle.cos() as f32;
                }
            }
        });
    }
}

/// The row of a token's sequence added to the token's.
pub(super) struct AddSequence {
    pub(super) x: At,
    pub(super) y: At,
    pub(super) out: At,
}

impl AddSequence {
    /// # Safety
    /// See [`super::Plan::run`]; members take different tokens.
    pub(super) unsafe fn run(&self, step: &Step<'_>, team: &Team<'_>) {
        let n = step.ints.ids.len();
        team.each(n, team.chunk(n), |range| {
            for t in range {
                let s = sequence_of(step.ints, t);
                // SAFETY: the values have the rows of the step, and the token is this member's.
                let (x, y, out) = unsafe {
                    (row(step, self.x, t), row(step, self.y, s), row_mut(step, self.out, t))
                };
                for ((o, x), y) in out.iter_mut().zip(x).zip(y) {
                    *o = x + y;
                }
            }
        });
    }
}

/// Rows of tokens in slots: read into a value, or written from one.
pub(super) struct Slots {
    state: usize,
    /// Rows of a slot.
    rows: usize,
    /// What is stored; nothing where it is read.
    x: Option<At>,
    out: At,
}

impl Slots {
    /// # Errors
    /// [`Error::Device`] for slots of another type than F32.
    pub(super) fn new(c: &Compiler<'_>, s: ir::State, x: Option<At>, out: At) -> Result<Self> {
        let StateKind::Slot { elems, dtype } = c.program.states[s.index()] else {
            return Err(Error::Device("rows of pages".into()));
        };
        if dtype != DType::F32 {
            return Err(Error::Device(format!("rows in slots of {dtype}: only F32 runs")));
        }
        Ok(Slots { state: s.index(), rows: elems as usize / out.width.max(1), x, out })
    }

    /// Checks that the slots of a step hold its sequences.
    pub(super) fn check(&self, ints: &Integers) -> Result<()> {
        let long = |w: &[u32]| (w[1] - w[0]) as usize > self.rows;
        match ints.seq_starts.windows(2).find(|w| long(w)) {
            Some(w) => Err(Error::Runtime(format!(
                "batch: {} tokens for a slot of {} rows",
                w[1] - w[0],
                self.rows
            ))),
            None => Ok(()),
        }
    }

    /// # Safety
    /// See [`super::Plan::run`]; members take different tokens, and the batch was checked: slots
    /// exist, and no two sequences store into one.
    pub(super) unsafe fn run(&self, step: &Step<'_>, team: &Team<'_>) {
        let StateMemory::Slot { slots, bytes } = &step.states[self.state] else { return };
        let n = step.ints.ids.len();
        team.each(n, team.chunk(n), |range| {
            for t in range {
                let s = sequence_of(step.ints, t);
                let at = t - step.ints.seq_starts[s] as usize;
                let place = |slot: u32| {
                    // SAFETY: the slot exists and has a row for this token of its sequence.
                    unsafe {
                        let start = slots.ptr().add(slot as usize * bytes).cast::<f32>();
                        start.add(at * self.out.width)
                    }
                };
                // SAFETY: values have the rows of the step, the token is this member's, and nobody
                // else writes its row of the slot.
                unsafe {
                    let out = row_mut(step, self.out, t);
                    match self.x {
                        Some(x) => {
                            out.copy_from_slice(row(step, x, t));
                            let to = place(step.ints.state_out[s]);
                            to.copy_from_nonoverlapping(out.as_ptr(), out.len());
                        }
                        None if step.ints.state_in[s] == NONE => out.fill(0.0),
                        None => {
                            let from = place(step.ints.state_in[s]);
                            from.copy_to_nonoverlapping(out.as_mut_ptr(), out.len());
                        }
                    }
                }
            }
        });
    }
}

/// One step of a Gaussian diffusion.
pub(super) struct Denoise {
    x: At,
    eps: At,
    noise: Option<At>,
    /// Cumulative alphas by time.
    schedule: Vec<f32>,
    eta: f64,
    rule: DenoiseRule,
    out: At,
}

impl Denoise {
    /// # Errors
    /// [`Error::Model`] for a schedule that is none.
    pub(super) fn new(
        c: &Compiler<'_>,
        [x, eps, out]: [At; 3],
        noise: Option<At>,
        schedule: ir::Tensor,
        (eta, rule): (f32, DenoiseRule),
    ) -> Result<Self> {
        let name = &c.program.decl(schedule).name;
        let schedule = c.weights.values(name)?.to_vec();
        if let Some(a) = schedule.iter().find(|&&a| !(a > 0.0 && a < 1.0)) {
            let what = format!("holds {a}; cumulative alphas lie between 0 and 1");
            return Err(Error::model(name, what));
        }
        Ok(Denoise { x, eps, noise, schedule, eta: eta.into(), rule, out })
    }

    pub(super) fn check(&self, ints: &Integers) -> Result<()> {
        check_times(ints, self.schedule.len())?;
        if !ints.seeds.is_empty() && ints.seeds.len() != ints.times.len() {
            return Err(Error::Runtime("batch: seeds of another number of sequences".into()));
        }
        let alpha = |t: u32| self.alpha(t);
        let wrong =
            |t: &&[u32; 2]| t[1] != NONE && alpha(t[1]).is_none_or(|a| Some(a) < alpha(t[0]));
        match ints.times.iter().find(wrong) {
            Some([t, s]) => Err(Error::Runtime(format!(
                "batch: from time {t} to {s}, which is none of {} or has more noise",
                self.schedule.len()
            ))),
            None => Ok(()),
        }
    }

    fn alpha(&self, time: u32) -> Option<f64> {
        match time {
            NONE => Some(1.0),
            t => self.schedule.get(t as usize).map(|&a| f64::from(a)),
        }
    }

    /// What `x`, the estimated noise and new noise are multiplied by.
    fn factors(&self, [t, s]: [u32; 2]) -> [f64; 3] {
        let now = self.alpha(t).unwrap_or(1.0);
        let next = self.alpha(s).unwrap_or(1.0);
        let estimate = [1.0 / now.sqrt(), -((1.0 - now) / now).sqrt()];
        let alpha = now / next;
        let sigma = self.eta * ((1.0 - next) / (1.0 - now) * (1.0 - alpha)).sqrt();
        match self.rule {
            DenoiseRule::Estimate => [estimate[0], estimate[1], 0.0],
            DenoiseRule::Ddim => {
                // Rounding may take this a hair below zero.
                let along = (1.0 - next - sigma * sigma).max(0.0).sqrt();
                [next.sqrt() * estimate[0], next.sqrt() * estimate[1] + along, sigma]
            }
            DenoiseRule::Ddpm => {
                let inverse = 1.0 / alpha.sqrt();
                [inverse, -inverse * (1.0 - alpha) / (1.0 - now).sqrt(), sigma]
            }
        }
    }

    /// # Safety
    /// See [`super::Plan::run`]; members take different tokens.
    pub(super) unsafe fn run(&self, step: &Step<'_>, team: &Team<'_>) {
        let ints = step.ints;
        let n = ints.ids.len();
        team.each(n, team.chunk(n), |range| {
            for t in range {
                let s = sequence_of(ints, t);
                let [of_x, of_eps, of_noise] = self.factors(ints.times[s]);
                // SAFETY: the values have the rows of the step, and the token is this member's.
                let (x, eps, noise, out) = unsafe {
                    let noise = self.noise.map(|z| row(step, z, t));
                    (
                        row(step, self.x, t),
                        row(step, self.eps, t),
                        noise,
                        row_mut(step, self.out, t),
                    )
                };
                let pairs = out.iter_mut().zip(x).zip(eps);
                if of_noise == 0.0 {
                    for ((o, &x), &e) in pairs {
                        *o = (of_x * f64::from(x) + of_eps * f64::from(e)) as f32;
                    }
                    continue;
                }
                let seed = ints.seeds.get(s).copied().unwrap_or(0);
                let (place, time) = (ints.kv_index[t], ints.times[s][0]);
                let mut drawn = [0.0; 4];
                for (i, ((o, &x), &e)) in pairs.enumerate() {
                    let z = match noise {
                        Some(z) => f64::from(z[i]),
                        None => {
                            if i % 4 == 0 {
                                drawn = normals(seed, [i as u32 / 4, place, time, 4]);
                            }
                            drawn[i % 4]
                        }
                    };
                    *o = (of_x * f64::from(x) + of_eps * f64::from(e) + of_noise * z) as f32;
                }
            }
        });
    }
}
