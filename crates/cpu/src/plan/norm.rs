//! Norms, alone and with the residual.

use super::{At, Compiler, Step};
use crate::kernels::norm::{AddNormArgs, NormArgs, NormSpec};
use crate::pool::Team;
use gristmill_core::Result;
use gristmill_ir as ir;
use std::ops::Range;

/// The norm of a program as the kernels take it.
pub(super) fn spec(c: &Compiler<'_>, n: &ir::Norm) -> Result<NormSpec> {
    Ok(NormSpec {
        centred: n.kind == ir::NormKind::Layer,
        weight: c.vector(n.weight, n.offset)?,
        bias: c.vector(n.bias, 0.0)?,
        eps: n.eps,
    })
}

pub(super) struct Norm {
    kernel: unsafe fn(&NormArgs, Range<usize>),
    spec: NormSpec,
    x: At,
    out: At,
}

// SAFETY: the pointers are to weights that the plan keeps alive and nobody writes.
unsafe impl Send for Norm {}
// SAFETY: as above.
unsafe impl Sync for Norm {}

impl Norm {
    pub(super) fn new(c: &Compiler<'_>, x: At, n: &ir::Norm, out: At) -> Result<Self> {
        Ok(Norm { kernel: c.table.norm, spec: spec(c, n)?, x, out })
    }

    /// # Safety
    /// See [`super::Plan::run`]; members take different rows.
    pub(super) unsafe fn run(&self, step: &Step<'_>, team: &Team<'_>) {
        let args = NormArgs {
            x: step.value(self.x),
            y: step.value(self.out),
            width: self.x.width,
            spec: self.spec,
        };
        let rows = step.rows(self.x.rows);
        // SAFETY: both values hold all rows of the step.
        team.each(rows, team.chunk(rows), |range| unsafe { (self.kernel)(&args, range) });
    }
}

pub(super) struct AddNorm {
    kernel: unsafe fn(&AddNormArgs, Range<usize>),
    post: Option<NormSpec>,
    norm: NormSpec,
    scale: f32,
    inputs: [At; 2],
    outs: [At; 2],
}

// SAFETY: the pointers are to weights that the plan keeps alive and nobody writes.
unsafe impl Send for AddNorm {}
// SAFETY: as above.
unsafe impl Sync for AddNorm {}

impl AddNorm {
    pub(super) fn new(
        c: &Compiler<'_>,
        inputs: [At; 2],
        outs: [At; 2],
        scale: f32,
        (post, norm): (Option<&ir::Norm>, &ir::Norm),
    ) -> Result<Self> {
        let post = post.map(|p| spec(c, p)).transpose()?;
        Ok(AddNorm { kernel: c.table.add_norm, post, norm: spec(c, norm)?, scale, inputs, outs })
    }

    /// # Safety
    /// See [`super::Plan::run`]; members take different rows.
    pub(super) unsafe fn run(&self, step: &Step<'_>, team: &Team<'_>) {
        let args = AddNormArgs {
            x: step.value(self.inputs[0]),
            delta: step.value(self.inputs[1]),
            sum: step.value(self.outs[0]),
            normed: step.value(self.outs[1]),
            width: self.outs[0].width,
            scale: self.scale,
            post: self.post,
            norm: self.norm,
        };
        let rows = step.rows(self.outs[0].rows);
        // SAFETY: all four values hold all rows of the step.
        team.each(rows, team.chunk(rows), |range| unsafe { (self.kernel)(&args, range) });
    }
}
