//! What is asked of a masked diffusion.

use gristmill_core::{Error, Result};
use gristmill_ir::Surety;

/// What masked places see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Blocks {
    /// Everything, the masks of later blocks too. Blocks begin behind the prompt.
    #[default]
    Open,
    /// What is before, and their own block: block diffusion (BD3, Arriola et al. 2025). Blocks lie at
    /// multiples of their length from the start of the text; the prompt may end within one.
    Causal,
}

/// How many masked places are committed in a pass, and which.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Of the `M` masks of a block in `S` steps, `floor(M/S) + (i < M mod S)` in step `i`, those the
    /// model is surest of (LLaDA, Nie et al. 2025).
    Even {
        /// Steps in all, shared out over the blocks.
        steps: u32,
    },
    /// `floor(m (1 - s/t))` of the `m` masks left, along `steps` times from 1 to `eps`; all in the
    /// last step (Dream, Ye et al. 2025).
    Timed {
        /// Steps in all, shared out over the blocks.
        steps: u32,
        /// Where time ends.
        eps: f32,
    },
    /// The surest, and every other at least this sure (Fast-dLLM, Wu et al. 2025).
    Threshold(f32),
    /// The `n` surest for the largest `n` with `(n + 1) (1 - c_n) < f`; always one (Fast-dLLM).
    Factor(f32),
    /// Each mask by itself with probability `1 - s/t`, along times as in `Timed`; all in the last
    /// step. With `eps` 0 the reverse process of MDLM (Sahoo et al. 2024) under the log-linear
    /// schedule, where the model is asked only for places that leave their mask in this step.
    Ancestral {
        /// Steps in all, shared out over the blocks.
        steps: u32,
        /// Where time ends.
        eps: f32,
    },
    /// One mask after the other in random order: the same process, exactly, at the times when
    /// something happens (Zheng et al. 2024, "first-hitting").
    FirstHitting,
}

/// What makes a proposed token sure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rank {
    /// What the device can tell.
    Of(Surety),
    /// Chance.
    Random,
}

/// What becomes of tokens that end a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Ends {
    /// They come when they come.
    #[default]
    Free,
    /// A place for which one is proposed is committed only when no other is left.
    Late,
    /// They are never proposed.
    Never,
}

/// Which keys and values are kept from pass to pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Cache {
    /// None: every pass runs the whole text.
    #[default]
    None,
    /// Those before the block.
    Prefix,
    /// All; a pass overwrites those of the block.
    Dual,
}

/// A prompt and how to fill in what follows it.
#[derive(Clone, Debug, PartialEq)]
pub struct DiffuseRequest {
    /// Token ids, none of them the mask.
    pub prompt: Vec<u32>,
    /// Tokens to generate, all of them masks at first.
    pub length: u32,
    /// Tokens of a block.
    pub block_length: u32,
    /// What masked places see.
    pub blocks: Blocks,
    /// The token that stands for one still to be found.
    pub mask: u32,
    /// Whether row `i` of the logits is about token `i + 1` (Dream).
    pub shift: bool,
    /// How many are committed.
    pub rule: Rule,
    /// Which are.
    pub rank: Rank,
    /// Whether the surety is of the whole softmax at temperature 1 and not of what is drawn from.
    pub plain: bool,
    /// Above 0, places are chosen by chance, from the softmax of surety over this; for
    /// [`Rule::Even`] and [`Rule::Timed`].
    pub place_temperature: f32,
    /// Divides the logits; 0: greedy.
    pub temperature: f32,
    /// See [`gristmill_ir::Unmask::top_p`].
    pub top_p: f32,
    /// See [`gristmill_ir::Unmask::top_k`].
    pub top_k: u32,
    /// The same seed gives the same text.
    pub seed: u64,
    /// `g` of `u + (g + 1)(l - u)`, where `u` are the logits with the prompt masked too; 0: off.
    pub guidance: f32,
    /// Tokens that end a text.
    pub end_ids: Vec<u32>,
    /// What becomes of them.
    pub ends: Ends,
    /// What is kept.
    pub cache: Cache,
    /// Passes of a block after which the whole text is run again, with [`Cache::Prefix`] and
    /// [`Cache::Dual`]; 0: only when a block begins.
    pub refresh: u32,
}

