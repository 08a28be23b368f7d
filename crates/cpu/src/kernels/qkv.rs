//! What follows the QKV projection: norms of queries and keys, the rotation, the cache write.
//!
//! A row of the projection is `[q heads | k heads | v heads]`, each of `head_dim` elements. Queries
//! are normed and rotated into the op's value; keys likewise, then scattered into their page in
//! columns, `[kv head][element][token of the page]`, so that attention finds the keys of one
//! element side by side; values go in blocks, see [`VALUE_BLOCK`].

use super::attention::VALUE_BLOCK;
use super::norm::{NormSpec, map, row};
use super::stored::Stored;
use crate::simd::{Simd, WithSimd};
use gristmill_core::DType;
use std::ops::Range;

/// Lanes of the widest instruction set.
const MAX_LANES: usize = 16;

/// The rotation of a token's heads: `y[i] = x[i] cos[i] + x[partner of i] sin[i]`, where `sin` is that
/// of minus the angle for the first of a pair.
#[derive(Clone, Copy)]
pub struct RopeArgs {
    /// `[token][cos, sin][dims]`.
    pub table: *const f32,
    /// Elements that rotate, even.
    pub dims: usize,
    /// Whether pairs are (2i, 2i+1) instead of (i, i + dims/2).
    pub adjacent: bool,
}

/// Arguments of a [`QkvFn`].
#[derive(Clone, Copy)]
pub struct QkvArgs {
    /// The projection, `[token][(heads + 2 kv_heads) head_dim]`; used as scratch.
    pub projected: *mut f32,
    /// The queries out, `[token][heads head_dim]`.
    pub q: *mut f32,
    /// Pages of keys.
    pub k_pages: *mut u8,
    /// Pages of values.
    pub v_pages: *mut u8,
    /// The row of the cache that each token goes to: `page · page_tokens + i`.
    pub cache_rows: *const u32,
    /// Tokens of a page.
    pub page_tokens: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Norms of queries and keys.
    pub norms: [Option<NormSpec>; 2],
    /// Whether those norms run over all heads together.
    pub norm_full: bool,
    /// The rotation.
    pub rope: Option<RopeArgs>,
}

/// Finishes a range of tokens.
///
/// # Safety
/// The pointers hold all tokens of the range and the pages of their cache rows; nobody else touches
/// what belongs to them; the instruction set is present.
pub type QkvFn = unsafe fn(&QkvArgs, Range<usize>);

/// The kernel for these stored types; `None` for a type that caches cannot have.
pub fn select<S: Simd>(k: DType, v: DType) -> Option<QkvFn> {
    super::for_kv_types!(S, k, v, finish)
}

/// A [`QkvFn`] for any elements.
///
/// # Safety
/// As [`QkvFn`].
pub(super) unsafe fn finish<S: Simd, K: Stored, V: Stored>(args: &QkvArgs, tokens: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { S::assume() }.vectorize(Tokens::<K, V>(args, tokens, std::marker::PhantomData));
}

struct Tokens<'a, K, V>(&'a QkvArgs, Range<usize>, std::marker::PhantomData<(K, V)>);

