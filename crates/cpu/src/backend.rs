//! [`Cpu`]: the contract of [`gristmill_ir::Backend`] on processor cores.
//!
//! The host is the device, so a launch runs at once, on the caller and its team: there is nothing
//! to overlap with, and a hand-over to another thread would cost more than a small model's layer.
//! `finish` and `read` therefore always answer at once. What would cross a bus is still counted.

use crate::context::{Context, Placed, StateMemory, piece};
use crate::kernels::logits::Peak;
use crate::kernels::table::Table;
use crate::pack;
use crate::plan::{self, Marks, Plan};
use crate::pool::Pool;
use crate::sample::{self, Candidate, adjust, likelier};
use crate::simd::Isa;
use crate::weights::Weights;
use gristmill_core::{DType, Error, HostTensor, Result, quant};
use gristmill_ir::{
    Backend, Batch, Capabilities, Input, Layout, Ledger, Move, Options, Output, Program, Results,
    Rows, SampleBatch, Size, StateKind, Step, TensorDecl, Times, UNMASK,
};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::task::Waker;
use std::time::Instant;

/// How the backend runs.
#[derive(Clone, Copy, Debug)]
pub struct CpuOptions {
    /// The instruction set.
    pub isa: Isa,
    /// Members of the team, the caller included.
    pub threads: usize,
    /// Fill states and workspace with NaN before use: what is read without having been written
    /// then shows. For tests.
    pub poison: bool,
}

impl CpuOptions {
    /// The best instruction set, or the one that `GRISTMILL_CPU` names, and all cores this process
    /// may use.
    ///
    /// # Errors
    /// [`Error::Device`] when the variable names an instruction set that does not exist or that
    /// this machine does not have.
    pub fn from_env() -> Result<CpuOptions> {
        let isa = match std::env::var("GRISTMILL_CPU") {
            Ok(name) if !name.is_empty() => {
                let names = || Isa::available().map(Isa::name).collect::<Vec<_>>().join(", ");
                let isa = Isa::from_name(&name).filter(|i| i.is_available());
                isa.ok_or_else(|| {
                    Error::Device(format!(
                        "GRISTMILL_CPU={name}: this machine runs {}; unset it for the best",
                        names()
                    ))
                })?
            }
            _ => Isa::best(),
        };
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        Ok(CpuOptions { isa, threads, poison: false })
    }
}

/// The processor as a device.
pub struct Cpu {
    options: CpuOptions,
    table: Table,
    pool: Mutex<Pool>,
}

impl Cpu {
    /// Starts the team.
    ///
    /// # Errors
    /// [`Error::Device`] when the machine does not have the instruction set; [`Error::Io`] when
    /// the system gives no threads.
    pub fn new(options: CpuOptions) -> Result<Cpu> {
        let table = Table::new(options.isa)
            .ok_or_else(|| Error::Device(format!("this machine does not have {}", options.isa)))?;
        let pool = Pool::new(options.threads)
            .map_err(|source| Error::Io { what: "starting worker threads".into(), source })?;
        Ok(Cpu { options, table, pool: Mutex::new(pool) })
    }

    /// How it runs.
    pub fn options(&self) -> &CpuOptions {
        &self.options
    }

    pub(crate) fn pool(&self) -> std::sync::MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Steps that only copy pages are numbered from here, so that launches have numbers in a row.
const COPIES: u64 = 1 << 63;

fn never_began(s: Step) -> Error {
    Error::Runtime(format!("step {} never began", s.0))
}

/// Whether a value lies where a step of this context has put it.
fn placed(c: &Context, output: Output) -> Result<Placed> {
    let found = c.placed.iter().find(|p| p.output == output);
    found
        .copied()
        .ok_or_else(|| Error::Runtime(format!("the plan has no {} to give", output.name())))
}

fn rows_of(c: &Context, p: &Placed) -> Result<usize> {
    Ok(match p.rows {
        Rows::Tokens => c.ints.ids.len(),
        Rows::Wanted => c.ints.rows.len(),
        Rows::Seqs => c.ints.seq_starts.len() - 1,
        Rows::Choices(k) => c.ints.ids.len() * k as usize,
    })
}

fn result<'c>(c: &'c Context, p: &Placed) -> Result<&'c [f32]> {
    let n = rows_of(c, p)? * p.width;
    // SAFETY: the latest step put the result there, and nothing has run since.
    Ok(unsafe { std::slice::from_raw_parts(c.workspace.ptr().add(p.offset).cast(), n) })
}

