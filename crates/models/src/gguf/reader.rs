//! Opening a file: the checks, the keys, the tensors.

use super::cursor::Cursor;
use super::recipe::Recipe;
use super::source::{self, Bytes};
use super::value::{FromValue, Value, ValueType};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC};
use gristmill_core::{DType, Error, HostTensor, Result};
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// More keys or tensors than any model has: a damaged count stops here.
const MAX_KEYS: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 20;

/// One row of the tensor table.
#[derive(Clone, PartialEq, Debug)]
pub struct TensorInfo {
    /// The name, unique in the file.
    pub name: String,
    /// How the elements are stored.
    pub dtype: DType,
    /// `[cols, rows, experts, outer]`, the fastest first, 1 where the file has no such dimension.
    pub shape: [usize; 4],
    /// How many dimensions the file gives.
    pub n_dims: usize,
    /// Where the data begins, in bytes from the start of its file.
    pub offset: usize,
    /// Bytes of the data.
    pub bytes: usize,
    /// Which of a split model's files holds it; 0 otherwise.
    pub part: usize,
}

/// A metadata entry: the key, its type, and where the value's encoding lies.
struct Entry {
    key: String,
    ty: ValueType,
    range: Range<usize>,
}

/// An open model file: its metadata and its tensors, still in place.
pub struct Gguf {
    name: String,
    /// The files' bytes: one, or one for each part of a split model.
    parts: Vec<Bytes>,
    version: u32,
    alignment: usize,
    entries: Vec<Entry>,
    keys: HashMap<String, usize>,
    tensors: Vec<TensorInfo>,
    names: HashMap<String, usize>,
    /// Of tensors that are made from the files' bytes, by their place in the table.
    recipes: HashMap<usize, Recipe>,
}

impl Gguf {
    /// Maps and checks the file at `path`, and for `NAME-00001-of-0000N.gguf` the other parts.
    ///
    /// # Errors
    /// A [`Error::Model`] that names what is wrong: the path (missing, a directory, a FIFO,
    /// unreadable), the field or tensor and its byte offset, or the part that is missing.
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf> {
        let path = path.as_ref();
        let mut first = Gguf::from_bytes(path.display().to_string(), source::map(path)?)?;
        let count = first.opt::<usize>("split.count")?.unwrap_or(1);
        if count > 1 {
            super::split::join(&mut first, path, count)?;
        }
        Ok(first)
    }

    /// Checks a file that is in memory; `name` stands for it in messages.
    ///
    /// # Errors
    /// As [`Gguf::open`], about the contents.
    pub fn from_bytes(name: impl Into<String>, bytes: Bytes) -> Result<Gguf> {
        let name = name.into();
        let mut gguf = Gguf {
            name: name.clone(),
            parts: vec![bytes.clone()],
            version: 0,
            alignment: DEFAULT_ALIGNMENT as usize,
            entries: Vec::new(),
            keys: HashMap::new(),
            tensors: Vec::new(),
            names: HashMap::new(),
            recipes: HashMap::new(),
        };
        let mut c = Cursor { file: &name, bytes: (*bytes).as_ref(), pos: 0 };
        let (n_tensors, n_keys) = gguf.read_header(&mut c)?;
        for i in 0..n_keys {
            gguf.read_key(&mut c, i)?;
        }
        gguf.read_alignment(&c)?;
        for i in 0..n_tensors {
            gguf.read_tensor_info(&mut c, i)?;
        }
        gguf.place_tensors(&c)?;
        Ok(gguf)
    }

