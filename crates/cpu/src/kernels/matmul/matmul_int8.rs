//! Quantized weights by int8 activations.
//!
//! For every run of `SUB` (16 or 32) elements that share a weight scale, an exact integer dot
//! product; then in f32, for one row and one token, run after run:
//!
//! ```text
//! y = fma(Σ (q - ZERO) x,  scale_row · scale_token,  y)
//! y = y - min_row · (scale_token · Σ x)                  for formats with minima
//! ```
//!
//! The zero point costs nothing: accumulators start at `-ZERO · Σ x`, which the activations carry.
//! So the integer sums are those of the true weights, on every instruction set, bias or not.

use super::activations::{self, block_bytes, word};
use super::fragments::{PackedGroup, Source};
use super::panel::{AnyPanel, Format, PIECE};
use super::{GroupSet, MatmulArgs, Output, group_sets, groups_at_once, with_gemv, with_tile};
use crate::simd::{Simd, WithSimd, most_in_chain};
use std::ops::Range;

/// Bytes of scratch that a worker needs for panels.
pub(super) fn scratch_bytes<S: Simd, P: AnyPanel>(cols: usize) -> usize {
    let panel = P::groups::<S>(cols) * (cols / 32) * P::unit_bytes::<S>();
    panel.max(P::piece_bytes::<S>(S::GEMV_GROUPS))
}

/// One token by weights that are taken apart as they are multiplied; any number of tokens for whole
/// bytes, which are ready as they are packed.
///
/// # Safety
/// The token's instructions exist; pointers and sizes as [`MatmulArgs`] says.
pub(super) unsafe fn direct<S: Simd, W: PackedGroup>(args: &MatmulArgs) {
    let stride = W::stride::<S>(args.cols);
    let group = |g: usize| {
        // SAFETY: the caller names groups of this matrix only.
        unsafe { W::source::<S>(args.weights.add(g * stride), args.cols) }
    };
    let units = 0..args.cols / 32;
    // SAFETY: the caller's promise.
    unsafe {
        if W::Source::WHOLE_BYTES && args.tokens > 1 {
            // All tiles pass over a few groups while these are in cache.
            return run_tiles::<S, _>(args, S::GEMV_GROUPS, |_| {}, |g, _| group(g));
        }
        for set in group_sets(args.groups.clone(), S::GEMV_GROUPS) {
            with_gemv!(S, |M| run_tile::<S, _, M, 1>(args, 0, set, units.clone(), |m| {
                group(set.group(m))
            }));
        }
    }
}

/// Any number of tokens by way of panels.
///
/// # Safety
/// As for [`direct`]; the panels are those of `format`.
pub(super) unsafe fn over_panels<S: Simd, P: AnyPanel>(args: &MatmulArgs, format: &Format) {
    let converter = format.converter(args);
    let units = converter.units();
    let unit_bytes = P::unit_bytes::<S>();
    if args.tokens > 1 {
        // SAFETY: scratch holds as many converted groups as a share has, and they are converted
        // before they are read.
        let at = |i: usize| unsafe { args.scratch.add(i * units * unit_bytes) };
        let convert = |groups: Range<usize>| {
            for (i, g) in groups.enumerate() {
                // SAFETY: as above; the caller names groups of this matrix only.
                unsafe { converter.run(g, 0..units, at(i)) };
            }
        };
        let source = |g, first| P::at(at(g - first));
        // SAFETY: the caller's promise.
        return unsafe { run_tiles::<S, _>(args, P::groups::<S>(args.cols), convert, source) };
    }
    for set in group_sets(args.groups.clone(), S::GEMV_GROUPS) {
        for first in (0..units).step_by(PIECE) {
            let piece = first..units.min(first + PIECE);
            // SAFETY: scratch holds a piece of as many groups as a set has.
            let at = |m: usize| unsafe { args.scratch.add(m * PIECE * unit_bytes) };
            // SAFETY: the set lies within the caller's groups, and is converted before it is read.
            unsafe {
                for m in 0..S::GEMV_GROUPS {
                    converter.run(set.group(m), piece.clone(), at(m));
                }
                with_gemv!(S, |M| run_tile::<S, _, M, 1>(args, 0, set, piece, |m| P::at(at(m))));
            }
        }
    }
}

/// Registers for each row group and token: the integers of a run, and the sum over all runs.
const SUMS: usize = 2;

/// Runs all token tiles over shares of the caller's groups. `begin` gets each share first;
/// `source(g, first)` is row group `g` of the share that starts at `first`.
///
/// # Safety
/// As for [`direct`].
unsafe fn run_tiles<S: Simd, W: Source>(
    args: &MatmulArgs,
    share: usize,
    begin: impl Fn(Range<usize>),
    source: impl Fn(usize, usize) -> W,
) {
    let tiles = activations::tile_count(args.tokens, S::TILE_TOKENS);
    let units = 0..args.cols / 32;
    let mut rest = args.groups.clone();
    while !rest.is_empty() {
        let share = rest.start..rest.end.min(rest.start + share);
        rest.start = share.end;
        begin(share.clone());
        for t in 0..tiles {
            let (start, n) = activations::tile(args.tokens, S::TILE_TOKENS, t);
            for set in group_sets(share.clone(), groups_at_once::<S>(SUMS, n)) {
                let source = |m| source(set.group(m), share.start);
                // SAFETY: the tile and the set lie within the caller's.
                unsafe {
                    with_tile!(S, SUMS, n, |M, N| {
                        run_tile::<S, _, M, N>(args, start, set, units.clone(), source)
                    });
                }
            }
        }
    }
}

