//! GGUF, the container format of llama.cpp: ordered metadata and aligned tensors in one file.
//!
//! Layout, all little-endian: magic `GGUF`, version `u32`, tensor count `u64`, key count `u64`;
//! then the keys (`string key, u32 type, value`), then the tensor table (`string name, u32 dims,
//! u64 x dims, u32 type, u64 offset`), padding to the alignment, and the data that the offsets
//! count from. A string is a `u64` length and that many bytes. Dimensions go from the fastest:
//! `[cols, rows, experts]`.
//!
//! The source is the format's specification (`docs/gguf.md` of ggml). Versions 2 and 3 differ
//! only in that 3 allows big-endian files, which are refused here by name.
//!
//! A file is a stranger: [`Gguf`] checks every length, count, type, alignment and product before
//! it uses it, allocates no more than what it has actually read calls for, and leaves the data
//! where it is. Arrays (a vocabulary has hundreds of thousands of strings) are views of the head,
//! the part before the data, which is read into memory once and checked there; so a file that
//! somebody changes while it is open cannot change what was checked. See [`crate::source`] for
//! what happens to the data then.

mod copy;
mod cursor;
mod head;
mod reader;
mod recipe;
mod split;
mod table;
mod value;
mod writer;

pub use crate::source::Bytes;
pub use copy::copy;
pub use reader::Gguf;
pub(crate) use recipe::{PackedPieces, Pick, Piece, Recipe};
pub use table::TensorInfo;
pub use value::{Array, FromValue, Value, ValueType};
pub use writer::{Encode, GgufStream, GgufWriter};

/// The first four bytes of every file.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// The version written; 2 and 3 are read.
pub const VERSION: u32 = 3;
/// Alignment of tensor data where the file does not say otherwise, in bytes.
pub const DEFAULT_ALIGNMENT: u32 = 32;
/// The key that says otherwise.
pub const ALIGNMENT_KEY: &str = "general.alignment";
