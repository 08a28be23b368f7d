//! The kernels of one instruction set, as function pointers.
//!
//! A plan is compiled against a [`Table`], and from then on a step calls through the pointers it
//! stored: the instruction set is chosen once.

use super::{attention, elementwise, experts, logits, mix, norm, qkv, wkv7};
use crate::simd::{Isa, IsaVisitor, Simd};
use gristmill_core::DType;
use std::ops::Range;

type Rows<A> = unsafe fn(&A, Range<usize>);

/// One pointer for each kernel; those that also depend on a stored type are chosen by it.
#[derive(Clone, Copy)]
pub struct Table {
    /// [`norm::norm`]
    pub norm: Rows<norm::NormArgs>,
    /// [`norm::add_norm`]
    pub add_norm: Rows<norm::AddNormArgs>,
    /// [`elementwise::epilogue`]
    pub epilogue: unsafe fn(&elementwise::EpilogueArgs, usize, Range<usize>),
    /// [`elementwise::gate`]
    pub gate: unsafe fn(&elementwise::GateArgs, Range<usize>, Range<usize>),
    /// [`mix::shift`]
    pub shift: Rows<mix::ShiftArgs>,
    /// [`mix::lerp`]
    pub lerp: Rows<mix::LerpArgs>,
    /// [`wkv7::wkv7`]
    pub wkv7: unsafe fn(&wkv7::Wkv7Args, &wkv7::Wkv7Item),
    /// [`experts::route`]
    pub route: Rows<experts::RouteArgs>,
    /// [`experts::combine`]
    pub combine: unsafe fn(&experts::CombineArgs, usize, Range<usize>),
    /// [`logits::peak`]
    pub peak: unsafe fn(*const f32, usize) -> logits::Peak,
    /// [`qkv::select`]
    pub qkv: fn(DType, DType) -> Option<qkv::QkvFn>,
    /// [`attention::select`]
    pub attention: fn(DType, DType) -> Option<attention::AttentionFn>,
    /// [`attention::merge`]
    pub merge: attention::MergeFn,
}

impl Table {
    /// The kernels of an instruction set; `None` when this machine does not have it.
    pub fn new(isa: Isa) -> Option<Table> {
        struct Build;
        impl IsaVisitor for Build {
            type Output = Table;
            fn visit<S: Simd>(self, _: S) -> Table {
                Table {
                    norm: norm::norm::<S>,
                    add_norm: norm::add_norm::<S>,
                    epilogue: elementwise::epilogue::<S>,
                    gate: elementwise::gate::<S>,
                    shift: mix::shift::<S>,
                    lerp: mix::lerp::<S>,
                    wkv7: wkv7::wkv7::<S>,
                    route: experts::route::<S>,
                    combine: experts::combine::<S>,
                    peak: logits::peak::<S>,
                    qkv: qkv::select::<S>,
                    attention: attention::select::<S>,
                    merge: attention::merge::<S>,
                }
            }
        }
        isa.visit(Build)
    }
}
