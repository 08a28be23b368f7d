//! Tokens back to text, piece by piece, never half a character.

use super::{TokenKind, Tokenizer};
use std::sync::Arc;

/// Turns bytes that arrive in pieces into text; bytes that are not UTF-8 become U+FFFD, as in
/// [`String::from_utf8_lossy`] of them all.
#[derive(Default)]
pub(super) struct Utf8 {
    /// The beginning of a character whose end has not come: at most three bytes.
    pending: Vec<u8>,
}

impl Utf8 {
    /// Appends the characters that `bytes` completes to `out`.
    pub fn push(&mut self, bytes: &[u8], out: &mut String) {
        self.pending.extend_from_slice(bytes);
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    rest = &[];
                }
                Err(e) => {
                    let (good, bad) = rest.split_at(e.valid_up_to());
                    out.push_str(std::str::from_utf8(good).unwrap_or_default());
                    rest = bad;
                    if let Some(n) = e.error_len() {
                        out.push(char::REPLACEMENT_CHARACTER);
                        rest = &rest[n..];
                        continue;
                    }
                }
            }
            break;
        }
        let left = rest.len();
        self.pending.drain(..self.pending.len() - left);
    }

    /// What is left when no more bytes come.
    pub fn finish(&mut self, out: &mut String) {
        if !self.pending.is_empty() {
            self.pending.clear();
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

/// A running decoder: ids in, text out.
///
/// Control tokens give no text, unless [`Decoder::show_control`] asks for theirs.
pub struct Decoder {
    tokenizer: Arc<Tokenizer>,
    state: State,
}

/// What a decoder remembers.
pub(super) struct State {
    utf8: Utf8,
    /// Whether the space that encoding put before the text is still to be taken away.
    strip_space: bool,
    show_control: bool,
}

impl State {
    pub fn new(strip_space: bool) -> Self {
        State { utf8: Utf8::default(), strip_space, show_control: false }
    }

    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32, out: &mut String) {
        let hidden = matches!(tokenizer.kind(id), Some(TokenKind::Control));
        if hidden && !self.show_control {
            return;
        }
        let bytes = tokenizer.token_bytes(id);
        let mut bytes = bytes.as_ref();
        if !hidden && !bytes.is_empty() && std::mem::take(&mut self.strip_space) {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.utf8.push(bytes, out);
    }

    pub fn finish(&mut self, out: &mut String) {
        self.utf8.finish(out);
    }
}

impl Decoder {
    /// A decoder of a whole text, from its first token: a space that the tokenizer puts before
    /// every text is taken away again.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        let state = State::new(tokenizer.adds_space());
        Decoder { tokenizer, state }
    }

    /// A decoder of what follows a text, such as the answer to a prompt.
    pub fn continuing(tokenizer: Arc<Tokenizer>) -> Self {
        Decoder { tokenizer, state: State::new(false) }
    }

    /// Whether control tokens give their text, such as `<|im_end|>`.
    pub fn show_control(mut self, show: bool) -> Self {
        self.state.show_control = show;
        self
    }

    /// The characters that this token completes; often none, never half of one.
    pub fn push(&mut self, id: u32) -> String {
        let mut out = String::new();
        self.state.push(&self.tokenizer, id, &mut out);
        out
    }

    /// The text's end: U+FFFD when a character was left unfinished. The decoder can go on.
    pub fn finish(&mut self) -> String {
        let mut out = String::new();
        self.state.finish(&mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_pieces_of_any_bytes_read_as_the_whole(
            pieces in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..4),
                    prop::collection::vec(prop::sample::select("é今😀a".as_bytes()), 0..6),
                ],
                0..8,
            )
        ) {
            let mut utf8 = Utf8::default();
            let mut out = String::new();
            for p in &pieces {
                utf8.push(p, &mut out);
                prop_assert!(utf8.pending.len() < 4);
            }
            utf8.finish(&mut out);
            let whole = pieces.concat();
            prop_assert_eq!(out, String::from_utf8_lossy(&whole));
        }
    }
}
