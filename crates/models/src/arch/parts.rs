//! Short forms that the families share.

use gristmill_core::Result;
use gristmill_ir::{Act, Norm, NormKind, Op, Program, Value};

/// An RMS norm with the weight `{name}.weight`.
pub(super) fn rms_norm(p: &mut Program, name: &str, width: u32, eps: f32) -> Norm {
    let weight = Some(p.vector(format!("{name}.weight"), width));
    Norm { kind: NormKind::Rms, weight, bias: None, eps, offset: 0.0 }
}

/// A layer norm with `{name}.weight` and `{name}.bias`.
pub(super) fn layer_norm(p: &mut Program, name: &str, width: u32, eps: f32) -> Norm {
    let weight = Some(p.vector(format!("{name}.weight"), width));
    let bias = Some(p.vector(format!("{name}.bias"), width));
    Norm { kind: NormKind::Layer, weight, bias, eps, offset: 0.0 }
}

/// `act(w x + b)` with `rows` outputs: `w` is `{weight}.weight` and `b`, where `bias`, is
/// `{weight}.bias`.
pub(super) fn linear(
    p: &mut Program,
    name: &str,
    weight: &str,
    rows: u32,
    x: Value,
    bias: bool,
    act: Act,
) -> Result<Value> {
    let w = p.tensor(format!("{weight}.weight"), rows, p.shape(x).width);
    let bias = bias.then(|| p.vector(format!("{weight}.bias"), rows));
    p.one(name, Op::Linear { x, w, bias, act, scale: 1.0, softcap: None })
}

/// `w x` with `rows` outputs.
pub(super) fn project(
    p: &mut Program,
    name: &str,
    weight: &str,
    rows: u32,
    x: Value,
) -> Result<Value> {
    linear(p, name, weight, rows, x, false, Act::None)
}
