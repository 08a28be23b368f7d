//! Sampling a row of logits.
//!
//! Order: masks and biases, top-k, top-p, min-p, temperature, then the draw. Top-p and min-p look
//! at the distribution at temperature 1, as llama.cpp's default order does. The draw is a Gumbel
//! maximum: token `i` scores `l_i / T - ln(-ln u_i)` with `u_i` from Philox, keyed by the seed and
//! counted by the token's place in its sequence and `i`; the largest score wins. That is an exact
//! draw from the softmax, needs no order of summation, and gives the same token on every device.

use gristmill_core::{Error, Result, philox, unit};
use gristmill_ir::{Picked, SampleBatch, Sampling};

/// What [`crate::kernels::logits::peak`] said of the row.
pub(crate) use crate::kernels::logits::Peak;

/// Checks the parameters of a row.
fn check(p: &Sampling) -> Result<()> {
    let bad = |what: &str, v: f32| Err(Error::Usage(format!("{what} {v} is out of range")));
    if !(0.0..=f32::MAX).contains(&p.temperature) {
        return bad("temperature", p.temperature);
    }
    if !(0.0..=1.0).contains(&p.top_p) {
        return bad("top-p", p.top_p);
    }
    if !(0.0..=1.0).contains(&p.min_p) {
        return bad("min-p", p.min_p);
    }
    Ok(())
}

/// Checks that everything to sample exists: `rows` rows of `vocab` logits, `slots` slots.
pub(crate) fn check_batch(
    b: &SampleBatch<'_>,
    rows: usize,
    vocab: usize,
    slots: usize,
) -> Result<()> {
    let bad = |what: String| Err(Error::Runtime(format!("sampling: {what}")));
    if b.params.len() != rows {
        return bad(format!("parameters of {} rows for {rows} rows of logits", b.params.len()));
    }
    for (what, n) in [("slots", b.slots.len()), ("masks", b.allow_row.len())] {
        if n != 0 && n != rows {
            return bad(format!("{n} {what} for {rows} rows of logits"));
        }
    }
    b.params.iter().try_for_each(check)?;
    if let Some(slot) = b.slots.iter().find(|&&s| s != u32::MAX && s as usize >= slots) {
        return bad(format!("slot {slot} does not exist"));
    }
    let masks = b.allow.len() / vocab.div_ceil(32).max(1);
    if let Some(mask) = b.allow_row.iter().find(|&&m| m >= masks as i32) {
        return bad(format!("mask {mask} does not exist"));
    }
    let tokens = b.bias.iter().map(|&(row, token, _)| (row, token)).chain(b.want.iter().copied());
    for (row, token) in tokens {
        if row as usize >= rows || token as usize >= vocab {
            return bad(format!("there is no token {token} in row {row}"));
        }
    }
    match b.combine.iter().find(|c| c.0.max(c.1) as usize >= rows) {
        Some(c) => bad(format!("guidance of row {} from row {}", c.0, c.1)),
        None => Ok(()),
    }
}

