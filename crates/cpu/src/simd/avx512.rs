//! AVX-512: sixteen lanes, as two instruction sets that differ in their integer product.
//!
//! [`Avx512Vnni`] multiplies unsigned weights by signed activations into 32 bits in one
//! instruction; full-range weights are stored with 128 added. [`Avx512`] goes through `maddubs`
//! like AVX2, and gives the sign of full-range weights to the activations by a masked negation.

use super::{Isa, Simd, WithSimd};
use half::{bf16, f16};
use std::arch::x86_64::*;

/// AVX-512 F, BW, VL and DQ.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

/// The same with VNNI.
#[derive(Clone, Copy, Debug)]
pub struct Avx512Vnni(());

/// The mask of the first `n` lanes.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    ((1u32 << n.min(16)) - 1) as __mmask16
}

const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

macro_rules! avx512 {
    ($ty:ident, $features:literal, [$($detect:tt),+], $bias:literal,
     { $($mma:tt)+ }) => {
        impl Simd for $ty {
            const ISA: Isa = Isa::$ty;
            const LANES: usize = 16;
            const S8_BIAS: i32 = $bias;
            const REGISTERS: usize = 32;
            const GEMV_GROUPS: usize = 4;
            const TILE_GROUPS: usize = 2;
            const TILE_TOKENS: usize = 12;
            type F32 = __m512;
            type I32 = __m512i;
            type Bytes = __m512i;

            fn detect() -> Option<Self> {
                ($(is_x86_feature_detected!($detect))&&+).then_some($ty(()))
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
            ops! { $($mma)+ }
            avx512_ops!();
        }
    };
}

macro_rules! avx512_ops {
    () => {
        ops! {
            fn splat(self, v: f32) -> __m512 { _mm512_set1_ps(v) }
            fn add(self, a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
            fn sub(self, a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
            fn mul(self, a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
            fn div(self, a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
            fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
            fn neg_fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
                _mm512_fnmadd_ps(a, b, c)
            }
            fn min(self, a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
            fn max(self, a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
            fn sqrt(self, a: __m512) -> __m512 { _mm512_sqrt_ps(a) }
            fn abs(self, a: __m512) -> __m512 { _mm512_andnot_ps(_mm512_set1_ps(-0.0), a) }
            fn copysign(self, a: __m512, sign: __m512) -> __m512 {
                let bit = _mm512_set1_ps(-0.0);
                _mm512_or_ps(_mm512_andnot_ps(bit, a), _mm512_and_ps(bit, sign))
            }
            fn select_lt(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
                _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes)
            }
            fn round(self, a: __m512) -> __m512 { _mm512_roundscale_ps::<NEAREST>(a) }
            fn exp2i(self, n: __m512) -> __m512 {
                let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
                _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
            }
            fn sum(self, a: __m512) -> f32 {
                let b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
                let c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps::<1>(b));
                let d = _mm_add_ps(c, _mm_movehl_ps(c, c));
                _mm_cvtss_f32(_mm_add_ss(d, _mm_shuffle_ps::<1>(d, d)))
            }
            fn max_across(self, a: __m512) -> f32 {
                let b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
                let c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps::<1>(b));
                let d = _mm_max_ps(c, _mm_movehl_ps(c, c));
                _mm_cvtss_f32(_mm_max_ss(d, _mm_shuffle_ps::<1>(d, d)))
            }

            fn i32_zero(self) -> __m512i { _mm512_setzero_si512() }
            fn i32_shl(self, a: __m512i, n: u32) -> __m512i {
                _mm512_sll_epi32(a, _mm_cvtsi32_si128(n as i32))
            }
            fn i32_pin(self, a: __m512i) -> __m512i { pin(a) }
            fn i32_to_f32(self, a: __m512i) -> __m512 { _mm512_cvtepi32_ps(a) }
            fn bytes_and(self, a: __m512i, mask: u8) -> __m512i {
                _mm512_and_si512(a, _mm512_set1_epi8(mask as i8))
            }
            fn bytes_xor(self, a: __m512i, mask: u8) -> __m512i {
                _mm512_xor_si512(a, _mm512_set1_epi8(mask as i8))
            }
            fn bytes_or(self, a: __m512i, b: __m512i) -> __m512i { _mm512_or_si512(a, b) }
            fn bytes_shl(self, a: __m512i, n: u32) -> __m512i {
                _mm512_sll_epi16(a, _mm_cvtsi32_si128(n as i32))
            }
            fn bytes_shr(self, a: __m512i, n: u32) -> __m512i {
                _mm512_srl_epi16(a, _mm_cvtsi32_si128(n as i32))
            }
            fn bytes_lane(self, a: __m512i, i: u32) -> __m512 {
                let down = _mm512_srl_epi32(a, _mm_cvtsi32_si128(8 * i as i32));
                _mm512_cvtepi32_ps(_mm512_and_si512(down, _mm512_set1_epi32(255)))
            }
        }

        ops! {
            fn bytes_lookup(self, table: &[u8; 16], a: __m512i) -> __m512i {
                let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
                _mm512_shuffle_epi8(table, a)
            }
            fn bytes_quads(self, columns: [__m512i; 4]) -> [__m512i; 4] {
                let [a, b, c, d] = columns;
                let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
                let (low, next) = (_mm512_unpacklo_epi16(ab, cd), _mm512_unpackhi_epi16(ab, cd));
                let (ab, cd) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
                [low, next, _mm512_unpacklo_epi16(ab, cd), _mm512_unpackhi_epi16(ab, cd)]
            }
            fn words_of(self, a: __m512) -> __m512i { _mm512_cvtps_epi32(a) }
            fn words_splat(self, n: u32) -> __m512i { _mm512_set1_epi32(n as i32) }
            fn words_and(self, a: __m512i, mask: u32) -> __m512i {
                _mm512_and_si512(a, _mm512_set1_epi32(mask as i32))
            }
            fn words_xor(self, a: __m512i, b: __m512i) -> __m512i { _mm512_xor_si512(a, b) }
            fn words_add(self, a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi32(a, b) }
            fn words_sub(self, a: __m512i, b: __m512i) -> __m512i { _mm512_sub_epi32(a, b) }
            fn words_mul(self, a: __m512i, n: u32) -> __m512i {
                _mm512_mullo_epi32(a, _mm512_set1_epi32(n as i32))
            }
            fn words_shl(self, a: __m512i, n: u32) -> __m512i {
                _mm512_sll_epi32(a, _mm_cvtsi32_si128(n as i32))
            }
            fn words_shr(self, a: __m512i, n: u32) -> __m512i {
                _mm512_srl_epi32(a, _mm_cvtsi32_si128(n as i32))
            }
        }
        #[inline(always)]
        fn words_lookup<const P: usize, const N: usize>(
            self,
            table: &[[u32; P]; N],
            index: __m512i,
            part: usize,
        ) -> __m512i {
            const { assert!(N.is_power_of_two() && (P == 1 || P == 2)) };
            // SAFETY: an index is below N once masked, so that all words read lie within the
            // table; the token proves the instructions exist.
            unsafe {
                let index = _mm512_and_si512(index, _mm512_set1_epi32(N as i32 - 1));
                let from = table.as_ptr().cast::<i32>().add(part % P);
                match P {
                    1 => _mm512_i32gather_epi32::<4>(index, from),
                    _ => _mm512_i32gather_epi32::<8>(index, from),
                }
            }
        }

        memory_ops! {
            fn load(self, p: *const f32) -> __m512 { _mm512_loadu_ps(p) }
            fn load_n(self, p: *const f32, n: usize) -> __m512 {
                _mm512_maskz_loadu_ps(first(n), p)
            }
            fn store(self, p: *mut f32, a: __m512) { _mm512_storeu_ps(p, a) }
            fn store_n(self, p: *mut f32, n: usize, a: __m512) {
                _mm512_mask_storeu_ps(p, first(n), a)
            }
            fn load_f16(self, p: *const f16) -> __m512 {
                _mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))
            }
            fn load_f16_n(self, p: *const f16, n: usize) -> __m512 {
                _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p.cast()))
            }
            fn store_f16(self, p: *mut f16, a: __m512) {
                _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a))
            }
            fn store_f16_n(self, p: *mut f16, n: usize, a: __m512) {
                let narrow = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a);
                _mm256_mask_storeu_epi16(p.cast(), first(n), narrow)
            }
            fn load_bf16(self, p: *const bf16) -> __m512 {
                widen_bf16(_mm256_loadu_si256(p.cast()))
            }
            fn load_bf16_n(self, p: *const bf16, n: usize) -> __m512 {
                widen_bf16(_mm256_maskz_loadu_epi16(first(n), p.cast()))
            }
            fn store_bf16(self, p: *mut bf16, a: __m512) {
                _mm256_storeu_si256(p.cast(), narrow_bf16(a))
            }
            fn store_bf16_n(self, p: *mut bf16, n: usize, a: __m512) {
                _mm256_mask_storeu_epi16(p.cast(), first(n), narrow_bf16(a))
            }
            fn load_swapped(self, x: *const f32, i: usize, n: usize) -> __m512 {
                _mm512_permute_ps::<0xb1>(self.load_n(x.add(i), n))
            }
            fn load_i8(self, p: *const i8) -> __m512 {
                _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())))
            }
            fn load_u8(self, p: *const u8) -> __m512 {
                _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())))
            }
            fn words_load_u8(self, p: *const u8) -> __m512i {
                _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))
            }
            fn i32_broadcast(self, p: *const i32) -> __m512i { _mm512_set1_epi32(*p) }
            fn bytes_load(self, p: *const u8) -> __m512i { _mm512_loadu_si512(p.cast()) }
            fn bytes_store(self, p: *mut u8, a: __m512i) { _mm512_storeu_si512(p.cast(), a) }
            fn bytes_broadcast(self, p: *const u8) -> __m512i { _mm512_set1_epi32(*p.cast()) }
        }
    };
}

