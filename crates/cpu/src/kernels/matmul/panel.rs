//! Panels: a few row groups converted to whole int8 fragments and f32 scales, in cache.
//!
//! Taking weights apart costs as much as multiplying by a few tokens, so for many tokens it is
//! done once: a panel of row groups is converted into scratch memory that fits the second-level
//! cache, then every token tile passes over it. For one token, and for f32 activations, a piece of
//! a few units is converted at a time and does not leave the first-level cache. A unit of a panel
//! is `[8][R][4]` bytes (eight quads), then f32 scales `[32 / SUB][R]`, then minima of the same
//! shape if the format has them.
//!
//! There are five types of panel for all formats, so that the kernels over panels are compiled
//! once for them; a format has a [`Converter`] of its own.

use super::fragments::{PackedGroup, Source};
use super::{MatmulArgs, columns};
use crate::simd::{Simd, WithSimd};
use gristmill_core::quant::IntFormat;
use std::ops::Range;

/// Bytes a panel may take: about half of a second-level cache of 1 MiB.
const PANEL_BYTES: usize = 512 << 10;

/// Units of a piece.
pub(super) const PIECE: usize = 8;

/// One converted row group. `ZERO` is 0 with minima, and then integers have at most five bits, 128
/// for whole bytes, else 64.
#[derive(Clone, Copy)]
pub(super) struct Panel<const SUB: usize, const HAS_MIN: bool, const ZERO: i32>(*const u8);

/// What all panels have in common.
pub(super) trait AnyPanel: Source {
    /// The converted row group at `at`.
    fn at(at: *const u8) -> Self;
    /// Quad `j` of the unit, as [`Source::quad`] gives it.
    ///
    /// # Safety
    /// As for [`Source::quad`].
    unsafe fn any_quad<S: Simd>(self, s: S, unit: usize, j: usize) -> S::Bytes;
    /// Bytes of one unit.
    fn unit_bytes<S: Simd>() -> usize {
        let kinds = if Self::HAS_MIN { 2 } else { 1 };
        (8 + kinds * (32 / Self::SUB)) * 4 * S::LANES
    }
    /// Row groups of `cols` columns that fit a cache.
    fn groups<S: Simd>(cols: usize) -> usize {
        let fit = PANEL_BYTES / (cols / 32 * Self::unit_bytes::<S>()).max(1);
        (fit / S::TILE_GROUPS).max(1) * S::TILE_GROUPS
    }
    /// Bytes of scratch for the pieces of `groups` row groups.
    fn piece_bytes<S: Simd>(groups: usize) -> usize {
        groups * PIECE * Self::unit_bytes::<S>()
    }
}

impl<const SUB: usize, const HAS_MIN: bool, const ZERO: i32> AnyPanel
    for Panel<SUB, HAS_MIN, ZERO>
{
    #[inline(always)]
    fn at(at: *const u8) -> Self {
        Panel(at)
    }
    #[inline(always)]
    unsafe fn any_quad<S: Simd>(self, s: S, unit: usize, j: usize) -> S::Bytes {
        // SAFETY: the unit starts with eight fragments.
        unsafe { s.bytes_load(self.0.add(unit * Self::unit_bytes::<S>() + j * 4 * S::LANES)) }
    }
}

impl<const SUB: usize, const HAS_MIN: bool, const ZERO: i32> Source for Panel<SUB, HAS_MIN, ZERO> {
    const SUB: usize = SUB;
    const ZERO: i32 = ZERO;
    const MOST: i32 = if HAS_MIN { 31 } else { 127 };
    const HAS_MIN: bool = HAS_MIN;
    const WHOLE_BYTES: bool = ZERO == 128;

