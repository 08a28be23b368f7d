//! How each family of byte-level models cuts text into words before merging.
//!
//! `tokenizer.ggml.pre` names the family. A family is a list of steps: each cuts every piece the
//! one before has left into the matches of a pattern and what lies between them. The patterns are
//! those of the models' own `tokenizer.json`.
//!
//! Most end in `|\s+(?!\S)|\s+`: white space goes in one piece, except its last character where
//! text follows. That look-ahead would need a backtracking engine, slow and with a limit that
//! long texts reach. So the patterns leave this ending out, and [`Step::tail`] does it: what no
//! other alternative matched is cut by hand, in linear time. An alternative that may begin with
//! white space begins with at most its last character (or matches at the first already, as
//! `\s*[\r\n]+` does), so leaving the ending out changes no other match.

use tokenizers::utils::SysRegex;

/// A pattern and whether white space between its matches is cut as `\s+(?!\S)|\s+`.
type Pattern = (&'static str, bool);

/// A family of models.
pub(super) struct Family {
    /// The names it goes by in `tokenizer.ggml.pre`.
    pub names: &'static [&'static str],
    steps: &'static [Pattern],
    /// Whether a word that is a token as a whole is that token, whatever the merges say.
    pub ignore_merges: bool,
    /// Whether text begins with the BOS token where the file does not say.
    pub add_bos: bool,
    /// Whether text is brought to Unicode's composed form first.
    pub nfc: bool,
}

const GPT2: Pattern = (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+", true);
const LLAMA3: Pattern = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
    true,
);
const QWEN2: Pattern = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
    true,
);
const QWEN35: Pattern = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+",
    true,
);
const TEKKEN: Pattern = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+",
    true,
);
const GPT4O: Pattern = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+",
    true,
);
const SEED_CODER: Pattern = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+",
    true,
);
const DEEPSEEK_V3: Pattern = (
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+"##,
    true,
);
/// Letters with case, and those of Cherokee and a few more: the list of the model's file. The
/// escapes are letters that Unicode normalisation of this file would replace.
const DEEPSEEK_LETTERS: Pattern = (
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\x{1F7D}ᾀ-ᾴᾶ-ᾼ\x{1FBE}ῂ-ῄῆ-ῌῐ-\x{1FD3}ῖ-\x{1FDB}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\x{2126}ℨ\x{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
    false,
);
const NEWLINE: Pattern = (r"[\r\n]", false);
const CJK: Pattern = (r"[一-龥ࠀ-一가-퟿]+", false);
const DIGIT: Pattern = (r"\p{N}", false);
const DIGITS: Pattern = (r"\p{N}+", false);
const DIGITS_3: Pattern = (r"\p{N}{1,3}", false);
const ASCII_DIGITS_3: Pattern = (r"[0-9][0-9][0-9]", false);
const BLOOM: Pattern = (r" ?[^(\s|.,!?…。，、।۔،)]+", false);

/// Most families differ in their steps only.
const PLAIN: Family =
    Family { names: &[], steps: &[], ignore_merges: false, add_bos: false, nfc: false };

/// Every family that is known exactly.
static FAMILIES: &[Family] = &[
    Family {
        names: &["default"],
        steps: &[(r"[\p{P}\$\+<=>\^~\|]+", false), GPT2, DIGITS, ASCII_DIGITS_3],
        ..PLAIN
    },
    Family {
        names: &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "gigachat",
            "jais",
            "mellum",
            "a.x-4.0",
            "modern-bert",
            "exaone4",
            "trillion",
            "granite-docling",
        ],
        steps: &[GPT2],
        ..PLAIN
    },
    Family { names: &["mpt", "olmo"], steps: &[GPT2], nfc: true, ..PLAIN },
    Family {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
        ],
        steps: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    Family { names: &["dbrx", "smaug-bpe", "chatglm-bpe"], steps: &[LLAMA3], ..PLAIN },
    Family { names: &["glm4"], steps: &[LLAMA3], ignore_merges: true, ..PLAIN },
    Family { names: &["qwen2"], steps: &[QWEN2], nfc: true, ..PLAIN },
    Family {
        names: &[
            "deepseek-r1-qwen",
            "kormo",
            "stablelm2",
            "hunyuan",
            "megrez",
            "solar-open",
            "grok-2",
        ],
        steps: &[QWEN2],
        ..PLAIN
    },
    Family { names: &["qwen35"], steps: &[QWEN35], nfc: true, ..PLAIN },
    Family {
        names: &["deepseek-llm"],
        steps: &[
            NEWLINE,
            DEEPSEEK_LETTERS,
            (r"\s?[!-/:-~！-／：-～‘-‟　-。]+", false),
            (r"\s+$", false),
            CJK,
            DIGITS,
        ],
        ..PLAIN
    },
    Family {
        names: &["deepseek-coder"],
        steps: &[NEWLINE, (r"\s?\p{L}+", false), (r"\s?\p{P}+", false), CJK, DIGIT],
        ..PLAIN
    },
    Family {
        names: &["deepseek-v3", "hunyuan-dense"],
        steps: &[DIGITS_3, (r"[一-龥぀-ゟ゠-ヿ]+", false), DEEPSEEK_V3],
        ..PLAIN
    },
    Family {
        names: &["falcon"],
        steps: &[(r"[\p{P}\$\+<=>\^~\|`]+", false), GPT2, ASCII_DIGITS_3],
        ..PLAIN
    },
    Family {
        names: &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"],
        steps: &[DIGIT, GPT2],
        ..PLAIN
    },
    Family { names: &["tekken"], steps: &[TEKKEN], ignore_merges: true, add_bos: true, ..PLAIN },
    Family { names: &["gpt-4o", "llama4"], steps: &[GPT4O], ..PLAIN },
    Family { names: &["seed-coder"], steps: &[SEED_CODER], ..PLAIN },
    Family { names: &["bloom", "poro-chat", "gpt3-finnish"], steps: &[BLOOM], ..PLAIN },
    Family { names: &["viking"], steps: &[BLOOM, DIGIT], ..PLAIN },
];

