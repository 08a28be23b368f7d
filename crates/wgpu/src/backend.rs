//! [`Wgpu`]: the contract of [`gristmill_ir::Backend`] on a device of wgpu.
//!
//! A launch puts a whole step into one command buffer. It is submitted when the step is sampled, with
//! the sampling in it, or at the latest when somebody asks for its results or launches the next.

use crate::adapter::Adapter;
use crate::context::flight::{Part, Sampled};
use crate::context::{Context, Grown, Latest, Pending};
use crate::format::Format;
use crate::gpu::{Gpu, Pipeline};
use crate::plan::attention::splits;
use crate::plan::{self, Actual, Placed, Plan};
use crate::shader::Recipe;
use crate::timer::{SAMPLING, Timer};
use crate::tune::Shapes;
use crate::weights::Weights;
use gristmill_core::{DType, Error, HostTensor, Result};
use gristmill_gpu::{SPLITS, control, kind_of, words_of};
use gristmill_ir::{
    Backend, Batch, Capabilities, Input, Layout, Ledger, Move, Options, Output, Program, Results,
    SampleBatch, Size, StateKind, Step, TensorDecl, Times, UNMASK,
};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use wgpu::{BindGroup, BindGroupEntry, Buffer, BufferUsages, Features, PollType};

/// How the backend runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct WgpuOptions {
    /// Ask for no more than the limits that WebGPU promises everywhere.
    pub default_limits: bool,
    /// Ask for no optional feature: only the plain shaders.
    pub plain: bool,
    /// Shapes of kernels, where others than the default suit the adapter better.
    pub shapes: Option<Shapes>,
    /// Leave kernels written in the adapter's own language alone, whatever the shapes say.
    pub no_passthrough: bool,
    /// Cut matrices into pieces of at most so many bytes, where the adapter would allow larger ones.
    pub largest_piece: Option<u64>,
    /// Fill the workspace with NaN before each step: what is read without having been written then
    /// shows. For tests.
    pub poison: bool,
}

/// A device of wgpu. Clones are the same device.
#[derive(Clone)]
pub struct Wgpu {
    gpu: Arc<Gpu>,
    options: WgpuOptions,
}

/// Steps that only copy pages are numbered from here, so that launches have numbers in a row.
const COPIES: u64 = 1 << 63;

impl Wgpu {
    /// Opens a device on an adapter.
    ///
    /// # Errors
    /// [`Error::Device`] with what the driver said.
    pub fn new(adapter: &Adapter, options: WgpuOptions) -> Result<Wgpu> {
        let units = options.shapes.is_some_and(|s| s.cooperates());
        let mut gpu = Gpu::open(adapter, options.default_limits, options.plain, units)?;
        // Shapes come out of a file perhaps, and that from elsewhere.
        let fitting = |s: &Shapes| {
            let threads = gpu.limits.max_compute_invocations_per_workgroup;
            s.fit(gpu.limits.max_compute_workgroup_storage_size) && s.threads <= threads
        };
        gpu.shapes = options.shapes.filter(fitting).unwrap_or_default();
        gpu.passthrough = gpu.shapes.written
            && !options.no_passthrough
            && gpu.features.contains(Features::PASSTHROUGH_SHADERS);
        gpu.largest_piece = options.largest_piece.unwrap_or(u64::MAX).min(gpu.largest_piece);
        Ok(Wgpu { gpu: Arc::new(gpu), options })
    }

    /// Buffers made on the device so far; no step makes one.
    pub fn buffers_made(&self) -> u64 {
        self.gpu.buffers_made.load(Ordering::Relaxed)
    }

    /// Whether products in f16 of many rows go to units that multiply matrices.
    pub fn multiplies_matrices(&self) -> bool {
        self.gpu.units.is_some() && self.gpu.shapes.cooperates()
    }

    /// Whether a processor plays the GPU.
    pub fn is_software(&self) -> bool {
        self.gpu.software
    }

    /// The adapter's name, with what it is.
    pub fn name(&self) -> &str {
        &self.gpu.name
    }
}

