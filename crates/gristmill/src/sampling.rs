//! Options that say how tokens are chosen, what a model suggests for them, and what becomes of them.

use crate::term::note;
use clap::{Args, Parser};
use gristmill::models::sampling::Suggestions;
use gristmill::{Error, Mirostat, Model, Result, SamplingParams, Tokenizer};
use std::hash::{BuildHasher, Hasher};

/// How tokens are chosen, the most used first. Names and defaults are llama.cpp's.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Divides the scores; 0: always the most likely token
    #[arg(
        long,
        alias = "temperature",
        value_name = "T",
        default_value_t = 0.8,
        allow_negative_numbers = true
    )]
    temp: f32,

    /// Among the K most likely; 0: all
    #[arg(long, value_name = "K", default_value_t = 40)]
    top_k: u32,

    /// Among the fewest whose probabilities sum to P; 1: all
    #[arg(long, value_name = "P", default_value_t = 0.95, allow_negative_numbers = true)]
    top_p: f32,

    /// Among those at least P times as likely as the most likely; 0: all
    #[arg(long, value_name = "P", default_value_t = 0.05, allow_negative_numbers = true)]
    min_p: f32,

    /// The same seed gives the same text; negative: random (default, shown with -v)
    #[arg(short, long, value_name = "N", allow_negative_numbers = true)]
    seed: Option<i64>,

    /// Among scores at most N standard deviations below the best; 0 or -1: all
    #[arg(long, alias = "top-n-sigma", value_name = "N",
          default_value_t = -1.0, allow_negative_numbers = true)]
    top_nsigma: f32,

    /// Among those nearest to the expected surprise, P of the probability; 1: all
    #[arg(
        long,
        alias = "typical-p",
        value_name = "P",
        default_value_t = 1.0,
        allow_negative_numbers = true
    )]
    typical: f32,

    /// How often all but the last of the choices above the threshold are left out; 0: never
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true)]
    xtc_probability: f32,

    /// What counts as such a choice: a probability
    #[arg(long, value_name = "P", default_value_t = 0.1, allow_negative_numbers = true)]
    xtc_threshold: f32,

    /// How many tokens back the penalties look; 0: none; -1: the whole text
    #[arg(long, value_name = "N", default_value_t = 64, allow_negative_numbers = true)]
    repeat_last_n: i32,

    /// Divides the scores of tokens that are there; 1: not
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    repeat_penalty: f32,

    /// Subtracted from the scores of tokens that are there
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    presence_penalty: f32,

    /// Subtracted for each time that a token is there
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    frequency_penalty: f32,

    /// What going on with a repetition costs, times a power of the base; 0: nothing
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    dry_multiplier: f32,

    /// That base; the power is the length beyond what is allowed
    #[arg(long, value_name = "X", default_value_t = 1.75, allow_negative_numbers = true)]
    dry_base: f32,

    /// Repetitions shorter than this cost nothing
    #[arg(long, value_name = "N", default_value_t = 2)]
    dry_allowed_length: u32,

    /// How many tokens back repetitions are looked for; 0: none; -1: the whole text
    #[arg(long, value_name = "N", default_value_t = -1,
          allow_negative_numbers = true)]
    dry_penalty_last_n: i32,

    /// Text that ends a repetition, in place of \n : " and *; once for each, or `none`
    #[arg(long, value_name = "TEXT",
          value_parser = parse_breaker, allow_hyphen_values = true)]
    dry_sequence_breaker: Vec<String>,

    /// Aim at an even surprise, in place of --top-k and all other limits: version 1 or 2; 0: off
    #[arg(long, value_name = "N", default_value_t = 0,
          value_parser = clap::value_parser!(u8).range(0..=2))]
    mirostat: u8,

    /// How fast mirostat learns
    #[arg(
        long,
        alias = "mirostat-eta",
        value_name = "X",
        default_value_t = 0.1,
        allow_negative_numbers = true
    )]
    mirostat_lr: f32,

    /// The surprise that mirostat aims at, in bits
    #[arg(
        long,
        alias = "mirostat-tau",
        value_name = "X",
        default_value_t = 5.0,
        allow_negative_numbers = true
    )]
    mirostat_ent: f32,

    /// Added to the score of a token, such as 15043+1 or 15043-inf (never)
    #[arg(short, long, value_name = "TOKEN+X",
          value_parser = parse_bias, value_delimiter = ',')]
    logit_bias: Vec<(u32, f32)>,
}

