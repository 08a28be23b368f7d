//! AVX2 with FMA and F16C: eight lanes.
//!
//! Integer products go through `maddubs`, unsigned by signed bytes with saturating 16-bit pair
//! sums. Weights up to 127 never saturate it (2 · 127 · 127 < 2^15). Full-range weights give
//! their sign to the activations first, and |−128| · 127 · 2 = 32512 still fits.

use super::{Isa, Simd, WithSimd};
use half::{bf16, f16};
use std::arch::x86_64::*;

/// AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

/// Lane masks: `n` lanes are the eight words from `8 - n`.
static LANE_MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

#[inline(always)]
fn first(n: usize) -> __m256i {
    let n = n.min(8);
    // SAFETY: the table holds eight words from `8 - n <= 8`; AVX2 is there, as only methods of
    // the token call this.
    unsafe { _mm256_loadu_si256(LANE_MASKS.as_ptr().add(8 - n).cast()) }
}

impl Simd for Avx2 {
    const ISA: Isa = Isa::Avx2;
    const LANES: usize = 8;
    const S8_BIAS: i32 = 0;
    const REGISTERS: usize = 16;
    const GEMV_GROUPS: usize = 4;
    const TILE_GROUPS: usize = 2;
    const TILE_TOKENS: usize = 4;
    type F32 = __m256;
    type I32 = __m256i;
    type Bytes = __m256i;

    fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c"))
        .then_some(Avx2(()))
    }
    #[inline(always)]
    unsafe fn assume() -> Self {
        Avx2(())
    }
    fn vectorize<Op: WithSimd>(self, op: Op) -> Op::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        #[inline(never)]
        fn go<Op: WithSimd>(s: Avx2, op: Op) -> Op::Output {
            op.with_simd(s)
        }
        // SAFETY: the token exists only after `detect` has found these features.
        unsafe { go(self, op) }
    }

    ops! {
        fn splat(self, v: f32) -> __m256 { _mm256_set1_ps(v) }
        fn add(self, a: __m256, b: __m256) -> __m256 { _mm256_add_ps(a, b) }
        fn sub(self, a: __m256, b: __m256) -> __m256 { _mm256_sub_ps(a, b) }
        fn mul(self, a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
        fn div(self, a: __m256, b: __m256) -> __m256 { _mm256_div_ps(a, b) }
        fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fmadd_ps(a, b, c) }
        fn neg_fma(self, a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fnmadd_ps(a, b, c) }
        fn min(self, a: __m256, b: __m256) -> __m256 { _mm256_min_ps(a, b) }
        fn max(self, a: __m256, b: __m256) -> __m256 { _mm256_max_ps(a, b) }
        fn sqrt(self, a: __m256) -> __m256 { _mm256_sqrt_ps(a) }
        fn abs(self, a: __m256) -> __m256 { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
        fn copysign(self, a: __m256, sign: __m256) -> __m256 {
            let bit = _mm256_set1_ps(-0.0);
            _mm256_or_ps(_mm256_andnot_ps(bit, a), _mm256_and_ps(bit, sign))
        }
        fn select_lt(self, a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
            _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b))
        }
        fn round(self, a: __m256) -> __m256 {
            _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
        }
        fn exp2i(self, n: __m256) -> __m256 {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        }
        fn sum(self, a: __m256) -> f32 {
            let b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let c = _mm_add_ps(b, _mm_movehl_ps(b, b));
            _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps::<1>(c, c)))
        }
        fn max_across(self, a: __m256) -> f32 {
            let b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let c = _mm_max_ps(b, _mm_movehl_ps(b, b));
            _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps::<1>(c, c)))
        }

        fn i32_zero(self) -> __m256i { _mm256_setzero_si256() }
        fn i32_shl(self, a: __m256i, n: u32) -> __m256i {
            _mm256_sll_epi32(a, _mm_cvtsi32_si128(n as i32))
        }
        fn i32_to_f32(self, a: __m256i) -> __m256 { _mm256_cvtepi32_ps(a) }
        fn mma_u7(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
            self.chain_close(acc, _mm256_maddubs_epi16(w, x))
        }
        fn chain_open(self, _acc: __m256i) -> __m256i { _mm256_setzero_si256() }
        fn chain_mma(self, chain: __m256i, w: __m256i, x: __m256i) -> __m256i {
            _mm256_add_epi16(chain, _mm256_maddubs_epi16(w, x))
        }
        fn chain_close(self, acc: __m256i, chain: __m256i) -> __m256i {
            _mm256_add_epi32(acc, _mm256_madd_epi16(chain, _mm256_set1_epi16(1)))
        }
        fn mma_s8(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
            self.chain_close(acc, pairs)
        }
        fn bytes_and(self, a: __m256i, mask: u8) -> __m256i {
            _mm256_and_si256(a, _mm256_set1_epi8(mask as i8))
        }
        fn bytes_xor(self, a: __m256i, mask: u8) -> __m256i {
            _mm256_xor_si256(a, _mm256_set1_epi8(mask as i8))
        }
        fn bytes_or(self, a: __m256i, b: __m256i) -> __m256i { _mm256_or_si256(a, b) }
        fn bytes_shl(self, a: __m256i, n: u32) -> __m256i {
            _mm256_sll_epi16(a, _mm_cvtsi32_si128(n as i32))
        }
        fn bytes_shr(self, a: __m256i, n: u32) -> __m256i {
            _mm256_srl_epi16(a, _mm_cvtsi32_si128(n as i32))
        }
        fn bytes_lane(self, a: __m256i, i: u32) -> __m256 {
            let down = _mm256_srl_epi32(a, _mm_cvtsi32_si128(8 * i as i32));
            _mm256_cvtepi32_ps(_mm256_and_si256(down, _mm256_set1_epi32(255)))
        }
    }

    ops! {
        fn bytes_lookup(self, table: &[u8; 16], a: __m256i) -> __m256i {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            _mm256_shuffle_epi8(table, a)
        }
        fn bytes_quads(self, columns: [__m256i; 4]) -> [__m256i; 4] {
            let [a, b, c, d] = columns;
            let (ab, cd) = (_mm256_unpacklo_epi8(a, b), _mm256_unpacklo_epi8(c, d));
            let (low, next) = (_mm256_unpacklo_epi16(ab, cd), _mm256_unpackhi_epi16(ab, cd));
            let (ab, cd) = (_mm256_unpackhi_epi8(a, b), _mm256_unpackhi_epi8(c, d));
            [low, next, _mm256_unpacklo_epi16(ab, cd), _mm256_unpackhi_epi16(ab, cd)]
        }
        fn words_of(self, a: __m256) -> __m256i { _mm256_cvtps_epi32(a) }
        fn words_splat(self, n: u32) -> __m256i { _mm256_set1_epi32(n as i32) }
        fn words_and(self, a: __m256i, mask: u32) -> __m256i {
            _mm256_and_si256(a, _mm256_set1_epi32(mask as i32))
        }
        fn words_xor(self, a: __m256i, b: __m256i) -> __m256i { _mm256_xor_si256(a, b) }
        fn words_add(self, a: __m256i, b: __m256i) -> __m256i { _mm256_add_epi32(a, b) }
        fn words_sub(self, a: __m256i, b: __m256i) -> __m256i { _mm256_sub_epi32(a, b) }
        fn words_mul(self, a: __m256i, n: u32) -> __m256i {
            _mm256_mullo_epi32(a, _mm256_set1_epi32(n as i32))
        }
        fn words_shl(self, a: __m256i, n: u32) -> __m256i {
            _mm256_sll_epi32(a, _mm_cvtsi32_si128(n as i32))
        }
        fn words_shr(self, a: __m256i, n: u32) -> __m256i {
            _mm256_srl_epi32(a, _mm_cvtsi32_si128(n as i32))
        }
    }
    #[inline(always)]
    fn words_lookup<const P: usize, const N: usize>(
        self,
        table: &[[u32; P]; N],
        index: __m256i,
        part: usize,
    ) -> __m256i {
        const { assert!(N.is_power_of_two() && (P == 1 || P == 2)) };
        // SAFETY: an index is below N once masked, so that all words read lie within the table;
        // the token proves the instructions exist.
        unsafe {
            let index = _mm256_and_si256(index, _mm256_set1_epi32(N as i32 - 1));
            let from = table.as_ptr().cast::<i32>().add(part % P);
            match P {
                1 => _mm256_i32gather_epi32::<4>(from, index),
                _ => _mm256_i32gather_epi32::<8>(from, index),
            }
        }
    }

    memory_ops! {
        fn load(self, p: *const f32) -> __m256 { _mm256_loadu_ps(p) }
        fn load_n(self, p: *const f32, n: usize) -> __m256 { _mm256_maskload_ps(p, first(n)) }
        fn store(self, p: *mut f32, a: __m256) { _mm256_storeu_ps(p, a) }
        fn store_n(self, p: *mut f32, n: usize, a: __m256) { _mm256_maskstore_ps(p, first(n), a) }
        fn load_f16(self, p: *const f16) -> __m256 { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
        fn load_f16_n(self, p: *const f16, n: usize) -> __m256 {
            _mm256_cvtph_ps(load_words(p.cast(), n))
        }
        fn store_f16(self, p: *mut f16, a: __m256) {
            _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a))
        }
        fn store_f16_n(self, p: *mut f16, n: usize, a: __m256) {
            store_words(p.cast(), n, _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a))
        }
        fn load_bf16(self, p: *const bf16) -> __m256 { widen_bf16(_mm_loadu_si128(p.cast())) }
        fn load_bf16_n(self, p: *const bf16, n: usize) -> __m256 {
            widen_bf16(load_words(p.cast(), n))
        }
        fn store_bf16(self, p: *mut bf16, a: __m256) {
            _mm_storeu_si128(p.cast(), narrow_bf16(a))
        }
        fn store_bf16_n(self, p: *mut bf16, n: usize, a: __m256) {
            store_words(p.cast(), n, narrow_bf16(a))
        }
        fn load_swapped(self, x: *const f32, i: usize, n: usize) -> __m256 {
            _mm256_permute_ps::<0xb1>(self.load_n(x.add(i), n))
        }
        fn load_i8(self, p: *const i8) -> __m256 {
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())))
        }
        fn load_u8(self, p: *const u8) -> __m256 {
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())))
        }
        fn words_load_u8(self, p: *const u8) -> __m256i {
            _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()))
        }
        fn i32_broadcast(self, p: *const i32) -> __m256i { _mm256_set1_epi32(*p) }
        fn bytes_load(self, p: *const u8) -> __m256i { _mm256_loadu_si256(p.cast()) }
        fn bytes_store(self, p: *mut u8, a: __m256i) { _mm256_storeu_si256(p.cast(), a) }
        fn bytes_broadcast(self, p: *const u8) -> __m256i { _mm256_set1_epi32(*p.cast()) }
    }
}

