//! Bit planes: the integers of 32 elements of `R` rows, as whole fragments.
//!
//! A *unit* is 32 consecutive elements of each row of a group: eight quads of four. A *fragment*
//! is one quad of every row, `[R][4]` bytes. Integers of `BITS` bits are split into planes of 8,
//! or 4, 2 and 1 bits (six bits are 4 + 2, low bits first). A plane of `b` bits is `b` fragments:
//! byte for byte, fragment `t` holds the plane's bits of quads `t`, `t + b`, `t + 2b`, … from the
//! lowest bits up. So one load, one shift and one mask bring out a quad whole, for any format.
//!
//! Fewer quads, which is what [columns](super::columns) have, go into as many fragments fewer: `n` quads
//! into `n · b / 8` for a plane of `b` bits.
//!
//! Eight-bit integers are stored signed, or with 128 added where the instruction set multiplies
//! unsigned weights.

use crate::simd::{Simd, WithSimd};
use gristmill_core::f16;
use gristmill_core::quant::IntFormat;
use std::marker::PhantomData;
use std::ops::Range;

/// Bytes of the scales of one block of `R` rows.
pub(crate) const fn block_scales_bytes<F: IntFormat>(lanes: usize) -> usize {
    let kinds = if F::HAS_MIN { 2 } else { 1 };
    lanes * (supers_bytes::<F>() + kinds * subs::<F>())
}

/// Bytes of `d`, and of `m` where there are minima, of one row.
const fn supers_bytes<F: IntFormat>() -> usize {
    if F::WIDE_SCALE || F::HAS_MIN { 4 } else { 2 }
}

/// Integer sub-block scales of a block: none, or one for each `SUB` elements.
const fn subs<F: IntFormat>() -> usize {
    if F::HAS_SC { F::BLOCK / F::SUB } else { 0 }
}

/// Offset, within the scales of a block, of the `R` integer scales of sub-block `s`.
pub(crate) const fn sc_offset<F: IntFormat>(s: usize, lanes: usize) -> usize {
    lanes * (supers_bytes::<F>() + s)
}

/// The same for the integer minima.
pub(crate) const fn mn_offset<F: IntFormat>(s: usize, lanes: usize) -> usize {
    sc_offset::<F>(s + subs::<F>(), lanes)
}

/// Bytes of the scales of a whole group; the units follow, aligned like a fragment.
pub(crate) const fn scales_bytes<F: IntFormat>(cols: usize, lanes: usize) -> usize {
    let align = if lanes * 4 < 64 { lanes * 4 } else { 64 };
    (cols / F::BLOCK * block_scales_bytes::<F>(lanes)).next_multiple_of(align)
}

/// Bytes of one unit: `BITS` fragments.
pub(crate) const fn unit_bytes<F: IntFormat>(lanes: usize) -> usize {
    F::BITS * lanes * 4
}

/// Bytes of a group.
pub(crate) fn group_bytes<F: IntFormat>(cols: usize, lanes: usize) -> usize {
    scales_bytes::<F>(cols, lanes) + cols / 32 * unit_bytes::<F>(lanes)
}

/// `f(bits, shift, first)` for each plane of a format: its width, the lowest bit it holds, and
/// its first fragment, in eighths of the quads.
#[inline(always)]
fn for_each_plane<F: IntFormat>(mut f: impl FnMut(usize, usize, usize)) {
    let (mut shift, mut first) = (0, 0);
    for bits in [8, 4, 2, 1] {
        if F::BITS & bits != 0 {
            f(bits, shift, first);
            shift += bits;
            first += bits;
        }
    }
}

/// Stores the scales of block `b` of the row `lane`.
pub(super) fn write_scales<F: IntFormat>(
    block: &F,
    b: usize,
    lane: usize,
    lanes: usize,
    out: &mut [u8],
) {
    let out = &mut out[b * block_scales_bytes::<F>(lanes)..];
    const { assert!(!F::WIDE_SCALE || !(F::HAS_SC || F::HAS_MIN)) };
    let [d, m] = block.super_scales();
    if F::WIDE_SCALE {
        out[4 * lane..][..4].copy_from_slice(&d.to_ne_bytes());
        return;
    }
    out[2 * lane..][..2].copy_from_slice(&f16::from_f32(d).to_ne_bytes());
    if F::HAS_MIN {
        out[2 * (lanes + lane)..][..2].copy_from_slice(&f16::from_f32(m).to_ne_bytes());
    }
    for s in 0..subs::<F>() {
        let (sc, mn) = block.sub_scales(s);
        out[sc_offset::<F>(s, lanes) + lane] = sc as i8 as u8;
        if F::HAS_MIN {
            out[mn_offset::<F>(s, lanes) + lane] = mn as u8;
        }
    }
}

/// `(d · sc, m · mn)` of sub-block `s` of block `b` of the row `lane`.
pub(super) fn read_scales<F: IntFormat>(
    scales: &[u8],
    b: usize,
    s: usize,
    lane: usize,
    lanes: usize,
) -> (f32, f32) {
    let block = &scales[b * block_scales_bytes::<F>(lanes)..];
    if F::WIDE_SCALE {
        let at = 4 * lane;
        return (f32::from_ne_bytes([0, 1, 2, 3].map(|i| block[at + i])), 0.0);
    }
    let half = |at: usize| f16::from_ne_bytes([block[at], block[at + 1]]).to_f32();
    let d = half(2 * lane);
    let m = if F::HAS_MIN { half(2 * (lanes + lane)) } else { 0.0 };
    if !F::HAS_SC {
        return (d, m);
    }
    let sc = block[sc_offset::<F>(s, lanes) + lane] as i8;
    let mn = if F::HAS_MIN { block[mn_offset::<F>(s, lanes) + lane] } else { 0 };
    (d * f32::from(sc), m * f32::from(mn))
}

