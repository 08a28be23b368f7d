//! A chat: questions and answers turn by turn, with commands between them.
//!
//! The engine keeps what it computed ([`Continued`]), so a turn runs only what is new. Ctrl-C stops
//! an answer, and what was said of it stays; at the prompt it takes back what was typed. Nothing
//! that goes wrong with a turn ends the chat, and a turn that could not be had leaves the
//! conversation as it was. The model's words go to stdout, everything else to stderr.

mod grammar;
mod input;
mod options;

use crate::answer::{self, Answer, Think, Voice};
use crate::term::{Done, Stop, be_patient, forget_interrupts, note};
use crate::verbs::run::RunArgs;
use grammar::{COMMANDS, Command, Entry, Reader};
use gristmill::{
    Continued, Conversation, Device, Engine, Error, Exchange, Finish, Prompter, Result, Saved,
    Tokenizer,
};
use input::{Input, Typed};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use input::history_file;
pub use options::Options;

/// Before what is typed, and before further lines of it.
const PROMPT: &str = ">>> ";
const MORE: &str = "... ";

/// A chat with one model.
pub struct Chat {
    args: RunArgs,
    options: Options,
    engine: Engine<Device>,
    tokenizer: Arc<Tokenizer>,
    prompter: Prompter,
    conversation: Conversation,
    continued: Continued,
    model: String,
}

/// Whether to go on.
enum Next {
    Turn,
    Bye,
}

impl Chat {
    /// # Errors
    /// Those of the template.
    pub fn new(
        (args, options): (RunArgs, Options),
        engine: Engine<Device>,
        tokenizer: Arc<Tokenizer>,
        mut prompter: Prompter,
        conversation: Conversation,
        model: String,
    ) -> Result<Chat> {
        prepare(&mut prompter, args.think(), conversation.system.is_some(), args.quiet())?;
        let continued = Continued::default();
        Ok(Chat { args, options, engine, tokenizer, prompter, conversation, continued, model })
    }

    /// Turns until there are no more; `first` is the first question, where there is one.
    pub fn run(mut self, first: Option<String>, history: Option<PathBuf>) -> Done {
        be_patient();
        if !self.args.quiet() {
            note(format_args!("{}: /help shows the commands, Ctrl-D leaves", self.model));
            if !self.prompter.has_template() {
                note("it has no chat template: what you type is continued as it is");
            }
        }
        let mut input = Input::new(history, options::names());
        if let Some(question) = first {
            self.ask(question)?;
        }
        let mut reader = Reader::default();
        let mut typed = String::new();
        loop {
            forget_interrupts();
            let line = match input.next(if reader.is_open() { MORE } else { PROMPT })? {
                Typed::Line(line) => line,
                Typed::Nothing => continue,
                Typed::Interrupt => {
                    if !reader.is_open() {
                        note("Ctrl-D or /bye leaves");
                    }
                    reader.abandon();
                    typed.clear();
                    continue;
                }
                Typed::End => break,
            };
            typed.push_str(&line);
            let entry = reader.push(&line);
            if reader.is_open() {
                if !typed.ends_with('\n') {
                    typed.push('\n');
                }
                continue;
            }
            input.remember(typed.trim_end());
            typed.clear();
            match entry {
                Ok(None) => {}
                Ok(Some(Entry::Message(question))) => self.ask(question)?,
                Ok(Some(Entry::Command(command))) => match self.obey(command) {
                    Ok(Next::Turn) => {}
                    Ok(Next::Bye) => return Ok(()),
                    Err(e) => complain(&e),
                },
                Err(what) => complain(&what),
            }
        }
        if reader.is_open() {
            complain(&"the text that \"\"\" began has no end; it is left out");
        }
        Ok(())
    }

