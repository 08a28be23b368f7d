//! One model file, with what every part of the engine asks it.

use crate::chat::ChatTemplate;
use crate::gguf::{Bytes, FromValue, Gguf};
use crate::tokenizer::Tokenizer;
use gristmill_core::{HostTensor, Result};
use std::path::Path;

/// An open model file.
///
/// Metadata about the network is under keys that begin with the architecture's name, such as
/// `llama.block_count`; [`ModelFile::hparam`] and [`ModelFile::opt_hparam`] take the rest.
#[derive(Debug)]
pub struct ModelFile {
    gguf: Gguf,
    architecture: String,
}

impl ModelFile {
    /// Opens the file at `path` (of a split model, its first part).
    ///
    /// # Errors
    /// As [`Gguf::open`], and when the file names no architecture.
    pub fn open(path: impl AsRef<Path>) -> Result<ModelFile> {
        ModelFile::new(Gguf::open(path)?)
    }

    /// Opens a file that is in memory; `name` stands for it in messages.
    ///
    /// # Errors
    /// As [`Gguf::from_bytes`], and when the file names no architecture.
    pub fn from_bytes(name: impl Into<String>, bytes: Bytes) -> Result<ModelFile> {
        ModelFile::new(Gguf::from_bytes(name, bytes)?)
    }

    fn new(gguf: Gguf) -> Result<ModelFile> {
        let architecture = gguf.get_str("general.architecture")?.to_owned();
        Ok(ModelFile { gguf, architecture })
    }

    /// The file itself: all keys and tensors.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// The architecture's name, such as `llama` or `qwen2`.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// The model's own name, where it has one.
    pub fn name(&self) -> Option<&str> {
        self.gguf.opt("general.name").ok().flatten()
    }

    /// The value of `{architecture}.{key}`, which must be there.
    ///
    /// # Errors
    /// As [`Gguf::get`].
    pub fn hparam<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T> {
        self.gguf.get(&format!("{}.{key}", self.architecture))
    }

    /// The value of `{architecture}.{key}`, where it is there.
    ///
    /// # Errors
    /// As [`Gguf::opt`].
    pub fn opt_hparam<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>> {
        self.gguf.opt(&format!("{}.{key}", self.architecture))
    }

    /// A tensor that must be there.
    ///
    /// # Errors
    /// As [`Gguf::tensor`].
    pub fn tensor(&self, name: &str) -> Result<HostTensor> {
        self.gguf.tensor(name)
    }

    /// A tensor that may be absent.
    ///
    /// # Errors
    /// As [`Gguf::tensor`].
    pub fn opt_tensor(&self, name: &str) -> Result<Option<HostTensor>> {
        self.gguf.tensor_info(name).map(|t| self.gguf.tensor(&t.name)).transpose()
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        let elements = |shape: &[usize; 4]| shape.iter().map(|&d| d as u64).product::<u64>();
        self.gguf.tensors().iter().map(|t| elements(&t.shape)).sum()
    }

    /// The file's tokenizer.
    ///
    /// # Errors
    /// As [`Tokenizer::from_gguf`].
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Tokenizer::from_gguf(&self.gguf)
    }

    /// The file's chat template, where it has one.
    ///
    /// # Errors
    /// As [`ChatTemplate::from_gguf`].
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        ChatTemplate::from_gguf(&self.gguf)
    }
}