/// The family of this name.
pub(super) fn family(name: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|f| f.names.contains(&name))
}

/// Every name known, for messages.
pub(super) fn known() -> String {
    let mut names: Vec<&str> = FAMILIES.iter().flat_map(|f| f.names).copied().collect();
    names.sort_unstable();
    names.join(", ")
}

struct Step {
    regex: SysRegex,
    tail: bool,
}

/// A family's steps, compiled.
pub(super) struct PreTokenizer {
    steps: Vec<Step>,
}

impl PreTokenizer {
    /// Compiles the steps; the error is the engine's.
    pub fn new(family: &Family) -> Result<Self, String> {
        let compile = |&(pattern, tail): &Pattern| {
            let regex = SysRegex::new(pattern).map_err(|e| e.to_string())?;
            Ok(Step { regex, tail })
        };
        Ok(PreTokenizer { steps: family.steps.iter().map(compile).collect::<Result<_, String>>()? })
    }

    /// Calls `word` with every word of `text`, in order; together they are the text.
    pub fn words<'t>(&self, text: &'t str, word: &mut impl FnMut(&'t str)) {
        cut(&self.steps, text, word);
    }
}

fn cut<'t>(steps: &[Step], text: &'t str, word: &mut impl FnMut(&'t str)) {
    let Some((step, rest)) = steps.split_first() else {
        if !text.is_empty() {
            word(text);
        }
        return;
    };
    let mut done = 0;
    for (start, end) in step.regex.find_iter(text) {
        if start == end {
            continue;
        }
        gap(step.tail, rest, text, done..start, word);
        cut(rest, &text[start..end], word);
        done = end;
    }
    gap(step.tail, rest, text, done..text.len(), word);
}

/// Cuts what lies between two matches.
fn gap<'t>(
    tail: bool,
    rest: &[Step],
    text: &'t str,
    range: std::ops::Range<usize>,
    word: &mut impl FnMut(&'t str),
) {
    let mut at = range.start;
    while at < range.end {
        let left = &text[at..range.end];
        if !tail {
            return cut(rest, left, word);
        }
        // White space, up to its last character where more text follows.
        let n = left.len() - left.trim_start().len();
        let end = if n == 0 {
            at + left.find(char::is_whitespace).unwrap_or(left.len())
        } else {
            let last = left[..n].chars().next_back().map_or(0, char::len_utf8);
            let text_follows = text[at + n..].starts_with(|c: char| !c.is_whitespace());
            at + if text_follows && n > last { n - last } else { n }
        };
        cut(rest, &text[at..end], word);
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words<'t>(p: &PreTokenizer, text: &'t str) -> Vec<&'t str> {
        let mut out = Vec::new();
        p.words(text, &mut |w| out.push(w));
        out
    }

    #[test]
    fn every_pattern_compiles_and_no_name_is_used_twice() {
        let mut names = std::collections::HashSet::new();
        for f in FAMILIES {
            assert!(PreTokenizer::new(f).is_ok(), "{:?}", f.names);
            assert!(f.names.iter().all(|n| names.insert(*n)), "{:?}", f.names);
        }
    }

    /// The oracle: the same patterns with their ending, run by the backtracking engine.
    fn reference<'t>(steps: &[SysRegex], text: &'t str) -> Vec<&'t str> {
        let Some((regex, rest)) = steps.split_first() else { return vec![text] };
        let (mut out, mut done) = (Vec::new(), 0);
        for (start, end) in regex.find_iter(text) {
            if done < start {
                out.extend(reference(rest, &text[done..start]));
            }
            out.extend(reference(rest, &text[start..end]));
            done = end;
        }
        if done < text.len() {
            out.extend(reference(rest, &text[done..]));
        }
        out
    }

    fn with_ending(&(pattern, tail): &Pattern) -> SysRegex {
        let ending = if tail { r"|\s+(?!\S)|\s+" } else { "" };
        SysRegex::new(&format!("{pattern}{ending}")).unwrap()
    }

    type Both = (&'static Family, PreTokenizer, Vec<SysRegex>);

    thread_local! {
        /// Compiled once: that takes far longer than a case.
        static COMPILED: Vec<Both> = FAMILIES
            .iter()
            .map(|f| {
                let reference = f.steps.iter().map(with_ending).collect();
                (f, PreTokenizer::new(f).unwrap(), reference)
            })
            .collect();
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 1000, failure_persistence: None, ..Default::default()
        })]

        #[test]
        fn cutting_by_hand_equals_the_look_ahead(
            text in r"([ \t\r\n\u{a0}\u{3000}]{0,4}([a-zA-Z]{1,3}|'[sStTlLdD]{0,2}|[0-9½Ⅳ]{1,4}|[.,!?$`|/]{1,2}|[éßЖ今가ǅʰ]|\u{301}|\u{200d}|\u{0}|😀)?){0,8}"
        ) {
            COMPILED.with(|compiled| {
                for (f, ours, theirs) in compiled {
                    let got = words(ours, &text);
                    prop_assert_eq!(got.concat(), text.clone());
                    if !text.is_empty() {
                        prop_assert_eq!(got, reference(theirs, &text), "{:?}", f.names);
                    }
                }
                Ok(())
            })?;
        }
    }
}
