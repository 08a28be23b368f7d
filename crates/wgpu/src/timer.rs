//! How long the operations of a step take, by timestamps that the device writes: for looking at a step,
//! not for running one. Every dispatch then has a pass of its own, and a step waits for the one before.

use crate::gpu::Gpu;
use gristmill_core::{Error, Result};
use gristmill_ir::Times;
use wgpu::{
    Buffer, BufferUsages, CommandEncoder, ComputePass, ComputePassDescriptor,
    ComputePassTimestampWrites, Features, MapMode, QuerySet, QuerySetDescriptor, QueryType,
};

/// Dispatches of a step that are timed: two timestamps each, and a set holds so many.
const MOST: u32 = wgpu::QUERY_SET_MAX_QUERIES / 2;
/// In place of an operation: sampling.
pub(crate) const SAMPLING: u32 = u32::MAX;

/// The timestamps of the latest step, and the times of those before that nobody has asked for.
pub(crate) struct Timer {
    set: QuerySet,
    resolved: Buffer,
    read: Buffer,
    step: u64,
    /// Operations of its program.
    nodes: usize,
    /// The operation of each dispatch, in order.
    calls: Vec<u32>,
    before: Vec<(u64, Times)>,
}

impl Timer {
    /// # Errors
    /// [`Error::Device`] where the device writes no timestamps.
    pub fn new(gpu: &Gpu) -> Result<Timer> {
        if !gpu.features.contains(Features::TIMESTAMP_QUERY) {
            return Err(Error::Device(format!(
                "{} writes no timestamps, so operations cannot be timed there",
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
            step: 0,
            nodes: 0,
            calls: vec![],
            before: vec![],
        })
    }

    /// Begins a step of a program of so many operations; keeps the times of the one before.
    ///
    /// # Errors
    /// [`Error::Runtime`] when the device failed.
    pub fn begin(&mut self, gpu: &Gpu, step: u64, nodes: usize) -> Result<()> {
        if !self.calls.is_empty() {
            let times = self.take(gpu)?;
            self.before.push((self.step, times));
        }
        (self.step, self.nodes) = (step, nodes);
        Ok(())
    }

    /// A pass that is timed as a dispatch of this operation, as long as there is room.
    pub fn pass<'e>(&mut self, encoder: &'e mut CommandEncoder, node: u32) -> ComputePass<'e> {
        let i = self.calls.len() as u32;
        if i < MOST {
            self.calls.push(node);
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

    /// The times of a step that was submitted; nothing for one that was not timed.
    ///
    /// # Errors
    /// [`Error::Runtime`] when the device failed.
    pub fn times(&mut self, gpu: &Gpu, step: u64) -> Result<Times> {
        if let Some(at) = self.before.iter().position(|(s, _)| *s == step) {
            return Ok(self.before.swap_remove(at).1);
        }
        if step == self.step { self.take(gpu) } else { Ok(Times::default()) }
    }

    /// The times of the latest step, once nothing runs any more.
    fn take(&mut self, gpu: &Gpu) -> Result<Times> {
        let bytes = 16 * self.calls.len() as u64;
        if bytes == 0 {
            return Ok(Times::default());
        }
        self.read.map_async(MapMode::Read, 0..bytes, |_| {});
        gpu.wait()?;
        let view = self.read.get_mapped_range(0..bytes);
        let view = view.map_err(|e| Error::Runtime(format!("timestamps: {e}")))?;
        let stamps: &[u64] = bytemuck::cast_slice(&view);
        let unit = f64::from(gpu.queue.get_timestamp_period());
        let since = |stamp: u64| (stamp.saturating_sub(stamps[0]) as f64 * unit) as u64;
        let mut times = Times { ends: vec![0; self.nodes], sampling: 0 };
        for (&node, [from, to]) in self.calls.iter().zip(stamps.as_chunks::<2>().0) {
            match times.ends.get_mut(node as usize) {
                Some(end) => *end = (*end).max(since(*to)),
                None => times.sampling += since(*to).saturating_sub(since(*from)),
            }
        }
        // One that dispatches nothing ends when the one before does.
        let mut last = 0;
        for end in &mut times.ends {
            last = last.max(*end);
            *end = last;
        }
        drop(view);
        self.read.unmap();
        self.calls.clear();
        Ok(times)
    }
}
