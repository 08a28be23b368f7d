//! The operations of RWKV: the mix with the token before, low-rank networks, mixes, the recurrence.
//!
//! Their states lie in slots of f32. A sequence reads the slot `state_in` (none: zeros) and writes
//! `state_out`; the batch was checked so that nobody writes what another one reads.

use super::projection::Finish;
use super::{At, Compiler, Count, Resource};
use crate::shader::Recipe;
use gristmill_core::{DType, Error, Result};
use gristmill_ir::{Act, NormKind, Op, Rows, State, StateKind, Tensor, Value};

fn part(at: At) -> Resource {
    Resource::Part(at.offset, at.bytes)
}

/// Results of one pass of the mix with the token before: as many as there are bindings for.
const MIXES: usize = 3;

impl Compiler<'_> {
    /// The words of a slot of a state.
    pub(super) fn slot(&self, state: State) -> Result<u32> {
        let memory = &self.states[state.index()];
        match memory.kind {
            StateKind::Slot { dtype: DType::F32, .. } => Ok(memory.words),
            other => Err(Error::Device(format!("${} is {other:?}, not a slot of F32", state.0))),
        }
    }

    pub(super) fn token_shift(
        &mut self,
        x: At,
        mix: Tensor,
        state: State,
        outs: &[At],
    ) -> Result<()> {
        let name = &self.program.decl(mix).name;
        let values = self.weights.values(name)?;
        let mixes = self.weights.derive(name.clone(), || values.to_vec())?;
        let slot_words = self.slot(state)?;
        // A slot is written where nobody reads it any more.
        let at_once = self.size.one_token_a_seq;
        let passes = outs.len().div_ceil(MIXES);
        for (pass, outs) in outs.chunks(MIXES).map(Some).chain([None]).enumerate() {
            let stores = if at_once { pass + 1 == passes } else { outs.is_none() };
            let outs = outs.unwrap_or(&[]);
            if outs.is_empty() && !stores {
                continue;
            }
            let params = vec![
                x.width as u32,
                x.stride() as u32,
                self.capacity,
                (pass * MIXES * x.width) as u32,
                slot_words,
            ];
            let mut resources = vec![
                (1, Resource::Ints),
                (2, Resource::Derived),
                (3, part(x)),
                (4, Resource::State(state.index())),
                (5, Resource::Held(mixes.clone())),
            ];
            resources.extend((6..).zip(outs.iter().map(|&out| part(out))));
            let recipe = super::recipes::token_shift(outs.len(), stores);
            let groups = Count::Fixed((x.width as u32).div_ceil(64));
            let grid = [groups, Count::Rows(Rows::Tokens, 1), Count::Fixed(1)];
            self.call(&recipe, &resources, params, grid)?;
        }
        Ok(())
    }

    /// The few numbers between both products of a low-rank network, at the begin of the scratch.
    fn few(&self, rows: Rows, a: Tensor, scratch: usize) -> At {
        let width = self.program.decl(a).rows as usize;
        At { offset: scratch, bytes: self.part(rows, width), rows, width }
    }

    /// Scratch for them, and for what both products take in.
    pub(super) fn low_rank_bytes(&self, x: Value, a: Tensor, b: Tensor) -> usize {
        let s = self.program.shape(x);
        let few = self.few(s.rows, a, 0);
        let second = self.int8_bytes_of(s.rows, few.width, &[b]);
        few.bytes + self.int8_bytes(x, &[a]).max(second)
    }

    pub(super) fn low_rank(
        &mut self,
        x: At,
        [a, b]: [Tensor; 2],
        bias: Option<Tensor>,
        [mid, act]: [Act; 2],
        out: At,
        scratch: usize,
    ) -> Result<()> {
        let few = self.few(x.rows, a, scratch);
        let rest = scratch + few.bytes;
        let finish = Finish { act: mid, ..Finish::plain(&[]) };
        self.project(x, &[a], finish, few, rest, None)?;
        let finish = Finish { act, ..Finish::plain(bias.as_slice()) };
        self.project(few, &[b], finish, out, rest, None)
    }

    /// The three vectors that the recurrence makes of its keys, for each token.
    fn keys(&self, width: usize, scratch: usize) -> At {
        let bytes = self.part(Rows::Tokens, 3 * width);
        At { offset: scratch, bytes, rows: Rows::Tokens, width: 3 * width }
    }

    /// Scratch for them.
    pub(super) fn wkv7_bytes(&self, width: u32) -> usize {
        self.keys(width as usize, 0).bytes
    }

    pub(super) fn wkv7(
        &mut self,
        op: &Op,
        at: &dyn Fn(Value) -> At,
        out: At,
        scratch: usize,
    ) -> Result<()> {
        let Op::Wkv7 { r, decay, k, v, a, g, k_k, k_a, r_k, heads, norm, state } = op else {
            return Err(Error::Runtime("not a wkv7".into()));
        };
        let [r, decay, k, v, a, g] = [*r, *decay, *k, *v, *a, *g].map(at);
        let dim = out.width as u32 / heads;
        let made = self.keys(out.width, scratch);
        let keys = self.weights.stacked(self.program, &[*k_k, *k_a])?.0;
        let mut last = self.norm_values(norm, out.width)?;
        let r_k = &self.program.decl(*r_k).name;
        last.extend_from_slice(self.weights.values(r_k)?);
        // The name of r_k stands for its layer, and so for the norm.
        let last = self.weights.derive(format!("{r_k} behind its norm"), || last)?;
        let sizes = |more: &[u32]| {
            let mut all = vec![out.width as u32, dim, out.stride() as u32, made.stride() as u32];
            all.extend_from_slice(more);
            all
        };
        let each = [Count::Fixed(*heads), Count::Rows(Rows::Tokens, 1), Count::Fixed(1)];

        let resources = [
            (1, Resource::Ints),
            (2, part(k)),
            (3, part(a)),
            (4, part(made)),
            (5, Resource::Held(keys)),
        ];
        self.call(&Recipe::new("wkv7_keys"), &resources, sizes(&[]), each)?;

        let resources = [
            (1, Resource::Ints),
            (2, part(r)),
            (3, part(decay)),
            (4, part(v)),
            (5, part(made)),
            (6, Resource::State(state.index())),
            (7, part(out)),
        ];
        let params = sizes(&[self.slot(*state)?]);
        let grid = [Count::Fixed(*heads), Count::Rows(Rows::Seqs, 1), Count::Fixed(1)];
        self.call(&super::recipes::wkv7(dim), &resources, params, grid)?;

        let resources = [
            (1, Resource::Ints),
            (2, part(r)),
            (3, part(v)),
            (4, part(g)),
            (5, part(made)),
            (6, part(out)),
            (7, Resource::Held(last)),
        ];
        let layer = u32::from(norm.kind == NormKind::Layer);
        self.call(&Recipe::new("wkv7_out"), &resources, sizes(&[layer, norm.eps.to_bits()]), each)
    }
}
