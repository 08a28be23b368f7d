//! The CPU backend: how things are computed on processor cores.
//!
//! [`simd`] is the vocabulary of one instruction set, [`kernels`] holds every kernel once over it,
//! [`pack`] brings weights into the order that kernels read them, [`pool`] is the team of threads.
//! `plan` turns a program into a list of kernels with their arguments, and [`Cpu`] is all of it
//! behind the contract.

mod backend;
mod ceiling;
mod context;
pub mod detect;
pub mod kernels;
mod memory;
pub mod pack;
mod plan;
pub mod pool;
mod sample;
pub mod simd;
mod weights;

pub use backend::{Cpu, CpuOptions};
pub use ceiling::Ceilings;
pub use context::Context;
pub use plan::Plan;
pub use simd::Isa;
pub use weights::Weights;
