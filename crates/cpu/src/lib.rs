//! The CPU backend: how things are computed on processor cores.
//!
//! [`simd`] is the vocabulary of one instruction set, [`kernels`] holds every kernel once over it,
//! [`pool`] is the team of threads that runs them.

pub mod kernels;
pub mod pool;
pub mod simd;

pub use simd::Isa;
