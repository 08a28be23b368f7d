//! Text to token ids and back, by the rules that a model's files name.
//!
//! The rules come from a GGUF file's metadata (`gguf.rs`) or from a `tokenizer.json` (`json`), and
//! are of one of five kinds: BPE by merges (`bpe.rs`: GPT-2's and what followed), SentencePiece's
//! BPE (`spm.rs`) and unigram model (`unigram.rs`), WordPiece (`wordpiece.rs`) and RWKV's longest
//! match (`rwkv.rs`). A kind or a way of cutting words that is not known exactly is an error, never
//! a guess: a wrong guess shows only as a model that seems stupid.
//!
//! Special tokens are found in a text before anything else. Control tokens, those that steer the
//! model, are found only where the caller says that the text may hold them; user-defined tokens,
//! which are text that is always one token (a run of spaces, `<think>`), are found always. What is
//! between them is normalized, cut into words and made tokens.

mod bpe;
mod breakers;
mod charsmap;
mod class;
mod decode;
mod files;
mod gguf;
mod json;
mod merge;
mod normalize;
mod pattern;
mod pretokenize;
mod rwkv;
mod special;
mod split;
mod spm;
mod trie;
mod unigram;
mod vocab;
mod wordpiece;

pub use decode::Decoder;
pub use vocab::TokenKind;

use merge::Merger;
use normalize::{Normalizer, normalize};
use special::{Manners, Matcher};
use std::borrow::Cow;
use vocab::Vocab;

/// A model's tokenizer. It is immutable; share it by `Arc`.
pub struct Tokenizer {
    vocab: Vocab,
    model: Model,
    normalizer: Vec<Normalizer>,
    /// Special tokens in a text as it comes.
    matcher: Matcher,
    /// Special tokens in a text that is normalized.
    normalized: Option<Matcher>,
    prefix: Prefix,
    /// Whether decoding takes a first space away.
    strip_space: bool,
    bos: Option<u32>,
    eos: Option<u32>,
    mask: Option<u32>,
    /// What goes before and after a text where special tokens are asked for.
    before: Vec<u32>,
    after: Vec<u32>,
    /// Sorted.
    end_of_generation: Vec<u32>,
}

enum Model {
    Bpe(Box<bpe::Bpe>),
    Spm(Box<spm::Spm>),
    Unigram(Box<unigram::Unigram>),
    WordPiece(wordpiece::WordPiece),
    Rwkv(rwkv::Rwkv),
}

/// Where a space is put before text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Prefix {
    when: When,
    /// Not where the text begins with one already.
    unless_there: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum When {
    Never,
    /// Where the text begins.
    First,
    /// There, and after each special token.
    AfterSpecial,
}

impl Prefix {
    const NONE: Prefix = Prefix { when: When::Never, unless_there: false };
}

impl Tokenizer {
    /// Nothing but tokens, indexed, and a model. Special tokens are found once it is [`ready`].
    ///
    /// [`ready`]: Tokenizer::ready
    fn plain(vocab: Vocab, model: Model) -> Tokenizer {
        Tokenizer {
            vocab,
            model,
            normalizer: Vec::new(),
            matcher: Matcher::new(std::iter::empty(), Vec::new()),
            normalized: None,
            prefix: Prefix::NONE,
            strip_space: false,
            bos: None,
            eos: None,
            mask: None,
            before: Vec::new(),
            after: Vec::new(),
            end_of_generation: Vec::new(),
        }
    }

    /// With all fields as they stay, but for special tokens: how they behave, and which of them are
    /// looked for in the normalized text.
    fn ready(mut self, manners: Vec<(u32, Manners)>, mut normalized: Vec<u32>) -> Tokenizer {
        let vocab = &self.vocab;
        let special = [TokenKind::Control, TokenKind::Unknown, TokenKind::UserDefined];
        let ids = || vocab.kinds().filter(|(_, k)| special.contains(k)).map(|(id, _)| id);
        normalized.sort_unstable();
        let later = |id: &u32| normalized.binary_search(id).is_ok();
        let plain = ids().filter(|id| !later(id));
        self.matcher = Matcher::new(plain.map(|id| (vocab.bytes(id), id)), manners.clone());
        if !normalized.is_empty() {
            // They are looked for as the normalizer leaves them.
            let text = |id| String::from_utf8_lossy(vocab.bytes(id)).into_owned();
            let texts: Vec<(String, u32)> = ids()
                .filter(later)
                .map(|id| (normalize(&self.normalizer, &text(id)).into_owned(), id))
                .collect();
            let texts = texts.iter().map(|(t, id)| (t.as_bytes(), *id));
            self.normalized = Some(Matcher::new(texts, manners));
        }
        self.end_of_generation.sort_unstable();
        self.end_of_generation.dedup();
        self
    }

