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
//! with small unsigned integers `q`, so one packer and one kernel serve them all. The others look
//! their integers up: they are decoded as [`CodedFormat`] says, and then go the same way.
//!
//! Adding a format is one file and one line in [`for_each_format!`](crate::for_each_format).

mod coded;
mod dense;
mod fit;
mod grids;
mod packed;
mod sample;
mod unpack;

pub use coded::{CodedFormat, OneRow, Scale, Words, decode};
pub use packed::{Packed, PackedInts, PackedScale, packed_type};
pub use sample::sample;
pub use unpack::{PackedLayout, PackedMatrix, PackedParts};

macro_rules! formats {
    ($($file:ident $format:ident;)+) => {$(
        mod $file;
        pub use $file::$format;
    )+};
}
formats! {
    iq1_m IQ1_M;
    iq1_s IQ1_S;
    iq2_s IQ2_S;
    iq2_xs IQ2_XS;
    iq2_xxs IQ2_XXS;
    iq3_s IQ3_S;
    iq3_xxs IQ3_XXS;
    iq4_nl IQ4_NL;
    iq4_xs IQ4_XS;
    mxfp4 MXFP4;
    q2_k Q2_K;
    q3_k Q3_K;
    q4_0 Q4_0;
    q4_1 Q4_1;
    q4_k Q4_K;
    q5_0 Q5_0;
    q5_1 Q5_1;
    q5_k Q5_K;
    q6_k Q6_K;
    q8_0 Q8_0;
    q8_k Q8_K;
    tq1_0 TQ1_0;
    tq2_0 TQ2_0;
}

use crate::{DType, Error, Result};

/// A storage format of weights. A dense element is a block of one.
pub trait BlockFormat: bytemuck::Pod + Send + Sync {
    /// Its name.
    const DTYPE: DType;
    /// Elements of a block.
    const BLOCK: usize;
    /// Its usual quantizer, if there is one here.
    const QUANTIZE: Quantizer<Self> = None;
    /// The exact values of a block, in f32: the definition every kernel is checked against.
    /// `out` holds `BLOCK` elements.
    fn dequantize(&self, out: &mut [f32]);
}

/// Makes the block nearest to its argument, `BLOCK` elements, in the sense of the format's usual
/// quantizer.
pub type Quantizer<B> = Option<fn(&[f32]) -> B>;

/// The integers of a block; see the module's formula.
pub trait IntFormat: BlockFormat {
    /// Bits of a `q`: 1 to 8.
    const BITS: usize;
    /// Elements that share a scale: 16 or 32.
    const SUB: usize;
    /// Subtracted from every `q`. 128 for eight-bit formats, whose `q` is the signed value + 128.
    const ZERO: i32;
    /// Whether `d` is an f32; else `d` and `m` are exact in f16.
    const WIDE_SCALE: bool = false;
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
/// The dense ones come first, then those with an integer view, those of codes, and
/// packed integers.
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
        $mac!(Q4_1, $crate::quant::Q4_1);
        $mac!(Q5_0, $crate::quant::Q5_0);
        $mac!(Q5_1, $crate::quant::Q5_1);
        $mac!(Q4_K, $crate::quant::Q4_K);
        $mac!(Q5_K, $crate::quant::Q5_K);
        $mac!(Q6_K, $crate::quant::Q6_K);
        $mac!(Q8_K, $crate::quant::Q8_K);
        $mac!(TQ2_0, $crate::quant::TQ2_0);
    };
    (coded: $mac:ident) => {
        $mac!(Q2_K, $crate::quant::Q2_K);
        $mac!(Q3_K, $crate::quant::Q3_K);
        $mac!(TQ1_0, $crate::quant::TQ1_0);
        $mac!(IQ4_NL, $crate::quant::IQ4_NL);
        $mac!(IQ4_XS, $crate::quant::IQ4_XS);
        $mac!(MXFP4, $crate::quant::MXFP4);
        $mac!(IQ3_S, $crate::quant::IQ3_S);
        $mac!(IQ3_XXS, $crate::quant::IQ3_XXS);
        $mac!(IQ2_S, $crate::quant::IQ2_S);
        $mac!(IQ2_XS, $crate::quant::IQ2_XS);
        $mac!(IQ2_XXS, $crate::quant::IQ2_XXS);
        $mac!(IQ1_M, $crate::quant::IQ1_M);
        $mac!(IQ1_S, $crate::quant::IQ1_S);
    };
    (packed: $mac:ident) => {
        $mac!(I8_32_F16, $crate::quant::Packed<$crate::f16, 0, 8, 1>);
        $mac!(I8_32_F32, $crate::quant::Packed<f32, 0, 8, 1>);
        $mac!(I8_64_F16, $crate::quant::Packed<$crate::f16, 0, 8, 2>);
        $mac!(I8_64_F32, $crate::quant::Packed<f32, 0, 8, 2>);
        $mac!(I8_128_F16, $crate::quant::Packed<$crate::f16, 0, 8, 4>);
        $mac!(I8_128_F32, $crate::quant::Packed<f32, 0, 8, 4>);
        $mac!(I4_32_F16, $crate::quant::Packed<$crate::f16, 1, 4, 1>);
        $mac!(I4_32_F32, $crate::quant::Packed<f32, 1, 4, 1>);
        $mac!(I4_64_F16, $crate::quant::Packed<$crate::f16, 1, 4, 2>);
        $mac!(I4_64_F32, $crate::quant::Packed<f32, 1, 4, 2>);
        $mac!(I4_128_F16, $crate::quant::Packed<$crate::f16, 1, 4, 4>);
        $mac!(I4_128_F32, $crate::quant::Packed<f32, 1, 4, 4>);
        $mac!(I2_32_F16, $crate::quant::Packed<$crate::f16, 1, 2, 1>);
        $mac!(I2_32_F32, $crate::quant::Packed<f32, 1, 2, 1>);
        $mac!(I2_64_F16, $crate::quant::Packed<$crate::f16, 1, 2, 2>);
        $mac!(I2_64_F32, $crate::quant::Packed<f32, 1, 2, 2>);
        $mac!(I2_128_F16, $crate::quant::Packed<$crate::f16, 1, 2, 4>);
        $mac!(I2_128_F32, $crate::quant::Packed<f32, 1, 2, 4>);
        $mac!(I1_32_F16, $crate::quant::Packed<$crate::f16, 1, 1, 1>);
        $mac!(I1_32_F32, $crate::quant::Packed<f32, 1, 1, 1>);
        $mac!(I1_64_F16, $crate::quant::Packed<$crate::f16, 1, 1, 2>);
        $mac!(I1_64_F32, $crate::quant::Packed<f32, 1, 1, 2>);
        $mac!(I1_128_F16, $crate::quant::Packed<$crate::f16, 1, 1, 4>);
        $mac!(I1_128_F32, $crate::quant::Packed<f32, 1, 1, 4>);
    };
    (all: $mac:ident) => {
        $crate::for_each_format!(dense: $mac);
        $crate::for_each_format!(int: $mac);
        $crate::for_each_format!(coded: $mac);
        $crate::for_each_format!(packed: $mac);
    };
}

