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

use super::activations::{self, BLOCK_BYTES, word};
use super::fragments::{Planes, Source};
use super::panel::{self, Convert, Panel};
use super::{GroupSet, MatmulArgs, Output, group_sets, groups_at_once, with_gemv, with_tile};
use crate::pack::planes::group_bytes;
use crate::simd::{Simd, WithSimd};
use gristmill_core::quant::IntFormat;
use std::ops::Range;

/// # Safety
/// The token's instructions exist; pointers and sizes as [`MatmulArgs`] says.
pub(super) unsafe fn matmul<S: Simd, F: IntFormat>(args: &MatmulArgs) {
    // SAFETY: the caller's promise.
    let s = unsafe { S::assume() };
    let stride = group_bytes::<F>(args.cols, S::LANES).next_multiple_of((4 * S::LANES).min(64));
    let group = |g: usize| {
        // SAFETY: the caller names groups of this matrix only.
        unsafe { Planes::<F>::new::<S>(args.weights.add(g * stride), args.cols) }
    };
    if args.tokens == 1 {
        for set in group_sets(args.groups.clone(), S::GEMV_GROUPS) {
            // SAFETY: the set lies within the caller's groups.
            unsafe { with_gemv!(S, |M| run_tile::<S, _, M, 1>(s, args, 0, set, group)) };
        }
        return;
    }
    if !panel::is_used::<F>() {
        // All tiles pass over a few groups while these are in cache.
        // SAFETY: the caller's promise.
        unsafe { run_tiles::<S, _>(s, args, S::GEMV_GROUPS, |_| {}, |g, _| group(g)) }
        return;
    }
    let panel_stride = args.cols / 32 * panel::unit_bytes::<S>(F::SUB, F::HAS_MIN);
    let convert = |groups: Range<usize>| {
        for (i, g) in groups.enumerate() {
            // SAFETY: scratch holds as many converted groups as a share has.
            let out = unsafe { args.scratch.add(i * panel_stride) };
            s.vectorize(Convert { source: group(g), units: args.cols / 32, out });
        }
    };
    // SAFETY: converted before it is read, see `run_tiles`.
    let at = |g: usize, first: usize| unsafe { args.scratch.add((g - first) * panel_stride) };
    let share = panel::groups::<S, F>(args.cols);
    macro_rules! over_panels {
        ($($sub:literal $min:literal $zero:literal;)+) => {
            match (F::SUB, F::HAS_MIN, F::ZERO) {
                $(($sub, $min, $zero) => {
                    let source = |g, first| Panel::<$sub, $min, $zero>(at(g, first));
                    // SAFETY: the caller's promise.
                    unsafe { run_tiles::<S, _>(s, args, share, convert, source) }
                })+
                _ => unreachable!("a format whose panel type is not listed here"),
            }
        };
    }
    over_panels! {
        32 true 0;
        32 false 8;
        16 false 32;
    }
}

/// Runs all token tiles over shares of the caller's groups. `begin` gets each share first;
/// `source(g, first)` is row group `g` of the share that starts at `first`.
///
/// # Safety
/// As for [`matmul`].
unsafe fn run_tiles<S: Simd, W: Source>(
    s: S,
    args: &MatmulArgs,
    share: usize,
    begin: impl Fn(Range<usize>),
    source: impl Fn(usize, usize) -> W,
) {
    let tiles = activations::tile_count(args.tokens, S::TILE_TOKENS);
    let mut rest = args.groups.clone();
    while !rest.is_empty() {
        let share = rest.start..rest.end.min(rest.start + share);
        rest.start = share.end;
        begin(share.clone());
        for t in 0..tiles {
            let (start, n) = activations::tile(args.tokens, S::TILE_TOKENS, t);
            for set in group_sets(share.clone(), groups_at_once::<S>(n)) {
                // SAFETY: the tile and the set lie within the caller's.
                unsafe {
                    with_tile!(S, n, |M, N| {
                        run_tile::<S, _, M, N>(s, args, start, set, |g| source(g, share.start))
                    });
                }
            }
        }
    }
}

/// Runs the token tile that begins at `start` over a set of groups.
///
/// # Safety
/// As for [`matmul`]; `source(g)` is row group `g`.
unsafe fn run_tile<S: Simd, W: Source, const M: usize, const N: usize>(
    s: S,
    args: &MatmulArgs,
    start: usize,
    set: GroupSet,
    source: impl Fn(usize) -> W,
) {
    let units = args.cols / 32;
    s.vectorize(Tile::<W, M, N> {
        weights: std::array::from_fn(|m| source(set.group(m))),
        // SAFETY: the tile's tokens lie within x.
        x: unsafe { args.x.add(start * units * BLOCK_BYTES) },
        units,
        out: Output::new::<S>(args, start, set),
    });
}

/// `M` row groups by `N` tokens.
struct Tile<W, const M: usize, const N: usize> {
    weights: [W; M],
    /// The prepared token tile.
    x: *const u8,
    /// Units of 32 elements in a row.
    units: usize,
    out: Output<M>,
}