impl Backend for Cpu {
    type Weights = Weights;
    type Context = Context;
    type Plan = Plan;

    fn capabilities(&self) -> Capabilities {
        let o = &self.options;
        Capabilities {
            name: format!("{} with {} threads", o.isa, o.threads),
            compute: vec![DType::F32],
            weights: DType::all().filter(|&d| quant::is_supported(d)).collect(),
            kv: vec![DType::F32, DType::F16, DType::BF16],
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
        Weights::load(self.options.isa, &mut self.pool(), uses, tensor)
    }

    fn create(&self, states: &[StateKind], layout: &Layout) -> Result<Context> {
        if !layout.page_tokens.is_power_of_two() || !(32..=512).contains(&layout.page_tokens) {
            return Err(Error::Usage(format!(
                "a page of {} tokens: the cpu backend takes 32, 64, 128, 256 or 512",
                layout.page_tokens
            )));
        }
        Context::new(states, layout, self.options.poison)
    }

    fn compile(
        &self,
        program: &Program,
        weights: &Weights,
        context: &mut Context,
        size: Size,
        options: &Options,
    ) -> Result<Plan> {
        let members = self.options.threads.max(1);
        let plan = Plan::compile(program, weights, context, size, options, self.table, members)?;
        context.grow(plan.workspace)?;
        context.placed.clear(); // the workspace may be another
        context.placed.reserve(plan.placed.len());
        if let Some(logits) = program.output_value(Output::Logits) {
            let vocab = program.shape(logits).width as usize;
            context.candidates.reserve(vocab);
            context.adjusted.reserve(vocab);
        }
        Ok(plan)
    }

    fn launch(&self, p: &Plan, c: &mut Context, b: &Batch<'_>) -> Result<Step> {
        let (tokens, rows) = (b.tokens.len(), b.rows.len());
        let seqs = b.seq_starts.len().saturating_sub(1);
        let most = p.size;
        if tokens > most.tokens as usize || rows > most.rows as usize || seqs > most.seqs as usize {
            return Err(Error::Runtime(format!(
                "a batch of {tokens} tokens, {seqs} sequences and {rows} rows is above {most:?}"
            )));
        }
        // Should this step be refused, there is no latest result any more.
        c.placed.clear();
        c.apply(b.moves)?;
        c.ints.fill(b, &c.layout, p, &c.last)?;
        p.check(&c.ints, &c.inputs)?;
        if c.poison {
            c.workspace.as_mut_slice().fill(0xFF);
        }
        if let Some(marks) = &mut c.marks {
            marks.ends.resize_with(p.nodes(), AtomicU64::default);
            marks.began = Instant::now();
        }
        let step = plan::step(c);
        // SAFETY: `compile` grew the workspace for the plan, the integers were just checked
        // against its bounds, and the pool runs it on every member.
        self.pool().run(|team| unsafe { p.run(&step, team) });
        c.placed.extend_from_slice(&p.placed);
        c.ledger.ids += b.bytes();
        let step = c.next_step();
        let (number, results) = c.results_of(step);
        *number = step.0;
        results.picked.clear();
        results.top.clear();
        results.wanted.clear();
        if let Some(marks) = &c.marks {
            let ends = marks.ends.iter().map(|end| end.load(Relaxed)).collect();
            c.times.push((step.0, Times { ends, sampling: 0 }));
        }
        Ok(step)
    }

    fn sample(&self, c: &mut Context, s: Step, b: &SampleBatch<'_>) -> Result<()> {
        let p = placed(c, Output::Logits)?;
        if s.0 != c.step {
            return Err(Error::Runtime("only the latest step can be sampled here".into()));
        }
        let rows = rows_of(c, &p)?;
        b.check(rows, p.width, c.last.len())?;
        let began = c.marks.as_ref().map(|_| Instant::now());
        let mut candidates = std::mem::take(&mut c.candidates);
        let mut adjusted = std::mem::take(&mut c.adjusted);
        let mut out = std::mem::take(c.results_of(s));
        out.1.picked.clear();
        out.1.top.clear();
        out.1.wanted.clear();
        let done = self.sample_rows(c, &p, b, &mut adjusted, &mut candidates, &mut out.1);
        *c.results_of(s) = out;
        (c.candidates, c.adjusted) = (candidates, adjusted);
        done?;
        if let (Some(began), Some((_, times))) = (began, c.times.last_mut()) {
            times.sampling = began.elapsed().as_nanos() as u64;
        }
        c.ledger.control += b.bytes();
        Ok(())
    }

    fn finish(&self, c: &mut Context, s: Step, out: &mut Results, _: &Waker) -> Result<bool> {
        out.picked.clear();
        out.top.clear();
        out.wanted.clear();
        if let Some(copy) = s.0.checked_sub(COPIES) {
            // Copies have nothing to give and were done at once.
            return if copy <= c.copies { Ok(true) } else { Err(never_began(s)) };
        }
        if s.0 == 0 || s.0 > c.step {
            return Err(never_began(s));
        }
        let held = c.results_of(s);
        if held.0 != s.0 {
            return Err(Error::Runtime(format!("step {} is no longer in flight", s.0)));
        }
        out.picked.extend_from_slice(&held.1.picked);
        out.top.extend_from_slice(&held.1.top);
        out.wanted.extend_from_slice(&held.1.wanted);
        c.ledger.results += out.bytes();
        Ok(true)
    }

    fn read(
        &self,
        c: &mut Context,
        s: Step,
        output: Output,
        out: &mut Vec<f32>,
        _: &Waker,
    ) -> Result<bool> {
        if s.0 != c.step {
            return Err(Error::Runtime("only the latest step can be read".into()));
        }
        let p = placed(c, output)?;
        out.clear();
        out.extend_from_slice(result(c, &p)?);
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
        self.swap(c, moves, true)
    }

    fn restore(&self, c: &mut Context, moves: &[Move]) -> Result<Step> {
        self.swap(c, moves, false)
    }

    fn host_page<'c>(&self, c: &'c mut Context, group: u8, page: u32) -> &'c mut [u8] {
        let bytes: usize = c.states.iter().map(|s| s.page_bytes(group.into())).sum();
        let Some(pages) = c.host.get_mut(usize::from(group)) else { return &mut [] };
        match piece(pages, page, bytes) {
            Some(at) => &mut pages.as_mut_slice()[at],
            None => &mut [],
        }
    }

    fn host_slot<'c>(&self, c: &'c mut Context) -> &'c mut [u8] {
        c.host_slot.as_mut_slice()
    }

    fn profile(&self, c: &mut Context, on: bool) -> Result<()> {
        c.marks = on.then(|| Marks { began: Instant::now(), ends: vec![] });
        c.times.clear();
        Ok(())
    }

    fn times(&self, c: &mut Context, s: Step) -> Times {
        let at = c.times.iter().position(|(step, _)| *step == s.0);
        at.map_or_else(Times::default, |at| c.times.remove(at).1)
    }

    fn packed_form(&self) -> Option<String> {
        pack::form(self.options.isa)
    }

    fn packed<'w>(&self, weights: &'w Weights, name: &str) -> Option<&'w [u8]> {
        weights.packed(name)
    }

    fn memory(&self) -> (u64, u64) {
        crate::detect::memory()
    }

    fn ledger(&self, c: &Context) -> Ledger {
        c.ledger
    }
}

