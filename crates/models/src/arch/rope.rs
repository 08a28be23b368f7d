//! The rotation as the metadata states it.

use super::meta::{MAX_HEAD, Meta};
use gristmill_core::Result;
use gristmill_ir::{Rope, RopePairs, Yarn};

/// Base of the frequencies where the file does not say.
pub(super) const THETA: f32 = 10_000.0;

/// The rotation of heads of `head_dim` elements, without the divisors of `rope_freqs.weight`.
///
/// `rope.scaling.type` is `none`, `linear` (the meaning of a factor without a type) or `yarn`,
/// whose attention factor `0.1 ln(factor) + 1` (Peng et al. 2023) multiplies queries and keys.
pub(super) fn read(m: &Meta<'_>, pairs: RopePairs, head_dim: u32) -> Result<Rope> {
    let mut rope = Rope {
        pairs,
        dims: m.opt_count("rope.dimension_count", MAX_HEAD)?.unwrap_or(head_dim),
        theta: m.opt_positive("rope.freq_base")?.unwrap_or(THETA),
        factors: None,
        scale: 1.0,
        magnitude: 1.0,
        yarn: None,
        sections: None,
    };
    if m.has("rope_factors_long.weight") {
        return Err(m.gguf.error(
            "tensor 'rope_factors_long.weight': the longrope scaling is not supported; use the \
             model's variant for short contexts",
        ));
    }
    // Converters have written a factor of 0 for none.
    let factor = match m.opt::<f32>("rope.scaling.factor")? {
        None => m.opt_positive("rope.scale_linear")?.unwrap_or(1.0),
        Some(0.0) => 1.0,
        Some(_) => m.positive("rope.scaling.factor")?,
    };
    match m.opt::<&str>("rope.scaling.type")? {
        Some("none") => {}
        None | Some("linear") => rope.scale = 1.0 / factor,
        Some("yarn") => {
            let original = m.opt_count("rope.scaling.original_context_length", u32::MAX)?;
            let attention = m.opt_positive("rope.scaling.attn_factor")?.unwrap_or(1.0);
            rope.scale = 1.0 / factor;
            rope.magnitude = attention * (0.1 * factor.ln() + 1.0);
            rope.yarn = Some(Yarn {
                original_context: original.map_or_else(|| m.context_length(), Ok)?,
                fast: m.opt_positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                slow: m.opt_positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            });
        }
        Some(other) => {
            let what = format!("is '{other}'; none, linear and yarn are supported");
            return Err(m.wrong("rope.scaling.type", what));
        }
    }
    Ok(rope)
}
