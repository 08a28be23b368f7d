//! How long each kernel of a step takes, by timestamps that the device writes: for looking at a step,
//! not for running one. Every dispatch then has a pass of its own.

use crate::gpu::{Gpu, lock};
use gristmill_core::{Error, Result};
use std::sync::Mutex;
use wgpu::{
    Buffer, BufferUsages, CommandEncoder, ComputePass, ComputePassDescriptor,
    ComputePassTimestampWrites, Features, MapMode, QuerySet, QuerySetDescriptor, QueryType,
};

/// Dispatches of a step that are timed: two timestamps each, and a set holds so many.
const MOST: u32 = wgpu::QUERY_SET_MAX_QUERIES / 2;

/// What a kernel took in one step, all its dispatches together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelTime {
    /// The kernel, with the format of its weights.
    pub kernel: String,
    /// Dispatches.
    pub calls: u32,
    /// From their beginnings to their ends, in nanoseconds.
    pub nanos: u64,
    /// Bytes of weights that they read.
    pub bytes: u64,
}

/// The timestamps of the latest step.
pub(crate) struct Timer {
    set: QuerySet,
    resolved: Buffer,
    read: Buffer,
    /// Kernels of the latest step, in order, with the bytes of weights.
    calls: Vec<(String, u64)>,
}

impl Timer {
    /// # Errors
    /// [`Error::Device`] where the device writes no timestamps.
    pub fn new(gpu: &Gpu) -> Result<Timer> {
        if !gpu.features.contains(Features::TIMESTAMP_QUERY) {
            return Err(Error::Device(format!(
                "{} writes no timestamps, so kernels cannot be timed there",
                gpu.name
            )));
        }
        let set = gpu.device.create_query_set(&QuerySetDescriptor {
            label: None,
            ty: QueryType::Timestamp,
            count: 2 * MOST,
        });
        let bytes = 16 * u64::from(MOST);
        let source = BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC;
        let read = BufferUsages::COPY_DST | BufferUsages::MAP_READ;
        Ok(Timer {
            set,
            resolved: gpu.buffer("timestamps", bytes, source)?,
            read: gpu.buffer("timestamps", bytes, read)?,
            calls: vec![],
        })
    }

    /// Forgets the step before.
    pub fn begin(&mut self) {
        self.calls.clear();
    }

    /// A pass that is timed as a dispatch of this kernel, as long as there is room.
    pub fn pass<'e>(
        &mut self,
        encoder: &'e mut CommandEncoder,
        kernel: &str,
        bytes: u64,
    ) -> ComputePass<'e> {
        let i = self.calls.len() as u32;
        if i < MOST {
            self.calls.push((kernel.to_owned(), bytes));
        }
        let timestamp_writes = (i < MOST).then_some(ComputePassTimestampWrites {
            query_set: &self.set,
            beginning_of_pass_write_index: Some(2 * i),
            end_of_pass_write_index: Some(2 * i + 1),
        });
        encoder.begin_compute_pass(&ComputePassDescriptor { label: None, timestamp_writes })
    }

    /// Brings the timestamps of the passes so far to where the host reads them.
    pub fn end(&self, encoder: &mut CommandEncoder) {
        let n = self.calls.len() as u32;
        if n > 0 {
            encoder.resolve_query_set(&self.set, 0..2 * n, &self.resolved, 0);
            encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.read, 0, 16 * u64::from(n));
        }
    }

    /// What the latest step took, by kernel, once nothing runs any more.
    ///
    /// # Errors
    /// [`Error::Runtime`] when the device failed.
    pub fn take(&self, gpu: &Gpu) -> Result<Vec<KernelTime>> {
        let bytes = 16 * self.calls.len() as u64;
        let mut all: Vec<KernelTime> = vec![];
        if bytes == 0 {
            return Ok(all);
        }
        self.read.map_async(MapMode::Read, 0..bytes, |_| {});
        gpu.wait()?;
        let view = self.read.get_mapped_range(0..bytes);
        let view = view.map_err(|e| Error::Runtime(format!("timestamps: {e}")))?;
        let times: &[u64] = bytemuck::cast_slice(&view);
        let unit = f64::from(gpu.queue.get_timestamp_period());
        for ((kernel, bytes), [from, to]) in self.calls.iter().zip(times.as_chunks::<2>().0) {
            let nanos = (to.saturating_sub(*from) as f64 * unit) as u64;
            match all.iter_mut().find(|k| k.kernel == *kernel) {
                Some(k) => {
                    k.calls += 1;
                    k.nanos += nanos;
                    k.bytes += bytes;
                }
                None => {
                    let kernel = kernel.clone();
                    all.push(KernelTime { kernel, calls: 1, nanos, bytes: *bytes });
                }
            }
        }
        drop(view);
        self.read.unmap();
        all.sort_by_key(|k| std::cmp::Reverse(k.nanos));
        Ok(all)
    }
}

/// A device's timer, where it is timed.
pub(crate) type Timed = Mutex<Option<Timer>>;

impl Gpu {
    /// Times the steps that are launched from now on, or no longer does.
    ///
    /// # Errors
    /// Those of [`Timer::new`].
    pub fn time_kernels(&self, on: bool) -> Result<()> {
        *lock(&self.timed) = if on { Some(Timer::new(self)?) } else { None };
        Ok(())
    }

    /// See [`Timer::take`].
    ///
    /// # Errors
    /// As there.
    pub fn kernel_times(&self) -> Result<Vec<KernelTime>> {
        self.wait()?;
        lock(&self.timed).as_ref().map_or(Ok(vec![]), |t| t.take(self))
    }
}
