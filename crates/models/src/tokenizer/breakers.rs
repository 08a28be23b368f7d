//! Sequences of tokens that hold a given text, wherever the borders between tokens fall.

use super::Tokenizer;
use super::merge::Merger;

impl Tokenizer {
    /// The sequences of tokens in which `text` may come: each token that has it inside, and each
    /// that ends with its beginning, followed by the tokens of the rest. Those are what a text that
    /// breaks off repetitions looks like to a model. Nothing for an empty text.
    pub fn sequences_with(&self, text: &str) -> Vec<Vec<u32>> {
        let wanted = text.as_bytes();
        let mut found = vec![];
        if wanted.is_empty() {
            return found;
        }
        // The rest after each place where a character begins.
        let mut merger = Merger::default();
        let mut rest = |at: usize| {
            let mut ids = vec![];
            self.encode_plain(&text[at..], false, &mut merger, &mut ids);
            ids
        };
        let starts = text.char_indices().skip(1).map(|(at, _)| at);
        let rests: Vec<(usize, Vec<u32>)> = starts.map(|at| (at, rest(at))).collect();
        for id in 0..self.vocab.len() as u32 {
            let bytes = self.vocab.bytes(id);
            if bytes.windows(wanted.len()).any(|w| w == wanted) {
                found.push(vec![id]);
                continue;
            }
            for (at, rest) in rests.iter().filter(|r| bytes.ends_with(&wanted[..r.0])) {
                debug_assert!(*at > 0, "a beginning is not empty");
                found.push([&[id], &rest[..]].concat());
            }
        }
        found
    }
}
