//! A tokenizer from a GGUF file's metadata, the keys `tokenizer.ggml.*`.

use super::charsmap::Charsmap;
use super::normalize::Normalizer;
use super::special::{self, Manners};
use super::unigram::Unigram;
use super::vocab::{NONE, TokenKind, Vocab};
use super::{Model, Prefix, Tokenizer, When, bpe, rwkv, spm, wordpiece};
use crate::gguf::{Array, Gguf, ValueType};
use gristmill_core::Result;

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

/// A flag that may be absent.
fn flag(gguf: &Gguf, name: &str) -> Result<Option<bool>> {
    gguf.opt(&format!("tokenizer.ggml.{name}"))
}

/// The table of replacements of a unigram model.
fn charsmap(gguf: &Gguf) -> Result<Option<Charsmap>> {
    let key = "tokenizer.ggml.precompiled_charsmap";
    let Some(array) = gguf.opt::<Array<'_>>(key)?.filter(|a| !a.is_empty()) else {
        return Ok(None);
    };
    if !matches!(array.ty(), ValueType::I8 | ValueType::U8) {
        return Err(gguf.error(format!("'{key}' does not hold bytes: damaged")));
    }
    let map = Charsmap::new(array.raw());
    map.map(Some).ok_or_else(|| gguf.error(format!("'{key}' has sizes that do not fit: damaged")))
}

fn unigram(gguf: &Gguf, vocab: &Vocab, unknown: Option<u32>) -> Result<Unigram> {
    let scores = spm::scores(gguf, vocab.len())?.into_iter().map(f64::from).collect();
    Ok(Unigram::new(vocab, scores, unknown, true))
}

/// How special tokens treat the white space beside them, which these files do not say: known by
/// the names of models.
fn manners(gguf: &Gguf, vocab: &Vocab) -> Result<Vec<(u32, Manners)>> {
    let text = |key| gguf.opt::<&str>(key).map(Option::unwrap_or_default);
    let (pre, arch) = (text("tokenizer.ggml.pre")?, text("general.architecture")?);
    let name = text("general.name")?.to_lowercase();
    let of = |text: &str| {
        vocab.kinds().find(|&(id, _)| vocab.bytes(id) == text.as_bytes()).map(|(id, _)| id)
    };
    let takes_left = Manners { left: true, ..Manners::default() };
    let takes_right = Manners { right: true, ..Manners::default() };
    if ["jina-v2-de", "jina-v2-es", "jina-v2-code"].contains(&pre)
        || ["nomic-bert-moe", "jina-bert-v3"].contains(&arch)
    {
        return Ok(of("<mask>").map(|id| (id, takes_left)).into_iter().collect());
    }
    if name.contains("phi-3") || name.contains("phi3") {
        let plain = ["<unk>", "<s>", "<|endoftext|>"].map(str::as_bytes);
        let special = [TokenKind::Control, TokenKind::UserDefined, TokenKind::Unknown];
        return Ok(vocab
            .kinds()
            .filter(|(id, kind)| special.contains(kind) && !plain.contains(&vocab.bytes(*id)))
            .map(|(id, _)| (id, takes_right))
            .collect());
    }
    if name.contains("modern-bert") {
        return Ok(of("[MASK]").map(|id| (id, takes_left)).into_iter().collect());
    }
    Ok(Vec::new())
}

