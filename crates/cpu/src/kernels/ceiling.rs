//! What one core can do at most: reading, f32 arithmetic, integer dot products.
//!
//! The bodies are the innermost loops of the real kernels with everything else taken away:
//! independent accumulators, operands in registers or in the first cache. What they reach is the
//! number that a real kernel is a percentage of.

use crate::simd::{Simd, WithSimd};
use std::hint::black_box;

/// Accumulators of an instruction set with 16 registers; those with 32 take twice as many.
const ACCS: usize = 6;
/// Weight fragments that stay in the first cache.
const FRAGMENTS: usize = 32;
/// Bytes of the widest register.
const WIDEST: usize = 64;

/// Reads all bytes but a rest below a register's length. What it returns only says that they were
/// read.
pub struct Read<'a>(pub &'a [u8]);

impl WithSimd for Read<'_> {
    type Output = u8;
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) -> u8 {
        let step = 4 * S::LANES;
        let (p, n) = (self.0.as_ptr(), self.0.len());
        if n < step {
            return 0;
        }
        let mut last = [0u8; WIDEST];
        const { assert!(4 * S::LANES <= WIDEST) };
        // SAFETY: every load is of `step` bytes that lie within the slice, and `last` holds as
        // many.
        unsafe {
            let mut acc = [s.bytes_load(p); 4];
            let mut i = 0;
            while i + 4 * step <= n {
                let at = p.add(i);
                acc[0] = s.bytes_or(acc[0], s.bytes_load(at));
                acc[1] = s.bytes_or(acc[1], s.bytes_load(at.add(step)));
                acc[2] = s.bytes_or(acc[2], s.bytes_load(at.add(2 * step)));
                acc[3] = s.bytes_or(acc[3], s.bytes_load(at.add(3 * step)));
                i += 4 * step;
            }
            let all = s.bytes_or(s.bytes_or(acc[0], acc[1]), s.bytes_or(acc[2], acc[3]));
            s.bytes_store(last.as_mut_ptr(), all);
        }
        last.iter().fold(0, |a, b| a | b)
    }
}

/// So many rounds of fused multiply-adds in independent chains.
pub struct MulAdd(pub usize);

impl MulAdd {
    /// Operations a round, for each lane.
    pub const OPS: usize = 2 * 2 * ACCS;
}

impl WithSimd for MulAdd {
    type Output = f32;
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) -> f32 {
        let (a, b) = (s.splat(black_box(0.5)), s.splat(black_box(0.25)));
        // Different beginnings that the compiler cannot see: equal chains would be one.
        let first = black_box([1.0; 2 * ACCS]);
        let mut acc = [a; 2 * ACCS];
        for (x, &f) in acc.iter_mut().zip(&first) {
            *x = s.splat(f);
        }
        for _ in 0..self.0 {
            for x in &mut acc {
                *x = s.fma(*x, a, b);
            }
        }
        let mut sum = s.zero();
        for x in acc {
            sum = s.add(sum, x);
        }
        s.sum(sum)
    }
}

/// So many rounds of integer dot products: every fragment of a small panel with several tokens.
pub struct Mma(pub usize);

impl Mma {
    /// Operations a round: a multiplication and an addition for each of four bytes.
    pub const fn ops<S: Simd>() -> usize {
        FRAGMENTS * tokens::<S>() * S::LANES * 4 * 2
    }
}

/// Tokens that a fragment meets: as many as registers allow.
const fn tokens<S: Simd>() -> usize {
    if S::TILE_TOKENS >= 2 * ACCS { 2 * ACCS } else { ACCS }
}

impl WithSimd for Mma {
    type Output = f32;
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) -> f32 {
        if const { tokens::<S>() == ACCS } {
            panel::<S, ACCS>(s, self.0)
        } else {
            panel::<S, { 2 * ACCS }>(s, self.0)
        }
    }
}

#[inline(always)]
fn panel<S: Simd, const T: usize>(s: S, rounds: usize) -> f32 {
    let step = 4 * S::LANES;
    const { assert!(4 * S::LANES <= WIDEST) };
    let weights = black_box([3u8; FRAGMENTS * WIDEST]);
    let x = black_box([0x0101_0101u32; T]);
    let mut acc = [s.i32_zero(); T];
    // SAFETY: the panel holds `FRAGMENTS` fragments, and each number of `x` is four aligned bytes.
    unsafe {
        let mut tokens = [s.bytes_load(weights.as_ptr()); T];
        for (t, x) in tokens.iter_mut().zip(&x) {
            *t = s.bytes_broadcast((x as *const u32).cast());
        }
        for _ in 0..rounds {
            // Only the address is opaque: it keeps the loads, and the products, in the loop.
            let panel = black_box(weights.as_ptr());
            if S::COLS == 2 {
                for f in (0..FRAGMENTS).step_by(2) {
                    let at = panel.add(f * step);
                    let w = [s.bytes_load(at), s.bytes_load(at.add(step))];
                    for t in (0..T).step_by(2) {
                        let x = x.as_ptr().add(t).cast();
                        [acc[t], acc[t + 1]] = s.mma_pair([acc[t], acc[t + 1]], w, [x; 2]);
                    }
                }
                continue;
            }
            for f in 0..FRAGMENTS {
                let w = s.bytes_load(panel.add(f * step));
                for (a, &t) in acc.iter_mut().zip(&tokens) {
                    *a = s.mma_u7(*a, w, t);
                }
            }
        }
    }
    let mut sum = s.zero();
    for a in acc {
        sum = s.add(sum, s.i32_to_f32(a));
    }
    s.sum(sum)
}
