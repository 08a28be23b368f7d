//! Steps with the times of their operations, for those who ask where the time goes.

use crate::engine::Engine;
use gristmill_core::Result;
use gristmill_ir::{Backend, Batch, Group, Times};
use std::collections::VecDeque;
use std::time::Instant;

/// A step that was timed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timed {
    /// Nanoseconds from when timing began to the step's launch.
    pub start: u64,
    /// Tokens run, of all sequences.
    pub tokens: u32,
    /// Sequences in it.
    pub seqs: u32,
    /// Tokens whose logits were wanted.
    pub rows: u32,
    /// What attention looks at, for each page group.
    pub seen: Vec<Keys>,
    /// How long its operations took.
    pub times: Times,
}

/// What attention over a page group looks at in a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// Pairs of a token and a key that it sees.
    pub pairs: u64,
    /// Keys that some token sees, of all sequences.
    pub read: u64,
}

/// The timed steps so far.
pub(crate) struct Profile {
    began: Instant,
    launched: VecDeque<Timed>,
    finished: Vec<Timed>,
}

impl Profile {
    fn new() -> Profile {
        Profile { began: Instant::now(), launched: VecDeque::new(), finished: vec![] }
    }

    /// Nanoseconds since timing began.
    pub fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// Notes a step that was launched, which began at `start`.
    pub fn launched(&mut self, start: u64, batch: &Batch<'_>, groups: &[Group]) {
        self.launched.push_back(Timed {
            start,
            tokens: batch.tokens.len() as u32,
            seqs: batch.kv_len.len() as u32,
            rows: batch.rows.len() as u32,
            seen: groups.iter().map(|g| keys(batch, g.window)).collect(),
            times: Times::default(),
        });
    }

    /// Notes the times of the oldest step that was launched.
    pub fn finish(&mut self, times: Times) {
        if let Some(step) = self.launched.pop_front() {
            self.finished.push(Timed { times, ..step });
        }
    }
}

fn keys(batch: &Batch<'_>, window: Option<u32>) -> Keys {
    let window = window.unwrap_or(u32::MAX);
    let pairs = batch.visible.iter().map(|[from, to]| u64::from((to - from).min(window))).sum();
    let tokens = batch.seq_starts.windows(2).map(|w| w[1] - w[0]);
    let read = tokens.zip(batch.kv_len).map(|(n, &len)| len.min(window.saturating_add(n - 1)));
    Keys { pairs, read: read.map(u64::from).sum() }
}

impl<B: Backend> Engine<B> {
    /// Times the operations of the steps launched from now on, or no longer.
    ///
    /// # Errors
    /// [`gristmill_core::Error::Device`] where the device cannot.
    pub fn profile(&mut self, on: bool) -> Result<()> {
        self.runner.backend.profile(&mut self.runner.context, on)?;
        self.runner.profile = on.then(Profile::new);
        Ok(())
    }

    /// The steps that were timed and have finished since this was last asked.
    pub fn timed(&mut self) -> Vec<Timed> {
        self.runner.profile.as_mut().map_or(vec![], |p| std::mem::take(&mut p.finished))
    }
}