impl DiffuseRequest {
    /// LLaDA's plain algorithm: greedy, one token a pass, one block.
    pub fn new(prompt: impl Into<Vec<u32>>, length: u32, mask: u32) -> Self {
        DiffuseRequest {
            prompt: prompt.into(),
            length,
            block_length: length,
            blocks: Blocks::Open,
            mask,
            shift: false,
            rule: Rule::Even { steps: length },
            rank: Rank::Of(Surety::Probability),
            plain: true,
            place_temperature: 0.0,
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            seed: 0,
            guidance: 0.0,
            end_ids: vec![],
            ends: Ends::Free,
            cache: Cache::None,
            refresh: 0,
        }
    }

    /// Tokens of prompt and answer.
    pub fn total(&self) -> u32 {
        u32::try_from(self.prompt.len()).unwrap_or(u32::MAX).saturating_add(self.length)
    }

    /// Where the block that begins at `start` ends.
    pub(super) fn block_end(&self, start: u32) -> u32 {
        let end = match self.blocks {
            Blocks::Open => start.saturating_add(self.block_length),
            Blocks::Causal => (start / self.block_length + 1).saturating_mul(self.block_length),
        };
        end.min(self.total())
    }

    /// Blocks that have something to fill in.
    pub fn block_count(&self) -> u32 {
        match self.blocks {
            Blocks::Open => self.length / self.block_length.max(1),
            Blocks::Causal => {
                let block = self.block_length.max(1);
                self.total().div_ceil(block) - (self.total() - self.length) / block
            }
        }
    }

    /// Steps of each block, where the rule counts steps.
    pub(super) fn steps_of_block(&self) -> Option<u32> {
        match self.rule {
            Rule::Even { steps } | Rule::Timed { steps, .. } | Rule::Ancestral { steps, .. } => {
                Some(steps / self.block_count().max(1))
            }
            Rule::Threshold(_) | Rule::Factor(_) | Rule::FirstHitting => None,
        }
    }

    /// Checks everything; `context` is the most tokens of a sequence, `vocab` the number of ids.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the field, and where numbers must divide, the nearest that do.
    pub fn validate(&self, context: u32, vocab: u32) -> Result<()> {
        let usage = |what: String| Err(Error::Usage(what));
        for (name, n) in [("length", self.length), ("block_length", self.block_length)] {
            if n == 0 {
                return usage(format!("{name} is 0; it must be at least 1"));
            }
        }
        let (total, prompt) = (self.total(), self.prompt.len());
        if total > context {
            return usage(format!(
                "a prompt of {prompt} tokens and {} to generate are more than the context of \
                 {context}; generate fewer or raise the context",
                self.length
            ));
        }
        if self.blocks == Blocks::Open {
            divides(self.length, "tokens to fill in", "the block length", self.block_length)?;
        }
        if let Rule::Even { steps } | Rule::Timed { steps, .. } | Rule::Ancestral { steps, .. } =
            self.rule
        {
            divides(steps, "steps", "the number of blocks", self.block_count())?;
        }
        if self.mask >= vocab {
            return usage(format!("the mask is token {}, and there are {vocab}", self.mask));
        }
        if let Some(at) = self.prompt.iter().position(|&id| id == self.mask) {
            return usage(format!("token {at} of the prompt is the mask; a prompt has none"));
        }
        let ids = self.prompt.iter().chain(&self.end_ids);
        if let Some(id) = ids.copied().find(|&id| id >= vocab) {
            return usage(format!("token {id} is not in the vocabulary, which has {vocab}"));
        }
        let from_0 = |v: f32| v.is_finite() && v >= 0.0;
        let share = |v: f32| v.is_finite() && (0.0..1.0).contains(&v);
        let (rule, what, good) = match self.rule {
            Rule::Threshold(c) => (c, "threshold", from_0(c)),
            Rule::Factor(f) => (f, "factor", from_0(f)),
            Rule::Timed { eps, .. } | Rule::Ancestral { eps, .. } => (eps, "eps", share(eps)),
            Rule::Even { .. } | Rule::FirstHitting => (0.0, "", true),
        };
        let (p, g) = (self.place_temperature, self.guidance);
        for (name, v, good, range) in [
            (what, rule, good, if what == "eps" { "at least 0 and below 1" } else { FINITE }),
            ("place_temperature", p, from_0(p), FINITE),
            ("guidance", g, from_0(g), FINITE),
            ("temperature", self.temperature, from_0(self.temperature), FINITE),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1"),
        ] {
            gristmill_ir::sample::check(name, v, good, range)?;
        }
        Ok(())
    }
}

