//! Text to token ids and back, by the rules that a model file names.
//!
//! `tokenizer.ggml.model` names the kind: `gpt2` (byte-level BPE, in `bpe.rs`), `llama`
//! (SentencePiece's BPE, in `spm.rs`), `bert` (WordPiece) or `rwkv` (longest match). A kind or a
//! way of cutting words that is not known exactly is an error, never a guess: a wrong guess shows
//! only as a model that seems stupid.
//!
//! Special tokens are found in a text before anything else. Control tokens, those that steer the
//! model, are found only where the caller says that the text may hold them; user-defined tokens,
//! which are text that is always one token (a run of spaces, `<think>`), are found always.

mod bpe;
mod decode;
mod merge;
mod pretokenize;
mod rwkv;
mod special;
mod spm;
mod vocab;
mod wordpiece;

pub use decode::Decoder;
pub use vocab::TokenKind;

use crate::gguf::{Array, Gguf};
use gristmill_core::Result;
use merge::Merger;
use special::Matcher;
use std::borrow::Cow;
use vocab::{NONE, Vocab};

/// A model's tokenizer. It is immutable; share it by `Arc`.
pub struct Tokenizer {
    vocab: Vocab,
    model: Model,
    matcher: Matcher,
    bos: Option<u32>,
    eos: Option<u32>,
    mask: Option<u32>,
    /// What follows a text where special tokens are asked for: EOS, or BERT's separator.
    end: Option<u32>,
    add_bos: bool,
    /// Whether a space is put before a text, and after each special token in it.
    add_space: bool,
    /// Sorted.
    end_of_generation: Vec<u32>,
}

enum Model {
    Bpe(Box<bpe::Bpe>),
    Spm(Box<spm::Spm>),
    WordPiece(wordpiece::WordPiece),
    Rwkv(rwkv::Rwkv),
}

/// The value of `tokenizer.ggml.{name}_token_id`, checked against the vocabulary.
fn token_key(gguf: &Gguf, name: &str, n: usize) -> Result<Option<u32>> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    let id: Option<u32> = gguf.opt(&key)?;
    match id {
        Some(id) if id as usize >= n => {
            Err(gguf.error(format!("'{key}' is {id}, but there are only {n} tokens: damaged")))
        }
        id => Ok(id),
    }
}

/// The kind of each token. Where the file does not say, `<0xAB>` is a byte and the rest is text.
fn token_kinds(gguf: &Gguf, tokens: Array<'_>) -> Result<Vec<TokenKind>> {
    let key = "tokenizer.ggml.token_type";
    let Some(types) = gguf.opt::<Vec<i32>>(key)? else {
        let byte =
            |raw| if spm::byte_of(raw).is_some() { TokenKind::Byte } else { TokenKind::Normal };
        return Ok(tokens.byte_strings().map(byte).collect());
    };
    if types.len() != tokens.len() {
        return Err(gguf.error(format!(
            "'{key}' has {} entries for {} tokens: damaged",
            types.len(),
            tokens.len()
        )));
    }
    let kind = |(i, &id): (usize, &i32)| {
        TokenKind::from_id(id)
            .ok_or_else(|| gguf.error(format!("'{key}'[{i}] is {id}, not a kind of token")))
    };
    types.iter().enumerate().map(kind).collect()
}

