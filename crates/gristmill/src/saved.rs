//! Conversations in files.
//!
//! A file is JSON: what it is, its version, the model's name, and the messages as chat templates and
//! other programs have them. It may come from anywhere, so all of it is checked, and what is wrong
//! is said in one line.

use crate::conversation::{Conversation, Exchange};
use crate::files;
use gristmill_core::{Error, Result};
use serde::Deserialize;
use serde_json::json;
use std::io::Write;
use std::path::Path;

/// What a file calls itself.
const FORMAT: &str = "gristmill conversation";
/// Of files written now.
const VERSION: u32 = 1;
/// The longest file that is read, in bytes.
const MOST: u64 = 64 << 20;
/// The longest complaint about a file, in characters.
const COMPLAINT: usize = 200;

/// A conversation, and the name of the model it was held with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// For people; another model may go on with it.
    pub model: String,
    /// What was said.
    pub conversation: Conversation,
}

#[derive(Deserialize)]
struct Head {
    format: String,
    version: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    #[serde(rename = "format")]
    _format: String,
    #[serde(rename = "version")]
    _version: u32,
    model: String,
    messages: Vec<Message>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    role: String,
    content: String,
    #[serde(default)]
    reasoning_content: String,
}

impl Saved {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Usage`] when it is not such a file or is
    /// damaged; both with its name.
    pub fn read(path: &Path) -> Result<Saved> {
        Saved::parse(&contents(path)?).map_err(|what| complain(path, &what))
    }

    /// Writes a file, whole or not at all. One that is there is replaced only when it is a saved
    /// conversation too.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written, [`Error::Usage`] when something else is there.
    pub fn write(&self, path: &Path) -> Result<()> {
        if path.exists() {
            let bytes = contents(path)?;
            let head: Result<Head, _> = serde_json::from_slice(&bytes);
            if !bytes.is_empty() && !head.is_ok_and(|h| h.format == FORMAT) {
                let what = "exists and is no saved conversation; give another name";
                return Err(complain(path, what));
            }
        }
        files::write_whole(path, |file| {
            self.write_to(file).map_err(|source| files::cannot_write(path, source))
        })
    }

    fn write_to(&self, mut file: impl Write) -> std::io::Result<()> {
        let body = json!({
            "format": FORMAT,
            "version": VERSION,
            "model": self.model,
            "messages": self.conversation.messages(),
        });
        serde_json::to_writer_pretty(&mut file, &body)?;
        file.write_all(b"\n")
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// What is wrong with it.
    fn parse(json: &[u8]) -> Result<Saved, String> {
        let not_json = |e: serde_json::Error| format!("is no saved conversation: {e}");
        let head: Head = serde_json::from_slice(json).map_err(not_json)?;
        if head.format != FORMAT {
            return Err(format!("is no saved conversation: its format is '{}'", head.format));
        }
        if head.version != VERSION {
            return Err(format!(
                "is of version {}; this program reads version {VERSION}",
                head.version
            ));
        }
        let body: Body = serde_json::from_slice(json).map_err(|e| format!("is damaged: {e}"))?;
        let mut conversation = Conversation::default();
        let mut messages = body.messages.into_iter().enumerate().peekable();
        if let Some((_, m)) = messages.next_if(|(_, m)| m.role == "system") {
            conversation.system = Some(m.content);
        }
        while let Some((at, question)) = messages.next() {
            let answer = messages.next().map(|(_, m)| m);
            match (&*question.role, answer) {
                ("user", Some(m)) if m.role == "assistant" => {
                    conversation.exchanges.push(Exchange {
                        question: question.content,
                        answer: m.content,
                        thinking: m.reasoning_content,
                    });
                }
                _ => {
                    return Err(format!(
                        "is damaged: at message {}, where a message of the user and one of the \
                         assistant are expected",
                        at + 1
                    ));
                }
            }
        }
        Ok(Saved { model: body.model, conversation })
    }
}

/// An error about a file, of one line: what the file itself says may be part of it.
fn complain(path: &Path, what: &str) -> Error {
    let plain = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    let what: String = what.chars().take(COMPLAINT).map(plain).collect();
    Error::Usage(format!("{}: {what}", path.display()))
}

/// All of a regular file that is not too long.
fn contents(path: &Path) -> Result<Vec<u8>> {
    let failed = |source| Error::Io { what: format!("reading {}", path.display()), source };
    // Looked at before it is opened: opening a pipe may wait for ever.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(complain(path, "is not a file"));
    }
    files::read(path, MOST)?.ok_or_else(|| {
        let most = MOST >> 20;
        complain(path, &format!("is too long: a conversation takes at most {most} MiB"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn complaint(json: &str) -> String {
        let error = Saved::parse(json.as_bytes()).unwrap_err();
        let shown = complain(Path::new("a.json"), &error).to_string();
        assert!(shown.chars().count() < COMPLAINT + 20 && !shown.contains('\n'), "{shown}");
        shown
    }

    #[test]
    fn damaged_files() {
        let head = r#""format": "gristmill conversation", "version": 1, "model": "m""#;
        let user = r#"{"role": "user", "content": "q"}"#;
        let answer = r#"{"role": "assistant", "content": "a"}"#;
        let with = |messages: &str| format!("{{{head}, \"messages\": [{messages}]}}");
        assert!(Saved::parse(with("").as_bytes()).is_ok());
        assert!(Saved::parse(with(&format!("{user}, {answer}")).as_bytes()).is_ok());
        for (json, what) in [
            (String::new(), "no saved conversation"),
            ("{".into(), "no saved conversation"),
            ("[1, 2]".into(), "no saved conversation"),
            ("{\"format\": \"x\", \"version\": 1}".into(), "its format is 'x'"),
            ("{\"format\": \"gristmill conversation\", \"version\": 9}".into(), "version 9"),
            ("{\"format\": \"gristmill conversation\", \"version\": -1}".into(), "no saved"),
            (format!("{{{head}}}"), "missing field `messages`"),
            (with(user), "message 1"),
            (with(answer), "message 1"),
            (with(&format!("{user}, {user}")), "message 1"),
            (with(&format!("{user}, {answer}, {answer}")), "message 3"),
            (with("{\"role\": \"user\"}"), "missing field `content`"),
            (with("{\"role\": \"user\", \"content\": 1}"), "damaged"),
            (with(&format!("{user}, {answer}")).replace("\"q\"", "\"\\ud800\""), "damaged"),
            (format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)), "no saved conversation"),
            (format!("{{{head}, \"{}\": 1}}", "x".repeat(10_000)), "damaged"),
        ] {
            let shown = complaint(&json);
            assert!(shown.contains(what), "{shown}");
        }
    }

    #[test]
    fn files_that_are_none_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("letter.txt"), "Dear Sir").unwrap();
        let saved = Saved::default();
        for path in [at("letter.txt"), dir.path().to_owned()] {
            let error = saved.write(&path).unwrap_err().to_string();
            assert!(error.contains(&path.display().to_string()), "{error}");
            assert!(Saved::read(&path).is_err());
        }
        assert_eq!(std::fs::read(at("letter.txt")).unwrap(), b"Dear Sir");
        assert!(saved.write(&at("no/such/folder")).is_err());
        assert!(Saved::read(&at("nothing.json")).is_err());
        saved.write(&at("talk.json")).unwrap();
        saved.write(&at("talk.json")).unwrap();
        let names: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap()).collect();
        assert_eq!(names.len(), 2, "nothing else is left behind");
    }

    fn any_saved() -> impl Strategy<Value = Saved> {
        let exchange = any::<[String; 3]>().prop_map(|[question, answer, thinking]| Exchange {
            question,
            answer,
            thinking,
        });
        let all = (any::<String>(), any::<Option<String>>(), prop::collection::vec(exchange, 0..4));
        all.prop_map(|(model, system, exchanges)| Saved {
            model,
            conversation: Conversation { system, exchanges },
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_saved_is_loaded(saved in any_saved()) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("talk.json");
            saved.write(&path).unwrap();
            prop_assert_eq!(Saved::read(&path).unwrap(), saved);
        }

        #[test]
        fn a_changed_file_is_read_or_refused(
            saved in any_saved(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            cut in any::<bool>(),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("talk.json");
            saved.write(&path).unwrap();
            let mut bytes = std::fs::read(&path).unwrap();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if cut {
                bytes.truncate(at);
            }
            if let Err(what) = Saved::parse(&bytes) {
                let shown = complain(&path, &what).to_string();
                prop_assert!(!shown.contains(char::is_control), "{}", shown);
            }
        }
    }
}
