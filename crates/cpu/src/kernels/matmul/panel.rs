//! Panels: a few row groups converted to whole int8 fragments and f32 scales, in cache.
//!
//! Taking planes apart costs as much as multiplying by a few tokens, so for many tokens it is
//! done once: a panel of row groups is converted into scratch memory that fits the second-level
//! cache, then every token tile passes over it. A unit of a panel is `[8][R][4]` bytes (eight
//! quads), then f32 scales `[32 / SUB][R]`, then minima of the same shape if the format has them.

use super::fragments::{Planes, Source};
use crate::simd::{Simd, WithSimd};
use gristmill_core::quant::IntFormat;
use std::marker::PhantomData;

/// Bytes a panel may take: about half of a second-level cache of 1 MiB.
const PANEL_BYTES: usize = 512 << 10;

/// Bytes of one unit of one row group.
pub(super) const fn unit_bytes<S: Simd, F: IntFormat>() -> usize {
    let kinds = if F::HAS_MIN { 2 } else { 1 };
    (8 + kinds * (32 / F::SUB)) * 4 * S::LANES
}

/// Row groups a panel holds.
pub(super) fn groups<S: Simd, F: IntFormat>(cols: usize) -> usize {
    let fit = PANEL_BYTES / (cols / 32 * unit_bytes::<S, F>()).max(1);
    (fit / S::TILE_GROUPS).max(1) * S::TILE_GROUPS
}

/// Whether weights go through panels at all; eight-bit integers are whole as they are packed.
pub(super) const fn is_used<F: IntFormat>() -> bool {
    F::BITS < 8
}

/// Bytes of scratch for one worker.
pub(super) fn scratch_bytes<S: Simd, F: IntFormat>(cols: usize) -> usize {
    if is_used::<F>() { groups::<S, F>(cols) * (cols / 32) * unit_bytes::<S, F>() } else { 0 }
}

/// One converted row group.
pub(super) struct Panel<F>(pub(super) *const u8, pub(super) PhantomData<F>);

impl<F> Clone for Panel<F> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}
impl<F> Copy for Panel<F> {}

impl<F: IntFormat> Source for Panel<F> {
    type Format = F;

    #[inline(always)]
    unsafe fn quad<S: Simd, const J: usize>(self, s: S, unit: usize) -> S::Bytes {
        // SAFETY: the unit starts with eight fragments.
        unsafe { s.bytes_load(self.0.add(unit * unit_bytes::<S, F>() + J * 4 * S::LANES)) }
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(self, s: S, unit: usize, run: usize) -> S::F32 {
        // SAFETY: the scales follow the fragments.
        unsafe { s.load(self.0.add(unit * unit_bytes::<S, F>() + (8 + run) * 4 * S::LANES).cast()) }
    }
    #[inline(always)]
    unsafe fn min<S: Simd>(self, s: S, unit: usize, run: usize) -> S::F32 {
        // SAFETY: the minima follow the scales.
        unsafe { self.scale(s, unit, 32 / F::SUB + run) }
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
                let out = self.out.add(u * unit_bytes::<S, F>());
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
