//! How each family of byte-level models cuts text into words before merging.
//!
//! `tokenizer.ggml.pre` names the family: these are all the names that llama.cpp knows. A family is
//! a list of patterns: each cuts every piece the one before has left into its matches and what
//! lies between them. The patterns are those of the models' own `tokenizer.json`;
//! [`super::pattern`] reads them and [`super::split`] does the cutting.

use super::pattern;
use super::split::{Step, Thousands};

/// What a word is before merging.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Symbols {
    /// Bytes.
    Bytes,
    /// Characters, with `▁` for a space; a character that is no token becomes bytes.
    Marked,
    /// Characters.
    Chars,
}

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
    pub symbols: Symbols,
}

/// A step of a family.
enum Pattern {
    Regex(&'static str),
    Digits(Thousands),
    DropSpaces,
}

use Pattern::Regex;

/// GPT-2's pattern.
pub(super) const GPT2_WORDS: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const GPT2: Pattern = Regex(GPT2_WORDS);
const LLAMA3: Pattern = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const JAIS2: Pattern = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}",
);
const QWEN2: Pattern = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const QWEN35: Pattern = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const MINICPM5: Pattern = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const BAILING: Pattern = Regex(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
);
/// Without English contractions, so that Turkish suffixes stay where they are.
const UFAKZEKA: Pattern =
    Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+");
