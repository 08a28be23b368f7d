//! From a program to a flat list of nodes, and a step over it.
//!
//! [`Plan::compile`] meets every format, shape and instruction set once: each node holds the
//! function pointers and addresses it needs. A step walks the list: the whole team runs a node,
//! meets at a barrier, and goes on. Nothing is allocated, locked or decided by format in a step.

mod attention;
mod embed;
mod experts;
mod linear;
mod norm;
mod projection;
mod recurrent;
mod rows;

use crate::context::{Context, Integers, Placed, StateMemory};
use crate::kernels::table::Table;
use crate::pool::Team;
use crate::weights::Weights;
use gristmill_core::{DType, Error, Result};
use gristmill_ir::arena::Arena;
use gristmill_ir::{
    Node as IrNode, Op, Options, Program, Rope, Rows, Shape, Size, StateKind, Tensor, Value,
};

/// What runs at one operation.
enum Kernel {
    Embed(embed::Embed),
    Read(embed::Read),
    Norm(norm::Norm),
    AddNorm(norm::AddNorm),
    Qkv(attention::Qkv),
    Attention(attention::Attention),
    Linear(linear::Linear),
    GateUp(linear::GateUp),
    Route(experts::Route),
    ExpertGateUp(experts::ExpertGateUp),
    ExpertDown(experts::ExpertDown),
    Add(rows::Add),
    SelectRows(rows::SelectRows),
    Pool(rows::Pool),
    Normalize(rows::Normalize),
    TokenShift(recurrent::TokenShift),
    LowRank(recurrent::LowRank),
    Lerp(recurrent::Lerp),
    Wkv7(recurrent::Wkv7),
}

/// Names of the operations that [`Plan::compile`] knows.
pub(crate) const OPS: [&str; 19] = [
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
];

/// A compiled program.
pub struct Plan {
    kernels: Vec<Kernel>,
    /// Rotation tables of a step, filled first.
    ropes: Vec<attention::RopeTable>,
    pub(crate) placed: Vec<Placed>,
    pub(crate) size: Size,
    pub(crate) windows: Vec<Option<u32>>,
    /// Whether some operation keeps a state in slots.
    pub(crate) recurrent: bool,
    /// Most items of an attention that shares out spans.
    pub(crate) split_items: usize,
    /// Bytes of workspace.
    pub(crate) workspace: usize,
    /// Kernels point into these.
    _weights: Weights,
}

/// Where a value lies, as nodes store it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    offset: usize,
    rows: Rows,
    width: usize,
}

/// What nodes see of a step.
pub(crate) struct Step<'a> {
    workspace: *mut u8,
    pub ints: &'a Integers,
    pub states: &'a [StateMemory],
    pub inputs: &'a [Vec<f32>; 2],
    pub page_tokens: usize,
}

// SAFETY: the pointer is to the context's workspace, which the step borrows exclusively; members of
// the team write disjoint parts of it between barriers, as each node's proof says.
unsafe impl Sync for Step<'_> {}

impl Step<'_> {
    /// The first element of a value.
    fn value(&self, at: At) -> *mut f32 {
        self.floats(at.offset)
    }

    /// Workspace at a byte offset that the arena gave.
    fn floats(&self, offset: usize) -> *mut f32 {
        // SAFETY: offsets come from the arena, whose total the workspace holds.
        unsafe { self.workspace.add(offset).cast() }
    }

    /// Rows of a value in this step.
    fn rows(&self, rows: Rows) -> usize {
        match rows {
            Rows::Tokens => self.ints.ids.len(),
            Rows::Seqs => self.ints.seq_starts.len() - 1,
            Rows::Wanted => self.ints.rows.len(),
            Rows::Choices(k) => self.ints.ids.len() * k as usize,
        }
    }
}

/// What nodes are compiled from.
pub(crate) struct Compiler<'a> {
    program: &'a Program,
    weights: &'a Weights,
    table: Table,
    options: &'a Options,
    size: Size,
    members: usize,
    page_tokens: usize,
    /// Most items of an attention that shares out spans.
    split_items: usize,
    /// Distinct rotations and where their tables lie.
    ropes: Vec<(&'a Rope, usize)>,
}

