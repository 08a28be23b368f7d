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
//!
//!   The same with blocks of 256, `[64][N][4]` and the words, of which 3 and 4 are then over halves of
//!   the block, is what [coarse panels](super::coarse) meet.

use crate::kernels::norm::map;
use crate::simd::{Simd, WithSimd};
use gristmill_ir::Activations;
use std::marker::PhantomData;
use std::ops::Range;

/// Bytes of one token in one block of `k`: the integers and the five words.
pub(super) const fn block_bytes(k: usize) -> usize {
    k + 5 * 4
}

/// Elements of a coarse block.
pub(super) const COARSE: usize = 256;

/// Tokens of the widest tile.
const MOST_TOKENS: usize = 16;

/// Lanes of the widest instruction set.
const MOST_LANES: usize = 16;

/// What the largest magnitude of a block may become. Whole numbers, so that it has no error itself.
const TOPS: [f32; 4] = [127.0, 126.0, 125.0, 124.0];

/// Word `i` of a block, as an offset from its first word in a tile of `n` tokens.
pub(super) const fn word(i: usize, n: usize) -> usize {
    4 * i * n
}

/// Bytes of one token of `cols` elements.
pub(super) fn token_bytes(form: Activations, cols: usize) -> usize {
    match form {
        Activations::Int8 => cols / 32 * block_bytes(32),
        Activations::F32 => cols * 4,
    }
}

/// How many tiles `tokens` make.
pub(super) fn tile_count(tokens: usize, width: usize) -> usize {
    let rest = tokens % width;
    tokens / width + rest / 4 + rest % 4 / 2 + rest % 2
}

/// The first token and the token count of tile `i`.
#[inline(always)]
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

/// The first token and the token count of the tile that holds token `t`.
#[inline(always)]
pub(super) fn tile_of(tokens: usize, width: usize, t: usize) -> (usize, usize) {
    let mut i = 0;
    loop {
        let (start, n) = tile(tokens, width, i);
        if t < start + n {
            return (start, n);
        }
        i += 1;
    }
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
        Activations::Int8 => quantize_tiles::<S, 32>,
        Activations::F32 => arrange_tiles::<S>,
    }
}

/// Quantizes in blocks of `K`.
///
/// # Safety
/// The token's instructions exist; pointers and sizes as [`PrepareArgs`] says, with whole blocks.
pub(super) unsafe fn quantize_tiles<S: Simd, const K: usize>(args: &PrepareArgs) {
    // SAFETY: the caller's promise.
    unsafe { S::assume() }.vectorize(Quantize::<K>(args));
}

/// # Safety
/// The token's instructions exist; pointers and sizes as [`PrepareArgs`] says.
unsafe fn arrange_tiles<S: Simd>(args: &PrepareArgs) {
    // SAFETY: the caller's promise.
    unsafe { S::assume() }.vectorize(Arrange(args));
}

struct Quantize<'a, const K: usize>(&'a PrepareArgs);

impl<const K: usize> WithSimd for Quantize<'_, K> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let PrepareArgs { tokens, cols, out, ref tiles, .. } = *self.0;
        // A lane has a block of its own, so that no sum goes across lanes: neighbours are the same
        // block of the tile's tokens, then its next block.
        let mut lanes = Lanes::<S, K>::new();
        for i in tiles.clone() {
            let (start, n) = tile(tokens, S::TILE_TOKENS, i);
            for b in 0..cols / K {
                for t in 0..n {
                    // SAFETY: token `start + t < tokens` and block `b` lie within both arrays.
                    unsafe {
                        let x = self.0.row(start + t).add(K * b);
                        let block = out.add((start * (cols / K) + b * n) * block_bytes(K));
                        lanes.push(s, x, block.add(4 * t), n);
                    }
                }
            }
            // SAFETY: as above; the next tile has another number of tokens.
            unsafe { lanes.flush(s, n) };
        }
    }
}

/// Blocks of `K` to quantize, one a lane.
struct Lanes<S: Simd, const K: usize> {
    count: usize,
    /// `[K][LANES]`
    x: [[f32; MOST_LANES]; K],
    /// The first quad of each block's token.
    out: [*mut u8; MOST_LANES],
    /// Quads and words, before they go to their places.
    words: [[u32; MOST_LANES]; COARSE / 4 + 5],
    set: PhantomData<S>,
}

impl<S: Simd, const K: usize> Lanes<S, K> {
    #[inline(always)]
    fn new() -> Self {
        const { assert!(S::LANES <= MOST_LANES && K <= COARSE) };
        let out = [std::ptr::null_mut(); MOST_LANES];
        let words = [[0; MOST_LANES]; COARSE / 4 + 5];
        Lanes { count: 0, x: [[0.0; MOST_LANES]; K], out, words, set: PhantomData }
    }