impl Backend for Wgpu {
    type Weights = Weights;
    type Context = Context;
    type Plan = Plan;

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: self.gpu.name.clone(),
            compute: match self.gpu.features.contains(Features::SHADER_F16) {
                true => vec![DType::F32, DType::F16],
                false => vec![DType::F32],
            },
            weights: DType::all().filter(|&d| Format::of(d).is_some()).collect(),
            kv: DType::all().filter(|&d| kind_of(d).is_some()).collect(),
            page_multiple: 32,
            ops: [&plan::OPS[..], &[UNMASK]].concat(),
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
        if !layout.page_tokens.is_multiple_of(32) || layout.page_tokens == 0 {
            return Err(Error::Usage(format!(
                "a page of {} tokens: the wgpu backend takes multiples of 32",
                layout.page_tokens
            )));
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
        context.flush()?;
        Plan::compile(program, weights, context, size, options)
    }

    fn launch(&self, p: &Plan, c: &mut Context, b: &Batch<'_>) -> Result<Step> {
        c.flush()?;
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
        c.integers.words[SPLITS] = splits(b);
        self.gpu.check()?;
        let words = c.integers.words.len() as u64;
        if c.ints.size() < 4 * words {
            c.grow(Grown::Ints, 8 * words)?;
        }
        let step = c.step + 1;
        let upload_words = (c.ints.size() + c.control.size()) / 4;
        let gpu = self.gpu.clone();
        let integers = std::mem::take(&mut c.integers.words);
        let flight = c.flight(step);
        let prepared = flight.reuse(&gpu, upload_words).and_then(|()| flight.write(0, &integers));
        flight.step = step;
        c.integers.words = integers;
        prepared?;
        for m in b.moves {
            if let Move::Slot { from, to } = *m {
                c.sampled[to as usize] = c.sampled[from as usize];
            }
        }
        if c.poison {
            let nan = vec![0xFF; c.workspace.size() as usize];
            gpu.queue.write_buffer(&c.workspace, 0, &nan);
        }
        let actual = Actual {
            tokens: tokens as u32,
            seqs: seqs as u32,
            rows: rows as u32,
            splits: c.integers.words[SPLITS],
        };
        let groups = match c.bound.get_mut(p.number).and_then(Option::take) {
            Some(known) => known,
            None => {
                // Drivers may compile no earlier than a pipeline is used.
                gpu.compiled.store(true, Ordering::Relaxed);
                p.bind(c)
            }
        };
        let moves = if b.moves.is_empty() { vec![] } else { self.moves(c)? };
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        let ints = &c.ints;
        encoder.copy_buffer_to_buffer(&c.flight_of(step).upload, 0, ints, 0, 4 * words);
        if !moves.is_empty() {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for (pipeline, group) in &moves {
                pass.set_pipeline(&pipeline.pipeline);
                pass.set_bind_group(0, group, &[]);
                pass.dispatch_workgroups(1, 1, 1);
            }
        }
        match &mut c.timer {
            Some(timer) => {
                timer.begin(&gpu, step, p.nodes())?;
                p.encode_timed(&mut encoder, &groups, &actual, timer);
            }
            None => p.encode(&mut encoder, &groups, &actual),
        }
        if let Some(bound) = c.bound.get_mut(p.number) {
            *bound = Some(groups);
        }
        c.step = step;
        c.pending = Some(Pending { encoder, step });
        let Latest { placed, .. } = &mut c.latest;
        placed.extend_from_slice(&p.placed);
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
        control::check_masks(b, vocab)?;
        let top = (b.top_logprobs as usize).min(vocab);
        let proposes = !b.unmask.is_empty();
        let rows = if proposes { b.unmask.len() } else { rows };
        let sampled = Sampled { proposes, rows, top, wanted: b.want.len() };
        let mut words = std::mem::take(&mut c.integers.words);
        control::fill(&mut words, b, vocab);
        let done = self.encode_sampling(c, &p, &words, sampled);
        c.integers.words = words;
        done?;
        for &slot in b.slots.iter().filter(|&&s| s != u32::MAX) {
            c.sampled[slot as usize] = true;
        }
        c.ledger.control += b.bytes();
        c.flush()
    }

