//! The token proposed for a masked place, and how sure the model is of it, as
//! [`gristmill_ir::Unmask`] defines them. Sums run in f64 in an order that depends on the row alone.

use super::pick::{Candidate, keep_most_likely, likelier};
use crate::kernels::logits::Peak;
use gristmill_core::{philox, unit_f64};
use gristmill_ir::{Picked, Surety, Unmask};

/// Proposes a token from `logits`, of which one at least is finite. `kept` is scratch with room for
/// the vocabulary.
pub(crate) fn propose(logits: &[f32], peak: Peak, u: &Unmask, kept: &mut Vec<Candidate>) -> Picked {
    let probability = |l: f32| f64::from(l - peak.log_sum).exp();
    let picked = |id: u32, confidence: f64| {
        let logprob = logits[id as usize] - peak.log_sum;
        Picked { id, confidence: confidence as f32, logprob }
    };
    let whole = u.top_p >= 1.0 && (u.top_k == 0 || u.top_k as usize >= logits.len());
    let cold = u.temperature == 0.0;
    if cold && (whole || u.plain) && u.surety == Surety::Probability {
        return picked(peak.index as u32, probability(peak.max));
    }
    kept.clear();
    kept.extend(logits.iter().enumerate().map(|(i, &l)| (l, i as u32)));
    kept.retain(|c| c.0 >= f32::MIN); // impossible tokens are at minus infinity
    let plain = u.plain.then(|| surety(kept, 1.0, u.surety));
    let temperature = if cold { 1.0 } else { f64::from(u.temperature) };
    if u.top_p < 1.0 {
        keep_mass(kept, temperature, u.top_p);
    }
    if u.top_k > 0 {
        keep_most_likely(kept, u.top_k as usize);
    }
    let id = if cold { peak.index as u32 } else { draw(kept, temperature, u) };
    let sure = plain.unwrap_or_else(|| surety(kept, temperature, u.surety));
    let confidence = match sure {
        Sure::Known(v) => v,
        Sure::OfToken { .. } if u.plain => probability(logits[id as usize]),
        Sure::OfToken { top, sum } => {
            (f64::from(logits[id as usize] - top) / temperature).exp() / sum
        }
    };
    picked(id, confidence)
}

/// How sure the model is, as far as it is known before the token is.
enum Sure {
    Known(f64),
    /// What the token's probability follows from: the largest logit and the sum of the powers.
    OfToken {
        top: f32,
        sum: f64,
    },
}

fn largest(kept: &[Candidate]) -> f32 {
    kept.iter().fold(f32::NEG_INFINITY, |m, c| m.max(c.0))
}

fn surety(kept: &[Candidate], temperature: f64, what: Surety) -> Sure {
    let top = largest(kept);
    let mass = |c: &Candidate| (f64::from(c.0 - top) / temperature).exp();
    let sum: f64 = kept.iter().map(mass).sum();
    match what {
        Surety::Probability => Sure::OfToken { top, sum },
        Surety::Entropy => {
            let term = |p: f64| p * (p + 1e-10).ln();
            Sure::Known(kept.iter().map(|c| term(mass(c) / sum)).sum())
        }
        Surety::Margin => {
            // The two most likely, in whatever order the row has them.
            let (mut first, mut second) = (0.0f64, 0.0f64);
            for m in kept.iter().map(mass) {
                second = second.max(m.min(first));
                first = first.max(m);
            }
            Sure::Known((first - second) / sum)
        }
    }
}

/// Keeps the fewest whose probabilities sum to more than `p`, most likely first.
fn keep_mass(kept: &mut Vec<Candidate>, temperature: f64, p: f32) {
    kept.sort_unstable_by(likelier);
    let top = largest(kept);
    let mass = |c: &Candidate| (f64::from(c.0 - top) / temperature).exp();
    let total: f64 = kept.iter().map(mass).sum();
    let mut sum = 0.0;
    let last = kept.iter().position(|c| {
        sum += mass(c);
        sum / total > f64::from(p)
    });
    kept.truncate(last.map_or(kept.len(), |i| i + 1));
}

fn draw(kept: &[Candidate], temperature: f64, u: &Unmask) -> u32 {
    let top = largest(kept);
    let mut best = (f64::NEG_INFINITY, u32::MAX);
    // Four tokens share a block, and come one after the other where nothing sorted them.
    let mut noise = (u32::MAX, [0; 4]);
    for &(l, id) in kept {
        if noise.0 != id / 4 {
            let counter = [u.counter as u32, (u.counter >> 32) as u32, id / 4, 2];
            noise = (id / 4, philox(u.seed, counter));
        }
        let uniform = unit_f64(noise.1[id as usize % 4]);
        let score = f64::from(l - top) / temperature - (-uniform.ln()).ln();
        if score > best.0 || (score == best.0 && id < best.1) {
            best = (score, id);
        }
    }
    best.1
}
