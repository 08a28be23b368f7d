//! `gristmill tokenize`: the tokens of a text, one a line, or as ids.
//!
//! The options are those of llama.cpp's `llama-tokenize`.

use crate::args::{Loading, open};
use crate::resolve::Source;
use crate::term::{Done, json, out, usage};
use clap::Args;
use gristmill::{Error, Tokenizer};
use serde_json::json;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Args)]
#[command(after_help = "Examples: gristmill tokenize model.gguf \"Hello there\"\n          \
                        gristmill tokenize tokenizer.json --ids --stdin < story.txt")]
pub struct TokenizeArgs {
    /// A .gguf file, a tokenizer.json, a folder with one, or a model inside this binary
    #[arg(value_name = "MODEL")]
    positional: Option<String>,

    /// The text
    #[arg(value_name = "TEXT", conflicts_with_all = ["prompt", "file", "stdin"])]
    text: Option<String>,

    /// The model, as a flag
    #[arg(short, long, value_name = "MODEL")]
    model: Option<String>,

    /// The text, as a flag
    #[arg(short, long, value_name = "TEXT", conflicts_with_all = ["file", "stdin"])]
    prompt: Option<String>,

    /// Take the text from a file
    #[arg(short, long, value_name = "FILE", conflicts_with = "stdin")]
    file: Option<PathBuf>,

    /// Take the text from stdin
    #[arg(long)]
    stdin: bool,

    /// Only the ids, as [1, 2, 3]
    #[arg(long)]
    ids: bool,

    /// As JSON: an array of objects with id and text
    #[arg(long, conflicts_with = "ids")]
    json: bool,

    /// Do not add BOS, or what else the model expects around a text
    #[arg(long)]
    no_bos: bool,

    /// Do not read special tokens that are written in the text
    #[arg(long)]
    no_parse_special: bool,

    /// Also say how many tokens there are
    #[arg(long)]
    show_count: bool,

    #[command(flatten)]
    loading: Loading,
}

/// The tokenizer of a model, or of a file that holds nothing else.
fn tokenizer(name: &str, loading: &Loading) -> gristmill::Result<Arc<Tokenizer>> {
    let path = Path::new(name);
    let is = |end: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(end));
    if path.exists() && (is("json") || is("txt")) {
        return Tokenizer::from_file(path).map(Arc::new);
    }
    if path.is_dir() {
        return Tokenizer::from_folder(path).map(Arc::new);
    }
    open(&Source::Named(name.to_owned()), loading)?.tokenizer()
}

/// The text that was asked for.
fn text(args: &TokenizeArgs, positional: Option<&String>) -> Done<String> {
    let mut bytes = Vec::new();
    let what = match (&args.prompt, &args.file, positional) {
        (Some(text), _, _) | (None, None, Some(text)) if !args.stdin => return Ok(text.clone()),
        (_, Some(path), _) => {
            let what = path.display().to_string();
            let failed = |source| Error::Io { what: format!("reading {what}"), source };
            bytes = std::fs::read(path).map_err(failed)?;
            what
        }
        _ if args.stdin => {
            let failed = |source| Error::Io { what: "reading stdin".into(), source };
            std::io::stdin().lock().read_to_end(&mut bytes).map_err(failed)?;
            "stdin".into()
        }
        _ => return usage("give a text, --file or --stdin"),
    };
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(e) => {
            let at = e.utf8_error().valid_up_to();
            usage(format!("{what} is not UTF-8: byte {at}"))
        }
    }
}

pub fn run(args: TokenizeArgs) -> Done {
    // With --model, what stands first is the text.
    let (model, positional) = match (&args.model, &args.positional) {
        (Some(_), Some(_)) if args.text.is_some() => {
            return usage("the model is given twice");
        }
        (Some(model), first) => (model, first.as_ref()),
        (None, Some(model)) => (model, args.text.as_ref()),
        (None, None) => return usage("give a model"),
    };
    let text = text(&args, positional)?;
    let tokenizer = tokenizer(model, &args.loading)?;
    let ids = tokenizer.encode(&text, !args.no_bos, !args.no_parse_special);
    if args.json {
        let token = |&id: &u32| json!({ "id": id, "text": tokenizer.text(id) });
        return json(&ids.iter().map(token).collect());
    }
    let mut shown = String::new();
    if args.ids {
        shown = format!("{ids:?}\n");
    } else {
        for &id in &ids {
            shown.push_str(&format!("{id:6} -> '{}'\n", tokenizer.text(id)));
        }
    }
    if args.show_count {
        shown.push_str(&format!("Total number of tokens: {}\n", ids.len()));
    }
    out(&shown)
}
