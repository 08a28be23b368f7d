//! MXFP4: 32 four-bit floats (E2M1) and one power of two, 4.25 bits a weight.
//!
//! The format of the Open Compute Project's microscaling specification, with the nibbles in the
//! order of GGUF.

use super::coded::{self, CodedFormat, Scale, Words};
use super::{BlockFormat, Quantizer, fit};
use crate::DType;

/// Twice the values of the floats, so that they are integers; the scale is half of its own.
const VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

static TABLE: [u8; 16] = coded::around(VALUES, 64);

/// `value[j] = 2^(e - 128) · VALUES[q[j]]`; low nibbles are elements 0..16, high nibbles 16..32.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct MXFP4 {
    e: u8,
    q: [u8; 16],
}

impl BlockFormat for MXFP4 {
    const DTYPE: DType = DType::MXFP4;
    const BLOCK: usize = 32;
    const QUANTIZE: Quantizer<Self> = Some(|x| {
        // The power that brings the peak within the largest value, or the one below, which cuts
        // it off but has finer steps: whichever leaves the smaller error.
        let peak = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let fits = (0..=254).find(|&e| 12.0 * coded::exponent(e) >= peak).unwrap_or(254);
        let error = |&e: &u8| {
            let d = coded::exponent(e);
            let q = fit::nearest(x, d, &VALUES);
            x.iter().zip(q).map(|(x, q)| (x - d * f32::from(VALUES[q as usize])).powi(2)).sum()
        };
        let errors: [f32; 2] = [fits, fits.saturating_sub(1)].each_ref().map(error);
        let e = if errors[1] < errors[0] { fits - 1 } else { fits };
        let q = fit::nearest(x, coded::exponent(e), &VALUES);
        MXFP4 { e, q: std::array::from_fn(|j| q[j] | q[j + 16] << 4) }
    });

    fn dequantize(&self, out: &mut [f32]) {
        coded::dequantize(self, out);
    }
}

impl CodedFormat for MXFP4 {
    const WORDS: usize = 4;
    const SUB: usize = 32;
    const SCALE: Scale = Scale::Exponent;
    const HAS_SC: bool = false;

    #[inline(always)]
    fn quad<W: Words>(w: W, _: usize, j: usize) -> W::Word {
        coded::nibbles(w, &TABLE, 0, j)
    }
}
