//! Portable code: ordinary integers and floats in arrays, any target.
//!
//! [`Scalar`] is what ships where no instruction set is known: four lanes written out, so that
//! every target's compiler may keep them in whatever registers it has, and a register tile of
//! several rows and tokens, so that an activation is fetched once for all of them and their sums
//! do not wait for each other. [`Naive`] runs the same operations with one lane and a tile of one
//! row and one token: the plain loop that every other one is measured against.

use super::{Isa, Simd, WithSimd, byte_in_column};
use half::{bf16, f16};
use std::array::from_fn;

/// The plain reference.
#[derive(Clone, Copy, Debug)]
pub struct Naive(());

/// The shipped portable code.
#[derive(Clone, Copy, Debug)]
pub struct Scalar(());

macro_rules! scalar {
    ($ty:ident: $lanes:literal lanes, $gemv:literal, $groups:literal x $tokens:literal) => {
        impl Simd for $ty {
            const ISA: Isa = Isa::$ty;
            const LANES: usize = $lanes;
            const S8_BIAS: i32 = 0;
            // What a tile saves in unpacking is worth more than what it spills.
            const REGISTERS: usize = 32;
            const GEMV_GROUPS: usize = $gemv;
            const TILE_GROUPS: usize = $groups;
            const TILE_TOKENS: usize = $tokens;
            type F32 = [f32; $lanes];
            type I32 = [i32; $lanes];
            type Bytes = [u32; $lanes];

            fn detect() -> Option<Self> {
                Some($ty(()))
            }
            #[inline(always)]
            unsafe fn assume() -> Self {
                $ty(())
            }
            fn vectorize<Op: WithSimd>(self, op: Op) -> Op::Output {
                #[inline(never)]
                fn go<Op: WithSimd>(s: $ty, op: Op) -> Op::Output {
                    op.with_simd(s)
                }
                go(self, op)
            }
            scalar_ops!();
        }
    };
}