    fn read_header(&mut self, c: &mut Cursor<'_>) -> Result<(u64, u64)> {
        let magic = c.take(4, &"the magic number")?;
        if magic != MAGIC {
            let hint = match magic {
                b"ggml" | b"lmgg" | b"ggjt" | b"tjgg" | b"fmgg" | b"ggla" => {
                    "an old GGML file: convert the original model to GGUF"
                }
                b"PK\x03\x04" => "a zip archive, perhaps a PyTorch checkpoint: convert it to GGUF",
                b"FUGG" => "a byte-swapped GGUF file: convert it to little-endian",
                _ => "not a GGUF file: check that it is the model and was downloaded whole",
            };
            return Err(c.fail(0, format!("the magic is {magic:02x?}, not GGUF; this is {hint}")));
        }
        self.version = c.u32(&"the version")?;
        if self.version.swap_bytes() <= 0xffff && self.version > 0xffff {
            return Err(c.fail(
                4,
                format!(
                    "this is a big-endian GGUF (version {}): convert it to little-endian first",
                    self.version.swap_bytes()
                ),
            ));
        }
        if !(2..=3).contains(&self.version) {
            return Err(
                c.fail(4, format!("GGUF version {} is not supported, only 2 and 3", self.version))
            );
        }
        let n_tensors = c.u64(&"the tensor count")?;
        let n_keys = c.u64(&"the key count")?;
        // The smallest row of each table: empty names, one byte of value, no dimension.
        for (what, at, n, max, least) in [
            ("tensors", 8, n_tensors, MAX_TENSORS, 24),
            ("metadata keys", 16, n_keys, MAX_KEYS, 13),
        ] {
            if n > max || n * least > c.left() as u64 {
                return Err(c.fail(
                    at,
                    format!("the header claims {n} {what}, more than the file can hold: damaged"),
                ));
            }
        }
        Ok((n_tensors, n_keys))
    }

    fn read_key(&mut self, c: &mut Cursor<'_>, i: u64) -> Result<()> {
        let at = c.pos;
        let key = c.string(&format_args!("the name of metadata key {i}"))?;
        let id = c.u32(&format_args!("the type of '{key}'"))?;
        let Some(ty) = ValueType::from_id(id) else {
            return Err(c.fail(at, format!("'{key}' is of unknown type {id}: the file is damaged")));
        };
        let start = c.pos;
        c.skip_value(ty, key)?;
        if ty == ValueType::Bool && c.bytes[start] > 1 {
            return Err(c.fail(start, format!("'{key}' is a bool with value {}", c.bytes[start])));
        }
        if self.keys.insert(key.to_owned(), self.entries.len()).is_some() {
            return Err(c.fail(at, format!("the key '{key}' appears twice: the file is damaged")));
        }
        self.entries.push(Entry { key: key.to_owned(), ty, range: start..c.pos });
        Ok(())
    }

    fn read_alignment(&mut self, c: &Cursor<'_>) -> Result<()> {
        if let Some(a) = self.opt::<u32>(ALIGNMENT_KEY)? {
            let at = self.keys.get(ALIGNMENT_KEY).map_or(0, |&i| self.entries[i].range.start);
            if !a.is_power_of_two() {
                return Err(c.fail(at, format!("'{ALIGNMENT_KEY}' is {a}, not a power of two")));
            }
            self.alignment = a as usize;
        }
        Ok(())
    }

    fn read_tensor_info(&mut self, c: &mut Cursor<'_>, i: u64) -> Result<()> {
        let at = c.pos;
        let name = c.string(&format_args!("the name of tensor {i}"))?.to_owned();
        let n_dims = c.u32(&format_args!("the dimension count of tensor '{name}'"))?;
        if n_dims > 4 {
            return Err(c.fail(at, format!("tensor '{name}' has {n_dims} dimensions, at most 4")));
        }
        let mut shape = [1usize; 4];
        for (d, n) in shape.iter_mut().enumerate().take(n_dims as usize) {
            let v = c.u64(&format_args!("dimension {d} of tensor '{name}'"))?;
            *n = match usize::try_from(v) {
                Ok(v) if v > 0 => v,
                _ => {
                    let what = format!("dimension {d} of tensor '{name}' is {v}: damaged");
                    return Err(c.fail(c.pos - 8, what));
                }
            };
        }
        let id = c.u32(&format_args!("the type of tensor '{name}'"))?;
        let Some(dtype) = DType::from_ggml(id) else {
            return Err(c.fail(
                c.pos - 4,
                format!(
                    "tensor '{name}' is of unknown type id {id}; use a file quantized to a known \
                     type, such as Q8_0 or Q4_K"
                ),
            ));
        };
        let bytes = dtype
            .bytes(shape[0])
            .and_then(|row| shape[1..].iter().try_fold(row, |n, &d| n.checked_mul(d)));
        let Some(bytes) = bytes else {
            return Err(c.fail(
                at,
                format!(
                    "tensor '{name}' of shape {:?} is no whole number of {dtype} blocks of {}, or \
                     overflows",
                    &shape[..n_dims as usize],
                    dtype.block_len()
                ),
            ));
        };
        let offset = c.u64(&format_args!("the offset of tensor '{name}'"))?;
        let Some(offset) =
            usize::try_from(offset).ok().filter(|o| o.is_multiple_of(self.alignment))
        else {
            return Err(c.fail(
                c.pos - 8,
                format!(
                    "tensor '{name}' begins at offset {offset}, not a multiple of the alignment {}",
                    self.alignment
                ),
            ));
        };
        if self.names.insert(name.clone(), self.tensors.len()).is_some() {
            return Err(c.fail(at, format!("tensor '{name}' appears twice: the file is damaged")));
        }
        let n_dims = n_dims as usize;
        self.tensors.push(TensorInfo { name, dtype, shape, n_dims, offset, bytes, part: 0 });
        Ok(())
    }

