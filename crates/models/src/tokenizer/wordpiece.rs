//! WordPiece (`tokenizer.ggml.model` = `bert`): BERT's words, each cut into the longest pieces
//! from the left.
//!
//! Files write a piece that begins a word as `▁piece` and one that continues it bare; here the
//! former begins with a space, so that decoding puts spaces between words.

use super::vocab::Vocab;
use crate::gguf::Gguf;
use gristmill_core::Result;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
};

/// A longer word, in characters, is unknown as a whole.
const MAX_WORD: usize = 100;

/// The model: how text is cleaned, and what a word without pieces becomes.
pub(super) struct WordPiece {
    normalizer: BertNormalizer,
    unknown: Option<u32>,
}

impl WordPiece {
    /// Reads how text is to be cleaned; lower case is the default.
    pub fn new(gguf: &Gguf, unknown: Option<u32>) -> Result<Self> {
        let lowercase = gguf.opt("tokenizer.ggml.normalizer.lowercase")?.unwrap_or(true);
        let strip = gguf.opt("tokenizer.ggml.normalizer.strip_accents")?;
        Ok(WordPiece { normalizer: BertNormalizer::new(true, true, strip, lowercase), unknown })
    }

    /// Appends the tokens of a text without special tokens.
    pub fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) {
        let mut text = NormalizedString::from(text);
        // Neither step fails on a string: they have an error only to fit their trait.
        if self.normalizer.normalize(&mut text).is_err() {
            return;
        }
        let mut words = PreTokenizedString::from(text);
        if BertPreTokenizer.pre_tokenize(&mut words).is_err() {
            return;
        }
        for (word, _, _) in words.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            if !word.is_empty() {
                self.word(vocab, word, out);
            }
        }
    }

    fn word(&self, vocab: &Vocab, word: &str, out: &mut Vec<u32>) {
        let before = out.len();
        let spaced = format!(" {word}");
        let bytes = spaced.as_bytes();
        let mut at = 0;
        while at < bytes.len() && word.chars().count() <= MAX_WORD {
            // The space alone is no piece.
            let least = if at == 0 { 2 } else { at + 1 };
            let piece = (least..=bytes.len())
                .rev()
                .filter(|&end| spaced.is_char_boundary(end))
                .find_map(|end| Some((end, vocab.find(&bytes[at..end])?)));
            let Some((end, id)) = piece else { break };
            out.push(id);
            at = end;
        }
        if at < bytes.len() {
            out.truncate(before);
            out.extend(self.unknown);
        }
    }
}
