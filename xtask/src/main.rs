//! The one door to every chore: `cargo xtask COMMAND`. One file a command.
//!
//! A check prints one line a violation, `file:line: rule: what to do`, and exits with 1; it exits
//! with 2 when it was called wrongly.

mod bundle;
mod codegen;
mod cubin;
mod disassembly;
mod fuzz;
mod layers;
mod rules;
mod size;
mod source;
mod tools;

use std::process::ExitCode;

struct Command {
    name: &'static str,
    /// Options, as the list of commands shows them.
    options: &'static str,
    help: &'static str,
    run: fn(&[String]) -> anyhow::Result<()>,
}

/// Every chore. A new one is a file beside this one and an entry here.
const COMMANDS: &[Command] = &[
    Command {
        name: "layers",
        options: "",
        help: "who may depend on whom, and what the source may not contain",
        run: layers::run,
    },
    Command {
        name: "codegen",
        options: "[--binary PATH]",
        help: "no intrinsic left as a call, no call inside a kernel loop of the release binary",
        run: codegen::run,
    },
    Command {
        name: "bundle",
        options: "[MODEL] [--type q8_0]",
        help: "quantize a trained model, fill its card, ship it in the binary",
        run: bundle::run,
    },
    Command {
        name: "cubin",
        options: "[--setup] [TARGET...]",
        help: "compile the CUDA kernels for every target, with pinned compilers",
        run: cubin::run,
    },
    Command {
        name: "fuzz",
        options: "TARGET [--minutes N] [--seed S]",
        help: "look for files that break a reader",
        run: fuzz::run,
    },
    Command {
        name: "size",
        options: "[--binary PATH]",
        help: "what the release binary is made of, as markdown",
        run: size::run,
    },
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some(name) = args.first() else {
        print!("{}", usage());
        return ExitCode::SUCCESS;
    };
    let Some(command) = COMMANDS.iter().find(|c| c.name == name) else {
        eprint!("no chore is called `{name}`\n\n{}", usage());
        return ExitCode::from(2);
    };
    match (command.run)(&args[1..]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("cargo xtask {name}: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> String {
    let mut text = String::from("cargo xtask COMMAND\n\n");
    for c in COMMANDS {
        let head = format!("{} {}", c.name, c.options);
        text += &format!("  {:<26}{}\n", head.trim_end(), c.help);
    }
    text
}
