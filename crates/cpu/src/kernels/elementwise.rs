//! Functions of single elements: activations, the epilogue of a matmul, gated units, mixes.

use super::norm::map;
use crate::simd::{Simd, WithSimd, math};
use gristmill_ir::Act;
use std::ops::Range;

/// `act` of every lane.
#[inline(always)]
pub(crate) fn activate<S: Simd>(s: S, act: Act, x: S::F32) -> S::F32 {
    match act {
        Act::None => x,
        Act::Silu => math::silu(s, x),
        Act::Gelu => math::gelu_erf(s, x),
        Act::GeluTanh => math::gelu_tanh(s, x),
        Act::Relu => s.max(x, s.zero()),
        Act::Relu2 => {
            let r = s.max(x, s.zero());
            s.mul(r, r)
        }
        Act::Tanh => math::tanh(s, x),
        Act::Sigmoid => math::sigmoid(s, x),
        // e^(-1/2)
        Act::Decay => math::exp(s, s.mul(s.splat(-0.606_530_66), math::sigmoid(s, x))),
        Act::SwigluClamped => x,
    }
}

/// Arguments of [`epilogue`]: `y = cap(scale · act(y + bias))` on a rectangle of `y`.
#[derive(Clone, Copy)]
pub struct EpilogueArgs {
    /// Rows of `stride` elements.
    pub y: *mut f32,
    /// Distance between rows.
    pub stride: usize,
    /// A summand for each column, or null.
    pub bias: *const f32,
    /// The function.
    pub act: Act,
    /// Multiplies.
    pub scale: f32,
    /// `cap · tanh(y / cap)`; 0: none.
    pub softcap: f32,
}

impl EpilogueArgs {
    /// Whether there is nothing to do.
    pub fn is_identity(&self) -> bool {
        self.bias.is_null() && self.act == Act::None && self.scale == 1.0 && self.softcap == 0.0
    }
}

/// Finishes columns `columns` of rows `0..rows`.
///
/// # Safety
/// `y` and `bias` hold them, nobody else touches them, and the instruction set is present.
pub unsafe fn epilogue<S: Simd>(args: &EpilogueArgs, rows: usize, columns: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { S::assume() }.vectorize(Epilogue(args, rows, columns));
}

struct Epilogue<'a>(&'a EpilogueArgs, usize, Range<usize>);
impl WithSimd for Epilogue<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Epilogue(a, rows, columns) = self;
        let scale = s.splat(a.scale);
        for r in 0..rows {
            // SAFETY: the caller of `epilogue` vouches for the rectangle.
            map(
                s,
                columns.len(),
                #[inline(always)]
                |i, n| unsafe {
                    let at = a.y.add(r * a.stride + columns.start + i);
                    let mut v = s.load_n(at, n);
                    if !a.bias.is_null() {
                        v = s.add(v, s.load_n(a.bias.add(columns.start + i), n));
                    }
                    v = s.mul(scale, activate(s, a.act, v));
                    if a.softcap > 0.0 {
                        let cap = s.splat(a.softcap);
                        v = s.mul(cap, math::tanh(s, s.div(v, cap)));
                    }
                    s.store_n(at, n, v);
                },
            );
        }
    }
}

/// Arguments of [`gate`]: `y = act(g) · u`.
#[derive(Clone, Copy)]
pub struct GateArgs {
    /// Gates and ups, `[row][2 width]`: the gate's columns first.
    pub x: *const f32,
    /// Results, `[row][width]`.
    pub y: *mut f32,
    /// Columns of a result.
    pub width: usize,
    /// Summands of `x`, or null.
    pub bias: *const f32,
    /// The gate's function.
    pub act: Act,
}

/// Combines columns `columns` of rows `0..rows`.
///
/// # Safety
/// As [`epilogue`].
pub unsafe fn gate<S: Simd>(args: &GateArgs, rows: Range<usize>, columns: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { S::assume() }.vectorize(Gate(args, rows, columns));
}

struct Gate<'a>(&'a GateArgs, Range<usize>, Range<usize>);
impl WithSimd for Gate<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Gate(a, rows, columns) = self;
        for r in rows {
            // SAFETY: the caller of `gate` vouches for the rectangle, both halves of it.
            map(
                s,
                columns.len(),
                #[inline(always)]
                |i, n| unsafe {
                    let column = columns.start + i;
                    let at = |half: usize| {
                        let x = s.load_n(a.x.add(r * 2 * a.width + half * a.width + column), n);
                        if a.bias.is_null() {
                            return x;
                        }
                        s.add(x, s.load_n(a.bias.add(half * a.width + column), n))
                    };
                    let (g, u) = (at(0), at(1));
                    let v = if a.act == Act::SwigluClamped {
                        let g = s.min(g, s.splat(7.0));
                        let u = s.max(s.min(u, s.splat(7.0)), s.splat(-7.0));
                        let sigma = math::sigmoid(s, s.mul(s.splat(1.702), g));
                        s.mul(s.mul(g, sigma), s.add(u, s.splat(1.0)))
                    } else {
                        s.mul(activate(s, a.act, g), u)
                    };
                    s.store_n(a.y.add(r * a.width + column), n, v);
                },
            );
        }
    }
}
