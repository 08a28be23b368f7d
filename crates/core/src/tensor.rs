//! Bytes of a model file with a type and a shape.

use crate::DType;
use std::sync::Arc;

/// A tensor in host memory: `rows` rows of `cols` elements, and for expert stacks `experts` such
/// matrices one after the other.
///
/// It owns a share of what its bytes lie in (a mapping, or a buffer), so a backend may keep it
/// without copying, and the mapping lives exactly as long as someone needs it.
#[derive(Clone)]
pub struct HostTensor {
    /// The name in the file, for messages.
    pub name: String,
    /// How the elements are stored.
    pub dtype: DType,
    /// Matrices in the stack; 1 for a plain matrix.
    pub experts: usize,
    /// Output features of a matrix; 1 for a vector.
    pub rows: usize,
    /// Input features: the length of a row.
    pub cols: usize,
    form: Option<Arc<str>>,
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: std::ops::Range<usize>,
}

impl HostTensor {
    /// A tensor over `range` of `owner`'s bytes.
    ///
    /// # Errors
    /// `None` when the range does not lie within the owner, or when its length is not that of
    /// `experts * rows * cols` elements in whole blocks a row.
    pub fn new(
        name: impl Into<String>,
        dtype: DType,
        [experts, rows, cols]: [usize; 3],
        owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
        range: std::ops::Range<usize>,
    ) -> Option<Self> {
        let row = dtype.bytes(cols)?;
        let bytes = row.checked_mul(rows)?.checked_mul(experts)?;
        let held = (*owner).as_ref().get(range.clone())?;
        (held.len() == bytes).then(|| HostTensor {
            name: name.into(),
            dtype,
            experts,
            rows,
            cols,
            form: None,
            owner,
            range,
        })
    }

    /// The same bytes as those of a tensor that a device has brought into an order of its own, which it
    /// calls `form`. Whether they are as many as there must be is for the device to check.
    pub fn packed(self, dtype: DType, [experts, rows, cols]: [usize; 3], form: &str) -> Self {
        HostTensor { dtype, experts, rows, cols, form: Some(form.into()), ..self }
    }

    /// What a device calls the order of the bytes; `None`: that of model files.
    pub fn form(&self) -> Option<&str> {
        self.form.as_deref()
    }

    /// A tensor of f32 values, for tests and for weights computed at load.
    ///
    /// # Panics
    /// When `values` does not hold `rows * cols` numbers.
    pub fn from_f32(name: impl Into<String>, rows: usize, cols: usize, values: &[f32]) -> Self {
        let bytes: Vec<u8> = bytemuck::cast_slice(values).to_vec();
        let range = 0..bytes.len();
        HostTensor::new(name, DType::F32, [1, rows, cols], Arc::new(bytes), range)
            .expect("values holds rows * cols numbers")
    }

    /// All bytes: the matrices one after the other, row after row.
    pub fn bytes(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.bytes().len() / (self.rows * self.experts).max(1)
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.experts * self.rows * self.cols
    }
}

impl std::fmt::Debug for HostTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} [{}, {}, {}]", self.name, self.dtype, self.experts, self.rows, self.cols)
    }
}
