//! IQ3_XXS: 256 points of four magnitudes, seven signs for two points, 4-bit scales, 3.06 bits a
//! weight.

use super::coded::{self, CodedFormat, Words};
use super::{BlockFormat, grids};
use crate::DType;

/// `value[j] = d/4 · (2 s + 1) · ±point`. First the indices of points, a byte each; then a word for
/// each unit of 32 elements: four times seven signs and, on top, `s`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct IQ3_XXS {
    d: [u8; 2],
    body: [[u8; 4]; 24],
}

impl BlockFormat for IQ3_XXS {
    const DTYPE: DType = DType::IQ3_XXS;
    const BLOCK: usize = 256;

    fn dequantize(&self, out: &mut [f32]) {
        coded::dequantize(self, out);
    }
}

impl CodedFormat for IQ3_XXS {
    const WORDS: usize = 24;
    const SUB: usize = 32;
    const UNIT: f32 = 0.25;
    const HAS_SC: bool = true;

    #[inline(always)]
    fn quad<W: Words>(w: W, unit: usize, j: usize) -> W::Word {
        let index = w.shr(w.word(2 * unit + j / 4), 8 * (j % 4));
        let signs = w.shr(w.word(16 + unit), 7 * (j / 2));
        let point = w.entry(&grids::IQ3_XXS, index, 0);
        coded::negate(w, point, coded::even_signs(w, signs, j % 2))
    }

    #[inline(always)]
    fn sc<W: Words>(w: W, unit: usize, _: usize) -> W::Word {
        coded::odd(w, w.word(16 + unit), 28, 4)
    }
}
