//! What may be typed in a chat.
//!
//! ```text
//! entry    = message | '"""' any text '"""' | command
//! command  = '/' name [ ' ' argument ]       name = letters, or '?'
//! ```
//!
//! A line is a message, unless it begins with a slash and letters: that is a command. `//name` is a
//! message that begins with `/name`. What begins with `"""` goes on over as many lines as it takes
//! to the next line that ends with `"""`, and is a message whatever is in it; so may the text of
//! `/system` be. A line feed right after the first quotes and one right before the last do not
//! count.

use std::fmt;

/// Around a text of many lines.
const QUOTES: &str = "\"\"\"";

/// What was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// For the model.
    Message(String),
    /// For the program.
    Command(Command),
}

/// What the program is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Shows what may be typed.
    Help,
    /// Shows all options.
    ShowOptions,
    /// Sets an option to a value.
    Set(String, String),
    /// Shows the system message.
    ShowSystem,
    /// Replaces it; an empty one takes it away.
    System(String),
    /// Writes the conversation to a file.
    Save(String),
    /// Reads one from a file.
    Load(String),
    /// Begins a new conversation.
    Clear,
    /// Ends the program.
    Bye,
}

/// Names of commands, in the order of `/help`; what they take and what they do.
pub const COMMANDS: [(&str, &str, &str); 8] = [
    ("/set", "[NAME VALUE]", "set an option, such as temp 0.5; alone: show them all"),
    ("/system", "[TEXT]", "set the system message, \"\" for none; alone: show it"),
    ("/save", "FILE", "write the conversation to a file"),
    ("/load", "FILE", "go on with one from a file"),
    ("/clear", "", "begin a new conversation"),
    ("/help", "", "show this"),
    ("/bye", "", "leave; so does Ctrl-D"),
    ("\"\"\"", "", "begins and ends a message of many lines"),
];

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Help => write!(f, "/help"),
            Command::ShowOptions => write!(f, "/set"),
            Command::Set(name, value) => write!(f, "/set {name} {value}"),
            Command::ShowSystem => write!(f, "/system"),
            Command::System(text) => write!(f, "/system {QUOTES}{text}{QUOTES}"),
            Command::Save(file) => write!(f, "/save \"{file}\""),
            Command::Load(file) => write!(f, "/load \"{file}\""),
            Command::Clear => write!(f, "/clear"),
            Command::Bye => write!(f, "/bye"),
        }
    }
}

/// Collects lines to entries.
#[derive(Debug, Default)]
pub struct Reader {
    /// A text in quotes whose end has not come, and whether it is a system message.
    open: Option<(bool, String)>,
}

impl Reader {
    /// Whether it waits for the end of a text in quotes.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Forgets a text whose end has not come.
    pub fn abandon(&mut self) {
        self.open = None;
    }

    /// Takes what was typed up to the return key: a line, or several that were pasted. `None` where
    /// more is to come, or nothing came.
    ///
    /// # Errors
    /// What is wrong with a command.
    pub fn push(&mut self, line: &str) -> Result<Option<Entry>, String> {
        let line = line.strip_suffix('\n').unwrap_or(line);
        let line = line.strip_suffix('\r').unwrap_or(line);
        if let Some((system, mut text)) = self.open.take() {
            text.push('\n');
            text.push_str(line);
            return Ok(self.quoted(system, text));
        }
        let begun = line.trim_start();
        if let Some(text) = begun.strip_prefix(QUOTES) {
            return Ok(self.quoted(false, text.to_owned()));
        }
        let argument = begun.strip_prefix("/system").map(str::trim_start);
        if let Some(text) = argument.and_then(|a| a.strip_prefix(QUOTES)) {
            return Ok(self.quoted(true, text.to_owned()));
        }
        match parse(line)? {
            Entry::Message(text) if text.trim().is_empty() => Ok(None),
            entry => Ok(Some(entry)),
        }
    }

    /// An entry, if `text` ends with quotes.
    fn quoted(&mut self, system: bool, text: String) -> Option<Entry> {
        let Some(inner) = text.trim_end().strip_suffix(QUOTES) else {
            self.open = Some((system, text));
            return None;
        };
        let inner = inner.strip_prefix('\n').unwrap_or(inner);
        let inner = inner.strip_suffix('\n').unwrap_or(inner).to_owned();
        match system {
            true => Some(Entry::Command(Command::System(inner))),
            false if inner.trim().is_empty() => None,
            false => Some(Entry::Message(inner)),
        }
    }
}

