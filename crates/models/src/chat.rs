//! Chat templates: a conversation as the text that the model was trained to continue.
//!
//! A model file carries its own template in Jinja, written for Hugging Face's `transformers`, and
//! what it renders must be byte for byte what that library would: a space too many is a prompt
//! the model has never seen. So the engine is set up as theirs is (`trim_blocks`,
//! `lstrip_blocks`, no escaping, Python's methods on strings, lists and maps), with their
//! additions: `raise_exception`, `strftime_now`, their `tojson`, and `{% generation %}`. Where the
//! engine reads a template otherwise than Jinja2, the source is changed first ([`source`]); where
//! it writes a value otherwise than Python, we write it ([`python`]).
//!
//! A template is a stranger's program. It runs on a budget of instructions, of depth and of what it
//! makes ([`budget`], [`guard`]), and sees only the conversation. When it fails, that is an error with its line; no
//! other template is put in its place.

mod budget;
mod clock;
mod guard;
mod json;
mod methods;
mod python;
mod source;

use crate::gguf::Gguf;
use crate::source::whole;
use gristmill_core::{Error, Result};
use minijinja::machinery::{self, CompiledTemplate, Instructions, TemplateConfig};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, ValueKind};
use minijinja::{AutoEscape, Environment, ErrorKind, Value};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Instructions a rendering may take: a conversation of thousands of messages takes under one
/// million.
const FUEL: u64 = 20_000_000;
/// Nesting of loops, macros and calls.
const DEPTH: usize = 100;
/// Bytes of a file that may hold a template.
const MAX_FILE: usize = 16 << 20;

/// One turn of a conversation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A turn.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: content.into() }
    }
}

/// Seconds since 1970, UTC.
type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// A compiled chat template.
pub struct ChatTemplate {
    /// The model file, for messages.
    file: String,
    /// As the engine reads it ([`source`]).
    source: String,
    env: Environment<'static>,
    syntax: SyntaxConfig,
    /// What a rendering may handle ([`budget`]).
    units: u64,
}

/// An error that the template itself raised, about the conversation.
#[derive(Debug)]
struct Raised;

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("raised by the template")
    }
}

impl std::error::Error for Raised {}

impl ChatTemplate {
    /// The template of a model file; `None` when it has none.
    ///
    /// # Errors
    /// A template that does not parse, with its line.
    pub fn from_gguf(gguf: &Gguf) -> Result<Option<ChatTemplate>> {
        let source: Option<&str> = gguf.opt("tokenizer.chat_template")?;
        source.map(|s| ChatTemplate::new(gguf.name(), s)).transpose()
    }

    /// The template of a model's folder: `chat_template.jinja`, else the one in
    /// `tokenizer_config.json`; `None` when it has neither.
    ///
    /// # Errors
    /// A file that cannot be read; as [`ChatTemplate::from_config`].
    pub fn from_folder(folder: &Path) -> Result<Option<ChatTemplate>> {
        let read = |name: &str| {
            let path = folder.join(name);
            let shown = path.display().to_string();
            path.exists().then(|| whole(&path, MAX_FILE).map(|b| (shown, b))).transpose()
        };
        if let Some((name, bytes)) = read("chat_template.jinja")? {
            let text = std::str::from_utf8(&bytes).map_err(|_| Error::model(&name, "not UTF-8"))?;
            return ChatTemplate::new(name, text).map(Some);
        }
        match read("tokenizer_config.json")? {
            Some((name, bytes)) => ChatTemplate::from_config(&name, &bytes),
            None => Ok(None),
        }
    }

    /// The template of a `tokenizer_config.json`: the one there is, or of several the one named
    /// `default`; `None` when it has none. `file` stands for it in messages.
    ///
    /// # Errors
    /// Text that is not JSON; a template that does not parse, with its line.
    pub fn from_config(file: &str, config: &[u8]) -> Result<Option<ChatTemplate>> {
        let config: serde_json::Value =
            serde_json::from_slice(config).map_err(|e| Error::model(file, e.to_string()))?;
        let template = &config["chat_template"];
        let named = || {
            let list = template.as_array()?;
            list.iter().find(|t| t["name"] == "default")?["template"].as_str()
        };
        match template.as_str().or_else(named) {
            Some(source) => ChatTemplate::new(file, source).map(Some),
            None if template.is_null() => Ok(None),
            None => Err(Error::model(file, "'chat_template' is neither a text nor has a default")),
        }
    }

