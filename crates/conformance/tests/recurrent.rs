//! Recurrent models on the CPU: the form for many tokens against the recurrence and both against
//! f64, states that leave the engine and come back, turns that run only what is new.

use gristmill_conformance::cases::recurrent::record_wkv7;
use gristmill_conformance::device::{Device, Room};
use gristmill_conformance::model::Recurrent;
use gristmill_conformance::random::Random;
use gristmill_conformance::reference::Reference;
use gristmill_conformance::weights::Weights;
use gristmill_conformance::work::{Part, Work};
use gristmill_core::DType;
use gristmill_cpu::{Cpu, CpuOptions, Isa};
use gristmill_engine::{Engine, EngineOptions, Parent, Request, SequenceId};
use gristmill_ir::*;

fn cpu(isa: Isa) -> Cpu {
    Cpu::new(CpuOptions { isa, threads: 2, poison: true }).unwrap()
}

/// 4,096 random tokens of a head of 64, in steps of 512: chunks and the recurrence are within 1e-4
/// of each other and of f64.
#[test]
fn chunks_are_the_recurrence() {
    let (heads, dim, tokens, step) = (2, 64, 4096u32, 512u32);
    let width = heads * dim;
    let mut p = Program::new("chunks");
    let x = p.one("x", Op::Read { input: Input::Hidden, width }).unwrap();
    let y = record_wkv7(&mut p, x, heads);
    p.output(Output::Hidden, y);
    let weights = Weights::random(&p, 1, |_| DType::F32);
    let mut random = Random::new(2);
    let work = |from: u32| Work {
        parts: vec![Part::causal(0, from, vec![0; step as usize])],
        hidden: random.normals((step * width) as usize),
        ..Work::default()
    };
    let works: Vec<Work> = (0..tokens).step_by(step as usize).map(work).collect();
    let mut reference = Reference::new(&p, &weights, Activations::F32).unwrap();
    let expected: Vec<f64> = works.iter().flat_map(|w| reference.outputs(w).remove(0).1).collect();
    let scale = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    for isa in Isa::available() {
        let device = cpu(isa);
        let room = Room::of(step, 1);
        let run = |batch_invariant: bool| -> Vec<f32> {
            let options =
                Options { batch_invariant, activations: Activations::F32, ..Options::default() };
            let mut d = Device::new(&device, &p, &weights, &options, &room).unwrap();
            works.iter().flat_map(|w| d.run(w, &[Output::Hidden]).unwrap().remove(0)).collect()
        };
        let (one, chunks) = (run(true), run(false));
        let far = |a: &[f32]| {
            let far = a.iter().zip(&expected).map(|(a, e)| (f64::from(*a) - e).abs());
            far.fold(0.0, f64::max)
        };
        let apart = one.iter().zip(&chunks).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!(
            "{isa}: the recurrence is {:.1e} from f64, chunks {:.1e}, each other {apart:.1e}, of \
             numbers up to {scale:.1}",
            far(&one),
            far(&chunks)
        );
        let differs = one != chunks;
        // The naive and scalar sets have narrow registers too: every head of 64 is whole tiles.
        assert!(differs, "{isa}: chunks were not used");
        assert!(f64::from(apart) < 1e-4 * scale.max(1.0), "{isa}: {apart}");
        assert!(far(&one).max(far(&chunks)) < 1e-4 * scale.max(1.0), "{isa}");
    }
}

fn engine(model: &Recurrent, dtype: DType, kept_slots: u32) -> Engine<Cpu> {
    let program = model.record().unwrap();
    let weights = Weights::random(&program, 5, |_| dtype);
    let options = EngineOptions { max_seqs: 2, kept_slots, ..EngineOptions::default() };
    let mut load = |d: &TensorDecl| weights.tensor(d);
    Engine::new(cpu(Isa::best()), program, &mut load, options).unwrap()
}

/// Runs a request to its end; gives the tokens chosen and the tokens run.
fn answer(engine: &mut Engine<Cpu>, request: Request) -> (SequenceId, Vec<u32>, u64) {
    let before = engine.snapshot().tokens;
    let id = engine.submit(request).unwrap();
    let events = engine.run_to_end().unwrap();
    let ids = events.iter().filter(|e| e.id == id).filter_map(|e| e.token).collect();
    (SequenceId(id.0), ids, engine.snapshot().tokens - before)
}

