//! Block formats: how a run of weights of one row is stored in few bits.
//!
//! One file a format. Each states its layout as a `#[repr(C)]` struct of bytes, its exact
//! values ([`BlockFormat::dequantize`], the reference for every kernel), and a quantizer. What a
//! kernel needs is the integer view, [`IntFormat`]: every format of this family is
//!
//! ```text
//! value[j] = d · sc[j / SUB] · (q[j] - ZERO)  -  m · mn[j / SUB]
//! ```
//!
//! with small unsigned integers `q`, so one packer and one kernel serve them all. Adding a format
//! is one file and one line in [`for_each_format!`](crate::for_each_format).

mod dense;
mod fit;
mod q4_0;
mod q4_k;
mod q5_k;
mod q6_k;
mod q8_0;

pub use q4_0::Q4_0;
pub use q4_k::Q4_K;
pub use q5_k::Q5_K;
pub use q6_k::Q6_K;
pub use q8_0::Q8_0;

use crate::{DType, Error, Result};

/// A storage format of weights. A dense element is a block of one.
pub trait BlockFormat: bytemuck::Pod + Send + Sync {
    /// Its name.
    const DTYPE: DType;
    /// Elements of a block.
    const BLOCK: usize;
    /// The exact values of a block, in f32: the definition every kernel is checked against.
    /// `out` holds `BLOCK` elements.
    fn dequantize(&self, out: &mut [f32]);
    /// The block nearest to `x` (`BLOCK` elements) in the sense of the format's usual quantizer.
    fn quantize(x: &[f32]) -> Self;
}

/// The integers of a block; see the module's formula.
pub trait IntFormat: BlockFormat {
    /// Bits of a `q`: 1 to 8.
    const BITS: usize;
    /// Elements that share a scale: 16 or 32.
    const SUB: usize;
    /// Subtracted from every `q`. 128 for eight-bit formats, whose `q` is the signed value + 128.
    const ZERO: i32;
    /// Whether sub-blocks have integer scales `sc` (else `sc` is 1 and the block is one sub-block).
    const HAS_SC: bool;
    /// Whether there is a minimum `m·mn`.
    const HAS_MIN: bool;
    /// `[d, m]`; `m` is 0 without a minimum.
    fn super_scales(&self) -> [f32; 2];
    /// The integer scale and minimum of sub-block `s`: `(sc, mn)`; sc fits an i8, mn a u8.
    fn sub_scales(&self, s: usize) -> (i32, i32);
    /// The integers, in element order; `out` holds `BLOCK` elements, each below `2^BITS`.
    fn quants(&self, out: &mut [u8]);
}

/// Runs a macro once for every implemented format: `$mac!(DTypeVariant, RustType)`.
/// The dense ones come first, then those with an integer view.
#[macro_export]
macro_rules! for_each_format {
    (dense: $mac:ident) => {
        $mac!(F32, f32);
        $mac!(F16, $crate::f16);
        $mac!(BF16, $crate::bf16);
    };
    (int: $mac:ident) => {
        $mac!(Q8_0, $crate::quant::Q8_0);
        $mac!(Q4_0, $crate::quant::Q4_0);
        $mac!(Q4_K, $crate::quant::Q4_K);
        $mac!(Q5_K, $crate::quant::Q5_K);
        $mac!(Q6_K, $crate::quant::Q6_K);
    };
}

fn dequantize_as<F: BlockFormat>(bytes: &[u8], out: &mut [f32]) {
    for (b, o) in bytes.chunks_exact(size_of::<F>()).zip(out.chunks_exact_mut(F::BLOCK)) {
        bytemuck::pod_read_unaligned::<F>(b).dequantize(o);
    }
}

fn quantize_as<F: BlockFormat>(x: &[f32]) -> Vec<u8> {
    x.chunks_exact(F::BLOCK).flat_map(|c| bytemuck::bytes_of(&F::quantize(c)).to_vec()).collect()
}

/// Expands a run of whole blocks to f32: the reference, and the way to read a single row. Never
/// used to hold a whole matrix.
///
/// # Errors
/// [`Error::Runtime`] for a format that is not implemented, or lengths that do not agree.
pub fn dequantize(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    if dtype.bytes(out.len()) != Some(bytes.len()) {
        return Err(Error::Runtime(format!(
            "{} bytes of {dtype} are not {} elements",
            bytes.len(),
            out.len()
        )));
    }
    macro_rules! arm {
        ($d:ident, $t:ty) => {
            if dtype == DType::$d {
                dequantize_as::<$t>(bytes, out);
                return Ok(());
            }
        };
    }
    for_each_format!(dense: arm);
    for_each_format!(int: arm);
    Err(unsupported(dtype))
}

/// Quantizes `x`, whole blocks of one or more rows.
///
/// # Errors
/// [`Error::Runtime`] for a format without a quantizer, or a length that is no whole number of
/// blocks.
pub fn quantize(dtype: DType, x: &[f32]) -> Result<Vec<u8>> {
    if dtype.bytes(x.len()).is_none() {
        return Err(Error::Runtime(format!(
            "{} elements are no whole number of {dtype} blocks of {}",
            x.len(),
            dtype.block_len()
        )));
    }
    macro_rules! arm {
        ($d:ident, $t:ty) => {
            if dtype == DType::$d {
                return Ok(quantize_as::<$t>(x));
            }
        };
    }
    for_each_format!(dense: arm);
    for_each_format!(int: arm);
    Err(unsupported(dtype))
}

/// Whether [`dequantize`] and the kernels know this format.
pub fn is_supported(dtype: DType) -> bool {
    let mut known = false;
    macro_rules! arm {
        ($d:ident, $t:ty) => {
            known |= dtype == DType::$d;
        };
    }
    for_each_format!(dense: arm);
    for_each_format!(int: arm);
    known
}

fn unsupported(dtype: DType) -> Error {
    Error::Runtime(format!("weights of type {dtype} are not supported yet"))
}
