//! What runs next, and in which pages.
//!
//! The engine turns requests into steps of a [`Backend`](gristmill_ir::Backend): token ids go in,
//! token ids come out. It never names a device and never sees text.
//!
//! A step, from the outside in:
//!
//! - [`Engine`] owns everything: [`Engine::submit`] queues a [`Request`], [`Engine::step`] runs a
//!   step and reports [`Event`]s
//! - [`scheduler`] decides, from plain numbers, how many tokens of which sequence run now and who
//!   gives up their pages when memory is short
//! - [`pages`] hands out pages of KV cache and slots of recurrent state, counts who shares them, and
//!   keeps a page from being reused before the last step that names it has finished
//! - `batch` writes the integers of the step, `penalties` those that sampling needs of the text
//!   before, `runner` picks the plan and launches it
//! - [`Need`] says what all that takes, before it is allocated; [`Probe`] runs one pass and shows
//!   the values inside
//! - `generate` drives the steps, `kept` holds finished conversations to be gone on from,
//!   `logits` reads scores instead of sampling, `state` takes recurrent states out and in, `waker`
//!   waits
//! - [`Split`] is a backend made of two, each with some of the layers
//! - [`Encoder`] runs whole texts for embeddings and rerankers: nothing is generated or kept
//! - [`diffuse`] fills a text in by masked diffusion, with [`Engine::diffuse`]; [`denoise`] brings
//!   latents from noise to tokens by Gaussian diffusion
//! - `whole_texts` is what [`Encoder`], [`Probe`] and the denoiser have in common
//!
//! Units throughout: lengths and positions are tokens, a *page* holds `page_tokens` tokens of one
//! page group (the layers that share a window), a *slot* holds the recurrent state and the last
//! sampled token of one sequence.

mod batch;
pub mod denoise;
pub mod diffuse;
mod encode;
mod engine;
mod generate;
mod kept;
mod logits;
mod need;
mod options;
pub mod pages;
mod penalties;
mod probe;
mod profile;
mod request;
mod runner;
mod sampling;
pub mod scheduler;
mod sequence;
mod split;
mod state;
mod waker;
mod whole_texts;

pub use encode::{Encoder, Encoding, Text};
pub use engine::{Engine, PageSnapshot, Snapshot};
pub use generate::StepInfo;
pub use gristmill_ir::Mirostat;
pub use logits::Visit;
pub use need::Need;
pub use options::{EngineOptions, PageCount};
pub use probe::{Probe, Seen};
pub use profile::{Keys, Timed};
pub use request::{Event, Finish, Parent, Request, RequestId, SequenceId};
pub use sampling::SamplingParams;
pub use split::Split;
pub use state::SavedState;
