//! Gemma 1, 2 and 3 (Google 2024 and 2025): embeddings times √width and a tanh-GELU gate. From 2
//! on, norms on both sides of each half layer and a window in some layers; 2 caps its scores and
//! logits, 3 norms its queries and keys instead. The weights of the norms in the files are around
//! one: the converters add the one that the original leaves out (`norm_offset` says where not).

use super::decoder::Decoder;
use super::ends::End;
use super::meta::Meta;
use super::rope::THETA;
use gristmill_core::Result;
use gristmill_ir::{Act, Architecture, QkNorm, RopePairs};

pub(super) fn read(m: &Meta<'_>) -> Result<Box<dyn Architecture + Send + Sync>> {
    let generation = match m.arch {
        "gemma3" => 3,
        "gemma2" => 2,
        _ => 1,
    };
    if generation == 2 {
        m.count("attention.sliding_window", u32::MAX)?;
    }
    // Every second layer sees everything, in Gemma 3 every sixth.
    let period = if generation == 3 { 6 } else { 2 };
    let mut d = Decoder::read(m, RopePairs::Halves, |i| i % period + 1 != period)?;
    d.embed_scale = (d.width as f32).sqrt();
    d.act = Act::GeluTanh;
    d.post_norms = generation > 1;

    // The 27B models scale their scores by the width of a head of the residual stream.
    if let (2, 46) | (3, 62) = (generation, d.layers.len())
        && m.opt_positive("attention.scale")?.is_none()
    {
        d.attn_scale = 1.0 / (d.width as f32 / d.layers[0].heads as f32).sqrt();
    }
    let caps = if generation == 2 { [Some(50.0), Some(30.0)] } else { [None; 2] };
    d.attn_softcap = cap(m, "attn_logit_softcapping", caps[0])?;
    if let End::Logits { softcap, .. } = &mut d.end {
        *softcap = cap(m, "final_logit_softcapping", caps[1])?;
    }
    if generation == 3 {
        d.qk_norm = Some(QkNorm::Head);
        let theta = m.opt_positive("rope.freq_base_swa")?.unwrap_or(THETA);
        for local in d.layers.iter_mut().filter(|l| l.window.is_some()) {
            local.rope.theta = theta;
            local.rope.scale = 1.0;
        }
    }
    Ok(Box::new(d))
}

/// A cap of scores or logits; 0 says that there is none.
fn cap(m: &Meta<'_>, key: &str, default: Option<f32>) -> Result<Option<f32>> {
    match m.opt::<f32>(key)? {
        None => Ok(default),
        Some(0.0) => Ok(None),
        Some(_) => m.opt_positive(key),
    }
}
