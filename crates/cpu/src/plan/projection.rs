//! Matrices applied to the same rows: the part that Linear, QKV, GateUp and the experts share.
//!
//! Activations are prepared once (once in each form, when a layer mixes quantized and dense
//! weights), then the row groups of all matrices form one index space that the team shares out: one
//! grouped launch, however the file stores Q, K and V.

use super::Compiler;
use crate::kernels::matmul::{MatmulArgs, MatmulKernel, PrepareArgs, select_for};
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

/// Rows that meet one matrix of each stack.
#[derive(Clone, Copy)]
pub(super) struct Share {
    /// Which matrix.
    pub(super) expert: usize,
    /// First of the prepared rows.
    pub(super) x: usize,
    /// First row of the results.
    pub(super) y: usize,
    /// How many rows.
    pub(super) rows: usize,
}

impl Share {
    /// All rows, for matrices that are no stacks.
    fn whole(rows: usize) -> Share {
        Share { expert: 0, x: 0, y: 0, rows }
    }
}

/// Groups that a member takes at once, at least: enough rows in flight to hide latency.
const MIN_GROUPS: usize = 4;

fn kernel(c: &Compiler<'_>, matrix: &Packed) -> Result<MatmulKernel> {
    let kernel = select_for(matrix.layout(), c.options.activations)?;
    Ok(kernel.with_prefill(c.options.prefill))
}

/// Bytes of scratch for `rows` rows.
pub(super) fn scratch(c: &Compiler<'_>, w: &[Tensor], rows: usize) -> usize {
    // A weight that does not exist or does not run is reported when its node is compiled.
    Projection::with_rows(c, w, rows).map_or(0, |p| p.own.0 + c.members * p.own.1)
}

