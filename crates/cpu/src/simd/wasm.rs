//! WebAssembly's simd128: four lanes.
//!
//! A program either is compiled with it or has none of it: whoever runs the program checks the
//! whole of it first, so there is nothing to detect. Bytes are multiplied into 16 bits and added in
//! pairs into 32. There is no fused multiply-add, and f16 is converted by arithmetic.

use super::halves::{self, Bitwise};
use super::{Isa, Simd, WithSimd};
use half::{bf16, f16};
use std::arch::wasm32::*;

/// simd128.
#[derive(Clone, Copy, Debug)]
pub struct Wasm(());

impl Simd for Wasm {
    const ISA: Isa = Isa::Wasm;
    const LANES: usize = 4;
    const S8_BIAS: i32 = 0;
    const REGISTERS: usize = 16;
    const GEMV_GROUPS: usize = 4;
    const TILE_GROUPS: usize = 2;
    const TILE_TOKENS: usize = 4;
    type F32 = v128;
    type I32 = v128;
    type Bytes = v128;

    fn detect() -> Option<Self> {
        Some(Wasm(()))
    }
    #[inline(always)]
    unsafe fn assume() -> Self {
        Wasm(())
    }
    fn vectorize<Op: WithSimd>(self, op: Op) -> Op::Output {
        #[inline(never)]
        fn go<Op: WithSimd>(s: Wasm, op: Op) -> Op::Output {
            op.with_simd(s)
        }
        go(self, op)
    }

    ops! {
        fn splat(self, v: f32) -> v128 { f32x4_splat(v) }
        fn add(self, a: v128, b: v128) -> v128 { f32x4_add(a, b) }
        fn sub(self, a: v128, b: v128) -> v128 { f32x4_sub(a, b) }
        fn mul(self, a: v128, b: v128) -> v128 { f32x4_mul(a, b) }
        fn div(self, a: v128, b: v128) -> v128 { f32x4_div(a, b) }
        fn fma(self, a: v128, b: v128, c: v128) -> v128 { f32x4_add(f32x4_mul(a, b), c) }
        fn neg_fma(self, a: v128, b: v128, c: v128) -> v128 { f32x4_sub(c, f32x4_mul(a, b)) }
        // `pmin(x, y)` is `y < x ? y : x`, and `pmax(x, y)` is `x < y ? y : x`.
        fn min(self, a: v128, b: v128) -> v128 { f32x4_pmin(b, a) }
        fn max(self, a: v128, b: v128) -> v128 { f32x4_pmax(b, a) }
        fn sqrt(self, a: v128) -> v128 { f32x4_sqrt(a) }
        fn abs(self, a: v128) -> v128 { f32x4_abs(a) }
        fn copysign(self, a: v128, sign: v128) -> v128 {
            v128_bitselect(sign, a, u32x4_splat(1 << 31))
        }
        fn select_lt(self, a: v128, b: v128, yes: v128, no: v128) -> v128 {
            v128_bitselect(yes, no, f32x4_lt(a, b))
        }
        fn round(self, a: v128) -> v128 { f32x4_nearest(a) }
        fn exp2i(self, n: v128) -> v128 {
            let biased = i32x4_add(i32x4_trunc_sat_f32x4(n), i32x4_splat(127));
            i32x4_shl(biased, 23)
        }
        fn sum(self, a: v128) -> f32 {
            let b = f32x4_add(a, i32x4_shuffle::<2, 3, 2, 3>(a, a));
            f32x4_extract_lane::<0>(b) + f32x4_extract_lane::<1>(b)
        }
        fn max_across(self, a: v128) -> f32 {
            let b = f32x4_pmax(a, i32x4_shuffle::<2, 3, 2, 3>(a, a));
            let c = f32x4_pmax(b, i32x4_shuffle::<1, 1, 1, 1>(b, b));
            f32x4_extract_lane::<0>(c)
        }

        fn i32_zero(self) -> v128 { i32x4_splat(0) }
        fn i32_shl(self, a: v128, n: u32) -> v128 { i32x4_shl(a, n) }
        fn i32_to_f32(self, a: v128) -> v128 { f32x4_convert_i32x4(a) }
        fn mma_u7(self, acc: v128, w: v128, x: v128) -> v128 { self.mma_s8(acc, w, x) }
        fn mma_s8(self, acc: v128, w: v128, x: v128) -> v128 {
            // Two rows in each of these, two sums a row. Adding neighbours of 16 bits first would
            // take an operation less, but this compiler makes of that an instruction of the
            // relaxed set, which was not asked for and is exact for seven bits only.
            let low = i32x4_extadd_pairwise_i16x8(i16x8_extmul_low_i8x16(w, x));
            let high = i32x4_extadd_pairwise_i16x8(i16x8_extmul_high_i8x16(w, x));
            let even = i32x4_shuffle::<0, 2, 4, 6>(low, high);
            let odd = i32x4_shuffle::<1, 3, 5, 7>(low, high);
            i32x4_add(acc, i32x4_add(even, odd))
        }
        fn bytes_and(self, a: v128, mask: u8) -> v128 { v128_and(a, u8x16_splat(mask)) }
        fn bytes_xor(self, a: v128, mask: u8) -> v128 { v128_xor(a, u8x16_splat(mask)) }
        fn bytes_or(self, a: v128, b: v128) -> v128 { v128_or(a, b) }
        fn bytes_shl(self, a: v128, n: u32) -> v128 { u16x8_shl(a, n) }
        fn bytes_shr(self, a: v128, n: u32) -> v128 { u16x8_shr(a, n) }
        fn bytes_lane(self, a: v128, i: u32) -> v128 {
            f32x4_convert_i32x4(v128_and(u32x4_shr(a, 8 * i), u32x4_splat(255)))
        }
    }

