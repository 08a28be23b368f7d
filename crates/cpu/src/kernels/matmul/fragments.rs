//! Where a kernel takes quantized weights from: packed planes or codes, or a converted panel.

use crate::pack::planes;
use crate::simd::Simd;
use gristmill_core::quant::IntFormat;
use std::marker::PhantomData;

/// The weights of one row group, unit after unit (32 elements of every row).
///
/// A lane is a row: `value = scale · (quad - ZERO) - min`, where `ZERO` is that of
/// [`Source::ZERO`] and scales belong to runs of [`Source::SUB`] elements.
pub(super) trait Source: Copy {
    /// Elements that share a scale.
    const SUB: usize;
    /// Subtracted from the integers: 0 or a power of two, 128 for whole bytes.
    const ZERO: i32;
    /// The largest of the integers, where they are not whole bytes.
    const MOST: i32;
    /// Whether there are minima.
    const HAS_MIN: bool;
    /// Whether the integers are full-range bytes, biased as the instruction set asks.
    const WHOLE_BYTES: bool;
    /// Quad `J` (0..8) of the unit: four elements of each row.
    ///
    /// # Safety
    /// Here and below: the source was made from a group that holds unit `unit`, laid out for `S`.
    unsafe fn quad<S: Simd, const J: usize>(self, s: S, unit: usize) -> S::Bytes;
    /// Stores the eight quads of the unit, each with `shift` added, one after the other.
    ///
    /// # Safety
    /// As for [`Source::quad`]; `out` is writable for eight fragments.
    #[inline(always)]
    unsafe fn store_quads<S: Simd>(self, s: S, unit: usize, shift: S::Bytes, out: *mut u8) {
        macro_rules! quad {
            ($($j:literal)+) => {$(
                // SAFETY: the caller's promise.
                unsafe {
                    let quad = self.quad::<S, $j>(s, unit);
                    s.bytes_store(out.add($j * 4 * S::LANES), s.words_add(quad, shift));
                }
            )+};
        }
        quad!(0 1 2 3 4 5 6 7);
    }
    /// The scales of run `run` of the unit.
    unsafe fn scale<S: Simd>(self, s: S, unit: usize, run: usize) -> S::F32;
    /// The minima of the unit; called for formats that have them.
    unsafe fn min<S: Simd>(self, s: S, unit: usize, run: usize) -> S::F32;
    /// Asks for what will be needed some units later.
    fn prefetch<S: Simd>(self, s: S, unit: usize);
}

/// How row groups of a format are packed.
pub(super) trait PackedGroup {
    /// A packed row group, ready to be read.
    type Source: Source;
    /// Whether kernels for one token read it as it is; else by way of a panel.
    const DIRECT: bool;
    /// Bytes of a row group, without what fills it up to alignment.
    fn bytes(cols: usize, lanes: usize) -> usize;
    /// The row group of `cols` columns at `group`.
    ///
    /// # Safety
    /// It was packed for `S`, and is not changed while this is used.
    unsafe fn source<S: Simd>(group: *const u8, cols: usize) -> Self::Source;
    /// The distance between the row groups of a matrix.
    fn stride<S: Simd>(cols: usize) -> usize {
        Self::bytes(cols, S::LANES).next_multiple_of((4 * S::LANES).min(64))
    }
}

/// The integers of a format as bit planes.
pub(super) struct Planes<F> {
    scales: *const u8,
    units: *const u8,
    format: PhantomData<F>,
}

impl<F> Clone for Planes<F> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}
impl<F> Copy for Planes<F> {}

impl<F: IntFormat> PackedGroup for Planes<F> {
    type Source = Self;
    const DIRECT: bool = !F::WIDE_SCALE;

    fn bytes(cols: usize, lanes: usize) -> usize {
        planes::group_bytes::<F>(cols, lanes)
    }
    #[inline(always)]
    unsafe fn source<S: Simd>(group: *const u8, cols: usize) -> Self {
        // SAFETY: the group holds its scales, then its units.
        let units = unsafe { group.add(planes::scales_bytes::<F>(cols, S::LANES)) };
        Planes { scales: group, units, format: PhantomData }
    }
}

impl<F: IntFormat> Planes<F> {
    /// The scales of the block that holds unit `unit`, and the number of its first run there.
    #[inline(always)]
    unsafe fn block<S: Simd>(self, unit: usize) -> (*const u8, usize) {
        let per_block = F::BLOCK / 32;
        let at = unit / per_block * planes::block_scales_bytes::<F>(S::LANES);
        // SAFETY: the unit's block is within the group.
        (unsafe { self.scales.add(at) }, unit % per_block * (32 / F::SUB))
    }
}