    fn finish(&self, c: &mut Context, s: Step, out: &mut Results, wake: &Waker) -> Result<bool> {
        out.picked.clear();
        out.top.clear();
        out.wanted.clear();
        c.flush()?;
        self.gpu.check()?;
        if let Some(copy) = s.0.checked_sub(COPIES) {
            return match copy <= c.copies {
                true => c.finish_copies(copy, wake),
                false => Err(never_began(s)),
            };
        }
        if s.0 == 0 || s.0 > c.step {
            return Err(never_began(s));
        }
        let gpu = self.gpu.clone();
        let flight = c.flight(s.0);
        if flight.step != s.0 {
            return Err(Error::Runtime(format!("step {} is no longer in flight", s.0)));
        }
        let _ = gpu.device.poll(PollType::Poll);
        if !flight.finish(&gpu, out, wake)? {
            return Ok(false);
        }
        gpu.stepped();
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
        let l = &c.latest;
        let actual =
            Actual { tokens: l.tokens as u32, seqs: l.seqs as u32, rows: l.rows as u32, splits: 1 };
        let rows = actual.of(p.at.rows) as usize;
        let at = |row: usize| (p.at.offset + 4 * row * p.at.stride()) as u64;
        let there = c.read_rows(output, rows, p.at.width, at, out, wake)?;
        if there {
            c.ledger.vectors += size_of_val(&out[..]) as u64;
        }
        Ok(there)
    }

    fn write(&self, c: &mut Context, input: Input, rows: &[f32]) -> Result<()> {
        c.inputs[input as usize].clear();
        c.inputs[input as usize].extend_from_slice(rows);
        c.ledger.boundary += size_of_val(rows) as u64;
        Ok(())
    }

    fn save(&self, c: &mut Context, moves: &[Move]) -> Result<Step> {
        let parts = parts_of(c, moves, true)?;
        c.flush()?;
        c.start_saving(parts).map(|n| Step(COPIES + n))
    }

