//! The command line.
//!
//! `cli` reads the arguments, each verb has a file in `verbs`, and what they share is beside
//! them: `args` (options of several verbs), `resolve` (which word is a model and which a prompt),
//! `device` (the one choice of a device), `proof` (what a GPU must show first), `texts` (the texts of
//! embed and rerank), `sampling` (how tokens are chosen), `answer` (tokens into
//! words), `chat` (turn by turn), `term` (what goes to stdout and stderr, and how a run ends).
//!
//! Exit codes: 0 done, 1 it failed while running, 2 called wrongly, 3 the model, 4 the device, 5
//! out of memory, 130 interrupted.

mod answer;
mod args;
mod chat;
mod cli;
mod device;
mod diffusion;
mod profiling;
#[cfg(feature = "wgpu")]
mod proof;
#[cfg(feature = "wgpu")]
mod race;
mod resolve;
mod sampling;
mod term;
mod texts;
mod verbs;

use cli::Verb;
use std::process::ExitCode;

/// What bare `gristmill` says.
const EXAMPLES: &str = r#"gristmill runs language models from GGUF files. Six things to try:

  gristmill run                                     a chat with the small model inside this binary
  gristmill run "Tell me a story about a fox"       one answer of it
  gristmill run model.gguf "Why is the sky blue?"   a model of yours
  gristmill inspect model.gguf                      what is in a file, and whether it runs here
  gristmill bench model.gguf                        tokens a second beside the machine's limits
  gristmill devices                                 what this machine has, and which is chosen

`gristmill help` lists all verbs, `gristmill VERB --help` the options of one.
"#;

fn main() -> ExitCode {
    let started = std::time::Instant::now();
    #[cfg(feature = "wgpu")]
    quiet_drivers();
    let done = match cli::parse().verb {
        None => term::out(EXAMPLES),
        Some(Verb::Run(a)) => verbs::run::run(*a, started),
        Some(Verb::Inspect(a)) => verbs::inspect::run(a),
        Some(Verb::Devices(a)) => verbs::devices::run(a),
        Some(Verb::Bench(a)) => verbs::bench::run(a),
        Some(Verb::Logits(a)) => verbs::logits::run(a),
        Some(Verb::Embed(a)) => verbs::embed::run(a),
        Some(Verb::Rerank(a)) => verbs::rerank::run(a),
        Some(Verb::Perplexity(a)) => verbs::perplexity::run(a),
        Some(Verb::Diff(a)) => verbs::diff::run(a),
        Some(Verb::Tokenize(a)) => verbs::tokenize::run(a),
        Some(Verb::Quantize(a)) => verbs::quantize::run(a),
        Some(Verb::Copy(a)) => verbs::copy::run(a),
        #[cfg(feature = "wgpu")]
        Some(Verb::Tune(a)) => verbs::tune::run(a),
        Some(Verb::Completion(a)) => verbs::completion::run(a),
    };
    term::exit_code(done)
}

/// Mesa's Vulkan drivers bring a layer that puts the GPU of the display first; where there is no display
/// it complains on stderr, in every program. Nothing here goes by that order, so it is left out.
#[cfg(feature = "wgpu")]
fn quiet_drivers() {
    const LAYER: &str = "NODEVICE_SELECT";
    if std::env::var_os(LAYER).is_none() {
        // SAFETY: it is the first thing that the process does, when it has one thread.
        unsafe { std::env::set_var(LAYER, "1") };
    }
}
