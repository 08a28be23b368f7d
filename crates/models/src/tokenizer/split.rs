//! Cutting text into words, by hand: what the patterns of byte-level tokenizers match.
//!
//! A tokenizer cuts in steps. A [`Step`] walks over a text from the left; at each place it tries
//! its alternatives in order, as a regular expression does, and the first that matches is a piece;
//! what no alternative matches is a piece of its own. The next step cuts each piece further. All
//! the alternatives in use are the handful below, each a loop over characters that goes back a
//! fixed way at most, so a text takes time in proportion to its length, whatever it holds.
//! [`super::pattern`] makes them from the patterns that files carry.

use super::class::{
    Class, DIGIT, LETTER, LOWER, MARK, NEWLINE, NUMBER, SPACE, UNCASED, UPPER, is, is_han, is_word,
    not,
};

/// Any number.
pub(super) const MANY: usize = usize::MAX;

/// A set of characters: those of some classes and ranges, or all but those.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Set {
    pub classes: Class,
    pub ranges: Vec<(char, char)>,
    pub negated: bool,
}

impl Set {
    /// The characters of these classes.
    pub const fn of(classes: Class) -> Set {
        Set { classes, ranges: Vec::new(), negated: false }
    }

    fn has(&self, c: char) -> bool {
        let listed = || self.ranges.iter().any(|&(first, last)| first <= c && c <= last);
        (is(c, self.classes) || !self.ranges.is_empty() && listed()) != self.negated
    }

    /// Where at most `max` of these characters from `at` on end.
    fn take(&self, text: &str, at: usize, max: usize) -> usize {
        let mut end = at;
        for _ in 0..max {
            match first(text, end) {
                Some(c) if self.has(c) => end += c.len_utf8(),
                _ => break,
            }
        }
        end
    }
}

/// One alternative of a step.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Alt {
    /// `'s|'t|'re|'ve|'m|'ll|'d`, or the same in any case.
    Contraction { any_case: bool },
    /// At most one character of `lead`, taken where the rest can follow it; from one to `max`
    /// characters; then at most so many of a tail.
    Run { lead: Option<Set>, of: Set, max: usize, tail: Option<(Set, usize)> },
    /// White space, from `min` to `max` characters, not followed by text: `\s{min,max}(?!\S)`.
    Spaces { min: usize, max: usize },
    /// White space that ends the text: `\s+$`.
    SpacesAtEnd,
    /// White space up to its last line end: `\s*[\r\n]+`.
    Newlines,
    /// A word of letters with and without case, with a contraction behind it where `suffix` says
    /// so. Ideographs are no letters where `no_han` says so.
    Cased { form: Cased, suffix: bool, no_han: bool },
    /// [`ANY_BUT_WORD`], then letters with their marks, also across single spaces:
    /// `(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+`.
    Phrase,
    /// Ideographs: `\p{Han}+`.
    Han,
    /// A punctuation mark or symbol of ASCII and the ASCII letters after it.
    AsciiWord,
    /// `[0-9][0-9][0-9]`
    ThreeDigits,
    /// This text.
    Literal(String),
    /// `<sentinel:[0-9]+>`
    Sentinel,
    /// `IMGIMG[A-I]{1,4}Z`
    Image,
}

/// The two forms of a word after [`ANY_BUT_WORD`]. U is letters but small ones, L is letters but
/// capitals; letters without case and marks are in both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cased {
    /// `[U]*[L]+`
    EndsSmall,
    /// `[U]+[L]*`
    BeginsLarge,
}

/// One step.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// The first alternative that matches, from the left.
    First(Vec<Alt>),
    /// Runs of digits in threes, counted from the right.
    Thousands(Thousands),
    /// White space is dropped, and what is between stays.
    DropSpaces,
    /// Each of these characters is cut off alone.
    Alone(fn(char) -> bool),
    /// Runs of these characters are cut off.
    Together(fn(char) -> bool),
    /// A piece begins at each of these characters.
    Before(char),
}

impl Step {
    /// Whether some alternative matches at every place of every text.
    pub fn covers_everything(&self) -> bool {
        let Step::First(alternatives) = self else { return false };
        let covered = alternatives.iter().fold(0, |covered, alt| match alt {
            Alt::Run { of, .. } if of.ranges.is_empty() => covered | of.classes,
            _ => covered,
        });
        not(covered) == 0
    }
}

/// Which digits are cut in threes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Thousands {
    /// Places where they are cut; what is before the first is not cut off:
    /// `(?=(\d{3})+(?!\d))`.
    Places,
    /// Every run of `\p{N}` is cut off.
    Runs,
    /// Runs that end where a word ends are cut off: `\d{1,3}(?=(?:\d{3})*\b)`.
    Words,
}

