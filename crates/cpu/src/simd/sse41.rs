//! SSE4.1: four lanes, for processors before AVX2.
//!
//! Integer products go through `maddubs` (SSSE3) as in [`avx2`](super::avx2). There is no fused
//! multiply-add, so products are rounded before they are added, there are no masks, so the lanes
//! of a tail are moved one by one, and f16 is converted by arithmetic.

use super::halves::{self, Bitwise};
use super::{Isa, Simd, WithSimd};
use half::{bf16, f16};
use std::arch::x86_64::*;

/// SSE4.1 and SSSE3.
#[derive(Clone, Copy, Debug)]
pub struct Sse41(());

impl Simd for Sse41 {
    const ISA: Isa = Isa::Sse41;
    const LANES: usize = 4;
    const S8_BIAS: i32 = 0;
    const REGISTERS: usize = 16;
    const GEMV_GROUPS: usize = 4;
    const TILE_GROUPS: usize = 2;
    const TILE_TOKENS: usize = 4;
    type F32 = __m128;
    type I32 = __m128i;
    type Bytes = __m128i;

    fn detect() -> Option<Self> {
        (is_x86_feature_detected!("sse4.1") && is_x86_feature_detected!("ssse3"))
            .then_some(Sse41(()))
    }
    #[inline(always)]
    unsafe fn assume() -> Self {
        Sse41(())
    }
    fn vectorize<Op: WithSimd>(self, op: Op) -> Op::Output {
        #[target_feature(enable = "sse4.1,ssse3")]
        #[inline(never)]
        fn go<Op: WithSimd>(s: Sse41, op: Op) -> Op::Output {
            op.with_simd(s)
        }
        // SAFETY: the token exists only after `detect` has found these features.
        unsafe { go(self, op) }
    }