/// [`BlockFormat::dequantize`] from the integer view.
fn dequantize_int<F: IntFormat>(block: &F, out: &mut [f32]) {
    let [d, m] = block.super_scales();
    let mut q = [0; 256];
    block.quants(&mut q[..F::BLOCK]);
    for (j, (o, &q)) in out.iter_mut().zip(&q).enumerate() {
        let (sc, mn) = if F::HAS_SC { block.sub_scales(j / F::SUB) } else { (1, 1) };
        *o = d * sc as f32 * (i32::from(q) - F::ZERO) as f32;
        if F::HAS_MIN {
            *o -= m * mn as f32;
        }
    }
}

fn dequantize_as<F: BlockFormat>(bytes: &[u8], out: &mut [f32]) {
    for (b, o) in bytes.chunks_exact(size_of::<F>()).zip(out.chunks_exact_mut(F::BLOCK)) {
        bytemuck::pod_read_unaligned::<F>(b).dequantize(o);
    }
}

fn quantize_as<F: BlockFormat>(block: fn(&[f32]) -> F, x: &[f32]) -> Vec<u8> {
    x.chunks_exact(F::BLOCK).flat_map(|c| bytemuck::bytes_of(&block(c)).to_vec()).collect()
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
    for_each_format!(all: arm);
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
                let block = <$t as BlockFormat>::QUANTIZE.ok_or_else(|| no_quantizer(dtype))?;
                return Ok(quantize_as(block, x));
            }
        };
    }
    for_each_format!(all: arm);
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
    for_each_format!(all: arm);
    known
}

/// Whether [`quantize`] can write this format.
pub fn has_quantizer(dtype: DType) -> bool {
    let mut known = false;
    macro_rules! arm {
        ($d:ident, $t:ty) => {
            known |= dtype == DType::$d && <$t as BlockFormat>::QUANTIZE.is_some();
        };
    }
    for_each_format!(all: arm);
    known
}

/// The table of points that a format looks its elements up in, where it has one: words of four
/// elements each, bytes around 64, the first in the lowest; the words of a point lie together.
pub fn grid(dtype: DType) -> Option<&'static [u32]> {
    Some(match dtype {
        DType::IQ1_S | DType::IQ1_M => grids::IQ1.as_flattened(),
        DType::IQ2_XXS => grids::IQ2_XXS.as_flattened(),
        DType::IQ2_XS => grids::IQ2_XS.as_flattened(),
        DType::IQ2_S => grids::IQ2_S.as_flattened(),
        DType::IQ3_XXS => grids::IQ3_XXS.as_flattened(),
        DType::IQ3_S => grids::IQ3_S.as_flattened(),
        _ => return None,
    })
}

fn no_quantizer(dtype: DType) -> Error {
    Error::Runtime(format!("weights can be read as {dtype}, but not written: it has no quantizer"))
}

fn unsupported(dtype: DType) -> Error {
    Error::Runtime(format!("weights of type {dtype} are not supported yet"))
}
