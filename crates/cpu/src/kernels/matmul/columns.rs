//! Quantized weights by columns and int8 activations of a token, or a few, most of which are zero: only
//! columns that meet something else are read.
//!
//! Of each 32 columns those with an activation are taken four at a time, the last ones filled up with
//! columns by zero. Exchanging their bytes makes fragments of them, as if these columns lay side by side
//! in a matrix by rows, and integer sums are the same in any order; what follows the sums is
//! [`finish`], for every run of columns. So results are the bits of `matmul_int8`, which more tokens go
//! through, by way of panels.

use super::MatmulArgs;
use super::activations::{block_bytes, tile_of, word};
use super::fragments::{self, Source};
use super::matmul_int8::{finish, start};
use super::panel::{Convert, Matrix};
use crate::pack::columns::{self, Chunk, granule, granule_bytes};
use crate::pack::planes;
use crate::simd::{Simd, WithSimd};
use gristmill_core::quant::IntFormat;
use std::marker::PhantomData;
use std::ops::Range;

/// One row group of a chunk, as if it lay by rows.
struct Column<F> {
    chunk: *const u8,
    place: Chunk,
    group: usize,
    format: PhantomData<F>,
}

impl<F> Clone for Column<F> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}
impl<F> Copy for Column<F> {}

impl<F: IntFormat> Column<F> {
    const PER_BLOCK: usize = F::BLOCK / 32;

    /// The scales of the row group in the block that holds unit `unit`, and the number of its first run
    /// there.
    ///
    /// # Safety
    /// Here and below: the chunk has that unit, laid out for `S`.
    #[inline(always)]
    unsafe fn scales<S: Simd>(self, unit: usize) -> (*const u8, usize) {
        let at = unit / Self::PER_BLOCK * self.place.block
            + self.group * planes::block_scales_bytes::<F>(S::LANES);
        // SAFETY: the caller's promise.
        (unsafe { self.chunk.add(at) }, unit % Self::PER_BLOCK * (32 / F::SUB))
    }

    /// The granule of the row group in the first column of the unit.
    #[inline(always)]
    unsafe fn first_column<S: Simd>(self, unit: usize) -> *const u8 {
        let at = unit / Self::PER_BLOCK * self.place.block
            + self.place.scales
            + unit % Self::PER_BLOCK * 32 * self.place.column
            + self.group / granule::<F>() * granule_bytes::<F>(S::LANES);
        // SAFETY: the caller's promise.
        unsafe { self.chunk.add(at) }
    }
}

impl<F: IntFormat> Source for Column<F> {
    const SUB: usize = F::SUB;
    const ZERO: i32 = F::ZERO;
    const MOST: i32 = (1 << F::BITS) - 1;
    const HAS_MIN: bool = F::HAS_MIN;
    const WHOLE_BYTES: bool = F::BITS == 8;

    #[inline(always)]
    unsafe fn quad<S: Simd, const J: usize>(self, s: S, unit: usize) -> S::Bytes {
        let (quad, quads) = (self.group % granule::<F>() / 4, granule::<F>() / 4);
        // SAFETY: the caller's promise: the unit has 32 columns.
        unsafe {
            let a = self.first_column::<S>(unit).add(4 * J * self.place.column);
            let b = a.add(self.place.column);
            let (c, d) = (b.add(self.place.column), b.add(2 * self.place.column));
            let columns = [
                fragments::quad::<S, F>(s, a, quad, quads),
                fragments::quad::<S, F>(s, b, quad, quads),
                fragments::quad::<S, F>(s, c, quad, quads),
                fragments::quad::<S, F>(s, d, quad, quads),
            ];
            s.bytes_quads(columns)[self.group % 4]
        }
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(self, s: S, unit: usize, run: usize) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe {
            let (scales, first) = self.scales::<S>(unit);
            fragments::scale::<S, F>(s, scales, first + run)
        }
    }
    #[inline(always)]
    unsafe fn min<S: Simd>(self, s: S, unit: usize, run: usize) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe {
            let (scales, first) = self.scales::<S>(unit);
            fragments::min::<S, F>(s, scales, first + run)
        }
    }
    #[inline(always)]
    fn prefetch<S: Simd>(self, s: S, unit: usize) {
        // Columns of the next unit: the other row groups of the granule find them in cache.
        let at = self.chunk.wrapping_add(
            (unit + 1) / Self::PER_BLOCK * self.place.block
                + self.place.scales
                + (unit + 1) % Self::PER_BLOCK * 32 * self.place.column
                + self.group / granule::<F>() * granule_bytes::<F>(S::LANES),
        );
        for k in 0..32 {
            for line in (0..granule_bytes::<F>(S::LANES)).step_by(64) {
                s.prefetch(at.wrapping_add(k * self.place.column + line));
            }
        }
    }
}

