//! Batch invariance: the logits of a sequence are the same bits alone and among others, whatever
//! the chunks of its prompt, and on one thread and on two.

use crate::device::{Device, Room};
use crate::model::{Decoder, Recurrent};
use crate::random::Random;
use crate::weights::Weights;
use crate::work::{Part, Work};
use gristmill_core::DType;
use gristmill_ir::{Activations, Backend, Options, Output, Program};
use std::collections::BTreeMap;

/// A model and the length of the sequence that is looked at.
pub struct Subject {
    /// For messages.
    pub name: &'static str,
    program: Program,
    weights: Weights,
    options: Options,
    ids: Vec<u32>,
    /// Tokens of the prompt; the others are decoded one by one.
    prompt: u32,
}

/// Logits by index of their token.
type Rows = BTreeMap<u32, Vec<f32>>;

/// A long sequence through a narrow model, and a short one through K-quants, in both forms of
/// activations; the same through mixtures of experts.
pub fn subjects() -> Vec<Subject> {
    let narrow = Decoder {
        width: 64,
        ffn: 160,
        head_dim: 8,
        windows: vec![None, Some(100)],
        ..Decoder::default()
    };
    let wide = Decoder::default();
    let mixture = Decoder { ffn: 96, experts: Some([5, 2]), ..narrow.clone() };
    let wide_mixture = Decoder { ffn: 256, experts: Some([9, 3]), ..wide.clone() };
    let k_quants = |n: &str| if n.ends_with(".v") { DType::Q6_K } else { DType::Q4_K };
    let eight = |n: &str| if n.ends_with(".v") { DType::F16 } else { DType::Q8_0 };
    let router = |n: &str| if n.ends_with(".router") { DType::F32 } else { DType::Q4_K };
    let (f32, int8) = (Activations::F32, Activations::Int8);
    let recurrent = Recurrent::default();
    let program = recurrent.record().expect("sizes go together");
    let vocab = recurrent.vocab;
    vec![
        Subject::of("recurrent, f32", program.clone(), vocab, |_| DType::F32, f32, 130),
        Subject::of("recurrent, int8 activations", program, vocab, |_| DType::Q8_0, int8, 130),
        Subject::new("f32 weights", &narrow, |_| DType::F32, f32, 560),
        Subject::new("k-quants, f32 activations", &wide, k_quants, f32, 70),
        Subject::new("q8_0 and f16, int8 activations", &narrow, eight, int8, 560),
        Subject::new("k-quants, int8 activations", &wide, k_quants, int8, 70),
        Subject::new("experts, f32 weights", &mixture, |_| DType::F32, f32, 130),
        Subject::new("experts, q8_0, int8 activations", &mixture, |_| DType::Q8_0, int8, 130),
        Subject::new("experts, q4_k, f32 activations", &wide_mixture, router, f32, 70),
        Subject::new("experts, q4_k, int8 activations", &wide_mixture, router, int8, 70),
    ]
}

impl Subject {
    fn new(
        name: &'static str,
        model: &Decoder,
        dtype: impl Fn(&str) -> DType,
        activations: Activations,
        prompt: u32,
    ) -> Subject {
        let program = model.record().expect("sizes go together");
        Subject::of(name, program, model.vocab, dtype, activations, prompt)
    }

    fn of(
        name: &'static str,
        program: Program,
        vocab: u32,
        dtype: impl Fn(&str) -> DType,
        activations: Activations,
        prompt: u32,
    ) -> Subject {
        let weights = Weights::random(&program, 31, dtype);
        let options = Options { activations, ..Options::default() };
        let ids = Random::new(32).ids(prompt as usize + 6, vocab);
        Subject { name, program, weights, options, ids, prompt }
    }

    /// The part of the sequence that begins at `from`; outputs are wanted here and there.
    fn part(&self, from: u32, n: u32) -> Part {
        let ids = self.ids[from as usize..(from + n) as usize].to_vec();
        let mut part = Part::causal(SUBJECT, from, ids);
        let wanted = |i: &u32| (from + i).is_multiple_of(37) || from + i + 3 >= self.prompt;
        part.rows = (0..n).filter(wanted).collect();
        part
    }

    /// The prompt in chunks, then single tokens.
    fn chunks(&self, chunk: u32) -> Vec<Part> {
        let mut parts = vec![];
        let mut at = 0;
        while at < self.ids.len() as u32 {
            let n = if at < self.prompt { chunk.min(self.prompt - at) } else { 1 };
            parts.push(self.part(at, n));
            at += n;
        }
        parts
    }

