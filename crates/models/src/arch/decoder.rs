//! The transformer decoder: one body for every family that is one.
//!
//! ```text
//! x = embed_scale · embedding
//! for each layer:
//!     x += residual_scale · post(W_o attention(W_q n, W_k n, W_v n))   where n = norm(x)
//!     x += residual_scale · post(ffn(n))                               where n = norm(x)
//! logits = head(norm(x))
//! ```
//!
//! Most have the norms before and not after; some have both, and OLMo 2 only those after.
//!
//! A family is a value of [`Decoder`]: what the metadata says, changed in the facts that make it
//! that family. After the attention of the last layer no token looks at another, so from there on
//! only the rows whose logits are wanted are computed.

use super::KvTypes;
use super::ends::End;
use super::meta::{MAX_HEAD, MAX_WIDTH, Meta};
use super::moe::Experts;
use super::parts::{linear, rms_norm};
use super::rope;
use gristmill_core::Result;
use gristmill_ir::{
    Act, Architecture, Norm, Op, Program, QkNorm, Rope, RopePairs, StateKind, Tensor, Value,
};

/// The facts of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Decoder {
    pub(super) vocab: u32,
    pub(super) width: u32,
    pub(super) head_dim: u32,
    /// Of every RMS norm.
    pub(super) eps: f32,
    /// Added to the weights of every norm: 1 where they are stored around zero.
    pub(super) norm_offset: f32,
    pub(super) embed_scale: f32,
    pub(super) residual_scale: f32,
    /// Norms of what attention and feed-forward take.
    pub(super) pre_norms: bool,
    /// Norms of what attention and feed-forward give, before the residual.
    pub(super) post_norms: bool,
    /// The name of the norm before the feed-forward.
    pub(super) ffn_norm: &'static str,
    /// A norm of queries and keys.
    pub(super) qk_norm: Option<QkNorm>,
    /// Queries, keys and values by one matrix, `attn_qkv`.
    pub(super) fused_qkv: bool,
    pub(super) qkv_bias: bool,
    pub(super) attn_out_bias: bool,
    /// Multiplies the scores of attention.
    pub(super) attn_scale: f32,
    pub(super) attn_softcap: Option<f32>,
    /// One more learned score a head, `attn_sinks`.
    pub(super) sinks: bool,
    /// The tensor that divides the frequencies.
    pub(super) rope_factors: Option<&'static str>,
    /// Of the gate.
    pub(super) act: Act,
    pub(super) ffn_bias: bool,
    pub(super) layers: Vec<Layer>,
    pub(super) end: End,
    pub(super) kv: KvTypes,
}

/// What may differ between the layers of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Layer {
    pub(super) heads: u32,
    pub(super) kv_heads: u32,
    /// Positions the layer looks back, where not to the start.
    pub(super) window: Option<u32>,
    pub(super) rope: Rope,
    pub(super) ffn: Ffn,
}

/// The second half of a layer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Ffn {
    /// act(gate x) ⊙ (up x), then down, through `width` elements.
    Gated { width: u32 },
    /// The same, where `ffn_up` stacks gate and up.
    Stacked { width: u32 },
    /// A mixture of experts.
    Experts(Experts),
}

impl Decoder {
    /// What the metadata says, with the plainest choice where it says nothing. `windowed` tells
    /// which layers have the file's window where the file does not list them.
    pub(super) fn read(
        m: &Meta<'_>,
        pairs: RopePairs,
        windowed: impl Fn(usize) -> bool,
    ) -> Result<Decoder> {
        let width = m.width()?;
        let heads = m.per_layer("attention.head_count", MAX_HEAD)?;
        let kv_heads = match m.knows("attention.head_count_kv") {
            true => m.per_layer("attention.head_count_kv", MAX_HEAD)?,
            false => heads.clone(),
        };
        let head_dim = match m.opt_count("attention.key_length", MAX_HEAD)? {
            Some(n) => n,
            None if width % heads[0] == 0 && width / heads[0] <= MAX_HEAD => width / heads[0],
            None => {
                let what = format!("is {}, which does not divide the width {width}", heads[0]);
                return Err(m.wrong("attention.head_count", what));
            }
        };
        if let Some(v) = m.opt_count("attention.value_length", MAX_HEAD)?
            && v != head_dim
        {
            let what = format!("is {v}, but keys have {head_dim}; they must agree");
            return Err(m.wrong("attention.value_length", what));
        }
        let rope = rope::read(m, pairs, head_dim)?;
        let stacked = !m.has("blk.0.ffn_gate.weight") && m.has("blk.0.ffn_up.weight");
        // A file of experts alone need not say how wide its dense layers would be.
        let no_dense = m.knows("expert_count") && !m.knows("feed_forward_length");
        let widths = match no_dense {
            true => vec![1; heads.len()],
            false => m.per_layer("feed_forward_length", MAX_WIDTH)?,
        };
        let windows = windows(m, heads.len(), windowed)?;
        let layers = (0..heads.len()).map(|i| Layer {
            heads: heads[i],
            kv_heads: kv_heads[i],
            window: windows[i],
            rope: rope.clone(),
            ffn: match widths[i] {
                width if stacked => Ffn::Stacked { width },
                width => Ffn::Gated { width },
            },
        });
        Ok(Decoder {
            vocab: m.vocab()?,
            width,
            head_dim,
            eps: m.positive("attention.layer_norm_rms_epsilon")?,
            norm_offset: m.opt("norm_offset")?.unwrap_or(0.0),
            embed_scale: 1.0,
            residual_scale: 1.0,
            pre_norms: true,
            post_norms: false,
            ffn_norm: "ffn_norm",
            qk_norm: None,
            fused_qkv: m.has("blk.0.attn_qkv.weight"),
            qkv_bias: m.has("blk.0.attn_q.bias") || m.has("blk.0.attn_qkv.bias"),
            attn_out_bias: m.has("blk.0.attn_output.bias"),
            attn_scale: match m.opt_positive("attention.scale")? {
                Some(scale) => scale,
                None => 1.0 / (head_dim as f32).sqrt(),
            },
            attn_softcap: None,
            sinks: m.has("blk.0.attn_sinks.weight"),
            rope_factors: rope::factors(m)?,
            act: Act::Silu,
            ffn_bias: m.has("blk.0.ffn_down.bias"),
            layers: layers.collect(),
            end: End::of_decoder(m)?,
            kv: m.kv,
        })
    }

