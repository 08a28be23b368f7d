//! TQ2_0: 256 elements of -1, 0 or 1 in two bits each, and one f16 scale, 2.06 bits a weight.

use super::q2_k::bits_of_pairs;
use super::{BlockFormat, IntFormat, Quantizer};
use crate::{DType, f16};

/// `value[j] = d · (q[j] - 1)`; the integers lie as in Q2_K.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct TQ2_0 {
    q: [u8; 64],
    d: [u8; 2],
}

/// The scale and the digits 0, 1 and 2 of TQ2_0 and TQ1_0.
pub(super) fn ternary(x: &[f32]) -> (f16, [u8; 256]) {
    let d = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    (f16::from_f32(d), std::array::from_fn(|j| ((x[j] * inverse).round() + 1.0) as u8))
}

impl BlockFormat for TQ2_0 {
    const DTYPE: DType = DType::TQ2_0;
    const BLOCK: usize = 256;
    const QUANTIZE: Quantizer<Self> = Some(|x| {
        let (d, q) = ternary(x);
        TQ2_0 { q: bits_of_pairs(|j| q[j]), d: d.to_le_bytes() }
    });

    fn dequantize(&self, out: &mut [f32]) {
        super::dequantize_int(self, out);
    }
}

impl IntFormat for TQ2_0 {
    const BITS: usize = 2;
    const SUB: usize = 32;
    const ZERO: i32 = 1;
    const HAS_SC: bool = false;
    const HAS_MIN: bool = false;

    fn super_scales(&self) -> [f32; 2] {
        [f16::from_le_bytes(self.d).to_f32(), 0.0]
    }

    fn sub_scales(&self, _: usize) -> (i32, i32) {
        (1, 0)
    }

    fn quants(&self, out: &mut [u8]) {
        for (j, o) in out.iter_mut().enumerate() {
            *o = self.q[j / 128 * 32 + j % 32] >> (2 * (j % 128 / 32)) & 3;
        }
    }
}
