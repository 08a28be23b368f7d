//! How often tokens are drawn, against how likely they are: Pearson's chi-square.

use super::definition::{kept, softmax};
use super::{Checked, Oracle};
use gristmill_ir::{Backend, SampleBatch, Sampling, Token};

/// Draws of each kind.
const DRAWS: usize = 1_000_000;
/// What a fair draw falls below once in a thousand kinds.
const LEAST_P: f64 = 0.001;
/// Rows of a step.
const ROWS: usize = 100;

/// Draws a million tokens of one row with each of `params`, which name no seed that matters.
///
/// # Errors
/// The kind that is not drawn as likely as it is, with the probability that a fair draw looks so.
pub fn check<B: Backend>(backend: &B, params: &[Sampling]) -> Checked {
    let oracle = Oracle::new(16);
    let mut d = oracle.device(backend, ROWS as u32).map_err(|e| e.to_string())?;
    for (kind, p) in params.iter().enumerate() {
        let id = (kind % oracle.vocab) as u32;
        let mut counts = vec![0u64; oracle.vocab];
        for step in 0..DRAWS / ROWS {
            // Half of them are places of one sequence, half are one place in sequences with
            // seeds one after the other.
            let rows: Vec<Sampling> = (0..ROWS as u64)
                .map(|i| {
                    let n = (step * ROWS) as u64 + i;
                    let [seed, counter] = if i % 2 == 0 { [9, n] } else { [n, 1 << 32] };
                    Sampling { seed, counter, ..*p }
                })
                .collect();
            let b = SampleBatch { params: &rows, ..SampleBatch::default() };
            let got = oracle.sample(&mut d, &[Token::Id(id); ROWS], &b);
            let got = got.map_err(|e| e.to_string())?;
            got.picked.iter().for_each(|p| counts[p.id as usize] += 1);
        }
        let expected = expected(&oracle, id, p);
        let never = |(&c, &e): (&u64, &f64)| e == 0.0 && c > 0;
        if let Some(token) = counts.iter().zip(&expected).position(never) {
            return Err(format!("{p:?}: drew {token}, which is left out"));
        }
        let chance = p_value(&counts, &expected);
        if chance <= LEAST_P {
            return Err(format!("{p:?}: p is {chance:.2e}\n{counts:?}\n{expected:?}"));
        }
    }
    Ok(())
}

/// Probabilities of all tokens after token `id`.
fn expected(oracle: &Oracle, id: u32, p: &Sampling) -> Vec<f64> {
    let mut all = vec![0.0; oracle.vocab];
    let chance = f64::from(p.xtc_probability);
    for (xtc, weight) in [(false, 1.0 - chance), (true, chance)] {
        let set = kept(oracle.row(id), p, xtc);
        for (c, q) in set.iter().zip(softmax(&set, p.temperature.into())) {
            all[c.0] += weight * q;
        }
    }
    all
}

/// The probability of counts at least this far from what is expected. Tokens expected fewer than
/// ten times count as one.
pub fn p_value(counts: &[u64], expected: &[f64]) -> f64 {
    let total = counts.iter().sum::<u64>() as f64;
    let (mut cells, mut rest) = (vec![], (0.0, 0.0));
    for (&c, &q) in counts.iter().zip(expected) {
        let cell = (c as f64, q * total);
        if cell.1 >= 10.0 {
            cells.push(cell);
        } else {
            rest = (rest.0 + cell.0, rest.1 + cell.1);
        }
    }
    if rest.1 > 0.0 {
        cells.push(rest);
    }
    let chi: f64 = cells.iter().map(|(c, e)| (c - e).powi(2) / e).sum();
    if cells.len() < 2 { 1.0 } else { upper_tail(chi, cells.len() - 1) }
}

/// The probability that a chi-square of so many degrees of freedom is above `x`: by the recurrence
/// `Q(k + 2) = Q(k) + (x/2)^(k/2) e^(-x/2) / Γ(k/2 + 1)` (Abramowitz and Stegun, 26.4.8).
fn upper_tail(x: f64, freedom: usize) -> f64 {
    let half = x / 2.0;
    let pi = std::f64::consts::PI;
    let (mut k, mut tail, mut term) = match freedom % 2 {
        0 => (2, (-half).exp(), half * (-half).exp()),
        _ => (1, erfc(half.sqrt()), (half / pi).sqrt() * 2.0 * (-half).exp()),
    };
    while k < freedom {
        tail += term;
        k += 2;
        term *= half / (k as f64 / 2.0);
    }
    tail
}

/// `2/√π ∫ e^(-t²)` from `z` on, by Simpson's rule as far as it counts.
fn erfc(z: f64) -> f64 {
    let (n, width) = (4000, 8.0);
    let h = width / f64::from(n);
    let value = |i: i32| (-(z + f64::from(i) * h).powi(2)).exp();
    let inner: f64 = (1..n).map(|i| value(i) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
    2.0 / std::f64::consts::PI.sqrt() * h / 3.0 * (value(0) + inner + value(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Table 26.8 of Abramowitz and Stegun: chi-square with upper tails 0.001, 0.05 and 0.5.
    #[test]
    fn tails() {
        for (freedom, [a, b, c]) in [
            (1, [10.828, 3.84146, 0.454936]),
            (2, [13.816, 5.99147, 1.38629]),
            (5, [20.515, 11.0705, 4.35146]),
            (10, [29.588, 18.3070, 9.34182]),
            (15, [37.697, 24.9958, 14.3389]),
        ] {
            for (x, tail) in [(a, 0.001), (b, 0.05), (c, 0.5)] {
                let got = upper_tail(x, freedom);
                assert!((got / tail - 1.0).abs() < 1e-3, "{freedom}, {x}: {got}");
            }
        }
    }
}
