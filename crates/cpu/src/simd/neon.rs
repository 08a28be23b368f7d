//! NEON: four lanes, as three instruction sets that differ in their integer products.
//!
//! [`Neon`] is what every aarch64 processor has: bytes are multiplied into 16 bits, where two
//! products still fit (2 · 128 · 127 < 2^15), and added in pairs. [`NeonDotprod`] has one
//! instruction for four products a lane. [`NeonI8mm`] multiplies, for several tokens, matrices of
//! two rows by two tokens over eight `k`: see [`Simd::mma_pair`]. Weights up to 127 are signed bytes
//! as good as any, so both kinds of product are one.
//!
//! The intrinsics of the last two are not stable yet, so they are written as `asm!`.

use super::halves::{self, Bitwise};
use super::{Isa, Simd, WithSimd};
use half::{bf16, f16};
use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

/// NEON.
#[derive(Clone, Copy, Debug)]
pub struct Neon(());

/// The same with dot products of bytes.
#[derive(Clone, Copy, Debug)]
pub struct NeonDotprod(());

/// The same with products of matrices of bytes too.
#[derive(Clone, Copy, Debug)]
pub struct NeonI8mm(());

macro_rules! neon {
    ($ty:ident, $features:literal, [$($detect:tt),+], $dot:ident, $($pairs:tt)*) => {
        impl Simd for $ty {
            const ISA: Isa = Isa::$ty;
            const LANES: usize = 4;
            const S8_BIAS: i32 = 0;
            const REGISTERS: usize = 32;
            const GEMV_GROUPS: usize = 4;
            const TILE_GROUPS: usize = 2;
            const TILE_TOKENS: usize = 12;
            type F32 = float32x4_t;
            type I32 = int32x4_t;
            type Bytes = uint8x16_t;

            fn detect() -> Option<Self> {
                ($(is_aarch64_feature_detected!($detect))&&+).then_some($ty(()))
            }
            #[inline(always)]
            unsafe fn assume() -> Self {
                $ty(())
            }
            fn vectorize<Op: WithSimd>(self, op: Op) -> Op::Output {
                #[target_feature(enable = $features)]
                #[inline(never)]
                fn go<Op: WithSimd>(s: $ty, op: Op) -> Op::Output {
                    op.with_simd(s)
                }
                // SAFETY: the token exists only after `detect` has found these features.
                unsafe { go(self, op) }
            }
            ops! {
                fn mma_u7(self, acc: int32x4_t, w: uint8x16_t, x: uint8x16_t) -> int32x4_t {
                    $dot(acc, w, x)
                }
                fn mma_s8(self, acc: int32x4_t, w: uint8x16_t, x: uint8x16_t) -> int32x4_t {
                    $dot(acc, w, x)
                }
            }
            $($pairs)*
            neon_ops!();
        }

        impl Bitwise for $ty {
            ops! {
                fn bits(self, a: float32x4_t) -> uint8x16_t { vreinterpretq_u8_f32(a) }
                fn of_bits(self, a: uint8x16_t) -> float32x4_t { vreinterpretq_f32_u8(a) }
            }
        }
    };
}

