//! Least-squares fits that the K-quant quantizers share.
//!
//! Given weights `x` and the largest integer, find the scale (and minimum) whose rounded integers
//! leave the least weighted squared error. Candidate scales near the range of the data are tried;
//! for the integers of each, the best scale has a closed form, which is then used for a last
//! rounding. The weight of an element is its magnitude over the run's root mean square, since
//! large weights matter more to a dot product.

use crate::f16;

fn importance(x: &[f32], v: f32) -> f32 {
    let rms = (x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32).sqrt();
    rms + v.abs()
}

/// `(scale, minimum)` with `x ≈ scale·q - minimum`, `0 ≤ q ≤ top`, `minimum ≥ 0`.
pub(super) fn scale_and_min(x: &[f32], top: i32) -> (f32, f32) {
    let low = x.iter().copied().fold(0.0f32, f32::min);
    let high = x.iter().copied().fold(low, f32::max);
    if high <= low {
        return (0.0, -low);
    }
    let error = |scale: f32, min: f32| {
        x.iter()
            .map(|&v| {
                let q = ((v + min) / scale).round().clamp(0.0, top as f32);
                importance(x, v) * (scale * q - min - v).powi(2)
            })
            .sum::<f32>()
    };
    let plain = ((high - low) / top as f32, -low);
    let mut best = (error(plain.0, plain.1), plain);
    for step in -10..=10 {
        let inverse = (top as f32 + 0.1 * step as f32) / (high - low);
        // Sums of the weighted normal equations for x = scale·q + offset.
        let (mut sw, mut sq, mut sqq, mut sx, mut sqx) = (0.0f32, 0.0f32, 0.0f32, 0.0f32, 0.0f32);
        for &v in x {
            let q = ((v - low) * inverse).round().clamp(0.0, top as f32);
            let w = importance(x, v);
            sw += w;
            sq += w * q;
            sqq += w * q * q;
            sx += w * v;
            sqx += w * q * v;
        }
        let determinant = sw * sqq - sq * sq;
        if determinant <= 0.0 {
            continue;
        }
        let mut scale = (sw * sqx - sq * sx) / determinant;
        let mut offset = (sqq * sx - sq * sqx) / determinant;
        if offset > 0.0 {
            offset = 0.0;
            scale = sqx / sqq;
        }
        if scale > 0.0 {
            let e = error(scale, -offset);
            if e < best.0 {
                best = (e, (scale, -offset));
            }
        }
    }
    best.1
}

/// `scale` (of either sign) with `x ≈ scale·q`, `-half ≤ q < half`.
pub(super) fn scale_only(x: &[f32], half: i32) -> f32 {
    let peak = x.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    if peak == 0.0 {
        return 0.0;
    }
    let mut best = (f32::INFINITY, 0.0);
    for step in -9..=9 {
        let inverse = -(half as f32 + 0.1 * step as f32) / peak;
        let q = |v: f32| (v * inverse).round().clamp(-half as f32, half as f32 - 1.0);
        let (qx, qq) = x.iter().fold((0.0, 0.0), |(qx, qq), &v| {
            let (q, w) = (q(v), importance(x, v));
            (qx + w * q * v, qq + w * q * q)
        });
        if qq > 0.0 {
            let scale: f32 = qx / qq;
            let e: f32 = x.iter().map(|&v| importance(x, v) * (scale * q(v) - v).powi(2)).sum();
            if e < best.0 {
                best = (e, scale);
            }
        }
    }
    best.1
}

/// `(scale, offset, q)` with `x ≈ scale·q + offset`, `0 ≤ q ≤ top`, from the range of 32 values.
pub(super) fn range(x: &[f32], top: i32) -> (f16, f16, [u8; 32]) {
    let low = x.iter().copied().fold(f32::INFINITY, f32::min);
    let high = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let d = (high - low) / top as f32;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let q = |v: f32| ((v - low) * inverse + 0.5).clamp(0.0, top as f32) as u8;
    (f16::from_f32(d), f16::from_f32(low), std::array::from_fn(|j| q(x[j])))
}

/// Indices of the entries of `values` nearest to 32 values in units of `scale`.
pub(super) fn nearest(x: &[f32], scale: f32, values: &[i8; 16]) -> [u8; 32] {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    std::array::from_fn(|j| {
        let away = |i: &u8| (x[j] * inverse - f32::from(values[usize::from(*i)])).abs();
        (0..16).min_by(|a, b| away(a).total_cmp(&away(b))).unwrap_or(0)
    })
}

/// `scale` (of either sign) with `x ≈ scale·values[q]` for the nearest entries.
pub(super) fn scale_of_table(x: &[f32], values: &[i8; 16]) -> f32 {
    let peak = x.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    let mut best = (f32::INFINITY, 0.0);
    // The peak at either end of the table, or somewhat beyond or within.
    for end in [values[0], values[15]] {
        for step in -7..=7 {
            let trial = peak / (f32::from(end) + step as f32 * 2.0);
            let q = nearest(x, trial, values).map(|i| f32::from(values[usize::from(i)]));
            let (qx, qq) = x.iter().zip(q).fold((0.0, 0.0), |(qx, qq), (&v, q)| {
                let w = importance(x, v);
                (qx + w * q * v, qq + w * q * q)
            });
            if qq > 0.0 {
                let scale: f32 = qx / qq;
                let errors =
                    x.iter().zip(q).map(|(&v, q)| importance(x, v) * (scale * q - v).powi(2));
                let e: f32 = errors.sum();
                if e < best.0 {
                    best = (e, scale);
                }
            }
        }
    }
    best.1
}