/// How far ahead of the unit in work memory is asked for, in bytes of one row group.
pub(super) const PREFETCH: usize = 4096;

impl<F: IntFormat> Source for Planes<F> {
    const SUB: usize = F::SUB;
    const ZERO: i32 = F::ZERO;
    const MOST: i32 = (1 << F::BITS) - 1;
    const HAS_MIN: bool = F::HAS_MIN;
    const WHOLE_BYTES: bool = F::BITS == 8;

    #[inline(always)]
    unsafe fn quad<S: Simd, const J: usize>(self, s: S, unit: usize) -> S::Bytes {
        // SAFETY: the unit is BITS fragments.
        unsafe { quad::<S, F>(s, self.units.add(unit * F::BITS * 4 * S::LANES), J, 8) }
    }

    #[inline(always)]
    unsafe fn scale<S: Simd>(self, s: S, unit: usize, run: usize) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe {
            let (block, first) = self.block::<S>(unit);
            scale::<S, F>(s, block, first + run)
        }
    }

    #[inline(always)]
    unsafe fn min<S: Simd>(self, s: S, unit: usize, run: usize) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe {
            let (block, first) = self.block::<S>(unit);
            min::<S, F>(s, block, first + run)
        }
    }

    #[inline(always)]
    fn prefetch<S: Simd>(self, s: S, unit: usize) {
        let bytes = F::BITS * 4 * S::LANES;
        if bytes >= 64 {
            for line in (0..bytes).step_by(64) {
                s.prefetch(self.units.wrapping_add(unit * bytes + PREFETCH + line));
            }
        }
    }
}

/// Quad `j` of the `n` whose planes begin at `planes`; both are constants where it must be fast.
///
/// # Safety
/// They hold `n` quads of the format, as many as fill fragments, laid out for `S`.
#[inline(always)]
pub(super) unsafe fn quad<S: Simd, F: IntFormat>(
    s: S,
    planes: *const u8,
    j: usize,
    n: usize,
) -> S::Bytes {
    let fragment = 4 * S::LANES;
    // SAFETY: a plane of b bits has n b / 8 fragments.
    unsafe {
        if F::BITS == 8 {
            return s.bytes_load(planes.add(j * fragment));
        }
        let mut first = 0;
        let mut shift = 0;
        let mut quad = None;
        // Bits of this plane: down to the bottom of the byte, or straight to their place.
        macro_rules! plane {
            ($bits:literal) => {
                if F::BITS & $bits != 0 {
                    let fragments = $bits * n / 8;
                    let from = (j / fragments * $bits) as u32;
                    let b = s.bytes_load(planes.add((first + j % fragments) * fragment));
                    let b = if from > shift {
                        s.bytes_shr(b, from - shift)
                    } else if from < shift {
                        s.bytes_shl(b, shift - from)
                    } else {
                        b
                    };
                    let b = s.bytes_and(b, ((1u32 << $bits) - 1 << shift) as u8);
                    quad = Some(match quad {
                        None => b,
                        Some(q) => s.bytes_or(q, b),
                    });
                    #[allow(unused_assignments)]
                    {
                        first += fragments;
                        shift += $bits;
                    }
                }
            };
        }
        plane!(4);
        plane!(2);
        plane!(1);
        quad.unwrap_unchecked()
    }
}

/// The scales of run `run` of a block of a row group, whose scales begin at `block`.
///
/// # Safety
/// They are those of a block of the format, laid out for `S`.
#[inline(always)]
pub(super) unsafe fn scale<S: Simd, F: IntFormat>(s: S, block: *const u8, run: usize) -> S::F32 {
    // SAFETY: `d` and `sc` of the block hold LANES values.
    unsafe {
        if F::WIDE_SCALE {
            return s.load(block.cast());
        }
        let d = s.load_f16(block.cast());
        if !F::HAS_SC {
            return d;
        }
        s.mul(d, s.load_i8(block.add(planes::sc_offset::<F>(run, S::LANES)).cast()))
    }
}

/// The minima of the same.
///
/// # Safety
/// As for [`scale`]; the format has minima.
#[inline(always)]
pub(super) unsafe fn min<S: Simd, F: IntFormat>(s: S, block: *const u8, run: usize) -> S::F32 {
    // SAFETY: `m` and `mn` of the block hold LANES values.
    unsafe {
        let m = s.load_f16(block.add(2 * S::LANES).cast());
        if !F::HAS_SC {
            return m;
        }
        s.mul(m, s.load_u8(block.add(planes::mn_offset::<F>(run, S::LANES))))
    }
}
