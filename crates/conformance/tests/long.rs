//! Long texts through the engine on the CPU: the pages of layers that see everything grow with the
//! text, those of windowed layers do not, and each kind has its own.

use gristmill_conformance::model::Decoder;
use gristmill_conformance::random::Random;
use gristmill_conformance::weights::Weights;
use gristmill_core::DType;
use gristmill_cpu::{Cpu, CpuOptions, Isa};
use gristmill_engine::pages::peak_pages;
use gristmill_engine::{Engine, EngineOptions, Request};
use gristmill_ir::TensorDecl;

const CONTEXT: u32 = 32 * 1024;
const WINDOW: u32 = 100;

/// Runs a text that fills the context, its last tokens decoded; gives the pages used by each group
/// with the tokens they hold, after each step.
fn run(windows: Vec<Option<u32>>) -> Vec<(u32, Vec<u32>)> {
    let (width, ffn, heads, kv_heads, head_dim) = (16, 16, 1, 1, 8);
    let model = Decoder { width, ffn, heads, kv_heads, head_dim, windows, ..Decoder::default() };
    let program = model.record().unwrap();
    let weights = Weights::random(&program, 1, |_| DType::F32);
    let cpu = Cpu::new(CpuOptions { isa: Isa::best(), threads: 1, poison: true }).unwrap();
    let options = EngineOptions { context: CONTEXT, max_seqs: 1, ..EngineOptions::default() };
    let (budget, page) = (options.token_budget, options.page_tokens);
    let mut load = |d: &TensorDecl| weights.tensor(d);
    let mut engine = Engine::new(cpu, program.clone(), &mut load, options).unwrap();
    for (group, pages) in program.groups.iter().zip(engine.snapshot().pages) {
        assert_eq!(pages.total, peak_pages(group.window, CONTEXT, budget, page));
    }
    let decoded = 130;
    let prompt = Random::new(2).ids((CONTEXT - decoded) as usize, model.vocab);
    engine.submit(Request::new(prompt, decoded as usize)).unwrap();
    let mut events = vec![];
    let mut seen: Vec<(u32, Vec<u32>)> = vec![];
    let mut before = 0;
    loop {
        engine.step(&mut events).unwrap();
        let now = engine.snapshot();
        if now.running == 0 {
            break;
        }
        if now.tokens > before {
            before = now.tokens;
            seen.push((now.tokens as u32, now.pages.iter().map(|p| p.used).collect()));
        }
    }
    assert!(seen.len() as u32 > CONTEXT / budget + decoded - 8, "{} steps", seen.len());
    seen
}

/// Windowed layers alone: a text of any length in the same few pages.
#[test]
fn windowed_layers_hold_what_they_see() {
    let bound = peak_pages(Some(WINDOW), CONTEXT, 512, 32);
    assert!(bound < 22);
    for (tokens, used) in run(vec![Some(WINDOW), Some(WINDOW)]) {
        assert!(used.len() == 1 && used[0] <= bound, "{used:?} pages after {tokens} tokens");
    }
}

/// Beside layers that see everything, each kind in its own pages: bytes a token do not change with
/// the length.
#[test]
fn memory_is_linear_in_the_text() {
    let bound = peak_pages(Some(WINDOW), CONTEXT, 512, 32);
    let seen = run(vec![None, Some(WINDOW), None, Some(WINDOW)]);
    for (tokens, used) in &seen {
        let [all, windowed] = used[..] else { panic!("{used:?}: two groups") };
        assert_eq!(all, tokens.div_ceil(32), "pages after {tokens} tokens");
        assert!(windowed <= bound, "{windowed} pages after {tokens} tokens");
    }
    assert!(seen.last().unwrap().0 > CONTEXT - 4);
}
