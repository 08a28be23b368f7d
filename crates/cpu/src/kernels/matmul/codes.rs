//! Packed rows of coded formats, decoded a quad at a time in registers.

use super::fragments::{PREFETCH, PackedGroup, Source};
use crate::pack::coded;
use crate::simd::Simd;
use gristmill_core::quant::{CodedFormat, PackedInts, Scale, Words};
use std::marker::PhantomData;

/// A row group of codes.
pub(super) struct Codes<F> {
    scales: *const u8,
    bodies: *const u8,
    /// Blocks of `F` that share one scale, as a power of two.
    shared: u32,
    format: PhantomData<F>,
}

impl<F> Clone for Codes<F> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}
impl<F> Copy for Codes<F> {}

impl<F: CodedFormat> PackedGroup for Codes<F> {
    type Source = Self;
    const DIRECT: bool = false;

    fn bytes(cols: usize, lanes: usize) -> usize {
        coded::group_bytes::<F>(cols, lanes)
    }
    #[inline(always)]
    unsafe fn source<S: Simd>(group: *const u8, cols: usize) -> Self {
        // SAFETY: the group holds its scales, then its bodies.
        let bodies = unsafe { group.add(coded::scales_bytes::<F>(cols, S::LANES)) };
        Codes { scales: group, bodies, shared: 0, format: PhantomData }
    }
}

/// Packed integers: read as blocks of one unit, several of which share a scale, so that the length
/// of blocks needs no kernels of its own.
pub(super) struct PackedBlocks<F>(PhantomData<F>);

impl<F: PackedInts> PackedGroup for PackedBlocks<F> {
    type Source = Codes<F::Unit>;
    const DIRECT: bool = false;

    fn bytes(cols: usize, lanes: usize) -> usize {
        coded::group_bytes::<F>(cols, lanes)
    }
    #[inline(always)]
    unsafe fn source<S: Simd>(group: *const u8, cols: usize) -> Codes<F::Unit> {
        // SAFETY: the group holds its scales, then its bodies.
        let bodies = unsafe { group.add(coded::scales_bytes::<F>(cols, S::LANES)) };
        let shared = (F::BLOCK / 32).trailing_zeros();
        Codes { scales: group, bodies, shared, format: PhantomData }
    }
}

impl<F: CodedFormat> Codes<F> {
    /// The words of the block that holds unit `unit`, and the number of the unit there.
    ///
    /// # Safety
    /// The group has that unit, laid out for `S`.
    #[inline(always)]
    unsafe fn block<S: Simd>(self, s: S, unit: usize) -> (BlockWords<S, F>, usize) {
        let per_block = F::BLOCK / 32;
        // SAFETY: the caller's promise.
        let at = unsafe { self.bodies.add(unit / per_block * coded::body_bytes::<F>(S::LANES)) };
        (BlockWords { s, at, format: PhantomData }, unit % per_block)
    }

    /// What is missing from the zero of the unit's block to 64, in every byte; 0 where the format
    /// has one zero for all.
    ///
    /// # Safety
    /// The group has that unit, laid out for `S`.
    #[inline(always)]
    unsafe fn to_64<S: Simd>(self, s: S, unit: usize) -> S::Bytes {
        if !F::SCALE.has_zero() {
            return s.words_splat(0);
        }
        // SAFETY: the caller's promise; the zeros follow `d`.
        let zero = unsafe {
            s.words_load_u8(self.block_scales::<S>(unit).add(F::SCALE.widths()[0] * S::LANES))
        };
        // Zeros are at most 2^4, so that no byte borrows from the next.
        s.words_mul(s.words_sub(s.words_splat(64), s.words_and(zero, 63)), 0x0101_0101)
    }

    /// Whole bytes signed or not, as the instruction set multiplies them.
    #[inline(always)]
    fn biased<S: Simd>(s: S, quad: S::Bytes) -> S::Bytes {
        if F::ZERO == 128 && S::S8_BIAS == 0 { s.bytes_xor(quad, 0x80) } else { quad }
    }

    /// The scales of the block that holds unit `unit`.
    ///
    /// # Safety
    /// The group has that unit, laid out for `S`.
    #[inline(always)]
    unsafe fn block_scales<S: Simd>(self, unit: usize) -> *const u8 {
        // SAFETY: the caller's promise.
        unsafe {
            let block = (unit / (F::BLOCK / 32)) >> self.shared;
            self.scales.add(block * coded::block_scales_bytes::<F>(S::LANES))
        }
    }
}

impl<F: CodedFormat> Source for Codes<F> {
    const SUB: usize = F::SUB;
    const ZERO: i32 = if F::SCALE.has_zero() { 64 } else { F::ZERO };
    const MOST: i32 = if F::SCALE.has_min() { 31 } else { 127 };
    const HAS_MIN: bool = F::SCALE.has_min();
    const WHOLE_BYTES: bool = F::ZERO == 128;

    #[inline(always)]
    unsafe fn quad<S: Simd, const J: usize>(self, s: S, unit: usize) -> S::Bytes {
        // SAFETY: the caller's promise.
        let (zero, (block, unit)) = unsafe { (self.to_64(s, unit), self.block(s, unit)) };
        s.words_add(Self::biased(s, F::quad(block, unit, J)), zero)
    }

