//! The contract between models, backends and the engine.
//!
//! A model records a [`Program`]: a straight line of coarse, fused operations ([`Op`]) in
//! single-assignment form. A [`Backend`] compiles it to a plan and launches that plan over a
//! [`Batch`], which is nothing but integers. This crate holds the words they share and computes
//! nothing:
//!
//! - [`op`]: every operation, readable on one page
//! - [`program`]: the recorder
//! - [`verify`]: shapes of values, checked while recording and after parsing
//! - `cut`: a program in two parts, for two devices
//! - [`text`]: a program as text and back, for snapshots and tools
//! - [`arena`]: liveness of values to one workspace
//! - [`backend`]: what a device must offer
//! - [`sample`]: how a token is chosen from logits

pub mod arena;
pub mod backend;
mod cut;
pub mod op;
pub mod program;
pub mod sample;
pub mod text;
pub mod verify;

pub use backend::*;
pub use cut::Parts;
pub use op::*;
pub use program::*;
pub use sample::{MIROSTAT_FIT, Mirostat, Penalty, Picked, SampleBatch, Sampling, Surety, Unmask};
