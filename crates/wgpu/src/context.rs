//! Everything with a fixed address: states, the workspace, the integers of a step, and the buffers that
//! cross the bus, each made once.

pub(crate) mod flight;

use crate::gpu::Gpu;
use crate::plan::Placed;
use crate::timer::Timer;
use flight::{Flight, Reading};
use gristmill_core::{DType, Error, Result};
use gristmill_gpu::{Integers, control, words_of};
use gristmill_ir::{Layout, Ledger, StateKind};
use std::sync::Arc;
use wgpu::{BindGroup, Buffer, BufferUsages, CommandEncoder};

/// Memory of one state.
pub(crate) struct StateMemory {
    pub buffer: Buffer,
    pub kind: StateKind,
    /// Words of a page or a slot.
    pub words: u32,
}

/// A launched step that has not been submitted yet: sampling still goes into it.
pub(crate) struct Pending {
    pub encoder: CommandEncoder,
    pub step: u64,
}

/// What is known of the latest step.
#[derive(Default)]
pub(crate) struct Latest {
    pub step: u64,
    pub tokens: usize,
    pub seqs: usize,
    pub rows: usize,
    pub placed: Vec<Placed>,
}

/// States, workspace and rings of one engine.
pub struct Context {
    pub(crate) gpu: Arc<Gpu>,
    /// While steps are timed.
    pub(crate) timer: Option<Timer>,
    pub(crate) layout: Layout,
    pub(crate) states: Vec<StateMemory>,
    pub(crate) workspace: Buffer,
    /// The integers of a step, and what follows from them.
    pub(crate) ints: Buffer,
    pub(crate) derived: Buffer,
    /// The last sampled token of each slot, and whether there is one.
    pub(crate) last: Buffer,
    pub(crate) sampled: Vec<bool>,
    /// What sampling is told, its logits after changes, and what came of it.
    pub(crate) control: Buffer,
    pub(crate) work: Buffer,
    pub(crate) picked: Buffer,
    pub(crate) integers: Integers,
    /// Rows written by the host, for each input.
    pub(crate) inputs: [Vec<f32>; 2],
    pub(crate) flights: Vec<Flight>,
    pub(crate) pending: Option<Pending>,
    pub(crate) latest: Latest,
    pub(crate) reading: Option<Reading>,
    pub(crate) step: u64,
    /// Copies to and from host memory so far, and those on their way.
    pub(crate) copies: u64,
    pub(crate) saving: Vec<flight::Saving>,
    pub(crate) host: Vec<Vec<u8>>,
    /// A slot of every state, one after the other.
    pub(crate) host_slot: Vec<u8>,
    /// Bindings of each plan, made anew when a buffer has grown.
    pub(crate) bound: Vec<Option<Vec<BindGroup>>>,
    pub(crate) ledger: Ledger,
    /// Parameters of the copies in each state, and of sampling over some logits.
    pub(crate) movers: Vec<Buffer>,
    pub(crate) sampler: Option<((usize, usize, usize), Buffer)>,
    /// Submissions of steps, to be measured.
    pub(crate) submissions: u64,
    pub(crate) poison: bool,
}

const STORAGE: BufferUsages =
    BufferUsages::STORAGE.union(BufferUsages::COPY_DST).union(BufferUsages::COPY_SRC);

