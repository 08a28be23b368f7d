//! Matrices applied to the same rows: the part that Linear, QKV and GateUp share.
//!
//! Activations are prepared once (once in each form, when a layer mixes quantized and dense
//! weights), then the row groups of all matrices form one index space that the team shares out: one
//! grouped launch, however the file stores Q, K and V.

use super::Compiler;
use crate::kernels::matmul::{MatmulArgs, MatmulKernel, PrepareArgs, select};
use crate::pack::Packed;
use crate::pool::Team;
use gristmill_core::Result;
use gristmill_ir::{Activations, Tensor};
use std::ops::Range;
use std::sync::Arc;

struct Part {
    matrix: Arc<Packed>,
    kernel: MatmulKernel,
    /// First column of its results.
    column: usize,
    /// Offset of its prepared activations in the scratch.
    prepared: usize,
}

/// Matrices over each other, `[Σ rows, cols]`.
pub(super) struct Projection {
    parts: Vec<Part>,
    cols: usize,
    /// Columns of a row of results.
    pub(super) width: usize,
    /// Offset and size of each member's own scratch.
    own: (usize, usize),
}

/// Groups that a member takes at once, at least: enough rows in flight to hide latency.
const MIN_GROUPS: usize = 4;

fn kernel(c: &Compiler<'_>, matrix: &Packed) -> Result<MatmulKernel> {
    select(matrix.layout().isa(), matrix.layout().dtype(), c.options.activations)
}

/// Bytes of scratch for `rows` rows.
pub(super) fn scratch(c: &Compiler<'_>, w: &[Tensor], rows: usize) -> usize {
    // A weight that does not exist or does not run is reported when its node is compiled.
    Projection::with_rows(c, w, rows).map_or(0, |p| p.own.0 + c.members * p.own.1)
}

impl Projection {
    /// The matrices of a node whose input has at most `rows` rows.
    pub(super) fn with_rows(c: &Compiler<'_>, w: &[Tensor], rows: usize) -> Result<Projection> {
        let mut parts: Vec<Part> = vec![];
        let (mut width, mut bytes, mut own) = (0, 0usize, 0);
        for &t in w {
            let matrix = c.weights.matrix(&c.program.decl(t).name)?;
            let kernel = kernel(c, &matrix)?;
            let form = kernel.activations();
            let same = parts.iter().find(|p| p.kernel.activations() == form);
            let prepared = same.map(|p| p.prepared).unwrap_or_else(|| {
                let at = bytes;
                bytes += kernel.activation_bytes(rows, matrix.cols()).next_multiple_of(64);
                at
            });
            own = own.max(kernel.scratch_bytes(matrix.cols()).next_multiple_of(64));
            let column = width;
            width += matrix.rows();
            parts.push(Part { matrix, kernel, column, prepared });
        }
        let cols = parts.first().map_or(0, |p| p.matrix.cols());
        Ok(Projection { parts, cols, width, own: (bytes, own) })
    }

    /// Whether there are two matrices of the same number of rows: a gate and an up.
    pub(super) fn is_pair(&self) -> bool {
        matches!(&self.parts[..], [a, b] if a.matrix.rows() == b.matrix.rows())
    }

    /// Prepares activations: one phase of the step, with its barrier.
    ///
    /// # Safety
    /// `x` holds `rows` rows, `scratch` what [`scratch`] said; the whole team calls it.
    pub(super) unsafe fn prepare(
        &self,
        team: &Team<'_>,
        x: *const f32,
        rows: usize,
        scratch: *mut u8,
    ) {
        let mut done: Option<Activations> = None;
        for p in &self.parts {
            if done == Some(p.kernel.activations()) {
                continue;
            }
            done = Some(p.kernel.activations());
            let tiles = p.kernel.tiles(rows);
            team.each(tiles, 1, |tiles| {
                // SAFETY: the caller's promise; tiles are this member's.
                unsafe {
                    p.kernel.prepare(&PrepareArgs {
                        x,
                        x_stride: self.cols,
                        tokens: rows,
                        cols: self.cols,
                        out: scratch.add(p.prepared),
                        tiles,
                    });
                }
            });
            team.barrier();
        }
    }

    /// Multiplies prepared rows: one phase, without its barrier. `after` gets the columns of `y`
    /// that this member has just computed for all rows.
    ///
    /// # Safety
    /// As [`Projection::prepare`], after it; `y` holds `rows` rows of [`Projection::width`].
    pub(super) unsafe fn multiply(
        &self,
        team: &Team<'_>,
        rows: usize,
        y: *mut f32,
        scratch: *mut u8,
        mut after: impl FnMut(Range<usize>),
    ) {
        let total: usize = self.parts.iter().map(|p| p.matrix.layout().groups()).sum();
        team.each(total, chunk(team, total), |range| {
            let mut first = 0;
            for p in &self.parts {
                let n = p.matrix.layout().groups();
                let from = range.start.max(first) - first;
                let to = range.end.clamp(first, first + n) - first;
                if from < to {
                    // SAFETY: the caller's promise; groups are this member's.
                    after(unsafe { self.part(p, team, rows, y, scratch, from..to) });
                }
                first += n;
            }
        });
    }

    /// As [`Projection::multiply`] for a pair: `after` gets a range of columns whose gate and up
    /// are both computed.
    ///
    /// # Safety
    /// As [`Projection::multiply`]; [`Projection::is_pair`] holds.
    pub(super) unsafe fn multiply_pair(
        &self,
        team: &Team<'_>,
        rows: usize,
        y: *mut f32,
        scratch: *mut u8,
        mut after: impl FnMut(Range<usize>),
    ) {
        let total = self.parts[0].matrix.layout().groups();
        team.each(total, chunk(team, total), |range| {
            // SAFETY: the caller's promise; groups are this member's, in both matrices.
            let columns = unsafe {
                self.part(&self.parts[1], team, rows, y, scratch, range.clone());
                self.part(&self.parts[0], team, rows, y, scratch, range)
            };
            after(columns);
        });
    }

    /// Multiplies some groups of one matrix; gives the columns it wrote.
    ///
    /// # Safety
    /// As [`Projection::multiply`]; nobody else computes these groups.
    unsafe fn part(
        &self,
        p: &Part,
        team: &Team<'_>,
        rows: usize,
        y: *mut f32,
        scratch: *mut u8,
        groups: Range<usize>,
    ) -> Range<usize> {
        let lanes = p.matrix.layout().lanes();
        let end = (groups.end * lanes).min(p.matrix.rows());
        let columns = p.column + groups.start * lanes..p.column + end;
        // SAFETY: the caller's promise; each member has its own piece of the scratch.
        unsafe {
            p.kernel.matmul(&MatmulArgs {
                weights: p.matrix.matrix(0).as_ptr(),
                rows: p.matrix.rows(),
                cols: self.cols,
                x: scratch.add(p.prepared),
                tokens: rows,
                y: y.add(p.column),
                y_stride: self.width,
                groups,
                scratch: scratch.add(self.own.0 + team.member * self.own.1),
            });
        }
        columns
    }
}

/// Groups a member takes at once: a few turns each, and not too few rows a turn.
fn chunk(team: &Team<'_>, groups: usize) -> usize {
    team.chunk(groups).next_multiple_of(MIN_GROUPS)
}
