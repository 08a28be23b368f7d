//! Rotations by their definitions.

use gristmill_ir::{Rope, RopePairs, Yarn};

/// Radians a position for each pair, as the f32 that models are trained with: `theta^(-2i/dims)`,
/// scaled, divided by the pair's factor.
///
/// YaRN (Peng et al. 2023) tells pairs apart by the turns they make in the original context: those
/// up to the last that makes `fast` turns or more are left alone, those from the first that makes
/// `slow` turns or fewer are scaled, and between them the mixture changes evenly. Where its ends are
/// not truncated to pairs, they lie between them, where a pair would make just so many turns.
pub(super) fn frequencies(r: &Rope, factors: Option<&[f64]>) -> Vec<f32> {
    let plain = |i: u32| (f64::from(r.theta).ln() * -2.0 * f64::from(i) / f64::from(r.dims)).exp();
    let scaled_share = |i: u32, y: &Yarn| {
        let turns = |i: &u32| plain(*i) * f64::from(y.original_context) / std::f64::consts::TAU;
        let all = 0..r.dims;
        let (alone, scaled) = if y.truncate {
            let alone = all.clone().filter(|i| turns(i) >= f64::from(y.fast)).max().unwrap_or(0);
            let scaled = all.clone().find(|i| turns(i) <= f64::from(y.slow));
            (f64::from(alone), f64::from(scaled.unwrap_or(r.dims - 1)))
        } else {
            // turns(i) falls by the same factor from pair to pair.
            let fall = (turns(&0) / turns(&1)).ln();
            let place = |n: f32| (turns(&0) / f64::from(n)).ln() / fall;
            (place(y.fast).max(0.0), place(y.slow).min(f64::from(r.dims - 1)))
        };
        ((f64::from(i) - alone) / (scaled - alone).max(0.001)).clamp(0.0, 1.0)
    };
    let pair = |i: u32| {
        let share = r.yarn.as_ref().map_or(1.0, |y| scaled_share(i, y));
        let mixed = plain(i) * (f64::from(r.scale) * share + 1.0 - share);
        (mixed / factors.map_or(1.0, |f| f[i as usize])) as f32
    };
    (0..r.dims / 2).map(pair).collect()
}

/// Rotates a head in place.
pub(super) fn rotate(head: &mut [f64], rope: &Rope, frequencies: &[f32], positions: [u32; 3]) {
    let half = rope.dims as usize / 2;
    for (i, &f) in frequencies.iter().enumerate() {
        let component = rope.sections.map_or(0, |[a, b, _]| {
            usize::from(i >= a as usize) + usize::from(i >= (a + b) as usize)
        });
        let (sin, cos) = f64::from(positions[component] as f32 * f).sin_cos();
        let m = f64::from(rope.magnitude);
        let (a, b) = match rope.pairs {
            RopePairs::Adjacent => (2 * i, 2 * i + 1),
            RopePairs::Halves => (i, i + half),
        };
        let (u, v) = (head[a], head[b]);
        head[a] = m * (u * cos - v * sin);
        head[b] = m * (u * sin + v * cos);
    }
}
