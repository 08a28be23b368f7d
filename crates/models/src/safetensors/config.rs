//! `config.json`: a model's facts under the names that Hugging Face's `transformers` gives them.

use crate::source;
use gristmill_core::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// The largest file that is read, in bytes; the published ones have a few thousand.
const MAX_BYTES: usize = 1 << 20;
/// The most values, counted by the marks between them; the published ones have a few hundred. A value
/// takes a few hundred bytes of ours, so this is what bounds the memory.
const MAX_VALUES: usize = 1 << 14;

/// The fields of a `config.json`, those of the language model where there are others.
pub(super) struct Config {
    file: String,
    fields: Map<String, Value>,
}

impl Config {
    /// Reads the file; `text_config`, where a model of several kinds of input has one, comes
    /// before the fields around it.
    ///
    /// # Errors
    /// [`Error::Model`] when it cannot be read or is no object.
    pub(super) fn open(path: &Path) -> Result<Config> {
        let text = source::whole(path, MAX_BYTES)?;
        Config::parse(path.display().to_string(), &text)
    }

    /// Reads the text of a file that is called `file`.
    ///
    /// # Errors
    /// As [`Config::open`].
    pub(super) fn parse(file: String, text: &[u8]) -> Result<Config> {
        let fail = |what: String| Error::model(file.clone(), what);
        let values = text.iter().filter(|b| matches!(b, b',' | b'[' | b'{')).count();
        if values > MAX_VALUES {
            return Err(fail(format!("has {values} values, more than the {MAX_VALUES} allowed")));
        }
        let value = serde_json::from_slice(text);
        let Value::Object(mut fields) = value.map_err(|e| fail(format!("is not JSON: {e}")))?
        else {
            return Err(fail("is not a JSON object".into()));
        };
        if let Some(Value::Object(own)) = fields.remove("text_config") {
            fields.extend(own);
        }
        Ok(Config { file, fields })
    }

    /// The fields of an object within this one; `null` counts as absent.
    ///
    /// # Errors
    /// When it is something else.
    pub(super) fn inner(&self, key: &str) -> Result<Option<Config>> {
        match self.fields.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(fields)) => {
                Ok(Some(Config { file: self.file.clone(), fields: fields.clone() }))
            }
            Some(other) => Err(self.wrong(key, format_args!("is {}, not an object", brief(other)))),
        }
    }

    /// The names of the fields.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.fields.keys().map(String::as_str)
    }

    /// Gives a field another name, unless there is one of that name.
    pub(super) fn rename(&mut self, from: &str, to: &str) {
        if let Some(value) = self.fields.remove(from) {
            self.fields.entry(to).or_insert(value);
        }
    }

    /// Sets a field.
    pub(super) fn set(&mut self, key: &str, value: Value) {
        self.fields.insert(key.to_owned(), value);
    }

    /// An error about this file.
    pub(super) fn error(&self, what: impl Into<String>) -> Error {
        Error::model(self.file.clone(), what)
    }

    /// An error about a field.
    pub(super) fn wrong(&self, key: &str, what: impl std::fmt::Display) -> Error {
        self.error(format!("field '{key}' {what}"))
    }

    /// A field that may be absent or `null`.
    ///
    /// # Errors
    /// When it is of another type, or a number out of range.
    pub(super) fn opt<'a, T: FromField<'a>>(&'a self, key: &str) -> Result<Option<T>> {
        match self.fields.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(v) => T::from_field(v)
                .map(Some)
                .ok_or_else(|| self.wrong(key, format_args!("is {}, not {}", brief(v), T::WHAT))),
        }
    }

    /// A field that must be there.
    ///
    /// # Errors
    /// As [`Config::opt`], and when it is absent.
    pub(super) fn get<'a, T: FromField<'a>>(&'a self, key: &str) -> Result<T> {
        self.opt(key)?.ok_or_else(|| self.wrong(key, "is missing: the configuration is incomplete"))
    }
}

/// A value for a message: short, whatever the file holds.
fn brief(v: &Value) -> String {
    match v {
        Value::String(s) => format!("'{}'", s.chars().take(40).collect::<String>()),
        Value::Array(a) => format!("a list of {}", a.len()),
        Value::Object(_) => "an object".into(),
        v => v.to_string(),
    }
}

/// What a field can be asked for as.
pub(super) trait FromField<'a>: Sized {
    const WHAT: &'static str;
    fn from_field(v: &'a Value) -> Option<Self>;
}

macro_rules! fields {
    ($($t:ty, $what:literal, $v:ident => $from:expr;)+) => {$(
        impl<'a> FromField<'a> for $t {
            const WHAT: &'static str = $what;
            fn from_field($v: &'a Value) -> Option<Self> { $from }
        }
    )+};
}
fields! {
    u32, "a whole number below 2^32", v => v.as_u64().and_then(|n| n.try_into().ok());
    i64, "a whole number", v => v.as_i64();
    f64, "a number", v => v.as_f64();
    f32, "a number of single precision", v => {
        v.as_f64().map(|x| x as f32).filter(|x| x.is_finite())
    };
    bool, "true or false", v => v.as_bool();
    &'a str, "a string", v => v.as_str();
    Vec<f32>, "a list of numbers", v => v.as_array()?.iter().map(f32::from_field).collect();
    Vec<u32>, "a list of whole numbers", v => v.as_array()?.iter().map(u32::from_field).collect();
    Vec<&'a str>, "a list of strings", v => v.as_array()?.iter().map(Value::as_str).collect();
}
