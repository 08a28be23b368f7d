//! Which of the proposed tokens are committed.

use gristmill_core::{philox, unit_f64};

/// A number strictly between 0 and 1 for a place of a step: the first word of Philox at `[place,
/// step, 0, 3]`, where the noise of tokens has 2 in place of 3.
pub(super) fn uniform(seed: u64, step: u32, place: u32) -> f64 {
    unit_f64(philox(seed, [place, step, 0, 3])[0])
}

/// Adds the noise that turns "the largest" into a draw without putting back, with probabilities
/// proportional to `exp(surety / temperature)` (Gumbel's trick for several, Kool et al. 2019).
pub(super) fn by_chance(surety: f64, temperature: f32, uniform: f64) -> f64 {
    surety / f64::from(temperature) - (-uniform.ln()).ln()
}

/// Indices by surety, the highest first; equal ones in their order.
pub(super) fn order(surety: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..surety.len()).collect();
    order.sort_by(|&a, &b| surety[b].total_cmp(&surety[a]));
    order
}

/// How many of `sorted` sureties, the highest first, a threshold commits: all at or above it, and
/// always one.
pub(super) fn above(sorted: impl Iterator<Item = f64>, threshold: f32) -> usize {
    sorted.take_while(|&c| c >= f64::from(threshold)).count().max(1)
}

/// The largest `n` with `(n + 1) (1 - c_n) < f`, where `c_n` is the `n`th highest; always one. The
/// left side grows with `n`, so the first that does not hold ends it.
pub(super) fn within_factor(sorted: impl Iterator<Item = f64>, f: f32) -> usize {
    let holds = |&(i, c): &(usize, f64)| (i as f64 + 2.0) * (1.0 - c) < f64::from(f);
    sorted.enumerate().take_while(holds).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_by_hand() {
        let c = [0.99, 0.95, 0.9, 0.4];
        assert_eq!(above(c.into_iter(), 0.9), 3);
        assert_eq!(above(c.into_iter(), 1.5), 1);
        // 2 · 0.01, 3 · 0.05, 4 · 0.1, 5 · 0.6
        assert_eq!(within_factor(c.into_iter(), 0.3), 2);
        assert_eq!(within_factor(c.into_iter(), 0.45), 3);
        assert_eq!(within_factor(c.into_iter(), 4.0), 4);
        assert_eq!(within_factor(c.into_iter(), 0.0), 1);
        assert_eq!(order(&[0.1, 0.7, 0.7, f64::NEG_INFINITY, 0.9]), [4, 1, 2, 0, 3]);
    }

    /// Two of three without putting back: the chance of each pair is the sum over its two orders.
    #[test]
    fn places_by_chance_are_drawn_as_likely_as_they_are() {
        let surety = [0.2, 0.9, 0.5];
        let t = 0.3f32;
        let w: Vec<f64> = surety.iter().map(|s| (s / f64::from(t)).exp()).collect();
        let total: f64 = w.iter().sum();
        let pair = |a: usize, b: usize| {
            let (p, q) = (w[a] / total, w[b] / total);
            p * q / (1.0 - p) + q * p / (1.0 - q)
        };
        let n = 200_000u32;
        let mut counts = [0u32; 3];
        for step in 0..n {
            let key = |i: usize| by_chance(surety[i], t, uniform(4, step, i as u32));
            let best = order(&[key(0), key(1), key(2)]);
            counts[best[2]] += 1; // the one left out names the pair
        }
        for (out, pair) in [(0, pair(1, 2)), (1, pair(0, 2)), (2, pair(0, 1))] {
            let (got, sd) = (f64::from(counts[out]) / f64::from(n), (pair / f64::from(n)).sqrt());
            assert!((got - pair).abs() < 4.0 * sd, "{got} of the time, not {pair}");
        }
    }
}
