//! A template's source, where Jinja2 with the settings of `transformers` reads it otherwise than the
//! engine here: what is left is a source that the engine reads as they do.
//!
//! - Line ends are line feeds.
//! - `{% generation %}` marks what the assistant said, for training; to a reader it is nothing. It
//!   becomes a condition that holds, which keeps the rules of white space.
//! - A loop over `none` is an error: what it walks over goes through the filter [`ITERABLE`].
//! - A slice that goes backwards, `x[::-1]`, becomes the filter [`BACKWARDS`]: the engine's own panics
//!   on what is empty.
//! - A sum with a part marked as safe escapes the other parts for HTML: it becomes a call of
//!   [`CONCAT`].
//!
//! No line is added or taken away, so that errors name the right one.

/// The filter of what loops walk over.
pub(super) const ITERABLE: &str = "__iterable";
/// The function that adds texts of which one is marked as safe.
pub(super) const CONCAT: &str = "__concat";

/// The filter of slices that go backwards: from, to, step.
pub(super) const BACKWARDS: &str = "__backwards";

/// The source for the engine.
pub(super) fn rewrite(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len() + source.len() / 8);
    let mut rest = source.as_str();
    while let Some(open) = next_open(rest) {
        let (before, tag) = rest.split_at(open);
        out.push_str(before);
        let close = match &tag[..2] {
            "{#" => tag.find("#}").map(|n| n + 2),
            "{{" => end_of_tag(tag, "}}"),
            _ => end_of_tag(tag, "%}"),
        };
        let Some(close) = close else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(close);
        rest = after;
        match &tag[..2] {
            "{#" => out.push_str(tag),
            "{{" => rewrite_tag(tag, concat, &mut out),
            _ => {
                rewrite_tag(tag, statement, &mut out);
                if word_of(&tag[2..]) == "raw" {
                    let end = end_of_raw(rest).unwrap_or(rest.len());
                    out.push_str(&rest[..end]);
                    rest = &rest[end..];
                }
            }
        }
    }
    out + rest
}

/// Where the next tag or comment opens.
fn next_open(text: &str) -> Option<usize> {
    let opens = |&(_, pair): &(usize, &[u8])| matches!(pair, b"{{" | b"{%" | b"{#");
    text.as_bytes().windows(2).enumerate().find(opens).map(|(at, _)| at)
}

/// Where the `{% endraw %}` begins.
fn end_of_raw(text: &str) -> Option<usize> {
    text.match_indices("{%").map(|(at, _)| at).find(|&at| word_of(&text[at + 2..]) == "endraw")
}

/// Where a tag ends, after its last mark: the first outside of strings and brackets.
fn end_of_tag(tag: &str, mark: &str) -> Option<usize> {
    let mut found = None;
    outside(&tag[2..], |at, _| {
        let ends = tag[2 + at..].starts_with(mark);
        found = ends.then_some(2 + at + mark.len());
        ends
    });
    found
}

/// Calls `at` for the characters outside of strings and of brackets, with what is before each of
/// them; until it says that it has seen enough.
fn outside(text: &str, mut at: impl FnMut(usize, char) -> bool) {
    let mut depth = 0usize;
    let mut quote = None;
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        if let Some(q) = quote {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                _ if c == q => quote = None,
                _ => {}
            }
            continue;
        }
        if depth == 0 && at(i, c) {
            return;
        }
        match c {
            '\'' | '"' => quote = Some(c),
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
}

/// The first word of a tag's inside.
fn word_of(inside: &str) -> &str {
    let inside = inside.trim_start_matches(['-', '+']).trim_start();
    let end = inside.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(inside.len());
    &inside[..end]
}

/// Appends a tag whose inside, without the marks of white space, `change` may replace.
fn rewrite_tag(tag: &str, change: fn(&str) -> Option<String>, out: &mut String) {
    let inside = &tag[2..tag.len() - 2];
    let start = inside.len() - inside.strip_prefix(['-', '+']).unwrap_or(inside).len();
    let inner = &inside[start..];
    let inner = inner.strip_suffix(['-', '+']).unwrap_or(inner);
    let sliced = slices(inner);
    out.push_str(&tag[..2 + start]);
    out.push_str(&change(&sliced).unwrap_or(sliced));
    out.push_str(&tag[2 + start + inner.len()..]);
}

/// An expression with its backward slices as filters.
fn slices(inner: &str) -> String {
    let mut out = String::with_capacity(inner.len());
    let mut quote = None;
    let mut escaped = false;
    let mut skip_to = 0;
    for (at, c) in inner.char_indices() {
        if at < skip_to {
            continue;
        }
        if let Some(q) = quote {
            quote = Some(q).filter(|_| escaped || c != q);
            escaped = !escaped && c == '\\';
        } else if c == '\'' || c == '"' {
            quote = Some(c);
        } else if c == '['
            && let Some((filter, end)) = backward_slice(&inner[at..])
        {
            out.push_str(&filter);
            skip_to = at + end;
            continue;
        }
        out.push(c);
    }
    out
}

