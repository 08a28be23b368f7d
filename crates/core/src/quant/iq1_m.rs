//! IQ1_M: 2,048 points of eight elements of -1, 0 or 1, shifted by an eighth, 3-bit scales, 1.75 bits
//! a weight.

use super::coded::{self, CodedFormat, Words};
use super::{BlockFormat, grids};
use crate::DType;

/// `value[j] = d · (2 s[j/16] + 1) · (point ± 1/8)`. The low bytes of the indices; a nibble for each
/// point: three upper bits, and whether its shift is down; four times sixteen bits: four scales of
/// three bits and, on top, a nibble of `d`, the lowest first.
///
/// In eighths the elements are integers.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct IQ1_M {
    body: [[u8; 4]; 14],
}

impl BlockFormat for IQ1_M {
    const DTYPE: DType = DType::IQ1_M;
    const BLOCK: usize = 256;

    fn dequantize(&self, out: &mut [f32]) {
        coded::dequantize(self, out);
    }
}

impl CodedFormat for IQ1_M {
    const WORDS: usize = 14;
    const SUB: usize = 16;
    const UNIT: f32 = 0.125;
    const HAS_SC: bool = true;

    fn scale_bytes(&self) -> [u8; 8] {
        let [a, b] = [12, 13].map(|i| u32::from_le_bytes(self.body[i]));
        let bits = a >> 12 & 15 | a >> 24 & 0xf0 | b >> 4 & 0xf00 | b >> 16 & 0xf000;
        coded::padded(&bits.to_le_bytes()[..2])
    }

    fn body(&self) -> &[u8] {
        self.body.as_flattened()
    }

    #[inline(always)]
    fn quad<W: Words>(w: W, unit: usize, j: usize) -> W::Word {
        let (k, half) = (j / 2, j % 2);
        let code = w.shr(w.word(8 + unit / 2), 16 * (unit % 2) + 4 * k);
        let low = w.and(w.shr(w.word(unit), 8 * k), 255);
        let high = w.and(code, 7);
        let point = w.entry(&grids::IQ1, w.or(low, w.shl(high, 8)), half);
        coded::shift(w, point, w.shr(code, 3))
    }

    #[inline(always)]
    fn sc<W: Words>(w: W, unit: usize, run: usize) -> W::Word {
        let from = 16 * (unit / 2 % 2) + 6 * (unit % 2) + 3 * run;
        coded::odd(w, w.word(12 + unit / 4), from, 3)
    }
}
