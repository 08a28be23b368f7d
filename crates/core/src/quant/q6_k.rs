//! Q6_K: 256 six-bit integers in sixteen sub-blocks with signed 8-bit scales, 6.56 bits a weight.

use super::{BlockFormat, IntFormat, Quantizer, fit};
use crate::{DType, f16};

/// `value[j] = d·sc[j/16]·(q[j] - 32)`.
///
/// Each half of 128 elements has 64 bytes of low nibbles (low halves first) and 32 bytes that hold
/// the two upper bits of the elements 32 apart.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Q6_K {
    low: [u8; 128],
    high: [u8; 64],
    scales: [i8; 16],
    d: [u8; 2],
}

impl BlockFormat for Q6_K {
    const DTYPE: DType = DType::Q6_K;
    const BLOCK: usize = 256;
    const QUANTIZE: Quantizer<Self> = Some(|x| {
        let fits: [f32; 16] = std::array::from_fn(|s| fit::scale_only(&x[s * 16..][..16], 32));
        let peak = fits.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
        let d = f16::from_f32(peak / -128.0);
        let scales = fits.map(|v| {
            if d == f16::ZERO { 0 } else { (v / d.to_f32()).round().clamp(-128.0, 127.0) as i8 }
        });
        let q = |j: usize| {
            let scale = d.to_f32() * f32::from(scales[j / 16]);
            if scale == 0.0 { 32 } else { ((x[j] / scale).round().clamp(-32.0, 31.0) + 32.0) as u8 }
        };
        let low = std::array::from_fn(|i| {
            let j = i / 64 * 128 + i % 64;
            q(j) & 15 | (q(j + 64) & 15) << 4
        });
        let high = std::array::from_fn(|i| {
            let j = i / 32 * 128 + i % 32;
            (0..4).fold(0, |b, t| b | (q(j + 32 * t) >> 4) << (2 * t))
        });
        Q6_K { low, high, scales, d: d.to_le_bytes() }
    });

    fn dequantize(&self, out: &mut [f32]) {
        let [d, _] = self.super_scales();
        let mut q = [0; 256];
        self.quants(&mut q);
        for (j, (o, &q)) in out.iter_mut().zip(&q).enumerate() {
            *o = d * f32::from(self.scales[j / 16]) * (i32::from(q) - 32) as f32;
        }
    }
}

impl IntFormat for Q6_K {
    const BITS: usize = 6;
    const SUB: usize = 16;
    const ZERO: i32 = 32;
    const HAS_SC: bool = true;
    const HAS_MIN: bool = false;

    fn super_scales(&self) -> [f32; 2] {
        [f16::from_le_bytes(self.d).to_f32(), 0.0]
    }

    fn sub_scales(&self, s: usize) -> (i32, i32) {
        (self.scales[s].into(), 0)
    }

    fn quants(&self, out: &mut [u8]) {
        for (half, out) in out.chunks_exact_mut(128).enumerate() {
            let (low, high) = (&self.low[half * 64..][..64], &self.high[half * 32..][..32]);
            for (t, out) in out.chunks_exact_mut(32).enumerate() {
                let low = &low[t % 2 * 32..][..32];
                for ((o, l), h) in out.iter_mut().zip(low).zip(high) {
                    *o = (l >> (t / 2 * 4) & 15) | (h >> (2 * t) & 3) << 4;
                }
            }
        }
    }
}
