//! IQ3_S: 512 points of four magnitudes, four signs a point, 4-bit scales, 3.44 bits a weight.

use super::coded::{self, CodedFormat, Words};
use super::{BlockFormat, grids};
use crate::DType;

/// `value[j] = d · (2 s[j/32] + 1) · ±point`. The low bytes of the indices, their upper bits, the
/// signs, then the scales, a nibble each.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct IQ3_S {
    d: [u8; 2],
    body: [[u8; 4]; 27],
}

impl BlockFormat for IQ3_S {
    const DTYPE: DType = DType::IQ3_S;
    const BLOCK: usize = 256;

    fn dequantize(&self, out: &mut [f32]) {
        coded::dequantize(self, out);
    }
}

impl CodedFormat for IQ3_S {
    const WORDS: usize = 27;
    const SUB: usize = 32;
    const HAS_SC: bool = true;

    #[inline(always)]
    fn quad<W: Words>(w: W, unit: usize, j: usize) -> W::Word {
        let low = w.and(w.shr(w.word(2 * unit + j / 4), 8 * (j % 4)), 255);
        let high = w.and(w.shr(w.word(16 + unit / 4), 8 * (unit % 4) + j), 1);
        let signs = w.shr(w.word(18 + unit), 4 * j);
        coded::negate(w, w.entry(&grids::IQ3_S, w.or(low, w.shl(high, 8)), 0), signs)
    }

    #[inline(always)]
    fn sc<W: Words>(w: W, unit: usize, _: usize) -> W::Word {
        coded::odd(w, w.word(26), 4 * unit, 4)
    }
}
