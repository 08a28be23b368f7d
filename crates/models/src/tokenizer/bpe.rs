//! BPE by a list of merges (`tokenizer.ggml.model` = `gpt2`): GPT-2's scheme and its many
//! descendants.
//!
//! Text is cut into words ([`super::split`]); the symbols of a word are joined in pairs, the pair
//! whose merge has the lowest rank first. At first the symbols are the word's bytes: files write
//! those as characters of a printable alphabet (GPT-2's `bytes_to_unicode`), and here they are
//! bytes again from the start. In some vocabularies, SentencePiece's written as merges, the symbols
//! are characters, and what is no token becomes bytes at the end.

use super::index::{Fold, Index};
use super::merge::Merger;
use super::pretokenize::{self, Family, Symbols};
use super::split::{self, Step};
use super::spm;
use super::vocab::{NONE, TokenKind, Vocab};
use crate::gguf::{Array, Gguf};
use gristmill_core::{Error, Result};
use std::collections::HashSet;

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

/// How a model works, but for its vocabulary.
pub(super) struct Scheme {
    pub steps: Vec<Step>,
    pub symbols: Symbols,
    /// Whether a word that is a token as a whole is that token, whatever the merges say.
    pub ignore_merges: bool,
    /// Whether that holds for words of line feeds alone.
    pub whole_newlines: bool,
    /// What a symbol without a token becomes.
    pub unknown: Option<u32>,
    /// Whether several of those side by side become one.
    pub fuse_unknown: bool,
}

/// Which pairs of tokens may be joined, by rank: columns of one row a merge.
struct Merges {
    /// The pair's ids, left in the upper half.
    pairs: Vec<u64>,
    /// What it makes; `NONE` for a merge that is never used.
    made: Vec<u32>,
    hash: Fold,
    by_pair: Index,
}

impl Merges {
    fn with_capacity(merges: usize) -> Merges {
        Merges {
            pairs: Vec::with_capacity(merges),
            made: Vec::with_capacity(merges),
            hash: Fold::default(),
            by_pair: Index::new(0, 0),
        }
    }

    fn push(&mut self, left: u32, right: u32, made: u32) {
        self.pairs.push(u64::from(left) << 32 | u64::from(right));
        self.made.push(made);
    }

    /// Makes them findable; of merges of the same pair, the first. `bytes` is how many they all have.
    fn index(&mut self, bytes: usize) {
        let mut by_pair = Index::new(self.pairs.len(), bytes);
        for (rank, (&pair, _)) in
            self.pairs.iter().zip(&self.made).enumerate().filter(|(_, (_, made))| **made != NONE)
        {
            let same = |other| self.pairs[other as usize] == pair;
            by_pair.put(self.hash.number(pair), rank as u32, same, true);
        }
        self.by_pair = by_pair;
    }

    /// The rank of a pair's merge, and what it makes.
    fn find(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let pair = u64::from(left) << 32 | u64::from(right);
        let same = |rank| self.pairs[rank as usize] == pair;
        let rank = self.by_pair.find(self.hash.number(pair), same)?;
        Some((rank, self.made[rank as usize]))
    }
}

/// The model: a token for each byte, and the merges.
pub(super) struct Bpe {
    scheme: Scheme,
    byte_ids: [u32; 256],
    merges: Merges,
    /// Whether text can be cut before a space that follows another character.
    cut_at_spaces: bool,
}

/// Appends the bytes that a token's text stands for.
pub(super) fn token_into(raw: &[u8], kind: TokenKind, symbols: Symbols, out: &mut Vec<u8>) {
    let start = out.len();
    let as_text = matches!(kind, TokenKind::Control | TokenKind::UserDefined);
    match symbols {
        Symbols::Bytes => {
            // A token outside the alphabet was added by its text, whatever its kind says.
            if as_text || !decode_into(raw, out) {
                out.truncate(start);
                out.extend_from_slice(raw);
            }
        }
        Symbols::Marked | Symbols::Chars if kind == TokenKind::Byte => {
            out.extend(spm::byte_of(raw));
        }
        Symbols::Marked if kind != TokenKind::Control => spm::plain_into(raw, out),
        Symbols::Marked | Symbols::Chars => out.extend_from_slice(raw),
    }
}

/// Reads the tokens' bytes, not yet indexed.
pub(super) fn vocab(
    gguf: &Gguf,
    tokens: Array<'_>,
    kinds: &[TokenKind],
    symbols: Symbols,
) -> Result<Vocab> {
    let mut vocab = Vocab::with_capacity(tokens.len(), tokens.raw().len());
    for (raw, &kind) in tokens.byte_strings().zip(kinds) {
        if vocab.push(kind, |out| token_into(raw, kind, symbols, out)).is_none() {
            return Err(gguf.error("the vocabulary holds more than 4 GiB of text"));
        }
    }
    Ok(vocab)
}