    ops! {
        fn bytes_lookup(self, table: &[u8; 16], a: v128) -> v128 {
            u8x16_swizzle(v128_load(table.as_ptr().cast()), a)
        }
        fn bytes_quads(self, columns: [v128; 4]) -> [v128; 4] {
            let [a, b, c, d] = columns;
            let (ab, cd) = (low_bytes(a, b), low_bytes(c, d));
            let (first, second) = (low_words(ab, cd), high_words(ab, cd));
            let (ab, cd) = (high_bytes(a, b), high_bytes(c, d));
            [first, second, low_words(ab, cd), high_words(ab, cd)]
        }
        fn words_of(self, a: v128) -> v128 { i32x4_trunc_sat_f32x4(a) }
        fn words_splat(self, n: u32) -> v128 { u32x4_splat(n) }
        fn words_and(self, a: v128, mask: u32) -> v128 { v128_and(a, u32x4_splat(mask)) }
        fn words_xor(self, a: v128, b: v128) -> v128 { v128_xor(a, b) }
        fn words_add(self, a: v128, b: v128) -> v128 { u32x4_add(a, b) }
        fn words_sub(self, a: v128, b: v128) -> v128 { u32x4_sub(a, b) }
        fn words_mul(self, a: v128, n: u32) -> v128 { u32x4_mul(a, u32x4_splat(n)) }
        fn words_shl(self, a: v128, n: u32) -> v128 { u32x4_shl(a, n) }
        fn words_shr(self, a: v128, n: u32) -> v128 { u32x4_shr(a, n) }
    }
    // No gather: four loads.
    #[inline(always)]
    fn words_lookup<const P: usize, const N: usize>(
        self,
        table: &[[u32; P]; N],
        index: v128,
        part: usize,
    ) -> v128 {
        const { assert!(N.is_power_of_two() && (P == 1 || P == 2)) };
        let index = v128_and(index, u32x4_splat(N as u32 - 1));
        // SAFETY: an index is below N once masked.
        let word = |i: u32| unsafe { table.get_unchecked(i as usize)[part % P] };
        u32x4(
            word(u32x4_extract_lane::<0>(index)),
            word(u32x4_extract_lane::<1>(index)),
            word(u32x4_extract_lane::<2>(index)),
            word(u32x4_extract_lane::<3>(index)),
        )
    }

