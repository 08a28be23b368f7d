//! Mixtures of experts: the router, and the products of tokens with the matrices they chose.

use super::grouping::{self, Grouped, Grouping};
use super::projection::{Projection, Share, products_bytes};
use super::{At, Compiler, Step};
use crate::kernels::elementwise::GateArgs;
use crate::kernels::experts::{CombineArgs, RouteArgs};
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
        let choice = RouteArgs {
            scores: std::ptr::null_mut(),
            bias: c.vector(choice.bias, 0.0)?,
            choice_bias: c.vector(choice.choice_bias, 0.0)?,
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
        let both = scratch + grouping::bytes(rows, experts);
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
        let products = scratch + grouping::bytes(rows, experts);
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
