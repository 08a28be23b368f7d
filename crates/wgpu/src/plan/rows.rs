//! Operations on rows: embedding, norms, sums, selection, pooling, scaling.

use super::{At, Compiler, Count, Resource, kind};
use crate::shader::Recipe;
use gristmill_core::Result;
use gristmill_ir::{Act, Input, Norm, NormKind, Pooling, Rows, Tensor};

fn part(at: At) -> Resource {
    Resource::Part(at.offset, at.bytes)
}

impl Compiler<'_> {
    pub(super) fn embed(
        &mut self,
        table: Tensor,
        more: [Option<Tensor>; 2],
        scale: f32,
        out: At,
    ) -> Result<()> {
        let tables = [Some(table), more[0], more[1]];
        for (source, table) in tables.into_iter().enumerate() {
            let Some(t) = table else { continue };
            let matrix = self.weights.matrix(&self.program.decl(t).name)?;
            let grid = self.weights.grid(&matrix.format)?;
            for piece in &matrix.pieces {
                let params = vec![
                    piece.first as u32,
                    piece.rows as u32,
                    matrix.units() as u32,
                    out.width as u32,
                    piece.scales_at as u32,
                    piece.zeros_at as u32,
                    out.stride() as u32,
                    source as u32,
                    self.capacity,
                    u32::from(source > 0),
                    if source == 0 { scale } else { 1.0 }.to_bits(),
                ];
                let mut resources = vec![
                    (1, Resource::Ints),
                    (2, Resource::Held(piece.buffer.clone())),
                    (3, Resource::Derived),
                    (4, part(out)),
                ];
                resources.extend(grid.clone().map(|g| (7, Resource::Held(g))));
                let groups = Count::Fixed((out.width as u32).div_ceil(256));
                let grid = [groups, Count::Rows(Rows::Tokens, 1), Count::Fixed(1)];
                let recipe = Recipe::new("embed").over(&matrix.format);
                self.call(&recipe, &resources, params, grid)?;
            }
        }
        Ok(())
    }

    /// The weights of a norm, its offset added, then its biases.
    pub(super) fn norm_values(&self, n: &Norm, width: usize) -> Result<Vec<f32>> {
        let values = |t: Option<Tensor>| match t {
            Some(t) => self.weights.values(&self.program.decl(t).name).map(Some),
            None => Ok(None),
        };
        let mut all = match values(n.weight)? {
            Some(w) => w.iter().map(|v| v + n.offset).collect(),
            None => vec![1.0; width],
        };
        match values(n.bias)? {
            Some(b) => all.extend_from_slice(b),
            None => all.resize(2 * width, 0.0),
        }
        Ok(all)
    }

    fn norm_buffer(&self, n: &Norm, width: usize) -> Result<Resource> {
        let values = self.norm_values(n, width)?;
        let name = |t: Option<Tensor>| t.map_or("", |t| &self.program.decl(t).name);
        let key = format!("norm {} {} {} {width}", name(n.weight), name(n.bias), n.offset);
        self.weights.derive(key, || values).map(Resource::Held)
    }

    pub(super) fn norm(&mut self, x: At, norm: &Norm, out: At) -> Result<()> {
        let resources = [
            (1, Resource::Ints),
            (2, part(x)),
            (3, part(out)),
            (4, self.norm_buffer(norm, x.width)?),
        ];
        let recipe = Recipe::new("norm").define("SOURCE", "x");
        self.norm_call(recipe, &resources, x, norm, 1.0, None)
    }

    pub(super) fn add_norm(
        &mut self,
        [x, delta]: [At; 2],
        [total, out]: [At; 2],
        scale: f32,
        [post, norm]: [Option<&Norm>; 2],
    ) -> Result<()> {
        let Some(norm) = norm else { return Ok(()) };
        let post_weights = match post {
            Some(n) => self.norm_buffer(n, x.width)?,
            None => Resource::None,
        };
        let resources = [
            (1, Resource::Ints),
            (2, part(x)),
            (3, part(out)),
            (4, self.norm_buffer(norm, x.width)?),
            (5, part(delta)),
            (6, part(total)),
            (7, post_weights),
        ];
        let recipe = Recipe::new("norm").define("SOURCE", "total").flag("RESIDUAL", true);
        self.norm_call(recipe, &resources, x, norm, scale, post)
    }

    fn norm_call(
        &mut self,
        recipe: Recipe,
        resources: &[(u32, Resource)],
        x: At,
        norm: &Norm,
        scale: f32,
        post: Option<&Norm>,
    ) -> Result<()> {
        let [row_kind, k] = kind(x.rows);
        let post_kind = |n: &Norm| 1 + u32::from(n.kind == NormKind::Layer);
        let params = vec![
            x.width as u32,
            x.stride() as u32,
            row_kind,
            k,
            u32::from(norm.kind == NormKind::Layer),
            norm.eps.to_bits(),
            scale.to_bits(),
            post.map_or(0, post_kind),
            post.map_or(0.0, |n| n.eps).to_bits(),
        ];
        let grid = [Count::Rows(x.rows, 1), Count::Fixed(1), Count::Fixed(1)];
        self.call(&recipe, resources, params, grid)
    }

    /// One of the operations of `rows.wgsl`.
    fn each(
        &mut self,
        what: &'static str,
        out: At,
        [x, y, gate]: [Option<At>; 3],
        [act, input]: [u32; 2],
    ) -> Result<()> {
        let [row_kind, mut k] = kind(out.rows);
        if what == "CHOICES" {
            k = y.map_or(1, |y| y.width as u32 / 2);
        }
        let stride = |at: Option<At>| at.map_or(0, |a| a.stride() as u32);
        let params = vec![
            out.width as u32,
            out.stride() as u32,
            stride(x),
            if gate.is_some() { stride(gate) } else { stride(y) },
            row_kind,
            k,
            act,
            u32::from(gate.is_some()),
            input,
        ];
        let or_none = |at: Option<At>| at.map_or(Resource::None, part);
        let resources = [
            (1, Resource::Ints),
            (2, part(out)),
            (3, or_none(x)),
            (4, or_none(y)),
            (5, or_none(gate)),
        ];
        let groups = Count::Fixed((out.width as u32).div_ceil(64));
        let grid = [groups, Count::Rows(out.rows, 1), Count::Fixed(1)];
        self.call(&Recipe::new("rows").flag(what, true), &resources, params, grid)
    }

    pub(super) fn read(&mut self, input: Input, out: At) -> Result<()> {
        self.each("READ", out, [None; 3], [0, input as u32])
    }

    /// The row of each token's sequence added to the token's.
    pub(super) fn add_sequence(&mut self, x: At, y: At, out: At) -> Result<()> {
        let params = vec![
            out.width as u32,
            out.stride() as u32,
            x.stride() as u32,
            y.stride() as u32,
            kind(Rows::Tokens)[0],
            self.capacity,
        ];
        let resources = [
            (1, Resource::Ints),
            (2, part(out)),
            (3, part(x)),
            (4, part(y)),
            (5, Resource::Derived),
        ];
        let groups = Count::Fixed((out.width as u32).div_ceil(64));
        let grid = [groups, Count::Rows(Rows::Tokens, 1), Count::Fixed(1)];
        self.call(&Recipe::new("rows").flag("SEQUENCE", true), &resources, params, grid)
    }

    pub(super) fn add(&mut self, [x, y]: [At; 2], gate: Option<At>, out: At) -> Result<()> {
        self.each("ADD", out, [Some(x), Some(y), gate], [0, 0])
    }

    /// `from + t ⊙ (to - from)`.
    pub(super) fn lerp(&mut self, [from, to, t]: [At; 3], out: At) -> Result<()> {
        self.each("LERP", out, [Some(from), Some(to), Some(t)], [0, 0])
    }

    pub(super) fn select_rows(&mut self, x: At, out: At) -> Result<()> {
        self.each("SELECT", out, [Some(x), None, None], [0, 0])
    }

    pub(super) fn gated(&mut self, both: At, act: Act, out: At) -> Result<()> {
        self.each("GATED", out, [Some(both), None, None], [act as u32, 0])
    }

    pub(super) fn pool(&mut self, x: At, how: Pooling, out: At) -> Result<()> {
        let how = match how {
            Pooling::Mean => 0,
            Pooling::Cls => 1,
            Pooling::Last => 2,
        };
        self.each("POOL", out, [Some(x), None, None], [how, 0])
    }

    /// The sum over the choices of each token, weighted.
    pub(super) fn choices(&mut self, x: At, route: At, out: At) -> Result<()> {
        self.each("CHOICES", out, [Some(x), Some(route), None], [0, 0])
    }

    pub(super) fn normalize(&mut self, x: At, out: At) -> Result<()> {
        let [row_kind, k] = kind(out.rows);
        let params = vec![out.width as u32, out.stride() as u32, x.stride() as u32, row_kind, k];
        let resources = [(1, Resource::Ints), (2, part(x)), (3, part(out))];
        let grid = [Count::Fixed(1), Count::Rows(out.rows, 1), Count::Fixed(1)];
        self.call(&Recipe::new("normalize"), &resources, params, grid)
    }
}
