//! Options that several verbs share, and what becomes of them.

use crate::device::{self, Devices, Layers};
use crate::resolve::{self, Source};
use crate::term::{Done, check_interrupt, is_dumb, note};
use clap::{Args, ValueEnum};
use gristmill::{
    Activations, DType, Device, Engine, EngineOptions, KvTypes, LoadMode, MemoryPlan, Model,
    Prefill, Program, Result, Settings, bundled,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::path::Path;
use std::time::{Duration, Instant};

/// The model of a verb that takes no prompt.
#[derive(Args)]
pub struct ModelArgs {
    #[arg(value_name = "MODEL", help = model_help(bundled::STORIES))]
    positional: Option<String>,

    /// The same, as a flag
    #[arg(short, long, value_name = "MODEL", conflicts_with = "positional")]
    model: Option<String>,

    #[command(flatten)]
    loading: Loading,
}

impl ModelArgs {
    /// Opens it.
    pub fn open(&self) -> Result<Model> {
        let name = self.model.as_ref().or(self.positional.as_ref());
        open(&source(name, bundled::STORIES), &self.loading)
    }
}

/// How tensor data comes into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LoadModeArg {
    /// Map local files, read those on network file systems; says which and why
    Auto,
    /// Map the file: nothing is copied before it is used
    Mmap,
    /// Read a tensor at a time
    Read,
}

/// How a model file is read.
#[derive(Args, Clone, Copy)]
pub struct Loading {
    /// How tensor data comes into memory
    #[arg(
        long,
        value_enum,
        value_name = "MODE",
        default_value = "auto",
        help_heading = "Device and precision"
    )]
    pub load_mode: LoadModeArg,
}

impl Loading {
    /// For the library.
    pub fn mode(&self) -> LoadMode {
        match self.load_mode {
            LoadModeArg::Auto => LoadMode::Auto,
            LoadModeArg::Mmap => LoadMode::Mmap,
            LoadModeArg::Read => LoadMode::Read,
        }
    }
}

/// What a `MODEL` may be, for the help of a verb that takes `default` where none is named.
pub fn model_help(default: &str) -> String {
    let one = |m: &bundled::Bundled| match m.name == default {
        true => format!("`{}` (default)", m.name),
        false => format!("`{}`", m.name),
    };
    let inside: Vec<_> = bundled::MODELS.iter().map(one).collect();
    format!("A .gguf file, or a model inside this binary: {}", inside.join(", "))
}

/// The model that was named, else the bundled one of this name.
pub fn source(named: Option<&String>, default: &'static str) -> Source {
    named.map_or(Source::Bundled(default), |n| Source::Named(n.clone()))
}

/// Opens a model.
pub fn open(source: &Source, loading: &Loading) -> Result<Model> {
    match source {
        Source::Bundled(name) => Model::bundled_as(name),
        Source::Named(name) if Path::new(name).exists() || bundled::find(name).is_some() => {
            Model::open_with(name, loading.mode())
        }
        Source::Named(name) => Err(resolve::missing(name)),
    }
}

/// How activations reach quantized weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ActivationsArg {
    /// Blocks of eight-bit integers: fast
    Int8,
    /// As computed: to compare with other programs
    F32,
}

/// How quantized weights meet many tokens at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PrefillArg {
    /// With every scale of the file, as in decoding
    Exact,
    /// Rounded once more, to a scale for each 256
    Fast,
}

/// How numbers of products are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ComputeArg {
    /// As f32
    F32,
    /// As f16, summed as f32: on GPUs that multiply f16
    F16,
}

impl ComputeArg {
    /// For the library.
    pub fn dtype(self) -> DType {
        match self {
            ComputeArg::F32 => DType::F32,
            ComputeArg::F16 => DType::F16,
        }
    }
}

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)] // the formats' own names
pub enum KvArg {
    F16,
    F32,
    Bf16,
}

impl KvArg {
    /// For the library.
    pub fn dtype(self) -> DType {
        match self {
            KvArg::F16 => DType::F16,
            KvArg::F32 => DType::F32,
            KvArg::Bf16 => DType::BF16,
        }
    }
}

