//! What a device must offer.
//!
//! [`Backend::load`] takes weights once, [`Backend::create`] allocates everything with a fixed
//! address, [`Backend::compile`] turns a program into an immutable plan, and from then on a step is
//! [`Backend::launch`], [`Backend::sample`], [`Backend::finish`]: integers in, integers out.

use crate::op::Input;
use crate::program::{Output, Program, StateKind, TensorDecl};
use crate::sample::{Picked, SampleBatch};
use gristmill_core::{DType, Error, HostTensor, Result};
use std::task::Waker;

/// `Send` natively; nothing in the browser, where GPU handles cannot leave their thread.
#[cfg(not(target_family = "wasm"))]
pub trait MaybeSend: Send {}
#[cfg(not(target_family = "wasm"))]
impl<T: Send> MaybeSend for T {}
/// `Send` natively; nothing in the browser, where GPU handles cannot leave their thread.
#[cfg(target_family = "wasm")]
pub trait MaybeSend {}
#[cfg(target_family = "wasm")]
impl<T> MaybeSend for T {}

/// In what precision activations reach a quantized matmul.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activations {
    /// Blocks of 32 eight-bit integers with a scale: fast.
    Int8,
    /// As computed: exact to the compute precision.
    F32,
}

/// How programs are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Options {
    /// Precision of values between operations: F32, F16 or BF16.
    pub compute: DType,
    /// Precision of activations entering quantized matmuls.
    pub activations: Activations,
    /// Results of a sequence do not depend on what else is in the batch, on the chunking of its
    /// prompt or on the number of threads.
    pub batch_invariant: bool,
    /// How quantized weights meet many tokens at once.
    pub prefill: Prefill,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            compute: DType::F32,
            activations: Activations::Int8,
            batch_invariant: true,
            prefill: Prefill::Exact,
        }
    }
}

/// How quantized weights meet many tokens at once, where activations are int8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Prefill {
    /// With every scale that the file has: as in decoding.
    Exact,
    /// A device that gains by it may round weights and activations once more, to eight bits with a
    /// scale for each 256. Results then depend on how a prompt is cut: not batch invariant.
    Fast,
}

/// Upper bounds of a step: they size grids and workspace, kernels read the actual counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Size {
    /// Tokens in all sequences together.
    pub tokens: u32,
    /// Sequences.
    pub seqs: u32,
    /// Tokens whose outputs are wanted.
    pub rows: u32,
    /// Whether every sequence has one token: decoding.
    pub one_token_a_seq: bool,
}

/// Everything in a [`Backend::Context`] with a fixed address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Tokens of a page.
    pub page_tokens: u32,
    /// Pages of each group on the device.
    pub pages: Vec<u32>,
    /// Pages of each group in host memory, for swapping.
    pub host_pages: Vec<u32>,
    /// Slots of recurrent state and of last-sampled tokens.
    pub slots: u32,
    /// The largest step.
    pub max: Size,
    /// Steps that may be launched before the first is finished.
    pub in_flight: u32,
}

/// What a device can do, for the capability check and the choice of device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// One line for people: the processor or adapter and the level in use.
    pub name: String,
    /// Precisions of [`Options::compute`] that run.
    pub compute: Vec<DType>,
    /// Weight formats that run.
    pub weights: Vec<DType>,
    /// Types of stored keys and values that run.
    pub kv: Vec<DType>,
    /// `page_tokens` must be a multiple of this.
    pub page_multiple: u32,
    /// Names of operations that run ([`crate::Op::name`]), and [`UNMASK`] where tokens are proposed
    /// for masked places.
    pub ops: Vec<&'static str>,
}

/// The name in [`Capabilities::ops`] of what [`crate::SampleBatch::unmask`] asks for.
pub const UNMASK: &str = "unmask";

/// A token to run: an id, or the one a slot sampled last, which may still be on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// A vocabulary id.
    Id(u32),
    /// The last token sampled for this slot.
    Last(u32),
}

/// A copy before the step, in stream order: copy-on-write, tree compaction, checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Keys and values of one token, every layer of the group; rows are `page · page_tokens + i`.
    Row {
        /// The page group.
        group: u8,
        /// Source row.
        from: u32,
        /// Destination row.
        to: u32,
    },
    /// A whole page, every layer of the group.
    Page {
        /// The page group.
        group: u8,
        /// Source page.
        from: u32,
        /// Destination page.
        to: u32,
    },
    /// Every slot state.
    Slot {
        /// Source slot.
        from: u32,
        /// Destination slot.
        to: u32,
    },
}

