//! One file a verb: its options, and what it does.

pub mod bench;
pub mod completion;
pub mod copy;
pub mod devices;
pub mod diff;
pub mod embed;
pub mod inspect;
pub mod logits;
pub mod perplexity;
pub mod quantize;
pub mod rerank;
pub mod run;
pub mod tokenize;
#[cfg(feature = "wgpu")]
pub mod tune;
