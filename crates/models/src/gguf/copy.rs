//! Writing a model again: as one file, or split over several.
//!
//! Keys, their order and types, and every tensor's bytes stay as they are; only the keys that say
//! how a model is split (`split.*`) are written anew. Files are written beside their places and
//! moved there when all are whole.

use super::reader::Gguf;
use super::split::{MAX_PARTS, part_name};
use super::table::TensorInfo;
use super::writer::GgufWriter;
use gristmill_core::{Error, Result};
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

/// Writes `model` to `to`, or where its tensors take more than `most` bytes, to
/// `STEM-00001-of-0000N.gguf` and so on beside it, each with at most so many bytes of tensors (a
/// larger tensor has a part of its own). `report` hears the bytes written so far; an error of it
/// ends the writing. Returns the files.
///
/// # Errors
/// What the system says, with the path; [`Error::Usage`] for too many parts; an output that is one
/// of the model's own files; and that the model changed meanwhile.
pub fn copy(
    model: &Gguf,
    to: &Path,
    most: Option<u64>,
    report: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Vec<PathBuf>> {
    model.check_writable()?;
    let tensors: Vec<TensorInfo<'_>> = model.tensors().collect();
    let parts = divide(&tensors, most.unwrap_or(u64::MAX));
    if parts.len() > MAX_PARTS {
        return Err(Error::Usage(format!(
            "the model would be split over {} files, more than {MAX_PARTS}; allow larger ones",
            parts.len()
        )));
    }
    let stem = to.file_stem().unwrap_or_default().to_string_lossy();
    let place = |no: usize| match parts.len() {
        1 => to.to_owned(),
        n => to.with_file_name(part_name(&stem, no, n)),
    };
    let places: Vec<PathBuf> = (0..parts.len()).map(place).collect();
    for path in &places {
        if model.is_made_of(path) {
            let what = "is a file of the model itself; write to another one";
            return Err(Error::Usage(format!("{}: {what}", path.display())));
        }
    }
    let beside: Vec<PathBuf> = places
        .iter()
        .map(|p| {
            let mut name = p.clone().into_os_string();
            name.push(".part");
            name.into()
        })
        .collect();
    let mut done = 0;
    let written = parts.iter().zip(&beside).enumerate().try_for_each(|(no, (tensors, path))| {
        write(model, tensors, (no, parts.len()), path, &mut |n| {
            done += n;
            report(done)
        })
    });
    let moved = written.and_then(|()| {
        beside.iter().zip(&places).try_for_each(|(from, to)| {
            let what = || format!("writing {}", to.display());
            fs::rename(from, to).map_err(|source| Error::Io { what: what(), source })
        })
    });
    if moved.is_err() {
        for path in &beside {
            let _ = fs::remove_file(path); // some may not be there yet
        }
    }
    moved.map(|()| places)
}

/// The tensors of each part, in order.
fn divide<'t>(tensors: &'t [TensorInfo<'t>], most: u64) -> Vec<&'t [TensorInfo<'t>]> {
    let mut parts = vec![];
    let (mut from, mut bytes) = (0, 0u64);
    for (i, t) in tensors.iter().enumerate() {
        let more = bytes.saturating_add(t.bytes as u64);
        if i > from && more > most {
            parts.push(&tensors[from..i]);
            (from, bytes) = (i, t.bytes as u64);
        } else {
            bytes = more;
        }
    }
    parts.push(&tensors[from..]);
    parts
}

/// Writes part `no` of `count`.
fn write(
    model: &Gguf,
    tensors: &[TensorInfo<'_>],
    (no, count): (usize, usize),
    path: &Path,
    report: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<()> {
    let name = path.display().to_string();
    let io = |source| Error::Io { what: format!("writing {name}"), source };
    let mut writer = GgufWriter::new(&name);
    // The first part has all the metadata, the others only what their reading needs.
    let alignment = super::ALIGNMENT_KEY;
    for (key, value) in model.metadata() {
        if !key.starts_with("split.") && (no == 0 || key == alignment) {
            writer.set(key, value)?;
        }
    }
    if count > 1 {
        // The types that llama.cpp writes and asks for; both counts are bounded by the reader.
        writer.set("split.no", no as u16)?;
        writer.set("split.count", count as u16)?;
        writer.set("split.tensors.count", model.tensors().len() as i32)?;
    }
    for t in tensors {
        writer.declare(&t.name, t.dtype, &t.shape[..t.n_dims])?;
    }
    let mut stream = writer.begin(BufWriter::new(File::create(path).map_err(io)?))?;
    for t in tensors {
        stream.tensor(model.tensor(&t.name)?.bytes())?;
        model.check_unchanged()?;
        report(t.bytes as u64)?;
    }
    stream.finish().map(drop)
}