/// Where things lie in the chunks of a matrix by columns.
fn chunk_of<S: Simd, F: IntFormat>(rows: usize) -> Chunk {
    let groups = rows / S::LANES;
    Chunk::new::<F>(columns::chunk(groups, granule::<F>()).unwrap_or(groups), S::LANES)
}

/// Converts some units of a row group to a panel.
///
/// # Safety
/// As for [`Converter::run`](super::panel::Converter::run); the matrix lies by columns.
pub(super) unsafe fn convert<S: Simd, F: IntFormat>(
    matrix: &Matrix,
    group: usize,
    units: Range<usize>,
    out: *mut u8,
) {
    let place = chunk_of::<S, F>(matrix.rows);
    let bytes = matrix.cols / F::BLOCK * place.block;
    // SAFETY: the caller's promise.
    unsafe {
        let chunk = matrix.weights.add(group / place.groups * bytes);
        let source = Column::<F> { chunk, place, group: group % place.groups, format: PhantomData };
        S::assume().vectorize(Convert { source, units, out });
    }
}

/// The most tokens that are multiplied one by one: together they meet more columns than any of them.
pub(super) const FEW: usize = 4;

/// At most [`FEW`] tokens.
///
/// # Safety
/// The token's instructions exist; pointers and sizes as [`MatmulArgs`] says; the matrix lies by
/// columns, and the row groups are whole granules.
pub(super) unsafe fn few_tokens<S: Simd, F: IntFormat>(args: &MatmulArgs) {
    debug_assert!([args.groups.start, args.groups.end].iter().all(|g| g % granule::<F>() == 0));
    let mut tokens = [Token { x: args.x, of: 1, y: args.y }; FEW];
    for (t, token) in tokens.iter_mut().enumerate().take(args.tokens) {
        let (start, of) = tile_of(args.tokens, S::TILE_TOKENS, t);
        let block = start * (args.cols / 32) * block_bytes(32) + 4 * (t - start);
        // SAFETY: both arrays have the token.
        unsafe { *token = Token { x: args.x.add(block), of, y: args.y.add(t * args.y_stride) } };
    }
    let place = chunk_of::<S, F>(args.rows);
    let bytes = args.cols / F::BLOCK * place.block;
    let mut rest = args.groups.clone();
    while !rest.is_empty() {
        let chunk = rest.start / place.groups;
        let first = chunk * place.groups;
        let end = rest.end.min(first + place.groups);
        // SAFETY: the caller's promise.
        unsafe {
            S::assume().vectorize(Share::<F> {
                chunk: args.weights.add(chunk * bytes),
                place,
                groups: rest.start - first..end - first,
                units: args.cols / 32,
                tokens: &tokens[..args.tokens.min(FEW)],
                first,
                format: PhantomData,
            });
        }
        rest.start = end;
    }
}

/// One of the tokens.
#[derive(Clone, Copy)]
struct Token {
    /// Its first quad, in the first block of its tile.
    x: *const u8,
    /// Tokens of the tile.
    of: usize,
    /// Its results.
    y: *mut f32,
}

