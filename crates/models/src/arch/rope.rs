//! The rotation as the metadata states it.

use super::meta::{MAX_HEAD, Meta};
use gristmill_core::Result;
use gristmill_ir::{Program, Rope, RopePairs, Yarn};

/// Base of the frequencies where the file does not say.
pub(super) const THETA: f32 = 10_000.0;

/// Divisors of the frequencies, for any context.
const FACTORS: &str = "rope_freqs.weight";
/// Divisors up to the original context and beyond it, of the longrope scaling.
const SHORT: &str = "rope_factors_short.weight";
const LONG: &str = "rope_factors_long.weight";

/// The rotation of heads of `head_dim` elements, without the divisors of its frequencies.
///
/// `rope.scaling.type` is `none`, `linear` (the meaning of a factor without a type), `yarn` (Peng et
/// al. 2023), or `longrope` (Ding et al. 2024). Queries and keys are multiplied by `attn_factor` and
/// by a magnitude of the scaling: with YaRN `yarn_attn_factor`, which converters copy from the
/// published `attention_factor` (llama.cpp does not look at it), or else the paper's
/// `0.1 ln(factor) + 1`, divided by the same of `yarn_log_multiplier` times the logarithm where there
/// is one; with longrope, where there is no `attn_factor`, its paper's
/// `sqrt(1 + ln(factor) / ln(original context))`.
///
/// The files of other containers also say which elements are a pair, `rope.pairs`.
pub(super) fn read(m: &Meta<'_>, pairs: RopePairs, head_dim: u32) -> Result<Rope> {
    let pairs = match m.opt::<&str>("rope.pairs")? {
        None => pairs,
        Some("halves") => RopePairs::Halves,
        Some("adjacent") => RopePairs::Adjacent,
        Some(other) => {
            let what = format!("is '{other}', not halves or adjacent");
            return Err(m.wrong("rope.pairs", what));
        }
    };
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
    // Converters have written a factor of 0 for none.
    let factor = match m.opt::<f32>("rope.scaling.factor")? {
        None => m.opt_positive("rope.scale_linear")?.unwrap_or(1.0),
        Some(0.0) => 1.0,
        Some(_) => m.positive("rope.scaling.factor")?,
    };
    let attn_factor = m.opt_positive("rope.scaling.attn_factor")?;
    let kind = match m.opt::<&str>("rope.scaling.type")? {
        // Files of this kind often do not name it.
        _ if m.has(LONG) || m.has(SHORT) => "longrope",
        None => "linear",
        Some(kind) => kind,
    };
    match kind {
        "none" => {}
        "linear" => rope.scale = 1.0 / factor,
        "yarn" => {
            rope.scale = 1.0 / factor;
            let by_paper =
                |log: f32| if factor > 1.0 { 0.1 * log * factor.ln() + 1.0 } else { 1.0 };
            let log = m.opt::<f32>("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0);
            let magnitude = m.opt_positive("rope.scaling.yarn_attn_factor")?;
            let magnitude = magnitude.unwrap_or_else(|| by_paper(1.0) / by_paper(log));
            rope.magnitude = attn_factor.unwrap_or(1.0) * magnitude;
            rope.yarn = Some(Yarn {
                original_context: original_context(m)?,
                fast: m.opt_positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                slow: m.opt_positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                truncate: m.opt("rope.scaling.yarn_truncate")?.unwrap_or(true),
            });
        }
        "longrope" => {
            if !(m.has(LONG) && m.has(SHORT)) {
                let missing = if m.has(LONG) { SHORT } else { LONG };
                return Err(m.gguf.error(format!(
                    "tensor '{missing}' is missing: the longrope scaling needs both sets"
                )));
            }
            let original = original_context(m)? as f32;
            let factor = m.context_length()? as f32 / original;
            let by_paper = || match factor > 1.0 {
                true => (1.0 + factor.ln() / original.ln()).sqrt(),
                false => 1.0,
            };
            rope.magnitude = attn_factor.unwrap_or_else(by_paper);
        }
        other => {
            let what = format!("is '{other}'; none, linear, yarn and longrope are supported");
            return Err(m.wrong("rope.scaling.type", what));
        }
    }
    Ok(rope)
}

/// Tokens that the model was trained on before its context was stretched.
fn original_context(m: &Meta<'_>) -> Result<u32> {
    let original = m.opt_count("rope.scaling.original_context_length", u32::MAX)?;
    original.map_or_else(|| m.context_length(), Ok)
}

/// The tensor of the file that divides the frequencies. Of longrope's two the one for the model's
/// whole context; [`fit`] takes the other where less is asked for.
pub(super) fn factors(m: &Meta<'_>) -> Result<Option<&'static str>> {
    if m.has(LONG) {
        let long = m.context_length()? > original_context(m)?;
        return Ok(Some(if long { LONG } else { SHORT }));
    }
    Ok(m.has(FACTORS).then_some(FACTORS))
}

/// Makes a program name the divisors for a context of that many tokens.
///
/// The published code chooses for every pass, by the longest position in it, so that a sequence
/// that grows past the original context is turned by frequencies that its cached keys were not.
/// Here, as in llama.cpp, the choice is made once, by the context that a sequence may grow to.
pub(super) fn fit(program: &mut Program, m: &Meta<'_>, context: u32) -> Result<()> {
    let long = context > original_context(m)?;
    let [from, to] = if long { [SHORT, LONG] } else { [LONG, SHORT] };
    for decl in program.tensors.iter_mut().filter(|d| d.name == from) {
        decl.name = to.into();
    }
    Ok(())
}
