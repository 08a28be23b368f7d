//! A device that is no device, and a language model that is a hash.
//!
//! The model: the token after a text is a hash of every token that each layer group sees of it (all,
//! or the last few where there is a window) and of a state carried from token to token. [`Fake`]
//! computes it the way a real backend would: it stores token ids in pages, and reads them back
//! through the page tables of a batch; [`oracle`] computes it from the plain list of tokens. They
//! agree only if every page, slot, index and copy of the engine is right.
//!
//! The fake also holds the engine to the contract: it panics on a batch that breaks it.
#![allow(dead_code)] // each test file uses its part

mod fake;
pub mod harness;
pub mod text;

#[allow(unused_imports)]
pub use fake::{Fake, Trouble, Wakes};

use gristmill_core::{DType, HostTensor, Result};
use gristmill_engine::{Engine, EngineOptions, Mirostat, Request, SamplingParams};
use gristmill_ir::{Op, Output, Program, StateKind, TensorDecl};

pub const VOCAB: u32 = 97;

/// What the fake model looks at.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The window of each page group.
    pub windows: Vec<Option<u32>>,
    /// Whether there is a state besides.
    pub recurrent: bool,
}

pub fn plain() -> Model {
    Model { windows: vec![None], recurrent: false }
}

pub fn everything() -> Model {
    Model { windows: vec![None, Some(5), Some(19)], recurrent: true }
}

pub fn mix(h: u64, x: u64) -> u64 {
    let h = (h ^ x).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    h ^ (h >> 29)
}

/// The hash of everything seen after `tokens`.
pub fn oracle(model: &Model, tokens: &[u32]) -> u64 {
    let mut h = 1;
    for window in &model.windows {
        let first = window.map_or(0, |w| tokens.len().saturating_sub(w as usize));
        h = tokens[first..].iter().fold(h, |h, &t| mix(h, t.into()));
    }
    if model.recurrent {
        h = mix(h, tokens.iter().fold(7, |s, &t| mix(s, t.into())));
    }
    h
}

/// The token that sampling picks from a hash; `control` is that of [`text::Control`].
pub fn pick(h: u64, temperature: f32, seed: u64, counter: u64, control: u64) -> u32 {
    let h = if temperature > 0.0 { mix(mix(h, seed), counter) } else { h };
    let h = if control > 0 { mix(h, control) } else { h };
    (mix(h, 3) % u64::from(VOCAB)) as u32
}

/// How sure the device says that it was.
pub fn confidence(h: u64) -> f32 {
    1.0 / (1 + h % 9) as f32
}

pub fn logit(h: u64, token: u32) -> f32 {
    (mix(h, u64::from(token) + 1000) % 4096) as f32
}

pub fn logprob(h: u64) -> f32 {
    -((h % 100) as f32)
}

/// What the model makes of a prompt: at most `most` tokens, up to and with a stop token.
pub fn continuation(
    model: &Model,
    prompt: &[u32],
    most: usize,
    p: &SamplingParams,
    stop: &[u32],
) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    let mut mu = 2.0 * p.mirostat_tau;
    for _ in 0..most {
        let h = oracle(model, &tokens);
        let control = text::control(&tokens, p, mu);
        let token = pick(h, p.temperature, p.seed, tokens.len() as u64, control);
        if p.mirostat != Mirostat::Off {
            mu -= p.mirostat_eta * (-confidence(h).log2() - p.mirostat_tau);
        }
        tokens.push(token);
        if stop.contains(&token) {
            break;
        }
    }
    tokens.split_off(prompt.len())
}

pub fn program(model: &Model) -> Program {
    let mut p = Program::new("hash");
    p.prefix_closed = true;
    for &window in &model.windows {
        let group = p.group(window);
        let (k_type, v_type) = (DType::F16, DType::F16);
        p.state(StateKind::Paged { group, k: 32, v: 32, k_type, v_type });
    }
    if model.recurrent {
        p.state(StateKind::Slot { elems: 2, dtype: DType::F32 });
    }
    let table = p.tensor("token_embd.weight", VOCAB, 4);
    let x = p.one("embed", Op::Embed { table, scale: 1.0, positions: None, types: None }).unwrap();
    let x = p.one("rows", Op::SelectRows { x }).unwrap();
    let (bias, act, softcap) = (None, gristmill_ir::Act::None, None);
    let head = Op::Linear { x, w: table, bias, act, scale: 1.0, softcap };
    let logits = p.one("head", head).unwrap();
    p.output(Output::Logits, logits);
    p
}

pub fn no_weights(t: &TensorDecl) -> Result<HostTensor> {
    let zeros = vec![0.0; (t.rows * t.cols) as usize];
    Ok(HostTensor::from_f32(&t.name, t.rows as usize, t.cols as usize, &zeros))
}

pub fn engine(model: &Model, options: EngineOptions) -> (Engine<Fake>, Fake) {
    let fake = Fake::new(model.clone());
    let engine = Engine::new(fake.clone(), program(model), &mut no_weights, options);
    (engine.expect("the options make sense"), fake)
}

/// Small pages and steps, so that short texts cross many boundaries.
pub fn small() -> EngineOptions {
    EngineOptions {
        context: 200,
        max_seqs: 4,
        token_budget: 16,
        chunk_multiple: 4,
        page_tokens: 4,
        kept_slots: 2,
        ..EngineOptions::default()
    }
}

/// A text of `n` tokens that depends on `seed` only.
pub fn text(n: usize, seed: u64) -> Vec<u32> {
    (0..n as u64).map(|i| (mix(mix(seed, 11), i) % u64::from(VOCAB)) as u32).collect()
}

/// A request with its expected tokens.
pub fn expect(model: &Model, request: &Request) -> Vec<u32> {
    let Request { prompt, max_tokens, sampling, stop_ids, .. } = request;
    continuation(model, prompt, *max_tokens, sampling, stop_ids)
}
