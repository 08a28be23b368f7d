//! Weights of any format by f32 activations.
//!
//! Dense weights are widened as they are loaded; the integers of block formats become the exact
//! f32 values of the reference, a piece of a few rows at a time, by way of a panel that never
//! leaves the first-level cache. For one row and one token, the sum runs over chunks of
//! [`CHUNK`] elements from a fresh zero, `part = fma(w, x, part)`, and `y` adds the parts: shorter
//! chains of additions, so a smaller error than one long one.

use super::panel::{AnyPanel, Format, PIECE, Panel};
use super::{MatmulArgs, Output, activations, group_sets, groups_at_once, with_gemv, with_tile};
use crate::kernels::stored::Stored;
use crate::simd::{Simd, WithSimd};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Elements that are summed before they are added to the whole.
pub(super) const CHUNK: usize = 256;

/// Elements and row groups of the piece of the weights that stays in cache for many tokens:
/// 128 KiB of f16 with 16 rows a group, beside 24 KiB of activations for twelve tokens.
const BLOCK_COLS: usize = 2 * CHUNK;
pub(super) const BLOCK_GROUPS: usize = 8;

/// The product with dense weights.
///
/// # Safety
/// The token's instructions exist; pointers and sizes as [`MatmulArgs`] says.
pub(super) unsafe fn dense<S: Simd, E: Stored>(args: &MatmulArgs) {
    let align = (4 * S::LANES).min(64);
    let stride = (args.cols * S::LANES * size_of::<E>()).next_multiple_of(align);
    let tiles = activations::tile_count(args.tokens, S::TILE_TOKENS);
    let share = if tiles == 1 { args.groups.len() } else { BLOCK_GROUPS };
    // SAFETY: the caller's promise; groups of this matrix only.
    unsafe {
        let group = |g, _| Rows(args.weights.add(g * stride).cast::<E>());
        matmul::<S, _>(args, share, |_| {}, group)
    }
}

/// Bytes of scratch that a worker needs for block formats: pieces of panels, and for several tokens
/// groups that are widened whole.
pub(super) fn scratch_bytes<S: Simd, P: AnyPanel>(cols: usize) -> usize {
    let wide = S::TILE_GROUPS * cols * S::LANES * size_of::<f32>();
    P::piece_bytes::<S>(S::GEMV_GROUPS).max(P::piece_bytes::<S>(1) + wide)
}

/// The product with the weights of a block format by way of panels: of pieces for one token, which
/// are widened in registers; for several, groups are widened a few at a time, and then are dense.
///
/// # Safety
/// The token's instructions exist; pointers and sizes as [`MatmulArgs`] says; the panels are those
/// of `format`.
pub(super) unsafe fn over_panels<S: Simd, P: AnyPanel + Rows32>(
    args: &MatmulArgs,
    format: &Format,
) {
    const { assert!(PIECE * 32 == CHUNK) };
    // SAFETY: the caller's promise.
    let s = unsafe { S::assume() };
    let converter = format.converter(args);
    let units = converter.units();
    let piece_bytes = P::piece_bytes::<S>(1);
    if args.tokens == 1 {
        for set in group_sets(args.groups.clone(), S::GEMV_GROUPS) {
            for first in (0..units).step_by(PIECE) {
                let piece = first..units.min(first + PIECE);
                // SAFETY: scratch holds a piece of as many groups as a set has.
                let at = |m: usize| unsafe { args.scratch.add(m * piece_bytes) };
                for m in 0..S::GEMV_GROUPS {
                    // SAFETY: as above; the set lies within the caller's groups.
                    unsafe { converter.run(set.group(m), piece.clone(), at(m)) };
                }
                with_gemv!(S, |M| s.vectorize(Tile::<_, M, 1> {
                    weights: std::array::from_fn(|m| P::at(at(m))),
                    x: args.x.cast::<f32>().wrapping_add(first * 32),
                    k: 0..piece.len() * 32,
                    resume: first > 0,
                    out: Output::new::<S>(args, 0, set),
                }));
            }
        }
        return;
    }
    let stride = args.cols * S::LANES;
    let wide = args.scratch.wrapping_add(piece_bytes).cast::<f32>();
    let begin = |share: Range<usize>| {
        for (i, g) in share.enumerate() {
            for first in (0..units).step_by(PIECE) {
                let piece = first..units.min(first + PIECE);
                // SAFETY: scratch holds a piece and `TILE_GROUPS` wide groups, and a share has no
                // more.
                unsafe {
                    converter.run(g, piece.clone(), args.scratch);
                    let out = wide.add(i * stride + first * 32 * S::LANES);
                    s.vectorize(Widen { source: P::at(args.scratch), units: piece.len(), out });
                }
            }
        }
    };
    // SAFETY: the caller's promise; a group is widened before it is read.
    unsafe {
        matmul::<S, _>(args, S::TILE_GROUPS, begin, |g, first| Rows(wide.add((g - first) * stride)))
    }
}

