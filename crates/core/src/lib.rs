//! Numbers and formats: what every other crate agrees on.
//!
//! [`Element`] is a number a kernel computes with, [`DType`] names how numbers are stored,
//! [`quant`] holds one file for each block format, [`HostTensor`] is bytes with a shape, and
//! [`Error`] is what goes wrong, always with the thing that is wrong in it.

mod dtype;
mod element;
mod error;
#[macro_use]
mod id;
mod philox;
pub mod quant;
mod tensor;

pub use dtype::DType;
pub use element::{DeviceRepr, Element};
pub use error::{Error, Result};
pub use philox::{normals, philox, unit, unit_f64};
pub use tensor::HostTensor;

pub use half::{bf16, f16};
