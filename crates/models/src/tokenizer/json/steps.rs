//! A file's normalizer, pre-tokenizer and post-processor.
//!
//! Each is an object with a `type`, or a `Sequence` of such. What is not known here exactly is an
//! error that names it.

use crate::tokenizer::charsmap::Charsmap;
use crate::tokenizer::class::{PUNCTUATION, is};
use crate::tokenizer::normalize::Normalizer;
use crate::tokenizer::pattern;
use crate::tokenizer::pretokenize::GPT2_WORDS;
use crate::tokenizer::split::{Alt, Step};
use crate::tokenizer::{Prefix, When};
use serde_json::Value;

/// SentencePiece's space.
const MARK: &str = "\u{2581}";

/// An error without the file's name.
pub(super) type Known<T> = Result<T, String>;

/// A value's `type`.
fn kind(value: &Value) -> Known<&str> {
    value["type"].as_str().ok_or_else(|| "a part without a type".into())
}

/// A flag, false where it is absent.
fn flag(value: &Value, name: &str) -> bool {
    value[name].as_bool().unwrap_or(false)
}

/// The parts of a value: of a sequence each, of `null` none.
fn parts<'v>(value: &'v Value, name: &str) -> Known<Vec<&'v Value>> {
    let mut out = Vec::new();
    // Sequences may hold sequences; the reader of JSON bounds how deep.
    let mut open = vec![value];
    while let Some(part) = open.pop() {
        if part.is_null() {
            continue;
        }
        if kind(part)? == "Sequence" {
            let list = part[name].as_array().ok_or("a Sequence without parts")?;
            open.extend(list.iter().rev());
        } else {
            out.push(part);
        }
    }
    Ok(out)
}

/// What is done to text first.
pub(super) fn normalizers(value: &Value) -> Known<Vec<Normalizer>> {
    parts(value, "normalizers")?.into_iter().map(normalizer).collect()
}

fn normalizer(value: &Value) -> Known<Normalizer> {
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    Ok(match kind(value)? {
        "NFC" => Normalizer::Nfc,
        "NFD" => Normalizer::Nfd,
        "NFKC" => Normalizer::Nfkc,
        "NFKD" => Normalizer::Nfkd,
        "Lowercase" => Normalizer::Lowercase,
        "StripAccents" => Normalizer::StripAccents,
        "Nmt" => Normalizer::Nmt,
        "BertNormalizer" => {
            let flag = |name: &str| value[name].as_bool().unwrap_or(true);
            let lowercase = flag("lowercase");
            Normalizer::Bert {
                clean: flag("clean_text"),
                ideographs: flag("handle_chinese_chars"),
                strip_accents: value["strip_accents"].as_bool().unwrap_or(lowercase),
                lowercase,
            }
        }
        "Precompiled" => {
            let blob = text("precompiled_charsmap").and_then(|t| base64(&t));
            let map = blob.and_then(|blob| Charsmap::new(&blob));
            Normalizer::Charsmap(map.ok_or("the normalizer Precompiled: its table is damaged")?)
        }
        "Replace" => {
            let content = text("content").ok_or("the normalizer Replace: no 'content'")?;
            match (value["pattern"]["String"].as_str(), value["pattern"]["Regex"].as_str()) {
                (Some(from), None) if !from.is_empty() => Normalizer::Replace(from.into(), content),
                (None, Some(" {2,}")) => Normalizer::CollapseSpaces(content),
                _ => return Err(format!("the normalizer Replace of {}", value["pattern"])),
            }
        }
        "Prepend" => {
            let prepend = text("prepend").ok_or("the normalizer Prepend: no 'prepend'")?;
            Normalizer::Prepend(prepend)
        }
        "Strip" => Normalizer::Strip(flag(value, "strip_left"), flag(value, "strip_right")),
        other => return Err(format!("the normalizer '{other}'")),
    })
}

/// Standard base 64, with or without padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    Some(out)
}

/// How text is cut into words.
pub(super) struct Cutting {
    pub steps: Vec<Step>,
    /// Whether tokens are bytes, written as printable characters.
    pub byte_level: bool,
    /// Whether a space is a mark in tokens.
    pub marked: bool,
    pub prefix: Prefix,
    /// Whether each word begins with one space.
    pub spaced_words: bool,
    /// Whether words are cut as BERT cuts them.
    pub bert: bool,
}

/// A mark of punctuation, as the `tokenizers` library sees it.
fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() || is(c, PUNCTUATION)
}

