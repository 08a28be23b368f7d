//! Whole small models: values that live over many operations, and every operation after another.

use super::*;
use crate::model::{Decoder, Recurrent, encoder};

pub(super) fn cases() -> Vec<Case> {
    let plain = Decoder::default();
    let windows = vec![Some(24), None, Some(24)];
    let mixed = Decoder { windows, kv_heads: 1, head_dim: 80, ..Decoder::default() };
    let f16 = Decoder { kv: DType::F16, ..Decoder::default() };
    let mixture = Decoder { ffn: 96, experts: Some([7, 3]), ..Decoder::default() };
    let quantized = Decoder { ffn: 256, ..mixture.clone() };
    let dense_router = |name: &str| match name.ends_with(".router") {
        true => DType::F32,
        false => DType::Q4_K,
    };
    let k_quants = |name: &str| if name.ends_with(".v") { DType::Q6_K } else { DType::Q4_K };
    let int8 = Activations::Int8;
    vec![
        decoder("decoder", &plain, |_| DType::F32, Activations::F32, 5e-5),
        decoder("decoder windows", &mixed, |_| DType::F32, Activations::F32, 5e-5),
        decoder("decoder quantized", &plain, k_quants, Activations::F32, 5e-5),
        decoder("decoder f16 cache", &f16, |_| DType::BF16, Activations::F32, 1e-3),
        // An activation near the middle between two integers may become either, in every layer.
        decoder("decoder int8", &plain, k_quants, int8, 2e-2),
        decoder("decoder experts", &mixture, |_| DType::F32, Activations::F32, 5e-5),
        decoder("decoder experts quantized", &quantized, dense_router, Activations::F32, 5e-5),
        recurrent("recurrent", |_| DType::F32, true),
        recurrent("recurrent chunks", |_| DType::F32, false),
        recurrent("recurrent quantized", |_| DType::Q8_0, true),
        bert(),
    ]
}

fn decoder(
    name: &str,
    model: &Decoder,
    dtype: impl Fn(&str) -> DType,
    a: Activations,
    tolerance: f64,
) -> Case {
    let program = model.record().expect("sizes go together");
    let weights = Weights::random(&program, 11, dtype);
    let works = texts(model.vocab);
    let (name, options, room) = (name.to_owned(), options(a), Room::of(40, 4));
    Case { name, program, weights, options, room, works, tolerance }
}

/// A model whose state outlives its steps; where results may depend on how many tokens come at
/// once, a long step is one of chunks.
fn recurrent(name: &str, dtype: impl Fn(&str) -> DType, batch_invariant: bool) -> Case {
    let model = Recurrent::default();
    let program = model.record().expect("sizes go together");
    let weights = Weights::random(&program, 13, dtype);
    let mut works = texts(model.vocab);
    if !batch_invariant {
        let ids = Random::new(14).ids(90, model.vocab);
        let next = Part::causal(1, works[5].parts[0].kv_len(), ids);
        works.push(Work::of(vec![next]));
    }
    let options = Options { batch_invariant, ..options(Activations::F32) };
    let (name, room) = (name.to_owned(), Room::of(100, 4));
    Case { name, program, weights, options, room, works, tolerance: 2e-4 }
}

/// Steps of sequences that come, go on alone and together.
fn texts(vocab: u32) -> Vec<Work> {
    let mut random = Random::new(12);
    let mut lens = [0u32; 4];
    let steps: [&[(usize, u32)]; 6] = [
        &[(0, 37), (1, 3)],
        &[(0, 1), (1, 1)],
        &[(2, 17), (0, 1), (1, 20)],
        &[(0, 1), (1, 1), (2, 1)],
        &[(2, 1)],
        &[(1, 2), (3, 33)],
    ];
    let mut works = vec![];
    for step in steps {
        let part = |&(seq, n): &(usize, u32)| {
            let ids = random.ids(n as usize, vocab);
            lens[seq] += n;
            Part::causal(seq, lens[seq] - n, ids)
        };
        works.push(Work::of(step.iter().map(part).collect()));
    }
    // No outputs at all, then all of them.
    works[2].parts.iter_mut().for_each(|p| p.rows.clear());
    for p in &mut works[5].parts {
        p.rows = (0..p.len() as u32).collect();
    }
    works
}

fn bert() -> Case {
    let program = encoder(99, 48, 48, 4).expect("sizes go together");
    let weights = Weights::random(&program, 21, |_| DType::F32);
    let mut random = Random::new(22);
    let sizes: [&[usize]; 3] = [&[5, 1, 30], &[40], &[2, 3, 4, 6]];
    let works = sizes.map(|sizes| {
        let part = |(seq, &n): (usize, &usize)| {
            let mut part = Part::bidirectional(seq, random.ids(n, 99));
            part.types = random.ids(n, 2);
            part
        };
        Work::of(sizes.iter().enumerate().map(part).collect())
    });
    let (name, works) = ("encoder".to_owned(), works.into());
    let (options, room) = (options(Activations::F32), Room::of(40, 4));
    Case { name, program, weights, options, room, works, tolerance: 5e-5 }
}
