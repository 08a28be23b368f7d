//! [`Cuda`]: the contract of [`gristmill_ir::Backend`] on an NVIDIA GPU.
//!
//! A launch copies the integers of a step up and replays the plan's graph; sampling is one more kernel
//! behind it. Nothing waits: marks in the queue say when a step has ended.

use crate::context::flight::{Mark, Part, Reading, Sampled};
use crate::context::{Context, Grown};
use crate::driver::choose::Device;
use crate::driver::memory::Gpu;
use crate::driver::real::Real;
use crate::driver::{Driver, Launch};
use crate::plan::arguments::{Args, Resource};
use crate::plan::{self, Placed, Plan};
use crate::weights::{Weights, runs};
use gristmill_core::{DType, Error, HostTensor, Result};
use gristmill_gpu::{control, kind_of};
use gristmill_ir::{
    Backend, Batch, Capabilities, Input, Layout, Ledger, Move, Options, Output, Program, Results,
    Rows, SampleBatch, Size, StateKind, Step, TensorDecl, UNMASK,
};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

/// How the backend runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct CudaOptions {
    /// Fill the workspace with NaN before each step: what is read without having been written then
    /// shows. For tests.
    pub poison: bool,
}

/// An NVIDIA GPU. Clones are the same device.
#[derive(Clone)]
pub struct Cuda {
    gpu: Arc<Gpu>,
    options: CudaOptions,
}

/// Steps that only copy pages are numbered from here, so that launches have numbers in a row.
const COPIES: u64 = 1 << 63;

impl Cuda {
    /// Opens a device of this machine.
    ///
    /// # Errors
    /// [`Error::Device`] or [`Error::Memory`], in words that say what to do.
    pub fn open(device: &Device, options: CudaOptions) -> Result<Cuda> {
        match &device.lacks {
            Some(what) => Err(Error::Device(what.clone())),
            None => Ok(Cuda::over(Box::new(Real::open(device.facts.clone())?), options)),
        }
    }

    /// A device behind whatever driver.
    pub fn over(driver: Box<dyn Driver>, options: CudaOptions) -> Cuda {
        Cuda { gpu: Gpu::new(driver), options }
    }

    /// Buffers made on the device so far; no step makes one.
    pub fn buffers_made(&self) -> u64 {
        self.gpu.made.load(Ordering::Relaxed)
    }

    /// What the maker calls it.
    pub fn name(&self) -> &str {
        &self.gpu.driver.facts().name
    }
}

impl Backend for Cuda {
    type Weights = Weights;
    type Context = Context;
    type Plan = Plan;

    fn capabilities(&self) -> Capabilities {
        let facts = self.gpu.driver.facts();
        let mut compute = vec![DType::F32, DType::F16];
        if facts.chip >= [8, 0] {
            compute.push(DType::BF16);
        }
        let [major, minor] = facts.chip;
        Capabilities {
            name: format!("{} (CUDA, {major}.{minor})", facts.name),
            compute,
            weights: DType::all().filter(|&d| runs(d)).collect(),
            kv: DType::all().filter(|&d| kind_of(d).is_some()).collect(),
            page_multiple: 1,
            ops: plan::OPS.to_vec(),
        }
    }

    fn load(
        &self,
        uses: &[&Program],
        tensor: &mut dyn FnMut(&TensorDecl) -> Result<HostTensor>,
        _: &Options,
    ) -> Result<Weights> {
        Weights::load(&self.gpu, uses, tensor)
    }

    fn create(&self, states: &[StateKind], layout: &Layout) -> Result<Context> {
        if layout.page_tokens == 0 && !layout.pages.is_empty() {
            return Err(Error::Usage("a page of 0 tokens".into()));
        }
        Context::new(&self.gpu, states, layout, self.options.poison)
    }

    fn compile(
        &self,
        program: &Program,
        weights: &Weights,
        context: &mut Context,
        size: Size,
        options: &Options,
    ) -> Result<Plan> {
        Plan::compile(program, weights, context, size, options)
    }

