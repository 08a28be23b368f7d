//! NVIDIA GPUs with a driver and nothing else: the same recorded programs, compiled to one graph of
//! kernels whose machine code was built ahead.
//!
//! - [`driver`]: what is asked of a driver, the real one, memory on a device
//! - `module`: which machine code suits a chip
//! - `format`, `weights`: formats as planes, brought into that form on the device
//! - `plan`: a program as a list of launches
//! - `context`: states, workspace, and what crosses the bus
//! - [`Cuda`]: the contract
//!
//! Kernels are in `kernels/*.cu`, each written once and over all formats.

mod backend;
mod context;
pub mod driver;
mod format;
mod module;
mod plan;
mod weights;

pub use backend::{Cuda, CudaOptions};
pub use context::Context;
pub use driver::choose::{Device, devices};
pub use plan::Plan;
pub use weights::Weights;
