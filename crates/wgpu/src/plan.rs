//! From a program to a flat list of dispatches.
//!
//! [`Plan::compile`] meets every format and shape once: each call holds its pipeline, its parameters
//! and what it binds. A step walks the list and puts it into one command buffer, with grids of the
//! rows that are really there.

pub(crate) mod attention;
mod denoise;
mod experts;
mod projection;
pub(crate) mod recipes;
mod recurrent;
mod rows;

use crate::context::{Context, Grown, StateMemory};
use crate::gpu::{Gpu, Pipeline, mib};
use crate::shader::Recipe;
use crate::timer::Timer;
use crate::weights::Weights;
use gristmill_core::{DType, Error, Result};
use gristmill_gpu::Bounds;
use gristmill_ir::arena::Arena;
use gristmill_ir::{
    Activations, Node, Op, Options, Output, Program, Rope, Rows, Shape, Size, StateKind, Value,
};
use std::sync::Arc;
use wgpu::{BindGroup, BindGroupEntry, BindingResource, Buffer, BufferBinding, BufferUsages};

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

/// Where parts of a buffer that are bound must begin.
const ALIGN: usize = 256;

/// A compiled program.
pub struct Plan {
    calls: Vec<Call>,
    /// Operations of the program.
    nodes: usize,
    /// Parameters of all calls.
    uniforms: Buffer,
    pub(crate) placed: Vec<Placed>,
    pub(crate) size: Size,
    pub(crate) bounds: Bounds,
    /// The place of its bindings in the context.
    pub(crate) number: usize,
    /// Keeps what calls bind.
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
}

impl At {
    /// Elements from a row to the next.
    pub fn stride(&self) -> usize {
        stride(self.width)
    }
}

fn stride(width: usize) -> usize {
    width.next_multiple_of(4)
}

/// What a binding is.
#[derive(Clone)]
enum Resource {
    Ints,
    Derived,
    Last,
    /// A part of the workspace, in bytes.
    Part(usize, usize),
    State(usize),
    Held(Buffer),
    /// Nothing: the kernel does not look at it here.
    None,
}

/// How many there are in a step.
#[derive(Clone, Copy, Debug)]
enum Count {
    Fixed(u32),
    /// Rows of a kind, so many of them at a time.
    Rows(Rows, u32),
    /// Shares of the keys of a sequence.
    Splits,
}

/// One dispatch.
struct Call {
    /// The operation that it is part of.
    node: u32,
    pipeline: Arc<Pipeline>,
    resources: Vec<(u32, Resource)>,
    params: Vec<u32>,
    grid: [Count; 3],
    /// It runs only where there are so many rows.
    when: Option<(Rows, u32, u32)>,
}

/// Actual sizes of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Actual {
    pub tokens: u32,
    pub seqs: u32,
    pub rows: u32,
    pub splits: u32,
}

impl Actual {
    pub fn of(&self, rows: Rows) -> u32 {
        match rows {
            Rows::Tokens => self.tokens,
            Rows::Seqs => self.seqs,
            Rows::Wanted => self.rows,
            Rows::Choices(k) => self.tokens * k,
        }
    }

