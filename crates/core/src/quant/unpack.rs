//! Quantized matrices of safetensors files, rearranged into rows of [packed](super::packed_type)
//! integers: the layouts of compressed-tensors (`pack-quantized`), GPTQ and AWQ.
//!
//! All three keep integers of `bits` bits in words of 32, a scale for each group of consecutive
//! columns of a row, and perhaps a zero: `value = scale · (q - zero)`. They differ in which way
//! words run. Tensors come as the bytes of the file, little-endian.

use super::packed::{pack_unit, packed_type};
use crate::{DType, Error, Result, bf16};

/// How words hold the integers. `per` is `32 / bits`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PackedLayout {
    /// compressed-tensors, `pack-quantized`: `weight_packed [rows][⌈cols / per⌉]`, the first
    /// column in the lowest bits; `weight_scale [rows][groups]`; `weight_zero_point
    /// [⌈rows / per⌉][groups]`, the first row in the lowest bits. Integers and zeros are both
    /// stored with `2^(bits - 1)` added; no zeros means symmetric.
    CompressedTensors,
    /// GPTQ: `qweight [cols / per][rows]`, `scales [groups][rows]`, `qzeros [groups][rows / per]`,
    /// which are the zeros less 1.
    Gptq,
    /// GPTQ with `checkpoint_format` `gptq_v2`: `qzeros` are the zeros.
    GptqV2,
    /// AWQ, version `gemm`: `qweight [cols][rows / 8]`, `scales [groups][rows]`, `qzeros
    /// [groups][rows / 8]`. Four bits a column, in the order 0, 2, 4, 6, 1, 3, 5, 7 from the
    /// lowest bits up.
    Awq,
}

/// A quantized matrix of `rows` (outputs) by `cols` (inputs).
#[derive(Clone, Copy, PartialEq, Debug)]
#[allow(missing_docs)] // described at the layouts
pub struct PackedMatrix<'a> {
    /// What messages call it.
    pub name: &'a str,
    pub layout: PackedLayout,
    /// 1, 2, 4 or 8.
    pub bits: usize,
    pub rows: usize,
    pub cols: usize,
    /// Columns of a group; `None` where a row is one group.
    pub group: Option<usize>,
    pub weights: &'a [u8],
    pub scales: &'a [u8],
    /// F16, BF16 or F32.
    pub scale_type: DType,
    pub zeros: Option<&'a [u8]>,
}

/// What a matrix becomes, and the shapes of the tensors that it is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackedParts {
    /// The type of its rows.
    pub dtype: DType,
    /// Words.
    pub weights: [usize; 2],
    /// Of the scales' type.
    pub scales: [usize; 2],
    /// Words.
    pub zeros: [usize; 2],
}

/// Word `i`; the caller has checked that there is one.
fn word(bytes: &[u8], i: usize) -> u32 {
    bytes.as_chunks::<4>().0.get(i).map_or(0, |&b| u32::from_le_bytes(b))
}

/// Where a column of eight lies in a word of AWQ.
const AWQ_PLACE: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

