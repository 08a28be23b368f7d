//! Sampling, against its definition in f64: row by row, token by token (`definition`), and by the
//! frequencies of many draws ([`frequencies`]).
//!
//! The program is an embedding table and nothing else: the logits of a token are its row, known
//! exactly. The draw is a Gumbel maximum (Gumbel 1954): of the tokens kept, the largest
//! `l / temperature - ln(-ln u)` wins, where `u` is word `id % 4` of Philox under the seed and the
//! counter `[counter, counter >> 32, id / 4, 0]`, as a number between 0 and 1.

mod definition;
pub mod frequencies;
pub mod unmask;

use crate::device::{Arrays, Device, Room};
use crate::random::Random;
use crate::weights::Weights;
use crate::work::{Part, Work};
use definition::{kept, leaves_out_top, softmax};
use gristmill_core::{DType, philox, unit};
use gristmill_ir::*;

type Checked<T = ()> = Result<T, String>;

/// Greedy.
pub const GREEDY: Sampling = Sampling::GREEDY;

/// A table whose rows are logits.
pub struct Oracle {
    program: Program,
    weights: Weights,
    table: Vec<f64>,
    vocab: usize,
}

/// What is expected of a row.
struct Expected {
    /// Most likely first.
    logprobs: Vec<(usize, f64)>,
    /// Tokens kept, with the score of each, highest first, and its probability among them.
    kept: Vec<(usize, f64, f64)>,
}

impl Oracle {
    /// A table of a vocabulary.
    pub fn new(vocab: u32) -> Oracle {
        let mut program = Program::new("sampling");
        let table = program.tensor("table", vocab, vocab);
        let embed = Op::Embed { table, scale: 1.0, positions: None, types: None };
        let x = program.one("embed", embed).expect("shapes agree");
        let logits = program.one("select", Op::SelectRows { x }).expect("shapes agree");
        program.output(Output::Logits, logits);
        let mut weights = Weights::random(&program, 5, |_| DType::F32);
        let values = Random::new(6).normals((vocab * vocab) as usize);
        let values: Vec<f32> = values.iter().map(|v| 2.5 * v).collect();
        weights.set(&program.tensors[0], &values);
        let table = values.into_iter().map(f64::from).collect();
        Oracle { program, weights, table, vocab: vocab as usize }
    }

    fn row(&self, id: u32) -> &[f64] {
        &self.table[id as usize * self.vocab..][..self.vocab]
    }

    /// The logits of a row after guidance, bias, penalties and masks.
    fn adjusted(&self, ids: &[u32], row: usize, b: &SampleBatch<'_>) -> Vec<f64> {
        let mut l = self.row(ids[row]).to_vec();
        for &(_, other, g) in b.combine.iter().filter(|c| c.0 as usize == row) {
            let other = self.row(ids[other as usize]);
            let guided = |(l, o): (&f64, &f64)| o + (f64::from(g) + 1.0) * (l - o);
            l = l.iter().zip(other).map(guided).collect();
        }
        for &(_, token, v) in b.bias.iter().filter(|c| c.0 as usize == row) {
            l[token as usize] += f64::from(v);
        }
        for c in b.penalties.iter().filter(|c| c.row as usize == row) {
            let l = &mut l[c.token as usize];
            let repeat = f64::from(c.repeat);
            *l *= if *l > 0.0 { 1.0 / repeat } else { repeat };
            *l -= f64::from(c.subtract);
        }
        if let Some(&mask) = b.allow_row.get(row).filter(|&&m| m >= 0) {
            let words = &b.allow[mask as usize * self.vocab.div_ceil(32)..];
            for (i, l) in l.iter_mut().enumerate() {
                if words[i / 32] >> (i % 32) & 1 == 0 {
                    *l = f64::NEG_INFINITY;
                }
            }
        }
        l
    }

