//! Special tokens: finding them in a text, and knowing those that end an answer.

use super::class::is_word;
use super::trie::Trie;
use super::vocab::{TokenKind, Vocab};

/// Texts of tokens that end an answer, whatever the file's keys say: the models' own end-of-turn
/// markers, because many files name only one of several, and the ends of pieces of code that is
/// being filled in.
const END_OF_GENERATION: [&str; 34] = [
    "</s>",
    "<eos>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<end_of_turn>",
    "<turn|>",
    "<|tool_response>",
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
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// The ids that end an answer by their text. Such a token steers the model even where the file
/// says that it is text, so it becomes a control token.
pub(super) fn end_of_generation(vocab: &mut Vocab) -> Vec<u32> {
    let mut found: Vec<(&str, u32)> = Vec::new();
    for id in 0..vocab.len() as u32 {
        let bytes = vocab.bytes(id);
        // Every text in the list begins with one of these.
        if !matches!(bytes.first(), Some(b'<' | b'[' | b'_')) {
            continue;
        }
        found.extend(END_OF_GENERATION.iter().find(|t| t.as_bytes() == bytes).map(|t| (*t, id)));
    }
    let has = |all: &[&str]| all.iter().all(|t| found.iter().any(|(text, _)| text == t));
    // Where an answer ends by these, <|end|> only ends one of its parts.
    let parts = has(&["<|return|>", "<|call|>"])
        || has(&["<|flush|>", "<|call|>"])
        || has(&["<|flush|>", "<|calls|>"]);
    // There </s> is a tag like any other.
    let tags = has(&["<|tool_response>"]);
    let ends = |&(text, _): &(&str, u32)| !(parts && text == "<|end|>" || tags && text == "</s>");
    for &(text, id) in &found {
        if !(tags && text == "</s>") {
            vocab.set_kind(id, TokenKind::Control);
        }
    }
    found.into_iter().filter(ends).map(|(_, id)| id).collect()
}

/// What a special token does to the text around it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Manners {
    /// It takes the white space before it.
    pub left: bool,
    /// It takes the white space after it.
    pub right: bool,
    /// It is found only where no letter, digit or the like touches it.
    pub word: bool,
}

/// Finds special tokens in a text: at each place the longest, from the left.
pub(super) struct Matcher {
    trie: Trie,
    /// Whether a token begins with this byte.
    begins: [bool; 256],
    /// Of those that have any, in order of their ids.
    manners: Vec<(u32, Manners)>,
}

/// A special token in a text.
pub(super) struct Found {
    /// Where what it covers begins, with the white space it takes.
    pub start: usize,
    pub end: usize,
    /// Where its own text ends.
    pub read: usize,
    pub id: u32,
}

impl Matcher {
    /// A matcher of these tokens, whose text `bytes` tells; of several with the same text, the lowest id counts.
    pub fn new<'a>(
        tokens: impl Iterator<Item = u32>,
        bytes: impl Fn(u32) -> &'a [u8],
        mut manners: Vec<(u32, Manners)>,
    ) -> Matcher {
        manners.retain(|(_, m)| *m != Manners::default());
        manners.sort_by_key(|&(id, _)| id);
        let trie = Trie::new(tokens, bytes);
        let begins = std::array::from_fn(|byte| trie.begins(byte as u8));
        Matcher { trie, begins, manners }
    }

    /// The token of exactly this text.
    pub fn find(&self, text: &[u8]) -> Option<u32> {
        self.trie.prefixes(text).find(|&(n, _)| n == text.len()).map(|(_, id)| id)
    }

    fn manners(&self, id: u32) -> Manners {
        let at = self.manners.binary_search_by_key(&id, |&(id, _)| id);
        at.map_or(Manners::default(), |i| self.manners[i].1)
    }

    /// The first token at or after `from` that `wanted` allows. White space is taken from `covered`
    /// on; what is before is read only to see what touches a token.
    pub fn next(
        &self,
        text: &str,
        from: usize,
        covered: usize,
        wanted: impl Fn(u32) -> bool,
    ) -> Option<Found> {
        let bytes = text.as_bytes();
        let mut at = from;
        loop {
            at += bytes[at..].iter().position(|&b| self.begins[usize::from(b)])?;
            // A token that is not UTF-8 could end within a character of the text.
            let ends = |n: usize| text.is_char_boundary(at) && text.is_char_boundary(at + n);
            let all = self.trie.prefixes(&bytes[at..]);
            let Some((n, id)) = all.filter(|&(n, id)| ends(n) && wanted(id)).last() else {
                at += 1;
                continue;
            };
            let (before, after) = (&text[..at], &text[at + n..]);
            let manners = self.manners(id);
            if manners.word && (before.ends_with(is_word) || after.starts_with(is_word)) {
                at += n;
                continue;
            }
            let mut found = Found { start: at, end: at + n, read: at + n, id };
            if manners.left {
                found.start = before.trim_end().len().max(covered);
            }
            if manners.right {
                found.end = text.len() - after.trim_start().len();
            }
            return Some(found);
        }
    }
}