    memory_ops! {
        fn load(self, p: *const f32) -> v128 { v128_load(p.cast()) }
        fn load_n(self, p: *const f32, n: usize) -> v128 {
            let zero = u32x4_splat(0);
            match n {
                0 => zero,
                1 => v128_load32_zero(p.cast()),
                2 => v128_load64_zero(p.cast()),
                3 => v128_load32_lane::<2>(v128_load64_zero(p.cast()), p.add(2).cast()),
                _ => v128_load(p.cast()),
            }
        }
        fn store(self, p: *mut f32, a: v128) { v128_store(p.cast(), a) }
        fn store_n(self, p: *mut f32, n: usize, a: v128) {
            match n {
                0 => {}
                1 => v128_store32_lane::<0>(a, p.cast()),
                2 => v128_store64_lane::<0>(a, p.cast()),
                3 => {
                    v128_store64_lane::<0>(a, p.cast());
                    v128_store32_lane::<2>(a, p.add(2).cast())
                }
                _ => v128_store(p.cast(), a),
            }
        }
        fn load_f16(self, p: *const f16) -> v128 {
            halves::widen_f16(self, u32x4_load_extend_u16x4(p.cast()))
        }
        fn load_f16_n(self, p: *const f16, n: usize) -> v128 {
            halves::widen_f16(self, load_halves(p.cast(), n))
        }
        fn store_f16(self, p: *mut f16, a: v128) {
            store_halves(p.cast(), 4, halves::narrow_f16(self, a))
        }
        fn store_f16_n(self, p: *mut f16, n: usize, a: v128) {
            store_halves(p.cast(), n, halves::narrow_f16(self, a))
        }
        fn load_bf16(self, p: *const bf16) -> v128 {
            halves::widen_bf16(self, u32x4_load_extend_u16x4(p.cast()))
        }
        fn load_bf16_n(self, p: *const bf16, n: usize) -> v128 {
            halves::widen_bf16(self, load_halves(p.cast(), n))
        }
        fn store_bf16(self, p: *mut bf16, a: v128) {
            store_halves(p.cast(), 4, halves::narrow_bf16(self, a))
        }
        fn store_bf16_n(self, p: *mut bf16, n: usize, a: v128) {
            store_halves(p.cast(), n, halves::narrow_bf16(self, a))
        }
        fn load_swapped(self, x: *const f32, i: usize, n: usize) -> v128 {
            let a = self.load_n(x.add(i), n);
            i32x4_shuffle::<1, 0, 3, 2>(a, a)
        }
        fn load_i8(self, p: *const i8) -> v128 {
            let halves = i16x8_extend_low_i8x16(v128_load32_zero(p.cast()));
            f32x4_convert_i32x4(i32x4_extend_low_i16x8(halves))
        }
        fn load_u8(self, p: *const u8) -> v128 { f32x4_convert_i32x4(self.words_load_u8(p)) }
        fn words_load_u8(self, p: *const u8) -> v128 {
            let halves = u16x8_extend_low_u8x16(v128_load32_zero(p.cast()));
            u32x4_extend_low_u16x8(halves)
        }
        fn i32_broadcast(self, p: *const i32) -> v128 { v128_load32_splat(p.cast()) }
        fn bytes_load(self, p: *const u8) -> v128 { v128_load(p.cast()) }
        fn bytes_store(self, p: *mut u8, a: v128) { v128_store(p.cast(), a) }
        fn bytes_broadcast(self, p: *const u8) -> v128 { v128_load32_splat(p.cast()) }
    }
}

impl Bitwise for Wasm {
    ops! {
        fn bits(self, a: v128) -> v128 { a }
        fn of_bits(self, a: v128) -> v128 { a }
    }
}

/// The first `n <= 4` of four 16-bit halves, each in a word, the others 0.
///
/// # Safety
/// `p` is readable for `n` halves.
#[inline(always)]
unsafe fn load_halves(p: *const u16, n: usize) -> v128 {
    // SAFETY: every load is below `n`.
    let at = |i: usize| if i < n { u32::from(unsafe { *p.add(i) }) } else { 0 };
    u32x4(at(0), at(1), at(2), at(3))
}

/// # Safety
/// `p` is writable for `n <= 4` halves.
#[inline(always)]
unsafe fn store_halves(p: *mut u16, n: usize, words: v128) {
    let halves = u16x8_narrow_i32x4(words, words);
    // SAFETY: every store is below `n`.
    unsafe {
        if n >= 4 {
            v128_store64_lane::<0>(halves, p.cast());
            return;
        }
        if n >= 1 {
            v128_store16_lane::<0>(halves, p);
        }
        if n >= 2 {
            v128_store16_lane::<1>(halves, p.add(1));
        }
        if n >= 3 {
            v128_store16_lane::<2>(halves, p.add(2));
        }
    }
}

/// The first eight bytes of `a` and of `b`, taking turns; the others follow.
#[inline(always)]
fn low_bytes(a: v128, b: v128) -> v128 {
    i8x16_shuffle::<0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23>(a, b)
}
#[inline(always)]
fn high_bytes(a: v128, b: v128) -> v128 {
    i8x16_shuffle::<8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31>(a, b)
}
/// The same with words of sixteen bits.
#[inline(always)]
fn low_words(a: v128, b: v128) -> v128 {
    i16x8_shuffle::<0, 8, 1, 9, 2, 10, 3, 11>(a, b)
}
#[inline(always)]
fn high_words(a: v128, b: v128) -> v128 {
    i16x8_shuffle::<4, 12, 5, 13, 6, 14, 7, 15>(a, b)
}
