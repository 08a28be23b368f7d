//! The one choice of a device.
//!
//! `--device` or `GRISTMILL_DEVICE` name one; without them the choice is automatic. One that was
//! asked for and is not there is an error, never a silent fallback.

use gristmill::cpu::detect;
use gristmill::{Backend, Cpu, CpuOptions, Device, Error, Isa, Model, Result, Settings};
#[cfg(feature = "wgpu")]
use gristmill::{Wgpu, WgpuOptions, engine::Split, wgpu};

/// A kind of device that may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The best there is.
    Auto,
    /// The processor.
    Cpu,
    /// An adapter of wgpu by its number, or the first that is a GPU.
    Wgpu(Option<u32>),
    /// A kind that this build does not have, by its name.
    Absent(&'static str),
}

/// Models with fewer bytes of weights gain nothing from a GPU: opening one takes longer than their
/// first words.
#[cfg(feature = "wgpu")]
const LEAST_FOR_GPU: u64 = 100_000_000;

/// Reads `--device`.
///
/// # Errors
/// What is wrong with it, for clap.
pub fn parse(text: &str) -> Result<Wanted, String> {
    let (kind, index) = text.split_once(':').unwrap_or((text, ""));
    let number = index.parse::<u32>().ok();
    if text.contains(':') && number.is_none() {
        return Err(format!("'{index}' is not the number of a device"));
    }
    match (kind, number) {
        ("" | "auto", None | Some(0)) => Ok(Wanted::Auto),
        ("cpu", None | Some(0)) => Ok(Wanted::Cpu),
        ("cuda", _) => Ok(Wanted::Absent("cuda")),
        ("wgpu", n) if cfg!(feature = "wgpu") => Ok(Wanted::Wgpu(n)),
        ("wgpu", _) => Ok(Wanted::Absent("wgpu")),
        _ => Err("it must be auto, cpu, cuda or wgpu".into()),
    }
}

/// Devices that are asked for, one or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices(pub Vec<Wanted>);

impl Devices {
    /// The only one.
    ///
    /// # Errors
    /// [`Error::Usage`] where several are named.
    pub fn one(&self) -> Result<Wanted> {
        match self.0[..] {
            [one] => Ok(one),
            _ => Err(Error::Usage(
                "--device names several devices; only bench and diff run on more than one".into(),
            )),
        }
    }
}

/// Reads `--device` where it may be a list, as `wgpu:0,cpu`.
///
/// # Errors
/// As [`parse`].
pub fn parse_several(text: &str) -> Result<Devices, String> {
    text.split(',').map(|one| parse(one.trim())).collect::<Result<_, _>>().map(Devices)
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
    pub id: String,
    /// For people.
    pub name: String,
    /// `cpu` or `gpu`.
    pub kind: &'static str,
    /// Whether this build runs on it.
    pub usable: bool,
    /// Whether it is a GPU that the automatic choice looks at.
    pub candidate: bool,
    /// Why, or why not.
    pub reason: String,
    /// What it is and offers, in words.
    pub offers: String,
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
    let absent = |id: &str, name: &str| Entry {
        id: id.to_owned(),
        name: name.to_owned(),
        kind: "gpu",
        usable: false,
        candidate: false,
        reason: format!("this build has no {id} backend yet"),
        offers: String::new(),
        memory: None,
    };
    let mut all = vec![
        Entry {
            id: "cpu".into(),
            name: detect::model_name(),
            kind: "cpu",
            usable: true,
            candidate: false,
            reason: format!("{} with {}", options.isa, threads(options.threads)),
            offers: String::new(),
            memory: (total > 0).then_some(total),
        },
        absent("cuda", "NVIDIA GPUs"),
    ];
    #[cfg(not(feature = "wgpu"))]
    all.push(absent("wgpu", "GPUs by Vulkan, Metal or DX12"));
    #[cfg(feature = "wgpu")]
    all.extend(adapters());
    Ok(all)
}

/// What wgpu finds.
#[cfg(feature = "wgpu")]
fn adapters() -> Vec<Entry> {
    let found = wgpu::adapters();
    if found.is_empty() {
        return vec![Entry {
            id: "wgpu".into(),
            name: "GPUs by Vulkan, Metal or DX12".into(),
            kind: "gpu",
            usable: false,
            candidate: false,
            reason: "no driver offers an adapter".into(),
            offers: String::new(),
            memory: None,
        }];
    }
    let entry = |(i, a): (usize, &wgpu::Adapter)| {
        let f = a.facts();
        let judged = match a.lacks() {
            Some(what) => what,
            None if a.is_software() => {
                format!("software, taken only where it is named: --device wgpu:{i}")
            }
            None => "taken for models of 100 MB and more where it is faster".into(),
        };
        let mib = |bytes: u64| bytes >> 20;
        Entry {
            id: format!("wgpu:{i}"),
            name: f.name.clone(),
            kind: "gpu",
            usable: a.lacks().is_none(),
            candidate: a.lacks().is_none() && !a.is_software(),
            reason: judged,
            offers: format!(
                "{} {}, driver {}; {}; bindings of {} MiB, buffers of {} MiB, {} storage bindings, \
                 workgroups of {} threads and {} KiB",
                f.api,
                f.kind,
                if f.driver.is_empty() { "unknown" } else { &f.driver },
                if f.features.is_empty() { "no features".into() } else { f.features.join(" ") },
                mib(f.largest_binding),
                mib(f.largest_buffer),
                f.bindings,
                f.workgroup,
                f.workgroup_memory >> 10
            ),
            memory: None,
        }
    };
    found.iter().enumerate().map(entry).collect()
}

