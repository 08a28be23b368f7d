//! Writing a file: keys and tensor table first, then the data, streamed.
//!
//! The table's offsets follow from the shapes alone, so data is never held: a quantizer declares
//! every tensor, begins, and hands over one tensor after the other. The same calls give the same
//! bytes.

use super::value::{Value, ValueType};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, VERSION};
use gristmill_core::{DType, Error, HostTensor, Result};
use std::collections::HashSet;
use std::io::Write;

/// The largest alignment written, in bytes.
const MAX_ALIGNMENT: u32 = 1 << 16;

/// A value that can be written as metadata.
pub trait Encode {
    /// Appends the value's encoding, without its type, and returns the type.
    fn encode(&self, out: &mut Vec<u8>) -> ValueType;
}

macro_rules! numbers {
    ($($t:ty => $v:ident),+) => {$(
        impl Encode for $t {
            fn encode(&self, out: &mut Vec<u8>) -> ValueType {
                out.extend_from_slice(&self.to_le_bytes());
                ValueType::$v
            }
        }
        impl Element for $t {
            const TYPE: ValueType = ValueType::$v;
        }
    )+};
}
numbers!(u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, f32 => F32,
         u64 => U64, i64 => I64, f64 => F64);

/// What an array may hold; its type must be known when the array is empty.
trait Element: Encode {
    const TYPE: ValueType;
}

impl Encode for bool {
    fn encode(&self, out: &mut Vec<u8>) -> ValueType {
        out.push(u8::from(*self));
        ValueType::Bool
    }
}
impl Element for bool {
    const TYPE: ValueType = ValueType::Bool;
}

impl Encode for &str {
    fn encode(&self, out: &mut Vec<u8>) -> ValueType {
        out.extend_from_slice(&(self.len() as u64).to_le_bytes());
        out.extend_from_slice(self.as_bytes());
        ValueType::Str
    }
}
impl Element for &str {
    const TYPE: ValueType = ValueType::Str;
}

impl Encode for String {
    fn encode(&self, out: &mut Vec<u8>) -> ValueType {
        self.as_str().encode(out)
    }
}
impl Element for String {
    const TYPE: ValueType = ValueType::Str;
}

#[allow(private_bounds)] // the element types are the ones listed here
impl<T: Element> Encode for &[T] {
    fn encode(&self, out: &mut Vec<u8>) -> ValueType {
        out.extend_from_slice(&(T::TYPE as u32).to_le_bytes());
        out.extend_from_slice(&(self.len() as u64).to_le_bytes());
        for v in *self {
            v.encode(out);
        }
        ValueType::Array
    }
}

impl Encode for Value<'_> {
    fn encode(&self, out: &mut Vec<u8>) -> ValueType {
        match self {
            Value::U8(v) => v.encode(out),
            Value::I8(v) => v.encode(out),
            Value::U16(v) => v.encode(out),
            Value::I16(v) => v.encode(out),
            Value::U32(v) => v.encode(out),
            Value::I32(v) => v.encode(out),
            Value::F32(v) => v.encode(out),
            Value::Bool(v) => v.encode(out),
            Value::Str(v) => v.encode(out),
            Value::U64(v) => v.encode(out),
            Value::I64(v) => v.encode(out),
            Value::F64(v) => v.encode(out),
            Value::Array(a) => {
                out.extend_from_slice(&(a.ty() as u32).to_le_bytes());
                out.extend_from_slice(&(a.len() as u64).to_le_bytes());
                out.extend_from_slice(a.raw());
                ValueType::Array
            }
        }
    }
}

/// What the file is to hold: metadata, and the names, types and shapes of its tensors.
pub struct GgufWriter {
    name: String,
    alignment: u64,
    keys: HashSet<String>,
    names: HashSet<String>,
    /// The encoded key and tensor tables.
    metadata: Vec<u8>,
    table: Vec<u8>,
    /// Bytes of each tensor, in order.
    sizes: Vec<u64>,
    /// Where the next tensor begins in the data.
    offset: u64,
}

impl GgufWriter {
    /// An empty file; `name` stands for it in messages.
    pub fn new(name: impl Into<String>) -> Self {
        GgufWriter {
            name: name.into(),
            alignment: DEFAULT_ALIGNMENT.into(),
            keys: HashSet::new(),
            names: HashSet::new(),
            metadata: Vec::new(),
            table: Vec::new(),
            sizes: Vec::new(),
            offset: 0,
        }
    }

    /// Appends a metadata key. `general.alignment` sets the alignment of the data.
    ///
    /// # Errors
    /// A key given twice; an alignment that is not a `u32` power of two, or that comes after a
    /// tensor.
    pub fn set(&mut self, key: &str, value: impl Encode) -> Result<()> {
        if !self.keys.insert(key.to_owned()) {
            return Err(self.error(format!("metadata key '{key}' is set twice")));
        }
        key.encode(&mut self.metadata);
        let mut raw = Vec::new();
        let ty = value.encode(&mut raw);
        if key == ALIGNMENT_KEY {
            let given = match Value::decode(ty, &raw) {
                Some(Value::U32(n))
                    if n.is_power_of_two() && n <= MAX_ALIGNMENT && self.sizes.is_empty() =>
                {
                    n
                }
                _ => {
                    return Err(self.error(format!(
                        "'{key}' must be a u32 power of two up to {MAX_ALIGNMENT}, set before the first tensor"
                    )));
                }
            };
            self.alignment = given.into();
        }
        self.metadata.extend_from_slice(&(ty as u32).to_le_bytes());
        self.metadata.extend_from_slice(&raw);
        Ok(())
    }

