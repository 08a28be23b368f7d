//! Every kernel, each algorithm once, generic over [`crate::simd::Simd`].
//!
//! A kernel is plain arithmetic on pointers: it knows no plan, no batch, no thread. It takes its
//! arguments and a range of rows, columns or items that is its own.

#[cfg(test)]
mod any_element;
pub mod attention;
pub mod ceiling;
pub mod elementwise;
pub mod experts;
pub mod logits;
pub mod matmul;
pub mod mix;
pub mod norm;
pub mod qkv;
pub mod stored;
pub mod table;
pub mod wkv7;

/// The instance of a kernel for the stored types of keys and values.
macro_rules! for_kv_types {
    ($s:ident, $k:expr, $v:expr, $kernel:ident) => {
        match ($k, $v) {
            (DType::F32, DType::F32) => Some($kernel::<$s, f32, f32>),
            (DType::F16, DType::F16) => {
                Some($kernel::<$s, gristmill_core::f16, gristmill_core::f16>)
            }
            (DType::BF16, DType::BF16) => {
                Some($kernel::<$s, gristmill_core::bf16, gristmill_core::bf16>)
            }
            _ => None,
        }
    };
}
use for_kv_types;
