//! Coded formats in memory: the words of the file, one row beside the other.
//!
//! A group of `R` rows is the scales of all its blocks, `d[R]` and with minima `m[R]`, in the bytes
//! that the format has for them, then the bodies of all its blocks, `[word][R]` of four bytes. So one load brings a word of
//! every row, and what the format says of one block's words, it says of all.

use gristmill_core::quant::{CodedFormat, OneRow, decode};

/// Bytes of the scales of a whole group; the bodies follow, aligned like a fragment.
pub(crate) const fn scales_bytes<F: CodedFormat>(cols: usize, lanes: usize) -> usize {
    let align = if lanes * 4 < 64 { lanes * 4 } else { 64 };
    (cols / F::BLOCK * block_scales_bytes::<F>(lanes)).next_multiple_of(align)
}

/// Bytes of the scales of one block.
pub(crate) const fn block_scales_bytes<F: CodedFormat>(lanes: usize) -> usize {
    let (parts, bytes) = F::SCALE.parts();
    parts * bytes * lanes
}

/// Bytes of the bodies of one block.
pub(crate) const fn body_bytes<F: CodedFormat>(lanes: usize) -> usize {
    F::WORDS * 4 * lanes
}

/// Bytes of a group.
pub(crate) fn group_bytes<F: CodedFormat>(cols: usize, lanes: usize) -> usize {
    scales_bytes::<F>(cols, lanes) + cols / F::BLOCK * body_bytes::<F>(lanes)
}

/// Stores block `b` of the row `lane` in a group of `cols` columns.
pub(super) fn write<F: CodedFormat>(
    block: &F,
    b: usize,
    lane: usize,
    lanes: usize,
    cols: usize,
    group: &mut [u8],
) {
    let (parts, n) = F::SCALE.parts();
    let scales = block.scale_bytes();
    for (i, part) in scales.chunks_exact(n).take(parts).enumerate() {
        let at = b * block_scales_bytes::<F>(lanes) + n * (i * lanes + lane);
        group[at..at + n].copy_from_slice(part);
    }
    let bodies = &mut group[scales_bytes::<F>(cols, lanes)..];
    for (i, word) in block.body().as_chunks::<4>().0.iter().enumerate() {
        let at = b * body_bytes::<F>(lanes) + 4 * (i * lanes + lane);
        bodies[at..at + 4].copy_from_slice(word);
    }
}

/// The exact values of block `b` of the row `lane`.
pub(super) fn read<F: CodedFormat>(
    group: &[u8],
    b: usize,
    lane: usize,
    lanes: usize,
    cols: usize,
    out: &mut [f32],
) {
    let (parts, n) = F::SCALE.parts();
    let mut scales = [0; 4];
    for (i, part) in scales.chunks_exact_mut(n).take(parts).enumerate() {
        let at = b * block_scales_bytes::<F>(lanes) + n * (i * lanes + lane);
        part.copy_from_slice(&group[at..at + n]);
    }
    let bodies = &group[scales_bytes::<F>(cols, lanes) + b * body_bytes::<F>(lanes)..];
    let word = |i: usize| {
        let at = 4 * (i.min(F::WORDS - 1) * lanes + lane);
        u32::from_le_bytes([0, 1, 2, 3].map(|i| bodies[at + i]))
    };
    decode::<F>(OneRow(word), scales, out);
}
