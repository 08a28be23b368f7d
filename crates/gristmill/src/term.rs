//! What goes to stdout and to stderr, and how a run ends.
//!
//! Stdout carries what was asked for and nothing else; a reader that has seen enough (`| head`)
//! closes it, and that ends the run without a complaint. Stderr carries the rest; nobody need
//! read it.

use gristmill::Error;
use std::borrow::Cow;
use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};

/// Why a verb ended before its time.
#[derive(Debug)]
pub enum Stop {
    /// Something went wrong.
    Failed(Error),
    /// Nobody reads stdout any more.
    Closed,
    /// Ctrl-C.
    Interrupted,
}

/// What a verb returns.
pub type Done<T = ()> = Result<T, Stop>;

impl From<Error> for Stop {
    fn from(e: Error) -> Stop {
        // An interrupt travels through the engine as an error; this is where it comes out.
        if interrupted() { Stop::Interrupted } else { Stop::Failed(e) }
    }
}

/// A usage error.
pub fn usage<T>(what: impl Into<String>) -> Done<T> {
    Err(Stop::Failed(Error::Usage(what.into())))
}

/// Writes to stdout at once.
pub fn out(text: &str) -> Done {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Err(Stop::Closed),
        Err(source) => Err(Error::Io { what: "writing to stdout".into(), source }.into()),
    }
}

/// Writes JSON to stdout, indented, with a line feed.
pub fn json(value: &serde_json::Value) -> Done {
    out(&format!("{value:#}\n"))
}

/// Writes a line to stderr. Parts of it may come out of a file: a terminal gets no control
/// characters.
pub fn note(line: impl std::fmt::Display) {
    let mut stderr = std::io::stderr();
    let text = line.to_string();
    let shown = if stderr.is_terminal() { printable(&text) } else { text.into() };
    let _ = writeln!(stderr, "{shown}");
}

/// Writes words of a model to stdout. A terminal gets no control characters: they could move the
/// cursor, or worse. A pipe gets every byte.
pub fn words(text: &str) -> Done {
    if std::io::stdout().is_terminal() { out(&printable(text)) } else { out(text) }
}

/// A text without control characters, except for line feeds and tabs; carriage returns are left
/// out, the others become U+FFFD.
pub fn printable(text: &str) -> Cow<'_, str> {
    let harmless = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    if text.chars().all(harmless) {
        return text.into();
    }
    let shown = text.chars().filter(|&c| c != '\r');
    shown.map(|c| if harmless(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}

/// Whether the terminal, if there is one, knows nothing but lines.
pub fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|t| ["dumb", "cons25", "emacs"].iter().any(|d| t == *d))
}

/// Whether stdout shows colours: a terminal that can, and nobody said `NO_COLOR`.
pub fn colours() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    let unknown = cfg!(unix) && std::env::var_os("TERM").is_none_or(|t| t.is_empty());
    std::io::stdout().is_terminal() && !unwanted && !unknown && !is_dumb()
}

/// The exit code, after saying what went wrong.
pub fn exit_code(done: Done) -> ExitCode {
    match done {
        Ok(()) | Err(Stop::Closed) => ExitCode::SUCCESS,
        Err(Stop::Interrupted) => ExitCode::from(130),
        Err(Stop::Failed(e)) => {
            note(format_args!("error: {}", one_line(&e.to_string())));
            ExitCode::from(e.exit_code())
        }
    }
}

/// Most entries of a list that an error shows.
const SHOWN: usize = 3;

/// A message of several lines as one; of a long list only the first entries.
fn one_line(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    let mut out = lines.next().unwrap_or_default().to_owned();
    let rest: Vec<&str> = lines.collect();
    if !rest.is_empty() {
        out.push(' ');
        out.push_str(&rest[..rest.len().min(SHOWN)].join("; "));
    }
    if rest.len() > SHOWN {
        out.push_str(&format!("; and {} more", rest.len() - SHOWN));
    }
    out
}

/// How often Ctrl-C was pressed since it was last taken note of.
static PRESSED: AtomicU32 = AtomicU32::new(0);
/// How often it may be pressed without being heard before it ends the process.
static PATIENCE: AtomicU32 = AtomicU32::new(1);

/// Whether Ctrl-C was pressed since [`catch_interrupts`] or [`forget_interrupts`].
pub fn interrupted() -> bool {
    PRESSED.load(Ordering::Relaxed) > 0
}

/// Goes on after Ctrl-C.
pub fn forget_interrupts() {
    PRESSED.store(0, Ordering::Relaxed);
}

/// From now on the first Ctrl-C is noted, so that the verb can end in order; the second ends the
/// process at once.
pub fn catch_interrupts() {
    // Without a handler Ctrl-C ends the process all the same, so a failure changes little.
    let _ = ctrlc::set_handler(|| {
        if PRESSED.fetch_add(1, Ordering::Relaxed) >= PATIENCE.load(Ordering::Relaxed) {
            std::process::exit(130);
        }
    });
}

/// Ctrl-C only stops an answer; five that are not heard still end the process.
pub fn be_patient() {
    PATIENCE.store(4, Ordering::Relaxed);
}

/// Ends a verb that was interrupted.
pub fn check_interrupt() -> gristmill::Result<()> {
    if interrupted() { Err(Error::Runtime("interrupted".into())) } else { Ok(()) }
}

/// `12.3 MiB` and the like.
pub fn size(bytes: u64) -> String {
    let value = bytes as f64;
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{:.2} KiB", value / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.2} MiB", value / 1_048_576.0),
        _ => format!("{:.2} GiB", value / 1_073_741_824.0),
    }
}

/// `4.81 M` and the like.
pub fn count(n: u64) -> String {
    let value = n as f64;
    match n {
        0..=999 => format!("{n}"),
        1_000..=999_999 => format!("{:.2} K", value / 1e3),
        1_000_000..=999_999_999 => format!("{:.2} M", value / 1e6),
        _ => format!("{:.2} B", value / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line() {
        assert_eq!(one_line("a:\n  b\n  c\n"), "a: b; c");
        assert_eq!(one_line("a:\n  b\n  c\n  d\n e\n f"), "a: b; c; d; and 2 more");
    }

    #[test]
    fn nothing_moves_the_cursor() {
        assert_eq!(printable("a\tb\n"), "a\tb\n");
        assert_eq!(printable("a\r\n\x1b[2J\u{9b}1mé"), "a\n\u{fffd}[2J\u{fffd}1mé");
    }

    #[test]
    fn sizes_for_people() {
        assert_eq!(size(12), "12 B");
        assert_eq!(size(5 << 20), "5.00 MiB");
        assert_eq!(size(3 << 40), "3072.00 GiB");
        assert_eq!(count(4_810_000), "4.81 M");
    }
}
