//! Values as Python writes them: `None`, `[1, 'a']`, `{'b': 1.5}`, `1e+16`.
//!
//! Lists and objects of the conversation are types of their own, so that they are written so
//! wherever a template makes text of them.

use super::budget::{Reads, charge, read};
use minijinja::value::{Enumerator, Object, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// Deeper values are not written.
const DEPTH: usize = 200;

/// A list.
#[derive(Debug)]
pub(super) struct List(pub Vec<Value>);

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        shown(Value::from_dyn_object(self.clone()), f)
    }
}

/// An object: names and values in order.
#[derive(Debug)]
pub(super) struct Dict {
    names: Vec<Value>,
    values: HashMap<String, Value>,
}

impl Dict {
    /// An object of these names and values; no name comes twice.
    pub fn new<'a>(fields: impl Iterator<Item = (&'a str, Value)>) -> Dict {
        let (mut names, mut values) = (Vec::new(), HashMap::new());
        for (name, value) in fields {
            names.push(Value::from(name));
            values.insert(name.to_owned(), value);
        }
        Dict { names, values }
    }
}

impl Object for Dict {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.values.get(key.as_str()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.names.clone())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        shown(Value::from_dyn_object(self.clone()), f)
    }
}

/// A value as its text; the budget's end is seen by whoever charges next.
fn shown(value: Value, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str(text(&value).as_deref().unwrap_or("..."))
}

/// `str(value)`; of the undefined, nothing. It is charged for.
pub(super) fn text(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    match value.kind() {
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            charge(text.len() as u64)?;
            out.push_str(text);
        }
        ValueKind::Undefined => {}
        _ => repr(value, 0, &mut out)?,
    }
    Ok(out)
}

fn repr(value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
    if depth > DEPTH {
        out.push_str("...");
        return Ok(());
    }
    let before = out.len();
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => match f64::try_from(value.clone()) {
            Ok(n) if !value.is_integer() => out.push_str(&float(n)),
            _ => out.push_str(&value.to_string()),
        },
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            // A byte takes up to four: \x7f.
            charge(4 * text.len() as u64)?;
            quoted(text, out);
            return Ok(());
        }
        ValueKind::Seq | ValueKind::Iterable if value.len().is_some() => {
            let (open, close) = if value.is_tuple() { ('(', ')') } else { ('[', ']') };
            out.push(open);
            let mut n = 0;
            for item in value.try_iter()? {
                separate(n, out);
                repr(&item, depth + 1, out)?;
                n += 1;
            }
            if n == 1 && value.is_tuple() {
                out.push(',');
            }
            out.push(close);
            return charge(2 + 2 * n as u64);
        }
        ValueKind::Map => {
            out.push('{');
            let mut n = 0;
            for key in value.try_iter()? {
                separate(n, out);
                repr(&key, depth + 1, out)?;
                out.push_str(": ");
                repr(&value.get_item(&key).unwrap_or_default(), depth + 1, out)?;
                n += 1;
            }
            out.push('}');
            return charge(2 + 4 * n as u64);
        }
        _ => {
            read(value, Reads::Once)?;
            out.push_str(&value.to_string());
        }
    }
    charge((out.len() - before) as u64)
}

fn separate(n: usize, out: &mut String) {
    if n > 0 {
        out.push_str(", ");
    }
}

/// A string as a literal: in single quotes unless it has such and no double ones.
fn quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        let n = u32::from(c);
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            c if is_printable(c) => out.push(c),
            _ if n < 0x100 => out.push_str(&format!("\\x{n:02x}")),
            _ if n < 0x1_0000 => out.push_str(&format!("\\u{n:04x}")),
            _ => out.push_str(&format!("\\U{n:08x}")),
        }
    }
    out.push(quote);
}

fn is_printable(c: char) -> bool {
    use GeneralCategoryGroup::{Other, Separator};
    !matches!(c.general_category_group(), Other | Separator)
}

/// The shortest form that reads back the same: an exponent of two digits below 1e-4 and from 1e16.
pub(super) fn float(n: f64) -> String {
    if n.is_nan() {
        return "nan".into();
    }
    let scientific = format!("{n:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(e) if n != 0.0 && !(-4..16).contains(&e) => {
            format!("{digits}e{}{:02}", if e < 0 { '-' } else { '+' }, e.abs())
        }
        _ => format!("{n:?}"),
    }
}

