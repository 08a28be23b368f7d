//! A page of keys and values: where its elements lie, and the two products with it.
//!
//! Keys lie in columns, `[element][token]` over all heads: scores are then query element times a
//! register of keys, without horizontal sums. Values lie in blocks of [`VALUE_BLOCK`] elements,
//! `[block][token][element]` over all heads: what one head reads of a page is one stretch, walked
//! forward, so that neither the sets of a cache nor prefetching suffer from a stride. A single
//! token can be copied in both without knowing the heads.
//!
//! For a row and a key the additions run over the elements, for a row and an element over the keys,
//! in order, however many rows and registers a tile has.

use crate::kernels::stored::Stored;
use crate::simd::Simd;
use std::ops::Range;

/// Elements of a token's values that lie together: whole registers of every instruction set.
pub const VALUE_BLOCK: usize = 16;

/// Evaluates `$call` for blocks of rows with a constant number of them, until all `$rows` are
/// covered; the last block may have rows beyond.
macro_rules! for_row_blocks {
    ($rows:expr, |$r:ident, $n:ident| $call:expr) => {{
        let mut $r = 0;
        while $r < $rows {
            macro_rules! block {
                ($count:literal) => {{
                    const $n: usize = $count;
                    $call;
                    $r += $n;
                }};
            }
            match $rows - $r {
                1 => block!(1),
                2..=4 => block!(4),
                _ => block!(8),
            }
        }
    }};
}
pub(super) use for_row_blocks;

/// Registers of keys or values that a tile of `r` rows takes at once: sums enough to keep the units
/// busy, and no more than there are registers.
const fn registers<S: Simd>(r: usize) -> usize {
    if r <= 4 || S::REGISTERS >= 32 { 2 } else { 1 }
}

/// Converts `n` elements, a whole number of registers; asks for those of `next` meanwhile.
///
/// # Safety
/// Both hold `n` elements.
#[inline(always)]
pub(super) unsafe fn widen<S: Simd, T: Stored>(
    s: S,
    from: *const T,
    next: *const T,
    to: *mut f32,
    n: usize,
) {
    for i in (0..n).step_by(S::LANES) {
        if S::LANES * size_of::<T>() >= 16 {
            s.prefetch(next.wrapping_add(i).cast());
        }
        // SAFETY: the caller's promise.
        unsafe { s.store(to.add(i), T::load(s, from.add(i))) }
    }
}

/// Scores of `R` query rows with a page of keys, `keys[0]`; asks for those of the next page,
/// `keys[1]`, meanwhile.
///
/// # Safety
/// `q` holds the rows, `keys` `d` columns of `p` keys, `scores` rows of `p` that begin `stride`
/// apart; `p` is an even number of registers.
#[inline(always)]
pub(super) unsafe fn dot<S: Simd, K: Stored, const R: usize>(
    s: S,
    q: *const f32,
    keys: [*const K; 2],
    scores: *mut f32,
    shape: [usize; 3],
) {
    // SAFETY: the caller's promise.
    unsafe {
        if registers::<S>(R) == 1 {
            dot_columns::<S, K, R, 1>(s, q, keys, scores, shape);
        } else {
            dot_columns::<S, K, R, 2>(s, q, keys, scores, shape);
        }
    }
}