/// The filter for a slice that a text begins with, and the slice's length.
fn backward_slice(text: &str) -> Option<(String, usize)> {
    let end = text.find(']')?;
    let inside = &text[1..end];
    let mut parts = inside.split(':').map(str::trim);
    let (from, to, step) = (parts.next()?, parts.next()?, parts.next()?);
    let digits = step.strip_prefix('-')?;
    let plain = !inside.contains(['[', '(', '{', '"', '\'', ',']) && parts.next().is_none();
    let whole = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    // What follows a filter must not be part of its name.
    let last = !text[end + 1..].trim_start().starts_with(['[', '.', '(']);
    let or_none = |part: &str| if part.is_empty() { "none".to_owned() } else { part.to_owned() };
    let filter = || format!("|{BACKWARDS}({}, {}, {step})", or_none(from), or_none(to));
    (plain && whole && last).then(|| (filter(), end + 1))
}

fn statement(inner: &str) -> Option<String> {
    match word_of(inner) {
        "generation" => Some(inner.replacen("generation", "if true", 1)),
        "endgeneration" => Some(inner.replacen("endgeneration", "endif", 1)),
        "for" => for_loop(inner),
        "set" => {
            let equals = top_level(inner, |text, at| text[at..].starts_with('='))?;
            let value = concat(&inner[equals + 1..])?;
            Some(format!("{}{value}", &inner[..=equals]))
        }
        _ => None,
    }
}

/// The first place outside of strings and brackets that `is` accepts.
fn top_level(text: &str, is: impl Fn(&str, usize) -> bool) -> Option<usize> {
    let mut found = None;
    outside(text, |at, _| {
        found = is(text, at).then_some(at);
        found.is_some()
    });
    found
}

/// Whether a word stands at a place, as a word of its own.
fn stands(text: &str, at: usize, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text[at..].strip_prefix(word).is_some_and(|after| !after.starts_with(part))
        && !text[..at].ends_with(part)
}

/// `for TARGET in EXPRESSION`, then perhaps `if CONDITION` and `recursive`.
fn for_loop(inner: &str) -> Option<String> {
    let over = top_level(inner, |text, at| stands(text, at, "in"))? + 2;
    let rest = &inner[over..];
    let end = top_level(rest, |text, at| stands(text, at, "if") || stands(text, at, "recursive"));
    let (what, after) = rest.split_at(end.unwrap_or(rest.len()));
    let head = &inner[..over];
    (!what.trim().is_empty()).then(|| format!("{head} ({what})|{ITERABLE} {after}"))
}

/// A sum with a part marked as safe; `None` for any other expression.
fn concat(expression: &str) -> Option<String> {
    let words = ["if", "else", "and", "or", "not", "in", "is"];
    let (mut parts, mut start, mut plain) = (Vec::new(), 0, true);
    outside(expression, |at, c| {
        if c == '+' {
            parts.push(&expression[start..at]);
            start = at + 1;
        }
        plain &= !",~<>=!-*/%".contains(c);
        plain &= !words.iter().any(|word| stands(expression, at, word));
        !plain
    });
    parts.push(&expression[start..]);
    let marks = |part: &&str| {
        let filter = |at: usize, name: &str| {
            let after = part[at..].strip_prefix('|').map(str::trim_start);
            after.is_some_and(|after| stands(after, 0, name))
        };
        let names = ["safe", "e", "escape", "forceescape"];
        top_level(part, |_, at| names.iter().any(|name| filter(at, name))).is_some()
    };
    let wanted = plain && parts.len() > 1 && parts.iter().any(marks);
    wanted.then(|| format!(" {CONCAT}({}) ", parts.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_changed() {
        for same in [
            "a{{ b }}c{% if x %}{# {% for a in b %} #}{% endif %}",
            "{{ '{% for a in b %}' }}",
            "{% raw %}{% for a in b %}{{ a|safe + b }}{% endraw %}{{ a + b }}",
            "{{ a|safe }} {{ a|safe if b + c else d }} {{ {'a': {'b': 1}} }}",
            "{{ unclosed",
            "{% set ns = namespace(a=1) %}",
        ] {
            assert_eq!(rewrite(same), same);
        }
        assert_eq!(rewrite("a\r\nb\rc"), "a\nb\nc");
        assert_eq!(
            rewrite("{%- generation -%}x{% endgeneration %}"),
            "{%- if true -%}x{% endif %}"
        );
        assert_eq!(
            rewrite("{%- for a, b in f('in', [1]) if a in c recursive -%}"),
            "{%- for a, b in ( f('in', [1]) )|__iterable if a in c recursive -%}"
        );
        assert_eq!(
            rewrite("{{ x['[::-1]'][::-1] + y[a:b : -2] }}"),
            "{{ x['[::-1]']|__backwards(none, none, -1) + y|__backwards(a, b, -2) }}"
        );
        assert_eq!(rewrite("{% for x in y %}"), "{% for x in ( y )|__iterable %}");
        assert_eq!(
            rewrite("{{- 'a+'|safe + f(b + c) + d | tojson() -}}"),
            "{{-  __concat( 'a+'|safe , f(b + c) , d | tojson() )  -}}"
        );
    }
}