    fn norm_of(&self, p: &mut Program, name: &str, len: u32) -> Norm {
        Norm { offset: self.norm_offset, ..rms_norm(p, name, len, self.eps) }
    }

    fn norm(&self, p: &mut Program, name: &str) -> Norm {
        self.norm_of(p, name, self.width)
    }

    /// The residual after half a layer, whose own norm is `post`, and what the next half takes: the
    /// norm `next` of it, or where there is none the same.
    fn add(
        &self,
        p: &mut Program,
        [x, delta]: [Value; 2],
        post: &str,
        next: Option<&str>,
    ) -> Result<(Value, Value)> {
        let scale = self.residual_scale;
        if let Some(name) = next {
            let post = self.post_norms.then(|| self.norm(p, post));
            let norm = self.norm(p, name);
            return p.two(name, Op::AddNorm { x, delta, post, scale, norm });
        }
        let norm = self.norm(p, post);
        let y = p.one(post, Op::Norm { x: delta, norm })?;
        let sum = p.one(format!("{post}_add"), Op::Add { x, y, gate: None })?;
        Ok((sum, sum))
    }

    /// The matrices or the biases that give queries, keys and values.
    fn qkv(&self, p: &mut Program, blk: &str, l: &Layer, kind: &str, cols: u32) -> Vec<Tensor> {
        let (q, k) = (l.heads * self.head_dim, l.kv_heads * self.head_dim);
        let parts: &[(&str, u32)] = match self.fused_qkv {
            true => &[("qkv", q + 2 * k)],
            false => &[("q", q), ("k", k), ("v", k)],
        };
        let mut tensor = |&(part, n): &(&str, u32)| {
            let name = format!("{blk}.attn_{part}.{kind}");
            if kind == "bias" { p.vector(name, n) } else { p.tensor(name, n, cols) }
        };
        parts.iter().map(&mut tensor).collect()
    }

    fn attention(&self, p: &mut Program, blk: &str, l: &Layer, x: Value) -> Result<Value> {
        let &Layer { heads, kv_heads, window, .. } = l;
        let head_dim = self.head_dim;
        let group = p.group(window);
        let kv = kv_heads * head_dim;
        let cache = StateKind::Paged { group, k: kv, v: kv, k_type: self.kv.k, v_type: self.kv.v };
        let cache = p.state(cache);
        let w = self.qkv(p, blk, l, "weight", self.width);
        let bias = if self.qkv_bias { self.qkv(p, blk, l, "bias", 1) } else { vec![] };
        let mut qk_norm = |name: &str, heads: u32| {
            self.qk_norm.map(|over| {
                let len = if over == QkNorm::Head { head_dim } else { heads * head_dim };
                self.norm_of(p, &format!("{blk}.{name}"), len)
            })
        };
        let (q_norm, k_norm) = (qk_norm("attn_q_norm", heads), qk_norm("attn_k_norm", kv_heads));
        let factors = self.rope_factors.map(|name| p.vector(name, l.rope.dims / 2));
        let qkv = Op::Qkv {
            x,
            w,
            bias,
            heads,
            kv_heads,
            head_dim,
            q_norm,
            k_norm,
            norm_over: self.qk_norm.unwrap_or(QkNorm::Head),
            rope: Some(Rope { factors, ..l.rope.clone() }),
            cache,
        };
        let q = p.one(format!("{blk}.qkv"), qkv)?;
        let attention = Op::Attention {
            q,
            cache,
            heads,
            kv_heads,
            head_dim,
            scale: self.attn_scale,
            softcap: self.attn_softcap,
            window,
            sinks: self.sinks.then(|| p.vector(format!("{blk}.attn_sinks.weight"), heads)),
        };
        p.one(format!("{blk}.attn"), attention)
    }