    fn launch(&self, p: &Plan, c: &mut Context, b: &Batch<'_>) -> Result<Step> {
        // Should this step be refused, there is no latest result any more.
        c.latest.placed.clear();
        c.reading = None;
        let (tokens, rows) = (b.tokens.len(), b.rows.len());
        let seqs = b.seq_starts.len().saturating_sub(1);
        let most = p.size;
        let one_each = !most.one_token_a_seq || tokens == seqs;
        if tokens > most.tokens as usize
            || rows > most.rows as usize
            || seqs > most.seqs as usize
            || !one_each
        {
            return Err(Error::Runtime(format!(
                "a batch of {tokens} tokens, {seqs} sequences and {rows} rows is above {most:?}"
            )));
        }
        c.integers.fill(b, &c.layout, &p.bounds, &c.sampled, &c.inputs)?;
        let bytes = 4 * c.integers.words.len();
        if c.ints.bytes() < bytes as u64 {
            c.grow(Grown::Ints, 2 * bytes as u64)?;
        }
        let graph = match &c.bound[p.number] {
            Some(bound) => bound.graph,
            None => {
                let bound = p.bind(c)?;
                c.bound[p.number].insert(bound).graph
            }
        };
        let gpu = self.gpu.clone();
        let step = c.step + 1;
        let words = std::mem::take(&mut c.integers.words);
        let ints = c.ints.clone();
        let flight = c.flight(step);
        let sent = flight.reuse(&gpu, bytes).and_then(|()| {
            flight.upload.get_mut()[..bytes].copy_from_slice(bytemuck::cast_slice(&words));
            gpu.upload(&ints, 0, &flight.upload, 0, bytes)
        });
        flight.step = step;
        c.integers.words = words;
        sent?;
        if c.poison {
            gpu.fill(&c.workspace, 0xFF)?;
        }
        if !b.moves.is_empty() {
            self.moves(c)?;
        }
        for m in b.moves {
            if let Move::Slot { from, to } = *m {
                c.sampled[to as usize] = c.sampled[from as usize];
            }
        }
        gpu.replay(graph)?;
        c.replays += 1;
        gpu.driver.record(c.flight(step).mark.event)?;
        c.step = step;
        c.latest.placed.extend_from_slice(&p.placed);
        (c.latest.step, c.latest.tokens, c.latest.seqs, c.latest.rows) = (step, tokens, seqs, rows);
        c.ledger.ids += b.bytes();
        Ok(Step(step))
    }

    fn sample(&self, c: &mut Context, s: Step, b: &SampleBatch<'_>) -> Result<()> {
        let p = placed(c, Output::Logits)?;
        if s.0 != c.step {
            return Err(Error::Runtime("only the latest step can be sampled here".into()));
        }
        let (rows, vocab) = (c.latest.rows, p.at.width);
        b.check(rows, vocab, c.sampled.len())?;
        if !b.unmask.is_empty() {
            return Err(Error::Device(format!(
                "the cuda backend proposes no tokens for masked places (`{UNMASK}`) yet; use \
                 --device cpu"
            )));
        }
        control::check_masks(b, vocab)?;
        let top = (b.top_logprobs as usize).min(vocab);
        let sampled = Sampled { rows, top, wanted: b.want.len() };
        let mut words = std::mem::take(&mut c.integers.words);
        control::fill(&mut words, b, vocab);
        let done = self.enqueue_sampling(c, &p, &words, sampled);
        c.integers.words = words;
        done?;
        for &slot in b.slots.iter().filter(|&&s| s != u32::MAX) {
            c.sampled[slot as usize] = true;
        }
        c.ledger.control += b.bytes();
        Ok(())
    }

    fn finish(&self, c: &mut Context, s: Step, out: &mut Results, wake: &Waker) -> Result<bool> {
        out.picked.clear();
        out.top.clear();
        out.wanted.clear();
        if let Some(copy) = s.0.checked_sub(COPIES) {
            return match copy <= c.copies {
                true => c.finish_copy(copy, wake),
                false => Err(never_began(s)),
            };
        }
        if s.0 == 0 || s.0 > c.step {
            return Err(never_began(s));
        }
        let n = c.flights.len() as u64;
        let flight = &mut c.flights[(s.0 % n) as usize];
        if flight.step != s.0 {
            return Err(Error::Runtime(format!("step {} is no longer in flight", s.0)));
        }
        if !flight.mark.ready(&mut c.watcher, wake)? {
            return Ok(false);
        }
        flight.parse(out)?;
        c.ledger.results += out.bytes();
        Ok(true)
    }

