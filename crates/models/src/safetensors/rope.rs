//! The rotation: `rope_parameters`, or `rope_theta` with `rope_scaling` as files had it before.
//!
//! The formulas are those of `transformers`, `modeling_rope_utils.py`, in f64.

use super::config::Config;
use super::facts::Facts;
use gristmill_core::Result;
use std::f64::consts::PI;

/// Writes the keys of the rotation.
///
/// # Errors
/// [`gristmill_core::Error::Model`] naming the field.
pub(super) fn read(c: &Config, model_type: &str, f: &mut Facts) -> Result<()> {
    let mut all = c.inner("rope_parameters")?;
    if all.is_none() {
        all = c.inner("rope_scaling")?;
    }
    let all = all.unwrap_or_else(|| Config::parse(String::new(), b"{}").expect("an object"));
    // One for each type of layer, or one for all.
    let (full, local) = match all.inner("full_attention")? {
        Some(full) => (full, all.inner("sliding_attention")?),
        None => (all, None),
    };
    let default_theta = match model_type {
        "mixtral" | "gemma3" | "gemma3_text" => 1e6,
        "gpt_oss" => 150_000.0,
        _ => 10_000.0,
    };
    let theta = |p: &Config| -> Result<Option<f64>> {
        let own = positive(p, "rope_theta")?;
        own.map_or_else(|| positive(c, "rope_theta"), |x| Ok(Some(x)))
    };
    let base = theta(&full)?.unwrap_or(default_theta);
    f.set("rope.freq_base", base as f32)?;
    let dims = dimensions(c, &full, model_type)?;
    f.set("rope.dimension_count", dims)?;
    scaling(c, &full, model_type, Plain { dims, base }, f)?;

    let local_theta = match &local {
        None => positive(c, "rope_local_base_freq")?,
        Some(local) => {
            let kind = scaling_type(local)?;
            if model_type.starts_with("gemma3") && kind.is_none_or(|k| k == "default") {
                positive(local, "rope_theta")?
            } else {
                let what = "has a scaling of windowed layers, which does not run";
                return Err(c.wrong("rope_parameters", what));
            }
        }
    };
    if let Some(theta) = local_theta {
        f.set("rope.freq_base_swa", theta as f32)?;
    }
    Ok(())
}

/// Frequencies before any scaling.
#[derive(Clone, Copy)]
struct Plain {
    dims: u32,
    base: f64,
}

fn positive(c: &Config, key: &str) -> Result<Option<f64>> {
    match c.opt::<f64>(key)? {
        Some(x) if !(x > 0.0 && x.is_finite()) => {
            Err(c.wrong(key, format_args!("is {x}, not a number above zero")))
        }
        x => Ok(x),
    }
}

/// Elements of a head that rotate.
fn dimensions(c: &Config, p: &Config, model_type: &str) -> Result<u32> {
    let head_dim = match c.opt::<u32>("head_dim")? {
        Some(n) => n,
        None => {
            let (width, heads) = (c.get::<u32>("hidden_size")?, c.get("num_attention_heads")?);
            width.checked_div(heads).unwrap_or(0)
        }
    };
    let key = "partial_rotary_factor";
    let given = match positive(p, key)? {
        None => positive(c, key)?,
        given => given,
    };
    let part = given.unwrap_or(if model_type == "glm4" { 0.5 } else { 1.0 });
    let dims = (f64::from(head_dim) * part) as u32;
    if dims == 0 || !dims.is_multiple_of(2) || dims > head_dim {
        let what = format!("is {part}: {dims} of {head_dim} elements cannot rotate in pairs");
        return Err(c.wrong(key, what));
    }
    Ok(dims)
}

fn scaling_type(p: &Config) -> Result<Option<&str>> {
    match p.opt("rope_type")? {
        None => p.opt("type"),
        kind => Ok(kind),
    }
}

