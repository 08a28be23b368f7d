//! How each storage format lies on the device: which class of `kernels/planes.h` it becomes, and the
//! kernel of `kernels/repack.cu` that brings it there.

use gristmill_core::{DType, quant};

/// How scales are stored, as `planes.h` numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Scales {
    Half,
    Single,
    Pair,
    PairSub,
    HalfSub,
    PairNibbles,
    Exponent,
    Inside,
}

impl Scales {
    /// Bytes of a block's record.
    pub fn bytes(self) -> usize {
        match self {
            Scales::Half | Scales::HalfSub => 2,
            Scales::Single | Scales::Pair | Scales::PairSub | Scales::PairNibbles => 4,
            Scales::Exponent => 1,
            Scales::Inside => 0,
        }
    }

    /// Whether each unit has two bytes of its own.
    pub fn has_sub(self) -> bool {
        matches!(self, Scales::PairSub | Scales::HalfSub | Scales::PairNibbles)
    }
}

/// How codes are brought over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repack {
    /// Codes of so many bits become planes, by the kernel of this name.
    Units(&'static str, u32),
    /// So many words of each block stay as they are.
    Words(u32),
    /// Rows of numbers of so many bytes are filled up.
    Rows(u32),
}

/// A format as kernels see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    /// The storage format.
    pub dtype: DType,
    /// The class of weights: the end of kernels' names.
    pub class: &'static str,
    pub repack: Repack,
    pub scales: Scales,
    /// Subtracted from every code.
    pub zero: i32,
    /// Whether each block has a zero of its own.
    pub zeros: bool,
    /// Which table codes are looked up in.
    pub table: u32,
    /// Where codes and scales begin in a block.
    pub body: u32,
    pub scale_at: u32,
}

impl Format {
    /// A format, if it is known here.
    pub fn of(dtype: DType) -> Option<Format> {
        use DType::*;
        use Scales::*;
        let plain = |class, repack, body| Format {
            dtype,
            class,
            repack,
            scales: Half,
            zero: 0,
            zeros: false,
            table: 0,
            body,
            scale_at: 0,
        };
        let units = |class, name, bits, body| plain(class, Repack::Units(name, bits), body);
        let behind = |f: Format, scale_at| Format { scale_at, ..f };
        let with = |f: Format, scales, zero| Format { scales, zero, ..f };
        let words = |class, words, body| plain(class, Repack::Words(words), body);
        Some(match dtype {
            F32 => plain("f32", Repack::Rows(4), 0),
            F16 => plain("f16", Repack::Rows(2), 0),
            BF16 => plain("bf16", Repack::Rows(2), 0),
            Q8_0 => units("p8", "q8_0", 8, 2),
            Q8_K => with(units("p8", "q8_k", 8, 4), Single, 0),
            Q4_0 => with(units("p4", "q4_0", 4, 2), Half, 8),
            Q4_1 => with(units("p4", "q4_1", 4, 4), Pair, 0),
            Q5_0 => with(units("p5", "q5_0", 5, 2), Half, 16),
            Q5_1 => with(units("p5", "q5_1", 5, 4), Pair, 0),
            Q4_K => with(units("p4", "q4_k", 4, 0), PairSub, 0),
            Q5_K => with(units("p5", "q5_k", 5, 0), PairSub, 0),
            Q6_K => behind(with(units("p6", "q6_k", 6, 0), HalfSub, 32), 208),
            Q2_K => behind(with(units("p2", "q2_k", 2, 0), PairNibbles, 0), 80),
            Q3_K => behind(with(units("p3", "q3_k", 3, 0), HalfSub, 4), 108),
            TQ2_0 => behind(with(units("p2", "tq2_0", 2, 0), Half, 1), 64),
            TQ1_0 => behind(with(units("p2", "tq1_0", 2, 0), Half, 1), 52),
            IQ4_NL => units("l4", "q4_0", 4, 2),
            IQ4_XS => with(units("l4", "iq4_xs", 4, 0), HalfSub, 0),
            MXFP4 => Format { table: 1, ..with(units("l4", "mxfp4", 4, 1), Exponent, 0) },
            IQ3_S => words("iq3_s", 27, 2),
            IQ3_XXS => words("iq3_xxs", 24, 2),
            IQ2_S => words("iq2_s", 20, 2),
            IQ2_XS => words("iq2_xs", 18, 2),
            IQ2_XXS => words("iq2_xxs", 16, 2),
            IQ1_S => words("iq1_s", 12, 2),
            IQ1_M => with(words("iq1_m", 14, 0), Inside, 0),
            _ => return Self::packed(dtype),
        })
    }

