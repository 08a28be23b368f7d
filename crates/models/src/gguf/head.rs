//! Reading a head: every field is checked as it is passed, and kept where it is.

use super::cursor::Cursor;
use super::value::ValueType;
use super::{ALIGNMENT_KEY, MAGIC, table};
use gristmill_core::{DType, Result};

/// More keys or tensors than any model has: a damaged count stops here.
const MAX_KEYS: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 20;

/// A longer name is no name: the format's own limit for keys.
const MAX_NAME: u64 = (1 << 16) - 1;

/// Reads the version, the number of tensors and that of keys.
pub(super) fn read_header(c: &mut Cursor<'_>) -> Result<(u32, u64, u64)> {
    let magic = c.u32(&"the magic number")?.to_le_bytes();
    if magic != MAGIC {
        let hint = match &magic {
            b"ggml" | b"lmgg" | b"ggjt" | b"tjgg" | b"fmgg" | b"ggla" => {
                "an old GGML file: convert the original model to GGUF"
            }
            b"PK\x03\x04" => "a zip archive, perhaps a PyTorch checkpoint: convert it to GGUF",
            b"FUGG" => "a byte-swapped GGUF file: convert it to little-endian",
            _ => "not a GGUF file: check that it is the model and was downloaded whole",
        };
        return Err(c.fail(0, format!("the magic is {magic:02x?}, not GGUF; this is {hint}")));
    }
    let version = c.u32(&"the version")?;
    if version.swap_bytes() <= 0xffff && version > 0xffff {
        return Err(c.fail(
            4,
            format!(
                "this is a big-endian GGUF (version {}): convert it to little-endian first",
                version.swap_bytes()
            ),
        ));
    }
    if !(2..=3).contains(&version) {
        return Err(c.fail(4, format!("GGUF version {version} is not supported, only 2 and 3")));
    }
    let n_tensors = c.u64(&"the tensor count")?;
    let n_keys = c.u64(&"the key count")?;
    // The smallest row of each table: empty names, one byte of value, no dimension.
    for (what, at, n, max, least) in
        [("tensors", 8, n_tensors, MAX_TENSORS, 24), ("metadata keys", 16, n_keys, MAX_KEYS, 13)]
    {
        if n > max || n * least > c.left() as u64 {
            return Err(c.fail(
                at,
                format!("the header claims {n} {what}, more than the file can hold: damaged"),
            ));
        }
    }
    Ok((version, n_tensors, n_keys))
}

/// Checks the next key and steps over it; where it is that of the alignment, sets that.
pub(super) fn read_key(c: &mut Cursor<'_>, i: u64, alignment: &mut u32) -> Result<()> {
    let at = c.pos;
    let key = c.string(&format_args!("the name of metadata key {i}"), MAX_NAME)?.to_owned();
    let id = c.u32(&format_args!("the type of '{key}'"))?;
    let Some(ty) = ValueType::from_id(id) else {
        return Err(c.fail(at, format!("'{key}' is of unknown type {id}: the file is damaged")));
    };
    if key != ALIGNMENT_KEY {
        return c.skip_value(ty, &key);
    }
    let start = c.pos;
    if ty != ValueType::U32 {
        let what = format!("'{ALIGNMENT_KEY}' is of type {ty:?}, not U32");
        return Err(c.fail(start, what));
    }
    *alignment = c.u32(&ALIGNMENT_KEY)?;
    if !alignment.is_power_of_two() {
        let what = format!("'{ALIGNMENT_KEY}' is {alignment}, not a power of two");
        return Err(c.fail(start, what));
    }
    Ok(())
}

/// Checks the next row of the tensor table and steps over it.
pub(super) fn read_tensor_info(c: &mut Cursor<'_>, i: u64, alignment: usize) -> Result<()> {
    let at = c.pos;
    let name = c.string(&format_args!("the name of tensor {i}"), MAX_NAME)?.to_owned();
    let n_dims = c.u32(&format_args!("the dimension count of tensor '{name}'"))?;
    if n_dims > 4 {
        return Err(c.fail(at, format!("tensor '{name}' has {n_dims} dimensions, at most 4")));
    }
    let mut shape = [1usize; 4];
    for (d, n) in shape.iter_mut().enumerate().take(n_dims as usize) {
        let v = c.u64(&format_args!("dimension {d} of tensor '{name}'"))?;
        *n = match usize::try_from(v) {
            Ok(v) if v > 0 => v,
            _ => {
                let what = format!("dimension {d} of tensor '{name}' is {v}: damaged");
                return Err(c.fail(c.pos - 8, what));
            }
        };
    }
    let id = c.u32(&format_args!("the type of tensor '{name}'"))?;
    let Some(dtype) = DType::from_ggml(id) else {
        return Err(c.fail(
            c.pos - 4,
            format!(
                "tensor '{name}' is of unknown type id {id}; use a file quantized to a known type, \
                 such as Q8_0 or Q4_K"
            ),
        ));
    };
    if table::bytes(dtype, &shape).is_none() {
        return Err(c.fail(
            at,
            format!(
                "tensor '{name}' of shape {:?} is no whole number of {dtype} blocks of {}, or \
                 overflows",
                &shape[..n_dims as usize],
                dtype.block_len()
            ),
        ));
    }
    let offset = c.u64(&format_args!("the offset of tensor '{name}'"))?;
    if !usize::try_from(offset).is_ok_and(|o| o.is_multiple_of(alignment)) {
        return Err(c.fail(
            c.pos - 8,
            format!(
                "tensor '{name}' begins at offset {offset}, not a multiple of the alignment \
                 {alignment}"
            ),
        ));
    }
    Ok(())
}