    /// Appends a tensor to the table; `shape` is `[cols, rows, experts, outer]`, the fastest
    /// first, with as many dimensions as the file shall have.
    ///
    /// # Errors
    /// A name given twice, a type without a GGUF id, a shape that is empty, has more than four
    /// dimensions, or whose rows are no whole number of blocks.
    pub fn declare(&mut self, name: &str, dtype: DType, shape: &[usize]) -> Result<()> {
        let bytes = shape.split_first().and_then(|(&cols, rest)| {
            rest.iter().try_fold(dtype.bytes(cols)?, |n, &d| n.checked_mul(d))
        });
        let next = bytes
            .and_then(|n| self.offset.checked_add(n as u64))
            .and_then(|n| n.checked_next_multiple_of(self.alignment));
        let bytes = bytes.filter(|&n| n > 0 && shape.len() <= 4);
        let (Some(bytes), Some(next), Some(id)) = (bytes, next, dtype.ggml()) else {
            return Err(
                self.error(format!("tensor '{name}' cannot be {dtype} of shape {shape:?} in GGUF"))
            );
        };
        if !self.names.insert(name.to_owned()) {
            return Err(self.error(format!("tensor '{name}' is declared twice")));
        }
        name.encode(&mut self.table);
        (shape.len() as u32).encode(&mut self.table);
        for &d in shape {
            (d as u64).encode(&mut self.table);
        }
        id.encode(&mut self.table);
        self.offset.encode(&mut self.table);
        self.sizes.push(bytes as u64);
        self.offset = next;
        Ok(())
    }

    /// [`GgufWriter::declare`] with a tensor's own name, type and shape; dimensions of 1 at the
    /// slow end are left out.
    pub fn declare_like(&mut self, t: &HostTensor) -> Result<()> {
        let shape = [t.cols, t.rows, t.experts];
        let n = shape.iter().rposition(|&d| d != 1).map_or(1, |i| i + 1);
        self.declare(&t.name, t.dtype, &shape[..n])
    }

    /// Writes everything before the data. Then every declared tensor is due, in order.
    ///
    /// # Errors
    /// What the system says.
    pub fn begin<W: Write>(self, mut out: W) -> Result<GgufStream<W>> {
        let mut head = Vec::with_capacity(24 + self.metadata.len() + self.table.len());
        head.extend_from_slice(&MAGIC);
        VERSION.encode(&mut head);
        (self.sizes.len() as u64).encode(&mut head);
        (self.keys.len() as u64).encode(&mut head);
        head.extend_from_slice(&self.metadata);
        head.extend_from_slice(&self.table);
        let written = (head.len() as u64).next_multiple_of(self.alignment);
        head.resize(written as usize, 0);
        let what = format!("writing {}", self.name);
        out.write_all(&head).map_err(|source| Error::Io { what, source })?;
        Ok(GgufStream {
            name: self.name,
            alignment: self.alignment,
            sizes: self.sizes,
            next: 0,
            out,
        })
    }

    /// Writes the whole file from tensors held in memory, which are declared here.
    ///
    /// # Errors
    /// As [`GgufWriter::declare`] and [`GgufWriter::begin`].
    pub fn write<W: Write>(mut self, out: W, tensors: &[HostTensor]) -> Result<W> {
        for t in tensors {
            self.declare_like(t)?;
        }
        let mut stream = self.begin(out)?;
        for t in tensors {
            stream.tensor(t.bytes())?;
        }
        stream.finish()
    }

    fn error(&self, what: String) -> Error {
        Error::model(self.name.clone(), what)
    }
}

/// A file whose header is written and whose tensors are being written.
pub struct GgufStream<W: Write> {
    name: String,
    alignment: u64,
    sizes: Vec<u64>,
    next: usize,
    out: W,
}

impl<W: Write> GgufStream<W> {
    /// Writes the next declared tensor and pads it to the alignment.
    ///
    /// # Errors
    /// When no tensor is due or its size is another, and what the system says.
    pub fn tensor(&mut self, data: &[u8]) -> Result<()> {
        let due = self.sizes.get(self.next).copied();
        if due != Some(data.len() as u64) {
            return Err(self.error(format!(
                "tensor {} was given {} bytes, its declaration says {due:?}",
                self.next,
                data.len()
            )));
        }
        self.next += 1;
        let pad = (data.len() as u64).next_multiple_of(self.alignment) - data.len() as u64;
        self.put(data)?;
        let zeros = [0; 256];
        let mut left = pad as usize;
        while left > 0 {
            let n = left.min(zeros.len());
            self.put(&zeros[..n])?;
            left -= n;
        }
        Ok(())
    }

    fn put(&mut self, data: &[u8]) -> Result<()> {
        let done = self.out.write_all(data);
        done.map_err(|source| Error::Io { what: format!("writing {}", self.name), source })
    }

    /// Flushes, and gives back what was written to.
    ///
    /// # Errors
    /// When declared tensors are missing, and what the system says.
    pub fn finish(mut self) -> Result<W> {
        if self.next != self.sizes.len() {
            let (n, all) = (self.next, self.sizes.len());
            return Err(self.error(format!("only {n} of {all} declared tensors were written")));
        }
        let done = self.out.flush();
        done.map_err(|source| Error::Io { what: format!("writing {}", self.name), source })?;
        Ok(self.out)
    }

    fn error(&self, what: String) -> Error {
        Error::model(self.name.clone(), what)
    }
}
