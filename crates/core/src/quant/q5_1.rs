//! Q5_1: 32 five-bit integers, an f16 scale and an f16 offset, 6 bits a weight.

use super::q5_0::FiveBits;
use super::{BlockFormat, IntFormat, Quantizer, fit};
use crate::{DType, f16};

/// `value[j] = d · q[j] + offset`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Q5_1 {
    d: [u8; 2],
    offset: [u8; 2],
    q: FiveBits,
}

impl BlockFormat for Q5_1 {
    const DTYPE: DType = DType::Q5_1;
    const BLOCK: usize = 32;
    const QUANTIZE: Quantizer<Self> = Some(|x| {
        let (d, offset, q) = fit::range(x, 31);
        Q5_1 { d: d.to_le_bytes(), offset: offset.to_le_bytes(), q: FiveBits::new(&q) }
    });

    fn dequantize(&self, out: &mut [f32]) {
        super::dequantize_int(self, out);
    }
}

impl IntFormat for Q5_1 {
    const BITS: usize = 5;
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
        self.q.get(out);
    }
}
