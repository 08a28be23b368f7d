//! Which word is a model and which is a prompt.
//!
//! `-m` and `-p` are exact. Words without a flag are judged by what they look like:
//!
//! - a *model* exists as a path, ends in `.gguf` or `.safetensors`, contains `/` or `:`, or names
//!   a bundled model;
//! - a single word with a digit, a dot or a hyphen is most likely a model's name that resolves to
//!   nothing (`qwen3-0.6b`), which is an error with the nearest names;
//! - anything else is a prompt.
//!
//! Where texts are files, as in `embed` and `rerank`, a path alone makes no model: see
//! [`model_of_texts`].

use gristmill::bundled::{self, STORIES};
use gristmill::{Error, Result};
use std::io::Read;
use std::path::Path;

/// Where the weights come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A path, or a name to be looked up.
    Named(String),
    /// This bundled model, because nothing else was named.
    Bundled(&'static str),
}

/// What a word is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// A model.
    Model,
    /// A name that resolves to nothing.
    Unknown,
    /// Text.
    Prompt,
}

/// Judges a word; `exists` says whether there is such a path.
pub fn classify(word: &str, exists: impl Fn(&str) -> bool) -> Word {
    let lower = word.to_lowercase();
    let is_model = exists(word)
        || lower.ends_with(".gguf")
        || lower.ends_with(".safetensors")
        || word.contains(['/', ':'])
        || bundled::find(word).is_some();
    if is_model {
        return Word::Model;
    }
    let single = !word.is_empty() && !word.contains(char::is_whitespace);
    let like_a_name = |c: char| c.is_ascii_digit() || c == '.' || c == '-';
    if single && word.contains(like_a_name) { Word::Unknown } else { Word::Prompt }
}

/// The model, where one is named, and the other words of a verb that reads texts from files.
pub fn model_of_texts<'w>(
    model: Option<&'w String>,
    words: &'w [String],
) -> (Option<&'w String>, &'w [String]) {
    match words {
        [first, rest @ ..] if model.is_none() && is_model_of_texts(first) => (Some(first), rest),
        words => (model, words),
    }
}

/// Whether the first word of such a verb is its model: by its ending, as the name of a bundled one,
/// as a folder that holds one, or as a file that begins like one.
pub fn is_model_of_texts(word: &str) -> bool {
    let (path, lower) = (Path::new(word), word.to_lowercase());
    let begins_so = || {
        let mut first = [0; 4];
        // What is read of a pipe is gone.
        path.is_file()
            && std::fs::File::open(path).and_then(|mut f| f.read_exact(&mut first)).is_ok()
            && first == *b"GGUF"
    };
    lower.ends_with(".gguf")
        || lower.ends_with(".safetensors")
        || bundled::find(word).is_some()
        || path.join("config.json").is_file()
        || begins_so()
}

/// The model and the prompt of `run` from its flags and its words.
///
/// # Errors
/// [`Error::Usage`] for too many words, [`Error::Model`] for a name that resolves to nothing.
pub fn model_and_prompt(
    model: Option<&str>,
    prompt: Option<&str>,
    words: &[String],
    exists: impl Fn(&str) -> bool,
) -> Result<(Source, Option<String>)> {
    let named = |m: &str| Source::Named(m.to_owned());
    let text = |p: &str| Some(p.to_owned());
    let too_many = |what: &str| Err(Error::Usage(format!("{what}; put a prompt in quotes")));
    match (model, prompt, words) {
        (None, None, []) => Ok((Source::Bundled(STORIES), None)),
        (None, Some(p), []) => Ok((Source::Bundled(STORIES), text(p))),
        (Some(m), p, []) => Ok((named(m), p.map(str::to_owned))),
        (Some(m), None, [p]) => Ok((named(m), text(p))),
        (None, Some(p), [m]) => Ok((named(m), text(p))),
        (None, None, [word]) => match classify(word, exists) {
            Word::Model => Ok((named(word), None)),
            Word::Prompt => Ok((Source::Bundled(STORIES), text(word))),
            Word::Unknown => Err(unknown(word)),
        },
        (None, None, [m, p]) => match classify(m, exists) {
            Word::Model => Ok((named(m), text(p))),
            Word::Unknown => Err(unknown(m)),
            Word::Prompt => too_many(&format!("'{m}' is no model, so '{p}' is one word too many")),
        },
        (Some(_), Some(_), [w, ..]) => {
            too_many(&format!("the model and the prompt are given by flags, and '{w}' is neither"))
        }
        (_, _, [.., w]) => too_many(&format!("'{w}' is one word too many")),
    }
}

/// The error about a name that resolves to nothing.
pub fn unknown(name: &str) -> Error {
    Error::model(
        name,
        format!(
            "no such model; {}; inside this binary are {}. If it is a prompt, give it with -p",
            match &nearest(name, &known(Path::new(".")))[..] {
                [] => "name a .gguf file".to_owned(),
                names => format!("the nearest names are {}", names.join(", ")),
            },
            bundled::listed()
        ),
    )
}

