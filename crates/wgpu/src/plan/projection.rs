//! Products with matrices: one row of activations at a time, or tiles of many.

use super::recipes;
use super::{At, Call, Compiler, Count, Resource, is_int8, kind};
use crate::shader::Recipe;
use crate::weights::{Matrix, Piece};
use gristmill_core::{DType, Result};
use gristmill_ir::{Act, Rows, Tensor, Value};

/// Up to so many rows of activations go one by one.
const FEW: u32 = 4;
/// Words of a unit of 32 activations as signed bytes: see `int8.wgsl`.
const INT8_UNIT: usize = 10;

/// What follows a product.
#[derive(Clone, Copy)]
pub(super) struct Finish<'a> {
    pub bias: &'a [Tensor],
    pub act: Act,
    pub scale: f32,
    pub cap: f32,
    /// Whether numbers are multiplied in f32 whatever precision was asked for.
    pub exact: bool,
}

impl<'a> Finish<'a> {
    /// A bias at most.
    pub fn plain(bias: &'a [Tensor]) -> Finish<'a> {
        Finish { bias, act: Act::None, scale: 1.0, cap: 0.0, exact: false }
    }
}

impl Compiler<'_> {
    fn is_int8(&self, w: Tensor) -> Result<bool> {
        let integers = || Ok(self.weights.matrix(&self.program.decl(w).name)?.format.is_integers());
        if is_int8(self.options) { integers() } else { Ok(false) }
    }

    /// Scratch for activations as signed bytes, where some matrix takes them.
    pub(super) fn int8_bytes(&self, x: Value, w: &[Tensor]) -> usize {
        let s = self.program.shape(x);
        self.int8_bytes_of(s.rows, s.width as usize, w)
    }

    /// The same for rows of so many elements.
    pub(super) fn int8_bytes_of(&self, rows: Rows, width: usize, w: &[Tensor]) -> usize {
        match w.iter().any(|&w| self.is_int8(w).unwrap_or(false)) {
            true => self.part(rows, width.div_ceil(32) * INT8_UNIT),
            false => 0,
        }
    }

    /// Scratch for the products with all matrices, one after the other in a row.
    pub(super) fn products_bytes(&self, w: &[Tensor], rows: Rows) -> usize {
        self.part(rows, self.products_width(w))
    }

    fn products_width(&self, w: &[Tensor]) -> usize {
        w.iter().map(|&w| self.program.decl(w).rows as usize).sum()
    }

    /// Where the products lie, at the begin of the scratch.
    pub(super) fn products(&self, w: &[Tensor], rows: Rows, scratch: usize) -> At {
        let bytes = self.products_bytes(w, rows);
        At { offset: scratch, bytes, rows, width: self.products_width(w) }
    }