macro_rules! scalar_ops {
    () => {
        #[inline(always)]
        fn splat(self, v: f32) -> Self::F32 {
            [v; Self::LANES]
        }
        #[inline(always)]
        fn add(self, a: Self::F32, b: Self::F32) -> Self::F32 {
            from_fn(|l| a[l] + b[l])
        }
        #[inline(always)]
        fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32 {
            from_fn(|l| a[l] - b[l])
        }
        #[inline(always)]
        fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32 {
            from_fn(|l| a[l] * b[l])
        }
        #[inline(always)]
        fn div(self, a: Self::F32, b: Self::F32) -> Self::F32 {
            from_fn(|l| a[l] / b[l])
        }
        // Not `mul_add`: without the instruction it is a slow library call.
        #[inline(always)]
        fn fma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
            from_fn(|l| a[l] * b[l] + c[l])
        }
        #[inline(always)]
        fn neg_fma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
            from_fn(|l| c[l] - a[l] * b[l])
        }
        #[inline(always)]
        fn min(self, a: Self::F32, b: Self::F32) -> Self::F32 {
            from_fn(|l| if a[l] < b[l] { a[l] } else { b[l] })
        }
        #[inline(always)]
        fn max(self, a: Self::F32, b: Self::F32) -> Self::F32 {
            from_fn(|l| if a[l] > b[l] { a[l] } else { b[l] })
        }
        #[inline(always)]
        fn sqrt(self, a: Self::F32) -> Self::F32 {
            a.map(f32::sqrt)
        }
        #[inline(always)]
        fn abs(self, a: Self::F32) -> Self::F32 {
            a.map(f32::abs)
        }
        #[inline(always)]
        fn copysign(self, a: Self::F32, sign: Self::F32) -> Self::F32 {
            from_fn(|l| a[l].copysign(sign[l]))
        }
        #[inline(always)]
        fn select_lt(self, a: Self::F32, b: Self::F32, yes: Self::F32, no: Self::F32) -> Self::F32 {
            from_fn(|l| if a[l] < b[l] { yes[l] } else { no[l] })
        }
        #[inline(always)]
        fn round(self, a: Self::F32) -> Self::F32 {
            a.map(round)
        }
        #[inline(always)]
        fn exp2i(self, n: Self::F32) -> Self::F32 {
            n.map(|n| f32::from_bits(((n as i32).wrapping_add(127) as u32) << 23))
        }
        #[inline(always)]
        fn sum(self, a: Self::F32) -> f32 {
            a[1..].iter().fold(a[0], |sum, a| sum + a)
        }
        #[inline(always)]
        fn max_across(self, a: Self::F32) -> f32 {
            a[1..].iter().fold(a[0], |max, &a| if a > max { a } else { max })
        }
        #[inline(always)]
        unsafe fn load(self, p: *const f32) -> Self::F32 {
            // SAFETY: the caller's promise.
            from_fn(|l| unsafe { *p.add(l) })
        }
        #[inline(always)]
        unsafe fn load_n(self, p: *const f32, n: usize) -> Self::F32 {
            // SAFETY: read only where `n` covers it.
            from_fn(|l| if l < n { unsafe { *p.add(l) } } else { 0.0 })
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32, a: Self::F32) {
            for l in 0..Self::LANES {
                // SAFETY: the caller's promise.
                unsafe { *p.add(l) = a[l] }
            }
        }
        #[inline(always)]
        unsafe fn store_n(self, p: *mut f32, n: usize, a: Self::F32) {
            for l in 0..Self::LANES {
                if l < n {
                    // SAFETY: written only where `n` covers it.
                    unsafe { *p.add(l) = a[l] }
                }
            }
        }
        #[inline(always)]
        unsafe fn load_f16(self, p: *const f16) -> Self::F32 {
            // SAFETY: the caller's promise.
            from_fn(|l| widen_f16(unsafe { *p.add(l) }.to_bits()))
        }
        #[inline(always)]
        unsafe fn load_f16_n(self, p: *const f16, n: usize) -> Self::F32 {
            // SAFETY: read only where `n` covers it.
            from_fn(|l| if l < n { widen_f16(unsafe { *p.add(l) }.to_bits()) } else { 0.0 })
        }
        #[inline(always)]
        unsafe fn store_f16(self, p: *mut f16, a: Self::F32) {
            for l in 0..Self::LANES {
                // SAFETY: the caller's promise.
                unsafe { *p.add(l) = f16::from_f32_const(a[l]) }
            }
        }
        #[inline(always)]
        unsafe fn store_f16_n(self, p: *mut f16, n: usize, a: Self::F32) {
            for l in 0..Self::LANES {
                if l < n {
                    // SAFETY: written only where `n` covers it.
                    unsafe { *p.add(l) = f16::from_f32_const(a[l]) }
                }
            }
        }
        #[inline(always)]
        unsafe fn load_bf16(self, p: *const bf16) -> Self::F32 {
            // SAFETY: the caller's promise.
            from_fn(|l| unsafe { *p.add(l) }.to_f32())
        }
        #[inline(always)]
        unsafe fn load_bf16_n(self, p: *const bf16, n: usize) -> Self::F32 {
            // SAFETY: read only where `n` covers it.
            from_fn(|l| if l < n { unsafe { *p.add(l) }.to_f32() } else { 0.0 })
        }
        #[inline(always)]
        unsafe fn store_bf16(self, p: *mut bf16, a: Self::F32) {
            for l in 0..Self::LANES {
                // SAFETY: the caller's promise.
                unsafe { *p.add(l) = bf16::from_f32_const(a[l]) }
            }
        }
        #[inline(always)]
        unsafe fn store_bf16_n(self, p: *mut bf16, n: usize, a: Self::F32) {
            for l in 0..Self::LANES {
                if l < n {
                    // SAFETY: written only where `n` covers it.
                    unsafe { *p.add(l) = bf16::from_f32_const(a[l]) }
                }
            }
        }
        #[inline(always)]
        unsafe fn load_i8(self, p: *const i8) -> Self::F32 {
            // SAFETY: the caller's promise.
            from_fn(|l| f32::from(unsafe { *p.add(l) }))
        }
        #[inline(always)]
        unsafe fn load_swapped(self, x: *const f32, i: usize, n: usize) -> Self::F32 {
            // SAFETY: the caller's promise.
            from_fn(|l| if l < n { unsafe { *x.add((i + l) ^ 1) } } else { 0.0 })
        }
        #[inline(always)]
        unsafe fn load_u8(self, p: *const u8) -> Self::F32 {
            // SAFETY: the caller's promise.
            from_fn(|l| f32::from(unsafe { *p.add(l) }))
        }
        #[inline(always)]
        fn i32_zero(self) -> Self::I32 {
            [0; Self::LANES]
        }
        #[inline(always)]
        unsafe fn i32_broadcast(self, p: *const i32) -> Self::I32 {
            // SAFETY: the caller's promise.
            [unsafe { *p }; Self::LANES]
        }
        #[inline(always)]
        fn i32_shl(self, a: Self::I32, n: u32) -> Self::I32 {
            a.map(|a| a << n)
        }
        #[inline(always)]
        fn i32_to_f32(self, a: Self::I32) -> Self::F32 {
            a.map(|a| a as f32)
        }
        // Sums stay far below the range of an i32 within one block; wrapping addition keeps
        // overflow checks out of the loop.
        #[inline(always)]
        fn mma_u7(self, mut acc: Self::I32, w: Self::Bytes, x: Self::Bytes) -> Self::I32 {
            for i in 0..4 {
                acc = from_fn(|l| {
                    acc[l].wrapping_add((w[l] >> (8 * i) & 255) as i32 * byte(x[l], i))
                });
            }
            acc
        }
        #[inline(always)]
        fn mma_s8(self, mut acc: Self::I32, w: Self::Bytes, x: Self::Bytes) -> Self::I32 {
            for i in 0..4 {
                acc = from_fn(|l| acc[l].wrapping_add(byte(w[l], i) * byte(x[l], i)));
            }
            acc
        }
        #[inline(always)]
        unsafe fn bytes_load(self, p: *const u8) -> Self::Bytes {
            // SAFETY: the caller's promise; the reads are unaligned.
            from_fn(|l| u32::from_le(unsafe { p.cast::<u32>().add(l).read_unaligned() }))
        }
        #[inline(always)]
        unsafe fn bytes_store(self, p: *mut u8, a: Self::Bytes) {
            for l in 0..Self::LANES {
                // SAFETY: the caller's promise; the writes are unaligned.
                unsafe { p.cast::<u32>().add(l).write_unaligned(a[l].to_le()) }
            }
        }
        #[inline(always)]
        unsafe fn bytes_broadcast(self, p: *const u8) -> Self::Bytes {
            // SAFETY: the caller's promise.
            [u32::from_le(unsafe { p.cast::<u32>().read_unaligned() }); Self::LANES]
        }
        #[inline(always)]
        fn bytes_and(self, a: Self::Bytes, mask: u8) -> Self::Bytes {
            a.map(|a| a & u32::from_le_bytes([mask; 4]))
        }
        #[inline(always)]
        fn bytes_xor(self, a: Self::Bytes, mask: u8) -> Self::Bytes {
            a.map(|a| a ^ u32::from_le_bytes([mask; 4]))
        }
        #[inline(always)]
        fn bytes_or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
            from_fn(|l| a[l] | b[l])
        }
        #[inline(always)]
        fn bytes_shl(self, a: Self::Bytes, n: u32) -> Self::Bytes {
            a.map(|a| a << n)
        }
        #[inline(always)]
        fn bytes_shr(self, a: Self::Bytes, n: u32) -> Self::Bytes {
            a.map(|a| a >> n)
        }
        #[inline(always)]
        fn bytes_lane(self, a: Self::Bytes, i: u32) -> Self::F32 {
            a.map(|a| (a >> (8 * i) & 255) as f32)
        }
        #[inline(always)]
        fn bytes_lookup(self, table: &[u8; 16], a: Self::Bytes) -> Self::Bytes {
            from_fn(|l| {
                let [b, c, d, e] = a[l].to_le_bytes();
                let at = |b: u8| table[usize::from(b % 16)];
                u32::from_le_bytes([at(b), at(c), at(d), at(e)])
            })
        }
        #[inline(always)]
        fn bytes_quads(self, columns: [Self::Bytes; 4]) -> [Self::Bytes; 4] {
            from_fn(|i| {
                from_fn(|l| {
                    let at = byte_in_column(Self::LANES, i, l);
                    u32::from_le_bytes(columns.map(|c| (c[at / 4] >> (8 * (at % 4))) as u8))
                })
            })
        }
        #[inline(always)]
        fn words_of(self, a: Self::F32) -> Self::Bytes {
            from_fn(|l| a[l] as i32 as u32)
        }
        #[inline(always)]
        fn words_splat(self, n: u32) -> Self::Bytes {
            [n; Self::LANES]
        }
        #[inline(always)]
        unsafe fn words_load_u8(self, p: *const u8) -> Self::Bytes {
            // SAFETY: the caller's promise.
            from_fn(|l| u32::from(unsafe { *p.add(l) }))
        }
        #[inline(always)]
        fn words_and(self, a: Self::Bytes, mask: u32) -> Self::Bytes {
            a.map(|a| a & mask)
        }
        #[inline(always)]
        fn words_xor(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
            from_fn(|l| a[l] ^ b[l])
        }
        #[inline(always)]
        fn words_add(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
            from_fn(|l| a[l].wrapping_add(b[l]))
        }
        #[inline(always)]
        fn words_sub(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
            from_fn(|l| a[l].wrapping_sub(b[l]))
        }
        #[inline(always)]
        fn words_mul(self, a: Self::Bytes, n: u32) -> Self::Bytes {
            a.map(|a| a.wrapping_mul(n))
        }
        #[inline(always)]
        fn words_shl(self, a: Self::Bytes, n: u32) -> Self::Bytes {
            a.map(|a| a.wrapping_shl(n))
        }
        #[inline(always)]
        fn words_shr(self, a: Self::Bytes, n: u32) -> Self::Bytes {
            a.map(|a| a.wrapping_shr(n))
        }
        #[inline(always)]
        fn words_lookup<const P: usize, const N: usize>(
            self,
            table: &[[u32; P]; N],
            index: Self::Bytes,
            part: usize,
        ) -> Self::Bytes {
            index.map(|i| table[i as usize % N][part % P])
        }
    };
}

