//! `quantization_config`: how matrices are stored that are no floats.
//!
//! Three programs write integers with scales, which become packed types: compressed-tensors in its
//! format `pack-quantized`, GPTQ (AutoGPTQ, GPTQModel) and AWQ (AutoAWQ, version `gemm`). Their fields
//! are described by those projects and by `transformers`' `quantization_config.py`.
//!
//! A model may have several settings, for layers that patterns name. The patterns are not read:
//! which layers are quantized and by which setting shows in the names and shapes of their tensors,
//! and no two settings that differ agree with the same tensors. Layers that are left out by name
//! must be floats.

use super::config::Config;
use gristmill_core::Result;
use gristmill_core::quant::PackedLayout;

/// How a model's matrices are stored.
#[derive(Debug)]
pub(super) struct Quantization {
    /// Whether tensors are called as compressed-tensors calls them.
    pub(super) compressed_tensors: bool,
    /// The settings, at least one.
    pub(super) schemes: Vec<Scheme>,
    /// The field that names layers of floats, and its names.
    pub(super) left_out: (&'static str, Vec<String>),
}

/// One setting.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Scheme {
    pub(super) layout: PackedLayout,
    /// 1, 2, 4 or 8.
    pub(super) bits: usize,
    /// Columns of a group, a multiple of 32; `None` where a row is one group.
    pub(super) group: Option<usize>,
    /// Whether zeros are stored.
    pub(super) zeros: bool,
    /// Whether columns may be in groups by their activations, so that their order must be there.
    pub(super) ordered: bool,
}

/// Reads the field; nothing where it is absent, or speaks of what tensors show by themselves.
///
/// # Errors
/// [`gristmill_core::Error::Model`] naming the field that says what is not implemented.
pub(super) fn read(c: &Config) -> Result<Option<Quantization>> {
    // Older files of compressed-tensors have the second.
    for field in ["quantization_config", "compression_config"] {
        let Some(q) = c.inner(field)? else { continue };
        return match q.opt::<&str>("quant_method")?.unwrap_or("not named") {
            "mxfp4" => Ok(None),
            "compressed-tensors" => compressed_tensors(&q).map(Some),
            "gptq" => gptq(&q).map(Some),
            "awq" => awq(&q).map(Some),
            other => Err(c.wrong(
                field,
                format_args!(
                    "has the method '{other}', which is not read; those that are: \
                     compressed-tensors, gptq, awq, mxfp4. Use one of them, or a GGUF of the model"
                ),
            )),
        };
    }
    Ok(None)
}

fn compressed_tensors(q: &Config) -> Result<Quantization> {
    for field in ["kv_cache_scheme", "transform_config"] {
        if q.inner(field)?.is_some_and(|inner| inner.keys().next().is_some()) {
            return Err(q.wrong(field, "is there; only quantized weights are read"));
        }
    }
    if let Some(sparsity) = q.inner("sparsity_config")? {
        only(&sparsity, "format", &["dense"])?;
    }
    let format: Option<&str> = q.opt("format")?;
    let Some(groups) = q.inner("config_groups")? else {
        return Err(q.wrong("config_groups", "is missing: the configuration is incomplete"));
    };
    let mut schemes = vec![];
    for name in groups.keys() {
        let Some(group) = groups.inner(name)? else { continue };
        for field in ["input_activations", "output_activations"] {
            if group.inner(field)?.is_some() {
                return Err(group.wrong(field, "is there; only quantized weights are read"));
            }
        }
        let Some(weights) = group.inner("weights")? else { continue };
        match group.opt::<&str>("format")?.or(format) {
            Some("pack-quantized") => {}
            other => {
                let other = other.unwrap_or("not named");
                let what =
                    format_args!("is '{other}', which is not read; only 'pack-quantized' is");
                return Err(q.wrong("format", what));
            }
        }
        schemes.push(compressed_scheme(&weights)?);
    }
    if schemes.is_empty() {
        return Err(q.wrong("config_groups", "has no group of quantized weights"));
    }
    let left_out = ("ignore", left_out(q, "ignore")?);
    Ok(Quantization { compressed_tensors: true, schemes, left_out })
}

/// The setting of one group's weights.
fn compressed_scheme(w: &Config) -> Result<Scheme> {
    only(w, "type", &["int"])?;
    if w.opt::<bool>("dynamic")? == Some(true) {
        return Err(w.wrong("dynamic", "is true, which weights cannot be"));
    }
    let group = group_size(w)?;
    match (w.opt::<&str>("strategy")?, group) {
        (Some("group"), Some(_)) | (Some("channel"), None) => {}
        // Where the strategy is left out, -1 says that rows are groups.
        (None, Some(_)) => {}
        (None, None) if w.opt::<i64>("group_size")?.is_some() => {}
        (Some("group"), None) => {
            return Err(w.wrong("group_size", "is missing, though 'strategy' is 'group'"));
        }
        (Some("channel"), Some(n)) => {
            let what = format_args!("is {n}, though 'strategy' is 'channel'");
            return Err(w.wrong("group_size", what));
        }
        (other, _) => {
            let other = other.unwrap_or("tensor");
            let what = format_args!("is '{other}', which is not read; 'group' and 'channel' are");
            return Err(w.wrong("strategy", what));
        }
    }
    // Once true or false, now a name.
    let ordered = match w.opt::<bool>("actorder") {
        Ok(order) => order.unwrap_or(false),
        Err(_) => matches!(w.opt::<&str>("actorder")?, Some("group" | "dynamic")),
    };
    Ok(Scheme {
        layout: PackedLayout::CompressedTensors,
        bits: bits(w, "num_bits")?,
        group,
        zeros: !w.opt::<bool>("symmetric")?.unwrap_or(true),
        ordered,
    })
}

