//! SentencePiece's BPE (`tokenizer.ggml.model` = `llama`): pairs are joined by the score of the
//! token they make, and a character that no token covers becomes bytes.
//!
//! Files write a space as `▁`; here it is a space, in tokens and text alike, so a text's own `▁`
//! counts as a space, as it does in SentencePiece.

use super::merge::Merger;
use super::vocab::{NONE, TokenKind, Vocab};
use crate::gguf::{Array, Gguf};
use gristmill_core::Result;
use std::borrow::Cow;

/// SentencePiece's space.
const META_SPACE: char = '\u{2581}';

/// The model: the tokens' scores as priorities, and a token for each byte.
pub(super) struct Spm {
    /// Lower is better.
    priorities: Vec<u32>,
    byte_ids: [u32; 256],
    unknown: Option<u32>,
    /// Whether spaces only begin tokens: then no token spans the place before a space that follows
    /// another character, and the text can be cut there.
    cut_at_spaces: bool,
}

/// The byte of `<0xAB>`.
pub(super) fn byte_of(raw: &[u8]) -> Option<u8> {
    let hex = raw.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    let text = std::str::from_utf8(hex).ok().filter(|t| t.len() == 2 && !t.starts_with('+'))?;
    u8::from_str_radix(text, 16).ok()
}

/// Appends `raw` with every `▁` as a space.
pub(super) fn plain_into(raw: &[u8], out: &mut Vec<u8>) {
    let mut rest = raw;
    let mut mark = [0; 4];
    let mark = META_SPACE.encode_utf8(&mut mark).as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if let Some(tail) = rest.strip_prefix(mark) {
            out.push(b' ');
            rest = tail;
        } else {
            out.push(first);
            rest = tail;
        }
    }
}

/// Reads the tokens' bytes, not yet indexed.
pub(super) fn vocab(gguf: &Gguf, tokens: Array<'_>, kinds: &[TokenKind]) -> Result<Vocab> {
    let mut vocab = Vocab::with_capacity(tokens.len(), tokens.raw().len());
    for (i, (raw, &kind)) in tokens.byte_strings().zip(kinds).enumerate() {
        let byte = if kind == TokenKind::Byte { byte_of(raw) } else { None };
        if kind == TokenKind::Byte && byte.is_none() {
            let text = String::from_utf8_lossy(raw);
            return Err(gguf.error(format!("token {i}, '{text}', is marked as a byte but is none")));
        }
        let pushed = vocab.push(kind, |out| match (kind, byte) {
            (_, Some(byte)) => out.push(byte),
            (TokenKind::Control | TokenKind::Unknown, _) => out.extend_from_slice(raw),
            _ => plain_into(raw, out),
        });
        if pushed.is_none() {
            return Err(gguf.error("the vocabulary holds more than 4 GiB of text"));
        }
    }
    Ok(vocab)
}

/// The score of each token.
pub(super) fn scores(gguf: &Gguf, tokens: usize) -> Result<Vec<f32>> {
    let key = "tokenizer.ggml.scores";
    let scores: Vec<f32> = gguf.get(key)?;
    if scores.len() == tokens {
        return Ok(scores);
    }
    let n = scores.len();
    Err(gguf.error(format!("'{key}' has {n} entries for {tokens} tokens: damaged")))
}

/// A number that is lower the higher the score is.
fn priority(score: f32) -> u32 {
    // Adding zero makes one number of the two zeros.
    let bits = (score + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !ascending
}

impl Spm {
    /// Reads the scores of a vocabulary.
    pub fn new(gguf: &Gguf, vocab: &Vocab, unknown: Option<u32>) -> Result<Self> {
        let scores = scores(gguf, vocab.len())?;
        let priorities = scores.into_iter().map(priority).collect();
        let (byte_ids, cut_at_spaces) = (vocab.byte_ids(), spaces_begin_tokens(vocab));
        Ok(Spm { priorities, byte_ids, unknown, cut_at_spaces })
    }

    /// Appends the tokens of a text without special tokens.
    pub fn encode(&self, vocab: &Vocab, text: &str, merger: &mut Merger, out: &mut Vec<u32>) {
        let mut rest = text;
        while !rest.is_empty() {
            let end = if self.cut_at_spaces { first_word(rest) } else { rest.len() };
            let (word, tail) = rest.split_at(end);
            self.merge(vocab, word, merger, out);
            rest = tail;
        }
    }

    /// Appends the tokens of a text that is merged as a whole.
    fn merge(&self, vocab: &Vocab, text: &str, merger: &mut Merger, out: &mut Vec<u32>) {
        let bytes = text.as_bytes();
        merger.clear();
        let mut buffer = [0; 4];
        for c in text.chars() {
            let c = c.encode_utf8(&mut buffer).as_bytes();
            merger.push(c.len() as u32, vocab.find(c).unwrap_or(NONE));
        }
        merger.run(|l, r| {
            let id = vocab.find(&bytes[l.start as usize..(r.start + r.len) as usize])?;
            Some((self.priorities[id as usize], id))
        });
        for s in merger.symbols() {
            if s.id != NONE {
                out.push(s.id);
                continue;
            }
            let covered = &bytes[s.start as usize..(s.start + s.len) as usize];
            if covered.iter().all(|&b| self.byte_ids[usize::from(b)] != NONE) {
                out.extend(covered.iter().map(|&b| self.byte_ids[usize::from(b)]));
            } else {
                out.extend(self.unknown);
            }
        }
    }
}

/// Whether in every token of text spaces come first: then no token spans the place before a space
/// that follows another character.
pub(super) fn spaces_begin_tokens(vocab: &Vocab) -> bool {
    vocab.kinds().all(|(id, kind)| {
        let text = vocab.bytes(id);
        !matches!(kind, TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused)
            || !text.windows(2).any(|pair| pair[0] != b' ' && pair[1] == b' ')
    })
}

/// A text with every `▁` as a space.
pub(super) fn unmark(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.contains(META_SPACE) { text.replace(META_SPACE, " ").into() } else { text }
}

/// Where the first space that follows another character is; the end where there is none.
pub(super) fn first_word(text: &str) -> usize {
    let spaces = text.len() - text.trim_start_matches(' ').len();
    text[spaces..].find(' ').map_or(text.len(), |n| spaces + n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_order_as_scores_do() {
        let scores = [f32::INFINITY, 3.5, 1e-30, 0.0, -1e-30, -1.0, -1e9, f32::NEG_INFINITY];
        assert!(scores.windows(2).all(|w| priority(w[0]) < priority(w[1])));
        assert_eq!(priority(0.0), priority(-0.0));
    }

    #[test]
    fn byte_tokens() {
        assert_eq!(byte_of(b"<0x0A>"), Some(10));
        assert_eq!(byte_of(b"<0xff>"), Some(255));
        for bad in [&b"<0x>"[..], b"<0x1>", b"<0x+1>", b"<0x100>", b"0A", b"", b"<0x\xff\xff>"] {
            assert_eq!(byte_of(bad), None);
        }
    }
}
