//! What goes to stdout and to stderr, and how a run ends.
//!
//! Stdout carries what was asked for and nothing else; a reader that has seen enough (`| head`)
//! closes it, and that ends the run without a complaint. Stderr carries the rest; nobody need
//! read it.

use gristmill::Error;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

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

/// Writes a line to stderr.
pub fn note(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
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

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Whether Ctrl-C was pressed since [`catch_interrupts`].
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// From now on the first Ctrl-C is noted, so that the verb can end in order; the second ends the
/// process at once.
pub fn catch_interrupts() {
    // Without a handler Ctrl-C ends the process all the same, so a failure changes little.
    let _ = ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    });
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
    fn sizes_for_people() {
        assert_eq!(size(12), "12 B");
        assert_eq!(size(5 << 20), "5.00 MiB");
        assert_eq!(size(3 << 40), "3072.00 GiB");
        assert_eq!(count(4_810_000), "4.81 M");
    }
}
