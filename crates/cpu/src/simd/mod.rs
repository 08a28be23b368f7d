//! The vocabulary of one instruction set: everything a kernel may say.
//!
//! An algorithm is written once, generic over [`Simd`]; each instruction set is a type that
//! implements it. A value of such a type is a token: it exists only when [`Simd::detect`] found
//! the instructions on this machine, so holding one is the proof that they may be executed.
//! [`Simd::vectorize`] runs a [`WithSimd`] operation inside a function compiled with the
//! instruction set's target features; everything the operation calls must be
//! `#[inline(always)]`, or it is compiled without them (correct, and very slow).
//!
//! ```
//! use gristmill_cpu::simd::{Isa, Simd, WithSimd};
//! struct Dot<'a>(&'a [f32], &'a [f32]);
//! impl WithSimd for Dot<'_> {
//!     type Output = f32;
//!     #[inline(always)]
//!     fn with_simd<S: Simd>(self, s: S) -> f32 {
//!         let n = self.0.len().min(self.1.len());
//!         let mut acc = s.zero();
//!         for i in (0..n).step_by(S::LANES) {
//!             let m = (n - i).min(S::LANES);
//!             // SAFETY: both slices hold `n` values, and `i + m <= n`.
//!             let (a, b) = unsafe {
//!                 (s.load_n(self.0.as_ptr().add(i), m), s.load_n(self.1.as_ptr().add(i), m))
//!             };
//!             acc = s.fma(a, b, acc);
//!         }
//!         s.sum(acc)
//!     }
//! }
//! let x = [1.0, 2.0, 3.0];
//! assert_eq!(Isa::best().vectorize(Dot(&x, &x)), Some(14.0));
//! ```
//!
//! # Integer dot products
//! The natural shapes differ between instruction sets, so the unit is one *fragment*,
//! [`Simd::Bytes`]: `LANES` rows of a weight matrix by four consecutive `k`, row after row, four
//! bytes each. [`Simd::mma_u7`] and [`Simd::mma_s8`] multiply it with four activations of one
//! token and add the four products to the row's `i32`. Both are exact. Where [`Simd::COLS`] is 2,
//! kernels take two fragments and two tokens at once: [`Simd::mma_pair`].

#[macro_use]
mod methods;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    all(target_arch = "wasm32", target_feature = "simd128")
))]
mod halves;
mod isa;
pub mod math;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod sse41;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::{Avx512, Avx512Vnni};
pub use isa::{Isa, IsaVisitor};
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
pub use neon::{Neon, NeonDotprod, NeonI8mm};
pub use scalar::{Naive, Scalar};
#[cfg(target_arch = "x86_64")]
pub use sse41::Sse41;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
pub use wasm::Wasm;

/// An operation that [`Simd::vectorize`] compiles for each instruction set.
pub trait WithSimd {
    /// What it returns.
    type Output;
    /// The operation; mark it, and all it calls, `#[inline(always)]`.
    fn with_simd<S: Simd>(self, s: S) -> Self::Output;
}

/// The most fragments of weights `0..=weight` that one chain of products may have: pairs of products
/// with activations up to 127 must fit in an `i16`.
pub const fn most_in_chain(weight: i32) -> usize {
    (i16::MAX as i32 / (2 * 127 * weight)) as usize
}

/// Where the byte of row `lane` of group `group` lies among the `4 · lanes` bytes that four row groups
/// have in a column: four rows of each group in turn, so that exchanges within sixteen bytes bring
/// the columns together, see [`Simd::bytes_quads`].
pub const fn byte_in_column(lanes: usize, group: usize, lane: usize) -> usize {
    let turn = if lanes < 4 { lanes } else { 4 };
    lane / turn * (4 * turn) + group * turn + lane % turn
}

