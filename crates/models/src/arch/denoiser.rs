//! A Gaussian diffusion language model: a transformer that tells the noise in the embeddings of a
//! text, which are then brought from time to time until they are near tokens (Li et al. 2022,
//! "Diffusion-LM").
//!
//! ```text
//! t = W_1 silu(W_0 sinusoids(time))
//! h = W_in x
//! for each layer:
//!     h += t + W_o attention(W_qkv norm(h))
//!     h += W_down gelu(W_up norm(h))
//! noise = W_out norm(h)
//! x = the step of a DDIM or DDPM from x and noise, kept in the slot of the sequence
//! logits = the embedding table times x
//! ```
//!
//! Attention sees the whole text and rotates queries and keys; norms are layer norms; everything
//! has a bias. There is no published file of this kind, so the keys and names are our own: those of
//! `bert` where it has them, and `latent_in`, `latent_out`, `time_embd_0`, `time_embd_1`, and
//! `diffusion.alphas`, the cumulative alphas of the schedule.

use super::KvTypes;
use super::meta::{MAX_HEAD, MAX_WIDTH, Meta};
use super::parts::{layer_norm, linear};
use super::rope;
use gristmill_core::{DType, Result};
use gristmill_ir::{
    Act, Architecture, DenoiseRule, Op, Output, Program, QkNorm, Rope, RopePairs, StateKind, Value,
};

/// Where the cumulative alphas are.
const ALPHAS: &str = "diffusion.alphas";
/// Elements of all latents of a sequence.
const MAX_LATENTS: u32 = 1 << 28;

struct Denoiser {
    vocab: u32,
    /// Elements of a latent: of a row of the embedding table.
    latent: u32,
    /// Tokens of a text.
    context: u32,
    width: u32,
    layers: u32,
    heads: u32,
    ffn: u32,
    /// Outputs of the first matrix of time.
    time: u32,
    /// Times of the schedule.
    times: u32,
    eps: f32,
    rope: Rope,
    kv: KvTypes,
}

pub(super) fn read(m: &Meta<'_>) -> Result<Box<dyn Architecture + Send + Sync>> {
    let width = m.width()?;
    let heads = m.count("attention.head_count", MAX_HEAD)?;
    if width % heads != 0 || width / heads > MAX_HEAD || width % 2 != 0 || width < 4 {
        let what = format!("is {heads}, which does not divide the width {width} into even heads");
        return Err(m.wrong("attention.head_count", what));
    }
    let (context, latent) = (m.context_length()?, m.count("latent_length", MAX_WIDTH)?);
    if u64::from(context) * u64::from(latent) > MAX_LATENTS.into() {
        let what = format!("is {context}: too many latents of {latent} elements");
        return Err(m.wrong("context_length", what));
    }
    let needs = |name: &str, n: Option<u32>| {
        n.ok_or_else(|| m.gguf.error(format!("tensor '{name}' is missing")))
    };
    let alphas = m.gguf.tensor_info(ALPHAS).map(|t| t.shape[0]);
    let alphas = alphas.and_then(|n| u32::try_from(n).ok()).filter(|&n| n <= MAX_WIDTH);
    Ok(Box::new(Denoiser {
        vocab: m.vocab()?,
        latent,
        context,
        width,
        layers: m.layers()?,
        heads,
        ffn: m.count("feed_forward_length", MAX_WIDTH)?,
        time: needs("time_embd_0.weight", m.rows("time_embd_0.weight")?)?,
        times: needs(ALPHAS, alphas)?,
        eps: m.positive("attention.layer_norm_epsilon")?,
        rope: rope::read(m, RopePairs::Halves, width / heads)?,
        kv: m.kv,
    }))
}

impl Denoiser {
    fn time(&self, p: &mut Program) -> Result<Value> {
        let x = p.one("time_embed", Op::TimeEmbed { width: self.width })?;
        let x = linear(p, "time_embd_0", "time_embd_0", self.time, x, true, Act::Silu)?;
        linear(p, "time_embd_1", "time_embd_1", self.width, x, true, Act::None)
    }

    fn attention(&self, p: &mut Program, blk: &str, x: Value) -> Result<Value> {
        let (width, heads) = (self.width, self.heads);
        let head_dim = width / heads;
        let group = p.group(None);
        let KvTypes { k: k_type, v: v_type } = self.kv;
        let cache = p.state(StateKind::Paged { group, k: width, v: width, k_type, v_type });
        let w = vec![p.tensor(format!("{blk}.attn_qkv.weight"), 3 * width, width)];
        let bias = vec![p.vector(format!("{blk}.attn_qkv.bias"), 3 * width)];
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
            rope: Some(self.rope.clone()),
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
        linear(p, &name, &weight, width, x, true, Act::None)
    }
}

impl Architecture for Denoiser {
    fn record(&self, p: &mut Program) -> Result<()> {
        let Denoiser { width, latent, eps, .. } = *self;
        let elems = self.context * latent;
        let state = p.state(StateKind::Slot { elems, dtype: DType::F32 });
        let time = self.time(p)?;
        let x = p.one("latents", Op::LoadSlot { state, width: latent })?;
        let mut h = linear(p, "latent_in", "latent_in", width, x, true, Act::None)?;
        let norm = layer_norm(p, "blk.0.attn_norm", width, eps);
        let mut normed = p.one("blk.0.attn_norm", Op::Norm { x: h, norm })?;
        for i in 0..self.layers {
            let blk = format!("blk.{i}");
            let attn = self.attention(p, &blk, normed)?;
            let delta = p.one(format!("{blk}.time"), Op::AddSequence { x: attn, y: time })?;
            let mut add = |p: &mut Program, name: &str, delta: Value| {
                let norm = layer_norm(p, name, width, eps);
                let add = Op::AddNorm { x: h, delta, post: None, scale: 1.0, norm };
                let both = p.two(name, add)?;
                h = both.0;
                Ok::<Value, gristmill_core::Error>(both.1)
            };
            normed = add(p, &format!("{blk}.ffn_norm"), delta)?;
            let [up, down] = ["ffn_up", "ffn_down"].map(|s| format!("{blk}.{s}"));
            let inner = linear(p, &up, &up, self.ffn, normed, true, Act::Gelu)?;
            let delta = linear(p, &down, &down, width, inner, true, Act::None)?;
            let next = match i + 1 == self.layers {
                true => "output_norm".into(),
                false => format!("blk.{}.attn_norm", i + 1),
            };
            normed = add(p, &next, delta)?;
        }
        let noise = linear(p, "latent_out", "latent_out", latent, normed, true, Act::None)?;
        let schedule = p.vector(ALPHAS, self.times);
        let (eta, rule) = (0.0, DenoiseRule::Ddim);
        let step = Op::Denoise { x, eps: noise, schedule, eta, rule, noise: None };
        let x = p.one("denoise", step)?;
        let x = p.one("store", Op::StoreSlot { x, state })?;
        p.output(Output::Hidden, x);
        let x = p.one("select", Op::SelectRows { x })?;
        let logits = linear(p, "output", "token_embd", self.vocab, x, false, Act::None)?;
        p.output(Output::Logits, logits);
        Ok(())
    }
}
