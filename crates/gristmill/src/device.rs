//! The one choice of a device.
//!
//! `--device` or `GRISTMILL_DEVICE` name one; without them the choice is automatic. One that was
//! asked for and is not there is an error, never a silent fallback.

use gristmill::cpu::detect;
use gristmill::{Backend, Cpu, CpuOptions, Error, Result};

/// A kind of device that may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The best there is.
    Auto,
    /// The processor.
    Cpu,
    /// A kind that this build does not have, by its name.
    Absent(&'static str),
}

/// Reads `--device`.
///
/// # Errors
/// What is wrong with it, for clap.
pub fn parse(text: &str) -> Result<Wanted, String> {
    let (kind, index) = text.split_once(':').unwrap_or((text, "0"));
    if index.parse::<u32>().is_err() {
        return Err(format!("'{index}' is not the number of a device"));
    }
    match (kind, index) {
        ("" | "auto", "0") => Ok(Wanted::Auto),
        ("cpu", "0") => Ok(Wanted::Cpu),
        ("cuda", _) => Ok(Wanted::Absent("cuda")),
        ("wgpu", _) => Ok(Wanted::Absent("wgpu")),
        _ => Err("it must be auto, cpu, cuda or wgpu".into()),
    }
}

/// What `devices` shows of one.
pub struct Entry {
    /// What `--device` calls it.
    pub id: &'static str,
    /// For people.
    pub name: String,
    /// `cpu` or `gpu`.
    pub kind: &'static str,
    /// Whether this build runs on it.
    pub usable: bool,
    /// Why, or why not.
    pub reason: String,
    /// Bytes of memory in all.
    pub memory: Option<u64>,
}

/// Every device that could be asked for.
///
/// # Errors
/// [`Error::Device`] when `GRISTMILL_CPU` names what is not there.
pub fn list() -> Result<Vec<Entry>> {
    let options = CpuOptions::from_env()?;
    let (_, total) = detect::memory();
    let absent = |id, name: &str| Entry {
        id,
        name: name.to_owned(),
        kind: "gpu",
        usable: false,
        reason: format!("this build has no {id} backend yet"),
        memory: None,
    };
    Ok(vec![
        Entry {
            id: "cpu",
            name: detect::model_name(),
            kind: "cpu",
            usable: true,
            reason: format!("{} with {}", options.isa, threads(options.threads)),
            memory: (total > 0).then_some(total),
        },
        absent("cuda", "NVIDIA GPUs"),
        absent("wgpu", "GPUs by Vulkan, Metal or DX12"),
    ])
}

fn threads(n: usize) -> String {
    if n == 1 { "1 thread".into() } else { format!("{n} threads") }
}

/// The device that is asked for, and why it is that one.
///
/// # Errors
/// [`Error::Device`] for one that is not there.
pub fn choose(wanted: Wanted) -> Result<&'static str> {
    match wanted {
        Wanted::Auto => Ok("this build has no GPU backend yet"),
        Wanted::Cpu => Ok("asked for"),
        Wanted::Absent(kind) => Err(Error::Device(format!(
            "this build has no {kind} backend yet; use --device cpu, or auto for the best there is"
        ))),
    }
}

/// Opens the device, and the line that says which and why.
///
/// # Errors
/// [`Error::Device`] when it is not there, [`Error::Io`] when the system gives no threads.
pub fn open(wanted: Wanted, options: CpuOptions) -> Result<(Cpu, String)> {
    let why = choose(wanted)?;
    let cpu = Cpu::new(options)?;
    let line = format!("device: cpu ({}): {why}", cpu.capabilities().name);
    Ok((cpu, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices() {
        assert_eq!(parse("auto"), Ok(Wanted::Auto));
        assert_eq!(parse(""), Ok(Wanted::Auto));
        assert_eq!(parse("cpu"), Ok(Wanted::Cpu));
        assert_eq!(parse("cuda:1"), Ok(Wanted::Absent("cuda")));
        assert_eq!(parse("wgpu"), Ok(Wanted::Absent("wgpu")));
        for wrong in ["gpu", "cpu:1", "cuda:x"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