/// A step: integers only. Arrays over tokens have one entry a token, and so on; those that a model
/// does not use may be empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batch<'a> {
    /// Copies before anything runs.
    pub moves: &'a [Move],

    /// What to run; the tokens of a sequence are contiguous.
    pub tokens: &'a [Token],
    /// Token types (BERT); empty: 0.
    pub types: &'a [u32],
    /// Positions for the rotation or the position table; three for M-RoPE, else the first counts.
    pub positions: &'a [[u32; 3]],
    /// Where the keys and values of the token go: its logical index in its sequence.
    pub kv_index: &'a [u32],
    /// The logical indices `[from, to)` that the token sees, before any window. Causal: own index
    /// + 1; bidirectional: the length; block diffusion: the end of the block.
    pub visible: &'a [[u32; 2]],
    /// Tree attention: which of the keys from `tree_base` on are ancestors (or the token itself),
    /// a bit each. Empty: no tree.
    pub ancestors: &'a [u64],

    /// First token of each sequence, and the number of tokens at the end: `seqs + 1` entries.
    pub seq_starts: &'a [u32],
    /// Keys of each sequence once this step's are written.
    pub kv_len: &'a [u32],
    /// Logical index where the tree of each sequence begins. Empty: no tree.
    pub tree_base: &'a [u32],
    /// Slot where the sampled token of each sequence is kept.
    pub slots: &'a [u32],
    /// Slot that recurrent state is read from; `u32::MAX` starts from zero.
    pub state_in: &'a [u32],
    /// Slot that recurrent state is written to; it may be the same.
    pub state_out: &'a [u32],
    /// Adapter of each sequence. Empty: none.
    pub adapters: &'a [u32],
    /// Diffusion times `[now, next]` of each sequence. Empty: not a diffusion program.
    pub times: &'a [[u32; 2]],
    /// Key of the noise of each sequence, see [`crate::Op::Denoise`]. Empty: 0.
    pub seeds: &'a [u64],
    /// Page tables of all (group, sequence) pairs, one after the other: entry `i` of a table is the
    /// page of the keys `i · page_tokens ..`. `u32::MAX` where that page is wholly out of the
    /// group's window and was given back: nothing reads it.
    pub pages: &'a [u32],
    /// Where each begins: entry `group · seqs + sequence`, and the end: `groups · seqs + 1`.
    pub page_starts: &'a [u32],

    /// Tokens (indices into `tokens`) whose outputs are wanted, in order.
    pub rows: &'a [u32],
}

impl Batch<'_> {
    /// Bytes that cross for it: class `ids` of the [`Ledger`].
    pub fn bytes(&self) -> u64 {
        let words = self.tokens.len() * (1 + 3 + 1 + 2)
            + self.types.len()
            + 2 * self.ancestors.len()
            + self.seq_starts.len()
            + self.kv_len.len()
            + self.tree_base.len()
            + self.slots.len()
            + self.state_in.len()
            + self.state_out.len()
            + self.adapters.len()
            + 2 * self.times.len()
            + 2 * self.seeds.len()
            + self.pages.len()
            + self.page_starts.len()
            + self.rows.len()
            + 3 * self.moves.len();
        4 * words as u64
    }

    /// Checks that sequences divide the tokens, that arrays have the lengths they must have, and that the
    /// wanted rows are tokens: what holds for every device and model.
    ///
    /// # Errors
    /// [`Error::Runtime`] for the first of these that does not hold.
    pub fn check_arrays(&self) -> Result<()> {
        let tokens = self.tokens.len();
        let seqs = self.seq_starts.len().saturating_sub(1);
        let starts_ok = self.seq_starts.first() == Some(&0)
            && self.seq_starts.last() == Some(&(tokens as u32))
            && self.seq_starts.windows(2).all(|w| w[0] < w[1]);
        if tokens == 0 || !starts_ok {
            return Err(bad("seq_starts do not divide the tokens"));
        }
        let optional = |n: usize| n == 0 || n == tokens;
        if self.positions.len() != tokens
            || self.kv_index.len() != tokens
            || self.visible.len() != tokens
            || !optional(self.types.len())
            || !optional(self.ancestors.len())
        {
            return Err(bad("an array over tokens has another length"));
        }
        let tree_ok = self.tree_base.is_empty() || self.tree_base.len() == seqs;
        if self.kv_len.len() != seqs || !tree_ok {
            return Err(bad("an array over sequences has another length"));
        }
        if self.rows.iter().any(|&r| r as usize >= tokens) {
            return Err(bad("a wanted row is no token"));
        }
        Ok(())
    }

    /// Checks that every sequence has a state slot of its own to write, which no other reads. `writers` has
    /// an entry for each slot, to work in: afterwards the sequence that writes it, or `u32::MAX`.
    ///
    /// # Errors
    /// [`Error::Runtime`] naming the slot.
    pub fn check_slots(&self, writers: &mut [u32]) -> Result<()> {
        let seqs = self.kv_len.len();
        if self.state_in.len() != seqs || self.state_out.len() != seqs {
            return Err(bad("an array of state slots has another length than the sequences"));
        }
        let missing = |slot: u32| Err(bad(format!("state slot {slot} does not exist")));
        writers.fill(u32::MAX);
        for (s, &slot) in self.state_out.iter().enumerate() {
            match writers.get_mut(slot as usize) {
                Some(writer) if *writer == u32::MAX => *writer = s as u32,
                Some(_) => return Err(bad(format!("two sequences write state slot {slot}"))),
                None => return missing(slot),
            }
        }
        for (s, &slot) in self.state_in.iter().enumerate().filter(|s| *s.1 != u32::MAX) {
            match writers.get(slot as usize) {
                Some(&writer) if writer == u32::MAX || writer == s as u32 => {}
                Some(_) => {
                    return Err(bad(format!("state slot {slot} is read and written by two")));
                }
                None => return missing(slot),
            }
        }
        Ok(())
    }
}

