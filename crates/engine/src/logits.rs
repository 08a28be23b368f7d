//! Scores of the vocabulary for given tokens, without sampling: for measuring perplexity, for
//! comparing with other implementations, and for proving that neither chunking nor company changes
//! a result.

use crate::batch::Part;
use crate::engine::Engine;
use crate::request::RequestId;
use crate::sequence::{NO_SLOT, Sequence};
use crate::waker::block_until;
use gristmill_core::{Error, Result};
use gristmill_ir::{Backend, Output, Size};
use std::ops::Range;

/// What receives scores: the prompt, the position in it, and the logits (not normalised, one a
/// vocabulary entry) of the token after that position.
pub type Visit<'v> = dyn FnMut(usize, usize, &[f32]) -> Result<()> + 'v;

impl<B: Backend> Engine<B> {
    /// Logits after every token of a prompt, `[tokens, vocab]` row by row, computed in chunks of
    /// `chunk` tokens.
    ///
    /// # Errors
    /// As [`Engine::each_logits`].
    pub fn logits(&mut self, ids: &[u32], chunk: u32) -> Result<Vec<f32>> {
        let mut all = self.logits_many(&[ids], chunk)?;
        Ok(all.pop().unwrap_or_default())
    }

    /// The same for several prompts, which run together in the same steps.
    ///
    /// # Errors
    /// As [`Engine::each_logits`].
    pub fn logits_many(&mut self, prompts: &[&[u32]], chunk: u32) -> Result<Vec<Vec<f32>>> {
        let mut all = vec![vec![]; prompts.len()];
        self.each_logits(prompts, chunk, 0..usize::MAX, &mut |prompt, _, row| {
            all[prompt].extend_from_slice(row);
            Ok(())
        })?;
        Ok(all)
    }

    /// Runs prompts together, each in chunks of `chunk` tokens (fewer where the token budget is
    /// smaller), and hands the logits of every position in `positions` to `visit`: step by step, so
    /// in order for each prompt, and the logits of one step are in memory at a time.
    ///
    /// # Errors
    /// [`Error::Usage`] while requests run, for more prompts than sequences fit a step, and for a
    /// prompt that is empty, longer than the context or not of the vocabulary; [`Error::Device`] for
    /// one that is longer than a step and whose tokens see each other; [`Error::Memory`]
    /// when the pages do not hold them all; what `visit` returns; and [`Error::Runtime`] when the
    /// device failed.
    pub fn each_logits(
        &mut self,
        prompts: &[&[u32]],
        chunk: u32,
        positions: Range<usize>,
        visit: &mut Visit<'_>,
    ) -> Result<()> {
        self.check_logits(prompts, chunk)?;
        if prompts.is_empty() {
            return Ok(());
        }
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let wanted = narrow(positions.start)..narrow(positions.end);
        // What sees the text after it runs with that text.
        let chunk = if self.is_causal() { chunk } else { u32::MAX };
        let chunk = chunk.min(self.options.token_budget);
        let most = prompts.iter().map(|p| narrow(p.len()).min(chunk)).fold(0, u32::saturating_add);
        let tokens = most.min(self.options.token_budget);
        let rows = tokens.max(1);
        let one_token_a_seq = most as usize == prompts.len();
        self.runner.prepare(Size { tokens, seqs: narrow(prompts.len()), rows, one_token_a_seq })?;

        let groups = self.memory.groups.len();
        let new = |p: &&[u32]| Sequence::new(RequestId(u64::MAX), p.to_vec(), u32::MAX, groups);
        let mut sequences: Vec<Sequence> = prompts.iter().map(new).collect();
        let result = self.run_logits(&mut sequences, chunk, &wanted, visit);
        for s in &mut sequences {
            self.memory.evict(s);
        }
        result
    }

