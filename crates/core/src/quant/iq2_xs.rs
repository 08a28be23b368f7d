//! IQ2_XS: 512 points of eight magnitudes, seven signs a point, 4-bit scales, 2.31 bits a weight.

use super::coded::{self, CodedFormat, Words};
use super::{BlockFormat, grids};
use crate::DType;

/// `value[j] = d/8 · (2 s[j/16] + 1) · ±point`. First sixteen bits for each point: nine of index,
/// seven of signs; then the scales, a nibble each.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct IQ2_XS {
    d: [u8; 2],
    body: [[u8; 4]; 18],
}

impl BlockFormat for IQ2_XS {
    const DTYPE: DType = DType::IQ2_XS;
    const BLOCK: usize = 256;

    fn dequantize(&self, out: &mut [f32]) {
        coded::dequantize(self, out);
    }
}

impl CodedFormat for IQ2_XS {
    const WORDS: usize = 18;
    const SUB: usize = 16;
    const UNIT: f32 = 0.125;
    const HAS_SC: bool = true;

    #[inline(always)]
    fn quad<W: Words>(w: W, unit: usize, j: usize) -> W::Word {
        let (k, half) = (j / 2, j % 2);
        let code = w.shr(w.word(2 * unit + k / 2), 16 * (k % 2));
        let point = w.entry(&grids::IQ2_XS, code, half);
        coded::negate(w, point, coded::even_signs(w, w.shr(code, 9), half))
    }

    #[inline(always)]
    fn sc<W: Words>(w: W, unit: usize, run: usize) -> W::Word {
        coded::odd(w, w.word(16 + unit / 4), 8 * (unit % 4) + 4 * run, 4)
    }
}
