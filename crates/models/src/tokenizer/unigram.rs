//! SentencePiece's unigram model (`tokenizer.ggml.model` = `t5`): of all ways to cut a text into
//! tokens, the one whose scores, logarithms of probabilities, have the greatest sum.
//!
//! Viterbi's algorithm: the best way to each place is the best over the tokens that end there. A
//! character that is no token is unknown, ten worse than the worst token; unknown characters side
//! by side are one unknown token, or bytes where the model has a token for each. As elsewhere a
//! space stands for `▁`.

use super::trie::Trie;
use super::vocab::{NONE, TokenKind, Vocab};

/// How much worse than the worst token an unknown character is.
const UNKNOWN_PENALTY: f64 = 10.0;

/// The model: the tokens by their bytes, their scores, and a token for each byte.
pub(super) struct Unigram {
    trie: Trie,
    scores: Vec<f64>,
    unknown_score: f64,
    unknown: Option<u32>,
    byte_ids: [u32; 256],
}

/// The best way to a place.
#[derive(Clone, Copy)]
struct Best {
    score: f64,
    /// Where its last token begins.
    start: u32,
    /// `NONE` for an unknown character.
    id: u32,
}

impl Unigram {
    /// The model of a vocabulary with a score for each token. A token that is text of its own right
    /// (user-defined) scores 0, the best there is, with `user_defined_best`. Scores that are no
    /// number count as the worst.
    pub fn new(
        vocab: &Vocab,
        mut scores: Vec<f64>,
        unknown: Option<u32>,
        user_defined_best: bool,
    ) -> Unigram {
        let text =
            |kind| matches!(kind, TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused);
        let worst = vocab
            .kinds()
            .filter(|&(_, kind)| kind == TokenKind::Normal)
            .map(|(id, _)| scores[id as usize])
            .filter(|score| score.is_finite())
            .fold(f64::INFINITY, f64::min);
        let worst = if worst.is_finite() { worst } else { 0.0 };
        for (id, kind) in vocab.kinds() {
            let score = &mut scores[id as usize];
            if kind == TokenKind::UserDefined && user_defined_best {
                *score = 0.0;
            }
            if !score.is_finite() {
                *score = worst;
            }
        }
        let tokens = vocab.kinds().filter(|&(id, kind)| text(kind) && Some(id) != unknown);
        let trie = Trie::new(tokens.map(|(id, _)| id), |id| vocab.bytes(id));
        let unknown_score = worst - UNKNOWN_PENALTY;
        Unigram { trie, scores, unknown_score, unknown, byte_ids: vocab.byte_ids() }
    }

    /// Appends the tokens of a text without special tokens.
    pub fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let bytes = text.as_bytes();
        let none = Best { score: f64::NEG_INFINITY, start: 0, id: NONE };
        let mut best = vec![none; bytes.len() + 1];
        best[0].score = 0.0;
        for (at, c) in text.char_indices() {
            let so_far = best[at].score;
            if so_far == f64::NEG_INFINITY {
                continue; // no token that is not UTF-8 leads here
            }
            let start = at as u32;
            let mut single = false;
            for (n, id) in self.trie.prefixes(&bytes[at..]) {
                single |= n == c.len_utf8();
                let score = so_far + self.scores[id as usize];
                if score > best[at + n].score {
                    best[at + n] = Best { score, start, id };
                }
            }
            let end = at + c.len_utf8();
            let score = so_far + self.unknown_score;
            if !single && score > best[end].score {
                best[end] = Best { score, start, id: NONE };
            }
        }
        let from = out.len();
        let mut end = bytes.len();
        let mut after_unknown = false;
        while end > 0 {
            let Best { start, id, .. } = best[end];
            let covered = &bytes[start as usize..end];
            let byte_id = |b: &u8| self.byte_ids[usize::from(*b)];
            let unknown = id == NONE;
            if !unknown {
                out.push(id);
            } else if covered.iter().all(|b| byte_id(b) != NONE) {
                out.extend(covered.iter().rev().map(byte_id));
            } else if !after_unknown {
                out.extend(self.unknown);
            }
            after_unknown = unknown;
            end = start as usize;
        }
        out[from..].reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::Model;

    proptest! {
        /// The oracle: the `tokenizers` crate on the same vocabulary.
        #[test]
        fn as_the_tokenizers_crate(
            tokens in prop::collection::btree_map("[ abcé]{1,4}", -200i32..0, 1..40),
            text in "[ abcdéß]{0,30}",
        ) {
            let mut theirs = vec![("<unk>".to_string(), 0.0)];
            theirs.extend(tokens.into_iter().map(|(t, s)| (t, f64::from(s) / 16.0)));
            let mut vocab = Vocab::with_capacity(theirs.len(), 0);
            for (i, (token, _)) in theirs.iter().enumerate() {
                let kind = if i == 0 { TokenKind::Unknown } else { TokenKind::Normal };
                vocab.push(kind, |out| out.extend_from_slice(token.as_bytes())).unwrap();
            }
            let scores = theirs.iter().map(|t| t.1).collect();
            let ours = Unigram::new(&vocab, scores, Some(0), false);
            // Their unknown token's score counts as the worst where it is.
            let mut out = Vec::new();
            ours.encode(&text, &mut out);
            let model = tokenizers::models::unigram::Unigram::from(theirs, Some(0), false).unwrap();
            let want: Vec<u32> = model.tokenize(&text).unwrap().iter().map(|t| t.id).collect();
            prop_assert_eq!(out, want);
        }
    }
}
