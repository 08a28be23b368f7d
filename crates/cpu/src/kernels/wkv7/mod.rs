//! The recurrence of RWKV-7 (Peng et al. 2025), one head of one sequence at a time.
//!
//! With `N` elements a head, the state is a matrix `S` of `N` keys by `N` values, in f32, stored
//! `[key][value]` so that the values of a key are one stretch: everything is vectorised over
//! values, and no sum runs across lanes. A token, with its vectors `r, w, k, v, a, g` of the head:
//!
//! ```text
//! κ = k ⊙ k_k, scaled to length one (a length below 1e-12 counts as that)
//! b = κ ⊙ a
//! k' = k + k ⊙ (a - 1) ⊙ k_a
//! S = diag(w) S - b (κᵀ S) + k' vᵀ        with the old S in κᵀ S
//! y = rᵀ S
//! y = norm(y) + (Σ r ⊙ k' ⊙ r_k) v, times g
//! ```
//!
//! [`recurrence`] does that token by token. [`chunk`] does sixteen tokens at once by products of
//! small matrices, which is another order of summation: equal up to rounding.

// A register tile is indexed by register and row throughout: that is what the loops say.
#![allow(clippy::needless_range_loop)]

mod chunk;
mod recurrence;

use super::norm::{NormSpec, map, row};
use crate::simd::{Simd, WithSimd};
use std::ops::Range;

/// What all heads of all sequences share. Vectors of tokens are `[token][width]`.
#[derive(Clone, Copy)]
pub struct Wkv7Args {
    /// Receptance.
    pub r: *const f32,
    /// Decay of each key, 0 to 1.
    pub decay: *const f32,
    /// Keys.
    pub k: *const f32,
    /// Values.
    pub v: *const f32,
    /// In-context learning rates.
    pub a: *const f32,
    /// Gates.
    pub g: *const f32,
    /// Results.
    pub y: *mut f32,
    /// Elements of a token.
    pub width: usize,
    /// Elements of a head.
    pub dim: usize,
    /// `[width]`
    pub k_k: *const f32,
    /// `[width]`
    pub k_a: *const f32,
    /// `[width]`
    pub r_k: *const f32,
    /// Over each head, with weights for all heads, `[width]`.
    pub norm: NormSpec,
    /// From how many tokens on the chunks are used; the decays are then those of
    /// [`gristmill_ir::Act::Decay`], at least `e^(-e^(-1/2))`.
    pub chunks_from: usize,
}

/// A head of a sequence.
#[derive(Clone, Copy)]
pub struct Wkv7Item {
    /// Which head.
    pub head: usize,
    /// First token of the sequence.
    pub first: usize,
    /// How many tokens.
    pub tokens: usize,
    /// The state before, `[dim][dim]`; null: zeros.
    pub state_in: *const f32,
    /// The state after; may be `state_in`.
    pub state_out: *mut f32,
    /// [`scratch_floats`] numbers.
    pub scratch: *mut f32,
}

/// Numbers of scratch for a head of `dim` elements.
pub fn scratch_floats(dim: usize) -> usize {
    chunk::SCRATCH_ROWS * dim
}

/// Runs the tokens of a head.
///
/// # Safety
/// The pointers hold what they say; nobody else touches the head's columns of `y`, its state after
/// and the scratch; the instruction set is present.
pub unsafe fn wkv7<S: Simd>(args: &Wkv7Args, item: &Wkv7Item) {
    // SAFETY: the caller's promise.
    unsafe { S::assume() }.vectorize(Head(args, item));
}

struct Head<'a>(&'a Wkv7Args, &'a Wkv7Item);
impl WithSimd for Head<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Head(a, item) = self;
        let state = item.state_out;
        // SAFETY: the caller of `wkv7` vouches for the state and for every token of the item.
        unsafe {
            map(
                s,
                a.dim * a.dim,
                #[inline(always)]
                |i, n| {
                    let old = match item.state_in.is_null() {
                        true => s.zero(),
                        false => s.load_n(item.state_in.add(i), n),
                    };
                    s.store_n(state.add(i), n, old);
                },
            );
            let mut t = item.first;
            let end = item.first + item.tokens;
            if item.tokens >= a.chunks_from && chunk::fits::<S>(a.dim) {
                while t + chunk::TOKENS <= end {
                    chunk::advance(s, a, item, t);
                    t += chunk::TOKENS;
                }
            }
            while t < end {
                recurrence::advance(s, a, item, t);
                t += 1;
            }
        }
    }
}

