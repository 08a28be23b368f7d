//! Batches that make no sense: each is refused with an error, nothing panics, and the next good
//! step gives what it would have given.

use crate::cases::denoise;
use crate::device::{Arrays, Device, Room};
use crate::model::{Decoder, Recurrent, encoder};
use crate::random::Random;
use crate::sampling::{GREEDY, Oracle, one_each};
use crate::weights::Weights;
use crate::work::{Part, Work};
use gristmill_core::{DType, Result};
use gristmill_ir::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

type Spoil = fn(&mut Arrays);

/// What is wrong with a batch of two sequences, of 9 and 40 tokens, in pages of 32.
const BATCHES: [(&str, Spoil); 45] = [
    ("a page that does not exist", |a| a.pages[0] = 24),
    ("a page far out", |a| a.pages[1] = u32::MAX - 1),
    ("a page given back", |a| a.pages[2] = u32::MAX),
    ("a page table too short", |a| {
        a.pages.truncate(2);
        a.page_starts[2] = 2;
    }),
    ("an empty page table", |a| a.page_starts[1] = 0),
    ("no pages", |a| {
        a.pages.clear();
        a.page_starts.fill(0);
    }),
    ("page starts that end early", |a| a.page_starts[2] = 2),
    ("page starts beyond the end", |a| a.page_starts[2] = 9),
    ("page starts that go back", |a| a.page_starts[0] = 3),
    ("a page start far out", |a| a.page_starts[1] = u32::MAX),
    ("too few page starts", |a| a.page_starts.truncate(2)),
    ("no page starts", |a| a.page_starts.clear()),
    ("a key beyond the length", |a| a.kv_index[3] = 9),
    ("a key far out", |a| a.kv_index[20] = u32::MAX),
    ("a key beyond the pages", |a| {
        a.kv_index[8] = 32;
        a.kv_len[0] = 33;
    }),
    ("keys seen beyond the pages", |a| {
        a.visible[8] = [0, 33];
        a.kv_len[0] = 33;
    }),
    ("keys seen beyond the length", |a| a.visible[8] = [0, 10]),
    ("keys seen far out", |a| {
        a.visible[8] = [0, u32::MAX];
        a.kv_len[0] = u32::MAX;
    }),
    ("a range that ends before it begins", |a| a.visible[4] = [3, 2]),
    ("an empty range", |a| a.visible[4] = [3, 3]),
    ("a length of nothing", |a| a.kv_len[1] = 0),
    ("too few lengths", |a| a.kv_len.truncate(1)),
    ("too many lengths", |a| a.kv_len.push(1)),
    ("starts that do not start", |a| a.seq_starts[0] = 1),
    ("starts that end early", |a| a.seq_starts[2] = 48),
    ("starts that end late", |a| a.seq_starts[2] = 50),
    ("starts that go back", |a| a.seq_starts[1] = 60),
    ("an empty sequence", |a| a.seq_starts[1] = 0),
    ("no starts", |a| a.seq_starts.clear()),
    ("one start", |a| a.seq_starts.truncate(1)),
    ("no tokens", |a| a.tokens.clear()),
    ("an id at the end of the vocabulary", |a| a.tokens[5] = Token::Id(131)),
    ("an id far out", |a| a.tokens[48] = Token::Id(u32::MAX)),
    ("the last token of a slot that never sampled", |a| a.tokens[0] = Token::Last(1)),
    ("the last token of a slot that does not exist", |a| a.tokens[0] = Token::Last(8)),
    ("too few positions", |a| a.positions.truncate(48)),
    ("too few indices", |a| a.kv_index.truncate(48)),
    ("too few ranges", |a| a.visible.truncate(1)),
    ("too few types", |a| a.types = vec![0; 3]),
    ("too few ancestors", |a| a.ancestors = vec![1; 3]),
    ("too few trees", |a| {
        a.ancestors = vec![1; 49];
        a.tree_base = vec![0];
    }),
    ("a row that is no token", |a| a.rows[1] = 49),
    ("a row far out", |a| a.rows[0] = u32::MAX),
    ("more rows than the plan holds", |a| a.rows = vec![0; 65]),
    ("more tokens than there are entries for", |a| a.tokens.push(Token::Id(0))),
];

