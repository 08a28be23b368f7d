//! `gristmill perplexity`: how well a model predicts a text.
//!
//! The mean negative log-likelihood (natural logarithm) of each token given those before it in its
//! document, and its exponential. The first token of a document is given, not predicted. A
//! document longer than the context is cut into windows that begin afresh.

use crate::args::{ModelArgs, RunsOn, Threads, load};
use crate::term::{Done, catch_interrupts, check_interrupt, json, out, usage};
use clap::Args;
use gristmill::{Error, Model, Settings};
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(Args)]
#[command(after_help = "Example: gristmill perplexity model.gguf --file text.txt")]
pub struct PerplexityArgs {
    #[command(flatten)]
    model: ModelArgs,

    /// A text, which is one document
    #[arg(
        short,
        long,
        value_name = "TEXT",
        required_unless_present = "ids_file",
        conflicts_with = "ids_file"
    )]
    file: Option<PathBuf>,

    /// Documents as token ids: a JSON list of lists
    #[arg(long, value_name = "JSON")]
    ids_file: Option<PathBuf>,

    /// Tokens of a window (default: the model's context, at most 2048)
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    ctx_size: u32,

    #[command(flatten)]
    runs_on: RunsOn,

    #[command(flatten)]
    threads: Threads,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Nothing on stderr but errors
    #[arg(short, long)]
    quiet: bool,
}

/// Logits of a step that are held at a time, in numbers.
const HELD: usize = 16 << 20;

pub fn run(args: PerplexityArgs) -> Done {
    let model = args.model.open()?;
    let settings = args.runs_on.settings(args.threads.threads)?;
    let documents = match (&args.ids_file, &args.file) {
        (Some(path), _) => read_ids(path)?,
        (None, Some(path)) => vec![read_text(&model, path)?],
        (None, None) => return usage("give --file or --ids-file"),
    };
    let program = model.program(settings.kv)?;
    let info = model.info(settings.kv)?;
    let window = match args.ctx_size {
        0 => info.context_length.min(2048),
        n => n,
    };
    if window < 2 {
        return usage("--ctx-size must be at least 2");
    }
    let cpu = args.runs_on.open(&settings, args.quiet)?;
    catch_interrupts();
    let settings = Settings { context: window, ..settings };
    model.context(&program, &settings)?; // that it fits in memory
    let mut engine = load(&model, cpu, program, settings.engine_options(window))?;
    let chunk = (HELD / info.vocab_size.max(1) as usize).clamp(16, 512) as u32;

    let mut total = 0.0;
    let mut count = 0u64;
    let windows = documents.iter().flat_map(|d| d.chunks(window as usize)).filter(|w| w.len() > 1);
    for ids in windows {
        engine.each_logits(&[ids], chunk, 0..ids.len() - 1, &mut |_, at, row| {
            check_interrupt()?;
            total += surprise(row, ids[at + 1]);
            count += 1;
            Ok(())
        })?;
    }
    if count == 0 {
        return usage("there is nothing to predict: every document has fewer than two tokens");
    }
    let mean = total / count as f64;
    if args.json {
        return json(&json!({ "tokens": count, "nll": mean, "perplexity": mean.exp() }));
    }
    out(&format!("tokens {count}  nll {mean:.6}  perplexity {:.4}\n", mean.exp()))
}

/// The negative logarithm of the probability of a token.
fn surprise(logits: &[f32], token: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - max).exp()).sum();
    let own = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
    sum.ln() - f64::from(own - max)
}

fn read(path: &Path) -> gristmill::Result<String> {
    let what = format!("reading {}", path.display());
    std::fs::read_to_string(path).map_err(|source| Error::Io { what, source })
}

fn read_text(model: &Model, path: &Path) -> gristmill::Result<Vec<u32>> {
    Ok(model.raw_prompt_with(&*model.tokenizer()?, &read(path)?))
}

fn read_ids(path: &Path) -> gristmill::Result<Vec<Vec<u32>>> {
    serde_json::from_str(&read(path)?).map_err(|e| {
        Error::Usage(format!("{}: {e}; it must be a JSON list of lists of ids", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surprise_of_even_odds() {
        assert!((surprise(&[3.0; 8], 5) - 8f64.ln()).abs() < 1e-12);
        assert!(surprise(&[100.0, 0.0], 0) < 1e-12);
    }
}