/// Picks a token of `logits`. `kept` is scratch with room for the vocabulary.
pub(crate) fn pick(logits: &[f32], peak: Peak, p: &Sampling, kept: &mut Vec<(f32, u32)>) -> Picked {
    let logprob = |id: usize| logits[id] - peak.log_sum;
    if p.temperature == 0.0 {
        return Picked { id: peak.index as u32, confidence: 1.0, logprob: logprob(peak.index) };
    }
    kept.clear();
    // Everything min-p would drop, and all that is impossible, goes before any sorting.
    let floor = if p.min_p > 0.0 { peak.max + p.min_p.ln() } else { f32::NEG_INFINITY };
    let early = floor.max(f32::MIN);
    let k = p.top_k as usize;
    let truncates = (k > 0 && k < logits.len()) || p.top_p < 1.0;
    // Top-p counts mass over what top-k keeps, so min-p may only come first when it comes alone.
    let cut = if p.top_p < 1.0 { f32::MIN } else { early };
    kept.extend(logits.iter().enumerate().filter(|l| *l.1 >= cut).map(|(i, &l)| (l, i as u32)));
    if truncates {
        // Most likely first; equal logits by index, so that the choice is the same everywhere.
        let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if k > 0 && k < kept.len() {
            kept.select_nth_unstable_by(k - 1, order);
            kept.truncate(k);
        }
        if p.top_p < 1.0 {
            kept.sort_unstable_by(order);
            let total: f64 = kept.iter().map(|c| f64::from(c.0 - peak.max).exp()).sum();
            let mut sum = 0.0;
            let enough = kept.iter().position(|c| {
                sum += f64::from(c.0 - peak.max).exp();
                sum >= f64::from(p.top_p) * total
            });
            kept.truncate(enough.map_or(kept.len(), |i| i + 1));
            kept.retain(|c| c.0 >= early);
        }
    }
    let inverse = 1.0 / p.temperature;
    let mut best = (f32::NEG_INFINITY, peak.index as u32);
    let mut sum = 0.0f64;
    for &(l, id) in &*kept {
        let words = philox(p.seed, [p.counter as u32, (p.counter >> 32) as u32, id / 4, 0]);
        let noise = -(-unit(words[id as usize % 4]).ln()).ln();
        let scaled = (l - peak.max) * inverse;
        sum += f64::from(scaled).exp();
        let score = scaled + noise;
        if score > best.0 || (score == best.0 && id < best.1) {
            best = (score, id);
        }
    }
    let id = best.1 as usize;
    let confidence = (f64::from((logits[id] - peak.max) * inverse).exp() / sum) as f32;
    Picked { id: best.1, confidence, logprob: logprob(id) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peak_of(logits: &[f32]) -> Peak {
        let max = logits.iter().copied().fold(f32::MIN, f32::max);
        let sum: f64 = logits.iter().map(|&l| f64::from(l - max).exp()).sum();
        let index = logits.iter().position(|&l| l == max).unwrap();
        Peak { index, max, log_sum: max + sum.ln() as f32 }
    }

    fn params(temperature: f32, top_k: u32, top_p: f32, min_p: f32) -> Sampling {
        Sampling { temperature, top_k, top_p, min_p, seed: 7, counter: 0 }
    }

    /// Frequencies of many draws against the distribution computed in f64 by the definition of each
    /// step, and the support exactly.
    #[test]
    fn draws_follow_the_truncated_distribution() {
        let logits: Vec<f32> = (0..23).map(|i| ((i * 7 % 23) as f32) * 0.31 - 3.0).collect();
        let peak = peak_of(&logits);
        for p in [
            params(1.0, 0, 1.0, 0.0),
            params(0.7, 0, 1.0, 0.0),
            params(1.5, 5, 1.0, 0.0),
            params(1.0, 0, 0.8, 0.0),
            params(1.0, 9, 0.9, 0.0),
            params(0.8, 0, 1.0, 0.2),
            params(1.2, 12, 0.95, 0.05),
        ] {
            // The definition: keep k, then the fewest that reach top_p, then min_p of the best.
            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
            if p.top_k > 0 {
                order.truncate(p.top_k as usize);
            }
            let mass = |i: usize| f64::from(logits[i] - peak.max).exp();
            let total: f64 = order.iter().map(|&i| mass(i)).sum();
            let mut sum = 0.0;
            let mut n = order.len();
            for (j, &i) in order.iter().enumerate() {
                sum += mass(i) / total;
                if sum >= f64::from(p.top_p) {
                    n = j + 1;
                    break;
                }
            }
            order.truncate(n);
            order.retain(|&i| mass(i) >= f64::from(p.min_p) * (1.0 - 1e-6));
            let heat = |i: usize| (f64::from(logits[i]) / f64::from(p.temperature)).exp();
            let total: f64 = order.iter().map(|&i| heat(i)).sum();

            let draws = 40_000u64;
            let mut counts = vec![0u64; logits.len()];
            let mut scratch = vec![];
            for counter in 0..draws {
                let got = pick(&logits, peak, &Sampling { counter, ..p }, &mut scratch);
                counts[got.id as usize] += 1;
                let expected = heat(got.id as usize) / total;
                assert!((f64::from(got.confidence) - expected).abs() < 1e-5, "{p:?}");
            }
            let mut chi = 0.0;
            for (i, &c) in counts.iter().enumerate() {
                if !order.contains(&i) {
                    assert_eq!(c, 0, "{p:?} drew {i}");
                    continue;
                }
                let expected = draws as f64 * heat(i) / total;
                chi += (c as f64 - expected).powi(2) / expected;
            }
            // The 0.9999 quantile for 22 degrees of freedom is 54.
            assert!(chi < 54.0, "{p:?}: chi square {chi:.1}");
        }
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        let logits = [1.0, 3.0, 3.0, -1.0];
        let got = pick(&logits, peak_of(&logits), &params(0.0, 0, 1.0, 0.0), &mut vec![]);
        assert_eq!(got.id, 1);
    }
}