/// `κ`, `b` and `k'` of a token's head. `at` is where the head lies in the token's vectors, `head`
/// where it lies in those of the layer.
///
/// # Safety
/// As [`wkv7`]; the three results hold `dim` numbers each.
#[inline(always)]
unsafe fn keys<S: Simd>(s: S, a: &Wkv7Args, at: usize, head: usize, out: [*mut f32; 3]) {
    let [kappa, b, k_new] = out;
    // SAFETY: the caller's promise; `map` stays below `dim`.
    unsafe {
        let mut square = s.zero();
        map(
            s,
            a.dim,
            #[inline(always)]
            |i, n| {
                let x = s.mul(s.load_n(a.k.add(at + i), n), s.load_n(a.k_k.add(head + i), n));
                s.store_n(kappa.add(i), n, x);
                square = s.fma(x, x, square);
            },
        );
        let factor = s.splat(1.0 / s.sum(square).sqrt().max(1e-12));
        map(
            s,
            a.dim,
            #[inline(always)]
            |i, n| {
                let x = s.mul(s.load_n(kappa.add(i), n), factor);
                let rate = s.load_n(a.a.add(at + i), n);
                let k = s.load_n(a.k.add(at + i), n);
                let change = s.mul(s.sub(rate, s.splat(1.0)), s.load_n(a.k_a.add(head + i), n));
                s.store_n(kappa.add(i), n, x);
                s.store_n(b.add(i), n, s.mul(x, rate));
                s.store_n(k_new.add(i), n, s.fma(k, change, k));
            },
        );
    }
}

/// What follows the recurrence of a token's head: the norm, the token's own value, the gate.
///
/// # Safety
/// As [`keys`]; `y` holds the head's sums, `k_new` its `k'`.
#[inline(always)]
unsafe fn finish<S: Simd>(s: S, a: &Wkv7Args, at: usize, head: usize, k_new: *const f32) {
    // SAFETY: the caller's promise; `map` and `row` stay below `dim`.
    unsafe {
        let y = a.y.add(at);
        let [weight, bias] = [a.norm.weight, a.norm.bias].map(
            #[inline(always)]
            |p| if p.is_null() { p } else { p.add(head) },
        );
        let norm = NormSpec { weight, bias, ..a.norm };
        row(s, y, y, a.dim, &norm);
        let mut own = s.zero();
        map(
            s,
            a.dim,
            #[inline(always)]
            |i, n| {
                let rk = s.mul(s.load_n(a.r.add(at + i), n), s.load_n(a.r_k.add(head + i), n));
                own = s.fma(rk, s.load_n(k_new.add(i), n), own);
            },
        );
        let own = s.splat(s.sum(own));
        map(
            s,
            a.dim,
            #[inline(always)]
            |i, n| {
                let x = s.fma(own, s.load_n(a.v.add(at + i), n), s.load_n(y.add(i), n));
                s.store_n(y.add(i), n, s.mul(x, s.load_n(a.g.add(at + i), n)));
            },
        );
    }
}

/// Calls `f(first, lanes of each register)` over `0..n` in tiles of `G` registers, the last of which
/// may be narrower or empty.
#[inline(always)]
fn tiles<S: Simd, const G: usize>(_: S, n: usize, mut f: impl FnMut(usize, Lanes<G>)) {
    for first in (0..n).step_by(G * S::LANES) {
        let mut lanes = [0; G];
        let mut left = n - first;
        for l in &mut lanes {
            *l = left.min(S::LANES);
            left -= *l;
        }
        f(first, lanes);
    }
}

/// How many lanes of each register of a tile count.
type Lanes<const G: usize> = [usize; G];

/// The range of tokens of a chunk.
const fn chunk_range(first: usize) -> Range<usize> {
    first..first + chunk::TOKENS
}
