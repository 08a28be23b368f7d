//! Mixtures of experts: the router, and the products of tokens with the matrices they chose.
//!
//! The choices of a step are brought into the order of their experts by counting, so that the rows
//! of an expert lie together and go through the kernels of [`Projection`] like any others, in tiles.
//! The place of a choice decides nothing about its result. Counting takes microseconds and is one
//! member's, a phase of its own; what it found is read within the phases after it, never between
//! them, where a member may be late.

use super::projection::{Projection, Share, chunk, products_bytes};
use super::{At, Compiler, Step};
use crate::kernels::elementwise::GateArgs;
use crate::kernels::experts::{CombineArgs, RouteArgs};
use crate::kernels::matmul::MatmulKernel;
use crate::pool::Team;
use gristmill_core::Result;
use gristmill_ir::{Act, Gating, Tensor};
use std::ops::Range;

/// Elements of a row that a member sums at once.
const COLUMNS: usize = 512;

/// What the router's scores become.
pub(super) struct Choice {
    pub(super) bias: Option<Tensor>,
    pub(super) choice_bias: Option<Tensor>,
    pub(super) gating: Gating,
    pub(super) renormalise: bool,
    pub(super) scale: f32,
}

pub(super) struct Route {
    projection: Projection,
    kernel: unsafe fn(&RouteArgs, Range<usize>),
    choice: RouteArgs,
    x: At,
    out: At,
    /// Scores, then the projection's scratch.
    scores: usize,
    scratch: usize,
}

// SAFETY: the biases point into weights that the plan keeps alive and nobody writes; the other
// pointers are null until a step fills them in a copy.
unsafe impl Send for Route {}
// SAFETY: as above.
unsafe impl Sync for Route {}

impl Route {
    pub(super) fn new(
        c: &Compiler<'_>,
        x: At,
        w: Tensor,
        choice: &Choice,
        out: At,
        scratch: usize,
    ) -> Result<Self> {
        let rows = c.bound(x.rows);
        let projection = Projection::with_rows(c, &[w], rows)?;
        let vector = |t: Option<Tensor>| match t {
            Some(t) => c.weights.vector(&c.program.decl(t).name, 0.0),
            None => Ok(std::ptr::null()),
        };
        let choice = RouteArgs {
            scores: std::ptr::null_mut(),
            bias: vector(choice.bias)?,
            choice_bias: vector(choice.choice_bias)?,
            experts: projection.width,
            k: out.width / 2,
            gating: choice.gating,
            renormalise: choice.renormalise,
            scale: choice.scale,
            out: std::ptr::null_mut(),
        };
        let products = products_bytes(rows, projection.width);
        let kernel = c.table.route;
        Ok(Route {
            projection,
            kernel,
            choice,
            x,
            out,
            scores: scratch,
            scratch: scratch + products,
        })
    }

    /// # Safety
    /// See [`super::Plan::run`]; members take different columns, then different tokens.
    pub(super) unsafe fn run(&self, step: &Step<'_>, team: &Team<'_>) {
        let rows = step.rows(self.x.rows);
        let scores = step.floats(self.scores);
        let scratch = step.floats(self.scratch).cast();
        let args = RouteArgs { scores, out: step.value(self.out), ..self.choice };
        // SAFETY: the values hold the rows of the step, the scratch was sized for them.
        unsafe {
            self.projection.prepare(team, step.value(self.x), rows, scratch);
            self.projection.multiply(team, rows, scores, scratch, |_| {});
            team.barrier();
            team.each(rows, team.chunk(rows), |tokens| (self.kernel)(&args, tokens));
        }
    }
}

/// Brings the choices of a step into the order of their experts.
#[derive(Clone, Copy)]
struct Grouping {
    route: At,
    k: usize,
    experts: usize,
    /// Where the lists lie.
    offset: usize,
}

/// The choices of a step by expert.
#[derive(Clone, Copy)]
struct Grouped<'a> {
    /// Experts that were chosen, in order.
    active: &'a [u32],
    /// Where the choices of each expert end.
    ends: &'a [u32],
    /// The choice (token · k + j) at each place.
    order: &'a [u32],
}

