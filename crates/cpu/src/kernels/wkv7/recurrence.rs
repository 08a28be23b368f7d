//! One token after the other: two passes over the state a token, `5 N²` multiplications a head.

use super::{Wkv7Args, Wkv7Item, finish, keys, tiles};
use crate::simd::Simd;

/// Registers of values that run together.
const TILE: usize = 2;
/// Sums of `κᵀ S` that run side by side, so that none waits for the one before.
const CHAINS: usize = 4;

/// Runs one token of a head.
///
/// # Safety
/// As [`super::wkv7`], of which this is a part; the state after holds the state before the token.
#[inline(always)]
pub(super) unsafe fn advance<S: Simd>(s: S, a: &Wkv7Args, item: &Wkv7Item, token: usize) {
    let (n, head) = (a.dim, item.head * a.dim);
    let at = token * a.width + head;
    // SAFETY: the caller's promise; tiles stay within the head, and keys below `n`.
    unsafe {
        let [kappa, b, k] = [0, 1, 2].map(
            #[inline(always)]
            |i| item.scratch.add(i * n),
        );
        keys(s, a, at, head, [kappa, b, k]);
        let (w, r) = (a.decay.add(at), a.r.add(at));
        tiles::<S, TILE>(
            s,
            n,
            #[inline(always)]
            |first, lanes| {
                // Whole tiles are the rule: there the lengths are constants.
                if lanes == [S::LANES; TILE] {
                    tile(s, a, item, [kappa, b, k, w, r], at, first, [S::LANES; TILE]);
                } else {
                    tile(s, a, item, [kappa, b, k, w, r], at, first, lanes);
                }
            },
        );
        finish(s, a, at, head, k);
    }
}

/// Advances the columns of a tile of values.
///
/// # Safety
/// As [`advance`].
#[inline(always)]
unsafe fn tile<S: Simd>(
    s: S,
    a: &Wkv7Args,
    item: &Wkv7Item,
    [kappa, b, k, w, r]: [*const f32; 5],
    at: usize,
    first: usize,
    lanes: [usize; TILE],
) {
    let n = a.dim;
    // SAFETY: the caller's promise.
    unsafe {
        let state = item.state_out.add(first);
        let mut sums = [[s.zero(); TILE]; CHAINS];
        let whole = n - n % CHAINS;
        let mut key = 0;
        while key < whole {
            for c in 0..CHAINS {
                let x = s.broadcast(kappa.add(key + c));
                for g in 0..TILE {
                    let p = state.add((key + c) * n + g * S::LANES);
                    sums[c][g] = s.fma(s.load_n(p, lanes[g]), x, sums[c][g]);
                }
            }
            key += CHAINS;
        }
        while key < n {
            let x = s.broadcast(kappa.add(key));
            for g in 0..TILE {
                let p = state.add(key * n + g * S::LANES);
                sums[0][g] = s.fma(s.load_n(p, lanes[g]), x, sums[0][g]);
            }
            key += 1;
        }
        let (mut seen, mut value, mut y) = ([s.zero(); TILE], [s.zero(); TILE], [s.zero(); TILE]);
        for g in 0..TILE {
            for c in 0..CHAINS {
                seen[g] = s.add(seen[g], sums[c][g]);
            }
            value[g] = s.load_n(a.v.add(at + first + g * S::LANES), lanes[g]);
        }
        for key in 0..n {
            let [w, b, k, r] = [w, b, k, r].map(
                #[inline(always)]
                |p| s.broadcast(p.add(key)),
            );
            for g in 0..TILE {
                let p = state.add(key * n + g * S::LANES);
                let kept = s.neg_fma(seen[g], b, s.mul(s.load_n(p, lanes[g]), w));
                let new = s.fma(value[g], k, kept);
                s.store_n(p, lanes[g], new);
                y[g] = s.fma(new, r, y[g]);
            }
        }
        for g in 0..TILE {
            s.store_n(a.y.add(at + first + g * S::LANES), lanes[g], y[g]);
        }
    }
}
