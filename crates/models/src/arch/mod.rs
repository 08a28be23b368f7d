//! Architectures: what each kind of model computes.
//!
//! A family reads its facts from a file's metadata into a typed struct (an error names the key),
//! and records them as a [`Program`]. `FAMILIES` is the one list. Nearly every decoder is the
//! same body, `decoder`, and a family file says only what it adds to it:
//!
//! - `llama`: LLaMA, Mistral, Qwen 2 and 3, Phi 3, Granite, GLM-4, OLMo 2
//! - `gemma`: Gemma 1, 2 and 3
//! - `moe`: mixtures of experts, Mixtral, Qwen and gpt-oss
//! - `llada`: the masked diffusion models LLaDA and Dream
//! - `denoiser`: Gaussian diffusion
//! - `bert`: sentence embeddings and rerankers
//! - `rwkv7`: a recurrence instead of attention
//!
//! Node names say where in the model they are: `embed`, `blk.N.attn_norm`, `blk.N.qkv`,
//! `blk.N.attn`, `blk.N.attn_out`, `blk.N.ffn_norm`, `blk.N.gate_up`, `blk.N.ffn_down`,
//! `output_norm`, `output`. A residual is named after the norm that follows it. `select` keeps the
//! rows whose logits are wanted, as early as no later operation looks at the others.

mod bert;
mod check;
mod decoder;
mod denoiser;
mod ends;
mod gemma;
mod llada;
mod llama;
mod meta;
mod moe;
mod parts;
mod rope;
mod rwkv7;

pub use check::{check_tensors, tensor};

use crate::Gguf;
use gristmill_core::{DType, Error, Result};
use gristmill_ir::{Architecture, Pooling, Program};
use meta::Meta;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvTypes {
    /// Of the keys.
    pub k: DType,
    /// Of the values.
    pub v: DType,
}

/// What a token sees of its sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Itself and what is before it.
    Causal,
    /// Everything.
    Bidirectional,
}

/// What a model shall give. One file may hold what is needed for several of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// What the file says.
    AsFile,
    /// A vector for each sequence, pooled this way.
    Vectors(Pooling),
    /// Scores of each sequence, where the file has a head for them; else what it says.
    Scores,
}

/// What an engine needs to know of a model beside its program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// `general.architecture` of the file.
    pub architecture: String,
    /// Tokens of the vocabulary, and elements of a row of logits.
    pub vocab_size: u32,
    /// Tokens the model was made for.
    pub context_length: u32,
    /// Elements of a hidden state.
    pub width: u32,
    /// Layers.
    pub layers: u32,
    /// What a token sees.
    pub visibility: Visibility,
    /// The token that stands for one still to be found, in masked diffusion.
    pub mask_token: Option<u32>,
    /// Masked diffusion: whether row `i` of the logits predicts token `i + 1` (Dream) rather than
    /// token `i` (LLaDA).
    pub shift_logits: bool,
}

impl ModelInfo {
    /// Whether the model fills in masks, seeing the whole text.
    pub fn is_masked_diffusion(&self) -> bool {
        matches!(self.architecture.as_str(), "llada" | "llada-moe" | "dream")
    }

    /// Whether the model brings texts out of noise, step by step.
    pub fn is_denoiser(&self) -> bool {
        self.architecture == "denoiser"
    }
}

/// An architecture read from a file, ready to record.
pub struct Model {
    /// What an engine needs to know.
    pub info: ModelInfo,
    /// The name of the file, for messages.
    file: String,
    family: Box<dyn Architecture + Send + Sync>,
}

/// Reads the facts of a family from a file.
type Read = fn(&Meta<'_>) -> Result<Box<dyn Architecture + Send + Sync>>;

/// The names in `general.architecture`, what a token sees where the file does not say, and the
/// family.
const FAMILIES: [(&str, Visibility, Read); 20] = [
    ("llama", Visibility::Causal, llama::read),
    ("qwen2", Visibility::Causal, llama::read),
    ("qwen3", Visibility::Causal, llama::read),
    ("phi3", Visibility::Causal, llama::read),
    ("granite", Visibility::Causal, llama::read),
    ("glm4", Visibility::Causal, llama::read),
    ("olmo2", Visibility::Causal, llama::read),
    ("gemma", Visibility::Causal, gemma::read),
    ("gemma2", Visibility::Causal, gemma::read),
    ("gemma3", Visibility::Causal, gemma::read),
    ("qwen2moe", Visibility::Causal, moe::read),
    ("qwen3moe", Visibility::Causal, moe::read),
    ("gpt-oss", Visibility::Causal, moe::read),
    ("llada", Visibility::Bidirectional, llada::read),
    ("llada-moe", Visibility::Bidirectional, llada::read),
    ("dream", Visibility::Bidirectional, llada::read),
    ("denoiser", Visibility::Bidirectional, denoiser::read),
    ("rwkv7", Visibility::Causal, rwkv7::read),
    ("bert", Visibility::Bidirectional, bert::read),
    ("nomic-bert", Visibility::Bidirectional, bert::read),
];

/// The names of `general.architecture` that run here.
pub fn supported() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|f| f.0)
}

