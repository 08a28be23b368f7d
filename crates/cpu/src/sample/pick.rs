//! A token of a row of logits: what is left out, then the draw. [`gristmill_ir::Sampling`] says
//! what each number means.
//!
//! Sums run in f64 over the tokens in an order that depends on nothing but the row, so a row gives
//! the same token alone and among others, on any number of threads and every instruction set.

use crate::kernels::logits::Peak;
use gristmill_core::{philox, unit};
use gristmill_ir::{MIROSTAT_FIT, Mirostat, Picked, Sampling};
use std::cmp::Ordering;

/// A logit and its token.
pub(crate) type Candidate = (f32, u32);

/// Most likely first; equal logits by token, so that a choice is the same everywhere.
pub(crate) fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Picks a token of `logits`, of which one at least is finite. `kept` is scratch with room for the
/// vocabulary.
pub(crate) fn pick(logits: &[f32], peak: Peak, p: &Sampling, kept: &mut Vec<Candidate>) -> Picked {
    let picked = |id: u32, confidence: f32| {
        let logprob = logits[id as usize] - peak.log_sum;
        Picked { id, confidence, logprob }
    };
    let mirostat = p.mirostat != Mirostat::Off;
    // Only these two leave out the most likely.
    let top_stays = mirostat || (p.typical_p >= 1.0 && p.xtc_probability == 0.0);
    if p.temperature == 0.0 && top_stays {
        return picked(peak.index as u32, 1.0);
    }
    collect(logits, peak.max, p, kept);
    match p.mirostat {
        Mirostat::Off => truncate(p, kept),
        Mirostat::V1 => {
            let k = zipf_rank(p, logits.len(), kept);
            keep_most_likely(kept, k);
        }
        Mirostat::V2 => keep_unsurprising(p, kept),
    }
    if p.temperature == 0.0 {
        let best = kept.iter().min_by(|a, b| likelier(a, b));
        return picked(best.map_or(peak.index as u32, |b| b.1), 1.0);
    }
    let (id, confidence) = draw(p, kept);
    picked(id, confidence)
}

/// Gathers what can be drawn at all, and leaves out at once what a bound known beforehand leaves
/// out: that of top-n-sigma, and that of min-p where nothing before it depends on the rest.
fn collect(logits: &[f32], max: f32, p: &Sampling, kept: &mut Vec<Candidate>) {
    let mut floor = f64::from(f32::MIN); // impossible tokens are at minus infinity
    if p.mirostat == Mirostat::Off {
        if p.top_n_sigma > 0.0 {
            floor = floor.max(f64::from(max) - f64::from(p.top_n_sigma) * deviation(logits));
        }
        if p.min_p > 0.0 && p.typical_p >= 1.0 && p.top_p >= 1.0 {
            floor = floor.max(f64::from(max) + f64::from(p.min_p).ln());
        }
    }
    kept.clear();
    let above = logits.iter().enumerate().filter(|l| f64::from(*l.1) >= floor);
    kept.extend(above.map(|(i, &l)| (l, i as u32)));
}

/// Standard deviation of the finite logits.
fn deviation(logits: &[f32]) -> f64 {
    let finite = || logits.iter().filter(|l| l.is_finite()).map(|&l| f64::from(l));
    let n = finite().count() as f64;
    let mean = finite().sum::<f64>() / n;
    (finite().map(|l| (l - mean).powi(2)).sum::<f64>() / n).sqrt()
}

fn truncate(p: &Sampling, kept: &mut Vec<Candidate>) {
    if p.top_k > 0 {
        keep_most_likely(kept, p.top_k as usize);
    }
    if p.typical_p < 1.0 {
        keep_typical(p, kept);
    }
    if p.top_p < 1.0 {
        kept.sort_unstable_by(likelier);
        keep_mass(kept, |mass| mass >= f64::from(p.top_p));
    }
    if p.min_p > 0.0 {
        let floor = f64::from(largest(kept)) + f64::from(p.min_p).ln();
        kept.retain(|c| f64::from(c.0) >= floor);
    }
    if p.xtc_probability > 0.0 && unit(words(p, 0, 1)[0]) <= p.xtc_probability {
        leave_out_top(p, kept);
    }
}

/// The largest logit.
fn largest(kept: &[Candidate]) -> f32 {
    kept.iter().fold(f32::NEG_INFINITY, |m, c| m.max(c.0))
}

pub(super) fn keep_most_likely(kept: &mut Vec<Candidate>, k: usize) {
    if k < kept.len() {
        kept.select_nth_unstable_by(k - 1, likelier);
        kept.truncate(k);
    }
}

