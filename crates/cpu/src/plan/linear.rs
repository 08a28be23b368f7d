//! Projections with what follows them: bias, activation, scale, cap; gated units.

use super::projection::{Projection, products_bytes};
use super::{At, Compiler, Step};
use crate::kernels::elementwise::{EpilogueArgs, GateArgs};
use crate::pool::Team;
use gristmill_core::Result;
use gristmill_ir::{Act, Tensor};
use std::ops::Range;

/// What follows the product of a Linear.
pub(super) struct Finish {
    pub(super) bias: Option<Tensor>,
    pub(super) act: Act,
    pub(super) scale: f32,
    pub(super) softcap: f32,
}

pub(super) struct Linear {
    projection: Projection,
    epilogue: unsafe fn(&EpilogueArgs, usize, Range<usize>),
    finish: EpilogueArgs,
    x: At,
    out: At,
    scratch: usize,
}

// SAFETY: the bias points into weights that the plan keeps alive and nobody writes; `y` is null
// until a step fills it in a copy.
unsafe impl Send for Linear {}
// SAFETY: as above.
unsafe impl Sync for Linear {}

impl Linear {
    pub(super) fn new(
        c: &Compiler<'_>,
        x: At,
        w: Tensor,
        f: Finish,
        out: At,
        scratch: usize,
    ) -> Result<Self> {
        let finish = EpilogueArgs {
            y: std::ptr::null_mut(),
            stride: out.width,
            bias: c.vector(f.bias, 0.0)?,
            act: f.act,
            scale: f.scale,
            softcap: f.softcap,
        };
        let projection = Projection::with_rows(c, &[w], c.bound(x.rows))?;
        Ok(Linear { projection, epilogue: c.table.epilogue, finish, x, out, scratch })
    }

    /// # Safety
    /// See [`super::Plan::run`]; members take different columns.
    pub(super) unsafe fn run(&self, step: &Step<'_>, team: &Team<'_>) {
        let rows = step.rows(self.x.rows);
        if rows == 0 {
            return;
        }
        let (x, y) = (step.value(self.x), step.value(self.out));
        let scratch = step.floats(self.scratch).cast();
        let args = EpilogueArgs { y, ..self.finish };
        // SAFETY: the values hold the rows of the step, the scratch was sized for them.
        unsafe {
            self.projection.prepare(team, x, rows, scratch);
            self.projection.multiply(team, rows, y, scratch, |columns| {
                if !args.is_identity() {
                    (self.epilogue)(&args, rows, columns);
                }
            });
        }
    }
}

pub(super) struct GateUp {
    projection: Projection,
    gate: unsafe fn(&GateArgs, Range<usize>, Range<usize>),
    bias: *const f32,
    act: Act,
    x: At,
    out: At,
    /// Gates and ups, then the projection's scratch.
    both: usize,
    scratch: usize,
}

// SAFETY: the bias points into weights that the plan keeps alive and nobody writes.
unsafe impl Send for GateUp {}
// SAFETY: as above.
unsafe impl Sync for GateUp {}

impl GateUp {
    pub(super) fn new(
        c: &Compiler<'_>,
        x: At,
        w: &[Tensor],
        bias: &[Tensor],
        act: Act,
        out: At,
        scratch: usize,
    ) -> Result<Self> {
        let rows = c.bound(x.rows);
        let projection = Projection::with_rows(c, w, rows)?;
        let both = products_bytes(rows, projection.width);
        Ok(GateUp {
            gate: c.table.gate,
            bias: c.weights.stacked(c.program, bias)?,
            act,
            x,
            out,
            both: scratch,
            scratch: scratch + both,
            projection,
        })
    }

    /// # Safety
    /// See [`super::Plan::run`]; members take different columns.
    pub(super) unsafe fn run(&self, step: &Step<'_>, team: &Team<'_>) {
        let rows = step.rows(self.x.rows);
        if rows == 0 {
            return;
        }
        let width = self.out.width;
        let both = step.floats(self.both);
        let scratch = step.floats(self.scratch).cast();
        let y = step.value(self.out);
        let args = GateArgs { x: both, y, width, bias: self.bias, act: self.act };
        // SAFETY: the values hold the rows of the step, the scratch was sized for them.
        unsafe {
            self.projection.prepare(team, step.value(self.x), rows, scratch);
            if self.projection.is_pair() {
                self.projection.multiply_pair(team, rows, both, scratch, |columns| {
                    (self.gate)(&args, 0..rows, columns);
                });
                return;
            }
            self.projection.multiply(team, rows, both, scratch, |_| {});
            team.barrier();
            team.each(rows, team.chunk(rows), |rows| (self.gate)(&args, rows, 0..width));
        }
    }
}
