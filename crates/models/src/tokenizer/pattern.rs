//! The patterns of tokenizer files, read as steps that cut text by hand.
//!
//! Files say how words are cut by a regular expression. All of them are alternatives of a few
//! forms: at most one character of some set, then a run of another, then a tail; and a dozen that
//! are known by their text. What is neither is an error: a pattern that is nearly understood cuts
//! words nearly right, which shows only as a model that seems stupid.

use super::class::{
    Class, DIGIT, LETTER, LOWER, MARK, NEWLINE, NUMBER, PUNCTUATION, SPACE, SYMBOL, not,
};
use super::split::{Alt, Cased, MANY, Set, Step, Thousands};

const CONTRACTIONS: [&str; 7] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];
/// Alternatives that are known by their text.
const KNOWN: &[(&str, Alt)] = &[
    ("(?i:'s|'t|'re|'ve|'m|'ll|'d)", Alt::Contraction { any_case: true }),
    ("'(?i:[sdmt]|ll|ve|re)", Alt::Contraction { any_case: true }),
    (r"\s*[\r\n]+", Alt::Newlines),
    (r"\s*[\r\n]", Alt::Newlines),
    (r"\s+$", Alt::SpacesAtEnd),
    (r"\s++$", Alt::SpacesAtEnd),
    (r"\p{Han}+", Alt::Han),
    (r"[\p{Han}]+", Alt::Han),
    (r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##, Alt::AsciiWord),
    (r"[0-9][0-9][0-9]", Alt::ThreeDigits),
    (r"[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+", Alt::Phrase),
    (r"<sentinel:[0-9]+>", Alt::Sentinel),
    (r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", Alt::Image),
];

/// The step that a pattern stands for.
///
/// # Errors
/// The alternative that is not known.
pub(super) fn step(pattern: &str) -> Result<Step, String> {
    match pattern {
        r"\d{1,3}(?=(?:\d{3})*\b)" => return Ok(Step::Thousands(Thousands::Words)),
        r"(?=(\d{3})+(?!\d))" => return Ok(Step::Thousands(Thousands::Places)),
        // A set within a set, which is the set of both.
        r" ?[^(\s|[.,!?…。，、।۔،])]+" => return step(r" ?[^(\s|.,!?…。，、।۔،)]+"),
        _ => {}
    }
    // Some files hold the characters themselves.
    let pattern = pattern.replace('\r', r"\r").replace('\n', r"\n");
    let whole = pattern.strip_prefix('(').and_then(|p| p.strip_suffix(')'));
    let inner = whole.filter(|p| !p.starts_with('?') && !p.contains(['(', ')']));
    let mut alternatives = Vec::new();
    for text in split(inner.unwrap_or(&pattern)) {
        let unknown = || format!("the alternative '{text}' of the pattern '{pattern}'");
        alternatives.push(alternative(text).ok_or_else(unknown)?);
    }
    let literals = CONTRACTIONS.map(|c| Alt::Literal(c.into()));
    if alternatives.starts_with(&literals) {
        drop(alternatives.splice(..literals.len(), [Alt::Contraction { any_case: false }]));
    }
    Ok(Step::First(alternatives))
}

/// The alternatives of a pattern: what is between bars outside of sets and groups.
fn split(pattern: &str) -> Vec<&str> {
    let (mut out, mut start) = (Vec::new(), 0);
    let (mut depth, mut set, mut escaped) = (0, false, false);
    for (at, c) in pattern.char_indices() {
        if std::mem::take(&mut escaped) {
            continue;
        }
        match c {
            '\\' => escaped = true,
            '[' => set = true,
            ']' => set = false,
            '(' if !set => depth += 1,
            ')' if !set => depth -= 1,
            '|' if !set && depth == 0 => {
                out.push(&pattern[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    out.push(&pattern[start..]);
    out
}

fn alternative(text: &str) -> Option<Alt> {
    if let Some((_, alt)) = KNOWN.iter().find(|(known, _)| *known == text) {
        return Some(alt.clone());
    }
    if let Some(alt) = cased(text) {
        return Some(alt);
    }
    if let Some(spaces) = text.strip_prefix(r"\s").and_then(|t| t.strip_suffix(r"(?!\S)")) {
        let (min, max, _) =
            quantifier(spaces).filter(|(min, _, rest)| *min > 0 && rest.is_empty())?;
        return Some(Alt::Spaces { min, max });
    }
    let special = |c: char| r"\[](){}?*+|.^$".contains(c);
    if text.chars().count() > 1 && !text.contains(special) {
        return Some(Alt::Literal(text.into()));
    }
    run(text)
}

/// Words by the case of their letters: both alternatives, with what may follow.
fn cased(text: &str) -> Option<Alt> {
    let contraction = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?";
    let (word, suffix) = match text.strip_suffix(contraction) {
        Some(word) => (word, true),
        None => (text, false),
    };
    let word = word.strip_prefix(r"[^\r\n\p{L}\p{N}]?")?;
    let no_han = word.contains(r"&&[^\p{Han}]");
    let form = match word.replace(r"&&[^\p{Han}]", "").as_str() {
        r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" => Cased::EndsSmall,
        r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" => Cased::BeginsLarge,
        _ => return None,
    };
    Some(Alt::Cased { form, suffix, no_han })
}

/// At most one character of a set, one or several of a set, several of a set.
fn run(text: &str) -> Option<Alt> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (set, after) = set(rest)?;
        let (min, max, after) = quantifier(after)?;
        parts.push((set, min, max));
        rest = after;
    }
    let main = parts.iter().position(|&(_, min, _)| min == 1)?;
    let (before, after) = (&parts[..main], &parts[main + 1..]);
    let lead = match before {
        [] => None,
        [(set, 0, 1)] => Some(set.clone()),
        _ => return None,
    };
    let tail = match after {
        [] => None,
        [(set, 0, max)] => Some((set.clone(), *max)),
        _ => return None,
    };
    let (_, _, max) = parts[main];
    let of = parts.swap_remove(main).0;
    Some(Alt::Run { lead, of, max, tail })
}

/// How often: at least, at most, and what follows. A possessive mark changes nothing: of these
/// forms only a lead is ever given back, and no file has a possessive one that could begin a run.
fn quantifier(text: &str) -> Option<(usize, usize, &str)> {
    let (min, max, rest) = match text.as_bytes() {
        [b'?', ..] => (0, 1, &text[1..]),
        [b'*', ..] => (0, MANY, &text[1..]),
        [b'+', ..] => (1, MANY, &text[1..]),
        [b'{', ..] => {
            let (inner, rest) = text[1..].split_once('}')?;
            let number = |n: &str| n.parse::<usize>().ok().filter(|n| (1..=4096).contains(n));
            let (min, max) = match inner.split_once(',') {
                Some((min, "")) => (number(min)?, MANY),
                Some((min, max)) => (number(min)?, number(max)?),
                None => (number(inner)?, number(inner)?),
            };
            (min, max, rest)
        }
        _ => return Some((1, 1, text)),
    };
    Some((min, max, rest.strip_prefix('+').unwrap_or(rest)))
}

/// One set or character and what follows.
fn set(text: &str) -> Option<(Set, &str)> {
    if let Some(inner) = text.strip_prefix('[') {
        let (negated, mut rest) = match inner.strip_prefix('^') {
            Some(rest) => (true, rest),
            None => (false, inner),
        };
        let mut builder = Builder::default();
        loop {
            if let Some(after) = rest.strip_prefix(']') {
                return Some((builder.finish(negated)?, after));
            }
            let (item, after) = item(rest)?;
            rest = after;
            let ranged = rest.strip_prefix('-').filter(|r| !r.starts_with(']'));
            match (item, ranged) {
                (Item::Char(first), Some(after)) => {
                    let (Item::Char(last), after) = self::item(after)? else { return None };
                    builder.ranges.push((first, last));
                    rest = after;
                }
                (Item::Char(c), None) => builder.ranges.push((c, c)),
                (Item::Classes(classes), _) => builder.classes |= classes,
            }
        }
    }
    let mut builder = Builder::default();
    let (item, rest) = item(text).filter(|_| !text.starts_with(['.', '^', '$', '(', ')']))?;
    match item {
        Item::Char(c) => builder.ranges.push((c, c)),
        Item::Classes(classes) => builder.classes |= classes,
    }
    Some((builder.finish(false)?, rest))
}

enum Item {
    Char(char),
    Classes(Class),
}

/// A character, an escaped one, or a class.
fn item(text: &str) -> Option<(Item, &str)> {
    let mut chars = text.chars();
    let c = chars.next()?;
    if c != '\\' {
        return (c != '[').then_some((Item::Char(c), chars.as_str()));
    }
    let escaped = chars.next()?;
    let rest = chars.as_str();
    Some(match escaped {
        's' => (Item::Classes(SPACE), rest),
        'S' => (Item::Classes(not(SPACE)), rest),
        'd' => (Item::Classes(DIGIT), rest),
        'r' => (Item::Char('\r'), rest),
        'n' => (Item::Char('\n'), rest),
        't' => (Item::Char('\t'), rest),
        'p' => {
            let (name, rest) = rest.strip_prefix('{')?.split_once('}')?;
            let classes = match name {
                "L" => LETTER,
                "Ll" => LOWER,
                "M" => MARK,
                "N" => NUMBER,
                "Nd" => DIGIT,
                "P" => PUNCTUATION,
                "S" => SYMBOL,
                _ => return None,
            };
            (Item::Classes(classes), rest)
        }
        'x' => {
            let (hex, rest) = rest.strip_prefix('{')?.split_once('}')?;
            (Item::Char(char::from_u32(u32::from_str_radix(hex, 16).ok()?)?), rest)
        }
        c if c.is_ascii_punctuation() => (Item::Char(c), rest),
        _ => return None,
    })
}

#[derive(Default)]
struct Builder {
    classes: Class,
    ranges: Vec<(char, char)>,
}

impl Builder {
    fn finish(mut self, negated: bool) -> Option<Set> {
        // Both line ends are a class of their own.
        let has = |c| self.ranges.contains(&(c, c));
        if has('\r') && has('\n') {
            self.ranges.retain(|r| !matches!(r.0, '\r' | '\n'));
            self.classes |= NEWLINE;
        }
        if self.ranges.iter().any(|(first, last)| first > last) {
            return None;
        }
        let (classes, negated) = match self.ranges.is_empty() {
            true if negated => (not(self.classes), false),
            _ => (self.classes, negated),
        };
        Some(Set { classes, ranges: self.ranges, negated })
    }
}
