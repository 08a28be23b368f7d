//! The numbers that activations and caches are made of.

use crate::DType;
use half::{bf16, f16};

/// Plain data whose memory layout `DTYPE` names.
///
/// # Safety
/// The type has no padding and no invalid bit pattern, and its layout is exactly the one that
/// `DTYPE` describes: kernels read and write it through raw pointers.
pub unsafe trait DeviceRepr: Copy + 'static {
    /// The name of this layout.
    const DTYPE: DType;
    /// The value in the precision that kernels accumulate in.
    fn widen(self) -> f32;
    /// The nearest value of this type (ties to even, saturating for integers).
    fn narrow(v: f32) -> Self;
}

/// What kernels are generic over. Nobody implements it by hand: it holds for all plain data.
pub trait Element:
    std::fmt::Debug + Clone + Copy + Send + Sync + Default + 'static + DeviceRepr
{
}
impl<T: std::fmt::Debug + Clone + Copy + Send + Sync + Default + 'static + DeviceRepr> Element
    for T
{
}

macro_rules! repr {
    ($($t:ty, $dtype:ident, $widen:expr, $narrow:expr;)+) => {$(
        // SAFETY: a primitive (or a transparent wrapper of one): no padding, every bit
        // pattern valid, and the dtype names this very layout.
        unsafe impl DeviceRepr for $t {
            const DTYPE: DType = DType::$dtype;
            #[inline(always)]
            fn widen(self) -> f32 {
                $widen(self)
            }
            #[inline(always)]
            fn narrow(v: f32) -> Self {
                $narrow(v)
            }
        }
    )+};
}
repr! {
    f32, F32, |v| v, |v| v;
    f64, F64, |v| v as f32, |v| v as f64;
    f16, F16, f16::to_f32, f16::from_f32;
    bf16, BF16, bf16::to_f32, bf16::from_f32;
    i8, I8, |v| v as f32, |v: f32| v.round_ties_even() as i8;
    i32, I32, |v| v as f32, |v: f32| v.round_ties_even() as i32;
}
