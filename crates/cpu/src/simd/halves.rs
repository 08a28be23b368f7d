//! f16 and bf16 by the arithmetic of 32-bit lanes, where there are no instructions for them.

use super::Simd;

/// An instruction set whose registers of f32 and of words are the same bits.
pub(super) trait Bitwise: Simd {
    /// The bits of every lane.
    fn bits(self, a: Self::F32) -> Self::Bytes;
    /// The lanes with these bits.
    fn of_bits(self, a: Self::Bytes) -> Self::F32;
}

/// The sixteen bits of an f16 in every word, widened exactly; NaN stays NaN.
#[cfg(not(target_arch = "aarch64"))]
#[inline(always)]
pub(super) fn widen_f16<S: Bitwise>(s: S, a: S::Bytes) -> S::F32 {
    // The fraction in its place, with an exponent that is 112 too small: the product is exact,
    // subnormals included.
    let small = s.of_bits(s.words_shl(s.words_and(a, 0x7fff), 13));
    let magnitude = s.mul(small, s.splat(f32::from_bits((127 + 112) << 23)));
    // Infinity and NaN come out as 2^16 and more: their exponent is all ones.
    let ones = s.bytes_or(s.bits(magnitude), s.words_splat(0x7f80_0000));
    let magnitude = s.select_lt(magnitude, s.splat(65536.0), magnitude, s.of_bits(ones));
    let sign = s.words_shl(s.words_and(a, 0x8000), 16);
    s.of_bits(s.bytes_or(s.bits(magnitude), sign))
}

/// The sixteen bits of the nearest f16, ties to even, in every word; NaN stays NaN.
#[cfg(not(target_arch = "aarch64"))]
#[inline(always)]
pub(super) fn narrow_f16<S: Bitwise>(s: S, a: S::F32) -> S::Bytes {
    let magnitude = s.abs(a);
    // From 2^16 on everything is infinity, and so is what rounds up to that.
    let most = s.min(magnitude, s.splat(65536.0));
    // The exponent is 112 smaller; just under half a unit, and the last kept bit, round.
    let bits = s.bits(most);
    let odd = s.words_and(s.words_shr(bits, 13), 1);
    let up = s.words_splat(0xfff_u32.wrapping_sub(112 << 23));
    let normal = s.words_shr(s.words_add(s.words_add(bits, odd), up), 13);
    // Beside 0.5 the unit of an f32 is that of subnormal f16: the addition rounds.
    let half = s.bits(s.add(most, s.splat(0.5)));
    let subnormal = s.words_sub(half, s.words_splat(0.5_f32.to_bits()));
    let least = s.splat(f32::from_bits((127 - 14) << 23));
    let number = s.select_lt(most, least, s.of_bits(subnormal), s.of_bits(normal));
    let all = or_nan(s, magnitude, number, s.of_bits(s.words_splat(0x7e00)));
    let sign = s.words_shr(s.words_and(s.bits(a), 0x8000_0000), 16);
    s.bytes_or(s.bits(all), sign)
}

/// The sixteen bits of a bf16 in every word, widened exactly.
#[inline(always)]
pub(super) fn widen_bf16<S: Bitwise>(s: S, a: S::Bytes) -> S::F32 {
    s.of_bits(s.words_shl(a, 16))
}

/// The sixteen bits of the nearest bf16, ties to even, in every word; NaN stays NaN.
#[inline(always)]
pub(super) fn narrow_bf16<S: Bitwise>(s: S, a: S::F32) -> S::Bytes {
    let bits = s.bits(a);
    // Just under half a unit, and the last kept bit.
    let odd = s.words_and(s.words_shr(bits, 16), 1);
    let up = s.words_add(s.words_add(bits, odd), s.words_splat(0x7fff));
    let quiet = s.bytes_or(bits, s.words_splat(0x0040_0000));
    let all = or_nan(s, s.abs(a), s.of_bits(up), s.of_bits(quiet));
    s.words_shr(s.bits(all), 16)
}

/// `number`, or `nan` where the magnitude is none.
#[inline(always)]
fn or_nan<S: Bitwise>(s: S, magnitude: S::F32, number: S::F32, nan: S::F32) -> S::F32 {
    let infinity = s.splat(f32::INFINITY);
    // Of what is not below infinity, infinity is above the largest number.
    let other = s.select_lt(s.splat(f32::MAX), magnitude, number, nan);
    s.select_lt(magnitude, infinity, number, other)
}
