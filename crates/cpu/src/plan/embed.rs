//! Where values come from: the embedding table, or rows written by the host.

use super::{At, Compiler, Step};
use crate::pack::Packed;
use crate::pool::Team;
use gristmill_core::Result;
use gristmill_ir::{Input, Tensor};
use std::sync::Arc;

/// Table rows of tokens, positions and types.
pub(super) struct Embed {
    table: Arc<Packed>,
    positions: Option<Arc<Packed>>,
    types: Option<Arc<Packed>>,
    scale: f32,
    out: At,
    /// A row for each member, where there are positions or types.
    scratch: usize,
}

/// Bytes of scratch: a row for each member.
pub(super) fn scratch(c: &Compiler<'_>, width: u32) -> usize {
    c.members * width as usize * size_of::<f32>()
}

impl Embed {
    pub(super) fn new(
        c: &Compiler<'_>,
        table: Tensor,
        [positions, types]: [Option<Tensor>; 2],
        scale: f32,
        out: At,
        scratch: usize,
    ) -> Result<Self> {
        let matrix = |t: Tensor| c.weights.matrix(&c.program.decl(t).name);
        Ok(Embed {
            table: matrix(table)?,
            positions: positions.map(matrix).transpose()?,
            types: types.map(matrix).transpose()?,
            scale,
            out,
            scratch,
        })
    }

    /// # Safety
    /// See [`super::Plan::run`]; members write the rows of different tokens.
    pub(super) unsafe fn run(&self, step: &Step<'_>, team: &Team<'_>) {
        let width = self.out.width;
        let ints = step.ints;
        team.each(ints.ids.len(), 1, |tokens| {
            // SAFETY: the scratch has a row for each member.
            let other = unsafe {
                let at = step.floats(self.scratch).add(team.member * width);
                std::slice::from_raw_parts_mut(at, width)
            };
            for t in tokens {
                // SAFETY: the value has a row for each token, and this one is this member's.
                let row = unsafe {
                    std::slice::from_raw_parts_mut(step.value(self.out).add(t * width), width)
                };
                // Ids were checked against the vocabulary before the launch.
                self.table.gather(0, ints.ids[t] as usize, row);
                if self.scale != 1.0 {
                    row.iter_mut().for_each(|v| *v *= self.scale);
                }
                let kind = ints.types.get(t).copied().unwrap_or(0);
                let position = ints.positions[t][0];
                for (table, index) in [(&self.positions, position), (&self.types, kind)] {
                    if let Some(table) = table {
                        table.gather(0, index as usize, other);
                        row.iter_mut().zip(&*other).for_each(|(a, b)| *a += b);
                    }
                }
            }
        });
    }

    /// Ids, positions and types this table has.
    pub(super) fn limits(&self) -> [usize; 3] {
        let rows = |t: &Option<Arc<Packed>>| t.as_ref().map_or(usize::MAX, |t| t.rows());
        [self.table.rows(), rows(&self.positions), rows(&self.types)]
    }
}

/// Rows that the host wrote before the step.
pub(super) struct Read {
    pub(super) input: Input,
    pub(super) out: At,
}

impl Read {
    /// # Safety
    /// See [`super::Plan::run`]; members write the rows of different tokens.
    pub(super) unsafe fn run(&self, step: &Step<'_>, team: &Team<'_>) {
        let rows = &step.inputs[self.input as usize];
        let width = self.out.width;
        team.each(step.ints.ids.len(), 16, |tokens| {
            let range = tokens.start * width..tokens.end * width;
            // The launch checked that the host wrote a row for each token.
            let from = &rows[range.clone()];
            // SAFETY: the value has a row for each token, and these are this member's.
            unsafe {
                let to = step.value(self.out).add(range.start);
                std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len());
            }
        });
    }
}