    /// A template from its source; `file` stands for where it comes from in messages.
    ///
    /// # Errors
    /// A template that does not parse, with its line.
    pub fn new(file: impl Into<String>, source: &str) -> Result<ChatTemplate> {
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        let file = file.into();
        let syntax = syntax.map_err(|e| model_error(&file, &e))?;
        env.set_debug(false);
        env.set_unknown_method_callback(methods::call);
        env.set_fuel(Some(FUEL));
        env.set_recursion_limit(DEPTH);
        env.set_formatter(|out, _, value| {
            if value.kind() == ValueKind::Invalid {
                return Err(minijinja::Error::new(ErrorKind::BadSerialization, value.to_string()));
            }
            out.write_str(&python::text(value)?).map_err(minijinja::Error::from)
        });
        env.add_filter("tojson", json::tojson);
        env.add_filter("string", |v: &Value| python::text(v));
        env.add_filter("length", python::length);
        env.add_filter("count", python::length);
        env.add_filter(source::ITERABLE, python::iterable);
        env.add_filter(source::BACKWARDS, python::backwards);
        env.add_filter(source::SAME, |value: Value| value);
        env.remove_global("debug");
        guard::add_to(&mut env);
        env.add_function(source::CONCAT, |parts: Rest<Value>| python::concat(&parts));
        env.add_test("iterable", |v: &Value| !v.is_none() && v.try_iter().is_ok());
        env.add_test("sequence", python::is_sequence);
        env.add_function("raise_exception", |message: Rest<Value>| -> Result<Value, _> {
            let text = message.first().map(Value::to_string).unwrap_or_default();
            Err::<Value, _>(
                minijinja::Error::new(ErrorKind::InvalidOperation, text).with_source(Raised),
            )
        });
        let source = source::rewrite(source);
        let source = source.map_err(|e| Error::model(&file, format!("chat template, {e}")))?;
        let template = ChatTemplate { file, source, env, syntax, units: budget::UNITS };
        template.compiled()?;
        #[cfg(not(target_family = "wasm"))]
        let template = template.with_clock(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(0, |d| d.as_secs() as i64)
        });
        Ok(template)
    }

    /// Tells the time to templates that write the date (`strftime_now`): seconds since 1970, UTC.
    /// Without a clock, which is the default only in the browser, such a template fails.
    pub fn with_clock(mut self, clock: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        let clock: Clock = Arc::new(clock);
        self.env.add_function("strftime_now", move |format: &str| {
            clock::strftime(format, clock())
                .map_err(|what| minijinja::Error::new(ErrorKind::InvalidOperation, what))
        });
        self
    }

    /// Lets a rendering handle so many bytes in all, of texts and lists that it makes and reads, kept or
    /// not. The default, 512 MiB, is enough for some thousands of long messages.
    pub fn with_budget(mut self, bytes: u64) -> Self {
        self.units = bytes;
        self
    }

    /// The template as the engine's program, within the budget. It borrows its source, so it is made for
    /// each rendering; that takes less than a millisecond.
    fn compiled(&self) -> Result<CompiledTemplate<'_>> {
        let unsupported = |what| Error::model(&self.file, format!("chat template, {what}"));
        source::check(&self.source, &self.syntax).map_err(unsupported)?;
        let config = TemplateConfig {
            syntax_config: self.syntax.clone(),
            default_auto_escape: Arc::new(|_| AutoEscape::None),
        };
        let compiled = CompiledTemplate::new("chat", &self.source, &config);
        let mut compiled = compiled.map_err(|e| model_error(&self.file, &e))?;
        let guard = |program: &mut Instructions<'_>| -> Result<()> {
            *program = guard::guarded(program).map_err(unsupported)?;
            Ok(())
        };
        guard(&mut compiled.instructions)?;
        compiled.blocks.values_mut().try_for_each(guard)?;
        Ok(compiled)
    }

    /// The prompt of a conversation.
    ///
    /// `add_generation_prompt` ends it with the beginning of the assistant's turn. `bos` and `eos`
    /// are the texts of the special tokens, empty where the model has none. Encode the result
    /// with special tokens parsed: it holds them as text.
    ///
    /// # Errors
    /// [`Error::Usage`] when the template refuses the conversation (roles that do not alternate,
    /// say), [`Error::Model`] when it fails; both with the line.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        bos: &str,
        eos: &str,
    ) -> Result<String> {
        let turn = |m: &Message| {
            let text = |text: &str| Value::from(text);
            let fields = [("role", text(&m.role)), ("content", text(&m.content))];
            Value::from_object(python::Dict::new(fields.into_iter()))
        };
        let messages = Value::from_object(python::List(messages.iter().map(turn).collect()));
        self.render_values(messages, &serde_json::Map::new(), add_generation_prompt, bos, eos)
    }

    /// [`ChatTemplate::render`] of messages with any fields (an array of objects), and of further
    /// variables: `tools`, `documents`, `enable_thinking` and what else the template reads.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_json(
        &self,
        messages: &serde_json::Value,
        variables: &serde_json::Map<String, serde_json::Value>,
        add_generation_prompt: bool,
        bos: &str,
        eos: &str,
    ) -> Result<String> {
        let messages = json::value(messages);
        self.render_values(messages, variables, add_generation_prompt, bos, eos)
    }

    fn render_values(
        &self,
        messages: Value,
        variables: &serde_json::Map<String, serde_json::Value>,
        add_generation_prompt: bool,
        bos: &str,
        eos: &str,
    ) -> Result<String> {
        // The names that are always there, as in `transformers`; given variables come after.
        let mut context = vec![
            ("tools", Value::from(())),
            ("documents", Value::from(())),
            ("messages", messages),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
        ];
        for (name, text) in [("bos_token", bos), ("eos_token", eos)] {
            if !text.is_empty() {
                context.push((name, Value::from(text)));
            }
        }
        let given = variables.iter().map(|(k, v)| (k.as_str(), json::value(v)));
        let context = Value::from_pairs(context.into_iter().chain(given));

        let template = self.compiled()?;
        let mut out = String::new();
        budget::begin(self.units);
        // No input may end the program: a panic of the engine is a template that fails.
        let render = || {
            let mut out = machinery::make_string_output(&mut out);
            let (program, blocks) = (&template.instructions, &template.blocks);
            machinery::eval(&self.env, program, context, blocks, &mut out, AutoEscape::None)
                .and_then(|_| if budget::is_spent() { Err(budget::spent()) } else { Ok(()) })
        };
        let rendered = std::panic::catch_unwind(std::panic::AssertUnwindSafe(render));
        let Ok(rendered) = rendered else {
            let what = "chat template: the template engine failed on it";
            return Err(Error::model(&self.file, what));
        };
        match rendered {
            Ok(()) => Ok(out),
            Err(e) if was_raised(&e) => {
                let what = e.detail().unwrap_or("no reason given");
                Err(Error::Usage(format!(
                    "the model's chat template refuses this conversation: {what} (line {} of the \
                     template)",
                    e.line().unwrap_or(0)
                )))
            }
            Err(e) => Err(model_error(&self.file, &e)),
        }
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chat template of {}", self.file)
    }
}

/// Whether the innermost cause is `raise_exception`.
fn was_raised(e: &minijinja::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(e);
    while let Some(c) = cause {
        if c.is::<Raised>() {
            return true;
        }
        cause = c.source();
    }
    false
}

/// One line: what the engine says, the causes, the line of the template.
fn model_error(file: &str, e: &minijinja::Error) -> Error {
    let line = e.line().map(|n| format!(", line {n}")).unwrap_or_default();
    let mut what = match e.detail() {
        Some(detail) => format!("{}: {detail}", e.kind()),
        None => e.kind().to_string(),
    };
    let mut cause = std::error::Error::source(e);
    while let Some(c) = cause {
        what.push_str(&format!(" ({c})"));
        cause = c.source();
    }
    let what = what.replace('\n', " ");
    Error::model(file, format!("chat template{line}: {what}"))
}
