//! Exponentials and the activation functions made of them, lane by lane, on any instruction set.
//!
//! Everything rests on [`exp`]; each function states its formula and its error.

use super::Simd;

/// Below this [`exp`] is 0: the last x whose nearest power of two is 2^-126.
pub const EXP_MIN: f32 = -87.33;
/// Above this [`exp`] is infinite: the last x whose nearest power of two is 2^127.
pub const EXP_MAX: f32 = 88.37;

/// `c[0] + c[1] x + c[2] x² + …`, by Horner's rule.
#[inline(always)]
pub fn polynomial<S: Simd, const N: usize>(s: S, x: S::F32, c: [f32; N]) -> S::F32 {
    let mut sum = s.splat(c[N - 1]);
    for &c in c[..N - 1].iter().rev() {
        sum = s.fma(sum, x, s.splat(c));
    }
    sum
}

/// `e^x` with a relative error below 3e-7 for `EXP_MIN <= x <= EXP_MAX`; 0 below, infinite above,
/// NaN for NaN.
///
/// `x = n ln 2 + r` with integer `n` and `|r| <= ln 2 / 2`; then `e^x = 2^n e^r`, and `e^r` is its
/// Taylor polynomial of degree 6 (the first term left out is below 1.2e-7). `ln 2` is split so
/// that `n` times its upper part is exact.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::F32) -> S::F32 {
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let (low, high) = (s.splat(EXP_MIN), s.splat(EXP_MAX));
    let inside = s.min(high, s.max(low, x));
    let n = s.round(s.mul(inside, s.splat(std::f32::consts::LOG2_E)));
    let r = s.neg_fma(n, s.splat(LN2_LOW), s.neg_fma(n, s.splat(LN2_HIGH), inside));
    let e = polynomial(s, r, [1.0, 1.0, 0.5, 1.0 / 6.0, 1.0 / 24.0, 1.0 / 120.0, 1.0 / 720.0]);
    let y = s.select_lt(x, low, s.zero(), s.mul(e, s.exp2i(n)));
    s.select_lt(high, x, s.splat(f32::INFINITY), y)
}

/// `1 / (1 + e^-x)`, relative error below 5e-7.
#[inline(always)]
pub fn sigmoid<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.zero(), x))))
}

/// `x / (1 + e^-x)`, also called swish; relative error below 5e-7.
#[inline(always)]
pub fn silu<S: Simd>(s: S, x: S::F32) -> S::F32 {
    s.div(x, s.add(s.splat(1.0), exp(s, s.sub(s.zero(), x))))
}

/// The hyperbolic tangent, relative error below 1e-6.
///
/// `(1 - e) / (1 + e)` with `e = e^-2|x|`; its Taylor polynomial of degree 13 where that would
/// cancel, below 0.5.
#[inline(always)]
pub fn tanh<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let (a, one) = (s.abs(x), s.splat(1.0));
    let e = exp(s, s.mul(a, s.splat(-2.0)));
    let large = s.copysign(s.div(s.sub(one, e), s.add(one, e)), x);
    let series = [
        1.0,
        -1.0 / 3.0,
        2.0 / 15.0,
        -17.0 / 315.0,
        62.0 / 2835.0,
        -1382.0 / 155_925.0,
        21844.0 / 6_081_075.0,
    ];
    let small = s.mul(x, polynomial(s, s.mul(x, x), series));
    s.select_lt(a, s.splat(0.5), small, large)
}

/// `x/2 · (1 + tanh(u))`, `u = √(2/π) (x + 0.044715 x³)`, computed as `x / (1 + e^-2u)`:
/// error below `2e-6 · max(1, |x|)`.
#[inline(always)]
pub fn gelu_tanh<S: Simd>(s: S, x: S::F32) -> S::F32 {
    const MINUS_2_ROOT: f32 = -1.595_769; // -2 √(2/π)
    let cubic = s.fma(s.mul(s.mul(x, x), x), s.splat(0.044_715), x);
    s.div(x, s.add(s.splat(1.0), exp(s, s.mul(cubic, s.splat(MINUS_2_ROOT)))))
}

/// `x Φ(x) = x/2 · (1 + erf(x/√2))`, error below `2e-6 · max(1, |x|)`.
///
/// `erfc(z) = e^-z² (a₁t + … + a₅t⁵)`, `t = 1 / (1 + 0.3275911 z)` for `z >= 0`, within 1.5e-7:
/// Abramowitz and Stegun, 7.1.26.
#[inline(always)]
pub fn gelu_erf<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let one = s.splat(1.0);
    let z = s.mul(s.abs(x), s.splat(std::f32::consts::FRAC_1_SQRT_2));
    let t = s.div(one, s.fma(z, s.splat(0.327_591_1), one));
    let a = [0.254_829_6, -0.284_496_72, 1.421_413_8, -1.453_152_1, 1.061_405_4];
    let gauss = exp(s, s.mul(s.sub(s.zero(), z), z));
    // Half of erfc(z): the weight of the tail beyond |x|.
    let tail = s.mul(s.mul(polynomial(s, t, a), t), s.mul(gauss, s.splat(0.5)));
    s.mul(x, s.select_lt(x, s.zero(), tail, s.sub(one, tail)))
}