/// Makes a program, recorded for the model's whole context, right for sequences of `context` tokens:
/// some models rotate by other frequencies beyond the context they were first trained on.
///
/// # Errors
/// [`Error::Model`] naming the key that says how long that was, when it is wrong.
pub fn fit_to_context(mut program: Program, gguf: &Gguf, context: u32) -> Result<Program> {
    let arch = gguf.get_str("general.architecture")?;
    let kv = KvTypes { k: DType::F32, v: DType::F32 };
    let meta = Meta { gguf, arch, kv, visibility: Visibility::Causal, wanted: Wanted::AsFile };
    rope::fit(&mut program, &meta, context)?;
    Ok(program)
}

/// Reads the architecture of a file; `kv` says how it shall store keys and values.
///
/// # Errors
/// [`Error::Model`] for a file that is no language model (an adapter, a vision projector), for an
/// architecture that is not in the list, and naming the key that is
/// missing, of another type or out of range.
pub fn architecture(gguf: &Gguf, kv: KvTypes) -> Result<Model> {
    architecture_for(gguf, kv, Wanted::AsFile)
}

/// [`architecture`] of a model that shall give what is wanted.
///
/// # Errors
/// As [`architecture`].
pub fn architecture_for(gguf: &Gguf, kv: KvTypes, wanted: Wanted) -> Result<Model> {
    let known = || supported().collect::<Vec<_>>().join(", ");
    let kind = gguf.opt::<&str>("general.type")?;
    let arch = gguf.opt::<&str>("general.architecture")?;
    let part = match (kind, arch) {
        (Some("adapter"), _) => Some("an adapter (LoRA), which changes another model"),
        (Some("mmproj"), _) | (_, Some("clip")) => Some("a vision projector, a part of a model"),
        (Some("imatrix"), _) => Some("an importance matrix, an aid for quantizing"),
        _ => None,
    };
    if let Some(part) = part {
        return Err(gguf.error(format!(
            "architecture '{}': this is {part}; name the model itself, of one of the \
             architectures {}",
            arch.unwrap_or_default(),
            known()
        )));
    }
    let arch = gguf.get_str("general.architecture")?;
    let Some((_, visibility, read)) = FAMILIES.iter().find(|f| f.0 == arch) else {
        return Err(gguf.error(format!(
            "the architecture '{arch}' is not supported; those that are: {}",
            known()
        )));
    };
    let mut meta = Meta { gguf, arch, kv, visibility: *visibility, wanted };
    if let Some(causal) = meta.opt::<bool>("attention.causal")? {
        meta.visibility = if causal { Visibility::Causal } else { Visibility::Bidirectional };
    }
    let info = ModelInfo {
        architecture: arch.to_owned(),
        vocab_size: meta.vocab()?,
        context_length: meta.context_length()?,
        width: meta.width()?,
        layers: meta.layers()?,
        visibility: meta.visibility,
        mask_token: gguf.opt("tokenizer.ggml.mask_token_id")?,
        shift_logits: gguf.opt("diffusion.shift_logits")?.unwrap_or(arch == "dream"),
    };
    Ok(Model { info, file: gguf.name().to_owned(), family: read(&meta)? })
}

impl Model {
    /// The program of the whole model.
    ///
    /// # Errors
    /// [`Error::Model`] naming the operation whose shapes do not agree.
    pub fn program(&self) -> Result<Program> {
        let mut p = Program::new(&self.info.architecture);
        let recorded = self.record(&mut p).and_then(|()| p.verify());
        recorded.map_err(|e| {
            Error::model(&self.file, format!("the metadata contradicts itself: {e}"))
        })?;
        Ok(p)
    }
}

impl Architecture for Model {
    fn record(&self, p: &mut Program) -> Result<()> {
        // What is before does not depend on what comes after: exactly where no token looks ahead.
        p.prefix_closed = self.info.visibility == Visibility::Causal;
        self.family.record(p)
    }
}