scalar!(Naive: 1 lanes, 1, 1 x 1);
scalar!(Scalar: 4 lanes, 4, 2 x 4);

/// Byte `i` of a quad, signed.
#[inline(always)]
fn byte(quad: u32, i: u32) -> i32 {
    i32::from((quad >> (8 * i)) as u8 as i8)
}

/// The nearest integer, ties to even, without the instruction for it.
#[inline(always)]
fn round(a: f32) -> f32 {
    // Adding and taking away 1.5 · 2^23 leaves no fraction bits; larger values have none.
    const MAGIC: f32 = 12_582_912.0;
    // From 2^22 to 2^23 there may be a half: the same, with a larger constant.
    const LARGE: f32 = 8_388_608.0;
    if a.abs() < 4_194_304.0 {
        ((a + MAGIC) - MAGIC).copysign(a)
    } else if a.abs() < LARGE {
        ((a.abs() + LARGE) - LARGE).copysign(a)
    } else {
        a
    }
}

/// f16 bits to f32 in plain integer operations, so that it inlines on every target.
#[inline(always)]
fn widen_f16(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let rest = u32::from(bits & 0x7fff) << 13;
    let magnitude = if rest >= 0x7c00 << 13 {
        // Infinity and NaN keep an exponent of ones; NaNs become quiet, as in hardware.
        let quiet = if rest > 0x7c00 << 13 { 0x0040_0000 } else { 0 };
        f32::from_bits((rest + 0x7000_0000) | quiet)
    } else {
        // The exponent bias grows by 112; the product is exact, subnormals included.
        f32::from_bits(rest) * f32::from_bits(0x7780_0000)
    };
    f32::from_bits(magnitude.to_bits() | sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_widens_exactly() {
        for bits in 0..=u16::MAX {
            let (ours, reference) = (widen_f16(bits), f16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == reference.to_bits(), "{bits:#06x}: {ours} {reference}");
        }
    }
}