    /// Adds the `K` values at `x` as a token of a block of `n`, whose first quad is at `out`.
    ///
    /// # Safety
    /// Both stay valid until the lanes are flushed: `x` readable for `K` values, `out` writable as a
    /// token of a block. All since the last flush have the same `n`.
    #[inline(always)]
    unsafe fn push(&mut self, s: S, x: *const f32, out: *mut u8, n: usize) {
        let lane = self.count;
        for (k, values) in self.x.iter_mut().enumerate() {
            // SAFETY: the caller's promise, and `lane < LANES`.
            unsafe { *values.get_unchecked_mut(lane) = *x.add(k) };
        }
        self.out[lane] = out;
        self.count += 1;
        if self.count == S::LANES {
            // SAFETY: the caller's promise.
            unsafe { self.flush(s, n) };
        }
    }

    /// Value `k < K` of each block.
    #[inline(always)]
    fn value(&self, s: S, k: usize) -> S::F32 {
        // SAFETY: `x` has `K` rows of lanes, and the remainder changes no `k` of these.
        unsafe { s.load(self.x.as_ptr().add(k % K).cast()) }
    }

    /// Quantizes what there is.
    ///
    /// # Safety
    /// As for [`Lanes::push`].
    #[inline(always)]
    unsafe fn flush(&mut self, s: S, n: usize) {
        let mut largest = s.zero();
        for k in 0..K {
            largest = s.max(s.abs(self.value(s, k)), largest);
        }
        let (zero, one) = (s.zero(), s.splat(1.0));
        // Blocks this small would overflow the inverse; they count as zero.
        let tiny = s.splat(1e-30);
        let inverse = s.select_lt(tiny, largest, s.div(one, largest), zero);
        let (mut least, mut top) = (s.splat(f32::INFINITY), s.splat(TOPS[0]));
        for t in TOPS {
            let factor = s.mul(inverse, s.splat(t));
            let mut error = zero;
            for k in 0..K {
                let exact = s.mul(self.value(s, k), factor);
                let rest = s.sub(exact, s.round(exact));
                error = s.fma(rest, rest, error);
            }
            let error = s.mul(error, s.splat(1.0 / (t * t)));
            top = s.select_lt(error, least, s.splat(t), top);
            least = s.select_lt(error, least, error, least);
        }
        let step = s.select_lt(tiny, largest, s.div(largest, top), zero);
        let factor = s.mul(inverse, top);
        // Sums of at most 256 integers up to 127, and of their squares, are exact in f32.
        let (mut halves, mut products, mut squares) = ([zero; 2], zero, zero);
        let quads = K / 4;
        let row = self.words.as_mut_ptr();
        for j in 0..quads {
            let mut quad = s.words_splat(0);
            for i in 0..4 {
                let exact = s.mul(self.value(s, 4 * j + i), factor);
                let v = s.round(exact);
                let half = 2 * j / quads;
                halves[half] = s.add(halves[half], v);
                products = s.fma(exact, v, products);
                squares = s.fma(v, v, squares);
                let byte = s.words_and(s.words_of(v), 255);
                quad = s.bytes_or(quad, s.words_shl(byte, 8 * i as u32));
            }
            // SAFETY: there is a row of lanes for each quad and each of five words.
            unsafe { s.bytes_store(row.add(j).cast(), quad) };
        }
        // The largest is `top` steps, so the squares are 0 only where everything is.
        let scale = s.mul(step, s.div(products, s.max(squares, one)));
        let sum = s.add(halves[0], halves[1]);
        // SAFETY: as above.
        unsafe {
            s.store(row.add(quads).cast(), scale);
            s.store(row.add(quads + 1).cast(), s.mul(scale, sum));
            for (i, sum) in [sum, halves[0], halves[1]].into_iter().enumerate() {
                s.bytes_store(row.add(quads + 2 + i).cast(), s.words_of(s.sub(zero, sum)));
            }
        }
        for (lane, out) in self.out[..self.count].iter().enumerate() {
            for (i, row) in self.words[..quads + 5].iter().enumerate() {
                // SAFETY: the caller's promise: quads and words of a token lie `n` words apart, and
                // blocks are aligned to 4.
                unsafe { *out.add(4 * i * n).cast() = row[lane] };
            }
        }
        self.count = 0;
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
                    assert!((start..start + n).all(|t| tile_of(tokens, width, t) == (start, n)));
                    next += n;
                }
                assert_eq!(next, tokens);
            }
            let broken = tile_count(width - 1, width);
            assert!((0..width).all(|rest| tile_count(rest, width) <= broken), "see `most_tiles`");
        }
    }
}
