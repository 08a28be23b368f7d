//! Which devices there are and which one is taken; in words, why one cannot be.

use super::Facts;
use crate::module;
use gristmill_core::{Error, Result};

/// What a driver's library says of itself before a device is opened.
pub trait Library {
    /// Whether the library is there.
    fn present(&self) -> bool;
    /// What starting it up gives: nothing, or the code and words of an error.
    ///
    /// # Errors
    /// Both.
    fn start(&self) -> Result<(), (u32, String)>;
    /// The newest interface of it: 1000 times the major version, 10 times the minor.
    fn interface(&self) -> u32;
    /// The devices.
    ///
    /// # Errors
    /// The code and words of an error.
    fn list(&self) -> Result<Vec<Facts>, (u32, String)>;
}

/// The least interface that we call: CUDA 12.0, of driver 525.
pub const INTERFACE: u32 = 12_000;

/// `CUDA_ERROR_NO_DEVICE`, `CUDA_ERROR_OUT_OF_MEMORY`, `CUDA_ERROR_DEVICE_UNAVAILABLE`,
/// `CUDA_ERROR_SYSTEM_DRIVER_MISMATCH`, `CUDA_ERROR_SYSTEM_NOT_READY`.
const NO_DEVICE: u32 = 100;
const OUT_OF_MEMORY: u32 = 2;
const UNAVAILABLE: u32 = 46;
const MISMATCH: u32 = 803;
const NOT_READY: u32 = 802;

/// A device and, where it cannot be used, why.
#[derive(Clone, Debug)]
pub struct Device {
    /// What it is.
    pub facts: Facts,
    /// Why it is of no use here.
    pub lacks: Option<String>,
}

impl Device {
    /// One line for people.
    pub fn name(&self) -> String {
        let f = &self.facts;
        let [major, minor] = f.chip;
        let gib = f.memory as f64 / f64::from(1 << 30);
        format!("cuda:{} {}, compute capability {major}.{minor}, {gib:.0} GiB", f.index, f.name)
    }
}

fn version(v: u32) -> String {
    format!("{}.{}", v / 1000, v % 1000 / 10)
}

/// What the driver's error means and what to do.
pub fn explain(code: u32, said: &str) -> Error {
    match code {
        NO_DEVICE => Error::Device(
            "the NVIDIA driver is here, but shows no GPU: in a container, start it with access to \
             GPUs (--gpus all); else see CUDA_VISIBLE_DEVICES; or use --device wgpu or --device cpu"
                .into(),
        ),
        OUT_OF_MEMORY => Error::Memory(
            "the GPU has no memory left, not even to be opened: end what else uses it, or choose \
             another with --device cuda:N"
                .into(),
        ),
        UNAVAILABLE => Error::Device(
            "the GPU is busy: another process holds it alone; end that, or choose another with \
             --device cuda:N"
                .into(),
        ),
        MISMATCH => Error::Device(
            "the NVIDIA library and the kernel module are of different versions: restart the \
             machine after the driver's update"
                .into(),
        ),
        NOT_READY => Error::Device(
            "the NVIDIA driver is not ready: nvidia-fabricmanager must run on this machine".into(),
        ),
        _ => Error::Device(format!("the NVIDIA driver says: {said} ({code})")),
    }
}

/// The devices that the driver shows, each with what it lacks.
///
/// # Errors
/// [`Error::Device`]: no library; one that is too old, with both versions; one without a device.
/// [`Error::Memory`] where none is left to open one.
pub fn devices_of(library: &dyn Library) -> Result<Vec<Device>> {
    if !library.present() {
        return Err(Error::Device(
            "there is no NVIDIA driver here (libcuda.so.1 or nvcuda.dll was not found): install \
             the driver; CUDA itself is not needed; or use --device wgpu or --device cpu"
                .into(),
        ));
    }
    let has = library.interface();
    if has != 0 && has < INTERFACE {
        return Err(too_old(has, INTERFACE, "this program"));
    }
    library.start().map_err(|(code, said)| explain(code, &said))?;
    let found = library.list().map_err(|(code, said)| explain(code, &said))?;
    if found.is_empty() {
        return Err(explain(NO_DEVICE, ""));
    }
    Ok(found.into_iter().map(|facts| Device { lacks: lacks(&facts), facts }).collect())
}

fn too_old(has: u32, needs: u32, who: &str) -> Error {
    let driver = match needs {
        13_000.. => 580,
        12_040.. => 550,
        _ => 525,
    };
    Error::Device(format!(
        "the NVIDIA driver offers CUDA {}, {who} needs {}: install driver {driver} or newer, or \
         use --device wgpu or --device cpu",
        version(has),
        version(needs)
    ))
}

/// Why a device is of no use; nothing for one that is.
fn lacks(f: &Facts) -> Option<String> {
    let [major, minor] = f.chip;
    if f.chip < [7, 5] {
        return Some(format!(
            "{} has compute capability {major}.{minor}; 7.5 is the least that runs: use --device \
             wgpu or --device cpu",
            f.name
        ));
    }
    match module::choose(f.chip) {
        None => Some(format!(
            "{} has compute capability {major}.{minor}, for which this program holds no machine \
             code: use --device wgpu or --device cpu",
            f.name
        )),
        Some(found) if f.interface < found.interface => {
            Some(too_old(f.interface, found.interface, &f.name).to_string())
        }
        Some(_) => None,
    }
}

/// Takes the device that `wanted` names: a number, the beginning of a UUID, or nothing for the usable
/// one with the most memory.
///
/// # Errors
/// [`Error::Device`] with what there is, or with what the one that is named lacks.
pub fn take(all: Vec<Device>, wanted: &str) -> Result<Device> {
    let names = || all.iter().map(Device::name).collect::<Vec<_>>().join("; ");
    let found = match wanted {
        "" => {
            let usable = all.iter().filter(|d| d.lacks.is_none());
            // Of equal ones the first.
            usable.rev().max_by_key(|d| d.facts.memory).or(all.first())
        }
        w => all.iter().find(|d| {
            let uuid = d.facts.uuid.to_ascii_lowercase();
            let w = w.to_ascii_lowercase();
            d.facts.index.to_string() == w || (w.len() > 3 && uuid.starts_with(&w))
        }),
    };
    let Some(d) = found else {
        return Err(Error::Device(format!("there is no cuda:{wanted}; there are {}", names())));
    };
    match &d.lacks {
        Some(what) => Err(Error::Device(what.clone())),
        None => Ok(d.clone()),
    }
}

/// The devices of this machine.
///
/// # Errors
/// As [`devices_of`].
pub fn devices() -> Result<Vec<Device>> {
    devices_of(&super::real::Installed)
}
