//! Gristmill as a library: open a model, make an engine, take its tokens.
//!
//! ```no_run
//! use gristmill::{Decoder, Model, Request, Settings};
//!
//! let model = Model::bundled()?; // or `Model::open("model.gguf")?`
//! let tokenizer = model.tokenizer()?;
//! let mut engine = model.engine(&Settings::default())?;
//! let mut request = Request::new(model.chat_prompt("Tell me a story about a fox")?, 200);
//! request.stop_ids = tokenizer.end_of_generation().to_vec();
//! engine.submit(request)?;
//! let mut text = Decoder::continuing(tokenizer);
//! for event in engine.run_to_end()? {
//!     print!("{}", event.token.map(|id| text.push(id)).unwrap_or_default());
//! }
//! # Ok::<(), gristmill::Error>(())
//! ```
//!
//! [`Engine::step`] instead of `run_to_end` gives the tokens as they come. [`Model`] is one file
//! with its tokenizer and its program, [`Settings`] says how it shall run, [`MemoryPlan`] what that
//! takes, [`placement`] what of it runs on a device, [`quantize`] writes it in a smaller format,
//! [`bundled`] lists the models inside the binary, [`work`] counts what a token costs, [`npy`] writes arrays, [`mod@state`] keeps the states of
//! recurrent models in files. For more than one turn,
//! [`Conversation`] is what was said, [`Prompter`] makes prompts of it, [`Continued`] lets the engine
//! run only what is new, [`thinking`] tells thoughts from answers. What is below is in the crates
//! re-exported here.

pub mod bundled;
pub mod cache;
mod continued;
mod conversation;
mod encode;
pub mod files;
mod hardware;
pub mod kernels;
pub mod memory;
mod model;
pub mod npy;
mod pack_cache;
pub mod placement;
pub mod profile;
pub mod quantize;
mod saved;
mod settings;
pub mod state;
pub mod thinking;
pub mod work;

pub use continued::{Continued, Reuse};
pub use conversation::{Conversation, Exchange, Prompt, Prompter};
pub use encode::{Relevance, Reranker, truncated, unnormalized};
pub use gristmill_core::{DType, Error, Result};
pub use gristmill_cpu::{Cpu, CpuOptions, Isa};
pub use gristmill_engine::{
    Encoder, Encoding, Engine, EngineOptions, Event, Finish, Mirostat, Parent, Probe, Request,
    RequestId, SamplingParams, SavedState, Seen, SequenceId, Text,
};
pub use gristmill_ir::{Activations, Backend, Pooling, Prefill, Program};
pub use gristmill_models::arch::{KvTypes, ModelInfo, Wanted};
pub use gristmill_models::chat::ChatTemplate;
pub use gristmill_models::tokenizer::Decoder;
pub use gristmill_models::{Gguf, LoadMode, Tokenizer};
#[cfg(feature = "wgpu")]
pub use gristmill_wgpu::{Wgpu, WgpuOptions};
pub use hardware::Device;
pub use memory::MemoryPlan;
pub use model::{Model, Progress};
pub use saved::Saved;
pub use settings::Settings;

#[cfg(feature = "wgpu")]
pub use gristmill_wgpu as wgpu;
pub use {
    gristmill_core as core, gristmill_cpu as cpu, gristmill_engine as engine, gristmill_ir as ir,
    gristmill_models as models,
};
