//! Sixteen tokens at once: the state is read and written once for all of them.
//!
//! The form is that of Yang et al. (2024) for the delta rule, with a decay for each key. Let `P` be
//! the product of the decays of a key from the first token of the chunk to this one, `P̂` the
//! same without this token's. With rows `i`, columns `j`:
//!
//! ```text
//! α = -κ ⊙ P̂    q = r ⊙ P    k̂ = k' / P    b̂ = b / P
//! U_i = α_i S + Σ_{j<i} (α_i·k̂_j) v_j + (α_i·b̂_j) U_j         by forward substitution
//! y_i = q_i S + Σ_{j≤i} (q_i·k̂_j) v_j + (q_i·b̂_j) U_j
//! S = P_last ⊙ (S + Σ_j k̂_j v_jᵀ + b̂_j U_jᵀ)
//! ```
//!
//! `P` is a product of at most sixteen decays of at least `e^(-e^(-1/2))`, so `1 / P` is below
//! 17,000 and the products above lose no more than the recurrence does.

use super::{Wkv7Args, Wkv7Item, chunk_range, finish, keys};
use crate::kernels::norm::map;
use crate::simd::Simd;

/// Tokens of a chunk.
pub(super) const TOKENS: usize = 16;
/// Rows of scratch, of a head's width: for each token `α q k̂ b̂ U k'`, and the products `P`.
pub(super) const SCRATCH_ROWS: usize = 6 * TOKENS + 1;
/// Registers of values that run together.
const TILE: usize = 2;
/// Rows that run together.
const ROWS: usize = 4;

/// Whether heads of `dim` elements are whole tiles.
#[inline(always)]
pub(super) fn fits<S: Simd>(dim: usize) -> bool {
    dim.is_multiple_of(TILE * S::LANES) && dim.is_multiple_of(ROWS)
}

/// The scratch, cut into rows.
struct Rows {
    alpha: *mut f32,
    q: *mut f32,
    k: *mut f32,
    b: *mut f32,
    u: *mut f32,
    k_new: *mut f32,
    product: *mut f32,
}

/// Where the head lies in the vectors of the chunk's tokens.
struct Place {
    first: usize,
    width: usize,
}

impl Place {
    #[inline(always)]
    fn token(&self, i: usize) -> usize {
        self.first + i * self.width
    }
}

/// Runs the chunk that begins with token `first`.
///
/// # Safety
/// As [`super::wkv7`], of which this is a part; [`fits`] holds, and the sequence has the tokens.
#[inline(always)]
pub(super) unsafe fn advance<S: Simd>(s: S, a: &Wkv7Args, item: &Wkv7Item, first: usize) {
    let (n, head) = (a.dim, item.head * a.dim);
    let at = Place { first: first * a.width + head, width: a.width };
    // SAFETY: the caller's promise; rows and columns stay within the scratch, the head and the
    // chunk.
    unsafe {
        let block = TOKENS * n;
        let rows = Rows {
            alpha: item.scratch,
            q: item.scratch.add(block),
            k: item.scratch.add(2 * block),
            b: item.scratch.add(3 * block),
            u: item.scratch.add(4 * block),
            k_new: item.scratch.add(5 * block),
            product: item.scratch.add(6 * block),
        };
        scale(s, a, head, &at, &rows);

        // [U; y] = [α; q] S.
        let state = item.state_out;
        for i in (0..TOKENS).step_by(ROWS) {
            through(s, n, rows.alpha.add(i * n), state, rows.u.add(i * n), n);
            through(s, n, rows.q.add(i * n), state, a.y.add(at.token(i)), a.width);
        }
        within(s, a, &at, &rows);
        carry(s, a, &at, &rows, state);

        for token in chunk_range(first) {
            finish(s, a, token * a.width + head, head, rows.k_new.add((token - first) * n));
        }
    }
}

/// Writes `α q k̂ b̂ k'` of each token, and `P` of the last.
///
/// # Safety
/// As [`advance`].
#[inline(always)]
unsafe fn scale<S: Simd>(s: S, a: &Wkv7Args, head: usize, at: &Place, rows: &Rows) {
    let n = a.dim;
    // SAFETY: the caller's promise.
    unsafe {
        map(
            s,
            n,
            #[inline(always)]
            |i, m| s.store_n(rows.product.add(i), m, s.splat(1.0)),
        );
        for t in 0..TOKENS {
            let (at, own) = (at.token(t), t * n);
            keys(s, a, at, head, [rows.alpha.add(own), rows.b.add(own), rows.k_new.add(own)]);
            map(
                s,
                n,
                #[inline(always)]
                |i, m| {
                    let before = s.load_n(rows.product.add(i), m);
                    let product = s.mul(before, s.load_n(a.decay.add(at + i), m));
                    s.store_n(rows.product.add(i), m, product);
                    let inverse = s.div(s.splat(1.0), product);
                    let p = own + i;
                    let kappa = s.load_n(rows.alpha.add(p), m);
                    s.store_n(rows.alpha.add(p), m, s.mul(s.sub(s.zero(), kappa), before));
                    let r = s.load_n(a.r.add(at + i), m);
                    s.store_n(rows.q.add(p), m, s.mul(r, product));
                    s.store_n(rows.b.add(p), m, s.mul(s.load_n(rows.b.add(p), m), inverse));
                    let k = s.load_n(rows.k_new.add(p), m);
                    s.store_n(rows.k.add(p), m, s.mul(k, inverse));
                },
            );
        }
    }
}

