//! Masked diffusion models: a decoder in which every token sees every other. LLaDA (Nie et al.
//! 2025) has the body of LLaMA, LLaDA-MoE one of experts with a norm of queries and keys, Dream (Ye
//! et al. 2025) that of Qwen 2. What makes them diffusion models is in the engine.

use super::decoder::Decoder;
use super::meta::Meta;
use super::moe;
use gristmill_core::Result;
use gristmill_ir::{Architecture, QkNorm, RopePairs};

pub(super) fn read(m: &Meta<'_>) -> Result<Box<dyn Architecture + Send + Sync>> {
    // The rows of LLaDA's queries and keys are reordered in its files, as LLaMA's are.
    let pairs = if m.arch == "llada" { RopePairs::Adjacent } else { RopePairs::Halves };
    let mut d = Decoder::read(m, pairs, |_| true)?;
    match m.arch {
        "dream" => d.qkv_bias = true,
        "llada-moe" => d.qk_norm = Some(QkNorm::Head),
        _ => {}
    }
    if let Some(experts) = moe::experts(m)? {
        moe::mix(m, &mut d, experts)?;
    }
    Ok(Box::new(d))
}
