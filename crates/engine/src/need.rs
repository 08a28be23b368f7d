//! How many bytes a model takes, before any are allocated.

use crate::options::{EngineOptions, page_bytes};
use gristmill_core::Result;
use gristmill_ir::arena::Arena;
use gristmill_ir::{Node, Op, Program, Ref, Rows, Shape, StateKind, TensorDecl};

/// Bytes by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Weights as stored; a device pads rows to whole registers, a percent or so.
    pub weights: u64,
    /// Keys and values, and the states of recurrent layers.
    pub states: u64,
    /// Values between operations and their scratch: an upper bound.
    pub workspace: u64,
}

impl Need {
    /// All together.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.states).saturating_add(self.workspace)
    }
}

impl EngineOptions {
    /// What an engine with these options takes for `program`, whose weights take `stored` bytes
    /// each; `rows` is the most outputs of a step that are read (those of its sequences are
    /// always counted).
    ///
    /// # Errors
    /// As [`crate::Engine::new`] about pages.
    pub fn need(
        &self,
        program: &Program,
        stored: &dyn Fn(&TensorDecl) -> u64,
        rows: u32,
    ) -> Result<Need> {
        let used = program.used_tensors();
        let named = program.tensors.iter().zip(used).filter(|t| t.1);
        let pages = self.pages(program)?;
        let paged = page_bytes(program, self.page_tokens)?;
        let paged: u64 = paged.iter().zip(&pages).map(|(b, &n)| b.saturating_mul(n.into())).sum();
        let slots = u64::from(self.slots(program));
        let slot = |s: &StateKind| match *s {
            StateKind::Slot { elems, dtype } => dtype.bytes(elems as usize).unwrap_or(0) as u64,
            StateKind::Paged { .. } => 0,
        };
        let in_slots: u64 = program.states.iter().map(slot).sum();
        Ok(Need {
            weights: named.map(|(decl, _)| stored(decl)).fold(0, u64::saturating_add),
            states: paged.saturating_add(in_slots.saturating_mul(slots)),
            workspace: self.workspace(program, rows),
        })
    }

    /// Slots of recurrent state and of last-sampled tokens.
    pub(crate) fn slots(&self, program: &Program) -> u32 {
        let recurrent = program.states.iter().any(|s| matches!(s, StateKind::Slot { .. }));
        self.max_seqs + if recurrent { self.kept_slots } else { 0 }
    }

    /// Bytes of the largest step: values laid out as every device does, and as scratch of an
    /// operation its inputs prepared and its outputs once more, in f32.
    fn workspace(&self, program: &Program, rows: u32) -> u64 {
        let wanted = rows.max(self.max_seqs).min(self.token_budget);
        let bound = |rows: Rows| match rows {
            Rows::Tokens => self.token_budget as usize,
            Rows::Seqs => self.max_seqs as usize,
            Rows::Wanted => wanted as usize,
            Rows::Choices(k) => self.token_budget as usize * k as usize,
        };
        let bytes = |s: Shape| bound(s.rows) * s.width as usize * size_of::<f32>();
        let scratch = |n: &Node| {
            let mut all = 0;
            n.op.visit(&mut |r| {
                if let Ref::Value(v) = r {
                    all += bytes(program.shape(v));
                }
            });
            let outputs: usize = n.outputs.iter().map(|&v| bytes(program.shape(v))).sum();
            match &n.op {
                // Queries, keys and values; a gate and an up.
                Op::Qkv { w, .. } | Op::GateUp { w, .. } => {
                    let width: u32 = w.iter().map(|&w| program.decl(w).rows).sum();
                    all + bytes(Shape { rows: Rows::Tokens, width })
                }
                _ => all + outputs,
            }
        };
        Arena::plan(program, |v| bytes(program.shape(v)), scratch).total as u64
    }
}
