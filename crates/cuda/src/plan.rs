//! From a program to a flat list of launches.
//!
//! [`Plan::compile`] meets every format and shape once: each call holds its kernel, its grid for the
//! largest step, and its parameters. Over the buffers of a context the list is captured as one graph;
//! kernels read the actual sizes from the integers of the step and leave early.

pub(crate) mod arguments;
mod attention;
mod denoise;
mod experts;
mod projection;
mod recurrent;
mod rows;

use crate::context::{Bound, Context, Grown, StateMemory};
use crate::driver::Launch;
use crate::driver::memory::{ALIGN, Gpu};
use crate::weights::Weights;
use arguments::{Args, Resource};
use gristmill_core::{DType, Error, Result};
use gristmill_gpu::Bounds;
use gristmill_ir::arena::Arena;
use gristmill_ir::{Node, Op, Options, Output, Program, Rope, Rows, Shape, Size, Value};
use std::sync::Arc;

/// Names of the operations that [`Plan::compile`] knows.
pub(crate) const OPS: [&str; 24] = [
    "embed",
    "read",
    "norm",
    "add_norm",
    "qkv",
    "attention",
    "linear",
    "gate_up",
    "route",
    "expert_gate_up",
    "expert_down",
    "add",
    "select_rows",
    "pool",
    "normalize",
    "token_shift",
    "low_rank",
    "lerp",
    "wkv7",
    "time_embed",
    "add_sequence",
    "load_slot",
    "store_slot",
    "denoise",
];

/// A compiled program.
pub struct Plan {
    calls: Vec<Call>,
    pub(crate) placed: Vec<Placed>,
    pub(crate) size: Size,
    pub(crate) bounds: Bounds,
    /// The place of its graph in the context.
    pub(crate) number: usize,
    /// Keeps what calls name.
    _weights: Weights,
}

/// Where a result of a step lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub output: Output,
    pub at: At,
}

/// Where a value lies in the workspace: a row each `stride` elements, four or a multiple of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub offset: usize,
    pub bytes: usize,
    pub rows: Rows,
    pub width: usize,
    /// Where it lies as signed bytes too.
    pub twin: Option<usize>,
}

impl At {
    /// Elements from a row to the next.
    pub fn stride(&self) -> usize {
        stride(self.width)
    }

    fn res(&self) -> Resource {
        Resource::Work(self.offset)
    }
}

fn stride(width: usize) -> usize {
    width.next_multiple_of(4)
}

/// One launch.
struct Call {
    kernel: u64,
    args: Args,
    grid: [u32; 3],
    threads: u32,
    shared: u32,
}

/// How kernels call what a row stands for.
fn kind(rows: Rows) -> [u32; 2] {
    match rows {
        Rows::Tokens => [0, 1],
        Rows::Seqs => [1, 1],
        Rows::Wanted => [2, 1],
        Rows::Choices(k) => [3, k],
    }
}

/// What calls are compiled from.
struct Compiler<'a> {
    gpu: &'a Gpu,
    program: &'a Program,
    weights: &'a Weights,
    states: &'a [StateMemory],
    options: &'a Options,
    size: Size,
    page_tokens: u32,
    capacity: u32,
    /// Distinct rotations and where their tables lie.
    tables: Vec<(Rope, At)>,
    calls: Vec<Call>,
    /// Whether nothing is rounded to 16 bits, whatever the compute precision.
    exact: bool,
}

impl<'a> Compiler<'a> {
    /// Most rows of this kind.
    fn bound(&self, rows: Rows) -> usize {
        match rows {
            Rows::Tokens => self.size.tokens as usize,
            Rows::Seqs => self.size.seqs as usize,
            Rows::Wanted => self.size.rows as usize,
            Rows::Choices(k) => self.size.tokens as usize * k as usize,
        }
    }

    fn bytes(&self, s: Shape) -> usize {
        self.part(s.rows, s.width as usize)
    }

    /// Bytes of rows of f32, in whole parts.
    fn part(&self, rows: Rows, width: usize) -> usize {
        (self.bound(rows) * stride(width) * 4).next_multiple_of(ALIGN).max(ALIGN)
    }

    fn scratch(&self, n: &Node) -> usize {
        match &n.op {
            Op::Linear { x, w, .. } => {
                self.input_bytes(self.program.shape(*x), &[*w], n.outputs[0], false)
            }
            Op::Qkv { x, w, .. } | Op::GateUp { x, w, .. } => {
                let s = self.program.shape(*x);
                self.products_bytes(w, s.rows) + self.input_bytes(s, w, n.outputs[0], false)
            }
            Op::Route { x, w, .. } => {
                let s = self.program.shape(*x);
                self.products_bytes(&[*w], s.rows) + self.input_bytes(s, &[*w], n.outputs[0], false)
            }
            Op::ExpertGateUp { x, w, .. } => {
                let rows = self.program.shape(n.outputs[0]).rows;
                let s = self.program.shape(*x);
                self.products_bytes(w, rows) + self.input_bytes(s, w, n.outputs[0], true)
            }
            Op::ExpertDown { x, w, .. } => {
                let s = self.program.shape(*x);
                self.products_bytes(&[*w], s.rows) + self.input_bytes(s, &[*w], n.outputs[0], true)
            }
            Op::Attention { heads, head_dim, .. } => self.shares_bytes(*heads, *head_dim),
            Op::LowRank { x, a, b, .. } => self.low_rank_bytes(*x, *a, *b),
            Op::Wkv7 { r, .. } => self.wkv7_bytes(self.program.shape(*r).width),
            _ => 0,
        }
    }

