//! Q5_0: 32 five-bit integers around 16 and one f16 scale, 5.5 bits a weight.

use super::{BlockFormat, IntFormat, Quantizer};
use crate::{DType, f16};

/// `value[j] = d · (q[j] - 16)`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Q5_0 {
    d: [u8; 2],
    q: FiveBits,
}

/// 32 integers of five bits, shared by Q5_0 and Q5_1: bit `j` of the first word is the fifth bit
/// of element `j`; of the low nibbles, those of elements 0..16 are the low halves of the bytes.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct FiveBits {
    high: [u8; 4],
    low: [u8; 16],
}

impl FiveBits {
    pub(super) fn new(q: &[u8; 32]) -> Self {
        let high = (0..32).fold(0u32, |h, j| h | u32::from(q[j] >> 4) << j);
        let low = std::array::from_fn(|j| q[j] & 15 | (q[j + 16] & 15) << 4);
        FiveBits { high: high.to_le_bytes(), low }
    }

    pub(super) fn get(&self, out: &mut [u8]) {
        let high = u32::from_le_bytes(self.high);
        for (j, &b) in self.low.iter().enumerate() {
            out[j] = b & 15 | ((high >> j & 1) << 4) as u8;
            out[j + 16] = b >> 4 | ((high >> (j + 16) & 1) << 4) as u8;
        }
    }
}

impl BlockFormat for Q5_0 {
    const DTYPE: DType = DType::Q5_0;
    const BLOCK: usize = 32;
    const QUANTIZE: Quantizer<Self> = Some(|x| {
        // The element of largest magnitude maps to -16 exactly, whatever its sign.
        let peak = x.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
        let d = peak / -16.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let q = std::array::from_fn(|j| (x[j] * inverse + 16.5).clamp(0.0, 31.0) as u8);
        Q5_0 { d: f16::from_f32(d).to_le_bytes(), q: FiveBits::new(&q) }
    });

    fn dequantize(&self, out: &mut [f32]) {
        super::dequantize_int(self, out);
    }
}

impl IntFormat for Q5_0 {
    const BITS: usize = 5;
    const SUB: usize = 32;
    const ZERO: i32 = 16;
    const HAS_SC: bool = false;
    const HAS_MIN: bool = false;

    fn super_scales(&self) -> [f32; 2] {
        [f16::from_le_bytes(self.d).to_f32(), 0.0]
    }

    fn sub_scales(&self, _: usize) -> (i32, i32) {
        (1, 0)
    }

    fn quants(&self, out: &mut [u8]) {
        self.q.get(out);
    }
}