/// Widens one row group of `units` units to `[k][R]`.
struct Widen<P> {
    source: P,
    units: usize,
    out: *mut f32,
}

impl<P: AnyPanel> WithSimd for Widen<P> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let mut values = [const { MaybeUninit::<S::F32>::uninit() }; 32];
        for u in 0..self.units {
            // SAFETY: whoever made this gave a source and an output of `units` units; `widen`
            // fills all 32 values.
            unsafe {
                widen(s, self.source, u, &mut values);
                for (i, v) in values.iter().enumerate() {
                    s.store(self.out.add((u * 32 + i) * S::LANES), v.assume_init());
                }
            }
        }
    }
}

/// # Safety
/// As for [`dense`]; `begin` gets each share of at most `share` groups before
/// `group(g, first)`, row group `g` of the share that starts at `first`, is read.
pub(super) unsafe fn matmul<S: Simd, W: Rows32>(
    args: &MatmulArgs,
    share: usize,
    begin: impl Fn(Range<usize>),
    group: impl Fn(usize, usize) -> W,
) {
    // SAFETY: the caller's promise.
    let s = unsafe { S::assume() };
    let tiles = activations::tile_count(args.tokens, S::TILE_TOKENS);
    // With several tiles, all pass over a piece of a few groups that stays in cache, and a tile's
    // piece of x stays for these groups; y holds the sums so far. A single tile reads its weights
    // once, all the way.
    let piece = if tiles == 1 { args.cols.max(1) } else { BLOCK_COLS };
    let mut rest = args.groups.clone();
    while !rest.is_empty() {
        let share = rest.start..rest.end.min(rest.start + share);
        rest.start = share.end;
        begin(share.clone());
        for k in (0..args.cols).step_by(piece) {
            for t in 0..tiles {
                let (start, n) = activations::tile(args.tokens, S::TILE_TOKENS, t);
                for set in group_sets(share.clone(), groups_at_once::<S>(1, n)) {
                    with_tile!(S, 1, n, |M, N| s.vectorize(Tile::<W, M, N> {
                        weights: std::array::from_fn(|m| group(set.group(m), share.start)),
                        x: args.x.cast::<f32>().wrapping_add(start * args.cols),
                        k: k..args.cols.min(k + piece),
                        resume: k > 0,
                        out: Output::new::<S>(args, start, set),
                    }));
                }
            }
        }
    }
}

/// A row group whose weights can be had as f32, `[k][R]`.
pub(super) trait Rows32: Copy {
    /// Adds to `parts[m][n]` the products of `ks` (at most [`CHUNK`], a multiple of 32 for block
    /// formats) elements from `k` on. `x` is the tile at element `k`.
    ///
    /// # Safety
    /// The groups hold these elements, laid out for `S`, and `x` holds `ks` tokens of `N`.
    unsafe fn accumulate<S: Simd, const M: usize, const N: usize>(
        s: S,
        groups: &[Self; M],
        k: usize,
        ks: usize,
        x: *const f32,
        parts: &mut [[S::F32; N]; M],
    );
}

