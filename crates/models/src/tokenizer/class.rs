//! What kind of character a character is, as far as cutting text into words asks.
//!
//! Every character is of exactly one class, a bit of a [`Class`], so a set of classes and its
//! complement are masks: `[^\s\p{L}\p{N}]` is all bits but those. The general categories are
//! those of Unicode 16, which the engines that the models were trained with know.

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// A set of classes.
pub(super) type Class = u16;

/// `\p{Lu}` and `\p{Lt}`.
pub(super) const UPPER: Class = 1;
/// `\p{Ll}`.
pub(super) const LOWER: Class = 1 << 1;
/// `\p{Lm}` and `\p{Lo}`: letters without case.
pub(super) const UNCASED: Class = 1 << 2;
/// `\p{M}`.
pub(super) const MARK: Class = 1 << 3;
/// `\p{Nd}`: digits.
pub(super) const DIGIT: Class = 1 << 4;
/// `\p{Nl}` and `\p{No}`: other numbers.
pub(super) const NUMERIC: Class = 1 << 5;
/// `\p{P}`.
pub(super) const PUNCTUATION: Class = 1 << 6;
/// `\p{S}`.
pub(super) const SYMBOL: Class = 1 << 7;
/// `\r` and `\n`.
pub(super) const NEWLINE: Class = 1 << 8;
/// White space but for those.
pub(super) const BLANK: Class = 1 << 9;
/// Controls, formats, private and unassigned characters.
pub(super) const OTHER: Class = 1 << 10;

/// `\p{L}`.
pub(super) const LETTER: Class = UPPER | LOWER | UNCASED;
/// `\p{N}`.
pub(super) const NUMBER: Class = DIGIT | NUMERIC;
/// `\s`.
pub(super) const SPACE: Class = NEWLINE | BLANK;
/// All there are.
const ALL: Class = (1 << 11) - 1;

/// Every class not in `set`.
pub(super) const fn not(set: Class) -> Class {
    ALL & !set
}

const ASCII: [Class; 128] = {
    let mut table = [OTHER; 128];
    let mut i = 0;
    while i < 128 {
        table[i] = match i as u8 {
            b'\r' | b'\n' => NEWLINE,
            b'\t' | 0x0b | 0x0c | b' ' => BLANK,
            b'0'..=b'9' => DIGIT,
            b'A'..=b'Z' => UPPER,
            b'a'..=b'z' => LOWER,
            b'$' | b'+' | b'<' | b'=' | b'>' | b'^' | b'`' | b'|' | b'~' => SYMBOL,
            b'!'..=b'/' | b':'..=b'@' | b'['..=b'_' | b'{' | b'}' => PUNCTUATION,
            _ => OTHER,
        };
        i += 1;
    }
    table
};

/// The class of a character: one bit.
pub(super) fn class(c: char) -> Class {
    match ASCII.get(c as usize) {
        Some(&class) => class,
        None => beyond_ascii(c),
    }
}

fn beyond_ascii(c: char) -> Class {
    use GeneralCategory::*;
    match c {
        // Most text beyond ASCII is in few ranges of one class.
        '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}' | '\u{3400}'..='\u{4dbf}' => UNCASED,
        '\u{430}'..='\u{45f}' => LOWER,
        '\u{400}'..='\u{42f}' => UPPER,
        _ => match c.general_category() {
            UppercaseLetter | TitlecaseLetter => UPPER,
            LowercaseLetter => LOWER,
            ModifierLetter | OtherLetter => UNCASED,
            NonspacingMark | SpacingMark | EnclosingMark => MARK,
            DecimalNumber => DIGIT,
            LetterNumber | OtherNumber => NUMERIC,
            ConnectorPunctuation | DashPunctuation | OpenPunctuation | ClosePunctuation
            | InitialPunctuation | FinalPunctuation | OtherPunctuation => PUNCTUATION,
            MathSymbol | CurrencySymbol | ModifierSymbol | OtherSymbol => SYMBOL,
            SpaceSeparator | LineSeparator | ParagraphSeparator => BLANK,
            // U+0085 is a control that counts as white space.
            Control if c.is_whitespace() => BLANK,
            Control | Format | Surrogate | PrivateUse | Unassigned => OTHER,
        },
    }
}

/// Whether a character is of a class in `set`.
pub(super) fn is(c: char, set: Class) -> bool {
    class(c) & set != 0
}

