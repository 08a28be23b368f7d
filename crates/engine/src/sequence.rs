//! A sequence while it lives: its tokens, how far they are computed, and what it holds.

use crate::pages::{Pool, Table, first_visible};
use crate::request::{Parent, RequestId, SequenceId};
use crate::sampling::SamplingParams;
use gristmill_ir::Group;

/// Stands for "no slot" and "start from zero" in batches.
pub(crate) const NO_SLOT: u32 = u32::MAX;

pub(crate) struct Sequence {
    pub id: RequestId,
    /// Counts evictions, so that a result launched before one is recognised.
    pub epoch: u32,
    pub running: bool,
    /// Every token known: the parent's, the prompt's, the generated.
    pub tokens: Vec<u32>,
    /// Tokens sampled by steps in flight, not known yet.
    pub pending: u32,
    /// Tokens whose keys and values are written by a step launched.
    pub computed: u32,
    /// Tokens at the end, at most.
    pub limit: u32,
    /// The sequence's slot, or [`NO_SLOT`].
    pub slot: u32,
    /// Where recurrent state is read from in the next step.
    pub state_from: u32,
    /// Whether the slot holds the last token.
    pub last_in_slot: bool,
    /// One page table a group.
    pub tables: Vec<Table>,
    /// The last step that names its pages.
    pub last_step: u64,
    pub sampling: SamplingParams,
    /// Mirostat's bound on surprise, after the tokens known.
    pub mu: f32,
    pub stop_ids: Vec<u32>,
    pub keep: bool,
    pub parent: Option<Parent>,
}

impl Sequence {
    pub fn new(id: RequestId, tokens: Vec<u32>, limit: u32, groups: usize) -> Self {
        Sequence {
            id,
            epoch: 0,
            running: false,
            tokens,
            pending: 0,
            computed: 0,
            limit,
            slot: NO_SLOT,
            state_from: NO_SLOT,
            last_in_slot: false,
            tables: std::iter::repeat_with(Table::default).take(groups).collect(),
            last_step: 0,
            sampling: SamplingParams::default(),
            mu: 0.0,
            stop_ids: vec![],
            keep: false,
            parent: None,
        }
    }

    /// Tokens, known or sampled by a step in flight.
    pub fn len(&self) -> u32 {
        self.tokens.len() as u32 + self.pending
    }

    /// Tokens that can be computed now. The very last token of a request is never computed: nothing
    /// follows it. Where the next choice depends on the last token, that must be known first.
    pub fn ready(&self) -> u32 {
        let waits = self.pending > 0 && self.sampling.needs_text();
        if self.len() >= self.limit || waits { 0 } else { self.len() - self.computed }
    }

    /// Takes the parameters of a request.
    pub fn sample_with(&mut self, mut sampling: SamplingParams) {
        sampling.dry_breakers.sort_unstable();
        self.mu = sampling.first_mu();
        self.sampling = sampling;
    }

    /// Whether it holds pages or state worth taking.
    pub fn holds(&self) -> bool {
        self.computed > 0
    }
}

/// A sequence that nobody runs, kept to be gone on from.
pub(crate) struct Kept {
    pub id: SequenceId,
    pub sequence: Sequence,
    /// Waiting requests that name it as their parent.
    pub children: u32,
    /// Released by its owner; goes when the last child has started.
    pub released: bool,
}

/// The pools that sequences hold from.
pub(crate) struct Memory {
    /// One pool a page group.
    pub pages: Vec<Pool>,
    pub slots: Pool,
    pub groups: Vec<Group>,
    pub page_tokens: u32,
    /// Whether the model has recurrent state: then a sequence without its slot starts over.
    pub recurrent: bool,
}

impl Memory {
    /// Takes back everything a sequence holds; its tokens would have to be computed again.
    pub fn evict(&mut self, s: &mut Sequence) {
        for (table, pool) in s.tables.iter_mut().zip(&mut self.pages) {
            table.clear(pool, s.last_step);
        }
        self.free_slot(s);
        s.epoch += 1;
        s.computed = 0;
        s.pending = 0;
    }

    /// Takes back the slot of a sequence.
    pub fn free_slot(&mut self, s: &mut Sequence) {
        if s.slot != NO_SLOT {
            self.slots.release(s.slot, s.last_step);
        }
        s.slot = NO_SLOT;
        s.state_from = NO_SLOT;
        s.last_in_slot = false;
    }

    /// Takes back pages wholly out of the window.
    pub fn drop_unseen(&mut self, s: &mut Sequence) {
        for ((table, pool), group) in s.tables.iter_mut().zip(&mut self.pages).zip(&self.groups) {
            let first = first_visible(group.window, s.computed);
            table.drop_before(pool, first, self.page_tokens, s.last_step);
        }
    }

    /// How many tokens of a kept sequence a child with `len` tokens need not compute again: those
    /// that are there, but never all of the child's, since the last one gives its first scores.
    pub fn reusable(&self, kept: &Sequence, cut: Option<usize>, len: u32) -> u32 {
        let cut = cut.map_or(u32::MAX, |c| u32::try_from(c).unwrap_or(u32::MAX));
        let reuse = kept.computed.min(cut).min(len.saturating_sub(1));
        if self.recurrent && reuse != kept.computed {
            return 0;
        }
        let covers = |(table, group): (&Table, &Group)| {
            table.covers(first_visible(group.window, reuse), reuse, self.page_tokens)
        };
        if kept.tables.iter().zip(&self.groups).all(covers) { reuse } else { 0 }
    }

    /// Notes that every step up to `step` has finished.
    pub fn finished(&mut self, step: u64) {
        self.pages.iter_mut().for_each(|p| p.finished(step));
        self.slots.finished(step);
    }
}
