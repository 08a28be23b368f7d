//! Functions of single numbers, and the roundings that are part of an operation's definition.

use gristmill_core::{DType, bf16, f16};
use gristmill_ir::Act;

/// `cap · tanh(x / cap)` where there is a cap.
pub fn cap(x: f64, softcap: Option<f32>) -> f64 {
    softcap.map_or(x, |c| f64::from(c) * (x / f64::from(c)).tanh())
}

/// A number as a cache of this type holds it.
pub fn narrow(dtype: DType, x: f64) -> f64 {
    match dtype {
        DType::F32 => f64::from(x as f32),
        DType::F16 => f16::from_f64(x).to_f64(),
        DType::BF16 => bf16::from_f64(x).to_f64(),
        other => panic!("a cache of {other} has no definition here yet"),
    }
}

/// Activations rounded to eight bits, in blocks of 32; see [`Rounded`].
pub fn int8(x: &[f64]) -> Vec<f64> {
    x.chunks(32).flat_map(|b| Rounded::of(b).values()).collect()
}

/// A block of activations as eight-bit integers: the largest becomes 127, 126, 125 or 124,
/// whichever leaves the least squared error with the scale that makes it so.
pub struct Rounded {
    /// What the largest became.
    pub top: f64,
    /// The integers.
    pub q: Vec<f64>,
    /// The best scale for them, by least squares.
    pub scale: f64,
    /// How much larger the next best error was, as a part of the least.
    pub lead: f64,
}

impl Rounded {
    /// Rounds one block.
    pub fn of(b: &[f64]) -> Rounded {
        let largest = b.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let unit = |top: f64| if largest == 0.0 { 1.0 } else { largest / top };
        let error = |top: f64| -> f64 {
            b.iter().map(|v| (v - (v / unit(top)).round() * unit(top)).powi(2)).sum()
        };
        let mut tops = [127.0, 126.0, 125.0, 124.0].map(|top| (error(top), top));
        tops.sort_by(|a, b| a.0.total_cmp(&b.0));
        let [(least, top), (next, _), ..] = tops;
        let q: Vec<f64> = b.iter().map(|v| (v / unit(top)).round()).collect();
        let products: f64 = b.iter().zip(&q).map(|(v, q)| v * q).sum();
        let scale = products / q.iter().map(|q| q * q).sum::<f64>().max(1.0);
        Rounded { top, q, scale, lead: (next - least) / least }
    }

    /// What the integers stand for.
    pub fn values(self) -> Vec<f64> {
        self.q.into_iter().map(|q| self.scale * q).collect()
    }
}

/// A function of one number.
pub fn activate(act: Act, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match act {
        Act::None => x,
        Act::Silu => x * sigmoid(x),
        Act::Gelu => x / 2.0 * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        Act::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            x / 2.0 * (1.0 + inner.tanh())
        }
        Act::Relu => x.max(0.0),
        Act::Relu2 => x.max(0.0).powi(2),
        Act::Tanh => x.tanh(),
        Act::Sigmoid => sigmoid(x),
        Act::Decay => (-(-0.5f64).exp() * sigmoid(x)).exp(),
        Act::SwigluClamped => panic!("swiglu_clamped is a function of two numbers"),
    }
}

/// A gated unit.
pub fn gated(act: Act, gate: f64, up: f64) -> f64 {
    if act == Act::SwigluClamped {
        let g = gate.min(7.0);
        return g * activate(Act::Sigmoid, 1.702 * g) * (up.clamp(-7.0, 7.0) + 1.0);
    }
    activate(act, gate) * up
}

/// The error function, by `2/√π e^(-x²) Σ 2^n x^(2n+1) / (1·3·…·(2n+1))`: all terms of one sign.
pub fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Abramowitz and Stegun, table 7.1.
    #[test]
    fn erf_is_the_tabulated_one() {
        for (x, y) in [(0.0, 0.0), (0.5, 0.5204998778), (1.0, 0.8427007929), (2.0, 0.9953222650)] {
            assert!((erf(x) - y).abs() < 1e-10 && (erf(-x) + y).abs() < 1e-10, "{x}");
        }
    }
}
