//! `gristmill perplexity`: how well a model predicts a text.
//!
//! The perplexity is the exponential of the mean negative log-likelihood (natural logarithm) of the
//! tokens that are scored. Which those are, there are two conventions:
//!
//! - `--file TEXT`, that of llama.cpp's `llama-perplexity`, so that figures can be compared: the
//!   text's tokens (with BOS where the model wants one) are cut into chunks of `--ctx-size` tokens,
//!   each computed by itself; the first token of a chunk is replaced by BOS where the model wants
//!   one; what is scored are the tokens of the second half, `n/2 + 1` to `n - 1`, so that each has
//!   at least half a chunk before it. What is left after the last whole chunk is not used, and a
//!   text of less than two chunks is refused.
//! - `--ids-file`, for documents by themselves: every token after the first is scored, given those
//!   before it in its document; a document longer than the context is cut into windows that begin
//!   afresh.

use crate::args::{ModelArgs, RunsOn, Threads, load, plan};
use crate::term::{Done, catch_interrupts, check_interrupt, json, out, usage};
use clap::Args;
use gristmill::{Error, Model, Settings};
use serde_json::json;
use std::ops::Range;
use std::path::{Path, PathBuf};

#[derive(Args)]
#[command(after_help = "Example: gristmill perplexity model.gguf --file text.txt

A text is cut into chunks of --ctx-size tokens, of which the second half is scored, as
llama-perplexity does; documents given as ids are scored from their second token on.")]
pub struct PerplexityArgs {
    #[command(flatten)]
    model: ModelArgs,

    /// A text of at least two chunks
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

    /// Tokens of a chunk or window (default: for a text 512, for documents 2048, and at most the
    /// model's context)
    #[arg(short, long, value_name = "N", default_value_t = 0, hide_default_value = true,
          value_parser = clap::value_parser!(u32).range(0..=0x3fff_ffff))]
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
/// Tokens of a chunk of a text, as `llama-perplexity` has them.
const CHUNK: u32 = 512;
/// Tokens of a window of a document.
const WINDOW: u32 = 2048;

/// Tokens to run by themselves, and the positions whose predictions are scored.
type Window = (Vec<u32>, Range<usize>);

pub fn run(args: PerplexityArgs) -> Done {
    let model = args.model.open()?;
    let settings = args.runs_on.settings(args.threads.threads)?;
    let program = model.program(settings.kv)?;
    if !program.prefix_closed {
        return usage(format!(
            "{} sees what comes after a token, so how well it tells that token says nothing",
            model.name()
        ));
    }
    let info = model.info(settings.kv)?;
    let default = if args.file.is_some() { CHUNK } else { WINDOW };
    let n = match args.ctx_size {
        0 => info.context_length.min(default),
        n => n,
    };
    let windows = match (&args.ids_file, &args.file) {
        (Some(path), _) => of_documents(&read_ids(path)?, n)?,
        (None, Some(path)) => of_text(&model, path, n)?,
        (None, None) => return usage("give --file or --ids-file"),
    };
    let (device, settings) = args.runs_on.open(settings, &model, args.quiet)?;
    catch_interrupts();
    let settings = Settings { context: n, ..settings };
    let chunk = (HELD / info.vocab_size.max(1) as usize).clamp(16, 512) as u32;
    plan(&model, &program, &settings, chunk, args.quiet)?;
    let mut engine = load(&model, device, program, &settings, settings.engine_options(n))?;

    let mut sums = Sums::default();
    for (ids, scored) in windows {
        engine.each_logits(&[&ids], chunk, scored, &mut |_, at, row| {
            check_interrupt()?;
            sums.add(surprise(row, ids[at + 1]));
            Ok(())
        })?;
    }
    let (mean, deviation) = sums.mean();
    let (ppl, error) = (mean.exp(), deviation * mean.exp());
    if args.json {
        return json(&json!({
            "tokens": sums.count,
            "chunk": n,
            "nll": mean,
            "perplexity": ppl,
            "error": error,
        }));
    }
    let count = sums.count;
    out(&format!("tokens {count}  nll {mean:.6}  perplexity {ppl:.4}  +/- {error:.5}\n"))
}

/// Sums over the tokens scored.
#[derive(Default)]
struct Sums {
    count: u64,
    sum: f64,
    squares: f64,
}

impl Sums {
    fn add(&mut self, nll: f64) {
        self.count += 1;
        self.sum += nll;
        self.squares += nll * nll;
    }

    /// The mean, and the standard error of the mean.
    fn mean(&self) -> (f64, f64) {
        let n = self.count as f64;
        let mean = self.sum / n;
        let variance = self.squares / n - mean * mean;
        (mean, (variance.max(0.0) / (n - 1.0).max(1.0)).sqrt())
    }
}

/// The chunks of a text.
fn of_text(model: &Model, path: &Path, n: u32) -> Done<Vec<Window>> {
    let tokenizer = model.tokenizer()?;
    let ids = tokenizer.prompt(&read(path)?);
    let n = n as usize;
    if n < 4 {
        return usage("--ctx-size must be at least 4 to score half of a chunk");
    }
    if ids.len() < 2 * n {
        return usage(format!(
            "{}: {} tokens are too few: with chunks of {n} it takes at least {}; give a longer \
             text, or shorter chunks with --ctx-size",
            path.display(),
            ids.len(),
            2 * n
        ));
    }
    // What the tokenizer put before the text it puts before every chunk.
    let bos = tokenizer.bos().filter(|bos| ids[0] == *bos);
    let chunk = |chunk: &[u32]| {
        let mut chunk = chunk.to_vec();
        chunk[0] = bos.unwrap_or(chunk[0]);
        (chunk, n / 2..n - 1)
    };
    Ok(ids.chunks_exact(n).map(chunk).collect())
}

/// The windows of documents.
fn of_documents(documents: &[Vec<u32>], n: u32) -> Done<Vec<Window>> {
    if n < 2 {
        return usage("--ctx-size must be at least 2");
    }
    let windows = documents.iter().flat_map(|d| d.chunks(n as usize)).filter(|w| w.len() > 1);
    let all: Vec<Window> = windows.map(|w| (w.to_vec(), 0..w.len() - 1)).collect();
    if all.is_empty() {
        return usage("there is nothing to predict: every document has fewer than two tokens");
    }
    Ok(all)
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

    #[test]
    fn error_of_the_mean() {
        let mut sums = Sums::default();
        [1.0, 2.0, 3.0, 4.0].into_iter().for_each(|x| sums.add(x));
        // The sample's variance is 5/3, and there are four.
        let (mean, error) = sums.mean();
        assert!((mean - 2.5).abs() < 1e-12 && (error - (5.0f64 / 12.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn windows_of_documents() {
        let windows = of_documents(&[vec![1, 2, 3, 4, 5], vec![6]], 2).unwrap();
        assert_eq!(windows, [(vec![1, 2], 0..1), (vec![3, 4], 0..1)]);
        assert!(of_documents(&[vec![6], vec![]], 2).is_err());
    }
}
