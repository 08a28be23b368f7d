//! A tokenizer from Hugging Face's `tokenizer.json`, with what `tokenizer_config.json` adds.
//!
//! A file describes a pipeline of parts that could be put together in countless ways; those of the
//! models that exist come down to the same few tokenizers that GGUF files name. Each part is
//! recognised for what it does; one that is not is an error with its name.

mod file;
mod steps;

use super::bpe::{self, Bpe, Scheme};
use super::normalize::Normalizer;
use super::pretokenize::Symbols;
use super::special::{self, Manners};
use super::split::Step;
use super::unigram::Unigram;
use super::vocab::{TokenKind, Vocab};
use super::wordpiece::{self, WordPiece};
use super::{Model, Tokenizer, When, rwkv, spm};
use file::{Added, Entries, File, ModelPart};
use gristmill_core::{Error, Result};
use serde_json::Value;
use std::borrow::Cow;
use steps::Cutting;

/// Most tokens that are believed.
const MAX_TOKENS: usize = 1 << 24;

/// A token as files describe it.
struct Entry<'a> {
    text: Cow<'a, str>,
    kind: TokenKind,
}

/// The kinds of model.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bpe,
    Unigram,
    WordPiece,
}

fn kind(model: &ModelPart<'_>) -> Result<Kind, String> {
    match model.kind.as_deref() {
        Some("BPE") => Ok(Kind::Bpe),
        Some("Unigram") => Ok(Kind::Unigram),
        Some("WordPiece") => Ok(Kind::WordPiece),
        // Files of the first years do not say.
        None if model.merges.is_some() => Ok(Kind::Bpe),
        None if matches!(model.vocab, Entries::Scores(_)) => Ok(Kind::Unigram),
        None if model.max_input_chars_per_word.is_some() => Ok(Kind::WordPiece),
        other => Err(format!("the model '{}'", other.unwrap_or("without a type"))),
    }
}

/// The tokens by their ids. Ids without a token are left empty.
fn entries<'a>(
    vocab: &Entries<'a>,
    added: &[Added<'a>],
    byte_fallback: bool,
) -> Result<Vec<Option<Entry<'a>>>, String> {
    let plain = |text: &Cow<'a, str>| {
        let byte = byte_fallback && spm::byte_of(text.as_bytes()).is_some();
        Entry { text: text.clone(), kind: if byte { TokenKind::Byte } else { TokenKind::Normal } }
    };
    let listed: Vec<(u32, Entry<'a>)> = match vocab {
        Entries::Ids(list) => list.iter().map(|(text, id)| (*id, plain(&text.0))).collect(),
        Entries::Scores(list) => (0..).zip(list.iter().map(|(text, _)| plain(&text.0))).collect(),
    };
    let ids = listed.iter().map(|(id, _)| *id).chain(added.iter().map(|t| t.id));
    let n = ids.max().map_or(0, |id| id as usize + 1);
    if n == 0 || n > MAX_TOKENS || n > 4 * (listed.len() + added.len()) + 65_536 {
        let named = listed.len() + added.len();
        return Err(format!("ids up to {n} for {named} tokens: damaged"));
    }
    let mut out: Vec<Option<Entry<'a>>> = Vec::new();
    out.resize_with(n, || None);
    for (id, entry) in listed {
        if let Some(other) = out[id as usize].replace(entry) {
            return Err(format!("the tokens with id {id}, one of them '{}': damaged", other.text));
        }
    }
    for token in added {
        let kind = if token.special { TokenKind::Control } else { TokenKind::UserDefined };
        let entry = Entry { text: token.content.clone(), kind };
        let other = out[token.id as usize].replace(entry);
        if let Some(other) = other.filter(|o| o.text != token.content) {
            let (id, one) = (token.id, other.text);
            return Err(format!("id {id}, which is '{one}' and '{}': damaged", token.content));
        }
    }
    Ok(out)
}

/// Where the special tokens are named.
struct Config {
    json: Value,
}

impl Config {
    /// The id of a token by its name in the configuration, such as `bos_token`.
    fn token(&self, name: &str, vocab: &Vocab) -> Option<u32> {
        let token = &self.json[name];
        let text = token.as_str().or_else(|| token["content"].as_str())?;
        vocab.kinds().map(|(id, _)| id).find(|&id| vocab.bytes(id) == text.as_bytes())
    }

    /// Whether a token is added, where the configuration speaks of such at all.
    fn adds(&self) -> Option<(bool, bool)> {
        let adds = |name: &str| self.json[name].as_bool();
        let (bos, eos) = (adds("add_bos_token"), adds("add_eos_token"));
        (bos.is_some() || eos.is_some()).then(|| (bos.unwrap_or_default(), eos.unwrap_or_default()))
    }
}

