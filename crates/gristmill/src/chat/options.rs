//! `/set`: options of the command line, changed while the program runs.
//!
//! `/set NAME VALUE` means what `--NAME VALUE` at the end of the command line would have meant, so
//! names, values and complaints are the same. Only options that each answer reads anew can be set.

use crate::cli;
use crate::sampling::Suggested;
use crate::verbs::run::RunArgs;
use clap::{Arg, ArgAction, FromArgMatches};
use std::ffi::OsString;

/// The group of options that say how tokens are chosen, all of which can be set.
const GROUP: &str = "Sampling";
/// Others that can be.
const OTHERS: [&str; 2] = ["predict", "think"];

/// The command line so far.
pub struct Options {
    argv: Vec<OsString>,
    suggested: Suggested,
}

impl Options {
    /// Those that the program was started with, and what the model suggests where none was given.
    pub fn new(suggested: Suggested) -> Options {
        Options { argv: cli::arguments().collect(), suggested }
    }

    /// Whether the model suggests anything.
    pub fn are_suggested(&self) -> bool {
        !self.suggested.0.is_empty()
    }

    /// All of them.
    ///
    /// # Errors
    /// A suggestion that does not hold.
    pub fn args(&self) -> Result<RunArgs, String> {
        self.read(&self.argv)
    }

    /// Changes one, and gives all anew.
    ///
    /// # Errors
    /// What is wrong with the name or the value, on one line. Nothing is changed then.
    pub fn set(&mut self, name: &str, value: &str) -> Result<RunArgs, String> {
        let Some(name) = settable().find(|names| names.contains(&plain(name))) else {
            let most: Vec<String> = names();
            return Err(format!(
                "there is no option '{name}' to set; there are {}",
                most.join(", ")
            ));
        };
        let mut argv = self.argv.clone();
        let end = argv.iter().position(|a| a == "--").unwrap_or(argv.len());
        argv.insert(end, format!("--{}={value}", name[0]).into());
        let args = self.read(&argv)?;
        self.argv = argv;
        Ok(args)
    }

    /// Every option that can be set, with its value; empty where it has none.
    ///
    /// # Errors
    /// None, as the command line was read before.
    pub fn show(&self) -> Result<Vec<(String, String)>, String> {
        let matches =
            cli::matches(self.argv.clone(), &self.suggested.0).map_err(|e| first_line(&e))?;
        let run = matches.subcommand_matches("run").ok_or("these are not options of run")?;
        let value = |arg: &Arg| {
            let raw = run.get_raw(arg.get_id().as_str()).into_iter().flatten();
            let raw: Vec<_> = raw.map(|v| v.to_string_lossy().into_owned()).collect();
            raw.join(",")
        };
        let run = cli::run_command();
        let shown = run.get_arguments().filter(|a| can_be_set(a));
        Ok(shown.filter_map(|a| Some((a.get_long()?.to_owned(), value(a)))).collect())
    }

    fn read(&self, argv: &[OsString]) -> Result<RunArgs, String> {
        let matches = cli::matches(argv.to_vec(), &self.suggested.0).map_err(|e| first_line(&e))?;
        let run = matches.subcommand_matches("run").ok_or("these are not options of run")?;
        let args = RunArgs::from_arg_matches(run).map_err(|e| first_line(&e))?;
        args.sampling_params().map_err(|e| e.to_string())?;
        Ok(args)
    }
}

/// Names that can be set, for completion.
pub fn names() -> Vec<String> {
    settable().filter_map(|names| names.into_iter().next()).collect()
}

/// For each option that can be set its name and its further names.
fn settable() -> impl Iterator<Item = Vec<String>> {
    let all = cli::run_command();
    let of = |arg: &Arg| {
        let mut names = vec![arg.get_long()?.to_owned()];
        names.extend(arg.get_all_aliases().into_iter().flatten().map(str::to_owned));
        Some(names)
    };
    let names: Vec<_> = all.get_arguments().filter(|a| can_be_set(a)).filter_map(of).collect();
    names.into_iter()
}

fn can_be_set(arg: &Arg) -> bool {
    let other = arg.get_long().is_some_and(|l| OTHERS.contains(&l));
    let value = matches!(arg.get_action(), ArgAction::Set);
    value && (other || arg.get_help_heading() == Some(GROUP))
}

/// Names as other programs spell them.
fn plain(name: &str) -> String {
    name.trim_start_matches('-').to_ascii_lowercase().replace('_', "-")
}

/// What clap complains of, without the advice below it.
fn first_line(e: &clap::Error) -> String {
    let text = e.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        let argv = ["gristmill", "run", "--temp", "0.3"].map(OsString::from).to_vec();
        Options { argv, suggested: Suggested::default() }
    }

    #[test]
    fn what_can_be_set() {
        let names = names();
        for name in ["temp", "seed", "predict", "think"] {
            assert!(names.iter().any(|n| n == name), "{name}: {names:?}");
        }
        for name in ["model", "ctx-size", "threads", "quiet", "help"] {
            assert!(names.iter().all(|n| n != name), "{name}");
        }
    }

    #[test]
    fn the_last_value_counts() {
        let mut options = options();
        let temp = |o: &Options| {
            let all = o.show().unwrap();
            all.into_iter().find(|o| o.0 == "temp").unwrap().1
        };
        assert_eq!(temp(&options), "0.3");
        for name in ["temp", "temperature", "--temp", "TEMP"] {
            options.set(name, "0.5").unwrap();
            assert_eq!(temp(&options), "0.5");
            options.set(name, "0.25").unwrap();
        }
        assert_eq!(temp(&options), "0.25");
        for (name, value) in
            [("temp", "warm"), ("temp", "nan"), ("temp", "-1"), ("num_ctx", "5"), ("think", "so")]
        {
            let error = match options.set(name, value) {
                Ok(_) => panic!("{name} {value} was taken"),
                Err(what) => what,
            };
            assert!(!error.contains('\n') && !error.is_empty(), "{error}");
        }
        assert_eq!(temp(&options), "0.25", "what is wrong changes nothing");
    }

    #[test]
    fn words_after_two_dashes_stay_words() {
        let argv = ["gristmill", "run", "-m", "stories", "--", "--temp"];
        let argv = argv.map(OsString::from).to_vec();
        let mut options = Options { argv, suggested: Suggested::default() };
        options.set("temp", "0.5").unwrap();
        assert_eq!(options.argv[4], "--temp=0.5");
    }
}