impl PackedMatrix<'_> {
    fn refuse<T>(&self, what: String) -> Result<T> {
        Err(Error::model(self.name, what))
    }

    /// The type that [`PackedMatrix::rows`] gives, and what it needs; its bytes are not looked at.
    /// Blocks are as long as groups and the length of a row allow; scales in bf16 become f32.
    ///
    /// # Errors
    /// [`Error::Model`], with the name of the matrix, for what the packed types cannot hold: other
    /// bits, groups that are no multiple of 32, scales of another type.
    pub fn parts(&self) -> Result<PackedParts> {
        let (bits, rows, cols) = (self.bits, self.rows, self.cols);
        if ![1, 2, 4, 8].contains(&bits) || self.layout == PackedLayout::Awq && bits != 4 {
            return self.refuse(format!("integers of {bits} bits in the {:?} layout", self.layout));
        }
        if rows == 0 || cols == 0 {
            return self.refuse(format!("has {rows} rows of {cols} columns"));
        }
        let group = self.group.unwrap_or(cols);
        let Some(block) =
            [128, 64, 32].into_iter().find(|&b| group.is_multiple_of(b) && cols.is_multiple_of(b))
        else {
            return self.refuse(format!(
                "has groups of {group} in rows of {cols}; only multiples of 32 can be packed"
            ));
        };
        if !cols.is_multiple_of(group) {
            return self.refuse(format!("has groups of {group} in rows of {cols}"));
        }
        let groups = cols / group;
        let per = 32 / bits;
        let (down, across) = (rows.div_ceil(per), cols.div_ceil(per));
        let (weights, zeros) = match self.layout {
            PackedLayout::CompressedTensors => ([rows, across], [down, groups]),
            PackedLayout::Gptq | PackedLayout::GptqV2 => ([across, rows], [groups, down]),
            PackedLayout::Awq => ([cols, down], [groups, down]),
        };
        let scales = match self.layout {
            PackedLayout::CompressedTensors => [rows, groups],
            _ => [groups, rows],
        };
        if ![DType::F16, DType::BF16, DType::F32].contains(&self.scale_type) {
            return self.refuse(format!("has scales in {}", self.scale_type));
        }
        let wide = self.scale_type != DType::F16;
        match packed_type(bits, block, wide) {
            Some(dtype) => Ok(PackedParts { dtype, weights, scales, zeros }),
            None => self.refuse(format!("integers of {bits} bits in blocks of {block}")),
        }
    }

    /// The zero of every group, row after row, which must be there for the layouts that have them.
    ///
    /// # Errors
    /// Those of [`PackedMatrix::parts`]; [`Error::Model`] for zeros whose size does not follow from
    /// the shape, and for zeros of eight bits other than 128, which the packed types cannot hold.
    pub fn zeros(&self) -> Result<Vec<u8>> {
        let parts = self.parts()?;
        let groups = self.cols / self.group.unwrap_or(self.cols);
        match self.zeros {
            Some(zeros) => self.check_size("zeros", zeros, parts.zeros, 4)?,
            None if self.layout != PackedLayout::CompressedTensors => {
                return self.refuse("has no qzeros".into());
            }
            None => {}
        }
        let Some(count) = self.rows.checked_mul(groups) else {
            return self.refuse(format!("has {} rows of {groups} groups", self.rows));
        };
        let zero = |i: usize| self.zero(i / groups, i % groups, groups, parts.zeros[1]) as u8;
        let zeros: Vec<u8> = (0..count).map(zero).collect();
        if self.bits == 8 && zeros.iter().any(|&z| z != 128) {
            return self
                .refuse("has zeros of eight bits; only symmetric ones can be packed".into());
        }
        Ok(zeros)
    }

    fn check_size(&self, what: &str, bytes: &[u8], [a, b]: [usize; 2], size: usize) -> Result<()> {
        let (len, expected) = (bytes.len(), a.checked_mul(b).and_then(|n| n.checked_mul(size)));
        if expected != Some(len) {
            return self.refuse(format!("has {len} bytes of {what}, not those of [{a}, {b}]"));
        }
        Ok(())
    }

    /// The matrix in the type of [`PackedMatrix::parts`], row after row.
    ///
    /// # Errors
    /// As [`PackedMatrix::append_rows`].
    pub fn rows(&self) -> Result<(DType, Vec<u8>)> {
        let mut out = Vec::new();
        Ok((self.append_rows(&mut out)?, out))
    }

    /// Appends the bytes of the rows, of the type that it returns.
    ///
    /// # Errors
    /// Those of [`PackedMatrix::parts`] and [`PackedMatrix::zeros`]; [`Error::Model`] for tensors
    /// whose size does not follow from the shape.
    pub fn append_rows(&self, out: &mut Vec<u8>) -> Result<DType> {
        let parts = self.parts()?;
        let (bits, rows, cols) = (self.bits, self.rows, self.cols);
        self.check_size("weights", self.weights, parts.weights, 4)?;
        self.check_size("scales", self.scales, parts.scales, self.scale_type.block_bytes())?;
        let zeros = self.zeros()?;
        let group = self.group.unwrap_or(cols);
        let (groups, block) = (cols / group, parts.dtype.block_len());
        out.reserve(parts.dtype.bytes(cols).and_then(|n| n.checked_mul(rows)).unwrap_or(0));
        for row in 0..rows {
            for first in (0..cols).step_by(block) {
                let group = first / group;
                self.push_scale(row, group, groups, out);
                if bits < 8 {
                    out.push(zeros[row * groups + group]);
                }
                for unit in (first..first + block).step_by(32) {
                    let mut words = [0; 32];
                    pack_unit(bits, |j| self.integer(row, unit + j, parts.weights[1]), &mut words);
                    out.extend_from_slice(&words[..4 * bits]);
                }
            }
        }
        Ok(parts.dtype)
    }

    /// The integer of a column, of weights that are `stride` words wide.
    fn integer(&self, row: usize, col: usize, stride: usize) -> u32 {
        // `col / per` and `col % per`, which is a power of two: divisions would take longest here.
        let log_per = 5 - self.bits.trailing_zeros();
        let (word, place) = (col >> log_per, col & ((1 << log_per) - 1));
        let (at, place) = match self.layout {
            PackedLayout::CompressedTensors => (row * stride + word, place),
            PackedLayout::Gptq | PackedLayout::GptqV2 => (word * stride + row, place),
            PackedLayout::Awq => (col * stride + row / 8, AWQ_PLACE[row % 8]),
        };
        self.field(self.weights, at, place)
    }

    /// The zero of a group, of zeros that are `stride` words wide.
    fn zero(&self, row: usize, group: usize, groups: usize, stride: usize) -> u32 {
        let per = 32 / self.bits;
        let Some(zeros) = self.zeros else { return 1 << (self.bits - 1) };
        match self.layout {
            PackedLayout::CompressedTensors => {
                self.field(zeros, row / per * groups + group, row % per)
            }
            // All ones, less than which there is none, stand for 2^bits.
            PackedLayout::Gptq => self.field(zeros, group * stride + row / per, row % per) + 1,
            PackedLayout::GptqV2 => self.field(zeros, group * stride + row / per, row % per),
            PackedLayout::Awq => self.field(zeros, group * stride + row / 8, AWQ_PLACE[row % 8]),
        }
    }

    fn field(&self, bytes: &[u8], at: usize, place: usize) -> u32 {
        let mask = ((1u64 << self.bits) - 1) as u32;
        word(bytes, at) >> (place * self.bits) & mask
    }

    fn push_scale(&self, row: usize, group: usize, groups: usize, out: &mut Vec<u8>) {
        let at = match self.layout {
            PackedLayout::CompressedTensors => row * groups + group,
            _ => group * self.rows + row,
        };
        let n = self.scale_type.block_bytes();
        let bytes = &self.scales[at * n..(at + 1) * n];
        match self.scale_type {
            DType::BF16 => {
                let v = bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
                out.extend_from_slice(&v.to_le_bytes());
            }
            _ => out.extend_from_slice(bytes),
        }
    }
}
