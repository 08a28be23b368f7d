//! Matrix products with packed weights: `y[t][row] = Σ_k w[row][k] · x[t][k]`.
//!
//! [`select`] turns (instruction set, weight format, activation form) into a [`MatmulKernel`],
//! once, when a plan is compiled; a step only calls its function pointers. Each algorithm is
//! written once, generic over the instruction set and the format:
//!
//! * [`activations`](self::Activations): rows of f32 become int8 blocks or f32 panels;
//! * `matmul_int8`: integer dot products of 16 or 32 elements, scaled and summed in f32;
//! * `coarse`: integer dot products of 256 elements, of weights and activations rounded once more;
//! * `matmul_f32`: weights are widened in registers, products summed in f32;
//! * `columns` and `columns_dense`: a few tokens whose elements are mostly zero, by weights that lie by
//!   columns.
//!
//! **Order of operations.** For one row and one token, the sequence of f32 operations depends on
//! the instruction set, the format and `cols` only: not on the number of tokens, the tile, the
//! worker's share, or whether weights were read packed or through a panel. So the results of a
//! token are the same bits in any batch. The exception is `coarse`, which runs for many tokens, where a
//! kernel was [asked to](MatmulKernel::with_prefill).
// A register tile is indexed by row group and token throughout: that is what the loops say.
#![allow(clippy::needless_range_loop)]

mod activations;
mod coarse;
mod codes;
mod columns;
mod columns_dense;
mod fragments;
mod matmul_f32;
mod matmul_int8;
mod panel;

pub use activations::{PrepareArgs, PrepareFn};

use crate::pack::Layout;
use crate::simd::{Isa, IsaVisitor, Simd};
use fragments::{PackedGroup, Source};
use gristmill_core::quant::IntFormat;
use gristmill_core::{DType, Error, Result, for_each_format};
use gristmill_ir::{Activations, Prefill};
use panel::{Format, with_panel};
use std::ops::Range;

/// One matrix product, or one worker's share of it.
///
/// * `weights`: one packed matrix, [`matrix`](crate::pack::Packed::matrix), of `rows` x `cols`;
/// * `x`: `tokens` prepared tokens, see [`PrepareArgs`], aligned to 4 bytes;
/// * `y`: `[tokens][y_stride]` f32, of which the first `rows` of a row are written;
/// * `groups`: the row groups to compute, of `rows.div_ceil(lanes)`; whole
///   [granules](crate::pack::Layout::granule) of a matrix by columns;
/// * `scratch`: [`MatmulKernel::scratch_bytes`] bytes of this worker's own, aligned to 64.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // described above
pub struct MatmulArgs {
    pub weights: *const u8,
    pub rows: usize,
    pub cols: usize,
    pub x: *const u8,
    pub tokens: usize,
    pub y: *mut f32,
    pub y_stride: usize,
    pub groups: Range<usize>,
    pub scratch: *mut u8,
}

/// Computes a matrix product; see [`MatmulArgs`].
type MatmulFn = unsafe fn(&MatmulArgs);
/// The same by way of panels of a format.
type OverPanelsFn = unsafe fn(&MatmulArgs, &Format);

/// How a kernel reads its weights, for one token and for several.
#[derive(Clone, Copy, Debug)]
enum Run {
    /// As they are packed.
    Direct(MatmulFn),
    /// By way of panels; if there is a function, as they are packed for at most so many tokens.
    Panels(OverPanelsFn, Format, Option<(usize, MatmulFn)>),
}

/// The functions of one (instruction set, weight format, activation form).
#[derive(Clone, Copy, Debug)]
pub struct MatmulKernel {
    activations: Activations,
    tile_tokens: usize,
    prepare: PrepareFn,
    run: Run,
    scratch_bytes: fn(cols: usize) -> usize,
    coarse: Option<Coarse>,
    prefill: Prefill,
}

/// The functions for many tokens, with a scale for each 256 elements.
#[derive(Clone, Copy, Debug)]
struct Coarse {
    prepare: PrepareFn,
    run: OverPanelsFn,
    format: Format,
    scratch_bytes: fn(cols: usize) -> usize,
}

impl MatmulKernel {
    /// The kernel as `prefill` says; exact unless this is called.
    pub fn with_prefill(self, prefill: Prefill) -> MatmulKernel {
        MatmulKernel { prefill, ..self }
    }

    /// The functions for so many tokens with one scale for 256 elements, where they are to be used.
    fn coarse(&self, tokens: usize, cols: usize) -> Option<&Coarse> {
        let fits = tokens >= coarse::TOKENS && cols.is_multiple_of(activations::COARSE);
        self.coarse.as_ref().filter(|_| fits && self.prefill == Prefill::Fast)
    }

