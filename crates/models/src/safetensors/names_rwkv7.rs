//! RWKV-7 under the names that its author, BlinkDL, publishes: `emb.weight`, `blocks.N.att.r_k` and
//! so on.
//!
//! The matrices of low rank are published as `[inputs, outputs]`, the other way round than all
//! others; the six mixes of a layer are vectors of their own.

use super::config::Config;
use super::facts::Facts;
use super::names::Target;
use crate::gguf::TensorInfo;
use gristmill_core::Result;

/// Names outside the blocks.
const GLOBAL: [(&str, &str); 4] = [
    ("emb.weight", "token_embd.weight"),
    ("ln_out.weight", "output_norm.weight"),
    ("ln_out.bias", "output_norm.bias"),
    ("head.weight", "output.weight"),
];

/// Names within a block, without `.weight` or `.bias`.
const BLOCK: [(&str, &str); 10] = [
    ("ln1", "attn_norm"),
    ("ln2", "attn_norm_2"),
    ("att.ln_x", "time_mix_ln"),
    ("att.receptance", "time_mix_receptance"),
    ("att.key", "time_mix_key"),
    ("att.value", "time_mix_value"),
    ("att.output", "time_mix_output"),
    ("ffn.x_k", "channel_mix_lerp_k"),
    ("ffn.key", "channel_mix_key"),
    ("ffn.value", "channel_mix_value"),
];

/// The mixes of a layer, in the order of GGUF's tensor.
const MIXES: [&str; 6] = ["x_r", "x_w", "x_k", "x_v", "x_a", "x_g"];

/// Whether these are the tensors of such a model.
pub(super) fn is_one<'n>(mut names: impl Iterator<Item = &'n str>) -> bool {
    names.any(|n| n == "blocks.0.att.r_k")
}

/// What a tensor is.
pub(super) fn target(name: &str) -> Option<Target> {
    if let Some((_, to)) = GLOBAL.iter().find(|n| n.0 == name) {
        return Some(Target::Whole((*to).into()));
    }
    let (layer, rest) = name.strip_prefix("blocks.")?.split_once('.')?;
    let n = layer.parse::<u32>().ok().filter(|n| n.to_string() == layer)?;
    if let Some(kind) = rest.strip_prefix("ln0.").filter(|_| n == 0) {
        return Some(Target::Whole(format!("token_embd_norm.{kind}")));
    }
    let of_attention = rest.strip_prefix("att.").unwrap_or_default();
    if let Some(index) = MIXES.iter().position(|m| *m == of_attention) {
        return Some(Target::Member {
            stack: format!("blk.{n}.time_mix_lerp_fused.weight"),
            index,
        });
    }
    match of_attention.as_bytes() {
        [b'w' | b'a' | b'v' | b'g', b'1' | b'2'] => {
            return Some(Target::Turned(format!("blk.{n}.time_mix_{of_attention}.weight")));
        }
        [b'w' | b'a' | b'v', b'0'] | b"k_k" | b"k_a" | b"r_k" => {
            return Some(Target::Whole(format!("blk.{n}.time_mix_{of_attention}.weight")));
        }
        _ => {}
    }
    let (part, kind) = match rest.rsplit_once('.') {
        Some((part, kind @ ("weight" | "bias"))) => (part, kind),
        _ => (rest, "weight"),
    };
    let to = BLOCK.iter().find(|b| b.0 == part)?.1;
    Some(Target::Whole(format!("blk.{n}.{to}.{kind}")))
}

/// The facts: all but two numbers are told by the shapes of the tensors, which have GGUF's names by
/// now.
///
/// # Errors
/// [`gristmill_core::Error::Model`] naming the tensor that is missing.
pub(super) fn facts(c: &Config, tensors: &[TensorInfo<'_>], f: &mut Facts) -> Result<()> {
    let shape = |name: &str| tensors.iter().find(|t| t.name == name).map(|t| t.shape);
    let dimension = |name: &str, d: usize| -> Result<u32> {
        let found = shape(name).and_then(|s| u32::try_from(s[d]).ok());
        found.ok_or_else(|| {
            c.error(format!(
                "the weights have no tensor that '{name}' could be made of; RWKV-7 is read under \
                 the names of its author (emb.weight, blocks.0.att.r_k, ...)"
            ))
        })
    };
    let layer =
        |t: &TensorInfo<'_>| t.name.strip_prefix("blk.")?.split_once('.')?.0.parse::<u32>().ok();
    let layers = tensors.iter().filter_map(layer).max().map_or(0, |n| n.saturating_add(1));
    f.set("embedding_length", dimension("token_embd.weight", 0)?)?;
    f.set("block_count", layers)?;
    f.set("feed_forward_length", dimension("blk.0.channel_mix_key.weight", 1)?)?;
    f.set("wkv.head_size", dimension("blk.0.time_mix_r_k.weight", 0)?)?;
    // The first layer has no use for the values before it, and may lack what mixes them.
    let of_values =
        if layers > 1 { "blk.1.time_mix_v1.weight" } else { "blk.0.time_mix_a1.weight" };
    for (key, tensor) in [
        ("attention.decay_lora_rank", "blk.0.time_mix_w1.weight"),
        ("attention.iclr_lora_rank", "blk.0.time_mix_a1.weight"),
        ("attention.value_residual_mix_lora_rank", of_values),
        ("attention.gate_lora_rank", "blk.0.time_mix_g1.weight"),
    ] {
        f.set(key, dimension(tensor, 1)?)?;
    }
    // What the published code has as a constant.
    f.set("attention.layer_norm_epsilon", c.opt("layer_norm_epsilon")?.unwrap_or(1e-5f32))?;
    // A recurrence has no end; this is what its authors train up to and go on beyond.
    f.set("context_length", c.opt("max_position_embeddings")?.unwrap_or(1u32 << 20))
}