/// Bytes of the lists.
pub(super) fn grouping_bytes(choices: usize, experts: usize) -> usize {
    words(choices, experts).next_multiple_of(32) * size_of::<u32>()
}

/// How many experts were chosen, and the lists of [`Grouped`].
fn words(choices: usize, experts: usize) -> usize {
    1 + 2 * experts + 3 * choices
}

impl Grouping {
    fn new(route: At, experts: usize, offset: usize) -> Self {
        Grouping { route, k: route.width / 2, experts, offset }
    }

    /// Choices of a step.
    fn choices(&self, step: &Step<'_>) -> usize {
        step.rows(self.route.rows) * self.k
    }

    /// Experts that a step can have chosen at most.
    fn most(&self, step: &Step<'_>) -> usize {
        self.choices(step).min(self.experts)
    }

    /// The choice at each place, and the place of each choice; where they lie, unread.
    fn order_and_places(&self, step: &Step<'_>) -> (*const u32, *const u32) {
        let lists = step.floats(self.offset).cast::<u32>().cast_const();
        let order = 1 + 2 * self.experts;
        // SAFETY: the scratch holds the lists, see `words`.
        unsafe { (lists.add(order), lists.add(order + 2 * self.choices(step))) }
    }

    /// The expert of a choice.
    ///
    /// # Safety
    /// The router has run, and the step has this choice.
    unsafe fn expert(&self, step: &Step<'_>, choice: usize) -> usize {
        let (token, j) = (choice / self.k, choice % self.k);
        // SAFETY: the caller's promise.
        unsafe { *step.value(self.route).add(token * 2 * self.k + j) as usize }
    }

    /// Counts: one phase, with its barrier.
    ///
    /// # Safety
    /// The router has run; the scratch at `offset` holds the lists.
    unsafe fn count(&self, step: &Step<'_>, team: &Team<'_>) {
        let n = self.choices(step);
        team.each(1, 1, |_| {
            // SAFETY: only one member gets the one index, and others read the lists in later phases.
            let lists = unsafe {
                let at = step.floats(self.offset).cast::<u32>();
                std::slice::from_raw_parts_mut(at, words(n, self.experts))
            };
            let (chosen, lists) = lists.split_at_mut(1);
            let chosen = &mut chosen[0];
            let (ends, lists) = lists.split_at_mut(self.experts);
            let (active, lists) = lists.split_at_mut(self.experts);
            let (order, lists) = lists.split_at_mut(n);
            let (tokens, places) = lists.split_at_mut(n);
            ends.fill(0);
            for choice in 0..n {
                // SAFETY: the caller's promise.
                ends[unsafe { self.expert(step, choice) }] += 1;
            }
            let mut before = 0;
            *chosen = 0;
            for (e, end) in ends.iter_mut().enumerate() {
                let count = *end;
                if count > 0 {
                    active[*chosen as usize] = e as u32;
                    *chosen += 1;
                }
                *end = before;
                before += count;
            }
            for (choice, place) in places.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                let end = &mut ends[unsafe { self.expert(step, choice) }];
                *place = *end;
                order[*end as usize] = choice as u32;
                tokens[*end as usize] = (choice / self.k) as u32;
                *end += 1;
            }
        });
        team.barrier();
    }

    /// Prepares the rows of `x` that `order` names, those of each expert apart: one phase, with its
    /// barrier.
    ///
    /// # Safety
    /// As [`Projection::prepare_shares`]; [`Grouping::count`] has run.
    unsafe fn prepare(
        &self,
        projection: &Projection,
        step: &Step<'_>,
        team: &Team<'_>,
        (x, order): (*const f32, *const u32),
        scratch: *mut u8,
    ) {
        let tiles = |k: &MatmulKernel| k.most_tiles(self.choices(step), self.most(step));
        // SAFETY: the caller's promise; the shares are asked within the phase.
        unsafe {
            let shares = || self.counted(step).shares();
            projection.prepare_shares(team, x, order, tiles, shares, scratch);
        }
    }

    /// What was counted.
    ///
    /// # Safety
    /// [`Grouping::count`] has run, and the caller is within a later phase of the same operation.
    unsafe fn counted<'s>(&self, step: &'s Step<'_>) -> Grouped<'s> {
        let n = self.choices(step);
        // SAFETY: the caller's promise: nobody writes the lists any more.
        let lists = unsafe {
            let at = step.floats(self.offset).cast::<u32>().cast_const();
            std::slice::from_raw_parts(at, words(n, self.experts))
        };
        let chosen = lists[0] as usize;
        let (ends, lists) = lists[1..].split_at(self.experts);
        let (active, lists) = lists.split_at(self.experts);
        Grouped { active: &active[..chosen], ends, order: &lists[..n] }
    }

    /// Shares out `groups` row groups of each chosen expert: `f` gets what was counted, a share and
    /// some groups. One phase, without its barrier.
    ///
    /// # Safety
    /// [`Grouping::count`] has run.
    unsafe fn each(
        &self,
        step: &Step<'_>,
        team: &Team<'_>,
        groups: usize,
        mut f: impl FnMut(&Grouped<'_>, Share, Range<usize>),
    ) {
        let total = self.most(step) * groups;
        team.each(total, chunk(team, total), |range| {
            // SAFETY: the caller's promise, and this is within the phase.
            let grouped = unsafe { self.counted(step) };
            for i in range.start / groups..range.end.div_ceil(groups).min(grouped.active.len()) {
                let first = i * groups;
                let from = range.start.max(first) - first;
                f(&grouped, grouped.share(i), from..(range.end - first).min(groups));
            }
        });
    }
}