const FINITE: &str = "a finite number of at least 0";

/// # Errors
/// [`Error::Usage`] unless `n` is a multiple of `by`, with the nearest that are.
fn divides(n: u32, what: &str, by_what: &str, by: u32) -> Result<()> {
    if n > 0 && by > 0 && n.is_multiple_of(by) {
        return Ok(());
    }
    let by = by.max(1);
    let (below, above) = (n - n % by, (n - n % by).saturating_add(by));
    let near = if below == 0 { above.to_string() } else { format!("{below} or {above}") };
    Err(Error::Usage(format!("{n} {what} are no multiple of {by_what}, {by}; take {near}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl Fn(&mut DiffuseRequest)) -> String {
        let mut request = DiffuseRequest::new([1, 2, 3], 32, 9);
        request.block_length = 8;
        change(&mut request);
        request.validate(64, 10).unwrap_err().to_string()
    }

    #[test]
    fn what_does_not_divide_is_said_with_what_does() {
        let said = refused(|r| r.length = 30);
        assert!(
            said.contains("30 tokens to fill in")
                && said.contains("block length, 8; take 24 or 32"),
            "{said}"
        );
        let said = refused(|r| r.rule = Rule::Even { steps: 30 });
        assert!(
            said.contains("30 steps are") && said.contains("blocks, 4; take 28 or 32"),
            "{said}"
        );
        let said = refused(|r| r.rule = Rule::Timed { steps: 2, eps: 1e-3 });
        assert!(said.contains("2 steps are") && said.ends_with("take 4"), "{said}");
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (change, what) in [
            ((|r| r.length = 0) as fn(&mut DiffuseRequest), "length is 0"),
            (|r| r.block_length = 0, "block_length is 0"),
            (|r| r.length = 64, "context of 64"),
            (|r| r.length = u32::MAX, "context of 64"),
            (|r| r.prompt.push(9), "token 3 of the prompt is the mask"),
            (|r| r.prompt.push(10), "token 10"),
            (|r| r.end_ids.push(77), "token 77"),
            (|r| r.mask = 10, "the mask is token 10"),
            (|r| r.rule = Rule::Threshold(f32::NAN), "threshold is NaN"),
            (|r| r.rule = Rule::Factor(-1.0), "factor is -1"),
            (|r| r.rule = Rule::Timed { steps: 4, eps: 1.0 }, "eps is 1"),
            (|r| r.guidance = f32::INFINITY, "guidance is inf"),
            (|r| r.temperature = -0.5, "temperature is -0.5"),
            (|r| r.place_temperature = f32::NAN, "place_temperature is NaN"),
            (|r| r.top_p = 0.0, "top_p is 0"),
        ] {
            let said = refused(change);
            assert!(said.contains(what), "{said}, not {what}");
        }
    }

    #[test]
    fn blocks_behind_a_prompt_and_from_the_start() {
        let mut request = DiffuseRequest::new([1, 2, 3], 32, 9);
        request.block_length = 8;
        assert_eq!((request.block_count(), request.block_end(3)), (4, 11));
        request.blocks = Blocks::Causal;
        assert_eq!(
            (request.block_count(), request.block_end(3), request.block_end(32)),
            (5, 8, 35)
        );
    }
}