/// Some whole granules of a chunk.
struct Share<'a, F> {
    chunk: *const u8,
    place: Chunk,
    groups: Range<usize>,
    units: usize,
    tokens: &'a [Token],
    /// The chunk's first row group in the matrix.
    first: usize,
    format: PhantomData<F>,
}

impl<F: IntFormat> WithSimd for Share<'_, F> {
    type Output = ();

    // All row groups pass over the columns of a unit before the next, so that memory is read nearly
    // forward; sums lie in y meanwhile.
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let mut lists = [const { [List::new(), List::new()] }; FEW];
        // SAFETY: whoever made the share gave a chunk and tokens of these units, and results of these
        // groups.
        unsafe {
            for (token, lists) in self.tokens.iter().zip(&mut lists) {
                for g in self.groups.clone() {
                    s.store(token.y.add((self.first + g) * S::LANES), s.zero());
                }
                if self.units > 0 {
                    lists[0].fill::<F>(token, 0);
                }
            }
            for u in 0..self.units {
                if u + 1 < self.units {
                    for (token, lists) in self.tokens.iter().zip(&mut lists) {
                        let next = &mut lists[(u + 1) % 2];
                        next.fill::<F>(token, u + 1);
                        self.prefetch(s, u + 1, next);
                    }
                }
                for group in self.groups.clone().step_by(granule::<F>()) {
                    for (token, lists) in self.tokens.iter().zip(&lists) {
                        macro_rules! quads {
                            ($($quad:literal)+) => {$(
                                if $quad < granule::<F>() / 4 {
                                    let group = group + 4 * $quad;
                                    let y = token.y.add((self.first + group) * S::LANES);
                                    self.four(s, u, group, $quad, &lists[u % 2], y);
                                }
                            )+};
                        }
                        quads!(0 1 2 3 4 5 6 7);
                    }
                }
            }
        }
    }
}

impl<F: IntFormat> Share<'_, F> {
    /// Adds the products of unit `u` to the results `y` of four row groups, which are quad `quad` of their
    /// granule.
    #[inline(always)]
    unsafe fn four<S: Simd>(
        &self,
        s: S,
        u: usize,
        group: usize,
        quad: usize,
        list: &List,
        y: *mut f32,
    ) {
        let Share { chunk, place, format, .. } = *self;
        let at = |group| Column::<F> { chunk, place, group, format };
        let weights = [at(group), at(group + 1), at(group + 2), at(group + 3)];
        let quads = granule::<F>() / 4;
        let words = list.words.as_ptr().cast::<u8>();
        // SAFETY: the caller's promise: these groups, units and results are there, and the list names
        // columns of the unit.
        unsafe {
            let mut sums = [[s.zero()]; 4];
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = [s.load(y.add(i * S::LANES))];
            }
            let columns = weights[0].first_column::<S>(u);
            for run in 0..32 / F::SUB {
                let sum = if F::SUB == 16 { 3 + run } else { 2 };
                let mut dots = start::<S, Column<F>, 4, 1>(s, words.add(word(sum, 1)));
                for i in list.quads(run) {
                    let [a, b, c, d] = list.columns(i);
                    let w = s.bytes_quads([
                        fragments::quad::<S, F>(s, columns.add(a * place.column), quad, quads),
                        fragments::quad::<S, F>(s, columns.add(b * place.column), quad, quads),
                        fragments::quad::<S, F>(s, columns.add(c * place.column), quad, quads),
                        fragments::quad::<S, F>(s, columns.add(d * place.column), quad, quads),
                    ]);
                    let x = s.bytes_broadcast(list.values.0.as_ptr().add(4 * i));
                    for (dot, w) in dots.iter_mut().zip(w) {
                        dot[0] = if F::BITS == 8 {
                            s.mma_s8(dot[0], w, x)
                        } else {
                            s.mma_u7(dot[0], w, x)
                        };
                    }
                }
                finish(s, &weights, u, run, words, &dots, &mut sums);
            }
            for (i, sum) in sums.iter().enumerate() {
                s.store(y.add(i * S::LANES), sum[0]);
            }
        }
    }

    /// Asks for the columns of a unit that will be read, and for their scales.
    #[inline(always)]
    fn prefetch<S: Simd>(&self, s: S, u: usize, list: &List) {
        let per_block = F::BLOCK / 32;
        let block = self.chunk.wrapping_add(u / per_block * self.place.block);
        let lines = |from: *const u8, bytes: usize| {
            for line in (0..bytes).step_by(64) {
                s.prefetch(from.wrapping_add(line));
            }
        };
        if u.is_multiple_of(per_block) {
            let bytes = planes::block_scales_bytes::<F>(S::LANES);
            lines(block.wrapping_add(self.groups.start * bytes), self.groups.len() * bytes);
        }
        let bytes = granule_bytes::<F>(S::LANES);
        let first = self.groups.start / granule::<F>() * bytes;
        let columns = block.wrapping_add(self.place.scales + first);
        for i in 0..list.ends[32 / F::SUB - 1] {
            for k in list.columns(i) {
                let column = (u % per_block * 32 + k) * self.place.column;
                lines(columns.wrapping_add(column), self.groups.len() / granule::<F>() * bytes);
            }
        }
    }
}