    /// Turns offsets within the data into offsets within the file, and checks that every tensor
    /// lies in the file and that no two share bytes.
    fn place_tensors(&mut self, c: &Cursor<'_>) -> Result<()> {
        if self.tensors.is_empty() {
            return Ok(());
        }
        let Some(start) = c.pos.checked_next_multiple_of(self.alignment) else {
            return Err(
                c.fail(c.pos, format!("no data can follow at alignment {}", self.alignment))
            );
        };
        for t in &mut self.tensors {
            let end = start.checked_add(t.offset).and_then(|o| o.checked_add(t.bytes));
            if end.is_none_or(|end| end > c.bytes.len()) {
                return Err(c.fail(
                    start,
                    format!(
                        "tensor '{}' ({} bytes at offset {} of the data) ends beyond the file's {} \
                         bytes: the file is truncated; download it again",
                        t.name,
                        t.bytes,
                        t.offset,
                        c.bytes.len()
                    ),
                ));
            }
            t.offset += start;
        }
        let mut order: Vec<&TensorInfo> = self.tensors.iter().collect();
        order.sort_by_key(|t| t.offset);
        for pair in order.windows(2) {
            if pair[0].offset + pair[0].bytes > pair[1].offset {
                return Err(c.fail(
                    pair[1].offset,
                    format!(
                        "tensors '{}' and '{}' overlap: the file is damaged",
                        pair[0].name, pair[1].name
                    ),
                ));
            }
        }
        Ok(())
    }

    /// The file's name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The format version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Alignment of the tensor data in bytes.
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// Bytes of all the files together.
    pub fn file_bytes(&self) -> usize {
        self.parts.iter().map(|p| (**p).as_ref().len()).sum()
    }

    /// An error about this file.
    pub fn error(&self, what: impl Into<String>) -> Error {
        Error::model(self.name.clone(), what)
    }

    /// The metadata in the file's order.
    pub fn metadata(&self) -> impl ExactSizeIterator<Item = (&str, Value<'_>)> {
        self.entries.iter().map(|e| (e.key.as_str(), self.decode(e)))
    }