    /// The form of activations it takes: what was asked for, but f32 for dense weights. Kernels
    /// of one instruction set and one form can share prepared activations.
    pub fn activations(&self) -> Activations {
        self.activations
    }
    /// Bytes of `tokens` prepared tokens of `cols` elements.
    pub fn activation_bytes(&self, tokens: usize, cols: usize) -> usize {
        tokens * activations::token_bytes(self.activations, cols)
    }
    /// Token tiles, the unit by which workers share the preparation.
    pub fn tiles(&self, tokens: usize) -> usize {
        activations::tile_count(tokens, self.tile_tokens)
    }
    /// Tiles that so many tokens in so many shares have at most, when no tile holds tokens of two.
    pub fn most_tiles(&self, tokens: usize, shares: usize) -> usize {
        // One token less than a whole tile makes the most, whichever of its widths a tile has.
        tokens / self.tile_tokens + shares * self.tiles(self.tile_tokens - 1)
    }

    /// Bytes of scratch that each worker gives to [`MatmulKernel::matmul`].
    pub fn scratch_bytes(&self, cols: usize) -> usize {
        let coarse = self.coarse(usize::MAX, cols).map_or(0, |c| (c.scratch_bytes)(cols));
        coarse.max((self.scratch_bytes)(cols))
    }

    /// Prepares the activations of `args.tiles`.
    ///
    /// # Safety
    /// `args.x` is readable and `args.out` writable as [`PrepareArgs`] says, `out` is aligned to
    /// 4, `cols` is a multiple of 32 for int8, and no other thread touches these tiles.
    #[inline]
    pub unsafe fn prepare(&self, args: &PrepareArgs) {
        // SAFETY: the caller's promise; `select` has seen the instruction set detected.
        unsafe { self.coarse(args.tokens, args.cols).map_or(self.prepare, |c| c.prepare)(args) }
    }

    /// Computes the rows of `args.groups`.
    ///
    /// # Safety
    /// Pointers are valid for the extents that [`MatmulArgs`] says, `weights` was packed for
    /// this kernel's instruction set and format, and no other thread touches the written rows or
    /// the scratch.
    #[inline]
    pub unsafe fn matmul(&self, args: &MatmulArgs) {
        // SAFETY: the caller's promise; `select` has seen the instruction set detected.
        unsafe {
            if let Some(coarse) = self.coarse(args.tokens, args.cols) {
                return (coarse.run)(args, &coarse.format);
            }
            match &self.run {
                Run::Direct(matmul) => matmul(args),
                Run::Panels(_, _, Some((most, few))) if args.tokens <= *most => few(args),
                Run::Panels(matmul, format, _) => matmul(args, format),
            }
        }
    }
}

/// The kernel for weights of this layout.
///
/// # Errors
/// As for [`select`].
pub fn select_for(layout: &Layout, activations: Activations) -> Result<MatmulKernel> {
    let (isa, dtype) = (layout.isa(), layout.dtype());
    match layout.granule() {
        None => select(isa, dtype, activations),
        Some(_) => selected(isa.visit(SelectByColumns(dtype, activations)), isa, dtype),
    }
}

/// The kernel for weights of `dtype` packed by rows for `isa`. Dense weights always take f32 activations.
///
/// # Errors
/// [`Error::Runtime`] for an instruction set this machine does not have, or a format without
/// kernels.
pub fn select(isa: Isa, dtype: DType, activations: Activations) -> Result<MatmulKernel> {
    selected(isa.visit(Select(dtype, activations)), isa, dtype)
}

fn selected(found: Option<Option<MatmulKernel>>, isa: Isa, dtype: DType) -> Result<MatmulKernel> {
    found
        .ok_or_else(|| Error::Runtime(format!("this machine does not have {isa}")))?
        .ok_or_else(|| Error::Runtime(format!("weights of type {dtype} are not supported yet")))
}

/// For matrices by columns.
struct SelectByColumns(DType, Activations);

impl IsaVisitor for SelectByColumns {
    type Output = Option<MatmulKernel>;
    fn visit<S: Simd>(self, _: S) -> Option<MatmulKernel> {
        let SelectByColumns(dtype, activations) = self;
        macro_rules! dense {
            ($d:ident, $t:ty) => {
                if dtype == DType::$d {
                    let run = Run::Direct(columns_dense::product::<S, $t>);
                    return Some(kernel::<S>(Activations::F32, run, |_| 0));
                }
            };
        }
        macro_rules! int {
            ($d:ident, $t:ty) => {
                if dtype == DType::$d {
                    return Some(column_kernel::<S, $t>(activations));
                }
            };
        }
        for_each_format!(dense: dense);
        for_each_format!(int: int);
        None
    }
}

