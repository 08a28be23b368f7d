//! Masked diffusion: a text filled in place by place, those first that the model is surest of.
//!
//! A [`DiffuseRequest`] says how; a [`Diffusion`] is its state, plain data without a device: it says
//! what to run next and takes what was proposed; `run` launches that on the engine's device. Every
//! pass proposes a token for some masked places at once, [`Rule`] and [`Rank`] say which of them are
//! committed. A committed token is never masked again.
//!
//! - `request` what is asked, checked
//! - `schedule` how many a step commits
//! - `select` which
//! - `state` what to run, block after block, with the caches of Fast-dLLM and of block diffusion
//! - `run` on the device
//!
//! Units: places are indices in the text, prompt included; a *pass* is one forward of the model; a
//! *step* is one of those a rule counts, which needs no pass where it commits nothing.

mod request;
mod run;
mod schedule;
mod select;
mod state;

pub use request::{Blocks, Cache, DiffuseRequest, Ends, Rank, Rule};
pub use run::Watch;
pub use state::{Diffusion, Pass};
