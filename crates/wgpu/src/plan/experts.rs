//! Mixtures of experts: the choice, and the way back from choices to tokens.

use super::projection::Finish;
use super::{At, Compiler, Count, Resource};
use crate::shader::Recipe;
use gristmill_core::{Error, Result};
use gristmill_ir::{Gating, Op, Rows, Tensor, Value};

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
        let scores = self.products(&[*w], Rows::Tokens, scratch);
        // Which experts are chosen hangs on the last bits.
        let finish = Finish { exact: true, ..Finish::plain(bias.as_slice()) };
        self.project(at(*x), &[*w], finish, scores, scratch + scores.bytes, None)?;
        let added = match choice_bias {
            Some(b) => Resource::Held(self.weights.stacked(self.program, &[*b])?.0),
            None => Resource::None,
        };
        let params = vec![
            scores.width as u32,
            *k,
            scores.stride() as u32,
            out.stride() as u32,
            match gating {
                Gating::Softmax => 0,
                Gating::SoftmaxChosen => 1,
                Gating::Sigmoid => 2,
            },
            u32::from(choice_bias.is_some()),
            u32::from(*renormalise),
            scale.to_bits(),
        ];
        let resources = [
            (1, Resource::Ints),
            (2, Resource::Part(scores.offset, scores.bytes)),
            (3, Resource::Part(out.offset, out.bytes)),
            (4, added),
        ];
        let grid = [Count::Rows(Rows::Tokens, 64), Count::Fixed(1), Count::Fixed(1)];
        self.call(&Recipe::new("route"), &resources, params, grid)
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