impl<'a> Compiler<'a> {
    /// Where the table of a rotation lies.
    fn rope_offset(&self, rope: &Rope) -> usize {
        // `compile` listed every rotation of the program.
        self.ropes.iter().find(|r| r.0 == rope).map_or(0, |r| r.1)
    }

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
        self.bound(s.rows) * s.width as usize * size_of::<f32>()
    }

    /// Scratch of a projection whose products are not yet the node's values, and of the products.
    fn products(&self, w: &[Tensor], rows: usize) -> usize {
        let outputs: usize = w.iter().map(|&w| self.program.decl(w).rows as usize).sum();
        projection::scratch(self, w, rows) + projection::products_bytes(rows, outputs)
    }

    /// Scratch of a node, beside its values.
    fn scratch(&self, n: &'a IrNode) -> usize {
        match &n.op {
            Op::Qkv { x, w, .. } | Op::GateUp { x, w, .. } => {
                self.products(w, self.bound(self.program.shape(*x).rows))
            }
            Op::Route { x, w, .. } => self.products(&[*w], self.bound(self.program.shape(*x).rows)),
            Op::ExpertGateUp { w, .. } => {
                let rows = self.bound(self.program.shape(n.outputs[0]).rows);
                let experts = self.program.decl(w[0]).experts as usize;
                experts::grouping_bytes(self, rows, experts) + self.products(w, rows)
            }
            Op::ExpertDown { x, w, .. } => {
                let rows = self.bound(self.program.shape(*x).rows);
                let experts = self.program.decl(*w).experts as usize;
                experts::grouping_bytes(self, rows, experts) + self.products(&[*w], rows)
            }
            Op::Linear { x, w, .. } => {
                let rows = self.bound(self.program.shape(*x).rows);
                projection::scratch(self, &[*w], rows)
            }
            Op::Embed { table, .. } => embed::scratch(self, self.program.decl(*table).cols),
            Op::Attention { heads, kv_heads, head_dim, .. } => {
                attention::scratch(self, [*heads, *kv_heads, *head_dim])
            }
            Op::LowRank { x, a, b, .. } => {
                let rows = self.bound(self.program.shape(*x).rows);
                recurrent::low_rank_scratch(self, rows, *a, *b)
            }
            Op::Wkv7 { r, heads, .. } => {
                let dim = self.program.shape(*r).width / heads;
                recurrent::wkv7_scratch(self, dim as usize)
            }
            _ => 0,
        }
    }

    fn kernel(&self, n: &'a IrNode, at: &dyn Fn(Value) -> At, scratch: usize) -> Result<Kernel> {
        let out = at(n.outputs[0]);
        Ok(match &n.op {
            Op::Embed { table, scale, positions, types } => {
                let optional = [*positions, *types];
                Kernel::Embed(embed::Embed::new(self, *table, optional, *scale, out, scratch)?)
            }
            Op::Read { input, .. } => Kernel::Read(embed::Read { input: *input, out }),
            Op::Norm { x, norm } => Kernel::Norm(norm::Norm::new(self, at(*x), norm, out)?),
            Op::AddNorm { x, delta, post, scale, norm } => {
                let inputs = [at(*x), at(*delta)];
                let outs = [out, at(n.outputs[1])];
                let norms = (post.as_ref(), norm);
                Kernel::AddNorm(norm::AddNorm::new(self, inputs, outs, *scale, norms)?)
            }
            Op::Qkv { x, .. } => {
                Kernel::Qkv(attention::Qkv::new(self, &n.op, at(*x), out, scratch)?)
            }
            Op::Attention { q, .. } => {
                let a = attention::Attention::new(self, &n.op, at(*q), out, scratch)?;
                Kernel::Attention(a)
            }
            Op::Linear { x, w, bias, act, scale, softcap } => {
                let finish = linear::Finish {
                    bias: *bias,
                    act: *act,
                    scale: *scale,
                    softcap: softcap.unwrap_or(0.0),
                };
                Kernel::Linear(linear::Linear::new(self, at(*x), *w, finish, out, scratch)?)
            }
            Op::GateUp { x, w, bias, act } => {
                let g = linear::GateUp::new(self, at(*x), w, bias, *act, out, scratch)?;
                Kernel::GateUp(g)
            }
            Op::Route { x, w, bias, choice_bias, gating, renormalise, scale, .. } => {
                let choice = experts::Choice {
                    bias: *bias,
                    choice_bias: *choice_bias,
                    gating: *gating,
                    renormalise: *renormalise,
                    scale: *scale,
                };
                let r = experts::Route::new(self, at(*x), *w, &choice, out, scratch)?;
                Kernel::Route(r)
            }
            Op::ExpertGateUp { x, route, w, bias, act } => {
                let (inputs, w) = ([at(*x), at(*route)], (&w[..], &bias[..]));
                let g = experts::ExpertGateUp::new(self, inputs, w, *act, out, scratch)?;
                Kernel::ExpertGateUp(g)
            }
            Op::ExpertDown { x, route, w, bias } => {
                let inputs = [at(*x), at(*route)];
                let d = experts::ExpertDown::new(self, inputs, *w, *bias, out, scratch)?;
                Kernel::ExpertDown(d)
            }
            Op::Add { x, y, gate } => {
                Kernel::Add(rows::Add { x: at(*x), y: at(*y), gate: gate.map(at), out })
            }
            Op::SelectRows { x } => Kernel::SelectRows(rows::SelectRows { x: at(*x), out }),
            Op::Pool { x, how } => Kernel::Pool(rows::Pool { x: at(*x), how: *how, out }),
            Op::Normalize { x, .. } => Kernel::Normalize(rows::Normalize { x: at(*x), out }),
            Op::TokenShift { x, mix, state } => {
                let outs = n.outputs.iter().map(|&v| at(v)).collect();
                let shift = recurrent::TokenShift::new(self, at(*x), *mix, *state, outs)?;
                Kernel::TokenShift(shift)
            }
            Op::LowRank { x, a, mid, b, bias, act } => {
                let (w, acts) = ([*a, *b], [*mid, *act]);
                let l = recurrent::LowRank::new(self, at(*x), w, *bias, acts, out, scratch)?;
                Kernel::LowRank(l)
            }
            Op::Lerp { from, to, t } => {
                let inputs = [at(*from), at(*to), at(*t)];
                Kernel::Lerp(recurrent::Lerp { kernel: self.table.lerp, inputs, out })
            }
            Op::Wkv7 { .. } => Kernel::Wkv7(recurrent::Wkv7::new(self, &n.op, at, out, scratch)?),
            other => {
                return Err(Error::Device(format!(
                    "the cpu backend has no kernel for `{}` yet",
                    other.name()
                )));
            }
        })
    }
}

