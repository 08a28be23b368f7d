//! A steady step allocates nothing.

mod common;

use common::*;
use gristmill_engine::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting what this thread asks of it.
struct Counting;

// SAFETY: every call goes to `System` unchanged; counting touches only a constant-initialised
// thread-local without a destructor, which allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller keeps the contract of `realloc`, and `pointer` came from `System`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn steady_steps_allocate_nothing() {
    for model in [plain(), everything()] {
        for in_flight in [1, 2] {
            let (mut engine, fake) = engine(&model, EngineOptions { in_flight, ..small() });
            fake.slow(1, Wakes::AtOnce);
            for i in 0..4 {
                let mut request = Request::new(text(20, i), 150);
                // One of each kind; those that need the text take turns with steps in flight.
                request.sampling = match i {
                    1 => SamplingParams { presence_penalty: 1.0, ..request.sampling },
                    2 => SamplingParams {
                        dry_multiplier: 1.0,
                        dry_allowed_length: 0,
                        dry_breakers: vec![vec![3, 4]],
                        logit_bias: vec![(1, 1.0)],
                        ..request.sampling
                    },
                    3 => SamplingParams { mirostat: Mirostat::V2, ..request.sampling },
                    _ => request.sampling,
                };
                engine.submit(request).unwrap();
            }
            let mut events = Vec::with_capacity(1000);
            for _ in 0..20 {
                engine.step(&mut events).unwrap();
            }
            let before = ALLOCATIONS.with(Cell::get);
            for _ in 0..100 {
                let sampled = engine.step(&mut events).unwrap().sampled;
                assert!(sampled == 4 || in_flight == 2);
            }
            assert_eq!(ALLOCATIONS.with(Cell::get) - before, 0, "steps that decode");
        }
    }
}

#[test]
fn steps_of_a_long_prompt_allocate_nothing() {
    let (mut engine, _) = engine(&plain(), small());
    engine.submit(Request::new(text(20, 1), 100)).unwrap();
    engine.submit(Request::new(text(180, 2), 10)).unwrap();
    let mut events = Vec::with_capacity(1000);
    for _ in 0..3 {
        engine.step(&mut events).unwrap();
    }
    let before = ALLOCATIONS.with(Cell::get);
    for _ in 0..9 {
        assert!(engine.step(&mut events).unwrap().tokens > 4);
    }
    assert_eq!(ALLOCATIONS.with(Cell::get) - before, 0);
}
