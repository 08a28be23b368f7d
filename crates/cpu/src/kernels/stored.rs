//! Elements of caches and dense weights as lanes of f32.

use crate::simd::Simd;
use gristmill_core::{DType, Element};

/// An element that a kernel reads into, and writes from, f32 lanes.
///
/// It holds for every [`Element`]: for those that instruction sets convert by themselves, with
/// their instructions; for any other one lane after the other.
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

/// At least the lanes of any instruction set.
const LANES: usize = 16;

impl<T: Element> Stored for T {
    #[inline(always)]
    unsafe fn load_n<S: Simd>(s: S, p: *const Self, n: usize) -> S::F32 {
        const { assert!(S::LANES <= LANES) };
        // SAFETY: the caller's promise; the layout of an element is the one its dtype names.
        unsafe {
            match T::DTYPE {
                DType::F32 => s.load_n(p.cast(), n),
                DType::F16 => s.load_f16_n(p.cast(), n),
                DType::BF16 => s.load_bf16_n(p.cast(), n),
                _ => {
                    let mut lanes = [0.0; LANES];
                    for (l, lane) in lanes.iter_mut().enumerate().take(n) {
                        *lane = (*p.add(l)).widen();
                    }
                    s.load(lanes.as_ptr())
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::F32 {
        // SAFETY: as above.
        unsafe {
            match T::DTYPE {
                DType::F32 => s.load(p.cast()),
                DType::F16 => s.load_f16(p.cast()),
                DType::BF16 => s.load_bf16(p.cast()),
                _ => Self::load_n(s, p, S::LANES),
            }
        }
    }
    #[inline(always)]
    unsafe fn store_n<S: Simd>(s: S, p: *mut Self, n: usize, v: S::F32) {
        const { assert!(S::LANES <= LANES) };
        // SAFETY: as above.
        unsafe {
            match T::DTYPE {
                DType::F32 => s.store_n(p.cast(), n, v),
                DType::F16 => s.store_f16_n(p.cast(), n, v),
                DType::BF16 => s.store_bf16_n(p.cast(), n, v),
                _ => {
                    let mut lanes = [0.0; LANES];
                    s.store(lanes.as_mut_ptr(), v);
                    for (l, &lane) in lanes.iter().enumerate().take(n) {
                        *p.add(l) = T::narrow(lane);
                    }
                }
            }
        }
    }
}
