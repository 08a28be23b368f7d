//! Finding numbered things by what they are: open addressing over their numbers alone.
//!
//! The things lie elsewhere, in order; a slot holds a thing's number beside a part of its hash, so
//! that a look-up nearly always touches one slot and the thing it finds. A vocabulary-only file can
//! be nothing but the shortest tokens, so the table is sized by what the things weigh: eight bytes a
//! thing and their own bytes once more, never more than the list takes in a file.

use std::hash::BuildHasher;

/// Multiply and fold: fast on the few bytes of a token. The key is random for each process, so
/// that a vocabulary cannot be made to collide.
#[derive(Clone)]
pub(super) struct Fold(u64);

impl Default for Fold {
    fn default() -> Self {
        Fold(std::collections::hash_map::RandomState::new().hash_one(0u64) | 1)
    }
}

impl Fold {
    /// The hash of a number, with the good bits in the upper half.
    pub fn number(&self, n: u64) -> u64 {
        fold(self.0, n)
    }

    /// The hash of a text.
    pub fn text(&self, bytes: &[u8]) -> u64 {
        let mut chunks = bytes.chunks_exact(8);
        let state = chunks.by_ref().fold(self.0, |state, c| fold(state, little(c)));
        // The length tells "a" from "a\0".
        fold(state, little(chunks.remainder()) ^ (bytes.len() as u64) << 57)
    }
}

fn fold(state: u64, n: u64) -> u64 {
    let wide = u128::from(state ^ n) * 0x9e37_79b9_7f4a_7c15;
    (wide >> 64) as u64 ^ wide as u64
}

/// Up to eight bytes as a number, little-endian.
fn little(bytes: &[u8]) -> u64 {
    match bytes {
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]),
        _ => bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)),
    }
}

/// A thing's number and the lower half of its hash; free when the number is `NONE`.
#[derive(Clone, Copy)]
struct Slot {
    tag: u32,
    number: u32,
}

/// The number that no thing has.
pub(super) const NONE: u32 = u32::MAX;

/// The table.
pub(super) struct Index {
    slots: Vec<Slot>,
}

impl Index {
    /// An empty table with room for so many things that have `bytes` bytes together, one each at
    /// least.
    pub fn new(things: usize, bytes: usize) -> Index {
        Index { slots: vec![Slot { tag: 0, number: NONE }; things + bytes / 8 + 1] }
    }

    /// The slot of the thing with this hash that is `same`, or the free one where it belongs.
    fn slot(&self, hash: u64, same: impl Fn(u32) -> bool) -> usize {
        let tag = hash as u32;
        let mut at = (((hash >> 32) * self.slots.len() as u64) >> 32) as usize;
        // Ends because the table is never full.
        loop {
            let slot = self.slots[at];
            if slot.number == NONE || slot.tag == tag && same(slot.number) {
                return at;
            }
            at += 1;
            if at == self.slots.len() {
                at = 0;
            }
        }
    }

    /// The number of the thing with this hash that is `same`.
    pub fn find(&self, hash: u64, same: impl Fn(u32) -> bool) -> Option<u32> {
        let number = self.slots[self.slot(hash, same)].number;
        (number != NONE).then_some(number)
    }

    /// Puts a thing in, unless one that is the `same` is there and `stays`. No more things that
    /// differ than [`Index::new`] was told of.
    pub fn put(&mut self, hash: u64, number: u32, same: impl Fn(u32) -> bool, stays: bool) {
        let at = self.slot(hash, same);
        let slot = &mut self.slots[at];
        if slot.number == NONE || !stays {
            *slot = Slot { tag: hash as u32, number };
        }
    }
}