/// Bytes of the products of `rows` rows, where something follows before they are values.
pub(super) fn products_bytes(rows: usize, width: usize) -> usize {
    (rows * width * size_of::<f32>()).next_multiple_of(64)
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

    /// Row groups of one matrix of each stack.
    pub(super) fn groups(&self) -> usize {
        self.parts.iter().map(|p| p.matrix.layout().groups()).sum()
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
        // SAFETY: the caller's promise.
        unsafe {
            let all = || std::iter::once(Share::whole(rows));
            self.prepare_shares(team, x, std::ptr::null(), |k| k.tiles(rows), all, scratch);
        }
    }

    /// Prepares the rows of each share apart, so that no tile holds rows of two; `order` says which
    /// row of `x` each one is, null where they follow each other. `shares` is asked within the phase;
    /// they have at most as many tiles as `tiles` says. One phase, with its barrier.
    ///
    /// # Safety
    /// As [`Projection::prepare`]; `order` has an entry for each row of every share.
    pub(super) unsafe fn prepare_shares<I: Iterator<Item = Share>>(
        &self,
        team: &Team<'_>,
        x: *const f32,
        order: *const u32,
        tiles: impl Fn(&MatmulKernel) -> usize,
        shares: impl Fn() -> I,
        scratch: *mut u8,
    ) {
        let mut done: Option<Activations> = None;
        for p in &self.parts {
            if done == Some(p.kernel.activations()) {
                continue;
            }
            done = Some(p.kernel.activations());
            let total = tiles(&p.kernel);
            let chunk = if total <= 8 * team.len() { 1 } else { team.chunk(total) };
            team.each(total, chunk, |range| {
                let mut first = 0;
                for s in shares() {
                    let tiles = within(&range, first, p.kernel.tiles(s.rows));
                    first += p.kernel.tiles(s.rows);
                    if tiles.is_empty() {
                        continue;
                    }
                    // SAFETY: the caller's promise; tiles are this member's.
                    unsafe {
                        let rows = if order.is_null() { order } else { order.add(s.x) };
                        p.kernel.prepare(&PrepareArgs {
                            x,
                            x_stride: self.cols,
                            rows,
                            tokens: s.rows,
                            cols: self.cols,
                            out: self.prepared(p, scratch, s.x),
                            tiles,
                        });
                    }
                }
            });
            team.barrier();
        }
    }

    /// The prepared rows of a share that begins with row `first`.
    ///
    /// # Safety
    /// `scratch` is what [`scratch`] said, and has this row.
    unsafe fn prepared(&self, p: &Part, scratch: *mut u8, first: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { scratch.add(p.prepared + p.kernel.activation_bytes(first, self.cols)) }
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
        let total = self.groups();
        // A matrix by columns is alone: it is one of a Linear.
        let granule = self.parts.iter().find_map(|p| p.matrix.layout().granule());
        let chunk = match granule {
            Some(granule) => column_chunk(team, total).next_multiple_of(granule),
            None => chunk(team, total),
        };
        team.each(total, chunk, |range| {
            // SAFETY: the caller's promise; groups are this member's.
            unsafe { self.multiply_share(team, Share::whole(rows), range, y, scratch, &mut after) }
        });
    }

    /// Multiplies the rows of a share by some of the groups of all its matrices.
    ///
    /// # Safety
    /// As [`Projection::multiply`], for the rows of the share; nobody else computes these groups.
    pub(super) unsafe fn multiply_share(
        &self,
        team: &Team<'_>,
        share: Share,
        groups: Range<usize>,
        y: *mut f32,
        scratch: *mut u8,
        mut after: impl FnMut(Range<usize>),
    ) {
        let mut first = 0;
        for p in &self.parts {
            let n = p.matrix.layout().groups();
            let own = within(&groups, first, n);
            first += n;
            if !own.is_empty() {
                // SAFETY: the caller's promise.
                after(unsafe { self.part(p, team, share, y, scratch, own) });
            }
        }
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
        let total = self.groups() / 2;
        team.each(total, chunk(team, total), |range| {
            // SAFETY: the caller's promise; groups are this member's, in both matrices.
            after(unsafe { self.multiply_pair_share(team, Share::whole(rows), range, y, scratch) });
        });
    }

    /// Multiplies the rows of a share by some groups of both its matrices; gives the columns of
    /// the gate, which are as many of the up.
    ///
    /// # Safety
    /// As [`Projection::multiply_share`]; [`Projection::is_pair`] holds.
    pub(super) unsafe fn multiply_pair_share(
        &self,
        team: &Team<'_>,
        share: Share,
        groups: Range<usize>,
        y: *mut f32,
        scratch: *mut u8,
    ) -> Range<usize> {
        // SAFETY: the caller's promise.
        unsafe {
            self.part(&self.parts[1], team, share, y, scratch, groups.clone());
            self.part(&self.parts[0], team, share, y, scratch, groups)
        }
    }

    /// Multiplies some groups of one matrix; gives the columns it wrote.
    ///
    /// # Safety
    /// As [`Projection::multiply_share`].
    unsafe fn part(
        &self,
        p: &Part,
        team: &Team<'_>,
        share: Share,
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
                weights: p.matrix.matrix(share.expert).as_ptr(),
                rows: p.matrix.rows(),
                cols: self.cols,
                x: self.prepared(p, scratch, share.x),
                tokens: share.rows,
                y: y.add(share.y * self.width + p.column),
                y_stride: self.width,
                groups,
                scratch: scratch.add(self.own.0 + team.member * self.own.1),
            });
        }
        columns
    }
}

/// What of `range` lies in the `n` indices from `first` on, counted from there.
fn within(range: &Range<usize>, first: usize, n: usize) -> Range<usize> {
    range.start.clamp(first, first + n) - first..range.end.clamp(first, first + n) - first
}

/// The same of a matrix by columns: each turn lists the columns anew, and reads pieces of them.
fn column_chunk(team: &Team<'_>, groups: usize) -> usize {
    if team.len() == 1 { groups } else { groups.div_ceil(2 * team.len()) }
}

/// Groups a member takes at once: a few turns each, and not too few rows a turn.
pub(super) fn chunk(team: &Team<'_>, groups: usize) -> usize {
    team.chunk(groups).next_multiple_of(MIN_GROUPS)
}
