//! IQ2_XXS: 256 points of eight magnitudes, seven signs a point, 4-bit scales, 2.06 bits a weight.

use super::coded::{self, CodedFormat, Words};
use super::{BlockFormat, grids};
use crate::DType;

/// `value[j] = d/8 · (2 s + 1) · ±point`. A unit of 32 elements has two words: four indices of
/// points, then four times seven signs and, on top, `s`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct IQ2_XXS {
    d: [u8; 2],
    body: [[u8; 4]; 16],
}

impl BlockFormat for IQ2_XXS {
    const DTYPE: DType = DType::IQ2_XXS;
    const BLOCK: usize = 256;

    fn dequantize(&self, out: &mut [f32]) {
        coded::dequantize(self, out);
    }
}

impl CodedFormat for IQ2_XXS {
    const WORDS: usize = 16;
    const SUB: usize = 32;
    const UNIT: f32 = 0.125;
    const HAS_SC: bool = true;

    #[inline(always)]
    fn quad<W: Words>(w: W, unit: usize, j: usize) -> W::Word {
        let (k, half) = (j / 2, j % 2);
        let index = w.shr(w.word(2 * unit), 8 * k);
        let signs = w.shr(w.word(2 * unit + 1), 7 * k);
        let point = w.entry(&grids::IQ2_XXS, index, half);
        coded::negate(w, point, coded::even_signs(w, signs, half))
    }

    #[inline(always)]
    fn sc<W: Words>(w: W, unit: usize, _: usize) -> W::Word {
        coded::odd(w, w.word(2 * unit + 1), 28, 4)
    }
}