impl Cpu {
    /// The logits of a row as they are sampled, and their largest and sum.
    fn row<'a>(
        &self,
        logits: &'a [f32],
        vocab: usize,
        row: usize,
        b: &SampleBatch<'_>,
        adjusted: &'a mut Vec<f32>,
    ) -> Result<(&'a [f32], Peak)> {
        let values = adjust(row, |r| &logits[r * vocab..][..vocab], b, adjusted);
        // SAFETY: the row holds the vocabulary, and the table is of this machine.
        let peak = unsafe { (self.table.peak)(values.as_ptr(), vocab) };
        if peak.max == f32::NEG_INFINITY {
            return Err(Error::Runtime(format!(
                "masks and logit bias forbid every token of row {row}"
            )));
        }
        if !peak.log_sum.is_finite() {
            return Err(Error::Runtime(format!(
                "the logits of row {row} are not finite: the model or its file is damaged"
            )));
        }
        Ok((values, peak))
    }

    /// Samples every row of the latest logits.
    fn sample_rows(
        &self,
        c: &mut Context,
        p: &Placed,
        b: &SampleBatch<'_>,
        adjusted: &mut Vec<f32>,
        candidates: &mut Vec<Candidate>,
        out: &mut Results,
    ) -> Result<()> {
        let vocab = p.width;
        out.wanted.resize(b.want.len(), 0.0);
        for u in b.unmask {
            let logits = result(c, p)?;
            let (values, peak) = self.row(logits, vocab, u.row as usize, b, adjusted)?;
            out.picked.push(sample::propose(values, peak, u, candidates));
        }
        for (row, params) in b.params.iter().enumerate() {
            let logits = result(c, p)?;
            let (values, peak) = self.row(logits, vocab, row, b, adjusted)?;
            let picked = sample::pick(values, peak, params, candidates);
            for (&(r, token), wanted) in b.want.iter().zip(&mut out.wanted) {
                if r as usize == row {
                    *wanted = values[token as usize] - peak.log_sum;
                }
            }
            if b.top_logprobs > 0 {
                candidates.clear();
                candidates.extend(values.iter().enumerate().map(|(i, &l)| (l, i as u32)));
                let n = (b.top_logprobs as usize).min(vocab);
                if n < vocab {
                    candidates.select_nth_unstable_by(n, likelier);
                }
                candidates.truncate(n);
                candidates.sort_unstable_by(likelier);
                out.top.extend(candidates.iter().map(|&(l, i)| (i, l - peak.log_sum)));
            }
            out.picked.push(picked);
            if let Some(&slot) = b.slots.get(row)
                && slot != u32::MAX
            {
                c.last[slot as usize] = picked.id;
            }
        }
        Ok(())
    }

    /// Copies pages and slots to (`out`) or from host memory.
    fn swap(&self, c: &mut Context, moves: &[Move], out: bool) -> Result<Step> {
        let missing = || Error::Runtime("a page to swap does not exist".into());
        for m in moves {
            let (group, from, to) = match *m {
                Move::Page { group, from, to } => (group, from, to),
                Move::Slot { from, to } => {
                    let (slot, host) = if out { (from, to) } else { (to, from) };
                    if host != 0 {
                        return Err(Error::Runtime("host memory has one slot, number 0".into()));
                    }
                    c.swap_slot(slot, out)?;
                    continue;
                }
                Move::Row { .. } => {
                    return Err(Error::Runtime("single rows are not swapped".into()));
                }
            };
            let (device, host) = if out { (from, to) } else { (to, from) };
            let g = usize::from(group);
            let whole: usize = c.states.iter().map(|s| s.page_bytes(g)).sum();
            let Context { states, host: hosts, .. } = &mut *c;
            let held = hosts.get_mut(g).ok_or_else(missing)?;
            let held_at = piece(held, host, whole).ok_or_else(missing)?;
            let mut held = &mut held.as_mut_slice()[held_at];
            for s in states {
                let StateMemory::Paged { group, k, v, k_page, v_page, .. } = s else { continue };
                if *group != g {
                    continue;
                }
                for (pages, bytes) in [(k, *k_page), (v, *v_page)] {
                    let at = piece(pages, device, bytes).ok_or_else(missing)?;
                    let page = &mut pages.as_mut_slice()[at];
                    // The parts of a page lie one after the other.
                    let (part, rest) = held.split_at_mut(bytes);
                    held = rest;
                    if out { part.copy_from_slice(page) } else { page.copy_from_slice(part) }
                }
            }
        }
        c.copies += 1;
        Ok(Step(COPIES + c.copies))
    }
}
