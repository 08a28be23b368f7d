//! Byte-level BPE (`tokenizer.ggml.model` = `gpt2`): GPT-2's scheme and its many descendants.
//!
//! Text is cut into words ([`super::pretokenize`]); the bytes of a word are its first symbols, and
//! pairs are joined by the rank of their merge. Files write a token's bytes as characters of a
//! printable alphabet (GPT-2's `bytes_to_unicode`); here they are bytes again from the start.

use super::merge::Merger;
use super::pretokenize::{self, Family, PreTokenizer};
use super::vocab::{Fold, NONE, TokenKind, Vocab};
use crate::gguf::{Array, Gguf};
use gristmill_core::Result;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use tokenizers::NormalizedString;

/// The byte that a character of the printable alphabet stands for.
///
/// The alphabet is `!` to `~`, `¡` to `¬` and `®` to `ÿ` for themselves; the other 68 bytes in
/// order are the characters from U+0100.
fn byte_of(c: char) -> Option<u8> {
    match u32::from(c) {
        n @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(n as u8),
        n @ 0x100..=0x120 => Some((n - 0x100) as u8),
        n @ 0x121..=0x142 => Some((n - 0x121) as u8 + 0x7f),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// Appends the bytes that `text` stands for; `false`, and nothing useful, when it has a character
/// outside the alphabet.
fn decode_into(text: &[u8], out: &mut Vec<u8>) -> bool {
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let (c, tail) = match (first, tail) {
            (0x21..=0x7e, _) => (u32::from(first), tail),
            // Every other character of the alphabet takes two bytes.
            (0xc2..=0xc5, [second @ 0x80..=0xbf, tail @ ..]) => {
                (u32::from(first & 0x1f) << 6 | u32::from(second & 0x3f), tail)
            }
            _ => return false,
        };
        let Some(byte) = char::from_u32(c).and_then(byte_of) else { return false };
        out.push(byte);
        rest = tail;
    }
    true
}

/// The model: a token for each byte, and the merges.
pub(super) struct Bpe {
    pre: PreTokenizer,
    byte_ids: [u32; 256],
    /// By the pair's ids, left in the upper half: the merge's rank and what it makes.
    merges: HashMap<u64, (u32, u32), Fold>,
    ignore_merges: bool,
    nfc: bool,
    /// What a byte without a token becomes.
    unknown: Option<u32>,
}

/// Reads the tokens' bytes, not yet indexed.
pub(super) fn vocab(gguf: &Gguf, tokens: Array<'_>, kinds: &[TokenKind]) -> Result<Vocab> {
    let mut vocab = Vocab::with_capacity(tokens.len(), tokens.raw().len());
    for (raw, &kind) in tokens.byte_strings().zip(kinds) {
        let pushed = vocab.push(kind, |out| {
            let start = out.len();
            let as_text = matches!(kind, TokenKind::Control | TokenKind::UserDefined);
            // A token outside the alphabet was added by its text, whatever its kind says.
            if as_text || !decode_into(raw, out) {
                out.truncate(start);
                out.extend_from_slice(raw);
            }
        });
        if pushed.is_none() {
            return Err(gguf.error("the vocabulary holds more than 4 GiB of text"));
        }
    }
    Ok(vocab)
}

/// The family that the file names.
pub(super) fn family(gguf: &Gguf) -> Result<&'static Family> {
    let key = "tokenizer.ggml.pre";
    let Some(name) = gguf.opt::<&str>(key)? else {
        return Err(gguf.error(format!(
            "'{key}' is missing: how this model cuts words is unknown; convert it again with a \
             converter that writes it"
        )));
    };
    pretokenize::family(name).ok_or_else(|| {
        let known = pretokenize::known();
        gguf.error(format!("'{key}' is '{name}', which is not supported; known are: {known}"))
    })
}

/// The bytes of the tokens that plain text never becomes.
fn hidden_tokens(vocab: &Vocab) -> HashSet<&[u8]> {
    let hidden = [TokenKind::Control, TokenKind::Unknown, TokenKind::Byte];
    vocab.kinds().filter(|(_, kind)| hidden.contains(kind)).map(|(id, _)| vocab.bytes(id)).collect()
}

