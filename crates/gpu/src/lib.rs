//! What devices behind a bus have in common: the words of a step that their kernels read, checked on
//! the way, and those that sampling reads. No device is named here.
//!
//! - [`Integers`]: a batch, within the [`Bounds`] that a program sets
//! - [`control`]: how the rows of a step are to be sampled
//! - [`kind_of`], [`words_of`]: types of the cache, as kernels know them

pub mod control;
mod integers;

pub use integers::{Bounds, Integers, SPLITS};

use gristmill_core::DType;

/// How a type of the cache is called in kernels.
pub fn kind_of(dtype: DType) -> Option<u32> {
    match dtype {
        DType::F32 => Some(0),
        DType::F16 => Some(1),
        DType::BF16 => Some(2),
        _ => None,
    }
}

/// Words of `elems` elements of a type of the cache.
pub fn words_of(dtype: DType, elems: u32) -> u32 {
    if dtype == DType::F32 { elems } else { elems.div_ceil(2) }
}
