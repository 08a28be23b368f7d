//! Activations as matmul kernels want them: token tiles.
//!
//! A kernel handles a tile of `N` tokens at once. The tokens of a batch are split into as many
//! whole tiles of the instruction set's width as there are, then the rest by fours, twos and ones.
//! A tile that starts at token `t0` starts at byte `t0 · token_bytes`, whatever the tiles before it.
//!
//! * **f32**: a tile is `[k][N]` f32.
//! * **int8**: blocks of 32 consecutive `k`. Each token of a block has its own integers
//!   `q = round(top · x / max|x|)`, with the one `top` of [`TOPS`] that leaves the least error, and
//!   the scale that is best for them by least squares, `d = Σ x q / Σ q²`. For normally
//!   distributed values that takes a sixth off the squared error of `top = 127` and `d = max|x| / 127`.
//!   A block of a tile is `[8][N][4]` i8 (eight quads of four `k`), then five words for each token,
//!   `[5][N]`:
//!
//!   | word | type | meaning |
//!   | --- | --- | --- |
//!   | 0 | f32 | `d` |
//!   | 1 | f32 | `d · Σ q` over the block, for minima |
//!   | 2 | i32 | `-Σ q` over the block, for the zero point of the weights |
//!   | 3, 4 | i32 | `-Σ q` over the first and the second 16 |

use crate::kernels::norm::map;
use crate::simd::{Simd, WithSimd};
use gristmill_ir::Activations;
use std::ops::Range;

/// Bytes of one token in one block of 32: the integers and the five words.
pub(super) const BLOCK_BYTES: usize = 32 + 5 * 4;

/// Tokens of the widest tile.
const MOST_TOKENS: usize = 16;

/// What the largest magnitude of a block may become. Whole numbers, so that it has no error itself.
const TOPS: [f32; 4] = [127.0, 126.0, 125.0, 124.0];

/// The words of a block, as offsets for a tile of `n` tokens.
pub(super) const fn word(i: usize, n: usize) -> usize {
    (32 + 4 * i) * n
}

/// Bytes of one token of `cols` elements.
pub(super) fn token_bytes(form: Activations, cols: usize) -> usize {
    match form {
        Activations::Int8 => cols / 32 * BLOCK_BYTES,
        Activations::F32 => cols * 4,
    }
}

/// How many tiles `tokens` make.
pub(super) fn tile_count(tokens: usize, width: usize) -> usize {
    let rest = tokens % width;
    tokens / width + rest / 4 + rest % 4 / 2 + rest % 2
}

/// The first token and the token count of tile `i`.
pub(super) fn tile(tokens: usize, width: usize, i: usize) -> (usize, usize) {
    let whole = tokens / width;
    if i < whole {
        return (i * width, width);
    }
    let (start, rest, i) = (whole * width, tokens % width, i - whole);
    if i < rest / 4 {
        return (start + 4 * i, 4);
    }
    let (start, rest, i) = (start + rest / 4 * 4, rest % 4, i - rest / 4);
    if i < rest / 2 { (start, 2) } else { (start + rest / 2 * 2, 1) }
}

/// What to prepare. `x` is `[rows][x_stride]` f32 of which the first `cols` of a row count; token
/// `t` is row `rows[t]`, or row `t` where `rows` is null. `out` receives
/// `tokens · token_bytes(cols)` bytes. `tiles` is this worker's share.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // described above
pub struct PrepareArgs {
    pub x: *const f32,
    pub x_stride: usize,
    pub rows: *const u32,
    pub tokens: usize,
    pub cols: usize,
    pub out: *mut u8,
    pub tiles: Range<usize>,
}

impl PrepareArgs {
    /// The row of a token.
    ///
    /// # Safety
    /// `t < tokens`, and the fields are as documented.
    #[inline(always)]
    unsafe fn row(&self, t: usize) -> *const f32 {
        // SAFETY: the caller's promise.
        unsafe {
            let row = if self.rows.is_null() { t } else { *self.rows.add(t) as usize };
            self.x.add(row * self.x_stride)
        }
    }
}

/// Prepares activations; see [`PrepareArgs`].
pub type PrepareFn = unsafe fn(&PrepareArgs);

/// The preparation of `form` on instruction set `S`.
pub(super) fn prepare_fn<S: Simd>(form: Activations) -> PrepareFn {
    match form {
        Activations::Int8 => quantize_tiles::<S>,
        Activations::F32 => arrange_tiles::<S>,
    }
}

/// # Safety
/// The token's instructions exist; pointers and sizes as [`PrepareArgs`] says.
unsafe fn quantize_tiles<S: Simd>(args: &PrepareArgs) {
    // SAFETY: the caller's promise.
    unsafe { S::assume() }.vectorize(Quantize(args));
}

/// # Safety
/// The token's instructions exist; pointers and sizes as [`PrepareArgs`] says.
unsafe fn arrange_tiles<S: Simd>(args: &PrepareArgs) {
    // SAFETY: the caller's promise.
    unsafe { S::assume() }.vectorize(Arrange(args));
}

struct Quantize<'a>(&'a PrepareArgs);

