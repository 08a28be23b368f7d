//! A device of wgpu with the few things that are made on it: buffers, pipelines, and a thread that
//! waits for steps.
//!
//! wgpu's own answer to an error that nobody catches is a panic. Here everything that can fail runs in
//! error scopes, and what comes up outside of them is kept and returned by the next call.

use crate::adapter::{Adapter, Cooperative};
use crate::leftovers;
use crate::passthrough;
use crate::shader::{Access, Recipe, bindings, metal};
use gristmill_core::{Error, Result};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use wgpu::{
    BindGroupLayout, BindGroupLayoutEntry, BindingType, Buffer, BufferBindingType, BufferUsages,
    ComputePipeline, Device, ErrorFilter, Features, Limits, PollType, Queue, ShaderStages,
    SubmissionIndex,
};

/// Locks, also where somebody panicked while holding it: nothing here is left half done.
pub(crate) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A shader ready to run, with the layout of its bindings.
pub(crate) struct Pipeline {
    pub pipeline: ComputePipeline,
    pub layout: BindGroupLayout,
    pub bindings: Vec<(u32, Access)>,
}

/// A device.
pub(crate) struct Gpu {
    pub device: Device,
    pub queue: Queue,
    pub name: String,
    /// Whether a processor plays it.
    pub software: bool,
    pub limits: Limits,
    pub features: Features,
    /// The first error that came up outside of a scope, or the loss of the device.
    failed: Arc<Mutex<Option<String>>>,
    pipelines: Mutex<HashMap<String, Arc<Pipeline>>>,
    /// What is bound where a kernel looks at nothing, one for each number of a binding.
    pub none: Vec<Buffer>,
    /// The largest piece of a matrix, in bytes.
    pub largest_piece: u64,
    /// Whether a driver may have compiled since [`leftovers::give_back`].
    pub compiled: AtomicBool,
    /// Buffers made so far.
    pub buffers_made: AtomicU64,
    /// Whether kernels written for Metal are taken, where there are some.
    pub passthrough: bool,
    /// Units that multiply matrices, where they were asked for.
    pub units: Option<Cooperative>,
    /// Shapes of workgroups and tiles.
    pub shapes: crate::tune::Shapes,
    /// Submissions that somebody waits for, and the thread that does.
    waiter: Option<(Sender<SubmissionIndex>, JoinHandle<()>)>,
}

impl Drop for Gpu {
    /// The thread has the device too. Were it the last to let go of it, the driver's libraries could be
    /// unloaded while the process ends, under the feet of their own exit handlers.
    fn drop(&mut self) {
        if let Some((waiting, thread)) = self.waiter.take() {
            drop(waiting);
            // A callback may have held the last reference.
            if thread.thread().id() != std::thread::current().id() {
                // It does not panic; and if it did, all that follows is that it has ended.
                let _ = thread.join();
            }
        }
    }
}

impl Gpu {
    /// Opens a device on an adapter, with its real limits, or those of the WebGPU default; with its units
    /// that multiply matrices, if there are some and they are wanted.
    ///
    /// # Errors
    /// [`Error::Device`] with what the driver said.
    pub fn open(adapter: &Adapter, default_limits: bool, plain: bool, units: bool) -> Result<Gpu> {
        let name = adapter.name();
        let limits = if default_limits { Limits::default() } else { adapter.adapter.limits() };
        let units = adapter.cooperative().filter(|_| units && !plain);
        let features = adapter.features(plain, units.is_some());
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("gristmill"),
            required_features: features,
            required_limits: limits.clone(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            experimental_features: units
                .map_or_else(Default::default, |_| passthrough::experimental()),
            ..Default::default()
        };
        let opened = pollster::block_on(adapter.adapter.request_device(&descriptor));
        let (device, queue) =
            opened.map_err(|e| Error::Device(format!("{name}: the device does not open: {e}")))?;
        let failed = Arc::new(Mutex::new(None));
        let note = |failed: &Arc<Mutex<Option<String>>>, what: String| {
            lock(failed).get_or_insert(what);
        };
        let f = failed.clone();
        device.on_uncaptured_error(Arc::new(move |e| note(&f, e.to_string())));
        let f = failed.clone();
        // It is also called when the device is given back; nobody looks then.
        device.set_device_lost_callback(move |_, what| {
            note(&f, format!("the device was lost: {what}"));
        });
        let (waiting, submissions) = channel();
        let waited = device.clone();
        let wait = move || {
            for index in submissions {
                // What fails here shows in the callbacks of the buffers.
                let _ =
                    waited.poll(PollType::Wait { submission_index: Some(index), timeout: None });
            }
        };
        let thread = std::thread::Builder::new()
            .name("gristmill-wgpu".into())
            .spawn(wait)
            .map_err(|source| Error::Io { what: "starting a thread".into(), source })?;
        let mut gpu = Gpu {
            none: vec![],
            largest_piece: limits.max_storage_buffer_binding_size.min(limits.max_buffer_size),
            device,
            queue,
            name,
            software: adapter.is_software(),
            limits,
            features,
            failed,
            pipelines: Mutex::default(),
            compiled: AtomicBool::new(false),
            buffers_made: AtomicU64::new(0),
            passthrough: false,
            units,
            shapes: crate::tune::Shapes::default(),
            waiter: Some((waiting, thread)),
        };
        for _ in 0..8 {
            gpu.none.push(gpu.buffer("nothing", 256, BufferUsages::STORAGE)?);
        }
        Ok(gpu)
    }