/// Fields whose flag is not their own name.
const FLAGS: [(&str, &str); 5] = [
    ("temperature", "--temp"),
    ("top_n_sigma", "--top-nsigma"),
    ("typical_p", "--typical"),
    ("mirostat_tau", "--mirostat-ent"),
    ("mirostat_eta", "--mirostat-lr"),
];

impl SamplingArgs {
    /// The parameters, checked; for DRY [`SamplingArgs::breakers`] are still to come.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the flag whose value is no number or out of range, and the range.
    pub fn params(&self) -> Result<SamplingParams> {
        let params = SamplingParams {
            logit_bias: self.logit_bias.clone(),
            repeat_last_n: self.repeat_last_n,
            repeat_penalty: self.repeat_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            dry_multiplier: self.dry_multiplier,
            dry_base: self.dry_base,
            dry_allowed_length: self.dry_allowed_length,
            dry_penalty_last_n: self.dry_penalty_last_n,
            dry_breakers: vec![],
            top_n_sigma: if self.top_nsigma == -1.0 { 0.0 } else { self.top_nsigma },
            top_k: self.top_k,
            typical_p: self.typical,
            top_p: self.top_p,
            min_p: self.min_p,
            xtc_probability: self.xtc_probability,
            xtc_threshold: self.xtc_threshold,
            temperature: self.temp,
            mirostat: [Mirostat::Off, Mirostat::V1, Mirostat::V2][usize::from(self.mirostat)],
            mirostat_tau: self.mirostat_ent,
            mirostat_eta: self.mirostat_lr,
            seed: self.seed.and_then(|s| u64::try_from(s).ok()).unwrap_or_else(random),
        };
        params.validate().map_err(name_flag)?;
        Ok(params)
    }

    /// The tokens that end repetitions; none where DRY is off.
    pub fn breakers(&self, tokenizer: &Tokenizer) -> Vec<Vec<u32>> {
        let given = self.dry_sequence_breaker.iter().map(String::as_str);
        let texts: Vec<&str> = match self.dry_sequence_breaker.is_empty() {
            _ if self.dry_multiplier == 0.0 => vec![],
            true => vec!["\n", ":", "\"", "*"],
            false => given.filter(|&t| t != "none").collect(),
        };
        texts.into_iter().flat_map(|t| tokenizer.sequences_with(t)).collect()
    }
}

/// The same error with the flag in place of the field that it begins with.
fn name_flag(error: Error) -> Error {
    let Error::Usage(text) = error else { return error };
    let (field, rest) = text.split_at(text.find(' ').unwrap_or(text.len()));
    Error::Usage(flag_of(field) + rest)
}

fn flag_of(field: &str) -> String {
    let known = FLAGS.iter().find(|f| f.0 == field).map(|f| f.1.to_owned());
    known.unwrap_or_else(|| format!("--{}", field.replace('_', "-")))
}

/// What a model's publisher suggests: values of options, by their long names.
#[derive(Clone, Debug, Default)]
pub struct Suggested(pub Vec<(String, String)>, String);