impl<K: Stored, V: Stored> WithSimd for Tokens<'_, K, V> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Tokens(a, tokens, _) = self;
        let (d, p) = (a.head_dim, a.page_tokens);
        let (q_width, kv_width) = (a.heads * d, a.kv_heads * d);
        for t in tokens {
            // SAFETY: the caller vouches for the token's row, its queries and its cache row; all
            // offsets below stay within them.
            unsafe {
                let q = a.projected.add(t * (q_width + 2 * kv_width));
                let (k, v) = (q.add(q_width), q.add(q_width + kv_width));
                for (x, width, norm) in [(q, q_width, a.norms[0]), (k, kv_width, a.norms[1])] {
                    if let Some(norm) = &norm {
                        let step = if a.norm_full { width } else { d };
                        for at in (0..width).step_by(step) {
                            row(s, x.add(at), x.add(at), step, norm);
                        }
                    }
                    if let Some(rope) = &a.rope {
                        let angles = rope.table.add(2 * t * rope.dims);
                        for at in (0..width).step_by(d) {
                            rotate(s, x.add(at), angles, rope);
                        }
                    }
                }
                let out = a.q.add(t * q_width);
                map(
                    s,
                    q_width,
                    #[inline(always)]
                    |i, n| s.store_n(out.add(i), n, s.load_n(q.add(i), n)),
                );
                let (page, slot) = split(*a.cache_rows.add(t), p);
                let page_at = page * kv_width * p;
                let keys = a.k_pages.cast::<K>().add(page_at);
                // Rounded a register at a time, then spread over the columns.
                let mut lane = [K::default(); MAX_LANES];
                map(
                    s,
                    kv_width,
                    #[inline(always)]
                    |i, n| {
                        K::store_n(s, lane.as_mut_ptr(), n, s.load_n(k.add(i), n));
                        for (j, &key) in lane[..n].iter().enumerate() {
                            *keys.add((i + j) * p + slot) = key;
                        }
                    },
                );
                let values = a.v_pages.cast::<V>().add(page_at);
                for block in (0..kv_width).step_by(VALUE_BLOCK) {
                    let width = (kv_width - block).min(VALUE_BLOCK);
                    let (from, to) = (v.add(block), values.add(block * p + slot * width));
                    map(
                        s,
                        width,
                        #[inline(always)]
                        |i, n| V::store_n(s, to.add(i), n, s.load_n(from.add(i), n)),
                    );
                }
            }
        }
    }
}

/// The page and the place in it of a cache row.
#[inline(always)]
fn split(row: u32, page_tokens: usize) -> (usize, usize) {
    let row = row as usize;
    (row / page_tokens, row % page_tokens)
}

/// Rotates one head in place.
///
/// # Safety
/// `x` holds `rope.dims` elements, `angles` twice as many numbers.
#[inline(always)]
unsafe fn rotate<S: Simd>(s: S, x: *mut f32, angles: *const f32, rope: &RopeArgs) {
    let (dims, half) = (rope.dims, rope.dims / 2);
    // SAFETY: the caller's promise: all that is read and written are elements below `dims`.
    unsafe {
        if !rope.adjacent {
            return map(
                s,
                half,
                #[inline(always)]
                |i, n| {
                    let (u, v) = (s.load_n(x.add(i), n), s.load_n(x.add(half + i), n));
                    s.store_n(x.add(i), n, turn(s, [u, v], angles.add(i), dims, n));
                    s.store_n(x.add(half + i), n, turn(s, [v, u], angles.add(half + i), dims, n));
                },
            );
        }
        // Two registers at once: a pair may be two of them.
        for i in (0..dims).step_by(2 * S::LANES) {
            let whole = (dims - i).min(2 * S::LANES);
            let [m, n] = [whole.min(S::LANES), whole.saturating_sub(S::LANES)];
            let j = i + m;
            let a = [s.load_n(x.add(i), m), s.load_swapped(x, i, m)];
            let b = [s.load_n(x.add(j), n), s.load_swapped(x, j, n)];
            s.store_n(x.add(i), m, turn(s, a, angles.add(i), dims, m));
            s.store_n(x.add(j), n, turn(s, b, angles.add(j), dims, n));
        }
    }
}

/// `n` elements and their partners, turned by the angles whose cosines are at `cos` and whose sines
/// `dims` further on.
///
/// # Safety
/// Both are readable for `n` numbers.
#[inline(always)]
unsafe fn turn<S: Simd>(
    s: S,
    [x, partner]: [S::F32; 2],
    cos: *const f32,
    dims: usize,
    n: usize,
) -> S::F32 {
    // SAFETY: the caller's promise.
    let (cos, sin) = unsafe { (s.load_n(cos, n), s.load_n(cos.add(dims), n)) };
    s.fma(partner, sin, s.mul(x, cos))
}
