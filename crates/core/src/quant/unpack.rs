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
#[derive(Clone, Copy, Debug)]
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

/// Word `i`; the caller has checked that there is one.
fn word(bytes: &[u8], i: usize) -> u32 {
    bytes.as_chunks::<4>().0.get(i).map_or(0, |&b| u32::from_le_bytes(b))
}

/// Where a column of eight lies in a word of AWQ.
const AWQ_PLACE: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

impl PackedMatrix<'_> {
    /// The type that [`PackedMatrix::rows`] gives, and its bytes, row after row. Blocks are as long
    /// as groups and the length of a row allow; scales in bf16 become f32.
    ///
    /// # Errors
    /// [`Error::Model`], with the name of the matrix, for what the packed types cannot hold (other
    /// bits, groups that are no multiple of 32, zeros of eight bits other than 128) and for tensors
    /// whose size does not follow from the shape.
    pub fn rows(&self) -> Result<(DType, Vec<u8>)> {
        let refuse = |what: String| Err(Error::model(self.name, what));
        let (bits, rows, cols) = (self.bits, self.rows, self.cols);
        if ![1, 2, 4, 8].contains(&bits) || self.layout == PackedLayout::Awq && bits != 4 {
            return refuse(format!("integers of {bits} bits in the {:?} layout", self.layout));
        }
        if rows == 0 || cols == 0 {
            return refuse(format!("has {rows} rows of {cols} columns"));
        }
        let group = self.group.unwrap_or(cols);
        let Some(block) =
            [128, 64, 32].into_iter().find(|&b| group.is_multiple_of(b) && cols.is_multiple_of(b))
        else {
            return refuse(format!(
                "has groups of {group} in rows of {cols}; only multiples of 32 can be packed"
            ));
        };
        if !cols.is_multiple_of(group) {
            return refuse(format!("has groups of {group} in rows of {cols}"));
        }
        let groups = cols / group;
        let per = 32 / bits;
        let (down, across) = (rows.div_ceil(per), cols.div_ceil(per));
        let (weights, zeros) = match self.layout {
            PackedLayout::CompressedTensors => ([rows, across], [down, groups]),
            PackedLayout::Gptq | PackedLayout::GptqV2 => ([across, rows], [groups, down]),
            PackedLayout::Awq => ([cols, down], [groups, down]),
        };
        let scale_bytes = self.scale_type.block_bytes();
        if ![DType::F16, DType::BF16, DType::F32].contains(&self.scale_type) {
            return refuse(format!("has scales in {}", self.scale_type));
        }
        let sizes = [
            ("weights", self.weights.len(), weights, 4),
            ("scales", self.scales.len(), [rows, groups], scale_bytes),
            ("zeros", self.zeros.map_or(usize::MAX, <[u8]>::len), zeros, 4),
        ];
        for (what, len, [a, b], size) in sizes {
            let expected = a.checked_mul(b).and_then(|n| n.checked_mul(size));
            if len != usize::MAX && expected != Some(len) {
                return refuse(format!("has {len} bytes of {what}, not those of [{a}, {b}]"));
            }
        }
        if self.layout != PackedLayout::CompressedTensors && self.zeros.is_none() {
            return refuse("has no qzeros".into());
        }
        let wide = self.scale_type != DType::F16;
        let Some(dtype) = packed_type(bits, block, wide) else {
            return refuse(format!("integers of {bits} bits in blocks of {block}"));
        };
        let zeros: Vec<u8> = (0..rows * groups)
            .map(|i| self.zero(i / groups, i % groups, groups, zeros[1]) as u8)
            .collect();
        if bits == 8 && zeros.iter().any(|&z| z != 128) {
            return refuse("has zeros of eight bits; only symmetric ones can be packed".into());
        }
        let bytes = dtype.bytes(cols).and_then(|n| n.checked_mul(rows)).unwrap_or(0);
        let mut out = Vec::with_capacity(bytes);
        for row in 0..rows {
            for first in (0..cols).step_by(block) {
                let group = first / group;
                self.push_scale(row, group, groups, &mut out);
                if bits < 8 {
                    out.push(zeros[row * groups + group]);
                }
                for unit in (first..first + block).step_by(32) {
                    let mut words = [0; 32];
                    pack_unit(bits, |j| self.integer(row, unit + j, weights[1]), &mut words);
                    out.extend_from_slice(&words[..4 * bits]);
                }
            }
        }
        Ok((dtype, out))
    }

    /// The integer of a column, of weights that are `stride` words wide.
    fn integer(&self, row: usize, col: usize, stride: usize) -> u32 {
        let per = 32 / self.bits;
        let (at, place) = match self.layout {
            PackedLayout::CompressedTensors => (row * stride + col / per, col % per),
            PackedLayout::Gptq | PackedLayout::GptqV2 => (col / per * stride + row, col % per),
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
