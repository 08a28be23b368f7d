//! An open file: its keys and its tensors.

use super::cursor::Cursor;
use super::recipe::Recipe;
use super::table::{self, ByName, Row, TensorInfo};
use super::value::{FromValue, Value, ValueType};
use super::{DEFAULT_ALIGNMENT, head};
use crate::source::{Bytes, LoadMode, Source};
use gristmill_core::{Error, HostTensor, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file of a model.
struct Part {
    source: Source,
    /// What is before the data, as it was when it was checked.
    head: Vec<u8>,
    /// Where the data begins, in bytes.
    data: usize,
}

/// An open model file: its metadata and its tensors, still in place.
pub struct Gguf {
    /// The file, or for a split model each part.
    parts: Vec<Part>,
    version: u32,
    alignment: usize,
    /// Where in the first part each key begins, and where the last one ends.
    keys: Vec<u32>,
    keys_by_name: ByName,
    /// The tensors of GGUF files, then those that were put together from files of another container.
    rows: Vec<Row>,
    made: Vec<TensorInfo<'static>>,
    tensors_by_name: ByName,
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
        let mut c = Cursor::new(&source);
        let (version, n_tensors, n_keys) = head::read_header(&mut c)?;
        // As many of each as the file has bytes for, so this takes less than the file.
        let mut keys = Vec::with_capacity(n_keys as usize + 1);
        let mut alignment = DEFAULT_ALIGNMENT;
        for i in 0..n_keys {
            keys.push(c.pos as u32);
            head::read_key(&mut c, i, &mut alignment)?;
        }
        keys.push(c.pos as u32);
        let alignment = alignment as usize;
        let mut rows = Vec::with_capacity(n_tensors as usize);
        for i in 0..n_tensors {
            rows.push(Row { part: 0, at: c.pos as u32 });
            head::read_tensor_info(&mut c, i, alignment)?;
        }
        let Some(data) = c.pos.checked_next_multiple_of(alignment) else {
            return Err(c.fail(c.pos, format!("no data can follow at alignment {alignment}")));
        };
        let head = c.into_head();
        let mut gguf = Gguf {
            parts: vec![Part { source, head, data }],
            version,
            alignment,
            keys,
            keys_by_name: ByName::default(),
            rows,
            made: Vec::new(),
            tensors_by_name: ByName::default(),
            recipes: HashMap::new(),
            folder: None,
        };
        gguf.keys_by_name = ByName::of(n_keys as usize, |i| gguf.key_name(i)).map_err(|i| {
            let (at, name) = (gguf.keys[i], String::from_utf8_lossy(gguf.key_name(i)));
            gguf.error(format!("at byte {at}: the key '{name}' appears twice: the file is damaged"))
        })?;
        gguf.tensors_by_name = gguf.sorted_tensors().map_err(|i| {
            let (at, name) = (gguf.rows[i].at, gguf.info(i).name);
            gguf.error(format!("at byte {at}: tensor '{name}' appears twice: the file is damaged"))
        })?;
        gguf.check_places()?;
        Ok(gguf)
    }

    /// Checks that every tensor lies in the file and that no two share bytes.
    fn check_places(&self) -> Result<()> {
        let Part { source, head, data } = &self.parts[0];
        let fail = |at: usize, what: String| Err(self.error(format!("at byte {at}: {what}")));
        for row in &self.rows {
            let Some(t) = table::tensor(&head[row.at as usize..]) else { continue };
            let end = data.checked_add(t.offset).and_then(|o| o.checked_add(t.bytes));
            if end.is_none_or(|end| end > source.len()) {
                return fail(
                    *data,
                    format!(
                        "tensor '{}' ({} bytes at offset {} of the data) ends beyond the file's {} \
                         bytes: the file is truncated; download it again",
                        t.name,
                        t.bytes,
                        t.offset,
                        source.len()
                    ),
                );
            }
        }
        let mut order: Vec<u32> = (0..self.rows.len() as u32).collect();
        order.sort_unstable_by_key(|&i| self.info(i as usize).offset);
        for pair in order.windows(2) {
            let [a, b] = [pair[0], pair[1]].map(|i| self.info(i as usize));
            if a.offset + a.bytes > b.offset {
                let what = format!("tensors '{}' and '{}' overlap", a.name, b.name);
                return fail(b.offset, format!("{what}: the file is damaged"));
            }
        }
        Ok(())
    }

    /// The file's name, for messages.
    pub fn name(&self) -> &str {
        self.parts.first().map_or("", |p| p.source.name())
    }

    /// How tensor data comes into memory (`mmap`, `read`, or `memory` that holds it already), and
    /// why so.
    pub fn load_choice(&self) -> (&'static str, &str) {
        // Metadata that was put together lies in memory, whatever becomes of the data.
        let files = self.parts.iter().find(|p| p.source.choice().0 != "memory");
        files.or(self.parts.first()).map_or(("", ""), |p| p.source.choice())
    }

    /// Gives back the memory that tensor data takes in this process: to be called where a device has
    /// taken its copy. What is read once more comes from the file again.
    pub fn release(&self) {
        self.parts.iter().for_each(|part| part.source.release());
    }

    /// That the files are still those that were opened: to be asked after tensor data was used,
    /// and before what came of it is.
    ///
    /// # Errors
    /// Naming the file that was cut or written to meanwhile, and the tensor where that is known.
    pub fn check_unchanged(&self) -> Result<()> {
        self.parts.iter().enumerate().try_for_each(|(i, part)| {
            let Err(e) = part.source.check() else { return Ok(()) };
            let holds = |at: usize| {
                let of = |t: &TensorInfo<'_>| t.part == i && at < t.offset + t.bytes;
                self.tensors().filter(of).min_by_key(|t| t.offset)
            };
            match (e, part.source.lost_at().and_then(holds)) {
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
        let own = |p: &Part| std::fs::canonicalize(p.source.name());
        self.parts.iter().any(|p| own(p).is_ok_and(|own| own == path))
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
        self.parts.iter().map(|p| p.source.len()).sum()
    }

    /// An error about this file.
    pub fn error(&self, what: impl Into<String>) -> Error {
        Error::model(self.name(), what)
    }

    /// The bytes of the `i`th key.
    fn key_row(&self, i: usize) -> &[u8] {
        let range = self.keys[i] as usize..self.keys[i + 1] as usize;
        self.parts[0].head.get(range).unwrap_or_default()
    }

    fn key_name(&self, i: usize) -> &[u8] {
        table::name(self.key_row(i))
    }

    /// The `i`th key and its value.
    fn key(&self, i: usize) -> (&str, Value<'_>) {
        // The encoding was checked when the file was opened, so the fallbacks are not taken.
        let (name, ty, raw) = table::key(self.key_row(i)).unwrap_or(("", ValueType::Str, &[]));
        (name, Value::decode(ty, raw).unwrap_or(Value::Str("")))
    }

    /// The metadata in the file's order.
    pub fn metadata(&self) -> impl ExactSizeIterator<Item = (&str, Value<'_>)> {
        (0..self.keys.len() - 1).map(|i| self.key(i))
    }

    /// The value of a key, whatever its type.
    pub fn value(&self, key: &str) -> Option<Value<'_>> {
        self.keys_by_name.find(key, |i| self.key_name(i)).map(|i| self.key(i).1)
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
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorInfo<'_>> {
        (0..self.rows.len() + self.made.len()).map(|i| self.info(i))
    }

    /// A tensor's row of the table.
    pub fn tensor_info(&self, name: &str) -> Option<TensorInfo<'_>> {
        self.find(name).map(|i| self.info(i))
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.tensors_by_name.find(name, |i| self.tensor_name(i))
    }

    fn sorted_tensors(&self) -> std::result::Result<ByName, usize> {
        ByName::of(self.rows.len() + self.made.len(), |i| self.tensor_name(i))
    }

    /// What the head of its part holds from a row on.
    fn row(&self, row: Row) -> &[u8] {
        self.parts[row.part as usize].head.get(row.at as usize..).unwrap_or_default()
    }

    fn tensor_name(&self, i: usize) -> &[u8] {
        match self.rows.get(i) {
            Some(&row) => table::name(self.row(row)),
            None => self.made[i - self.rows.len()].name.as_bytes(),
        }
    }

    /// The `i`th tensor.
    fn info(&self, i: usize) -> TensorInfo<'_> {
        let Some(&row) = self.rows.get(i) else { return self.made[i - self.rows.len()].view() };
        // Rows were checked when their file was opened, in memory that nobody else can write to.
        let mut t = table::tensor(self.row(row)).expect("it was checked");
        t.part = row.part as usize;
        t.offset = t.offset.saturating_add(self.parts[t.part].data);
        t
    }

    /// A tensor over the file's own bytes, which it shares: `[cols, rows, experts, outer]` of the
    /// file becomes `experts * outer` matrices of `rows` rows of `cols` elements.
    ///
    /// # Errors
    /// When there is no such tensor.
    pub fn tensor(&self, name: &str) -> Result<HostTensor> {
        let Some(i) = self.find(name) else {
            return Err(self.error(format!(
                "tensor '{name}' is missing: the file is incomplete, or of another architecture \
                 than it says"
            )));
        };
        let [cols, rows, experts, outer] = self.info(i).shape;
        // The product is at most the tensor's bytes, because a row takes at least one.
        self.view(i, [experts * outer, rows, cols])
    }

    /// A tensor seen as `experts` matrices of `rows` rows of `cols` elements, whatever dimensions
    /// of one the file puts between them; it shares the file's bytes.
    ///
    /// # Errors
    /// When there is no such tensor, or it does not hold as many elements.
    pub fn tensor_as(&self, name: &str, shape: [usize; 3]) -> Result<HostTensor> {
        let Some(i) = self.find(name) else {
            return Err(self.error(format!("tensor '{name}' is missing")));
        };
        self.view(i, shape)
    }

    /// The bytes of a tensor in some shape: the file's own, or made of them.
    fn view(&self, i: usize, shape: [usize; 3]) -> Result<HostTensor> {
        let t = self.info(i);
        let what = format_args!("tensor '{}'", t.name);
        let (owner, range) = match self.recipes.get(&i) {
            None => self.parts[t.part].source.bytes(t.offset..t.offset + t.bytes, &what)?,
            Some(recipe) => {
                let made = recipe.make(&|part| &self.parts[part].source, &what)?;
                let range = 0..made.len();
                (Arc::new(made) as Bytes, range)
            }
        };
        HostTensor::new(&*t.name, t.dtype, shape, owner, range).ok_or_else(|| {
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
        tensors: Vec<(TensorInfo<'static>, Option<Recipe>)>,
    ) -> Result<Gguf> {
        let mut gguf = Gguf::from_bytes(name, Arc::new(head))?;
        gguf.parts.extend(parts.into_iter().map(|source| Part { source, head: vec![], data: 0 }));
        gguf.folder = Some(folder);
        for (i, (t, recipe)) in tensors.into_iter().enumerate() {
            gguf.recipes.extend(recipe.map(|r| (i, r)));
            gguf.made.push(t);
        }
        gguf.tensors_by_name = gguf.sorted_tensors().map_err(|i| {
            gguf.error(format!("two tensors are the model's '{}'", gguf.info(i).name))
        })?;
        Ok(gguf)
    }

    /// Appends the tensors of the next part of a split model.
    pub(super) fn append(&mut self, part: Gguf) -> Result<()> {
        let index = self.parts.len() as u32;
        if let Some(t) = part.tensors().find(|t| self.find(&t.name).is_some()) {
            let what = format!("tensor '{}' is in an earlier part of the model too", t.name);
            return Err(part.error(what));
        }
        self.rows.extend(part.rows.iter().map(|row| Row { part: index, ..*row }));
        self.parts.extend(part.parts);
        // No name is there twice: they were compared just now.
        self.tensors_by_name = self.sorted_tensors().unwrap_or_default();
        Ok(())
    }
}

impl std::fmt::Debug for Gguf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: {} keys, {} tensors",
            self.name(),
            self.metadata().len(),
            self.tensors().len()
        )
    }
}
