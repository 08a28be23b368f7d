//! TQ1_0: 256 elements of -1, 0 or 1, five to a byte, and one f16 scale, 1.69 bits a weight.

use super::coded::{self, CodedFormat, Words};
use super::tq2_0::ternary;
use super::{BlockFormat, Quantizer};
use crate::DType;

/// `value[j] = d · (digit[j] - 1)`.
///
/// A byte is a fraction `⌈256 Σ digit_n · 3^-(n+1)⌉ / 256`: times `3^n`, modulo 1, it is the one
/// that begins with digit `n`, and three times that begins with its integer part. Digit `n` of
/// bytes 0..32 is element `32 n + i`, that of bytes 32..48 element `160 + 16 n + i`, that of the
/// last four, which hold four digits, element `240 + 4 n + i`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct TQ1_0 {
    q: [[u8; 4]; 13],
    d: [u8; 2],
}

/// The byte that holds element `j`, and which of its digits it is.
fn place(j: usize) -> (usize, usize) {
    match j {
        0..160 => (j % 32, j / 32),
        160..240 => (32 + (j - 160) % 16, (j - 160) / 16),
        _ => (48 + j % 4, (j - 240) / 4),
    }
}

const POWERS: [u32; 5] = [1, 3, 9, 27, 81];

impl BlockFormat for TQ1_0 {
    const DTYPE: DType = DType::TQ1_0;
    const BLOCK: usize = 256;
    const QUANTIZE: Quantizer<Self> = Some(|x| {
        let (d, digits) = ternary(x);
        let mut sums = [[0u32; 4]; 13];
        for (j, &digit) in digits.iter().enumerate() {
            let (byte, n) = place(j);
            sums[byte / 4][byte % 4] += u32::from(digit) * POWERS[4 - n];
        }
        // The last four hold a fifth digit of 0.
        TQ1_0 { q: sums.map(|w| w.map(|v| (v * 256).div_ceil(243) as u8)), d: d.to_le_bytes() }
    });

    fn dequantize(&self, out: &mut [f32]) {
        coded::dequantize(self, out);
    }
}

impl CodedFormat for TQ1_0 {
    const WORDS: usize = 13;
    const SUB: usize = 32;
    const HAS_SC: bool = false;

    fn scale_bytes(&self) -> [u8; 8] {
        coded::padded(&self.d)
    }

    fn body(&self) -> &[u8] {
        self.q.as_flattened()
    }

    #[inline(always)]
    fn quad<W: Words>(w: W, unit: usize, j: usize) -> W::Word {
        // Four elements of a quad are the same digit of four bytes of one word.
        let e = 32 * unit + 4 * j;
        let (word, n) = if e < 160 {
            (j, unit)
        } else if e < 240 {
            (8 + e % 16 / 4, (e - 160) / 16)
        } else {
            (12, (e - 240) / 4)
        };
        let bytes = w.word(word);
        // Every other byte, so that a product has sixteen bits.
        let digit = |bytes| {
            let fraction = w.and(w.mul(w.and(bytes, 0x00ff_00ff), POWERS[n % 5]), 0x00ff_00ff);
            w.and(w.shr(w.mul(fraction, 3), 8), 0x00ff_00ff)
        };
        let digits = w.or(digit(bytes), w.shl(digit(w.shr(bytes, 8)), 8));
        w.add(digits, w.splat(0x3f3f_3f3f))
    }
}
