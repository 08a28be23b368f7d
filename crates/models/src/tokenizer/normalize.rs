//! What is done to text before it is cut into words.

use super::charsmap::Charsmap;
use super::class::{is_bert_ideograph, is_nonspacing_mark};
use std::borrow::Cow;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// One thing that is done to a text.
pub(super) enum Normalizer {
    /// Unicode's composed form.
    Nfc,
    /// Its decomposed form.
    Nfd,
    /// Its composed form of what looks alike.
    Nfkc,
    /// Its decomposed form of that.
    Nfkd,
    /// Small letters.
    Lowercase,
    /// Without combining marks.
    StripAccents,
    /// BERT's cleaning.
    Bert {
        /// Control characters go, and white space becomes spaces.
        clean: bool,
        /// Spaces around ideographs.
        ideographs: bool,
        /// Decomposed, without marks.
        strip_accents: bool,
        lowercase: bool,
    },
    /// SentencePiece's replacements.
    Charsmap(Charsmap),
    /// SentencePiece's cleaning of control characters and spaces.
    Nmt,
    /// One text for another.
    Replace(String, String),
    /// One text for each run of two or more spaces.
    CollapseSpaces(String),
    /// Without white space at the left, at the right.
    Strip(bool, bool),
    /// A text before any that is not empty.
    Prepend(String),
    /// Every word after one space.
    SpacedWords,
    /// Spaces as llama.cpp has them for SentencePiece's unigram models: with `merge`, one before
    /// every word and no other; without it, with `prefix`, one before the first character that is
    /// none; with `suffix`, one at the end.
    UnigramSpaces { merge: bool, prefix: bool, suffix: bool },
}

impl Normalizer {
    /// The text after it.
    pub fn apply<'t>(&self, text: Cow<'t, str>) -> Cow<'t, str> {
        match self {
            Normalizer::Nfc if is_nfc_quick(text.chars()) == IsNormalized::Yes => text,
            Normalizer::Nfd | Normalizer::Nfkc | Normalizer::Nfkd | Normalizer::StripAccents
                if text.is_ascii() =>
            {
                text
            }
            Normalizer::Nfc => text.nfc().collect(),
            Normalizer::Nfd => text.nfd().collect(),
            Normalizer::Nfkc => text.nfkc().collect(),
            Normalizer::Nfkd => text.nfkd().collect(),
            Normalizer::Lowercase => lowercase(&text).into(),
            Normalizer::StripAccents => text
                .chars()
                .filter(|&c| !unicode_normalization::char::is_combining_mark(c))
                .collect(),
            Normalizer::Bert { clean, ideographs, strip_accents, lowercase } => {
                bert(&text, *clean, *ideographs, *strip_accents, *lowercase).into()
            }
            Normalizer::Charsmap(map) => map.apply(&text).into(),
            Normalizer::Nmt => text.chars().filter_map(nmt).collect(),
            Normalizer::Replace(from, to) => match text.contains(from.as_str()) {
                true => text.replace(from.as_str(), to).into(),
                false => text,
            },
            Normalizer::CollapseSpaces(to) => match text.contains("  ") {
                true => collapse(&text, to).into(),
                false => text,
            },
            Normalizer::Strip(left, right) => {
                let mut kept = &*text;
                kept = if *left { kept.trim_start() } else { kept };
                kept = if *right { kept.trim_end() } else { kept };
                if kept.len() == text.len() { text } else { kept.to_owned().into() }
            }
            Normalizer::Prepend(_) if text.is_empty() => text,
            Normalizer::Prepend(what) => format!("{what}{text}").into(),
            Normalizer::SpacedWords => {
                text.split_whitespace().flat_map(|word| [" ", word]).collect()
            }
            Normalizer::UnigramSpaces { merge, prefix, suffix } => {
                unigram_spaces(&text, *merge, *prefix, *suffix).into()
            }
        }
    }
}

/// All of them, in order.
pub(super) fn normalize<'t>(all: &[Normalizer], text: &'t str) -> Cow<'t, str> {
    all.iter().fold(text.into(), |text, n| n.apply(text))
}

