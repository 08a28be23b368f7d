//! IQ2_S: 1,024 points of eight magnitudes, eight signs a point, 4-bit scales, 2.56 bits a weight.

use super::coded::{self, CodedFormat, Words};
use super::{BlockFormat, grids};
use crate::DType;

/// `value[j] = d/8 · (2 s[j/16] + 1) · ±point`. The low bytes of the indices, a byte of signs for
/// each point, two upper bits of each index, then the scales, a nibble each.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct IQ2_S {
    d: [u8; 2],
    body: [[u8; 4]; 20],
}

impl BlockFormat for IQ2_S {
    const DTYPE: DType = DType::IQ2_S;
    const BLOCK: usize = 256;

    fn dequantize(&self, out: &mut [f32]) {
        coded::dequantize(self, out);
    }
}

impl CodedFormat for IQ2_S {
    const WORDS: usize = 20;
    const SUB: usize = 16;
    const UNIT: f32 = 0.125;
    const HAS_SC: bool = true;

    #[inline(always)]
    fn quad<W: Words>(w: W, unit: usize, j: usize) -> W::Word {
        let (k, half) = (j / 2, j % 2);
        let low = w.and(w.shr(w.word(unit), 8 * k), 255);
        let high = w.and(w.shr(w.word(16 + unit / 4), 8 * (unit % 4) + 2 * k), 3);
        let signs = w.shr(w.word(8 + unit), 4 * j);
        coded::negate(w, w.entry(&grids::IQ2_S, w.or(low, w.shl(high, 8)), half), signs)
    }

    #[inline(always)]
    fn sc<W: Words>(w: W, unit: usize, run: usize) -> W::Word {
        coded::odd(w, w.word(18 + unit / 4), 8 * (unit % 4) + 4 * run, 4)
    }
}
