//! The command line.
//!
//! `main` reads the arguments, each verb has a file in `verbs`, and what they share is beside
//! them: `args` (options of several verbs), `resolve` (which word is a model and which a prompt),
//! `device` (the one choice of a device), `sampling` (how tokens are chosen), `term` (what goes to
//! stdout and stderr, and how a run ends).
//!
//! Exit codes: 0 done, 1 it failed while running, 2 called wrongly, 3 the model, 4 the device, 5
//! out of memory, 130 interrupted.

mod args;
mod device;
mod resolve;
mod sampling;
mod term;
mod verbs;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Runs language models from GGUF files.
#[derive(Parser)]
#[command(name = "gristmill", version, max_term_width = 100, arg_required_else_help = false)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed while running, 2 called wrongly, 3 the model, \
                        4 the device, 5 out of memory, 130 interrupted."
)]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Generate text from a prompt
    Run(verbs::run::RunArgs),
    /// Show what is in a model file, and whether it runs here
    Inspect(verbs::inspect::InspectArgs),
    /// Show the devices of this machine, and which is chosen
    Devices(verbs::devices::DevicesArgs),
    /// Measure tokens a second beside the limits of the machine
    Bench(verbs::bench::BenchArgs),
    /// Write the raw scores of every token of a prompt, to compare with another program
    Logits(verbs::logits::LogitsArgs),
    /// Measure how well a model predicts a text
    Perplexity(verbs::perplexity::PerplexityArgs),
    /// Compare two ways to run a model, operation by operation
    Diff(verbs::diff::DiffArgs),
    /// Show the tokens of a text
    Tokenize(verbs::tokenize::TokenizeArgs),
    /// Write a float model in a smaller format
    Quantize(verbs::quantize::QuantizeArgs),
    /// Write a model again: split over several files, or joined to one
    Copy(verbs::copy::CopyArgs),
}

/// Options of other programs of this kind that are one dash and several letters.
const LONG_SHORTS: [(&str, &str); 3] =
    [("-ctk", "--cache-type-k"), ("-ctv", "--cache-type-v"), ("-pg", "--pg")];

/// The arguments, with such options written as clap knows them.
fn arguments() -> impl Iterator<Item = std::ffi::OsString> {
    let mut options = true;
    std::env::args_os().map(move |a| {
        options &= a != "--";
        let long = LONG_SHORTS.iter().find(|l| options && a == l.0);
        long.map_or(a, |l| l.1.into())
    })
}

/// What bare `gristmill` says.
const EXAMPLES: &str = r#"gristmill runs language models from GGUF files. Five things to try:

  gristmill run "Tell me a story about a fox"       the small model inside this binary
  gristmill run model.gguf "Why is the sky blue?"   a model of yours
  gristmill inspect model.gguf                      what is in a file, and whether it runs here
  gristmill bench model.gguf                        tokens a second beside the machine's limits
  gristmill devices                                 what this machine has, and which is chosen

`gristmill help` lists all verbs, `gristmill VERB --help` the options of one.
"#;

fn main() -> ExitCode {
    let started = std::time::Instant::now();
    let cli = Cli::parse_from(arguments());
    let done = match cli.verb {
        None => term::out(EXAMPLES),
        Some(Verb::Run(a)) => verbs::run::run(a, started),
        Some(Verb::Inspect(a)) => verbs::inspect::run(a),
        Some(Verb::Devices(a)) => verbs::devices::run(a),
        Some(Verb::Bench(a)) => verbs::bench::run(a),
        Some(Verb::Logits(a)) => verbs::logits::run(a),
        Some(Verb::Perplexity(a)) => verbs::perplexity::run(a),
        Some(Verb::Diff(a)) => verbs::diff::run(a),
        Some(Verb::Tokenize(a)) => verbs::tokenize::run(a),
        Some(Verb::Quantize(a)) => verbs::quantize::run(a),
        Some(Verb::Copy(a)) => verbs::copy::run(a),
    };
    term::exit_code(done)
}
