//! Any GPU that speaks Vulkan, Metal or DX12, by wgpu: the same recorded programs, compiled to compute
//! shaders in WGSL.
//!
//! - [`adapter`]: which adapters there are and which one is taken
//! - `gpu`: a device with its errors caught, buffers, pipelines
//! - `format`, `weights`: formats as planes of words, cut into pieces that a kernel can see
//! - `shader`, `kernels/*.wgsl`: the text of shaders
//! - `shader/metal.rs`, `kernels/metal/*.metal`, `passthrough`: kernels written for Metal. They have never
//!   run on Metal: nobody who worked on them had a machine with it
//! - `plan`: a program as a list of dispatches
//! - `context`: states, workspace, and what crosses the bus
//! - `leftovers`: memory that drivers' compilers leave behind
//! - `timer`, `tune`: how long each kernel takes, and shapes that suit an adapter
//! - [`Wgpu`]: the contract

pub mod adapter;
mod backend;
mod context;
mod format;
mod gpu;
mod leftovers;
mod passthrough;
mod plan;
mod shader;
mod timer;
mod tune;
mod weights;

pub use adapter::{Adapter, adapters, choose};
pub use backend::{Wgpu, WgpuOptions};
pub use context::Context;
pub use plan::Plan;
pub use tune::{Shapes, Tried, tune};
pub use weights::Weights;
