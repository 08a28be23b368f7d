//! Normalisation, alone and fused with the residual before it.
//!
//! Rows of `width` f32 elements. RMS norm (Zhang and Sennrich 2019): `x / sqrt(mean(x²) + eps) · w`;
//! layer norm (Ba et al. 2016): `(x - mean) / sqrt(var + eps) · w + b`. Sums run in the lanes of
//! one accumulator set, in an order that depends on the width only.

use crate::simd::{Simd, WithSimd};
use std::ops::Range;

/// One normalisation of rows of `width` elements.
#[derive(Clone, Copy)]
pub struct NormSpec {
    /// Layer norm instead of RMS.
    pub centred: bool,
    /// `width` factors, or null.
    pub weight: *const f32,
    /// `width` summands, or null.
    pub bias: *const f32,
    /// Added to the mean square.
    pub eps: f32,
}

/// Arguments of [`norm`].
#[derive(Clone, Copy)]
pub struct NormArgs {
    /// Rows in.
    pub x: *const f32,
    /// Rows out; may be `x`.
    pub y: *mut f32,
    /// Elements of a row.
    pub width: usize,
    /// What to do.
    pub spec: NormSpec,
}

/// Arguments of [`add_norm`]: `sum = x + scale · post(delta)`, `normed = norm(sum)`.
#[derive(Clone, Copy)]
pub struct AddNormArgs {
    /// The stream.
    pub x: *const f32,
    /// What is added.
    pub delta: *const f32,
    /// The new stream.
    pub sum: *mut f32,
    /// Its norm.
    pub normed: *mut f32,
    /// Elements of a row.
    pub width: usize,
    /// Multiplies what is added.
    pub scale: f32,
    /// Applied to `delta` first.
    pub post: Option<NormSpec>,
    /// Applied to the sum.
    pub norm: NormSpec,
}

/// Normalises a range of rows.
///
/// # Safety
/// The pointers hold all rows of the range, nobody else touches those of `y`, and the instruction
/// set is present.
pub unsafe fn norm<S: Simd>(args: &NormArgs, rows: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { S::assume() }.vectorize(Rows(args, rows));
}

/// Adds and normalises a range of rows.
///
/// # Safety
/// As [`norm`].
pub unsafe fn add_norm<S: Simd>(args: &AddNormArgs, rows: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { S::assume() }.vectorize(AddRows(args, rows));
}

struct Rows<'a>(&'a NormArgs, Range<usize>);
impl WithSimd for Rows<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Rows(a, rows) = self;
        for r in rows {
            // SAFETY: the caller of `norm` vouches for the rows of the range.
            unsafe { row(s, a.x.add(r * a.width), a.y.add(r * a.width), a.width, &a.spec) }
        }
    }
}

struct AddRows<'a>(&'a AddNormArgs, Range<usize>);
impl WithSimd for AddRows<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let AddRows(a, rows) = self;
        let scale = s.splat(a.scale);
        for r in rows {
            // SAFETY: the caller of `add_norm` vouches for the rows of the range.
            unsafe {
                let at = r * a.width;
                let sum = a.sum.add(at);
                let mut delta = a.delta.add(at);
                if let Some(post) = &a.post {
                    // The normed row is written last, so it can hold this one meanwhile.
                    row(s, delta, a.normed.add(at), a.width, post);
                    delta = a.normed.add(at);
                }
                map(
                    s,
                    a.width,
                    #[inline(always)]
                    |i, n| {
                        let x = s.load_n(a.x.add(at + i), n);
                        s.store_n(sum.add(i), n, s.fma(scale, s.load_n(delta.add(i), n), x));
                    },
                );
                row(s, sum, a.normed.add(at), a.width, &a.norm);
            }
        }
    }
}

/// Calls `f(start, lanes)` over `0..n` in whole registers and a tail.
#[inline(always)]
pub(crate) fn map<S: Simd>(_: S, n: usize, mut f: impl FnMut(usize, usize)) {
    let whole = n - n % S::LANES;
    let mut i = 0;
    while i < whole {
        f(i, S::LANES);
        i += S::LANES;
    }
    if whole < n {
        f(whole, n - whole);
    }
}

/// Zeros `n` elements.
///
/// # Safety
/// `p` is writable for `n` elements.
#[inline(always)]
pub(crate) unsafe fn zero<S: Simd>(s: S, p: *mut f32, n: usize) {
    // SAFETY: the caller's promise; `map` stays below `n`.
    map(
        s,
        n,
        #[inline(always)]
        |i, m| unsafe { s.store_n(p.add(i), m, s.zero()) },
    );
}

/// Normalises one row.
///
/// # Safety
/// `x` and `y` (possibly the same) hold `n` elements, as do the weights.
#[inline(always)]
pub(crate) unsafe fn row<S: Simd>(s: S, x: *const f32, y: *mut f32, n: usize, spec: &NormSpec) {
    // SAFETY: the caller's promise; `map` stays below `n`.
    unsafe {
        let inverse = 1.0 / n as f32;
        let mut mean = 0.0;
        if spec.centred {
            let mut acc = s.zero();
            map(
                s,
                n,
                #[inline(always)]
                |i, m| acc = s.add(acc, s.load_n(x.add(i), m)),
            );
            mean = s.sum(acc) * inverse;
        }
        let centre = s.splat(mean);
        let mut acc = s.zero();
        let whole = n - n % S::LANES;
        map(
            s,
            whole,
            #[inline(always)]
            |i, _| {
                let d = s.sub(s.load(x.add(i)), centre);
                acc = s.fma(d, d, acc);
            },
        );
        let mut square = s.sum(acc);
        for i in whole..n {
            square += (*x.add(i) - mean) * (*x.add(i) - mean);
        }
        let factor = s.splat(1.0 / (square * inverse + spec.eps).sqrt());
        map(
            s,
            n,
            #[inline(always)]
            |i, m| {
                let mut v = s.mul(s.sub(s.load_n(x.add(i), m), centre), factor);
                if !spec.weight.is_null() {
                    v = s.mul(v, s.load_n(spec.weight.add(i), m));
                }
                if !spec.bias.is_null() {
                    v = s.add(v, s.load_n(spec.bias.add(i), m));
                }
                s.store_n(y.add(i), m, v);
            },
        );
    }
}
