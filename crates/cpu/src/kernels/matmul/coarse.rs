//! Quantized weights by int8 activations with one scale for 256 elements of both, for many tokens:
//! what [`Prefill::Fast`](gristmill_ir::Prefill::Fast) asks for.
//!
//! Between the scales of a format lie 16 or 32 elements: after four or eight products each sum is
//! converted, scaled and added. Here a panel is rounded once more, to whole bytes with a scale for
//! each row and 256 columns, minima in the bytes; so that work falls on 64 products:
//!
//! ```text
//! y = fma(Σ w x,  scale_row · scale_token,  y)      over each 256
//! ```
//!
//! Sums are few enough to lie in y meanwhile, which leaves the registers to the products.

use super::activations::{self, COARSE, block_bytes, word};
use super::fragments::Source;
use super::matmul_int8::{Tile, finish, start};
use super::panel::{AnyPanel, Converter, Format, PIECE};
use super::{MatmulArgs, Output, group_sets, groups_at_once, with_tile};
use crate::simd::{Simd, WithSimd};

const _: () = assert!(PIECE * 32 == COARSE);

/// Fewer tokens than this do not repay the second rounding.
pub(super) const TOKENS: usize = 32;

/// Bytes that a panel may take; see [`super::panel`].
const PANEL_BYTES: usize = 512 << 10;

/// Registers for each row group and token: the integers of a block.
const SUMS: usize = 1;

/// A row group in whole bytes: for each 256 columns 64 fragments `[R][4]`, then scales `f32[R]`.
#[derive(Clone, Copy)]
struct Coarse(*const u8);

impl Coarse {
    const fn block_bytes(lanes: usize) -> usize {
        (COARSE + 4) * lanes
    }
    /// Bytes of a row group of `cols` columns.
    const fn bytes(cols: usize, lanes: usize) -> usize {
        cols / COARSE * Self::block_bytes(lanes)
    }
    /// The block that holds unit `unit`.
    #[inline(always)]
    unsafe fn block<S: Simd>(self, unit: usize) -> *const u8 {
        // SAFETY: the caller's promise: the panel has this unit.
        unsafe { self.0.add(unit / PIECE * Self::block_bytes(S::LANES)) }
    }
}

impl Source for Coarse {
    const SUB: usize = COARSE;
    const ZERO: i32 = 128;
    const MOST: i32 = 127;
    const HAS_MIN: bool = false;
    const WHOLE_BYTES: bool = true;

    #[inline(always)]
    unsafe fn quad<S: Simd, const J: usize>(self, s: S, unit: usize) -> S::Bytes {
        let at = (unit % PIECE * 8 + J) * 4 * S::LANES;
        // SAFETY: a block starts with the fragments of its units.
        unsafe { s.bytes_load(self.block::<S>(unit).add(at)) }
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(self, s: S, unit: usize, _: usize) -> S::F32 {
        // SAFETY: the scales follow the fragments.
        unsafe { s.load(self.block::<S>(unit).add(COARSE * S::LANES).cast()) }
    }
    #[inline(always)]
    unsafe fn min<S: Simd>(self, s: S, _: usize, _: usize) -> S::F32 {
        s.zero()
    }
    #[inline(always)]
    fn prefetch<S: Simd>(self, _: S, _: usize) {}
}

/// Row groups of `cols` columns that fit a cache.
fn groups<S: Simd>(cols: usize) -> usize {
    let fit = PANEL_BYTES / Coarse::bytes(cols, S::LANES).max(1);
    (fit / S::TILE_GROUPS).max(1) * S::TILE_GROUPS
}

/// Bytes of scratch that a worker needs: coarse row groups, and a piece of one exact one.
pub(super) fn scratch_bytes<S: Simd, P: AnyPanel>(cols: usize) -> usize {
    groups::<S>(cols) * Coarse::bytes(cols, S::LANES) + P::piece_bytes::<S>(1)
}

/// Any number of tokens.
///
/// # Safety
/// The token's instructions exist; pointers and sizes as [`MatmulArgs`] says, `x` in blocks of 256;
/// the panels are those of `format`.
pub(super) unsafe fn over_panels<S: Simd, P: AnyPanel>(args: &MatmulArgs, format: &Format) {
    let converter = format.converter(args);
    let share = groups::<S>(args.cols);
    let bytes = Coarse::bytes(args.cols, S::LANES);
    // SAFETY: scratch holds a share of coarse groups, then a piece.
    let piece = unsafe { args.scratch.add(share * bytes) };
    let tiles = activations::tile_count(args.tokens, S::TILE_TOKENS);
    let mut rest = args.groups.clone();
    while !rest.is_empty() {
        let share = rest.start..rest.end.min(rest.start + share);
        rest.start = share.end;
        // SAFETY: as above.
        let at = |group: usize| unsafe { args.scratch.add((group - share.start) * bytes) };
        for group in share.clone() {
            // SAFETY: the caller names groups of this matrix only.
            unsafe { convert::<S, P>(&converter, group, piece, at(group)) };
        }
        for t in 0..tiles {
            let (start, n) = activations::tile(args.tokens, S::TILE_TOKENS, t);
            for set in group_sets(share.clone(), groups_at_once::<S>(SUMS, n)) {
                let source = |m| Coarse(at(set.group(m)));
                // SAFETY: the tile and the set lie within the caller's, and are converted.
                unsafe {
                    with_tile!(S, SUMS, n, |M, N| {
                        S::assume().vectorize(Blocks(Tile::<Coarse, M, N> {
                            weights: std::array::from_fn(source),
                            x: args.x.add(start * (args.cols / COARSE) * block_bytes(COARSE)),
                            units: args.cols / 32,
                            resume: false,
                            out: Output::new::<S>(args, start, set),
                        }));
                    });
                }
            }
        }
    }
}

/// A tile over blocks of 256.
struct Blocks<const M: usize, const N: usize>(Tile<Coarse, M, N>);

impl<const M: usize, const N: usize> WithSimd for Blocks<M, N> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let tile = self.0;
        // SAFETY: whoever made the tile gave sources, activations and sums of `units` units.
        unsafe {
            for first in (0..tile.units).step_by(PIECE) {
                let x = tile.x.add(first / PIECE * block_bytes(COARSE) * N);
                let words = x.add(COARSE * N);
                let mut chains = [[s.i32_zero(); N]; M];
                let mut dots = start::<S, Coarse, M, N>(s, words.add(word(2, N)));
                for i in 0..PIECE {
                    let (u, x) = (first + i, x.add(32 * i * N));
                    tile.steps::<S, 0, 1>(s, u, x, &mut dots, &mut chains);
                    tile.steps::<S, 2, 3>(s, u, x, &mut dots, &mut chains);
                    tile.steps::<S, 4, 5>(s, u, x, &mut dots, &mut chains);
                    tile.steps::<S, 6, 7>(s, u, x, &mut dots, &mut chains);
                }
                let mut sums = [[s.zero(); N]; M];
                if first > 0 {
                    tile.out.load(s, &mut sums);
                }
                finish(s, &tile.weights, first, 0, words, &dots, &mut sums);
                tile.out.store(s, &sums);
            }
        }
    }
}

