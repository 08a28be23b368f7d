//! Reading little-endian fields from bytes that may lie about their own lengths.

use super::value::ValueType;
use gristmill_core::{Error, Result};

/// A position in a file's bytes. Every read checks that the bytes exist and names, when they do
/// not, the field and where it began.
pub(super) struct Cursor<'a> {
    pub file: &'a str,
    pub bytes: &'a [u8],
    pub pos: usize,
}

impl<'a> Cursor<'a> {
    /// An error about the bytes at `at`.
    pub fn fail(&self, at: usize, what: impl std::fmt::Display) -> Error {
        Error::model(self.file, format!("at byte {at}: {what}"))
    }

    /// Bytes not read yet.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.pos
    }

    /// The next `n` bytes; `what` names them.
    pub fn take(&mut self, n: u64, what: &dyn std::fmt::Display) -> Result<&'a [u8]> {
        let end = usize::try_from(n).ok().and_then(|n| self.pos.checked_add(n));
        let Some(got) = end.and_then(|end| self.bytes.get(self.pos..end)) else {
            return Err(self.fail(
                self.pos,
                format!(
                    "{what} takes {n} bytes but only {} are left: the file is truncated or \
                     damaged; download or convert it again",
                    self.left()
                ),
            ));
        };
        self.pos += got.len();
        Ok(got)
    }

    fn array<const N: usize>(&mut self, what: &dyn std::fmt::Display) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    pub fn u32(&mut self, what: &dyn std::fmt::Display) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub fn u64(&mut self, what: &dyn std::fmt::Display) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A string that must be UTF-8.
    pub fn string(&mut self, what: &dyn std::fmt::Display) -> Result<&'a str> {
        let at = self.pos;
        let len = self.u64(&format_args!("the length of {what}"))?;
        let raw = self.take(len, what)?;
        std::str::from_utf8(raw)
            .map_err(|e| self.fail(at, format!("{what} is not UTF-8 ({e}): the file is damaged")))
    }

    /// Steps over the value of `key`, which is of type `ty`; what it steps over is well formed,
    /// except that strings inside arrays are not yet known to be UTF-8.
    pub fn skip_value(&mut self, ty: ValueType, key: &str) -> Result<()> {
        if let Some(width) = ty.width() {
            self.take(width, &format_args!("the value of '{key}'"))?;
            return Ok(());
        }
        if ty == ValueType::Str {
            self.string(&format_args!("the value of '{key}'"))?;
            return Ok(());
        }
        let at = self.pos;
        let id = self.u32(&format_args!("the element type of '{key}'"))?;
        let Some(inner) = ValueType::from_id(id) else {
            return Err(self.fail(at, format!("'{key}' has elements of unknown type {id}")));
        };
        let count = self.u64(&format_args!("the element count of '{key}'"))?;
        if inner == ValueType::Array {
            return Err(self.fail(at, format!("'{key}' is an array of arrays: not supported")));
        }
        // A string takes at least its length field, so this bounds the count before any loop.
        let floor = count.checked_mul(inner.width().unwrap_or(8));
        if floor.is_none_or(|n| n > self.left() as u64) {
            return Err(self.fail(
                at,
                format!("'{key}' claims {count} elements, more than the file holds: damaged"),
            ));
        }
        match inner.width() {
            Some(width) => {
                self.take(count * width, &format_args!("the elements of '{key}'"))?;
            }
            None => {
                for i in 0..count {
                    let len = self.u64(&format_args!("the length of '{key}'[{i}]"))?;
                    self.take(len, &format_args!("'{key}'[{i}]"))?;
                }
            }
        }
        Ok(())
    }
}