/// Keeps the first ones, up to where `enough` holds of their probability.
fn keep_mass(kept: &mut Vec<Candidate>, enough: impl Fn(f64) -> bool) {
    let top = largest(kept);
    let mass = |c: &Candidate| f64::from(c.0 - top).exp();
    let total: f64 = kept.iter().map(mass).sum();
    let mut sum = 0.0;
    let last = kept.iter().position(|c| {
        sum += mass(c);
        enough(sum / total)
    });
    kept.truncate(last.map_or(kept.len(), |i| i + 1));
}

fn keep_typical(p: &Sampling, kept: &mut Vec<Candidate>) {
    let top = largest(kept);
    let (mut sum, mut weighted) = (0.0, 0.0);
    for c in &*kept {
        let l = f64::from(c.0 - top);
        sum += l.exp();
        weighted += l.exp() * l;
    }
    // -ln p is ln sum - l, so the entropy is ln sum - Σ p l, and ln sum cancels in the distance.
    let mean = weighted / sum;
    let distance = |c: &Candidate| (f64::from(c.0 - top) - mean).abs();
    kept.sort_unstable_by(|a, b| distance(a).total_cmp(&distance(b)).then(likelier(a, b)));
    keep_mass(kept, |mass| mass > f64::from(p.typical_p));
}

fn leave_out_top(p: &Sampling, kept: &mut Vec<Candidate>) {
    let top = largest(kept);
    let sum: f64 = kept.iter().map(|c| f64::from(c.0 - top).exp()).sum();
    let floor = f64::from(p.xtc_threshold) * sum;
    let likely = |c: &Candidate| f64::from(c.0 - top).exp() >= floor;
    let Some(stays) = kept.iter().copied().filter(likely).max_by(likelier) else { return };
    kept.retain(|c| c.1 == stays.1 || !likely(c));
}

/// How many tokens the first mirostat keeps; sorts the most likely to the front.
fn zipf_rank(p: &Sampling, vocab: usize, kept: &mut [Candidate]) -> usize {
    let m = kept.len().min(MIROSTAT_FIT);
    if m < kept.len() {
        kept.select_nth_unstable_by(m - 1, likelier);
    }
    kept[..m].sort_unstable_by(likelier);
    let (mut tb, mut tt) = (0.0, 0.0);
    for (i, pair) in kept[..m].windows(2).enumerate() {
        let rank = (i + 1) as f64;
        let t = ((rank + 1.0) / rank).ln();
        tb += t * f64::from(pair[0].0 - pair[1].0) / f64::from(p.temperature);
        tt += t * t;
    }
    let s = tb / tt;
    let e = s - 1.0;
    // e / (1 - vocab^-e), whose limit for e towards 0 is 1 / ln vocab.
    let ln_vocab = (vocab as f64).ln();
    let ratio = if e == 0.0 { 1.0 / ln_vocab } else { -e / (-e * ln_vocab).exp_m1() };
    // Not a number (a single token) becomes 0, too large the largest.
    let k = (ratio * f64::from(p.mu).exp2()).powf(1.0 / s) as usize;
    k.max(1)
}

/// The second mirostat.
fn keep_unsurprising(p: &Sampling, kept: &mut Vec<Candidate>) {
    let top = largest(kept);
    let scaled = |c: &Candidate| f64::from(c.0 - top) / f64::from(p.temperature);
    let log_sum = kept.iter().map(|c| scaled(c).exp()).sum::<f64>().ln();
    let most = f64::from(p.mu) * std::f64::consts::LN_2;
    // Surprise grows as logits fall: where nothing is below the bound, one of the largest stays.
    match log_sum <= most {
        true => kept.retain(|c| log_sum - scaled(c) <= most),
        false => keep_most_likely(kept, 1),
    }
}

/// Philox words `[block, stream]` of a row.
fn words(p: &Sampling, block: u32, stream: u32) -> [u32; 4] {
    philox(p.seed, [p.counter as u32, (p.counter >> 32) as u32, block, stream])
}

/// Draws one of those kept; gives its probability among them.
fn draw(p: &Sampling, kept: &[Candidate]) -> (u32, f32) {
    let top = largest(kept);
    let inverse = 1.0 / p.temperature;
    let (mut best, mut probability) = ((f32::NEG_INFINITY, u32::MAX), 0.0);
    let mut sum = 0.0f64;
    // Four tokens share a block, and come one after the other where nothing sorted them.
    let mut noise = (u32::MAX, [0; 4]);
    for &(l, id) in kept {
        if noise.0 != id / 4 {
            noise = (id / 4, words(p, id / 4, 0));
        }
        let gumbel = -(-unit(noise.1[id as usize % 4]).ln()).ln();
        let scaled = (l - top) * inverse;
        let mass = f64::from(scaled).exp();
        sum += mass;
        let score = scaled + gumbel;
        if score > best.0 || (score == best.0 && id < best.1) {
            (best, probability) = ((score, id), mass);
        }
    }
    (best.1, (probability / sum) as f32)
}
