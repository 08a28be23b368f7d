//! Reductions over a row of logits.

use super::norm::map;
use crate::simd::{Simd, WithSimd, math};

/// The largest logit, its index (the first of equals), and `ln Σ e^l`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// Index of the largest.
    pub index: usize,
    /// The largest.
    pub max: f32,
    /// `ln Σ e^l`.
    pub log_sum: f32,
}

/// Reads one row of `n` logits.
///
/// # Safety
/// `x` holds `n > 0` logits, and the instruction set is present.
pub unsafe fn peak<S: Simd>(x: *const f32, n: usize) -> Peak {
    // SAFETY: the caller's promise.
    unsafe { S::assume() }.vectorize(Row(x, n))
}

struct Row(*const f32, usize);
impl WithSimd for Row {
    type Output = Peak;
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) -> Peak {
        let Row(x, n) = self;
        // SAFETY: `peak`'s caller vouches for the row.
        unsafe {
            let whole = n - n % S::LANES;
            let mut most = s.splat(f32::NEG_INFINITY);
            map(
                s,
                whole,
                #[inline(always)]
                |i, _| most = s.max(s.load(x.add(i)), most),
            );
            let mut max = s.max_across(most);
            for i in whole..n {
                max = max.max(*x.add(i));
            }
            let index = (0..n).find(|&i| *x.add(i) >= max).unwrap_or(0);
            let top = s.splat(max);
            let mut acc = s.zero();
            map(
                s,
                whole,
                #[inline(always)]
                |i, _| acc = s.add(acc, math::exp(s, s.sub(s.load(x.add(i)), top))),
            );
            let mut sum = f64::from(s.sum(acc));
            for i in whole..n {
                sum += f64::from(s.max_across(math::exp(s, s.splat(*x.add(i) - max))));
            }
            Peak { index, max, log_sum: max + sum.ln() as f32 }
        }
    }
}