/// Moves that name what does not exist.
const MOVES: [(&str, Move); 9] = [
    ("a page from nowhere", Move::Page { group: 0, from: 24, to: 0 }),
    ("a page to nowhere", Move::Page { group: 0, from: 0, to: 24 }),
    ("a page far out", Move::Page { group: 0, from: 0, to: u32::MAX }),
    ("a page of no group", Move::Page { group: 1, from: 0, to: 1 }),
    ("a row from nowhere", Move::Row { group: 0, from: 24 * 32, to: 0 }),
    ("a row to nowhere", Move::Row { group: 0, from: 0, to: u32::MAX }),
    ("a row of no group", Move::Row { group: 255, from: 0, to: 1 }),
    ("a slot from nowhere", Move::Slot { from: 8, to: 0 }),
    ("a slot to nowhere", Move::Slot { from: 0, to: u32::MAX }),
];

/// Whether something is an error and not a panic.
fn refuses<T>(name: &str, run: impl FnOnce() -> Result<T>) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Err(_)) => None,
        Ok(Ok(_)) => Some(format!("{name}: was accepted")),
        Err(_) => Some(format!("{name}: panicked")),
    }
}

/// Runs every check; gives how many there were.
///
/// # Errors
/// Everything that was accepted or panicked.
pub fn check<B: Backend>(backend: &B) -> Result<usize, Vec<String>> {
    let mut failures = vec![];
    let mut tried = 0;
    for part in [launches, states, times, samples, tables] {
        match part(backend, &mut failures) {
            Ok(n) => tried += n,
            Err(e) => failures.push(e.to_string()),
        }
    }
    if failures.is_empty() { Ok(tried) } else { Err(failures) }
}

fn launches<B: Backend>(backend: &B, failures: &mut Vec<String>) -> Result<usize> {
    let model = Decoder { width: 64, ffn: 96, ..Decoder::default() };
    let (mut d, work, good) = two_sequences(backend, &model.record()?, model.vocab)?;
    let arrays = d.arrays(&work)?;
    launch_spoiled(&mut d, &arrays, &BATCHES, failures);
    let with_move = |(name, m)| (name, Arrays { moves: vec![m], ..arrays.clone() });
    let mut bad: Vec<(&str, Arrays)> = MOVES.map(with_move).into();
    let part = |seq, n| Part::causal(seq, 0, vec![1; n]);
    let many = Work::of((0..5).map(|seq| part(seq, 2)).collect());
    bad.push(("more sequences than the plan holds", d.arrays(&many)?));
    let long = Work::of(vec![part(2, 65)]);
    bad.push(("more tokens than the plan holds", d.arrays(&long)?));
    for (name, a) in &bad {
        let run = || backend.launch(&d.plan, &mut d.context, &a.batch());
        failures.extend(refuses(name, run));
    }
    // After a refusal there is nothing to read, whatever its sizes were.
    let step = d.launch(&work)?;
    failures.extend(refuses("a launch to be refused", || d.launch(&long)));
    let _ = d.read(step, Output::Logits);
    let step = d.launch(&work)?;
    let again = d.read(step, Output::Logits)?;
    d.finish(step)?;
    if again != good[0] {
        failures.push("a good step gives something else after bad ones".into());
    }
    failures.extend(refuses("a step never launched", || d.finish(Step(step.0 + 5))));
    failures.extend(refuses("an output that is not there", || d.read(step, Output::Pooled)));
    let swap = |m: Move| [m];
    let beyond = Move::Page { group: 0, from: 24, to: 0 };
    failures.extend(refuses("saving no page", || backend.save(&mut d.context, &swap(beyond))));
    let beyond = Move::Page { group: 0, from: 0, to: 99 };
    failures.extend(refuses("saving nowhere", || backend.save(&mut d.context, &swap(beyond))));
    failures.extend(refuses("restoring to no page", || d.restore(&swap(beyond))));
    scattered(backend, failures)?;
    Ok(BATCHES.len() + bad.len() + 7)
}

/// A program on the backend, a step of two sequences, of 9 and 40 tokens, and its logits.
fn two_sequences<'b, B: Backend>(
    backend: &'b B,
    program: &Program,
    vocab: u32,
) -> Result<(Device<'b, B>, Work, Vec<Vec<f32>>)> {
    let weights = Weights::random(program, 1, |_| DType::F32);
    let mut d = Device::new(backend, program, &weights, &Options::default(), &Room::of(64, 4))?;
    let mut random = Random::new(2);
    let mut part = |seq, n| Part::causal(seq, 0, random.ids(n, vocab));
    let work = Work::of(vec![part(0, 9), part(1, 40)]);
    let good = d.run(&work, &[Output::Logits])?;
    Ok((d, work, good))
}

