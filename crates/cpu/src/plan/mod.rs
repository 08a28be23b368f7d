//! From a program to a flat list of nodes, and a step over it.
//!
//! [`Plan::compile`] meets every format, shape and instruction set once: each node holds the
//! function pointers and addresses it needs. A step walks the list: the whole team runs a node,
//! meets at a barrier, and goes on. Nothing is allocated, locked or decided by format in a step.

mod attention;
mod compile;
mod denoise;
mod embed;
mod experts;
mod grouping;
mod linear;
mod norm;
mod projection;
mod recurrent;
mod rows;

use crate::context::{Context, Integers, Placed, StateMemory};
use crate::kernels::table::Table;
use crate::pool::Team;
use crate::weights::Weights;
use compile::Compiler;
pub(crate) use compile::OPS;
use gristmill_core::{DType, Error, Result};
use gristmill_ir::arena::Arena;
use gristmill_ir::{Op, Options, Program, Rows, Size, StateKind, Value};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// What runs at one operation; [`compile`] makes them.
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
    TimeEmbed(denoise::TimeEmbed),
    AddSequence(denoise::AddSequence),
    Slots(denoise::Slots),
    Denoise(denoise::Denoise),
}

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
    /// Where the time each operation ends is noted, if it is.
    marks: Option<&'a Marks>,
}

/// Times of a step's operations, in nanoseconds since it began.
pub(crate) struct Marks {
    pub(crate) began: Instant,
    pub(crate) ends: Vec<AtomicU64>,
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

impl Plan {
    /// How many operations it has.
    pub(crate) fn nodes(&self) -> usize {
        self.kernels.len()
    }

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
                Kernel::TimeEmbed(_) => denoise::check_times(ints, usize::MAX)?,
                Kernel::Slots(s) => s.check(ints)?,
                Kernel::Denoise(d) => d.check(ints)?,
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
        for (i, kernel) in self.kernels.iter().enumerate() {
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
                    Kernel::TimeEmbed(k) => k.run(step, team),
                    Kernel::AddSequence(k) => k.run(step, team),
                    Kernel::Slots(k) => k.run(step, team),
                    Kernel::Denoise(k) => k.run(step, team),
                }
            }
            team.barrier();
            if let Some(marks) = step.marks.filter(|_| team.member == 0) {
                marks.ends[i].store(marks.began.elapsed().as_nanos() as u64, Relaxed);
            }
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
        marks: context.marks.as_ref(),
    }
}
