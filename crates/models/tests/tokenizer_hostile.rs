//! Vocabularies that are wrong, and vocabularies that are damaged.

mod common;

use common::open;
use gristmill_models::Tokenizer;
use gristmill_models::gguf::{Encode, GgufWriter};
use proptest::prelude::*;

/// A file of a tokenizer's keys; a later key of the same name replaces an earlier one.
#[derive(Default)]
struct Keys(Vec<(&'static str, Setter)>);

type Setter = Box<dyn Fn(&mut GgufWriter, &str)>;

impl Keys {
    fn with(mut self, key: &'static str, value: impl Encode + Clone + 'static) -> Self {
        self.0.retain(|(k, _)| *k != key);
        let set = move |w: &mut GgufWriter, k: &str| w.set(k, value.clone()).unwrap();
        self.0.push((key, Box::new(set)));
        self
    }

    fn without(mut self, key: &str) -> Self {
        self.0.retain(|(k, _)| *k != key);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut w = GgufWriter::new("vocabulary");
        for (key, set) in &self.0 {
            set(&mut w, &format!("tokenizer.ggml.{key}"));
        }
        w.write(Vec::new(), &[]).unwrap()
    }

    fn load(&self) -> gristmill_core::Result<Tokenizer> {
        Tokenizer::from_gguf(&open(self.bytes())?)
    }

    fn refusal(&self) -> String {
        let e = self.load().expect_err("must be refused");
        assert_eq!(e.exit_code(), 3);
        e.to_string()
    }
}

fn list<T>(values: Vec<T>) -> &'static [T] {
    values.leak()
}

/// Byte-level BPE over `a`, `b`, a space and two merges.
fn bpe() -> Keys {
    Keys::default()
        .with("model", "gpt2")
        .with("pre", "gpt-2")
        .with("tokens", list(vec!["<s>", "</s>", "a", "b", "Ġ", "ab", "Ġab", "<x>", "é"]))
        .with("token_type", list(vec![3i32, 3, 1, 1, 1, 1, 1, 4, 1]))
        .with("merges", list(vec!["a b", "Ġ ab"]))
        .with("bos_token_id", 0u32)
        .with("eos_token_id", 1u32)
        .with("add_bos_token", true)
}

/// SentencePiece's, with two byte tokens.
fn spm() -> Keys {
    Keys::default()
        .with("model", "llama")
        .with(
            "tokens",
            list(vec!["<unk>", "<s>", "</s>", "<0x0A>", "<0x61>", "▁", "b", "▁b", "bb"]),
        )
        .with("token_type", list(vec![2i32, 3, 3, 6, 6, 1, 1, 1, 1]))
        .with("scores", list(vec![0f32, 0.0, 0.0, 0.0, 0.0, -3.0, -2.0, -1.0, f32::NAN]))
        .with("unknown_token_id", 0u32)
}

fn wordpiece() -> Keys {
    Keys::default()
        .with("model", "bert")
        .with("tokens", list(vec!["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁a", "b", "▁,"]))
        .with("token_type", list(vec![3i32, 3, 3, 3, 1, 1, 1]))
        .with("unknown_token_id", 1u32)
        .with("cls_token_id", 2u32)
        .with("seperator_token_id", 3u32)
}

fn rwkv() -> Keys {
    Keys::default()
        .with("model", "rwkv")
        .with("tokens", list(vec!["<s>", "a", r"\n", "ab", r"\xc3\xa9", r"\xc3"]))
        .with("token_type", list(vec![3i32, 1, 1, 1, 1, 1]))
}

/// Unigram, with the smallest table of replacements: none.
fn unigram() -> Keys {
    Keys::default()
        .with("model", "t5")
        .with("tokens", list(vec!["<pad>", "</s>", "<unk>", "▁a", "a", "b", "▁ab", "▁", "<x>"]))
        .with("token_type", list(vec![3i32, 3, 2, 1, 1, 1, 1, 1, 4]))
        .with("scores", list(vec![0f32, 0.0, 0.0, -1.0, -2.0, -2.5, -4.0, -3.0, 0.0]))
        .with("precompiled_charsmap", list(vec![4u8, 0, 0, 0, 0, 4, 0, 0, b'x', 0]))
        .with("unknown_token_id", 2u32)
        .with("eos_token_id", 1u32)
}

/// SentencePiece's BPE as merges.
fn marked() -> Keys {
    Keys::default()
        .with("model", "gemma4")
        .with(
            "tokens",
            list(vec!["<bos>", "<0x0A>", "<0xC3>", "<0xA9>", "a", "▁", "▁a", "\n\n", "\n"]),
        )
        .with("token_type", list(vec![3i32, 6, 6, 6, 1, 1, 1, 1, 1]))
        .with("merges", list(vec!["▁ a"]))
        .with("bos_token_id", 0u32)
}

#[test]
fn small_vocabularies_work() {
    let t = bpe().load().unwrap();
    assert_eq!(t.encode("ab ab<x>b</s>", true, false), [0, 5, 6, 7, 3]);
    assert_eq!(t.encode("ab</s>", true, true), [0, 5, 1]);
    assert_eq!(t.decode(&[0, 5, 6, 7, 3, 1, 99]), "ab ab<x>b");
    assert!(t.is_end_of_generation(1) && !t.is_end_of_generation(5));
    // A text byte no token covers, and no unknown token.
    assert_eq!(t.encode("aca", false, false), [2, 2]);

    let t = spm().load().unwrap();
    assert_eq!((t.bos(), t.eos()), (Some(1), Some(2)));
    assert_eq!(t.encode("b ba\nb", true, false), [1, 7, 7, 4, 3, 6]);
    assert_eq!(t.encode("é", false, false), [5, 0]);
    assert_eq!(t.decode(&t.encode("b ba\nb", true, false)), "b ba\nb");
    assert_eq!(t.encode("b</s>b", false, true), [7, 2, 7]);

    let t = wordpiece().load().unwrap();
    assert_eq!(t.encode("Ab, a!", true, false), [2, 4, 5, 6, 4, 1, 3]);
    assert_eq!(t.decode(&[2, 4, 5, 6, 4, 3]), "ab , a");
    assert_eq!(t.encode(&"ab".repeat(51), false, false), [1]);

    let t = unigram().load().unwrap();
    assert_eq!(t.encode("a ab<x>é!a", true, false), [3, 3, 5, 8, 7, 2, 4, 1]);
    assert_eq!(t.decode(&[3, 5, 6, 1]), "ab ab");

    let t = marked().load().unwrap();
    assert_eq!(t.encode("a a\n\né", true, false), [0, 4, 6, 7, 2, 3]);
    assert_eq!(t.decode(&[0, 4, 6, 7, 2, 3]), "a a\n\né");

    let t = rwkv().load().unwrap();
    assert_eq!(t.encode("aba\né", true, false), [3, 1, 2, 4]);
    assert_eq!(t.decode(&[3, 5, 0, 1]), "ab\u{fffd}a");
}

#[test]
fn control_tokens_are_not_made_by_merging() {
    let keys = bpe().with("token_type", list(vec![3i32, 3, 1, 1, 1, 3, 1, 4, 1]));
    let t = keys.load().unwrap();
    assert_eq!(t.encode("ab", false, false), [2, 3]);
    assert_eq!(t.encode("ab", false, true), [5]);
}

#[test]
fn wrong_vocabularies_are_refused_by_name() {
    for (keys, wanted) in [
        (bpe().with("model", "plamo2"), "'plamo2' is not supported"),
        (bpe().without("model"), "'tokenizer.ggml.model' is missing"),
        (bpe().with("pre", "mystery"), "'mystery', which is not supported; known are: a.x-4.0,"),
        (bpe().without("pre"), "'tokenizer.ggml.pre' is missing"),
        (bpe().without("tokens"), "'tokenizer.ggml.tokens' is missing"),
        (bpe().with("tokens", list::<&str>(vec![])), "holds no strings"),
        (bpe().with("tokens", list(vec![1u32])), "holds no strings"),
        (bpe().without("merges"), "'tokenizer.ggml.merges' is missing"),
        (bpe().with("merges", list(vec!["ab"])), "merge 0 is not a pair"),
        (bpe().with("merges", list(vec!["a é"])), "names a token that is not in the vocabulary"),
        (bpe().with("merges", list(vec!["a 今"])), "stands for no byte"),
        (bpe().with("bos_token_id", 9u32), "'tokenizer.ggml.bos_token_id' is 9"),
        (bpe().with("eos_token_id", u32::MAX), "only 9 tokens"),
        (bpe().with("token_type", list(vec![1i32])), "has 1 entries for 9 tokens"),
        (bpe().with("token_type", list(vec![7i32; 9])), "is 7, not a kind of token"),
        (bpe().with("add_bos_token", 1u32), "not a bool"),
        (spm().with("scores", list(vec![0f32])), "has 1 entries for 9 tokens"),
        (spm().without("scores"), "'tokenizer.ggml.scores' is missing"),
        (spm().with("token_type", list(vec![6i32; 9])), "marked as a byte but is none"),
        (unigram().without("scores"), "'tokenizer.ggml.scores' is missing"),
        (unigram().with("precompiled_charsmap", list(vec![9u8, 0, 0, 0])), "sizes that do not fit"),
        (unigram().with("precompiled_charsmap", list(vec![9i32])), "does not hold bytes"),
        (marked().without("merges"), "'tokenizer.ggml.merges' is missing"),
        (rwkv().with("tokens", list(vec!["", "", "", "", "", r"\x"])), "broken escape"),
    ] {
        let what = keys.refusal();
        assert!(what.contains(wanted), "{what}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn damaged_vocabularies_never_panic(
        kind in 0..6usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..3),
        text in r"[ab ,\né▁<>/sx0A]{0,24}",
        ids in prop::collection::vec(0..12u32, 0..8),
    ) {
        let mut b = [bpe, spm, wordpiece, rwkv, unigram, marked][kind]().bytes();
        for (at, byte) in changes {
            let at = at.index(b.len());
            b[at] = byte;
        }
        if let Ok(t) = open(b).and_then(|g| Tokenizer::from_gguf(&g)) {
            for special in [false, true] {
                for id in t.encode(&text, special, special) {
                    prop_assert!((id as usize) < t.vocab_size());
                }
            }
            let _ = t.decode(&ids);
        }
    }
}
