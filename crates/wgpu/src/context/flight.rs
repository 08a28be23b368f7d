//! What crosses the bus for one step: a buffer to write from and one to read into, used in turns, so that
//! no step makes a buffer.

use crate::context::{Context, Pending};
use crate::gpu::{Gpu, lock};
use gristmill_core::{Error, Result};
use gristmill_ir::{Output, Results};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use wgpu::{Buffer, BufferUsages, CommandEncoder, MapMode, PollType};

/// Whether a buffer has been mapped.
#[derive(Default)]
pub(crate) struct Flag {
    state: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

const IDLE: u8 = 0;
const ON_ITS_WAY: u8 = 1;
const MAPPED: u8 = 2;
const FAILED: u8 = 3;

impl Flag {
    fn mapped() -> Arc<Flag> {
        Arc::new(Flag { state: AtomicU8::new(MAPPED), waker: Mutex::default() })
    }

    pub fn is_mapped(&self) -> bool {
        self.state.load(Ordering::Acquire) == MAPPED
    }

    fn clear(&self) {
        self.state.store(IDLE, Ordering::Release);
    }

    /// Whether it is there; if not, the waker is called when it is.
    pub fn ready(&self, gpu: &Gpu, wake: &Waker) -> Result<bool> {
        let answer = || match self.state.load(Ordering::Acquire) {
            MAPPED => Ok(true),
            FAILED => {
                gpu.check()?;
                Err(Error::Runtime(format!("{}: results cannot be read back", gpu.name)))
            }
            _ => Ok(false),
        };
        if answer()? {
            return Ok(true);
        }
        *lock(&self.waker) = Some(wake.clone());
        // It may have come in between.
        answer()
    }
}

/// Has a buffer mapped as soon as the device no longer uses it.
fn map(buffer: &Buffer, mode: MapMode, bytes: u64, flag: &Arc<Flag>) {
    flag.state.store(ON_ITS_WAY, Ordering::Release);
    let told = flag.clone();
    buffer.map_async(mode, 0..bytes, move |result| {
        let state = if result.is_ok() { MAPPED } else { FAILED };
        told.state.store(state, Ordering::Release);
        if let Some(waker) = lock(&told.waker).take() {
            waker.wake();
        }
    });
}

/// The numbers of a sampled step.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sampled {
    /// Whether rows are masked places.
    pub proposes: bool,
    pub rows: usize,
    pub top: usize,
    pub wanted: usize,
}

impl Sampled {
    /// Bytes of its results.
    pub fn bytes(&self) -> u64 {
        (12 * self.rows + 8 * self.rows * self.top + 4 * self.wanted) as u64
    }
}

/// The buffers of one step in flight.
pub(crate) struct Flight {
    pub upload: Buffer,
    pub upload_ready: Arc<Flag>,
    pub results: Buffer,
    results_ready: Arc<Flag>,
    pub step: u64,
    pub sampled: Option<Sampled>,
    /// Whether something has been put into the command buffer that reads results.
    pub fetches: bool,
}

const UPLOAD: BufferUsages = BufferUsages::MAP_WRITE.union(BufferUsages::COPY_SRC);
const DOWNLOAD: BufferUsages = BufferUsages::MAP_READ.union(BufferUsages::COPY_DST);

impl Flight {
    pub fn new(gpu: &Gpu, upload_words: u64, result_bytes: u64) -> Result<Flight> {
        Ok(Flight {
            upload: gpu.mapped_buffer("what a step sends", 4 * upload_words, UPLOAD)?,
            upload_ready: Flag::mapped(),
            results: gpu.buffer("what a step returns", result_bytes, DOWNLOAD)?,
            results_ready: Arc::default(),
            step: 0,
            sampled: None,
            fetches: false,
        })
    }

    /// Makes it free for another step, whatever became of the one before.
    pub fn reuse(&mut self, gpu: &Gpu, upload_words: u64) -> Result<()> {
        if !self.upload_ready.is_mapped() {
            // More steps than were announced, or one that was never finished.
            gpu.wait()?;
        }
        if self.results_ready.state.load(Ordering::Acquire) != IDLE {
            gpu.wait()?;
            self.results.unmap();
            self.results_ready.clear();
        }
        if self.upload.size() < 4 * upload_words || !self.upload_ready.is_mapped() {
            self.upload = gpu.mapped_buffer("what a step sends", 4 * upload_words, UPLOAD)?;
            self.upload_ready = Flag::mapped();
        }
        (self.sampled, self.fetches) = (None, false);
        Ok(())
    }