impl Tokenizer {
    /// The tokenizer that a `tokenizer.json` describes; `config` is the `tokenizer_config.json`
    /// beside it, which names BOS and EOS. `name` stands for the file in messages.
    ///
    /// # Errors
    /// Text that is not JSON, with its line; a part, a pattern or a model that is not supported,
    /// by its name; an id without a token.
    pub fn from_json(name: &str, json: &[u8], config: Option<&[u8]>) -> Result<Tokenizer> {
        let refuse = |what: String| Error::model(name, what);
        let mut file: File<'_> = serde_json::from_slice(json)
            .map_err(|e| refuse(format!("not a tokenizer.json that can be read: {e}")))?;
        file.settle_added();
        let config = match config {
            None => Value::Null,
            Some(config) => serde_json::from_slice(config)
                .map_err(|e| refuse(format!("its tokenizer_config.json is damaged: {e}")))?,
        };
        build(&file, &Config { json: config }, &refuse)
    }

    /// The tokenizer of RWKV's own vocabulary file, `rwkv_vocab_v20230424.txt`: an id, a Python
    /// literal and a length in each line.
    ///
    /// # Errors
    /// A line that is not of that form, by its number.
    pub fn from_rwkv_text(name: &str, text: &str) -> Result<Tokenizer> {
        let mut vocab = rwkv::text_vocab(text).map_err(|line| {
            Error::model(name, format!("line {line} is not an id, a literal and its length"))
        })?;
        let end_of_generation = special::end_of_generation(&mut vocab);
        vocab.index();
        let model = Model::Rwkv(rwkv::Rwkv::new(&vocab, None));
        let tokenizer = Tokenizer {
            bos: Some(0),
            eos: Some(0),
            end_of_generation,
            ..Tokenizer::plain(vocab, model)
        };
        Ok(tokenizer.ready(Vec::new(), Vec::new()))
    }

    /// The same, with further ids that end an answer: those of a `generation_config.json`.
    ///
    /// # Errors
    /// Text that is not JSON, an `eos_token_id` that is no id of this tokenizer.
    pub fn with_generation_config(mut self, name: &str, json: &[u8]) -> Result<Tokenizer> {
        let refuse = |what: String| Error::model(name, what);
        let config: Value = serde_json::from_slice(json).map_err(|e| refuse(e.to_string()))?;
        let ids = match &config["eos_token_id"] {
            Value::Array(ids) => ids.as_slice(),
            Value::Null => &[],
            one => std::slice::from_ref(one),
        };
        for id in ids {
            let known = id.as_u64().filter(|&id| id < self.vocab.len() as u64);
            let id = known.ok_or_else(|| {
                refuse(format!("'eos_token_id' has {id}, which is no id of the tokenizer"))
            })?;
            self.end_of_generation.push(id as u32);
        }
        self.end_of_generation.sort_unstable();
        self.end_of_generation.dedup();
        Ok(self)
    }
}

