//! The operations of RWKV: the mix with the token before, low-rank networks, the recurrence.
//!
//! Their states lie in slots of f32. A sequence reads the slot `state_in` (none: zeros) and writes
//! `state_out`; the batch was checked so that nobody writes what another one reads.

use super::arguments::{Args, Resource};
use super::projection::Finish;
use super::{At, Compiler};
use gristmill_core::{DType, Error, Result};
use gristmill_ir::{Act, NormKind, Op, Rows, State, StateKind, Tensor, Value};

/// Results of one pass of the mix with the token before.
const MIXES: usize = 6;

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
        if outs.len() > MIXES {
            return Err(Error::Device(format!("{} mixes, more than {MIXES}", outs.len())));
        }
        let at_once = self.size.one_token_a_seq;
        // Slots are written once nobody reads them any more: with several tokens a sequence, in a
        // second pass.
        let mut pass = |outs: &[At], store: bool| {
            let places = (0..MIXES).map(|i| outs.get(i).map_or(Resource::None, |o| o.res()));
            let a = Args::new()
                .ptrs([Resource::Ints, Resource::Derived, x.res(), Resource::State(state.index())])
                .ptr(mixes.clone())
                .ptrs(places)
                .all(&[outs.len() as u32, x.width as u32, x.stride() as u32, self.capacity])
                .all(&[slot_words, u32::from(store)]);
            let grid = [(x.width as u32).div_ceil(128), self.size.tokens, 1];
            self.call("token_shift", a, grid, 128)
        };
        pass(outs, at_once)?;
        if !at_once {
            pass(&[], true)?;
        }
        Ok(())
    }

    /// The few numbers between both products of a low-rank network, at the begin of the scratch.
    fn few(&self, rows: Rows, a: Tensor, scratch: usize) -> At {
        let width = self.program.decl(a).rows as usize;
        At { offset: scratch, bytes: self.part(rows, width), rows, width, twin: None }
    }

    /// Scratch for them, and for what both products take in.
    pub(super) fn low_rank_bytes(&self, x: Value, a: Tensor, b: Tensor) -> usize {
        let s = self.program.shape(x);
        let few = self.few(s.rows, a, 0);
        let first = self.input_bytes_of(s.rows, s.width as usize, &[a], s.rows, false);
        let second = self.input_bytes_of(s.rows, few.width, &[b], s.rows, false);
        few.bytes + first.max(second)
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
        At { offset: scratch, bytes, rows: Rows::Tokens, width: 3 * width, twin: None }
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
        let dim = out.width as u32 / heads;
        let (kernel, threads) = match dim {
            0..=32 => ("wkv7_32", 32),
            33..=64 => ("wkv7_64", 64),
            65..=128 => ("wkv7_128", 128),
            _ => return Err(Error::Device(format!("heads of {dim}, more than 128"))),
        };
        let made = self.keys(out.width, scratch);
        let keys = self.weights.stacked(self.program, &[*k_k, *k_a])?.0;
        let mut last = self.norm_values(norm, out.width)?;
        let r_k = &self.program.decl(*r_k).name;
        last.extend_from_slice(self.weights.values(r_k)?);
        // The name of r_k stands for its layer, and so for the norm.
        let last = self.weights.derive(format!("{r_k} behind its norm"), || last)?;
        let a = Args::new()
            .ptr(Resource::Ints)
            .ptrs([*r, *decay, *k, *v, *a, *g].map(|v| at(v).res()))
            .ptrs([made.res(), Resource::State(state.index()), out.res(), keys, last])
            .all(&[out.width as u32, dim, out.stride() as u32, made.stride() as u32])
            .u(self.slot(*state)?)
            .u(u32::from(norm.kind == NormKind::Layer))
            .f(norm.eps)
            .u(0);
        let each = [*heads, self.size.tokens, 1];
        self.call("wkv7_keys", a.clone(), each, 64)?;
        self.call(kernel, a.clone(), [*heads, self.size.seqs, 1], threads)?;
        self.call("wkv7_out", a, each, 64)
    }
}
