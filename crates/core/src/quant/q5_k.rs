//! Q5_K: Q4_K with a fifth bit of each integer in a plane of its own, 5.5 bits a weight.

use super::q4_k::{SixBitPairs, quantize_pairs};
use super::{BlockFormat, IntFormat, Quantizer};
use crate::{DType, f16};

/// `value[j] = d·sc[j/32]·q[j] - m·mn[j/32]`; bit `s` of `high[i]` belongs to element `32 s + i`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Q5_K {
    d: [u8; 2],
    m: [u8; 2],
    scales: SixBitPairs,
    high: [u8; 32],
    low: [u8; 128],
}

impl BlockFormat for Q5_K {
    const DTYPE: DType = DType::Q5_K;
    const BLOCK: usize = 256;
    const QUANTIZE: Quantizer<Self> = Some(|x| {
        let (d, m, scales, q) = quantize_pairs(x, 31);
        let low = std::array::from_fn(|i| {
            let j = i / 32 * 64 + i % 32;
            q[j] & 15 | (q[j + 32] & 15) << 4
        });
        let high = std::array::from_fn(|i| (0..8).fold(0, |b, s| b | (q[s * 32 + i] >> 4) << s));
        Q5_K { d, m, scales, high, low }
    });

    fn dequantize(&self, out: &mut [f32]) {
        let [d, m] = self.super_scales();
        let mut q = [0; 256];
        self.quants(&mut q);
        for (j, (o, &q)) in out.iter_mut().zip(&q).enumerate() {
            let (sc, mn) = self.sub_scales(j / 32);
            *o = d * sc as f32 * f32::from(q) - m * mn as f32;
        }
    }
}

impl IntFormat for Q5_K {
    const BITS: usize = 5;
    const SUB: usize = 32;
    const ZERO: i32 = 0;
    const HAS_SC: bool = true;
    const HAS_MIN: bool = true;

    fn super_scales(&self) -> [f32; 2] {
        [f16::from_le_bytes(self.d).to_f32(), f16::from_le_bytes(self.m).to_f32()]
    }

    fn sub_scales(&self, s: usize) -> (i32, i32) {
        self.scales.get(s)
    }

    fn quants(&self, out: &mut [u8]) {
        for (s, out) in out.chunks_exact_mut(32).enumerate() {
            for (i, o) in out.iter_mut().enumerate() {
                let low = self.low[s / 2 * 32 + i] >> (s % 2 * 4) & 15;
                *o = low | (self.high[i] >> s & 1) << 4;
            }
        }
    }
}
