//! Coded formats in memory: the words of the file, one row beside the other.
//!
//! A group of `R` rows is the scales of all its blocks, `d[R]` and with minima what they are made of,
//! in the bytes that the format has for them, then the bodies of all its blocks, `[word][R]` of four bytes. So one load brings a word of
//! every row, and what the format says of one block's words, it says of all.

use gristmill_core::quant::{CodedFormat, OneRow, decode};
use std::ops::Range;

/// Bytes of the scales of a whole group; the bodies follow, aligned like a fragment.
pub(crate) const fn scales_bytes<F: CodedFormat>(cols: usize, lanes: usize) -> usize {
    let align = if lanes * 4 < 64 { lanes * 4 } else { 64 };
    (cols / F::BLOCK * block_scales_bytes::<F>(lanes)).next_multiple_of(align)
}

/// Bytes of the scales of one block.
pub(crate) const fn block_scales_bytes<F: CodedFormat>(lanes: usize) -> usize {
    F::SCALE.bytes() * lanes
}

/// Bytes of the bodies of one block.
pub(crate) const fn body_bytes<F: CodedFormat>(lanes: usize) -> usize {
    F::WORDS * 4 * lanes
}

/// Bytes of a group.
pub(crate) fn group_bytes<F: CodedFormat>(cols: usize, lanes: usize) -> usize {
    scales_bytes::<F>(cols, lanes) + cols / F::BLOCK * body_bytes::<F>(lanes)
}

/// Where the parts of the scales of block `b` of the row `lane` are: ranges of the group, and of
/// the bytes of [`CodedFormat::scale_bytes`].
fn scale_parts<F: CodedFormat>(
    b: usize,
    lane: usize,
    lanes: usize,
) -> [(Range<usize>, Range<usize>); 2] {
    let [d, m] = F::SCALE.widths();
    let at = b * block_scales_bytes::<F>(lanes);
    let (first, second) = (at + d * lane, at + d * lanes + m * lane);
    [(first..first + d, 0..d), (second..second + m, d..d + m)]
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
    let scales = block.scale_bytes();
    for (to, from) in scale_parts::<F>(b, lane, lanes) {
        group[to].copy_from_slice(&scales[from]);
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
    let mut scales = [0; 8];
    for (from, to) in scale_parts::<F>(b, lane, lanes) {
        scales[to].copy_from_slice(&group[from]);
    }
    let bodies = &group[scales_bytes::<F>(cols, lanes) + b * body_bytes::<F>(lanes)..];
    let word = |i: usize| {
        let at = 4 * (i.min(F::WORDS - 1) * lanes + lane);
        u32::from_le_bytes([0, 1, 2, 3].map(|i| bodies[at + i]))
    };
    decode::<F>(OneRow(word), scales, out);
}