macro_rules! neon_ops {
    () => {
        ops! {
            fn splat(self, v: f32) -> float32x4_t { vdupq_n_f32(v) }
            fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t { vaddq_f32(a, b) }
            fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t { vsubq_f32(a, b) }
            fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t { vmulq_f32(a, b) }
            fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t { vdivq_f32(a, b) }
            fn fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
                vfmaq_f32(c, a, b)
            }
            fn neg_fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
                vfmsq_f32(c, a, b)
            }
            // The instructions for both give NaN where either is.
            fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
                vbslq_f32(vcltq_f32(a, b), a, b)
            }
            fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
                vbslq_f32(vcgtq_f32(a, b), a, b)
            }
            fn sqrt(self, a: float32x4_t) -> float32x4_t { vsqrtq_f32(a) }
            fn abs(self, a: float32x4_t) -> float32x4_t { vabsq_f32(a) }
            fn copysign(self, a: float32x4_t, sign: float32x4_t) -> float32x4_t {
                vbslq_f32(vdupq_n_u32(1 << 31), sign, a)
            }
            fn select_lt(
                self, a: float32x4_t, b: float32x4_t, yes: float32x4_t, no: float32x4_t
            ) -> float32x4_t {
                vbslq_f32(vcltq_f32(a, b), yes, no)
            }
            fn round(self, a: float32x4_t) -> float32x4_t { vrndnq_f32(a) }
            fn exp2i(self, n: float32x4_t) -> float32x4_t {
                let biased = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
                vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
            }
            fn sum(self, a: float32x4_t) -> f32 { vaddvq_f32(a) }
            fn max_across(self, a: float32x4_t) -> f32 { vmaxvq_f32(a) }

            fn i32_zero(self) -> int32x4_t { vdupq_n_s32(0) }
            fn i32_shl(self, a: int32x4_t, n: u32) -> int32x4_t {
                vshlq_s32(a, vdupq_n_s32(n as i32))
            }
            fn i32_pin(self, a: int32x4_t) -> int32x4_t { pin(a) }
            fn i32_to_f32(self, a: int32x4_t) -> float32x4_t { vcvtq_f32_s32(a) }
            fn bytes_and(self, a: uint8x16_t, mask: u8) -> uint8x16_t {
                vandq_u8(a, vdupq_n_u8(mask))
            }
            fn bytes_xor(self, a: uint8x16_t, mask: u8) -> uint8x16_t {
                veorq_u8(a, vdupq_n_u8(mask))
            }
            fn bytes_or(self, a: uint8x16_t, b: uint8x16_t) -> uint8x16_t { vorrq_u8(a, b) }
            fn bytes_shl(self, a: uint8x16_t, n: u32) -> uint8x16_t {
                vshlq_u8(a, vdupq_n_s8(n as i8))
            }
            fn bytes_shr(self, a: uint8x16_t, n: u32) -> uint8x16_t {
                vshlq_u8(a, vdupq_n_s8(-(n as i8)))
            }
            fn bytes_lane(self, a: uint8x16_t, i: u32) -> float32x4_t {
                let down = vshlq_u32(vreinterpretq_u32_u8(a), vdupq_n_s32(-8 * i as i32));
                vcvtq_f32_u32(vandq_u32(down, vdupq_n_u32(255)))
            }
        }

        ops! {
            fn bytes_lookup(self, table: &[u8; 16], a: uint8x16_t) -> uint8x16_t {
                vqtbl1q_u8(vld1q_u8(table.as_ptr()), a)
            }
            fn bytes_quads(self, columns: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
                let [a, b, c, d] = columns;
                let ab = vreinterpretq_u16_u8(vzip1q_u8(a, b));
                let cd = vreinterpretq_u16_u8(vzip1q_u8(c, d));
                let (first, second) = (vzip1q_u16(ab, cd), vzip2q_u16(ab, cd));
                let ab = vreinterpretq_u16_u8(vzip2q_u8(a, b));
                let cd = vreinterpretq_u16_u8(vzip2q_u8(c, d));
                let (third, last) = (vzip1q_u16(ab, cd), vzip2q_u16(ab, cd));
                let (first, second) = (vreinterpretq_u8_u16(first), vreinterpretq_u8_u16(second));
                [first, second, vreinterpretq_u8_u16(third), vreinterpretq_u8_u16(last)]
            }
            fn words_of(self, a: float32x4_t) -> uint8x16_t { vreinterpretq_u8_s32(vcvtnq_s32_f32(a)) }
            fn words_splat(self, n: u32) -> uint8x16_t { of_words(vdupq_n_u32(n)) }
            fn words_and(self, a: uint8x16_t, mask: u32) -> uint8x16_t {
                of_words(vandq_u32(words(a), vdupq_n_u32(mask)))
            }
            fn words_xor(self, a: uint8x16_t, b: uint8x16_t) -> uint8x16_t { veorq_u8(a, b) }
            fn words_add(self, a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
                of_words(vaddq_u32(words(a), words(b)))
            }
            fn words_sub(self, a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
                of_words(vsubq_u32(words(a), words(b)))
            }
            fn words_mul(self, a: uint8x16_t, n: u32) -> uint8x16_t {
                of_words(vmulq_n_u32(words(a), n))
            }
            fn words_shl(self, a: uint8x16_t, n: u32) -> uint8x16_t {
                of_words(vshlq_u32(words(a), vdupq_n_s32(n as i32)))
            }
            fn words_shr(self, a: uint8x16_t, n: u32) -> uint8x16_t {
                of_words(vshlq_u32(words(a), vdupq_n_s32(-(n as i32))))
            }
        }
        // No gather: four loads.
        #[inline(always)]
        fn words_lookup<const P: usize, const N: usize>(
            self,
            table: &[[u32; P]; N],
            index: uint8x16_t,
            part: usize,
        ) -> uint8x16_t {
            const { assert!(N.is_power_of_two() && (P == 1 || P == 2)) };
            // SAFETY: an index is below N once masked; the token proves the instructions exist.
            unsafe {
                let index = vandq_u32(words(index), vdupq_n_u32(N as u32 - 1));
                let word = |i: u32| &raw const table.get_unchecked(i as usize)[part % P];
                let all = vld1q_dup_u32(word(vgetq_lane_u32::<0>(index)));
                let all = vld1q_lane_u32::<1>(word(vgetq_lane_u32::<1>(index)), all);
                let all = vld1q_lane_u32::<2>(word(vgetq_lane_u32::<2>(index)), all);
                of_words(vld1q_lane_u32::<3>(word(vgetq_lane_u32::<3>(index)), all))
            }
        }

        memory_ops! {
            fn load(self, p: *const f32) -> float32x4_t { vld1q_f32(p) }
            fn load_n(self, p: *const f32, n: usize) -> float32x4_t {
                let zero = vdup_n_f32(0.0);
                match n {
                    0 => vdupq_n_f32(0.0),
                    1 => vcombine_f32(vld1_lane_f32::<0>(p, zero), zero),
                    2 => vcombine_f32(vld1_f32(p), zero),
                    3 => vcombine_f32(vld1_f32(p), vld1_lane_f32::<0>(p.add(2), zero)),
                    _ => vld1q_f32(p),
                }
            }
            fn store(self, p: *mut f32, a: float32x4_t) { vst1q_f32(p, a) }
            fn store_n(self, p: *mut f32, n: usize, a: float32x4_t) {
                match n {
                    0 => {}
                    1 => vst1q_lane_f32::<0>(p, a),
                    2 => vst1_f32(p, vget_low_f32(a)),
                    3 => {
                        vst1_f32(p, vget_low_f32(a));
                        vst1q_lane_f32::<2>(p.add(2), a)
                    }
                    _ => vst1q_f32(p, a),
                }
            }
            fn load_f16(self, p: *const f16) -> float32x4_t { widen_f16(vld1_u16(p.cast())) }
            fn load_f16_n(self, p: *const f16, n: usize) -> float32x4_t {
                widen_f16(load_halves(p.cast(), n))
            }
            fn store_f16(self, p: *mut f16, a: float32x4_t) { vst1_u16(p.cast(), narrow_f16(a)) }
            fn store_f16_n(self, p: *mut f16, n: usize, a: float32x4_t) {
                store_halves(p.cast(), n, narrow_f16(a))
            }
            fn load_bf16(self, p: *const bf16) -> float32x4_t {
                halves::widen_bf16(self, of_words(vmovl_u16(vld1_u16(p.cast()))))
            }
            fn load_bf16_n(self, p: *const bf16, n: usize) -> float32x4_t {
                halves::widen_bf16(self, of_words(vmovl_u16(load_halves(p.cast(), n))))
            }
            fn store_bf16(self, p: *mut bf16, a: float32x4_t) {
                vst1_u16(p.cast(), vmovn_u32(words(halves::narrow_bf16(self, a))))
            }
            fn store_bf16_n(self, p: *mut bf16, n: usize, a: float32x4_t) {
                store_halves(p.cast(), n, vmovn_u32(words(halves::narrow_bf16(self, a))))
            }
            fn load_swapped(self, x: *const f32, i: usize, n: usize) -> float32x4_t {
                vrev64q_f32(self.load_n(x.add(i), n))
            }
            fn load_i8(self, p: *const i8) -> float32x4_t {
                let four = vcreate_s8(u64::from(p.cast::<u32>().read_unaligned()));
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(four))))
            }
            fn load_u8(self, p: *const u8) -> float32x4_t {
                vcvtq_f32_u32(words(self.words_load_u8(p)))
            }
            fn words_load_u8(self, p: *const u8) -> uint8x16_t {
                let four = vcreate_u8(u64::from(p.cast::<u32>().read_unaligned()));
                of_words(vmovl_u16(vget_low_u16(vmovl_u8(four))))
            }
            fn i32_broadcast(self, p: *const i32) -> int32x4_t { vld1q_dup_s32(p) }
            fn bytes_load(self, p: *const u8) -> uint8x16_t { vld1q_u8(p) }
            fn bytes_store(self, p: *mut u8, a: uint8x16_t) { vst1q_u8(p, a) }
            fn bytes_broadcast(self, p: *const u8) -> uint8x16_t {
                of_words(vld1q_dup_u32(p.cast()))
            }
        }
    };
}

