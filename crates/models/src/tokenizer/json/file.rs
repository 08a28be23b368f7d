//! `tokenizer.json` as it is written: names and numbers, not yet what they mean.
//!
//! The vocabulary and the merges, nearly all of a file, are read straight into lists that borrow
//! the file's text; what else there is, small and of many shapes, stays JSON.

use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

#[derive(Deserialize)]
pub(super) struct File<'a> {
    #[serde(borrow, default)]
    pub added_tokens: Vec<Added<'a>>,
    #[serde(default)]
    pub normalizer: Value,
    #[serde(default)]
    pub pre_tokenizer: Value,
    #[serde(default)]
    pub post_processor: Value,
    #[serde(borrow)]
    pub model: ModelPart<'a>,
}

impl File<'_> {
    /// Gives added tokens that are in the vocabulary the ids they have there, as the `tokenizers`
    /// library does.
    pub fn settle_added(&mut self) {
        let places: HashMap<String, usize> =
            self.added_tokens.iter().map(|t| t.content.to_string()).zip(0..).collect();
        let mut settle = |text: &Text<'_>, id: u32| {
            if let Some(&at) = places.get(&*text.0) {
                self.added_tokens[at].id = id;
            }
        };
        match &self.model.vocab {
            Entries::Ids(list) => list.iter().for_each(|(text, id)| settle(text, *id)),
            Entries::Scores(list) => (0..).zip(list).for_each(|(id, (text, _))| settle(text, id)),
        }
    }
}

/// A token that is found in text before the model sees it.
#[derive(Deserialize)]
pub(super) struct Added<'a> {
    pub id: u32,
    #[serde(borrow)]
    pub content: Cow<'a, str>,
    #[serde(default)]
    pub special: bool,
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    pub rstrip: bool,
    #[serde(default)]
    pub single_word: bool,
    #[serde(default)]
    pub normalized: bool,
}

#[derive(Deserialize)]
pub(super) struct ModelPart<'a> {
    #[serde(rename = "type", default)]
    pub kind: Option<String>,
    #[serde(borrow)]
    pub vocab: Entries<'a>,
    #[serde(borrow, default)]
    pub merges: Option<Vec<Merge<'a>>>,
    #[serde(default)]
    pub dropout: Option<f32>,
    #[serde(default)]
    pub unk_token: Option<String>,
    #[serde(default)]
    pub unk_id: Option<u32>,
    #[serde(default)]
    pub continuing_subword_prefix: Option<String>,
    #[serde(default)]
    pub end_of_word_suffix: Option<String>,
    #[serde(default)]
    pub fuse_unk: bool,
    #[serde(default)]
    pub byte_fallback: bool,
    #[serde(default)]
    pub ignore_merges: bool,
    #[serde(default)]
    pub max_input_chars_per_word: Option<usize>,
}

/// A string that borrows where it can.
#[derive(Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// The vocabulary: tokens with their ids, or in order with their scores.
pub(super) enum Entries<'a> {
    Ids(Vec<(Text<'a>, u32)>),
    Scores(Vec<(Text<'a>, f64)>),
}

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Both;

        impl<'de> Visitor<'de> for Both {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tokens with their ids, or a list of tokens with their scores")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<'de>, A::Error> {
                let mut out = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    out.push(entry);
                }
                Ok(Entries::Ids(out))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Entries<'de>, A::Error> {
                let mut out = Vec::new();
                while let Some(entry) = seq.next_element()? {
                    out.push(entry);
                }
                Ok(Entries::Scores(out))
            }
        }

        deserializer.deserialize_any(Both)
    }
}

/// A merge: both halves, or one text with a space between them.
pub(super) enum Merge<'a> {
    Pair(Text<'a>, Text<'a>),
    Joined(Cow<'a, str>),
}

impl<'de: 'a, 'a> Deserialize<'de> for Merge<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Merge<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge, as two strings or as one with a space")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merge<'de>, A::Error> {
                match (seq.next_element()?, seq.next_element()?, seq.next_element::<Text<'_>>()?) {
                    (Some(left), Some(right), None) => Ok(Merge::Pair(left, right)),
                    _ => Err(de::Error::custom("a merge is not of two strings")),
                }
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Merge<'de>, E> {
                Ok(Merge::Joined(text.into()))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Merge<'de>, E> {
                Ok(Merge::Joined(text.to_owned().into()))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl Merge<'_> {
    /// Both halves, where there are two.
    pub fn halves(&self) -> Option<(&[u8], &[u8])> {
        match self {
            Merge::Pair(left, right) => Some((left.0.as_bytes(), right.0.as_bytes())),
            Merge::Joined(text) => crate::tokenizer::bpe::pair(text.as_bytes()),
        }
    }
}