struct Select(DType, Activations);

impl IsaVisitor for Select {
    type Output = Option<MatmulKernel>;
    fn visit<S: Simd>(self, _: S) -> Option<MatmulKernel> {
        let Select(dtype, activations) = self;
        macro_rules! dense {
            ($d:ident, $t:ty) => {
                if dtype == DType::$d {
                    let run = Run::Direct(matmul_f32::dense::<S, $t>);
                    return Some(kernel::<S>(Activations::F32, run, |_| 0));
                }
            };
        }
        macro_rules! blocks {
            ($d:ident, $w:ty) => {
                if dtype == DType::$d {
                    return Some(block_kernel::<S, $w>(activations));
                }
            };
        }
        macro_rules! int {
            ($d:ident, $t:ty) => {
                blocks!($d, fragments::Planes<$t>)
            };
        }
        macro_rules! coded {
            ($d:ident, $t:ty) => {
                blocks!($d, codes::Codes<$t>)
            };
        }
        macro_rules! packed {
            ($d:ident, $t:ty) => {
                blocks!($d, codes::PackedBlocks<$t>)
            };
        }
        for_each_format!(dense: dense);
        for_each_format!(int: int);
        for_each_format!(coded: coded);
        for_each_format!(packed: packed);
        None
    }
}

fn kernel<S: Simd>(
    activations: Activations,
    run: Run,
    scratch_bytes: fn(cols: usize) -> usize,
) -> MatmulKernel {
    let prepare = activations::prepare_fn::<S>(activations);
    MatmulKernel {
        activations,
        tile_tokens: S::TILE_TOKENS,
        prepare,
        run,
        scratch_bytes,
        coarse: None,
        prefill: Prefill::Exact,
    }
}

/// The kernel for a block format.
fn block_kernel<S: Simd, W: PackedGroup>(activations: Activations) -> MatmulKernel {
    let format = Format::new::<S, W>();
    let direct = if W::DIRECT { Some(matmul_int8::direct::<S, W> as MatmulFn) } else { None };
    let kernel = panel_kernel::<S, W>(activations, format, direct.map(|direct| (1, direct)));
    match (activations, direct) {
        (Activations::Int8, Some(direct)) if W::Source::WHOLE_BYTES => {
            MatmulKernel { run: Run::Direct(direct), scratch_bytes: |_| 0, ..kernel }
        }
        _ => kernel,
    }
}

/// The kernel for a format of integers by columns: many tokens go over panels.
fn column_kernel<S: Simd, F: IntFormat>(activations: Activations) -> MatmulKernel {
    let few = (columns::FEW, columns::few_tokens::<S, F> as MatmulFn);
    let format = Format::by_columns::<S, F>();
    panel_kernel::<S, fragments::Planes<F>>(activations, format, Some(few))
}

/// The kernel for a block format by way of panels, but for so few tokens with int8 activations as `few`
/// says.
fn panel_kernel<S: Simd, W: PackedGroup>(
    activations: Activations,
    format: Format,
    few: Option<(usize, MatmulFn)>,
) -> MatmulKernel {
    let exact = match activations {
        Activations::Int8 => with_panel!(W, |P| {
            let run = Run::Panels(matmul_int8::over_panels::<S, P>, format, few);
            kernel::<S>(activations, run, matmul_int8::scratch_bytes::<S, P>)
        }),
        Activations::F32 => with_panel!(W, |P| {
            let run = Run::Panels(matmul_f32::over_panels::<S, P>, format, None);
            kernel::<S>(activations, run, matmul_f32::scratch_bytes::<S, P>)
        }),
    };
    let coarse = with_panel!(W, |P| Coarse {
        prepare: activations::quantize_tiles::<S, { activations::COARSE }>,
        run: coarse::over_panels::<S, P>,
        format,
        scratch_bytes: coarse::scratch_bytes::<S, P>,
    });
    let coarse = (activations == Activations::Int8).then_some(coarse);
    MatmulKernel { coarse, ..exact }
}

/// Evaluates `$call` with constants `M` and `N` for a number of tokens known at run time, in kernels
/// that keep `$sums` registers for each of `M · N`: the one place where register tiles are
/// enumerated. Arms an instruction set never takes vanish.
macro_rules! with_tile {
    ($s:ty, $sums:expr, $tokens:expr, |$m:ident, $n:ident| $call:expr) => {{
        macro_rules! arm {
            ($groups_:literal, $tokens_:literal) => {{
                const $m: usize = $groups_;
                const $n: usize = $tokens_;
                $call
            }};
        }
        let groups = |n| $crate::kernels::matmul::groups_at_once::<$s>($sums, n);
        match $tokens {
            1 if groups(1) == 1 => arm!(1, 1),
            1 if groups(1) == 4 => arm!(4, 1),
            2 if <$s>::TILE_TOKENS >= 4 => arm!(2, 2),
            4 if <$s>::TILE_TOKENS >= 4 && groups(4) == 1 => arm!(1, 4),
            4 if <$s>::TILE_TOKENS >= 4 && groups(4) == 2 => arm!(2, 4),
            12 if <$s>::TILE_TOKENS == 12 && groups(12) == 1 => arm!(1, 12),
            12 if <$s>::TILE_TOKENS == 12 && groups(12) == 2 => arm!(2, 12),
            n => unreachable!("no register tile of {n} tokens"),
        }
    }};
}
use with_tile;

