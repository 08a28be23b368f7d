//! The command line: verbs, spellings of other programs, and the environment.
//!
//! Every option has a variable, `GRISTMILL_` and its long name: those of `run`, and those that other
//! verbs share with it, without more (`GRISTMILL_CTX_SIZE`); those that only another verb has, with
//! the verb's name (`GRISTMILL_BENCH_OUTPUT`). The command line goes before the environment, also
//! where an option of one excludes an option of the other. An empty variable counts as none. Below both
//! are defaults that a model's files suggest, and then ours.

use crate::resolve::{self, Word};
use crate::verbs;
use clap::builder::FalseyValueParser;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{
    ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches, Id, Parser, Subcommand,
};
use std::ffi::OsString;
use std::path::Path;

/// Runs language models from GGUF files.
#[derive(Parser)]
#[command(name = "gristmill", version, max_term_width = 100, arg_required_else_help = false)]
// As with other programs of this kind, of an option given twice the last counts.
#[command(args_override_self = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed while running, 2 called wrongly, 3 the model, \
                        4 the device, 5 out of memory, 130 interrupted."
)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

#[derive(Subcommand)]
pub enum Verb {
    /// Generate text from a prompt, or chat
    #[command(visible_alias = "chat")]
    Run(Box<verbs::run::RunArgs>),
    /// Show what is in a model file, and whether it runs here
    Inspect(verbs::inspect::InspectArgs),
    /// Show the devices of this machine, and which is chosen
    Devices(verbs::devices::DevicesArgs),
    /// Measure tokens a second beside the limits of the machine
    Bench(verbs::bench::BenchArgs),
    /// Write the raw scores of every token of a prompt, to compare with another program
    Logits(verbs::logits::LogitsArgs),
    /// Turn texts into vectors, with an embedding model
    Embed(verbs::embed::EmbedArgs),
    /// Sort texts by how well they answer a query, with a reranker
    Rerank(verbs::rerank::RerankArgs),
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
    /// Find the shapes of kernels that suit a GPU, and keep them for later runs
    #[cfg(feature = "wgpu")]
    Tune(verbs::tune::TuneArgs),
    /// Write a script that completes this command line in a shell
    #[command(visible_alias = "completions")]
    Completion(verbs::completion::CompletionArgs),
}

/// Options of other programs of this kind that are one dash and several letters.
const LONG_SHORTS: [(&str, &str); 8] = [
    ("-ctk", "--cache-type-k"),
    ("-ctv", "--cache-type-v"),
    ("-cnv", "--interactive"),
    ("-dev", "--device"),
    ("-ngl", "--gpu-layers"),
    ("-pg", "--pg"),
    ("-sys", "--system"),
    ("-ub", "--batch-size"),
];

/// The arguments of this process, with such options written as clap knows them.
pub fn arguments() -> impl Iterator<Item = OsString> {
    let mut options = true;
    std::env::args_os().map(move |a| {
        options &= a != "--";
        let long = LONG_SHORTS.iter().find(|l| options && a == l.0);
        long.map_or(a, |l| l.1.into())
    })
}

/// Reads the command line of this process; where it asks for help or is wrong, that ends it.
pub fn parse() -> Cli {
    let argv: Vec<OsString> = arguments().collect();
    if let Some(why) = refused(&argv) {
        Cli::command().error(ErrorKind::UnknownArgument, why).exit();
    }
    let matches = matches(argv, &[]);
    matches.and_then(|m| Cli::from_arg_matches(&m)).unwrap_or_else(|e| e.exit())
}

/// Why an option of other programs is not taken, where there is such an option. What it would act on is
/// not there, or is asked for otherwise.
fn refused(argv: &[OsString]) -> Option<String> {
    let options = argv.iter().skip(1).take_while(|a| *a != "--");
    let mut names = options.filter_map(|a| a.to_str()?.split('=').next());
    names.find_map(|name| {
        let (_, why) = REFUSED.iter().find(|(names, _)| names.contains(&name))?;
        Some(format!("'{name}' is not taken: {why}"))
    })
}

