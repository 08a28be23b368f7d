//! Matrices by columns, for products with rows that are mostly zeros: a kernel then reads the columns
//! whose element is not zero, and no others.
//!
//! Row groups are taken together in *chunks*, as many as divide those of the matrix, 64 at most. A
//! chunk has a stretch for each block of columns: the scales of that block, row group after row group as
//! [in a group](super::planes), then its columns, one after the other. A column is the integers of all
//! rows of the chunk; of `BITS` bits, they are planes of whole fragments, and the row groups that it
//! takes to fill a fragment of the narrowest plane are a *granule*: four of them for whole bytes, eight
//! for four bits, 32 for five. Within a granule bytes lie as
//! [`bytes_quads`](crate::simd::Simd::bytes_quads) takes them, so that four columns, whichever they are,
//! become the fragments that integer products multiply.
//!
//! A matrix whose rows are no whole granules lies by rows instead: padding would be read for nothing.

use super::{Layout, planes};
use crate::simd::{Simd, WithSimd, byte_in_column};
use gristmill_core::quant::IntFormat;
use std::marker::PhantomData;

/// The most row groups of a chunk: 1024 rows of sixteen lanes. Columns of that many whole bytes are long
/// enough for the processor to read ahead within them.
const MOST_GROUPS: usize = 64;

/// Row groups of a granule of a dense format: what a kernel multiplies together.
pub(crate) const DENSE_GRANULE: usize = 4;

/// Row groups of a granule of a format.
pub(crate) const fn granule<F: IntFormat>() -> usize {
    let narrowest = F::BITS & F::BITS.wrapping_neg();
    32 / narrowest
}

/// Row groups of a chunk, for a matrix of so many; none where they are no whole granules.
pub(crate) fn chunk(groups: usize, granule: usize) -> Option<usize> {
    let fits = |n: &usize| groups > 0 && groups.is_multiple_of(*n);
    (1..=MOST_GROUPS / granule).map(|n| n * granule).filter(fits).max()
}

/// Where things lie in a chunk.
#[derive(Clone, Copy)]
pub(crate) struct Chunk {
    /// Row groups.
    pub(crate) groups: usize,
    /// Bytes of the scales of one block of columns; the columns follow.
    pub(crate) scales: usize,
    /// Bytes of one column.
    pub(crate) column: usize,
    /// Bytes of one block of columns.
    pub(crate) block: usize,
}

impl Chunk {
    /// A chunk of so many row groups.
    pub(crate) fn new<F: IntFormat>(groups: usize, lanes: usize) -> Chunk {
        let align = (4 * lanes).min(64);
        let scales = (groups * planes::block_scales_bytes::<F>(lanes)).next_multiple_of(align);
        let column = groups / granule::<F>() * granule_bytes::<F>(lanes);
        Chunk { groups, scales, column, block: scales + F::BLOCK * column }
    }
}

/// Bytes that a granule has in a column.
pub(crate) const fn granule_bytes<F: IntFormat>(lanes: usize) -> usize {
    granule::<F>() * F::BITS * lanes / 8
}

/// Bytes of a chunk.
pub(super) fn chunk_bytes<F: IntFormat>(cols: usize, lanes: usize, groups: usize) -> usize {
    cols / F::BLOCK * Chunk::new::<F>(groups, lanes).block
}

/// The place of the integer of row `row` of a chunk, in bytes, among those of a column.
fn place(row: usize, lanes: usize) -> usize {
    let (group, lane) = (row / lanes, row % lanes);
    group / 4 * 4 * lanes + byte_in_column(lanes, group % 4, lane)
}

/// Packs the rows of a chunk.
pub(super) fn pack<F: IntFormat>(layout: &Layout, rows: &[u8], out: &mut [u8]) {
    let (lanes, n) = (layout.lanes, layout.part_rows());
    let chunk = Chunk::new::<F>(n / lanes, lanes);
    let row_bytes = (layout.cols / F::BLOCK * size_of::<F>()).max(1);
    // The integers of a block, a byte each, `[column][row]`.
    let mut bytes = vec![0; F::BLOCK * n];
    let mut q = [0; 256];
    for (b, out) in out.chunks_exact_mut(chunk.block).enumerate() {
        let (scales, columns) = out.split_at_mut(chunk.scales);
        for (r, row) in rows.chunks_exact(row_bytes).enumerate() {
            let block: F =
                bytemuck::pod_read_unaligned(&row[b * size_of::<F>()..(b + 1) * size_of::<F>()]);
            planes::write_scales(&block, r / lanes, r % lanes, lanes, scales);
            block.quants(&mut q[..F::BLOCK]);
            let place = place(r, lanes);
            for (column, &q) in bytes.chunks_exact_mut(n).zip(&q) {
                column[place] = q;
            }
        }
        let (biased, format) = (layout.biased, PhantomData::<F>);
        layout.isa.vectorize(WriteColumns { bytes: &bytes, biased, out: columns, format });
    }
}

/// Stores the planes of a block of columns.
struct WriteColumns<'a, F> {
    /// `[column][row]`
    bytes: &'a [u8],
    biased: bool,
    out: &'a mut [u8],
    format: PhantomData<F>,
}

impl<F: IntFormat> WithSimd for WriteColumns<'_, F> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let granules = self.out.chunks_exact_mut(granule_bytes::<F>(S::LANES));
        let rows = granule::<F>() * S::LANES;
        for (bytes, out) in self.bytes.chunks_exact(rows).zip(granules) {
            let mut quads = planes::Quads::zeroed();
            for (i, bytes) in bytes.as_chunks::<4>().0.iter().enumerate() {
                quads.set_word::<F>(i / S::LANES, i % S::LANES, self.biased, *bytes);
            }
            quads.write::<F>(0..granule::<F>() / 4, S::LANES, out);
        }
    }
}

/// Reads one row of a chunk back.
pub(super) fn gather<F: IntFormat>(layout: &Layout, bytes: &[u8], row: usize, out: &mut [f32]) {
    let lanes = layout.lanes;
    let chunk = Chunk::new::<F>(layout.part_rows() / lanes, lanes);
    let place = place(row, lanes);
    let of_granule = 4 * lanes * granule::<F>() / 4;
    let (granule_at, place) = (place / of_granule, place % of_granule);
    let (quad, word, byte) = (place / (4 * lanes), place % (4 * lanes) / 4, place % 4);
    let blocks = bytes.chunks_exact(chunk.block).zip(out.chunks_exact_mut(F::BLOCK));
    for (block, out) in blocks {
        let (scales, columns) = block.split_at(chunk.scales);
        for (k, (o, column)) in out.iter_mut().zip(columns.chunks_exact(chunk.column)).enumerate() {
            let planes = &column[granule_at * granule_bytes::<F>(lanes)..];
            let quads = granule::<F>() / 4;
            let q = planes::read_quads::<F>(planes, layout.biased, word, lanes, quads);
            let (scale, min) =
                planes::read_scales::<F>(scales, row / lanes, k / F::SUB, row % lanes, lanes);
            *o = scale * (i32::from(q[quad].to_le_bytes()[byte]) - F::ZERO) as f32;
            if F::HAS_MIN {
                *o -= min;
            }
        }
    }
}
