//! Files that a user names: read up to a bound, written whole or not at all.

use gristmill_core::{Error, Result};
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
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
/// whole. What was there stays until then, and where it fails nothing is left behind. A pipe or a
/// device is written to as it is.
///
/// # Errors
/// [`Error::Io`] naming the file, when it cannot be written; those of `write`.
pub fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<()>,
) -> Result<()> {
    let failed = |source| cannot_write(path, source);
    let fill = |file| {
        let mut out = BufWriter::new(file);
        write(&mut out)?;
        out.flush().map_err(failed)
    };
    if fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir()) {
        return fill(File::options().write(true).open(path).map_err(failed)?);
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let beside = path.with_file_name(name);
    let file = File::options().write(true).create_new(true).open(&beside).map_err(failed)?;
    fill(file).and_then(|()| fs::rename(&beside, path).map_err(failed)).inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

/// [`write_whole`] of bytes that are there already.
///
/// # Errors
/// [`Error::Io`] naming the file.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_whole(path, |out| out.write_all(bytes).map_err(|source| cannot_write(path, source)))
}

/// The error of a file that could not be written.
pub fn cannot_write(path: &Path, source: std::io::Error) -> Error {
    Error::Io { what: format!("writing {}", path.display()), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What fails on the way leaves the old file, and nothing beside it.
    #[test]
    fn whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        write_bytes(&path, b"old").unwrap();
        let fails = write_whole(&path, |out| {
            out.write_all(b"ne").unwrap();
            Err(Error::Runtime("interrupted".into()))
        });
        assert_eq!(fails.unwrap_err().to_string(), "interrupted");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write_bytes(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    /// A device stays one: nothing takes its place, and its refusal names it.
    #[cfg(target_os = "linux")]
    #[test]
    fn devices_are_written_to() {
        write_bytes(Path::new("/dev/null"), b"x").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
        let full = write_bytes(Path::new("/dev/full"), b"x").unwrap_err();
        assert!(full.to_string().contains("/dev/full"), "{full}");
        assert!(!fs::metadata("/dev/full").unwrap().is_file());
    }
}
