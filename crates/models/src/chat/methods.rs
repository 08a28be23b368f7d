//! Methods that Python's strings and lists have and the engine's own collection lacks.

use minijinja::value::{ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

/// Calls `value.name(args)`.
///
/// # Errors
/// An unknown method, wrong arguments, what Python itself would raise.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let own = match (value.as_str(), value.kind()) {
        (Some(text), _) => of_text(text, name, args)?,
        (None, ValueKind::Seq) => of_list(value, name, args)?,
        _ => None,
    };
    own.map_or_else(|| pycompat::unknown_method_callback(state, value, name, args), Ok)
}

fn of_text(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let parts = |(a, b, c): (&str, &str, &str)| [a, b, c].into_iter().collect::<Value>();
    Ok(Some(match name {
        "rsplit" => {
            let (mark, most): (Option<&str>, Option<i64>) = from_args(args)?;
            let most = most.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
            Value::from(rsplit(text, mark, most)?)
        }
        "partition" | "rpartition" => {
            let (mark,): (&str,) = from_args(args)?;
            not_empty(mark)?;
            let last = name == "rpartition";
            let at = if last { text.rfind(mark) } else { text.find(mark) };
            parts(match at {
                Some(at) => (&text[..at], mark, &text[at + mark.len()..]),
                None if last => ("", "", text),
                None => (text, "", ""),
            })
        }
        "removeprefix" => {
            let (start,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(start).unwrap_or(text))
        }
        "removesuffix" => {
            let (end,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(end).unwrap_or(text))
        }
        "index" | "rindex" => {
            let (part,): (&str,) = from_args(args)?;
            let at = if name == "index" { text.find(part) } else { text.rfind(part) };
            let at = at.ok_or_else(|| wrong("substring not found"))?;
            Value::from(text[..at].chars().count())
        }
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            Value::from(format!("{sign}{}{digits}", padding("0", text, width)?))
        }
        "ljust" | "rjust" => {
            let (width, fill): (usize, Option<&str>) = from_args(args)?;
            let fill = padding(fill.unwrap_or(" "), text, width)?;
            Value::from(if name == "ljust" { text.to_owned() + &fill } else { fill + text })
        }
        "casefold" => Value::from(text.to_lowercase()),
        _ => return Ok(None),
    }))
}

fn of_list(list: &Value, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    if name != "index" {
        return Ok(None);
    }
    let (wanted,): (Value,) = from_args(args)?;
    let at = list.try_iter()?.position(|item| item == wanted);
    at.map(|at| Some(Value::from(at))).ok_or_else(|| wrong("the value is not in the list"))
}

/// At most `most` cuts, from the right; at white space without a mark.
fn rsplit(text: &str, mark: Option<&str>, most: usize) -> Result<Vec<String>, Error> {
    let (mut parts, mut rest) = (Vec::new(), text);
    if let Some(mark) = mark {
        not_empty(mark)?;
        while let Some(at) = rest.rfind(mark).filter(|_| parts.len() < most) {
            parts.push(rest[at + mark.len()..].to_owned());
            rest = &rest[..at];
        }
        parts.push(rest.to_owned());
    } else {
        rest = rest.trim_end();
        while let Some((before, word)) = rest.rsplit_once(char::is_whitespace)
            && parts.len() < most
        {
            parts.push(word.to_owned());
            rest = before.trim_end();
        }
        parts.extend(Some(rest).filter(|r| !r.is_empty()).map(str::to_owned));
    }
    parts.reverse();
    Ok(parts)
}

/// What is added to a text so that it has so many characters.
fn padding(fill: &str, text: &str, width: usize) -> Result<String, Error> {
    if fill.chars().count() != 1 {
        return Err(wrong("the fill character must be exactly one character long"));
    }
    // The engine's fuel counts instructions, not bytes.
    if width > 10_000 {
        return Err(wrong("a text cannot be filled up to more than 10000 characters"));
    }
    Ok(fill.repeat(width.saturating_sub(text.chars().count())))
}

fn not_empty(mark: &str) -> Result<(), Error> {
    if mark.is_empty() { Err(wrong("empty separator")) } else { Ok(()) }
}

fn wrong(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}
