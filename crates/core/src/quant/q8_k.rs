//! Q8_K: 256 signed bytes and one f32 scale, 9.13 bits a weight. The form in which other
//! implementations keep activations; a file may hold weights of it all the same.

use super::{BlockFormat, IntFormat, Quantizer};
use crate::DType;

/// `value[j] = d · q[j]`. `sums` are those of sixteen integers each; they follow from `q`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Q8_K {
    d: [u8; 4],
    q: [[i8; 16]; 16],
    sums: [[u8; 2]; 16],
}

impl BlockFormat for Q8_K {
    const DTYPE: DType = DType::Q8_K;
    const BLOCK: usize = 256;
    const QUANTIZE: Quantizer<Self> = Some(|x| {
        // The element of largest magnitude maps to -127 exactly, whatever its sign.
        let peak = x.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
        let d = peak / -127.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let q: [[i8; 16]; 16] = std::array::from_fn(|s| {
            std::array::from_fn(|i| (x[16 * s + i] * inverse).round() as i8)
        });
        let sums = q.map(|q| q.map(i16::from).iter().sum::<i16>().to_le_bytes());
        Q8_K { d: d.to_le_bytes(), q, sums }
    });

    fn dequantize(&self, out: &mut [f32]) {
        super::dequantize_int(self, out);
    }
}

impl IntFormat for Q8_K {
    const BITS: usize = 8;
    const SUB: usize = 32;
    const ZERO: i32 = 128;
    const WIDE_SCALE: bool = true;
    const HAS_SC: bool = false;
    const HAS_MIN: bool = false;

    fn super_scales(&self) -> [f32; 2] {
        [f32::from_le_bytes(self.d), 0.0]
    }

    fn sub_scales(&self, _: usize) -> (i32, i32) {
        (1, 0)
    }

    fn quants(&self, out: &mut [u8]) {
        for (o, &q) in out.iter_mut().zip(self.q.as_flattened()) {
            *o = (q as u8) ^ 0x80;
        }
    }
}