fn threads(n: usize) -> String {
    if n == 1 { "1 thread".into() } else { format!("{n} threads") }
}

/// The device that is asked for, by its name, and why it is that one, as far as can be said without a
/// model. Nothing is opened.
///
/// # Errors
/// [`Error::Device`] for one that is not there.
pub fn choose(wanted: Wanted) -> Result<(String, &'static str)> {
    match wanted {
        Wanted::Auto if cfg!(feature = "wgpu") => Ok((
            "cpu".into(),
            "models of 100 MB and more go to a GPU where there is one that is faster",
        )),
        Wanted::Auto => Ok(("cpu".into(), "this build has no GPU backend")),
        Wanted::Cpu => Ok(("cpu".into(), "asked for")),
        #[cfg(feature = "wgpu")]
        Wanted::Wgpu(index) => {
            let adapter = wgpu::choose(index)?;
            Ok((format!("wgpu:{}", adapter.place), "asked for"))
        }
        #[cfg(not(feature = "wgpu"))]
        Wanted::Wgpu(_) => Err(Error::Device("this build has no wgpu backend".into())),
        Wanted::Absent(kind) => Err(Error::Device(format!(
            "this build has no {kind} backend yet; use --device cpu, or auto for the best there is"
        ))),
    }
}

/// Opens the device for a model, and the line that says which and why.
///
/// # Errors
/// [`Error::Device`] when it is not there or does not compute as it shall, [`Error::Io`] when the system
/// gives no threads.
pub fn open(
    wanted: Wanted,
    layers: Layers,
    settings: &Settings,
    model: &Model,
) -> Result<(Device, String)> {
    let (device, line) = pick(wanted, layers, settings, model)?;
    let has = device.capabilities();
    if !has.compute.contains(&settings.compute) {
        return Err(Error::Device(format!(
            "--compute asks for products in {}, and {} ({}) has none; leave it out, or name a GPU \
             that has with --device",
            settings.compute.name().to_lowercase(),
            device.kind(),
            has.name
        )));
    }
    Ok((device, line))
}

fn pick(
    wanted: Wanted,
    layers: Layers,
    settings: &Settings,
    model: &Model,
) -> Result<(Device, String)> {
    let line = |device: &Device, why: &str| {
        format!("device: {} ({}): {why}", device.kind(), device.capabilities().name)
    };
    // No layer on a GPU: there is none then.
    let wanted = match (layers, wanted) {
        (Layers::Some(0), Wanted::Auto) => Wanted::Cpu,
        (Layers::Some(0), Wanted::Wgpu(_)) => {
            return Err(Error::Device(
                "--gpu-layers 0 and --device wgpu contradict each other; leave one out".into(),
            ));
        }
        _ => wanted,
    };
    #[cfg(feature = "wgpu")]
    if let Wanted::Wgpu(index) = wanted {
        let gpu = open_adapter(&wgpu::choose(index)?, settings.passthrough)?;
        let device = share(gpu, layers, settings, model)?;
        let said = line(&device, "asked for");
        return Ok((device, said));
    }
    let (_, mut why) = choose(wanted).map(|(id, why)| (id, why.to_owned()))?;
    if wanted == Wanted::Auto {
        match gpu(settings, model) {
            #[cfg(feature = "wgpu")]
            Ok((gpu, because)) => {
                let device = share(gpu, layers, settings, model)?;
                let said = line(&device, &because);
                return Ok((device, said));
            }
            #[cfg(not(feature = "wgpu"))]
            Ok(none) => match none {},
            Err(because) => why = because,
        }
    }
    if !matches!(layers, Layers::Auto | Layers::Some(0)) {
        return Err(Error::Device(format!(
            "--gpu-layers asks for a GPU, and none is taken: {why}; name one with --device wgpu, or \
             give --gpu-layers auto"
        )));
    }
    let device = Device::Cpu(Cpu::new(settings.cpu)?);
    let said = line(&device, &why);
    Ok((device, said))
}