/// Launches a good batch spoiled in each of these ways.
fn launch_spoiled<B: Backend>(
    d: &mut Device<'_, B>,
    good: &Arrays,
    ways: &[(&str, Spoil)],
    failures: &mut Vec<String>,
) {
    for (name, spoil) in ways {
        let mut a = good.clone();
        spoil(&mut a);
        let run = || d.backend.launch(&d.plan, &mut d.context, &a.batch());
        failures.extend(refuses(name, run));
    }
}

/// What is wrong with the slots of two sequences, of eight slots.
const STATES: [(&str, Spoil); 10] = [
    ("no slots to read", |a| a.state_in.clear()),
    ("no slots to write", |a| a.state_out.clear()),
    ("too few slots to read", |a| a.state_in.truncate(1)),
    ("too many slots to write", |a| a.state_out.push(3)),
    ("a slot to read that does not exist", |a| a.state_in[1] = 8),
    ("a slot to write that does not exist", |a| a.state_out[0] = 8),
    ("a slot to write far out", |a| a.state_out[1] = u32::MAX),
    ("two that write one slot", |a| a.state_out[1] = a.state_out[0]),
    ("one that reads what the other writes", |a| a.state_in[1] = a.state_out[0]),
    ("the other way round", |a| a.state_in[0] = a.state_out[1]),
];

/// Slots of recurrent states.
fn states<B: Backend>(backend: &B, failures: &mut Vec<String>) -> Result<usize> {
    let model = Recurrent::default();
    let (mut d, work, good) = two_sequences(backend, &model.record()?, model.vocab)?;
    let arrays = d.arrays(&work)?;
    launch_spoiled(&mut d, &arrays, &STATES, failures);
    if d.run(&work, &[Output::Logits])? != good {
        failures.push("a good step gives something else after bad slots".into());
    }
    let far = Move::Slot { from: 8, to: 0 };
    failures.extend(refuses("saving no slot", || backend.save(&mut d.context, &[far])));
    let far = Move::Slot { from: 0, to: 1 };
    failures.extend(refuses("saving a slot nowhere", || backend.save(&mut d.context, &[far])));
    let far = Move::Slot { from: 0, to: 8 };
    failures.extend(refuses("restoring no slot", || d.restore(&[far])));
    Ok(STATES.len() + 3)
}

/// What is wrong with the times of two sequences, of 7 and 12 tokens.
const TIMES: [(&str, Spoil); 9] = [
    ("no times", |a| a.times.clear()),
    ("too few times", |a| a.times.truncate(1)),
    ("too many times", |a| a.times.push([3, 2])),
    ("a time that the schedule lacks", |a| a.times[0][0] = denoise::TIMES),
    ("a time far out", |a| a.times[1][0] = u32::MAX),
    ("a next time that the schedule lacks", |a| a.times[0][1] = denoise::TIMES),
    ("a step to more noise", |a| a.times[1] = [5, 9]),
    ("too few seeds", |a| a.seeds.truncate(1)),
    ("too many seeds", |a| a.seeds.push(1)),
];

/// Times of a diffusion; nothing where the backend has none.
fn times<B: Backend>(backend: &B, failures: &mut Vec<String>) -> Result<usize> {
    if !backend.capabilities().ops.contains(&"denoise") {
        return Ok(0);
    }
    let case = denoise::chain(8, false);
    let mut d = Device::new(backend, &case.program, &case.weights, &case.options, &case.room)?;
    let good = d.run(&case.works[0], &[Output::Hidden])?;
    let arrays = d.arrays(&case.works[0])?;
    launch_spoiled(&mut d, &arrays, &TIMES, failures);
    let mut long = case.works[0].clone();
    long.parts = vec![Part { times: Some([9, 5]), ..Part::causal(0, 0, vec![0; 41]) }];
    long.hidden = vec![0.0; 41 * 8];
    failures.extend(refuses("more rows than a slot holds", || d.launch(&long)));
    if d.run(&case.works[0], &[Output::Hidden])? != good {
        failures.push("a good step gives something else after bad times".into());
    }
    Ok(TIMES.len() + 1)
}