/// Converts row group `group` to a coarse one, by way of exact pieces.
///
/// # Safety
/// The matrix has the group; `piece` is writable for a piece, `out` for a coarse group.
unsafe fn convert<S: Simd, P: AnyPanel>(
    converter: &Converter,
    group: usize,
    piece: *mut u8,
    out: *mut u8,
) {
    for first in (0..converter.units()).step_by(PIECE) {
        // SAFETY: the caller's promise; columns are whole blocks.
        unsafe {
            converter.run(group, first..first + PIECE, piece);
            let out = out.add(first / PIECE * Coarse::block_bytes(S::LANES));
            S::assume().vectorize(Round { piece: P::at(piece), out });
        }
    }
}

/// Rounds a piece of an exact panel to a coarse block.
struct Round<P> {
    piece: P,
    out: *mut u8,
}

impl<P: AnyPanel> WithSimd for Round<P> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let mut largest = s.zero();
        // SAFETY: whoever made this gave a whole piece and room for a block.
        unsafe {
            for u in 0..PIECE {
                let runs = Runs::<S>::new(s, self.piece, u);
                for j in 0..8 {
                    for v in runs.values(s, self.piece, u, j) {
                        largest = s.max(s.abs(v), largest);
                    }
                }
            }
            let inverse = s.div(s.splat(127.0), s.max(largest, s.splat(1e-30)));
            for u in 0..PIECE {
                let runs = Runs::<S>::new(s, self.piece, u);
                for j in 0..8 {
                    let mut quad = s.words_splat(0);
                    for (i, v) in runs.values(s, self.piece, u, j).into_iter().enumerate() {
                        let q = s.words_of(s.round(s.mul(v, inverse)));
                        let q = s.words_shl(s.words_and(q, 255), 8 * i as u32);
                        quad = s.bytes_or(quad, q);
                    }
                    let quad = s.bytes_xor(quad, S::S8_BIAS as u8);
                    s.bytes_store(self.out.add((8 * u + j) * 4 * S::LANES), quad);
                }
            }
            let scale = s.mul(largest, s.splat(1.0 / 127.0));
            s.store(self.out.add(COARSE * S::LANES).cast(), scale);
        }
    }
}

/// Scales and minima of the two halves of a unit.
struct Runs<S: Simd> {
    scale: [S::F32; 2],
    min: [S::F32; 2],
}

impl<S: Simd> Runs<S> {
    /// # Safety
    /// The panel has the unit.
    #[inline(always)]
    unsafe fn new<P: AnyPanel>(s: S, panel: P, unit: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let run = |half| if P::SUB == 16 { half } else { 0 };
            let min = |half| if P::HAS_MIN { panel.min(s, unit, run(half)) } else { s.zero() };
            let scale = |half| panel.scale(s, unit, run(half));
            Runs { scale: [scale(0), scale(1)], min: [min(0), min(1)] }
        }
    }

    /// The values of quad `j` of the unit.
    ///
    /// # Safety
    /// The panel has the unit.
    #[inline(always)]
    unsafe fn values<P: AnyPanel>(&self, s: S, panel: P, unit: usize, j: usize) -> [S::F32; 4] {
        // SAFETY: the caller's promise.
        let quad = unsafe { panel.any_quad(s, unit, j) };
        // Signed bytes become those with 128 added.
        let signed = P::WHOLE_BYTES && S::S8_BIAS == 0;
        let quad = if signed { s.bytes_xor(quad, 128) } else { quad };
        let (scale, min, zero) = (self.scale[j / 4], self.min[j / 4], s.splat(P::ZERO as f32));
        let value = |i| {
            let q = s.bytes_lane(quad, i);
            // The zero point comes off before anything is rounded.
            if P::HAS_MIN { s.sub(s.mul(scale, q), min) } else { s.mul(scale, s.sub(q, zero)) }
        };
        [value(0), value(1), value(2), value(3)]
    }
}
