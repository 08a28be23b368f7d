//! Dense weights by columns: as by rows for many tokens; for a few, each of them reads only the columns
//! where it is not zero.
//!
//! Products of zero change no sum, and the others come in the same order: results are the bits of
//! `matmul_f32`, where weights are finite.

use super::MatmulArgs;
use super::activations::tile_of;
use super::columns::FEW;
use super::matmul_f32::{BLOCK_GROUPS, CHUNK, Rows32, matmul, multiply};
use crate::kernels::stored::Stored;
use crate::pack::columns::{self, DENSE_GRANULE};
use crate::simd::{Simd, WithSimd};
use std::ops::Range;

/// The product with dense weights by columns.
///
/// # Safety
/// The token's instructions exist; pointers and sizes as [`MatmulArgs`] says; the matrix lies by
/// columns, and the row groups are whole granules.
pub(super) unsafe fn product<S: Simd, E: Stored>(args: &MatmulArgs) {
    debug_assert!([args.groups.start, args.groups.end].iter().all(|g| g % DENSE_GRANULE == 0));
    let all = args.rows / S::LANES;
    let groups = columns::chunk(all, DENSE_GRANULE).unwrap_or(all);
    let stride = groups * S::LANES;
    let align = (4 * S::LANES).min(64);
    let bytes = (args.cols * stride * size_of::<E>()).next_multiple_of(align);
    // SAFETY: the caller's promise; groups of this matrix only.
    let chunk = |group: usize| unsafe { args.weights.add(group / groups * bytes).cast::<E>() };
    if args.tokens > FEW {
        let group = |g: usize, _| {
            // SAFETY: as above.
            let at = unsafe { chunk(g).add(g % groups * S::LANES) };
            ColumnRows { at, stride }
        };
        // SAFETY: the caller's promise.
        return unsafe { matmul::<S, _>(args, BLOCK_GROUPS, |_| {}, group) };
    }
    let mut tokens = [Token { x: args.x.cast(), of: 1, y: args.y }; FEW];
    for (t, token) in tokens.iter_mut().enumerate().take(args.tokens) {
        let (start, of) = tile_of(args.tokens, S::TILE_TOKENS, t);
        // SAFETY: both arrays have the token.
        unsafe {
            let x = args.x.cast::<f32>().add(start * args.cols + t - start);
            *token = Token { x, of, y: args.y.add(t * args.y_stride) };
        }
    }
    let mut rest = args.groups.clone();
    while !rest.is_empty() {
        let first = rest.start / groups * groups;
        let end = rest.end.min(first + groups);
        // SAFETY: the caller's promise.
        unsafe {
            S::assume().vectorize(Share {
                chunk: chunk(first),
                stride,
                groups: rest.start - first..end - first,
                cols: args.cols,
                tokens: &tokens[..args.tokens.min(FEW)],
                first,
            });
        }
        rest.start = end;
    }
}

/// A row group of dense weights whose columns are a chunk apart.
#[derive(Clone, Copy)]
struct ColumnRows<E> {
    at: *const E,
    stride: usize,
}

impl<E: Stored> Rows32 for ColumnRows<E> {
    #[inline(always)]
    unsafe fn accumulate<S: Simd, const M: usize, const N: usize>(
        s: S,
        groups: &[Self; M],
        k: usize,
        ks: usize,
        x: *const f32,
        parts: &mut [[S::F32; N]; M],
    ) {
        for i in 0..ks {
            // SAFETY: the caller's promise.
            unsafe {
                let mut w = [s.zero(); M];
                for m in 0..M {
                    w[m] = E::load(s, groups[m].at.add((k + i) * groups[m].stride));
                }
                multiply(s, &w, x.add(i * N), parts);
            }
        }
    }
}

/// One of the tokens.
#[derive(Clone, Copy)]
struct Token {
    /// Its first element.
    x: *const f32,
    /// Tokens of its tile: how far its elements lie apart.
    of: usize,
    /// Its results.
    y: *mut f32,
}

/// Some whole granules of a chunk.
struct Share<'a, E> {
    chunk: *const E,
    /// Rows of the chunk.
    stride: usize,
    groups: Range<usize>,
    cols: usize,
    tokens: &'a [Token],
    /// The chunk's first row group in the matrix.
    first: usize,
}

/// How many columns ahead memory is asked for.
const AHEAD: usize = 8;

impl<E: Stored> WithSimd for Share<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        // The columns of a stretch that are read, the last one some times more for those who look ahead.
        let mut list = [0u32; CHUNK + AHEAD];
        let entry = list.as_mut_ptr();
        // SAFETY: whoever made the share gave a chunk and tokens of these columns, and results of these
        // groups; `n` is at most the columns seen, and of a stretch there are at most `CHUNK`.
        unsafe {
            for token in self.tokens {
                for g in self.groups.clone() {
                    s.store(token.y.add((self.first + g) * S::LANES), s.zero());
                }
            }
            for from in (0..self.cols).step_by(CHUNK) {
                for token in self.tokens {
                    let mut n = 0;
                    for k in from..self.cols.min(from + CHUNK) {
                        *entry.add(n) = k as u32;
                        n += usize::from(*token.x.add(k * token.of) != 0.0);
                    }
                    if n > 0 {
                        for i in n..n + AHEAD {
                            *entry.add(i) = *entry.add(n - 1);
                        }
                        self.stretch(s, token, entry, n);
                    }
                }
            }
        }
    }
}

impl<E: Stored> Share<'_, E> {
    /// Adds the products of `n` columns of a stretch to the results of a token.
    ///
    /// # Safety
    /// The chunk and the token have the columns listed, of which there are [`AHEAD`] more; the token has
    /// results of these groups.
    #[inline(always)]
    unsafe fn stretch<S: Simd>(&self, s: S, token: &Token, list: *const u32, n: usize) {
        for g in self.groups.clone().step_by(DENSE_GRANULE) {
            // SAFETY: the caller's promise.
            unsafe {
                let rows = self.chunk.add(g * S::LANES);
                let mut parts = [[s.zero(); 1]; DENSE_GRANULE];
                for i in 0..n {
                    let ahead = rows.add(*list.add(i + AHEAD) as usize * self.stride);
                    for line in (0..DENSE_GRANULE * S::LANES * size_of::<E>()).step_by(64) {
                        s.prefetch(ahead.cast::<u8>().wrapping_add(line));
                    }
                    let k = *list.add(i) as usize;
                    let at = rows.add(k * self.stride);
                    let w = [
                        E::load(s, at),
                        E::load(s, at.add(S::LANES)),
                        E::load(s, at.add(2 * S::LANES)),
                        E::load(s, at.add(3 * S::LANES)),
                    ];
                    multiply(s, &w, token.x.add(k * token.of), &mut parts);
                }
                let y = token.y.add((self.first + g) * S::LANES);
                for (i, part) in parts.iter().enumerate() {
                    let y = y.add(i * S::LANES);
                    s.store(y, s.add(s.load(y), part[0]));
                }
            }
        }
    }
}