    #[inline(always)]
    unsafe fn quad<S: Simd, const J: usize>(self, s: S, unit: usize) -> S::Bytes {
        // SAFETY: the caller's promise.
        unsafe { self.any_quad(s, unit, J) }
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(self, s: S, unit: usize, run: usize) -> S::F32 {
        // SAFETY: the scales follow the fragments.
        unsafe {
            s.load(self.0.add(unit * Self::unit_bytes::<S>() + (8 + run) * 4 * S::LANES).cast())
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

/// What decides the type of panel for weights of type `W`.
pub(super) const fn facts<W: PackedGroup>() -> (usize, bool, bool) {
    (W::Source::SUB, W::Source::HAS_MIN, W::Source::WHOLE_BYTES)
}

/// Evaluates `$call` with `$p` the type of panel for weights of type `$w`.
macro_rules! with_panel {
    ($w:ty, |$p:ident| $call:expr) => {{
        macro_rules! arm {
            ($sub:literal, $min:literal, $zero:literal) => {{
                type $p = $crate::kernels::matmul::panel::Panel<$sub, $min, $zero>;
                $call
            }};
        }
        match $crate::kernels::matmul::panel::facts::<$w>() {
            (32, false, false) => arm!(32, false, 64),
            (16, false, false) => arm!(16, false, 64),
            (32, true, false) => arm!(32, true, 0),
            (16, true, false) => arm!(16, true, 0),
            (32, false, true) => arm!(32, false, 128),
            _ => unreachable!("a format whose panel type is not listed here"),
        }
    }};
}
pub(super) use with_panel;

/// Converts some units of a row group; see [`Converter::run`].
type ConvertFn = unsafe fn(matrix: &Matrix, group: usize, units: Range<usize>, out: *mut u8);

/// A packed matrix.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    pub(super) weights: *const u8,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

/// What kernels over panels need of a format.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format(ConvertFn);

impl Format {
    /// A format whose matrices lie by rows.
    pub(super) fn new<S: Simd, W: PackedGroup>() -> Self {
        Format(convert::<S, W>)
    }

    /// A format whose matrices lie by columns.
    pub(super) fn by_columns<S: Simd, F: IntFormat>() -> Self {
        Format(columns::convert::<S, F>)
    }

    /// The converter of the matrix of a product.
    pub(super) fn converter(&self, args: &MatmulArgs) -> Converter {
        let MatmulArgs { weights, rows, cols, .. } = *args;
        Converter { matrix: Matrix { weights, rows, cols }, convert: self.0 }
    }
}

/// Converts row groups of one matrix.
#[derive(Clone, Copy)]
pub(super) struct Converter {
    matrix: Matrix,
    convert: ConvertFn,
}

impl Converter {
    /// Units of a row.
    pub(super) fn units(&self) -> usize {
        self.matrix.cols / 32
    }

    /// Converts some units of row group `group` to the front of `out`.
    ///
    /// # Safety
    /// The weights have that group and these units, `out` is writable for as many units of the
    /// format's panel, and the instruction set is there.
    #[inline]
    pub(super) unsafe fn run(&self, group: usize, units: Range<usize>, out: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { (self.convert)(&self.matrix, group, units, out) }
    }
}

/// # Safety
/// As for [`Converter::run`].
unsafe fn convert<S: Simd, W: PackedGroup>(
    matrix: &Matrix,
    group: usize,
    units: Range<usize>,
    out: *mut u8,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let group = matrix.weights.add(group * W::stride::<S>(matrix.cols));
        let source = W::source::<S>(group, matrix.cols);
        S::assume().vectorize(Convert { source, units, out })
    }
}

/// Converts some units of a row group.
pub(super) struct Convert<W> {
    pub(super) source: W,
    pub(super) units: Range<usize>,
    pub(super) out: *mut u8,
}

impl<W: Source> WithSimd for Convert<W> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        const { assert!(!W::HAS_MIN || W::MOST <= 31, "more than a panel with minima may hold") };
        // What is missing to the zero of the panel.
        let shift = if W::HAS_MIN || W::WHOLE_BYTES { 0 } else { 64 - W::ZERO } as u32;
        let shift = s.words_splat(shift * 0x0101_0101);
        let mut out = self.out;
        for u in self.units {
            // SAFETY: whoever made this gave a source and an output of these units.
            unsafe {
                self.source.prefetch(s, u);
                self.source.store_quads(s, u, shift, out);
                out = out.add(8 * 4 * S::LANES);
                for run in 0..32 / W::SUB {
                    s.store(out.cast(), self.source.scale(s, u, run));
                    out = out.add(4 * S::LANES);
                }
                if W::HAS_MIN {
                    for run in 0..32 / W::SUB {
                        s.store(out.cast(), self.source.min(s, u, run));
                        out = out.add(4 * S::LANES);
                    }
                }
            }
        }
    }
}