    fn read(
        &self,
        c: &mut Context,
        s: Step,
        output: Output,
        out: &mut Vec<f32>,
        wake: &Waker,
    ) -> Result<bool> {
        if s.0 != c.step {
            return Err(Error::Runtime("only the latest step can be read".into()));
        }
        let p = placed(c, output)?;
        let rows = match p.at.rows {
            Rows::Tokens => c.latest.tokens,
            Rows::Seqs => c.latest.seqs,
            Rows::Wanted => c.latest.rows,
            Rows::Choices(k) => c.latest.tokens * k as usize,
        };
        let row = 4 * p.at.stride();
        let known = c.reading.as_ref().is_some_and(|r| r.step == s.0 && r.output == output);
        if !known {
            let mut memory = self.gpu.pinned(rows * row)?;
            self.gpu.download(&mut memory, 0, &c.workspace, p.at.offset as u64, rows * row)?;
            let mark = Mark::new(&self.gpu)?;
            self.gpu.driver.record(mark.event)?;
            c.reading = Some(Reading { step: s.0, output, memory, mark });
        }
        let Some(reading) = &c.reading else { return Ok(false) };
        if !reading.mark.ready(&mut c.watcher, wake)? {
            return Ok(false);
        }
        out.clear();
        for bytes in reading.memory.get()[..rows * row].chunks_exact(row.max(1)) {
            let numbers = bytes.as_chunks::<4>().0[..p.at.width].iter();
            out.extend(numbers.map(|b| f32::from_le_bytes(*b)));
        }
        c.reading = None;
        c.ledger.vectors += size_of_val(&out[..]) as u64;
        Ok(true)
    }

    fn write(&self, c: &mut Context, input: Input, rows: &[f32]) -> Result<()> {
        c.inputs[input as usize].clear();
        c.inputs[input as usize].extend_from_slice(rows);
        c.ledger.boundary += size_of_val(rows) as u64;
        Ok(())
    }

    fn save(&self, c: &mut Context, moves: &[Move]) -> Result<Step> {
        let parts = parts_of(c, moves, true)?;
        c.start_copy(parts, true).map(|n| Step(COPIES + n))
    }

    fn restore(&self, c: &mut Context, moves: &[Move]) -> Result<Step> {
        let parts = parts_of(c, moves, false)?;
        c.start_copy(parts, false).map(|n| Step(COPIES + n))
    }

    fn host_page<'c>(&self, c: &'c mut Context, group: u8, page: u32) -> &'c mut [u8] {
        let bytes = c.page_bytes(group.into());
        let at = page as usize * bytes;
        c.host
            .get_mut(usize::from(group))
            .and_then(|b| b.get_mut(at..at + bytes))
            .unwrap_or_default()
    }

    fn host_slot<'c>(&self, c: &'c mut Context) -> &'c mut [u8] {
        &mut c.host_slot
    }

    fn memory(&self) -> (u64, u64) {
        let (free, _) = self.gpu.driver.memory();
        (self.gpu.used.load(Ordering::Relaxed), free)
    }

    fn ledger(&self, c: &Context) -> Ledger {
        c.ledger
    }
}

fn never_began(s: Step) -> Error {
    Error::Runtime(format!("step {} never began", s.0))
}

/// Where a result of the latest step lies.
fn placed(c: &Context, output: Output) -> Result<Placed> {
    let found = c.latest.placed.iter().find(|p| p.output == output);
    found
        .copied()
        .ok_or_else(|| Error::Runtime(format!("the plan has no {} to give", output.name())))
}