/// A conversation of turns runs only what is new, and gives what one long prompt gives; so it does
/// when its state went out of one engine and into another.
#[test]
fn turns_and_states() {
    let model = Recurrent::default();
    for dtype in [DType::F32, DType::Q8_0] {
        let mut first = engine(&model, dtype, 4);
        let mut random = Random::new(6);
        let mut text: Vec<u32> = vec![];
        let mut parent: Option<SequenceId> = None;
        for turn in 0..4 {
            let new = random.ids(20 + 7 * turn, model.vocab);
            text.extend(&new);
            let mut alone = engine(&model, dtype, 1);
            let (_, expected, _) = answer(&mut alone, Request::new(text.clone(), 9));
            let mut request = Request::new(new.clone(), 9);
            request.keep = true;
            request.parent = parent.map(|sequence| Parent { sequence, len: None });

            // The same turn in an engine that takes the state over.
            if let Some(sequence) = parent {
                let saved = first.state(sequence).unwrap();
                assert_eq!(saved.computed as usize, saved.tokens.len() - 1);
                let mut second = engine(&model, dtype, 1);
                let sequence = second.adopt(&saved).unwrap();
                assert_eq!(second.state(sequence).unwrap(), saved, "out again as it came");
                let parent = Some(Parent { sequence, len: None });
                let request = Request { parent, ..request.clone() };
                let (_, got, run) = answer(&mut second, request);
                assert_eq!(got, expected, "{dtype}: turn {turn} after a state");
                assert_eq!(run as usize, 1 + new.len() + 8);
            }
            let (kept, got, run) = answer(&mut first, request);
            assert_eq!(got, expected, "{dtype}: turn {turn}");
            // The last token of the answer before, the new ones, and all of this answer but one.
            let last = usize::from(parent.is_some());
            assert_eq!(run as usize, last + new.len() + 8, "{dtype}: turn {turn}");
            text.extend(&got);
            parent = Some(kept);
        }
    }
}

/// Many kept sequences in few slots: those that lost theirs are computed again, with the same
/// results.
#[test]
fn slots_that_were_taken_back() {
    let model = Recurrent::default();
    let mut engine = engine(&model, DType::F32, 1);
    let mut random = Random::new(7);
    let mut kept = vec![];
    for _ in 0..6 {
        let mut request = Request::new(random.ids(12, model.vocab), 4);
        request.keep = true;
        let prompt = request.prompt.clone();
        let (id, ids, _) = answer(&mut engine, request);
        kept.push((id, [prompt, ids].concat()));
    }
    let (gone, _) = kept[0];
    assert!(engine.state(gone).is_err(), "its slot went to another");
    let new = random.ids(5, model.vocab);
    for (sequence, text) in kept {
        let mut alone = self::engine(&model, DType::F32, 1);
        let (_, expected, _) = answer(&mut alone, Request::new([&text[..], &new].concat(), 6));
        let mut request = Request::new(new.clone(), 6);
        request.parent = Some(Parent { sequence, len: None });
        assert_eq!(answer(&mut engine, request).1, expected);
    }
}

/// States that do not fit are refused, and change nothing.
#[test]
fn states_of_something_else() {
    let model = Recurrent::default();
    let mut engine = engine(&model, DType::F32, 2);
    let mut request = Request::new(vec![1, 2, 3], 2);
    request.keep = true;
    let (id, ..) = answer(&mut engine, request);
    let good = engine.state(id).unwrap();
    let used = engine.snapshot().slots.used;
    let with = |change: fn(&mut gristmill_engine::SavedState)| {
        let mut s = good.clone();
        change(&mut s);
        s
    };
    for bad in [
        with(|s| s.bytes.truncate(8)),
        with(|s| s.bytes.clear()),
        with(|s| s.computed = 0),
        with(|s| s.computed = 6),
        with(|s| s.tokens[1] = 131),
        with(|s| s.tokens.clear()),
        with(|s| s.tokens = vec![1; 5000]),
    ] {
        assert!(engine.adopt(&bad).is_err());
    }
    assert_eq!(engine.snapshot().slots.used, used);
    assert!(engine.state(SequenceId(99)).is_err());
    engine.adopt(&good).unwrap();
}
