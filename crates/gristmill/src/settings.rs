//! How a model shall run: precision, context, threads.

use gristmill_core::DType;
use gristmill_cpu::{CpuOptions, Isa};
use gristmill_engine::{EngineOptions, PageCount};
use gristmill_ir::{Activations, Options, Prefill};
use gristmill_models::arch::KvTypes;

/// How a model shall run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The instruction set and the threads.
    pub cpu: CpuOptions,
    /// How activations reach quantized weights.
    pub activations: Activations,
    /// How numbers of products are multiplied where activations are not int8: F32, or F16 on devices
    /// that do so.
    pub compute: DType,
    /// Whether a GPU may run kernels written in its own language, where `tune` found them faster.
    pub passthrough: bool,
    /// Whether results never depend on how a prompt is cut into steps or on what else is in them;
    /// without, RWKV-7 reads prompts in chunks.
    pub batch_invariant: bool,
    /// How quantized weights meet many tokens at once; `Fast` is not batch invariant.
    pub prefill: Prefill,
    /// How keys and values are stored.
    pub kv: KvTypes,
    /// Tokens of a sequence, prompt and answer; 0: the model's own, or what fits in memory.
    pub context: u32,
    /// Sequences at once.
    pub max_seqs: u32,
    /// Tokens of a prompt that are run at once, at most; 0: as many as suit the engine.
    pub batch: u32,
    /// Whether sequences are run whole, however long: where tokens see what comes after them.
    pub whole: bool,
    /// Whether weights are kept as the processor packs them, for the next start.
    pub pack_cache: bool,
}

impl Default for Settings {
    /// Fast: int8 activations, keys and values in f16, all cores, one sequence.
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        Settings {
            cpu: CpuOptions { isa: Isa::best(), threads, poison: false },
            activations: Activations::Int8,
            compute: DType::F32,
            passthrough: true,
            batch_invariant: true,
            prefill: Prefill::Exact,
            kv: KvTypes { k: DType::F16, v: DType::F16 },
            context: 0,
            max_seqs: 1,
            batch: 0,
            whole: false,
            pack_cache: false,
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
        let most = if self.batch == 0 { defaults.token_budget } else { self.batch };
        EngineOptions {
            context: context.max(2),
            max_seqs: self.max_seqs,
            token_budget: match self.whole {
                true => context.saturating_mul(self.max_seqs).max(least),
                false => context.clamp(least, most.max(least)),
            },
            pages: PageCount::Full,
            options: Options {
                activations: self.activations,
                compute: self.compute,
                batch_invariant: self.batch_invariant && self.prefill == Prefill::Exact,
                prefill: self.prefill,
            },
            ..defaults
        }
    }
}
