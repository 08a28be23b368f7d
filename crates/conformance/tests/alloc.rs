//! A steady step allocates nothing, on no thread: on the CPU backend alone, and through the engine.
//!
//! There is one test in this file, because what other tests allocate would be counted too.

use gristmill_conformance::device::{Device, Room};
use gristmill_conformance::model::{Decoder, Recurrent};
use gristmill_conformance::random::Random;
use gristmill_conformance::sampling::GREEDY;
use gristmill_conformance::weights::Weights;
use gristmill_conformance::work::{Part, Work};
use gristmill_core::DType;
use gristmill_cpu::{Cpu, CpuOptions, Isa};
use gristmill_engine::{Engine, EngineOptions, Request, SamplingParams};
use gristmill_ir::*;
use std::alloc::{GlobalAlloc, Layout as Memory, System};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::task::Waker;

static COUNTS: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, counting what every thread asks of it.
struct Counting;

impl Counting {
    fn count(&self) {
        if COUNTS.load(SeqCst) {
            ALLOCATIONS.fetch_add(1, SeqCst);
        }
    }
}

// SAFETY: every call goes to `System` unchanged; counting touches two atomics only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Memory) -> *mut u8 {
        self.count();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Memory) {
        // SAFETY: the caller keeps the contract of `dealloc`, and `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Memory, size: usize) -> *mut u8 {
        self.count();
        // SAFETY: the caller keeps the contract of `realloc`, and `pointer` came from `System`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations while `run` runs.
fn allocations(run: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.load(SeqCst);
    COUNTS.store(true, SeqCst);
    run();
    COUNTS.store(false, SeqCst);
    ALLOCATIONS.load(SeqCst) - before
}

/// The least of three counts, or the first that is 0. What a step allocates it allocates every time;
/// what the test harness allocates to say that a test is slow, it does once.
fn least(mut count: impl FnMut() -> u64) -> u64 {
    let mut least = count();
    for _ in 0..2 {
        if least > 0 {
            least = least.min(count());
        }
    }
    least
}

#[test]
fn steady_steps_allocate_nothing() {
    let dense = Decoder { windows: vec![None, Some(40)], ..Decoder::default() };
    let mixture = Decoder { ffn: 256, experts: Some([7, 3]), ..dense.clone() };
    let recurrent = Recurrent { width: 256, rank: 256, ..Recurrent::default() };
    for (name, program) in [
        ("dense", dense.record()),
        ("experts", mixture.record()),
        ("recurrent", recurrent.record()),
    ] {
        let program = program.unwrap();
        let weights = Weights::random(&program, 1, |_| DType::Q4_K);
        for activations in [Activations::F32, Activations::Int8] {
            let options = Options { activations, ..Options::default() };
            for threads in [1, 2] {
                let how = CpuOptions { isa: Isa::best(), threads, poison: false };
                let cpu = || Cpu::new(how).unwrap();
                let on = format!("{name}, {activations:?}, {threads} threads");
                let n = least(|| backend(&cpu(), &program, &weights, &options));
                assert_eq!(n, 0, "decoding: {on}");
                let n = least(|| engine(cpu(), &program, &weights, options));
                assert_eq!(n, 0, "Engine::step: {on}");
            }
        }
    }
}

/// Prompts, then decoding of four sequences with all that sampling can be asked for; one is long
/// enough to share its keys out between threads.
fn backend(cpu: &Cpu, program: &Program, weights: &Weights, options: &Options) -> u64 {
    let room = Room::of(128, 4).paged(64, 32);
    let mut d = Device::new(cpu, program, weights, options, &room).unwrap();
    let mut random = Random::new(2);
    let mut lens = [0u32; 4];
    let mut work = |counts: [u32; 4]| {
        let part = |(seq, &n): (usize, &u32)| {
            lens[seq] += n;
            Part::causal(seq, lens[seq] - n, random.ids(n as usize, 131))
        };
        Work::of(counts.iter().enumerate().filter(|c| *c.1 > 0).map(part).collect())
    };
    let mut steps = vec![work([100, 9, 1, 3])];
    steps.extend((0..5).map(|_| work([100, 0, 0, 0])));
    steps.extend((0..40).map(|_| work([1; 4])));
    // The tables are made before, since windows give pages back: all steps see the last tables.
    let arrays: Vec<_> = steps.iter().map(|w| d.arrays(w).unwrap()).collect();
    let mask = vec![u32::MAX; 5];
    let hot = Sampling { temperature: 0.9, ..GREEDY };
    let params = [
        Sampling { top_k: 20, top_p: 0.9, min_p: 0.01, ..hot },
        Sampling { top_n_sigma: 2.0, typical_p: 0.9, ..hot },
        Sampling { xtc_probability: 1.0, xtc_threshold: 0.1, mirostat: Mirostat::V1, ..hot },
        Sampling { mirostat: Mirostat::V2, mu: 5.0, ..hot },
    ];
    let penalties = [1, 3].map(|row| Penalty { row, token: 9, repeat: 1.3, subtract: 0.5 });
    let all = SampleBatch {
        params: &params,
        slots: &[0, 1, 2, 3],
        allow: &mask,
        allow_row: &[0, -1, 0, 0],
        bias: &[(1, 7, 0.5)],
        penalties: &penalties,
        combine: &[(2, 3, 1.0)],
        want: &[(3, 1), (0, 1)],
        top_logprobs: 6,
        unmask: &[],
    };
    let mut results = Results::default();
    let mut run = |range: std::ops::Range<usize>| {
        for (work, a) in steps[range.clone()].iter().zip(&arrays[range]) {
            let step = cpu.launch(&d.plan, &mut d.context, &a.batch()).unwrap();
            if work.parts.len() == 4 {
                cpu.sample(&mut d.context, step, &all).unwrap();
            }
            assert!(cpu.finish(&mut d.context, step, &mut results, Waker::noop()).unwrap());
        }
    };
    run(0..10);
    allocations(|| run(10..46))
}

/// Requests that decode together, past the ends of their pages and a window.
fn engine(cpu: Cpu, program: &Program, weights: &Weights, options: Options) -> u64 {
    let options = EngineOptions {
        context: 1024,
        max_seqs: 4,
        token_budget: 128,
        options,
        ..EngineOptions::default()
    };
    let mut load = |d: &TensorDecl| weights.tensor(d);
    let mut engine = Engine::new(cpu, program.clone(), &mut load, options).unwrap();
    let mut random = Random::new(3);
    for (i, n) in [600, 20, 3, 50].into_iter().enumerate() {
        let mut request = Request::new(random.ids(n, 131), 200);
        let hot = SamplingParams { temperature: i as f32 / 4.0, ..SamplingParams::default() };
        request.sampling = match i {
            1 => SamplingParams { repeat_penalty: 1.1, typical_p: 0.9, top_n_sigma: 3.0, ..hot },
            2 => SamplingParams { dry_multiplier: 0.8, dry_allowed_length: 1, ..hot },
            3 => SamplingParams { mirostat: Mirostat::V1, logit_bias: vec![(4, 1.0)], ..hot },
            _ => hot,
        };
        engine.submit(request).unwrap();
    }
    let mut events = Vec::with_capacity(2000);
    for _ in 0..20 {
        engine.step(&mut events).unwrap();
    }
    allocations(|| {
        for _ in 0..100 {
            assert_eq!(engine.step(&mut events).unwrap().sampled, 4);
        }
    })
}