    ops! {
        fn splat(self, v: f32) -> __m128 { _mm_set1_ps(v) }
        fn add(self, a: __m128, b: __m128) -> __m128 { _mm_add_ps(a, b) }
        fn sub(self, a: __m128, b: __m128) -> __m128 { _mm_sub_ps(a, b) }
        fn mul(self, a: __m128, b: __m128) -> __m128 { _mm_mul_ps(a, b) }
        fn div(self, a: __m128, b: __m128) -> __m128 { _mm_div_ps(a, b) }
        fn fma(self, a: __m128, b: __m128, c: __m128) -> __m128 { _mm_add_ps(_mm_mul_ps(a, b), c) }
        fn neg_fma(self, a: __m128, b: __m128, c: __m128) -> __m128 {
            _mm_sub_ps(c, _mm_mul_ps(a, b))
        }
        fn min(self, a: __m128, b: __m128) -> __m128 { _mm_min_ps(a, b) }
        fn max(self, a: __m128, b: __m128) -> __m128 { _mm_max_ps(a, b) }
        fn sqrt(self, a: __m128) -> __m128 { _mm_sqrt_ps(a) }
        fn abs(self, a: __m128) -> __m128 { _mm_andnot_ps(_mm_set1_ps(-0.0), a) }
        fn copysign(self, a: __m128, sign: __m128) -> __m128 {
            let bit = _mm_set1_ps(-0.0);
            _mm_or_ps(_mm_andnot_ps(bit, a), _mm_and_ps(bit, sign))
        }
        fn select_lt(self, a: __m128, b: __m128, yes: __m128, no: __m128) -> __m128 {
            _mm_blendv_ps(no, yes, _mm_cmplt_ps(a, b))
        }
        fn round(self, a: __m128) -> __m128 {
            _mm_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
        }
        fn exp2i(self, n: __m128) -> __m128 {
            let biased = _mm_add_epi32(_mm_cvtps_epi32(n), _mm_set1_epi32(127));
            _mm_castsi128_ps(_mm_slli_epi32::<23>(biased))
        }
        fn sum(self, a: __m128) -> f32 {
            let b = _mm_add_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps::<1>(b, b)))
        }
        fn max_across(self, a: __m128) -> f32 {
            let b = _mm_max_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_max_ss(b, _mm_shuffle_ps::<1>(b, b)))
        }

        fn i32_zero(self) -> __m128i { _mm_setzero_si128() }
        fn i32_shl(self, a: __m128i, n: u32) -> __m128i {
            _mm_sll_epi32(a, _mm_cvtsi32_si128(n as i32))
        }
        fn i32_to_f32(self, a: __m128i) -> __m128 { _mm_cvtepi32_ps(a) }
        fn mma_u7(self, acc: __m128i, w: __m128i, x: __m128i) -> __m128i {
            self.chain_close(acc, _mm_maddubs_epi16(w, x))
        }
        fn chain_open(self, _acc: __m128i) -> __m128i { _mm_setzero_si128() }
        fn chain_mma(self, chain: __m128i, w: __m128i, x: __m128i) -> __m128i {
            _mm_add_epi16(chain, _mm_maddubs_epi16(w, x))
        }
        fn chain_close(self, acc: __m128i, chain: __m128i) -> __m128i {
            _mm_add_epi32(acc, _mm_madd_epi16(chain, _mm_set1_epi16(1)))
        }
        fn mma_s8(self, acc: __m128i, w: __m128i, x: __m128i) -> __m128i {
            let pairs = _mm_maddubs_epi16(_mm_abs_epi8(w), _mm_sign_epi8(x, w));
            self.chain_close(acc, pairs)
        }
        fn bytes_and(self, a: __m128i, mask: u8) -> __m128i {
            _mm_and_si128(a, _mm_set1_epi8(mask as i8))
        }
        fn bytes_xor(self, a: __m128i, mask: u8) -> __m128i {
            _mm_xor_si128(a, _mm_set1_epi8(mask as i8))
        }
        fn bytes_or(self, a: __m128i, b: __m128i) -> __m128i { _mm_or_si128(a, b) }
        fn bytes_shl(self, a: __m128i, n: u32) -> __m128i {
            _mm_sll_epi16(a, _mm_cvtsi32_si128(n as i32))
        }
        fn bytes_shr(self, a: __m128i, n: u32) -> __m128i {
            _mm_srl_epi16(a, _mm_cvtsi32_si128(n as i32))
        }
        fn bytes_lane(self, a: __m128i, i: u32) -> __m128 {
            let down = _mm_srl_epi32(a, _mm_cvtsi32_si128(8 * i as i32));
            _mm_cvtepi32_ps(_mm_and_si128(down, _mm_set1_epi32(255)))
        }
    }

    ops! {
        fn bytes_lookup(self, table: &[u8; 16], a: __m128i) -> __m128i {
            _mm_shuffle_epi8(_mm_loadu_si128(table.as_ptr().cast()), a)
        }
        fn bytes_quads(self, columns: [__m128i; 4]) -> [__m128i; 4] {
            let [a, b, c, d] = columns;
            let (ab, cd) = (_mm_unpacklo_epi8(a, b), _mm_unpacklo_epi8(c, d));
            let (low, next) = (_mm_unpacklo_epi16(ab, cd), _mm_unpackhi_epi16(ab, cd));
            let (ab, cd) = (_mm_unpackhi_epi8(a, b), _mm_unpackhi_epi8(c, d));
            [low, next, _mm_unpacklo_epi16(ab, cd), _mm_unpackhi_epi16(ab, cd)]
        }
        fn words_of(self, a: __m128) -> __m128i { _mm_cvtps_epi32(a) }
        fn words_splat(self, n: u32) -> __m128i { _mm_set1_epi32(n as i32) }
        fn words_and(self, a: __m128i, mask: u32) -> __m128i {
            _mm_and_si128(a, _mm_set1_epi32(mask as i32))
        }
        fn words_xor(self, a: __m128i, b: __m128i) -> __m128i { _mm_xor_si128(a, b) }
        fn words_add(self, a: __m128i, b: __m128i) -> __m128i { _mm_add_epi32(a, b) }
        fn words_sub(self, a: __m128i, b: __m128i) -> __m128i { _mm_sub_epi32(a, b) }
        fn words_mul(self, a: __m128i, n: u32) -> __m128i {
            _mm_mullo_epi32(a, _mm_set1_epi32(n as i32))
        }
        fn words_shl(self, a: __m128i, n: u32) -> __m128i {
            _mm_sll_epi32(a, _mm_cvtsi32_si128(n as i32))
        }
        fn words_shr(self, a: __m128i, n: u32) -> __m128i {
            _mm_srl_epi32(a, _mm_cvtsi32_si128(n as i32))
        }
    }
    // No gather: four loads.
    #[inline(always)]
    fn words_lookup<const P: usize, const N: usize>(
        self,
        table: &[[u32; P]; N],
        index: __m128i,
        part: usize,
    ) -> __m128i {
        const { assert!(N.is_power_of_two() && (P == 1 || P == 2)) };
        // SAFETY: an index is below N once masked; the token proves the instructions exist.
        unsafe {
            let index = _mm_and_si128(index, _mm_set1_epi32(N as i32 - 1));
            let word = |i: i32| table.get_unchecked(i as usize)[part % P] as i32;
            _mm_setr_epi32(
                word(_mm_extract_epi32::<0>(index)),
                word(_mm_extract_epi32::<1>(index)),
                word(_mm_extract_epi32::<2>(index)),
                word(_mm_extract_epi32::<3>(index)),
            )
        }
    }

    memory_ops! {
        fn load(self, p: *const f32) -> __m128 { _mm_loadu_ps(p) }
        fn load_n(self, p: *const f32, n: usize) -> __m128 {
            match n {
                0 => _mm_setzero_ps(),
                1 => _mm_load_ss(p),
                2 => _mm_castsi128_ps(_mm_loadl_epi64(p.cast())),
                3 => {
                    let two = _mm_castsi128_ps(_mm_loadl_epi64(p.cast()));
                    _mm_movelh_ps(two, _mm_load_ss(p.add(2)))
                }
                _ => _mm_loadu_ps(p),
            }
        }
        fn store(self, p: *mut f32, a: __m128) { _mm_storeu_ps(p, a) }
        fn store_n(self, p: *mut f32, n: usize, a: __m128) {
            match n {
                0 => {}
                1 => _mm_store_ss(p, a),
                2 => _mm_storel_epi64(p.cast(), _mm_castps_si128(a)),
                3 => {
                    _mm_storel_epi64(p.cast(), _mm_castps_si128(a));
                    _mm_store_ss(p.add(2), _mm_movehl_ps(a, a))
                }
                _ => _mm_storeu_ps(p, a),
            }
        }
        fn load_f16(self, p: *const f16) -> __m128 {
            halves::widen_f16(self, _mm_cvtepu16_epi32(_mm_loadl_epi64(p.cast())))
        }
        fn load_f16_n(self, p: *const f16, n: usize) -> __m128 {
            halves::widen_f16(self, load_halves(p.cast(), n))
        }
        fn store_f16(self, p: *mut f16, a: __m128) {
            let halves = halves::narrow_f16(self, a);
            _mm_storel_epi64(p.cast(), _mm_packus_epi32(halves, halves))
        }
        fn store_f16_n(self, p: *mut f16, n: usize, a: __m128) {
            store_halves(p.cast(), n, halves::narrow_f16(self, a))
        }
        fn load_bf16(self, p: *const bf16) -> __m128 {
            halves::widen_bf16(self, _mm_cvtepu16_epi32(_mm_loadl_epi64(p.cast())))
        }
        fn load_bf16_n(self, p: *const bf16, n: usize) -> __m128 {
            halves::widen_bf16(self, load_halves(p.cast(), n))
        }
        fn store_bf16(self, p: *mut bf16, a: __m128) {
            let halves = halves::narrow_bf16(self, a);
            _mm_storel_epi64(p.cast(), _mm_packus_epi32(halves, halves))
        }
        fn store_bf16_n(self, p: *mut bf16, n: usize, a: __m128) {
            store_halves(p.cast(), n, halves::narrow_bf16(self, a))
        }
        fn load_swapped(self, x: *const f32, i: usize, n: usize) -> __m128 {
            let a = self.load_n(x.add(i), n);
            _mm_shuffle_ps::<0xb1>(a, a)
        }
        fn load_i8(self, p: *const i8) -> __m128 {
            let four = _mm_cvtsi32_si128(p.cast::<i32>().read_unaligned());
            _mm_cvtepi32_ps(_mm_cvtepi8_epi32(four))
        }
        fn load_u8(self, p: *const u8) -> __m128 {
            _mm_cvtepi32_ps(self.words_load_u8(p))
        }
        fn words_load_u8(self, p: *const u8) -> __m128i {
            _mm_cvtepu8_epi32(_mm_cvtsi32_si128(p.cast::<i32>().read_unaligned()))
        }
        fn i32_broadcast(self, p: *const i32) -> __m128i { _mm_set1_epi32(*p) }
        fn bytes_load(self, p: *const u8) -> __m128i { _mm_loadu_si128(p.cast()) }
        fn bytes_store(self, p: *mut u8, a: __m128i) { _mm_storeu_si128(p.cast(), a) }
        fn bytes_broadcast(self, p: *const u8) -> __m128i { _mm_set1_epi32(*p.cast()) }
    }
}

