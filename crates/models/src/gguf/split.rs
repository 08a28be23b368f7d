//! Models split over several files: `NAME-00001-of-00003.gguf` and its sisters.
//!
//! The first part holds all the metadata; each part has its own tensor table and data, and the
//! keys `split.no` (from 0), `split.count` and `split.tensors.count`.

use super::reader::Gguf;
use crate::source::{LoadMode, Source};
use gristmill_core::{Error, Result};
use std::path::Path;

/// More parts than any model has.
pub(super) const MAX_PARTS: usize = 1000;

/// The name of part `no`, counted from 0, of `count`.
pub(super) fn part_name(stem: &str, no: usize, count: usize) -> String {
    format!("{stem}-{:05}-of-{count:05}.gguf", no + 1)
}

/// Opens parts 2 to `count` beside `path` and appends their tensors to `first`.
pub(super) fn join(first: &mut Gguf, path: &Path, count: usize, mode: LoadMode) -> Result<()> {
    if count > MAX_PARTS {
        return Err(first.error(format!("'split.count' is {count}: more parts than supported")));
    }
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let name_of = |stem: &str, no: usize| part_name(stem, no, count);
    let no = first.get::<usize>("split.no")?;
    let tail = name_of("", no);
    let Some(stem) = file.strip_suffix(tail.as_str()) else {
        return Err(first.error(format!(
            "this is part {} of {count} of a split model, whose name must end in '{tail}'; give \
             the parts their original names",
            no + 1
        )));
    };
    if no != 0 {
        return Err(first.error(format!(
            "this is part {} of a split model; name its first part, '{}'",
            no + 1,
            name_of(stem, 0)
        )));
    }
    for i in 1..count {
        let part_path = path.with_file_name(name_of(stem, i));
        if !part_path.exists() {
            return Err(Error::model(
                part_path.display().to_string(),
                format!(
                    "no such file: part {} of {count} of the model is missing; put it beside the \
                     first",
                    i + 1
                ),
            ));
        }
        let part = Gguf::read(Source::open(&part_path, mode)?)?;
        let (part_no, part_count) = (part.get::<usize>("split.no")?, part.get("split.count")?);
        if (part_no, part_count) != (i, count) {
            return Err(part.error(format!(
                "says it is part {part_no} of {part_count} (from 0), expected {i} of {count}"
            )));
        }
        first.append(part)?;
    }
    let want = first.opt::<usize>("split.tensors.count")?;
    if want.is_some_and(|n| n != first.tensors().len()) {
        return Err(first.error(format!(
            "the parts hold {} tensors together, 'split.tensors.count' says {}",
            first.tensors().len(),
            want.unwrap_or(0)
        )));
    }
    Ok(())
}