    /// The definition: guidance, bias, penalties, masks; what is left out; the draw.
    fn expect(&self, ids: &[u32], row: usize, b: &SampleBatch<'_>) -> Expected {
        let p = &b.params[row];
        let l = self.adjusted(ids, row, b);
        let log_sum = l.iter().map(|v| v.exp()).sum::<f64>().ln();
        let mut logprobs: Vec<(usize, f64)> = l.iter().map(|v| v - log_sum).enumerate().collect();
        logprobs.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let set = kept(&l, p, leaves_out_top(p));
        let t = if p.temperature == 0.0 { 1.0 } else { f64::from(p.temperature) };
        let top = set.iter().fold(f64::NEG_INFINITY, |m, c| m.max(c.1));
        let scored = set.iter().zip(softmax(&set, t)).map(|(&(id, l), share)| {
            let n = id as u32;
            let words = philox(p.seed, [p.counter as u32, (p.counter >> 32) as u32, n / 4, 0]);
            let noise = -(-f64::from(unit(words[id % 4])).ln()).ln();
            (id, (l - top) / t + noise, share)
        });
        let mut kept: Vec<_> = scored.collect();
        kept.sort_by(|a, b| b.1.total_cmp(&a.1));
        Expected { logprobs, kept }
    }

    /// A device with room for so many rows.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn device<'b, B: Backend>(
        &self,
        backend: &'b B,
        rows: u32,
    ) -> gristmill_core::Result<Device<'b, B>> {
        let (room, options) = (Room::of(rows, rows), Options::default());
        Device::new(backend, &self.program, &self.weights, &options, &room)
    }

    /// Launches tokens, one a sequence, and samples all.
    fn sample<B: Backend>(
        &self,
        d: &mut Device<'_, B>,
        tokens: &[Token],
        b: &SampleBatch<'_>,
    ) -> gristmill_core::Result<Results> {
        let arrays = one_each(d, tokens)?;
        let step = d.backend.launch(&d.plan, &mut d.context, &arrays.batch())?;
        d.backend.sample(&mut d.context, step, b)?;
        d.finish(step)
    }

    /// Compares a whole batch with the definition.
    fn compare<B: Backend>(
        &self,
        what: &str,
        d: &mut Device<'_, B>,
        ids: &[u32],
        b: &SampleBatch<'_>,
    ) -> Checked<Results> {
        let fail = |e: String| format!("{what}: {e}");
        let tokens: Vec<Token> = ids.iter().map(|&id| Token::Id(id)).collect();
        let got = self.sample(d, &tokens, b).map_err(|e| fail(e.to_string()))?;
        let n = (b.top_logprobs as usize).min(self.vocab);
        if [got.picked.len(), got.top.len(), got.wanted.len()]
            != [ids.len(), n * ids.len(), b.want.len()]
        {
            return Err(fail("another number of results".into()));
        }
        for row in 0..ids.len() {
            let e = self.expect(ids, row, b);
            let logprob = |id: u32| {
                let of = |o: &&(usize, f64)| o.0 == id as usize;
                e.logprobs.iter().find(of).map_or(f64::NAN, |o| o.1)
            };
            let near = |a: f32, b: f64| f64::from(a) == b || (f64::from(a) - b).abs() < 1e-4;
            let picked = got.picked[row];
            let Some(best) = e.kept.iter().find(|k| k.0 == picked.id as usize) else {
                return Err(fail(format!("row {row} drew {}, which is not kept", picked.id)));
            };
            // Scores nearer than f32 can tell may come in either order.
            if best.1 < e.kept[0].1 - 1e-4 {
                return Err(fail(format!("row {row} drew {}, not {}", picked.id, e.kept[0].0)));
            }
            if !near(picked.logprob, logprob(picked.id)) {
                return Err(fail(format!("row {row}: {picked:?}, not {}", logprob(picked.id))));
            }
            if b.params[row].temperature > 0.0 && !near(picked.confidence, best.2) {
                return Err(fail(format!("row {row}: {picked:?}, confidence not {}", best.2)));
            }
            for (i, (t, o)) in got.top[row * n..][..n].iter().zip(&e.logprobs).enumerate() {
                // The order of those that are not allowed at all is nobody's concern.
                let same = t.0 as usize == o.0 || near(t.1, logprob(t.0));
                if !same || !near(t.1, o.1) {
                    return Err(fail(format!("row {row}: the {i}th is {t:?}, not {o:?}")));
                }
            }
            for (w, got) in b.want.iter().zip(&got.wanted).filter(|w| w.0.0 as usize == row) {
                if !near(*got, logprob(w.1)) {
                    return Err(fail(format!("wanted {w:?}: {got}, not {}", logprob(w.1))));
                }
            }
        }
        Ok(got)
    }
}