fn scaling(c: &Config, p: &Config, model_type: &str, plain: Plain, f: &mut Facts) -> Result<()> {
    let kind = match scaling_type(p)?.unwrap_or("default") {
        // Names that files of Phi 3 had for it.
        "su" | "yarn" if model_type == "phi3" => "longrope",
        "su" => "longrope",
        kind => kind,
    };
    let context = f64::from(c.get::<u32>("max_position_embeddings")?);
    let original = || -> Result<u32> {
        let key = "original_max_position_embeddings";
        let given = match c.opt::<u32>(key)? {
            None => p.opt(key)?,
            given => given,
        };
        let n = given.map_or_else(|| c.get("max_position_embeddings"), Ok)?;
        if n == 0 { Err(c.wrong(key, "is 0")) } else { Ok(n) }
    };
    let factor = |original: u32| -> Result<f64> {
        Ok(positive(p, "factor")?.unwrap_or(context / f64::from(original)))
    };
    match kind {
        "default" | "none" => {}
        "linear" => {
            f.set("rope.scaling.type", "linear")?;
            f.set("rope.scaling.factor", required(p, "factor")? as f32)?;
        }
        "llama3" => {
            let original = f64::from(original()?);
            f.tensors.push(("rope_freqs.weight", llama3(p, plain, original)?));
        }
        "yarn" => {
            let original = original()?;
            let factor = factor(original)?;
            f.set("rope.scaling.type", "yarn")?;
            f.set("rope.scaling.factor", factor as f32)?;
            f.set("rope.scaling.original_context_length", original)?;
            for (field, key) in [
                ("beta_fast", "rope.scaling.yarn_beta_fast"),
                ("beta_slow", "rope.scaling.yarn_beta_slow"),
            ] {
                if let Some(x) = positive(p, field)? {
                    f.set(key, x as f32)?;
                }
            }
            f.set("rope.scaling.yarn_truncate", p.opt("truncate")?.unwrap_or(true))?;
            f.set("rope.scaling.yarn_attn_factor", yarn_magnitude(p, factor)? as f32)?;
        }
        "longrope" => {
            let original = original()?;
            f.set("rope.scaling.type", "longrope")?;
            f.set("rope.scaling.original_context_length", original)?;
            let magnitude = match positive(p, "attention_factor")? {
                Some(x) => x,
                None => {
                    let factor = factor(original)?;
                    let ln_original = f64::from(original).ln();
                    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / ln_original).sqrt() }
                }
            };
            f.set("rope.scaling.attn_factor", magnitude as f32)?;
            for (field, name) in [
                ("short_factor", "rope_factors_short.weight"),
                ("long_factor", "rope_factors_long.weight"),
            ] {
                let factors: Vec<f32> = p.get(field)?;
                if factors.len() != plain.dims as usize / 2 || factors.iter().any(|&x| x <= 0.0) {
                    let what = format!("is not {} numbers above zero", plain.dims / 2);
                    return Err(p.wrong(field, what));
                }
                f.tensors.push((name, factors));
            }
        }
        other => {
            let what =
                format!("is '{other}'; default, linear, llama3, yarn and longrope are supported");
            return Err(p.wrong("rope_type", what));
        }
    }
    Ok(())
}

fn required(p: &Config, key: &str) -> Result<f64> {
    positive(p, key)?.map_or_else(|| p.get(key), Ok)
}

/// What multiplies queries and keys under YaRN.
fn yarn_magnitude(p: &Config, factor: f64) -> Result<f64> {
    if let Some(x) = positive(p, "attention_factor")? {
        return Ok(x);
    }
    let mscale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
    let present = |key: &str| Ok(p.opt::<f64>(key)?.filter(|&x| x != 0.0));
    Ok(match (present("mscale")?, present("mscale_all_dim")?) {
        (Some(own), Some(all)) => mscale(own) / mscale(all),
        _ => mscale(1.0),
    })
}

/// Divisors of the frequencies: 1 for short wavelengths, `factor` for long ones, a mixture between.
fn llama3(p: &Config, plain: Plain, original: f64) -> Result<Vec<f32>> {
    let [factor, low, high] =
        ["factor", "low_freq_factor", "high_freq_factor"].map(|key| required(p, key));
    let (factor, low, high) = (factor?, low?, high?);
    let dims = f64::from(plain.dims);
    let divisor = |i: u32| {
        let wavelength = 2.0 * PI * plain.base.powf(f64::from(2 * i) / dims);
        if wavelength < original / high {
            1.0
        } else if wavelength > original / low {
            factor
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    Ok((0..plain.dims / 2).map(|i| divisor(i) as f32).collect())
}
