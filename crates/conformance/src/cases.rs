//! The cases: each a small program, random weights, and the steps to run.
//!
//! Sizes are chosen to leave tails everywhere: widths that are no multiple of any register, rows
//! that fill no group, tokens that fill no tile. Every case is a few steps on one plan, whose
//! bounds most of them do not reach.

mod attention;
pub mod denoise;
mod experts;
mod matrix;
pub mod recurrent;
mod rows;
mod whole;

use crate::device::Room;
use crate::random::Random;
use crate::weights::Weights;
use crate::work::{Part, Work};
use gristmill_core::{DType, quant};
use gristmill_ir::*;

/// Largest error of a case in f32, relative to the largest number expected.
pub const F32: f64 = 1e-5;
/// The same where activations are int8, after their rounding, which the reference does too.
pub const INT8: f64 = 1e-4;

/// A program with steps to run.
#[derive(Clone)]
pub struct Case {
    /// Unique.
    pub name: String,
    /// What runs.
    pub program: Program,
    /// On these weights.
    pub weights: Weights,
    /// Precisions.
    pub options: Options,
    /// In a context of this size.
    pub room: Room,
    /// One after the other.
    pub works: Vec<Work>,
    /// The seed of rows that the host writes, until [`Case::write_rows`] has made them: of a suite
    /// only a part may run.
    pub rows: Option<u64>,
    /// Largest error, see [`crate::check::distance`].
    pub tolerance: f64,
}

impl Case {
    /// Makes the rows to read, where that is still to be done.
    pub fn write_rows(&mut self) {
        let (Some(seed), Op::Read { width, .. }) = (self.rows.take(), &self.program.nodes[0].op)
        else {
            return;
        };
        let mut random = Random::new(seed);
        for work in &mut self.works {
            work.hidden = random.rows_off_ties(work.tokens().count() * *width as usize);
        }
    }
}

/// All cases.
pub fn all() -> Vec<Case> {
    let cases = [
        rows::cases(),
        matrix::cases(),
        experts::cases(),
        attention::cases(),
        denoise::cases(),
        recurrent::cases(),
        whole::cases(),
    ];
    cases.into_iter().flatten().collect()
}

/// Weight formats.
const DENSE: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
const BLOCKS: [DType; 5] = [DType::Q8_0, DType::Q4_0, DType::Q4_K, DType::Q5_K, DType::Q6_K];

/// All other block formats.
fn further_blocks() -> impl Iterator<Item = DType> {
    let block = |d: &DType| d.block_len() > 1 && quant::is_supported(*d);
    DType::all().filter(block).filter(|d| !BLOCKS.contains(d))
}

/// Token counts of the steps of a case: tiles of every width, and their tails.
const TOKENS: [usize; 7] = [33, 1, 13, 2, 8, 3, 5];

fn options(activations: Activations) -> Options {
    Options { activations, ..Options::default() }
}

fn tolerance(activations: Activations) -> f64 {
    match activations {
        Activations::F32 => F32,
        Activations::Int8 => INT8,
    }
}

/// A program that begins with rows of `width` elements.
fn reading(name: &str, width: u32) -> (Program, Value) {
    let mut p = Program::new(name);
    let x = p.one("x", Op::Read { input: Input::Hidden, width });
    (p, x.expect("a read has no shapes to disagree"))
}

/// A norm with all that a norm can have.
fn norm(p: &mut Program, name: &str, kind: NormKind, width: u32) -> Norm {
    let layer = kind == NormKind::Layer;
    Norm {
        kind,
        weight: Some(p.vector(format!("norm.{name}"), width)),
        bias: layer.then(|| p.vector(format!("bias.{name}"), width)),
        eps: 1e-5,
        offset: if layer { 0.0 } else { 1.0 },
    }
}

/// Steps of each of [`TOKENS`] tokens in one or two sequences that begin anew.
fn reads() -> Vec<Work> {
    let step = |n: usize| {
        let first = n - n / 3;
        let mut parts = vec![Part::causal(0, 0, vec![0; first])];
        if n > first {
            parts.push(Part::causal(1, 0, vec![0; n - first]));
        }
        Work::of(parts)
    };
    TOKENS.map(step).into()
}

/// A case over rows that the host writes, on a plan that is larger than any step.
fn case_of(name: String, p: Program, a: Activations, dtype: impl Fn(&str) -> DType) -> Case {
    let seed = name.bytes().fold(7u64, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
    let weights = Weights::random(&p, seed, dtype);
    let (options, room, tolerance) = (options(a), Room::of(40, 4), tolerance(a));
    let (works, rows) = (reads(), Some(seed ^ 1));
    Case { name, program: p, weights, options, room, works, rows, tolerance }
}

/// The same in f32 with one result.
fn case_f32(name: String, mut p: Program, output: Output, v: Value) -> Case {
    p.output(output, v);
    case_of(name, p, Activations::F32, |_| DType::F32)
}
