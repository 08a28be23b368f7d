//! The operations of RWKV: the mix with the token before, the recurrence, low-rank networks, mixes.
//!
//! Their state lies in slots. A sequence reads the slot `state_in` (none: zeros) and writes
//! `state_out`; the batch was checked so that nobody writes what another one reads.

use super::linear::{Finish, Linear};
use super::norm::spec;
use super::projection::{self, products_bytes};
use super::{At, Compiler, Step};
use crate::context::StateMemory;
use crate::kernels::mix::{LerpArgs, ShiftArgs};
use crate::kernels::wkv7::{Wkv7Args, Wkv7Item, scratch_floats};
use crate::pool::Team;
use gristmill_core::{DType, Error, Result};
use gristmill_ir::{Act, Op, State, StateKind, Tensor, Value};
use std::ops::Range;

/// A state in slots of f32.
#[derive(Clone, Copy)]
struct Slot {
    state: usize,
    elems: usize,
}

impl Slot {
    fn new(c: &Compiler<'_>, state: State) -> Result<Slot> {
        match c.program.states[state.index()] {
            StateKind::Slot { elems, dtype: DType::F32 } => {
                Ok(Slot { state: state.index(), elems: elems as usize })
            }
            other => Err(Error::Device(format!("${} is {other:?}, not a slot of F32", state.0))),
        }
    }

    /// What sequence `s` reads (null: zeros) and writes.
    fn of(&self, step: &Step<'_>, s: usize) -> (*const f32, *mut f32) {
        let StateMemory::Slot { slots, .. } = &step.states[self.state] else {
            unreachable!("compile checked that this state is in slots")
        };
        // SAFETY: slots were checked to exist, and each holds `elems` numbers.
        let at = |slot: u32| unsafe { slots.ptr().cast::<f32>().add(slot as usize * self.elems) };
        let read = match step.ints.state_in[s] {
            u32::MAX => std::ptr::null(),
            slot => at(slot).cast_const(),
        };
        (read, at(step.ints.state_out[s]))
    }
}

/// Columns that a member mixes at once: all tokens of them, so that the token before is at hand.
const COLUMNS: usize = 256;

/// The mix of each token with the one before, once for each row of the mixes.
pub(super) struct TokenShift {
    kernel: unsafe fn(&ShiftArgs, Range<usize>),
    x: At,
    mix: *const f32,
    outs: Vec<At>,
    slot: Slot,
}

// SAFETY: the mixes are weights that the plan keeps alive and nobody writes.
unsafe impl Send for TokenShift {}
// SAFETY: as above.
unsafe impl Sync for TokenShift {}

impl TokenShift {
    pub(super) fn new(
        c: &Compiler<'_>,
        x: At,
        mix: Tensor,
        state: State,
        outs: Vec<At>,
    ) -> Result<Self> {
        let mix = c.weights.vector(&c.program.decl(mix).name, 0.0)?;
        Ok(TokenShift { kernel: c.table.shift, x, mix, outs, slot: Slot::new(c, state)? })
    }

    /// # Safety
    /// See [`super::Plan::run`]; members take different sequences or columns.
    pub(super) unsafe fn run(&self, step: &Step<'_>, team: &Team<'_>) {
        let starts = &step.ints.seq_starts;
        let (width, x) = (self.x.width, step.value(self.x));
        let blocks = width.div_ceil(COLUMNS);
        team.each((starts.len() - 1) * blocks, 1, |range| {
            for item in range {
                let (s, block) = (item / blocks, item % blocks);
                let columns = block * COLUMNS..(block * COLUMNS + COLUMNS).min(width);
                let first = starts[s] as usize;
                let tokens = starts[s + 1] as usize - first;
                let (last, state) = self.slot.of(step, s);
                // SAFETY: the values hold the tokens, the mixes a row for each result, and the
                // columns of this sequence are this member's, in its slot too.
                unsafe {
                    let x = x.add(first * width);
                    for (i, &out) in self.outs.iter().enumerate() {
                        let y = step.value(out).add(first * width);
                        let mix = self.mix.add(i * width);
                        let args = ShiftArgs { x, y, mix, last, tokens, width };
                        (self.kernel)(&args, columns.clone());
                    }
                    let from = x.add((tokens - 1) * width + columns.start);
                    std::ptr::copy_nonoverlapping(from, state.add(columns.start), columns.len());
                }
            }
        });
    }
}

/// Two projections, of which the first has few outputs.
pub(super) struct LowRank {
    first: Linear,
    second: Linear,
}

/// Bytes of scratch: the few outputs, then what the projections need.
pub(super) fn low_rank_scratch(c: &Compiler<'_>, rows: usize, a: Tensor, b: Tensor) -> usize {
    let rank = c.program.decl(a).rows as usize;
    let [a, b] = [a, b].map(|w| projection::scratch(c, &[w], rows));
    products_bytes(rows, rank) + a.max(b)
}

impl LowRank {
    pub(super) fn new(
        c: &Compiler<'_>,
        x: At,
        [a, b]: [Tensor; 2],
        bias: Option<Tensor>,
        [mid, act]: [Act; 2],
        out: At,
        scratch: usize,
    ) -> Result<Self> {
        let rank = c.program.decl(a).rows as usize;
        let few = At { offset: scratch, rows: x.rows, width: rank };
        let scratch = scratch + products_bytes(c.bound(x.rows), rank);
        let finish = |bias, act| Finish { bias, act, scale: 1.0, softcap: 0.0 };
        Ok(LowRank {
            first: Linear::new(c, x, a, finish(None, mid), few, scratch)?,
            second: Linear::new(c, few, b, finish(bias, act), out, scratch)?,
        })
    }

