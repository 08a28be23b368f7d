//! Weights of any format by f32 activations.
//!
//! Dense weights are widened as they are loaded; the integers of block formats become the exact
//! f32 values of the reference, 32 elements of a few rows at a time, in a buffer that never
//! leaves the first-level cache. For one row and one token, the sum runs over chunks of
//! [`CHUNK`] elements from a fresh zero, `part = fma(w, x, part)`, and `y` adds the parts: shorter
//! chains of additions, so a smaller error than one long one.

use super::fragments::{Planes, Source};
use super::{MatmulArgs, Output, activations, group_sets, groups_at_once, with_gemv, with_tile};
use crate::pack::planes::group_bytes;
use crate::simd::{Simd, WithSimd};
use gristmill_core::quant::IntFormat;
use gristmill_core::{DeviceRepr, bf16, f16};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Elements that are summed before they are added to the whole.
const CHUNK: usize = 256;

/// A dense weight element: how a register of rows is loaded.
pub(super) trait Dense: DeviceRepr {
    /// # Safety
    /// `p` is readable for `LANES` elements.
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::F32;
}
macro_rules! dense {
    ($($t:ty, $load:ident;)+) => {$(
        impl Dense for $t {
            #[inline(always)]
            unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::F32 {
                // SAFETY: the caller's promise.
                unsafe { s.$load(p) }
            }
        }
    )+};
}
dense! {
    f32, load;
    f16, load_f16;
    bf16, load_bf16;
}

/// The product with dense weights.
///
/// # Safety
/// The token's instructions exist; pointers and sizes as [`MatmulArgs`] says.
pub(super) unsafe fn dense<S: Simd, E: Dense>(args: &MatmulArgs) {
    let align = (4 * S::LANES).min(64);
    let stride = (args.cols * S::LANES * size_of::<E>()).next_multiple_of(align);
    // With several tiles, all pass over a few groups while these are in cache.
    let tiles = activations::tile_count(args.tokens, S::TILE_TOKENS);
    let share = if tiles == 1 { args.groups.len() } else { S::GEMV_GROUPS };
    // SAFETY: the caller's promise; groups of this matrix only.
    unsafe {
        let group = |g, _| Rows(args.weights.add(g * stride).cast::<E>());
        matmul::<S, _>(args, share, |_| {}, group)
    }
}

/// Bytes of scratch that a worker needs for block formats and several tokens: widened groups.
pub(super) fn scratch_bytes<S: Simd>(cols: usize) -> usize {
    S::TILE_GROUPS * cols * S::LANES * size_of::<f32>()
}

/// The product with the weights of a block format: taken apart on the way for one token, widened
/// a few groups at a time for several, which then are dense.
///
/// # Safety
/// The token's instructions exist; pointers and sizes as [`MatmulArgs`] says.
pub(super) unsafe fn blocks<S: Simd, F: IntFormat>(args: &MatmulArgs) {
    // SAFETY: the caller's promise.
    let s = unsafe { S::assume() };
    let stride = group_bytes::<F>(args.cols, S::LANES).next_multiple_of((4 * S::LANES).min(64));
    let group = |g: usize| {
        // SAFETY: the caller names groups of this matrix only.
        unsafe { Planes::<F>::new::<S>(args.weights.add(g * stride), args.cols) }
    };
    if args.tokens == 1 {
        for set in group_sets(args.groups.clone(), S::GEMV_GROUPS) {
            with_gemv!(S, |M| s.vectorize(Tile::<_, M, 1> {
                weights: std::array::from_fn(|m| group(set.group(m))),
                x: args.x.cast::<f32>(),
                cols: args.cols,
                out: Output::new::<S>(args, 0, set),
            }));
        }
        return;
    }
    let stride = args.cols * S::LANES;
    let wide = args.scratch.cast::<f32>();
    let begin = |share: Range<usize>| {
        for (i, g) in share.enumerate() {
            // SAFETY: scratch holds `TILE_GROUPS` groups, and a share has no more.
            let out = unsafe { wide.add(i * stride) };
            s.vectorize(Widen { source: group(g), units: args.cols / 32, out });
        }
    };
    // SAFETY: the caller's promise; a group is widened before it is read.
    unsafe {
        matmul::<S, _>(args, S::TILE_GROUPS, begin, |g, first| Rows(wide.add((g - first) * stride)))
    }
}

/// Widens one row group of `units` units to `[k][R]`.
struct Widen<F> {
    source: Planes<F>,
    units: usize,
    out: *mut f32,
}

impl<F: IntFormat> WithSimd for Widen<F> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let mut values = [const { MaybeUninit::<S::F32>::uninit() }; 32];
        for u in 0..self.units {
            // SAFETY: whoever made this gave a source and an output of `units` units; `widen`
            // fills all 32 values.
            unsafe {
                self.source.prefetch(s, u);
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
unsafe fn matmul<S: Simd, W: Rows32>(
    args: &MatmulArgs,
    share: usize,
    begin: impl Fn(Range<usize>),
    group: impl Fn(usize, usize) -> W,
) {
    // SAFETY: the caller's promise.
    let s = unsafe { S::assume() };
    let tiles = activations::tile_count(args.tokens, S::TILE_TOKENS);
    let mut rest = args.groups.clone();
    while !rest.is_empty() {
        let share = rest.start..rest.end.min(rest.start + share);
        rest.start = share.end;
        begin(share.clone());
        for t in 0..tiles {
            let (start, n) = activations::tile(args.tokens, S::TILE_TOKENS, t);
            for set in group_sets(share.clone(), groups_at_once::<S>(n)) {
                with_tile!(S, n, |M, N| s.vectorize(Tile::<W, M, N> {
                    weights: std::array::from_fn(|m| group(set.group(m), share.start)),
                    x: args.x.cast::<f32>().wrapping_add(start * args.cols),
                    cols: args.cols,
                    out: Output::new::<S>(args, start, set),
                }));
            }
        }
    }
}

/// A row group whose weights can be had as f32, `[k][R]`.
trait Rows32: Copy {
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

impl<E: Dense> Rows32 for Rows<E> {
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

impl<F: IntFormat> Rows32 for Planes<F> {
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
                    groups[m].prefetch(s, k / 32 + u);
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
#[inline(always)]
unsafe fn multiply<S: Simd, const M: usize, const N: usize>(
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
unsafe fn widen<S: Simd, F: IntFormat>(
    s: S,
    group: Planes<F>,
    unit: usize,
    out: &mut [MaybeUninit<S::F32>; 32],
) {
    macro_rules! quads {
        ($($j:literal)+) => {$(
            let run = $j * 4 / F::SUB;
            let mut quad = group.quad::<S, $j>(s, unit);
            if F::BITS == 8 && S::S8_BIAS == 0 {
                quad = s.bytes_xor(quad, 0x80);
            }
            for i in 0..4 {
                let q = s.sub(s.bytes_lane(quad, i as u32), s.splat(F::ZERO as f32));
                let mut value = s.mul(group.scale(s, unit, run), q);
                if F::HAS_MIN {
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
    cols: usize,
    out: Output<M>,
}

impl<W: Rows32, const M: usize, const N: usize> WithSimd for Tile<W, M, N> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let mut sums = [[s.zero(); N]; M];
        let mut k = 0;
        while k < self.cols {
            let ks = (self.cols - k).min(CHUNK);
            let mut parts = [[s.zero(); N]; M];
            // SAFETY: whoever made the tile gave groups and activations of `cols` elements.
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
