//! The tables of a file, read out of its head whenever a row is asked for.
//!
//! A row takes 8 to 12 bytes of ours, where the shortest in a file take 15 and 26: so a file that is
//! packed with the tiniest keys and tensors makes tables of little more than half its size.

use super::value::ValueType;
use gristmill_core::DType;
use std::borrow::Cow;

/// A tensor of a model.
#[derive(Clone, PartialEq, Debug)]
pub struct TensorInfo<'a> {
    /// The name, unique in the model.
    pub name: Cow<'a, str>,
    /// How the elements are stored.
    pub dtype: DType,
    /// `[cols, rows, experts, outer]`, the fastest first, 1 where the file has no such dimension.
    pub shape: [usize; 4],
    /// How many dimensions the file gives.
    pub n_dims: usize,
    /// Where the data begins, in bytes from the start of its file.
    pub offset: usize,
    /// Bytes of the data.
    pub bytes: usize,
    /// Which of a split model's files holds it; 0 otherwise.
    pub part: usize,
}

impl TensorInfo<'_> {
    /// The same without a copy of the name.
    pub(super) fn view(&self) -> TensorInfo<'_> {
        TensorInfo { name: Cow::Borrowed(&self.name), ..*self }
    }
}

/// Where a row of the tensor table is.
#[derive(Clone, Copy)]
pub(super) struct Row {
    /// The file that has it.
    pub part: u32,
    /// Its first byte there.
    pub at: u32,
}

/// The members of a list in the order of their names. Names are asked for by place in the list.
#[derive(Default)]
pub(super) struct ByName(Vec<u32>);

impl ByName {
    /// Sorts `n` members; an error is the place of one that has the name of an earlier one.
    pub fn of<'n>(n: usize, name: impl Fn(usize) -> &'n [u8]) -> Result<ByName, usize> {
        let name = |i: u32| name(i as usize);
        let mut order: Vec<u32> = (0..n as u32).collect();
        order.sort_unstable_by(|&a, &b| name(a).cmp(name(b)).then(a.cmp(&b)));
        match order.windows(2).find(|w| name(w[0]) == name(w[1])) {
            Some(same) => Err(same[1] as usize),
            None => Ok(ByName(order)),
        }
    }

    /// The place of the member of this name.
    pub fn find<'n>(&self, wanted: &str, name: impl Fn(usize) -> &'n [u8]) -> Option<usize> {
        let order = |&i: &u32| name(i as usize).cmp(wanted.as_bytes());
        self.0.binary_search_by(order).ok().map(|at| self.0[at] as usize)
    }
}

fn take<const N: usize>(raw: &[u8]) -> Option<([u8; N], &[u8])> {
    raw.split_first_chunk().map(|(first, rest)| (*first, rest))
}

fn take_u32(raw: &[u8]) -> Option<(u32, &[u8])> {
    take(raw).map(|(n, rest)| (u32::from_le_bytes(n), rest))
}

fn take_usize(raw: &[u8]) -> Option<(usize, &[u8])> {
    let (n, rest) = take(raw)?;
    Some((usize::try_from(u64::from_le_bytes(n)).ok()?, rest))
}

fn take_name(raw: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = take_usize(raw)?;
    rest.split_at_checked(len)
}

/// The name that a row begins with.
pub(super) fn name(raw: &[u8]) -> &[u8] {
    take_name(raw).map_or(&[], |(name, _)| name)
}

/// The key whose row is `raw`: its name, its type, and its value's encoding. `None` where the row was
/// not checked.
pub(super) fn key(raw: &[u8]) -> Option<(&str, ValueType, &[u8])> {
    let (name, rest) = take_name(raw)?;
    let (ty, value) = take_u32(rest)?;
    Some((std::str::from_utf8(name).ok()?, ValueType::from_id(ty)?, value))
}

/// The tensor whose row `raw` begins with, as the file has it: the offset counts from the start of the
/// data. `None` where the row was not checked.
pub(super) fn tensor(raw: &[u8]) -> Option<TensorInfo<'_>> {
    let (name, rest) = take_name(raw)?;
    let (n_dims, mut rest) = take_u32(rest)?;
    let (n_dims, mut shape) = (n_dims as usize, [1; 4]);
    for d in shape.get_mut(..n_dims)? {
        (*d, rest) = take_usize(rest)?;
    }
    let (id, rest) = take_u32(rest)?;
    let (offset, _) = take_usize(rest)?;
    let dtype = DType::from_ggml(id)?;
    let name = Cow::Borrowed(std::str::from_utf8(name).ok()?);
    let bytes = bytes(dtype, &shape)?;
    Some(TensorInfo { name, dtype, shape, n_dims, offset, bytes, part: 0 })
}

/// Bytes of a tensor; `None` where its rows are no whole number of blocks, and on overflow.
pub(super) fn bytes(dtype: DType, shape: &[usize; 4]) -> Option<usize> {
    shape[1..].iter().try_fold(dtype.bytes(shape[0])?, |n, &d| n.checked_mul(d))
}