/// One instruction set; see the module. "Lanes" are the `LANES` lanes of a register.
pub trait Simd: Copy + Send + Sync + std::fmt::Debug + 'static {
    /// Its name among the instruction sets.
    const ISA: Isa;
    /// f32 lanes of a register, and rows of a row group.
    const LANES: usize;
    /// Tokens that are best multiplied together: 2 where there is more to [`Simd::mma_pair`] than
    /// four products.
    const COLS: usize = 1;
    /// Added to full-range int8 weights when they are packed for [`Simd::mma_s8`].
    const S8_BIAS: i32;
    /// Registers that hold `LANES` numbers each.
    const REGISTERS: usize;
    /// Row groups that a kernel handles together for a single token.
    const GEMV_GROUPS: usize;
    /// Row groups of the register tile of a kernel for several tokens, if there are registers for so
    /// many.
    const TILE_GROUPS: usize;
    /// Tokens of the register tile: one, or a multiple of four.
    const TILE_TOKENS: usize;

    /// `LANES` f32.
    type F32: Copy;
    /// `LANES` i32 accumulators.
    type I32: Copy;
    /// A weight fragment, or four activations broadcast to its shape: `4 · LANES` bytes.
    type Bytes: Copy;

    /// The token, if this machine has the instructions.
    fn detect() -> Option<Self>;
    /// The token without asking.
    ///
    /// # Safety
    /// [`Simd::detect`] has returned `Some` in this process.
    unsafe fn assume() -> Self;
    /// Runs `op` compiled for this instruction set. It is an ordinary call, never inlined into
    /// the caller.
    fn vectorize<Op: WithSimd>(self, op: Op) -> Op::Output;

    // ---- f32 arithmetic, lane by lane

    /// Zero in every lane.
    #[inline(always)]
    fn zero(self) -> Self::F32 {
        self.splat(0.0)
    }
    /// `v` in every lane.
    fn splat(self, v: f32) -> Self::F32;
    /// `a + b`
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a - b`
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a · b`
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a / b`
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a · b + c`, rounded once where the instruction set has it.
    fn fma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// `c - a · b`, rounded like [`Simd::fma`].
    fn neg_fma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// `a < b ? a : b` (so `b` where either is NaN).
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a > b ? a : b` (so `b` where either is NaN).
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The square root, correctly rounded.
    fn sqrt(self, a: Self::F32) -> Self::F32;
    /// The magnitude.
    fn abs(self, a: Self::F32) -> Self::F32;
    /// The magnitude of `a` with the sign of `sign`.
    fn copysign(self, a: Self::F32, sign: Self::F32) -> Self::F32;
    /// `a < b ? yes : no` (so `no` where either is NaN).
    fn select_lt(self, a: Self::F32, b: Self::F32, yes: Self::F32, no: Self::F32) -> Self::F32;
    /// The nearest integer, ties to even.
    fn round(self, a: Self::F32) -> Self::F32;
    /// `2^n` for integer-valued `n` in -126..=127; finite garbage elsewhere.
    fn exp2i(self, n: Self::F32) -> Self::F32;
    /// The sum of the lanes, in an order fixed by the instruction set.
    fn sum(self, a: Self::F32) -> f32;
    /// The largest lane.
    fn max_across(self, a: Self::F32) -> f32;

    // ---- f32 lanes from and to memory. No alignment is needed beyond the element's own.
    // `_n`: the first `n <= LANES` lanes; the others read as 0 and are not written.

    /// # Safety
    /// `p` is readable for `LANES` values.
    unsafe fn load(self, p: *const f32) -> Self::F32;
    /// # Safety
    /// `p` is readable for `n <= LANES` values.
    unsafe fn load_n(self, p: *const f32, n: usize) -> Self::F32;
    /// Numbers of `x` from index `i` on with those of each pair exchanged: lane `l` is
    /// `x[(i + l) ^ 1]`, the first `n` lanes.
    ///
    /// # Safety
    /// `i` is a multiple of `LANES`; `x` is readable for `(i + n).next_multiple_of(2)` values, `n` even
    /// or 1 where there is one lane.
    unsafe fn load_swapped(self, x: *const f32, i: usize, n: usize) -> Self::F32;
    /// # Safety
    /// `p` is writable for `LANES` values.
    unsafe fn store(self, p: *mut f32, a: Self::F32);
    /// # Safety
    /// `p` is writable for `n <= LANES` values.
    unsafe fn store_n(self, p: *mut f32, n: usize, a: Self::F32);
    /// The value at `p` in every lane.
    ///
    /// # Safety
    /// `p` is readable.
    #[inline(always)]
    unsafe fn broadcast(self, p: *const f32) -> Self::F32 {
        // SAFETY: the caller's promise.
        self.splat(unsafe { *p })
    }
    /// f16, widened exactly.
    ///
    /// # Safety
    /// `p` is readable for `LANES` values.
    unsafe fn load_f16(self, p: *const half::f16) -> Self::F32;
    /// # Safety
    /// `p` is readable for `n <= LANES` values.
    unsafe fn load_f16_n(self, p: *const half::f16, n: usize) -> Self::F32;
    /// f16, rounded to nearest even.
    ///
    /// # Safety
    /// `p` is writable for `LANES` values.
    unsafe fn store_f16(self, p: *mut half::f16, a: Self::F32);
    /// # Safety
    /// `p` is writable for `n <= LANES` values.
    unsafe fn store_f16_n(self, p: *mut half::f16, n: usize, a: Self::F32);
    /// bf16, widened exactly.
    ///
    /// # Safety
    /// `p` is readable for `LANES` values.
    unsafe fn load_bf16(self, p: *const half::bf16) -> Self::F32;
    /// # Safety
    /// `p` is readable for `n <= LANES` values.
    unsafe fn load_bf16_n(self, p: *const half::bf16, n: usize) -> Self::F32;
    /// bf16, rounded to nearest even; NaN stays NaN.
    ///
    /// # Safety
    /// `p` is writable for `LANES` values.
    unsafe fn store_bf16(self, p: *mut half::bf16, a: Self::F32);
    /// # Safety
    /// `p` is writable for `n <= LANES` values.
    unsafe fn store_bf16_n(self, p: *mut half::bf16, n: usize, a: Self::F32);
    /// Signed bytes as f32.
    ///
    /// # Safety
    /// `p` is readable for `LANES` values.
    unsafe fn load_i8(self, p: *const i8) -> Self::F32;
    /// Unsigned bytes as f32.
    ///
    /// # Safety
    /// `p` is readable for `LANES` values.
    unsafe fn load_u8(self, p: *const u8) -> Self::F32;

    // ---- integers

    /// Zero in every lane.
    fn i32_zero(self) -> Self::I32;
    /// The integer at `p` in every lane.
    ///
    /// # Safety
    /// `p` is readable (four bytes, aligned).
    unsafe fn i32_broadcast(self, p: *const i32) -> Self::I32;
    /// `a · 2^n`
    fn i32_shl(self, a: Self::I32, n: u32) -> Self::I32;
    /// To f32, rounded to nearest even.
    fn i32_to_f32(self, a: Self::I32) -> Self::F32;
    /// `a`, computed here and now.
    ///
    /// For where the compiler would move a computation, or split it, into something slower.
    #[inline(always)]
    fn i32_pin(self, a: Self::I32) -> Self::I32 {
        a
    }
    /// Adds the dot products of unsigned weights 0..=127 with activations -127..=127.
    fn mma_u7(self, acc: Self::I32, w: Self::Bytes, x: Self::Bytes) -> Self::I32;
    /// Begins a chain of products that goes on from `acc`.
    ///
    /// Some instruction sets multiply bytes into sixteen-bit sums of pairs, and widen them in
    /// another step. Over a chain of at most [`most_in_chain`] fragments the pairs are added up
    /// first and widened once. Elsewhere a chain is the accumulator itself.
    #[inline(always)]
    fn chain_open(self, acc: Self::I32) -> Self::I32 {
        acc
    }
    /// Adds products as [`Simd::mma_u7`] does to a chain.
    #[inline(always)]
    fn chain_mma(self, chain: Self::I32, w: Self::Bytes, x: Self::Bytes) -> Self::I32 {
        self.mma_u7(chain, w, x)
    }
    /// The accumulator at the end of a chain that was opened with `acc`.
    #[inline(always)]
    fn chain_close(self, acc: Self::I32, chain: Self::I32) -> Self::I32 {
        _ = acc;
        chain
    }
    /// Adds the dot products of the full range of int8 weights (stored with [`Simd::S8_BIAS`]
    /// added) with activations -127..=127. With a bias, the result holds `S8_BIAS · Σ x` more.
    fn mma_s8(self, acc: Self::I32, w: Self::Bytes, x: Self::Bytes) -> Self::I32;
    /// The accumulators of two tokens as [`Simd::mma_pair`] keeps them.
    #[inline(always)]
    fn dots_in_pair(self, tokens: [Self::I32; 2]) -> [Self::I32; 2] {
        tokens
    }
    /// The accumulators of each of the two tokens.
    #[inline(always)]
    fn dots_of_pair(self, pair: [Self::I32; 2]) -> [Self::I32; 2] {
        pair
    }
    /// Adds the products of two fragments of the same rows, with weights as for [`Simd::mma_s8`] or
    /// [`Simd::mma_u7`], and the activations of two tokens: those that meet fragment `i` are at
    /// `x[i]`, four bytes of the first token, then four of the second.
    ///
    /// # Safety
    /// Both pointers are readable for 8 bytes and aligned to 4.
    #[inline(always)]
    unsafe fn mma_pair(
        self,
        acc: [Self::I32; 2],
        w: [Self::Bytes; 2],
        x: [*const u8; 2],
    ) -> [Self::I32; 2] {
        let mut token = 0;
        acc.map(
            #[inline(always)]
            |acc| {
                // SAFETY: the caller's promise.
                let x = x.map(|x| unsafe { self.bytes_broadcast(x.add(4 * token)) });
                token += 1;
                self.mma_s8(self.mma_s8(acc, w[0], x[0]), w[1], x[1])
            },
        )
    }

    /// A fragment.
    ///
    /// # Safety
    /// `p` is readable for `4 · LANES` bytes.
    unsafe fn bytes_load(self, p: *const u8) -> Self::Bytes;
    /// # Safety
    /// `p` is writable for `4 · LANES` bytes.
    unsafe fn bytes_store(self, p: *mut u8, a: Self::Bytes);
    /// Four bytes, repeated in every lane.
    ///
    /// # Safety
    /// `p` is readable for 4 bytes and aligned to 4.
    unsafe fn bytes_broadcast(self, p: *const u8) -> Self::Bytes;
    /// Every byte and `mask`.
    fn bytes_and(self, a: Self::Bytes, mask: u8) -> Self::Bytes;
    /// Every byte exclusive-or `mask`.
    fn bytes_xor(self, a: Self::Bytes, mask: u8) -> Self::Bytes;
    /// `a | b`
    fn bytes_or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Every byte to the left by a constant `n < 8`; what enters from the right is unspecified.
    fn bytes_shl(self, a: Self::Bytes, n: u32) -> Self::Bytes;
    /// Every byte to the right by a constant `n < 8`; what enters from the left is unspecified.
    fn bytes_shr(self, a: Self::Bytes, n: u32) -> Self::Bytes;
    /// Byte `i` (0..4) of every row, unsigned, as f32.
    fn bytes_lane(self, a: Self::Bytes, i: u32) -> Self::F32;
    /// `table[b]` for every byte `b < 16` of `a`; unspecified for the others.
    fn bytes_lookup(self, table: &[u8; 16], a: Self::Bytes) -> Self::Bytes;
    /// The fragments of four row groups from four columns, each of one byte for every row of the
    /// four groups: byte `j` of row `l` in fragment `i` is byte [`byte_in_column`]`(LANES, i, l)` of
    /// `columns[j]`.
    fn bytes_quads(self, columns: [Self::Bytes; 4]) -> [Self::Bytes; 4];

    // ---- fragments as 32-bit words, one a row

    /// `n` in every row.
    fn words_splat(self, n: u32) -> Self::Bytes;
    /// Integer-valued lanes as two's complement words.
    fn words_of(self, a: Self::F32) -> Self::Bytes;
    /// A byte for each row, zero-extended.
    ///
    /// # Safety
    /// `p` is readable for `LANES` bytes.
    unsafe fn words_load_u8(self, p: *const u8) -> Self::Bytes;
    /// `a & mask`
    fn words_and(self, a: Self::Bytes, mask: u32) -> Self::Bytes;
    /// `a ^ b`
    fn words_xor(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// `a + b`, modulo 2^32 like all that follow.
    fn words_add(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// `a - b`
    fn words_sub(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// `a · n`
    fn words_mul(self, a: Self::Bytes, n: u32) -> Self::Bytes;
    /// `a · 2^n`, `n < 32`
    fn words_shl(self, a: Self::Bytes, n: u32) -> Self::Bytes;
    /// `a / 2^n`, `n < 32`
    fn words_shr(self, a: Self::Bytes, n: u32) -> Self::Bytes;
    /// Word `part` of entry `index mod N` of a table, for every row. `N` is a power of two, `P` is
    /// 1 or 2 and `part < P`.
    fn words_lookup<const P: usize, const N: usize>(
        self,
        table: &[[u32; P]; N],
        index: Self::Bytes,
        part: usize,
    ) -> Self::Bytes;

    /// Hints that the cache line of `p` is needed soon. Any address is allowed.
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a hint; it faults on no address, and SSE is part of the target.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: a hint; it faults on no address.
        unsafe {
            std::arch::asm!(
                "prfm pldl1keep, [{}]",
                in(reg) p,
                options(readonly, nostack, preserves_flags)
            );
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let _ = p;
    }
}
