//! Names of storage formats, with the few facts that files and memory plans need.

/// How numbers are stored: `block_len` consecutive elements of a row take `block_bytes` bytes.
///
/// Dense types are formats with a block of one. `I4_128_F16` and its like are packed integers: bits,
/// elements of a block, type of its scale. The numeric ids of [`DType::from_ggml`] are
/// those of the GGUF format.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, non_camel_case_types)] // the variants are the formats' own names
pub enum DType {
    F64,
    F32,
    F16,
    BF16,
    I8,
    I16,
    I32,
    I64,
    U32,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
    IQ1_S,
    IQ1_M,
    IQ2_XXS,
    IQ2_XS,
    IQ2_S,
    IQ3_XXS,
    IQ3_S,
    IQ4_NL,
    IQ4_XS,
    TQ1_0,
    TQ2_0,
    MXFP4,
    I8_32_F16,
    I8_32_F32,
    I8_64_F16,
    I8_64_F32,
    I8_128_F16,
    I8_128_F32,
    I4_32_F16,
    I4_32_F32,
    I4_64_F16,
    I4_64_F32,
    I4_128_F16,
    I4_128_F32,
    I2_32_F16,
    I2_32_F32,
    I2_64_F16,
    I2_64_F32,
    I2_128_F16,
    I2_128_F32,
    I1_32_F16,
    I1_32_F32,
    I1_64_F16,
    I1_64_F32,
    I1_128_F16,
    I1_128_F32,
}

use DType::*;

/// Type, name, GGUF id (-1: not a GGUF type), elements of a block, bytes of a block.
const TABLE: [(DType, &str, i32, u32, u32); 57] = [
    (F64, "F64", 28, 1, 8),
    (F32, "F32", 0, 1, 4),
    (F16, "F16", 1, 1, 2),
    (BF16, "BF16", 30, 1, 2),
    (I8, "I8", 24, 1, 1),
    (I16, "I16", 25, 1, 2),
    (I32, "I32", 26, 1, 4),
    (I64, "I64", 27, 1, 8),
    (U32, "U32", -1, 1, 4),
    (Q4_0, "Q4_0", 2, 32, 18),
    (Q4_1, "Q4_1", 3, 32, 20),
    (Q5_0, "Q5_0", 6, 32, 22),
    (Q5_1, "Q5_1", 7, 32, 24),
    (Q8_0, "Q8_0", 8, 32, 34),
    (Q8_1, "Q8_1", 9, 32, 36),
    (Q2_K, "Q2_K", 10, 256, 84),
    (Q3_K, "Q3_K", 11, 256, 110),
    (Q4_K, "Q4_K", 12, 256, 144),
    (Q5_K, "Q5_K", 13, 256, 176),
    (Q6_K, "Q6_K", 14, 256, 210),
    (Q8_K, "Q8_K", 15, 256, 292),
    (IQ2_XXS, "IQ2_XXS", 16, 256, 66),
    (IQ2_XS, "IQ2_XS", 17, 256, 74),
    (IQ3_XXS, "IQ3_XXS", 18, 256, 98),
    (IQ1_S, "IQ1_S", 19, 256, 50),
    (IQ4_NL, "IQ4_NL", 20, 32, 18),
    (IQ3_S, "IQ3_S", 21, 256, 110),
    (IQ2_S, "IQ2_S", 22, 256, 82),
    (IQ4_XS, "IQ4_XS", 23, 256, 136),
    (IQ1_M, "IQ1_M", 29, 256, 56),
    (TQ1_0, "TQ1_0", 34, 256, 54),
    (TQ2_0, "TQ2_0", 35, 256, 66),
    (MXFP4, "MXFP4", 39, 32, 17),
    (I8_32_F16, "I8_32_F16", -1, 32, 34),
    (I8_32_F32, "I8_32_F32", -1, 32, 36),
    (I8_64_F16, "I8_64_F16", -1, 64, 66),
    (I8_64_F32, "I8_64_F32", -1, 64, 68),
    (I8_128_F16, "I8_128_F16", -1, 128, 130),
    (I8_128_F32, "I8_128_F32", -1, 128, 132),
    (I4_32_F16, "I4_32_F16", -1, 32, 19),
    (I4_32_F32, "I4_32_F32", -1, 32, 21),
    (I4_64_F16, "I4_64_F16", -1, 64, 35),
    (I4_64_F32, "I4_64_F32", -1, 64, 37),
    (I4_128_F16, "I4_128_F16", -1, 128, 67),
    (I4_128_F32, "I4_128_F32", -1, 128, 69),
    (I2_32_F16, "I2_32_F16", -1, 32, 11),
    (I2_32_F32, "I2_32_F32", -1, 32, 13),
    (I2_64_F16, "I2_64_F16", -1, 64, 19),
    (I2_64_F32, "I2_64_F32", -1, 64, 21),
    (I2_128_F16, "I2_128_F16", -1, 128, 35),
    (I2_128_F32, "I2_128_F32", -1, 128, 37),
    (I1_32_F16, "I1_32_F16", -1, 32, 7),
    (I1_32_F32, "I1_32_F32", -1, 32, 9),
    (I1_64_F16, "I1_64_F16", -1, 64, 11),
    (I1_64_F32, "I1_64_F32", -1, 64, 13),
    (I1_128_F16, "I1_128_F16", -1, 128, 19),
    (I1_128_F32, "I1_128_F32", -1, 128, 21),
];

