//! Mixtures of experts: the choice, and the way back from choices to tokens.

use super::arguments::{Args, Resource};
use super::projection::Finish;
use super::{At, Compiler};
use gristmill_core::{Error, Result};
use gristmill_ir::{Gating, Op, Tensor, Value};

impl Compiler<'_> {
    pub(super) fn route(
        &mut self,
        op: &Op,
        at: &dyn Fn(Value) -> At,
        out: At,
        scratch: usize,
    ) -> Result<()> {
        let Op::Route { x, w, bias, choice_bias, k, gating, renormalise, scale } = op else {
            return Err(Error::Runtime("not a route".into()));
        };
        let scores = self.products(&[*w], out.rows, scratch);
        let finish = Finish::plain(bias.as_slice());
        // Which experts are chosen hangs on the last bits.
        self.exact = true;
        let projected = self.project(at(*x), &[*w], finish, scores, scratch + scores.bytes, None);
        self.exact = false;
        projected?;
        let added = match choice_bias {
            Some(b) => self.weights.stacked(self.program, &[*b])?.0,
            None => Resource::None,
        };
        let gating = match gating {
            Gating::Softmax => 0,
            Gating::SoftmaxChosen => 1,
            Gating::Sigmoid => 2,
        };
        let a = Args::new()
            .ptrs([Resource::Ints, scores.res(), out.res(), added])
            .all(&[scores.width as u32, *k, scores.stride() as u32, out.stride() as u32, gating])
            .u(u32::from(*renormalise))
            .f(*scale)
            .u(0);
        self.call("route", a, [self.size.tokens.div_ceil(64), 1, 1], 64)
    }

    pub(super) fn expert_down(
        &mut self,
        x: At,
        route: At,
        (w, bias): (Tensor, Option<Tensor>),
        out: At,
        scratch: usize,
    ) -> Result<()> {
        let each = self.products(&[w], x.rows, scratch);
        let finish = Finish::plain(bias.as_slice());
        self.project(x, &[w], finish, each, scratch + each.bytes, Some(route))?;
        self.choices(each, route, out)
    }
}