fn build(file: &File<'_>, config: &Config, refuse: &dyn Fn(String) -> Error) -> Result<Tokenizer> {
    let part = &file.model;
    let unsupported = |what: String| refuse(format!("{what} is not supported"));
    let kind = kind(part).map_err(unsupported)?;
    let mut normalizer = steps::normalizers(&file.normalizer).map_err(unsupported)?;
    let marks = |n: &Normalizer| matches!(n, Normalizer::Replace(a, b) if a == " " && b == "▁");
    let marked = normalizer.iter().any(marks);
    let cutting = steps::cutting(&file.pre_tokenizer, marked).map_err(unsupported)?;
    if cutting.spaced_words {
        normalizer.push(Normalizer::SpacedWords);
    }
    let symbols = match kind {
        Kind::Unigram => Symbols::Marked,
        _ if cutting.byte_level => Symbols::Bytes,
        _ if cutting.marked => Symbols::Marked,
        _ => Symbols::Chars,
    };
    let listed = entries(&part.vocab, &file.added_tokens, part.byte_fallback)
        .map_err(|what| refuse(format!("'vocab' and 'added_tokens': {what}")))?;

    // A mark in a token of text is a space here; one that is looked for in the text as it comes
    // would stand for itself, which no text holds, so such a token is left to the model.
    let marked_text = |id: usize, text: &str| {
        symbols == Symbols::Marked
            && text.contains('▁')
            && file.added_tokens.iter().any(|t| t.id as usize == id && !t.normalized)
    };
    let continuing = part.continuing_subword_prefix.as_deref();
    let mut vocab = Vocab::with_capacity(listed.len(), listed.len() * 8);
    for (id, entry) in listed.iter().enumerate() {
        let (text, mut token_kind) = match entry {
            Some(entry) => (&*entry.text, entry.kind),
            None => ("", TokenKind::Unused),
        };
        if token_kind == TokenKind::UserDefined && marked_text(id, text) {
            token_kind = TokenKind::Normal;
        }
        let pushed = vocab.push(token_kind, |out| match (kind, token_kind) {
            (Kind::WordPiece, TokenKind::Normal) => {
                let inner = text.strip_prefix(continuing.unwrap_or("##"));
                if inner.is_none() {
                    out.push(b' ');
                }
                out.extend_from_slice(inner.unwrap_or(text).as_bytes());
            }
            (Kind::WordPiece, _) => out.extend_from_slice(text.as_bytes()),
            _ => bpe::token_into(text.as_bytes(), token_kind, symbols, out),
        });
        pushed.ok_or_else(|| refuse("the vocabulary holds more than 4 GiB of text".into()))?;
    }
    let mut end_of_generation = special::end_of_generation(&mut vocab);
    vocab.index();

    let id_of = |text: &str| {
        let same = |e: &Option<Entry<'_>>| e.as_ref().is_some_and(|e| e.text == text);
        listed.iter().position(same).map(|id| id as u32)
    };
    let unknown = match (&part.unk_token, part.unk_id) {
        (Some(text), _) => Some(id_of(text).ok_or_else(|| {
            refuse(format!("'unk_token' is '{text}', which is not in the vocabulary"))
        })?),
        (None, Some(id)) if id as usize >= listed.len() => {
            return Err(refuse(format!("'unk_id' is {id}, but there are {} tokens", listed.len())));
        }
        (None, id) => id,
    };
    let Cutting { steps, prefix, bert, .. } = cutting;
    let strip_space = prefix.when != When::Never && symbols == Symbols::Marked
        || kind == Kind::WordPiece
        || normalizer.iter().any(|n| match n {
            Normalizer::Prepend(what) => what == "▁",
            n => matches!(n, Normalizer::SpacedWords),
        });
    let model = match kind {
        Kind::Bpe => {
            let affixes = [&part.continuing_subword_prefix, &part.end_of_word_suffix];
            if bert || affixes.iter().any(|a| a.as_deref().is_some_and(|a| !a.is_empty())) {
                return Err(unsupported("BPE with marks at the parts of a word".into()));
            }
            if part.dropout.is_some_and(|p| p != 0.0) {
                return Err(unsupported("BPE with dropout".into()));
            }
            let merges = part.merges.as_deref().unwrap_or_default();
            let scheme = Scheme {
                steps,
                symbols,
                ignore_merges: part.ignore_merges,
                whole_newlines: false,
                unknown,
                fuse_unknown: part.fuse_unk,
            };
            let merges = merges.iter().map(|m| m.halves());
            let what = |what: String| refuse(format!("'merges': {what}"));
            Model::Bpe(Box::new(Bpe::new(&vocab, scheme, merges, what)?))
        }
        Kind::Unigram => {
            let Entries::Scores(list) = &part.vocab else {
                return Err(refuse("'vocab' has no scores: damaged".into()));
            };
            if bert || !steps.iter().all(|s| matches!(s, Step::Before(' '))) {
                return Err(unsupported("this pre-tokenizer with a unigram model".into()));
            }
            let mut scores: Vec<f64> = list.iter().map(|(_, score)| *score).collect();
            scores.resize(listed.len(), 0.0);
            Model::Unigram(Box::new(Unigram::new(&vocab, scores, unknown, false)))
        }
        Kind::WordPiece => {
            if !bert {
                return Err(unsupported("WordPiece without BertPreTokenizer".into()));
            }
            let most = part.max_input_chars_per_word.unwrap_or(wordpiece::MAX_WORD);
            Model::WordPiece(WordPiece::new(unknown, most))
        }
    };

    let token = |name: &str| config.token(name, &vocab);
    let (mut bos, eos) = (token("bos_token"), token("eos_token"));
    if kind == Kind::WordPiece {
        bos = token("cls_token").or(bos);
    }
    let around = steps::around(&file.post_processor).map_err(unsupported)?;
    let said = config.adds().filter(|_| kind != Kind::WordPiece);
    let (before, after) = match (said, around) {
        (Some((add_bos, add_eos)), _) => {
            let one = |id: Option<u32>, add| id.filter(|_| add).into_iter().collect();
            (one(bos, add_bos), one(eos, add_eos))
        }
        (None, around) => around.unwrap_or_default(),
    };
    if let Some(id) = before.iter().chain(&after).find(|&&id| id as usize >= listed.len()) {
        let n = listed.len();
        return Err(refuse(format!("the post-processor adds id {id}, but there are {n} tokens")));
    }
    // What goes before a text is its BOS, where the configuration does not say.
    bos = bos.or(before.last().copied());
    if kind != Kind::WordPiece {
        end_of_generation.extend(eos);
        end_of_generation.extend(token("eot_token"));
    }
    let manners =
        |t: &Added<'_>| (t.id, Manners { left: t.lstrip, right: t.rstrip, word: t.single_word });
    let normalized = match normalizer.is_empty() {
        true => Vec::new(),
        false => file.added_tokens.iter().filter(|t| t.normalized).map(|t| t.id).collect(),
    };
    let tokenizer = Tokenizer {
        normalizer,
        prefix,
        strip_space,
        bos,
        eos,
        mask: token("mask_token"),
        before,
        after,
        end_of_generation,
        ..Tokenizer::plain(vocab, model)
    };
    Ok(tokenizer.ready(file.added_tokens.iter().map(manners).collect(), normalized))
}
