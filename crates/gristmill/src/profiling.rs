//! `--profile`: what was asked for, and how it is shown.

use crate::term::note;
use gristmill::cpu::Ceilings;
use gristmill::files;
use gristmill::profile::Profile;
use gristmill::{Activations, Cpu, Device, Engine, Model, Result, Settings};
use std::path::PathBuf;

/// A profile that was asked for.
pub struct Profiling {
    /// Where the trace goes; `1` is nowhere.
    path: PathBuf,
    ceilings: Ceilings,
    int8: bool,
}

impl Profiling {
    /// What `--profile` or its variable asks for; `0` is nothing. Measures what the processor can do.
    ///
    /// # Errors
    /// [`Error::Memory`] when there is not enough to measure with.
    pub fn asked(path: Option<&PathBuf>, settings: &Settings) -> Result<Option<Self>> {
        let Some(path) = path.filter(|p| p.as_os_str() != "0") else { return Ok(None) };
        let int8 = settings.activations == Activations::Int8;
        Ok(Some(Profiling {
            path: path.clone(),
            ceilings: Cpu::new(settings.cpu)?.ceilings()?,
            int8,
        }))
    }

    /// The tables to stderr, and the trace to its file.
    ///
    /// # Errors
    /// [`Error::Io`] with the file's name.
    pub fn show(&self, engine: &mut Engine<Device>, model: &Model) -> Result<()> {
        let steps = engine.timed();
        let profile = Profile::new(engine.program(), model.gguf(), self.ceilings, self.int8, steps);
        note(self.ceilings);
        for line in profile.to_string().lines() {
            note(line);
        }
        if self.path.as_os_str() == "1" {
            return Ok(());
        }
        files::write_whole(&self.path, |out| {
            profile.trace(out).map_err(|source| files::cannot_write(&self.path, source))
        })?;
        let path = self.path.display();
        note(format_args!("wrote a trace for chrome://tracing or Perfetto to {path}"));
        Ok(())
    }
}
