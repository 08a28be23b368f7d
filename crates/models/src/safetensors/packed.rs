//! Quantized matrices: which tensors make one, and whether they do.

use super::assemble::Held;
use super::container::Kind;
use super::quantization::{Quantization, Scheme};
use crate::gguf::PackedPieces;
use crate::source::Source;
use gristmill_core::quant::{PackedLayout, PackedMatrix};
use gristmill_core::{DType, Error, Result};

/// What a tensor is to its matrix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// The integers, in words.
    Weights,
    /// A scale for each group.
    Scales,
    /// A zero for each group, in words.
    Zeros,
    /// The group of each column.
    Order,
    /// Rows and columns, two numbers.
    Shape,
}

/// What follows a layer's name in the names of its tensors, in the order of the roles.
const COMPRESSED_TENSORS: [&str; 5] =
    ["weight_packed", "weight_scale", "weight_zero_point", "weight_g_idx", "weight_shape"];
/// Those of GPTQ and AWQ.
const GPTQ: [&str; 4] = ["qweight", "scales", "qzeros", "g_idx"];
const ROLES: [Role; 5] = [Role::Weights, Role::Scales, Role::Zeros, Role::Order, Role::Shape];

/// Whether a tensor is called like the integers of a quantized matrix.
pub(super) fn is_quantized(name: &str) -> bool {
    let kind = name.rsplit_once('.').map(|(_, kind)| kind);
    [COMPRESSED_TENSORS[0], GPTQ[0]].map(Some).contains(&kind)
}

/// The tensors of one matrix, by role.
#[derive(Clone, Copy, Default)]
pub(super) struct Parts<'a>([Option<Held<'a>>; 5]);

impl<'a> Parts<'a> {
    pub(super) fn set(&mut self, role: Role, held: Held<'a>) {
        self.0[role as usize] = Some(held);
    }

    fn get(&self, role: Role) -> Option<Held<'a>> {
        self.0[role as usize]
    }
}

impl Quantization {
    fn names(&self) -> &'static [&'static str] {
        if self.compressed_tensors { &COMPRESSED_TENSORS } else { &GPTQ }
    }

    /// The layer and the role of a tensor that is part of a quantized matrix.
    pub(super) fn part<'n>(&self, name: &'n str) -> Option<(&'n str, Role)> {
        let (layer, kind) = name.rsplit_once('.')?;
        let i = self.names().iter().position(|&n| n == kind)?;
        Some((layer, ROLES[i]))
    }

    /// The matrix of a layer; `parts` count `files` from 1.
    ///
    /// # Errors
    /// [`Error::Model`] about the layer: the tensor that is missing, of another type or shape than
    /// the settings say, or holds what the packed types cannot.
    pub(super) fn matrix(
        &self,
        layer: &str,
        parts: &Parts<'_>,
        files: &[Source],
    ) -> Result<PackedPieces> {
        let (field, left_out) = &self.left_out;
        if left_out.iter().any(|n| n == layer) {
            let what = format!("is quantized, though '{field}' in config.json leaves it out");
            return Err(Error::model(layer, what));
        }
        let mut first = None;
        for scheme in &self.schemes {
            match (Matrix { layer, names: self.names(), parts, files, scheme }).pieces() {
                Ok(pieces) => return Ok(pieces),
                Err(e) => first = first.or(Some(e)),
            }
        }
        match first {
            Some(Error::Model { file, what }) if self.schemes.len() > 1 => {
                let n = self.schemes.len();
                Err(Error::model(
                    file,
                    format!("fits none of the {n} settings; of the first: {what}"),
                ))
            }
            Some(e) => Err(e),
            None => Err(Error::model(layer, "is quantized, but nothing says how")),
        }
    }
}

/// A matrix under one setting.
struct Matrix<'m, 'a> {
    layer: &'m str,
    names: &'static [&'static str],
    parts: &'m Parts<'a>,
    files: &'m [Source],
    scheme: &'m Scheme,
}