impl Tokenizer {
    /// The tokenizer that a model file describes.
    ///
    /// # Errors
    /// A missing or inconsistent key, by its name; a kind of tokenizer or a way of cutting words
    /// that is not supported, with those that are.
    pub fn from_gguf(gguf: &Gguf) -> Result<Tokenizer> {
        let name = gguf.get_str("tokenizer.ggml.model")?;
        let tokens: Array<'_> = gguf.get("tokenizer.ggml.tokens")?;
        if tokens.is_empty() || tokens.ty() != ValueType::Str {
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
        let family = match name {
            "gpt2" | "gemma4" | "whitespace" => Some(bpe::family(gguf, name)?),
            _ => None,
        };
        let mut vocab = match (family, name) {
            (Some(family), _) => bpe::vocab(gguf, tokens, &kinds, family.symbols)?,
            (None, "llama" | "bert" | "t5") => spm::vocab(gguf, tokens, &kinds)?,
            (None, "rwkv") => rwkv::vocab(gguf, tokens, &kinds)?,
            (None, _) => {
                return Err(gguf.error(format!(
                    "the tokenizer kind '{name}' is not supported; supported are gpt2, llama, t5, \
                     bert, rwkv, gemma4 and whitespace"
                )));
            }
        };
        let mut end_of_generation = special::end_of_generation(&mut vocab);
        vocab.index();

        let control = |id| (vocab.kind(id) == Some(TokenKind::Control)).then_some(id);
        let (mut bos, mut eos) = (token("bos")?, token("eos")?);
        let mut normalizer = Vec::new();
        let mut prefix = Prefix::NONE;
        let (mut add_bos, mut add_eos) = (false, false);
        // A space that encoding put first is taken away by decoding.
        let mut strip_space = false;
        let lowercase = flag(gguf, "normalizer.lowercase")?;
        let model = match (family, name) {
            (Some(family), _) => {
                add_bos = family.add_bos;
                if family.nfc {
                    normalizer.push(Normalizer::Nfc);
                }
                if name == "whitespace" && lowercase == Some(true) {
                    normalizer.push(Normalizer::Lowercase);
                }
                let scheme = bpe::scheme(gguf, family, unknown)?;
                let merges = bpe::merges(gguf)?;
                let key = "tokenizer.ggml.merges";
                let refuse = |what: String| gguf.error(format!("'{key}': {what}"));
                Model::Bpe(Box::new(bpe::Bpe::new(&vocab, scheme, merges, refuse)?))
            }
            (None, "llama") => {
                // SentencePiece's own defaults, where the file names none.
                bos = bos.or_else(|| control(1));
                eos = eos.or_else(|| control(2));
                add_bos = true;
                if flag(gguf, "add_space_prefix")?.unwrap_or(true) {
                    prefix = Prefix { when: When::AfterSpecial, unless_there: false };
                    strip_space = true;
                }
                Model::Spm(Box::new(spm::Spm::new(gguf, &vocab, unknown)?))
            }
            (None, "t5") => {
                eos = eos.or_else(|| control(1));
                add_eos = true;
                normalizer.extend(charsmap(gguf)?.map(Normalizer::Charsmap));
                let as_suffix = flag(gguf, "treat_whitespace_as_suffix")?.unwrap_or(false);
                let add_space = flag(gguf, "add_space_prefix")?.unwrap_or(true);
                let merge = flag(gguf, "remove_extra_whitespaces")?.unwrap_or(false);
                normalizer.push(Normalizer::UnigramSpaces {
                    merge,
                    prefix: add_space && !as_suffix,
                    suffix: add_space && as_suffix,
                });
                strip_space = merge || add_space && !as_suffix;
                let unknown = unknown.or(Some(2).filter(|_| n > 2));
                Model::Unigram(Box::new(unigram(gguf, &vocab, unknown)?))
            }
            (None, "bert") => {
                bos = token("cls")?.or(bos);
                add_bos = true;
                strip_space = true;
                let lowercase = lowercase.unwrap_or(true);
                let strip_accents = flag(gguf, "normalizer.strip_accents")?.unwrap_or(lowercase);
                normalizer.push(Normalizer::Bert {
                    clean: true,
                    ideographs: true,
                    strip_accents,
                    lowercase,
                });
                Model::WordPiece(wordpiece::WordPiece::new(unknown, wordpiece::MAX_WORD))
            }
            (None, _) => Model::Rwkv(rwkv::Rwkv::new(&vocab, unknown)),
        };
        // Many Gemma 4 files say that it wants no BOS, and it does.
        let add_bos = flag(gguf, "add_bos_token")?.unwrap_or(add_bos) || name == "gemma4";
        let add_eos = flag(gguf, "add_eos_token")?.unwrap_or(add_eos);
        let separator = token("seperator")?.filter(|_| name == "bert");
        if name != "bert" {
            end_of_generation.extend(eos);
            end_of_generation.extend(token("eot")?);
            end_of_generation.extend(token("eom")?);
        }
        let manners = manners(gguf, &vocab)?;
        let tokenizer = Tokenizer {
            normalizer,
            prefix,
            strip_space,
            bos,
            eos,
            mask: token("mask")?,
            before: bos.filter(|_| add_bos).into_iter().collect(),
            after: separator.or(eos.filter(|_| add_eos)).into_iter().collect(),
            end_of_generation,
            ..Tokenizer::plain(vocab, model)
        };
        Ok(tokenizer.ready(manners, Vec::new()))
    }
}