impl Context {
    pub(crate) fn new(
        gpu: &Arc<Gpu>,
        states: &[StateKind],
        layout: &Layout,
        poison: bool,
    ) -> Result<Context> {
        let mut memories = vec![];
        for &kind in states {
            let (words, count) = match kind {
                StateKind::Paged { group, k, v, k_type, v_type } => {
                    let pages = *layout.pages.get(usize::from(group)).ok_or_else(|| {
                        Error::Runtime(format!("no page count for group {group}"))
                    })?;
                    (page_words([k, v], [k_type, v_type], layout)?, pages)
                }
                StateKind::Slot { elems, dtype } => (words_of(dtype, elems), layout.slots),
            };
            let bytes = 4 * u64::from(words) * u64::from(count);
            let buffer = gpu.buffer("the state of a layer", bytes, STORAGE)?;
            memories.push(StateMemory { buffer, kind, words });
        }
        let page_bytes = |g: usize| -> usize {
            let of = |m: &StateMemory| match m.kind {
                StateKind::Paged { group, .. } if usize::from(group) == g => 4 * m.words as usize,
                _ => 0,
            };
            memories.iter().map(of).sum()
        };
        let host = (0..layout.pages.len())
            .map(|g| vec![0; page_bytes(g) * layout.host_pages.get(g).map_or(0, |&n| n as usize)]);
        let host = host.collect();
        let of_slot = |m: &StateMemory| match m.kind {
            StateKind::Slot { .. } => 4 * m.words as usize,
            StateKind::Paged { .. } => 0,
        };
        let host_slot = vec![0; memories.iter().map(of_slot).sum()];
        let integers = Integers::new(layout);
        let ints_words = integers.expected(layout);
        let ints = gpu.buffer("the integers of a step", 4 * ints_words, STORAGE)?;
        let derived_words = (2 + layout.pages.len() as u64) * u64::from(layout.max.tokens.max(1));
        let rows = layout.max.rows.max(1);
        let control_words = u64::from(control::expected(rows));
        let flights = (0..layout.in_flight.max(1) + 1)
            .map(|_| Flight::new(gpu, ints_words + control_words, 12 * u64::from(rows)))
            .collect::<Result<_>>()?;
        let last = gpu.buffer("the last tokens", 4 * u64::from(layout.slots), STORAGE)?;
        Ok(Context {
            timer: None,
            workspace: gpu.buffer("the workspace", 16, STORAGE)?,
            derived: gpu.buffer("the integers of a step", 4 * derived_words, STORAGE)?,
            control: gpu.buffer("the parameters of sampling", 4 * control_words, STORAGE)?,
            work: gpu.buffer("logits to sample", 16, STORAGE)?,
            picked: gpu.buffer("sampled tokens", 12 * u64::from(rows), STORAGE)?,
            gpu: gpu.clone(),
            states: memories,
            ints,
            last,
            sampled: vec![false; layout.slots as usize],
            integers,
            inputs: [vec![], vec![]],
            flights,
            pending: None,
            latest: Latest::default(),
            reading: None,
            step: 0,
            copies: 0,
            saving: vec![],
            host,
            host_slot,
            bound: vec![],
            ledger: Ledger::default(),
            movers: vec![],
            sampler: None,
            submissions: 0,
            layout: layout.clone(),
            poison,
        })
    }

    /// Steps submitted to the device so far: one for each launched step that was sampled or finished.
    pub fn submissions(&self) -> u64 {
        self.submissions
    }

    /// Makes one of the buffers at least so long. Bindings are made anew when it was not.
    pub(crate) fn grow(&mut self, which: Grown, bytes: u64) -> Result<()> {
        let (buffer, what) = match which {
            Grown::Workspace => (&mut self.workspace, "the workspace"),
            Grown::Ints => (&mut self.ints, "the integers of a step"),
            Grown::Control => (&mut self.control, "the parameters of sampling"),
            Grown::Work => (&mut self.work, "logits to sample"),
            Grown::Picked => (&mut self.picked, "sampled tokens"),
        };
        if buffer.size() < bytes {
            self.bound.iter_mut().for_each(|b| *b = None);
            // The old one is given back first, as soon as nothing in flight uses it.
            *buffer = self.gpu.buffer(what, 16, STORAGE)?;
            // The workspace is seen in parts, so only the limit of a buffer holds for it.
            *buffer = match which {
                Grown::Workspace => self.gpu.large_buffer(what, bytes, STORAGE)?,
                _ => self.gpu.buffer(what, bytes, STORAGE)?,
            };
        }
        Ok(())
    }

    /// The flight of a step.
    pub(crate) fn flight(&mut self, step: u64) -> &mut Flight {
        let n = self.flights.len() as u64;
        &mut self.flights[(step % n) as usize]
    }

    pub(crate) fn flight_of(&self, step: u64) -> &Flight {
        &self.flights[(step % self.flights.len() as u64) as usize]
    }

    /// Bytes of a page of a group, every layer.
    pub(crate) fn page_bytes(&self, group: usize) -> usize {
        let of = |m: &StateMemory| match m.kind {
            StateKind::Paged { group: g, .. } if usize::from(g) == group => 4 * m.words as usize,
            _ => 0,
        };
        self.states.iter().map(of).sum()
    }
}

/// Which buffer is to grow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grown {
    Workspace,
    Ints,
    Control,
    Work,
    Picked,
}

/// Words of a page: keys, then values.
fn page_words(widths: [u32; 2], types: [DType; 2], layout: &Layout) -> Result<u32> {
    let mut words = 0u32;
    for (width, dtype) in widths.into_iter().zip(types) {
        let of_page = words_of(dtype, width).checked_mul(layout.page_tokens);
        words = of_page
            .and_then(|n| words.checked_add(n))
            .ok_or_else(|| Error::Memory("a page of that size".into()))?;
    }
    Ok(words)
}