/// Runs the token tile that begins at `start` over some units of a set of groups; all but the
/// first units add to what y holds.
///
/// # Safety
/// As for [`direct`]; `source(m)` is group `m` of the set from the first of these units on.
unsafe fn run_tile<S: Simd, W: Source, const M: usize, const N: usize>(
    args: &MatmulArgs,
    start: usize,
    set: GroupSet,
    units: Range<usize>,
    source: impl Fn(usize) -> W,
) {
    // SAFETY: the caller's promise.
    unsafe { S::assume() }.vectorize(Tile::<W, M, N> {
        weights: std::array::from_fn(source),
        // SAFETY: the tile's tokens lie within x.
        x: unsafe { args.x.add((start * (args.cols / 32) + units.start * N) * block_bytes(32)) },
        resume: units.start > 0,
        units: units.len(),
        out: Output::new::<S>(args, start, set),
    });
}

/// `M` row groups by `N` tokens.
pub(super) struct Tile<W, const M: usize, const N: usize> {
    pub(super) weights: [W; M],
    /// The prepared token tile, from the first of the units on.
    pub(super) x: *const u8,
    /// Units of 32 elements.
    pub(super) units: usize,
    /// Whether y holds the sum over earlier units.
    pub(super) resume: bool,
    pub(super) out: Output<M>,
}

impl<W: Source, const M: usize, const N: usize> WithSimd for Tile<W, M, N> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let mut sums = [[s.zero(); N]; M];
        if self.resume {
            // SAFETY: the tile was made for tokens and groups of the caller's y.
            unsafe { self.out.load(s, &mut sums) };
        }
        // SAFETY: whoever made the tile gave sources and activations of `units` units.
        unsafe {
            for u in 0..self.units {
                let x = self.x.add(u * block_bytes(32) * N);
                let words = x.add(32 * N);
                for w in self.weights {
                    w.prefetch(s, u);
                }
                let mut chains = [[s.i32_zero(); N]; M];
                if W::SUB == 16 {
                    let mut dots = start::<S, W, M, N>(s, words.add(word(3, N)));
                    self.steps::<S, 0, 1>(s, u, x, &mut dots, &mut chains);
                    self.steps::<S, 2, 3>(s, u, x, &mut dots, &mut chains);
                    finish(s, &self.weights, u, 0, words, &dots, &mut sums);
                    let mut dots = start::<S, W, M, N>(s, words.add(word(4, N)));
                    self.steps::<S, 4, 5>(s, u, x, &mut dots, &mut chains);
                    self.steps::<S, 6, 7>(s, u, x, &mut dots, &mut chains);
                    finish(s, &self.weights, u, 1, words, &dots, &mut sums);
                } else {
                    let mut dots = start::<S, W, M, N>(s, words.add(word(2, N)));
                    self.steps::<S, 0, 1>(s, u, x, &mut dots, &mut chains);
                    self.steps::<S, 2, 3>(s, u, x, &mut dots, &mut chains);
                    self.steps::<S, 4, 5>(s, u, x, &mut dots, &mut chains);
                    self.steps::<S, 6, 7>(s, u, x, &mut dots, &mut chains);
                    finish(s, &self.weights, u, 0, words, &dots, &mut sums);
                }
            }
        }
        // SAFETY: the tile was made for tokens and groups of the caller's y.
        unsafe { self.out.store(s, &sums) };
    }
}

/// Accumulators that already hold `-ZERO · Σ x`; `minus_sums` are the tokens' `-Σ x`.
#[inline(always)]
pub(super) unsafe fn start<S: Simd, W: Source, const M: usize, const N: usize>(
    s: S,
    minus_sums: *const u8,
) -> [[S::I32; N]; M] {
    let zero = if W::WHOLE_BYTES { S::S8_BIAS } else { W::ZERO };
    let mut dots = [[s.i32_zero(); N]; M];
    if zero != 0 {
        for n in 0..N {
            // SAFETY: the words of the tile's `N` tokens.
            let sum = unsafe { s.i32_broadcast(minus_sums.add(4 * n).cast()) };
            // Pinned, or the shift would be done on one number and broadcast after it, in three
            // instructions instead of two.
            let start = s.i32_shl(s.i32_pin(sum), zero.trailing_zeros());
            for dots in &mut dots {
                dots[n] = start;
            }
        }
    }
    if in_pairs::<S>(N) {
        for dots in &mut dots {
            for n in (0..N).step_by(2) {
                [dots[n], dots[n + 1]] = s.dots_in_pair([dots[n], dots[n + 1]]);
            }
        }
    }
    dots
}