/// Dense rows.
#[derive(Clone, Copy)]
struct Rows<E>(*const E);

/// How far ahead of the weights in work memory is asked for, in bytes of one row group.
const PREFETCH: usize = 4096;

impl<E: Stored> Rows32 for Rows<E> {
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
                    let p = groups[m].0.add((k + i) * S::LANES);
                    w[m] = E::load(s, p);
                    if N <= 2 && S::LANES * size_of::<E>() >= 32 {
                        s.prefetch(p.cast::<u8>().wrapping_add(PREFETCH));
                    }
                }
                multiply(s, &w, x.add(i * N), parts);
            }
        }
    }
}

impl<const SUB: usize, const HAS_MIN: bool, const ZERO: i32> Rows32 for Panel<SUB, HAS_MIN, ZERO> {
    #[inline(always)]
    unsafe fn accumulate<S: Simd, const M: usize, const N: usize>(
        s: S,
        groups: &[Self; M],
        k: usize,
        ks: usize,
        x: *const f32,
        parts: &mut [[S::F32; N]; M],
    ) {
        let mut values = [const { [const { MaybeUninit::<S::F32>::uninit() }; 32] }; M];
        for u in 0..ks / 32 {
            // SAFETY: the caller's promise; `widen` fills all 32 values of a group.
            unsafe {
                for m in 0..M {
                    widen(s, groups[m], k / 32 + u, &mut values[m]);
                }
                for i in 0..32 {
                    let mut w = [s.zero(); M];
                    for m in 0..M {
                        w[m] = values[m][i].assume_init();
                    }
                    multiply(s, &w, x.add((u * 32 + i) * N), parts);
                }
            }
        }
    }
}

/// `parts[m][n] += w[m] · x[n]`
///
/// # Safety
/// `x` is readable for `N` values.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, const M: usize, const N: usize>(
    s: S,
    w: &[S::F32; M],
    x: *const f32,
    parts: &mut [[S::F32; N]; M],
) {
    for n in 0..N {
        // SAFETY: the caller passes a tile of N tokens.
        let x = unsafe { s.broadcast(x.add(n)) };
        for m in 0..M {
            parts[m][n] = s.fma(w[m], x, parts[m][n]);
        }
    }
}

/// The 32 values of every row of a unit, exactly those of the reference dequantization.
///
/// # Safety
/// The group holds unit `unit`, laid out for `S`.
#[inline(always)]
unsafe fn widen<S: Simd, P: AnyPanel>(
    s: S,
    group: P,
    unit: usize,
    out: &mut [MaybeUninit<S::F32>; 32],
) {
    macro_rules! quads {
        ($($j:literal)+) => {$(
            let run = $j * 4 / P::SUB;
            let mut quad = group.quad::<S, $j>(s, unit);
            if P::WHOLE_BYTES && S::S8_BIAS == 0 {
                quad = s.bytes_xor(quad, 0x80);
            }
            for i in 0..4 {
                let q = s.sub(s.bytes_lane(quad, i as u32), s.splat(P::ZERO as f32));
                let mut value = s.mul(group.scale(s, unit, run), q);
                if P::HAS_MIN {
                    value = s.sub(value, group.min(s, unit, run));
                }
                out[$j * 4 + i].write(value);
            }
        )+};
    }
    // SAFETY: the caller's promise.
    unsafe {
        quads!(0 1 2 3 4 5 6 7);
    }
}

/// `M` row groups by `N` tokens.
struct Tile<W, const M: usize, const N: usize> {
    weights: [W; M],
    /// The prepared token tile, `[k][N]`.
    x: *const f32,
    /// The elements to sum.
    k: Range<usize>,
    /// Whether y holds the sum over earlier elements.
    resume: bool,
    out: Output<M>,
}

