//! Weights as a device packed them, kept in a file for the next start, which maps it: nothing is packed
//! then, and nothing copied.
//!
//! The file is a GGUF file of bytes, one tensor of them for each matrix, in the user's cache directory.
//! Its name is what the model is known by and what the device calls the order of its bytes, so that
//! neither another model nor another instruction set takes it for its own.

use crate::cache;
use crate::files::{cannot_write, write_whole};
use crate::model::Model;
use crate::state::Fingerprint;
use gristmill_core::{DType, Error, HostTensor, Result};
use gristmill_ir::{Program, TensorDecl};
use gristmill_models::gguf::GgufWriter;
use gristmill_models::{Gguf, LoadMode};
use std::path::PathBuf;

/// Bytes to whose multiples tensors are aligned: a page, so that two never share one.
const ALIGNMENT: u32 = 4096;
/// The key of the order of bytes.
const FORM: &str = "gristmill.packed_form";

/// The packed weights of a model for a device.
pub struct PackCache {
    path: PathBuf,
    form: String,
    kept: Option<Gguf>,
}

impl PackCache {
    /// Those of `model` in the order that a device calls `form`, whether there are any yet or not.
    ///
    /// # Errors
    /// [`Error::Usage`] where there is no cache directory; [`Error::Model`] naming the file when it is
    /// there and damaged, or when the model is.
    pub fn open(model: &Model, program: &Program, form: String) -> Result<PackCache> {
        let folder = cache::folder().ok_or_else(|| {
            Error::Usage(
                "--pack-cache needs a place: set GRISTMILL_CACHE_DIR, or HOME, to a directory"
                    .into(),
            )
        })?;
        let known_by = Fingerprint::of_weights(model, program)?;
        let path = folder.join("packed").join(format!("{known_by}-{form}.gguf"));
        let mut cache = PackCache { path, form, kept: None };
        if cache.path.exists() {
            let opened = Gguf::open_with(&cache.path, LoadMode::Auto);
            cache.kept = Some(opened.map_err(|e| cache.damaged(e))?);
        }
        if let Some(gguf) = &cache.kept
            && gguf.get_str(FORM)? != cache.form
        {
            return Err(cache.error("holds weights in another order"));
        }
        Ok(cache)
    }

    /// The packed bytes of a matrix of the model; `None` where nothing is kept yet.
    ///
    /// # Errors
    /// [`Error::Model`] when the file lacks it.
    pub fn tensor(&self, name: &str, stored: &HostTensor) -> Result<Option<HostTensor>> {
        let Some(gguf) = &self.kept else { return Ok(None) };
        let shape = [stored.experts, stored.rows, stored.cols];
        let bytes = gguf.tensor(name).map_err(|e| self.damaged(e))?;
        Ok(Some(bytes.packed(stored.dtype, shape, &self.form)))
    }

    /// Keeps the matrices of a program that a device has just packed, unless they are kept; `packed`
    /// gives the bytes of one.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file, when it cannot be written.
    pub fn keep<'w>(
        &self,
        program: &Program,
        packed: impl Fn(&str) -> Option<&'w [u8]>,
    ) -> Result<()> {
        if self.kept.is_some() {
            return Ok(());
        }
        let mut writer = GgufWriter::new(self.path.display().to_string());
        writer.set("general.alignment", ALIGNMENT)?;
        writer.set(FORM, self.form.as_str())?;
        let mut all = vec![];
        for decl in matrices(program) {
            let bytes = packed(&decl.name).ok_or_else(|| {
                Error::Runtime(format!("the device did not keep '{}' packed", decl.name))
            })?;
            writer.declare(&decl.name, DType::I8, &[bytes.len()])?;
            all.push(bytes);
        }
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(|e| cannot_write(folder, e))?;
        }
        write_whole(&self.path, |out| {
            let mut stream = writer.begin(out)?;
            for bytes in all {
                stream.tensor(bytes)?;
            }
            stream.finish().map(drop)
        })
    }

    fn damaged(&self, e: Error) -> Error {
        match e {
            Error::Model { what, .. } => self.error(&what),
            other => other,
        }
    }

    fn error(&self, what: &str) -> Error {
        let path = self.path.display().to_string();
        Error::model(path, format!("{what}; delete it, and it is written anew"))
    }
}

/// The matrices that a program uses.
pub fn matrices(program: &Program) -> impl Iterator<Item = &TensorDecl> {
    let marks = program.used_tensors().into_iter().zip(program.matrices());
    program.tensors.iter().zip(marks).filter(|(_, (used, matrix))| *used && *matrix).map(|t| t.0)
}
