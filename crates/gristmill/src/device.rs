//! The one choice of a device.
//!
//! `--device` or `GRISTMILL_DEVICE` name one; without them the choice is automatic. One that was
//! asked for and is not there is an error, never a silent fallback.

use gristmill::cpu::detect;
use gristmill::{Backend, Cpu, CpuOptions, Error, Isa, Result};

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

/// How many layers are asked to run on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layers {
    /// As many as suit.
    Auto,
    /// Every one.
    All,
    /// So many.
    Some(u32),
}

impl Layers {
    /// # Errors
    /// [`Error::Device`] where some layer shall run on a GPU, and there is none.
    pub fn check(self) -> Result<()> {
        match self {
            Layers::Auto | Layers::Some(0) => Ok(()),
            Layers::All | Layers::Some(_) => Err(Error::Device(
                "this build has no GPU backend yet, so no layer can run there; use \
                 --gpu-layers auto or 0"
                    .into(),
            )),
        }
    }
}

/// Reads `--gpu-layers`.
///
/// # Errors
/// What is wrong with it, for clap.
pub fn parse_layers(text: &str) -> Result<Layers, String> {
    match text {
        "auto" | "-1" => Ok(Layers::Auto),
        "all" => Ok(Layers::All),
        n => n.parse().map(Layers::Some).map_err(|_| "it must be auto, all or a number".into()),
    }
}

/// The processor with the instruction set of this name, or the best one.
///
/// # Errors
/// [`Error::Device`] for one that this machine does not run.
pub fn cpu_options(name: Option<&str>) -> Result<CpuOptions> {
    let isa = match name.filter(|n| !n.is_empty()) {
        Some(name) => Isa::from_name(name).filter(|i| i.is_available()).ok_or_else(|| {
            let names = Isa::available().map(Isa::name).collect::<Vec<_>>().join(", ");
            Error::Device(format!(
                "'{name}' is no instruction set of this machine, which runs {names}; leave --cpu \
                 or GRISTMILL_CPU out for the best"
            ))
        })?,
        None => Isa::best(),
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    Ok(CpuOptions { isa, threads, poison: false })
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
    fn layers_of_a_gpu() {
        for good in ["auto", "0", "-1"] {
            assert!(parse_layers(good).unwrap().check().is_ok(), "{good}");
        }
        for absent in ["all", "7"] {
            assert!(parse_layers(absent).unwrap().check().is_err(), "{absent}");
        }
        assert!(parse_layers("some").is_err());
    }

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