    fn run<B: Backend>(&self, backend: &B, works: &[Work]) -> gristmill_core::Result<Rows> {
        let room = Room::of(self.ids.len() as u32 + 160, 8).paged(96, 32);
        let mut device = Device::new(backend, &self.program, &self.weights, &self.options, &room)?;
        let mut rows = Rows::new();
        for work in works {
            let logits = device.run(work, &[Output::Logits])?.remove(0);
            let vocab = logits.len() / work.rows().len().max(1);
            let wanted = work.parts.iter().flat_map(|p| p.rows.iter().map(move |&r| (p, r)));
            for ((part, r), logits) in wanted.zip(logits.chunks(vocab.max(1))) {
                if part.seq == SUBJECT {
                    rows.insert(part.kv_index[r as usize], logits.to_vec());
                }
            }
        }
        Ok(rows)
    }

    /// The ways to run the same sequence.
    fn ways(&self) -> Vec<(String, Vec<Work>)> {
        let alone = |part| Work::of(vec![part]);
        let mut ways = vec![];
        let whole = self.part(0, self.ids.len() as u32);
        ways.push(("whole".to_owned(), vec![alone(whole)]));
        for chunk in [1, 16, 64, self.prompt] {
            let works = self.chunks(chunk).into_iter().map(alone).collect();
            ways.push((format!("in chunks of {chunk}"), works));
        }
        for chunk in [64, self.prompt] {
            ways.push((format!("among others in chunks of {chunk}"), self.among(chunk)));
        }
        ways
    }

    /// Among seven others that come with prompts of all lengths and decode on.
    fn among(&self, chunk: u32) -> Vec<Work> {
        let mut random = Random::new(33);
        let mut lens = [0u32; 8];
        let steps = self.chunks(chunk).into_iter().enumerate().map(|(step, part)| {
            let mut parts = vec![];
            for seq in (0..8).filter(|&s| s != SUBJECT) {
                // Each comes at its own step.
                let n = match lens[seq] {
                    0 if step >= seq % 3 => [17, 1, 33, 5, 40, 2, 8, 12][seq],
                    0 => continue,
                    _ => 1 + u32::from(seq == 6),
                };
                let ids = random.ids(n as usize, 131);
                parts.push(Part::causal(seq, lens[seq], ids));
                lens[seq] += n;
            }
            parts.insert(parts.len() / 2, part);
            Work::of(parts)
        });
        steps.collect()
    }

    /// Whether activations stay as computed; else they are rounded, and one that is nearly in the middle
    /// between two integers becomes either.
    pub fn is_f32(&self) -> bool {
        self.options.activations == Activations::F32
    }

    /// How far the logits of all ways are apart, relative to the largest: for a device on which sums may
    /// be taken in another order where more come at once.
    ///
    /// # Errors
    /// What the backend says, or a way that gives other rows.
    pub fn apart<B: Backend>(&self, backend: &B) -> Result<f64, String> {
        let mut first: Option<Rows> = None;
        let mut apart = 0.0f64;
        for (way, works) in self.ways() {
            let place = format!("{}: {way}", self.name);
            let rows = self.run(backend, &works).map_err(|e| format!("{place}: {e}"))?;
            let first = first.get_or_insert_with(|| rows.clone());
            if !first.keys().eq(rows.keys()) {
                return Err(format!("{place}: {} rows, not {}", rows.len(), first.len()));
            }
            for (a, b) in first.values().zip(rows.values()) {
                let largest = a.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                let far = a.iter().zip(b).map(|(a, b)| (a - b).abs());
                let far =
                    far.fold(0.0f32, |m, d| if d.is_nan() { f32::INFINITY } else { m.max(d) });
                apart = apart.max(f64::from(far) / f64::from(largest));
            }
        }
        Ok(apart)
    }

    /// Compares all ways on one thread and on two. Gives the number of rows compared.
    ///
    /// # Errors
    /// The first way whose bits differ, or what the backend says.
    pub fn check<B: Backend>(&self, make: &mut dyn FnMut(usize) -> B) -> Result<usize, String> {
        let mut first: Option<Rows> = None;
        let mut compared = 0;
        for threads in [1, 2] {
            let backend = make(threads);
            for (way, works) in self.ways() {
                let place = format!("{}: {way} on {threads} threads", self.name);
                let rows = self.run(&backend, &works).map_err(|e| format!("{place}: {e}"))?;
                let first = first.get_or_insert_with(|| rows.clone());
                if first.len() != rows.len() {
                    return Err(format!("{place}: {} rows, not {}", rows.len(), first.len()));
                }
                for ((index, a), b) in first.iter().zip(rows.values()) {
                    compared += 1;
                    if a.iter().any(|v| !v.is_finite()) {
                        return Err(format!("{place}: logits of token {index} are not finite"));
                    }
                    let far = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    if a.iter().zip(b).any(|(a, b)| a.to_bits() != b.to_bits()) {
                        return Err(format!("{place}: logits of token {index} differ by {far:e}"));
                    }
                }
            }
        }
        Ok(compared)
    }
}

/// The number of the sequence that is looked at.
const SUBJECT: usize = 3;