/// What a loop walks over. In Python `None` is not iterable; what is undefined is empty.
pub(super) fn iterable(value: Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::None => {
            Err(Error::new(ErrorKind::InvalidOperation, "'NoneType' object is not iterable"))
        }
        // A list of its characters, which the loop can count.
        ValueKind::String => Ok(value.try_iter()?.collect::<Vec<Value>>().into()),
        _ => Ok(value),
    }
}

/// `value[from:to:step]` for a negative step.
pub(super) fn backwards(
    value: &Value,
    from: Option<i64>,
    to: Option<i64>,
    step: i64,
) -> Result<Value, Error> {
    let text = value.as_str().map(|text| text.chars().map(Value::from));
    let items: Vec<Value> = match (text, value.kind()) {
        (Some(text), _) => text.collect(),
        (None, ValueKind::Seq | ValueKind::Iterable) => value.try_iter()?.collect(),
        (None, kind) => {
            let what = format!("a value of kind {kind} cannot be sliced");
            return Err(Error::new(ErrorKind::InvalidOperation, what));
        }
    };
    let n = items.len() as i64;
    let place = |given: Option<i64>, default: i64| match given {
        None => default,
        Some(at) if at < 0 => at.saturating_add(n).max(-1),
        Some(at) => at.min(n - 1),
    };
    let (mut at, to) = (place(from, n - 1), place(to, -1));
    let mut out = Vec::new();
    while at > to {
        out.extend(items.get(at as usize).cloned());
        at = at.saturating_add(step.min(-1));
    }
    Ok(match value.as_str() {
        Some(_) => Value::from(out.iter().map(Value::to_string).collect::<String>()),
        None => Value::from(out),
    })
}

/// `length`: what is undefined has none, of `None` it is an error.
pub(super) fn length(value: &Value) -> Result<usize, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(0),
        kind => value.len().ok_or_else(|| {
            Error::new(ErrorKind::InvalidOperation, format!("a value of kind {kind} has no length"))
        }),
    }
}

/// `is sequence`: what has a length and items; in Python that is a string and a mapping too.
pub(super) fn is_sequence(value: &Value) -> bool {
    use ValueKind::{Iterable, Map, Seq, String};
    value.is_undefined()
        || matches!(value.kind(), String | Seq | Map | Iterable) && value.len().is_some()
}

/// A sum of texts of which some may be marked as safe: whatever is added to such a text is escaped
/// for HTML, and the sum is safe.
pub(super) fn concat(parts: &[Value]) -> Result<Value, Error> {
    let mut parts = parts.iter();
    let mut sum = parts.next().cloned().unwrap_or_default();
    for part in parts {
        let (Some(left), Some(right)) = (sum.as_str(), part.as_str()) else {
            let what = format!("cannot add {} and {}", sum.kind(), part.kind());
            return Err(Error::new(ErrorKind::InvalidOperation, what));
        };
        sum = if sum.is_safe() || part.is_safe() {
            Value::from_safe_string(escaped(left, &sum) + &escaped(right, part))
        } else {
            Value::from(format!("{left}{right}"))
        };
    }
    Ok(sum)
}

fn escaped(text: &str, value: &Value) -> String {
    if value.is_safe() {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats() {
        for (n, want) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (123456789012345.6, "123456789012345.6"),
            (1e16, "1e+16"),
            (-1.5e300, "-1.5e+300"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(float(n), want);
        }
    }

    /// Checked against Python's `str`.
    #[test]
    fn lists_and_objects() {
        let inner = List(vec![Value::from("it's"), Value::from(1.5), Value::from(())]);
        let fields = [("a\n\u{7f}\u{2028}é", Value::from_object(inner)), ("b", Value::from(true))];
        let dict = Dict::new(fields.into_iter());
        let want = r#"{'a\n\x7f\u2028é': ["it's", 1.5, None], 'b': True}"#;
        assert_eq!(Value::from_object(dict).to_string(), want);
        assert_eq!(text(&Value::from(vec!["a'\"", "b"])).unwrap(), r#"['a\'"', 'b']"#);
    }
}
