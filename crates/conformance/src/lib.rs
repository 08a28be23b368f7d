//! What a backend must compute and promise, written once for every backend.
//!
//! A backend's tests call these functions with the backend and nothing else:
//!
//! - [`reference`](mod@reference): the operations by their definitions, in f64 over plain vectors:
//!   no pages, no tiles, no code shared with any backend
//! - [`scalar`]: the functions of one number that they use
//! - [`work`]: what sequences do in a step, without pages: what both sides are given
//! - [`device`]: the other side: places sequences in shuffled pages of a [`Backend`] and runs them
//! - [`cases`]: programs of one or a few operations, random weights in every format, batches
//! - [`model`]: small whole models
//! - [`selection`]: a part of them that has everything, where all of them take too long
//! - [`check`](mod@check): runs the cases and compares
//! - [`invariance`]: a sequence gives the same bits whatever the batch, the chunks and the threads
//! - [`sampling`], [`ledger`], [`hostile`]: sampling against f64, the bytes that cross, bad batches
//!
//! [`Backend`]: gristmill_ir::Backend

pub mod cases;
pub mod check;
pub mod device;
pub mod hostile;
pub mod invariance;
pub mod ledger;
pub mod model;
pub mod random;
pub mod reference;
pub mod sampling;
pub mod scalar;
pub mod selection;
pub mod weights;
pub mod work;

pub use check::{Prepared, short_suite, suite};
pub use device::{Device, Room};
