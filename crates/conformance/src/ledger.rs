//! "Only integers cross": the ledger grows by a formula for each class, and by nothing else.

use crate::device::{Arrays, Device, Room};
use crate::model::Decoder;
use crate::random::Random;
use crate::sampling::GREEDY;
use crate::weights::Weights;
use crate::work::{Edit, Part, Work};
use gristmill_core::{DType, Result};
use gristmill_ir::*;

/// What a launch sends up: four bytes for each integer, a move being three.
fn ids(a: &Arrays) -> u64 {
    let tokens = a.tokens.len() + 3 * a.positions.len() + a.kv_index.len() + 2 * a.visible.len();
    let optional = a.types.len() + 2 * a.ancestors.len() + a.tree_base.len() + 3 * a.moves.len();
    let states = a.state_in.len() + a.state_out.len();
    let seqs = a.seq_starts.len() + a.kv_len.len() + a.slots.len() + states;
    let pages = a.pages.len() + a.page_starts.len();
    4 * (tokens + optional + seqs + pages + a.rows.len()) as u64
}

/// What sampling sends up: 56 bytes of parameters a row, and what is asked for.
fn control(b: &SampleBatch<'_>) -> u64 {
    let words = b.slots.len() + b.allow.len() + b.allow_row.len();
    let triples = b.bias.len() + b.combine.len();
    let pairs = b.want.len() + 2 * b.penalties.len();
    (56 * b.params.len() + 4 * words + 12 * triples + 8 * pairs) as u64
}

/// What comes down: 12 bytes a row, 8 for each of the most likely, 4 for each wanted.
fn results(b: &SampleBatch<'_>) -> u64 {
    let rows = b.params.len();
    (12 * rows + 8 * rows * b.top_logprobs as usize + 4 * b.want.len()) as u64
}

/// Runs a sequence of steps and compares after each call.
///
/// # Errors
/// The class that is wrong, or what the backend says.
pub fn check<B: Backend>(backend: &B) -> Result<(), String> {
    let dense = Decoder { width: 64, ffn: 96, ..Decoder::default() };
    let mixture = Decoder { ffn: 32, experts: Some([5, 2]), ..dense.clone() };
    for model in [dense, mixture] {
        decoding(backend, &model).map_err(|e| e.to_string())??;
    }
    reading(backend).map_err(|e| e.to_string())?
}

fn decoding<B: Backend>(backend: &B, model: &Decoder) -> Result<Result<(), String>> {
    let program = model.record()?;
    let weights = Weights::random(&program, 1, |_| DType::F32);
    let room = Room::of(40, 4);
    let mut d = Device::new(backend, &program, &weights, &Options::default(), &room)?;
    let mut random = Random::new(2);
    let mut part = |seq, from, n| Part::causal(seq, from, random.ids(n, model.vocab));
    let mut works = vec![
        Work::of(vec![part(0, 0, 30), part(1, 0, 5)]),
        Work::of(vec![part(0, 30, 1), part(1, 5, 1), part(2, 5, 3)]),
        Work::of(vec![part(2, 8, 1)]),
    ];
    works[1].edits = vec![Edit::Fork { from: 1, to: 2 }];
    let trunk = [None, Some(0), None];
    works.push(Work::of(vec![Part::tree(0, 31, vec![1, 2, 3], &trunk)]));
    works[0].parts[0].types = vec![0; 30];
    works[0].parts[1].types = vec![1; 5];

    // What creating and filling the pages cost is not of the steps.
    let mut expected = backend.ledger(&d.context);
    for (i, work) in works.iter().enumerate() {
        let arrays = d.arrays(work)?;
        let step = backend.launch(&d.plan, &mut d.context, &arrays.batch())?;
        expected.ids += ids(&arrays);
        let compare = |d: &Device<'_, B>, expected: &Ledger, call: &str| {
            let got = backend.ledger(&d.context);
            if got == *expected {
                return Ok(());
            }
            Err(format!("step {i}, after {call}: {got:?}, not {expected:?}"))
        };
        if let Err(e) = compare(&d, &expected, "launch") {
            return Ok(Err(e));
        }
        let rows = arrays.rows.len();
        let params = vec![Sampling { temperature: 0.5, ..GREEDY }; rows];
        let slots: Vec<u32> = (0..rows as u32).collect();
        let mask = vec![u32::MAX; model.vocab.div_ceil(32) as usize];
        let masks = vec![0; rows];
        let plain = SampleBatch { params: &params, slots: &slots, ..SampleBatch::default() };
        let batch = match i {
            0 | 3 => plain,
            _ => SampleBatch {
                allow: &mask,
                allow_row: &masks,
                bias: &[(0, 3, 1.0), (0, 4, -1.0)],
                penalties: &[Penalty { row: 0, token: 5, repeat: 1.1, subtract: 0.5 }],
                combine: &[(0, 0, 0.5)],
                want: &[(0, 7), (0, 8), (0, 9)],
                top_logprobs: 4,
                ..plain
            },
        };
        backend.sample(&mut d.context, step, &batch)?;
        expected.control += control(&batch);
        if let Err(e) = compare(&d, &expected, "sample") {
            return Ok(Err(e));
        }
        d.finish(step)?;
        expected.results += results(&batch);
        if let Err(e) = compare(&d, &expected, "finish") {
            return Ok(Err(e));
        }
    }
    Ok(Ok(()))
}

/// Rows up, vectors down, and nothing for a step of which nothing is sampled.
fn reading<B: Backend>(backend: &B) -> Result<Result<(), String>> {
    let mut program = Program::new("vectors");
    let x = program.one("x", Op::Read { input: Input::Hidden, width: 24 })?;
    let y = program.one("y", Op::Pool { x, how: Pooling::Mean })?;
    program.output(Output::Pooled, y);
    program.output(Output::Hidden, x);
    let weights = Weights::default();
    let mut d = Device::new(backend, &program, &weights, &Options::default(), &Room::of(40, 4))?;
    let parts = vec![Part::causal(0, 0, vec![0; 7]), Part::causal(1, 0, vec![0; 4])];
    let work = Work { hidden: vec![1.0; 11 * 24], ..Work::of(parts) };
    let mut expected = backend.ledger(&d.context);
    expected.ids += ids(&d.arrays(&work)?);
    expected.boundary += 4 * 11 * 24;
    let step = d.launch(&work)?;
    d.read(step, Output::Pooled)?;
    expected.vectors += 4 * 2 * 24;
    d.finish(step)?;
    let got = backend.ledger(&d.context);
    Ok(if got == expected { Ok(()) } else { Err(format!("vectors: {got:?}, not {expected:?}")) })
}
