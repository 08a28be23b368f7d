//! IQ1_S: 2,048 points of eight elements of -1, 0 or 1, shifted by an eighth, 3-bit scales, 1.56 bits
//! a weight.

use super::coded::{self, CodedFormat, Words};
use super::{BlockFormat, grids};
use crate::DType;

/// `value[j] = d · (2 s + 1) · (point ± 1/8)`. The low bytes of the indices; then, for each unit of
/// 32 elements, sixteen bits: four times three upper bits, `s`, and whether the shift is down.
///
/// In eighths the elements are integers.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct IQ1_S {
    d: [u8; 2],
    body: [[u8; 4]; 12],
}

impl BlockFormat for IQ1_S {
    const DTYPE: DType = DType::IQ1_S;
    const BLOCK: usize = 256;

    fn dequantize(&self, out: &mut [f32]) {
        coded::dequantize(self, out);
    }
}

impl CodedFormat for IQ1_S {
    const WORDS: usize = 12;
    const SUB: usize = 32;
    const UNIT: f32 = 0.125;
    const HAS_SC: bool = true;

    #[inline(always)]
    fn quad<W: Words>(w: W, unit: usize, j: usize) -> W::Word {
        let (k, half) = (j / 2, j % 2);
        let code = w.shr(w.word(8 + unit / 2), 16 * (unit % 2));
        let low = w.and(w.shr(w.word(unit), 8 * k), 255);
        let high = w.and(w.shr(code, 3 * k), 7);
        let point = w.entry(&grids::IQ1, w.or(low, w.shl(high, 8)), half);
        coded::shift(w, point, w.shr(code, 15))
    }

    #[inline(always)]
    fn sc<W: Words>(w: W, unit: usize, _: usize) -> W::Word {
        coded::odd(w, w.word(8 + unit / 2), 16 * (unit % 2) + 12, 3)
    }
}
