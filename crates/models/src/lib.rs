//! Model files: what is in them, and how text becomes tokens and back.
//!
//! [`arch`] records what each architecture computes,
//! [`gguf`] reads and writes the container, [`safetensors`] reads models of the other one as if they
//! were in it, [`source`] brings a file's bytes, [`tokenizer`] turns text into token ids by the
//! rules that the file names, [`chat`] renders a conversation with the file's own template, and
//! [`sampling`] is how its publisher suggests to sample.
//! Whatever a file holds, the answer is a value or a [`gristmill_core::Error::Model`] that names the
//! file, the field and what to do; never a panic.

pub mod arch;
pub mod chat;
pub mod gguf;
pub mod safetensors;
pub mod sampling;
pub mod source;
pub mod tokenizer;

pub use chat::{ChatTemplate, Message};
pub use gguf::Gguf;
pub use source::LoadMode;
pub use tokenizer::Tokenizer;