    fn restore(&self, c: &mut Context, moves: &[Move]) -> Result<Step> {
        let parts = parts_of(c, moves, false)?;
        c.flush()?;
        for p in &parts {
            let buffer = c.states[p.state].buffer.clone();
            self.gpu.queue.write_buffer(&buffer, p.at, c.host_part(p));
        }
        c.start_saving(vec![]).map(|n| Step(COPIES + n))
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

    fn profile(&self, c: &mut Context, on: bool) -> Result<()> {
        c.timer = if on { Some(Timer::new(&self.gpu)?) } else { None };
        Ok(())
    }

    fn times(&self, c: &mut Context, s: Step) -> Times {
        // A device that has failed says so at the next step.
        let times = c.timer.as_mut().map(|t| t.times(&self.gpu, s.0).unwrap_or_default());
        times.unwrap_or_default()
    }

    fn memory(&self) -> (u64, u64) {
        // No interface of wgpu tells how much there is; an allocation says when it is too much.
        let report = self.gpu.device.generate_allocator_report();
        (report.map_or(0, |r| r.total_allocated_bytes), 0)
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

impl Wgpu {
    /// The bindings of a kernel over whole buffers.
    fn bind(&self, pipeline: &Pipeline, buffers: &[(u32, &Buffer)]) -> BindGroup {
        let entries: Vec<_> = buffers
            .iter()
            .map(|b| BindGroupEntry { binding: b.0, resource: b.1.as_entire_binding() })
            .collect();
        self.gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.layout,
            entries: &entries,
        })
    }

    fn uniform(&self, words: &[u32]) -> Result<Buffer> {
        let mut all = [0u32; 64];
        all[..words.len()].copy_from_slice(words);
        self.gpu.filled("parameters", bytemuck::cast_slice(&all), BufferUsages::UNIFORM)
    }

    /// A dispatch for each state that copies may change, made when the first copy comes.
    fn moves(&self, c: &mut Context) -> Result<Vec<(Arc<Pipeline>, BindGroup)>> {
        let pipeline = self.gpu.pipeline(&Recipe::new("moves"))?;
        if c.movers.is_empty() {
            for s in &c.states {
                c.movers.push(self.uniform(&match s.kind {
                    StateKind::Slot { .. } => [1, 0, s.words, 1, 0],
                    StateKind::Paged { group, k, k_type, .. } => {
                        let tokens = c.layout.page_tokens;
                        [0, group.into(), s.words, tokens, words_of(k_type, k)]
                    }
                })?);
            }
            c.movers.push(self.uniform(&[1, 0, 1, 1, 0])?);
        }
        let states = c.states.iter().map(|s| &s.buffer).chain([&c.last]);
        let bind = |(uniform, state)| {
            let buffers = [(0, uniform), (1, &c.ints), (2, state)];
            (pipeline.clone(), self.bind(&pipeline, &buffers))
        };
        Ok(c.movers.iter().zip(states).map(bind).collect())
    }

    /// Puts sampling into the command buffer of the step, or into one of its own where that has gone.
    fn encode_sampling(
        &self,
        c: &mut Context,
        p: &Placed,
        words: &[u32],
        sampled: Sampled,
    ) -> Result<()> {
        let gpu = self.gpu.clone();
        let bytes = 4 * words.len() as u64;
        let fits = c.control.size() >= bytes;
        if !fits {
            // Rare: more masks, bias or penalties than ever before.
            c.grow(Grown::Control, 2 * bytes)?;
        }
        c.grow(Grown::Picked, sampled.bytes())?;
        // More than at compiling only where masked places share rows.
        c.grow(Grown::Work, (4 * sampled.rows * p.at.width) as u64)?;
        let step = c.step;
        let pending = c.pending.take();
        let flight = c.flight(step);
        flight.hold(&gpu, sampled.bytes())?;
        let room = flight.upload.size();
        let (ints, control) = (c.ints.size(), c.control.clone());
        let mut encoder = match pending {
            Some(Pending { mut encoder, .. }) if fits && room >= ints + bytes => {
                let flight = c.flight(step);
                flight.write(ints / 4, words)?;
                encoder.copy_buffer_to_buffer(&flight.upload, ints, &control, 0, bytes);
                encoder
            }
            pending => {
                c.pending = pending;
                c.flush()?;
                gpu.queue.write_buffer(&control, 0, bytemuck::cast_slice(words));
                gpu.device.create_command_encoder(&Default::default())
            }
        };
        let kernel = if sampled.proposes { "unmask" } else { "sample" };
        let pipeline = gpu.pipeline(&Recipe::new(kernel))?;
        let key = (p.at.offset, p.at.bytes, p.at.width);
        if c.sampler.as_ref().is_none_or(|s| s.0 != key) {
            let params = [p.at.width as u32, p.at.stride() as u32];
            c.sampler = Some((key, self.uniform(&params)?));
        }
        let Some((_, uniform)) = &c.sampler else { return Ok(()) };
        let logits = wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: &c.workspace,
            offset: p.at.offset as u64,
            size: std::num::NonZero::new(p.at.bytes as u64),
        });
        let [control, work, picked, last] =
            [&c.control, &c.work, &c.picked, &c.last].map(|b| b.clone());
        let entry = |binding, resource| BindGroupEntry { binding, resource };
        let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.layout,
            entries: &[
                entry(0, uniform.as_entire_binding()),
                entry(1, control.as_entire_binding()),
                entry(2, logits),
                entry(3, work.as_entire_binding()),
                entry(4, picked.as_entire_binding()),
                entry(5, last.as_entire_binding()),
            ],
        });
        if sampled.rows > 0 {
            let mut pass = match &mut c.timer {
                Some(timer) => timer.pass(&mut encoder, SAMPLING),
                None => encoder.begin_compute_pass(&Default::default()),
            };
            pass.set_pipeline(&pipeline.pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(sampled.rows as u32, 1, 1);
            drop(pass);
            if let Some(timer) = &c.timer {
                timer.end(&mut encoder);
            }
        }
        let flight = c.flight(step);
        if sampled.bytes() > 0 {
            encoder.copy_buffer_to_buffer(&picked, 0, &flight.results, 0, sampled.bytes());
        }
        (flight.sampled, flight.fetches) = (Some(sampled), true);
        c.submit_sampling(encoder, step)
    }
}