/// Reads a pre-tokenizer. `marked` says that the normalizer has made spaces marks.
pub(super) fn cutting(value: &Value, marked: bool) -> Known<Cutting> {
    let mut out = Cutting {
        steps: Vec::new(),
        byte_level: false,
        marked,
        prefix: Prefix::NONE,
        spaced_words: false,
        bert: false,
    };
    let parts = parts(value, "pretokenizers")?;
    for (i, part) in parts.iter().enumerate() {
        let kind = kind(part)?;
        let refuse = |what: &str| Err(format!("the pre-tokenizer '{kind}' {what}"));
        if out.byte_level && !matches!(kind, "Split" | "Digits" | "Punctuation") {
            return refuse("after ByteLevel");
        }
        match kind {
            "ByteLevel" => {
                out.byte_level = true;
                if flag(part, "add_prefix_space") {
                    if !out.steps.is_empty() {
                        return refuse("with a space before each piece");
                    }
                    out.prefix = Prefix { when: When::AfterSpecial, unless_there: true };
                }
                if part["use_regex"].as_bool().unwrap_or(true) {
                    out.steps.push(pattern::step(GPT2_WORDS)?);
                }
            }
            "Split" => out.steps.extend(split(part, out.marked, out.byte_level)?),
            "Digits" if out.byte_level => return refuse("after ByteLevel"),
            "Digits" => out.steps.push(match flag(part, "individual_digits") {
                true => Step::Alone(char::is_numeric),
                false => Step::Together(char::is_numeric),
            }),
            "Punctuation" if out.byte_level => return refuse("after ByteLevel"),
            "Punctuation" => match part["behavior"].as_str() {
                None | Some("Isolated") => out.steps.push(Step::Alone(is_punctuation)),
                Some("Contiguous") => out.steps.push(Step::Together(is_punctuation)),
                Some(other) => return refuse(&format!("with the behavior {other}")),
            },
            "BertPreTokenizer" if parts.len() == 1 => out.bert = true,
            "WhitespaceSplit" if i == 0 && parts.len() == 1 => out.steps.push(Step::DropSpaces),
            "WhitespaceSplit" if i == 0 && parts.len() == 2 && parts[1]["type"] == "Metaspace" => {
                out.spaced_words = true;
            }
            "Metaspace" => {
                if part["replacement"] != MARK {
                    return refuse(&format!("with the mark {}", part["replacement"]));
                }
                if !out.steps.is_empty() {
                    return refuse("after others");
                }
                out.marked = true;
                let older = match part["add_prefix_space"].as_bool() {
                    Some(false) => "never",
                    _ => "always",
                };
                let scheme = part["prepend_scheme"].as_str().unwrap_or(older);
                let when = match scheme {
                    "always" if out.spaced_words => When::Never, // each has one already
                    "always" => When::AfterSpecial,
                    "first" if !out.spaced_words => When::First,
                    "never" if !out.spaced_words => When::Never,
                    other => return refuse(&format!("with the scheme {other}")),
                };
                out.prefix = Prefix { when, unless_there: true };
                if part["split"].as_bool().unwrap_or(true) {
                    out.steps.push(Step::Before(' '));
                }
            }
            _ => return refuse("here"),
        }
    }
    Ok(out)
}

/// A `Split`: one step, or none where there is nothing left to cut.
fn split(part: &Value, marked: bool, after_byte_level: bool) -> Known<Option<Step>> {
    let (behavior, invert) = (part["behavior"].as_str().unwrap_or_default(), flag(part, "invert"));
    let (literal, regex) = (part["pattern"]["String"].as_str(), part["pattern"]["Regex"].as_str());
    let refuse = || Err(format!("the pre-tokenizer Split {part}"));
    let step = match (literal, regex) {
        // The normalizer has left no space to cut at.
        (Some(" "), None) if marked => return Ok(None),
        (Some(text), None) if !text.is_empty() => Step::First(vec![Alt::Literal(text.into())]),
        (None, Some(pattern)) => pattern::step(pattern)?,
        _ => return refuse(),
    };
    // After ByteLevel the text is its bytes' printable characters; digits of ASCII are themselves.
    let three_digits = matches!(&step, Step::First(all) if *all == [Alt::ThreeDigits]);
    if after_byte_level && !three_digits {
        return refuse();
    }
    match (behavior, invert) {
        ("Isolated", _) => Ok(Some(step)),
        // What lies between the matches is dropped, so there must never be any.
        ("Removed", true) if step.covers_everything() => Ok(Some(step)),
        _ => refuse(),
    }
}

/// The ids that go before a text and after it, where the file says so.
pub(super) fn around(value: &Value) -> Known<Option<(Vec<u32>, Vec<u32>)>> {
    let mut out = None;
    for part in parts(value, "processors")? {
        let pair = |name: &str| {
            let id = part[name][1].as_u64().and_then(|id| u32::try_from(id).ok());
            id.map(|id| vec![id]).ok_or_else(|| format!("the post-processor's '{name}' has no id"))
        };
        let around = match kind(part)? {
            "ByteLevel" => continue,
            "BertProcessing" | "RobertaProcessing" => (pair("cls")?, pair("sep")?),
            "TemplateProcessing" => template(part)?,
            other => return Err(format!("the post-processor '{other}'")),
        };
        if out.replace(around).is_some() {
            return Err("two post-processors that add tokens".into());
        }
    }
    Ok(out)
}

fn template(part: &Value) -> Known<(Vec<u32>, Vec<u32>)> {
    let items = part["single"].as_array().ok_or("the post-processor's template has no 'single'")?;
    let (mut before, mut after, mut text_seen) = (Vec::new(), Vec::new(), false);
    for item in items {
        if item["Sequence"]["id"] == "A" && !text_seen {
            text_seen = true;
            continue;
        }
        let name = item["SpecialToken"]["id"].as_str();
        let ids = name.and_then(|name| part["special_tokens"][name]["ids"].as_array());
        let ids = ids.ok_or_else(|| format!("the post-processor's template has {item}"))?;
        for id in ids {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or("the post-processor's template has an id that is none")?;
            if text_seen { after.push(id) } else { before.push(id) }
        }
    }
    Ok((before, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_64() {
        assert_eq!(base64("").unwrap(), b"");
        assert_eq!(base64("Zm9vYmFy").unwrap(), b"foobar");
        assert_eq!(base64("Zm9vYg==").unwrap(), b"foob");
        assert_eq!(base64("//79").unwrap(), [0xff, 0xfe, 0xfd]);
        assert!(base64("Zm9v\n").is_none());
    }
}