/// Reads a line that is not in quotes.
///
/// # Errors
/// What is wrong with a command.
pub fn parse(line: &str) -> Result<Entry, String> {
    let message = |text: &str| Ok(Entry::Message(text.to_owned()));
    let Some(after) = line.trim_start().strip_prefix('/') else { return message(line) };
    if let Some(text) = after.strip_prefix('/')
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
    {
        return message(&line.replacen("//", "/", 1));
    }
    let (name, argument) = after.split_once(char::is_whitespace).unwrap_or((after, ""));
    let is_name = name == "?" || !name.is_empty() && name.chars().all(|c| c.is_ascii_alphabetic());
    if !is_name {
        return message(line); // a path, a comment, a fraction
    }
    command(name, argument.trim()).map(Entry::Command)
}

/// The command of this name.
fn command(name: &str, argument: &str) -> Result<Command, String> {
    let nothing = |command: Command| match argument {
        "" => Ok(command),
        _ => Err(format!(
            "/{name} takes nothing after it; to send this as a message, write //{name}"
        )),
    };
    let file = || match unquoted(argument) {
        "" => Err(format!("/{name} needs the name of a file")),
        path if path.contains(char::is_control) => {
            Err(format!("/{name} takes the name of one file, on one line"))
        }
        path => Ok(path.to_owned()),
    };
    match &*name.to_ascii_lowercase() {
        "help" | "?" => nothing(Command::Help),
        "clear" => nothing(Command::Clear),
        "bye" | "exit" | "quit" => nothing(Command::Bye),
        "save" => file().map(Command::Save),
        "load" => file().map(Command::Load),
        "system" if argument.is_empty() => Ok(Command::ShowSystem),
        "system" => Ok(Command::System(unquoted(argument).to_owned())),
        "set" if argument.is_empty() => Ok(Command::ShowOptions),
        "set" => {
            let (name, value) = argument.split_once(char::is_whitespace).unwrap_or((argument, ""));
            match value.trim() {
                "" => Err(format!("/set {name} needs a value; /set alone shows what there is")),
                value => Ok(Command::Set(name.to_owned(), value.to_owned())),
            }
        }
        _ => Err(format!(
            "there is no /{name}; /help shows what there is, and //{name} sends it as a message"
        )),
    }
}

