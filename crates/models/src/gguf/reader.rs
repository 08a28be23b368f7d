//! Opening a file: the checks, the keys, the tensors.

use super::cursor::Cursor;
use super::recipe::Recipe;
use super::value::{FromValue, Value, ValueType};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC};
use crate::source::{Bytes, LoadMode, Source};
use gristmill_core::{DType, Error, HostTensor, Result};
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
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
    /// The file, or for a split model each part's.
    parts: Vec<Source>,
    /// Everything before the data of the first, as it was when it was checked.
    head: Vec<u8>,
    version: u32,
    alignment: usize,
    entries: Vec<Entry>,
    keys: HashMap<String, usize>,
    tensors: Vec<TensorInfo>,
    names: HashMap<String, usize>,
    /// Of tensors that are made from the files' bytes, by their place in the table.
    recipes: HashMap<usize, Recipe>,
    /// Where the files are that it was put together from, if they are of another container.
    folder: Option<PathBuf>,
}

impl Gguf {
    /// Maps and checks the file at `path`, and for `NAME-00001-of-0000N.gguf` the other parts.
    ///
    /// # Errors
    /// A [`Error::Model`] that names what is wrong: the path (missing, a directory, a FIFO,
    /// unreadable), the field or tensor and its byte offset, or the part that is missing.
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf> {
        Gguf::open_with(path, LoadMode::Auto)
    }

    /// [`Gguf::open`], saying how tensor data shall come into memory.
    ///
    /// # Errors
    /// As [`Gguf::open`]; also when the file cannot be mapped and must be.
    pub fn open_with(path: impl AsRef<Path>, mode: LoadMode) -> Result<Gguf> {
        let path = path.as_ref();
        let mut first = Gguf::read(Source::open(path, mode)?)?;
        let count = first.opt::<usize>("split.count")?.unwrap_or(1);
        if count > 1 {
            super::split::join(&mut first, path, count, mode)?;
        }
        Ok(first)
    }

    /// Checks a file that is in memory; `name` stands for it in messages.
    ///
    /// # Errors
    /// As [`Gguf::open`], about the contents.
    pub fn from_bytes(name: impl Into<String>, bytes: Bytes) -> Result<Gguf> {
        Gguf::read(Source::from_bytes(name, bytes))
    }

    /// Checks a file that is open; of a split model, one part.
    pub(super) fn read(source: Source) -> Result<Gguf> {
        let mut gguf = Gguf {
            parts: vec![],
            head: vec![],
            version: 0,
            alignment: DEFAULT_ALIGNMENT as usize,
            entries: Vec::new(),
            keys: HashMap::new(),
            tensors: Vec::new(),
            names: HashMap::new(),
            recipes: HashMap::new(),
            folder: None,
        };
        let mut c = Cursor::new(&source);
        let (n_tensors, n_keys) = gguf.read_header(&mut c)?;
        for i in 0..n_keys {
            gguf.read_key(&mut c, i)?;
        }
        gguf.read_alignment(&mut c)?;
        for i in 0..n_tensors {
            gguf.read_tensor_info(&mut c, i)?;
        }
        gguf.place_tensors(&c)?;
        gguf.head = c.into_head();
        gguf.parts.push(source);
        Ok(gguf)
    }