impl<'a> Grouped<'a> {
    /// The rows of the `i`th expert that was chosen.
    fn share(&self, i: usize) -> Share {
        let expert = self.active[i] as usize;
        let first = if expert == 0 { 0 } else { self.ends[expert - 1] as usize };
        Share { expert, x: first, y: first, rows: self.ends[expert] as usize - first }
    }

    /// All of them.
    fn shares(self) -> impl Iterator<Item = Share> + use<'a> {
        (0..self.active.len()).map(move |i| self.share(i))
    }
}

pub(super) struct ExpertGateUp {
    projection: Projection,
    grouping: Grouping,
    gate: unsafe fn(&GateArgs, Range<usize>, Range<usize>),
    /// `[experts][2 width]`, or null.
    bias: *const f32,
    act: Act,
    x: At,
    out: At,
    /// Gates and ups by place, then the projection's scratch.
    both: usize,
    scratch: usize,
}

// SAFETY: the bias points into weights that the plan keeps alive and nobody writes.
unsafe impl Send for ExpertGateUp {}
// SAFETY: as above.
unsafe impl Sync for ExpertGateUp {}

impl ExpertGateUp {
    pub(super) fn new(
        c: &Compiler<'_>,
        [x, route]: [At; 2],
        (w, bias): (&[Tensor], &[Tensor]),
        act: Act,
        out: At,
        scratch: usize,
    ) -> Result<Self> {
        let rows = c.bound(out.rows);
        let projection = Projection::with_rows(c, w, rows)?;
        let experts = c.program.decl(w[0]).experts as usize;
        let both = scratch + grouping_bytes(rows, experts);
        Ok(ExpertGateUp {
            grouping: Grouping::new(route, experts, scratch),
            gate: c.table.gate,
            bias: c.weights.stacked(c.program, bias)?,
            act,
            x,
            out,
            both,
            scratch: both + products_bytes(rows, projection.width),
            projection,
        })
    }