impl Plan {
    /// Compiles; see [`gristmill_ir::Backend::compile`].
    pub(crate) fn compile(
        program: &Program,
        weights: &Weights,
        context: &Context,
        size: Size,
        options: &Options,
        table: Table,
        members: usize,
    ) -> Result<Plan> {
        if options.compute != DType::F32 {
            return Err(Error::Device(format!(
                "the cpu backend computes in F32, not {}",
                options.compute
            )));
        }
        check_states(program, context)?;
        let mut compiler = Compiler {
            program,
            weights,
            table,
            options,
            size,
            members,
            page_tokens: context.layout.page_tokens as usize,
            split_items: attention::split_items(context, size.seqs),
            ropes: vec![],
        };
        let arena =
            Arena::plan(program, |v| compiler.bytes(program.shape(v)), |n| compiler.scratch(n));
        let at = |v: Value| {
            let s = program.shape(v);
            At { offset: arena.values[v.index()], rows: s.rows, width: s.width as usize }
        };
        // Rotation tables live behind the arena for the whole step.
        let mut workspace = arena.total;
        let mut ropes = vec![];
        for n in &program.nodes {
            if let Op::Qkv { rope: Some(rope), .. } = &n.op
                && compiler.ropes.iter().all(|r| r.0 != rope)
            {
                let table = attention::RopeTable::new(&compiler, rope, workspace)?;
                compiler.ropes.push((rope, workspace));
                workspace += table.bytes(size.tokens as usize).next_multiple_of(64);
                ropes.push(table);
            }
        }
        let kernels = program
            .nodes
            .iter()
            .zip(&arena.scratch)
            .map(|(n, &scratch)| {
                compiler.kernel(n, &at, scratch).map_err(|e| match e {
                    Error::Device(what) => Error::Device(format!("operation `{}`: {what}", n.name)),
                    other => other,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let place = |&(output, v): &(_, Value)| {
            let At { offset, rows, width } = at(v);
            Placed { output, offset, width, rows }
        };
        let placed = program.outputs.iter().map(place).collect();
        let windows = program.groups.iter().map(|g| g.window).collect();
        let recurrent = program.states.iter().any(|s| matches!(s, StateKind::Slot { .. }));
        let (split_items, _weights) = (compiler.split_items, weights.clone());
        Ok(Plan {
            kernels,
            ropes,
            placed,
            size,
            windows,
            recurrent,
            split_items,
            workspace,
            _weights,
        })
    }

    /// Checks what the tables and inputs of the program bound.
    pub(crate) fn check(&self, ints: &Integers, inputs: &[Vec<f32>; 2]) -> Result<()> {
        let bad = |what: &str, v: usize, n: usize| {
            Err(Error::Usage(format!("{what} {v} is outside the model's table of {n}")))
        };
        for k in &self.kernels {
            match k {
                Kernel::Embed(e) => {
                    let [ids, positions, types] = e.limits();
                    if let Some(&id) = ints.ids.iter().find(|&&id| id as usize >= ids) {
                        return bad("token id", id as usize, ids);
                    }
                    let far = |p: &&[u32; 3]| p[0] as usize >= positions;
                    if let Some(p) = ints.positions.iter().find(far) {
                        return bad("position", p[0] as usize, positions);
                    }
                    if let Some(&t) = ints.types.iter().find(|&&t| t as usize >= types) {
                        return bad("token type", t as usize, types);
                    }
                }
                Kernel::Read(r) => {
                    let (got, needed) =
                        (inputs[r.input as usize].len(), ints.ids.len() * r.out.width);
                    if got != needed {
                        return Err(Error::Runtime(format!(
                            "{got} numbers were written where the step reads {needed}"
                        )));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Runs the plan as one member of the team.
    ///
    /// # Safety
    /// `step` is of a context whose workspace holds the plan and whose integers were filled within
    /// the plan's bounds; every member of the team runs it.
    pub(crate) unsafe fn run(&self, step: &Step<'_>, team: &Team<'_>) {
        if !self.ropes.is_empty() {
            attention::RopeTable::fill(&self.ropes, step, team);
            team.barrier();
        }
        for kernel in &self.kernels {
            // SAFETY: each node's contract is this function's.
            unsafe {
                match kernel {
                    Kernel::Embed(k) => k.run(step, team),
                    Kernel::Read(k) => k.run(step, team),
                    Kernel::Norm(k) => k.run(step, team),
                    Kernel::AddNorm(k) => k.run(step, team),
                    Kernel::Qkv(k) => k.run(step, team),
                    Kernel::Attention(k) => k.run(step, team),
                    Kernel::Linear(k) => k.run(step, team),
                    Kernel::GateUp(k) => k.run(step, team),
                    Kernel::Route(k) => k.run(step, team),
                    Kernel::ExpertGateUp(k) => k.run(step, team),
                    Kernel::ExpertDown(k) => k.run(step, team),
                    Kernel::Add(k) => k.run(step, team),
                    Kernel::SelectRows(k) => k.run(step, team),
                    Kernel::Pool(k) => k.run(step, team),
                    Kernel::Normalize(k) => k.run(step, team),
                    Kernel::TokenShift(k) => k.run(step, team),
                    Kernel::LowRank(k) => k.run(step, team),
                    Kernel::Lerp(k) => k.run(step, team),
                    Kernel::Wkv7(k) => k.run(step, team),
                }
            }
            team.barrier();
        }
    }
}

/// A program must name the states that the context holds.
fn check_states(program: &Program, context: &Context) -> Result<()> {
    if program.states.len() > context.states.len() {
        return Err(Error::Runtime(format!(
            "the program has {} states, the context {}",
            program.states.len(),
            context.states.len()
        )));
    }
    if program.groups.len() > context.layout.pages.len() {
        return Err(Error::Runtime(format!(
            "the program has {} page groups, the context {}",
            program.groups.len(),
            context.layout.pages.len()
        )));
    }
    let tokens = context.layout.page_tokens as usize;
    for (i, (kind, memory)) in program.states.iter().zip(&context.states).enumerate() {
        let fits = match (kind, memory) {
            (
                StateKind::Paged { group, k, v, k_type, v_type },
                StateMemory::Paged { group: g, k_page, v_page, .. },
            ) => {
                usize::from(*group) == *g
                    && k_type.bytes(*k as usize * tokens) == Some(*k_page)
                    && v_type.bytes(*v as usize * tokens) == Some(*v_page)
            }
            (StateKind::Slot { elems, dtype }, StateMemory::Slot { bytes, .. }) => {
                dtype.bytes(*elems as usize) == Some(*bytes)
            }
            _ => false,
        };
        if !fits {
            return Err(Error::Runtime(format!("state ${i} is not the context's")));
        }
    }
    Ok(())
}

pub(crate) fn step<'a>(context: &'a Context) -> Step<'a> {
    Step {
        workspace: context.workspace.ptr(),
        ints: &context.ints,
        states: &context.states,
        inputs: &context.inputs,
        page_tokens: context.layout.page_tokens as usize,
    }
}