/// # Safety
/// As [`dot`].
#[inline(always)]
unsafe fn dot_columns<S: Simd, K: Stored, const R: usize, const C: usize>(
    s: S,
    q: *const f32,
    [keys, next]: [*const K; 2],
    scores: *mut f32,
    [d, p, stride]: [usize; 3],
) {
    for j in (0..p).step_by(C * S::LANES) {
        let mut acc = [[s.zero(); C]; R];
        for e in 0..d {
            // SAFETY: e < d, the registers lie within the p keys, the rows are those of the caller.
            unsafe {
                let at = e * p + j;
                if C * S::LANES * size_of::<K>() >= 32 {
                    s.prefetch(next.wrapping_add(at).cast());
                }
                let mut k = [s.zero(); C];
                for c in 0..C {
                    k[c] = K::load(s, keys.add(at + c * S::LANES));
                }
                for r in 0..R {
                    let q = s.broadcast(q.add(r * d + e));
                    for c in 0..C {
                        acc[r][c] = s.fma(q, k[c], acc[r][c]);
                    }
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                // SAFETY: as above.
                unsafe { s.store(scores.add(r * stride + j + c * S::LANES), acc[r][c]) }
            }
        }
    }
}

/// The values of one head in a page.
pub(super) struct Values<V> {
    /// The page.
    pub(super) page: *const V,
    /// The next page, or any address.
    pub(super) next: *const V,
    /// Elements of a token, all heads.
    pub(super) width: usize,
    /// First element of the head.
    pub(super) first: usize,
    /// The keys that are visible to some row.
    pub(super) used: Range<usize>,
}

/// A register of elements.
#[derive(Clone, Copy)]
struct Piece {
    /// Where it lies in the page for the first token.
    at: usize,
    /// Elements from one token to the next.
    stride: usize,
    /// Elements in it.
    n: usize,
}

impl<V: Stored> Values<V> {
    /// The register that begins at element `e` of the head's `d`.
    #[inline(always)]
    fn piece<S: Simd>(&self, e: usize, [d, p]: [usize; 2]) -> Piece {
        let at = self.first + e;
        let (block, inside) = (at - at % VALUE_BLOCK, at % VALUE_BLOCK);
        let stride = (self.width - block).min(VALUE_BLOCK);
        Piece { at: block * p + inside, stride, n: (stride - inside).min(d - e).min(S::LANES) }
    }

    /// The same values of a head as f32, which lie together; asks for the next page's meanwhile.
    ///
    /// # Safety
    /// The page has `p` tokens, `d` is a whole number of [`VALUE_BLOCK`], and `to` holds `d p`.
    #[inline(always)]
    pub(super) unsafe fn widened<S: Simd>(
        &self,
        s: S,
        to: *mut f32,
        [d, p]: [usize; 2],
    ) -> Values<f32> {
        // SAFETY: the caller's promise: heads are whole blocks, so this one begins with a block.
        unsafe {
            let first = self.first * p;
            widen(s, self.page.add(first), self.next.add(first), to, d * p);
        }
        Values { page: to, next: to, width: d, first: 0, used: self.used.clone() }
    }
}

/// Adds a page's values, weighted, to `R` rows of results; asks for the next page's meanwhile.
///
/// # Safety
/// `weights` holds rows of `p` that begin `stride` apart, `values` a page of `p` tokens, `out` rows of
/// `d` elements.
#[inline(always)]
pub(super) unsafe fn weigh<S: Simd, V: Stored, const R: usize>(
    s: S,
    weights: *const f32,
    values: &Values<V>,
    out: *mut f32,
    [d, p, stride]: [usize; 3],
) {
    let mut e = 0;
    while e < d {
        let first = values.piece::<S>(e, [d, p]);
        // Two registers at once where both are whole.
        let second = match registers::<S>(R) == 2 && first.n == S::LANES && e + S::LANES < d {
            true => values.piece::<S>(e + S::LANES, [d, p]),
            false => Piece { n: 0, ..first },
        };
        // SAFETY: the caller's promise; pieces lie within the head.
        unsafe {
            let out = out.add(e);
            if second.n == S::LANES {
                weigh_pieces::<S, V, R, 2>(s, weights, values, [first, second], out, [d, stride]);
                e += 2 * S::LANES;
            } else {
                weigh_pieces::<S, V, R, 1>(s, weights, values, [first], out, [d, stride]);
                e += first.n;
            }
        }
    }
}

/// Weighs `C` registers of elements, all with as many elements as the first.
///
/// # Safety
/// As [`weigh`]; `out` begins with the elements of the first piece.
#[inline(always)]
unsafe fn weigh_pieces<S: Simd, V: Stored, const R: usize, const C: usize>(
    s: S,
    weights: *const f32,
    values: &Values<V>,
    pieces: [Piece; C],
    out: *mut f32,
    [d, stride]: [usize; 2],
) {
    let n = pieces[0].n;
    let whole = C > 1 || n == S::LANES;
    // SAFETY: the used keys are below the stride, the pieces within a row, and the rows are the caller's.
    unsafe {
        let mut acc = [[s.zero(); C]; R];
        for r in 0..R {
            for c in 0..C {
                acc[r][c] = s.load_n(out.add(r * d + c * S::LANES), n);
            }
        }
        for j in values.used.clone() {
            let mut v = [s.zero(); C];
            for c in 0..C {
                let at = pieces[c].at + j * pieces[c].stride;
                if S::LANES * size_of::<V>() >= 16 {
                    s.prefetch(values.next.wrapping_add(at).cast());
                }
                let from = values.page.add(at);
                v[c] = if whole { V::load(s, from) } else { V::load_n(s, from, n) };
            }
            for r in 0..R {
                let w = s.broadcast(weights.add(r * stride + j));
                for c in 0..C {
                    acc[r][c] = s.fma(w, v[c], acc[r][c]);
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                s.store_n(out.add(r * d + c * S::LANES), n, acc[r][c]);
            }
        }
    }
}
