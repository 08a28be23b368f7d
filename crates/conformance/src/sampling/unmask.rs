//! Tokens proposed for masked places, against the definition of [`gristmill_ir::Unmask`] in f64,
//! one by one and by the frequencies of many draws.

use super::definition::softmax;
use super::frequencies::p_value;
use super::{Checked, GREEDY, Oracle, one_each};
use crate::device::Device;
use crate::random::Random;
use gristmill_core::philox;
use gristmill_ir::*;

/// What is expected of a place.
struct Expected {
    /// Log-probabilities of the whole row.
    logprobs: Vec<f64>,
    /// Tokens kept with the score of each and its probability among them, highest score first.
    kept: Vec<(usize, f64, f64)>,
}

fn expect(row: &[f64], u: &Unmask) -> Expected {
    let log_sum = row.iter().map(|v| v.exp()).sum::<f64>().ln();
    let logprobs = row.iter().map(|v| v - log_sum).collect();
    let t = if u.temperature == 0.0 { 1.0 } else { f64::from(u.temperature) };
    let mut set: Vec<(usize, f64)> = row.iter().copied().enumerate().collect();
    set.retain(|c| c.1 > f64::NEG_INFINITY);
    set.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if u.top_p < 1.0 {
        let q = softmax(&set, t);
        let before = |i: usize| q[..i].iter().sum::<f64>();
        set.truncate((0..q.len()).filter(|&i| before(i) <= f64::from(u.top_p)).count());
    }
    if u.top_k > 0 {
        set.truncate(u.top_k as usize);
    }
    let score = |id: usize, l: f64| {
        if u.temperature == 0.0 {
            return l;
        }
        let n = id as u32;
        let words = philox(u.seed, [u.counter as u32, (u.counter >> 32) as u32, n / 4, 2]);
        let uniform = (f64::from(words[id % 4]) + 0.5) / 2f64.powi(32);
        l / t - (-uniform.ln()).ln()
    };
    let shares = softmax(&set, t);
    let scored = set.iter().zip(shares).map(|(&(id, l), share)| (id, score(id, l), share));
    let mut kept: Vec<_> = scored.collect();
    kept.sort_by(|a, b| b.1.total_cmp(&a.1));
    Expected { logprobs, kept }
}

/// How sure the model is of token `id`.
fn surety(e: &Expected, u: &Unmask, id: usize) -> f64 {
    let mut q: Vec<f64> = match u.plain {
        true => e.logprobs.iter().map(|l| l.exp()).collect(),
        false => e.kept.iter().map(|k| k.2).collect(),
    };
    match u.surety {
        Surety::Probability if u.plain => q[id],
        Surety::Probability => e.kept.iter().find(|k| k.0 == id).map_or(f64::NAN, |k| k.2),
        Surety::Entropy => q.iter().filter(|&&p| p > 0.0).map(|p| p * (p + 1e-10).ln()).sum(),
        Surety::Margin => {
            q.sort_by(|a, b| b.total_cmp(a));
            q[0] - q.get(1).copied().unwrap_or(0.0)
        }
    }
}

/// Every way to propose.
fn ways() -> Vec<Unmask> {
    let mut all = vec![];
    for surety in [Surety::Probability, Surety::Margin, Surety::Entropy] {
        for plain in [true, false] {
            for (temperature, top_p, top_k) in [
                (0.0, 1.0, 0),
                (0.0, 0.7, 0),
                (1.0, 1.0, 0),
                (0.4, 0.9, 0),
                (1.8, 0.95, 6),
                (1.0, 1.0, 1),
            ] {
                all.push(Unmask {
                    row: 0,
                    surety,
                    plain,
                    temperature,
                    top_p,
                    top_k,
                    seed: 11,
                    counter: 0,
                });
            }
        }
    }
    all
}

/// Runs every check.
///
/// # Errors
/// What is wrong, in words.
pub fn check<B: Backend>(backend: &B) -> Checked {
    for vocab in [70, 33, 1000] {
        let oracle = Oracle::new(vocab);
        let ways = ways();
        let rows = ways.len() as u32;
        let mut d = oracle.device(backend, rows).map_err(|e| e.to_string())?;
        let mut random = Random::new(21);
        for round in 0..12u64 {
            let ids = random.ids(ways.len(), vocab);
            let unmask: Vec<Unmask> = (0..rows)
                .zip(&ways)
                .map(|(row, way)| Unmask { row, counter: round + (u64::from(row) << 33), ..*way })
                .collect();
            // Some rows guided, one token of each forbidden, as a diffusion has it.
            let bias: Vec<_> =
                (0..rows).map(|row| (row, random.below(vocab), f32::NEG_INFINITY)).collect();
            let combine = [(3, 4, 1.5), (4, 3, 0.5), (20, 9, 2.0)];
            let all = SampleBatch {
                unmask: &unmask,
                bias: &bias,
                combine: &combine,
                ..SampleBatch::default()
            };
            compare(&oracle, &mut d, &ids, &all)?;
            // Fewer than there are rows, in another order, one row twice.
            let some = [unmask[7], unmask[2], Unmask { row: 7, ..unmask[30] }];
            compare(&oracle, &mut d, &ids, &SampleBatch { unmask: &some, ..all })?;
        }
        refusals(&oracle, &mut d)?;
    }
    Ok(())
}

