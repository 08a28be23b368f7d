//! The table of tokens: bytes by id, and id by bytes.
//!
//! All tokens lie in one buffer, so building it is one pass without an allocation for each of
//! hundreds of thousands of tokens. Building is bound by cache misses, so a slot of the index
//! holds a token's first eight bytes beside its id: most look-ups touch nothing else.

use std::hash::{BuildHasher, Hasher};

/// What a token is for; the discriminants are those of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenKind {
    /// Text.
    Normal = 1,
    /// Stands for text that no token covers.
    Unknown = 2,
    /// Steers the model; never produced by plain text, never shown.
    Control = 3,
    /// A piece of text that is always one token.
    UserDefined = 4,
    /// Reserved.
    Unused = 5,
    /// A single byte, `<0xAB>`, where no other token covers a character.
    Byte = 6,
}

impl TokenKind {
    pub(super) fn from_id(id: i32) -> Option<Self> {
        use TokenKind::*;
        let index = usize::try_from(id).ok()?.checked_sub(1)?;
        [Normal, Unknown, Control, UserDefined, Unused, Byte].get(index).copied()
    }
}

/// Multiply and fold: fast on the few bytes of a token. The key is random for each process, so
/// that a vocabulary cannot be made to collide.
#[derive(Clone)]
pub(super) struct Fold(u64);

impl Default for Fold {
    fn default() -> Self {
        Fold(std::collections::hash_map::RandomState::new().hash_one(0u64) | 1)
    }
}

/// The state of one hash.
pub(super) struct FoldHasher(u64);

impl BuildHasher for Fold {
    type Hasher = FoldHasher;

    fn build_hasher(&self) -> FoldHasher {
        FoldHasher(self.0)
    }
}

impl Hasher for FoldHasher {
    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for c in &mut chunks {
            self.write_u64(little(c));
        }
        let last = little(chunks.remainder());
        // The length tells "a" from "a\0".
        self.write_u64(last ^ (bytes.len() as u64) << 57);
    }

    fn write_u64(&mut self, n: u64) {
        let wide = u128::from(self.0 ^ n) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (wide >> 64) as u64 ^ wide as u64;
    }

    fn finish(&self) -> u64 {
        // Multiplying by an odd constant spreads the low bits upward, where tables look.
        self.0.wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(32)
    }
}

/// An id that no token has.
pub(super) const NONE: u32 = u32::MAX;

/// A place in the index; free when `id` is `NONE`.
#[derive(Clone, Copy)]
struct Slot {
    /// The first eight bytes, little-endian, zeros after the end.
    head: u64,
    len: u32,
    id: u32,
}

const FREE: Slot = Slot { head: 0, len: 0, id: NONE };

/// Up to eight bytes as a number, little-endian.
fn little(bytes: &[u8]) -> u64 {
    match bytes {
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]),
        _ => bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)),
    }
}

/// The tokens, by id.
pub(super) struct Vocab {
    blob: Vec<u8>,
    /// Where each token ends in `blob`; it begins where the one before ends.
    ends: Vec<u32>,
    kinds: Vec<TokenKind>,
    hash: Fold,
    /// Open addressing with linear probing; at most two thirds full.
    slots: Vec<Slot>,
    /// Bytes of the longest token that can be found.
    longest: usize,
}

impl Vocab {
    /// An empty table with room for `tokens` tokens of `bytes` bytes together.
    pub fn with_capacity(tokens: usize, bytes: usize) -> Self {
        Vocab {
            blob: Vec::with_capacity(bytes),
            ends: Vec::with_capacity(tokens),
            kinds: Vec::with_capacity(tokens),
            hash: Fold::default(),
            slots: vec![FREE; (tokens * 3 / 2 + 1).next_power_of_two()],
            longest: 0,
        }
    }

    /// Appends a token whose bytes `fill` writes; `None` when the table is too large to index.
    pub fn push(&mut self, kind: TokenKind, fill: impl FnOnce(&mut Vec<u8>)) -> Option<()> {
        fill(&mut self.blob);
        self.ends.push(u32::try_from(self.blob.len()).ok()?);
        self.kinds.push(kind);
        Some(())
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes a token stands for; none for an id beyond the vocabulary.
    pub fn bytes(&self, id: u32) -> &[u8] {
        let i = id as usize;
        let Some(&end) = self.ends.get(i) else { return &[] };
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.blob[start as usize..end as usize]
    }

    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }

    pub fn set_kind(&mut self, id: u32, kind: TokenKind) {
        if let Some(k) = self.kinds.get_mut(id as usize) {
            *k = kind;
        }
    }

    /// The slot that holds `bytes`, or the free one where they belong.
    fn slot(&self, bytes: &[u8]) -> usize {
        let mask = self.slots.len() - 1;
        let mut hasher = self.hash.build_hasher();
        hasher.write(bytes);
        let head = little(&bytes[..bytes.len().min(8)]);
        let mut at = hasher.finish() as usize & mask;
        // Ends because the table is never full.
        loop {
            let slot = &self.slots[at];
            let same = slot.head == head
                && slot.len as usize == bytes.len()
                && (bytes.len() <= 8 || self.bytes(slot.id) == bytes);
            if slot.id == NONE || same {
                return at;
            }
            at = (at + 1) & mask;
        }
    }

    /// Makes every token that plain text may become findable by its bytes. Of tokens with the
    /// same bytes, the last normal one is found, or else the first of another kind.
    pub fn index(&mut self) {
        self.longest = (0..self.len() as u32).map(|id| self.bytes(id).len()).max().unwrap_or(0);
        let kinds = [TokenKind::Normal, TokenKind::UserDefined, TokenKind::Unused];
        for kind in kinds {
            for id in 0..self.len() as u32 {
                let bytes = self.bytes(id);
                if self.kinds[id as usize] == kind && !bytes.is_empty() {
                    let at = self.slot(bytes);
                    let head = little(&bytes[..bytes.len().min(8)]);
                    let len = bytes.len() as u32;
                    if self.slots[at].id == NONE || kind == TokenKind::Normal {
                        self.slots[at] = Slot { head, len, id };
                    }
                }
            }
        }
    }

    /// Bytes of the longest token.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// The token of these bytes, if plain text may become it.
    pub fn find(&self, bytes: &[u8]) -> Option<u32> {
        let id = self.slots[self.slot(bytes)].id;
        (id != NONE).then_some(id)
    }

    /// The token of each byte, or `NONE`.
    pub fn byte_ids(&self) -> [u32; 256] {
        let mut out = [NONE; 256];
        for (id, kind) in self.kinds() {
            if let (TokenKind::Byte, [byte]) = (kind, self.bytes(id)) {
                out[usize::from(*byte)] = id;
            }
        }
        out
    }

    /// Ids and kinds in order.
    pub fn kinds(&self) -> impl Iterator<Item = (u32, TokenKind)> {
        (0..).zip(self.kinds.iter().copied())
    }
}