impl Tokenizer {
    /// The tokenizer that a model file describes.
    ///
    /// # Errors
    /// A missing or inconsistent key, by its name; a kind of tokenizer or a way of cutting words
    /// that is not supported, with those that are.
    pub fn from_gguf(gguf: &Gguf) -> Result<Tokenizer> {
        if gguf.value("tokenizer.ggml.model").is_none() && gguf.check_writable().is_err() {
            return Err(gguf.error(
                "the tokenizer of a model in safetensors is not read yet: give token ids with \
                 --ids, or take the model's GGUF",
            ));
        }
        let name = gguf.get_str("tokenizer.ggml.model")?;
        let tokens: Array<'_> = gguf.get("tokenizer.ggml.tokens")?;
        if tokens.is_empty() || tokens.ty() != crate::gguf::ValueType::Str {
            return Err(gguf.error("'tokenizer.ggml.tokens' holds no strings: damaged"));
        }
        // `NONE` is no token's id, and twice the count must be a number.
        if u32::try_from(tokens.len()).is_err() || tokens.len() > NONE as usize / 2 {
            return Err(gguf.error("'tokenizer.ggml.tokens' holds more tokens than supported"));
        }
        let n = tokens.len();
        let kinds = token_kinds(gguf, tokens)?;
        let token = |name: &str| token_key(gguf, name, n);
        let unknown = token("unknown")?;

        let mut vocab = match name {
            "gpt2" => bpe::vocab(gguf, tokens, &kinds)?,
            "llama" | "bert" => spm::vocab(gguf, tokens, &kinds)?,
            "rwkv" => rwkv::vocab(gguf, tokens, &kinds)?,
            _ => {
                return Err(gguf.error(format!(
                    "the tokenizer kind '{name}' is not supported yet; supported are gpt2, llama, \
                     bert and rwkv"
                )));
            }
        };
        let mut end_of_generation = special::end_of_generation(&mut vocab);
        vocab.index();

        let (mut bos, mut eos) = (token("bos")?, token("eos")?);
        let (model, add_bos, add_space) = match name {
            "gpt2" => {
                let family = bpe::family(gguf)?;
                let model = bpe::Bpe::new(gguf, &vocab, family, unknown)?;
                (Model::Bpe(Box::new(model)), family.add_bos, false)
            }
            "llama" => {
                // SentencePiece's own defaults, where the file names none.
                let control = |id| (vocab.kind(id) == Some(TokenKind::Control)).then_some(id);
                bos = bos.or_else(|| control(1));
                eos = eos.or_else(|| control(2));
                let add_space = gguf.opt("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
                let model = spm::Spm::new(gguf, &vocab, unknown)?;
                (Model::Spm(Box::new(model)), true, add_space)
            }
            "bert" => {
                bos = token("cls")?.or(bos);
                (Model::WordPiece(wordpiece::WordPiece::new(gguf, unknown)?), true, true)
            }
            _ => (Model::Rwkv(rwkv::Rwkv::new(&vocab, unknown)), false, false),
        };
        let add_bos = gguf.opt("tokenizer.ggml.add_bos_token")?.unwrap_or(add_bos);
        let add_eos = gguf.opt("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        let separator = token("seperator")?.filter(|_| name == "bert");
        if name != "bert" {
            end_of_generation.extend(eos);
            end_of_generation.extend(token("eot")?);
            end_of_generation.extend(token("eom")?);
        }
        end_of_generation.sort_unstable();
        end_of_generation.dedup();
        Ok(Tokenizer {
            matcher: Matcher::new(&vocab),
            vocab,
            model,
            bos,
            eos,
            mask: token("mask")?,
            end: separator.or(eos.filter(|_| add_eos)),
            add_bos,
            add_space,
            end_of_generation,
        })
    }

    /// The tokens of a text.
    ///
    /// `add_special` adds what the model expects around a text (BOS, EOS, BERT's `[CLS]` and
    /// `[SEP]`), as the file says; a BOS that the text itself begins with is not doubled.
    /// `parse_special` reads control tokens written in the text, such as `<|im_start|>`; leave it
    /// off for text from outside. Bytes that no token covers become the unknown token, or nothing
    /// where the model has none. A text must be shorter than 4 GiB.
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Vec<u32> {
        let mut out = Vec::with_capacity(text.len() / 3 + 2);
        let bos = self.bos.filter(|_| add_special && self.add_bos);
        out.extend(bos);
        let mut merger = Merger::default();
        let wanted = |id| parse_special || self.vocab.kind(id) == Some(TokenKind::UserDefined);
        // A space goes before the text, and before what follows a special token.
        let mut prefix = self.add_space;
        let mut at = 0;
        while at < text.len() {
            let found = self.matcher.next(text, at, wanted);
            let end = found.map_or(text.len(), |(start, _, _)| start);
            if at < end {
                self.encode_plain(&text[at..end], prefix, &mut merger, &mut out);
                prefix = false;
            }
            at = end;
            if let Some((_, end, id)) = found {
                out.push(id);
                prefix = self.add_space;
                at = end;
            }
        }
        if bos.is_some() && out.get(1) == bos.as_ref() {
            out.remove(0);
        }
        if let Some(end) = self.end.filter(|end| add_special && out.last() != Some(end)) {
            out.push(end);
        }
        out
    }

    fn encode_plain(&self, text: &str, prefix: bool, merger: &mut Merger, out: &mut Vec<u32>) {
        match &self.model {
            Model::Bpe(m) => m.encode(&self.vocab, text, merger, out),
            Model::Spm(m) => m.encode(&self.vocab, text, prefix, merger, out),
            Model::WordPiece(m) => m.encode(&self.vocab, text, out),
            Model::Rwkv(m) => m.encode(&self.vocab, text, out),
        }
    }

    /// The text of a whole sequence, from its first token: control tokens give none, the space
    /// that encoding put first is taken away, bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut state = decode::State::new(self.add_space);
        let mut out = String::new();
        for &id in ids {
            state.push(self, id, &mut out);
        }
        state.finish(&mut out);
        out
    }

    /// The bytes a token stands for, possibly part of a character; a control token's are its
    /// name. Empty for an id beyond the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Cow<'_, [u8]> {
        self.vocab.bytes(id).into()
    }

    /// [`Tokenizer::token_bytes`] for the eye: what is not UTF-8 is shown as U+FFFD.
    pub fn text(&self, id: u32) -> Cow<'_, str> {
        String::from_utf8_lossy(self.vocab.bytes(id))
    }

    /// What a token is for; `None` beyond the vocabulary.
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.vocab.kind(id)
    }

    /// The token of exactly this text, special tokens first.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.matcher.find(text.as_bytes()).or_else(|| self.vocab.find(text.as_bytes()))
    }

    /// Whether a token ends an answer: EOS, end of turn, end of message.
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.end_of_generation.binary_search(&id).is_ok()
    }

    /// The ids for which [`Tokenizer::is_end_of_generation`] holds, in order.
    pub fn end_of_generation(&self) -> &[u32] {
        &self.end_of_generation
    }

    /// The beginning-of-sequence token (BERT: `[CLS]`).
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The end-of-sequence token.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The token that stands for text to be filled in, in models that do.
    pub fn mask(&self) -> Option<u32> {
        self.mask
    }

    /// Number of tokens. A model's logits may have more rows, never fewer.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// Whether a text gets a space in front, which a whole text's decoding takes away.
    pub(super) fn adds_space(&self) -> bool {
        self.add_space
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match &self.model {
            Model::Bpe(_) => "byte-level BPE",
            Model::Spm(_) => "SentencePiece BPE",
            Model::WordPiece(_) => "WordPiece",
            Model::Rwkv(_) => "RWKV",
        };
        write!(f, "{kind}, {} tokens", self.vocab.len())
    }
}
