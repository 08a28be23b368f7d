//! Files that a user names, read up to a bound.

use gristmill_core::{Error, Result};
use std::fs::File;
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
