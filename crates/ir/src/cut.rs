//! A program in two parts, at the residual between two layers: what crosses is one value, the sum
//! before the norm with which the second part begins.

use crate::op::{Input, Op, Ref, Value};
use crate::program::{Node, Output, Program, StateKind};
use gristmill_core::{Error, Result};

/// Both parts of a program. They number values, weights and states as the whole does; a state that a
/// part does not use takes no memory there.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts {
    /// Up to the cut: its [`Output::Hidden`] is what crosses.
    pub front: Program,
    /// From there on: it reads that as [`Input::Hidden`].
    pub back: Program,
    /// The value that crosses.
    pub crosses: Value,
}

impl Program {
    /// The names of the operations before which a program can be cut: those that add to the residual
    /// and norm it for a next layer, in order.
    pub fn cuts(&self) -> Vec<&str> {
        // The first of a layer norms for its attention, the second for its feed-forward part.
        let reads = |op: &Op, v: Value| Program::inputs(op).contains(&v);
        let feeds_qkv = |n: &Node| {
            let [_, normed] = n.outputs[..] else { return false };
            self.nodes.iter().any(|m| matches!(m.op, Op::Qkv { .. }) && reads(&m.op, normed))
        };
        let cut = self.nodes.iter().filter(|n| matches!(n.op, Op::AddNorm { .. }) && feeds_qkv(n));
        cut.map(|n| n.name.as_str()).collect()
    }

    /// The program in two at the operation of this name, one of [`Program::cuts`].
    ///
    /// # Errors
    /// [`Error::Usage`] where more than the residual would have to cross.
    pub fn cut(&self, name: &str) -> Result<Parts> {
        let bad =
            |what: &str| Error::Usage(format!("the program cannot be cut at `{name}`: {what}"));
        let at = self.nodes.iter().position(|n| n.name == name);
        let at = at.ok_or_else(|| bad("there is no such operation"))?;
        let Op::AddNorm { norm, .. } = &self.nodes[at].op else {
            return Err(bad("it adds nothing to a residual"));
        };
        let [x, normed] = self.nodes[at].outputs[..] else {
            return Err(bad("it gives no sum and its norm"));
        };
        let mut front = self.stop_after(name)?;
        front.outputs = vec![(Output::Hidden, x)];
        let made = |v: Value| front.nodes.iter().any(|n| n.outputs.contains(&v));
        front.outputs.extend(self.outputs.iter().filter(|o| made(o.1) && o.0 != Output::Hidden));

        let mut back = self.clone();
        let width = self.shape(x).width;
        let read = Op::Read { input: Input::Hidden, width };
        let norm = Op::Norm { x, norm: norm.clone() };
        let begin = [(format!("{name}.read"), read, x), (name.to_owned(), norm, normed)];
        let begin = begin.map(|(name, op, v)| Node { name, op, outputs: vec![v] });
        drop(back.nodes.splice(..=at, begin));
        let there = |v: Value| back.nodes.iter().any(|n| n.outputs.contains(&v));
        let crossing = back.nodes.iter().flat_map(|n| Program::inputs(&n.op)).find(|&v| !there(v));
        if crossing.is_some() {
            return Err(bad("later layers read more of earlier ones than the residual"));
        }
        back.outputs.retain(|o| there(o.1) && o.1 != x && o.1 != normed);
        for part in [&mut front, &mut back] {
            part.forget_unused_states();
        }
        Ok(Parts { front, back, crosses: x })
    }

    fn forget_unused_states(&mut self) {
        let mut used = vec![false; self.states.len()];
        for n in &self.nodes {
            n.op.visit(&mut |r| {
                if let Ref::State(s) = r {
                    used[s.index()] = true;
                }
            });
        }
        for (state, _) in self.states.iter_mut().zip(used).filter(|s| !s.1) {
            match state {
                StateKind::Paged { k, v, .. } => (*k, *v) = (0, 0),
                StateKind::Slot { elems, .. } => *elems = 0,
            }
        }
    }
}
