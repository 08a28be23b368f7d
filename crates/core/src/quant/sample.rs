//! Blocks of random bits, for tests of kernels: the only blocks of a format without a quantizer, and
//! for any format those that use all of its codes.

use super::dequantize;
use crate::{DType, f16};

/// Bits of the types of packed integers, which are the only block types without a GGUF id.
fn packed_bits(dtype: DType) -> Option<u32> {
    let packed = dtype.block_len() > 1 && dtype.ggml().is_none();
    dtype.name()[1..2].parse().ok().filter(|_| packed)
}

/// Sets the scales of a block to `v`, or the power of two nearest to it.
fn set_scales(dtype: DType, block: &mut [u8], v: f32) {
    let half = f16::from_f32(v);
    if let Some(bits) = packed_bits(dtype) {
        let width = if dtype.name().ends_with("F32") { 4 } else { 2 };
        match width {
            4 => block[..4].copy_from_slice(&v.to_le_bytes()),
            _ => block[..2].copy_from_slice(&half.to_le_bytes()),
        }
        if bits < 8 {
            // The zero is one of the integers.
            block[width] &= (1 << bits) - 1;
        }
        return;
    }
    let halves: &[usize] = match dtype {
        DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => &[0, 2],
        DType::Q2_K => &[80, 82],
        DType::Q3_K => &[108],
        DType::Q6_K => &[208],
        DType::TQ1_0 => &[52],
        DType::TQ2_0 => &[64],
        DType::Q8_K => return block[..4].copy_from_slice(&v.to_le_bytes()),
        DType::MXFP4 => {
            block[0] = (v.abs().log2().round() + 128.0).clamp(0.0, 254.0) as u8;
            return;
        }
        // A nibble on top of each of the last four words of sixteen bits.
        DType::IQ1_M => {
            for i in 0..4 {
                let nibble = (half.to_bits() >> (4 * i) & 15) as u8;
                block[49 + 2 * i] = block[49 + 2 * i] & 15 | nibble << 4;
            }
            return;
        }
        _ => &[0],
    };
    for &at in halves {
        block[at..at + 2].copy_from_slice(&half.to_le_bytes());
    }
}

/// Whole blocks of `elements` elements of a block format, of the 64 bits at a time that `bits`
/// gives, with scales of either sign for which the values have a root mean square of about `rms`
/// in each block. `None` for dense formats and those not implemented.
pub fn sample(
    dtype: DType,
    elements: usize,
    rms: f32,
    bits: &mut impl FnMut() -> u64,
) -> Option<Vec<u8>> {
    let mut bytes = vec![0; dtype.bytes(elements).filter(|_| dtype.block_len() > 1)?];
    let mut values = vec![0.0f32; dtype.block_len()];
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        for part in block.chunks_mut(8) {
            part.copy_from_slice(&bits().to_le_bytes()[..part.len()]);
        }
        set_scales(dtype, block, 1.0);
        dequantize(dtype, block, &mut values).ok()?;
        let mean = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
        let scale = rms / mean.sqrt().max(f32::MIN_POSITIVE);
        set_scales(dtype, block, if bits() & 1 == 0 { scale } else { -scale });
    }
    Some(bytes)
}
