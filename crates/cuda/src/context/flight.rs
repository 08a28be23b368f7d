//! What crosses the bus for one step: host memory to copy from and to, used in turns, so that no step
//! makes any; and who is woken when a step has ended.

use crate::driver::memory::{Buffer, Gpu, Pinned};
use gristmill_core::{Error, Result};
use gristmill_ir::{Output, Picked, Results};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::task::Waker;

/// A thread that waits for marks, for those who do not.
pub(crate) struct Watcher {
    gpu: Arc<Gpu>,
    jobs: Option<Sender<(u64, Waker)>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watcher {
    pub fn new(gpu: &Arc<Gpu>) -> Watcher {
        Watcher { gpu: gpu.clone(), jobs: None, thread: None }
    }

    /// Wakes somebody once the device has come to a mark. The thread starts with the first.
    pub fn wake(&mut self, event: u64, waker: &Waker) {
        let jobs = self.jobs.get_or_insert_with(|| {
            let (jobs, list) = channel::<(u64, Waker)>();
            let gpu = self.gpu.clone();
            self.thread = Some(std::thread::spawn(move || {
                for (event, waker) in list {
                    // What has failed is said to the one who asks.
                    let _ = gpu.driver.wait(event);
                    waker.wake();
                }
            }));
            jobs
        });
        if jobs.send((event, waker.clone())).is_err() {
            waker.wake_by_ref();
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A mark in the queue.
pub(crate) struct Mark {
    gpu: Arc<Gpu>,
    pub event: u64,
}

impl Mark {
    pub fn new(gpu: &Arc<Gpu>) -> Result<Mark> {
        Ok(Mark { gpu: gpu.clone(), event: gpu.driver.event()? })
    }

    /// Whether the device has come to it; if not, `wake` is woken when it has.
    pub fn ready(&self, watcher: &mut Watcher, wake: &Waker) -> Result<bool> {
        let there = self.gpu.driver.reached(self.event)?;
        if !there {
            watcher.wake(self.event, wake);
        }
        Ok(there)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        let _ = self.gpu.driver.wait(self.event);
        self.gpu.driver.forget_event(self.event);
    }
}

/// The numbers of a sampled step.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sampled {
    pub rows: usize,
    pub top: usize,
    pub wanted: usize,
}

impl Sampled {
    /// Bytes of its results.
    pub fn bytes(&self) -> usize {
        12 * self.rows + 8 * self.rows * self.top + 4 * self.wanted
    }
}

/// Host memory of one step in flight.
pub(crate) struct Flight {
    pub upload: Pinned,
    pub results: Pinned,
    /// Behind everything of the step.
    pub mark: Mark,
    pub step: u64,
    pub sampled: Option<Sampled>,
}

impl Flight {
    pub fn new(gpu: &Arc<Gpu>, upload: usize, results: usize) -> Result<Flight> {
        let (upload, results) = (gpu.pinned(upload)?, gpu.pinned(results)?);
        let mark = Mark::new(gpu)?;
        gpu.driver.record(mark.event)?;
        Ok(Flight { upload, results, mark, step: 0, sampled: None })
    }

    /// Makes it free for another step, whatever became of the one before.
    pub fn reuse(&mut self, gpu: &Arc<Gpu>, upload: usize) -> Result<()> {
        // Has ended long ago, unless more steps were launched than announced.
        gpu.driver.wait(self.mark.event)?;
        if self.upload.bytes() < upload {
            self.upload = gpu.pinned(upload)?;
        }
        self.sampled = None;
        Ok(())
    }

    /// What was sampled.
    pub fn parse(&mut self, out: &mut Results) -> Result<()> {
        let Some(s) = self.sampled.take() else { return Ok(()) };
        let bytes = &self.results.get()[..s.bytes()];
        let word = |b: &[u8; 4]| u32::from_le_bytes(*b);
        let words: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(word).collect();
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
                id => out.picked.push(Picked {
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
    pub step: u64,
    pub output: Output,
    pub memory: Pinned,
    pub mark: Mark,
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

/// Pages or slots on their way to or from the host.
pub(crate) struct Saving {
    pub number: u64,
    pub memory: Pinned,
    pub mark: Mark,
    /// Those that go to the host, one after the other.
    pub parts: Vec<Part>,
}

impl super::Context {
    /// The host's memory of a part.
    pub(crate) fn host_part(&mut self, p: &Part) -> &mut [u8] {
        let all = match p.group {
            Some(group) => &mut self.host[group],
            None => &mut self.host_slot,
        };
        &mut all[p.host..p.host + p.bytes]
    }

    /// Starts copying parts to the host, or from there; gives the copy's number.
    pub(crate) fn start_copy(&mut self, parts: Vec<Part>, out: bool) -> Result<u64> {
        let gpu = self.gpu.clone();
        let total: usize = parts.iter().map(|p| p.bytes).sum();
        let mut memory = gpu.pinned(total)?;
        let mut at = 0;
        for p in &parts {
            let buffer: Buffer = self.states[p.state].buffer.clone();
            if out {
                gpu.download(&mut memory, at, &buffer, p.at, p.bytes)?;
            } else {
                memory.get_mut()[at..at + p.bytes].copy_from_slice(self.host_part(p));
                gpu.upload(&buffer, p.at, &memory, at, p.bytes)?;
            }
            at += p.bytes;
        }
        let mark = Mark::new(&gpu)?;
        gpu.driver.record(mark.event)?;
        self.copies += 1;
        let (number, parts) = (self.copies, if out { parts } else { vec![] });
        self.saving.push(Saving { number, memory, mark, parts });
        Ok(self.copies)
    }

    /// Whether copies of this number have ended; those to the host are then there.
    pub(crate) fn finish_copy(&mut self, number: u64, wake: &Waker) -> Result<bool> {
        let Some(i) = self.saving.iter().position(|s| s.number == number) else { return Ok(true) };
        if !self.saving[i].mark.ready(&mut self.watcher, wake)? {
            return Ok(false);
        }
        let saving = self.saving.remove(i);
        let mut rest = saving.memory.get();
        for p in &saving.parts {
            let (part, more) = rest.split_at(p.bytes);
            self.host_part(p).copy_from_slice(part);
            rest = more;
        }
        Ok(true)
    }
}
