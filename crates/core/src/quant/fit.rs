//! Least-squares fits that the K-quant quantizers share.
//!
//! Given weights `x` and the largest integer, find the scale (and minimum) whose rounded integers
//! leave the least weighted squared error. Candidate scales near the range of the data are tried;
//! for the integers of each, the best scale has a closed form, which is then used for a last
//! rounding. The weight of an element is its magnitude over the run's root mean square, since
//! large weights matter more to a dot product.

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
