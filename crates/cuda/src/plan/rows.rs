//! Operations on rows: embedding, norms, sums, selection, pooling, scaling.

use super::arguments::{Args, Resource};
use super::{At, Compiler, kind};
use gristmill_core::Result;
use gristmill_ir::{Act, Input, Norm, NormKind, Pooling, Tensor};

/// What an operation of `kernels/rows.cu` reads besides its first value.
#[derive(Clone, Copy, Default)]
struct More {
    y: Option<At>,
    gate: Option<At>,
    act: u32,
    input: u32,
}

impl Compiler<'_> {
    /// The call that works out what others need of the step's integers.
    pub(super) fn prepare(&mut self) -> Result<()> {
        let groups = self.program.groups.len() as u32;
        let a = Args::new().ptrs([Resource::Ints, Resource::Derived, Resource::Last]).all(&[
            self.capacity,
            groups,
            self.page_tokens.max(1),
            0,
        ]);
        self.call("prepare", a, [self.size.tokens.div_ceil(64), 1, 1], 64)
    }

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
            let a = matrix
                .push(Args::new())
                .ptrs([Resource::Ints, Resource::Derived, out.res()])
                .all(&[out.width as u32, out.stride() as u32, source as u32, u32::from(source > 0)])
                .f(if source == 0 { scale } else { 1.0 })
                .u(0);
            let grid = [matrix.units().div_ceil(64) as u32, self.size.tokens, 1];
            self.call(&format!("embed_{}", matrix.format.class), a, grid, 64)?;
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
        self.weights.derive(key, || values)
    }

    pub(super) fn norm(&mut self, x: At, norm: &Norm, out: At) -> Result<()> {
        let none = [Resource::None, Resource::None, Resource::None];
        self.norm_call(x, out, norm, none, 1.0, None)
    }

    pub(super) fn add_norm(
        &mut self,
        [x, delta]: [At; 2],
        [total, out]: [At; 2],
        scale: f32,
        post: Option<&Norm>,
        norm: &Norm,
    ) -> Result<()> {
        let post_weights = match post {
            Some(n) => self.norm_buffer(n, x.width)?,
            None => Resource::None,
        };
        let residual = [delta.res(), total.res(), post_weights];
        self.norm_call(x, out, norm, residual, scale, post)
    }

    fn norm_call(
        &mut self,
        x: At,
        out: At,
        norm: &Norm,
        residual: [Resource; 3],
        scale: f32,
        post: Option<&Norm>,
    ) -> Result<()> {
        let [row_kind, k] = kind(x.rows);
        let post_kind = |n: &Norm| 1 + u32::from(n.kind == NormKind::Layer);
        let a = Args::new()
            .ptrs([Resource::Ints, x.res(), out.res(), self.norm_buffer(norm, x.width)?])
            .ptrs(residual)
            .ptrs(self.twin_of(&out))
            .all(&[x.width as u32, x.stride() as u32, row_kind, k])
            .u(u32::from(norm.kind == NormKind::Layer))
            .f(norm.eps)
            .f(scale)
            .u(post.map_or(0, post_kind))
            .f(post.map_or(0.0, |n| n.eps))
            .u(0);
        self.call("norm", a, [self.bound(x.rows) as u32, 1, 1], 512)
    }

    /// One of the operations of `rows.cu`.
    fn each(&mut self, what: &str, out: At, x: Option<At>, m: More) -> Result<()> {
        let [row_kind, k] = kind(out.rows);
        let stride = |at: Option<At>| at.map_or(0, |a| a.stride() as u32);
        let res = |at: Option<At>| at.map_or(Resource::None, |a| a.res());
        let y_stride = if what == "add" { stride(m.gate) } else { stride(m.y) };
        let a = Args::new()
            .ptrs([Resource::Ints, out.res(), res(x), res(m.y), res(m.gate)])
            .all(&[out.width as u32, out.stride() as u32, stride(x), y_stride])
            .all(&[row_kind, k, m.act, m.input]);
        let grid = [(out.width as u32).div_ceil(128), self.bound(out.rows) as u32, 1];
        self.call(what, a, grid, 128)
    }

    pub(super) fn read(&mut self, input: Input, out: At) -> Result<()> {
        self.each("read", out, None, More { input: input as u32, ..More::default() })
    }

    pub(super) fn add(&mut self, [x, y]: [At; 2], gate: Option<At>, out: At) -> Result<()> {
        self.each("add", out, Some(x), More { y: Some(y), gate, ..More::default() })
    }

    /// `from + t ⊙ (to - from)`.
    pub(super) fn lerp(&mut self, [from, to, t]: [At; 3], out: At) -> Result<()> {
        self.each("lerp", out, Some(from), More { y: Some(to), gate: Some(t), ..More::default() })
    }

    pub(super) fn select_rows(&mut self, x: At, out: At) -> Result<()> {
        self.each("select_rows", out, Some(x), More::default())
    }

    pub(super) fn gated(&mut self, both: At, act: Act, out: At) -> Result<()> {
        self.each("gated", out, Some(both), More { act: act as u32, ..More::default() })
    }

    pub(super) fn pool(&mut self, x: At, how: Pooling, out: At) -> Result<()> {
        let act = match how {
            Pooling::Mean => 0,
            Pooling::Cls => 1,
            Pooling::Last => 2,
        };
        self.each("pool", out, Some(x), More { act, ..More::default() })
    }

    /// The sum over the choices of each token, weighted.
    pub(super) fn choices(&mut self, x: At, route: At, out: At) -> Result<()> {
        let input = route.width as u32 / 2;
        self.each("choices", out, Some(x), More { y: Some(route), input, ..More::default() })
    }

    pub(super) fn normalize(&mut self, x: At, out: At) -> Result<()> {
        let [row_kind, k] = kind(out.rows);
        let a = Args::new().ptrs([Resource::Ints, x.res(), out.res()]).all(&[
            out.width as u32,
            out.stride() as u32,
            x.stride() as u32,
            row_kind,
            k,
            0,
        ]);
        self.call("normalize", a, [self.bound(out.rows) as u32, 1, 1], 512)
    }
}