fn bad(what: impl Into<String>) -> Error {
    Error::Runtime(format!("batch: {}", what.into()))
}

/// A launched step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Step(pub u64);

/// What came back from a step.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// One a row sampled.
    pub picked: Vec<Picked>,
    /// `top_logprobs` (token, log-probability) pairs a row.
    pub top: Vec<(u32, f32)>,
    /// One for each `want`.
    pub wanted: Vec<f32>,
}

impl Results {
    /// Bytes that crossed for them: class `results` of the [`Ledger`].
    pub fn bytes(&self) -> u64 {
        let Results { picked, top, wanted } = self;
        (size_of_val(&picked[..]) + size_of_val(&top[..]) + size_of_val(&wanted[..])) as u64
    }
}

/// How long a step took, by operation; see [`Backend::profile`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// When each operation of the program ended, in order: nanoseconds since the step began.
    pub ends: Vec<u64>,
    /// Nanoseconds of sampling, which follows them.
    pub sampling: u64,
}

/// Bytes that crossed between host and device since the context was created, by class. "Only
/// integers cross" means: these formulas, and nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Up: token ids, positions, indices, ranges, page ids, moves. 4 bytes each.
    pub ids: u64,
    /// Up: sampling parameters, masks, bias.
    pub control: u64,
    /// Down: at most 12 bytes a sampled row, plus log-probabilities asked for.
    pub results: u64,
    /// Down: vectors asked for by [`Backend::read`].
    pub vectors: u64,
    /// Up: hidden states at a cut, embeddings in place of ids.
    pub boundary: u64,
}

