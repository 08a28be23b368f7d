//! Mixtures of experts: choosing, and the sum of what the chosen ones give.
//!
//! What a token gets depends on its own scores only, and the sum runs over its choices in their
//! order: not on where the choices of other tokens lie.

use super::norm::map;
use crate::simd::{Simd, WithSimd, math};
use gristmill_ir::Gating;
use std::ops::Range;

/// Arguments of [`route`].
#[derive(Clone, Copy)]
pub struct RouteArgs {
    /// The router's products, `[token][experts]`; used as scratch.
    pub scores: *mut f32,
    /// Added to the products, `[experts]`, or null.
    pub bias: *const f32,
    /// Added for choosing only, `[experts]`, or null.
    pub choice_bias: *const f32,
    /// Experts.
    pub experts: usize,
    /// Experts of a token, at most `experts`.
    pub k: usize,
    /// How scores become weights.
    pub gating: Gating,
    /// Whether the weights are divided by their sum.
    pub renormalise: bool,
    /// Multiplies the weights.
    pub scale: f32,
    /// `[token][2 k]`: the chosen experts as numbers, the best first, then their weights.
    pub out: *mut f32,
}

/// Chooses the experts of a range of tokens. Whatever the scores, NaN among them, the chosen are
/// `k` different experts; of equal ones the lower number comes first.
///
/// # Safety
/// The pointers hold all tokens of the range, nobody else touches these, `0 < k <= experts`, and the
/// instruction set is present.
pub unsafe fn route<S: Simd>(args: &RouteArgs, tokens: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { S::assume() }.vectorize(Route(args, tokens));
}

struct Route<'a>(&'a RouteArgs, Range<usize>);

impl WithSimd for Route<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Route(a, tokens) = self;
        let (n, k) = (a.experts, a.k);
        for t in tokens {
            // SAFETY: the caller of `route` vouches for the token's scores and results; chosen
            // experts are below `n`.
            unsafe {
                let scores = a.scores.add(t * n);
                let (ids, weights) = (a.out.add(t * 2 * k), a.out.add(t * 2 * k + k));
                if !a.bias.is_null() {
                    map(
                        s,
                        n,
                        #[inline(always)]
                        |i, m| {
                            let v = s.add(s.load_n(scores.add(i), m), s.load_n(a.bias.add(i), m));
                            s.store_n(scores.add(i), m, v);
                        },
                    );
                }
                match a.gating {
                    Gating::Softmax => softmax(s, scores, n),
                    Gating::SoftmaxChosen => {}
                    Gating::Sigmoid => map(
                        s,
                        n,
                        #[inline(always)]
                        |i, m| {
                            let v = math::sigmoid(s, s.load_n(scores.add(i), m));
                            s.store_n(scores.add(i), m, v);
                        },
                    ),
                }
                let mut last = None;
                for j in 0..k {
                    let e = next_best(a, scores, &mut last);
                    *ids.add(j) = e as f32;
                    *weights.add(j) = *scores.add(e);
                }
                if a.gating == Gating::SoftmaxChosen {
                    softmax(s, weights, k);
                }
                let mut factor = a.scale;
                if a.renormalise {
                    let mut sum = 0.0;
                    for j in 0..k {
                        sum += *weights.add(j);
                    }
                    // Sigmoids may all vanish.
                    factor /= f32::max(sum, f32::MIN_POSITIVE);
                }
                for j in 0..k {
                    *weights.add(j) *= factor;
                }
            }
        }
    }
}

/// The expert that comes next after `last` in the order of choosing; `last` becomes its key.
///
/// # Safety
/// `scores` holds all experts, and fewer than all were chosen before.
#[inline(always)]
unsafe fn next_best(a: &RouteArgs, scores: *const f32, last: &mut Option<u64>) -> usize {
    let mut best = 0;
    for e in 0..a.experts {
        // SAFETY: the caller's promise.
        let score = unsafe {
            let bias = if a.choice_bias.is_null() { 0.0 } else { *a.choice_bias.add(e) };
            *scores.add(e) + bias
        };
        // The sign bit turned round, and all others where it was set: integers in the order of the
        // floats. Below it the number of the expert, turned round so that the lower comes first.
        let bits = score.to_bits();
        let ordered = bits ^ ((bits as i32 >> 31) as u32 | 1 << 31);
        let key = u64::from(ordered) << 32 | u64::from(!(e as u32));
        if key > best && last.is_none_or(|last| key < last) {
            best = key;
        }
    }
    *last = Some(best);
    !(best as u32) as usize
}

/// Softmax of a row in place.
///
/// # Safety
/// `x` holds `n` elements, one at least.
#[inline(always)]
unsafe fn softmax<S: Simd>(s: S, x: *mut f32, n: usize) {
    // SAFETY: the caller's promise; `map` stays below `n`.
    unsafe {
        let mut most = f32::NEG_INFINITY;
        for i in 0..n {
            most = f32::max(most, *x.add(i));
        }
        let most = s.splat(most);
        let mut sum = 0.0;
        map(
            s,
            n,
            #[inline(always)]
            |i, m| s.store_n(x.add(i), m, math::exp(s, s.sub(s.load_n(x.add(i), m), most))),
        );
        for i in 0..n {
            sum += *x.add(i);
        }
        let inverse = s.splat(1.0 / sum);
        map(
            s,
            n,
            #[inline(always)]
            |i, m| s.store_n(x.add(i), m, s.mul(s.load_n(x.add(i), m), inverse)),
        );
    }
}

/// Arguments of [`combine`]: `out[t] = Σ_j weight[t][j] · (y[places[t][j]] + bias[expert[t][j]])`.
#[derive(Clone, Copy)]
pub struct CombineArgs {
    /// What experts gave, `[place][width]`.
    pub y: *const f32,
    /// The place of each choice, `[token][k]`.
    pub places: *const u32,
    /// What [`route`] gave.
    pub route: *const f32,
    /// A summand for each expert, `[experts][width]`, or null.
    pub bias: *const f32,
    /// Experts of a token.
    pub k: usize,
    /// Elements of a row.
    pub width: usize,
    /// `[token][width]`.
    pub out: *mut f32,
}

/// Sums some columns of one token.
///
/// # Safety
/// The pointers hold the token and its choices, nobody else touches these columns of its result, and
/// the instruction set is present.
pub unsafe fn combine<S: Simd>(args: &CombineArgs, token: usize, columns: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { S::assume() }.vectorize(Combine(args, token, columns));
}

struct Combine<'a>(&'a CombineArgs, usize, Range<usize>);

impl WithSimd for Combine<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Combine(a, t, columns) = self;
        // SAFETY: the caller of `combine` vouches for the token; experts are those that were chosen.
        map(
            s,
            columns.len(),
            #[inline(always)]
            |i, n| unsafe {
                let at = columns.start + i;
                let mut sum = s.zero();
                for j in 0..a.k {
                    let place = *a.places.add(t * a.k + j) as usize;
                    let mut v = s.load_n(a.y.add(place * a.width + at), n);
                    if !a.bias.is_null() {
                        let expert = *a.route.add(t * 2 * a.k + j) as usize;
                        v = s.add(v, s.load_n(a.bias.add(expert * a.width + at), n));
                    }
                    sum = s.fma(s.broadcast(a.route.add(t * 2 * a.k + a.k + j)), v, sum);
                }
                s.store_n(a.out.add(t * a.width + at), n, sum);
            },
        );
    }
}