/// Where and how precisely it runs.
#[derive(Args, Clone)]
#[command(next_help_heading = "Device and precision")]
pub struct RunsOn {
    /// The device, also -dev: auto, cpu, cuda or wgpu; wgpu:1 is the second of `gristmill devices`
    #[arg(long, default_value = "auto", value_parser = device::parse_several)]
    pub device: Devices,

    /// Layers that run on a GPU, also -ngl: auto, all or a number
    #[arg(long, value_name = "N", alias = "n-gpu-layers", default_value = "auto",
          allow_negative_numbers = true,
          value_parser = device::parse_layers)]
    pub gpu_layers: Layers,

    /// The instruction set, to compare: scalar, avx2 and so on, see `gristmill devices` (default:
    /// the best there is)
    #[arg(long, env = "GRISTMILL_CPU", value_name = "SET")]
    pub cpu: Option<String>,

    /// How activations reach quantized weights
    #[arg(long, value_enum, default_value = "int8")]
    pub activations: ActivationsArg,

    /// How weights and activations are multiplied where activations are not int8: f16 runs on GPUs
    #[arg(long, value_enum, value_name = "TYPE", default_value = "f32")]
    pub compute: ComputeArg,

    /// Leave alone the kernels that are written for Metal, to compare
    #[arg(long)]
    pub no_passthrough: bool,

    /// Let the last digits of results depend on how a prompt is cut into steps: RWKV-7 then reads
    /// prompts in chunks instead of token by token
    #[arg(long)]
    pub chunked: bool,

    /// How quantized weights meet many tokens at once: with every scale of the file, or rounded once
    /// more to a scale for each 256, faster and less exact; fast includes --chunked
    #[arg(long, value_enum, default_value = "exact")]
    pub prefill: PrefillArg,

    /// Keep the weights as the processor packs them in a file in the cache directory, as large as the
    /// model's, and start from that the next time
    #[arg(long)]
    pub pack_cache: bool,

    /// Type of stored keys, also -ctk (default: f16; f32 with --activations f32)
    #[arg(long, value_enum, value_name = "TYPE")]
    pub cache_type_k: Option<KvArg>,

    /// Type of stored values, also -ctv (default: that of the keys)
    #[arg(long, value_enum, value_name = "TYPE")]
    pub cache_type_v: Option<KvArg>,
}

/// The number of threads, for verbs that take one.
#[derive(Args, Clone)]
pub struct Threads {
    /// Threads (default: every core)
    #[arg(short, long, value_name = "N", help_heading = "Device and precision",
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
}

impl RunsOn {
    /// The settings, on so many threads.
    pub fn settings(&self, threads: Option<u32>) -> Result<Settings> {
        let exact = self.activations == ActivationsArg::F32;
        let default = if exact { KvArg::F32 } else { KvArg::F16 };
        let k = self.cache_type_k.or(self.cache_type_v).unwrap_or(default).dtype();
        let v = self.cache_type_v.map_or(k, KvArg::dtype);
        let mut cpu = device::cpu_options(self.cpu.as_deref())?;
        cpu.threads = threads.map_or(cpu.threads, |n| n as usize);
        let activations = self.activations();
        let batch_invariant = !self.chunked;
        let prefill = self.prefill();
        let kv = KvTypes { k, v };
        let compute = self.compute.dtype();
        let passthrough = !self.no_passthrough;
        let settings = Settings { cpu, activations, compute, prefill, kv, ..Settings::default() };
        Ok(Settings { passthrough, batch_invariant, pack_cache: self.pack_cache, ..settings })
    }

    /// How quantized weights meet many tokens at once.
    pub fn prefill(&self) -> Prefill {
        match self.prefill {
            PrefillArg::Exact => Prefill::Exact,
            PrefillArg::Fast => Prefill::Fast,
        }
    }