    /// Records a launch.
    fn call(&mut self, kernel: &str, args: Args, grid: [u32; 3], threads: u32) -> Result<()> {
        self.call_with(kernel, args, grid, threads, 0)
    }

    fn call_with(
        &mut self,
        kernel: &str,
        args: Args,
        grid: [u32; 3],
        threads: u32,
        shared: u32,
    ) -> Result<()> {
        if grid[1] > 65_535 || grid[2] > 65_535 {
            return Err(Error::Device(format!(
                "{} rows in one step are more than CUDA takes: use a smaller token budget",
                grid[1]
            )));
        }
        let kernel = self.gpu.driver.kernel(kernel)?;
        let grid = grid.map(|n| n.max(1));
        self.calls.push(Call { kernel, args, grid, threads, shared });
        Ok(())
    }

    fn node(&mut self, n: &'a Node, at: &dyn Fn(Value) -> At, scratch: usize) -> Result<()> {
        let out = at(n.outputs[0]);
        match &n.op {
            Op::Embed { table, scale, positions, types } => {
                self.embed(*table, [*positions, *types], *scale, out)
            }
            Op::Read { input, .. } => self.read(*input, out),
            Op::Norm { x, norm } => self.norm(at(*x), norm, out),
            Op::AddNorm { x, delta, post, scale, norm } => {
                let outs = [out, at(n.outputs[1])];
                self.add_norm([at(*x), at(*delta)], outs, *scale, post.as_ref(), norm)
            }
            Op::Qkv { x, .. } => self.qkv(&n.op, at(*x), out, scratch),
            Op::Attention { q, .. } => self.attention(&n.op, at(*q), out, scratch),
            Op::Linear { x, w, bias, act, scale, softcap } => {
                let finish = projection::Finish {
                    bias: bias.as_slice(),
                    act: *act,
                    scale: *scale,
                    cap: softcap.unwrap_or(0.0),
                };
                self.project(at(*x), &[*w], finish, out, scratch, None)
            }
            Op::GateUp { x, w, bias, act } => {
                self.gate_up(at(*x), (w, bias), *act, out, scratch, None)
            }
            Op::Route { .. } => self.route(&n.op, at, out, scratch),
            Op::ExpertGateUp { x, route, w, bias, act } => {
                let route = Some(at(*route));
                self.gate_up(at(*x), (w, bias), *act, out, scratch, route)
            }
            Op::ExpertDown { x, route, w, bias } => {
                self.expert_down(at(*x), at(*route), (*w, *bias), out, scratch)
            }
            Op::Add { x, y, gate } => self.add([at(*x), at(*y)], gate.map(at), out),
            Op::SelectRows { x } => self.select_rows(at(*x), out),
            Op::Pool { x, how } => self.pool(at(*x), *how, out),
            Op::Normalize { x, .. } => self.normalize(at(*x), out),
            Op::TokenShift { x, mix, state } => {
                let outs: Vec<At> = n.outputs.iter().map(|&v| at(v)).collect();
                self.token_shift(at(*x), *mix, *state, &outs)
            }
            Op::LowRank { x, a, mid, b, bias, act } => {
                self.low_rank(at(*x), [*a, *b], *bias, [*mid, *act], out, scratch)
            }
            Op::Lerp { from, to, t } => self.lerp([at(*from), at(*to), at(*t)], out),
            Op::Wkv7 { .. } => self.wkv7(&n.op, at, out, scratch),
            Op::TimeEmbed { .. } => self.time_embed(out),
            Op::AddSequence { x, y } => self.add_sequence([at(*x), at(*y)], out),
            Op::LoadSlot { state, .. } => self.slot_rows(*state, None, out),
            Op::StoreSlot { x, state } => self.slot_rows(*state, Some(at(*x)), out),
            Op::Denoise { .. } => self.denoise(&n.op, at, out),
            other => Err(Error::Device(format!(
                "the cuda backend has no kernel for `{}` yet; use --device cpu",
                other.name()
            ))),
        }
    }
}

