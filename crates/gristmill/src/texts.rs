//! The texts of `embed` and `rerank`: read from files, lines of files or lines of standard input, and
//! run through a model.

use crate::args::{RunsOn, loading_bar};
use crate::term::{Done, catch_interrupts, check_interrupt, usage};
use gristmill::{Error, Model, Program, Settings, Text};
use std::io::{IsTerminal, Read};
use std::path::PathBuf;

/// The most bytes that are read, of all inputs together.
const MOST: u64 = 1 << 30;

/// Tokens of a step: enough for the kernels for many tokens, where texts are short.
const STEP: usize = 512;

/// A text and where it comes from.
pub struct Named {
    /// A file, a file and a line, or just a line.
    pub name: String,
    pub text: String,
}

/// The texts of `files`, each whole or, with `lines`, line by line; without files the lines of
/// standard input. Empty lines are left out, but counted.
///
/// # Errors
/// What cannot be read or is not UTF-8, by name; [`Error::Usage`] where there is no text at all.
pub fn read(files: &[PathBuf], lines: bool) -> Done<Vec<Named>> {
    let mut all = vec![];
    let mut left = MOST;
    for path in files {
        let name = path.display().to_string();
        let failed = |source| Error::Io { what: format!("reading {name}"), source };
        let file = std::fs::File::open(path).map_err(failed)?;
        let text = take(file, &name, &mut left)?;
        if lines {
            all.extend(lines_of(&text, |n| format!("{name}:{n}")));
        } else {
            all.push(Named { name, text });
        }
    }
    if files.is_empty() {
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            return usage("name files, or give texts on standard input, one a line");
        }
        let text = take(stdin.lock(), "standard input", &mut left)?;
        all.extend(lines_of(&text, |n| format!("{n}")));
    }
    if all.is_empty() { usage("there is no text") } else { Ok(all) }
}

fn take(from: impl Read, name: &str, left: &mut u64) -> Done<String> {
    let mut bytes = vec![];
    let failed = |source| Error::Io { what: format!("reading {name}"), source };
    let n = from.take(*left + 1).read_to_end(&mut bytes).map_err(failed)? as u64;
    if n > *left {
        return usage(format!("{name}: the texts are longer than {} MiB together", MOST >> 20));
    }
    *left -= n;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(e) => {
            let at = e.utf8_error().valid_up_to();
            usage(format!("{name} is not UTF-8 text: byte {at}"))
        }
    }
}

fn lines_of(text: &str, name: impl Fn(usize) -> String) -> Vec<Named> {
    let numbered = text.lines().enumerate().filter(|l| !l.1.trim().is_empty());
    numbered.map(|(i, line)| Named { name: name(i + 1), text: line.to_owned() }).collect()
}

/// Runs texts through a program of the model, and hands `see` the number of each and what came of it,
/// in order. Ctrl-C ends it.
///
/// # Errors
/// Those of [`RunsOn::open`], [`Model::encoder_on`] and [`gristmill::Encoder::run`].
pub fn run(
    model: &Model,
    program: Program,
    texts: &[Text],
    (runs_on, settings, quiet): (&RunsOn, &Settings, bool),
    see: &mut dyn FnMut(usize, &[f32]),
) -> Done {
    let lengths = || texts.iter().map(|t| t.ids.len());
    let tokens = lengths().max().unwrap_or(1).max(STEP.min(lengths().sum())) as u32;
    let (device, settings) = runs_on.open(settings.clone(), model, quiet)?;
    catch_interrupts();
    let options = settings.engine_options(tokens).options;
    let mut bar = loading_bar();
    let mut encoder =
        model.encoder_on(device, program, tokens, &options, &mut |a, b| bar.at(a, b))?;
    bar.end();
    Ok(encoder.run(texts, &mut |i, numbers| {
        check_interrupt()?;
        see(i, numbers);
        Ok(())
    })?)
}