/// Calls `word` with every word of `text`, in order. Together they are the text, but for the white
/// space that [`Step::DropSpaces`] drops.
pub(super) fn words<'t>(steps: &[Step], text: &'t str, word: &mut dyn FnMut(&'t str)) {
    let Some((step, rest)) = steps.split_first() else {
        if !text.is_empty() {
            word(text);
        }
        return;
    };
    let mut done = 0;
    // What is between the last piece and this one, then this one.
    let mut piece = |start: usize, end: usize| {
        for part in [&text[done..start], &text[start..end]] {
            if !part.is_empty() {
                words(rest, part, word);
            }
        }
        done = end;
    };
    match step {
        Step::First(alternatives) => {
            let mut at = 0;
            while let Some(c) = first(text, at) {
                match alternatives.iter().find_map(|alt| alt.end(text, at, c)) {
                    Some(end) => {
                        piece(at, end);
                        at = end;
                    }
                    None => at += c.len_utf8(),
                }
            }
        }
        Step::Thousands(kind) => thousands(*kind, text, &mut |at| piece(at, at)),
        Step::DropSpaces => {
            for part in text.split(char::is_whitespace).filter(|p| !p.is_empty()) {
                words(rest, part, word);
            }
            return;
        }
        Step::Alone(of) => {
            text.match_indices(*of).for_each(|(start, found)| piece(start, start + found.len()));
        }
        Step::Together(of) => {
            let mut at = 0;
            while let Some(n) = text[at..].find(*of) {
                let start = at + n;
                at = take_while(text, start, of);
                piece(start, at);
            }
        }
        Step::Before(mark) => text.match_indices(*mark).for_each(|(at, _)| piece(at, at)),
    }
    piece(text.len(), text.len());
}

/// The character at a byte.
fn first(text: &str, at: usize) -> Option<char> {
    text[at..].chars().next()
}

/// Where characters of these classes from `at` on end, at most `max` of them.
fn take(text: &str, at: usize, of: Class, max: usize) -> usize {
    Set::of(of).take(text, at, max)
}

/// Where characters that a function knows end.
fn take_while(text: &str, at: usize, of: impl Fn(char) -> bool) -> usize {
    at + text[at..].find(|c| !of(c)).unwrap_or(text.len() - at)
}

/// `[^\r\n\p{L}\p{N}]`
pub(super) const ANY_BUT_WORD: Class = not(NEWLINE | LETTER | NUMBER);

/// Where `run`, given where it begins, ends: after a lead if that can be, else without one.
fn led(lead: bool, at: usize, c: char, run: impl Fn(usize) -> Option<usize>) -> Option<usize> {
    let after = if lead { run(at + c.len_utf8()) } else { None };
    after.or_else(|| run(at))
}

impl Alt {
    /// Where a match that begins at `at`, with the character `c`, ends; never at `at` itself.
    fn end(&self, text: &str, at: usize, c: char) -> Option<usize> {
        match self {
            Alt::Contraction { any_case } => contraction(text, at, *any_case),
            Alt::Run { lead, of, max, tail } => {
                let lead = lead.as_ref().is_some_and(|lead| lead.has(c));
                if !lead && !of.has(c) {
                    return None;
                }
                let end = led(lead, at, c, |from| {
                    let end = of.take(text, from, *max);
                    (end > from).then_some(end)
                })?;
                Some(tail.as_ref().map_or(end, |(tail, most)| tail.take(text, end, *most)))
            }
            Alt::Spaces { min, max } => spaces(text, at, *min, *max),
            Alt::SpacesAtEnd => {
                let end = take(text, at, SPACE, MANY);
                (end > at && end == text.len()).then_some(end)
            }
            Alt::Newlines => {
                let end = if is(c, SPACE) { take(text, at, SPACE, MANY) } else { at };
                Some(at + text[at..end].rfind(['\r', '\n'])? + 1)
            }
            Alt::Cased { form, suffix, no_han } => {
                let end =
                    led(is(c, ANY_BUT_WORD), at, c, |from| cased(*form, text, from, *no_han))?;
                let longer = if *suffix { contraction(text, end, true) } else { None };
                Some(longer.unwrap_or(end))
            }
            Alt::Phrase => led(is(c, ANY_BUT_WORD), at, c, |from| phrase(text, from)),
            Alt::Han => Some(take_while(text, at, is_han)).filter(|&end| end > at),
            Alt::AsciiWord => {
                let from = at + 1;
                let letters = |c: char| c.is_ascii_alphabetic();
                let end = c.is_ascii_punctuation().then(|| take_while(text, from, letters))?;
                (end > from).then_some(end)
            }
            Alt::ThreeDigits => {
                let digits = text.as_bytes().get(at..at + 3)?;
                digits.iter().all(u8::is_ascii_digit).then_some(at + 3)
            }
            Alt::Literal(what) => text[at..].starts_with(what).then_some(at + what.len()),
            Alt::Sentinel => {
                let from = at + text[at..].strip_prefix("<sentinel:").map(|_| 10)?;
                let end = take_while(text, from, |c| c.is_ascii_digit());
                (end > from && text[end..].starts_with('>')).then_some(end + 1)
            }
            Alt::Image => {
                let from = at + text[at..].strip_prefix("IMGIMG").map(|_| 6)?;
                let end = take_while(text, from, |c| ('A'..='I').contains(&c));
                ((1..=4).contains(&(end - from)) && text[end..].starts_with('Z')).then_some(end + 1)
            }
        }
    }
}