/// Options that are known, and what to do instead.
const REFUSED: &[(&[&str], &str)] = &[
    (
        &["-hf", "--hf-repo", "-hff", "--hf-file", "-mu", "--model-url"],
        "nothing is downloaded; fetch the file with another program, and name it",
    ),
    (&["-np", "--parallel"], "one text is generated at a time; start it again for another"),
    (&["-md", "--model-draft", "--draft-model"], "drafting by a second model is not there yet"),
    (
        &["-tb", "--threads-batch"],
        "prompt and answer are computed by the same threads; --threads says how many",
    ),
    (
        &["-ts", "--tensor-split", "-sm", "--split-mode"],
        "a model runs on one device, or on one and the processor: --gpu-layers",
    ),
    (&["-fa", "--flash-attn"], "attention is never computed otherwise"),
    (&["--no-mmap"], "--load-mode read does that"),
    (&["--offline"], "nothing is ever downloaded"),
    (&["-st", "--single-turn", "-no-cnv", "--no-conversation"], "a prompt alone is one answer"),
    (
        &["--grammar", "--grammar-file", "-j", "--json-schema", "--json-schema-file"],
        "answers by a grammar are not there yet",
    ),
];

/// Options by their long names, with values that stand in for our defaults.
pub type Defaults = [(String, String)];

/// Reads a command line, the program's name first.
///
/// # Errors
/// What clap has to say.
pub fn matches(argv: Vec<OsString>, defaults: &Defaults) -> Result<ArgMatches, clap::Error> {
    // What is given must be known before the environment is looked at.
    let given = Cli::command().mut_subcommands(without_environment).try_get_matches_from(&argv);
    with_environment(given.ok().as_ref(), defaults).try_get_matches_from(argv)
}

/// Everything, for help and completion.
pub fn command() -> Command {
    with_environment(None, &[])
}

/// The options of `run`.
pub fn run_command() -> Command {
    let all = command();
    all.find_subcommand("run").cloned().unwrap_or_default()
}

/// Whether an option of `run` is said by the command line of this process, or its environment.
pub fn is_given(id: &str) -> bool {
    let matches = matches(arguments().collect(), &[]).ok();
    let run = matches.as_ref().and_then(|m| m.subcommand_matches("run"));
    let source = run.and_then(|m| m.value_source(id));
    matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
}

fn without_environment(verb: Command) -> Command {
    verb.mut_args(|arg| arg.env(None::<&str>))
}

fn with_environment(given: Option<&ArgMatches>, defaults: &Defaults) -> Command {
    let cli = Cli::command();
    let longs = |verb: &Command| -> Vec<String> {
        verb.get_arguments().filter_map(|a| a.get_long().map(str::to_owned)).collect()
    };
    let of_run = cli.find_subcommand("run").map(longs).unwrap_or_default();
    cli.mut_subcommands(|verb| {
        let name = verb.get_name().to_owned();
        let own = given.and_then(ArgMatches::subcommand).filter(|(n, _)| *n == name);
        let excluded = own.map_or(vec![], |(_, matches)| excluded(&verb, matches));
        verb.mut_args(|arg| {
            let Some(long) = arg.get_long().filter(|l| !matches!(*l, "help" | "version")) else {
                return arg;
            };
            let other = defaults.iter().find(|d| name == "run" && d.0 == long);
            let arg = match other {
                Some((_, value)) => arg.default_value(value.clone()),
                None => arg,
            };
            let Some(long) = arg.get_long() else { return arg };
            let variable = match arg.get_env() {
                Some(own) => own.to_string_lossy().into_owned(),
                None => variable(if of_run.iter().any(|l| l == long) { "" } else { &name }, long),
            };
            let empty = std::env::var_os(&variable).is_some_and(|v| v.is_empty());
            if empty || excluded.contains(arg.get_id()) {
                return arg.env(None::<&str>);
            }
            match arg.get_action() {
                ArgAction::SetTrue => arg.env(variable).value_parser(FalseyValueParser::new()),
                _ => arg.env(variable),
            }
        })
    })
}

/// The variable of an option; `verb` is empty where several share it.
fn variable(verb: &str, long: &str) -> String {
    let joined = if verb.is_empty() { long.to_owned() } else { format!("{verb}-{long}") };
    format!("GRISTMILL_{}", joined.to_ascii_uppercase().replace('-', "_"))
}

