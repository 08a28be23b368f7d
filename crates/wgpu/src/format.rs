//! What a weight format looks like in a buffer of words.
//!
//! A block of a file becomes a body of whole words, its scale, and its zero where it has one, each in
//! a plane of its own: so everything a shader reads is aligned, and the sizes add up to the file's.
//! `kernels/formats.wgsl` decodes them in sections; this table says which ones a format is made of.

use gristmill_core::{DType, quant};
use std::ops::Range;

/// A format as shaders see it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Format {
    /// The storage format.
    pub dtype: DType,
    /// Sections of `formats.wgsl`, besides the one of the scale.
    sections: Vec<&'static str>,
    /// Elements of a block, for dense formats a unit of 32.
    pub block: usize,
    /// Bytes of a block in the file.
    pub bytes: usize,
    /// Which of them are the body.
    pub body: Range<usize>,
    /// Which of them are the scale, and how a shader reads it.
    pub scale: Range<usize>,
    /// Where the zero is.
    pub zero: Option<usize>,
    defines: Vec<(&'static str, String)>,
}

/// Numbers of the integer formats.
#[derive(Clone, Copy)]
struct Integers {
    zero: i32,
    /// Elements that share a scale.
    run: usize,
    sc: bool,
    sc_zero: i32,
    min: bool,
    unit: &'static str,
}

const PLAIN: Integers =
    Integers { zero: 0, run: 32, sc: false, sc_zero: 0, min: false, unit: "1.0" };

impl Format {
    /// A format, if it is known here.
    pub fn of(dtype: DType) -> Option<Format> {
        use DType::*;
        let plain = |zero| Integers { zero, ..PLAIN };
        let coded = |run, unit| Integers { zero: 64, run, sc: true, unit, ..PLAIN };
        let with_min = |run, sc| Integers { run, sc, min: true, ..PLAIN };
        let bytes = dtype.block_bytes();
        // A block that begins with its scale.
        let behind = |d: usize| (d..bytes, 0..d);
        let ahead = |body: usize, d: usize| (0..body, body..body + d);
        let whole = (0..bytes, 0..0);
        let half = "SCALE_HALF";
        Some(match dtype {
            F32 | F16 | BF16 => {
                let name = match dtype {
                    F32 => "F32",
                    F16 => "F16",
                    _ => "BF16",
                };
                Format {
                    dtype,
                    sections: vec![name],
                    block: 32,
                    bytes: 32 * bytes,
                    body: 0..32 * bytes,
                    scale: 0..0,
                    zero: None,
                    defines: defines(1, 8 * bytes, PLAIN),
                }
            }
            Q8_0 => Self::integers(dtype, &["Q8", half], behind(2), plain(128)),
            Q8_K => Self::integers(dtype, &["Q8", "SCALE_SINGLE"], (4..260, 0..4), plain(128)),
            Q4_0 => Self::integers(dtype, &["NIBBLES", half], behind(2), plain(8)),
            Q4_1 => {
                Self::integers(dtype, &["NIBBLES", "SCALE_OFFSET"], behind(4), with_min(32, false))
            }
            Q5_0 => Self::integers(dtype, &["FIVES", half], behind(2), plain(16)),
            Q5_1 => {
                Self::integers(dtype, &["FIVES", "SCALE_OFFSET"], behind(4), with_min(32, false))
            }
            Q4_K => {
                let sections = ["SIX_BIT_PAIRS", "Q4_K", "SCALE_WORD0"];
                Self::integers(dtype, &sections, whole, with_min(32, true))
            }
            Q5_K => {
                let sections = ["SIX_BIT_PAIRS", "Q5_K", "SCALE_WORD0"];
                Self::integers(dtype, &sections, whole, with_min(32, true))
            }
            Q6_K => {
                let n = Integers { zero: 32, run: 16, sc: true, sc_zero: 128, ..PLAIN };
                Self::integers(dtype, &["Q6_K", half], ahead(208, 2), n)
            }
            TQ2_0 => Self::integers(dtype, &["PAIRS", half], ahead(64, 2), plain(1)),
            Q2_K => {
                let sections = ["Q2_K", "SCALE_HALVES"];
                Self::integers(dtype, &sections, ahead(80, 4), with_min(16, true))
            }
            Q3_K => {
                let n = Integers { zero: 4, run: 16, sc: true, sc_zero: 32, ..PLAIN };
                Self::integers(dtype, &["Q3_K", half], ahead(108, 2), n)
            }
            TQ1_0 => Self::integers(dtype, &["TQ1_0", half], ahead(52, 2), plain(1)),
            IQ4_NL => {
                let sections = ["LOOKUP_IQ4", "LOOKUPS", "LOOKED_UP", half];
                Self::integers(dtype, &sections, behind(2), plain(128))
            }
            IQ4_XS => {
                let sections = ["LOOKUP_IQ4", "LOOKUPS", "IQ4_XS", "SCALE_WORD0"];
                let n = Integers { zero: 128, sc: true, sc_zero: 32, ..PLAIN };
                Self::integers(dtype, &sections, whole, n)
            }
            MXFP4 => {
                let sections = ["LOOKUP_MXFP4", "LOOKUPS", "LOOKED_UP", "SCALE_EXPONENT"];
                Self::integers(dtype, &sections, behind(1), plain(64))
            }
            IQ3_S => Self::integers(dtype, &["SIGNS", "IQ3_S", half], behind(2), coded(32, "1.0")),
            IQ3_XXS => {
                Self::integers(dtype, &["SIGNS", "IQ3_XXS", half], behind(2), coded(32, "0.25"))
            }
            IQ2_S => {
                Self::integers(dtype, &["SIGNS", "IQ2_S", half], behind(2), coded(16, "0.125"))
            }
            IQ2_XS => {
                Self::integers(dtype, &["SIGNS", "IQ2_XS", half], behind(2), coded(16, "0.125"))
            }
            IQ2_XXS => {
                Self::integers(dtype, &["SIGNS", "IQ2_XXS", half], behind(2), coded(32, "0.125"))
            }
            IQ1_S => {
                Self::integers(dtype, &["SIGNS", "IQ1_S", half], behind(2), coded(32, "0.125"))
            }
            IQ1_M => {
                let sections = ["SIGNS", "IQ1_M", "SCALE_IQ1_M"];
                Self::integers(dtype, &sections, whole, coded(16, "0.125"))
            }
            _ => return Self::packed(dtype),
        })
    }

