//! Liveness: which values can share memory.
//!
//! Values live from the operation that computes them to the last that reads them; results live to
//! the end. Offsets are given first-fit in order of execution, which is within a few percent of the
//! best for straight-line programs.

use crate::Value;
use crate::program::{Node, Program};

/// Where values and scratch lie in one workspace. All offsets and sizes are bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arena {
    /// Offset of each value.
    pub values: Vec<usize>,
    /// Offset of each node's scratch.
    pub scratch: Vec<usize>,
    /// Size of the workspace.
    pub total: usize,
}

/// Offsets are multiples of this: a cache line, and the alignment of GPU bindings divides it into
/// whole vectors.
pub const ALIGN: usize = 64;

/// Free and taken stretches of the workspace, by first fit.
#[derive(Default)]
struct Space {
    /// Taken `(offset, end, value or none for scratch)`, sorted by offset.
    taken: Vec<(usize, usize, Option<Value>)>,
    total: usize,
}

impl Space {
    fn take(&mut self, bytes: usize, value: Option<Value>) -> usize {
        let bytes = bytes.next_multiple_of(ALIGN).max(ALIGN);
        let mut offset = 0;
        let mut at = self.taken.len();
        for (i, &(start, end, _)) in self.taken.iter().enumerate() {
            if start >= offset + bytes {
                at = i;
                break;
            }
            offset = end;
        }
        self.taken.insert(at, (offset, offset + bytes, value));
        self.total = self.total.max(offset + bytes);
        offset
    }
}

impl Arena {
    /// Lays out `program`, where a value takes `bytes(value)` and a node needs `scratch(node)`
    /// more while it runs.
    pub fn plan(
        program: &Program,
        bytes: impl Fn(Value) -> usize,
        scratch: impl Fn(&Node) -> usize,
    ) -> Arena {
        let mut last = vec![0; program.values.len()];
        for (i, n) in program.nodes.iter().enumerate() {
            for v in Program::inputs(&n.op).iter().chain(&n.outputs) {
                last[v.index()] = i;
            }
        }
        for (_, v) in &program.outputs {
            last[v.index()] = usize::MAX;
        }
        let mut space = Space::default();
        let mut arena = Arena { values: vec![0; last.len()], scratch: vec![], total: 0 };
        for (i, n) in program.nodes.iter().enumerate() {
            for &v in &n.outputs {
                arena.values[v.index()] = space.take(bytes(v), Some(v));
            }
            arena.scratch.push(space.take(scratch(n), None));
            space.taken.retain(|t| t.2.is_some_and(|v| last[v.index()] > i));
        }
        arena.total = space.total;
        arena
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Act, Op, Output};

    #[test]
    fn live_values_never_overlap() {
        let mut p = Program::new("chain");
        let table = p.tensor("t", 4, 16);
        let w = p.tensor("w", 16, 16);
        let mut x =
            p.one("e", Op::Embed { table, scale: 1.0, positions: None, types: None }).unwrap();
        let kept = x;
        for i in 0..5 {
            let op = Op::Linear { x, w, bias: None, act: Act::None, scale: 1.0, softcap: None };
            x = p.one(format!("l{i}"), op).unwrap();
        }
        x = p.one("sum", Op::Add { x, y: kept, gate: None }).unwrap();
        p.output(Output::Hidden, x);
        let size = 100;
        let a = Arena::plan(&p, |_| size, |_| 10);
        // A chain needs its own two values, the kept one and the scratch.
        assert_eq!(a.total, 3 * 128 + 64);
        let far = |a: usize, b: usize| a.abs_diff(b) >= size;
        for n in &p.nodes {
            for v in Program::inputs(&n.op) {
                assert!(far(a.values[v.index()], a.values[n.outputs[0].index()]), "{}", n.name);
            }
        }
        assert!(a.values[1..6].iter().all(|&v| far(v, a.values[kept.index()])));
    }
}