impl Bpe {
    /// Reads the merges of a vocabulary.
    pub fn new(gguf: &Gguf, vocab: &Vocab, family: &Family, unknown: Option<u32>) -> Result<Self> {
        let key = "tokenizer.ggml.merges";
        let list: Array<'_> = gguf.get(key)?;
        let mut merges = HashMap::with_capacity_and_hasher(list.len(), Fold::default());
        let mut joined = Vec::new();
        let mut last = 0;
        let mut hidden = None;
        for (rank, raw) in list.byte_strings().enumerate() {
            let bad = |what: &str| {
                let merge = String::from_utf8_lossy(raw);
                Err(gguf.error(format!("'{key}'[{rank}], '{merge}', {what}: damaged")))
            };
            // A space is not in the alphabet, so the first one separates the halves.
            let Some(space) = raw.iter().position(|&b| b == b' ') else {
                return bad("is not a pair");
            };
            joined.clear();
            if !decode_into(&raw[..space], &mut joined) {
                return bad("has a character that stands for no byte");
            }
            let middle = joined.len();
            if !decode_into(&raw[space + 1..], &mut joined) {
                return bad("has a character that stands for no byte");
            }
            let (left, right) = (vocab.find(&joined[..middle]), vocab.find(&joined[middle..]));
            // Merges mostly follow the order of the tokens they make, one or several a token.
            let made = [last, last + 1]
                .into_iter()
                .find(|&id| {
                    vocab.kind(id) == Some(TokenKind::Normal)
                        && vocab.bytes(id) == joined.as_slice()
                })
                .or_else(|| vocab.find(&joined));
            let (Some(left), Some(right), Some(id)) = (left, right, made) else {
                // `find` hides control tokens: plain text must not be joined into one.
                let hidden = hidden.get_or_insert_with(|| hidden_tokens(vocab));
                let parts = [&joined[..middle], &joined[middle..], &joined[..]];
                if parts.iter().any(|p| hidden.contains(p)) {
                    continue;
                }
                return bad("names a token that is not in the vocabulary");
            };
            last = id;
            let pair = u64::from(left) << 32 | u64::from(right);
            merges.entry(pair).or_insert((rank as u32, id));
        }
        let mut byte_ids = [NONE; 256];
        for (byte, id) in byte_ids.iter_mut().enumerate() {
            *id = vocab.find(&[byte as u8]).unwrap_or(NONE);
        }
        let pre = PreTokenizer::new(family).map_err(|e| gguf.error(e))?;
        let (ignore_merges, nfc) = (family.ignore_merges, family.nfc);
        Ok(Bpe { pre, byte_ids, merges, ignore_merges, nfc, unknown })
    }

    /// Appends the tokens of a text without special tokens.
    pub fn encode(&self, vocab: &Vocab, text: &str, merger: &mut Merger, out: &mut Vec<u32>) {
        let text: Cow<'_, str> = match self.nfc && !text.is_ascii() {
            true => NormalizedString::from(text).nfc().get().to_owned().into(),
            false => text.into(),
        };
        self.pre.words(&text, &mut |word| {
            let bytes = word.as_bytes();
            if let Some(id) = self.whole(vocab, bytes) {
                return out.push(id);
            }
            merger.clear();
            for &b in bytes {
                merger.push(1, self.byte_ids[usize::from(b)]);
            }
            merger.run(|l, r| self.merges.get(&(u64::from(l.id) << 32 | u64::from(r.id))).copied());
            let ids = merger.symbols().map(|s| s.id);
            out.extend(ids.filter_map(|id| if id == NONE { self.unknown } else { Some(id) }));
        });
    }

    /// The token of a whole word, where the family asks for that first.
    fn whole(&self, vocab: &Vocab, word: &[u8]) -> Option<u32> {
        match word {
            [byte] => Some(self.byte_ids[usize::from(*byte)]).filter(|&id| id != NONE),
            _ if self.ignore_merges => vocab.find(word),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The alphabet as GPT-2's own code makes it.
    #[test]
    fn the_alphabet_covers_each_byte_once() {
        let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let others = (0..=255u8).filter(|b| !printable(b));
        let chars = (0..=255u8).filter(printable).map(|b| (b, char::from(b)));
        let shifted = others.zip(0x100..).map(|(b, n)| (b, char::from_u32(n).unwrap()));
        let mut n = 0;
        for (byte, c) in chars.chain(shifted) {
            assert_eq!(byte_of(c), Some(byte), "{c}");
            let mut out = Vec::new();
            assert!(decode_into(c.to_string().as_bytes(), &mut out));
            assert_eq!(out, [byte]);
            n += 1;
        }
        assert_eq!(n, 256);
        assert_eq!(byte_of(' ').or(byte_of('\u{ad}')).or(byte_of('\u{144}')), None);
        assert!(!decode_into("a b".as_bytes(), &mut Vec::new()));
        assert!(!decode_into("今".as_bytes(), &mut Vec::new()));
    }
}