impl DType {
    fn row(self) -> &'static (DType, &'static str, i32, u32, u32) {
        TABLE.iter().find(|r| r.0 == self).expect("TABLE lists every DType; a test checks it")
    }

    /// Every storage format, in the order of the table.
    pub fn all() -> impl Iterator<Item = DType> {
        TABLE.iter().map(|r| r.0)
    }

    /// The usual name, such as `Q4_K`.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Elements of a block (1 for dense types).
    pub fn block_len(self) -> usize {
        self.row().3 as usize
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.row().4 as usize
    }

    /// Bytes of `elements` consecutive elements; `None` when they are no whole number of
    /// blocks, or on overflow.
    pub fn bytes(self, elements: usize) -> Option<usize> {
        elements
            .is_multiple_of(self.block_len())
            .then(|| (elements / self.block_len()).checked_mul(self.block_bytes()))?
    }

    /// Bits an element takes, scales included.
    pub fn bits_per_element(self) -> f64 {
        self.block_bytes() as f64 * 8.0 / self.block_len() as f64
    }

    /// The type with this GGUF id.
    pub fn from_ggml(id: u32) -> Option<DType> {
        TABLE.iter().find(|r| i64::from(r.2) == i64::from(id)).map(|r| r.0)
    }

    /// The GGUF id, where the format has one.
    pub fn ggml(self) -> Option<u32> {
        u32::try_from(self.row().2).ok()
    }

    /// The type with this name, in any case.
    pub fn from_name(name: &str) -> Option<DType> {
        TABLE.iter().find(|r| r.1.eq_ignore_ascii_case(name)).map(|r| r.0)
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lists_every_type_once() {
        // `I1_128_F32` is the last variant, so its discriminant counts them.
        assert_eq!(TABLE.len(), I1_128_F32 as usize + 1);
        for d in DType::all() {
            assert_eq!(DType::from_name(d.name()), Some(d));
            if let Some(id) = d.ggml() {
                assert_eq!(DType::from_ggml(id), Some(d));
            }
        }
    }

    #[test]
    fn bytes_of_whole_blocks_only() {
        assert_eq!(Q4_K.bytes(512), Some(288));
        assert_eq!(Q4_K.bytes(100), None);
        assert_eq!(F64.bytes(usize::MAX), None);
    }
}