/// The error about a path where there is no file: the nearest files beside it, too.
pub fn missing(path: &str) -> Error {
    let folder = Path::new(path).parent().filter(|p| !p.as_os_str().is_empty());
    let near = nearest(path, &known(folder.unwrap_or(Path::new("."))));
    let hint = match &near[..] {
        [] => "check the path".to_owned(),
        names => format!("check the path; the nearest names are {}", names.join(", ")),
    };
    let inside = match path.contains('/') {
        true => String::new(),
        false => format!("; inside this binary are {}", bundled::listed()),
    };
    let prompt = if path.contains(char::is_whitespace) {
        "; if it is a prompt, give it with -p"
    } else {
        ""
    };
    Error::model(path, format!("no such file; {hint}{inside}{prompt}"))
}

/// Names that could be meant: the bundled models, and those of a folder.
fn known(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = bundled::MODELS.iter().map(|m| m.name.to_owned()).collect();
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for path in entries.map(|e| e.path()).take(10_000) {
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
            let path = path.strip_prefix(".").unwrap_or(&path);
            names.push(path.display().to_string());
        }
    }
    names.sort();
    names
}

/// Up to three names, the likest first: those that share a beginning or differ little.
fn nearest(name: &str, known: &[String]) -> Vec<String> {
    let plain = |s: &str| {
        let s = s.to_lowercase();
        let s = s.rsplit('/').next().unwrap_or(&s);
        s.strip_suffix(".gguf").unwrap_or(s).to_owned()
    };
    let name = plain(name);
    let mut scored: Vec<(usize, &String)> = known
        .iter()
        .filter_map(|k| {
            let other = plain(k);
            let shared = name.chars().zip(other.chars()).take_while(|(a, b)| a == b).count();
            let far = distance(&name, &other);
            let near = far * 2 <= name.chars().count().max(other.chars().count()) || shared >= 3;
            near.then_some((far, k))
        })
        .collect();
    scored.sort();
    scored.into_iter().take(3).map(|(_, k)| k.clone()).collect()
}

/// Insertions, deletions and replacements between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut left_above = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = left_above + usize::from(ca != *cb);
            left_above = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(left_above + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(word: &str) -> Word {
        classify(word, |p| p == "here")
    }

    #[test]
    fn words() {
        for model in [
            "here",
            "m.gguf",
            "M.GGUF",
            "x.safetensors",
            "a/b",
            "llama:7b",
            "Stories",
            "TALES-embed",
        ] {
            assert_eq!(judge(model), Word::Model, "{model}");
        }
        for unknown in ["llama3", "qwen-x", "model.bin", "stories2"] {
            assert_eq!(judge(unknown), Word::Unknown, "{unknown}");
        }
        for prompt in ["hello", "Tell me a story", "what is 2 + 2", "well-known facts", ""] {
            assert_eq!(judge(prompt), Word::Prompt, "{prompt}");
        }
    }

    fn both(m: Option<&str>, p: Option<&str>, words: &[&str]) -> Result<(Source, Option<String>)> {
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        model_and_prompt(m, p, &words, |path| path == "here")
    }

    #[test]
    fn flags_are_exact() {
        let named = |m: &str| Source::Named(m.to_owned());
        let text = |p: &str| Some(p.to_owned());
        assert_eq!(both(Some("x"), None, &[]).unwrap(), (named("x"), None));
        assert_eq!(both(Some("x"), Some("here"), &[]).unwrap(), (named("x"), text("here")));
        assert_eq!(both(Some("x"), None, &["here"]).unwrap(), (named("x"), text("here")));
        assert_eq!(
            both(None, Some("m.gguf"), &[]).unwrap(),
            (Source::Bundled(STORIES), text("m.gguf"))
        );
        assert_eq!(both(None, Some("p"), &["word"]).unwrap(), (named("word"), text("p")));
    }

    #[test]
    fn words_without_flags() {
        let named = |m: &str| Source::Named(m.to_owned());
        let text = |p: &str| Some(p.to_owned());
        assert_eq!(both(None, None, &[]).unwrap(), (Source::Bundled(STORIES), None));
        assert_eq!(both(None, None, &["here"]).unwrap(), (named("here"), None));
        assert_eq!(both(None, None, &["hi"]).unwrap(), (Source::Bundled(STORIES), text("hi")));
        assert_eq!(both(None, None, &["m.gguf", "hi"]).unwrap(), (named("m.gguf"), text("hi")));
        let code = |r: Result<_>| r.map(|_: (Source, Option<String>)| ()).unwrap_err().exit_code();
        assert_eq!(code(both(None, None, &["llama3"])), 3);
        assert_eq!(code(both(None, None, &["llama3", "hi"])), 3);
        assert_eq!(code(both(None, None, &["tell", "me"])), 2);
        assert_eq!(code(both(None, None, &["here", "me", "more"])), 2);
        assert_eq!(code(both(Some("x"), Some("y"), &["z"])), 2);
        assert_eq!(code(both(Some("x"), None, &["y", "z"])), 2);
    }

    #[test]
    fn nearest_names() {
        let known = ["qwen3-0.6b-q4_k.gguf", "stories", "llama-7b.gguf"].map(str::to_owned);
        assert_eq!(nearest("qwen3-0.6b", &known), ["qwen3-0.6b-q4_k.gguf"]);
        assert_eq!(nearest("storis", &known), ["stories"]);
        assert!(nearest("zzz-9", &known).is_empty());
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