impl Suggested {
    /// By this model.
    ///
    /// # Errors
    /// [`Error::Model`] naming the file and the key whose value is no number or out of range.
    pub fn by(model: &Model) -> Result<Suggested> {
        let suggestions = Suggestions::of(model.gguf())?;
        let options = checked(&suggestions)?;
        let flags: Vec<String> = options.iter().map(|(n, v)| format!("--{n} {v}")).collect();
        let order = match &suggestions.order {
            Some(order) => format!("; its order of samplers ({order}) is not followed"),
            None => String::new(),
        };
        let said = match flags.is_empty() && order.is_empty() {
            true => String::new(),
            false => format!("{} suggests {}{order}", suggestions.file, flags.join(" ")),
        };
        Ok(Suggested(options, said))
    }

    /// Says so, where there is something to say.
    pub fn say(&self) {
        if !self.1.is_empty() {
            note(&self.1);
        }
    }
}

/// Suggestions as options, each in its range.
fn checked(suggestions: &Suggestions) -> Result<Vec<(String, String)>> {
    let mut options = vec![];
    for s in &suggestions.values {
        let flag = flag_of(s.field);
        let long = flag.trim_start_matches("--").to_owned();
        let value = s.value.to_string();
        let argv = ["x".to_owned(), format!("{flag}={value}")];
        let range = match Alone::try_parse_from(argv) {
            Ok(alone) => alone.sampling.params().err().map(|e| e.to_string()),
            Err(e) => Some(e.to_string().lines().next().unwrap_or_default().to_owned()),
        };
        if let Some(what) = range {
            let what = format!("'{}' suggests a value out of range: {what}", s.key);
            return Err(Error::model(&suggestions.file, what));
        }
        options.push((long, value));
    }
    Ok(options)
}

/// These options alone.
#[derive(Parser)]
struct Alone {
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// A number nobody can guess, from the standard library's own random keys.
fn random() -> u64 {
    // A positive i64, so that --seed can repeat it.
    std::hash::RandomState::new().build_hasher().finish() >> 1
}

/// A token and what is added to its score: `15043+1`, `15043-0.5`, `15043-inf`.
///
/// # Errors
/// What is missing, for clap.
fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let wrong = || format!("'{text}' is not a token and a number, such as 15043+1 or 15043-inf");
    let (token, bias) = text.split_at(text.find(['+', '-']).ok_or_else(wrong)?);
    Ok((token.parse().map_err(|_| wrong())?, bias.parse().map_err(|_| wrong())?))
}

