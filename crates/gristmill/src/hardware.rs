//! [`Device`]: any of the backends of this build behind one type, so that everything above a device is
//! compiled once. A call is told apart once, an operation never.

use crate::settings::Settings;
use gristmill_core::{Error, HostTensor, Result};
use gristmill_cpu::Cpu;
#[cfg(feature = "wgpu")]
use gristmill_engine::Split;
use gristmill_ir::{
    Backend, Batch, Capabilities, Input, Layout, Ledger, Move, Options, Output, Program, Results,
    SampleBatch, Size, StateKind, Step, TensorDecl, Times,
};
#[cfg(feature = "wgpu")]
use gristmill_wgpu::Wgpu;
use std::task::Waker;

/// A device of this machine.
#[allow(clippy::large_enum_variant)] // there are one or two in a program
pub enum Device {
    /// The processor.
    Cpu(Cpu),
    /// A GPU by Vulkan, Metal or DX12.
    #[cfg(feature = "wgpu")]
    Wgpu(Wgpu),
    /// The processor for the first layers, such a GPU for the others.
    #[cfg(feature = "wgpu")]
    Split(Split<Cpu, Wgpu>),
}

impl From<Cpu> for Device {
    fn from(cpu: Cpu) -> Device {
        Device::Cpu(cpu)
    }
}

#[cfg(feature = "wgpu")]
impl From<Wgpu> for Device {
    fn from(wgpu: Wgpu) -> Device {
        Device::Wgpu(wgpu)
    }
}

impl Device {
    /// What `--device` calls its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Device::Cpu(_) => "cpu",
            #[cfg(feature = "wgpu")]
            Device::Wgpu(_) => "wgpu",
            #[cfg(feature = "wgpu")]
            Device::Split(_) => "cpu+wgpu",
        }
    }

    /// Settings as they suit it where nothing else was asked for: a GPU that a processor plays reads a prompt
    /// 64 tokens at a time. Its tiles have 32, so that more at once save it nothing, and the workspace
    /// is memory of the host.
    pub fn suited(&self, settings: Settings) -> Settings {
        #[cfg(feature = "wgpu")]
        if let Device::Wgpu(w) = self
            && w.is_software()
            && settings.batch == 0
        {
            return Settings { batch: 64, ..settings };
        }
        settings
    }
}