const SEED_CODER: Pattern = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const EXAONE_MOE: Pattern = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
);
const TEKKEN: Pattern = Regex(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const GPT4O: Pattern = Regex(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const YOUTU: Pattern = Regex(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const KIMI_K2: Pattern = Regex(
    r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const DEEPSEEK_V3: Pattern = Regex(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
);
const SPARK: Pattern = Regex(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"##,
);
/// Letters with case, and those of Cherokee and a few more: the list of the model's file. The
/// escapes are letters that Unicode normalisation of this file would replace.
const DEEPSEEK_LETTERS: Pattern = Regex(
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\x{1F7D}ᾀ-ᾴᾶ-ᾼ\x{1FBE}ῂ-ῄῆ-ῌῐ-\x{1FD3}ῖ-\x{1FDB}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\x{2126}ℨ\x{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
);
const NEWLINE: Pattern = Regex(r"[\r\n]");
const LINES: Pattern = Regex(r"[^\n]+|[\n]+");
const CJK: Pattern = Regex(r"[一-龥ࠀ-一가-퟿]+");
const CJK_KANA: Pattern = Regex(r"[一-龥぀-ゟ゠-ヿ]+");
const ASIAN: Pattern =
    Regex(r"[一-鿿㐀-䶿\x{F900}-\x{FAFF}぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-\x{D7AF}ᄀ-ᇿ]+");
const EAST_ASIAN: Pattern =
    Regex(r"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+");
const DIGIT: Pattern = Regex(r"\p{N}");
const DIGITS: Pattern = Regex(r"\p{N}+");
const DIGITS_3: Pattern = Regex(r"\p{N}{1,3}");
const ASCII_DIGITS_3: Pattern = Regex(r"[0-9][0-9][0-9]");
const BLOOM: Pattern = Regex(r" ?[^(\s|.,!?…。，、।۔،)]+");

/// Most families differ in their steps only.
const PLAIN: Family = Family {
    names: &[],
    steps: &[],
    ignore_merges: false,
    add_bos: false,
    nfc: false,
    symbols: Symbols::Bytes,
};

/// Every family.
static FAMILIES: &[Family] = &[
    Family {
        names: &["default"],
        steps: &[Regex(r"[\p{P}\$\+<=>\^~\|]+"), GPT2, DIGITS, ASCII_DIGITS_3],
        ..PLAIN
    },
    Family {
        names: &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "jina-v1-en",
            "jina-v2-code",
            "jina-v2-es",
            "jina-v2-de",
            "roberta-bpe",
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
            "jina-v5-nano",
        ],
        steps: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    Family { names: &["dbrx", "smaug-bpe", "chatglm-bpe"], steps: &[LLAMA3], ..PLAIN },
    Family { names: &["glm4", "glm5"], steps: &[LLAMA3], ignore_merges: true, ..PLAIN },
    Family { names: &["jais-2"], steps: &[JAIS2], ..PLAIN },
    Family { names: &["qwen2"], steps: &[QWEN2], nfc: true, ..PLAIN },
    Family {
        names: &[
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "stablelm2",
            "hunyuan",
            "megrez",
            "solar-open",
            "grok-2",
        ],
        steps: &[QWEN2],
        ..PLAIN
    },
    Family { names: &["laguna"], steps: &[LINES, QWEN2], ..PLAIN },
    Family { names: &["ufakzeka"], steps: &[UFAKZEKA], ..PLAIN },
    Family { names: &["bailingmoe", "bailingmoe2", "llada-moe"], steps: &[BAILING], ..PLAIN },
    Family { names: &["minicpm5"], steps: &[DIGITS_3, MINICPM5], ignore_merges: true, ..PLAIN },
    Family { names: &["qwen35"], steps: &[QWEN35], ..PLAIN },
    Family {
        names: &["deepseek-llm"],
        steps: &[
            NEWLINE,
            DEEPSEEK_LETTERS,
            Regex(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
            Regex(r"\s+$"),
            CJK,
            DIGITS,
        ],
        ..PLAIN
    },
    Family {
        names: &["deepseek-coder"],
        steps: &[NEWLINE, Regex(r"\s?\p{L}+"), Regex(r"\s?\p{P}+"), CJK, DIGIT],
        ..PLAIN
    },
    Family {
        names: &["deepseek-v3", "hunyuan-dense", "hy_v4", "joyai-llm"],
        steps: &[DIGITS_3, CJK_KANA, DEEPSEEK_V3],
        ..PLAIN
    },
    Family { names: &["spark2_5"], steps: &[DIGITS_3, CJK_KANA, SPARK, DIGIT], ..PLAIN },
    Family {
        names: &["afmoe"],
        steps: &[Pattern::Digits(Thousands::Runs), ASIAN, DEEPSEEK_V3],
        ..PLAIN
    },
    Family { names: &["youtu"], steps: &[EAST_ASIAN, YOUTU], ignore_merges: true, ..PLAIN },
    Family {
        names: &["falcon"],
        steps: &[Regex(r"[\p{P}\$\+<=>\^~\|`]+"), GPT2, ASCII_DIGITS_3],
        ..PLAIN
    },
    Family {
        names: &[
            "starcoder",
            "refact",
            "command-r",
            "smollm",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        steps: &[DIGIT, GPT2],
        ..PLAIN
    },
    Family { names: &["exaone-moe"], steps: &[EXAONE_MOE], ..PLAIN },
    Family { names: &["tekken"], steps: &[TEKKEN], ignore_merges: true, add_bos: true, ..PLAIN },
    Family {
        names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        steps: &[GPT4O],
        ..PLAIN
    },
    Family { names: &["granite-embed-multi-97m"], steps: &[GPT4O], ignore_merges: true, ..PLAIN },
    Family {
        names: &["tiny_aya", "cohere2moe"],
        steps: &[Regex(r"\d{1,3}(?=(?:\d{3})*\b)"), GPT4O],
        ..PLAIN
    },
    Family { names: &["kimi-k2"], steps: &[KIMI_K2], ..PLAIN },
    Family { names: &["seed-coder"], steps: &[SEED_CODER], ..PLAIN },
    Family { names: &["superbpe"], steps: &[DIGITS, Regex(r"(?=(\d{3})+(?!\d))")], ..PLAIN },
    Family { names: &["bloom", "poro-chat", "gpt3-finnish"], steps: &[BLOOM], ..PLAIN },
    Family { names: &["viking"], steps: &[BLOOM, DIGIT], ..PLAIN },
    Family {
        names: &["chameleon"],
        steps: &[
            Regex(r"<sentinel:[0-9]+>"),
            Regex(r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z"),
            Regex(r"([\t\n]|    |  )"),
            DIGIT,
            Regex(r"[\p{P}!-/:-@\[-`{-~]"),
            GPT2,
        ],
        add_bos: true,
        ..PLAIN
    },
    Family {
        names: &["gemma4", "granite-embed-multi-311m"],
        steps: &[LINES],
        add_bos: true,
        symbols: Symbols::Marked,
        ..PLAIN
    },
    Family { names: &["sarvam-moe"], steps: &[LINES], symbols: Symbols::Marked, ..PLAIN },
    Family {
        names: &["whitespace"],
        steps: &[Pattern::DropSpaces],
        symbols: Symbols::Chars,
        ..PLAIN
    },
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

impl Family {
    /// How it cuts.
    pub fn steps(&self) -> Result<Vec<Step>, String> {
        let step = |p: &Pattern| match p {
            Regex(pattern) => pattern::step(pattern),
            Pattern::Digits(kind) => Ok(Step::Thousands(*kind)),
            Pattern::DropSpaces => Ok(Step::DropSpaces),
        };
        self.steps.iter().map(step).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::split;
    use proptest::prelude::*;
    use tokenizers::utils::SysRegex;

    fn words<'t>(steps: &[Step], text: &'t str) -> Vec<&'t str> {
        let mut out = Vec::new();
        split::words(steps, text, &mut |w| out.push(w));
        out
    }

    #[test]
    fn every_pattern_is_read_and_no_name_is_used_twice() {
        let mut names = std::collections::HashSet::new();
        for f in FAMILIES {
            assert!(f.steps().is_ok(), "{:?}: {:?}", f.names, f.steps());
            assert!(f.names.iter().all(|n| names.insert(*n)), "{:?}", f.names);
        }
    }

    #[test]
    fn what_is_not_read_exactly_is_refused() {
        for pattern in
            [r"\p{Lu}\p{Ll}+", r"(\w+)\1", r"[a-z", r"a*", r"\s+(?=x)", "", r"[z-a]+", ".+"]
        {
            let e = pattern::step(pattern).unwrap_err();
            assert!(e.contains("the alternative '"), "{pattern}: {e}");
        }
    }

    /// The oracle: the same patterns, run by a backtracking engine.
    fn reference<'t>(steps: &[SysRegex], text: &'t str) -> Vec<&'t str> {
        let Some((regex, rest)) = steps.split_first() else { return vec![text] };
        let (mut out, mut done) = (Vec::new(), 0);
        for (start, end) in regex.find_iter(text) {
            for part in [&text[done..start], &text[start..end]] {
                if !part.is_empty() {
                    out.extend(reference(rest, part));
                }
            }
            done = end;
        }
        if done < text.len() {
            out.extend(reference(rest, &text[done..]));
        }
        out
    }

    type Both = (&'static Family, Vec<Step>, Vec<SysRegex>);

    thread_local! {
        /// Compiled once: that takes far longer than a case.
        static COMPILED: Vec<Both> = FAMILIES
            .iter()
            .filter(|f| f.steps.iter().all(|s| !matches!(s, Pattern::DropSpaces)))
            .map(|f| {
                let compile = |p: &Pattern| match p {
                    Regex(pattern) => SysRegex::new(pattern).unwrap(),
                    // Each piece ends where a multiple of three numbers is left.
                    _ => SysRegex::new(r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))").unwrap(),
                };
                (f, f.steps().unwrap(), f.steps.iter().map(compile).collect())
            })
            .collect();
    }

    fn check(text: &str) -> Result<(), TestCaseError> {
        COMPILED.with(|compiled| {
            for (f, ours, theirs) in compiled {
                let got = words(ours, text);
                prop_assert_eq!(got.concat(), text);
                if !text.is_empty() {
                    prop_assert_eq!(got, reference(theirs, text), "{:?}", f.names);
                }
            }
            Ok(())
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 2000, failure_persistence: None, ..Default::default()
        })]

        #[test]
        fn cutting_by_hand_equals_a_regex_engine(
            text in r"([ \t\r\n\u{a0}\u{3000}]{0,4}([a-zA-Z]{1,3}|'[sStTlLdDrReEvVſ]{0,2}|[0-9½Ⅳ٣]{1,5}|[.,!?$`|/_(]{1,2}|[éßЖ今々가ǅʰไあ、]{1,2}|\u{301}|\u{200d}|\u{0}|😀|<sentinel:[0-9]>|IMGIMG[A-J]{1,4}Z)?){0,8}"
        ) {
            check(&text)?;
        }

        #[test]
        fn on_any_characters_too(text in any::<String>()) {
            check(&text)?;
        }
    }

    #[test]
    fn long_runs_of_white_space() {
        for n in [1, 2, 3, 4, 5, 7, 8, 9, 100, 511, 512, 513, 1000, 1025] {
            for end in ["", "a", "\n", "\u{3000}b"] {
                check(&format!("a{}{end}", " ".repeat(n))).unwrap();
            }
        }
    }
}