/// The first `n <= 8` of eight 16-bit words, the others 0.
///
/// # Safety
/// AVX2; `p` is readable for `n` words.
#[inline(always)]
unsafe fn load_words(p: *const u16, n: usize) -> __m128i {
    if n >= 8 {
        // SAFETY: eight words, by the caller's promise.
        return unsafe { _mm_loadu_si128(p.cast()) };
    }
    let mut words = [0u16; 8];
    // A loop over volatile words, which the compiler does not turn into a call of `memcpy`.
    for (i, word) in words[..n].iter_mut().enumerate() {
        // SAFETY: the caller's promise: `i < n`.
        *word = unsafe { p.add(i).read_volatile() };
    }
    // SAFETY: a load of the whole array.
    unsafe { _mm_loadu_si128(words.as_ptr().cast()) }
}

/// # Safety
/// AVX2; `p` is writable for `n <= 8` words.
#[inline(always)]
unsafe fn store_words(p: *mut u16, n: usize, a: __m128i) {
    if n >= 8 {
        // SAFETY: eight words, by the caller's promise.
        unsafe { _mm_storeu_si128(p.cast(), a) };
        return;
    }
    let mut words = [0u16; 8];
    // SAFETY: a store of the whole array.
    unsafe { _mm_storeu_si128(words.as_mut_ptr().cast(), a) };
    // As in `load_words`.
    for (i, &word) in words[..n].iter().enumerate() {
        // SAFETY: the caller's promise: `i < n`.
        unsafe { p.add(i).write_volatile(word) };
    }
}

/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn widen_bf16(a: __m128i) -> __m256 {
    // SAFETY: register operations; the caller has AVX2.
    unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(a))) }
}

/// Rounds to nearest even by adding just under half a unit, and the last kept bit.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn narrow_bf16(a: __m256) -> __m128i {
    // SAFETY: register operations; the caller has AVX2.
    unsafe {
        let bits = _mm256_castps_si256(a);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(a, a));
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
        let high = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(up, quiet, nan));
        _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256::<1>(high))
    }
}