impl<W: Rows32, const M: usize, const N: usize> WithSimd for Tile<W, M, N> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let mut sums = [[s.zero(); N]; M];
        if self.resume {
            // SAFETY: the tile was made for tokens and groups of the caller's y.
            unsafe { self.out.load(s, &mut sums) };
        }
        let mut k = self.k.start;
        while k < self.k.end {
            let ks = (self.k.end - k).min(CHUNK);
            let mut parts = [[s.zero(); N]; M];
            // SAFETY: whoever made the tile gave groups and activations of all of `k`.
            unsafe {
                let x = self.x.add(k * N);
                W::accumulate(s, &self.weights, k, ks, x, &mut parts);
            }
            for m in 0..M {
                for n in 0..N {
                    sums[m][n] = s.add(sums[m][n], parts[m][n]);
                }
            }
            k += ks;
        }
        // SAFETY: the tile was made for tokens and groups of the caller's y.
        unsafe { self.out.store(s, &sums) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::matmul::{Activations, PrepareArgs, activations::prepare_fn};
    use crate::simd::{Naive, Scalar};
    use gristmill_core::Element;

    /// Dense rows of any element against sums in f64, for one token and for five.
    fn check<S: Simd, E: Element>(value: impl Fn(usize) -> E) {
        let (rows, cols, tokens) = (S::LANES + 3, 45, 5);
        let groups = rows.div_ceil(S::LANES);
        let stride = (cols * S::LANES * size_of::<E>()).next_multiple_of((4 * S::LANES).min(64));
        let mut packed = vec![E::default(); groups * stride / size_of::<E>()];
        for i in 0..rows * cols {
            let (row, k) = (i / cols, i % cols);
            let group = row / S::LANES * (stride / size_of::<E>());
            packed[group + k * S::LANES + row % S::LANES] = value(i);
        }
        let x: Vec<f32> = (0..tokens * cols).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
        for tokens in [1, tokens] {
            let mut prepared = vec![0.0f32; tokens * cols];
            let mut y = vec![0.0f32; tokens * rows];
            let args = PrepareArgs {
                x: x.as_ptr(),
                x_stride: cols,
                rows: std::ptr::null(),
                tokens,
                cols,
                out: prepared.as_mut_ptr().cast(),
                tiles: 0..activations::tile_count(tokens, S::TILE_TOKENS),
            };
            // SAFETY: portable instruction sets; every array has the size that it is said to have.
            unsafe {
                prepare_fn::<S>(Activations::F32)(&args);
                dense::<S, E>(&MatmulArgs {
                    weights: packed.as_ptr().cast(),
                    rows,
                    cols,
                    x: prepared.as_ptr().cast(),
                    tokens,
                    y: y.as_mut_ptr(),
                    y_stride: rows,
                    groups: 0..groups,
                    scratch: std::ptr::null_mut(),
                });
            }
            for (i, y) in y.iter().enumerate() {
                let (t, row) = (i / rows, i % rows);
                let products = (0..cols)
                    .map(|k| f64::from(value(row * cols + k).widen()) * f64::from(x[t * cols + k]));
                let (sum, size) = products.fold((0.0, 0.0), |(s, a), p| (s + p, a + p.abs()));
                assert!((f64::from(*y) - sum).abs() <= 1e-6 * size, "{i}: {y}, not {sum}");
            }
        }
    }

    #[test]
    fn any_element_can_be_a_weight() {
        check::<Naive, f64>(|i| (i * 31 % 97) as f64 / 48.0 - 1.0);
        check::<Scalar, f64>(|i| (i * 31 % 97) as f64 / 48.0 - 1.0);
        check::<Naive, i8>(|i| (i * 31 % 256) as u8 as i8);
        check::<Scalar, i8>(|i| (i * 31 % 256) as u8 as i8);
    }
}
