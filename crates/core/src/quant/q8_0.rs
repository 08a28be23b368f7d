//! Q8_0: 32 signed bytes and one f16 scale, 8.5 bits a weight.

use super::{BlockFormat, IntFormat, Quantizer};
use crate::{DType, f16};

/// `value[j] = d · q[j]`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Q8_0 {
    d: [u8; 2],
    q: [i8; 32],
}

impl BlockFormat for Q8_0 {
    const DTYPE: DType = DType::Q8_0;
    const BLOCK: usize = 32;
    const QUANTIZE: Quantizer<Self> = Some(|x| {
        let peak = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let d = peak / 127.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let q = std::array::from_fn(|j| (x[j] * inverse).round() as i8);
        Q8_0 { d: f16::from_f32(d).to_le_bytes(), q }
    });

    fn dequantize(&self, out: &mut [f32]) {
        let d = f16::from_le_bytes(self.d).to_f32();
        for (o, &q) in out.iter_mut().zip(&self.q) {
            *o = d * f32::from(q);
        }
    }
}

impl IntFormat for Q8_0 {
    const BITS: usize = 8;
    const SUB: usize = 32;
    const ZERO: i32 = 128;
    const HAS_SC: bool = false;
    const HAS_MIN: bool = false;

    fn super_scales(&self) -> [f32; 2] {
        [f16::from_le_bytes(self.d).to_f32(), 0.0]
    }

    fn sub_scales(&self, _: usize) -> (i32, i32) {
        (1, 0)
    }

    fn quants(&self, out: &mut [u8]) {
        for (o, &q) in out.iter_mut().zip(&self.q) {
            *o = (q as u8) ^ 0x80;
        }
    }
}