/// The family that the file names; `kind` is the name of the kind of tokenizer.
pub(super) fn family(gguf: &Gguf, kind: &str) -> Result<&'static Family> {
    let key = "tokenizer.ggml.pre";
    let named: Option<&str> = gguf.opt(key)?;
    // These kinds are families of their own.
    let own = Some(kind).filter(|kind| ["gemma4", "whitespace"].contains(kind));
    let Some(name) = own.or(named) else {
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

/// The scheme of a family.
pub(super) fn scheme(gguf: &Gguf, family: &Family, unknown: Option<u32>) -> Result<Scheme> {
    Ok(Scheme {
        steps: family.steps().map_err(|e| gguf.error(format!("cutting words by {e}")))?,
        symbols: family.symbols,
        ignore_merges: family.ignore_merges,
        whole_newlines: family.symbols == Symbols::Marked,
        unknown,
        fuse_unknown: false,
    })
}

/// A file's merges as pairs.
pub(super) fn merges(gguf: &Gguf) -> Result<impl Iterator<Item = Option<(&[u8], &[u8])>>> {
    let list: Array<'_> = gguf.get("tokenizer.ggml.merges")?;
    Ok(list.byte_strings().map(pair))
}

/// The halves of a merge: a space is in no token, but a merge of spaces' stand-in may begin with
/// one, so it is the first space after the first byte.
pub(super) fn pair(raw: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = 1 + raw.get(1..)?.iter().position(|&b| b == b' ')?;
    Some((&raw[..space], &raw[space + 1..]))
}

impl Bpe {
    /// The model of a vocabulary and its merges, the first of them the best. `refuse` makes an
    /// error of what is wrong with one.
    pub fn new<'m>(
        vocab: &Vocab,
        scheme: Scheme,
        merges: impl Iterator<Item = Option<(&'m [u8], &'m [u8])>>,
        refuse: impl Fn(String) -> Error,
    ) -> Result<Self> {
        let mut by_pair = Merges::with_capacity(merges.size_hint().0);
        let mut bytes = 0;
        let mut joined = Vec::new();
        let mut last = 0;
        let mut hidden = None;
        let symbols = scheme.symbols;
        // Appends what half a merge stands for.
        let half = |raw: &[u8], out: &mut Vec<u8>| match symbols {
            Symbols::Bytes => decode_into(raw, out),
            _ => {
                token_into(raw, TokenKind::Normal, symbols, out);
                true
            }
        };
        for (rank, merge) in merges.enumerate() {
            let Some((left, right)) = merge else {
                return Err(refuse(format!("merge {rank} is not a pair: damaged")));
            };
            let bad = |what: &str| {
                let (left, right) = (String::from_utf8_lossy(left), String::from_utf8_lossy(right));
                Err(refuse(format!("merge {rank}, '{left} {right}', {what}: damaged")))
            };
            joined.clear();
            let mut sound = half(left, &mut joined);
            let middle = joined.len();
            sound &= half(right, &mut joined);
            if !sound {
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
                    by_pair.push(NONE, NONE, NONE);
                    continue;
                }
                return bad("names a token that is not in the vocabulary");
            };
            last = id;
            by_pair.push(left, right, id);
            bytes += joined.len();
        }
        by_pair.index(bytes);
        let mut byte_ids = vocab.byte_ids();
        if symbols == Symbols::Bytes {
            for (byte, id) in byte_ids.iter_mut().enumerate() {
                *id = vocab.find(&[byte as u8]).unwrap_or(NONE);
            }
        }
        let cut_at_spaces = symbols == Symbols::Marked && spm::spaces_begin_tokens(vocab);
        Ok(Bpe { scheme, byte_ids, merges: by_pair, cut_at_spaces })
    }

    /// Whether a space is written as a mark.
    pub fn is_marked(&self) -> bool {
        self.scheme.symbols == Symbols::Marked
    }

    /// Appends the tokens of a text without special tokens.
    pub fn encode(&self, vocab: &Vocab, text: &str, merger: &mut Merger, out: &mut Vec<u32>) {
        split::words(&self.scheme.steps, text, &mut |word| {
            let mut rest = word;
            while !rest.is_empty() {
                let end = if self.cut_at_spaces { spm::first_word(rest) } else { rest.len() };
                let (word, after) = rest.split_at(end);
                self.word(vocab, word, merger, out);
                rest = after;
            }
        });
    }

    /// Appends the tokens of a word.
    fn word(&self, vocab: &Vocab, word: &str, merger: &mut Merger, out: &mut Vec<u32>) {
        let bytes = word.as_bytes();
        if let Some(id) = self.whole(vocab, bytes) {
            return out.push(id);
        }
        merger.clear();
        if self.scheme.symbols == Symbols::Bytes {
            for &b in bytes {
                merger.push(1, self.byte_ids[usize::from(b)]);
            }
        } else {
            let mut buffer = [0; 4];
            for c in word.chars() {
                let c = c.encode_utf8(&mut buffer).as_bytes();
                merger.push(c.len() as u32, vocab.find(c).unwrap_or(NONE));
            }
        }
        merger.run(|l, r| self.merges.find(l.id, r.id));
        let mut after_unknown = false;
        for s in merger.symbols() {
            let unknown = s.id == NONE;
            let covered = &bytes[s.start as usize..(s.start + s.len) as usize];
            let byte_id = |b: &u8| self.byte_ids[usize::from(*b)];
            if !unknown {
                out.push(s.id);
            } else if covered.iter().all(|b| byte_id(b) != NONE) {
                out.extend(covered.iter().map(byte_id));
            } else if !(after_unknown && self.scheme.fuse_unknown) {
                out.extend(self.scheme.unknown);
            }
            after_unknown = unknown;
        }
    }

    /// The token of a whole word, where the family asks for that first.
    fn whole(&self, vocab: &Vocab, word: &[u8]) -> Option<u32> {
        let newlines = || self.scheme.whole_newlines && word.iter().all(|&b| b == b'\n');
        match word {
            [byte] if self.scheme.symbols == Symbols::Bytes => {
                Some(self.byte_ids[usize::from(*byte)]).filter(|&id| id != NONE)
            }
            _ if self.scheme.ignore_merges || newlines() => vocab.find(word),
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
