//! Elements of caches and dense weights as lanes of f32.

use crate::simd::Simd;
use gristmill_core::{Element, bf16, f16};

/// An element that a kernel reads into, and writes from, f32 lanes.
pub trait Stored: Element {
    /// The first `n` lanes; the others are 0.
    ///
    /// # Safety
    /// `p` is readable for `n <= LANES` elements.
    unsafe fn load_n<S: Simd>(s: S, p: *const Self, n: usize) -> S::F32;
    /// All lanes.
    ///
    /// # Safety
    /// `p` is readable for `LANES` elements.
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::F32;
    /// Writes the first `n` lanes, rounded to nearest even.
    ///
    /// # Safety
    /// `p` is writable for `n <= LANES` elements.
    unsafe fn store_n<S: Simd>(s: S, p: *mut Self, n: usize, v: S::F32);
}

macro_rules! stored {
    ($($t:ty, $load:ident, $load_n:ident, $store_n:ident;)+) => {$(
        impl Stored for $t {
            #[inline(always)]
            unsafe fn load_n<S: Simd>(s: S, p: *const Self, n: usize) -> S::F32 {
                // SAFETY: the caller's promise.
                unsafe { s.$load_n(p, n) }
            }
            #[inline(always)]
            unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::F32 {
                // SAFETY: the caller's promise.
                unsafe { s.$load(p) }
            }
            #[inline(always)]
            unsafe fn store_n<S: Simd>(s: S, p: *mut Self, n: usize, v: S::F32) {
                // SAFETY: the caller's promise.
                unsafe { s.$store_n(p, n, v) }
            }
        }
    )+};
}
stored! {
    f32, load, load_n, store_n;
    f16, load_f16, load_f16_n, store_f16_n;
    bf16, load_bf16, load_bf16_n, store_bf16_n;
}
