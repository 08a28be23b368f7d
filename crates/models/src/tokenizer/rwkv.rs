//! RWKV's "world" tokenizer (`tokenizer.ggml.model` = `rwkv`): at each byte the longest token.
//!
//! Files write a token's bytes with the escapes of a Python string: `\n`, `\t`, `\r`, `\xAB`, and
//! a backslash before anything else for itself.

use super::trie::Trie;
use super::vocab::{TokenKind, Vocab};
use crate::gguf::{Array, Gguf};
use gristmill_core::Result;

/// The model: the tokens by their bytes.
pub(super) struct Rwkv {
    trie: Trie,
    unknown: Option<u32>,
}

/// Appends the bytes that `raw` stands for; `None` when an escape is cut short.
fn unescape_into(raw: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut rest = raw;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'\\' {
            out.push(first);
            continue;
        }
        let (&code, tail) = rest.split_first()?;
        rest = tail;
        out.push(match code {
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'x' => {
                let hex = std::str::from_utf8(rest.get(..2)?).ok().filter(|h| !h.contains('+'))?;
                rest = &rest[2..];
                u8::from_str_radix(hex, 16).ok()?
            }
            other => other,
        });
    }
    Some(())
}

/// Reads the tokens' bytes, not yet indexed.
pub(super) fn vocab(gguf: &Gguf, tokens: Array<'_>, kinds: &[TokenKind]) -> Result<Vocab> {
    let mut vocab = Vocab::with_capacity(tokens.len(), tokens.raw().len());
    for (i, (raw, &kind)) in tokens.byte_strings().zip(kinds).enumerate() {
        let mut sound = Some(());
        let pushed = vocab.push(kind, |out| sound = unescape_into(raw, out));
        if sound.and(pushed).is_none() {
            let text = String::from_utf8_lossy(raw);
            return Err(gguf.error(format!("token {i}, '{text}', has a broken escape")));
        }
    }
    Ok(vocab)
}

/// The number that so many hexadecimal digits write.
fn hex(chars: &mut std::str::Chars<'_>, digits: usize) -> Option<u32> {
    let text: String = chars.by_ref().take(digits).collect();
    let whole = text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit());
    u32::from_str_radix(&text, 16).ok().filter(|_| whole)
}

/// The bytes of a Python literal, `'…'` or `b'…'` with either quote.
fn python_literal(text: &str) -> Option<Vec<u8>> {
    let (is_bytes, text) = match text.strip_prefix('b') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let quote = text.chars().next().filter(|c| ['\'', '"'].contains(c))?;
    let inner = text.get(1..)?.strip_suffix(quote)?;
    let mut out = Vec::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        let n = match c {
            '\\' => match chars.next()? {
                'n' => 10,
                'r' => 13,
                't' => 9,
                'x' => hex(&mut chars, 2)?,
                'u' => hex(&mut chars, 4)?,
                'U' => hex(&mut chars, 8)?,
                c => c.into(),
            },
            c => c.into(),
        };
        if is_bytes {
            out.push(u8::try_from(n).ok()?);
        } else {
            out.extend(char::from_u32(n)?.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    Some(out)
}

/// Reads the vocabulary as RWKV itself keeps it: in each line an id, a Python literal, and the
/// number of its bytes. Id 0 is the end of the text. `Err` with the number of a bad line.
pub(super) fn text_vocab(text: &str) -> std::result::Result<Vocab, usize> {
    let mut tokens: Vec<Option<Vec<u8>>> = vec![None];
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.is_empty()) {
        let read = || {
            let (id, rest) = line.split_once(' ')?;
            let (literal, len) = rest.rsplit_once(' ')?;
            let bytes = python_literal(literal)?;
            // Every id has a line; one beyond the text's length would only make room for nothing.
            let id: usize = id.parse().ok().filter(|id| (1..text.len()).contains(id))?;
            (len.trim().parse() == Ok(bytes.len())).then_some((id, bytes))
        };
        let (id, bytes) = read().ok_or(i + 1)?;
        if tokens.len() <= id {
            tokens.resize(id + 1, None);
        }
        if tokens[id].replace(bytes).is_some() {
            return Err(i + 1);
        }
    }
    let mut vocab = Vocab::with_capacity(tokens.len(), text.len());
    for (id, bytes) in tokens.iter().enumerate() {
        let (kind, bytes) = match bytes {
            _ if id == 0 => (TokenKind::Control, &b"<|endoftext|>"[..]),
            Some(bytes) => (TokenKind::Normal, bytes.as_slice()),
            None => (TokenKind::Unused, &[][..]),
        };
        vocab.push(kind, |out| out.extend_from_slice(bytes)).ok_or(0usize)?;
    }
    Ok(vocab)
}

impl Rwkv {
    /// The model of a vocabulary.
    pub fn new(vocab: &Vocab, unknown: Option<u32>) -> Self {
        let tokens = vocab.kinds().filter(|(_, kind)| *kind == TokenKind::Normal);
        Rwkv { trie: Trie::new(tokens.map(|(id, _)| id), |id| vocab.bytes(id)), unknown }
    }

    /// Appends the tokens of a text without special tokens.
    pub fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let longest = self.trie.prefixes(rest).last();
            out.extend(longest.map(|(_, id)| id).or(self.unknown));
            rest = &rest[longest.map_or(1, |(n, _)| n)..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        let plain = |raw: &str| {
            let mut out = Vec::new();
            unescape_into(raw.as_bytes(), &mut out).map(|()| out)
        };
        assert_eq!(plain(r"a\n\t\r\\\'\x00\xfe").unwrap(), b"a\n\t\r\\'\x00\xfe");
        for bad in [r"\", r"\x", r"\x1", r"\x+1", r"\xé"] {
            assert_eq!(plain(bad), None, "{bad}");
        }
    }
}
