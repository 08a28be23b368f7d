//! JSON as templates see it, and `tojson` as Hugging Face defines it: Python's `json.dumps` with
//! `ensure_ascii=False` and no escaping for HTML.

use super::budget::charge;
use super::python::{self, Dict, List};
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// A JSON value as the template engine's.
pub(super) fn value(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => Value::from(()),
        Json::Bool(b) => Value::from(*b),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => Value::from(n),
            (None, Some(n)) => Value::from(n),
            (None, None) => Value::from(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(s) => Value::from(s.as_str()),
        Json::Array(items) => Value::from_object(List(items.iter().map(value).collect())),
        Json::Object(fields) => {
            Value::from_object(Dict::new(fields.iter().map(|(k, v)| (k.as_str(), value(v)))))
        }
    }
}

/// How to lay out and order.
struct Style {
    ensure_ascii: bool,
    sort_keys: bool,
    /// What a level is indented by; `None` for one line.
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
}

/// The filter: `value|tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(
    value: &Value,
    ensure_ascii: Option<bool>,
    options: Kwargs,
) -> Result<String, Error> {
    let named: Option<bool> = options.get("ensure_ascii")?;
    let indent: Option<Value> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let indent = match indent.filter(|v| !v.is_none() && !v.is_undefined()) {
        None => None,
        Some(v) => Some(match v.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(v)?.min(64)),
        }),
    };
    let [item_separator, key_separator] = match separators {
        None if indent.is_some() => [",", ": "].map(str::to_owned),
        None => [", ", ": "].map(str::to_owned),
        Some(given) => given.try_into().map_err(|_| {
            Error::new(ErrorKind::InvalidOperation, "tojson: separators must be two strings")
        })?,
    };
    let style = Style {
        ensure_ascii: ensure_ascii.or(named).unwrap_or(false),
        sort_keys: sort_keys.unwrap_or(false),
        indent,
        item_separator,
        key_separator,
    };
    let mut out = String::new();
    style.write(value, 0, &mut out)?;
    Ok(out)
}

impl Style {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        // Values come from requests, whose parser bounds their depth; templates can nest more.
        if depth > 200 {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: nested too deeply"));
        }
        let before = out.len();
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.map(|v| (None, v));
                return self.list('[', ']', items, depth, out);
            }
            ValueKind::Map => {
                let mut items = Vec::new();
                for key in value.try_iter()? {
                    let item = value.get_item(&key)?;
                    items.push((Some(key_text(&key)?), item));
                }
                if self.sort_keys {
                    items.sort_by(|a, b| a.0.cmp(&b.0));
                }
                return self.list('{', '}', items.into_iter(), depth, out);
            }
            kind => {
                let what = format!("tojson: a value of kind {kind} is not JSON");
                return Err(Error::new(ErrorKind::InvalidOperation, what));
            }
        }
        charge((out.len() - before) as u64)
    }

    fn list(
        &self,
        open: char,
        close: char,
        items: impl Iterator<Item = (Option<String>, Value)>,
        depth: usize,
        out: &mut String,
    ) -> Result<(), Error> {
        let line = |depth: usize, out: &mut String| -> Result<(), Error> {
            if let Some(indent) = &self.indent {
                charge(1 + (depth * indent.len()) as u64)?;
                out.push('\n');
                (0..depth).for_each(|_| out.push_str(indent));
            }
            Ok(())
        };
        out.push(open);
        let mut empty = true;
        for (key, item) in items {
            if !empty {
                charge(self.item_separator.len() as u64)?;
                out.push_str(&self.item_separator);
            }
            empty = false;
            line(depth + 1, out)?;
            let before = out.len();
            if let Some(key) = key {
                self.string(&key, out);
                out.push_str(&self.key_separator);
            }
            charge((out.len() - before) as u64)?;
            self.write(&item, depth + 1, out)?;
        }
        if !empty {
            line(depth, out)?;
        }
        out.push(close);
        charge(2)
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || self.ensure_ascii && !(' '..='~').contains(&c) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// A number as Python writes it in JSON.
fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(n) if !value.is_integer() => float(n),
        _ => value.to_string(),
    }
}

/// A float as Python's JSON has it.
fn float(n: f64) -> String {
    if n.is_finite() {
        return python::float(n);
    }
    let name = if n.is_nan() { "NaN" } else { "Infinity" };
    format!("{}{name}", if n < 0.0 { "-" } else { "" })
}

/// A key as text: Python writes scalars as their JSON.
fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::Number => Ok(number(key)),
        ValueKind::None => Ok("null".into()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.into()),
        kind => {
            let what = format!("tojson: a key of kind {kind} is not JSON");
            Err(Error::new(ErrorKind::InvalidOperation, what))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_has_python_s_names() {
        let names = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e16].map(float);
        assert_eq!(names, ["Infinity", "-Infinity", "NaN", "1e+16"]);
    }
}
