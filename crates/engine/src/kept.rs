//! Sequences kept after their request, and those that go on from them.
//!
//! A kept sequence is its tokens and, while memory allows, their pages (and state). A request that
//! names it as parent copies the tokens when it is submitted and shares the pages when it starts to
//! run; if they were taken back in between, the tokens are simply computed again.

use crate::engine::Engine;
use crate::pages::{Table, pages_for};
use crate::request::{Parent, SequenceId};
use crate::sequence::{Kept, NO_SLOT, Sequence};
use gristmill_core::{Error, Result};
use gristmill_ir::Backend;
use std::ops::Range;

impl<B: Backend> Engine<B> {
    /// The kept sequence a request names, and how many of its tokens count.
    pub(crate) fn find_parent(&self, parent: Parent) -> Result<(usize, usize)> {
        let SequenceId(id) = parent.sequence;
        let found = self.kept.iter().position(|k| k.id == parent.sequence && !k.released);
        let Some(at) = found else {
            return Err(Error::Usage(format!(
                "sequence {id} is not kept: its request has not ended or did not ask to be kept, \
                 or it was released"
            )));
        };
        let len = self.kept[at].sequence.tokens.len();
        match parent.len {
            Some(cut) if cut > len => Err(Error::Usage(format!(
                "sequence {id} has {len} tokens; {cut} of them cannot be gone on from"
            ))),
            cut => Ok((at, cut.unwrap_or(len))),
        }
    }

    /// Takes a sequence out; keeps it if it asked to be kept, else takes everything back.
    pub(crate) fn end(&mut self, index: usize) -> Option<SequenceId> {
        self.running.retain(|&i| i != index);
        self.waiting.retain(|&i| i != index);
        let mut sequence = self.sequences[index].take()?;
        if let Some(parent) = sequence.parent.take() {
            self.child_started(parent);
        }
        sequence.running = false;
        sequence.pending = 0;
        if !sequence.keep {
            self.memory.evict(&mut sequence);
            return None;
        }
        let known = sequence.tokens.len() as u32;
        if sequence.computed > known && self.memory.recurrent {
            self.memory.evict(&mut sequence); // the state is ahead and cannot be taken back
        }
        sequence.computed = sequence.computed.min(known);
        sequence.last_in_slot = false;
        if !self.memory.recurrent {
            self.memory.free_slot(&mut sequence);
        }
        self.memory.drop_unseen(&mut sequence);
        let id = SequenceId(sequence.id.0);
        self.kept.push(Kept { id, sequence, children: 0, released: false });
        Some(id)
    }

    /// Notes that a waiting child of a kept sequence waits no more.
    pub(crate) fn child_started(&mut self, parent: Parent) {
        let Some(at) = self.kept.iter().position(|k| k.id == parent.sequence) else { return };
        self.kept[at].children -= 1;
        self.drop_released(at);
    }

    fn drop_released(&mut self, at: usize) {
        if self.kept[at].released && self.kept[at].children == 0 {
            let mut kept = self.kept.remove(at);
            self.memory.evict(&mut kept.sequence);
        }
    }

    /// The tokens of a kept sequence: its prompt and what was generated, a stop token included.
    pub fn tokens(&self, id: SequenceId) -> Option<&[u32]> {
        let kept = self.kept.iter().find(|k| k.id == id && !k.released)?;
        Some(&kept.sequence.tokens)
    }

    /// Lets go of a kept sequence. Requests submitted with it as parent still go on from it.
    /// `false` when it is not kept (any more).
    pub fn release(&mut self, id: SequenceId) -> bool {
        let found = self.kept.iter().position(|k| k.id == id && !k.released);
        let Some(at) = found else { return false };
        self.kept[at].released = true;
        self.drop_released(at);
        true
    }

    /// Where a waiting sequence would start: the kept sequence to take from, and how many of its
    /// tokens.
    pub(crate) fn start(&self, s: &Sequence) -> Option<(usize, u32)> {
        let parent = s.parent?;
        let at = self.kept.iter().position(|k| k.id == parent.sequence)?;
        let reuse = self.memory.reusable(&self.kept[at].sequence, parent.len, s.len());
        (reuse > 0).then_some((at, reuse))
    }

