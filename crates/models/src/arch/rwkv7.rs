//! RWKV-7 (Peng et al. 2025): two shifts and a recurrence instead of attention.
//!
//! The state of a layer is the last token that its time mix saw, the last that its channel mix
//! saw, and a matrix of `head_size · head_size` for each head.

use super::ends::End;
use super::meta::{MAX_HEAD, MAX_WIDTH, Meta};
use super::parts::{layer_norm, linear, project};
use gristmill_core::{DType, Result};
use gristmill_ir::{Act, Architecture, Norm, Op, Program, State, StateKind, Value};

/// Epsilon of the group norm after the recurrence, a constant of the architecture.
const GROUP_EPS: f32 = 64e-5;

struct Rwkv7 {
    vocab: u32,
    width: u32,
    layers: u32,
    head_size: u32,
    ffn: u32,
    eps: f32,
    decay_rank: u32,
    iclr_rank: u32,
    value_rank: u32,
    gate_rank: u32,
    end: End,
}

pub(super) fn read(m: &Meta<'_>) -> Result<Box<dyn Architecture + Send + Sync>> {
    Ok(Box::new(Rwkv7 {
        vocab: m.vocab()?,
        width: m.width()?,
        layers: m.layers()?,
        head_size: m.count("wkv.head_size", MAX_HEAD)?,
        ffn: m.count("feed_forward_length", MAX_WIDTH)?,
        eps: m.positive("attention.layer_norm_epsilon")?,
        decay_rank: m.count("attention.decay_lora_rank", MAX_WIDTH)?,
        iclr_rank: m.count("attention.iclr_lora_rank", MAX_WIDTH)?,
        value_rank: m.count("attention.value_residual_mix_lora_rank", MAX_WIDTH)?,
        gate_rank: m.count("attention.gate_lora_rank", MAX_WIDTH)?,
        end: End::of_decoder(m)?,
    }))
}

impl Rwkv7 {
    fn norm(&self, p: &mut Program, name: &str) -> Norm {
        layer_norm(p, name, self.width, self.eps)
    }

    fn slot(&self, p: &mut Program, elems: u32) -> State {
        p.state(StateKind::Slot { elems, dtype: DType::F32 })
    }

    /// `act(w0 + w2 · mid(w1 · x))`: one of the small networks `w`, `a`, `v` and `g`.
    fn low_rank(
        &self,
        p: &mut Program,
        blk: &str,
        which: char,
        rank: u32,
        x: Value,
        [mid, act]: [Act; 2],
    ) -> Result<Value> {
        let name = |n: char| format!("{blk}.time_mix_{which}{n}.weight");
        let a = p.tensor(name('1'), rank, self.width);
        let b = p.tensor(name('2'), self.width, rank);
        // The gate has no bias.
        let bias = (which != 'g').then(|| p.vector(name('0'), self.width));
        p.one(format!("{blk}.time_mix_{which}"), Op::LowRank { x, a, mid, b, bias, act })
    }

    /// The time mix of `x`, and the values of layer 0, which the later layers mix theirs with.
    fn time_mix(
        &self,
        p: &mut Program,
        blk: &str,
        x: Value,
        first: Option<Value>,
    ) -> Result<(Value, Value)> {
        let width = self.width;
        let name = |s: &str| format!("{blk}.time_mix_{s}");
        let mix = p.tensor(name("lerp_fused.weight"), 6, width);
        let shift = Op::TokenShift { x, mix, state: self.slot(p, width) };
        let mixed = p.push(format!("{blk}.time_shift"), shift)?;
        let [xr, xw, xk, xv, xa, xg] = mixed[..] else { unreachable!("mix has six rows") };

        let r = project(p, &name("r"), &name("receptance"), width, xr)?;
        let k = project(p, &name("k"), &name("key"), width, xk)?;
        let mut v = project(p, &name("value"), &name("value"), width, xv)?;
        let decay = self.low_rank(p, blk, 'w', self.decay_rank, xw, [Act::Tanh, Act::Decay])?;
        let a = self.low_rank(p, blk, 'a', self.iclr_rank, xa, [Act::None, Act::Sigmoid])?;
        let g = self.low_rank(p, blk, 'g', self.gate_rank, xg, [Act::Sigmoid, Act::None])?;
        if let Some(to) = first {
            let t = self.low_rank(p, blk, 'v', self.value_rank, xv, [Act::None, Act::Sigmoid])?;
            v = p.one(name("value_lerp"), Op::Lerp { from: v, to, t })?;
        }
        let wkv = Op::Wkv7 {
            r,
            decay,
            k,
            v,
            a,
            g,
            k_k: p.vector(name("k_k.weight"), width),
            k_a: p.vector(name("k_a.weight"), width),
            r_k: p.vector(name("r_k.weight"), width),
            heads: width / self.head_size,
            norm: layer_norm(p, &name("ln"), width, GROUP_EPS),
            state: self.slot(p, width * self.head_size),
        };
        let y = p.one(format!("{blk}.wkv"), wkv)?;
        let y = project(p, &name("output"), &name("output"), width, y)?;
        Ok((y, first.unwrap_or(v)))
    }

    fn channel_mix(&self, p: &mut Program, blk: &str, x: Value) -> Result<Value> {
        let [key, value] = ["key", "value"].map(|s| format!("{blk}.channel_mix_{s}"));
        let mix = p.tensor(format!("{blk}.channel_mix_lerp_k.weight"), 1, self.width);
        let shift = Op::TokenShift { x, mix, state: self.slot(p, self.width) };
        let x = p.one(format!("{blk}.channel_shift"), shift)?;
        let x = linear(p, &key, &key, self.ffn, x, false, Act::Relu2)?;
        project(p, &value, &value, self.width, x)
    }
}

impl Architecture for Rwkv7 {
    fn record(&self, p: &mut Program) -> Result<()> {
        let table = p.tensor("token_embd.weight", self.vocab, self.width);
        let embed = Op::Embed { table, scale: 1.0, positions: None, types: None };
        let x = p.one("embed", embed)?;
        let norm = self.norm(p, "token_embd_norm");
        let mut x = p.one("token_embd_norm", Op::Norm { x, norm })?;
        let norm = self.norm(p, "blk.0.attn_norm");
        let mut normed = p.one("blk.0.attn_norm", Op::Norm { x, norm })?;
        let mut first = None;

        for i in 0..self.layers {
            let blk = format!("blk.{i}");
            let (delta, v) = self.time_mix(p, &blk, normed, first)?;
            first = Some(v);
            let name = format!("{blk}.attn_norm_2");
            let norm = self.norm(p, &name);
            let add = Op::AddNorm { x, delta, post: None, scale: 1.0, norm };
            (x, normed) = p.two(name, add)?;

            let delta = self.channel_mix(p, &blk, normed)?;
            let last = i + 1 == self.layers;
            let name = if last { "output_norm".into() } else { format!("blk.{}.attn_norm", i + 1) };
            let norm = self.norm(p, &name);
            let add = Op::AddNorm { x, delta, post: None, scale: 1.0, norm };
            (x, normed) = p.two(name, add)?;
        }
        if self.end.selects() {
            normed = p.one("select", Op::SelectRows { x: normed })?;
        }
        self.end.record(p, normed)
    }
}