/// How many of the `quads` of a run make a chain of products; it divides them.
const fn chain_length(weight: i32, quads: usize) -> usize {
    let mut length = quads;
    while length > 1 && length > most_in_chain(weight) {
        length /= 2;
    }
    length
}

/// Whether a tile of `n` tokens multiplies them two by two.
#[inline(always)]
const fn in_pairs<S: Simd>(n: usize) -> bool {
    S::COLS == 2 && n.is_multiple_of(2)
}

impl<W: Source, const M: usize, const N: usize> Tile<W, M, N> {
    /// Multiplies quads `J` and `K` of unit `u` of all rows by those of all tokens.
    #[inline(always)]
    pub(super) unsafe fn steps<S: Simd, const J: usize, const K: usize>(
        &self,
        s: S,
        u: usize,
        x: *const u8,
        dots: &mut [[S::I32; N]; M],
        chains: &mut [[S::I32; N]; M],
    ) {
        // SAFETY: the caller passes a unit of the weights and its activations.
        unsafe {
            if !in_pairs::<S>(N) {
                self.step::<S, J>(s, u, x, dots, chains);
                self.step::<S, K>(s, u, x, dots, chains);
                return;
            }
            let first = self.weights[0];
            let mut w = [[first.quad::<S, J>(s, u), first.quad::<S, K>(s, u)]; M];
            for m in 1..M {
                let next = self.weights[m];
                w[m] = [next.quad::<S, J>(s, u), next.quad::<S, K>(s, u)];
            }
            for n in (0..N).step_by(2) {
                let x = [x.add((J * N + n) * 4), x.add((K * N + n) * 4)];
                for m in 0..M {
                    let pair = [dots[m][n], dots[m][n + 1]];
                    [dots[m][n], dots[m][n + 1]] = s.mma_pair(pair, w[m], x);
                }
            }
        }
    }

    /// Multiplies quad `J` of unit `u` of all rows by that of all tokens. Sums come to `dots` by
    /// way of `chains`, which are as long as the size of the weights allows.
    #[inline(always)]
    unsafe fn step<S: Simd, const J: usize>(
        &self,
        s: S,
        u: usize,
        x: *const u8,
        dots: &mut [[S::I32; N]; M],
        chains: &mut [[S::I32; N]; M],
    ) {
        let length = const { chain_length(W::MOST, W::SUB / 4) };
        // SAFETY: the caller passes a unit of the weights and its activations.
        unsafe {
            let mut w = [self.weights[0].quad::<S, J>(s, u); M];
            for m in 1..M {
                w[m] = self.weights[m].quad::<S, J>(s, u);
            }
            for n in 0..N {
                let x = s.bytes_broadcast(x.add((J * N + n) * 4));
                for m in 0..M {
                    let (dot, chain) = (&mut dots[m][n], &mut chains[m][n]);
                    if W::WHOLE_BYTES {
                        *dot = s.mma_s8(*dot, w[m], x);
                    } else {
                        if J.is_multiple_of(length) {
                            *chain = s.chain_open(*dot);
                        }
                        *chain = s.chain_mma(*chain, w[m], x);
                        if J % length == length - 1 {
                            *dot = s.chain_close(*dot, *chain);
                        }
                    }
                }
            }
        }
    }
}

/// Scales the dot products of run `run` of unit `u` and adds them to the sums; `words` are those of the
/// unit's activations.
///
/// # Safety
/// The weights have the unit, the words are of `N` tokens.
#[inline(always)]
pub(super) unsafe fn finish<S: Simd, W: Source, const M: usize, const N: usize>(
    s: S,
    weights: &[W; M],
    u: usize,
    run: usize,
    words: *const u8,
    dots: &[[S::I32; N]; M],
    sums: &mut [[S::F32; N]; M],
) {
    // SAFETY: the caller passes a unit of the weights and its activations.
    unsafe {
        for m in 0..M {
            let scale = weights[m].scale(s, u, run);
            let min = if W::HAS_MIN { weights[m].min(s, u, run) } else { s.zero() };
            for n in 0..N {
                let token = s.broadcast(words.add(word(0, N) + 4 * n).cast());
                let dot = if in_pairs::<S>(N) {
                    s.dots_of_pair([dots[m][n & !1], dots[m][n | 1]])[n & 1]
                } else {
                    dots[m][n]
                };
                let dot = s.i32_to_f32(dot);
                let mut sum = s.fma(dot, s.mul(scale, token), sums[m][n]);
                if W::HAS_MIN && W::SUB == 32 {
                    let token = s.broadcast(words.add(word(1, N) + 4 * n).cast());
                    sum = s.neg_fma(min, token, sum);
                } else if W::HAS_MIN {
                    let minus = s.i32_broadcast(words.add(word(3 + run, N) + 4 * n).cast());
                    sum = s.fma(min, s.mul(token, s.i32_to_f32(minus)), sum);
                }
                sums[m][n] = sum;
            }
        }
    }
}
