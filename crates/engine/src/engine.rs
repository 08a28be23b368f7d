//! The engine: what it owns, and how requests enter and leave it.

use crate::batch::Part;
use crate::generate::InFlight;
use crate::options::EngineOptions;
use crate::pages::Pool;
use crate::request::{Event, Finish, Request, RequestId};
use crate::runner::Runner;
use crate::scheduler::{Candidate, Holding, Limits, Scheduler};
use crate::sequence::{Kept, Memory, Sequence};
use crate::waker::ThreadWaker;

use gristmill_core::{Error, HostTensor, Result};
use gristmill_ir::{
    Backend, Layout, Ledger, Output, Program, Results, Size, StateKind, TensorDecl,
};
use std::collections::VecDeque;

/// Runs requests over one model on one device. See the crate's documentation.
pub struct Engine<B: Backend> {
    pub(crate) options: EngineOptions,
    pub(crate) runner: Runner<B>,
    pub(crate) memory: Memory,
    pub(crate) scheduler: Scheduler,
    /// Sequences by index; `running` and `waiting` hold indices.
    pub(crate) sequences: Vec<Option<Sequence>>,
    /// Oldest first, and all older than any that waits.
    pub(crate) running: Vec<usize>,
    /// Oldest first.
    pub(crate) waiting: VecDeque<usize>,
    /// Least recently used first.
    pub(crate) kept: Vec<Kept>,
    /// Ends to report with the next step.
    pub(crate) ended: Vec<Event>,
    /// Steps launched and not finished, oldest first.
    pub(crate) in_flight: VecDeque<InFlight>,
    pub(crate) scratch: Scratch,
    pub(crate) thread: ThreadWaker,
    pub(crate) counters: Counters,
    next_id: u64,
    vocab: u32,
}

/// Arrays reused from step to step.
#[derive(Default)]
pub(crate) struct Scratch {
    pub candidates: Vec<Candidate>,
    pub holdings: Vec<Holding>,
    pub free: Vec<u32>,
    pub kept: Vec<u32>,
    pub run: Vec<(usize, u32)>,
    pub parts: Vec<Part>,
    /// Lists of finished steps, to be used again.
    pub spare: Vec<InFlight>,
    pub results: Results,
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Counters {
    pub steps: u64,
    pub tokens: u64,
    pub preemptions: u64,
}

/// The pages of one group at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageSnapshot {
    /// Pages in all.
    pub total: u32,
    /// Held by sequences, running or kept.
    pub used: u32,
    /// Given back, but a step in flight may still name them.
    pub resting: u32,
    /// The most ever used at once.
    pub peak: u32,
}

/// What the engine is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Sequences that run.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Sequences kept to be gone on from.
    pub kept: usize,
    /// Pages of each group.
    pub pages: Vec<PageSnapshot>,
    /// Slots, counted like pages.
    pub slots: PageSnapshot,
    /// Steps finished since the start.
    pub steps: u64,
    /// Tokens run since the start, those run again included.
    pub tokens: u64,
    /// Running sequences that lost their pages since the start.
    pub preemptions: u64,
    /// Bytes between host and device since the start.
    pub ledger: Ledger,
}

impl<B: Backend> Engine<B> {
    /// Loads the weights of `program` through `tensor`, allocates everything and compiles the
    /// plans.
    ///
    /// # Errors
    /// [`Error::Usage`] for options that make no sense, [`Error::Device`] for a program that cannot
    /// generate or does not run there, [`Error::Memory`], and what `tensor` returns.
    pub fn new(
        backend: B,
        program: Program,
        tensor: &mut dyn FnMut(&TensorDecl) -> Result<HostTensor>,
        options: EngineOptions,
    ) -> Result<Self> {
        options.validate(&program, &backend.capabilities())?;
        let pages = options.pages(&program)?;
        let recurrent = program.states.iter().any(|s| matches!(s, StateKind::Slot { .. }));
        let slots = options.slots(&program);
        let vocab = program.output_value(Output::Logits).map_or(0, |v| program.shape(v).width);
        let layout = Layout {
            page_tokens: options.page_tokens,
            host_pages: vec![0; pages.len()],
            slots,
            max: Size {
                tokens: options.token_budget,
                seqs: options.max_seqs,
                rows: options.token_budget,
                one_token_a_seq: false,
            },
            in_flight: options.in_flight,
            pages,
        };
        let limits = Limits {
            token_budget: options.token_budget,
            max_seqs: options.max_seqs,
            chunk_multiple: options.chunk_multiple,
            page_tokens: options.page_tokens,
            groups: program.groups.clone(),
        };
        let groups = program.groups.clone();
        let memory = Memory {
            pages: layout.pages.iter().map(|&n| Pool::new(n)).collect(),
            slots: Pool::new(layout.slots),
            page_tokens: options.page_tokens,
            groups,
            recurrent,
        };
        let runner = Runner::new(backend, program, tensor, &layout, &options)?;
        let seqs = options.max_seqs as usize;
        let groups = memory.groups.len();
        let scratch = Scratch {
            candidates: Vec::with_capacity(seqs),
            holdings: Vec::with_capacity(seqs * groups),
            free: Vec::with_capacity(groups),
            kept: Vec::with_capacity(groups),
            run: Vec::with_capacity(seqs),
            parts: Vec::with_capacity(seqs),
            spare: (0..options.in_flight).map(|_| InFlight::new(seqs)).collect(),
            results: Results::default(),
        };
        Ok(Engine {
            runner,
            memory,
            scheduler: Scheduler::new(limits),
            sequences: vec![],
            running: Vec::with_capacity(seqs),
            waiting: VecDeque::new(),
            kept: vec![],
            ended: vec![],
            in_flight: VecDeque::with_capacity(options.in_flight as usize),
            scratch,
            thread: ThreadWaker::default(),
            counters: Counters::default(),
            next_id: 0,
            vocab,
            options,
        })
    }

