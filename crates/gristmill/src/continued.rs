//! A conversation that goes on: the engine keeps what it computed, and runs only what is new.
//!
//! After each answer the engine keeps its sequence ([`Request::keep`]), with the pages that hold
//! its keys and values. The next prompt begins with the same text, more or less: the template may
//! have written the past otherwise than it went (thoughts left out, spaces trimmed), and the
//! tokenizer may cut the model's own words otherwise than the model did. So what can be used again
//! is the longest beginning of the kept tokens that *spells the same text* as some beginning of the
//! new ones; the request goes on from there with the rest of the new tokens.

use gristmill_core::Result;
use gristmill_engine::{Engine, Event, Parent, Request, RequestId, SequenceId};
use gristmill_ir::Backend;
use gristmill_models::Tokenizer;
use gristmill_models::tokenizer::TokenKind;

/// The sequence that an engine keeps of one conversation.
#[derive(Debug, Default)]
pub struct Continued {
    sequence: Option<SequenceId>,
    /// Its tokens.
    held: Vec<u32>,
}

/// How a prompt goes on from what is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reuse {
    /// Kept tokens that the prompt begins with.
    pub held: usize,
    /// Tokens that come after them.
    pub new: Vec<u32>,
}

impl Reuse {
    /// Tokens of the prompt in all.
    pub fn len(&self) -> usize {
        self.held + self.new.len()
    }

    /// Whether the prompt is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Continued {
    /// How a prompt of these tokens would go on from what is kept.
    pub fn reuse(&self, tokenizer: &Tokenizer, ids: &[u32]) -> Reuse {
        let (held, same) = shared(tokenizer, &self.held, ids);
        Reuse { held, new: ids[same..].to_vec() }
    }

    /// Submits a request whose prompt is `reuse`; its own prompt, parent and `keep` are replaced.
    /// The sequence kept so far becomes part of the new one.
    ///
    /// # Errors
    /// Those of [`Engine::submit`]; what is kept stays as it is then.
    pub fn submit<B: Backend>(
        &mut self,
        engine: &mut Engine<B>,
        reuse: Reuse,
        request: Request,
    ) -> Result<RequestId> {
        let from = |sequence| Parent { sequence, len: Some(reuse.held) };
        let parent = self.sequence.filter(|_| reuse.held > 0).map(from);
        let id = engine.submit(Request { prompt: reuse.new, parent, keep: true, ..request })?;
        self.forget(engine);
        Ok(id)
    }

    /// Takes note of an event of the request; its last one says what is kept.
    pub fn note<B: Backend>(&mut self, engine: &Engine<B>, event: &Event) {
        if let Some(sequence) = event.sequence {
            self.sequence = Some(sequence);
            self.held = engine.tokens(sequence).unwrap_or_default().to_vec();
        }
    }

    /// Gives back what is kept: the next prompt is run from its first token.
    pub fn forget<B: Backend>(&mut self, engine: &mut Engine<B>) {
        if let Some(sequence) = self.sequence.take() {
            engine.release(sequence);
        }
        self.held.clear();
    }
}

/// How many tokens at the beginning of `held`, and how many of `ids`, spell the same text; the most
/// there are. Tokens that are not plain text count as themselves, whatever they are called.
fn shared(tokenizer: &Tokenizer, held: &[u32], ids: &[u32]) -> (usize, usize) {
    let same = held.iter().zip(ids).take_while(|(a, b)| a == b).count();
    let plain =
        |id: u32| matches!(tokenizer.kind(id), Some(TokenKind::Normal | TokenKind::Byte) | None);
    let mut both = (same, same);
    let (mut i, mut j) = both;
    // Bytes of tokens taken from one side that the other has not spelled yet.
    let (mut of_held, mut of_ids) = (vec![], vec![]);
    loop {
        if of_held.is_empty() && of_ids.is_empty() {
            both = (i, j);
            if let (Some(a), Some(b)) = (held.get(i), ids.get(j))
                && a == b
            {
                (i, j) = (i + 1, j + 1);
                continue;
            }
        }
        for (bytes, side, at) in [(&mut of_held, held, &mut i), (&mut of_ids, ids, &mut j)] {
            if bytes.is_empty() {
                match side.get(*at) {
                    Some(&id) if plain(id) => bytes.extend_from_slice(&tokenizer.token_bytes(id)),
                    _ => return both,
                }
                *at += 1;
            }
        }
        let n = of_held.len().min(of_ids.len());
        if of_held[..n] != of_ids[..n] {
            return both;
        }
        of_held.drain(..n);
        of_ids.drain(..n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::{Arc, LazyLock};

    static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
        let model = crate::Model::bundled().expect("the bundled model opens");
        model.tokenizer().expect("it has a tokenizer")
    });

    /// A text cut in single characters, which no tokenizer does by itself.
    fn letters(text: &str) -> Vec<u32> {
        let one = |c: char| TOKENIZER.encode(&c.to_string(), false, false);
        text.chars().flat_map(one).collect()
    }

    #[test]
    fn the_same_text_cut_otherwise() {
        let (a, b) = ("fox and bear", " went home");
        let held = letters(a);
        let ids = TOKENIZER.encode(&(a.to_owned() + b), false, true);
        assert!(!ids.starts_with(&held));
        let (i, j) = shared(&TOKENIZER, &held, &ids);
        assert_eq!(i, held.len(), "all of it is used again");
        assert_eq!(TOKENIZER.decode(&ids[j..]).trim_start(), b.trim_start());
    }

    #[test]
    fn a_special_token_is_not_its_name() {
        let eos = TOKENIZER.eos().expect("it has one");
        let name = TOKENIZER.text(eos);
        let spelled = TOKENIZER.encode(&name, false, false);
        assert!(spelled.len() > 1);
        assert_eq!(shared(&TOKENIZER, &spelled, &[eos]), (0, 0));
        assert_eq!(shared(&TOKENIZER, &[eos], &[eos]), (1, 1));
    }

    proptest! {
        /// What is put together spells the new prompt, and a prompt that begins with the kept
        /// tokens uses them all.
        #[test]
        fn the_rest_completes_the_text(
            held in prop::collection::vec(0u32..2100, 0..12),
            ids in prop::collection::vec(0u32..2100, 0..12),
            same in 0usize..12,
        ) {
            let ids = [&held[..same.min(held.len())], &ids].concat();
            let (i, j) = shared(&TOKENIZER, &held, &ids);
            prop_assert!(i >= same.min(held.len()));
            let bytes = |ids: &[u32]| -> Vec<u8> {
                ids.iter().flat_map(|&id| TOKENIZER.token_bytes(id).into_owned()).collect()
            };
            prop_assert_eq!(bytes(&held[..i]), bytes(&ids[..j]));
            let (all, n) = shared(&TOKENIZER, &held, &[&held[..], &ids].concat());
            prop_assert_eq!((all, n), (held.len(), held.len()));
        }
    }
}
