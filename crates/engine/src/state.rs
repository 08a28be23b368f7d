//! States of recurrent models, out of the engine and back: a long text is paid for once.
//!
//! A recurrent model keeps what it has read in a slot of fixed size. [`Engine::state`] gives the
//! slot of a kept sequence as bytes; [`Engine::adopt`] makes a kept sequence of such bytes, in this
//! process or in another one with the same model, from which requests go on. Bytes are those of the
//! program's states one after the other, as the device lays them out.

use crate::engine::Engine;
use crate::request::{RequestId, SequenceId};
use crate::sequence::{Kept, NO_SLOT, Sequence};
use crate::waker::block_until;
use gristmill_core::{Error, Result};
use gristmill_ir::{Backend, Move, Results, StateKind, Step};

/// What a sequence has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedState {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// How many of them the state has read: all, or all but the last one generated.
    pub computed: u32,
    /// The state.
    pub bytes: Vec<u8>,
}

impl<B: Backend> Engine<B> {
    /// Bytes of a state; `None` for a model that keeps anything in pages, or has no state.
    pub fn state_bytes(&self) -> Option<usize> {
        let mut all = 0usize;
        for state in &self.program().states {
            let StateKind::Slot { elems, dtype } = *state else { return None };
            all = all.checked_add(dtype.bytes(elems as usize)?)?;
        }
        (all > 0).then_some(all)
    }

    fn expect_state(&self) -> Result<usize> {
        self.state_bytes().ok_or_else(|| {
            Error::Usage(format!(
                "`{}` keeps its text as keys and values, not as a state of fixed size; only the \
                 states of recurrent models can be saved",
                self.program().name
            ))
        })
    }

    /// The state of a kept sequence.
    ///
    /// # Errors
    /// [`Error::Usage`] for a model without states, or a sequence that is not kept or whose state
    /// was taken back for another; [`Error::Runtime`] when the device failed.
    pub fn state(&mut self, id: SequenceId) -> Result<SavedState> {
        let size = self.expect_state()?;
        let found = self.kept.iter().find(|k| k.id == id && !k.released);
        let held = found.map(|k| &k.sequence).filter(|s| s.slot != NO_SLOT && s.computed > 0);
        let Some(s) = held else {
            return Err(Error::Usage(format!("sequence {} is not kept with its state", id.0)));
        };
        let (tokens, computed) = (s.tokens.clone(), s.computed);
        let moves = [Move::Slot { from: s.slot, to: 0 }];
        let step = self.runner.backend.save(&mut self.runner.context, &moves)?;
        self.wait_for(step)?;
        let bytes = self.runner.backend.host_slot(&mut self.runner.context).to_vec();
        if bytes.len() != size {
            return Err(self.no_host_slot());
        }
        Ok(SavedState { tokens, computed, bytes })
    }

    /// A kept sequence with this state, to be named as the parent of requests.
    ///
    /// # Errors
    /// [`Error::Usage`] for a model without states, a state of another size, and tokens that are
    /// not of the vocabulary or do not fit in the context; [`Error::Memory`] when no slot is left;
    /// [`Error::Runtime`] when the device failed.
    pub fn adopt(&mut self, saved: &SavedState) -> Result<SequenceId> {
        let size = self.expect_state()?;
        let usage = |what: String| Err(Error::Usage(format!("the saved state {what}")));
        let (len, context) = (saved.tokens.len(), self.options.context as usize);
        if saved.bytes.len() != size {
            return usage(format!("has {} bytes; the model's has {size}", saved.bytes.len()));
        }
        if saved.computed == 0 || saved.computed as usize > len {
            return usage(format!("has read {} of {len} tokens", saved.computed));
        }
        if len >= context {
            return usage(format!(
                "has {len} tokens and the context holds {context}; raise the context"
            ));
        }
        if let Some(id) = saved.tokens.iter().find(|&&id| id >= self.vocab()) {
            return usage(format!("names token {id}, which is not in the vocabulary"));
        }
        let slot = self.take_slot()?;
        let host = self.runner.backend.host_slot(&mut self.runner.context);
        if host.len() != size {
            self.memory.slots.release(slot, 0);
            return Err(self.no_host_slot());
        }
        host.copy_from_slice(&saved.bytes);
        let moves = [Move::Slot { from: 0, to: slot }];
        let restored = self.runner.backend.restore(&mut self.runner.context, &moves);
        if let Err(e) = restored.and_then(|step| self.wait_for(step)) {
            self.memory.slots.release(slot, 0);
            return Err(e);
        }
        let id = SequenceId(self.new_id());
        let groups = self.memory.groups.len();
        let mut sequence = Sequence::new(RequestId(id.0), saved.tokens.clone(), u32::MAX, groups);
        sequence.computed = saved.computed;
        (sequence.slot, sequence.state_from, sequence.keep) = (slot, slot, true);
        self.kept.push(Kept { id, sequence, children: 0, released: false });
        Ok(id)
    }

    fn no_host_slot(&self) -> Error {
        let name = self.runner.backend.capabilities().name;
        Error::Device(format!("{name} cannot copy states to host memory"))
    }

    fn wait_for(&mut self, step: Step) -> Result<()> {
        let waker = self.thread.get();
        let mut results = Results::default();
        block_until(|| {
            let context = &mut self.runner.context;
            self.runner.backend.finish(context, step, &mut results, &waker)
        })
    }
}
