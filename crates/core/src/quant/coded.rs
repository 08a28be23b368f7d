//! Formats that are packed as they are, word for word: those whose integers are codes, entries of a
//! table or digits in base three, and those whose scales have few bits themselves.
//!
//! They stay in memory as the file has them, and are taken apart on the way into a product. A
//! format says how in terms of [`Words`], a handful of operations on 32-bit words. The reference
//! dequantization runs it on one row ([`OneRow`]), a kernel on as many rows as a register has
//! lanes: the decoding of a format is written once.
//!
//! ```text
//! value[j] = d · UNIT · (sc[j / SUB] - SC_ZERO) · (q[j] - ZERO)  -  m · mn[j / SUB]
//! ```
//!
//! with `q` in 0..=127 around a `ZERO` of 64, in 0..=31 above 0 where there are minima, or in
//! 0..=255 around 128; packed integers have a zero in each block instead. What a format adds to or
//! multiplies its table entries with is folded into small integers, exactly.

use super::BlockFormat;
use crate::f16;

/// What the scales of a block are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scale {
    /// `d`, an f16.
    Half,
    /// `d` and `m`, two of them.
    Halves,
    /// One byte `e`, for a `d` of `2^(e - 128)`.
    Exponent,
    /// `d`, an f32.
    Single,
    /// `d`, an f16, and a byte that is subtracted from every `q`.
    HalfZero,
    /// `d`, an f32, and such a byte.
    SingleZero,
}

impl Scale {
    /// Bytes of `d`, and of what else there is.
    pub const fn widths(self) -> [usize; 2] {
        match self {
            Scale::Half => [2, 0],
            Scale::Halves => [2, 2],
            Scale::Exponent => [1, 0],
            Scale::Single => [4, 0],
            Scale::HalfZero => [2, 1],
            Scale::SingleZero => [4, 1],
        }
    }

    /// Bytes of both.
    pub const fn bytes(self) -> usize {
        let [d, m] = self.widths();
        d + m
    }

    /// Whether there are minima.
    pub const fn has_min(self) -> bool {
        matches!(self, Scale::Halves)
    }

    /// Whether blocks have a zero of their own.
    pub const fn has_zero(self) -> bool {
        matches!(self, Scale::HalfZero | Scale::SingleZero)
    }

    /// `[d, m]` from the bytes of `d` followed by what else there is; `m` is 0 without minima.
    pub fn values(self, bytes: [u8; 8]) -> [f32; 2] {
        let half = |i| f16::from_le_bytes([bytes[i], bytes[i + 1]]).to_f32();
        let single = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        match self {
            Scale::Half => [half(0), 0.0],
            Scale::Halves => [half(0), half(2)],
            Scale::Exponent => [exponent(bytes[0]), 0.0],
            Scale::HalfZero => [half(0), 0.0],
            Scale::Single | Scale::SingleZero => [single, 0.0],
        }
    }
}

/// `2^(e - 128)`; the two smallest are subnormal.
pub(super) fn exponent(e: u8) -> f32 {
    match u32::from(e) {
        e @ 0..2 => f32::from_bits(0x0020_0000 << e),
        e => f32::from_bits((e - 1) << 23),
    }
}

/// A format decoded by [`Words`]; see the module. A row of `BLOCK` elements is units of 32, a
/// unit is eight quads of four.
pub trait CodedFormat: BlockFormat {
    /// 32-bit words of a block's body: all that [`CodedFormat::quad`] and [`CodedFormat::sc`] read.
    const WORDS: usize;
    /// Elements that share a scale: 16 or 32.
    const SUB: usize;
    /// Subtracted from every `q`: 64, 0 with minima or a zero of the block, or 128 where `q` takes a
    /// whole byte.
    const ZERO: i32 = 64;
    /// The form of `d` and `m`.
    const SCALE: Scale = Scale::Half;
    /// A power of two that `d` is multiplied with.
    const UNIT: f32 = 1.0;
    /// Whether there are integer scales `sc` (else `sc - SC_ZERO` is 1).
    const HAS_SC: bool;
    /// Subtracted from every `sc`.
    const SC_ZERO: i32 = 0;