/// A device, or a group of them.
///
/// Everything only enqueues, except that a device which is the host itself may run at once.
/// `finish` and `read` never block: they answer whether the step has ended, and if not, wake the
/// caller when it has.
pub trait Backend: Sized + MaybeSend + 'static {
    /// One copy, shared by every program and plan of a model.
    type Weights: Clone + MaybeSend;
    /// States, one workspace, rings: everything with a fixed address.
    type Context: MaybeSend;
    /// An immutable compiled program; owns no buffer.
    type Plan: MaybeSend;

    /// What runs here.
    fn capabilities(&self) -> Capabilities;

    /// Packs every weight that an operation of `uses` names, for all its uses together.
    ///
    /// # Errors
    /// Whatever `tensor` returns, and [`gristmill_core::Error::Model`] for a format or shape that
    /// does not run here.
    fn load(
        &self,
        uses: &[&Program],
        tensor: &mut dyn FnMut(&TensorDecl) -> Result<HostTensor>,
        options: &Options,
    ) -> Result<Self::Weights>;

    /// Allocates states and rings.
    ///
    /// # Errors
    /// [`gristmill_core::Error::Memory`] with the size that did not fit.
    fn create(&self, states: &[StateKind], layout: &Layout) -> Result<Self::Context>;

    /// Compiles a program for steps up to `size`; grows the context's workspace if need be.
    ///
    /// # Errors
    /// [`gristmill_core::Error::Device`] naming an operation or format that does not run here.
    fn compile(
        &self,
        program: &Program,
        weights: &Self::Weights,
        context: &mut Self::Context,
        size: Size,
        options: &Options,
    ) -> Result<Self::Plan>;

    /// Runs a step.
    ///
    /// # Errors
    /// [`gristmill_core::Error::Runtime`] for a batch above the plan's bounds or with an index
    /// that does not exist.
    fn launch(&self, p: &Self::Plan, c: &mut Self::Context, b: &Batch<'_>) -> Result<Step>;

    /// Samples the wanted rows of a launched step; sets the last token of their slots.
    ///
    /// # Errors
    /// [`gristmill_core::Error::Runtime`] for a step without logits, an index that does not exist
    /// or a row of which no token is left; [`gristmill_core::Error::Usage`] for parameters out of
    /// range.
    fn sample(&self, c: &mut Self::Context, s: Step, b: &SampleBatch<'_>) -> Result<()>;

    /// Fetches what was sampled; `false` when it is not there yet. Every launched step is finished
    /// once, in the order of launches, also one of which nothing was sampled; what [`Backend::read`]
    /// fetches is read before.
    ///
    /// # Errors
    /// [`gristmill_core::Error::Runtime`] when the device failed.
    fn finish(
        &self,
        c: &mut Self::Context,
        s: Step,
        out: &mut Results,
        wake: &Waker,
    ) -> Result<bool>;

    /// Fetches a whole result of the latest step, row after row; `false` when it is not there yet.
    ///
    /// # Errors
    /// [`gristmill_core::Error::Runtime`] when the plan has no such result.
    fn read(
        &self,
        c: &mut Self::Context,
        s: Step,
        output: Output,
        out: &mut Vec<f32>,
        wake: &Waker,
    ) -> Result<bool>;

    /// Sets rows of an input for the next step: cut programs, vision.
    ///
    /// # Errors
    /// [`gristmill_core::Error::Runtime`] when more rows come than the largest step holds.
    fn write(&self, c: &mut Self::Context, input: Input, rows: &[f32]) -> Result<()>;

    /// Copies pages or slots to host memory, in stream order.
    ///
    /// # Errors
    /// [`gristmill_core::Error::Runtime`] for a page or slot that does not exist.
    fn save(&self, c: &mut Self::Context, device_to_host: &[Move]) -> Result<Step>;

    /// Copies pages or slots back from host memory, in stream order.
    ///
    /// # Errors
    /// [`gristmill_core::Error::Runtime`] for a page or slot that does not exist.
    fn restore(&self, c: &mut Self::Context, host_to_device: &[Move]) -> Result<Step>;

    /// The bytes of a host page of a group, every layer; valid once its save has finished.
    fn host_page<'c>(&self, c: &'c mut Self::Context, group: u8, page: u32) -> &'c mut [u8];

    /// The host's copy of a slot, every state in the order of the program: what [`Backend::save`]
    /// of a [`Move::Slot`] to slot 0 of the host has filled, once that has finished, and what
    /// [`Backend::restore`] from there takes. There is one, and none where nothing has a slot.
    fn host_slot<'c>(&self, c: &'c mut Self::Context) -> &'c mut [u8] {
        _ = c;
        &mut []
    }

    /// Whether steps launched from now on note how long their operations take.
    ///
    /// # Errors
    /// [`gristmill_core::Error::Device`] where operations cannot be timed.
    fn profile(&self, c: &mut Self::Context, on: bool) -> Result<()> {
        _ = c;
        match on {
            true => Err(Error::Device("this device does not time operations".into())),
            false => Ok(()),
        }
    }

    /// What a finished step noted, before another is launched in its place; nothing where none was
    /// asked for.
    fn times(&self, c: &mut Self::Context, s: Step) -> Times {
        _ = (c, s);
        Times::default()
    }

    /// What this device calls the order in which its weights lie, where they can be kept in that order
    /// and given to [`Backend::load`] again ([`HostTensor::packed`]); it changes with the order.
    fn packed_form(&self) -> Option<String> {
        None
    }

    /// The bytes of a matrix in that order.
    fn packed<'w>(&self, weights: &'w Self::Weights, name: &str) -> Option<&'w [u8]> {
        _ = (weights, name);
        None
    }

    /// Bytes used and available on the device.
    fn memory(&self) -> (u64, u64);

    /// What crossed since the context was created.
    fn ledger(&self, c: &Self::Context) -> Ledger;
}