/// Declares what belongs to a device, for each kind of it.
macro_rules! of_each {
    ($(#[$doc:meta])* $name:ident: $part:ident) => {
        $(#[$doc])*
        #[allow(missing_docs, clippy::large_enum_variant)] // the variants are the devices' kinds
        pub enum $name {
            Cpu(<Cpu as Backend>::$part),
            #[cfg(feature = "wgpu")]
            Wgpu(<Wgpu as Backend>::$part),
            #[cfg(feature = "wgpu")]
            Split(<Split<Cpu, Wgpu> as Backend>::$part),
        }
    };
}
of_each! {
    /// Weights of a [`Device`].
    Weights: Weights
}
of_each! {
    /// Context of a [`Device`].
    Context: Context
}
of_each! {
    /// Plan of a [`Device`].
    Plan: Plan
}

impl Clone for Weights {
    fn clone(&self) -> Self {
        match self {
            Weights::Cpu(w) => Weights::Cpu(w.clone()),
            #[cfg(feature = "wgpu")]
            Weights::Wgpu(w) => Weights::Wgpu(w.clone()),
            #[cfg(feature = "wgpu")]
            Weights::Split(w) => Weights::Split(w.clone()),
        }
    }
}

/// What a device was given is another's: a mistake of the caller.
fn mixed<T>() -> Result<T> {
    Err(Error::Runtime("weights, context or plan are of another device".into()))
}

/// The one match of a call that names a context.
macro_rules! in_context {
    ($device:expr, $c:expr, |$d:ident, $x:ident| $call:expr, $other:expr) => {
        match ($device, $c) {
            (Device::Cpu($d), Context::Cpu($x)) => $call,
            #[cfg(feature = "wgpu")]
            (Device::Wgpu($d), Context::Wgpu($x)) => $call,
            #[cfg(feature = "wgpu")]
            (Device::Split($d), Context::Split($x)) => $call,
            #[allow(unreachable_patterns)] // where there is one kind of device
            _ => $other,
        }
    };
}

impl Backend for Device {
    type Weights = Weights;
    type Context = Context;
    type Plan = Plan;

    fn capabilities(&self) -> Capabilities {
        match self {
            Device::Cpu(d) => d.capabilities(),
            #[cfg(feature = "wgpu")]
            Device::Wgpu(d) => d.capabilities(),
            #[cfg(feature = "wgpu")]
            Device::Split(d) => d.capabilities(),
        }
    }

    fn load(
        &self,
        uses: &[&Program],
        tensor: &mut dyn FnMut(&TensorDecl) -> Result<HostTensor>,
        options: &Options,
    ) -> Result<Weights> {
        match self {
            Device::Cpu(d) => d.load(uses, tensor, options).map(Weights::Cpu),
            #[cfg(feature = "wgpu")]
            Device::Wgpu(d) => d.load(uses, tensor, options).map(Weights::Wgpu),
            #[cfg(feature = "wgpu")]
            Device::Split(d) => d.load(uses, tensor, options).map(Weights::Split),
        }
    }

    fn create(&self, states: &[StateKind], layout: &Layout) -> Result<Context> {
        match self {
            Device::Cpu(d) => d.create(states, layout).map(Context::Cpu),
            #[cfg(feature = "wgpu")]
            Device::Wgpu(d) => d.create(states, layout).map(Context::Wgpu),
            #[cfg(feature = "wgpu")]
            Device::Split(d) => d.create(states, layout).map(Context::Split),
        }
    }

    fn compile(
        &self,
        program: &Program,
        weights: &Weights,
        context: &mut Context,
        size: Size,
        options: &Options,
    ) -> Result<Plan> {
        match (self, weights, context) {
            (Device::Cpu(d), Weights::Cpu(w), Context::Cpu(c)) => {
                d.compile(program, w, c, size, options).map(Plan::Cpu)
            }
            #[cfg(feature = "wgpu")]
            (Device::Wgpu(d), Weights::Wgpu(w), Context::Wgpu(c)) => {
                d.compile(program, w, c, size, options).map(Plan::Wgpu)
            }
            #[cfg(feature = "wgpu")]
            (Device::Split(d), Weights::Split(w), Context::Split(c)) => {
                d.compile(program, w, c, size, options).map(Plan::Split)
            }
            #[allow(unreachable_patterns)] // where there is one kind of device
            _ => mixed(),
        }
    }

    fn launch(&self, p: &Plan, c: &mut Context, b: &Batch<'_>) -> Result<Step> {
        match (self, p, c) {
            (Device::Cpu(d), Plan::Cpu(p), Context::Cpu(c)) => d.launch(p, c, b),
            #[cfg(feature = "wgpu")]
            (Device::Wgpu(d), Plan::Wgpu(p), Context::Wgpu(c)) => d.launch(p, c, b),
            #[cfg(feature = "wgpu")]
            (Device::Split(d), Plan::Split(p), Context::Split(c)) => d.launch(p, c, b),
            #[allow(unreachable_patterns)] // where there is one kind of device
            _ => mixed(),
        }
    }

    fn sample(&self, c: &mut Context, s: Step, b: &SampleBatch<'_>) -> Result<()> {
        in_context!(self, c, |d, c| d.sample(c, s, b), mixed())
    }

    fn finish(&self, c: &mut Context, s: Step, out: &mut Results, wake: &Waker) -> Result<bool> {
        in_context!(self, c, |d, c| d.finish(c, s, out, wake), mixed())
    }

    fn read(
        &self,
        c: &mut Context,
        s: Step,
        output: Output,
        out: &mut Vec<f32>,
        wake: &Waker,
    ) -> Result<bool> {
        in_context!(self, c, |d, c| d.read(c, s, output, out, wake), mixed())
    }

    fn write(&self, c: &mut Context, input: Input, rows: &[f32]) -> Result<()> {
        in_context!(self, c, |d, c| d.write(c, input, rows), mixed())
    }

    fn save(&self, c: &mut Context, moves: &[Move]) -> Result<Step> {
        in_context!(self, c, |d, c| d.save(c, moves), mixed())
    }

    fn restore(&self, c: &mut Context, moves: &[Move]) -> Result<Step> {
        in_context!(self, c, |d, c| d.restore(c, moves), mixed())
    }

    fn host_page<'c>(&self, c: &'c mut Context, group: u8, page: u32) -> &'c mut [u8] {
        in_context!(self, c, |d, c| d.host_page(c, group, page), &mut [])
    }

    fn host_slot<'c>(&self, c: &'c mut Context) -> &'c mut [u8] {
        in_context!(self, c, |d, c| d.host_slot(c), &mut [])
    }

    fn profile(&self, c: &mut Context, on: bool) -> Result<()> {
        in_context!(self, c, |d, c| d.profile(c, on), mixed())
    }

    fn times(&self, c: &mut Context, s: Step) -> Times {
        in_context!(self, c, |d, c| d.times(c, s), Times::default())
    }

    fn memory(&self) -> (u64, u64) {
        match self {
            Device::Cpu(d) => d.memory(),
            #[cfg(feature = "wgpu")]
            Device::Wgpu(d) => d.memory(),
            #[cfg(feature = "wgpu")]
            Device::Split(d) => d.memory(),
        }
    }

    fn packed_form(&self) -> Option<String> {
        match self {
            Device::Cpu(d) => d.packed_form(),
            #[cfg(feature = "wgpu")]
            Device::Wgpu(_) | Device::Split(_) => None,
        }
    }

    fn packed<'w>(&self, weights: &'w Weights, name: &str) -> Option<&'w [u8]> {
        match (self, weights) {
            (Device::Cpu(d), Weights::Cpu(w)) => d.packed(w, name),
            #[allow(unreachable_patterns)] // where there is one kind of device
            _ => None,
        }
    }

    fn ledger(&self, c: &Context) -> Ledger {
        in_context!(self, c, |d, c| d.ledger(c), Ledger::default())
    }
}