/// The columns of a unit whose activation is not zero, run after run, each filled up to whole quads with
/// columns that it has already, by zero.
struct List {
    columns: [u8; List::MOST],
    values: Values,
    /// The words of the activations, as of one token.
    words: [u32; 5],
    /// Where the quads of each run end.
    ends: [usize; 2],
}

/// Activations, a quad of them aligned.
#[repr(align(4))]
struct Values([u8; List::MOST]);

impl List {
    /// The columns of a unit, and what fills them up.
    const MOST: usize = 32 + 4;

    const fn new() -> List {
        let (columns, values) = ([0; List::MOST], Values([0; List::MOST]));
        List { columns, values, words: [0; 5], ends: [0; 2] }
    }

    /// Takes the activations of unit `u`.
    ///
    /// # Safety
    /// The token has the unit.
    #[inline(always)]
    unsafe fn fill<F: IntFormat>(&mut self, token: &Token, u: usize) {
        let (columns, values) = (self.columns.as_mut_ptr(), self.values.0.as_mut_ptr());
        let mut at = 0;
        // SAFETY: quads and words of the token lie `of` words apart.
        let x = unsafe { token.x.add(u * token.of * block_bytes(32)).cast::<u32>() };
        for (i, word) in self.words.iter_mut().enumerate() {
            // SAFETY: the words follow eight quads.
            *word = unsafe { *x.add((8 + i) * token.of) };
        }
        for run in 0..32 / F::SUB {
            let first = at;
            // SAFETY: `at` is at most the number of activations seen, 32, filled up to a multiple of
            // four; three more follow.
            unsafe {
                for quad in run * F::SUB / 4..(run + 1) * F::SUB / 4 {
                    let bytes = (*x.add(quad * token.of)).to_ne_bytes();
                    for (i, value) in bytes.into_iter().enumerate() {
                        *columns.add(at) = (4 * quad + i) as u8;
                        *values.add(at) = value;
                        at += usize::from(value != 0);
                    }
                }
                let any = if at > first { *columns.add(at - 1) } else { 0 };
                for i in at..at + 3 {
                    *columns.add(i) = any;
                    *values.add(i) = 0;
                }
            }
            at = at.next_multiple_of(4);
            self.ends[run] = at / 4;
        }
    }

    /// The quads of a run.
    #[inline(always)]
    fn quads(&self, run: usize) -> Range<usize> {
        (if run == 0 { 0 } else { self.ends[0] })..self.ends[run % 2]
    }

    /// The columns of a quad.
    #[inline(always)]
    fn columns(&self, quad: usize) -> [usize; 4] {
        // SAFETY: a quad that was filled lies within the array.
        let column = |i| usize::from(unsafe { *self.columns.as_ptr().add(4 * quad + i) });
        [column(0), column(1), column(2), column(3)]
    }
}
