//! Packed integers of 1, 2, 4 or 8 bits in blocks of 32, 64 or 128 with one scale, f16 or f32: what
//! quantized weights of safetensors become ([`unpack`](super::unpack)).
//!
//! ```text
//! value[j] = d · (q[j] - z)            below eight bits
//! value[j] = d · (q[j] - 128)          of eight bits
//! ```
//!
//! A unit of 32 elements is `BITS` words. Byte for byte, word `t` holds quads `t`, `t + BITS`, …
//! (four elements each) from the lowest bits up.

use super::coded::{self, CodedFormat, Scale, Words};
use super::{BlockFormat, Quantizer};
use crate::{DType, f16};

/// The scale of a block of [`Packed`] integers: f16 or f32.
pub trait PackedScale: bytemuck::Pod + Send + Sync + PartialEq {
    /// Without and with a zero.
    const SCALES: [Scale; 2];
    /// From and to f32.
    fn narrow(v: f32) -> Self;
    /// See [`PackedScale::narrow`].
    fn widen(self) -> f32;
}
impl PackedScale for f16 {
    const SCALES: [Scale; 2] = [Scale::Half, Scale::HalfZero];
    fn narrow(v: f32) -> Self {
        f16::from_f32(v)
    }
    fn widen(self) -> f32 {
        self.to_f32()
    }
}
impl PackedScale for f32 {
    const SCALES: [Scale; 2] = [Scale::Single, Scale::SingleZero];
    fn narrow(v: f32) -> Self {
        v
    }
    fn widen(self) -> f32 {
        self
    }
}

/// `UNITS` units of 32 integers of `BITS` bits. `ZEROS` is 0 for eight bits, whose zero is 128, and
/// 1 for fewer, which bring it along.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, packed)]
pub struct Packed<S, const ZEROS: usize, const BITS: usize, const UNITS: usize> {
    d: S,
    z: [u8; ZEROS],
    q: [[[u8; 4]; BITS]; UNITS],
}

/// The type of integers of `bits` bits in blocks of `block`, with scales in f32 if `wide`.
pub fn packed_type(bits: usize, block: usize, wide: bool) -> Option<DType> {
    DType::from_name(&format!("I{bits}_{block}_{}", if wide { "F32" } else { "F16" }))
}

const fn dtype(bits: usize, units: usize, wide: bool) -> DType {
    match (bits, units, wide) {
        (8, 1, false) => DType::I8_32_F16,
        (8, 1, true) => DType::I8_32_F32,
        (8, 2, false) => DType::I8_64_F16,
        (8, 2, true) => DType::I8_64_F32,
        (8, 4, false) => DType::I8_128_F16,
        (8, 4, true) => DType::I8_128_F32,
        (4, 1, false) => DType::I4_32_F16,
        (4, 1, true) => DType::I4_32_F32,
        (4, 2, false) => DType::I4_64_F16,
        (4, 2, true) => DType::I4_64_F32,
        (4, 4, false) => DType::I4_128_F16,
        (4, 4, true) => DType::I4_128_F32,
        (2, 1, false) => DType::I2_32_F16,
        (2, 1, true) => DType::I2_32_F32,
        (2, 2, false) => DType::I2_64_F16,
        (2, 2, true) => DType::I2_64_F32,
        (2, 4, false) => DType::I2_128_F16,
        (2, 4, true) => DType::I2_128_F32,
        (1, 1, false) => DType::I1_32_F16,
        (1, 1, true) => DType::I1_32_F32,
        (1, 2, false) => DType::I1_64_F16,
        (1, 2, true) => DType::I1_64_F32,
        (1, 4, false) => DType::I1_128_F16,
        (1, 4, true) => DType::I1_128_F32,
        _ => panic!("packed integers have 1, 2, 4 or 8 bits and 1, 2 or 4 units"),
    }
}

/// The words of 32 integers below `2^bits`.
pub(super) fn pack_unit(bits: usize, q: impl Fn(usize) -> u32, out: &mut [u8]) {
    for (t, out) in out.chunks_exact_mut(4).enumerate().take(bits) {
        for (i, byte) in out.iter_mut().enumerate() {
            let quads = 0..8 / bits;
            *byte = quads.fold(0, |b, u| b | q(4 * (t + u * bits) + i) << (u * bits)) as u8;
        }
    }
}

impl<S: PackedScale, const ZEROS: usize, const BITS: usize, const UNITS: usize>
    Packed<S, ZEROS, BITS, UNITS>
{
    /// The nearest integers, with the scale and the zero that reach from the least to the largest
    /// value; with eight bits as far down as up.
    fn nearest(x: &[f32]) -> Self {
        let low = x.iter().copied().fold(0.0f32, f32::min);
        let high = x.iter().copied().fold(0.0f32, f32::max);
        let top = ((1 << BITS) - 1) as f32;
        let d = if ZEROS == 0 { high.max(-low) / 127.0 } else { (high - low) / top };
        let d = S::narrow(d);
        let inverse = if d.widen() == 0.0 { 0.0 } else { 1.0 / d.widen() };
        let z = if ZEROS == 0 { 128.0 } else { (-low * inverse).round().clamp(0.0, top) };
        let integer = |v: f32| (v * inverse + z).round().clamp(0.0, top) as u32;
        let mut q = [[[0; 4]; BITS]; UNITS];
        for (x, q) in x.as_chunks::<32>().0.iter().zip(&mut q) {
            pack_unit(BITS, |j| integer(x[j]), q.as_flattened_mut());
        }
        Packed { d, z: [z as u8; ZEROS], q }
    }
}

impl<S: PackedScale, const ZEROS: usize, const BITS: usize, const UNITS: usize> BlockFormat
    for Packed<S, ZEROS, BITS, UNITS>
{
    const DTYPE: DType = dtype(BITS, UNITS, size_of::<S>() == 4);
    const BLOCK: usize = 32 * UNITS;
    const QUANTIZE: Quantizer<Self> = Some(Self::nearest);

    fn dequantize(&self, out: &mut [f32]) {
        coded::dequantize(self, out);
    }
}

impl<S: PackedScale, const ZEROS: usize, const BITS: usize, const UNITS: usize> CodedFormat
    for Packed<S, ZEROS, BITS, UNITS>
{
    const WORDS: usize = BITS * UNITS;
    const SUB: usize = 32;
    const ZERO: i32 = if BITS == 8 { 128 } else { 0 };
    const SCALE: Scale = S::SCALES[ZEROS];
    const HAS_SC: bool = false;

    #[inline(always)]
    fn quad<W: Words>(w: W, unit: usize, j: usize) -> W::Word {
        let word = w.word(unit * BITS + j % BITS);
        let mask = ((1u64 << BITS) - 1) as u32 * 0x0101_0101;
        w.and(w.shr(word, j / BITS * BITS % 32), mask)
    }
}

/// The same integers, whatever the length of their blocks.
pub trait PackedInts: CodedFormat {
    /// In blocks of one unit.
    type Unit: CodedFormat;
}

impl<S: PackedScale, const ZEROS: usize, const BITS: usize, const UNITS: usize> PackedInts
    for Packed<S, ZEROS, BITS, UNITS>
{
    type Unit = Packed<S, ZEROS, BITS, 1>;
}