/// The integers of a step of one token in each sequence.
///
/// # Errors
/// Those of [`Device::arrays`].
pub fn one_each<B: Backend>(
    d: &mut Device<'_, B>,
    tokens: &[Token],
) -> gristmill_core::Result<Arrays> {
    let parts = (0..tokens.len()).map(|seq| Part::causal(seq, 0, vec![0])).collect();
    let mut arrays = d.arrays(&Work::of(parts))?;
    arrays.tokens = tokens.to_vec();
    Ok(arrays)
}

/// Every way of choosing, alone and together.
pub fn params() -> Vec<Sampling> {
    let hot = Sampling { temperature: 1.0, seed: 7, ..GREEDY };
    vec![
        GREEDY,
        hot,
        Sampling { temperature: 0.7, ..hot },
        Sampling { temperature: 1.5, top_k: 5, ..hot },
        Sampling { top_p: 0.8, ..hot },
        Sampling { temperature: 1.3, top_k: 9, top_p: 0.9, ..hot },
        Sampling { temperature: 0.8, min_p: 0.2, ..hot },
        Sampling { temperature: 1.2, top_k: 12, top_p: 0.95, min_p: 0.05, ..hot },
        Sampling { temperature: 2.0, top_k: 1, ..hot },
        Sampling { top_k: 4000, top_p: 0.5, min_p: 0.9, ..hot },
        Sampling { top_n_sigma: 1.1, ..hot },
        Sampling { temperature: 3.0, top_n_sigma: 0.4, min_p: 0.01, ..hot },
        Sampling { typical_p: 0.6, ..hot },
        Sampling { typical_p: 0.3, top_p: 0.7, temperature: 1.8, ..hot },
        Sampling { typical_p: 0.2, temperature: 0.0, ..hot },
        Sampling { xtc_probability: 1.0, xtc_threshold: 0.05, ..hot },
        Sampling { xtc_probability: 0.5, xtc_threshold: 0.1, temperature: 1.4, ..hot },
        Sampling { xtc_probability: 0.5, xtc_threshold: 0.02, temperature: 0.0, ..hot },
        Sampling { mirostat: Mirostat::V1, mu: 4.0, ..hot },
        Sampling { mirostat: Mirostat::V1, mu: 9.0, temperature: 1.7, top_k: 2, ..hot },
        Sampling { mirostat: Mirostat::V2, mu: 3.0, ..hot },
        Sampling { mirostat: Mirostat::V2, mu: 6.0, temperature: 1.7, min_p: 0.9, ..hot },
        Sampling { mirostat: Mirostat::V2, mu: -1.0, ..hot },
        Sampling {
            top_n_sigma: 2.0,
            top_k: 30,
            typical_p: 0.95,
            top_p: 0.95,
            min_p: 0.01,
            xtc_probability: 0.7,
            xtc_threshold: 0.2,
            temperature: 1.1,
            ..hot
        },
    ]
}

/// Rows of a step: one for each of [`params`].
const ROWS: u32 = 24;

/// Runs every check.
///
/// # Errors
/// What is wrong, in words.
pub fn check<B: Backend>(backend: &B) -> Checked {
    for vocab in [70, 33, 1000] {
        let oracle = Oracle::new(vocab);
        let mut d = oracle.device(backend, ROWS).map_err(|e| e.to_string())?;
        draws(&oracle, &mut d)?;
        adjustments(&oracle, &mut d)?;
        last_tokens(&oracle, &mut d).map_err(|e| e.to_string())??;
    }
    Ok(())
}

/// Every kind of parameters over many counters; a row draws the same alone as among others.
fn draws<B: Backend>(oracle: &Oracle, d: &mut Device<'_, B>) -> Checked {
    let mut random = Random::new(8);
    for round in 0..30u64 {
        let ids = random.ids(ROWS as usize, oracle.vocab as u32);
        let mut params = params();
        for (i, p) in params.iter_mut().enumerate() {
            // The upper half of the counter and of the seed count too.
            p.counter = round + ((i as u64) << 33);
            p.seed = 7 + ((round % 3) << 40);
        }
        let b = SampleBatch { params: &params, ..SampleBatch::default() };
        let all = oracle.compare("draws", d, &ids, &b)?;
        let at = round as usize % ids.len();
        let b = SampleBatch { params: &params[at..=at], ..SampleBatch::default() };
        let alone = oracle.compare("a draw alone", d, &ids[at..=at], &b)?;
        if all.picked[at] != alone.picked[0] {
            return Err(format!("row {at} draws {:?} alone", alone.picked[0]));
        }
    }
    Ok(())
}

