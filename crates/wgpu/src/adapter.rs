//! Which adapters there are, what they offer, and which one is taken.

use gristmill_core::{Error, Result};
use wgpu::{
    Backends, CooperativeScalarType, DeviceType, Features, Instance, InstanceDescriptor, Limits,
};

/// An adapter of this machine.
pub struct Adapter {
    pub(crate) adapter: wgpu::Adapter,
    info: wgpu::AdapterInfo,
    /// Its number, as `wgpu:i` means it.
    pub place: usize,
}

/// What [`Adapter`] tells about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its name.
    pub name: String,
    /// Vulkan, Metal or DX12.
    pub api: String,
    /// The driver and its version.
    pub driver: String,
    /// Discrete, integrated, virtual, software or other.
    pub kind: &'static str,
    /// Features that kernels may use, by their WebGPU names.
    pub features: Vec<&'static str>,
    /// The largest piece of a buffer that a kernel can see, in bytes.
    pub largest_binding: u64,
    /// The largest buffer, in bytes.
    pub largest_buffer: u64,
    /// Threads of a workgroup.
    pub workgroup: u32,
    /// Memory of a workgroup, in bytes.
    pub workgroup_memory: u32,
    /// Storage bindings of a kernel.
    pub bindings: u32,
}

/// Units that multiply matrices of f16 and add the products up in f32, as kernels use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cooperative {
    /// Rows and columns of each matrix.
    pub side: u32,
    /// Threads of a workgroup that is sure to have four subgroups.
    pub threads: u32,
    /// As many as it may have, at most eight.
    pub subgroups: u32,
}

/// Features that kernels may use.
const FEATURES: [(Features, &str); 3] = [
    (Features::SHADER_F16, "shader-f16"),
    (Features::SUBGROUP, "subgroups"),
    (Features::TIMESTAMP_QUERY, "timestamp-query"),
];

/// All adapters: discrete GPUs first, software last. Their places are the numbers that `wgpu:i` means.
pub fn adapters() -> Vec<Adapter> {
    let mut descriptor = InstanceDescriptor::new_without_display_handle();
    descriptor.backends = Backends::PRIMARY;
    let descriptor = descriptor.with_env();
    let instance = Instance::new(descriptor);
    let found = pollster::block_on(instance.enumerate_adapters(Backends::all()));
    let with_info = |adapter: wgpu::Adapter| {
        let info = adapter.get_info();
        Adapter { adapter, info, place: 0 }
    };
    let mut all: Vec<Adapter> = found.into_iter().map(with_info).collect();
    all.sort_by_key(|a| match a.info.device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    });
    all.iter_mut().enumerate().for_each(|(i, a)| a.place = i);
    all
}

impl Adapter {
    /// Whether a processor plays the GPU. Such an adapter is never taken unless it is named.
    pub fn is_software(&self) -> bool {
        self.info.device_type == DeviceType::Cpu
    }

    /// One line for people.
    pub fn name(&self) -> String {
        let f = self.facts();
        format!("{}, {} {}", f.name, f.api, f.kind)
    }

    /// What it offers.
    pub fn facts(&self) -> Facts {
        let (limits, has) = (self.adapter.limits(), self.adapter.features());
        let known = FEATURES.iter().filter(|f| has.contains(f.0)).map(|f| f.1);
        let units = self.cooperative().map(|_| "cooperative-matrix");
        let words = [&self.info.driver, &self.info.driver_info];
        let words: Vec<&str> = words.iter().map(|w| w.trim()).filter(|w| !w.is_empty()).collect();
        Facts {
            name: self.info.name.clone(),
            api: match self.info.backend {
                wgpu::Backend::Vulkan => "Vulkan".into(),
                wgpu::Backend::Metal => "Metal".into(),
                wgpu::Backend::Dx12 => "DX12".into(),
                other => other.to_string(),
            },
            driver: words.join(" "),
            kind: match self.info.device_type {
                DeviceType::DiscreteGpu => "discrete",
                DeviceType::IntegratedGpu => "integrated",
                DeviceType::VirtualGpu => "virtual",
                DeviceType::Cpu => "software",
                DeviceType::Other => "other",
            },
            features: known.chain(units).collect(),
            largest_binding: limits.max_storage_buffer_binding_size,
            largest_buffer: limits.max_buffer_size,
            workgroup: limits.max_compute_invocations_per_workgroup,
            workgroup_memory: limits.max_compute_workgroup_storage_size,
            bindings: limits.max_storage_buffers_per_shader_stage,
        }
    }