    /// The bytes of a matrix as the device packed it; see [`Backend::packed`].
    pub fn packed(&self, name: &str) -> Option<&[u8]> {
        self.runner.packed(name)
    }

    /// Queues a request.
    ///
    /// # Errors
    /// [`Error::Device`] for a program that is not causal; [`Error::Usage`] naming the field that
    /// makes no sense, a prompt that leaves no room in the context, or a parent that is not kept;
    /// [`Error::Memory`] for a request that the pages could never hold. A refused request changes
    /// nothing.
    pub fn submit(&mut self, request: Request) -> Result<RequestId> {
        self.check_causal()?;
        let parent = request.parent.map(|p| self.find_parent(p)).transpose()?;
        let before = parent.map_or(0, |(_, len)| len);
        let context = self.options.context as usize;
        request.validate(before, context, self.vocab)?;
        let len = before + request.prompt.len();
        // At most the context, which is a u32.
        let limit = len.saturating_add(request.max_tokens).min(context) as u32;
        let need = self.scheduler.least_pages(limit - 1);
        for (group, (need, pool)) in need.zip(&self.memory.pages).enumerate() {
            if need > pool.total() {
                return Err(Error::Memory(format!(
                    "{len} tokens of prompt and {} to generate need {need} pages of group {group}, \
                     and there are {}; shorten the request or give the KV cache more memory",
                    limit as usize - len,
                    pool.total()
                )));
            }
        }
        let id = RequestId(self.new_id());
        let mut tokens = Vec::with_capacity(len);
        if let Some((at, len)) = parent {
            // Used now: the last to lose its pages.
            let mut kept = self.kept.remove(at);
            tokens.extend_from_slice(&kept.sequence.tokens[..len]);
            kept.children += 1;
            self.kept.push(kept);
        }
        tokens.extend_from_slice(&request.prompt);
        let mut sequence = Sequence::new(id, tokens, limit, self.memory.groups.len());
        sequence.sample_with(request.sampling);
        sequence.stop_ids = request.stop_ids;
        sequence.keep = request.keep;
        sequence.parent = request.parent;
        let free = self.sequences.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.sequences.push(None);
            self.sequences.len() - 1
        });
        self.sequences[index] = Some(sequence);
        self.waiting.push_back(index);
        let live = self.sequences.iter().flatten();
        self.runner.arrays.reserve(live, self.options.max_seqs as usize, self.vocab as usize);
        Ok(id)
    }

    /// A number that no request or sequence had.
    pub(crate) fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// Ends a request; its final event comes with the next step. `false` when there is no such
    /// request (any more).
    pub fn cancel(&mut self, id: RequestId) -> bool {
        let is = |s: &Option<Sequence>| s.as_ref().is_some_and(|s| s.id == id);
        let Some(index) = self.sequences.iter().position(is) else { return false };
        let sequence = self.end(index);
        let finish = Some(Finish::Cancelled);
        self.ended.push(Event { id, token: None, logprob: 0.0, finish, sequence });
        true
    }

    /// Whether there is nothing to run and nothing to report.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty()
            && self.waiting.is_empty()
            && self.in_flight.is_empty()
            && self.ended.is_empty()
    }

    /// The options it was made with.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// The program it runs.
    pub fn program(&self) -> &Program {
        self.runner.program()
    }

    /// Whether what is computed for a text depends on nothing after it, so that it can be continued
    /// token by token.
    pub fn is_causal(&self) -> bool {
        self.program().prefix_closed
    }

    /// # Errors
    /// [`Error::Device`] for a program that cannot be continued token by token.
    pub(crate) fn check_causal(&self) -> Result<()> {
        let program = self.program();
        if program.output_value(Output::Logits).is_some() && program.prefix_closed {
            return Ok(());
        }
        Err(Error::Device(format!(
            "`{}` is not causal: what it computes for a prompt depends on the text after it, so it \
             cannot generate token by token; a masked diffusion fills a text in with `diffuse`",
            program.name
        )))
    }

    /// Token ids are below this.
    pub fn vocab(&self) -> u32 {
        self.vocab
    }

    /// How many sequences hold a page of a group; 0 for a free page or one that does not exist.
    pub fn page_refs(&self, group: usize, page: u32) -> u32 {
        self.memory.pages.get(group).map_or(0, |pool| pool.refs(page))
    }

    /// What it is doing.
    pub fn snapshot(&self) -> Snapshot {
        let of = |p: &Pool| PageSnapshot {
            total: p.total(),
            used: p.used(),
            resting: p.resting(),
            peak: p.peak(),
        };
        Snapshot {
            running: self.running.len(),
            waiting: self.waiting.len(),
            kept: self.kept.iter().filter(|k| !k.released).count(),
            pages: self.memory.pages.iter().map(of).collect(),
            slots: of(&self.memory.slots),
            steps: self.counters.steps,
            tokens: self.counters.tokens,
            preemptions: self.counters.preemptions,
            ledger: self.runner.backend.ledger(&self.runner.context),
        }
    }

    pub(crate) fn seq(&self, index: usize) -> Option<&Sequence> {
        self.sequences.get(index)?.as_ref()
    }
}