    /// Writes words of the upload buffer, which must be mapped.
    pub fn write(&mut self, at: u64, words: &[u32]) -> Result<()> {
        if words.is_empty() {
            return Ok(());
        }
        let bytes: &[u8] = bytemuck::cast_slice(words);
        let from = 4 * at;
        let view = self.upload.get_mapped_range_mut(from..from + bytes.len() as u64);
        let mut view = view.map_err(|e| Error::Runtime(format!("what a step sends: {e}")))?;
        view.copy_from_slice(bytes);
        Ok(())
    }

    /// Makes room for results.
    pub fn hold(&mut self, gpu: &Gpu, bytes: u64) -> Result<()> {
        if self.results.size() < bytes {
            self.results = gpu.buffer("what a step returns", bytes, DOWNLOAD)?;
        }
        Ok(())
    }

    /// Whether the step has ended; with its results, if it was sampled.
    pub fn finish(&mut self, gpu: &Gpu, out: &mut Results, wake: &Waker) -> Result<bool> {
        let Some(sampled) = self.sampled.filter(|s| s.bytes() > 0) else {
            return self.upload_ready.ready(gpu, wake);
        };
        if !self.results_ready.ready(gpu, wake)? {
            return Ok(false);
        }
        let read = self.parse(sampled, out);
        self.results.unmap();
        self.results_ready.clear();
        self.sampled = None;
        read.map(|()| true)
    }

    fn parse(&self, s: Sampled, out: &mut Results) -> Result<()> {
        let bytes = s.bytes();
        if bytes == 0 {
            return Ok(());
        }
        let view = self.results.get_mapped_range(0..bytes);
        let view = view.map_err(|e| Error::Runtime(format!("what a step returns: {e}")))?;
        let words: &[u32] = bytemuck::cast_slice(&view);
        let (picked, rest) = words.split_at(3 * s.rows);
        let (top, wanted) = rest.split_at(2 * s.rows * s.top);
        for (row, p) in picked.as_chunks::<3>().0.iter().enumerate() {
            match p[0] {
                u32::MAX => {
                    return Err(Error::Runtime(format!(
                        "masks and logit bias forbid every token of row {row}"
                    )));
                }
                id if id == u32::MAX - 1 => {
                    return Err(Error::Runtime(format!(
                        "the logits of row {row} are not finite: the model or its file is damaged"
                    )));
                }
                id => out.picked.push(gristmill_ir::Picked {
                    id,
                    confidence: f32::from_bits(p[1]),
                    logprob: f32::from_bits(p[2]),
                }),
            }
        }
        let pairs = top.as_chunks::<2>().0.iter();
        out.top.extend(pairs.map(|t| (t[0], f32::from_bits(t[1]))));
        out.wanted.extend(wanted.iter().map(|&w| f32::from_bits(w)));
        Ok(())
    }
}

/// Values on their way to the host.
pub(crate) struct Reading {
    step: u64,
    output: Output,
    buffer: Buffer,
    flag: Arc<Flag>,
    bytes: u64,
}

/// A part of a page or a slot to copy: the bytes of one state.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub state: usize,
    /// Where it begins in the state's buffer.
    pub at: u64,
    pub bytes: usize,
    /// The page group in host memory, or the slot there.
    pub group: Option<usize>,
    /// Where it begins in host memory.
    pub host: usize,
}

/// Pages or slots on their way to the host.
pub(crate) struct Saving {
    number: u64,
    buffer: Buffer,
    flag: Arc<Flag>,
    /// One after the other in the buffer.
    parts: Vec<Part>,
}

impl Context {
    /// Submits the launched step, if it waits to be.
    pub(crate) fn flush(&mut self) -> Result<()> {
        let Some(Pending { encoder, step }) = self.pending.take() else { return Ok(()) };
        let gpu = self.gpu.clone();
        let flight = self.flight(step);
        flight.upload.unmap();
        flight.upload_ready.clear();
        let index = gpu.queue.submit([encoder.finish()]);
        map(&flight.upload, MapMode::Write, flight.upload.size(), &flight.upload_ready);
        flight.fetch();
        gpu.watch(index);
        self.submissions += 1;
        gpu.check()
    }

    /// Submits a step with its sampling, or a sampling whose step has gone before.
    pub(crate) fn submit_sampling(&mut self, encoder: CommandEncoder, step: u64) -> Result<()> {
        let gpu = self.gpu.clone();
        if self.flight(step).upload_ready.is_mapped() {
            self.pending = Some(Pending { encoder, step });
            return self.flush();
        }
        let index = gpu.queue.submit([encoder.finish()]);
        self.flight(step).fetch();
        gpu.watch(index);
        self.submissions += 1;
        gpu.check()
    }