/// Two tokens far apart in one sequence of a windowed model, the pages between given back: they
/// are out of both windows, so nothing may read them.
fn scattered<B: Backend>(backend: &B, failures: &mut Vec<String>) -> Result<()> {
    let model = Decoder { width: 64, ffn: 96, windows: vec![Some(8)], ..Decoder::default() };
    let program = model.record()?;
    let weights = Weights::random(&program, 1, |_| DType::F32);
    let mut d = Device::new(backend, &program, &weights, &Options::default(), &Room::of(64, 4))?;
    let mut part = Part::causal(0, 0, vec![1; 8]);
    for t in 4..8 {
        part.kv_index[t] += 196;
        part.visible[t] = [193, part.kv_index[t] + 1];
    }
    // The keys 193 to 199 come from somewhere.
    let before = Part::causal(0, 193, vec![2; 7]);
    let mut whole = Part { visible: (193..200).map(|i| [193, i + 1]).collect(), ..before };
    whole.rows = vec![0];
    let step = Work::of(vec![whole]);
    let mut a = d.arrays(&step)?;
    let table = a.pages.len() as u32;
    // What left the window is needed again at the front.
    let front = d.free_pages(0)[0];
    a.pages[0] = front;
    a.pages[1..table as usize - 1].fill(u32::MAX);
    let step = backend.launch(&d.plan, &mut d.context, &a.batch())?;
    d.finish(step)?;
    part.rows = vec![3, 7];
    let starts = vec![0, 8];
    let b = Arrays {
        tokens: part.ids.iter().map(|&id| Token::Id(id)).collect(),
        positions: part.positions.clone(),
        kv_index: part.kv_index.clone(),
        visible: part.visible.clone(),
        kv_len: vec![204],
        rows: part.rows.clone(),
        seq_starts: starts,
        ..a.clone()
    };
    let run = || -> Result<Vec<f32>> {
        let step = backend.launch(&d.plan, &mut d.context, &b.batch())?;
        let logits = d.read(step, Output::Logits)?;
        d.finish(step)?;
        Ok(logits)
    };
    // A backend may refuse it; if not, it must be right, which finite results show here.
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(logits)) if logits.iter().any(|v| !v.is_finite()) => {
            failures.push("pages given back were read".into());
        }
        Ok(_) => {}
        Err(_) => failures.push("scattered tokens: panicked".into()),
    }
    Ok(())
}

