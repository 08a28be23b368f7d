//! Portable code: one lane, ordinary integers and floats, any target.
//!
//! [`Scalar`] is what ships where no instruction set is known. Its register tile handles
//! several rows and tokens at once, so that an activation is fetched once for all of them and
//! their sums do not wait for each other. [`Naive`] runs the same operations with a tile of one
//! row and one token: the plain loop that every other one is measured against.

use super::{Isa, Simd, WithSimd};
use half::{bf16, f16};

/// The plain reference.
#[derive(Clone, Copy, Debug)]
pub struct Naive(());

/// The shipped portable code.
#[derive(Clone, Copy, Debug)]
pub struct Scalar(());

macro_rules! scalar {
    ($ty:ident, $gemv:literal, $groups:literal, $tokens:literal) => {
        impl Simd for $ty {
            const ISA: Isa = Isa::$ty;
            const LANES: usize = 1;
            const S8_BIAS: i32 = 0;
            const GEMV_GROUPS: usize = $gemv;
            const TILE_GROUPS: usize = $groups;
            const TILE_TOKENS: usize = $tokens;
            type F32 = f32;
            type I32 = i32;
            type Bytes = u32;

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
        fn splat(self, v: f32) -> f32 {
            v
        }
        #[inline(always)]
        fn add(self, a: f32, b: f32) -> f32 {
            a + b
        }
        #[inline(always)]
        fn sub(self, a: f32, b: f32) -> f32 {
            a - b
        }
        #[inline(always)]
        fn mul(self, a: f32, b: f32) -> f32 {
            a * b
        }
        #[inline(always)]
        fn div(self, a: f32, b: f32) -> f32 {
            a / b
        }
        // Not `mul_add`: without the instruction it is a slow library call.
        #[inline(always)]
        fn fma(self, a: f32, b: f32, c: f32) -> f32 {
            a * b + c
        }
        #[inline(always)]
        fn neg_fma(self, a: f32, b: f32, c: f32) -> f32 {
            c - a * b
        }
        #[inline(always)]
        fn min(self, a: f32, b: f32) -> f32 {
            if a < b { a } else { b }
        }
        #[inline(always)]
        fn max(self, a: f32, b: f32) -> f32 {
            if a > b { a } else { b }
        }
        #[inline(always)]
        fn sqrt(self, a: f32) -> f32 {
            a.sqrt()
        }
        #[inline(always)]
        fn abs(self, a: f32) -> f32 {
            a.abs()
        }
        #[inline(always)]
        fn copysign(self, a: f32, sign: f32) -> f32 {
            a.copysign(sign)
        }
        #[inline(always)]
        fn select_lt(self, a: f32, b: f32, yes: f32, no: f32) -> f32 {
            if a < b { yes } else { no }
        }
        #[inline(always)]
        fn round(self, a: f32) -> f32 {
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
        #[inline(always)]
        fn exp2i(self, n: f32) -> f32 {
            f32::from_bits(((n as i32).wrapping_add(127) as u32) << 23)
        }
        #[inline(always)]
        fn sum(self, a: f32) -> f32 {
            a
        }
        #[inline(always)]
        fn max_across(self, a: f32) -> f32 {
            a
        }
        #[inline(always)]
        unsafe fn load(self, p: *const f32) -> f32 {
            // SAFETY: the caller's promise.
            unsafe { *p }
        }
        #[inline(always)]
        unsafe fn load_n(self, p: *const f32, n: usize) -> f32 {
            // SAFETY: read only when `n` covers it.
            if n > 0 { unsafe { *p } } else { 0.0 }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32, a: f32) {
            // SAFETY: the caller's promise.
            unsafe { *p = a }
        }
        #[inline(always)]
        unsafe fn store_n(self, p: *mut f32, n: usize, a: f32) {
            if n > 0 {
                // SAFETY: written only when `n` covers it.
                unsafe { *p = a }
            }
        }
        #[inline(always)]
        unsafe fn load_f16(self, p: *const f16) -> f32 {
            // SAFETY: the caller's promise.
            widen_f16(unsafe { *p }.to_bits())
        }
        #[inline(always)]
        unsafe fn load_f16_n(self, p: *const f16, n: usize) -> f32 {
            // SAFETY: read only when `n` covers it.
            if n > 0 { widen_f16(unsafe { *p }.to_bits()) } else { 0.0 }
        }
        #[inline(always)]
        unsafe fn store_f16(self, p: *mut f16, a: f32) {
            // SAFETY: the caller's promise.
            unsafe { *p = f16::from_f32_const(a) }
        }
        #[inline(always)]
        unsafe fn store_f16_n(self, p: *mut f16, n: usize, a: f32) {
            if n > 0 {
                // SAFETY: written only when `n` covers it.
                unsafe { *p = f16::from_f32_const(a) }
            }
        }
        #[inline(always)]
        unsafe fn load_bf16(self, p: *const bf16) -> f32 {
            // SAFETY: the caller's promise.
            unsafe { *p }.to_f32()
        }
        #[inline(always)]
        unsafe fn load_bf16_n(self, p: *const bf16, n: usize) -> f32 {
            // SAFETY: read only when `n` covers it.
            if n > 0 { unsafe { *p }.to_f32() } else { 0.0 }
        }
        #[inline(always)]
        unsafe fn store_bf16(self, p: *mut bf16, a: f32) {
            // SAFETY: the caller's promise.
            unsafe { *p = bf16::from_f32_const(a) }
        }
        #[inline(always)]
        unsafe fn store_bf16_n(self, p: *mut bf16, n: usize, a: f32) {
            if n > 0 {
                // SAFETY: written only when `n` covers it.
                unsafe { *p = bf16::from_f32_const(a) }
            }
        }
        #[inline(always)]
        unsafe fn load_i8(self, p: *const i8) -> f32 {
            // SAFETY: the caller's promise.
            f32::from(unsafe { *p })
        }
        #[inline(always)]
        unsafe fn load_u8(self, p: *const u8) -> f32 {
            // SAFETY: the caller's promise.
            f32::from(unsafe { *p })
        }
        #[inline(always)]
        unsafe fn store_i8(self, p: *mut i8, a: f32) {
            // SAFETY: the caller's promise.
            unsafe { *p = a as i32 as i8 }
        }
        #[inline(always)]
        fn i32_zero(self) -> i32 {
            0
        }
        #[inline(always)]
        unsafe fn i32_broadcast(self, p: *const i32) -> i32 {
            // SAFETY: the caller's promise.
            unsafe { *p }
        }
        #[inline(always)]
        fn i32_shl(self, a: i32, n: u32) -> i32 {
            a << n
        }
        #[inline(always)]
        fn i32_to_f32(self, a: i32) -> f32 {
            a as f32
        }
        #[inline(always)]
        fn mma_u7(self, acc: i32, w: u32, x: u32) -> i32 {
            let (w, x) = (w.to_le_bytes(), x.to_le_bytes().map(|x| i32::from(x as i8)));
            // Sums stay far below the range of an i32 within one block; wrapping addition keeps
            // overflow checks out of the loop.
            let products: [i32; 4] = std::array::from_fn(|i| i32::from(w[i]) * x[i]);
            acc.wrapping_add(products[0] + products[1] + products[2] + products[3])
        }
        #[inline(always)]
        fn mma_s8(self, acc: i32, w: u32, x: u32) -> i32 {
            let (w, x) = (w.to_le_bytes(), x.to_le_bytes());
            let products: [i32; 4] =
                std::array::from_fn(|i| i32::from(w[i] as i8) * i32::from(x[i] as i8));
            acc.wrapping_add(products[0] + products[1] + products[2] + products[3])
        }
        #[inline(always)]
        unsafe fn bytes_load(self, p: *const u8) -> u32 {
            // SAFETY: the caller's promise; the read is unaligned.
            u32::from_le(unsafe { p.cast::<u32>().read_unaligned() })
        }
        #[inline(always)]
        unsafe fn bytes_store(self, p: *mut u8, a: u32) {
            // SAFETY: the caller's promise; the write is unaligned.
            unsafe { p.cast::<u32>().write_unaligned(a.to_le()) }
        }
        #[inline(always)]
        unsafe fn bytes_broadcast(self, p: *const u8) -> u32 {
            // SAFETY: the caller's promise.
            unsafe { self.bytes_load(p) }
        }
        #[inline(always)]
        fn bytes_and(self, a: u32, mask: u8) -> u32 {
            a & u32::from_le_bytes([mask; 4])
        }
        #[inline(always)]
        fn bytes_xor(self, a: u32, mask: u8) -> u32 {
            a ^ u32::from_le_bytes([mask; 4])
        }
        #[inline(always)]
        fn bytes_or(self, a: u32, b: u32) -> u32 {
            a | b
        }
        #[inline(always)]
        fn bytes_shl(self, a: u32, n: u32) -> u32 {
            a << n
        }
        #[inline(always)]
        fn bytes_shr(self, a: u32, n: u32) -> u32 {
            a >> n
        }
        #[inline(always)]
        fn bytes_lane(self, a: u32, i: u32) -> f32 {
            (a >> (8 * i) & 255) as f32
        }
    };
}

scalar!(Naive, 1, 1, 1);
scalar!(Scalar, 4, 2, 4);

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
