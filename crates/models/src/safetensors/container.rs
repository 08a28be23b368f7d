//! One `.safetensors` file: a little-endian `u64` length, that many bytes of JSON, the data.
//!
//! The JSON is an object of `name: {"dtype", "shape", "data_offsets": [begin, end]}`, offsets
//! counted from the end of the JSON, and perhaps `__metadata__`. The format's description
//! (github.com/huggingface/safetensors) asks that the data be indexed entirely, without holes or
//! overlaps, and caps the header; both are checked here, as is every product and sum.

use crate::source::Source;
use gristmill_core::{DType, Error, Result};
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

/// The longest header that is read, in bytes: the format's own limit.
const MAX_HEADER: u64 = 100_000_000;
/// More tensors than any file has.
const MAX_TENSORS: usize = 1 << 18;
/// Beyond this many tensors, a file must have so many bytes for each. Our tables take a few hundred
/// bytes a tensor, and those of a model many thousand: so no tables outgrow their file.
const FEW_TENSORS: usize = 1024;
const LEAST_BYTES: usize = 512;
/// More dimensions than any tensor has.
const MAX_DIMS: usize = 8;

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// As published: the slowest dimension first.
    pub(super) shape: Vec<usize>,
    /// Where the bytes lie, from the start of the file.
    pub(super) range: Range<usize>,
}

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// One that weights can have.
    Number(DType),
    /// Another, by its name.
    Other(&'static str),
}

/// Name, meaning, and bits of an element.
const KINDS: [(&str, Kind, usize); 21] = [
    ("F64", Kind::Number(DType::F64), 64),
    ("F32", Kind::Number(DType::F32), 32),
    ("F16", Kind::Number(DType::F16), 16),
    ("BF16", Kind::Number(DType::BF16), 16),
    ("I64", Kind::Number(DType::I64), 64),
    ("I32", Kind::Number(DType::I32), 32),
    ("I16", Kind::Number(DType::I16), 16),
    ("I8", Kind::Number(DType::I8), 8),
    ("U32", Kind::Number(DType::U32), 32),
    ("U8", Kind::Other("U8"), 8),
    ("BOOL", Kind::Other("BOOL"), 8),
    ("U16", Kind::Other("U16"), 16),
    ("U64", Kind::Other("U64"), 64),
    ("C64", Kind::Other("C64"), 64),
    ("F8_E4M3", Kind::Other("F8_E4M3"), 8),
    ("F8_E5M2", Kind::Other("F8_E5M2"), 8),
    ("F8_E8M0", Kind::Other("F8_E8M0"), 8),
    ("F8_E4M3FNUZ", Kind::Other("F8_E4M3FNUZ"), 8),
    ("F8_E5M2FNUZ", Kind::Other("F8_E5M2FNUZ"), 8),
    ("F6_E2M3", Kind::Other("F6_E2M3"), 6),
    ("F4", Kind::Other("F4"), 4),
];

/// Reads the header of a file and checks all of it against the file's length.
///
/// # Errors
/// [`Error::Model`] naming the field or the tensor.
pub(super) fn read(source: &Source) -> Result<Vec<Entry>> {
    let fail = |what: String| Error::model(source.name(), what);
    let Some(rest) = source.len().checked_sub(8) else {
        return Err(fail(format!(
            "the file has {} bytes, less than the 8 of the header's length: it is truncated",
            source.len()
        )));
    };
    let mut length = [0; 8];
    source.read_at(0, &mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER {
        return Err(fail(format!(
            "the header's length is {length} bytes, more than the {MAX_HEADER} allowed: this is \
             no safetensors file, or a damaged one"
        )));
    }
    let Some(data) = rest.checked_sub(length as usize) else {
        return Err(fail(format!(
            "the header's length is {length} bytes, but only {rest} follow: the file is truncated"
        )));
    };
    // A copy, so that what is checked is what is used.
    let mut json = vec![0; length as usize];
    source.read_at(8, &mut json)?;
    let mut reader = serde_json::Deserializer::from_slice(&json);
    let header = Header { data: source.len() - data, length: data };
    let parsed = header.deserialize(&mut reader).and_then(|entries| {
        reader.end()?; // nothing but spaces may follow
        Ok(entries)
    });
    let mut entries = parsed.map_err(|e| fail(format!("the header is not valid: {e}")))?;
    entries.shrink_to_fit();
    check_names(&entries).map_err(fail)?;
    check_cover(&entries, source.len() - data, source.len()).map_err(fail)?;
    Ok(entries)
}

/// Checks that no two tensors have one name.
fn check_names(entries: &[Entry]) -> std::result::Result<(), String> {
    let mut names: Vec<&str> = entries.iter().map(|e| e.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("tensor '{}' appears twice: damaged", pair[0])),
        None => Ok(()),
    }
}