    /// Packed integers, whose names say everything: `I4_128_F16`.
    fn packed(dtype: DType) -> Option<Format> {
        let mut parts = dtype.name().split('_');
        let bits: u32 = parts.next()?.strip_prefix('I')?.parse().ok()?;
        let wide = match (parts.next()?, parts.next()?) {
            (_, "F16") => false,
            (_, "F32") => true,
            _ => return None,
        };
        let (class, name) = match (bits, wide) {
            (8, false) => ("p8", "i8_f16"),
            (8, true) => ("p8", "i8_f32"),
            (4, false) => ("p4", "i4_f16"),
            (4, true) => ("p4", "i4_f32"),
            (2, false) => ("p2", "i2_f16"),
            (2, true) => ("p2", "i2_f32"),
            (1, false) => ("p1", "i1_f16"),
            (1, true) => ("p1", "i1_f32"),
            _ => return None,
        };
        let scales = if wide { Scales::Single } else { Scales::Half };
        let zeros = bits < 8;
        Some(Format {
            dtype,
            class,
            repack: Repack::Units(name, bits),
            scales,
            zero: 0,
            zeros,
            table: 0,
            body: scales.bytes() as u32 + u32::from(zeros),
            scale_at: 0,
        })
    }

    /// Whether its elements are integers with a scale.
    pub fn is_integers(&self) -> bool {
        !matches!(self.repack, Repack::Rows(_))
    }

    /// Elements of a block; of plain numbers, of a unit.
    pub fn block(&self) -> usize {
        self.dtype.block_len().max(32)
    }

    /// Units of 32 in a block, as a power of two.
    pub fn shift(&self) -> u32 {
        (self.block() / 32).trailing_zeros()
    }

    /// Bytes of a unit in the planes of codes: their lower and their upper bits.
    pub fn code_bytes(&self) -> [usize; 2] {
        match self.repack {
            Repack::Units(_, bits) => {
                let low = 1 << bits.ilog2();
                [4 * low as usize, 4 * (bits - low) as usize]
            }
            Repack::Rows(bytes) => [32 * bytes as usize, 0],
            Repack::Words(words) => [words as usize * 4 / (self.block() / 32), 0],
        }
    }

    /// Words of the table of points it looks its elements up in.
    pub fn grid(&self) -> Option<&'static [u32]> {
        quant::grid(self.dtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every format that can be read at all is known here, and takes as many bytes as in the file, but for some scales.
    #[test]
    fn all_formats() {
        for dtype in DType::all().filter(|&d| quant::is_supported(d)) {
            let f = Format::of(dtype).unwrap_or_else(|| panic!("{dtype} is missing"));
            let [low, high] = f.code_bytes();
            let units = f.block() / 32;
            let sub = if f.scales.has_sub() { 2 * units } else { 0 };
            let scale = if f.is_integers() { f.scales.bytes() + usize::from(f.zeros) } else { 0 };
            let bytes = units * (low + high) + sub + scale;
            let file = dtype.bytes(f.block()).unwrap();
            // Files pack scales of K-quants closer, and ternary codes into 1.6 bits of two.
            let more = if dtype == DType::TQ1_0 { file / 4 } else { sub };
            assert!(bytes <= file + more, "{dtype}: {bytes} for {file}");
        }
    }
}
