//! Mixes of two values, element by element: with the token before, or by a third value.

use super::norm::map;
use crate::simd::{Simd, WithSimd};
use std::ops::Range;

/// Arguments of [`shift`]: `y[t] = x[t] + mix ⊙ (x[t-1] - x[t])` over the tokens of one sequence.
#[derive(Clone, Copy)]
pub struct ShiftArgs {
    /// Tokens, `[tokens][width]`.
    pub x: *const f32,
    /// Results, `[tokens][width]`.
    pub y: *mut f32,
    /// How much of the token before, `[width]`.
    pub mix: *const f32,
    /// The token before the first, `[width]`; null: zeros.
    pub last: *const f32,
    /// How many tokens.
    pub tokens: usize,
    /// Elements of a token.
    pub width: usize,
}

/// Mixes columns `columns` of all tokens.
///
/// # Safety
/// The pointers hold what they say, nobody else touches these columns of `y`, and the instruction
/// set is present.
pub unsafe fn shift<S: Simd>(args: &ShiftArgs, columns: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { S::assume() }.vectorize(Shift(args, columns));
}

struct Shift<'a>(&'a ShiftArgs, Range<usize>);
impl WithSimd for Shift<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Shift(a, columns) = self;
        map(
            s,
            columns.len(),
            #[inline(always)]
            // SAFETY: the caller of `shift` vouches for the columns of every token.
            |i, n| unsafe {
                let at = columns.start + i;
                let mix = s.load_n(a.mix.add(at), n);
                let mut last = match a.last.is_null() {
                    true => s.zero(),
                    false => s.load_n(a.last.add(at), n),
                };
                for t in 0..a.tokens {
                    let x = s.load_n(a.x.add(t * a.width + at), n);
                    s.store_n(a.y.add(t * a.width + at), n, s.fma(mix, s.sub(last, x), x));
                    last = x;
                }
            },
        );
    }
}

/// Arguments of [`lerp`]: `y = from + t ⊙ (to - from)`, all of one shape.
#[derive(Clone, Copy)]
pub struct LerpArgs {
    /// Where `t` is 0.
    pub from: *const f32,
    /// Where `t` is 1.
    pub to: *const f32,
    /// How far.
    pub t: *const f32,
    /// Results.
    pub y: *mut f32,
}

/// Mixes elements `range`.
///
/// # Safety
/// As [`shift`].
pub unsafe fn lerp<S: Simd>(args: &LerpArgs, range: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { S::assume() }.vectorize(Lerp(args, range));
}

struct Lerp<'a>(&'a LerpArgs, Range<usize>);
impl WithSimd for Lerp<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Lerp(a, range) = self;
        map(
            s,
            range.len(),
            #[inline(always)]
            // SAFETY: the caller of `lerp` vouches for the elements of the range.
            |i, n| unsafe {
                let at = range.start + i;
                let from = s.load_n(a.from.add(at), n);
                let far = s.sub(s.load_n(a.to.add(at), n), from);
                s.store_n(a.y.add(at), n, s.fma(s.load_n(a.t.add(at), n), far, from));
            },
        );
    }
}
