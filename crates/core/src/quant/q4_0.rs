//! Q4_0: 32 four-bit integers around 8 and one f16 scale, 4.5 bits a weight.

use super::{BlockFormat, IntFormat, Quantizer};
use crate::{DType, f16};

/// `value[j] = d · (q[j] - 8)`; low nibbles are elements 0..16, high nibbles 16..32.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Q4_0 {
    d: [u8; 2],
    q: [u8; 16],
}

impl BlockFormat for Q4_0 {
    const DTYPE: DType = DType::Q4_0;
    const BLOCK: usize = 32;
    const QUANTIZE: Quantizer<Self> = Some(|x| {
        // The element of largest magnitude maps to -8 exactly, whatever its sign.
        let peak = x.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
        let d = peak / -8.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let q = |v: f32| (v * inverse + 8.5).clamp(0.0, 15.0) as u8;
        Q4_0 {
            d: f16::from_f32(d).to_le_bytes(),
            q: std::array::from_fn(|j| q(x[j]) | q(x[j + 16]) << 4),
        }
    });

    fn dequantize(&self, out: &mut [f32]) {
        let d = f16::from_le_bytes(self.d).to_f32();
        for (j, &b) in self.q.iter().enumerate() {
            out[j] = d * ((b & 15) as i32 - 8) as f32;
            out[j + 16] = d * ((b >> 4) as i32 - 8) as f32;
        }
    }
}

impl IntFormat for Q4_0 {
    const BITS: usize = 4;
    const SUB: usize = 32;
    const ZERO: i32 = 8;
    const HAS_SC: bool = false;
    const HAS_MIN: bool = false;

    fn super_scales(&self) -> [f32; 2] {
        [f16::from_le_bytes(self.d).to_f32(), 0.0]
    }

    fn sub_scales(&self, _: usize) -> (i32, i32) {
        (1, 0)
    }

    fn quants(&self, out: &mut [u8]) {
        for (j, &b) in self.q.iter().enumerate() {
            out[j] = b & 15;
            out[j + 16] = b >> 4;
        }
    }
}