neon!(Neon, "neon", ["neon"], dot_widening,);
neon!(NeonDotprod, "neon,dotprod", ["neon", "dotprod"], dot,);
neon!(
    NeonI8mm,
    "neon,dotprod,i8mm",
    ["neon", "dotprod", "i8mm"],
    dot,
    const COLS: usize = 2;
    ops! {
        // Rows 0 and 1 of both tokens, then rows 2 and 3: two rows by two tokens each.
        fn dots_in_pair(self, tokens: [int32x4_t; 2]) -> [int32x4_t; 2] {
            [vzip1q_s32(tokens[0], tokens[1]), vzip2q_s32(tokens[0], tokens[1])]
        }
        fn dots_of_pair(self, pair: [int32x4_t; 2]) -> [int32x4_t; 2] {
            [vuzp1q_s32(pair[0], pair[1]), vuzp2q_s32(pair[0], pair[1])]
        }
    }
    memory_ops! {
        fn mma_pair(
            self, acc: [int32x4_t; 2], w: [uint8x16_t; 2], x: [*const u8; 2]
        ) -> [int32x4_t; 2] {
            // Eight `k` of a row, or of a token, side by side.
            let [a, b] = [words(w[0]), words(w[1])];
            let [p, q] = [vld1_u32(x[0].cast()), vld1_u32(x[1].cast())];
            let x = vcombine_u32(vzip1_u32(p, q), vzip2_u32(p, q));
            [matrix(acc[0], vzip1q_u32(a, b), x), matrix(acc[1], vzip2q_u32(a, b), x)]
        }
    }
);

