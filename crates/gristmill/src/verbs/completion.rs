//! `gristmill completion`: a script that completes the command line in a shell.

use crate::cli;
use crate::term::{Done, out};
use clap::Args;
use clap_complete::Shell;

#[derive(Args)]
#[command(after_help = "Examples:
  source <(gristmill completion bash)
  gristmill completion zsh > ~/.zfunc/_gristmill
  gristmill completion fish > ~/.config/fish/completions/gristmill.fish")]
pub struct CompletionArgs {
    /// The shell
    shell: Shell,
}

pub fn run(args: CompletionArgs) -> Done {
    let mut script = vec![];
    clap_complete::generate(args.shell, &mut cli::command(), "gristmill", &mut script);
    out(&String::from_utf8_lossy(&script))
}
