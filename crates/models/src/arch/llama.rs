//! LLaMA (Touvron et al. 2023) and the decoders that differ from it by a fact or two: Mistral
//! (a window), Qwen 2 (biases) and 3 (a norm of queries and keys), Phi 3 (fused matrices),
//! Granite (four multipliers), GLM-4 (norms on both sides, half of a head rotates), OLMo 2 (norms
//! after each half layer only, and of all queries and keys together). Biases, fused matrices, frequency divisors and a tied head are
//! taken from what the file holds; a window from its key.

use super::decoder::Decoder;
use super::ends::End;
use super::meta::Meta;
use super::moe;
use gristmill_core::Result;
use gristmill_ir::{Architecture, QkNorm, RopePairs};

pub(super) fn read(m: &Meta<'_>) -> Result<Box<dyn Architecture + Send + Sync>> {
    // Files of these kinds have the rows of queries and keys reordered; the others as published.
    let pairs = match m.arch {
        "llama" | "granite" | "glm4" => RopePairs::Adjacent,
        _ => RopePairs::Halves,
    };
    let mut d = Decoder::read(m, pairs, |_| true)?;
    match m.arch {
        "qwen2" => d.qkv_bias = true,
        "qwen3" => d.qk_norm = Some(QkNorm::Head),
        "granite" => granite(m, &mut d)?,
        "glm4" => d.post_norms = true,
        "olmo2" => {
            (d.pre_norms, d.post_norms) = (false, true);
            d.qk_norm = Some(QkNorm::Full);
        }
        _ => {}
    }
    // Mixtral's files are of the kind `llama` too.
    if let Some(mut experts) = moe::experts(m)? {
        experts.renormalise = m.opt("expert_weights_norm")?.unwrap_or(true);
        moe::mix(m, &mut d, experts)?;
    }
    Ok(Box::new(d))
}

/// Multipliers of the embeddings, the residuals, the scores (`attention.scale`, read for all) and
/// the logits.
fn granite(m: &Meta<'_>, d: &mut Decoder) -> Result<()> {
    d.embed_scale = m.opt_positive("embedding_scale")?.unwrap_or(1.0);
    d.residual_scale = m.opt_positive("residual_scale")?.unwrap_or(1.0);
    if let End::Logits { scale, .. } = &mut d.end {
        *scale = 1.0 / m.opt_positive("logit_scale")?.unwrap_or(1.0);
    }
    Ok(())
}