/// The parts of pages and slots to copy.
fn parts_of(c: &Context, moves: &[Move], out: bool) -> Result<Vec<Part>> {
    let missing = || Error::Runtime("a page or slot to swap does not exist".into());
    let mut parts = vec![];
    for m in moves {
        let (group, [device, host]) = match *m {
            Move::Page { group, from, to } => (Some(usize::from(group)), [from, to]),
            Move::Slot { from, to } => (None, [from, to]),
            Move::Row { .. } => {
                return Err(Error::Runtime("only pages and slots are swapped".into()));
            }
        };
        let [device, host] = if out { [device, host] } else { [host, device] };
        let (each, held, count) = match group {
            Some(g) => {
                let held = c.host.get(g).ok_or_else(missing)?.len();
                (c.page_bytes(g), held, c.layout.pages.get(g).copied().unwrap_or(0))
            }
            None => (c.host_slot.len(), c.host_slot.len(), c.layout.slots),
        };
        let mut at = host as usize * each;
        if each == 0 || at + each > held || device >= count {
            return Err(missing());
        }
        for (state, s) in c.states.iter().enumerate() {
            let of = match s.kind {
                StateKind::Paged { group, .. } => Some(usize::from(group)),
                StateKind::Slot { .. } => None,
            };
            if of == group {
                let bytes = 4 * s.words as usize;
                let from = u64::from(device) * bytes as u64;
                parts.push(Part { state, at: from, bytes, group, host: at });
                at += bytes;
            }
        }
    }
    Ok(parts)
}

impl Cuda {
    fn enqueue(&self, kernel: &str, a: &Args, grid: u32, threads: u32) -> Result<()> {
        let params = a.encode(&|_| 0);
        let kernel = self.gpu.driver.kernel(kernel)?;
        let grid = [grid, 1, 1];
        self.gpu.launch(&Launch { kernel, grid, threads, shared: 0, params: &params })
    }

    /// Copies before a step, in every state.
    fn moves(&self, c: &Context) -> Result<()> {
        let ints = Resource::Held(c.ints.clone(), 0);
        for s in &c.states {
            let numbers = match s.kind {
                StateKind::Slot { .. } => [1, 0, s.words, 1, 0, 0],
                StateKind::Paged { group, k, v, k_type, v_type } => {
                    let halves = |n: u32, t: DType| if t == DType::F32 { 2 * n } else { n };
                    let tokens = c.layout.page_tokens;
                    [0, group.into(), s.words, tokens, halves(k, k_type), halves(v, v_type)]
                }
            };
            let a = Args::new().ptr(ints.clone()).ptr(Resource::Held(s.buffer.clone(), 0));
            self.enqueue("moves", &a.all(&numbers), 1, 256)?;
        }
        let a = Args::new().ptr(ints).ptr(Resource::Held(c.last.clone(), 0));
        self.enqueue("moves", &a.all(&[1, 0, 1, 1, 0, 0]), 1, 256)
    }

    /// Sampling, behind everything of the step.
    fn enqueue_sampling(
        &self,
        c: &mut Context,
        p: &Placed,
        words: &[u32],
        sampled: Sampled,
    ) -> Result<()> {
        let gpu = &self.gpu;
        let bytes = 4 * words.len();
        // Rare: more masks, bias or penalties than ever before, more results.
        if c.control.bytes() < bytes as u64 {
            c.grow(Grown::Control, 2 * bytes as u64)?;
        }
        c.grow(Grown::Picked, sampled.bytes() as u64)?;
        let step = c.step;
        let ints = c.ints.bytes() as usize;
        let (control, picked) = (c.control.clone(), c.picked.clone());
        let flight = c.flight(step);
        // Its memory holds the integers of the step first, which may still be on their way.
        if flight.upload.bytes() < ints + bytes {
            gpu.driver.wait_all()?;
            flight.upload = gpu.pinned(ints + 2 * bytes)?;
        }
        if flight.results.bytes() < sampled.bytes() {
            flight.results = gpu.pinned(sampled.bytes())?;
        }
        flight.upload.get_mut()[ints..ints + bytes].copy_from_slice(bytemuck::cast_slice(words));
        gpu.upload(&control, 0, &flight.upload, ints, bytes)?;
        if sampled.rows > 0 {
            let logits = Resource::Held(c.workspace.clone(), p.at.offset as u64);
            let held = |b: &crate::driver::memory::Buffer| Resource::Held(b.clone(), 0);
            let a = Args::new()
                .ptrs([held(&control), logits, held(&c.work), held(&picked), held(&c.last)])
                .all(&[p.at.width as u32, p.at.stride() as u32]);
            self.enqueue("sample", &a, sampled.rows as u32, 512)?;
        }
        let flight = c.flight(step);
        gpu.download(&mut flight.results, 0, &picked, 0, sampled.bytes())?;
        flight.sampled = Some(sampled);
        gpu.driver.record(flight.mark.event)
    }
}