    fn decode(&self, e: &Entry) -> Value<'_> {
        let raw = (*self.parts[0]).as_ref().get(e.range.clone()).unwrap_or_default();
        // The reader checked the encoding when it opened the file; this can fail only if someone
        // rewrote the mapped file since, and an empty string is then as good as any answer.
        Value::decode(e.ty, raw).unwrap_or(Value::Str(""))
    }

    /// The value of a key, whatever its type.
    pub fn value(&self, key: &str) -> Option<Value<'_>> {
        self.keys.get(key).map(|&i| self.decode(&self.entries[i]))
    }

    /// The value of a key that may be absent, as `T`.
    ///
    /// # Errors
    /// When the key is there and cannot be a `T`; the message names the key.
    pub fn opt<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>> {
        self.value(key)
            .map(T::from_value)
            .transpose()
            .map_err(|e| self.error(format!("metadata key '{key}' {e}")))
    }

    /// The value of a key that must be there, as `T`: integers, floats, `bool`, `&str`,
    /// [`super::Array`], vectors of these.
    ///
    /// # Errors
    /// When the key is absent or cannot be a `T`; the message names the key.
    pub fn get<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T> {
        self.opt(key)?.ok_or_else(|| {
            self.error(format!(
                "metadata key '{key}' is missing: the file is incomplete; convert the model again"
            ))
        })
    }

    /// [`Gguf::get`] as `u32`, from an integer of any width that fits.
    pub fn get_u32(&self, key: &str) -> Result<u32> {
        self.get(key)
    }

    /// [`Gguf::get`] as `f32`.
    pub fn get_f32(&self, key: &str) -> Result<f32> {
        self.get(key)
    }

    /// [`Gguf::get`] as a string.
    pub fn get_str(&self, key: &str) -> Result<&str> {
        self.get(key)
    }

    /// [`Gguf::get`] as a truth value.
    pub fn get_bool(&self, key: &str) -> Result<bool> {
        self.get(key)
    }

    /// [`Gguf::get`] as strings; they stay in the file.
    pub fn get_strs(&self, key: &str) -> Result<Vec<&str>> {
        self.get(key)
    }

    /// The tensors in the file's order (for a split model, part after part).
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// A tensor's row of the table.
    pub fn tensor_info(&self, name: &str) -> Option<&TensorInfo> {
        self.names.get(name).map(|&i| &self.tensors[i])
    }

    /// A tensor over the file's own bytes, which it shares: `[cols, rows, experts, outer]` of the
    /// file becomes `experts * outer` matrices of `rows` rows of `cols` elements.
    ///
    /// # Errors
    /// When there is no such tensor.
    pub fn tensor(&self, name: &str) -> Result<HostTensor> {
        let Some(t) = self.tensor_info(name) else {
            return Err(self.error(format!(
                "tensor '{name}' is missing: the file is incomplete, or of another architecture \
                 than it says"
            )));
        };
        let [cols, rows, experts, outer] = t.shape;
        // The product is at most the tensor's bytes, because a row takes at least one.
        self.host(t, [experts * outer, rows, cols])?.ok_or_else(|| self.changed(name))
    }

    /// A tensor seen as `experts` matrices of `rows` rows of `cols` elements, whatever dimensions
    /// of one the file puts between them; it shares the file's bytes.
    ///
    /// # Errors
    /// When there is no such tensor, or it does not hold as many elements.
    pub fn tensor_as(&self, name: &str, shape: [usize; 3]) -> Result<HostTensor> {
        let Some(t) = self.tensor_info(name) else {
            return Err(self.error(format!("tensor '{name}' is missing")));
        };
        self.host(t, shape)?.ok_or_else(|| {
            let has = &t.shape[..t.n_dims];
            self.error(format!("tensor '{name}' of shape {has:?} is no {shape:?}"))
        })
    }

    /// A tensor's bytes in a shape, where they have that many: the file's own, or made.
    fn host(&self, t: &TensorInfo, shape: [usize; 3]) -> Result<Option<HostTensor>> {
        let recipe = self.names.get(&t.name).and_then(|i| self.recipes.get(i));
        let (owner, range) = match recipe {
            None => (self.parts[t.part].clone(), t.offset..t.offset + t.bytes),
            Some(recipe) => {
                let made = recipe.make(&self.parts).ok_or_else(|| self.changed(&t.name))?;
                let range = 0..made.len();
                (Arc::new(made) as Bytes, range)
            }
        };
        Ok(HostTensor::new(&t.name, t.dtype, shape, owner, range))
    }

    fn changed(&self, name: &str) -> Error {
        self.error(format!("tensor '{name}' left the file: it was changed while open"))
    }

    /// A model put together from other files: `head` is a GGUF of metadata alone, tensors lie in
    /// `parts`, which are counted from 1, or are made from them.
    ///
    /// # Errors
    /// Two tensors of one name.
    pub(crate) fn assembled(
        name: String,
        head: Vec<u8>,
        parts: Vec<Bytes>,
        tensors: Vec<(TensorInfo, Option<Recipe>)>,
    ) -> Result<Gguf> {
        let mut gguf = Gguf::from_bytes(name, Arc::new(head))?;
        gguf.parts.extend(parts);
        for (t, recipe) in tensors {
            let i = gguf.tensors.len();
            if gguf.names.insert(t.name.clone(), i).is_some() {
                return Err(gguf.error(format!("two tensors are the model's '{}'", t.name)));
            }
            gguf.recipes.extend(recipe.map(|r| (i, r)));
            gguf.tensors.push(t);
        }
        Ok(gguf)
    }

    /// Appends the tensors of the next part of a split model.
    pub(super) fn append(&mut self, part: Gguf) -> Result<()> {
        let index = self.parts.len();
        for mut t in part.tensors {
            t.part = index;
            if self.names.insert(t.name.clone(), self.tensors.len()).is_some() {
                let what = format!("tensor '{}' is in an earlier part of the model too", t.name);
                return Err(Error::model(part.name, what));
            }
            self.tensors.push(t);
        }
        self.parts.extend(part.parts);
        Ok(())
    }
}

impl std::fmt::Debug for Gguf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} keys, {} tensors", self.name, self.entries.len(), self.tensors.len())
    }
}