impl<'a> Matrix<'_, 'a> {
    fn fail<T>(&self, what: String) -> Result<T> {
        Err(Error::model(self.layer, what))
    }

    /// A tensor that must be there.
    fn need(&self, role: Role) -> Result<Held<'a>> {
        match self.parts.get(role) {
            Some(held) => Ok(held),
            None => self.fail(format!("has no tensor '{}'", self.name(role))),
        }
    }

    fn name(&self, role: Role) -> &'static str {
        self.names.get(role as usize).copied().unwrap_or("weight_shape")
    }

    /// Checks the type of a tensor and its shape.
    fn check(&self, role: Role, held: Held<'_>, kinds: &[DType], shape: &[usize]) -> Result<DType> {
        let (name, entry) = (self.name(role), held.entry);
        if entry.shape != shape {
            return self.fail(format!("has '{name}' of shape {:?}, not {shape:?}", entry.shape));
        }
        let other = match entry.kind {
            Kind::Number(dtype) if kinds.contains(&dtype) => return Ok(dtype),
            Kind::Number(dtype) => dtype.name(),
            Kind::Other(name) => name,
        };
        let kinds: Vec<&str> = kinds.iter().map(|k| k.name()).collect();
        self.fail(format!("has '{name}' of type {other}, not {}", kinds.join(" or ")))
    }

    /// Both dimensions of a tensor of two.
    fn two(&self, role: Role, held: Held<'_>) -> Result<[usize; 2]> {
        match held.entry.shape[..] {
            [a, b] => Ok([a, b]),
            _ => {
                let (name, shape) = (self.name(role), &held.entry.shape);
                self.fail(format!("has '{name}' of shape {shape:?}, which is no matrix"))
            }
        }
    }

    /// Whole numbers of a tensor.
    fn numbers(&self, role: Role, held: Held<'_>, dtype: DType) -> Result<Vec<i64>> {
        let bytes = self.bytes(role, held)?;
        Ok(match dtype {
            DType::I64 => bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect(),
            _ => {
                let numbers = bytes.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b));
                numbers.map(i64::from).collect()
            }
        })
    }

    /// A copy of a tensor's bytes, so that what is checked is what is used.
    fn bytes(&self, role: Role, held: Held<'_>) -> Result<Vec<u8>> {
        let Some(file) = held.part.checked_sub(1).and_then(|i| self.files.get(i)) else {
            return self.fail(format!("has '{}' in no file", self.name(role)));
        };
        let mut bytes = vec![0; held.entry.range.len()];
        file.read_at(held.entry.range.start, &mut bytes)?;
        Ok(bytes)
    }

    /// Rows and columns, as the layout says them.
    fn size(&self, weights: [usize; 2], scales: [usize; 2]) -> Result<[usize; 2]> {
        let per = 32 / self.scheme.bits;
        let [a, b] = weights;
        let columns = |words: usize| words.checked_mul(per).unwrap_or(0); // 0 is refused later
        match self.scheme.layout {
            PackedLayout::CompressedTensors => {
                let held = self.need(Role::Shape)?;
                let dtype = self.check(Role::Shape, held, &[DType::I64, DType::I32], &[2])?;
                let shape = self.numbers(Role::Shape, held, dtype)?;
                let (rows, cols) =
                    match shape[..].try_into().map(|s: [i64; 2]| s.map(usize::try_from)) {
                        Ok([Ok(rows), Ok(cols)]) => (rows, cols),
                        _ => (0, 0),
                    };
                // The words of a row end with its last column.
                if rows != a || cols.div_ceil(per) != b {
                    let bits = self.scheme.bits;
                    return self.fail(format!(
                        "has 'weight_shape' {shape:?}, but 'weight_packed' is {weights:?} words of \
                         integers of {bits} bits"
                    ));
                }
                Ok([rows, cols])
            }
            PackedLayout::Gptq | PackedLayout::GptqV2 => Ok([b, columns(a)]),
            // Words run across rows, whose number the scales have.
            PackedLayout::Awq => Ok([scales[1], a]),
        }
    }

    fn pieces(&self) -> Result<PackedPieces> {
        let (weights, scales) = (self.need(Role::Weights)?, self.need(Role::Scales)?);
        let scheme = self.scheme;
        let sizes = [self.two(Role::Weights, weights)?, self.two(Role::Scales, scales)?];
        let [rows, cols] = self.size(sizes[0], sizes[1])?;
        let floats = [DType::F16, DType::BF16, DType::F32];
        let scale_type = self.check(Role::Scales, scales, &floats, &sizes[1])?;
        let form = PackedMatrix {
            name: "",
            layout: scheme.layout,
            bits: scheme.bits,
            rows,
            cols,
            group: scheme.group,
            weights: &[],
            scales: &[],
            scale_type,
            zeros: None,
        };
        let named = PackedMatrix { name: self.layer, ..form };
        let shapes = named.parts()?;
        self.check(Role::Weights, weights, &[DType::I32], &shapes.weights)?;
        self.check(Role::Scales, scales, &floats, &shapes.scales)?;
        let zeros = match self.parts.get(Role::Zeros) {
            Some(zeros) if scheme.zeros => {
                self.check(Role::Zeros, zeros, &[DType::I32], &shapes.zeros)?;
                if scheme.bits == 8 {
                    // Eight bits have no room for them.
                    let bytes = self.bytes(Role::Zeros, zeros)?;
                    PackedMatrix { zeros: Some(&bytes), ..named }.zeros()?;
                }
                Some(zeros)
            }
            Some(_) => return self.fail("has zeros, though 'symmetric' is true".into()),
            None if scheme.zeros => Some(self.need(Role::Zeros)?),
            None => None,
        };
        match self.parts.get(Role::Order) {
            Some(order) => self.check_order(order, scheme.group.unwrap_or(cols), cols)?,
            None if scheme.ordered => drop(self.need(Role::Order)?),
            None => {}
        }
        Ok(PackedPieces {
            form,
            dtype: shapes.dtype,
            weights: weights.piece(),
            scales: scales.piece(),
            zeros: zeros.map(|h| h.piece()),
        })
    }

    /// Checks that groups are runs of columns.
    fn check_order(&self, order: Held<'_>, group: usize, cols: usize) -> Result<()> {
        let dtype = self.check(Role::Order, order, &[DType::I32, DType::I64], &[cols])?;
        let groups = self.numbers(Role::Order, order, dtype)?;
        let other = groups.iter().enumerate().find(|&(i, &g)| usize::try_from(g) != Ok(i / group));
        let Some((column, g)) = other else { return Ok(()) };
        let name = self.name(Role::Order);
        self.fail(format!(
            "has '{name}' that puts column {column} into group {g}, not {}: columns in the order of \
             their activations are not read; quantize without ('desc_act' or 'actorder'), or use a \
             GGUF of the model",
            column / group
        ))
    }
}