fn gptq(q: &Config) -> Result<Quantization> {
    let named = match q.opt::<&str>("checkpoint_format")? {
        Some(name) => ("checkpoint_format", name),
        None => ("format", q.opt("format")?.unwrap_or("gptq")),
    };
    let layout = match named {
        (_, "gptq") => PackedLayout::Gptq,
        (_, "gptq_v2") => PackedLayout::GptqV2,
        (field, other) => {
            let what = format_args!("is '{other}', which is not read; 'gptq' and 'gptq_v2' are");
            return Err(q.wrong(field, what));
        }
    };
    if q.opt::<bool>("is_marlin_format")? == Some(true) {
        return Err(q.wrong("is_marlin_format", "is true, which is not read"));
    }
    only(q, "pack_dtype", &["int32"])?;
    let base = scheme(q, layout)?;
    let mut schemes = vec![base];
    // Layers with settings of their own, by patterns; "-:" leaves layers out.
    if let Some(others) = q.inner("dynamic")? {
        for pattern in others.keys().filter(|p| !p.starts_with("-:")) {
            let Some(own) = others.inner(pattern)? else { continue };
            let has = |field: &str| own.keys().any(|k| k == field);
            let own = Scheme {
                bits: if has("bits") { bits(&own, "bits")? } else { base.bits },
                group: if has("group_size") { group_size(&own)? } else { base.group },
                ordered: own.opt("desc_act")?.unwrap_or(base.ordered),
                ..base
            };
            schemes.push(own);
        }
    }
    let left_out = ("modules_to_not_convert", left_out(q, "modules_to_not_convert")?);
    Ok(Quantization { compressed_tensors: false, schemes, left_out })
}

fn awq(q: &Config) -> Result<Quantization> {
    for field in ["version", "format"] {
        if let Some(version) = q.opt::<&str>(field)?.filter(|v| !v.eq_ignore_ascii_case("gemm")) {
            let what = format_args!("is '{version}', which is not read; only 'gemm' is");
            return Err(q.wrong(field, what));
        }
    }
    if q.opt::<&str>("backend")? == Some("llm-awq") {
        return Err(q.wrong("backend", "is 'llm-awq', whose layout is not read; AutoAWQ's is"));
    }
    if q.opt::<bool>("zero_point")? == Some(false) {
        return Err(q.wrong("zero_point", "is false, which version 'gemm' cannot have"));
    }
    let scheme = scheme(q, PackedLayout::Awq)?;
    if scheme.bits != 4 {
        return Err(q.wrong("bits", format_args!("is {}; AWQ has 4", scheme.bits)));
    }
    let left_out = ("modules_to_not_convert", left_out(q, "modules_to_not_convert")?);
    Ok(Quantization { compressed_tensors: false, schemes: vec![scheme], left_out })
}

/// The setting of GPTQ or AWQ.
fn scheme(q: &Config, layout: PackedLayout) -> Result<Scheme> {
    q.opt::<bool>("sym")?; // zeros are there in either case
    Ok(Scheme {
        layout,
        bits: bits(q, "bits")?,
        group: group_size(q)?,
        zeros: true,
        ordered: q.opt("desc_act")?.unwrap_or(false),
    })
}

fn bits(c: &Config, field: &str) -> Result<usize> {
    match c.get::<u32>(field)? {
        n @ (1 | 2 | 4 | 8) => Ok(n as usize),
        n => Err(c.wrong(field, format_args!("is {n}; integers of 1, 2, 4 or 8 bits are read"))),
    }
}

/// Columns of a group; none where the field is -1 or absent.
fn group_size(c: &Config) -> Result<Option<usize>> {
    match c.opt::<i64>("group_size")? {
        None | Some(-1) => Ok(None),
        Some(n) if n > 0 && n % 32 == 0 => match usize::try_from(n) {
            Ok(n) => Ok(Some(n)),
            Err(_) => Err(c.wrong("group_size", format_args!("is {n}: too large"))),
        },
        Some(n) => {
            let what = "multiples of 32 are read, and -1 for whole rows";
            Err(c.wrong("group_size", format_args!("is {n}; {what}")))
        }
    }
}

/// Refuses a field that is there and says something else.
fn only(c: &Config, field: &str, values: &[&str]) -> Result<()> {
    match c.opt::<&str>(field)? {
        Some(other) if !values.contains(&other) => {
            let what =
                format_args!("is '{other}', which is not read; '{}' is", values.join("', '"));
            Err(c.wrong(field, what))
        }
        _ => Ok(()),
    }
}

/// Names of layers that are floats; patterns are not among them.
fn left_out(c: &Config, field: &str) -> Result<Vec<String>> {
    let names = c.opt::<Vec<&str>>(field)?.unwrap_or_default();
    Ok(names.into_iter().filter(|n| !n.starts_with("re:")).map(str::to_owned).collect())
}
