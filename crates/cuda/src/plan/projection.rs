//! Products with matrices: few rows of activations at a time, or tiles of many.

use super::arguments::{Args, Resource};
use super::{ALIGN, At, Compiler, kind};
use crate::format::{Format, Repack};
use crate::weights::Matrix;
use gristmill_core::{DType, Result};
use gristmill_ir::{Act, Activations, Op, Rows, Shape, Tensor, Value};
use std::sync::Arc;

/// Up to so many rows of activations are streamed past the weights; more are taken in tiles.
const FEW: usize = 8;

/// What follows a product.
#[derive(Clone, Copy)]
pub(super) struct Finish<'a> {
    pub bias: &'a [Tensor],
    pub act: Act,
    pub scale: f32,
    pub cap: f32,
}

impl<'a> Finish<'a> {
    /// A bias at most.
    pub fn plain(bias: &'a [Tensor]) -> Finish<'a> {
        Finish { bias, act: Act::None, scale: 1.0, cap: 0.0 }
    }
}

/// In what form a product takes its activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// As they are.
    Exact,
    /// Signed bytes in units of 32, with scales.
    Int8,
    /// f16 or bf16.
    Half,
}

/// Which kernel takes a product.
struct Way {
    form: Form,
    kernel: String,
    /// Rows of weights and of activations of a block.
    tile: [u32; 2],
    threads: u32,
    shared: u32,
    /// Whether it streams weights past few rows: then it can take gate and up together.
    streams: bool,
}

/// Bytes of shared memory of `gemm_half.cu`: three tiles of 128 rows of 72 halves.
const HALF_SHARED: u32 = 3 * 128 * 72 * 2;