/// A text without the quotes around it.
fn unquoted(text: &str) -> &str {
    let inner = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
    inner.unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(line: &str) -> Result<Option<Entry>, String> {
        Reader::default().push(line)
    }

    fn message(text: &str) -> Entry {
        Entry::Message(text.to_owned())
    }

    #[test]
    fn commands() {
        let set = |n: &str, v: &str| Command::Set(n.into(), v.into());
        for (line, command) in [
            ("/help", Command::Help),
            ("  /? ", Command::Help),
            ("/CLEAR", Command::Clear),
            ("/exit", Command::Bye),
            ("/set", Command::ShowOptions),
            ("/set temp 0.5", set("temp", "0.5")),
            ("/set  stop   a b ", set("stop", "a b")),
            ("/system", Command::ShowSystem),
            ("/system Be brief.", Command::System("Be brief.".into())),
            ("/system \"\"", Command::System(String::new())),
            ("/system \"\"\"one\"\"\"", Command::System("one".into())),
            ("/save my talk.json", Command::Save("my talk.json".into())),
            ("/load \"a b\"", Command::Load("a b".into())),
        ] {
            assert_eq!(one(line), Ok(Some(Entry::Command(command))), "{line}");
        }
        for line in
            ["/bye now", "/save", "/save \"\"", "/load ", "/set temp", "/sing", "/save a\nb"]
        {
            let error = one(line).unwrap_err();
            assert!(error.contains(line.split_whitespace().next().unwrap()), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn messages() {
        for line in ["hello", " /usr/bin is a folder", "/* C */", "// C++", "1/2", "/", "/ 2"] {
            assert_eq!(one(line), Ok(Some(message(line))));
        }
        assert_eq!(one("//help me"), Ok(Some(message("/help me"))));
        assert_eq!(one("hello\r\n"), Ok(Some(message("hello"))));
        for line in ["", "  ", "\n", "\"\"\"\"\"\""] {
            assert_eq!(one(line), Ok(None), "{line}");
        }
    }

    #[test]
    fn many_lines() {
        let mut reader = Reader::default();
        assert_eq!(reader.push("\"\"\""), Ok(None));
        assert_eq!(reader.push("  one\n"), Ok(None));
        assert!(reader.is_open());
        assert_eq!(reader.push("/bye"), Ok(None));
        assert_eq!(reader.push("\"\"\" "), Ok(Some(message("  one\n/bye"))));
        assert!(!reader.is_open());
        assert_eq!(reader.push("\"\"\"a \"b\" c\"\"\""), Ok(Some(message("a \"b\" c"))));
        assert_eq!(reader.push("/system \"\"\"a"), Ok(None));
        let system = Entry::Command(Command::System("a\nb".into()));
        assert_eq!(reader.push("b\"\"\""), Ok(Some(system)));
        // Pasted at once.
        assert_eq!(reader.push("\"\"\"\na\nb\n\"\"\""), Ok(Some(message("a\nb"))));
        assert_eq!(reader.push("a\nb"), Ok(Some(message("a\nb"))));
        assert_eq!(reader.push("\"\"\"a"), Ok(None));
        reader.abandon();
        assert_eq!(reader.push("b"), Ok(Some(message("b"))));
    }

    /// Text made of what the grammar is about, and of anything.
    fn text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            prop::sample::select(vec![
                "\"\"\"", "\"", "/", "//", "/set", "/system", "/save", "/load", "/bye", "/help",
                "/?", " ", "\n", "\r", "\t", "a", "\u{a0}", "é", "0.5", "\0", "\u{2028}",
            ])
            .prop_map(str::to_owned),
            any::<String>(),
        ];
        prop::collection::vec(piece, 0..8).prop_map(|p| p.concat())
    }

    fn any_command() -> impl Strategy<Value = Command> {
        let word = "[a-z_-]{1,9}";
        let value = "[a-zA-Z0-9.,=-]([a-z 0-9.]{0,9}[a-z0-9])?";
        prop_oneof![
            Just(Command::Help),
            Just(Command::ShowOptions),
            (word, value).prop_map(|(n, v)| Command::Set(n, v)),
            Just(Command::ShowSystem),
            "[a-z\"\n/é]{0,20}[a-z]".prop_filter_map("quotes end it", |t| {
                let inner = t.strip_prefix('\n').is_none() && !t.contains(QUOTES);
                inner.then_some(Command::System(t))
            }),
            "[a-z/ .é]{0,9}[a-z]".prop_map(Command::Save),
            "[a-z/ .é]{0,9}[a-z]".prop_map(Command::Load),
            Just(Command::Clear),
            Just(Command::Bye),
        ]
    }

    proptest! {
        /// Nothing that is typed ends the program, and every complaint is one line.
        #[test]
        fn anything_may_be_typed(lines in prop::collection::vec(text(), 0..8)) {
            let mut reader = Reader::default();
            for line in &lines {
                let was_open = reader.is_open();
                match reader.push(line) {
                    Ok(Some(Entry::Message(text))) => prop_assert!(!text.trim().is_empty()),
                    Ok(_) => {}
                    Err(what) => {
                        prop_assert!(!was_open, "in quotes nothing is a command");
                        prop_assert!(!what.contains('\n'), "{}", what);
                    }
                }
            }
        }

        /// What does not look like a command or quotes is a message, as it is.
        #[test]
        fn plain_text_is_untouched(text in text()) {
            let plain = text.trim_end_matches(['\n', '\r']);
            let begun = plain.trim_start();
            if !begun.starts_with(['/', '"']) && !begun.is_empty() {
                prop_assert_eq!(one(plain), Ok(Some(message(plain))));
            }
        }

        /// Any text without quotes comes through them as it is, line by line or at once.
        #[test]
        fn quoted_text_is_untouched(text in text()) {
            let text = text.replace('"', "'").replace('\r', "");
            if !text.trim().is_empty() {
                let whole = format!("\"\"\"\n{text}\n\"\"\"");
                prop_assert_eq!(one(&whole), Ok(Some(message(&text))));
                let mut reader = Reader::default();
                let mut last = Ok(None);
                for line in whole.split('\n') {
                    prop_assert_eq!(&last, &Ok(None));
                    last = reader.push(line);
                }
                prop_assert_eq!(last, Ok(Some(message(&text))));
            }
        }

        /// A command that is written out reads as itself.
        #[test]
        fn commands_read_as_written(command in any_command()) {
            let written = command.to_string();
            prop_assert_eq!(one(&written), Ok(Some(Entry::Command(command))), "{}", written);
        }
    }
}
