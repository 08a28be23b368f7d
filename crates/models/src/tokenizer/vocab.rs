//! The table of tokens: bytes by id, and id by bytes.
//!
//! All tokens lie in one buffer, so building it is one pass without an allocation for each of
//! hundreds of thousands of tokens.

use super::index::{Fold, Index};

/// An id that no token has.
pub(super) use super::index::NONE;

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

/// The tokens, by id.
pub(super) struct Vocab {
    blob: Vec<u8>,
    /// Where each token ends in `blob`; it begins where the one before ends.
    ends: Vec<u32>,
    kinds: Vec<TokenKind>,
    hash: Fold,
    by_bytes: Index,
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
            by_bytes: Index::new(0, 0),
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

    /// Makes every token that plain text may become findable by its bytes. Of tokens with the
    /// same bytes, the last normal one is found, or else the first of another kind.
    pub fn index(&mut self) {
        self.longest = (0..self.len() as u32).map(|id| self.bytes(id).len()).max().unwrap_or(0);
        let mut by_bytes = Index::new(self.len(), self.blob.len());
        let kinds = [TokenKind::Normal, TokenKind::UserDefined, TokenKind::Unused];
        for kind in kinds {
            for (id, _) in self.kinds().filter(|&(_, of)| of == kind) {
                let bytes = self.bytes(id);
                if !bytes.is_empty() {
                    let stays = kind != TokenKind::Normal;
                    let same = |other| self.bytes(other) == bytes;
                    by_bytes.put(self.hash.text(bytes), id, same, stays);
                }
            }
        }
        self.by_bytes = by_bytes;
    }

    /// Bytes of the longest token.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// The token of these bytes, if plain text may become it.
    pub fn find(&self, bytes: &[u8]) -> Option<u32> {
        self.by_bytes.find(self.hash.text(bytes), |id| self.bytes(id) == bytes)
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