impl Compiler<'_> {
    fn way(&self, f: &Format, rows: usize, experts: bool) -> Way {
        let int8 = f.is_integers() && self.options.activations == Activations::Int8;
        let compute = if self.exact { DType::F32 } else { self.options.compute };
        let class = f.class;
        // Tables of points are rare: they have no kernels for four rows or 16 bits.
        let points = matches!(f.repack, Repack::Words(_));
        let has_four = if f.is_integers() { int8 && !points } else { true };
        let few = experts || rows == 1 || (rows <= FEW && has_four);
        let way = |form, kernel: &str, tile, threads, shared| {
            let kernel = format!("{kernel}_{class}");
            Way { form, kernel, tile, threads, shared, streams: few }
        };
        let one = experts || rows == 1;
        match (few, int8, compute) {
            (true, true, _) if one => way(Form::Int8, "gemv_int8", [4, 1], 128, 0),
            (true, true, _) => way(Form::Int8, "gemv4_int8", [2, 4], 128, 0),
            (true, false, _) if one => way(Form::Exact, "gemv", [2, 1], 128, 0),
            (true, false, _) => way(Form::Exact, "gemv4", [2, 4], 128, 0),
            (false, _, DType::F16) if !points => {
                way(Form::Half, "gemm_half", [128, 128], 256, HALF_SHARED)
            }
            (false, _, DType::BF16) if !points => {
                way(Form::Half, "gemm_brain", [128, 128], 256, HALF_SHARED)
            }
            (false, true, _) => way(Form::Int8, "gemm_int8", [64, 64], 128, 0),
            (false, false, _) => way(Form::Exact, "gemm", [64, 64], 256, 0),
        }
    }

    fn form_of(&self, w: Tensor, rows: usize, experts: bool) -> Form {
        let matrix = self.weights.matrix(&self.program.decl(w).name);
        matrix.map_or(Form::Exact, |m| self.way(&m.format, rows, experts).form)
    }

    /// Bytes of activations in a form; of signed bytes: before their scales, and with them.
    fn form_bytes(&self, rows: Rows, width: usize, form: Form) -> [usize; 2] {
        let units = self.bound(rows) * width.div_ceil(32);
        let codes = match form {
            Form::Exact => 0,
            Form::Int8 => 32 * units,
            Form::Half => 64 * units,
        }
        .next_multiple_of(ALIGN);
        let scales = if form == Form::Int8 { (8 * units).next_multiple_of(ALIGN) } else { 0 };
        [codes, codes + scales]
    }

    /// Scratch for activations in all forms that the products take.
    pub(super) fn input_bytes(&self, x: Shape, w: &[Tensor], out: Value, experts: bool) -> usize {
        let rows = self.program.shape(out).rows;
        self.input_bytes_of(x.rows, x.width as usize, w, rows, experts)
    }

    pub(super) fn input_bytes_of(
        &self,
        x: Rows,
        width: usize,
        w: &[Tensor],
        out: Rows,
        experts: bool,
    ) -> usize {
        let of = |form: Form| {
            let takes = |&w: &Tensor| self.form_of(w, self.bound(out), experts) == form;
            if w.iter().any(takes) { self.form_bytes(x, width, form)[1] } else { 0 }
        };
        of(Form::Int8) + of(Form::Half)
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
        At { offset: scratch, bytes, rows, width: self.products_width(w), twin: None }
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
        self.products_of(x, w, finish, out, scratch, route, false)
    }

    #[allow(clippy::too_many_arguments)]
    fn products_of(
        &mut self,
        x: At,
        w: &[Tensor],
        finish: Finish<'_>,
        out: At,
        scratch: usize,
        route: Option<At>,
        gated: bool,
    ) -> Result<()> {
        let (bias, biases) = match finish.bias {
            [] => (Resource::None, 0),
            parts => self.weights.stacked(self.program, parts)?,
        };
        // Where each form of the activations lies, once it is made.
        let mut made: Vec<(Form, usize)> = x.twin.map(|at| (Form::Int8, at)).into_iter().collect();
        let mut free = scratch;
        let mut out_at = 0;
        let share = match (x.rows, out.rows) {
            (Rows::Tokens, Rows::Choices(k)) => k,
            _ => 1,
        };
        let [row_kind, k] = kind(out.rows);
        let k = route.map_or(k, |r| r.width as u32 / 2);
        let matrix = |&t: &Tensor| self.weights.matrix(&self.program.decl(t).name);
        let matrices: Vec<Arc<Matrix>> = w.iter().map(matrix).collect::<Result<_>>()?;
        // Up to three of one class in a launch.
        let mut groups: Vec<Vec<Arc<Matrix>>> = vec![];
        for m in matrices {
            match groups.last_mut() {
                Some(g) if g[0].format.class == m.format.class && g.len() < 3 => g.push(m),
                _ => groups.push(vec![m]),
            }
        }
        for group in groups {
            let way = self.way(&group[0].format, self.bound(out.rows), route.is_some());
            let at = match (way.form, made.iter().find(|m| m.0 == way.form)) {
                (Form::Exact, _) => x.offset,
                (_, Some(m)) => m.1,
                (form, None) => {
                    let at = free;
                    self.convert(x, form, at)?;
                    free += self.form_bytes(x.rows, x.width, form)[1];
                    made.push((form, at));
                    at
                }
            };
            let (stride, scales) = match way.form {
                Form::Exact => (x.stride(), Resource::None),
                Form::Half => (32 * x.width.div_ceil(32), Resource::None),
                Form::Int8 => {
                    let [codes, _] = self.form_bytes(x.rows, x.width, Form::Int8);
                    (0, Resource::Work(at + codes))
                }
            };
            let [tall, wide] = way.tile;
            let mut a = Args::new();
            let mut blocks = 0;
            for i in 0..3 {
                a = match group.get(i) {
                    Some(m) => {
                        let rows = m.rows as u32;
                        blocks += rows.div_ceil(tall);
                        let begin = out_at;
                        out_at += rows;
                        m.push(a).all(&[rows, begin])
                    }
                    None => a.ptrs([const { Resource::None }; 6]).all(&[0; 8]),
                };
            }
            if gated {
                blocks = (group[0].rows as u32).div_ceil(tall / 2);
            }
            let a = a
                .ptrs([Resource::Ints, Resource::Work(at), scales, out.res(), bias.clone()])
                .ptr(route.map_or(Resource::None, |r| r.res()))
                .all(&[group[0].cols as u32, stride as u32, share, out.stride() as u32])
                .all(&[row_kind, k, finish.act as u32, biases])
                .u(route.map_or(0, |r| r.stride() as u32))
                .u(u32::from(gated))
                .f(finish.scale)
                .f(finish.cap);
            let rows = self.bound(out.rows) as u32;
            let grid = [blocks, rows.div_ceil(wide), 1];
            self.call_with(&way.kernel, a, grid, way.threads, way.shared)?;
        }
        Ok(())
    }

    /// Whether a norm makes a value signed bytes too: where a product takes them in that form.
    pub(super) fn has_twin(&self, v: Value) -> bool {
        let normed = |op: &Op, outputs: &[Value]| match op {
            Op::Norm { .. } => outputs[0] == v,
            Op::AddNorm { .. } => outputs[1] == v,
            _ => false,
        };
        let program = self.program;
        let takes = |w: &[Tensor], out: Value, experts| {
            let rows = self.bound(program.shape(out).rows);
            w.iter().any(|&w| self.form_of(w, rows, experts) == Form::Int8)
        };
        let taken = program.nodes.iter().any(|n| match &n.op {
            Op::Linear { x, w, .. } | Op::Route { x, w, .. } => {
                *x == v && takes(&[*w], n.outputs[0], false)
            }
            Op::Qkv { x, w, .. } | Op::GateUp { x, w, .. } => {
                *x == v && takes(w, n.outputs[0], false)
            }
            Op::ExpertGateUp { x, w, .. } => *x == v && takes(w, n.outputs[0], true),
            _ => false,
        });
        taken && program.nodes.iter().any(|n| normed(&n.op, &n.outputs))
    }

    /// Bytes of a value as signed bytes.
    pub(super) fn twin_bytes(&self, s: Shape) -> usize {
        self.form_bytes(s.rows, s.width as usize, Form::Int8)[1]
    }

    /// Where codes and scales of a twin lie.
    pub(super) fn twin_of(&self, x: &At) -> [Resource; 2] {
        match x.twin {
            Some(at) => {
                let [codes, _] = self.form_bytes(x.rows, x.width, Form::Int8);
                [Resource::Work(at), Resource::Work(at + codes)]
            }
            None => [Resource::None, Resource::None],
        }
    }

    /// Brings activations into a form.
    fn convert(&mut self, x: At, form: Form, to: usize) -> Result<()> {
        let units = x.width.div_ceil(32) as u32;
        let [row_kind, k] = kind(x.rows);
        let [codes, _] = self.form_bytes(x.rows, x.width, form);
        let a = Args::new()
            .ptrs([Resource::Ints, x.res(), Resource::Work(to), Resource::Work(to + codes)])
            .all(&[units, x.width as u32, x.stride() as u32, row_kind, k, 0]);
        let rows = self.bound(x.rows) as u32;
        match (form, self.options.compute) {
            (Form::Int8, _) => self.call("int8", a, [units.div_ceil(4), rows, 1], 128),
            (_, DType::BF16) => self.call("brain", a, [units.div_ceil(8), rows, 1], 128),
            _ => self.call("half", a, [units.div_ceil(8), rows, 1], 128),
        }
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
        if let [gate, up] = w {
            let class = |t: &Tensor| self.weights.matrix(&self.program.decl(*t).name);
            let (gate, up) = (class(gate)?.format, class(up)?.format);
            let way = self.way(&gate, self.bound(out.rows), route.is_some());
            if gate.class == up.class && way.streams {
                let finish = Finish { act, ..Finish::plain(bias) };
                return self.products_of(x, w, finish, out, scratch, route, true);
            }
        }
        let both = self.products(w, out.rows, scratch);
        self.project(x, w, Finish::plain(bias), both, scratch + both.bytes, route)?;
        self.gated(both, act, out)
    }
}
