//! Where a model file's bytes come from: a mapping, reads, or memory that already holds them.
//!
//! A file that is open may be changed by others. What that can do here:
//!
//! - Lengths, offsets and names are *read* into memory of our own before they are checked
//!   ([`Source::read_at`]), so that they cannot change between the check and the use.
//! - Tensor data is mapped or read ([`Source::bytes`]); its range is compared with the file's
//!   length of that moment. When a mapped file is cut short all the same, the pages that are gone
//!   read as zeros instead of ending the process ([`mapping`]).
//! - Whoever has used the data asks [`Source::check`] before trusting it: the file must have the
//!   length and the time of change that it had when it was opened.
//!
//! So whatever happens to the file, the answer is the model or an error that names the file.

mod mapping;

use gristmill_core::{Error, Result};
use mapping::Mapping;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// Shared bytes that something keeps alive: a mapping or a buffer.
pub type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// How tensor data comes into memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadMode {
    /// Mapped where that is safe and fast, else read; [`Source::choice`] says which and why.
    #[default]
    Auto,
    /// Mapped: nothing is copied until it is used, and pages in the system's cache are shared.
    Mmap,
    /// Read, a tensor at a time.
    Read,
}

/// An open file, or bytes that stand for one.
#[derive(Clone)]
pub struct Source {
    name: String,
    len: usize,
    kind: Kind,
    why: String,
}

#[derive(Clone)]
enum Kind {
    Memory(Bytes),
    File(Arc<Opened>),
}

/// A file as it was when it was opened.
struct Opened {
    file: File,
    changed: Option<SystemTime>,
    /// `None`: tensors are read.
    mapping: Option<Arc<Mapping>>,
}

/// The whole of a small file.
///
/// # Errors
/// [`Error::Model`] when it has more than `max` bytes, or cannot be read.
pub(crate) fn whole(path: &Path, max: usize) -> Result<Vec<u8>> {
    let source = Source::open(path, LoadMode::Read)?;
    if source.len() > max {
        let what = format!("has {} bytes, more than the {max} allowed", source.len());
        return Err(Error::model(source.name(), what));
    }
    let mut bytes = vec![0; source.len()];
    source.read_at(0, &mut bytes)?;
    Ok(bytes)
}

impl Source {
    /// Opens the regular file at `path`.
    ///
    /// # Errors
    /// One line that says what the path is instead, or what the system said.
    pub fn open(path: &Path, mode: LoadMode) -> Result<Source> {
        let name = path.display().to_string();
        let fail = |what: String| Error::model(name.clone(), what);
        let system = |e: io::Error| match e.kind() {
            ErrorKind::NotFound => fail("no such file; check the path".into()),
            ErrorKind::PermissionDenied => fail("no permission to read it; check its mode".into()),
            _ => fail(format!("cannot be read: {e}")),
        };
        let regular = |meta: &fs::Metadata| {
            if meta.is_dir() {
                return Err(fail("is a directory; name the model file inside it".into()));
            }
            if !meta.is_file() {
                return Err(fail("is not a regular file, which a model must be".into()));
            }
            Ok(())
        };
        // Asked before opening, because opening a device may do something, and again of what was
        // opened, because the path may name something else by then.
        regular(&fs::metadata(path).map_err(system)?)?;
        let file = open_at_once(path).map_err(system)?;
        let meta = file.metadata().map_err(system)?;
        regular(&meta)?;
        let len = usize::try_from(meta.len())
            .map_err(|_| fail("is larger than the address space of this machine".into()))?;
        if len == 0 {
            return Err(fail("is empty; download it again".into()));
        }
        let slow = mapping::slow_to_map(&file);
        let (mapping, why) = match (mode, slow) {
            (LoadMode::Read, _) => (None, "asked for".to_owned()),
            (LoadMode::Mmap, _) => {
                let mapped = Mapping::new(&file, len)
                    .map_err(|e| fail(format!("cannot be mapped: {e}; use --load-mode read")))?;
                (Some(mapped), "asked for".to_owned())
            }
            (LoadMode::Auto, Some(kind)) => (None, format!("auto: it lies on {kind}")),
            (LoadMode::Auto, None) => match Mapping::new(&file, len) {
                Ok(mapped) => (Some(mapped), "auto: it lies on a local file system".to_owned()),
                Err(e) => (None, format!("auto: it cannot be mapped: {e}")),
            },
        };
        let mapping = mapping.map(Arc::new);
        let opened = Opened { changed: meta.modified().ok(), file, mapping };
        Ok(Source { name, len, kind: Kind::File(Arc::new(opened)), why })
    }

    /// Bytes that are in memory; `name` stands for them in messages.
    pub fn from_bytes(name: impl Into<String>, bytes: Bytes) -> Source {
        let len = (*bytes).as_ref().len();
        let why = "it is in memory already".to_owned();
        Source { name: name.into(), len, kind: Kind::Memory(bytes), why }
    }