impl Bitwise for Sse41 {
    ops! {
        fn bits(self, a: __m128) -> __m128i { _mm_castps_si128(a) }
        fn of_bits(self, a: __m128i) -> __m128 { _mm_castsi128_ps(a) }
    }
}

/// The first `n <= 4` of four 16-bit halves, each in a word, the others 0.
///
/// # Safety
/// SSE4.1; `p` is readable for `n` halves.
#[inline(always)]
unsafe fn load_halves(p: *const u16, n: usize) -> __m128i {
    // SAFETY: every load is below `n`.
    unsafe {
        if n >= 4 {
            return _mm_cvtepu16_epi32(_mm_loadl_epi64(p.cast()));
        }
        let at = |i: usize| if i < n { i32::from(*p.add(i)) } else { 0 };
        _mm_setr_epi32(at(0), at(1), at(2), 0)
    }
}

/// # Safety
/// SSE4.1; `p` is writable for `n <= 4` halves.
#[inline(always)]
unsafe fn store_halves(p: *mut u16, n: usize, words: __m128i) {
    // SAFETY: every store is below `n`.
    unsafe {
        if n >= 4 {
            _mm_storel_epi64(p.cast(), _mm_packus_epi32(words, words));
            return;
        }
        if n >= 1 {
            *p = _mm_extract_epi16::<0>(words) as u16;
        }
        if n >= 2 {
            *p.add(1) = _mm_extract_epi16::<2>(words) as u16;
        }
        if n >= 3 {
            *p.add(2) = _mm_extract_epi16::<4>(words) as u16;
        }
    }
}
