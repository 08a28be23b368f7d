//! What is asked of the engine, and what it answers.

use crate::sampling::SamplingParams;
use gristmill_core::{Error, Result};

/// A request, from [`Engine::submit`](crate::Engine::submit) to its final event. Never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u64);

/// What a request with [`Request::keep`] leaves behind: its tokens, and while memory allows the
/// pages that hold their keys and values. It has the number of its request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SequenceId(pub u64);

/// The kept sequence that a request goes on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The sequence. It stays as it is and can be gone on from again, until it is released.
    pub sequence: SequenceId,
    /// How many of its tokens count, the first ones; `None`: all. With fewer, a conversation is
    /// taken back to that point and goes on differently.
    pub len: Option<usize>,
}

/// A prompt and how to continue it.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Token ids. With a parent: those that come after it.
    pub prompt: Vec<u32>,
    /// Tokens to generate at most, at least 1. Fewer where the context is full before.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Tokens after which generation stops. The stop token itself is reported.
    pub stop_ids: Vec<u32>,
    /// A kept sequence to go on from, without running its tokens again.
    pub parent: Option<Parent>,
    /// Whether the sequence is kept when the request ends, to be gone on from.
    pub keep: bool,
}

impl Request {
    /// A greedy request that stops at nothing but its length.
    pub fn new(prompt: impl Into<Vec<u32>>, max_tokens: usize) -> Self {
        Request {
            prompt: prompt.into(),
            max_tokens,
            sampling: SamplingParams::default(),
            stop_ids: vec![],
            parent: None,
            keep: false,
        }
    }

    /// Checks what can be checked without the parent. `before` is the number of tokens taken from
    /// it, `context` the most tokens of a sequence, `vocab` the number of token ids.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the field and both numbers.
    pub fn validate(&self, before: usize, context: usize, vocab: u32) -> Result<()> {
        self.sampling.validate()?;
        if let Some((id, _)) = self.sampling.logit_bias.iter().find(|b| b.0 >= vocab) {
            return Err(Error::Usage(format!(
                "logit_bias names token {id}; the model's vocabulary ends at {}",
                vocab.saturating_sub(1)
            )));
        }
        let len = before.saturating_add(self.prompt.len());
        if len == 0 {
            return Err(Error::Usage("the prompt is empty; it needs at least one token".into()));
        }
        if self.max_tokens == 0 {
            return Err(Error::Usage("max_tokens is 0; it must be at least 1".into()));
        }
        if len >= context {
            return Err(Error::Usage(format!(
                "the prompt has {len} tokens and the context holds {context}, of which at least \
                 one must be left to generate; shorten the prompt or raise the context"
            )));
        }
        if let Some(id) = self.prompt.iter().find(|&&id| id >= vocab) {
            return Err(Error::Usage(format!(
                "the prompt holds token {id}; the model's vocabulary ends at {}",
                vocab.saturating_sub(1)
            )));
        }
        Ok(())
    }
}

/// Why a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finish {
    /// The model chose one of the stop tokens.
    Stop,
    /// `max_tokens` were generated, or the context is full.
    Length,
    /// [`Engine::cancel`](crate::Engine::cancel) was called.
    Cancelled,
}

/// A token of a request, its end, or both at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event {
    /// Whose.
    pub id: RequestId,
    /// The token chosen; `None` only for [`Finish::Cancelled`].
    pub token: Option<u32>,
    /// The natural logarithm of its probability under the whole distribution at temperature 1.
    pub logprob: f32,
    /// Set on the last event of a request.
    pub finish: Option<Finish>,
    /// On the last event of a request that asked to be kept: what to name as the next parent.
    pub sequence: Option<SequenceId>,
}