    /// Gives a waiting sequence its slot and what its parent left; `None` when there is no slot.
    pub(crate) fn activate(&mut self, index: usize) -> Option<()> {
        let mut s = self.sequences.get_mut(index)?.take()?;
        let started = self.activate_sequence(&mut s);
        if started.is_some() {
            self.waiting.retain(|&i| i != index);
            self.running.push(index);
        }
        self.sequences[index] = Some(s);
        started
    }

    fn activate_sequence(&mut self, s: &mut Sequence) -> Option<()> {
        let step = self.runner.next_step();
        let page_tokens = self.memory.page_tokens;
        match self.start(s) {
            // The only child of a released parent takes its place.
            Some((at, reuse)) if self.kept[at].released && self.kept[at].children == 1 => {
                let parent = &mut self.kept[at].sequence;
                s.slot = match parent.slot {
                    NO_SLOT => self.memory.slots.alloc()?,
                    _ => std::mem::replace(&mut parent.slot, NO_SLOT),
                };
                s.state_from = if self.memory.recurrent { s.slot } else { NO_SLOT };
                s.last_step = parent.last_step;
                s.computed = reuse;
                std::mem::swap(&mut s.tables, &mut parent.tables);
                for (table, pool) in s.tables.iter_mut().zip(&mut self.memory.pages) {
                    table.truncate(pool, reuse, page_tokens, s.last_step);
                }
            }
            Some((at, reuse)) => {
                s.slot = self.memory.slots.alloc()?;
                let parent = &self.kept[at].sequence;
                if self.memory.recurrent {
                    s.state_from = parent.slot;
                    self.memory.slots.touch(parent.slot, step);
                }
                s.computed = reuse;
                let pools = parent.tables.iter().zip(&mut self.memory.pages);
                for (table, (from, pool)) in s.tables.iter_mut().zip(pools) {
                    *table = from.fork(pool, reuse, page_tokens);
                }
            }
            None => s.slot = self.memory.slots.alloc()?,
        }
        s.running = true;
        if let Some(parent) = s.parent.take() {
            self.child_started(parent);
        }
        // From here on it grows without allocating.
        s.tokens.reserve_exact(s.limit as usize - s.tokens.len());
        for table in &mut s.tables {
            table.reserve_capacity(pages_for(s.limit, page_tokens));
        }
        Some(())
    }

    /// A slot, from a kept sequence where none is free.
    ///
    /// # Errors
    /// As [`Engine::evict_oldest_kept`].
    pub(crate) fn take_slot(&mut self) -> Result<u32> {
        loop {
            if let Some(slot) = self.memory.slots.alloc() {
                return Ok(slot);
            }
            self.evict_oldest_kept("slots")?;
        }
    }

    /// Grows tables, one of each group, by the pages of the tokens in `span` for the next step, from
    /// kept sequences where none are free.
    ///
    /// # Errors
    /// As [`Engine::evict_oldest_kept`].
    pub(crate) fn grow_tables(&mut self, tables: &mut [Table], span: Range<u32>) -> Result<()> {
        let (step, page_tokens) = (self.runner.next_step(), self.memory.page_tokens);
        for (group, table) in tables.iter_mut().enumerate() {
            loop {
                let pool = &mut self.memory.pages[group];
                let moves = &mut self.runner.arrays.moves;
                if table.grow(pool, span.clone(), page_tokens, step, group as u8, moves) {
                    break;
                }
                self.evict_oldest_kept("pages")?;
            }
        }
        Ok(())
    }

    /// Takes back what the kept sequence least recently used holds.
    ///
    /// # Errors
    /// [`Error::Memory`] when none holds anything.
    pub(crate) fn evict_oldest_kept(&mut self, what: &str) -> Result<()> {
        let Some(kept) = self.kept.iter_mut().find(|k| k.sequence.holds()) else {
            return Err(Error::Memory(format!(
                "not enough {what} for so many tokens at once; ask for fewer or give the KV cache \
                 more memory"
            )));
        };
        self.memory.evict(&mut kept.sequence);
        Ok(())
    }
}