    /// Whether nothing has failed so far.
    ///
    /// # Errors
    /// [`Error::Runtime`] with the first thing that did.
    pub fn check(&self) -> Result<()> {
        match &*lock(&self.failed) {
            None => Ok(()),
            Some(what) => Err(Error::Runtime(format!("{}: {what}", self.name))),
        }
    }

    /// Has callbacks of this submission called when it ends.
    pub fn watch(&self, index: SubmissionIndex) {
        // The thread ends only when this value is dropped.
        if let Some((waiting, _)) = &self.waiter {
            let _ = waiting.send(index);
        }
    }

    /// Called when a step has ended.
    pub fn stepped(&self) {
        if self.compiled.swap(false, Ordering::Relaxed) {
            leftovers::give_back();
        }
    }

    /// Waits for everything submitted.
    ///
    /// # Errors
    /// [`Error::Runtime`] when the device failed.
    pub fn wait(&self) -> Result<()> {
        let done = self.device.poll(PollType::wait_indefinitely());
        self.check()?;
        let failed = |e: wgpu::PollError| Error::Runtime(format!("{}: {e}", self.name));
        done.map(|_| ()).map_err(failed)
    }

    /// Runs something with its errors caught: out of memory, invalid, and internal ones.
    fn scoped<T>(&self, run: impl FnOnce() -> T) -> (T, Option<wgpu::Error>) {
        let filters = [ErrorFilter::Validation, ErrorFilter::OutOfMemory, ErrorFilter::Internal];
        let scopes = filters.map(|f| self.device.push_error_scope(f));
        let value = run();
        let mut first = None;
        for scope in scopes.into_iter().rev() {
            let error = pollster::block_on(scope.pop());
            first = first.or(error);
        }
        (value, first)
    }

    /// A buffer of at least this many bytes, zeroed.
    ///
    /// # Errors
    /// [`Error::Memory`] naming `what` when it does not fit.
    pub fn buffer(&self, what: &str, bytes: u64, usage: BufferUsages) -> Result<Buffer> {
        let most = self.limits.max_buffer_size.min(self.limits.max_storage_buffer_binding_size);
        self.make_buffer(what, bytes, usage, most, false)
    }

    /// The same, of which a kernel sees only a part at a time.
    ///
    /// # Errors
    /// As [`Gpu::buffer`].
    pub fn large_buffer(&self, what: &str, bytes: u64, usage: BufferUsages) -> Result<Buffer> {
        self.make_buffer(what, bytes, usage, self.limits.max_buffer_size, false)
    }

    /// The same, mapped, to be filled at once and then unmapped.
    ///
    /// # Errors
    /// As [`Gpu::buffer`].
    pub fn mapped_buffer(&self, what: &str, bytes: u64, usage: BufferUsages) -> Result<Buffer> {
        let most = self.limits.max_buffer_size.min(self.limits.max_storage_buffer_binding_size);
        self.make_buffer(what, bytes, usage, most, true)
    }

