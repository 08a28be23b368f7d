//! BERT (Devlin et al. 2019), for embeddings and reranking: every token sees every other, and the
//! norm comes after the residual, so what a layer hands on is the normed value.
//!
//! `nomic-bert` has rotations instead of a position table, a gated feed-forward and no biases;
//! which of these a file has is told by its tensors.

use super::KvTypes;
use super::ends::End;
use super::meta::{MAX_HEAD, MAX_WIDTH, Meta};
use super::parts::{layer_norm, linear};
use super::rope;
use gristmill_core::Result;
use gristmill_ir::{
    Act, Architecture, Norm, Op, Program, QkNorm, Rope, RopePairs, StateKind, Tensor, Value,
};

struct Bert {
    vocab: u32,
    width: u32,
    layers: u32,
    heads: u32,
    ffn: u32,
    eps: f32,
    /// Rows of the table of positions, where there is one.
    positions: Option<u32>,
    /// Rows of the table of token types, where there is one.
    types: Option<u32>,
    /// The rotation, where there is no table of positions.
    rope: Option<Rope>,
    /// Queries, keys and values by one matrix, `attn_qkv`.
    fused_qkv: bool,
    /// `ffn_gate` beside `ffn_up`.
    gated: bool,
    qkv_bias: bool,
    attn_out_bias: bool,
    up_bias: bool,
    down_bias: bool,
    end: End,
    kv: KvTypes,
}

pub(super) fn read(m: &Meta<'_>) -> Result<Box<dyn Architecture + Send + Sync>> {
    let width = m.width()?;
    let heads = m.count("attention.head_count", MAX_HEAD)?;
    if width % heads != 0 || width / heads > MAX_HEAD {
        let what = format!("is {heads}, which does not divide the width {width}");
        return Err(m.wrong("attention.head_count", what));
    }
    let positions = m.rows("position_embd.weight")?;
    Ok(Box::new(Bert {
        vocab: m.vocab()?,
        width,
        layers: m.layers()?,
        heads,
        ffn: m.count("feed_forward_length", MAX_WIDTH)?,
        eps: m.positive("attention.layer_norm_epsilon")?,
        positions,
        types: m.rows("token_types.weight")?,
        rope: match positions {
            Some(_) => None,
            None => Some(rope::read(m, RopePairs::Halves, width / heads)?),
        },
        fused_qkv: m.has("blk.0.attn_qkv.weight"),
        gated: m.has("blk.0.ffn_gate.weight"),
        qkv_bias: m.has("blk.0.attn_q.bias") || m.has("blk.0.attn_qkv.bias"),
        attn_out_bias: m.has("blk.0.attn_output.bias"),
        up_bias: m.has("blk.0.ffn_up.bias"),
        down_bias: m.has("blk.0.ffn_down.bias"),
        end: End::pooled(m)?.unwrap_or(End::Hidden),
        kv: m.kv,
    }))
}

impl Bert {
    fn norm(&self, p: &mut Program, name: &str) -> Norm {
        layer_norm(p, name, self.width, self.eps)
    }

    fn embed(&self, p: &mut Program) -> Result<Value> {
        let mut table = |name: &str, rows: u32| p.tensor(name, rows, self.width);
        let embed = Op::Embed {
            table: table("token_embd.weight", self.vocab),
            scale: 1.0,
            positions: self.positions.map(|n| table("position_embd.weight", n)),
            types: self.types.map(|n| table("token_types.weight", n)),
        };
        let x = p.one("embed", embed)?;
        let norm = self.norm(p, "token_embd_norm");
        p.one("token_embd_norm", Op::Norm { x, norm })
    }

    fn attention(&self, p: &mut Program, blk: &str, x: Value) -> Result<Value> {
        let (width, heads) = (self.width, self.heads);
        let parts: &[&str] = if self.fused_qkv { &["qkv"] } else { &["q", "k", "v"] };
        let rows = 3 * width / parts.len() as u32;
        let name = |part: &str, kind: &str| format!("{blk}.attn_{part}.{kind}");
        let w = parts.iter().map(|s| p.tensor(name(s, "weight"), rows, width)).collect();
        let biased = if self.qkv_bias { parts } else { &[] };
        let bias: Vec<Tensor> = biased.iter().map(|s| p.vector(name(s, "bias"), rows)).collect();
        let head_dim = width / heads;
        let group = p.group(None);
        let KvTypes { k: k_type, v: v_type } = self.kv;
        let cache = p.state(StateKind::Paged { group, k: width, v: width, k_type, v_type });
        let qkv = Op::Qkv {
            x,
            w,
            bias,
            heads,
            kv_heads: heads,
            head_dim,
            q_norm: None,
            k_norm: None,
            norm_over: QkNorm::Head,
            rope: self.rope.clone(),
            cache,
        };
        let q = p.one(format!("{blk}.qkv"), qkv)?;
        let attention = Op::Attention {
            q,
            cache,
            heads,
            kv_heads: heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            softcap: None,
            window: None,
            sinks: None,
        };
        let x = p.one(format!("{blk}.attn"), attention)?;
        let [name, weight] = ["attn_out", "attn_output"].map(|s| format!("{blk}.{s}"));
        linear(p, &name, &weight, width, x, self.attn_out_bias, Act::None)
    }

    fn ffn(&self, p: &mut Program, blk: &str, x: Value) -> Result<Value> {
        let [up, down] = ["ffn_up", "ffn_down"].map(|s| format!("{blk}.{s}"));
        let x = if self.gated {
            let w = ["ffn_gate", "ffn_up"]
                .map(|s| p.tensor(format!("{blk}.{s}.weight"), self.ffn, self.width))
                .to_vec();
            p.one(format!("{blk}.gate_up"), Op::GateUp { x, w, bias: vec![], act: Act::Silu })?
        } else {
            linear(p, &up, &up, self.ffn, x, self.up_bias, Act::Gelu)?
        };
        linear(p, &down, &down, self.width, x, self.down_bias, Act::None)
    }

    /// `norm(x + delta)`.
    fn add(&self, p: &mut Program, name: String, x: Value, delta: Value) -> Result<Value> {
        let norm = self.norm(p, &name);
        let add = Op::AddNorm { x, delta, post: None, scale: 1.0, norm };
        p.two(name, add).map(|(_, normed)| normed)
    }
}

impl Architecture for Bert {
    fn record(&self, p: &mut Program) -> Result<()> {
        let mut x = self.embed(p)?;
        for i in 0..self.layers {
            let blk = format!("blk.{i}");
            let delta = self.attention(p, &blk, x)?;
            x = self.add(p, format!("{blk}.attn_output_norm"), x, delta)?;
            let delta = self.ffn(p, &blk, x)?;
            x = self.add(p, format!("{blk}.layer_output_norm"), x, delta)?;
        }
        self.end.record(p, x)
    }
}