    fn count(&self, c: Count) -> u32 {
        match c {
            Count::Fixed(n) => n,
            Count::Rows(rows, each) => self.of(rows).div_ceil(each),
            Count::Splits => self.splits,
        }
    }
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
    /// The operation that is being compiled.
    at: u32,
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
            Op::Linear { x, w, .. } => self.int8_bytes(*x, &[*w]),
            Op::Qkv { x, w, .. } | Op::GateUp { x, w, .. } => {
                let rows = self.program.shape(*x).rows;
                self.products_bytes(w, rows) + self.int8_bytes(*x, w)
            }
            Op::Route { x, w, .. } => {
                self.products_bytes(&[*w], Rows::Tokens) + self.int8_bytes(*x, &[*w])
            }
            Op::ExpertGateUp { x, w, .. } => {
                let rows = self.program.shape(n.outputs[0]).rows;
                self.products_bytes(w, rows) + self.int8_bytes(*x, w)
            }
            Op::ExpertDown { x, w, .. } => {
                let rows = self.program.shape(*x).rows;
                self.products_bytes(&[*w], rows) + self.int8_bytes(*x, &[*w])
            }
            Op::Attention { heads, head_dim, .. } => self.shares_bytes(*heads, *head_dim),
            Op::LowRank { x, a, b, .. } => self.low_rank_bytes(*x, *a, *b),
            Op::Wkv7 { r, .. } => self.wkv7_bytes(self.program.shape(*r).width),
            _ => 0,
        }
    }

    /// Records a dispatch.
    fn call(
        &mut self,
        recipe: &Recipe,
        resources: &[(u32, Resource)],
        params: Vec<u32>,
        grid: [Count; 3],
    ) -> Result<()> {
        let pipeline = self.gpu.pipeline(recipe)?;
        let resources = resources.to_vec();
        let node = self.at;
        self.calls.push(Call { node, pipeline, resources, params, grid, when: None });
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
                self.add_norm([at(*x), at(*delta)], outs, *scale, [post.as_ref(), Some(norm)])
            }
            Op::Qkv { x, .. } => self.qkv(&n.op, at(*x), out, scratch),
            Op::Attention { q, .. } => self.attention(&n.op, at(*q), out, scratch),
            Op::Linear { x, w, bias, act, scale, softcap } => {
                let finish = projection::Finish {
                    bias: bias.as_slice(),
                    act: *act,
                    scale: *scale,
                    cap: softcap.unwrap_or(0.0),
                    exact: false,
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
            Op::AddSequence { x, y } => self.add_sequence(at(*x), at(*y), out),
            Op::LoadSlot { state, .. } => self.slot_rows(*state, None, out),
            Op::StoreSlot { x, state } => self.slot_rows(*state, Some(at(*x)), out),
            Op::Denoise { .. } => self.denoise(&n.op, at, out),
            other => Err(Error::Device(format!(
                "the wgpu backend has no kernel for `{}` yet; use --device cpu",
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
        let half = context.gpu.features.contains(wgpu::Features::SHADER_F16);
        if options.compute != DType::F32 && (options.compute != DType::F16 || !half) {
            return Err(Error::Device(format!(
                "{} does not compute in {}; use F32",
                context.gpu.name, options.compute
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
            at: 0,
        };
        let bytes = |v: Value| compiler.bytes(program.shape(v));
        let arena = Arena::plan(program, bytes, |n| compiler.scratch(n).next_multiple_of(ALIGN));
        let ats: Vec<At> = (0..program.values.len())
            .map(|i| {
                let s = program.values[i];
                let (offset, bytes) = (arena.values[i], compiler.bytes(s));
                At { offset, bytes, rows: s.rows, width: s.width as usize }
            })
            .collect();
        let at = |v: Value| ats[v.index()];
        let most = gpu.limits.max_storage_buffer_binding_size;
        if let Some(large) = ats.iter().find(|a| a.bytes as u64 > most) {
            return Err(Error::Memory(format!(
                "a step of {} rows of {} needs {} in one piece, and {} allows {}; use a smaller \
                 token budget",
                compiler.bound(large.rows),
                large.width,
                mib(large.bytes as u64),
                gpu.name,
                mib(most)
            )));
        }
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
        for (i, (n, &scratch)) in program.nodes.iter().zip(&arena.scratch).enumerate() {
            compiler.at = i as u32;
            compiler.node(n, &at, scratch).map_err(|e| match e {
                Error::Device(what) => Error::Device(format!("operation `{}`: {what}", n.name)),
                Error::Memory(what) => Error::Memory(format!("operation `{}`: {what}", n.name)),
                other => other,
            })?;
        }
        let calls = compiler.calls;
        let place = |&(output, v): &(Output, Value)| Placed { output, at: at(v) };
        let placed: Vec<Placed> = program.outputs.iter().map(place).collect();
        let mut parameters = vec![0u32; calls.len().max(1) * ALIGN / 4];
        for (call, slot) in calls.iter().zip(parameters.chunks_mut(ALIGN / 4)) {
            slot[..call.params.len()].copy_from_slice(&call.params);
        }
        let bytes = bytemuck::cast_slice(&parameters);
        let uniforms = gpu.filled("parameters of kernels", bytes, BufferUsages::UNIFORM)?;
        let schedule = |t| Ok(denoise::schedule(weights, program, t)?.to_vec());
        let bounds = Bounds::of(program, schedule)?;
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
        let weights = weights.clone();
        let nodes = program.nodes.len();
        Ok(Plan { calls, nodes, uniforms, placed, size, bounds, number, _weights: weights })
    }

    /// Bindings of every call over the buffers of a context.
    pub(crate) fn bind(&self, c: &Context) -> Vec<BindGroup> {
        let bind = |(i, call): (usize, &Call)| {
            let none = &c.gpu.none;
            let part = |buffer, offset: u64, bytes: u64| {
                BindingResource::Buffer(BufferBinding {
                    buffer,
                    offset,
                    size: std::num::NonZero::new(bytes),
                })
            };
            let entry = |&(binding, _): &(u32, _)| {
                let found = call.resources.iter().find(|r| r.0 == binding);
                let resource = match found.map(|r| &r.1) {
                    _ if binding == 0 => part(&self.uniforms, (i * ALIGN) as u64, ALIGN as u64),
                    Some(Resource::Ints) => c.ints.as_entire_binding(),
                    Some(Resource::Derived) => c.derived.as_entire_binding(),
                    Some(Resource::Last) => c.last.as_entire_binding(),
                    Some(Resource::Part(offset, bytes)) => {
                        part(&c.workspace, *offset as u64, *bytes as u64)
                    }
                    Some(Resource::State(i)) => c.states[*i].buffer.as_entire_binding(),
                    Some(Resource::Held(buffer)) => buffer.as_entire_binding(),
                    // A place of its own for each, since one that is written may not overlap.
                    Some(Resource::None) | None => {
                        part(&none[binding as usize % none.len()], 0, 256)
                    }
                };
                BindGroupEntry { binding, resource }
            };
            let entries: Vec<_> = call.pipeline.bindings.iter().map(entry).collect();
            c.gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &call.pipeline.layout,
                entries: &entries,
            })
        };
        self.calls.iter().enumerate().map(bind).collect()
    }

    /// The dispatches of a step, each with its bindings and its grid.
    fn dispatches<'p>(
        &'p self,
        groups: &'p [BindGroup],
        actual: &'p Actual,
    ) -> impl Iterator<Item = (&'p Call, &'p BindGroup, [u32; 3])> {
        self.calls.iter().zip(groups).filter_map(|(call, group)| {
            let (rows, least, most) = call.when.unwrap_or((Rows::Tokens, 0, u32::MAX));
            let grid = call.grid.map(|c| actual.count(c));
            let runs = (least..=most).contains(&actual.of(rows)) && !grid.contains(&0);
            runs.then_some((call, group, grid))
        })
    }

    /// Puts the step into a command buffer.
    pub(crate) fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        groups: &[BindGroup],
        actual: &Actual,
    ) {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        for (call, group, [x, y, z]) in self.dispatches(groups, actual) {
            pass.set_pipeline(&call.pipeline.pipeline);
            pass.set_bind_group(0, group, &[]);
            pass.dispatch_workgroups(x, y, z);
        }
    }

    /// Operations of the program.
    pub(crate) fn nodes(&self) -> usize {
        self.nodes
    }

    /// The same, a pass for each dispatch, which is timed.
    pub(crate) fn encode_timed(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        groups: &[BindGroup],
        actual: &Actual,
        timer: &mut Timer,
    ) {
        for (call, group, [x, y, z]) in self.dispatches(groups, actual) {
            let mut pass = timer.pass(encoder, call.node);
            pass.set_pipeline(&call.pipeline.pipeline);
            pass.set_bind_group(0, group, &[]);
            pass.dispatch_workgroups(x, y, z);
        }
        timer.end(encoder);
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
        if let StateKind::Paged { .. } = kind
            && !context.layout.page_tokens.is_multiple_of(32)
        {
            return bad(format!("a page of {} tokens", context.layout.page_tokens));
        }
    }
    Ok(())
}

/// Whether some activations become int8.
fn is_int8(options: &Options) -> bool {
    options.activations == Activations::Int8
}