impl<W: Source, const M: usize, const N: usize> WithSimd for Tile<W, M, N> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let mut sums = [[s.zero(); N]; M];
        let mut sums = &mut sums;
        if M * N > 8 {
            // All registers are for the integers of a run. Left to itself the compiler moves
            // these sums in and out of them all the same, with spills on the way; behind an
            // opaque reference they stay in memory, one operand of an addition a run.
            sums = std::hint::black_box(sums);
        }
        // SAFETY: whoever made the tile gave sources and activations of `units` units.
        unsafe {
            for u in 0..self.units {
                let x = self.x.add(u * BLOCK_BYTES * N);
                for w in self.weights {
                    w.prefetch(s, u);
                }
                if W::SUB == 16 {
                    let mut dots = start::<S, W, M, N>(s, x.add(word(3, N)));
                    self.step::<S, 0>(s, u, x, &mut dots);
                    self.step::<S, 1>(s, u, x, &mut dots);
                    self.step::<S, 2>(s, u, x, &mut dots);
                    self.step::<S, 3>(s, u, x, &mut dots);
                    self.finish(s, u, 0, x, &dots, sums);
                    let mut dots = start::<S, W, M, N>(s, x.add(word(4, N)));
                    self.step::<S, 4>(s, u, x, &mut dots);
                    self.step::<S, 5>(s, u, x, &mut dots);
                    self.step::<S, 6>(s, u, x, &mut dots);
                    self.step::<S, 7>(s, u, x, &mut dots);
                    self.finish(s, u, 1, x, &dots, sums);
                } else {
                    let mut dots = start::<S, W, M, N>(s, x.add(word(2, N)));
                    self.step::<S, 0>(s, u, x, &mut dots);
                    self.step::<S, 1>(s, u, x, &mut dots);
                    self.step::<S, 2>(s, u, x, &mut dots);
                    self.step::<S, 3>(s, u, x, &mut dots);
                    self.step::<S, 4>(s, u, x, &mut dots);
                    self.step::<S, 5>(s, u, x, &mut dots);
                    self.step::<S, 6>(s, u, x, &mut dots);
                    self.step::<S, 7>(s, u, x, &mut dots);
                    self.finish(s, u, 0, x, &dots, sums);
                }
            }
        }
        // SAFETY: the tile was made for tokens and groups of the caller's y.
        unsafe { self.out.store(s, sums) };
    }
}

/// Accumulators that already hold `-ZERO · Σ x`; `minus_sums` are the tokens' `-Σ x`.
#[inline(always)]
unsafe fn start<S: Simd, W: Source, const M: usize, const N: usize>(
    s: S,
    minus_sums: *const u8,
) -> [[S::I32; N]; M] {
    let zero = if W::WHOLE_BYTES { S::S8_BIAS } else { W::ZERO };
    let mut dots = [[s.i32_zero(); N]; M];
    if zero != 0 {
        for n in 0..N {
            // SAFETY: the words of the tile's `N` tokens.
            let sum = unsafe { s.i32_broadcast(minus_sums.add(4 * n).cast()) };
            let start = s.i32_shl(sum, zero.trailing_zeros());
            for dots in &mut dots {
                dots[n] = start;
            }
        }
    }
    dots
}

impl<W: Source, const M: usize, const N: usize> Tile<W, M, N> {
    /// Multiplies quad `J` of unit `u` of all rows by that of all tokens.
    #[inline(always)]
    unsafe fn step<S: Simd, const J: usize>(
        &self,
        s: S,
        u: usize,
        x: *const u8,
        dots: &mut [[S::I32; N]; M],
    ) {
        // SAFETY: the caller passes a unit of the weights and its activations.
        unsafe {
            let mut w = [self.weights[0].quad::<S, J>(s, u); M];
            for m in 1..M {
                w[m] = self.weights[m].quad::<S, J>(s, u);
            }
            for n in 0..N {
                let x = s.bytes_broadcast(x.add((J * N + n) * 4));
                for m in 0..M {
                    let dot = if W::WHOLE_BYTES {
                        s.mma_s8(dots[m][n], w[m], x)
                    } else {
                        s.mma_u7(dots[m][n], w[m], x)
                    };
                    // A tile that fills the registers must stay in them: see `i32_pin`.
                    dots[m][n] = if M * N > 8 { s.i32_pin(dot) } else { dot };
                }
            }
        }
    }

    /// Scales the dot products of run `run` and adds them to the sums.
    #[inline(always)]
    unsafe fn finish<S: Simd>(
        &self,
        s: S,
        u: usize,
        run: usize,
        x: *const u8,
        dots: &[[S::I32; N]; M],
        sums: &mut [[S::F32; N]; M],
    ) {
        // SAFETY: the caller passes a unit of the weights and its activations.
        unsafe {
            for m in 0..M {
                let scale = self.weights[m].scale(s, u, run);
                let min = if W::HAS_MIN { self.weights[m].min(s, u, run) } else { s.zero() };
                for n in 0..N {
                    let token = s.broadcast(x.add(word(0, N) + 4 * n).cast());
                    let dot = s.i32_to_f32(dots[m][n]);
                    let mut sum = s.fma(dot, s.mul(scale, token), sums[m][n]);
                    if W::HAS_MIN {
                        let token = s.broadcast(x.add(word(1, N) + 4 * n).cast());
                        sum = s.neg_fma(min, token, sum);
                    }
                    sums[m][n] = sum;
                }
            }
        }
    }
}