    /// Why programs cannot run here, if they cannot.
    pub fn lacks(&self) -> Option<String> {
        let needed = Limits::default();
        let has = self.adapter.limits();
        let compute = wgpu::DownlevelFlags::COMPUTE_SHADERS;
        if !self.adapter.get_downlevel_capabilities().flags.contains(compute) {
            return Some("it has no compute shaders".into());
        }
        let rows = [
            (
                "storage buffers of a kernel",
                has.max_storage_buffers_per_shader_stage,
                needed.max_storage_buffers_per_shader_stage,
            ),
            (
                "threads of a workgroup",
                has.max_compute_invocations_per_workgroup,
                needed.max_compute_invocations_per_workgroup,
            ),
            (
                "bytes of workgroup memory",
                has.max_compute_workgroup_storage_size,
                needed.max_compute_workgroup_storage_size,
            ),
        ];
        let short = rows.into_iter().find(|r| r.1 < r.2);
        short.map(|(what, has, needed)| format!("it offers {has} {what}, {needed} are needed"))
    }

    /// Whether the host and it share one memory: then weights are written where kernels read them.
    fn shares_memory(&self) -> bool {
        matches!(self.info.device_type, DeviceType::IntegratedGpu | DeviceType::Cpu)
    }

    /// Whether kernels written for Metal can be given to it.
    pub(crate) fn takes_metal(&self) -> bool {
        self.info.backend == wgpu::Backend::Metal
            && self.adapter.features().contains(Features::PASSTHROUGH_SHADERS)
    }

    /// Its units that multiply matrices, where it has some of a shape that kernels can use.
    pub(crate) fn cooperative(&self) -> Option<Cooperative> {
        let needed =
            Features::EXPERIMENTAL_COOPERATIVE_MATRIX | Features::SHADER_F16 | Features::SUBGROUP;
        if !self.adapter.features().contains(needed) {
            return None;
        }
        let shapes = self.adapter.cooperative_matrix_properties();
        let has = |side: &u32| {
            shapes.iter().any(|p| {
                [p.m_size, p.n_size, p.k_size] == [*side; 3]
                    && p.ab_type == CooperativeScalarType::F16
                    && p.cr_type == CooperativeScalarType::F32
            })
        };
        let side = [16, 8].into_iter().find(has)?;
        // Of Metal wgpu knows no sizes; they are 32 on Apple's GPUs, and were 64 on AMD's.
        let [least, most] = match self.info.backend {
            wgpu::Backend::Metal => [32, 64],
            _ => [self.info.subgroup_min_size, self.info.subgroup_max_size],
        };
        let threads = 4 * most;
        let subgroups = threads / least.max(1);
        let fits = (64..=256).contains(&threads) && subgroups <= 8;
        fits.then_some(Cooperative { side, threads, subgroups })
    }

    /// The features that are asked for, of those it has; experimental ones only where `cooperative`
    /// asks for them.
    pub(crate) fn features(&self, plain: bool, cooperative: bool) -> Features {
        let none = Features::empty();
        if plain {
            return none;
        }
        let written = if self.takes_metal() { Features::PASSTHROUGH_SHADERS } else { none };
        let mapped = if self.shares_memory() { Features::MAPPABLE_PRIMARY_BUFFERS } else { none };
        let units = match cooperative {
            true => Features::EXPERIMENTAL_COOPERATIVE_MATRIX,
            false => none,
        };
        let all = FEATURES.iter().fold(mapped | written | units, |all, f| all | f.0);
        all & self.adapter.features()
    }
}

/// The adapter of this number, or the best one that is no software.
///
/// # Errors
/// [`Error::Device`] when there is none, saying what there is.
pub fn choose(index: Option<u32>) -> Result<Adapter> {
    let mut all = adapters();
    let names = |all: &[Adapter]| {
        let lines = all.iter().enumerate().map(|(i, a)| format!("wgpu:{i} ({})", a.name()));
        lines.collect::<Vec<_>>().join(", ")
    };
    let place = match index {
        Some(i) if (i as usize) < all.len() => i as usize,
        Some(i) if all.is_empty() => {
            return Err(Error::Device(format!(
                "there is no wgpu:{i}: no Vulkan, Metal or DX12 driver offers an adapter; use \
                 --device cpu"
            )));
        }
        Some(i) => {
            return Err(Error::Device(format!("there is no wgpu:{i}; there is {}", names(&all))));
        }
        None => match all.iter().position(|a| !a.is_software() && a.lacks().is_none()) {
            Some(i) => i,
            None if all.is_empty() => {
                return Err(Error::Device(
                    "no Vulkan, Metal or DX12 driver offers an adapter; use --device cpu".into(),
                ));
            }
            None => {
                return Err(Error::Device(format!(
                    "no adapter is a GPU that suits; there is {}; name one to use it all the same",
                    names(&all)
                )));
            }
        },
    };
    let adapter = all.swap_remove(place);
    match adapter.lacks() {
        Some(what) => Err(Error::Device(format!("wgpu:{place} ({}): {what}", adapter.name()))),
        None => Ok(adapter),
    }
}
