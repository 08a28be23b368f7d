//! The memory plan: what a model takes, and how much context that leaves.
//!
//! Made before anything is allocated, from the program and the file's own sizes. A context that
//! was asked for is refused where it does not fit in free memory. One that was not is the model's
//! own, or what fits in [`SHARE`] of free memory where that is less; never below [`FLOOR`] where
//! all of free memory holds that, and never silently.

use crate::model::Model;
use crate::settings::Settings;
use gristmill_core::{Error, Result};
use gristmill_engine::Need;
use gristmill_ir::{Program, TensorDecl};
use std::fmt::{self, Display};

/// The share of free memory that a context nobody asked for may fill, with everything else.
pub const SHARE: f64 = 0.8;
/// Tokens below which such a context falls only where even all of free memory does not hold them.
pub const FLOOR: u32 = 4096;
/// The longest context that is planned for.
const LONGEST: u32 = 1 << 24;
/// Contexts that are chosen here are multiples of this, and at least this.
const STEP: u32 = 32;

/// What a model takes, what there is, and the context that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Bytes that will be taken.
    pub need: Need,
    /// Bytes that are free; `None` where the system does not tell.
    pub free: Option<u64>,
    /// Tokens of a sequence.
    pub context: u32,
    /// Tokens the model was made for.
    pub model_context: u32,
    /// Tokens that fit in [`SHARE`] of free memory; `None` where that is not known, and for a model
    /// whose memory does not grow with the context.
    pub fits: Option<u32>,
    /// Whether the context was asked for.
    pub asked: bool,
}

impl MemoryPlan {
    /// What must be said even to those who want to hear nothing: a short context nobody asked for.
    pub fn warning(&self) -> Option<String> {
        let short = self.context < FLOOR && self.context < self.model_context && !self.asked;
        short.then(|| {
            format!(
                "warning: memory is short, so the context is {} tokens: the model's is {}, and \
                 {SHARE_OF_FREE} holds {}; free some memory, or choose with --ctx-size",
                self.context,
                self.model_context,
                self.fits.unwrap_or(0)
            )
        })
    }
}

const SHARE_OF_FREE: &str = "80 % of free memory";

/// One line: `memory: weights A + cache B + workspace C = D of E free; context N (the model's M, 80 %
/// of free memory holds K)`.
impl Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory: {}", Sizes(&self.need))?;
        match self.free {
            Some(free) => write!(f, " of {} free", Size(free))?,
            None => write!(f, ", of how much is not known")?,
        }
        write!(f, "; context {}", self.context)?;
        let asked = if self.asked { "asked for, " } else { "" };
        write!(f, " ({asked}the model's {}", self.model_context)?;
        match self.fits {
            Some(n) => write!(f, ", {SHARE_OF_FREE} holds {n})"),
            None => write!(f, ")"),
        }
    }
}

/// `weights A + cache B + workspace C = D`.
struct Sizes<'n>(&'n Need);

impl Display for Sizes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Need { weights, states, workspace } = *self.0;
        let (w, s, x) = (Size(weights), Size(states), Size(workspace));
        write!(f, "weights {w} + cache {s} + workspace {x} = {}", Size(self.0.total()))
    }
}

/// Bytes in MiB.
struct Size(u64);

impl Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} MiB", self.0 as f64 / f64::from(1 << 20))
    }
}

impl Model {
    /// The plan for `settings`, with the outputs of at most `rows` tokens read in a step.
    ///
    /// # Errors
    /// [`Error::Memory`] with the numbers and the way out: for a context that was asked for and
    /// does not fit, and for a model that does not fit with even [`STEP`] tokens. Those of reading
    /// the architecture.
    pub fn memory_plan(
        &self,
        program: &Program,
        settings: &Settings,
        rows: u32,
    ) -> Result<MemoryPlan> {
        let (used, total) = gristmill_cpu::detect::memory();
        let free = (total > 0).then(|| total.saturating_sub(used));
        self.memory_plan_in(program, settings, rows, free)
    }

    /// [`Model::memory_plan`] where so many bytes are free.
    ///
    /// # Errors
    /// As [`Model::memory_plan`].
    pub fn memory_plan_in(
        &self,
        program: &Program,
        settings: &Settings,
        rows: u32,
        free: Option<u64>,
    ) -> Result<MemoryPlan> {
        let stored =
            |d: &TensorDecl| self.gguf().tensor_info(&d.name).map_or(0, |t| t.bytes as u64);
        let need = |context: u32| settings.engine_options(context).need(program, &stored, rows);
        let model_context = self.info(settings.kv)?.context_length.max(2);
        let share = |free: u64| (free as f64 * SHARE) as u64;
        let fits = match free {
            Some(free) => largest(LONGEST, &|n| Ok(need(n)?.total() <= share(free)))?,
            None => LONGEST,
        };
        let plan = |context: u32, asked: bool| -> Result<MemoryPlan> {
            let fits = (fits < LONGEST).then_some(fits);
            Ok(MemoryPlan { need: need(context)?, free, context, model_context, fits, asked })
        };
        if settings.context > 0 {
            let plan = plan(settings.context, true)?;
            return match free {
                Some(free) if plan.need.total() > free => Err(Error::Memory(format!(
                    "a context of {} tokens does not fit: {}, and {} are free, 80 % of which hold \
                     {fits} tokens; ask for less with --ctx-size, store keys and values in a \
                     smaller type, or free some memory",
                    plan.context,
                    Sizes(&plan.need),
                    Size(free)
                ))),
                _ => Ok(plan),
            };
        }
        if fits >= model_context.min(FLOOR) {
            return plan(fits.min(model_context), false);
        }
        // Too little for comfort: more of what is free, then, up to the floor.
        let free = free.unwrap_or(u64::MAX);
        let most = model_context.min(FLOOR);
        let context = match need(most)?.total() <= free {
            true => most,
            false => largest(most, &|n| Ok(need(n)?.total() <= free))?,
        };
        if context == 0 {
            let need = need(STEP)?;
            return Err(Error::Memory(format!(
                "the model does not fit: {} with a context of {STEP} tokens, and {} are free; \
                 free some memory, or take a smaller model or one in a smaller type",
                Sizes(&need),
                Size(free)
            )));
        }
        plan(context, false)
    }
}

/// The largest multiple of [`STEP`] up to `most` that fits; 0 when none does.
fn largest(most: u32, fits: &dyn Fn(u32) -> Result<bool>) -> Result<u32> {
    let (mut low, mut high) = (0, most / STEP + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle * STEP)? { low = middle } else { high = middle }
    }
    Ok(low * STEP)
}