impl WithSimd for Quantize<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let PrepareArgs { tokens, cols, out, ref tiles, .. } = *self.0;
        for i in tiles.clone() {
            let (start, n) = tile(tokens, S::TILE_TOKENS, i);
            for b in 0..cols / 32 {
                for t in 0..n {
                    // SAFETY: token `start + t < tokens` and block `b` lie within both arrays.
                    unsafe {
                        let x = self.0.row(start + t).add(32 * b);
                        let block = out.add((start * (cols / 32) + b * n) * BLOCK_BYTES);
                        quantize_block(s, x, block, t, n);
                    }
                }
            }
        }
    }
}

/// Quantizes 32 values as token `t` of the block of `n` tokens at `out`.
///
/// # Safety
/// `x` is readable for 32 values, `out` writable for `n` tokens of a block, `t < n`.
#[inline(always)]
unsafe fn quantize_block<S: Simd>(s: S, x: *const f32, out: *mut u8, t: usize, n: usize) {
    #[repr(C, align(64))]
    struct Quads([i8; 32]);
    let mut q = Quads([0; 32]);
    let mut largest = s.zero();
    for i in (0..32).step_by(S::LANES) {
        // SAFETY: within the 32 values.
        largest = s.max(s.abs(unsafe { s.load(x.add(i)) }), largest);
    }
    let largest = s.max_across(largest);
    // Blocks this small would overflow the inverse; they count as zero.
    let some = largest > 1e-30;
    let inverse = if some { 1.0 / largest } else { 0.0 };
    let mut best = (f32::INFINITY, TOPS[0]);
    for top in TOPS {
        let factor = s.splat(top * inverse);
        let mut error = s.zero();
        for i in (0..32).step_by(S::LANES) {
            // SAFETY: within the 32 values.
            let exact = s.mul(unsafe { s.load(x.add(i)) }, factor);
            let rest = s.sub(exact, s.round(exact));
            error = s.fma(rest, rest, error);
        }
        let error = s.sum(error) * (1.0 / (top * top));
        if error < best.0 {
            best = (error, top);
        }
    }
    let top = best.1;
    let step = if some { largest / top } else { 0.0 };
    let inverse = s.splat(top * inverse);
    // Sums of at most 32 integers up to 127, and of their squares, are exact in f32.
    let mut sums = [s.zero(); 2];
    let (mut products, mut squares) = (s.zero(), s.zero());
    for i in (0..32).step_by(S::LANES) {
        // SAFETY: within the 32 values and the 32 bytes.
        unsafe {
            let exact = s.mul(s.load(x.add(i)), inverse);
            let v = s.round(exact);
            sums[i / 16] = s.add(sums[i / 16], v);
            products = s.fma(exact, v, products);
            squares = s.fma(v, v, squares);
            s.store_i8(q.0.as_mut_ptr().add(i), v);
        }
    }
    // The largest is `top` steps, so the squares are 0 only where everything is.
    let scale = step * (s.sum(products) / s.sum(squares).max(1.0));
    let halves = [s.sum(sums[0]), s.sum(sums[1])];
    let sum = halves[0] + halves[1];
    // SAFETY: quads and words of token `t < n` lie within the block, which is aligned to 4.
    unsafe {
        for j in 0..8 {
            *out.add((j * n + t) * 4).cast() = *q.0.as_ptr().add(4 * j).cast::<u32>();
        }
        *out.add(word(0, n) + 4 * t).cast() = scale;
        *out.add(word(1, n) + 4 * t).cast() = scale * sum;
        *out.add(word(2, n) + 4 * t).cast() = -sum as i32;
        *out.add(word(3, n) + 4 * t).cast() = -halves[0] as i32;
        *out.add(word(4, n) + 4 * t).cast() = -halves[1] as i32;
    }
}

struct Arrange<'a>(&'a PrepareArgs);

impl WithSimd for Arrange<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let PrepareArgs { tokens, cols, out, ref tiles, .. } = *self.0;
        for i in tiles.clone() {
            let (start, n) = tile(tokens, S::TILE_TOKENS, i);
            // SAFETY: tokens `start..start + n` lie within both arrays.
            unsafe {
                let out = out.cast::<f32>().add(start * cols);
                if n == 1 {
                    let x = self.0.row(start);
                    map(
                        s,
                        cols,
                        #[inline(always)]
                        |i, n| s.store_n(out.add(i), n, s.load_n(x.add(i), n)),
                    );
                    continue;
                }
                let mut rows = [std::ptr::null(); MOST_TOKENS];
                for (t, row) in rows[..n].iter_mut().enumerate() {
                    *row = self.0.row(start + t);
                }
                for k in 0..cols {
                    for (t, x) in rows[..n].iter().enumerate() {
                        *out.add(k * n + t) = *x.add(k);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_token_once() {
        for width in [1, 4, 12, 16] {
            for tokens in 0..100 {
                let mut next = 0;
                for i in 0..tile_count(tokens, width) {
                    let (start, n) = tile(tokens, width, i);
                    assert_eq!(start, next);
                    assert!(n == width || [1, 2, 4].contains(&n) && n < width);
                    next += n;
                }
                assert_eq!(next, tokens);
            }
        }
    }
}