/// `'s|'t|'re|'ve|'m|'ll|'d`; in any case the long s is an s too.
fn contraction(text: &str, at: usize, any_case: bool) -> Option<usize> {
    let rest = text[at..].strip_prefix('\'')?;
    let is = |have: Option<char>, want: char| match have {
        Some(c) if any_case => c.to_ascii_lowercase() == want || (c == 'ſ' && want == 's'),
        c => c == Some(want),
    };
    let mut chars = rest.chars();
    let (one, two) = (chars.next(), chars.next());
    if ['s', 't', 'm', 'd'].iter().any(|&c| is(one, c)) {
        return Some(at + 1 + one?.len_utf8());
    }
    let pairs = [('r', 'e'), ('v', 'e'), ('l', 'l')];
    pairs.iter().any(|&(a, b)| is(one, a) && is(two, b)).then_some(at + 3)
}

fn cased(form: Cased, text: &str, from: usize, no_han: bool) -> Option<usize> {
    let letter = |c: char, of: Class| is(c, of | UNCASED | MARK) && !(no_han && is_han(c));
    let (upper, lower) = (|c| letter(c, UPPER), |c| letter(c, LOWER));
    let run = take_while(text, from, upper);
    let end = take_while(text, run, lower);
    match form {
        Cased::BeginsLarge => (run > from).then_some(end),
        Cased::EndsSmall if end > run => Some(end),
        Cased::EndsSmall => {
            // The capitals give back as much as is needed: their last character that is also in L
            // begins `[L]+`, and nothing after it is in L.
            let (last, c) = text[from..run].char_indices().rev().find(|&(_, c)| lower(c))?;
            Some(from + last + c.len_utf8())
        }
    }
}

fn phrase(text: &str, from: usize) -> Option<usize> {
    let letter = |at: usize| {
        let end = take(text, at, LETTER, 1);
        (end > at).then(|| take(text, end, MARK, MANY))
    };
    let mut end = letter(from)?;
    loop {
        let space = text[end..].starts_with(' ').then_some(end + 1);
        match letter(end).or_else(|| space.and_then(letter)) {
            Some(next) => end = next,
            None => return Some(end),
        }
    }
}

fn spaces(text: &str, at: usize, min: usize, max: usize) -> Option<usize> {
    let end = take(text, at, SPACE, max);
    let last = text[at..end].chars().next_back()?;
    let text_follows = first(text, end).is_some_and(|c| !is(c, SPACE));
    // A shorter piece is followed by white space.
    let end = if text_follows { end - last.len_utf8() } else { end };
    (text[at..end].chars().take(min).count() == min).then_some(end)
}

/// Calls `cut` with every place in `text`, in order, where it is cut.
fn thousands(kind: Thousands, text: &str, cut: &mut dyn FnMut(usize)) {
    let of = if kind == Thousands::Runs { NUMBER } else { DIGIT };
    let mut at = 0;
    while let Some(n) = text[at..].find(|c| is(c, of)) {
        let start = at + n;
        let end = take(text, start, of, MANY);
        at = end;
        if kind == Thousands::Words && first(text, end).is_some_and(is_word) {
            continue;
        }
        let mut left = text[start..end].chars().count();
        for (i, _) in text[start..end].char_indices() {
            let begins = i == 0 && kind != Thousands::Places;
            if begins || left.is_multiple_of(3) {
                cut(start + i);
            }
            left -= 1;
        }
        if kind != Thousands::Places {
            cut(end);
        }
    }
}
