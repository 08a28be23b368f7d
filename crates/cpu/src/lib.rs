//! The CPU backend: how things are computed on processor cores.
//!
//! [`simd`] is the vocabulary of one instruction set, and every kernel is written once over it.
//! [`pack`] brings weights into the order that kernels read them.

pub mod pack;
pub mod simd;

pub use simd::Isa;
