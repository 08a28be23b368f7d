//! Panels: a few row groups converted to whole int8 fragments and f32 scales, in cache.
//!
//! Taking planes apart costs as much as multiplying by a few tokens, so for many tokens it is
//! done once: a panel of row groups is converted into scratch memory that fits the second-level
//! cache, then every token tile passes over it. A unit of a panel is `[8][R][4]` bytes (eight
//! quads), then f32 scales `[32 / SUB][R]`, then minima of the same shape if the format has them.

use super::fragments::{Planes, Source};
use crate::simd::{Simd, WithSimd};
use gristmill_core::quant::IntFormat;

/// Bytes a panel may take: about half of a second-level cache of 1 MiB.
const PANEL_BYTES: usize = 512 << 10;

/// Bytes of one unit of one row group.
pub(super) const fn unit_bytes<S: Simd>(sub: usize, has_min: bool) -> usize {
    let kinds = if has_min { 2 } else { 1 };
    (8 + kinds * (32 / sub)) * 4 * S::LANES
}

/// Row groups a panel holds.
pub(super) fn groups<S: Simd, F: IntFormat>(cols: usize) -> usize {
    let unit = unit_bytes::<S>(F::SUB, F::HAS_MIN);
    let fit = PANEL_BYTES / (cols / 32 * unit).max(1);
    (fit / S::TILE_GROUPS).max(1) * S::TILE_GROUPS
}

/// Whether weights go through panels at all; eight-bit integers are whole as they are packed.
pub(super) const fn is_used<F: IntFormat>() -> bool {
    F::BITS < 8
}

/// Bytes of scratch for one worker.
pub(super) fn scratch_bytes<S: Simd, F: IntFormat>(cols: usize) -> usize {
    let unit = unit_bytes::<S>(F::SUB, F::HAS_MIN);
    if is_used::<F>() { groups::<S, F>(cols) * (cols / 32) * unit } else { 0 }
}

/// One converted row group: the same type for all formats that agree in these facts, so that the
/// kernels over panels are compiled once for them.
#[derive(Clone, Copy)]
pub(super) struct Panel<const SUB: usize, const HAS_MIN: bool, const ZERO: i32>(
    pub(super) *const u8,
);

impl<const SUB: usize, const HAS_MIN: bool, const ZERO: i32> Source for Panel<SUB, HAS_MIN, ZERO> {
    const SUB: usize = SUB;
    const ZERO: i32 = ZERO;
    const HAS_MIN: bool = HAS_MIN;
    const WHOLE_BYTES: bool = false;

    #[inline(always)]
    unsafe fn quad<S: Simd, const J: usize>(self, s: S, unit: usize) -> S::Bytes {
        // SAFETY: the unit starts with eight fragments.
        unsafe { s.bytes_load(self.0.add(unit * unit_bytes::<S>(SUB, HAS_MIN) + J * 4 * S::LANES)) }
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(self, s: S, unit: usize, run: usize) -> S::F32 {
        // SAFETY: the scales follow the fragments.
        unsafe {
            s.load(
                self.0.add(unit * unit_bytes::<S>(SUB, HAS_MIN) + (8 + run) * 4 * S::LANES).cast(),
            )
        }
    }
    #[inline(always)]
    unsafe fn min<S: Simd>(self, s: S, unit: usize, run: usize) -> S::F32 {
        // SAFETY: the minima follow the scales.
        unsafe { self.scale(s, unit, 32 / SUB + run) }
    }
    #[inline(always)]
    fn prefetch<S: Simd>(self, _: S, _: usize) {}
}

/// Converts one row group of `units` units into `out`.
pub(super) struct Convert<F> {
    pub(super) source: Planes<F>,
    pub(super) units: usize,
    pub(super) out: *mut u8,
}

impl<F: IntFormat> WithSimd for Convert<F> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        for u in 0..self.units {
            // SAFETY: whoever made this gave a source and an output of `units` units.
            unsafe {
                let out = self.out.add(u * unit_bytes::<S>(F::SUB, F::HAS_MIN));
                macro_rules! quad {
                    ($($j:literal)+) => {$(
                        s.bytes_store(out.add($j * 4 * S::LANES), self.source.quad::<S, $j>(s, u));
                    )+};
                }
                quad!(0 1 2 3 4 5 6 7);
                let runs = 32 / F::SUB;
                for run in 0..runs {
                    let at = |i: usize| out.add((8 + i) * 4 * S::LANES).cast::<f32>();
                    s.store(at(run), self.source.scale(s, u, run));
                    if F::HAS_MIN {
                        s.store(at(runs + run), self.source.min(s, u, run));
                    }
                }
                self.source.prefetch(s, u);
            }
        }
    }
}