    /// The bytes of `d`, and what else there is, at the front of the result. In most formats a block
    /// begins with them.
    fn scale_bytes(&self) -> [u8; 8] {
        padded(&bytemuck::bytes_of(self)[..Self::SCALE.bytes()])
    }
    /// The body: `4 · WORDS` bytes. In most formats it is what follows.
    fn body(&self) -> &[u8] {
        &bytemuck::bytes_of(self)[Self::SCALE.bytes()..]
    }
    /// The four integers of quad `j` (0..8) of unit `unit` of the block, the first in the lowest
    /// byte.
    fn quad<W: Words>(w: W, unit: usize, j: usize) -> W::Word;
    /// The integer scale of run `run` of `SUB` elements of the unit, 0..=255, where there are such.
    #[inline(always)]
    fn sc<W: Words>(w: W, _unit: usize, _run: usize) -> W::Word {
        w.splat(1)
    }
    /// The integer minimum of the run, 0..=255, for formats with [`Scale::Halves`].
    #[inline(always)]
    fn mn<W: Words>(w: W, _unit: usize, _run: usize) -> W::Word {
        w.splat(1)
    }
}

/// 32-bit words of one block of one or more rows, a lane a row.
pub trait Words: Copy {
    /// A word of every row.
    type Word: Copy;
    /// Word `i` of the body, little-endian; the last one for any `i` beyond.
    fn word(self, i: usize) -> Self::Word;
    /// `a & mask`
    fn and(self, a: Self::Word, mask: u32) -> Self::Word;
    /// `a | b`
    fn or(self, a: Self::Word, b: Self::Word) -> Self::Word;
    /// `a ^ b`
    fn xor(self, a: Self::Word, b: Self::Word) -> Self::Word;
    /// `a + b`
    fn add(self, a: Self::Word, b: Self::Word) -> Self::Word;
    /// `a - b`
    fn sub(self, a: Self::Word, b: Self::Word) -> Self::Word;
    /// `a · n`
    fn mul(self, a: Self::Word, n: u32) -> Self::Word;
    /// `n` in every row.
    fn splat(self, n: u32) -> Self::Word;
    /// `a` to the left by `n < 32`.
    fn shl(self, a: Self::Word, n: usize) -> Self::Word;
    /// `a` to the right by `n < 32`, zeros entering.
    fn shr(self, a: Self::Word, n: usize) -> Self::Word;
    /// Word `part` of entry `index mod N`; `N` is a power of two, `P` 1 or 2, `part < P`.
    fn entry<const P: usize, const N: usize>(
        self,
        table: &'static [[u32; P]; N],
        index: Self::Word,
        part: usize,
    ) -> Self::Word;
    /// `table[b]` for every byte `b < 16` of `a`.
    fn entry_bytes(self, table: &'static [u8; 16], a: Self::Word) -> Self::Word;
}

/// The words of one row; the function gives word `i`.
#[derive(Clone, Copy)]
pub struct OneRow<F>(pub F);

impl<F: Fn(usize) -> u32 + Copy> Words for OneRow<F> {
    type Word = u32;
    fn word(self, i: usize) -> u32 {
        (self.0)(i)
    }
    fn and(self, a: u32, mask: u32) -> u32 {
        a & mask
    }
    fn or(self, a: u32, b: u32) -> u32 {
        a | b
    }
    fn xor(self, a: u32, b: u32) -> u32 {
        a ^ b
    }
    fn add(self, a: u32, b: u32) -> u32 {
        a.wrapping_add(b)
    }
    fn sub(self, a: u32, b: u32) -> u32 {
        a.wrapping_sub(b)
    }
    fn mul(self, a: u32, n: u32) -> u32 {
        a.wrapping_mul(n)
    }
    fn splat(self, n: u32) -> u32 {
        n
    }
    fn shl(self, a: u32, n: usize) -> u32 {
        a << n
    }
    fn shr(self, a: u32, n: usize) -> u32 {
        a >> n
    }
    fn entry<const P: usize, const N: usize>(
        self,
        table: &'static [[u32; P]; N],
        index: u32,
        part: usize,
    ) -> u32 {
        table[index as usize % N][part]
    }
    fn entry_bytes(self, table: &'static [u8; 16], a: u32) -> u32 {
        u32::from_le_bytes(a.to_le_bytes().map(|b| table[usize::from(b % 16)]))
    }
}

/// The exact values of one block of one row, from its words and the bytes of its scales. `out`
/// holds `BLOCK` elements.
pub fn decode<F: CodedFormat>(w: impl Words<Word = u32>, scales: [u8; 8], out: &mut [f32]) {
    let [d, m] = F::SCALE.values(scales);
    let zero = if F::SCALE.has_zero() { scales[F::SCALE.widths()[0]].into() } else { F::ZERO };
    for (j, out) in out.chunks_exact_mut(4).enumerate() {
        let (unit, j) = (j / 8, j % 8);
        let run = j * 4 / F::SUB;
        let mut scale = d * F::UNIT;
        if F::HAS_SC {
            scale *= (F::sc(w, unit, run) as i32 - F::SC_ZERO) as f32;
        }
        for (o, q) in out.iter_mut().zip(F::quad(w, unit, j).to_le_bytes()) {
            *o = scale * (i32::from(q) - zero) as f32;
            if F::SCALE.has_min() {
                *o -= m * F::mn(w, unit, run) as f32;
            }
        }
    }
}

/// [`BlockFormat::dequantize`] of a coded format.
pub(super) fn dequantize<F: CodedFormat>(block: &F, out: &mut [f32]) {
    let body = block.body();
    let word = |i: usize| {
        let at = 4 * i.min(F::WORDS - 1);
        u32::from_le_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]])
    };
    decode::<F>(OneRow(word), block.scale_bytes(), out);
}

