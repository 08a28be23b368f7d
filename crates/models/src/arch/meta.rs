//! Reading a family's facts: keys under the architecture's own prefix, with bounds.
//!
//! The bounds are far above any model and low enough that no product of two of them overflows:
//! a file is a stranger, and shapes are multiplied while recording.

use super::{KvTypes, Visibility};
use crate::Gguf;
use crate::gguf::{FromValue, Value};
use gristmill_core::Result;

/// Elements of a row.
pub(super) const MAX_WIDTH: u32 = 1 << 20;
/// Heads, and elements of a head.
pub(super) const MAX_HEAD: u32 = 1 << 11;
const MAX_LAYERS: u32 = 1 << 12;
const MAX_VOCAB: u32 = 1 << 24;

/// The metadata of a file as an architecture sees it.
pub(super) struct Meta<'g> {
    pub(super) gguf: &'g Gguf,
    /// `general.architecture`, the prefix of the keys.
    pub(super) arch: &'g str,
    pub(super) kv: KvTypes,
    pub(super) visibility: Visibility,
    pub(super) wanted: super::Wanted,
}

impl<'g> Meta<'g> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    /// An error about a key.
    pub(super) fn wrong(&self, key: &str, what: impl std::fmt::Display) -> gristmill_core::Error {
        self.gguf.error(format!("metadata key '{}' {what}", self.key(key)))
    }

    /// A key that may be absent.
    pub(super) fn opt<T: FromValue<'g>>(&self, key: &str) -> Result<Option<T>> {
        self.gguf.opt(&self.key(key))
    }

    /// A number of things, from 1 to `max`, that may be absent.
    pub(super) fn opt_count(&self, key: &str, max: u32) -> Result<Option<u32>> {
        let n = self.opt::<u64>(key)?;
        n.map(|n| self.in_range(key, n, max)).transpose()
    }

    fn in_range(&self, key: &str, n: u64, max: u32) -> Result<u32> {
        match u32::try_from(n) {
            Ok(n) if (1..=max).contains(&n) => Ok(n),
            _ => Err(self.wrong(key, format_args!("is {n}, not between 1 and {max}"))),
        }
    }

    /// A number of things, from 1 to `max`.
    pub(super) fn count(&self, key: &str, max: u32) -> Result<u32> {
        let n = self.gguf.get(&self.key(key))?;
        self.in_range(key, n, max)
    }

    /// Whether there is a key.
    pub(super) fn knows(&self, key: &str) -> bool {
        self.gguf.value(&self.key(key)).is_some()
    }

    /// A number for each layer: an array of the file, or one number for all.
    pub(super) fn per_layer(&self, key: &str, max: u32) -> Result<Vec<u32>> {
        let layers = self.layers()? as usize;
        let Some(Value::Array(given)) = self.opt(key)? else {
            return Ok(vec![self.count(key, max)?; layers]);
        };
        // Before they are copied: a byte of the file becomes eight.
        if given.len() != layers {
            let what = format!("has {} elements for {layers} layers", given.len());
            return Err(self.wrong(key, what));
        }
        let each: Vec<u64> = self.opt(key)?.unwrap_or_default();
        each.into_iter().map(|n| self.in_range(key, n, max)).collect()
    }

    /// A number above zero that may be absent.
    pub(super) fn opt_positive(&self, key: &str) -> Result<Option<f32>> {
        match self.opt::<f32>(key)? {
            Some(x) if !(x.is_finite() && x > 0.0) => {
                Err(self.wrong(key, format_args!("is {x}, not a number above zero")))
            }
            x => Ok(x),
        }
    }

    /// A number above zero.
    pub(super) fn positive(&self, key: &str) -> Result<f32> {
        let present = self.opt_positive(key)?;
        present.map_or_else(|| self.gguf.get_f32(&self.key(key)), Ok)
    }

    /// Layers.
    pub(super) fn layers(&self) -> Result<u32> {
        self.count("block_count", MAX_LAYERS)
    }

    /// Elements of a hidden state.
    pub(super) fn width(&self) -> Result<u32> {
        self.count("embedding_length", MAX_WIDTH)
    }

    /// Tokens of the vocabulary: rows of the embedding table.
    pub(super) fn vocab(&self) -> Result<u32> {
        self.rows("token_embd.weight")?.ok_or_else(|| {
            self.gguf.error(
                "tensor 'token_embd.weight' is missing: the file holds a vocabulary only, or is \
                 incomplete",
            )
        })
    }

    /// Tokens of context; no more than positions have rows, where a table holds them.
    pub(super) fn context_length(&self) -> Result<u32> {
        let context = self.count("context_length", u32::MAX)?;
        Ok(self.rows("position_embd.weight")?.unwrap_or(context).min(context))
    }

    /// Whether the file has this tensor.
    pub(super) fn has(&self, tensor: &str) -> bool {
        self.gguf.tensor_info(tensor).is_some()
    }

    /// Output features of a tensor of the file.
    pub(super) fn rows(&self, tensor: &str) -> Result<Option<u32>> {
        let Some(info) = self.gguf.tensor_info(tensor) else { return Ok(None) };
        match u32::try_from(info.shape[1]) {
            Ok(n) if n <= MAX_VOCAB => Ok(Some(n)),
            _ => Err(self.gguf.error(format!(
                "tensor '{tensor}' has {} rows, more than {MAX_VOCAB}",
                info.shape[1]
            ))),
        }
    }
}
