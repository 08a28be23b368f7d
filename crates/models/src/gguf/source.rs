//! Where a file's bytes come from: a mapping, or memory.

use gristmill_core::{Error, Result};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

/// Shared bytes that something keeps alive: a mapping or a buffer.
pub type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Maps the regular file at `path` read-only.
///
/// # Errors
/// One line that says what the path is instead, or what the system said.
pub(crate) fn map(path: &Path) -> Result<Bytes> {
    let file_name = path.display().to_string();
    let fail = |what: String| Error::model(file_name.clone(), what);
    let system = |e: std::io::Error| match e.kind() {
        ErrorKind::NotFound => fail("no such file; check the path".into()),
        ErrorKind::PermissionDenied => fail("no permission to read it; check its mode".into()),
        _ => fail(format!("cannot be read: {e}")),
    };
    // Asked before opening, because opening a FIFO would wait for a writer.
    let meta = fs::metadata(path).map_err(system)?;
    if meta.is_dir() {
        return Err(fail("is a directory; name the .gguf file inside it".into()));
    }
    if !meta.is_file() {
        return Err(fail(
            "is not a regular file; a model must be a file that can be mapped".into(),
        ));
    }
    let file = fs::File::open(path).map_err(system)?;
    let len = file.metadata().map_err(system)?.len();
    if len == 0 {
        return Err(fail("is empty; download it again".into()));
    }
    // SAFETY: the mapping is read-only and private, its length is the file's at this moment, and
    // only shared slices of it are handed out, all behind the Arc that keeps it mapped. What
    // cannot be proved here is that nobody truncates or rewrites the file while it is mapped:
    // that is the contract of every program that maps a file, and nothing read from these bytes
    // is trusted across two reads (lengths and types are copied out when the file is opened, and
    // later walks over arrays check their bounds again).
    let mapping = unsafe { memmap2::Mmap::map(&file) }.map_err(system)?;
    Ok(Arc::new(mapping))
}