/// Opens a device that is no processor, without a model, and what `--device` calls it.
///
/// # Errors
/// [`Error::Device`] when it is not there.
#[cfg_attr(not(feature = "wgpu"), allow(unused_variables))] // only GPUs have such kernels
pub fn open_alone(wanted: Wanted, passthrough: bool) -> Result<(String, Device)> {
    #[cfg(feature = "wgpu")]
    if let Wanted::Wgpu(index) = wanted {
        let adapter = wgpu::choose(index)?;
        let gpu = open_adapter(&adapter, passthrough)?;
        return Ok((format!("wgpu:{}", adapter.place), gpu.into()));
    }
    let (name, _) = choose(wanted)?;
    Err(Error::Device(format!("{name} is a processor")))
}

/// Opens an adapter, with the shapes of kernels that it was tuned to, and with those in its own language
/// where they were faster and `passthrough` allows it.
#[cfg(feature = "wgpu")]
pub fn open_adapter(adapter: &wgpu::Adapter, passthrough: bool) -> Result<Wgpu> {
    let shapes = crate::verbs::tune::known(adapter);
    let no_passthrough = !passthrough;
    Wgpu::new(adapter, WgpuOptions { shapes, no_passthrough, ..WgpuOptions::default() })
}

/// A GPU with as many of the last layers as are asked for, the processor with the others.
#[cfg(feature = "wgpu")]
fn share(gpu: Wgpu, layers: Layers, settings: &Settings, model: &Model) -> Result<Device> {
    let Layers::Some(n) = layers else { return Ok(Device::Wgpu(gpu)) };
    let program = model.program(settings.kv)?;
    // The embedding and the first layer cannot be told apart from all.
    if n as usize > program.cuts().len() {
        return Ok(Device::Wgpu(gpu));
    }
    Split::new(Cpu::new(settings.cpu)?, gpu, &program, n as usize).map(Device::Split)
}

/// The GPU that the automatic choice takes and why, or why there is none.
#[cfg(feature = "wgpu")]
fn gpu(settings: &Settings, model: &Model) -> Result<(Wgpu, String), String> {
    let weights = model.tensor_bytes();
    if weights < LEAST_FOR_GPU {
        return Err(format!(
            "{} of weights gain nothing from a GPU, so none was looked for",
            crate::term::size(weights)
        ));
    }
    let found = wgpu::adapters();
    let suits = |a: &&wgpu::Adapter| !a.is_software() && a.lacks().is_none();
    let Some(adapter) = found.iter().find(suits) else {
        let names: Vec<String> = found.iter().map(wgpu::Adapter::name).collect();
        return Err(match names.is_empty() {
            true => "no driver offers a GPU".into(),
            false => {
                format!("no GPU but {}, which is taken only where it is named", names.join("; "))
            }
        });
    };
    let name = adapter.name();
    let refused = |e: String| format!("{name} is refused: {e}");
    let opened = open_adapter(adapter, settings.passthrough).map_err(|e| refused(e.to_string()))?;
    crate::proof::same_as_cpu(opened.clone(), settings.cpu).map_err(refused)?;
    let described = format!("{name}, {}", adapter.facts().driver);
    let verdict = crate::race::run(model, settings, &opened, &described);
    let crate::race::Verdict { cpu, gpu } = verdict.map_err(|e| refused(e.to_string()))?;
    let times = format!("{:.1} ms a token, the processor {:.1}", 1e3 * gpu, 1e3 * cpu);
    if gpu >= cpu {
        return Err(format!("{name} is not faster: {times}"));
    }
    Ok((opened, format!("faster, with the processor's results: {times}")))
}

/// The GPU that the automatic choice takes and why, or why there is none.
#[cfg(not(feature = "wgpu"))]
fn gpu(_: &Settings, _: &Model) -> Result<std::convert::Infallible, String> {
    Err("this build has no GPU backend".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_of_a_gpu() {
        assert_eq!(parse_layers("auto"), Ok(Layers::Auto));
        assert_eq!(parse_layers("-1"), Ok(Layers::Auto));
        assert_eq!(parse_layers("all"), Ok(Layers::All));
        assert_eq!(parse_layers("7"), Ok(Layers::Some(7)));
        for wrong in ["some", "", "1.5", "-2"] {
            assert!(parse_layers(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_of_devices() {
        assert_eq!(parse("auto"), Ok(Wanted::Auto));
        assert_eq!(parse(""), Ok(Wanted::Auto));
        assert_eq!(parse("cpu"), Ok(Wanted::Cpu));
        assert_eq!(parse("cuda:1"), Ok(Wanted::Absent("cuda")));
        #[cfg(feature = "wgpu")]
        {
            assert_eq!(parse("wgpu"), Ok(Wanted::Wgpu(None)));
            assert_eq!(parse("wgpu:1"), Ok(Wanted::Wgpu(Some(1))));
        }
        for wrong in ["gpu", "cpu:1", "cuda:x", "wgpu:", "wgpu:x"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        let two = parse_several("cpu, auto").unwrap();
        assert_eq!(two, Devices(vec![Wanted::Cpu, Wanted::Auto]));
        assert!(two.one().is_err() && parse_several("cpu,gpu").is_err());
        assert_eq!(parse_several("cpu").unwrap().one().unwrap(), Wanted::Cpu);
    }
}
