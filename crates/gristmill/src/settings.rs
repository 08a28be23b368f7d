//! How a model shall run: precision, context, threads; and how much context memory allows.

use crate::model::Model;
use crate::work::kv_bytes;
use gristmill_core::{DType, Error, Result};
use gristmill_cpu::{CpuOptions, Isa};
use gristmill_engine::{EngineOptions, PageCount};
use gristmill_ir::{Activations, Options, Program};
use gristmill_models::arch::KvTypes;

/// How a model shall run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The instruction set and the threads.
    pub cpu: CpuOptions,
    /// How activations reach quantized weights.
    pub activations: Activations,
    /// How keys and values are stored.
    pub kv: KvTypes,
    /// Tokens of a sequence, prompt and answer; 0: the model's own, or what fits in memory.
    pub context: u32,
    /// Sequences at once.
    pub max_seqs: u32,
}

impl Default for Settings {
    /// Fast: int8 activations, keys and values in f16, all cores, one sequence.
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        Settings {
            cpu: CpuOptions { isa: Isa::best(), threads, poison: false },
            activations: Activations::Int8,
            kv: KvTypes { k: DType::F16, v: DType::F16 },
            context: 0,
            max_seqs: 1,
        }
    }
}

impl Settings {
    /// As near to the file's numbers as this engine gets: f32 activations, keys and values.
    pub fn exact() -> Settings {
        let kv = KvTypes { k: DType::F32, v: DType::F32 };
        Settings { activations: Activations::F32, kv, ..Settings::default() }
    }

    /// Options of an engine for sequences of `context` tokens.
    pub fn engine_options(&self, context: u32) -> EngineOptions {
        let defaults = EngineOptions::default();
        // A plan's workspace grows with the budget: no larger than a sequence can use.
        let least = self.max_seqs + defaults.chunk_multiple - 1;
        EngineOptions {
            context: context.max(2),
            max_seqs: self.max_seqs,
            token_budget: context.clamp(least, defaults.token_budget.max(least)),
            pages: PageCount::Full,
            options: Options { activations: self.activations, ..Options::default() },
            ..defaults
        }
    }
}

/// The share of free memory that keys and values may take.
const SHARE: f64 = 0.8;

/// A context cut down because memory is short.
#[derive(Clone, Copy, Debug)]
pub struct Capped {
    /// Tokens the model was made for.
    pub wanted: u32,
    /// Tokens that fit.
    pub context: u32,
    /// Bytes free when the weights are loaded.
    pub free: u64,
}

/// The model's own context, or as much of it as fits in 80 % of the memory that is free once the
/// weights are loaded.
///
/// # Errors
/// Those of reading the architecture; [`Error::Memory`] when not even 32 tokens fit.
fn context_that_fits(
    model: &Model,
    program: &Program,
    settings: &Settings,
) -> Result<(u32, Option<Capped>)> {
    let wanted = model.info(settings.kv)?.context_length.max(2);
    let Some(free) = free_beside(model) else { return Ok((wanted, None)) };
    let each = kv_bytes(program) * u64::from(settings.max_seqs);
    let fits = ((free as f64 * SHARE) as u64).checked_div(each).unwrap_or(u64::MAX);
    if fits >= u64::from(wanted) {
        return Ok((wanted, None));
    }
    let context = (fits / 32 * 32) as u32;
    if context == 0 {
        return Err(Error::Memory(format!(
            "{} bytes are free beside the weights, which hold no keys and values of 32 tokens \
             ({each} bytes each); free some memory or take a smaller model",
            free
        )));
    }
    Ok((context, Some(Capped { wanted, context, free })))
}

/// Checks that the keys and values of a context that was asked for fit in free memory.
///
/// # Errors
/// [`Error::Memory`] with both sizes.
fn check_context(model: &Model, program: &Program, context: u32) -> Result<()> {
    let Some(free) = free_beside(model) else { return Ok(()) };
    let need = kv_bytes(program).saturating_mul(context.into());
    if need > free {
        return Err(Error::Memory(format!(
            "a context of {context} tokens needs {} MiB of keys and values, and {} MiB are free \
             beside the weights; ask for less with --ctx-size, or store them in f16",
            need >> 20,
            free >> 20
        )));
    }
    Ok(())
}

/// Bytes that are free once the weights are loaded; `None` where the system does not tell.
fn free_beside(model: &Model) -> Option<u64> {
    let (used, total) = gristmill_cpu::detect::memory();
    (total > 0).then(|| total.saturating_sub(used).saturating_sub(model.tensor_bytes()))
}

impl Model {
    /// The context to run with, as `settings` ask: their own, checked against free memory, or the
    /// model's, cut down to what fits.
    ///
    /// # Errors
    /// [`Error::Memory`] when it does not fit; those of reading the architecture.
    pub fn context(&self, program: &Program, settings: &Settings) -> Result<(u32, Option<Capped>)> {
        match settings.context {
            0 => context_that_fits(self, program, settings),
            n => check_context(self, program, n).map(|()| (n, None)),
        }
    }
}
