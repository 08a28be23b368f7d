//! Safetensors with a `config.json`: a model as Hugging Face's `transformers` saves it.
//!
//! [`open`] gives the model as the [`Gguf`] that it would be converted to, without converting
//! anything: `config.json` becomes GGUF's keys ([`facts`]), the files' tensors get GGUF's names
//! ([`names`]) and stay where they are. Only what has another form is made, when it is loaded and in
//! its own format: stacks of experts, transposed experts, MXFP4 with its scales apart ([`assemble`]),
//! integers of GPTQ and its like ([`packed`]).
//! So an architecture is described once, in `arch`, for both containers.
//!
//! - [`container`]: one file, its header checked against its bytes
//! - [`folder`]: which files a model has: one, or those that an index names
//! - [`config`], [`facts`], [`rope`]: `config.json` and its keys
//! - [`names`], [`names_bert`], [`names_rwkv7`], [`assemble`]: tensors
//! - [`quantization`], [`packed`]: quantized matrices, what `config.json` says and what the files hold

mod assemble;
mod config;
mod container;
mod facts;
mod folder;
mod names;
mod names_bert;
mod names_rwkv7;
mod packed;
mod quantization;
mod rope;

use crate::gguf::{Gguf, TensorInfo};
use crate::source::{Bytes, LoadMode, Source};
use assemble::{Held, Kind, OUTPUT};
use config::Config;
use gristmill_core::{DType, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Whether a path is for [`open`]: a folder, or a file of this container.
pub fn is_one(path: &Path) -> bool {
    let named = |e: &std::ffi::OsStr| e.eq_ignore_ascii_case("safetensors");
    path.is_dir() || path.extension().is_some_and(named)
}

/// Opens the model in a folder, or of a `.safetensors` file beside its `config.json`.
///
/// # Errors
/// [`gristmill_core::Error::Model`] naming the file and the field or the tensors that are wrong.
pub fn open(path: impl AsRef<Path>) -> Result<Gguf> {
    open_with(path, LoadMode::Auto)
}

/// [`open`], saying how tensor data shall come into memory.
///
/// # Errors
/// As [`open`]; also when a file cannot be mapped and must be.
pub fn open_with(path: impl AsRef<Path>, mode: LoadMode) -> Result<Gguf> {
    let files = folder::find(path.as_ref())?;
    let (config, shards) = match &files.config {
        Some(path) => (Config::open(path)?, None),
        // Only one kind of model is published without.
        None => {
            let shards = folder::read(&files, mode)?;
            let names = shards.iter().flat_map(|s| s.entries.iter().map(|e| e.name.as_str()));
            if !names_rwkv7::is_one(names) {
                return Err(folder::no_config(path.as_ref()));
            }
            let name = path.as_ref().display().to_string();
            (Config::parse(name, br#"{"model_type": "rwkv7"}"#)?, Some(shards))
        }
    };
    // Before the weights are looked at, because what cannot run need not be whole.
    let kind = kind(&config)?;
    let shards = shards.map_or_else(|| folder::read(&files, mode), Ok)?;
    let place = path.as_ref().display().to_string();
    put_together(place, &files.name, files.folder, &config, &kind, shards)
}

/// The model of a `config.json` and a file of weights that are in memory; `name` stands for it in
/// messages.
///
/// # Errors
/// As [`open`], about the contents.
pub fn from_bytes(name: impl Into<String>, config: &[u8], weights: Bytes) -> Result<Gguf> {
    let name = name.into();
    let config = Config::parse(format!("{name}/config.json"), config)?;
    let kind = kind(&config)?;
    let shard = folder::Shard::read(Source::from_bytes(name.clone(), weights))?;
    put_together(name.clone(), &name, PathBuf::from(&name), &config, &kind, vec![shard])
}

/// What decides whether a model can run before its weights are looked at.
fn kind(c: &Config) -> Result<Kind> {
    let model_type = facts::model_type(c)?;
    let unused_positions = names_bert::unused_positions(c, model_type)?;
    Ok(Kind { model_type, quantization: quantization::read(c)?, unused_positions })
}

/// The model in `folder`, which `place` stands for in messages and which calls itself `own_name`.
fn put_together(
    place: String,
    own_name: &str,
    folder: PathBuf,
    config: &Config,
    kind: &Kind,
    shards: Vec<folder::Shard>,
) -> Result<Gguf> {
    let held: Vec<Held<'_>> = shards
        .iter()
        .enumerate()
        .flat_map(|(i, s)| s.entries.iter().map(move |entry| Held { part: i + 1, entry }))
        .collect();
    if kind.quantization.is_none()
        && let Some(h) = held.iter().find(|h| packed::is_quantized(&h.entry.name))
    {
        let what = format_args!("does not say how '{}' is quantized", h.entry.name);
        return Err(config.wrong("quantization_config", what));
    }
    let output = Some(names::Target::Whole(OUTPUT.into()));
    let head = held.iter().any(|h| kind.place(&h.entry.name).0 == output);
    // Where the field is left out, the weights tell. An encoder has no head at all.
    let encodes = facts::is_encoder(kind.model_type);
    let tied = config.opt("tie_word_embeddings")?.filter(|_| !encodes).unwrap_or(!head);
    if !tied && !head {
        let what = "is false, but no tensor 'lm_head.weight' is in the files";
        return Err(config.wrong("tie_word_embeddings", what));
    }
    let mut parts: Vec<Source> = shards.iter().map(|s| s.source.clone()).collect();
    let mut tensors = assemble::assemble(&place, kind, tied, &held, &parts)?;
    let mut facts = facts::read(config, kind.model_type, own_name)?;
    if kind.model_type == "rwkv7" {
        let tensors: Vec<TensorInfo<'_>> = tensors.iter().map(|t| t.0.clone()).collect();
        names_rwkv7::facts(config, &tensors, &mut facts)?;
    }
    if let Some(how) = names_bert::pooling(config, &folder)? {
        facts.set("pooling_type", how)?;
    }

    // Numbers of the configuration that programs read as tensors, one after the other.
    let mut computed: Vec<u8> = vec![];
    for (name, values) in &facts.tensors {
        let (offset, part) = (computed.len(), shards.len() + 1);
        computed.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        let (bytes, shape) = (values.len() * 4, [values.len(), 1, 1, 1]);
        let (name, dtype) = ((*name).into(), DType::F32);
        tensors.push((TensorInfo { name, dtype, shape, n_dims: 1, offset, bytes, part }, None));
    }
    parts.push(Source::from_bytes(place.clone(), Arc::new(computed)));
    Gguf::assembled(place, folder, facts.head()?, parts, tensors)
}