/// # Safety
/// NEON.
#[inline(always)]
unsafe fn dot_widening(acc: int32x4_t, w: uint8x16_t, x: uint8x16_t) -> int32x4_t {
    // SAFETY: register operations; the caller has NEON.
    unsafe {
        let (w, x) = (vreinterpretq_s8_u8(w), vreinterpretq_s8_u8(x));
        let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
        vpadalq_s16(acc, vpaddq_s16(low, vmull_high_s8(w, x)))
    }
}

/// Adds to each lane the products of its four signed bytes.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn dot(mut acc: int32x4_t, w: uint8x16_t, x: uint8x16_t) -> int32x4_t {
    // SAFETY: one instruction on registers, of a feature that this function enables.
    unsafe {
        asm!(
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) acc, in(vreg) w, in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

/// Adds the products of two rows with two tokens, `[row][token]`; the bytes are `[row][8]` and
/// `[token][8]`.
#[target_feature(enable = "neon,i8mm")]
#[inline]
fn matrix(mut acc: int32x4_t, w: uint32x4_t, x: uint32x4_t) -> int32x4_t {
    // SAFETY: one instruction on registers, of a feature that this function enables.
    unsafe {
        asm!(
            "smmla {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) acc, in(vreg) w, in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

/// The value, opaque to the compiler at this point of the program.
///
/// # Safety
/// NEON.
#[inline(always)]
unsafe fn pin(mut a: int32x4_t) -> int32x4_t {
    // SAFETY: no instruction at all; a value in a register that may have changed. Not declared
    // free of memory access, so that loads keep their side of it.
    unsafe {
        asm!("/* {0:v} */", inout(vreg) a, options(nostack, preserves_flags));
    }
    a
}

/// # Safety
/// NEON.
#[inline(always)]
unsafe fn words(a: uint8x16_t) -> uint32x4_t {
    // SAFETY: no instruction at all; the caller has NEON.
    unsafe { vreinterpretq_u32_u8(a) }
}

/// # Safety
/// NEON.
#[inline(always)]
unsafe fn of_words(a: uint32x4_t) -> uint8x16_t {
    // SAFETY: no instruction at all; the caller has NEON.
    unsafe { vreinterpretq_u8_u32(a) }
}

/// # Safety
/// NEON.
#[inline(always)]
unsafe fn widen_f16(a: uint16x4_t) -> float32x4_t {
    // SAFETY: register operations; the caller has NEON.
    unsafe { vcvt_f32_f16(vreinterpret_f16_u16(a)) }
}

/// # Safety
/// NEON.
#[inline(always)]
unsafe fn narrow_f16(a: float32x4_t) -> uint16x4_t {
    // SAFETY: register operations; the caller has NEON.
    unsafe { vreinterpret_u16_f16(vcvt_f16_f32(a)) }
}

/// The first `n <= 4` of four 16-bit halves, the others 0.
///
/// # Safety
/// NEON; `p` is readable for `n` halves.
#[inline(always)]
unsafe fn load_halves(p: *const u16, n: usize) -> uint16x4_t {
    // SAFETY: every load is below `n`.
    unsafe {
        if n >= 4 {
            return vld1_u16(p);
        }
        let at = |i: usize| if i < n { u64::from(*p.add(i)) } else { 0 };
        vcreate_u16(at(0) | at(1) << 16 | at(2) << 32)
    }
}

/// # Safety
/// NEON; `p` is writable for `n <= 4` halves.
#[inline(always)]
unsafe fn store_halves(p: *mut u16, n: usize, a: uint16x4_t) {
    // SAFETY: every store is below `n`.
    unsafe {
        if n >= 4 {
            vst1_u16(p, a);
            return;
        }
        if n >= 1 {
            vst1_lane_u16::<0>(p, a);
        }
        if n >= 2 {
            vst1_lane_u16::<1>(p.add(1), a);
        }
        if n >= 3 {
            vst1_lane_u16::<2>(p.add(2), a);
        }
    }
}