/// `\p{Mn}`.
pub(super) fn is_nonspacing_mark(c: char) -> bool {
    !c.is_ascii() && c.general_category() == GeneralCategory::NonspacingMark
}

/// `\w`: a character that words are made of (Unicode technical standard 18, annex C).
pub(super) fn is_word(c: char) -> bool {
    // Rust's own table is newer: what is not assigned here is no word.
    c.is_alphabetic() && !is(c, OTHER)
        || is(c, MARK | DIGIT)
        || matches!(c, '\u{200c}' | '\u{200d}')
        || c.general_category() == GeneralCategory::ConnectorPunctuation
}

/// `\p{Han}`.
pub(super) fn is_han(c: char) -> bool {
    matches!(c,
        '\u{2e80}'..='\u{2e99}'
        | '\u{2e9b}'..='\u{2ef3}'
        | '\u{2f00}'..='\u{2fd5}'
        | '\u{3005}'
        | '\u{3007}'
        | '\u{3021}'..='\u{3029}'
        | '\u{3038}'..='\u{303b}'
        | '\u{3400}'..='\u{4dbf}'
        | '\u{4e00}'..='\u{9fff}'
        | '\u{f900}'..='\u{fa6d}'
        | '\u{fa70}'..='\u{fad9}'
        | '\u{16fe2}'..='\u{16fe3}'
        | '\u{16ff0}'..='\u{16ff1}'
        | '\u{20000}'..='\u{2a6df}'
        | '\u{2a700}'..='\u{2b739}'
        | '\u{2b740}'..='\u{2b81d}'
        | '\u{2b820}'..='\u{2cea1}'
        | '\u{2ceb0}'..='\u{2ebe0}'
        | '\u{2ebf0}'..='\u{2ee5d}'
        | '\u{2f800}'..='\u{2fa1d}'
        | '\u{30000}'..='\u{3134a}'
        | '\u{31350}'..='\u{323af}')
}

/// Whether BERT sets a character off as a word of its own: the blocks of ideographs as its own
/// code lists them, with its slip in the fifth range.
pub(super) fn is_bert_ideograph(c: char) -> bool {
    matches!(c,
        '\u{4e00}'..='\u{9fff}'
        | '\u{3400}'..='\u{4dbf}'
        | '\u{20000}'..='\u{2a6df}'
        | '\u{2a700}'..='\u{2b73f}'
        | '\u{2b740}'..='\u{2b81f}'
        | '\u{2b920}'..='\u{2ceaf}'
        | '\u{f900}'..='\u{faff}'
        | '\u{2f800}'..='\u{2fa1f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::utils::SysRegex;

    /// The oracle: a regex engine with its own tables, on every character.
    #[test]
    fn classes_are_those_of_a_regex_engine() {
        let sets: [(&str, &dyn Fn(char) -> bool); 14] = [
            (r"[\p{Lu}\p{Lt}]", &|c| is(c, UPPER)),
            (r"\p{Ll}", &|c| is(c, LOWER)),
            (r"[\p{Lm}\p{Lo}]", &|c| is(c, UNCASED)),
            (r"\p{M}", &|c| is(c, MARK)),
            (r"\p{Mn}", &is_nonspacing_mark),
            (r"\p{Nd}", &|c| is(c, DIGIT)),
            (r"\p{N}", &|c| is(c, NUMBER)),
            (r"\p{P}", &|c| is(c, PUNCTUATION)),
            (r"\p{S}", &|c| is(c, SYMBOL)),
            (r"[\r\n]", &|c| is(c, NEWLINE)),
            (r"\s", &|c| is(c, SPACE)),
            (r"[^\s\p{L}\p{N}]", &|c| is(c, not(SPACE | LETTER | NUMBER))),
            (r"\w", &is_word),
            (r"\p{Han}", &is_han),
        ];
        let all: String = ('\0'..=char::MAX).collect();
        for (pattern, ours) in sets {
            let mut theirs = vec![false; 0x11_0000];
            for (start, _) in SysRegex::new(pattern).unwrap().find_iter(&all) {
                theirs[all[start..].chars().next().unwrap() as usize] = true;
            }
            for c in '\0'..=char::MAX {
                assert_eq!(ours(c), theirs[c as usize], "{pattern} U+{:04X}", c as u32);
            }
        }
    }
}