    fn make_buffer(
        &self,
        what: &str,
        bytes: u64,
        usage: BufferUsages,
        most: u64,
        mapped_at_creation: bool,
    ) -> Result<Buffer> {
        let size = bytes.max(16).next_multiple_of(16);
        if size > most {
            return Err(Error::Memory(format!(
                "{what} needs {} in one piece, and {} allows {}; use a smaller context or fewer \
                 sequences, or --device cpu",
                mib(size),
                self.name,
                mib(most)
            )));
        }
        let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation };
        let (buffer, error) = self.scoped(|| self.device.create_buffer(&descriptor));
        if let Some(e) = error {
            return Err(Error::Memory(format!(
                "{what} needs {} on {}, which has no room for it ({e}); use a smaller model or \
                 context, or --device cpu",
                mib(size),
                self.name
            )));
        }
        self.check()?;
        self.buffers_made.fetch_add(1, Ordering::Relaxed);
        Ok(buffer)
    }

    /// A storage buffer with these contents.
    ///
    /// # Errors
    /// As [`Gpu::buffer`].
    pub fn filled(&self, what: &str, bytes: &[u8], usage: BufferUsages) -> Result<Buffer> {
        let buffer = self.mapped_buffer(what, bytes.len() as u64, usage)?;
        if !bytes.is_empty() {
            let end = bytes.len() as u64;
            let view = buffer.get_mapped_range_mut(0..end.next_multiple_of(4));
            let mut view = view.map_err(|e| Error::Runtime(format!("{what}: {e}")))?;
            view.slice(..bytes.len()).copy_from_slice(bytes);
        }
        buffer.unmap();
        Ok(buffer)
    }

    /// The pipeline of a recipe, compiled once.
    ///
    /// # Errors
    /// [`Error::Device`] with what the compiler said.
    pub fn pipeline(&self, recipe: &Recipe) -> Result<Arc<Pipeline>> {
        let text = recipe.text()?;
        if let Some(known) = lock(&self.pipelines).get(&text) {
            return Ok(known.clone());
        }
        let bindings = bindings(&text);
        let written = if self.passthrough { metal::text(recipe)? } else { None };
        let (made, error) =
            self.scoped(|| self.compile(recipe.kernel, &text, &bindings, written.as_ref()));
        if let Some(e) = error {
            let what = format!("{}: shader `{}` does not compile: {e}", self.name, recipe.kernel);
            return Err(Error::Device(what));
        }
        self.check()?;
        let (pipeline, layout) = made;
        let made = Arc::new(Pipeline { pipeline, layout, bindings });
        lock(&self.pipelines).insert(text, made.clone());
        Ok(made)
    }

    fn compile(
        &self,
        name: &str,
        text: &str,
        bindings: &[(u32, Access)],
        written: Option<&(String, u32)>,
    ) -> (ComputePipeline, BindGroupLayout) {
        let entry = |&(binding, access): &(u32, Access)| BindGroupLayoutEntry {
            binding,
            visibility: ShaderStages::COMPUTE,
            ty: BindingType::Buffer {
                ty: match access {
                    Access::Uniform => BufferBindingType::Uniform,
                    Access::Read => BufferBindingType::Storage { read_only: true },
                    Access::Write => BufferBindingType::Storage { read_only: false },
                },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        };
        let entries: Vec<_> = bindings.iter().map(entry).collect();
        let layout = self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(name),
            entries: &entries,
        });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(name),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let of_wgsl = || {
            self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(name),
                source: wgpu::ShaderSource::Wgsl(text.into()),
            })
        };
        let (module, entry) = match written {
            Some(text) => (passthrough::module(&self.device, name, text), metal::ENTRY),
            None => (of_wgsl(), "main"),
        };
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                // Every kernel writes its workgroup's memory before it reads it.
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        });
        (pipeline, layout)
    }
}

/// Bytes for people.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu() -> Option<Gpu> {
        let found = crate::adapters().into_iter().find(|a| a.lacks().is_none());
        let Some(adapter) = found else {
            println!("SKIPPED: there is no adapter of Vulkan, Metal or DX12 here");
            return None;
        };
        Some(Gpu::open(&adapter, true, true, false).expect("the device opens"))
    }

    /// A shader that does not compile is an error with the compiler's words, and others still compile.
    #[test]
    fn shaders_that_fail() {
        let Some(gpu) = gpu() else { return };
        let wrong = Recipe::new("norm").define("SOURCE", "nonsense");
        let said = gpu.pipeline(&wrong).map(|_| ()).expect_err("it cannot compile");
        assert_eq!(said.exit_code(), 4, "{said}");
        assert!(said.to_string().contains("norm"), "{said}");
        gpu.pipeline(&Recipe::new("moves")).map(|_| ()).expect("this one is fine");
        gpu.check().expect("nothing else has failed");
    }

    /// After the device is gone every call is an error, and none a panic.
    #[test]
    fn a_device_that_is_lost() {
        let Some(gpu) = gpu() else { return };
        let before = gpu.buffer("a buffer", 64, BufferUsages::STORAGE).expect("it fits");
        gpu.device.destroy();
        drop(before);
        // Losing it is told when it is next waited for, as each step is.
        let said = gpu.wait().expect_err("a lost device works on");
        assert!(said.to_string().contains("lost"), "{said}");
        gpu.buffer("a buffer", 64, BufferUsages::STORAGE).map(|_| ()).expect_err("it has none");
        gpu.pipeline(&Recipe::new("moves")).map(|_| ()).expect_err("it compiles nothing");
    }
}