    fn read_header(&mut self, c: &mut Cursor<'_>) -> Result<(u64, u64)> {
        let magic = c.u32(&"the magic number")?.to_le_bytes();
        if magic != MAGIC {
            let hint = match &magic {
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
        let key = c.string(&format_args!("the name of metadata key {i}"))?.to_owned();
        let id = c.u32(&format_args!("the type of '{key}'"))?;
        let Some(ty) = ValueType::from_id(id) else {
            return Err(c.fail(at, format!("'{key}' is of unknown type {id}: the file is damaged")));
        };
        let start = c.pos;
        c.skip_value(ty, &key)?;
        if self.keys.insert(key.clone(), self.entries.len()).is_some() {
            return Err(c.fail(at, format!("the key '{key}' appears twice: the file is damaged")));
        }
        self.entries.push(Entry { key, ty, range: start..c.pos });
        Ok(())
    }

    fn read_alignment(&mut self, c: &mut Cursor<'_>) -> Result<()> {
        let Some(&i) = self.keys.get(ALIGNMENT_KEY) else { return Ok(()) };
        let Entry { ty, range, .. } = &self.entries[i];
        if *ty != ValueType::U32 {
            let what = format!("'{ALIGNMENT_KEY}' is of type {ty:?}, not U32");
            return Err(c.fail(range.start, what));
        }
        let end = std::mem::replace(&mut c.pos, range.start);
        let a = c.u32(&ALIGNMENT_KEY)?;
        c.pos = end;
        if !a.is_power_of_two() {
            let what = format!("'{ALIGNMENT_KEY}' is {a}, not a power of two");
            return Err(c.fail(range.start, what));
        }
        self.alignment = a as usize;
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
            if end.is_none_or(|end| end > c.source.len()) {
                return Err(c.fail(
                    start,
                    format!(
                        "tensor '{}' ({} bytes at offset {} of the data) ends beyond the file's {} \
                         bytes: the file is truncated; download it again",
                        t.name,
                        t.bytes,
                        t.offset,
                        c.source.len()
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
        self.parts.first().map_or("", Source::name)
    }

    /// How tensor data comes into memory (`mmap`, `read`, or `memory` that holds it already), and
    /// why so.
    pub fn load_choice(&self) -> (&'static str, &str) {
        // Metadata that was put together lies in memory, whatever becomes of the data.
        let files = self.parts.iter().find(|p| p.choice().0 != "memory");
        files.or(self.parts.first()).map_or(("", ""), Source::choice)
    }

    /// That the files are still those that were opened: to be asked after tensor data was used,
    /// and before what came of it is.
    ///
    /// # Errors
    /// Naming the file that was cut or written to meanwhile, and the tensor where that is known.
    pub fn check_unchanged(&self) -> Result<()> {
        self.parts.iter().enumerate().try_for_each(|(i, part)| {
            let Err(e) = part.check() else { return Ok(()) };
            let holds = |at: usize| {
                let of = |t: &&TensorInfo| t.part == i && at < t.offset + t.bytes;
                self.tensors.iter().filter(of).min_by_key(|t| t.offset)
            };
            match (e, part.lost_at().and_then(holds)) {
                (Error::Model { file, what }, Some(t)) => {
                    Err(Error::model(file, format!("tensor '{}': the file {what}", t.name)))
                }
                (e, _) => Err(e),
            }
        })
    }

    /// Whether `path` is one of its files.
    pub(super) fn is_made_of(&self, path: &Path) -> bool {
        let Ok(path) = std::fs::canonicalize(path) else { return false };
        self.parts.iter().any(|p| std::fs::canonicalize(p.name()).is_ok_and(|own| own == path))
    }

    /// That it may be written as a GGUF file: not where it was put together from the files of
    /// another container, whose weights are not arranged as other programs expect them in GGUF.
    ///
    /// # Errors
    /// That it is such a model.
    pub fn check_writable(&self) -> Result<()> {
        if self.folder.is_some() {
            return Err(self.error(
                "these are safetensors, which are run as they are; to write a GGUF file, convert \
                 the model with llama.cpp's convert_hf_to_gguf.py first",
            ));
        }
        Ok(())
    }

    /// The folder of a model in safetensors, which holds its other files; `None` for a GGUF file.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
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
        self.parts.iter().map(Source::len).sum()
    }

    /// An error about this file.
    pub fn error(&self, what: impl Into<String>) -> Error {
        Error::model(self.name(), what)
    }

    /// The metadata in the file's order.
    pub fn metadata(&self) -> impl ExactSizeIterator<Item = (&str, Value<'_>)> {
        self.entries.iter().map(|e| (e.key.as_str(), self.decode(e)))
    }

    fn decode(&self, e: &Entry) -> Value<'_> {
        let raw = self.head.get(e.range.clone()).unwrap_or_default();
        // The reader checked the encoding when it opened the file.
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
        self.view(t, [experts * outer, rows, cols])
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
        self.view(t, shape)
    }

    /// The bytes of a tensor in some shape: the file's own, or made of them.
    fn view(&self, t: &TensorInfo, shape: [usize; 3]) -> Result<HostTensor> {
        let what = format_args!("tensor '{}'", t.name);
        let recipe = self.names.get(&t.name).and_then(|i| self.recipes.get(i));
        let (owner, range) = match recipe {
            None => self.parts[t.part].bytes(t.offset..t.offset + t.bytes, &what)?,
            Some(recipe) => {
                let made = recipe.make(&self.parts, &what)?;
                let range = 0..made.len();
                (Arc::new(made) as Bytes, range)
            }
        };
        HostTensor::new(&t.name, t.dtype, shape, owner, range).ok_or_else(|| {
            let has = &t.shape[..t.n_dims];
            self.error(format!("{what} of shape {has:?} is no {shape:?}"))
        })
    }

    /// A model put together from other files, in `folder`: `head` is a GGUF of metadata alone, tensors lie in
    /// `parts`, which are counted from 1, or are made from them.
    ///
    /// # Errors
    /// Two tensors of one name.
    pub(crate) fn assembled(
        name: String,
        folder: PathBuf,
        head: Vec<u8>,
        parts: Vec<Source>,
        tensors: Vec<(TensorInfo, Option<Recipe>)>,
    ) -> Result<Gguf> {
        let mut gguf = Gguf::from_bytes(name, Arc::new(head))?;
        gguf.parts.extend(parts);
        gguf.folder = Some(folder);
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
        let file = part.name().to_owned();
        for mut t in part.tensors {
            t.part = index;
            if self.names.insert(t.name.clone(), self.tensors.len()).is_some() {
                let what = format!("tensor '{}' is in an earlier part of the model too", t.name);
                return Err(Error::model(file, what));
            }
            self.tensors.push(t);
        }
        self.parts.extend(part.parts);
        Ok(())
    }
}

impl std::fmt::Debug for Gguf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} keys, {} tensors", self.name(), self.entries.len(), self.tensors.len())
    }
}
