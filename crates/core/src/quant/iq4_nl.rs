//! IQ4_NL: 32 four-bit indices into a table of uneven steps, and one f16 scale, 4.5 bits a weight.

use super::coded::{self, CodedFormat, Words};
use super::{BlockFormat, Quantizer, fit};
use crate::{DType, f16};

/// The values of the indices, shared with IQ4_XS: finer around zero, where weights are dense.
pub(super) const VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The same around 128.
static TABLE: [u8; 16] = coded::around(VALUES, 128);

/// `value[j] = d · VALUES[q[j]]`; low nibbles are elements 0..16, high nibbles 16..32.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct IQ4_NL {
    d: [u8; 2],
    q: [u8; 16],
}

/// The integers, around 128, of the nibbles of quad `j` of sixteen bytes that begin at word `at`.
#[inline(always)]
pub(super) fn nibbles<W: Words>(w: W, at: usize, j: usize) -> W::Word {
    coded::nibbles(w, &TABLE, at, j)
}

impl BlockFormat for IQ4_NL {
    const DTYPE: DType = DType::IQ4_NL;
    const BLOCK: usize = 32;
    const QUANTIZE: Quantizer<Self> = Some(|x| {
        let d = f16::from_f32(fit::scale_of_table(x, &VALUES));
        let q = fit::nearest(x, d.to_f32(), &VALUES);
        IQ4_NL { d: d.to_le_bytes(), q: std::array::from_fn(|j| q[j] | q[j + 16] << 4) }
    });

    fn dequantize(&self, out: &mut [f32]) {
        coded::dequantize(self, out);
    }
}

impl CodedFormat for IQ4_NL {
    const WORDS: usize = 4;
    const SUB: usize = 32;
    const ZERO: i32 = 128;
    const HAS_SC: bool = false;

    #[inline(always)]
    fn quad<W: Words>(w: W, _: usize, j: usize) -> W::Word {
        nibbles(w, 0, j)
    }
}