fn propose<B: Backend>(
    d: &mut Device<'_, B>,
    ids: &[u32],
    b: &SampleBatch<'_>,
) -> gristmill_core::Result<Results> {
    let tokens: Vec<Token> = ids.iter().map(|&id| Token::Id(id)).collect();
    let arrays = one_each(d, &tokens)?;
    let step = d.backend.launch(&d.plan, &mut d.context, &arrays.batch())?;
    let sampled = d.backend.sample(&mut d.context, step, b);
    let results = d.finish(step);
    sampled.and(results)
}

fn compare<B: Backend>(
    oracle: &Oracle,
    d: &mut Device<'_, B>,
    ids: &[u32],
    b: &SampleBatch<'_>,
) -> Checked {
    let got = propose(d, ids, b).map_err(|e| e.to_string())?;
    if got.picked.len() != b.unmask.len() {
        return Err(format!("{} proposals for {} places", got.picked.len(), b.unmask.len()));
    }
    for (u, picked) in b.unmask.iter().zip(&got.picked) {
        let row = oracle.adjusted(ids, u.row as usize, b);
        let e = expect(&row, u);
        let id = picked.id as usize;
        let Some(own) = e.kept.iter().find(|k| k.0 == id) else {
            return Err(format!("{u:?}: {id} is left out"));
        };
        // Scores nearer than f32 can tell may come in either order.
        if own.1 < e.kept[0].1 - 1e-4 {
            return Err(format!("{u:?}: {id}, not {}", e.kept[0].0));
        }
        for (got, expected) in
            [(picked.logprob, e.logprobs[id]), (picked.confidence, surety(&e, u, id))]
        {
            if (f64::from(got) - expected).abs() > 1e-4 * expected.abs().max(0.1) {
                return Err(format!("{u:?}: {picked:?}, not {expected}"));
            }
        }
    }
    Ok(())
}

fn refusals<B: Backend>(oracle: &Oracle, d: &mut Device<'_, B>) -> Checked {
    let u = ways()[0];
    let params = [GREEDY];
    let alone = |u: Unmask| [u];
    for (what, unmask, others) in [
        ("no row", alone(Unmask { row: 1, ..u }), SampleBatch::default()),
        ("no temperature", alone(Unmask { temperature: f32::NAN, ..u }), SampleBatch::default()),
        ("no top-p", alone(Unmask { top_p: 0.0, ..u }), SampleBatch::default()),
        ("two kinds", alone(u), SampleBatch { params: &params, ..SampleBatch::default() }),
        ("a slot", alone(u), SampleBatch { slots: &[0], ..SampleBatch::default() }),
        ("wanted", alone(u), SampleBatch { want: &[(0, 1)], ..SampleBatch::default() }),
        ("the top", alone(u), SampleBatch { top_logprobs: 1, ..SampleBatch::default() }),
    ] {
        if propose(d, &[1], &SampleBatch { unmask: &unmask, ..others }).is_ok() {
            return Err(format!("{what}: was accepted"));
        }
    }
    compare(oracle, d, &[1], &SampleBatch { unmask: &[u], ..SampleBatch::default() })
}

/// Rows of a step.
const ROWS: u32 = 100;

/// So many proposals of each kind, as likely as they are.
///
/// # Errors
/// The kind that is not, with the probability that a fair draw looks so.
pub fn frequencies<B: Backend>(backend: &B, draws: usize) -> Checked {
    let oracle = Oracle::new(16);
    let mut d = oracle.device(backend, ROWS).map_err(|e| e.to_string())?;
    let hot = |w: &Unmask| w.temperature > 0.0 && w.plain && w.surety == Surety::Probability;
    for way in ways().into_iter().filter(hot) {
        let id = 3;
        let mut counts = vec![0u64; oracle.vocab];
        for step in 0..draws / ROWS as usize {
            let place = |row: u32| {
                let n = step as u64 * u64::from(ROWS) + u64::from(row);
                // Places of one text in passes one after the other, and seeds one after the other.
                let in_turn = row.is_multiple_of(2);
                let [seed, counter] =
                    if in_turn { [5, ((n / 64) << 32) + n % 64] } else { [n, 1 << 32] };
                Unmask { row, seed, counter, ..way }
            };
            let unmask: Vec<Unmask> = (0..ROWS).map(place).collect();
            let b = SampleBatch { unmask: &unmask, ..SampleBatch::default() };
            let got = propose(&mut d, &[id; ROWS as usize], &b).map_err(|e| e.to_string())?;
            got.picked.iter().for_each(|p| counts[p.id as usize] += 1);
        }
        let mut expected = vec![0.0; oracle.vocab];
        expect(oracle.row(id), &way).kept.iter().for_each(|k| expected[k.0] = k.2);
        let chance = p_value(&counts, &expected);
        let never = counts.iter().zip(&expected).any(|(&c, &e)| e == 0.0 && c > 0);
        if never || chance <= 0.001 {
            return Err(format!("{way:?}: p is {chance:.2e}\n{counts:?}\n{expected:?}"));
        }
    }
    Ok(())
}
