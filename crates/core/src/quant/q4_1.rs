//! Q4_1: 32 four-bit integers, an f16 scale and an f16 offset, 5 bits a weight.

use super::{BlockFormat, IntFormat, Quantizer, fit};
use crate::{DType, f16};

/// `value[j] = d · q[j] + offset`; low nibbles are elements 0..16, high nibbles 16..32.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Q4_1 {
    d: [u8; 2],
    offset: [u8; 2],
    q: [u8; 16],
}

impl BlockFormat for Q4_1 {
    const DTYPE: DType = DType::Q4_1;
    const BLOCK: usize = 32;
    const QUANTIZE: Quantizer<Self> = Some(|x| {
        let (d, offset, q) = fit::range(x, 15);
        Q4_1 {
            d: d.to_le_bytes(),
            offset: offset.to_le_bytes(),
            q: std::array::from_fn(|j| q[j] | q[j + 16] << 4),
        }
    });

    fn dequantize(&self, out: &mut [f32]) {
        super::dequantize_int(self, out);
    }
}

impl IntFormat for Q4_1 {
    const BITS: usize = 4;
    const SUB: usize = 32;
    const ZERO: i32 = 0;
    const HAS_SC: bool = false;
    const HAS_MIN: bool = true;

    fn super_scales(&self) -> [f32; 2] {
        [f16::from_le_bytes(self.d).to_f32(), -f16::from_le_bytes(self.offset).to_f32()]
    }

    fn sub_scales(&self, _: usize) -> (i32, i32) {
        (1, 1)
    }

    fn quants(&self, out: &mut [u8]) {
        for (j, &b) in self.q.iter().enumerate() {
            out[j] = b & 15;
            out[j + 16] = b >> 4;
        }
    }
}