    /// The tokens of a text to be continued as it is: with BOS where the model wants one, and without
    /// the EOS that some models put after a whole text. Special tokens written in the text are read as
    /// such.
    pub fn prompt(&self, text: &str) -> Vec<u32> {
        let mut ids = self.encode(text, true, true);
        if ids.len() > 1 && ids.last() == self.eos.as_ref() {
            ids.pop();
        }
        ids
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
        if add_special {
            out.extend_from_slice(&self.before);
        }
        let from = out.len();
        let mut merger = Merger::default();
        let wanted = |id| parse_special || self.vocab.kind(id) == Some(TokenKind::UserDefined);
        partition(&self.matcher, text, wanted, &mut |piece| match piece {
            Piece::Token(id) => out.push(id),
            Piece::Text(text, first) => {
                let text = normalize(&self.normalizer, text);
                let Some(matcher) = &self.normalized else {
                    return self.encode_plain(&text, first, &mut merger, &mut out);
                };
                partition(matcher, &text, wanted, &mut |piece| match piece {
                    Piece::Token(id) => out.push(id),
                    Piece::Text(text, also_first) => {
                        self.encode_plain(text, first && also_first, &mut merger, &mut out);
                    }
                });
            }
        });
        // What the text itself begins or ends with is not doubled.
        if from > 0 && self.bos.is_some() && self.before.last() == self.bos.as_ref() {
            let doubled = out.get(from) == self.bos.as_ref();
            out.drain(from..from + usize::from(doubled));
        }
        if add_special {
            let there = out.len() > from && out.last() == self.after.first();
            out.extend(self.after.iter().skip(usize::from(there)));
        }
        out
    }

    /// The tokens of two texts that are compared with each other, with the type of each: `[CLS] a
    /// [SEP] b [SEP]` for BERT, whose second text is of type 1; `<s> a </s></s> b </s>` for models
    /// with other vocabularies (RoBERTa, XLM-R), which tell no types apart. Special tokens written in
    /// the texts count as text. `None` where the model puts nothing around a text.
    pub fn encode_pair(&self, a: &str, b: &str) -> Option<(Vec<u32>, Vec<u32>)> {
        if self.before.is_empty() || self.after.is_empty() {
            return None;
        }
        let typed = matches!(self.model, Model::WordPiece(_));
        let mut ids = self.before.clone();
        ids.extend(self.encode(a, false, false));
        ids.extend(&self.after);
        let first = ids.len();
        if !typed {
            ids.extend(&self.after);
        }
        ids.extend(self.encode(b, false, false));
        ids.extend(&self.after);
        let types = (0..ids.len()).map(|i| u32::from(typed && i >= first)).collect();
        Some((ids, types))
    }

    /// How many tokens [`Tokenizer::encode`] puts behind a text.
    pub fn tokens_behind(&self) -> usize {
        self.after.len()
    }

    /// Appends the tokens of a text without special tokens; `first` says that it is where the
    /// whole text begins.
    fn encode_plain(&self, text: &str, first: bool, merger: &mut Merger, out: &mut Vec<u32>) {
        let marked = match &self.model {
            Model::Spm(_) | Model::Unigram(_) => true,
            Model::Bpe(m) => m.is_marked(),
            _ => false,
        };
        let mut text: Cow<'_, str> = if marked { spm::unmark(text.into()) } else { text.into() };
        let wanted = match self.prefix.when {
            When::Never => false,
            When::First => first,
            When::AfterSpecial => true,
        };
        let wanted = wanted && !text.is_empty();
        if wanted && !(self.prefix.unless_there && text.starts_with(' ')) {
            text.to_mut().insert(0, ' ');
        }
        match &self.model {
            Model::Bpe(m) => m.encode(&self.vocab, &text, merger, out),
            Model::Spm(m) => m.encode(&self.vocab, &text, merger, out),
            Model::Unigram(m) => m.encode(&text, out),
            Model::WordPiece(m) => m.encode(&self.vocab, &text, out),
            Model::Rwkv(m) => m.encode(&text, out),
        }
    }

    /// The text of a whole sequence, from its first token: control tokens give none, the space
    /// that encoding put first is taken away, bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut state = decode::State::new(self.strip_space);
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
        self.strip_space
    }
}

/// A piece of a text.
enum Piece<'t> {
    Token(u32),
    /// Text without special tokens, never empty, and whether the whole begins with it.
    Text(&'t str, bool),
}

/// Cuts a text at the special tokens that `wanted` allows.
fn partition<'t>(
    matcher: &Matcher,
    text: &'t str,
    wanted: impl Fn(u32) -> bool + Copy,
    piece: &mut dyn FnMut(Piece<'t>),
) {
    // A token that takes white space does not hide another that begins there.
    let (mut covered, mut read) = (0, 0);
    loop {
        let found = matcher.next(text, read, covered, wanted);
        let end = found.as_ref().map_or(text.len(), |f| f.start);
        if covered < end {
            piece(Piece::Text(&text[covered..end], covered == 0));
        }
        let Some(found) = found else { return };
        piece(Piece::Token(found.id));
        (covered, read) = (found.end, found.read);
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match &self.model {
            Model::Bpe(m) if m.is_marked() => "SentencePiece BPE",
            Model::Bpe(_) => "BPE",
            Model::Spm(_) => "SentencePiece BPE",
            Model::Unigram(_) => "SentencePiece unigram",
            Model::WordPiece(_) => "WordPiece",
            Model::Rwkv(_) => "RWKV",
        };
        write!(f, "{kind}, {} tokens", self.vocab.len())
    }
}
