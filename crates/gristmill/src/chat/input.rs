//! Where lines come from: an editor on a terminal that can, else lines as they are.

use super::grammar::COMMANDS;
use crate::term::{Done, is_dumb, note, out};
use gristmill::Error;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{Config, Context, Editor, Helper};
use std::io::{BufRead, IsTerminal, Read};
use std::path::{Path, PathBuf};

/// Lines kept from one chat to the next.
const HISTORY: usize = 1000;
/// The longest line that is taken, in bytes.
const LONGEST: u64 = 16 << 20;

/// What came.
pub enum Typed {
    /// A line, or several that were pasted; a plain line with its line feed.
    Line(String),
    /// Ctrl-C.
    Interrupt,
    /// Something that is no text; it was said.
    Nothing,
    /// Ctrl-D, or the end of a pipe.
    End,
}

/// Where lines come from.
pub enum Input {
    Editor(Box<Edited>),
    /// `prompt`: whether somebody sits at a terminal.
    Plain {
        prompt: bool,
    },
}

/// An editor with its history.
pub struct Edited {
    editor: Editor<Names, FileHistory>,
    /// Where the history lies.
    file: Option<PathBuf>,
}

impl Input {
    /// The editor, on a terminal that it can use. `history` is the file of earlier lines, where it
    /// is kept; `names` are those of options, to be completed.
    pub fn new(history: Option<PathBuf>, names: Vec<String>) -> Input {
        let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        if !terminal || is_dumb() {
            return Input::Plain { prompt: terminal };
        }
        match editor(history.as_deref(), names) {
            Ok(editor) => Input::Editor(Box::new(Edited { editor, file: history })),
            Err(e) => {
                note(format_args!("no line editing here: {e}"));
                Input::Plain { prompt: terminal }
            }
        }
    }

    /// The next line.
    ///
    /// # Errors
    /// When stdin fails, or stdout is closed.
    pub fn next(&mut self, prompt: &str) -> Done<Typed> {
        match self {
            Input::Plain { prompt: shown } => {
                if *shown {
                    out(prompt)?;
                }
                let typed = plain()?;
                if *shown && matches!(typed, Typed::End) {
                    out("\n")?;
                }
                Ok(typed)
            }
            Input::Editor(edited) => match edited.editor.readline(prompt) {
                Ok(line) => Ok(Typed::Line(line)),
                Err(ReadlineError::Interrupted) => Ok(Typed::Interrupt),
                Err(ReadlineError::Eof) => Ok(Typed::End),
                Err(ReadlineError::Signal(_)) => Ok(Typed::Nothing),
                Err(ReadlineError::Io(e)) if e.kind() == std::io::ErrorKind::InvalidData => {
                    note("what was typed is not UTF-8 text; it is left out");
                    Ok(Typed::Nothing)
                }
                Err(e) => Err(Error::Runtime(format!("reading from the terminal: {e}")).into()),
            },
        }
    }

    /// Remembers an entry for the arrow keys, here and in later chats.
    pub fn remember(&mut self, entry: &str) {
        let Input::Editor(edited) = self else { return };
        let Edited { editor, file } = &mut **edited;
        if !matches!(editor.add_history_entry(entry), Ok(true)) {
            return; // the same as the one before, or nothing
        }
        let Some(path) = file else { return };
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        let kept = made.map_err(ReadlineError::Io).and_then(|()| editor.append_history(&**path));
        if let Err(e) = kept {
            note(format_args!("lines are not kept in {}: {e}", path.display()));
            *file = None;
        }
    }
}

fn editor(
    history: Option<&Path>,
    names: Vec<String>,
) -> rustyline::Result<Editor<Names, FileHistory>> {
    let config = Config::builder()
        .max_history_size(HISTORY)?
        .completion_type(rustyline::CompletionType::List)
        .build();
    let mut editor = Editor::with_config(config)?;
    editor.set_helper(Some(Names(names)));
    if let Some(path) = history.filter(|p| p.is_file())
        && let Err(e) = editor.load_history(path)
    {
        note(format_args!("lines of earlier chats are not there: {}: {e}", path.display()));
    }
    Ok(editor)
}

/// A line of stdin.
fn plain() -> Done<Typed> {
    let mut bytes = vec![];
    let read = std::io::stdin().lock().take(LONGEST).read_until(b'\n', &mut bytes);
    let n = read.map_err(|source| Error::Io { what: "reading stdin".into(), source })?;
    if n == 0 {
        return Ok(Typed::End);
    }
    if n as u64 == LONGEST && bytes.last() != Some(&b'\n') {
        let what = format!("a line on stdin is longer than {} MiB", LONGEST >> 20);
        return Err(Error::Usage(what).into());
    }
    match String::from_utf8(bytes) {
        Ok(line) => Ok(Typed::Line(line)),
        Err(_) => {
            note("a line on stdin is not UTF-8 text; it is left out");
            Ok(Typed::Nothing)
        }
    }
}

/// Where typed lines are kept, if nothing else is said: in the user's folder for such things.
pub fn history_file() -> Option<PathBuf> {
    let folder = |name: &str| {
        let value = std::env::var_os(name).map(PathBuf::from);
        value.filter(|p| p.is_absolute())
    };
    let state = folder("XDG_STATE_HOME")
        .or_else(|| folder("HOME").map(|h| h.join(".local/state")))
        .or_else(|| folder("LOCALAPPDATA"))?;
    Some(state.join("gristmill").join("history"))
}

/// Completes the names of commands, and of options after `/set`.
struct Names(Vec<String>);

impl Names {
    fn matching(&self, begun: &str) -> (usize, Vec<String>) {
        let of = |from: usize, names: &mut dyn Iterator<Item = &str>| {
            let begun = &begun[from..];
            let fitting = names.filter(|n| n.starts_with(begun));
            (from, fitting.map(|n| format!("{n} ")).collect())
        };
        if let Some(option) = begun.strip_prefix("/set ")
            && !option.contains(' ')
        {
            return of("/set ".len(), &mut self.0.iter().map(String::as_str));
        }
        if begun.starts_with('/') && !begun.contains(' ') {
            return of(0, &mut COMMANDS.iter().map(|c| c.0));
        }
        (begun.len(), vec![])
    }
}

impl Completer for Names {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(self.matching(line.get(..pos).unwrap_or_default()))
    }
}

impl Hinter for Names {
    type Hint = String;
}
impl Highlighter for Names {}
impl Validator for Names {}
impl Helper for Names {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completion() {
        let names = Names(vec!["temp".into(), "top-k".into(), "top-p".into()]);
        assert_eq!(
            names.matching("/s"),
            (0, vec!["/set ".into(), "/system ".into(), "/save ".into()])
        );
        assert_eq!(names.matching("/set to"), (5, vec!["top-k ".into(), "top-p ".into()]));
        assert_eq!(names.matching("/set temp 0"), (11, vec![]));
        assert_eq!(names.matching("hello /s"), (8, vec![]));
    }
}