/// Masks, bias, guidance, log-probabilities, all rows at once.
fn adjustments<B: Backend>(oracle: &Oracle, d: &mut Device<'_, B>) -> Checked {
    let vocab = oracle.vocab as u32;
    let mut random = Random::new(9);
    let words = oracle.vocab.div_ceil(32);
    for round in 0..8 {
        let ids = random.ids(ROWS as usize, vocab);
        let mut params = params();
        params.iter_mut().for_each(|p| p.counter = round);
        // One mask with a single token, one with a third of them.
        let mut allow = vec![0u32; 2 * words];
        let only = random.below(vocab) as usize;
        allow[only / 32] |= 1 << (only % 32);
        for i in (0..oracle.vocab).step_by(3) {
            allow[words + i / 32] |= 1 << (i % 32);
        }
        let masks: Vec<i32> = (0..ROWS).map(|_| random.below(3) as i32 - 1).collect();
        let mut bias: Vec<_> = (0..50)
            .map(|_| (random.below(ROWS), random.below(vocab), 3.0 * random.normal()))
            .collect();
        // None on every third row, and never twice on a token.
        let mut penalties = vec![];
        for row in (0..ROWS).filter(|r| r % 3 > 0) {
            for token in (random.below(4)..vocab).step_by(5) {
                let repeat = random.normal().exp();
                penalties.push(Penalty { row, token, repeat, subtract: random.normal() });
            }
        }
        // Twice on one token: they add up.
        bias.push(bias[3]);
        let combine = [(3, 4, 1.5), (4, 3, 0.5), (6, 9, 0.0)];
        // In no order.
        let want: Vec<_> = (0..17).map(|_| (random.below(ROWS), random.below(vocab))).collect();
        let none = SampleBatch { params: &params, ..SampleBatch::default() };
        let masked = SampleBatch { allow: &allow, allow_row: &masks, ..none };
        let penal = SampleBatch { penalties: &penalties, ..none };
        let everything = SampleBatch {
            bias: &bias,
            penalties: &penalties,
            combine: &combine,
            want: &want,
            top_logprobs: 5,
            ..masked
        };
        for (what, b) in [
            ("masks", masked),
            ("bias", SampleBatch { bias: &bias, ..none }),
            ("penalties", penal),
            ("guidance", SampleBatch { combine: &combine, ..none }),
            ("wanted", SampleBatch { want: &want, ..none }),
            ("top", SampleBatch { top_logprobs: 3, ..none }),
            ("all of the top", SampleBatch { top_logprobs: vocab + 5, ..none }),
            ("everything", everything),
        ] {
            oracle.compare(what, d, &ids, &b)?;
        }
    }
    Ok(())
}

/// A token just sampled is the next one's input, by its slot; a slot can be copied.
fn last_tokens<B: Backend>(
    oracle: &Oracle,
    d: &mut Device<'_, B>,
) -> gristmill_core::Result<Checked> {
    let greedy = |id: u32| {
        let row = oracle.row(id);
        (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0) as u32
    };
    let params = [GREEDY; 3];
    let slots = [2, u32::MAX, 0];
    let b = SampleBatch { params: &params, slots: &slots, ..SampleBatch::default() };
    let ids = [5u32, 9, 11];
    let got = oracle.sample(d, &ids.map(Token::Id), &b)?;
    let first: Vec<u32> = got.picked.iter().map(|p| p.id).collect();
    if first != ids.map(greedy) {
        return Ok(Err(format!("greedy took {first:?}, not {:?}", ids.map(greedy))));
    }
    // Slot 2 holds the first row's, slot 0 the third's; slot 4 becomes a copy of slot 2.
    let mut arrays = one_each(d, &[Token::Last(0), Token::Last(4), Token::Last(2)])?;
    arrays.moves = vec![Move::Slot { from: 2, to: 4 }];
    let step = d.backend.launch(&d.plan, &mut d.context, &arrays.batch())?;
    d.backend.sample(&mut d.context, step, &b)?;
    let second: Vec<u32> = d.finish(step)?.picked.iter().map(|p| p.id).collect();
    let expected = [first[2], first[0], first[0]].map(greedy);
    if second != expected {
        return Ok(Err(format!("after `Last`: {second:?}, not {expected:?}")));
    }
    Ok(Ok(()))
}
