//! What each way of leaving tokens out means, in f64, by the formulas of the papers that
//! `gristmill_ir::Sampling` names.

use gristmill_core::{philox, unit};
use gristmill_ir::{Mirostat, Sampling};

/// Tokens with their logits, most likely first.
pub type Ranked = Vec<(usize, f64)>;

/// Those that a row keeps. `xtc` says whether the top is left out, which is up to chance.
pub fn kept(logits: &[f64], p: &Sampling, xtc: bool) -> Ranked {
    let mut set: Ranked = logits.iter().copied().enumerate().collect();
    set.retain(|c| c.1 > f64::NEG_INFINITY);
    set.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let greedy = p.temperature == 0.0;
    match p.mirostat {
        Mirostat::V1 if !greedy => set.truncate(zipf(&set, p, logits.len())),
        Mirostat::V2 if !greedy => {
            let probabilities = softmax(&set, p.temperature.into());
            let calm = probabilities.iter().filter(|q| -q.log2() <= f64::from(p.mu)).count();
            set.truncate(calm.max(1));
        }
        Mirostat::Off => truncate(&mut set, p, xtc),
        _ => {}
    }
    if greedy {
        set.truncate(1);
    }
    set
}

/// Whether the top is left out where it may be.
pub fn leaves_out_top(p: &Sampling) -> bool {
    let words = philox(p.seed, [p.counter as u32, (p.counter >> 32) as u32, 0, 1]);
    p.xtc_probability > 0.0 && unit(words[0]) <= p.xtc_probability
}

/// Probabilities at a temperature.
pub fn softmax(set: &[(usize, f64)], temperature: f64) -> Vec<f64> {
    let top = set.iter().fold(f64::NEG_INFINITY, |m, c| m.max(c.1));
    let powers: Vec<f64> = set.iter().map(|c| ((c.1 - top) / temperature).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|v| v / sum).collect()
}

fn truncate(set: &mut Ranked, p: &Sampling, xtc: bool) {
    if p.top_n_sigma > 0.0 {
        let n = set.len() as f64;
        let mean = set.iter().map(|c| c.1).sum::<f64>() / n;
        let variance = set.iter().map(|c| (c.1 - mean) * (c.1 - mean)).sum::<f64>() / n;
        let floor = set[0].1 - f64::from(p.top_n_sigma) * variance.sqrt();
        set.retain(|c| c.1 >= floor);
    }
    if p.top_k > 0 {
        set.truncate(p.top_k as usize);
    }
    if p.typical_p < 1.0 {
        let q = softmax(set, 1.0);
        let entropy: f64 = q.iter().map(|q| -q * q.ln()).sum();
        let mut order: Vec<usize> = (0..set.len()).collect();
        order.sort_by(|&a, &b| {
            (-q[a].ln() - entropy).abs().total_cmp(&(-q[b].ln() - entropy).abs())
        });
        let mut stays = vec![false; set.len()];
        let mut mass = 0.0;
        for i in order {
            stays[i] = true;
            mass += q[i];
            if mass > f64::from(p.typical_p) {
                break;
            }
        }
        let mut stays = stays.into_iter();
        set.retain(|_| stays.next() == Some(true));
    }
    if p.top_p < 1.0 {
        let q = softmax(set, 1.0);
        let before = |i: usize| q[..i].iter().sum::<f64>();
        set.truncate((0..q.len()).filter(|&i| before(i) < f64::from(p.top_p)).count());
    }
    let q = softmax(set, 1.0);
    set.truncate(q.iter().filter(|&&v| v >= f64::from(p.min_p) * q[0]).count());
    if xtc {
        let q = softmax(set, 1.0);
        let likely = q.iter().filter(|&&v| v >= f64::from(p.xtc_threshold)).count();
        set.drain(..likely.saturating_sub(1));
    }
}

/// How many the first mirostat keeps: equations 30 and 34 of its paper.
fn zipf(set: &[(usize, f64)], p: &Sampling, vocab: usize) -> usize {
    let q = softmax(set, p.temperature.into());
    let (mut over, mut under) = (0.0, 0.0);
    for i in 1..q.len().min(100) {
        let t = ((i + 1) as f64 / i as f64).ln();
        over += t * (q[i - 1] / q[i]).ln();
        under += t * t;
    }
    let s = over / under;
    let e = s - 1.0;
    let k = (e * 2f64.powf(p.mu.into()) / (1.0 - (vocab as f64).powf(-e))).powf(1.0 / s);
    (k as usize).max(1)
}