    /// `out = finish(w x)`, matrices beside each other, by the experts of a route where there is one.
    pub(super) fn project(
        &mut self,
        x: At,
        w: &[Tensor],
        finish: Finish<'_>,
        out: At,
        scratch: usize,
        route: Option<At>,
    ) -> Result<()> {
        let mut small = None;
        for &t in w {
            if self.is_int8(t)? && small.is_none() {
                small = Some(self.int8_rows(x, scratch)?);
            }
        }
        let (bias, biases) = match finish.bias {
            [] => (Resource::None, 0),
            parts => {
                let (buffer, length) = self.weights.stacked(self.program, parts)?;
                (Resource::Held(buffer), length)
            }
        };
        let mut out_at = 0;
        for &t in w {
            let matrix = self.weights.matrix(&self.program.decl(t).name)?;
            let grid = self.weights.grid(&matrix.format)?;
            let int8 = self.is_int8(t)?;
            let share = match (x.rows, out.rows) {
                (Rows::Tokens, Rows::Choices(k)) => k,
                _ => 1,
            };
            for piece in &matrix.pieces {
                let few = self.matvec_params(&matrix, piece, route.is_some());
                let [first, count, begin, end] = few;
                let [row_kind, k] = kind(out.rows);
                let k = match route {
                    Some(r) => r.width as u32 / 2,
                    None => k,
                };
                let params = vec![
                    matrix.rows as u32,
                    first,
                    count,
                    begin,
                    end,
                    matrix.units() as u32,
                    matrix.cols as u32,
                    piece.scales_at as u32,
                    piece.zeros_at as u32,
                    x.stride() as u32 / 4,
                    share,
                    out.stride() as u32,
                    out_at,
                    row_kind,
                    k,
                    finish.act as u32,
                    biases,
                    out_at,
                    route.map_or(0, |r| r.stride() as u32),
                    finish.scale.to_bits(),
                    finish.cap.to_bits(),
                ];
                let input = match (int8, small) {
                    (true, Some((offset, bytes))) => Resource::Part(offset, bytes),
                    _ => Resource::Part(x.offset, x.bytes),
                };
                let mut resources = vec![
                    (1, Resource::Ints),
                    (2, Resource::Held(piece.buffer.clone())),
                    (3, input),
                    (4, Resource::Part(out.offset, out.bytes)),
                    (5, bias.clone()),
                ];
                resources.extend(route.map(|r| (6, Resource::Part(r.offset, r.bytes))));
                resources.extend(grid.clone().map(|g| (7, Resource::Held(g))));
                let subgroups = self.gpu.features.contains(wgpu::Features::SUBGROUP);
                let half = self.options.compute == DType::F16 && !finish.exact;
                let ways = [subgroups, half];
                let tail = !matrix.cols.is_multiple_of(32);
                let shapes = self.gpu.shapes;
                let kinds = [int8, tail, route.is_some()];
                let units = self.gpu.units;
                let (vector, (tile, [tile_rows, tile_tokens])) =
                    recipes::products(&matrix.format, kinds, ways, units, shapes);
                let tall = route.is_none() && self.bound(out.rows) as u32 > FEW;
                let groups = (end - begin).div_ceil(shapes.rows);
                let [gx, gz] = spread(groups);
                let rows = Count::Rows(out.rows, 1);
                let grid = [Count::Fixed(gx), rows, Count::Fixed(gz)];
                self.call(&vector, &resources, params.clone(), grid)?;
                if !tall {
                    continue;
                }
                self.only_when(out.rows, 0, FEW);
                let [gx, gz] = spread((end - begin).div_ceil(tile_rows));
                let rows = Count::Rows(out.rows, tile_tokens);
                let grid = [Count::Fixed(gx), rows, Count::Fixed(gz)];
                self.call(&tile, &resources, params, grid)?;
                self.only_when(out.rows, FEW + 1, u32::MAX);
            }
            out_at += matrix.rows as u32;
        }
        Ok(())
    }

    /// The first row of a piece, its rows, and the rows of each matrix to look at.
    fn matvec_params(&self, matrix: &Matrix, piece: &Piece, experts: bool) -> [u32; 4] {
        let (first, count) = (piece.first as u32, piece.rows as u32);
        match experts {
            true => [first, count, 0, matrix.rows as u32],
            false => [first, count, first, first + count],
        }
    }

    fn only_when(&mut self, rows: Rows, least: u32, most: u32) {
        if let Some(Call { when, .. }) = self.calls.last_mut() {
            *when = Some((rows, least, most));
        }
    }

    /// Makes activations signed bytes, behind the products in the scratch; gives where.
    fn int8_rows(&mut self, x: At, scratch: usize) -> Result<(usize, usize)> {
        let units = x.width.div_ceil(32);
        let bytes = self.part(x.rows, units * INT8_UNIT);
        let [row_kind, k] = kind(x.rows);
        let params = vec![units as u32, x.stride() as u32, row_kind, k];
        let resources = [
            (1, Resource::Ints),
            (2, Resource::Part(x.offset, x.bytes)),
            (3, Resource::Part(scratch, bytes)),
        ];
        let groups = Count::Fixed(units.div_ceil(64) as u32);
        let grid = [groups, Count::Rows(x.rows, 1), Count::Fixed(1)];
        self.call(&Recipe::new("int8"), &resources, params, grid)?;
        Ok((scratch, bytes))
    }

    /// act(gate x) ⊙ (up x), by the experts of a route where there is one.
    pub(super) fn gate_up(
        &mut self,
        x: At,
        (w, bias): (&[Tensor], &[Tensor]),
        act: Act,
        out: At,
        scratch: usize,
        route: Option<At>,
    ) -> Result<()> {
        let both = self.products(w, out.rows, scratch);
        self.project(x, w, Finish::plain(bias), both, scratch + both.bytes, route)?;
        self.gated(both, act, out)
    }
}

/// A number of workgroups as two sizes of a grid, none of which is above what is allowed.
fn spread(groups: u32) -> [u32; 2] {
    let x = groups.clamp(1, 32768);
    [x, groups.div_ceil(x).max(1)]
}