    /// A turn. What goes wrong with it is said, and ends nothing.
    fn ask(&mut self, question: String) -> Done {
        match self.turn(&question) {
            Ok(Some(answer)) => {
                if self.args.verbose() {
                    note(answer.1.statistics(answer.0));
                }
                let (text, thinking) = (answer.1.text, answer.1.thinking);
                let exchange = Exchange { question, answer: text, thinking };
                self.conversation.exchanges.push(exchange);
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(Stop::Failed(e @ (Error::Usage(_) | Error::Model { .. }))) => {
                complain(&e);
                Ok(())
            }
            Err(stop) => Err(stop),
        }
    }

    /// An answer, and the number of tokens of its prompt; `None` where there was none.
    fn turn(&mut self, question: &str) -> Done<Option<(usize, Answer)>> {
        let prompt = self.prompter.prompt(&self.tokenizer, &self.conversation, question)?;
        let reuse = self.continued.reuse(&self.tokenizer, &prompt.ids);
        let (context, tokens) = (self.engine.options().context as usize, reuse.len());
        if tokens >= context {
            complain(&format_args!(
                "with this message the conversation has {tokens} tokens, and the context of \
                 {context} holds no answer to it; /clear begins a new one, and --ctx-size asks \
                 for a longer context. The message is left out"
            ));
            return Ok(None);
        }
        let request = self.args.request(&self.tokenizer, vec![])?;
        let most = request.max_tokens;
        let mut voice = Voice::chat(self.tokenizer.clone(), prompt.opens, self.args.think(), true);
        forget_interrupts();
        let id = self.continued.submit(&mut self.engine, reuse, request)?;
        let followed = answer::follow(&mut self.engine, id, &mut voice, Some(&mut self.continued));
        voice.end_line()?;
        let answer = followed?;
        match answer.finish {
            Finish::Cancelled if answer.ids.is_empty() => {
                note("(stopped before the first word: the message is left out)");
                return Ok(None);
            }
            Finish::Cancelled => note("(stopped)"),
            Finish::Length if tokens + answer.ids.len() >= context => note(format_args!(
                "(the context of {context} tokens is full, so the answer ends here; /clear begins a \
                 new conversation)"
            )),
            Finish::Length => note(format_args!("(stopped after {most} tokens: --predict)")),
            Finish::Stop => {}
        }
        Ok(Some((tokens, answer)))
    }

    /// Does what a command says.
    fn obey(&mut self, command: Command) -> Result<Next> {
        match command {
            Command::Help => help(),
            Command::Bye => return Ok(Next::Bye),
            Command::Clear => {
                self.conversation.exchanges.clear();
                self.continued.forget(&mut self.engine);
                self.say("a new conversation");
            }
            Command::ShowOptions => {
                for (name, value) in self.options.show().map_err(Error::Usage)? {
                    note(format_args!("  {name:<16} {value}"));
                }
            }
            Command::Set(name, value) => {
                self.args = self.options.set(&name, &value).map_err(Error::Usage)?;
                prepare(&mut self.prompter, self.args.think(), false, self.args.quiet())?;
            }
            Command::ShowSystem => match &self.conversation.system {
                Some(text) => note(text),
                None => note("there is no system message; /system TEXT sets one"),
            },
            Command::System(text) => {
                self.conversation.system = (!text.is_empty()).then_some(text);
                if self.conversation.system.is_some() {
                    prepare(&mut self.prompter, self.args.think(), true, self.args.quiet())?;
                }
            }
            Command::Save(file) => {
                let (model, conversation) = (self.model.clone(), self.conversation.clone());
                let path = at_home(&file);
                Saved { model, conversation }.write(&path)?;
                self.say(format_args!("saved to {}", path.display()));
            }
            Command::Load(file) => self.load(&at_home(&file))?,
        }
        Ok(Next::Turn)
    }

    fn load(&mut self, path: &Path) -> Result<()> {
        let saved = Saved::read(path)?;
        self.conversation = saved.conversation;
        let of = match saved.model == self.model {
            true => String::new(),
            false => format!(", held with {}", saved.model),
        };
        let n = self.conversation.exchanges.len();
        self.say(format_args!("{} answers from {}{of}", n, path.display()));
        Ok(())
    }

    fn say(&self, what: impl std::fmt::Display) {
        if !self.args.quiet() {
            note(what);
        }
    }
}

/// Tells a template whether to think; says what it cannot do.
///
/// # Errors
/// Those of the template.
pub fn prepare(
    prompter: &mut Prompter,
    think: Option<Think>,
    system: bool,
    quiet: bool,
) -> Result<()> {
    prompter.set_thinking(match think {
        Some(Think::On) => Some(true),
        Some(Think::Off) => Some(false),
        Some(Think::Hide) | None => None,
    });
    if quiet {
        return Ok(());
    }
    if think == Some(Think::Off) && !prompter.can_switch_thinking()? {
        note(
            "the model's template has no switch for thinking, so --think off changes nothing; \
             --think hide does not show thoughts",
        );
    }
    // A template that refuses such a message says so by itself, when there is a question.
    if system && matches!(prompter.ignores_system(), Ok(true)) {
        note("the model's template leaves the system message out, so it changes nothing");
    }
    Ok(())
}

fn help() {
    for (name, takes, does) in COMMANDS {
        note(format_args!("  {:<20} {does}", format!("{name} {takes}")));
    }
    note("  Ctrl-C stops an answer; //word sends a message that begins with /word");
}

fn complain(what: &dyn std::fmt::Display) {
    note(format_args!("error: {what}"));
}

/// A path, with `~` for the user's own folder.
fn at_home(file: &str) -> PathBuf {
    match (file.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        _ => PathBuf::from(file),
    }
}
