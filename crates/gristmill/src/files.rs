//! Files that a user names: read up to a bound, written whole or not at all.

use gristmill_core::{Error, Result};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// All of a file; `None` where it has more than `most` bytes.
///
/// # Errors
/// [`Error::Io`] naming the file, when it cannot be read.
pub fn read(path: &Path, most: u64) -> Result<Option<Vec<u8>>> {
    let failed = |source| Error::Io { what: format!("reading {}", path.display()), source };
    let mut bytes = vec![];
    let file = File::open(path).map_err(failed)?;
    file.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}

/// Writes a file beside its place, under a name that nothing has, and moves it there when it is
/// whole. What was there stays until then, and where it fails nothing is left behind.
///
/// # Errors
/// [`Error::Io`] naming the file, when it cannot be written; those of `write`.
pub fn write_whole(path: &Path, write: impl FnOnce(File) -> Result<()>) -> Result<()> {
    let failed = |source| cannot_write(path, source);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let beside = path.with_file_name(name);
    let file = File::options().write(true).create_new(true).open(&beside).map_err(failed)?;
    write(file).and_then(|()| fs::rename(&beside, path).map_err(failed)).inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

/// The error of a file that could not be written.
pub fn cannot_write(path: &Path, source: std::io::Error) -> Error {
    Error::Io { what: format!("writing {}", path.display()), source }
}
