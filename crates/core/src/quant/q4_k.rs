//! Q4_K: 256 four-bit integers in eight sub-blocks with 6-bit scales and minima, 4.5 bits a weight.

use super::{BlockFormat, IntFormat, Quantizer, fit};
use crate::{DType, f16};

/// `value[j] = d·sc[j/32]·q[j] - m·mn[j/32]`. Of each 64 elements, low nibbles are the first 32.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Q4_K {
    d: [u8; 2],
    m: [u8; 2],
    scales: SixBitPairs,
    q: [u8; 128],
}

/// Eight (scale, minimum) pairs of 6 bits in 12 bytes, shared by Q4_K and Q5_K: bytes 0..4 and
/// 4..8 hold the low six bits of pairs 0..4, their two upper bits are the high bits of pairs 4..8,
/// whose low nibbles share bytes 8..12.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub(super) struct SixBitPairs([u8; 12]);

impl SixBitPairs {
    pub(super) fn get(&self, s: usize) -> (i32, i32) {
        let b = &self.0;
        let (sc, mn) = if s < 4 {
            (b[s] & 63, b[s + 4] & 63)
        } else {
            (b[s + 4] & 15 | b[s - 4] >> 6 << 4, b[s + 4] >> 4 | b[s] >> 6 << 4)
        };
        (sc.into(), mn.into())
    }

    fn new(sc: [u8; 8], mn: [u8; 8]) -> Self {
        let mut b = [0; 12];
        for s in 0..4 {
            b[s] = sc[s] | sc[s + 4] >> 4 << 6;
            b[s + 4] = mn[s] | mn[s + 4] >> 4 << 6;
            b[s + 8] = sc[s + 4] & 15 | (mn[s + 4] & 15) << 4;
        }
        SixBitPairs(b)
    }
}

/// The quantizer of Q4_K and Q5_K up to their integers: `d`, `m`, the pairs, and 256 integers.
pub(super) fn quantize_pairs(x: &[f32], top: i32) -> ([u8; 2], [u8; 2], SixBitPairs, [u8; 256]) {
    let fits: [(f32, f32); 8] =
        std::array::from_fn(|s| fit::scale_and_min(&x[s * 32..][..32], top));
    let peak = |f: fn(&(f32, f32)) -> f32| fits.iter().map(f).fold(0.0f32, f32::max) / 63.0;
    let d = f16::from_f32(peak(|p| p.0));
    let m = f16::from_f32(peak(|p| p.1));
    let six = |v: f32, unit: f16| {
        if unit == f16::ZERO { 0 } else { (v / unit.to_f32()).round().clamp(0.0, 63.0) as u8 }
    };
    let sc = fits.map(|p| six(p.0, d));
    let mn = fits.map(|p| six(p.1, m));
    let q = std::array::from_fn(|j| {
        let scale = d.to_f32() * f32::from(sc[j / 32]);
        let min = m.to_f32() * f32::from(mn[j / 32]);
        if scale == 0.0 { 0 } else { ((x[j] + min) / scale).round().clamp(0.0, top as f32) as u8 }
    });
    (d.to_le_bytes(), m.to_le_bytes(), SixBitPairs::new(sc, mn), q)
}

impl BlockFormat for Q4_K {
    const DTYPE: DType = DType::Q4_K;
    const BLOCK: usize = 256;
    const QUANTIZE: Quantizer<Self> = Some(|x| {
        let (d, m, scales, q) = quantize_pairs(x, 15);
        let q = std::array::from_fn(|i| {
            let j = i / 32 * 64 + i % 32;
            q[j] | q[j + 32] << 4
        });
        Q4_K { d, m, scales, q }
    });

    fn dequantize(&self, out: &mut [f32]) {
        let [d, m] = self.super_scales();
        let mut q = [0; 256];
        self.quants(&mut q);
        for (s, out) in out.chunks_exact_mut(32).enumerate() {
            let (sc, mn) = self.sub_scales(s);
            let (scale, min) = (d * sc as f32, m * mn as f32);
            for (o, &q) in out.iter_mut().zip(&q[s * 32..]) {
                *o = scale * f32::from(q) - min;
            }
        }
    }
}

impl IntFormat for Q4_K {
    const BITS: usize = 4;
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
        for (out, q) in out.chunks_exact_mut(64).zip(self.q.chunks_exact(32)) {
            for (j, &b) in q.iter().enumerate() {
                out[j] = b & 15;
                out[j + 32] = b >> 4;
            }
        }
    }
}