/// Evaluates `$call` with a constant `M`: the row groups that a kernel for one token takes at once.
macro_rules! with_gemv {
    ($s:ty, |$m:ident| $call:expr) => {{
        if <$s>::GEMV_GROUPS == 4 {
            const $m: usize = 4;
            $call
        } else {
            const $m: usize = 1;
            $call
        }
    }};
}
use with_gemv;

/// A few row groups that a register tile handles together.
///
/// They lie a share apart, so that each of them is a stream that reads memory forward without a
/// gap, which is what prefetching ahead needs. In the last set of a range groups repeat: they are
/// computed twice, to the same bits.
#[derive(Clone, Copy)]
struct GroupSet {
    first: usize,
    step: usize,
    last: usize,
}

impl GroupSet {
    /// Group `m` of the set.
    #[inline(always)]
    fn group(self, m: usize) -> usize {
        (self.first + m * self.step).min(self.last)
    }
}

/// Where a register tile of `M` row groups writes.
struct Output<const M: usize> {
    /// Token `start` of y.
    y: *mut f32,
    y_stride: usize,
    /// First row of each group, and how many there are.
    rows: [(usize, usize); M],
}

impl<const M: usize> Output<M> {
    fn new<S: Simd>(args: &MatmulArgs, start: usize, set: GroupSet) -> Self {
        let rows = std::array::from_fn(|m| {
            let first = set.group(m) * S::LANES;
            (first, (args.rows - first).min(S::LANES))
        });
        Output { y: args.y.wrapping_add(start * args.y_stride), y_stride: args.y_stride, rows }
    }

    /// # Safety
    /// `y` has `N` tokens from `start` on, and the rows of the set's groups.
    #[inline(always)]
    unsafe fn load<S: Simd, const N: usize>(&self, s: S, sums: &mut [[S::F32; N]; M]) {
        for (sums, &(first, rows)) in sums.iter_mut().zip(&self.rows) {
            for (n, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                *sum = unsafe { s.load_n(self.y.add(n * self.y_stride + first), rows) };
            }
        }
    }

    /// # Safety
    /// `y` has `N` tokens from `start` on, and the rows of the set's groups.
    #[inline(always)]
    unsafe fn store<S: Simd, const N: usize>(&self, s: S, sums: &[[S::F32; N]; M]) {
        for (sums, &(first, rows)) in sums.iter().zip(&self.rows) {
            for (n, &sum) in sums.iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe { s.store_n(self.y.add(n * self.y_stride + first), rows, sum) };
            }
        }
    }
}

/// The sets of `at_once` groups that cover `groups`.
fn group_sets(groups: Range<usize>, at_once: usize) -> impl Iterator<Item = GroupSet> {
    let step = groups.len() / at_once;
    let rest = groups.start + step * at_once;
    let last = groups.end - usize::from(!groups.is_empty());
    (groups.start..groups.start + step)
        .map(move |first| GroupSet { first, step, last })
        .chain((rest < groups.end).then_some(GroupSet { first: rest, step: 1, last }))
}

/// Row groups that are handled together for a tile of `tokens`, with `sums` registers for each row
/// group and token: as many as leave a few registers for operands.
const fn groups_at_once<S: Simd>(sums: usize, tokens: usize) -> usize {
    if tokens == 1 {
        S::GEMV_GROUPS
    } else if S::TILE_GROUPS * tokens * sums + 4 <= S::REGISTERS {
        S::TILE_GROUPS
    } else {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_cover_every_group() {
        for at_once in [1, 2, 4] {
            for start in [0, 3] {
                for len in 0..20 {
                    let mut seen = vec![0; len];
                    for set in group_sets(start..start + len, at_once) {
                        for m in 0..at_once {
                            seen[set.group(m) - start] += 1;
                        }
                    }
                    assert!(seen.iter().all(|&n| n > 0), "{len} by {at_once}: {seen:?}");
                    assert!(seen.iter().take(len / at_once * at_once).all(|&n| n == 1));
                }
            }
        }
    }
}
