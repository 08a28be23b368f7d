//! The choices of a mixture's router, in the order of their experts.
//!
//! They are brought into it by counting, so that the rows of an expert lie together and go through the
//! kernels of [`Projection`] like any others, in tiles. The place of a choice decides nothing about its
//! result. Counting takes microseconds and is one member's, a phase of its own; what it found is read
//! within the phases after it, never between them, where a member may be late.

use super::projection::{Projection, Share, chunk};
use super::{At, Step};
use crate::kernels::matmul::MatmulKernel;
use crate::pool::Team;
use std::ops::Range;

/// Brings the choices of a step into the order of their experts.
#[derive(Clone, Copy)]
pub(super) struct Grouping {
    pub(super) route: At,
    pub(super) k: usize,
    experts: usize,
    /// Where the lists lie.
    offset: usize,
}

/// The choices of a step by expert.
#[derive(Clone, Copy)]
pub(super) struct Grouped<'a> {
    /// Experts that were chosen, in order.
    active: &'a [u32],
    /// Where the choices of each expert end.
    ends: &'a [u32],
    /// The choice (token · k + j) at each place.
    pub(super) order: &'a [u32],
}

/// Bytes of the lists.
pub(super) fn bytes(choices: usize, experts: usize) -> usize {
    words(choices, experts).next_multiple_of(32) * size_of::<u32>()
}

/// How many experts were chosen, and the lists of [`Grouped`].
fn words(choices: usize, experts: usize) -> usize {
    1 + 2 * experts + 3 * choices
}

impl Grouping {
    pub(super) fn new(route: At, experts: usize, offset: usize) -> Self {
        Grouping { route, k: route.width / 2, experts, offset }
    }

    /// Choices of a step.
    pub(super) fn choices(&self, step: &Step<'_>) -> usize {
        step.rows(self.route.rows) * self.k
    }

    /// Experts that a step can have chosen at most.
    fn most(&self, step: &Step<'_>) -> usize {
        self.choices(step).min(self.experts)
    }

    /// The choice at each place, and the place of each choice; where they lie, unread.
    pub(super) fn order_and_places(&self, step: &Step<'_>) -> (*const u32, *const u32) {
        let lists = step.floats(self.offset).cast::<u32>().cast_const();
        let order = 1 + 2 * self.experts;
        // SAFETY: the scratch holds the lists, see `words`.
        unsafe { (lists.add(order), lists.add(order + 2 * self.choices(step))) }
    }

    /// The expert of a choice.
    ///
    /// # Safety
    /// The router has run, and the step has this choice.
    pub(super) unsafe fn expert(&self, step: &Step<'_>, choice: usize) -> usize {
        let (token, j) = (choice / self.k, choice % self.k);
        // SAFETY: the caller's promise.
        unsafe { *step.value(self.route).add(token * 2 * self.k + j) as usize }
    }

    /// Counts: one phase, with its barrier.
    ///
    /// # Safety
    /// The router has run; the scratch at `offset` holds the lists.
    pub(super) unsafe fn count(&self, step: &Step<'_>, team: &Team<'_>) {
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
    pub(super) unsafe fn prepare(
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
    pub(super) unsafe fn counted<'s>(&self, step: &'s Step<'_>) -> Grouped<'s> {
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
    pub(super) unsafe fn each(
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