/// A text as typed, with `\n`, `\r`, `\t` and `\\` for what is hard to type.
///
/// # Errors
/// Where it is empty or longer than 40 characters, for clap.
fn parse_breaker(text: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, chars.as_str().chars().next()) {
            ('\\', Some(next @ ('n' | 'r' | 't' | '\\'))) => {
                chars.next();
                out.push(match next {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    _ => '\\',
                });
            }
            _ => out.push(c),
        }
    }
    match out.chars().count() {
        1..=40 => Ok(out),
        n => Err(format!("a text of {n} characters; it must have 1 to 40")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a file suggests becomes options, and what is out of range is the file's fault.
    #[test]
    fn suggestions_become_options() {
        let json = br#"{"temperature": 0.6, "top_k": 20, "repetition_penalty": 1.1}"#;
        let options = checked(&Suggestions::from_json("g.json", json).unwrap()).unwrap();
        let options: Vec<_> = options.iter().map(|(n, v)| (&**n, &**v)).collect();
        let want =
            [("temp", "0.6"), ("top-k", "20"), ("repeat-penalty", "1.1"), ("repeat-last-n", "-1")];
        assert_eq!(options, want);
        for (json, key) in [
            (&br#"{"top_p": 1.5}"#[..], "top_p"),
            (br#"{"temperature": -1}"#, "temperature"),
            (br#"{"top_k": 2.5}"#, "top_k"),
        ] {
            let error = checked(&Suggestions::from_json("g.json", json).unwrap()).unwrap_err();
            assert_eq!(error.exit_code(), 3);
            let said = error.to_string();
            assert!(said.contains("g.json") && said.contains(key), "{said}");
        }
    }

    fn params(args: &[&str]) -> Result<SamplingParams, String> {
        let line = Alone::try_parse_from([&["x"], args].concat()).map_err(|e| e.to_string())?;
        line.sampling.params().map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_those_of_llama_cpp() {
        let p = params(&["-s", "3"]).unwrap();
        let quiet = SamplingParams::default();
        let expected = SamplingParams {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            seed: 3,
            ..quiet
        };
        assert_eq!(p, expected);
    }

    #[test]
    fn flags_reach_their_fields() {
        let p = params(&["-l", "5+1.5", "--logit-bias", "7-inf,8-2", "--mirostat", "2"]).unwrap();
        assert_eq!(p.logit_bias, [(5, 1.5), (7, f32::NEG_INFINITY), (8, -2.0)]);
        assert_eq!(p.mirostat, Mirostat::V2);
        let p =
            params(&["--top-nsigma", "1.5", "--typical-p", "0.5", "--temperature", "0"]).unwrap();
        assert_eq!((p.top_n_sigma, p.typical_p, p.temperature), (1.5, 0.5, 0.0));
        let p = params(&["--repeat-last-n", "-1", "--mirostat-ent", "3", "--top-nsigma", "-1"]);
        let p = p.unwrap();
        assert_eq!((p.repeat_last_n, p.mirostat_tau, p.top_n_sigma), (-1, 3.0, 0.0));
    }

    /// Every flag that takes a number refuses what is none and what is out of range, naming itself
    /// and the range.
    #[test]
    fn bad_values_name_the_flag_and_its_range() {
        for (flag, bad, range) in [
            ("--temp", &["nan", "inf", "-1"][..], "at least 0"),
            ("--top-p", &["0", "1.1", "nan"], "above 0 and at most 1"),
            ("--min-p", &["-0.1", "1.1", "NaN"], "between 0 and 1"),
            ("--top-nsigma", &["-2", "inf", "nan"], "at least 0"),
            ("--typical", &["0", "-1", "nan"], "above 0 and at most 1"),
            ("--xtc-probability", &["-0.1", "2", "nan"], "between 0 and 1"),
            ("--xtc-threshold", &["-0.1", "2", "nan"], "between 0 and 1"),
            ("--repeat-last-n", &["-2"], "at least -1"),
            ("--repeat-penalty", &["0", "-1", "inf", "nan"], "above 0"),
            ("--presence-penalty", &["101", "-inf", "nan"], "between -100 and 100"),
            ("--frequency-penalty", &["101", "-inf", "nan"], "between -100 and 100"),
            ("--dry-multiplier", &["-1", "inf", "nan"], "at least 0"),
            ("--dry-base", &["0.5", "inf", "nan"], "at least 1"),
            ("--dry-penalty-last-n", &["-2"], "at least -1"),
            ("--mirostat", &["3"], "0..=2"),
            ("--mirostat-lr", &["-1", "1.5", "nan"], "between 0 and 1"),
            ("--mirostat-ent", &["-1", "101", "nan"], "between 0 and 100"),
            ("--logit-bias", &["1+inf", "1+2000", "1-nan"], "between -1000 and 1000"),
            ("--logit-bias", &["x+1", "1", "+1", "1+", "-3+1"], "15043+1"),
            ("--dry-sequence-breaker", &[""], "1 to 40"),
        ] {
            for value in bad {
                let said = params(&[&format!("{flag}={value}")]).expect_err(flag);
                assert!(said.contains(flag) && said.contains(range), "{flag}={value}: {said}");
            }
        }
    }

    #[test]
    fn breakers_as_typed() {
        assert_eq!(parse_breaker(r"a\n\t\\n").as_deref(), Ok("a\n\t\\n"));
        assert_eq!(parse_breaker(r"\x\").as_deref(), Ok(r"\x\"));
        assert!(parse_breaker("").is_err() && parse_breaker(&"é".repeat(41)).is_err());
    }
}