    /// Packed integers, whose names say everything: `I4_128_F16`.
    fn packed(dtype: DType) -> Option<Format> {
        let mut parts = dtype.name().split('_');
        let bits: u32 = parts.next()?.strip_prefix('I')?.parse().ok()?;
        let _block = parts.next()?;
        let wide = match parts.next()? {
            "F16" => false,
            "F32" => true,
            _ => return None,
        };
        let (d, scale) = if wide { (4, "SCALE_SINGLE") } else { (2, "SCALE_HALF") };
        let zero = usize::from(bits < 8);
        let planes = (d + zero..dtype.block_bytes(), 0..d);
        let n = Integers { zero: if bits == 8 { 128 } else { 0 }, ..PLAIN };
        let mut format = Self::integers(dtype, &["PACKED", scale], planes, n);
        format.zero = (zero == 1).then_some(d);
        format.defines.push(("BITS", bits.to_string()));
        let mask = ((1u64 << bits) - 1) as u32 * 0x0101_0101;
        format.defines.push(("MASK", mask.to_string()));
        Some(format)
    }

    fn integers(
        dtype: DType,
        sections: &[&'static str],
        (body, scale): (Range<usize>, Range<usize>),
        n: Integers,
    ) -> Format {
        let block = dtype.block_len();
        Format {
            dtype,
            sections: sections.to_vec(),
            block,
            bytes: dtype.block_bytes(),
            defines: defines(block / 32, body.len() / 4, n),
            body,
            scale,
            zero: None,
        }
    }

    /// Whether its elements are integers with a scale.
    pub fn is_integers(&self) -> bool {
        self.dtype.block_len() > 1
    }

    /// Units of 32 elements in a block.
    pub fn units(&self) -> usize {
        self.block / 32
    }

    /// Words of the table of points it looks its elements up in.
    pub fn grid(&self) -> Option<&'static [u32]> {
        quant::grid(self.dtype)
    }

    /// The sections of `formats.wgsl` that decode it, in order.
    pub fn sections(&self) -> Vec<&'static str> {
        let mut all = self.sections.clone();
        if self.is_integers() {
            all.push(if self.zero.is_some() { "ZERO_BLOCK" } else { "ZERO_ALL" });
            all.push("INTEGERS");
        }
        all
    }

    /// What is put into their text.
    pub fn defines(&self) -> Vec<(&'static str, String)> {
        let mut all = self.defines.clone();
        if self.grid().is_some() {
            all.push(("GRID", "1".into()));
        }
        all
    }
}

fn defines(units: usize, words: usize, n: Integers) -> Vec<(&'static str, String)> {
    let mut all = vec![
        ("UNITS", units.to_string()),
        ("WORDS", words.to_string()),
        ("RUNS", (32 / n.run).to_string()),
        ("ZERO", n.zero.to_string()),
        ("SC_ZERO", n.sc_zero.to_string()),
        ("UNIT", n.unit.to_owned()),
    ];
    let flags = [
        ("SC", n.sc),
        ("MIN", n.min),
        ("HALVES", n.run == 16),
        // Integers that take a whole byte become signed by their topmost bit.
        ("WHOLE_BYTES", n.zero == 128),
    ];
    all.extend(flags.into_iter().filter(|f| f.1).map(|f| (f.0, "1".into())));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every format that can be read at all has its planes here, and they are no larger than the file.
    #[test]
    fn all_formats() {
        for dtype in DType::all().filter(|&d| quant::is_supported(d)) {
            let f = Format::of(dtype).unwrap_or_else(|| panic!("{dtype} is missing"));
            assert!(f.body.len() + f.scale.len() <= f.bytes, "{dtype}");
            assert_eq!(f.body.len() % 4, 0, "{dtype}");
            assert_eq!(f.block % 32, 0, "{dtype}");
        }
    }
}
