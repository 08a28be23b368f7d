//! Q2_K: 256 two-bit integers in sixteen sub-blocks with 4-bit scales and minima, 2.63 bits a
//! weight.

use super::coded::{self, CodedFormat, Scale, Words};
use super::{BlockFormat, Quantizer, fit};
use crate::{DType, f16};

/// `value[j] = d·sc[j/16]·q[j] - m·mn[j/16]`; a byte of `scales` is `sc` below `mn`. Each half of
/// 128 elements has 32 bytes that hold the elements 32 apart, lowest bits first.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Q2_K {
    scales: [u8; 16],
    q: [u8; 64],
    d: [u8; 2],
    m: [u8; 2],
}

/// The 64 bytes of 256 integers of two bits.
pub(super) fn bits_of_pairs(q: impl Fn(usize) -> u8) -> [u8; 64] {
    std::array::from_fn(|i| {
        let j = i / 32 * 128 + i % 32;
        (0..4).fold(0, |b, t| b | (q(j + 32 * t) & 3) << (2 * t))
    })
}

impl BlockFormat for Q2_K {
    const DTYPE: DType = DType::Q2_K;
    const BLOCK: usize = 256;
    const QUANTIZE: Quantizer<Self> = Some(|x| {
        let fits: [(f32, f32); 16] =
            std::array::from_fn(|s| fit::scale_and_min(&x[s * 16..][..16], 3));
        let peak = |f: fn(&(f32, f32)) -> f32| fits.iter().map(f).fold(0.0f32, f32::max) / 15.0;
        let (d, m) = (f16::from_f32(peak(|p| p.0)), f16::from_f32(peak(|p| p.1)));
        let four = |v: f32, unit: f16| {
            if unit == f16::ZERO { 0 } else { (v / unit.to_f32()).round().clamp(0.0, 15.0) as u8 }
        };
        let scales = fits.map(|p| four(p.0, d) | four(p.1, m) << 4);
        let q = |j: usize| {
            let scale = d.to_f32() * f32::from(scales[j / 16] & 15);
            let min = m.to_f32() * f32::from(scales[j / 16] >> 4);
            if scale == 0.0 { 0 } else { ((x[j] + min) / scale).round().clamp(0.0, 3.0) as u8 }
        };
        Q2_K { scales, q: bits_of_pairs(q), d: d.to_le_bytes(), m: m.to_le_bytes() }
    });

    fn dequantize(&self, out: &mut [f32]) {
        coded::dequantize(self, out);
    }
}

impl CodedFormat for Q2_K {
    const WORDS: usize = 20;
    const SUB: usize = 16;
    const ZERO: i32 = 0;
    const SCALE: Scale = Scale::Halves;
    const HAS_SC: bool = true;

    fn scale_bytes(&self) -> [u8; 8] {
        coded::padded(&[self.d, self.m].concat())
    }

    fn body(&self) -> &[u8] {
        &bytemuck::bytes_of(self)[..80]
    }

    #[inline(always)]
    fn quad<W: Words>(w: W, unit: usize, j: usize) -> W::Word {
        w.and(w.shr(w.word(4 + unit / 4 * 8 + j), 2 * (unit % 4)), 0x0303_0303)
    }

    #[inline(always)]
    fn sc<W: Words>(w: W, unit: usize, run: usize) -> W::Word {
        w.and(w.shr(w.word(unit / 2), 16 * (unit % 2) + 8 * run), 15)
    }

    #[inline(always)]
    fn mn<W: Words>(w: W, unit: usize, run: usize) -> W::Word {
        w.and(w.shr(w.word(unit / 2), 16 * (unit % 2) + 8 * run + 4), 15)
    }
}