/// Negates the bytes of `quad`, integers around 64, whose bit of `signs` is set: bits 0..4, the
/// first for the lowest byte. Other bits of `signs` do not count.
#[inline(always)]
pub(super) fn negate<W: Words>(w: W, quad: W::Word, signs: W::Word) -> W::Word {
    let s = w.and(signs, 15);
    // Bit i to the bottom of byte i.
    let s = w.or(s, w.shl(s, 7));
    let s = w.and(w.or(s, w.shl(s, 14)), 0x0101_0101);
    // Where it is set, 128 - q = (q ^ 127) + 1, of which no byte carries into the next.
    let ones = w.sub(w.shl(s, 7), s);
    w.add(w.xor(quad, ones), s)
}

/// Signs of quad `half` (0 or 1) of eight elements whose seven signs are the lowest bits of
/// `signs`: the eighth makes the number of negative ones even.
#[inline(always)]
pub(super) fn even_signs<W: Words>(w: W, signs: W::Word, half: usize) -> W::Word {
    if half == 0 {
        return signs;
    }
    let signs = w.and(signs, 127);
    let p = w.xor(signs, w.shr(signs, 4));
    let p = w.xor(p, w.shr(p, 2));
    let p = w.and(w.xor(p, w.shr(p, 1)), 1);
    w.or(w.shr(signs, 4), w.shl(p, 3))
}

/// `2 n + 1` of the `bits` bits of `a` from bit `from` on.
#[inline(always)]
pub(super) fn odd<W: Words>(w: W, a: W::Word, from: usize, bits: usize) -> W::Word {
    let n = w.and(w.shr(a, from), (1 << bits) - 1);
    w.or(w.shl(n, 1), w.splat(1))
}

/// Adds a quarter to the bytes of `quad`, eighths around 64, where the lowest bit of `down` is not
/// set.
#[inline(always)]
pub(super) fn shift<W: Words>(w: W, quad: W::Word, down: W::Word) -> W::Word {
    let down = w.mul(w.and(down, 1), 0x0202_0202);
    w.sub(w.add(quad, w.splat(0x0202_0202)), down)
}

/// A table of integers as bytes around `zero`.
pub(super) const fn around(values: [i8; 16], zero: i32) -> [u8; 16] {
    let mut table = [0; 16];
    let mut i = 0;
    while i < 16 {
        table[i] = (values[i] as i32 + zero) as u8;
        i += 1;
    }
    table
}

/// Table entries of the nibbles of quad `j` of sixteen bytes that begin at word `at`: low nibbles
/// are elements 0..16, high nibbles 16..32.
#[inline(always)]
pub(super) fn nibbles<W: Words>(w: W, table: &'static [u8; 16], at: usize, j: usize) -> W::Word {
    w.entry_bytes(table, w.and(w.shr(w.word(at + j % 4), j / 4 * 4), 0x0f0f_0f0f))
}

/// Bytes as [`CodedFormat::scale_bytes`] gives them.
pub(super) fn padded(bytes: &[u8]) -> [u8; 8] {
    std::array::from_fn(|i| bytes.get(i).copied().unwrap_or(0))
}