    /// Starts bringing a stretch of a workspace's rows to the host; says whether they are there.
    pub(crate) fn read_rows(
        &mut self,
        output: Output,
        rows: usize,
        width: usize,
        at: impl Fn(usize) -> u64,
        out: &mut Vec<f32>,
        wake: &Waker,
    ) -> Result<bool> {
        self.flush()?;
        let gpu = self.gpu.clone();
        let step = self.step;
        let bytes = (4 * rows * width) as u64;
        out.clear();
        if bytes == 0 {
            return Ok(true);
        }
        let known = self.reading.as_ref().is_some_and(|r| r.step == step && r.output == output);
        if !known {
            let buffer = gpu.large_buffer("results", bytes, DOWNLOAD)?;
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            for row in 0..rows {
                let each = 4 * width as u64;
                let to = row as u64 * each;
                encoder.copy_buffer_to_buffer(&self.workspace, at(row), &buffer, to, each);
            }
            let index = gpu.queue.submit([encoder.finish()]);
            let flag = Arc::default();
            map(&buffer, MapMode::Read, bytes, &flag);
            gpu.watch(index);
            self.reading = Some(Reading { step, output, buffer, flag, bytes });
        }
        gpu.check()?;
        let _ = gpu.device.poll(PollType::Poll);
        let Some(r) = &self.reading else { return Ok(false) };
        if !r.flag.ready(&gpu, wake)? {
            return Ok(false);
        }
        let view = r.buffer.get_mapped_range(0..r.bytes);
        let view = view.map_err(|e| Error::Runtime(format!("results: {e}")))?;
        out.extend_from_slice(bytemuck::cast_slice(&view));
        drop(view);
        self.reading = None;
        Ok(true)
    }

    /// The host's memory of a part.
    pub(crate) fn host_part(&mut self, p: &Part) -> &mut [u8] {
        let all = match p.group {
            Some(group) => &mut self.host[group],
            None => &mut self.host_slot,
        };
        &mut all[p.host..p.host + p.bytes]
    }

    /// Starts copying to the host.
    pub(crate) fn start_saving(&mut self, parts: Vec<Part>) -> Result<u64> {
        let gpu = self.gpu.clone();
        self.copies += 1;
        let total: usize = parts.iter().map(|p| p.bytes).sum();
        let buffer = gpu.large_buffer("pages to save", total as u64, DOWNLOAD)?;
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        let mut at = 0;
        for p in &parts {
            let source = &self.states[p.state].buffer;
            encoder.copy_buffer_to_buffer(source, p.at, &buffer, at, p.bytes as u64);
            at += p.bytes as u64;
        }
        let index = gpu.queue.submit([encoder.finish()]);
        let flag = Arc::default();
        if total > 0 {
            map(&buffer, MapMode::Read, total as u64, &flag);
        }
        gpu.watch(index);
        self.saving.push(Saving { number: self.copies, buffer, flag, parts });
        Ok(self.copies)
    }

    /// Whether copies of this number have ended; those to the host are then there.
    pub(crate) fn finish_copies(&mut self, number: u64, wake: &Waker) -> Result<bool> {
        let gpu = self.gpu.clone();
        let _ = gpu.device.poll(PollType::Poll);
        let Some(i) = self.saving.iter().position(|s| s.number == number) else { return Ok(true) };
        if !self.saving[i].parts.is_empty() && !self.saving[i].flag.ready(&gpu, wake)? {
            return Ok(false);
        }
        let saving = self.saving.remove(i);
        let total: usize = saving.parts.iter().map(|p| p.bytes).sum();
        if total == 0 {
            return Ok(true);
        }
        let view = saving.buffer.get_mapped_range(0..total as u64);
        let view = view.map_err(|e| Error::Runtime(format!("saved pages: {e}")))?;
        let mut rest: &[u8] = &view;
        for p in &saving.parts {
            let (part, more) = rest.split_at(p.bytes);
            self.host_part(p).copy_from_slice(part);
            rest = more;
        }
        Ok(true)
    }
}

impl Flight {
    /// Has results mapped that a submission brings.
    pub fn fetch(&mut self) {
        let bytes = self.sampled.map_or(0, |s| s.bytes());
        if self.fetches && bytes > 0 {
            self.fetches = false;
            map(&self.results, MapMode::Read, bytes.next_multiple_of(8), &self.results_ready);
        }
    }
}