/// Checks that the tensors cover the data once, without holes.
fn check_cover(entries: &[Entry], start: usize, end: usize) -> std::result::Result<(), String> {
    let mut order: Vec<&Entry> = entries.iter().collect();
    order.sort_by_key(|e| (e.range.start, e.range.end));
    let mut at = start;
    for (i, e) in order.iter().enumerate() {
        if e.range.start < at {
            let before = &order[i - 1].name;
            return Err(format!("tensors '{before}' and '{}' overlap: damaged", e.name));
        }
        if e.range.start > at {
            let hole = e.range.start - at;
            return Err(format!("{hole} bytes before tensor '{}' belong to none: damaged", e.name));
        }
        at = e.range.end;
    }
    if at != end {
        return Err(format!("the last {} bytes belong to no tensor: damaged", end - at));
    }
    Ok(())
}

/// Reads the object of tensors, of data of `length` bytes that begin at `data` in the file.
struct Header {
    data: usize,
    length: usize,
}

impl<'de> DeserializeSeed<'de> for Header {
    type Value = Vec<Entry>;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Vec<Entry>, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Header {
    type Value = Vec<Entry>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Vec<Entry>, A::Error> {
        use serde::de::Error;
        let mut entries = Vec::new();
        let file = self.data + self.length;
        let most = MAX_TENSORS.min(FEW_TENSORS.max(file / LEAST_BYTES));
        while let Some(Text(name)) = map.next_key()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let raw: Raw<'_> = map
                .next_value()
                .map_err(|e| A::Error::custom(format_args!("tensor '{name}': {e}")))?;
            if entries.len() == most {
                return Err(A::Error::custom(format_args!(
                    "more than {most} tensors in {file} bytes: damaged"
                )));
            }
            entries.push(self.entry(&name, &raw).map_err(A::Error::custom)?);
        }
        Ok(entries)
    }
}

impl Header {
    /// A tensor of the header, checked by itself.
    fn entry(&self, name: &str, raw: &Raw<'_>) -> std::result::Result<Entry, String> {
        let Some(&(_, kind, bits)) = KINDS.iter().find(|k| k.0 == raw.dtype.0) else {
            return Err(format!("tensor '{name}' is of unknown type '{}'", raw.dtype.0));
        };
        let [begin, end] = raw.data_offsets;
        if begin > end || end > self.length as u64 {
            return Err(format!(
                "tensor '{name}' lies at {begin} to {end} of {} bytes of data: the file is \
                 truncated or damaged",
                self.length
            ));
        }
        let shape = &raw.shape.dims[..raw.shape.n];
        let size = || {
            let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d))?;
            let bits = elements.checked_mul(bits as u64)?;
            (bits % 8 == 0).then_some(bits / 8)
        };
        if size() != Some(end - begin) {
            return Err(format!(
                "tensor '{name}' has {} bytes, which is no {} of shape {shape:?}: damaged",
                end - begin,
                raw.dtype.0
            ));
        }
        if begin == end {
            return Err(format!("tensor '{name}' of shape {shape:?} is empty"));
        }
        // Every dimension is now at most the tensor's bits, and so within the file's.
        let shape = shape.iter().map(|&d| d as usize).collect();
        let range = self.data + begin as usize..self.data + end as usize;
        Ok(Entry { name: name.to_owned(), kind, shape, range })
    }
}

/// A string that is borrowed where the JSON has no escapes in it.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A tensor as the header has it.
#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow)]
    dtype: Text<'a>,
    shape: Dims,
    data_offsets: [u64; 2],
}

/// Dimensions, without a vector whose length the file would choose.
struct Dims {
    dims: [u64; MAX_DIMS],
    n: usize,
}

impl<'de> Deserialize<'de> for Dims {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Dims, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Dims;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of up to {MAX_DIMS} dimensions")
            }
            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> std::result::Result<Dims, A::Error> {
                let mut out = Dims { dims: [0; MAX_DIMS], n: 0 };
                while let Some(d) = seq.next_element()? {
                    let Some(at) = out.dims.get_mut(out.n) else {
                        return Err(serde::de::Error::invalid_length(out.n + 1, &self));
                    };
                    *at = d;
                    out.n += 1;
                }
                Ok(out)
            }
        }
        d.deserialize_seq(List)
    }
}