avx512!(
    Avx512,
    "avx512f,avx512bw,avx512vl,avx512dq",
    ["avx512f", "avx512bw", "avx512vl", "avx512dq"],
    0,
    {
        fn mma_u7(self, acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
            self.chain_close(acc, _mm512_maddubs_epi16(w, x))
        }
        fn chain_open(self, _acc: __m512i) -> __m512i {
            _mm512_setzero_si512()
        }
        fn chain_mma(self, chain: __m512i, w: __m512i, x: __m512i) -> __m512i {
            _mm512_add_epi16(chain, _mm512_maddubs_epi16(w, x))
        }
        fn chain_close(self, acc: __m512i, chain: __m512i) -> __m512i {
            _mm512_add_epi32(acc, _mm512_madd_epi16(chain, _mm512_set1_epi16(1)))
        }
        fn mma_s8(self, acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
            let negative = _mm512_movepi8_mask(w);
            let signed = _mm512_mask_sub_epi8(x, negative, _mm512_setzero_si512(), x);
            self.chain_close(acc, _mm512_maddubs_epi16(_mm512_abs_epi8(w), signed))
        }
    }
);
avx512!(
    Avx512Vnni,
    "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni",
    ["avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni"],
    128,
    {
        fn mma_u7(self, acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
            _mm512_dpbusd_epi32(acc, w, x)
        }
        fn mma_s8(self, acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
            _mm512_dpbusd_epi32(acc, w, x)
        }
    }
);

/// The value, opaque to the compiler at this point of the program.
#[target_feature(enable = "avx512f")]
#[inline]
fn pin(mut a: __m512i) -> __m512i {
    // SAFETY: no instruction at all; a value in a register that may have changed. Not declared
    // free of memory access, so that loads keep their side of it.
    unsafe {
        std::arch::asm!("/* {0} */", inout(zmm_reg) a, options(nostack, preserves_flags));
    }
    a
}

/// # Safety
/// AVX-512 F.
#[inline(always)]
unsafe fn widen_bf16(a: __m256i) -> __m512 {
    // SAFETY: register operations; the caller has AVX-512 F.
    unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(a))) }
}

/// Rounds to nearest even by adding just under half a unit, and the last kept bit.
///
/// # Safety
/// AVX-512 F.
#[inline(always)]
unsafe fn narrow_bf16(a: __m512) -> __m256i {
    // SAFETY: register operations; the caller has AVX-512 F.
    unsafe {
        let bits = _mm512_castps_si512(a);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a);
        let rounded = _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x0040_0000));
        _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded))
    }
}