fn samples<B: Backend>(backend: &B, failures: &mut Vec<String>) -> Result<usize> {
    let oracle = Oracle::new(70);
    let mut d = oracle.device(backend, 4)?;
    let params = [GREEDY; 2];
    let good = SampleBatch { params: &params, ..SampleBatch::default() };
    let with = |p: Sampling| [GREEDY, p];
    let penalty = Penalty { row: 0, token: 0, repeat: 1.0, subtract: 0.0 };
    let penalties = [
        ("a penalty for no row", [penalty, Penalty { row: 2, ..penalty }]),
        ("a penalty for no token", [penalty, Penalty { token: 70, ..penalty }]),
        ("a logit divided by 0", [penalty, Penalty { repeat: 0.0, ..penalty }]),
        ("a logit divided by no number", [penalty, Penalty { repeat: f32::NAN, ..penalty }]),
        ("a penalty that is no number", [penalty, Penalty { subtract: f32::NAN, ..penalty }]),
        ("penalties in no order", [Penalty { row: 1, ..penalty }, penalty]),
    ];
    let bad = [
        with(Sampling { top_n_sigma: -1.0, ..GREEDY }),
        with(Sampling { top_n_sigma: f32::INFINITY, ..GREEDY }),
        with(Sampling { typical_p: 0.0, ..GREEDY }),
        with(Sampling { typical_p: f32::NAN, ..GREEDY }),
        with(Sampling { top_p: 0.0, ..GREEDY }),
        with(Sampling { xtc_probability: 1.01, ..GREEDY }),
        with(Sampling { xtc_threshold: f32::NAN, ..GREEDY }),
        with(Sampling { mu: f32::NAN, ..GREEDY }),
        with(Sampling { temperature: f32::NAN, ..GREEDY }),
        with(Sampling { temperature: -1.0, ..GREEDY }),
        with(Sampling { temperature: f32::INFINITY, ..GREEDY }),
        with(Sampling { top_p: 1.5, ..GREEDY }),
        with(Sampling { top_p: f32::NAN, ..GREEDY }),
        with(Sampling { min_p: -0.5, ..GREEDY }),
    ];
    let mut batches: Vec<(&str, SampleBatch<'_>)> =
        bad.iter().map(|p| ("bad parameters", SampleBatch { params: p, ..good })).collect();
    batches.extend(penalties.iter().map(|(n, p)| (*n, SampleBatch { penalties: p, ..good })));
    let allow = [u32::MAX; 3];
    let none = [0u32; 3];
    batches.extend([
        ("too few parameters", SampleBatch { params: &params[..1], ..good }),
        ("no parameters", SampleBatch { params: &[], ..good }),
        ("too few slots", SampleBatch { slots: &[0], ..good }),
        ("a slot that does not exist", SampleBatch { slots: &[0, 8], ..good }),
        ("a mask that does not exist", SampleBatch { allow: &allow, allow_row: &[0, 1], ..good }),
        ("a mask cut short", SampleBatch { allow: &allow[..2], allow_row: &[0, 0], ..good }),
        ("too few masks", SampleBatch { allow: &allow, allow_row: &[0], ..good }),
        ("a mask that allows nothing", SampleBatch { allow: &none, allow_row: &[0, -1], ..good }),
        ("a bias for no row", SampleBatch { bias: &[(2, 0, 1.0)], ..good }),
        ("a bias for no token", SampleBatch { bias: &[(0, 70, 1.0)], ..good }),
        ("a bias that is no number", SampleBatch { bias: &[(0, 7, f32::NAN)], ..good }),
        ("a bias without end", SampleBatch { bias: &[(0, 7, f32::INFINITY)], ..good }),
        ("guidance of no row", SampleBatch { combine: &[(2, 0, 1.0)], ..good }),
        ("guidance from no row", SampleBatch { combine: &[(0, 2, 1.0)], ..good }),
        ("wanted of no row", SampleBatch { want: &[(2, 0)], ..good }),
        ("wanted of no token", SampleBatch { want: &[(0, 70)], ..good }),
    ]);
    let tokens = [Token::Id(3), Token::Id(4)];
    let a = one_each(&mut d, &tokens)?;
    for (name, b) in &batches {
        let step = backend.launch(&d.plan, &mut d.context, &a.batch())?;
        failures.extend(refuses(name, || backend.sample(&mut d.context, step, b)));
    }
    let step = backend.launch(&d.plan, &mut d.context, &a.batch())?;
    let next = Step(step.0 + 1);
    failures.extend(refuses("a later step", || backend.sample(&mut d.context, next, &good)));
    backend.sample(&mut d.context, step, &good)?;
    let results = d.finish(step)?;
    if results.picked.len() != 2 {
        failures.push("a good sample fails after bad ones".into());
    }
    Ok(batches.len() + 1)
}

/// Positions and types beyond their tables, rows that were not written.
fn tables<B: Backend>(backend: &B, failures: &mut Vec<String>) -> Result<usize> {
    let program = encoder(99, 48, 48, 4)?;
    let weights = Weights::random(&program, 21, |_| DType::F32);
    let options = Options::default();
    let mut d = Device::new(backend, &program, &weights, &options, &Room::of(40, 4))?;
    let good = Work::of(vec![Part::bidirectional(0, vec![1; 5])]);
    let (mut far, mut kind, mut id) = (good.clone(), good.clone(), good.clone());
    far.parts[0].positions[4] = [48, 0, 0];
    kind.parts[0].types = vec![0, 0, 0, 0, 2];
    id.parts[0].ids[0] = 99;
    let few = Work { hidden: vec![0.0; 10], ..good.clone() };
    for (name, work) in
        [("a position off the table", far), ("a type off the table", kind), ("an id", id)]
    {
        failures.extend(refuses(name, || d.launch(&work)));
    }
    let mut program = Program::new("rows");
    let x = program.one("x", Op::Read { input: Input::Hidden, width: 3 })?;
    program.output(Output::Hidden, x);
    let none = Weights::default();
    let mut d = Device::new(backend, &program, &none, &options, &Room::of(40, 4))?;
    failures.extend(refuses("rows never written", || d.launch(&good)));
    failures.extend(refuses("rows of another number", || d.launch(&few)));
    let step = d.launch(&Work { hidden: vec![0.5; 15], ..good })?;
    let params = [GREEDY];
    let b = SampleBatch { params: &params, ..SampleBatch::default() };
    failures.extend(refuses("no logits", || backend.sample(&mut d.context, step, &b)));
    d.finish(step)?;
    Ok(6)
}