impl Plan {
    /// Compiles; see [`gristmill_ir::Backend::compile`].
    pub(crate) fn compile(
        program: &Program,
        weights: &Weights,
        context: &mut Context,
        size: Size,
        options: &Options,
    ) -> Result<Plan> {
        let facts = context.gpu.driver.facts();
        let known = [DType::F32, DType::F16, DType::BF16].contains(&options.compute);
        if !known || (options.compute == DType::BF16 && facts.chip < [8, 0]) {
            let [major, minor] = facts.chip;
            return Err(Error::Device(format!(
                "{} (compute capability {major}.{minor}) does not compute in {}; use {}",
                facts.name,
                options.compute,
                if known { "F16 or F32; BF16 needs 8.0" } else { "F32, F16 or BF16" }
            )));
        }
        check_states(program, context)?;
        if size.tokens > context.layout.max.tokens {
            return Err(Error::Runtime(format!(
                "a plan for {} tokens in a context for {}",
                size.tokens, context.layout.max.tokens
            )));
        }
        let gpu = context.gpu.clone();
        let mut compiler = Compiler {
            gpu: &gpu,
            program,
            weights,
            states: &context.states,
            options,
            size,
            page_tokens: context.layout.page_tokens,
            capacity: context.layout.max.tokens.max(1),
            tables: vec![],
            calls: vec![],
            exact: false,
        };
        let twins: Vec<bool> =
            (0..program.values.len()).map(|i| compiler.has_twin(Value(i as u32))).collect();
        let bytes = |v: Value| {
            let s = program.shape(v);
            let twin = if twins[v.index()] { compiler.twin_bytes(s) } else { 0 };
            compiler.bytes(s) + twin
        };
        let arena = Arena::plan(program, bytes, |n| compiler.scratch(n).next_multiple_of(ALIGN));
        let ats: Vec<At> = (0..program.values.len())
            .map(|i| {
                let s = program.values[i];
                let (offset, bytes) = (arena.values[i], compiler.bytes(s));
                let twin = twins[i].then_some(offset + bytes);
                At { offset, bytes, rows: s.rows, width: s.width as usize, twin }
            })
            .collect();
        let at = |v: Value| ats[v.index()];
        compiler.prepare()?;
        // Rotation tables live behind the arena for the whole step.
        let mut workspace = arena.total.next_multiple_of(ALIGN);
        for n in &program.nodes {
            if let Op::Qkv { rope: Some(rope), .. } = &n.op
                && compiler.tables.iter().all(|t| t.0 != *rope)
            {
                workspace += compiler.rope(rope, workspace)?;
            }
        }
        for (n, &scratch) in program.nodes.iter().zip(&arena.scratch) {
            compiler.node(n, &at, scratch).map_err(|e| match e {
                Error::Device(what) => Error::Device(format!("operation `{}`: {what}", n.name)),
                Error::Memory(what) => Error::Memory(format!("operation `{}`: {what}", n.name)),
                other => other,
            })?;
        }
        let schedule = |t| Ok(weights.values(&program.decl(t).name)?.to_vec());
        let bounds = Bounds::of(program, schedule)?;
        let calls = compiler.calls;
        let place = |&(output, v): &(Output, Value)| Placed { output, at: at(v) };
        let placed: Vec<Placed> = program.outputs.iter().map(place).collect();
        let inputs: u64 = bounds.inputs.iter().flatten().map(|&w| u64::from(w)).sum();
        let ints = context.integers.expected(&context.layout) + inputs * u64::from(size.tokens);
        context.grow(Grown::Workspace, workspace as u64)?;
        context.grow(Grown::Ints, 4 * ints)?;
        if let Some(v) = program.output_value(Output::Logits) {
            let logits = 4 * u64::from(program.shape(v).width) * u64::from(size.rows);
            context.grow(Grown::Work, logits)?;
        }
        context.latest.placed.clear(); // the workspace may be another
        let number = context.bound.len();
        context.bound.push(None);
        Ok(Plan { calls, placed, size, bounds, number, _weights: weights.clone() })
    }

    /// Captures the list over the buffers of a context.
    pub(crate) fn bind(&self, c: &Context) -> Result<Bound> {
        let gpu: &Arc<Gpu> = &c.gpu;
        let address = |r: &Resource| match r {
            Resource::Ints => c.ints.at(),
            Resource::Derived => c.derived.at(),
            Resource::Last => c.last.at(),
            Resource::Work(offset) => c.workspace.at() + *offset as u64,
            Resource::State(i) => c.states[*i].buffer.at(),
            Resource::Held(..) | Resource::None => 0,
        };
        gpu.driver.capture()?;
        let each = |call: &Call| {
            let params = call.args.encode(&address);
            let &Call { kernel, grid, threads, shared, .. } = call;
            gpu.launch(&Launch { kernel, grid, threads, shared, params: &params })
        };
        let recorded = self.calls.iter().try_for_each(each);
        let graph = gpu.driver.captured();
        recorded?;
        Ok(Bound::new(gpu, graph?))
    }
}

/// A program must name the states that the context holds.
fn check_states(program: &Program, context: &Context) -> Result<()> {
    let bad = |what: String| Err(Error::Runtime(what));
    let (needs, has) = (program.states.len(), context.states.len());
    if needs > has {
        return bad(format!("the program has {needs} states, the context {has}"));
    }
    let (needs, has) = (program.groups.len(), context.layout.pages.len());
    if needs > has {
        return bad(format!("the program has {needs} page groups, the context {has}"));
    }
    for (i, (kind, memory)) in program.states.iter().zip(&context.states).enumerate() {
        if *kind != memory.kind {
            return bad(format!("state ${i} is not the context's"));
        }
    }
    Ok(())
}