/// Character by character, without regard to a final sigma.
fn lowercase(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

fn collapse(text: &str, to: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("  ") {
        out.push_str(&rest[..at]);
        out.push_str(to);
        rest = rest[at..].trim_start_matches(' ');
    }
    out + rest
}

/// What SentencePiece's `nmt` rules make of a character, as the `tokenizers` library has them.
fn nmt(c: char) -> Option<char> {
    match c {
        '\u{1}'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' | '\u{8f}' | '\u{9f}' => None,
        '\t'
        | '\n'
        | '\u{c}'
        | '\r'
        | '\u{1680}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'
        | '\u{2029}'
        | '\u{2581}'
        | '\u{feff}'
        | '\u{fffd}' => Some(' '),
        c => Some(c),
    }
}

fn bert(text: &str, clean: bool, ideographs: bool, strip_accents: bool, lower: bool) -> String {
    use GeneralCategory::{Control, Format, PrivateUse};
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // Not what is unassigned: to the library, whose tables are older, much is.
        let other = || matches!(c.general_category(), Control | Format | PrivateUse);
        match c {
            '\t' | '\n' | '\r' if clean => out.push(' '),
            // Control characters first: the vertical tab is one, and white space too.
            _ if clean && (c == '\u{fffd}' || !c.is_ascii_graphic() && other()) => {}
            _ if clean && c.is_whitespace() => out.push(' '),
            _ if ideographs && is_bert_ideograph(c) => out.extend([' ', c, ' ']),
            _ => out.push(c),
        }
    }
    if strip_accents && !out.is_ascii() {
        out = out.nfd().filter(|&c| !is_nonspacing_mark(c)).collect();
    }
    if lower { lowercase(&out) } else { out }
}

fn unigram_spaces(text: &str, merge: bool, prefix: bool, suffix: bool) -> String {
    let mut out = String::with_capacity(text.len() + 1);
    let (mut in_word, mut prefixed) = (false, false);
    for c in text.chars() {
        if c == ' ' {
            in_word = false;
            if !merge {
                out.push(' ');
            }
            continue;
        }
        if !std::mem::replace(&mut in_word, true) && (merge || prefix && !prefixed) {
            out.push(' ');
            prefixed = true;
        }
        out.push(c);
    }
    if suffix {
        out.push(' ');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::normalizers as theirs;
    use tokenizers::{NormalizedString, Normalizer as _};

    proptest! {
        /// The oracle: the `tokenizers` crate.
        #[test]
        fn as_the_tokenizers_crate(
            text in prop_oneof![
                // Its tables are of Unicode 8: no younger characters.
                r"[\u{0}-\u{2af}\u{370}-\u{377}\u{386}-\u{3ff}\u{900}-\u{950}\u{4e00}-\u{4fff}\u{1f600}-\u{1f640}]{0,20}",
                r"([ \t\n\u{a0}]{0,3}[a-cÄÉßσΣİﬁ①今々\u{301}\u{327}\u{200b}\u{7f}\u{ad}\u{fffd}]{0,3}){0,6}",
            ]
        ) {
            let flags = |n: u32| (n & 1 != 0, n & 2 != 0, n & 4 != 0, n & 8 != 0);
            for n in 0..16 {
                let (clean, ideographs, strip_accents, lowercase) = flags(n);
                let ours = Normalizer::Bert { clean, ideographs, strip_accents, lowercase };
                let bert = theirs::BertNormalizer::new(clean, ideographs, Some(strip_accents), lowercase);
                let mut want = NormalizedString::from(text.as_str());
                bert.normalize(&mut want).unwrap();
                prop_assert_eq!(ours.apply((&*text).into()), want.get(), "{}", n);
            }
            let pairs: [(Normalizer, theirs::NormalizerWrapper); 5] = [
                (Normalizer::Lowercase, theirs::Lowercase.into()),
                (Normalizer::Nmt, theirs::Nmt.into()),
                (Normalizer::Strip(true, true), theirs::Strip::new(true, true).into()),
                (Normalizer::Strip(true, false), theirs::Strip::new(true, false).into()),
                (Normalizer::Prepend("x".into()), theirs::Prepend::new("x".into()).into()),
            ];
            for (i, (ours, theirs)) in pairs.iter().enumerate() {
                let mut want = NormalizedString::from(text.as_str());
                theirs.normalize(&mut want).unwrap();
                prop_assert_eq!(ours.apply((&*text).into()), want.get(), "{}", i);
            }
        }
    }

    #[test]
    fn spaces() {
        let spaced = |n: Normalizer| n.apply("  a  b ".into()).into_owned();
        assert_eq!(spaced(Normalizer::CollapseSpaces("_".into())), "_a_b ");
        assert_eq!(spaced(Normalizer::SpacedWords), " a b");
        let unigram = |merge, prefix, suffix| Normalizer::UnigramSpaces { merge, prefix, suffix };
        assert_eq!(spaced(unigram(true, true, false)), " a b");
        assert_eq!(spaced(unigram(false, true, false)), "   a  b ");
        assert_eq!(spaced(unigram(false, false, true)), "  a  b  ");
    }
}
