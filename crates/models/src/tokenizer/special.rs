//! Special tokens: finding them in a text, and knowing those that end an answer.

use super::vocab::{TokenKind, Vocab};
use std::collections::HashMap;

/// Texts of tokens that end an answer, whatever the file's keys say: the models' own end-of-turn
/// markers, because many files name only one of several.
const END_OF_GENERATION: [&str; 20] = [
    "</s>",
    "<eos>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<turn|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|end_of_turn|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// The ids that end an answer by their text. Such a token steers the model even where the file
/// says that it is text, so it becomes a control token.
pub(super) fn end_of_generation(vocab: &mut Vocab) -> Vec<u32> {
    let mut found = Vec::new();
    let mut harmony = (false, false, None);
    for id in 0..vocab.len() as u32 {
        let bytes = vocab.bytes(id);
        // Every text in the list begins with one of these.
        if !matches!(bytes.first(), Some(b'<' | b'[' | b'_')) {
            continue;
        }
        if END_OF_GENERATION.iter().any(|t| t.as_bytes() == bytes) {
            match bytes {
                b"<|return|>" => harmony.0 = true,
                b"<|call|>" => harmony.1 = true,
                b"<|end|>" => harmony.2 = Some(id),
                _ => {}
            }
            found.push(id);
        }
    }
    for &id in &found {
        vocab.set_kind(id, TokenKind::Control);
    }
    // Where an answer ends by <|return|> or <|call|>, <|end|> only ends one of its parts.
    if let (true, true, Some(end)) = harmony {
        found.retain(|&id| id != end);
    }
    found
}

/// Finds special tokens in a text: at each place the longest, from the left.
pub(super) struct Matcher {
    ids: HashMap<Box<[u8]>, u32>,
    /// For each first byte, the lengths of the tokens that begin with it, longest first.
    lengths: Vec<Vec<usize>>,
}

impl Matcher {
    /// A matcher of the vocabulary's control, unknown and user-defined tokens.
    pub fn new(vocab: &Vocab) -> Self {
        let mut ids = HashMap::new();
        let mut lengths = vec![Vec::new(); 256];
        let special = [TokenKind::Control, TokenKind::Unknown, TokenKind::UserDefined];
        for (id, kind) in vocab.kinds() {
            let bytes = vocab.bytes(id);
            if !special.contains(&kind) || bytes.is_empty() {
                continue;
            }
            ids.entry(bytes.into()).or_insert(id);
            let known = &mut lengths[usize::from(bytes[0])];
            if !known.contains(&bytes.len()) {
                known.push(bytes.len());
            }
        }
        for l in &mut lengths {
            l.sort_unstable_by_key(|&n| std::cmp::Reverse(n));
        }
        Matcher { ids, lengths }
    }

    /// The token of exactly this text.
    pub fn find(&self, text: &[u8]) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// The first token at or after `from` that `wanted` allows: its range in bytes, and its id.
    pub fn next(
        &self,
        text: &str,
        from: usize,
        wanted: impl Fn(u32) -> bool,
    ) -> Option<(usize, usize, u32)> {
        if self.ids.is_empty() {
            return None;
        }
        let bytes = text.as_bytes();
        (from..bytes.len()).find_map(|at| {
            self.lengths[usize::from(bytes[at])].iter().find_map(|&n| {
                // A token that is not UTF-8 could end within a character of the text.
                let end = at.checked_add(n).filter(|&end| text.is_char_boundary(end))?;
                let id = self.find(bytes.get(at..end)?).filter(|&id| wanted(id))?;
                text.is_char_boundary(at).then_some((at, end, id))
            })
        })
    }
}