    /// How activations reach quantized weights.
    pub fn activations(&self) -> Activations {
        match self.activations {
            ActivationsArg::F32 => Activations::F32,
            ActivationsArg::Int8 => Activations::Int8,
        }
    }

    /// Opens the device for a model, saying so on stderr unless `quiet`; with the settings, completed as
    /// they suit it.
    pub fn open(
        &self,
        settings: Settings,
        model: &Model,
        quiet: bool,
    ) -> Result<(Device, Settings)> {
        let (device, line) = device::open(self.device.one()?, self.gpu_layers, &settings, model)?;
        if !quiet {
            note(line);
        }
        let settings = device.suited(settings);
        Ok((device, settings))
    }
}

/// The memory plan, before anything is allocated; `rows` outputs are read in a step at most. Says
/// on stderr how the file is read, what memory is taken for, and what context follows.
pub fn plan(
    model: &Model,
    program: &Program,
    settings: &Settings,
    rows: u32,
    quiet: bool,
) -> Result<MemoryPlan> {
    let plan = model.memory_plan(program, settings, rows)?;
    if let Some(warning) = plan.warning() {
        note(warning);
    }
    if quiet {
        return Ok(plan);
    }
    let (mode, why) = model.gguf().load_choice();
    note(format_args!("load: {mode} ({why})"));
    note(plan);
    if plan.context > plan.model_context {
        note(format_args!(
            "context: {} tokens, and the model was made for {}: expect nonsense beyond",
            plan.context, plan.model_context
        ));
    }
    Ok(plan)
}

/// Loads the weights, with a bar on a terminal when it takes long; Ctrl-C ends it.
pub fn load(
    model: &Model,
    device: Device,
    program: Program,
    settings: &Settings,
    options: EngineOptions,
) -> Done<Engine<Device>> {
    let mut bar = loading_bar();
    let keep = settings.pack_cache;
    let engine = model.engine_on(device, program, options, keep, &mut |a, b| bar.at(a, b));
    bar.end();
    Ok(engine?)
}

/// A bar that shows itself when loading takes long.
pub struct LoadingBar {
    started: Instant,
    bar: Option<ProgressBar>,
}

/// A bar for loading weights.
pub fn loading_bar() -> LoadingBar {
    LoadingBar { started: Instant::now(), bar: None }
}

impl LoadingBar {
    /// So many bytes of so many are loaded.
    ///
    /// # Errors
    /// When Ctrl-C was pressed.
    pub fn at(&mut self, done: u64, total: u64) -> Result<()> {
        check_interrupt()?;
        if self.started.elapsed() > Duration::from_millis(300) {
            self.bar.get_or_insert_with(|| byte_bar("loading", total)).set_position(done);
        }
        Ok(())
    }

    /// Takes it away.
    pub fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A bar over bytes on stderr; nothing where that is no terminal.
pub fn byte_bar(what: &'static str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {bar:40} {bytes}/{total_bytes}");
    let target =
        if is_dumb() { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(total), target);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(what);
    bar
}

/// Token ids given as a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids(pub Vec<u32>);

/// Token ids as `1,2,3`, with spaces or brackets where somebody likes them.
///
/// # Errors
/// The piece that is no number, for clap.
pub fn parse_ids(text: &str) -> Result<Ids, String> {
    let plain = text.trim().trim_start_matches('[').trim_end_matches(']');
    let pieces = plain.split([',', ' ']).map(str::trim).filter(|p| !p.is_empty());
    let ids: Vec<u32> = pieces
        .map(|p| p.parse().map_err(|_| format!("'{p}' is not a token id")))
        .collect::<Result<_, String>>()?;
    if ids.is_empty() { Err("there is no token id in it".into()) } else { Ok(Ids(ids)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        assert_eq!(parse_ids("1,2,3"), Ok(Ids(vec![1, 2, 3])));
        assert_eq!(parse_ids("[1, 2]"), Ok(Ids(vec![1, 2])));
        assert!(parse_ids("1,x").is_err() && parse_ids("").is_err() && parse_ids("-1").is_err());
    }
}