    fn ffn(&self, p: &mut Program, blk: &str, l: &Layer, x: Value) -> Result<Value> {
        let (parts, width): (&[_], u32) = match &l.ffn {
            Ffn::Gated { width } => (&[("gate", 1), ("up", 1)], *width),
            Ffn::Stacked { width } => (&[("up", 2)], *width),
            Ffn::Experts(experts) => return experts.record(p, blk, self.act, x),
        };
        let mut w = vec![];
        let mut bias = vec![];
        for (part, n) in parts {
            let name = format!("{blk}.ffn_{part}");
            w.push(p.tensor(format!("{name}.weight"), n * width, self.width));
            if self.ffn_bias {
                bias.push(p.vector(format!("{name}.bias"), n * width));
            }
        }
        let x = p.one(format!("{blk}.gate_up"), Op::GateUp { x, w, bias, act: self.act })?;
        let down = format!("{blk}.ffn_down");
        linear(p, &down, &down, self.width, x, self.ffn_bias, Act::None)
    }
}

impl Architecture for Decoder {
    fn record(&self, p: &mut Program) -> Result<()> {
        let table = p.tensor("token_embd.weight", self.vocab, self.width);
        let embed = Op::Embed { table, scale: self.embed_scale, positions: None, types: None };
        let mut x = p.one("embed", embed)?;
        let mut normed = x;
        if self.pre_norms {
            let norm = self.norm(p, "blk.0.attn_norm");
            normed = p.one("blk.0.attn_norm", Op::Norm { x, norm })?;
        }

        for (i, layer) in self.layers.iter().enumerate() {
            let blk = format!("blk.{i}");
            let last = i + 1 == self.layers.len();
            // Experts route whole batches of tokens; their rows are chosen after them.
            let dense = !matches!(layer.ffn, Ffn::Experts(_));

            let mut attn = self.attention(p, &blk, layer, normed)?;
            if last && dense && self.end.selects() {
                x = p.one("select", Op::SelectRows { x })?;
                attn = p.one("select_attn", Op::SelectRows { x: attn })?;
            }
            let [name, weight] = ["attn_out", "attn_output"].map(|s| format!("{blk}.{s}"));
            let bias = self.attn_out_bias;
            let delta = linear(p, &name, &weight, self.width, attn, bias, Act::None)?;
            let post = format!("{blk}.post_attention_norm");
            let next = self.pre_norms.then(|| format!("{blk}.{}", self.ffn_norm));
            (x, normed) = self.add(p, [x, delta], &post, next.as_deref())?;

            let delta = self.ffn(p, &blk, layer, normed)?;
            let next = match last {
                true => Some("output_norm".into()),
                false => self.pre_norms.then(|| format!("blk.{}.attn_norm", i + 1)),
            };
            let post = format!("{blk}.post_ffw_norm");
            (x, normed) = self.add(p, [x, delta], &post, next.as_deref())?;
            if last && !dense && self.end.selects() {
                normed = p.one("select", Op::SelectRows { x: normed })?;
            }
        }
        self.end.record(p, normed)
    }
}

/// The window of each layer. `attention.sliding_window_pattern` lists the windowed layers, or is
/// a number `n`: every `n`th layer sees everything.
fn windows(
    m: &Meta<'_>,
    layers: usize,
    windowed: impl Fn(usize) -> bool,
) -> Result<Vec<Option<u32>>> {
    // 0 has been written for none.
    let Some(window) = m.opt::<u32>("attention.sliding_window")?.filter(|&n| n > 0) else {
        return Ok(vec![None; layers]);
    };
    const PATTERN: &str = "attention.sliding_window_pattern";
    let which: Vec<bool> = match m.opt(PATTERN)? {
        None => (0..layers).map(windowed).collect(),
        Some(crate::gguf::Value::Array(_)) => m.opt(PATTERN)?.unwrap_or_default(),
        Some(_) => {
            let n = m.count(PATTERN, u32::MAX)? as usize;
            (0..layers).map(|i| i % n + 1 != n).collect()
        }
    };
    if which.len() < layers {
        let what = format!("has {} elements for {layers} layers", which.len());
        return Err(m.wrong(PATTERN, what));
    }
    Ok(which[..layers].iter().map(|&w| w.then_some(window)).collect())
}