    // A loop over pairs, which share what an eighth of a block has in common: eight times the code
    // of a grid would be long, for each format and instruction set.
    #[inline(always)]
    unsafe fn store_quads<S: Simd>(self, s: S, unit: usize, shift: S::Bytes, out: *mut u8) {
        // SAFETY: the caller's promise.
        let (zero, (block, unit)) = unsafe { (self.to_64(s, unit), self.block(s, unit)) };
        let shift = s.words_add(shift, zero);
        for k in 0..4 {
            let quads = [F::quad(block, unit, 2 * k), F::quad(block, unit, 2 * k + 1)];
            for (half, quad) in quads.into_iter().enumerate() {
                let quad = s.words_add(Self::biased(s, quad), shift);
                // SAFETY: as above.
                unsafe { s.bytes_store(out.add((2 * k + half) * 4 * S::LANES), quad) };
            }
        }
    }

    #[inline(always)]
    unsafe fn scale<S: Simd>(self, s: S, unit: usize, run: usize) -> S::F32 {
        // SAFETY: the caller's promise: the block has its scales and its words.
        unsafe {
            let at = self.block_scales::<S>(unit);
            let mut scale = match F::SCALE {
                Scale::Single | Scale::SingleZero => s.load(at.cast()),
                Scale::Half | Scale::Halves | Scale::HalfZero => s.load_f16(at.cast()),
                Scale::Exponent => {
                    // Two powers, neither of which leaves the range of `exp2i`.
                    let n = s.sub(s.load_u8(at), s.splat(128.0));
                    let half = s.round(s.mul(n, s.splat(0.5)));
                    s.mul(s.exp2i(half), s.exp2i(s.sub(n, half)))
                }
            };
            if F::UNIT != 1.0 {
                scale = s.mul(scale, s.splat(F::UNIT));
            }
            if F::HAS_SC {
                let (block, unit) = self.block(s, unit);
                let sc = s.bytes_lane(F::sc(block, unit, run), 0);
                scale = s.mul(scale, s.sub(sc, s.splat(F::SC_ZERO as f32)));
            }
            scale
        }
    }

    #[inline(always)]
    unsafe fn min<S: Simd>(self, s: S, unit: usize, run: usize) -> S::F32 {
        // SAFETY: as above; `m` follows `d`.
        unsafe {
            let at = self.block_scales::<S>(unit).add(F::SCALE.widths()[0] * S::LANES);
            let (block, unit) = self.block(s, unit);
            s.mul(s.load_f16(at.cast()), s.bytes_lane(F::mn(block, unit, run), 0))
        }
    }

    #[inline(always)]
    fn prefetch<S: Simd>(self, s: S, unit: usize) {
        let bytes = coded::body_bytes::<F>(S::LANES) / (F::BLOCK / 32);
        if bytes >= 64 {
            for line in (0..bytes).step_by(64) {
                s.prefetch(self.bodies.wrapping_add(unit * bytes + PREFETCH + line));
            }
        }
    }
}

/// The words of one block of every row of a group. Whoever makes one has a packed block at `at`.
struct BlockWords<S, F> {
    s: S,
    at: *const u8,
    format: PhantomData<F>,
}

impl<S: Simd, F> Clone for BlockWords<S, F> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}
impl<S: Simd, F> Copy for BlockWords<S, F> {}

impl<S: Simd, F: CodedFormat> Words for BlockWords<S, F> {
    type Word = S::Bytes;

    #[inline(always)]
    fn word(self, i: usize) -> S::Bytes {
        // SAFETY: word `i` is within the block, whatever `i` is.
        unsafe { self.s.bytes_load(self.at.add(i.min(F::WORDS - 1) * 4 * S::LANES)) }
    }
    #[inline(always)]
    fn and(self, a: S::Bytes, mask: u32) -> S::Bytes {
        self.s.words_and(a, mask)
    }
    #[inline(always)]
    fn or(self, a: S::Bytes, b: S::Bytes) -> S::Bytes {
        self.s.bytes_or(a, b)
    }
    #[inline(always)]
    fn xor(self, a: S::Bytes, b: S::Bytes) -> S::Bytes {
        self.s.words_xor(a, b)
    }
    #[inline(always)]
    fn add(self, a: S::Bytes, b: S::Bytes) -> S::Bytes {
        self.s.words_add(a, b)
    }
    #[inline(always)]
    fn sub(self, a: S::Bytes, b: S::Bytes) -> S::Bytes {
        self.s.words_sub(a, b)
    }
    #[inline(always)]
    fn mul(self, a: S::Bytes, n: u32) -> S::Bytes {
        self.s.words_mul(a, n)
    }
    #[inline(always)]
    fn splat(self, n: u32) -> S::Bytes {
        self.s.words_splat(n)
    }
    #[inline(always)]
    fn shl(self, a: S::Bytes, n: usize) -> S::Bytes {
        self.s.words_shl(a, n as u32)
    }
    #[inline(always)]
    fn shr(self, a: S::Bytes, n: usize) -> S::Bytes {
        self.s.words_shr(a, n as u32)
    }
    #[inline(always)]
    fn entry<const P: usize, const N: usize>(
        self,
        table: &'static [[u32; P]; N],
        index: S::Bytes,
        part: usize,
    ) -> S::Bytes {
        self.s.words_lookup(table, index, part)
    }
    #[inline(always)]
    fn entry_bytes(self, table: &'static [u8; 16], a: S::Bytes) -> S::Bytes {
        self.s.bytes_lookup(table, a)
    }
}
