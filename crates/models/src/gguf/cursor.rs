//! Reading little-endian fields of a file that may lie about its own lengths.

use super::value::ValueType;
use crate::source::Source;
use gristmill_core::{Error, Result};
use std::fmt::Display;

/// More than the metadata and tables of any model take: a damaged length stops here, also in a file
/// that has that many bytes.
const MAX_HEAD: usize = 256 << 20;
/// Bytes read ahead at first; more is read as the head turns out longer.
const AHEAD: usize = 1 << 16;

/// A position in the head of a file: the keys and tables before the data.
///
/// The head is copied out of the file as it is walked, so that what was checked cannot change
/// afterwards. Every read checks that the bytes exist and names, when they do not, the field and
/// where it began.
pub(super) struct Cursor<'s> {
    pub source: &'s Source,
    /// The file's bytes from its start, as far as they were read.
    head: Vec<u8>,
    pub pos: usize,
}

impl<'s> Cursor<'s> {
    pub fn new(source: &'s Source) -> Cursor<'s> {
        Cursor { source, head: Vec::new(), pos: 0 }
    }

    /// An error about the bytes at `at`.
    pub fn fail(&self, at: usize, what: impl Display) -> Error {
        Error::model(self.source.name(), format!("at byte {at}: {what}"))
    }

    /// Bytes not read yet.
    pub fn left(&self) -> usize {
        self.source.len() - self.pos
    }

    /// Everything before the position.
    pub fn into_head(mut self) -> Vec<u8> {
        self.head.truncate(self.pos);
        self.head.shrink_to_fit();
        self.head
    }

    /// The next `n` bytes; `what` names them.
    pub fn take(&mut self, n: u64, what: &dyn Display) -> Result<&[u8]> {
        let end = usize::try_from(n).ok().and_then(|n| self.pos.checked_add(n));
        let Some(end) = end.filter(|&end| end <= self.source.len()) else {
            return Err(self.fail(
                self.pos,
                format!(
                    "{what} takes {n} bytes but only {} are left: the file is truncated or \
                     damaged; download or convert it again",
                    self.left()
                ),
            ));
        };
        let have = self.head.len();
        if end > MAX_HEAD {
            let most = MAX_HEAD >> 20;
            let what = format!("{what} makes the metadata longer than {most} MiB: damaged");
            return Err(self.fail(self.pos, what));
        }
        if have < end {
            // Never beyond the file, whatever it claims.
            let want = end.max(2 * have).max(AHEAD).min(self.source.len()).min(MAX_HEAD);
            self.head.reserve_exact(want - have);
            self.head.resize(want, 0);
            self.source.read_at(have, &mut self.head[have..])?;
        }
        let from = std::mem::replace(&mut self.pos, end);
        Ok(&self.head[from..end])
    }

    fn array<const N: usize>(&mut self, what: &dyn Display) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    pub fn u8(&mut self, what: &dyn Display) -> Result<u8> {
        self.array(what).map(u8::from_le_bytes)
    }

    pub fn u32(&mut self, what: &dyn Display) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub fn u64(&mut self, what: &dyn Display) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A string that must be UTF-8 and of at most `max` bytes.
    pub fn string(&mut self, what: &dyn Display, max: u64) -> Result<&str> {
        let at = self.pos;
        let len = self.u64(&format_args!("the length of {what}"))?;
        if len > max && len <= self.left() as u64 {
            let what = format!("{what} takes {len} bytes, more than {max}: the file is damaged");
            return Err(self.fail(at, what));
        }
        if let Err(e) = std::str::from_utf8(self.take(len, what)?) {
            return Err(self.fail(at, format!("{what} is not UTF-8 ({e}): the file is damaged")));
        }
        let raw = &self.head[self.pos - len as usize..self.pos];
        Ok(std::str::from_utf8(raw).unwrap_or_default()) // it was just seen to be
    }

    /// Steps over the value of `key`, which is of type `ty`; what it steps over is well formed,
    /// except that strings inside arrays are not yet known to be UTF-8.
    pub fn skip_value(&mut self, ty: ValueType, key: &str) -> Result<()> {
        if ty == ValueType::Bool {
            let at = self.pos;
            return match self.u8(&format_args!("the value of '{key}'"))? {
                0 | 1 => Ok(()),
                n => Err(self.fail(at, format!("'{key}' is a bool with value {n}"))),
            };
        }
        if let Some(width) = ty.width() {
            self.take(width, &format_args!("the value of '{key}'"))?;
            return Ok(());
        }
        if ty == ValueType::Str {
            self.string(&format_args!("the value of '{key}'"), u64::MAX)?;
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