    /// The file's name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of the file when it was opened.
    #[allow(clippy::len_without_is_empty)] // an empty file is not opened
    pub fn len(&self) -> usize {
        self.len
    }

    /// How tensor data comes into memory, `mmap`, `read` or `memory`, and why so.
    pub fn choice(&self) -> (&'static str, &str) {
        let mode = match &self.kind {
            Kind::Memory(_) => "memory",
            Kind::File(f) if f.mapping.is_some() => "mmap",
            Kind::File(_) => "read",
        };
        (mode, &self.why)
    }

    /// Copies the bytes from `at` on into `out`.
    ///
    /// # Errors
    /// When the file does not have them (any more), and what the system says.
    pub fn read_at(&self, at: usize, out: &mut [u8]) -> Result<()> {
        match &self.kind {
            Kind::Memory(b) => {
                let end = at.checked_add(out.len());
                let held = end.and_then(|end| (**b).as_ref().get(at..end));
                out.copy_from_slice(held.ok_or_else(|| self.shorter(at))?);
                Ok(())
            }
            Kind::File(f) => read_exact_at(&f.file, at as u64, out).map_err(|e| match e.kind() {
                ErrorKind::UnexpectedEof => self.shorter(at),
                _ => Error::model(&self.name, format!("cannot be read at byte {at}: {e}")),
            }),
        }
    }

    /// The bytes of `range`, which `what` names: bytes that hold them, and where in those.
    ///
    /// # Errors
    /// When the file does not have them (any more), what the system says, and [`Error::Memory`]
    /// when they are to be read and there is no room.
    pub fn bytes(&self, range: Range<usize>, what: &dyn Display) -> Result<(Bytes, Range<usize>)> {
        let gone = || Error::model(&self.name, format!("{what} left the file: {CHANGED}"));
        if range.start > range.end || range.end > self.len {
            return Err(gone());
        }
        match &self.kind {
            Kind::Memory(b) => Ok((b.clone(), range)),
            Kind::File(f) => {
                if f.file.metadata().is_ok_and(|m| m.len() < range.end as u64) {
                    return Err(gone());
                }
                if let Some(mapping) = &f.mapping {
                    return Ok((mapping.clone(), range));
                }
                let mut buffer = Vec::new();
                buffer.try_reserve_exact(range.len()).map_err(|_| {
                    Error::Memory(format!(
                        "{}: {what} takes {} MiB, which the system does not give",
                        self.name,
                        range.len() >> 20
                    ))
                })?;
                buffer.resize(range.len(), 0);
                self.read_at(range.start, &mut buffer).map_err(|e| match e {
                    Error::Model { .. } => gone(),
                    other => other,
                })?;
                let all = 0..buffer.len();
                Ok((Arc::new(buffer), all))
            }
        }
    }

    /// Gives back the memory of what was mapped and read so far, where a copy of it is in use now.
    pub fn release(&self) {
        if let Kind::File(f) = &self.kind
            && let Some(mapping) = &f.mapping
        {
            mapping.release();
        }
    }

    /// Where the mapping turned out to lack a page of the file, in bytes from its start.
    pub fn lost_at(&self) -> Option<usize> {
        match &self.kind {
            Kind::File(f) => f.mapping.as_ref()?.lost(),
            Kind::Memory(_) => None,
        }
    }

    /// That the file is still the one that was opened: to be asked after its data was used, and
    /// before what came of it is.
    ///
    /// # Errors
    /// When it was cut, written to or could not be read.
    pub fn check(&self) -> Result<()> {
        let Kind::File(f) = &self.kind else { return Ok(()) };
        if let Some(at) = self.lost_at() {
            return Err(self.shorter(at));
        }
        match f.file.metadata() {
            Ok(m) if m.len() != self.len as u64 => Err(Error::model(
                &self.name,
                format!("has {} bytes now, and had {}: {CHANGED}", m.len(), self.len),
            )),
            Ok(m) if m.modified().ok() != f.changed => {
                Err(Error::model(&self.name, format!("was written to: {CHANGED}")))
            }
            _ => Ok(()),
        }
    }

    fn shorter(&self, at: usize) -> Error {
        Error::model(&self.name, format!("ends before byte {at}: {CHANGED}"))
    }
}

/// What to do about a file that is not what it was.
const CHANGED: &str = "it changed while it was being read; load it again when nothing writes to it";

/// Opens for reading without waiting: a FIFO would wait for a writer.
#[cfg(unix)]
fn open_at_once(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

#[cfg(not(unix))]
fn open_at_once(path: &Path) -> io::Result<File> {
    File::open(path)
}

#[cfg(unix)]
fn read_exact_at(file: &File, at: u64, out: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, at)
}

/// Elsewhere a position is shared by all who read, so one reads at a time.
#[cfg(not(unix))]
fn read_exact_at(mut file: &File, at: u64, out: &mut [u8]) -> io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    static READING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = READING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(out)
}