/// `y = x S` for [`ROWS`] rows of `n` elements.
///
/// # Safety
/// `x` holds the rows, `state` is `[n][n]`, `y` holds as many rows, `stride` apart; [`fits`] holds.
#[inline(always)]
unsafe fn through<S: Simd>(
    s: S,
    n: usize,
    x: *const f32,
    state: *const f32,
    y: *mut f32,
    stride: usize,
) {
    for first in (0..n).step_by(TILE * S::LANES) {
        let mut sums = [[s.zero(); TILE]; ROWS];
        // SAFETY: the caller's promise; tiles are whole.
        unsafe {
            for key in 0..n {
                let p = state.add(key * n + first);
                let mut values = [s.zero(); TILE];
                for g in 0..TILE {
                    values[g] = s.load(p.add(g * S::LANES));
                }
                for r in 0..ROWS {
                    let x = s.broadcast(x.add(r * n + key));
                    for g in 0..TILE {
                        sums[r][g] = s.fma(x, values[g], sums[r][g]);
                    }
                }
            }
            for r in 0..ROWS {
                for g in 0..TILE {
                    s.store(y.add(r * stride + first + g * S::LANES), sums[r][g]);
                }
            }
        }
    }
}

/// Adds what the tokens of the chunk give each other, in `U` and in `y`.
///
/// # Safety
/// As [`advance`]; `U` and `y` hold what the state gives.
#[inline(always)]
unsafe fn within<S: Simd>(s: S, a: &Wkv7Args, at: &Place, rows: &Rows) {
    let n = a.dim;
    for i in 0..TOKENS {
        // The four products of row `i` with each row `j <= i`.
        let mut products = [[0.0f32; 4]; TOKENS];
        // SAFETY: the caller's promise; heads are whole registers.
        unsafe {
            for j in 0..=i {
                let mut sums = [s.zero(); 4];
                for c in (0..n).step_by(S::LANES) {
                    let [alpha, q] = [rows.alpha, rows.q].map(
                        #[inline(always)]
                        |p| s.load(p.add(i * n + c)),
                    );
                    let [k, b] = [rows.k, rows.b].map(
                        #[inline(always)]
                        |p| s.load(p.add(j * n + c)),
                    );
                    sums[0] = s.fma(alpha, k, sums[0]);
                    sums[1] = s.fma(alpha, b, sums[1]);
                    sums[2] = s.fma(q, k, sums[2]);
                    sums[3] = s.fma(q, b, sums[3]);
                }
                for (to, sum) in products[j].iter_mut().zip(sums) {
                    *to = s.sum(sum);
                }
            }
            for c in (0..n).step_by(S::LANES) {
                let (own_u, own_y) = (rows.u.add(i * n + c), a.y.add(at.token(i) + c));
                let (mut u, mut y) = (s.load(own_u), s.load(own_y));
                for (j, &[ak, ab, qk, qb]) in products[..i].iter().enumerate() {
                    let (v, before) =
                        (s.load(a.v.add(at.token(j) + c)), s.load(rows.u.add(j * n + c)));
                    u = s.fma(s.splat(ab), before, s.fma(s.splat(ak), v, u));
                    y = s.fma(s.splat(qb), before, s.fma(s.splat(qk), v, y));
                }
                let [.., qk, qb] = products[i];
                y = s.fma(s.splat(qb), u, s.fma(s.splat(qk), s.load(a.v.add(at.token(i) + c)), y));
                s.store(own_u, u);
                s.store(own_y, y);
            }
        }
    }
}

/// The state after the chunk.
///
/// # Safety
/// As [`advance`]; `U` is complete.
#[inline(always)]
unsafe fn carry<S: Simd>(s: S, a: &Wkv7Args, at: &Place, rows: &Rows, state: *mut f32) {
    let n = a.dim;
    for first in (0..n).step_by(TILE * S::LANES) {
        for key in (0..n).step_by(ROWS) {
            // SAFETY: the caller's promise; tiles are whole.
            unsafe {
                let mut sums = [[s.zero(); TILE]; ROWS];
                for r in 0..ROWS {
                    for g in 0..TILE {
                        sums[r][g] = s.load(state.add((key + r) * n + first + g * S::LANES));
                    }
                }
                for j in 0..TOKENS {
                    let (mut v, mut u) = ([s.zero(); TILE], [s.zero(); TILE]);
                    for g in 0..TILE {
                        v[g] = s.load(a.v.add(at.token(j) + first + g * S::LANES));
                        u[g] = s.load(rows.u.add(j * n + first + g * S::LANES));
                    }
                    for r in 0..ROWS {
                        let k = s.broadcast(rows.k.add(j * n + key + r));
                        let b = s.broadcast(rows.b.add(j * n + key + r));
                        for g in 0..TILE {
                            sums[r][g] = s.fma(b, u[g], s.fma(k, v[g], sums[r][g]));
                        }
                    }
                }
                for r in 0..ROWS {
                    let product = s.broadcast(rows.product.add(key + r));
                    for g in 0..TILE {
                        let to = state.add((key + r) * n + first + g * S::LANES);
                        s.store(to, s.mul(product, sums[r][g]));
                    }
                }
            }
        }
    }
}
