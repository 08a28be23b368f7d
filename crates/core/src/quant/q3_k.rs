//! Q3_K: 256 three-bit integers in sixteen sub-blocks with signed 6-bit scales, 3.44 bits a weight.

use super::coded::{self, CodedFormat, Words};
use super::q2_k::bits_of_pairs;
use super::{BlockFormat, Quantizer, fit};
use crate::{DType, f16};

/// `value[j] = d·sc[j/16]·(q[j] - 4)`; bit `s` of `high[i]` is the third bit of element `32 s + i`.
///
/// A scale is kept as `sc + 32`: low nibbles of scales 0..8 and 8..16 are the halves of bytes 0..8
/// of `scales`, and the two upper bits of scale `s` are bits `2 (s / 4)` of byte `8 + s % 4`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Q3_K {
    high: [u8; 32],
    low: [u8; 64],
    scales: [u8; 12],
    d: [u8; 2],
}

impl BlockFormat for Q3_K {
    const DTYPE: DType = DType::Q3_K;
    const BLOCK: usize = 256;
    const QUANTIZE: Quantizer<Self> = Some(|x| {
        let fits: [f32; 16] = std::array::from_fn(|s| fit::scale_only(&x[s * 16..][..16], 4));
        let peak = fits.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
        let d = f16::from_f32(peak / -32.0);
        let sc = fits.map(|v| {
            if d == f16::ZERO { 0.0 } else { (v / d.to_f32()).round().clamp(-32.0, 31.0) }
        });
        let q = |j: usize| {
            let scale = d.to_f32() * sc[j / 16];
            if scale == 0.0 { 4 } else { ((x[j] / scale).round().clamp(-4.0, 3.0) + 4.0) as u8 }
        };
        let six = sc.map(|v| (v + 32.0) as u8);
        let mut scales = [0; 12];
        for (s, v) in six.into_iter().enumerate() {
            scales[s % 8] |= (v & 15) << (s / 8 * 4);
            scales[8 + s % 4] |= (v >> 4) << (s / 4 * 2);
        }
        let high = std::array::from_fn(|i| (0..8).fold(0, |b, s| b | (q(32 * s + i) >> 2) << s));
        Q3_K { high, low: bits_of_pairs(q), scales, d: d.to_le_bytes() }
    });

    fn dequantize(&self, out: &mut [f32]) {
        coded::dequantize(self, out);
    }
}

impl CodedFormat for Q3_K {
    const WORDS: usize = 27;
    const SUB: usize = 16;
    const HAS_SC: bool = true;
    const SC_ZERO: i32 = 32;

    fn scale_bytes(&self) -> [u8; 8] {
        coded::padded(&self.d)
    }

    fn body(&self) -> &[u8] {
        &bytemuck::bytes_of(self)[..108]
    }

    #[inline(always)]
    fn quad<W: Words>(w: W, unit: usize, j: usize) -> W::Word {
        let low = w.and(w.shr(w.word(8 + unit / 4 * 8 + j), 2 * (unit % 4)), 0x0303_0303);
        let high = w.and(w.shr(w.word(j), unit), 0x0101_0101);
        // Around 64 instead of 4.
        w.add(w.or(low, w.shl(high, 2)), w.splat(0x3c3c_3c3c))
    }

    #[inline(always)]
    fn sc<W: Words>(w: W, unit: usize, run: usize) -> W::Word {
        let s = 2 * unit + run;
        let low = w.and(w.shr(w.word(24 + s % 8 / 4), 8 * (s % 4) + s / 8 * 4), 15);
        let high = w.and(w.shr(w.word(26), 8 * (s % 4) + s / 4 * 2), 3);
        w.or(low, w.shl(high, 4))
    }
}