    /// # Safety
    /// See [`super::Plan::run`].
    pub(super) unsafe fn run(&self, step: &Step<'_>, team: &Team<'_>) {
        // SAFETY: the caller's promise; the few outputs lie in the node's own scratch.
        unsafe {
            self.first.run(step, team);
            team.barrier();
            self.second.run(step, team);
        }
    }
}

/// `from + t ⊙ (to - from)`.
pub(super) struct Lerp {
    pub(super) kernel: unsafe fn(&LerpArgs, Range<usize>),
    pub(super) inputs: [At; 3],
    pub(super) out: At,
}

impl Lerp {
    /// # Safety
    /// See [`super::Plan::run`]; members take different elements.
    pub(super) unsafe fn run(&self, step: &Step<'_>, team: &Team<'_>) {
        let [from, to, t] = self.inputs.map(|at| step.value(at).cast_const());
        let args = LerpArgs { from, to, t, y: step.value(self.out) };
        let width = self.out.width;
        let rows = step.rows(self.out.rows);
        team.each(rows, team.chunk(rows), |range| {
            // SAFETY: all values have the rows of the step.
            unsafe { (self.kernel)(&args, range.start * width..range.end * width) }
        });
    }
}

/// The recurrence.
pub(super) struct Wkv7 {
    kernel: unsafe fn(&Wkv7Args, &Wkv7Item),
    /// With null in place of values.
    args: Wkv7Args,
    inputs: [At; 6],
    out: At,
    heads: usize,
    slot: Slot,
    scratch: usize,
}

// SAFETY: the pointers are to weights that the plan keeps alive and nobody writes; those to values
// are null until a step fills them in a copy.
unsafe impl Send for Wkv7 {}
// SAFETY: as above.
unsafe impl Sync for Wkv7 {}

/// Tokens of a sequence from which on chunks are worth their overhead.
const CHUNKS_FROM: usize = 64;

/// Numbers of scratch of each member for heads of `dim` elements: whole cache lines.
fn own_scratch(dim: usize) -> usize {
    scratch_floats(dim).next_multiple_of(16)
}

/// Bytes of scratch, a piece for each member.
pub(super) fn wkv7_scratch(c: &Compiler<'_>, dim: usize) -> usize {
    c.members * own_scratch(dim) * size_of::<f32>()
}

impl Wkv7 {
    pub(super) fn new(
        c: &Compiler<'_>,
        op: &Op,
        at: impl Fn(Value) -> At,
        out: At,
        scratch: usize,
    ) -> Result<Self> {
        let Op::Wkv7 { r, decay, k, v, a, g, k_k, k_a, r_k, heads, norm, state } = op else {
            unreachable!("called for a wkv7")
        };
        let vector = |t: &Tensor| c.weights.vector(&c.program.decl(*t).name, 0.0);
        // Chunks need decays that are not too small, and sum in another order than the recurrence.
        let made = c.program.nodes.iter().find(|n| n.outputs.contains(decay));
        let bounded = made.is_some_and(|n| match n.op {
            Op::LowRank { act, .. } => act == Act::Decay,
            Op::Linear { act, scale, softcap, .. } => {
                act == Act::Decay && scale == 1.0 && softcap.is_none()
            }
            _ => false,
        });
        let chunks = bounded && !c.options.batch_invariant;
        let nothing = std::ptr::null();
        let args = Wkv7Args {
            r: nothing,
            decay: nothing,
            k: nothing,
            v: nothing,
            a: nothing,
            g: nothing,
            y: std::ptr::null_mut(),
            width: out.width,
            dim: out.width / *heads as usize,
            k_k: vector(k_k)?,
            k_a: vector(k_a)?,
            r_k: vector(r_k)?,
            norm: spec(c, norm)?,
            chunks_from: if chunks { CHUNKS_FROM } else { usize::MAX },
        };
        Ok(Wkv7 {
            kernel: c.table.wkv7,
            args,
            inputs: [*r, *decay, *k, *v, *a, *g].map(at),
            out,
            heads: *heads as usize,
            slot: Slot::new(c, *state)?,
            scratch,
        })
    }

    /// # Safety
    /// See [`super::Plan::run`]; members take different heads.
    pub(super) unsafe fn run(&self, step: &Step<'_>, team: &Team<'_>) {
        let [r, decay, k, v, a, g] = self.inputs.map(|at| step.value(at).cast_const());
        let y = step.value(self.out);
        let args = Wkv7Args { r, decay, k, v, a, g, y, ..self.args };
        let (starts, square) = (&step.ints.seq_starts, args.dim * args.dim);
        team.each((starts.len() - 1) * self.heads, 1, |range| {
            for item in range {
                let (s, head) = (item / self.heads, item % self.heads);
                let (state_in, state_out) = self.slot.of(step, s);
                // SAFETY: the values hold the tokens; the head of this sequence is this member's,
                // in its slot too; each member has its own piece of the scratch.
                unsafe {
                    let of_head = |p: *const f32| match p.is_null() {
                        true => p,
                        false => p.add(head * square),
                    };
                    let item = Wkv7Item {
                        head,
                        first: starts[s] as usize,
                        tokens: (starts[s + 1] - starts[s]) as usize,
                        state_in: of_head(state_in),
                        state_out: state_out.add(head * square),
                        scratch: step.floats(self.scratch).add(team.member * own_scratch(args.dim)),
                    };
                    (self.kernel)(&args, &item);
                }
            }
        });
    }
}