    fn check_logits(&self, prompts: &[&[u32]], chunk: u32) -> Result<()> {
        let usage = |what: String| Err(Error::Usage(what));
        if !self.is_idle() {
            return usage("logits are read only while no request runs".into());
        }
        if chunk == 0 {
            return usage("a chunk of 0 tokens; it must be at least 1".into());
        }
        let (count, most) = (prompts.len(), self.options.max_seqs);
        if count > most as usize {
            return usage(format!("{count} prompts at once; a step holds {most} sequences"));
        }
        for prompt in prompts {
            let (len, context) = (prompt.len(), self.options.context);
            if len == 0 || len > context as usize {
                return usage(format!("a prompt of {len} tokens; it must have 1 to {context}"));
            }
            let budget = self.options.token_budget;
            if len > budget as usize && !self.is_causal() {
                return Err(Error::Device(format!(
                    "a prompt of {len} tokens is more than a step of {budget}; a text whose tokens \
                     see each other is not cut"
                )));
            }
            if let Some(id) = prompt.iter().find(|&&id| id >= self.vocab()) {
                let last = self.vocab() - 1;
                return usage(format!("token {id} is not in the vocabulary, which ends at {last}"));
            }
        }
        Ok(())
    }

    fn run_logits(
        &mut self,
        sequences: &mut [Sequence],
        chunk: u32,
        wanted: &Range<u32>,
        visit: &mut Visit<'_>,
    ) -> Result<()> {
        for s in sequences.iter_mut() {
            s.slot = self.take_slot()?;
        }
        let mut parts = vec![];
        let mut scores = vec![];
        loop {
            parts.clear();
            let mut budget = self.options.token_budget;
            for (seq, s) in sequences.iter_mut().enumerate() {
                let tokens = chunk.min(s.len() - s.computed);
                if tokens == 0 || tokens > budget {
                    continue; // done, or in the next step
                }
                budget -= tokens;
                self.memory.drop_unseen(s);
                self.grow_tables(&mut s.tables, s.computed..s.computed + tokens)?;
                parts.push(Part { seq, tokens });
            }
            if parts.is_empty() {
                return Ok(());
            }
            self.logits_step(sequences, &parts, wanted, &mut scores)?;
            self.visit_rows(sequences, &parts, wanted, &scores, visit)?;
        }
    }

    /// Runs one step and reads its logits; advances the sequences.
    fn logits_step(
        &mut self,
        sequences: &mut [Sequence],
        parts: &[Part],
        wanted: &Range<u32>,
        scores: &mut Vec<f32>,
    ) -> Result<()> {
        let recurrent = self.memory.recurrent;
        let find = |i: usize| &sequences[i];
        self.runner.arrays.fill(parts, find, recurrent, Some(wanted.clone()));
        let number = self.runner.next_step();
        let step = self.runner.launch()?;
        for part in parts {
            let s = &mut sequences[part.seq];
            s.computed += part.tokens;
            s.last_step = number;
            s.state_from = if recurrent { s.slot } else { NO_SLOT };
        }
        let waker = self.thread.get();
        let (runner, results) = (&mut self.runner, &mut self.scratch.results);
        scores.clear();
        let read = match runner.arrays.rows() {
            0 => Ok(()),
            _ => block_until(|| {
                let context = &mut runner.context;
                runner.backend.read(context, step, Output::Logits, scores, &waker)
            }),
        };
        let finish = block_until(|| runner.finish(step, results, &waker));
        self.memory.finished(number);
        read.and(finish)
    }

    fn visit_rows(
        &self,
        sequences: &[Sequence],
        parts: &[Part],
        wanted: &Range<u32>,
        scores: &[f32],
        visit: &mut Visit<'_>,
    ) -> Result<()> {
        let mut rows = scores.chunks_exact(self.vocab() as usize);
        for part in parts {
            let end = sequences[part.seq].computed;
            for at in (end - part.tokens..end).filter(|at| wanted.contains(at)) {
                let row = rows.next().ok_or_else(|| {
                    Error::Runtime("the device returned fewer logits than asked for".into())
                })?;
                visit(part.seq, at as usize, row)?;
            }
        }
        Ok(())
    }
}
