//! WordPiece (`tokenizer.ggml.model` = `bert`): BERT's words, each cut into the longest pieces
//! from the left. The text is cleaned before ([`super::normalize::Normalizer::Bert`]).
//!
//! Files write a piece that begins a word as `▁piece` and one that continues it bare; here the
//! former begins with a space, so that decoding puts spaces between words.

use super::class::{PUNCTUATION, is};
use super::split::{self, Step};
use super::vocab::Vocab;

/// A longer word, in characters, is unknown as a whole.
pub(super) const MAX_WORD: usize = 100;

/// The model: what a word without pieces becomes.
pub(super) struct WordPiece {
    steps: [Step; 2],
    unknown: Option<u32>,
    /// A longer word, in characters, is unknown as a whole.
    max_word: usize,
}

/// A mark that is a word of its own.
fn is_mark(c: char) -> bool {
    c.is_ascii_punctuation() || is(c, PUNCTUATION)
}

impl WordPiece {
    /// The model of words of at most so many characters.
    pub fn new(unknown: Option<u32>, max_word: usize) -> Self {
        WordPiece { steps: [Step::DropSpaces, Step::Alone(is_mark)], unknown, max_word }
    }

    /// Appends the tokens of a text without special tokens.
    pub fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) {
        split::words(&self.steps, text, &mut |word| self.word(vocab, word, out));
    }

    fn word(&self, vocab: &Vocab, word: &str, out: &mut Vec<u32>) {
        let before = out.len();
        let spaced = format!(" {word}");
        let bytes = spaced.as_bytes();
        let mut at = 0;
        // The longest token bounds what is tried, whatever the file says of words.
        while at < bytes.len() && word.chars().count() <= self.max_word {
            // The space alone is no piece.
            let least = if at == 0 { 2 } else { at + 1 };
            let most = bytes.len().min(at + vocab.longest());
            let piece = (least..=most)
                .rev()
                .filter(|&end| spaced.is_char_boundary(end))
                .find_map(|end| Some((end, vocab.find(&bytes[at..end])?)));
            let Some((end, id)) = piece else { break };
            out.push(id);
            at = end;
        }
        if at < bytes.len() {
            out.truncate(before);
            out.extend(self.unknown);
        }
    }
}