/// Options whose variables do not count, because the command line says otherwise.
fn excluded(verb: &Command, given: &ArgMatches) -> Vec<Id> {
    let is_given = |id: &Id| given.value_source(id.as_str()) == Some(ValueSource::CommandLine);
    let mut excluded = vec![];
    for arg in verb.get_arguments() {
        let others = verb.get_arg_conflicts_with(arg);
        for other in others {
            if is_given(arg.get_id()) {
                excluded.push(other.get_id().clone());
            }
            if is_given(other.get_id()) {
                excluded.push(arg.get_id().clone());
            }
        }
    }
    // A model may also be a word.
    let word = |id: &str| given.try_get_raw(id).ok().flatten().and_then(|mut v| v.next());
    let of_run = word("words").is_some_and(|w| {
        let word = w.to_string_lossy();
        match verb.get_name() {
            "embed" | "rerank" => resolve::is_model_of_texts(&word),
            _ => resolve::classify(&word, |p| Path::new(p).exists()) != Word::Prompt,
        }
    });
    if of_run || word("positional").is_some() {
        excluded.push("model".into());
    }
    excluded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_makes_sense() {
        command().debug_assert();
    }

    #[test]
    fn options_of_others_say_why_not() {
        let refused = |argv: &[&str]| {
            refused(&argv.iter().map(OsString::from).collect::<Vec<_>>()).unwrap_or_default()
        };
        assert!(refused(&["gristmill", "run", "-hf", "a/b"]).contains("downloaded"));
        assert!(refused(&["gristmill", "run", "--threads-batch=3"]).contains("--threads"));
        assert_eq!(refused(&["gristmill", "run", "-t", "2", "--", "-md"]), "");
        // None of them is an option of ours.
        let command = command();
        let run = command.find_subcommand("run").unwrap();
        for name in REFUSED.iter().flat_map(|r| r.0) {
            let Some(long) = name.strip_prefix("--") else { continue };
            assert!(!run.get_arguments().any(|a| a.get_long() == Some(long)), "{name}");
        }
    }

    #[test]
    fn what_a_model_suggests_comes_last() {
        let defaults = [("temp".to_owned(), "0.6".to_owned()), ("top-k".into(), "20".into())];
        let argv = ["gristmill", "run", "--temp", "0.1"].map(OsString::from).to_vec();
        let matches = matches(argv, &defaults).unwrap();
        let run = matches.subcommand_matches("run").unwrap();
        assert_eq!(run.get_one::<f32>("temp"), Some(&0.1));
        assert_eq!(run.get_one::<u32>("top_k"), Some(&20));
        assert_eq!(run.get_one::<f32>("top_p"), Some(&0.95));
    }

    #[test]
    fn every_option_has_a_variable_and_no_two_verbs_differ_on_one() {
        let command = command();
        for verb in command.get_subcommands() {
            for arg in verb.get_arguments() {
                let Some(long) = arg.get_long().filter(|l| !matches!(*l, "help" | "version"))
                else {
                    continue;
                };
                let variable = arg.get_env().unwrap_or_else(|| panic!("--{long} has none"));
                assert!(variable.to_string_lossy().starts_with("GRISTMILL_"), "--{long}");
            }
        }
        assert_eq!(variable("", "ctx-size"), "GRISTMILL_CTX_SIZE");
        assert_eq!(variable("bench", "output"), "GRISTMILL_BENCH_OUTPUT");
    }

    #[test]
    fn what_is_given_excludes_variables() {
        let excluded_by = |argv: &[&str]| {
            let cli = Cli::command();
            let given = cli.clone().try_get_matches_from(argv).unwrap();
            let (name, matches) = given.subcommand().unwrap();
            let ids = excluded(cli.find_subcommand(name).unwrap(), matches);
            ids.into_iter().map(|id| id.to_string()).collect::<Vec<_>>()
        };
        assert!(excluded_by(&["gristmill", "run", "-v"]).contains(&"quiet".to_owned()));
        assert!(excluded_by(&["gristmill", "run", "--ids", "1"]).contains(&"prompt".to_owned()));
        assert!(excluded_by(&["gristmill", "run", "a/b"]).contains(&"model".to_owned()));
        assert!(!excluded_by(&["gristmill", "run", "hello you"]).contains(&"model".to_owned()));
    }
}
