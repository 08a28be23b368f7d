//! IQ4_XS: 256 indices into the table of IQ4_NL, in eight sub-blocks with signed 6-bit scales, 4.25
//! bits a weight.

use super::coded::{self, CodedFormat, Words};
use super::iq4_nl::{VALUES, nibbles};
use super::{BlockFormat, Quantizer, fit};
use crate::{DType, f16};

/// `value[j] = d · (sc[j/32] - 32) · VALUES[q[j]]`. Nibble `s` of `low` and bits `2 s` of `high`
/// are `sc[s]`; each sub-block of `q` lies as in IQ4_NL.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct IQ4_XS {
    d: [u8; 2],
    high: [u8; 2],
    low: [u8; 4],
    q: [[u8; 16]; 8],
}

impl BlockFormat for IQ4_XS {
    const DTYPE: DType = DType::IQ4_XS;
    const BLOCK: usize = 256;
    const QUANTIZE: Quantizer<Self> = Some(|x| {
        let fits: [f32; 8] =
            std::array::from_fn(|s| fit::scale_of_table(&x[s * 32..][..32], &VALUES));
        let peak = fits.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
        let d = f16::from_f32(peak / -32.0);
        let sc = fits.map(|v| {
            if d == f16::ZERO { 0.0 } else { (v / d.to_f32()).round().clamp(-32.0, 31.0) }
        });
        let q = std::array::from_fn(|s| {
            let q = fit::nearest(&x[s * 32..][..32], d.to_f32() * sc[s], &VALUES);
            std::array::from_fn(|j| q[j] | q[j + 16] << 4)
        });
        let (mut low, mut high) = (0u32, 0u16);
        for (s, v) in sc.into_iter().enumerate() {
            let v = (v + 32.0) as u8;
            low |= u32::from(v & 15) << (4 * s);
            high |= u16::from(v >> 4) << (2 * s);
        }
        IQ4_XS { d: d.to_le_bytes(), high: high.to_le_bytes(), low: low.to_le_bytes(), q }
    });

    fn dequantize(&self, out: &mut [f32]) {
        coded::dequantize(self, out);
    }
}

impl CodedFormat for IQ4_XS {
    // The whole block: without `d` it would be no whole number of words.
    const WORDS: usize = 34;
    const SUB: usize = 32;
    const ZERO: i32 = 128;
    const HAS_SC: bool = true;
    const SC_ZERO: i32 = 32;

    fn body(&self) -> &[u8] {
        bytemuck::bytes_of(self)
    }

    #[inline(always)]
    fn quad<W: Words>(w: W, unit: usize, j: usize) -> W::Word {
        nibbles(w, 2 + 4 * unit, j)
    }

    #[inline(always)]
    fn sc<W: Words>(w: W, unit: usize, _: usize) -> W::Word {
        let low = w.and(w.shr(w.word(1), 4 * unit), 15);
        let high = w.and(w.shr(w.word(0), 16 + 2 * unit), 3);
        w.or(low, w.shl(high, 4))
    }
}