    /// # Safety
    /// See [`super::Plan::run`]; members take different (expert, columns) pairs.
    pub(super) unsafe fn run(&self, step: &Step<'_>, team: &Team<'_>) {
        let rows = step.rows(self.out.rows);
        let width = self.out.width;
        let both = step.floats(self.both);
        let scratch = step.floats(self.scratch).cast();
        let x = step.value(self.x);
        // SAFETY: the router ran before; the values hold the rows of the step, the scratch was
        // sized for them; each choice has its own row of the result.
        unsafe {
            let grouping = &self.grouping;
            grouping.count(step, team);
            // A single token is prepared once for all its experts.
            let single = step.rows(self.x.rows) == 1;
            match single {
                true => self.projection.prepare(team, x, 1, scratch),
                false => {
                    let (order, _) = grouping.order_and_places(step);
                    let tokens = order.add(grouping.choices(step));
                    grouping.prepare(&self.projection, step, team, (x, tokens), scratch);
                }
            }
            let of = |s: Share| Share { x: if single { 0 } else { s.x }, ..s };
            let gate = |grouped: &Grouped<'_>, place: usize, columns: Range<usize>| {
                let choice = grouped.order[place] as usize;
                let expert = grouping.expert(step, choice);
                let bias = match self.bias.is_null() {
                    true => self.bias,
                    false => self.bias.add(expert * 2 * width),
                };
                let x = both.add(place * 2 * width);
                let y = step.value(self.out).add(choice * width);
                (self.gate)(&GateArgs { x, y, width, bias, act: self.act }, 0..1, columns);
            };
            if self.projection.is_pair() {
                grouping.each(
                    step,
                    team,
                    self.projection.groups() / 2,
                    |grouped, share, groups| {
                        let s = of(share);
                        let p = &self.projection;
                        let columns = p.multiply_pair_share(team, s, groups, both, scratch);
                        (s.y..s.y + s.rows).for_each(|place| gate(grouped, place, columns.clone()));
                    },
                );
                return;
            }
            grouping.each(step, team, self.projection.groups(), |_, share, groups| {
                self.projection.multiply_share(team, of(share), groups, both, scratch, |_| {});
            });
            team.barrier();
            team.each(rows, team.chunk(rows), |places| {
                let grouped = grouping.counted(step);
                places.for_each(|place| gate(&grouped, place, 0..width));
            });
        }
    }
}

pub(super) struct ExpertDown {
    projection: Projection,
    grouping: Grouping,
    combine: unsafe fn(&CombineArgs, usize, Range<usize>),
    /// `[experts][width]`, or null.
    bias: *const f32,
    x: At,
    out: At,
    /// Results by place, then the projection's scratch.
    products: usize,
    scratch: usize,
}

// SAFETY: the bias points into weights that the plan keeps alive and nobody writes.
unsafe impl Send for ExpertDown {}
// SAFETY: as above.
unsafe impl Sync for ExpertDown {}

impl ExpertDown {
    pub(super) fn new(
        c: &Compiler<'_>,
        [x, route]: [At; 2],
        w: Tensor,
        bias: Option<Tensor>,
        out: At,
        scratch: usize,
    ) -> Result<Self> {
        let rows = c.bound(x.rows);
        let projection = Projection::with_rows(c, &[w], rows)?;
        let experts = c.program.decl(w).experts as usize;
        let products = scratch + grouping_bytes(rows, experts);
        Ok(ExpertDown {
            grouping: Grouping::new(route, experts, scratch),
            combine: c.table.combine,
            bias: c.weights.stacked(c.program, bias.as_slice())?,
            x,
            out,
            products,
            scratch: products + products_bytes(rows, projection.width),
            projection,
        })
    }

    /// # Safety
    /// See [`super::Plan::run`]; members take different (expert, columns) pairs, then different
    /// (token, columns) pairs.
    pub(super) unsafe fn run(&self, step: &Step<'_>, team: &Team<'_>) {
        let tokens = step.rows(self.out.rows);
        let products = step.floats(self.products);
        let scratch = step.floats(self.scratch).cast();
        // SAFETY: the router ran before; the values hold the rows of the step, the scratch was
        // sized for them; places are those of the members' equal lists.
        unsafe {
            let (grouping, p) = (&self.grouping, &self.projection);
            grouping.count(step, team);
            let (order, places) = grouping.order_and_places(step);
            grouping.prepare(p, step, team, (step.value(self.x), order), scratch);
            grouping.each(step, team, p.groups(), |_, share, groups| {
                p.multiply_share(team, share, groups, products, scratch, |_| {});
            });
            team.barrier();
            let width = self.out.width;
            let args = CombineArgs {
                y: products,
                places,
                route: step.value(self.grouping.route),
                bias: self.bias,
                k: self.grouping.k,
                width,
                out: step.value(self.out),
            };
            let pieces = width.div_ceil(COLUMNS);
            let total = tokens * pieces;
            team.each(total, team.chunk(total), |range| {
                for i in range {
                    let from = i % pieces * COLUMNS;
                    (self.combine)(&args, i / pieces, from..width.min(from + COLUMNS));
                }
            });
        }
    }
}