/// The integers of one block of every row of a group, four to a word: what is packed at once.
pub(super) struct Quads([[u32; Quads::LANES]; 64]);

impl Quads {
    /// The most rows of a group.
    const LANES: usize = 16;

    /// All zeros, which is what rows beyond the last of a matrix have.
    pub(super) fn zeroed() -> Self {
        Quads([[0; Self::LANES]; 64])
    }

    /// Takes the integers of the row `lane`.
    #[inline(always)]
    pub(super) fn set<F: IntFormat>(&mut self, lane: usize, biased: bool, q: &[u8]) {
        for (i, bytes) in q.as_chunks().0.iter().enumerate() {
            self.set_word::<F>(i, lane, biased, *bytes);
        }
    }

    /// Sets four integers.
    #[inline(always)]
    pub(super) fn set_word<F: IntFormat>(
        &mut self,
        quad: usize,
        lane: usize,
        biased: bool,
        bytes: [u8; 4],
    ) {
        self.0[quad][lane] = u32::from_le_bytes(bytes) ^ flip::<F>(biased);
    }

    /// Stores the planes of some quads.
    #[inline(always)]
    pub(super) fn write<F: IntFormat>(&self, quads: Range<usize>, lanes: usize, out: &mut [u8]) {
        let quads = &self.0[quads];
        for_each_plane::<F>(|bits, shift, first| {
            let mask = 0x0101_0101 * ((1u32 << bits) - 1);
            let (first, fragments) = (first * quads.len() / 8, bits * quads.len() / 8);
            for t in 0..fragments {
                let out = out[(first + t) * lanes * 4..].as_chunks_mut().0;
                for (lane, out) in out.iter_mut().take(lanes).enumerate() {
                    let mut fragment = 0;
                    for u in 0..8 / bits {
                        let quad = quads[t + u * fragments][lane];
                        fragment |= ((quad >> shift) & mask) << (u * bits);
                    }
                    *out = u32::to_le_bytes(fragment);
                }
            }
        });
    }
}

/// What turns the sign of whole bytes that are not stored with 128 added.
const fn flip<F: IntFormat>(biased: bool) -> u32 {
    if F::BITS == 8 && !biased { 0x8080_8080 } else { 0 }
}

/// Stores the units of a block, which `out` starts with.
pub(super) struct WriteUnits<'a, F> {
    pub(super) quads: &'a Quads,
    pub(super) out: &'a mut [u8],
    pub(super) format: PhantomData<F>,
}

impl<F: IntFormat> WithSimd for WriteUnits<'_, F> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let units = self.out.chunks_exact_mut(unit_bytes::<F>(S::LANES));
        for (u, out) in units.enumerate() {
            self.quads.write::<F>(8 * u..8 * u + 8, S::LANES, out);
        }
    }
}

/// Reads the values of one row of a block, whose units are given.
pub(super) struct ReadUnits<'a, F> {
    pub(super) units: &'a [u8],
    pub(super) biased: bool,
    pub(super) lane: usize,
    /// Scale and minimum of each run of `SUB` elements.
    pub(super) runs: &'a [(f32, f32); 16],
    pub(super) out: &'a mut [f32],
    pub(super) format: PhantomData<F>,
}

impl<F: IntFormat> WithSimd for ReadUnits<'_, F> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let units = self.units.chunks_exact(unit_bytes::<F>(S::LANES));
        let runs = self.runs.chunks_exact(32 / F::SUB);
        for ((unit, runs), out) in units.zip(runs).zip(self.out.as_chunks_mut::<32>().0) {
            let q = read_unit::<F>(unit, self.biased, self.lane, S::LANES);
            let runs = runs.iter().zip(out.chunks_exact_mut(F::SUB)).zip(q.chunks_exact(F::SUB));
            for ((&(scale, min), out), q) in runs {
                for (o, &q) in out.iter_mut().zip(q) {
                    *o = scale * (i32::from(q) - F::ZERO) as f32;
                    if F::HAS_MIN {
                        *o -= min;
                    }
                }
            }
        }
    }
}

/// The 32 integers of one row of the unit that `unit` starts with.
#[inline(always)]
fn read_unit<F: IntFormat>(unit: &[u8], biased: bool, lane: usize, lanes: usize) -> [u8; 32] {
    let quads = read_quads::<F>(unit, biased, lane, lanes, 8);
    let mut q = [0; 32];
    for (q, quad) in q.as_chunks_mut().0.iter_mut().zip(quads) {
        *q = quad.to_le_bytes();
    }
    q
}

/// The integers of one row of so many quads, at most eight, whose planes `planes` starts with.
#[inline(always)]
pub(super) fn read_quads<F: IntFormat>(
    planes: &[u8],
    biased: bool,
    lane: usize,
    lanes: usize,
    quads: usize,
) -> [u32; 8] {
    let mut out = [flip::<F>(biased); 8];
    let stored = planes.as_chunks().0;
    for_each_plane::<F>(|bits, shift, first| {
        let mask = 0x0101_0101 * ((1u32 << bits) - 1);
        let (first, fragments) = (first * quads / 8, bits * quads / 8);
        for t in 0..fragments {
            let fragment = u32::from_le_bytes(stored[(first + t) * lanes + lane]);
            for u in 0..8 / bits {
                out[t + u * fragments] ^= ((fragment >> (u * bits)) & mask) << shift;
            }
        }
    });
    out
}
