//! RWKV's "world" tokenizer (`tokenizer.ggml.model` = `rwkv`): at each byte the longest token.
//!
//! Files write a token's bytes with the escapes of a Python string: `\n`, `\t`, `\r`, `\xAB`, and
//! a backslash before anything else for itself.

use super::vocab::{TokenKind, Vocab};
use crate::gguf::{Array, Gguf};
use gristmill_core::Result;

/// The model: which lengths are worth trying.
pub(super) struct Rwkv {
    /// For each first byte, the lengths of the tokens that begin with it, longest first.
    lengths: Vec<Vec<usize>>,
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

impl Rwkv {
    /// Notes the lengths of the vocabulary's tokens.
    pub fn new(vocab: &Vocab, unknown: Option<u32>) -> Self {
        let mut lengths = vec![Vec::new(); 256];
        for (id, kind) in vocab.kinds() {
            if let (TokenKind::Normal, bytes @ [first, ..]) = (kind, vocab.bytes(id)) {
                lengths[usize::from(*first)].push(bytes.len());
            }
        }
        for l in &mut lengths {
            l.sort_unstable_by_key(|&n| std::cmp::Reverse(n));
            l.dedup();
        }
        Rwkv { lengths, unknown }
    }

    /// Appends the tokens of a text without special tokens.
    pub fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) {
        let mut rest = text.as_bytes();
        while let Some(&first) = rest.first() {
            let longest = self.lengths[usize::from(first)]
                .iter()
                .find_map(|&n| Some((n, vocab.find(rest.get(..n)?)?)));
            let n = match longest {
                Some((n, id)) => {
                    out.push(id);
                    n
                }
                None => {
                    out.extend(self.unknown);
                    1
                }
            };
            rest = &rest[n..];
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
