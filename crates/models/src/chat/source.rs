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
//! - The engine multiplies constants when it compiles, before any budget counts: the left factor goes
//!   through the filter [`SAME`], which makes it none ([`check`] sees to it).
//!
//! One thing is refused: a loop with a condition on what its own body sets in a namespace. Jinja2 asks
//! the condition before each turn, the engine before the first.
//!
//! No line is added or taken away, so that errors name the right one.

use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;

/// The filter of what loops walk over.
pub(super) const ITERABLE: &str = "__iterable";
/// The function that adds texts of which one is marked as safe.
pub(super) const CONCAT: &str = "__concat";

/// The filter that gives back what it was given.
pub(super) const SAME: &str = "__same";

/// The filter of slices that go backwards: from, to, step.
pub(super) const BACKWARDS: &str = "__backwards";

/// The source for the engine.
///
/// # Errors
/// The line of what it reads otherwise, where no other source says the same.
pub(super) fn rewrite(source: &str) -> Result<String, String> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len() + source.len() / 8);
    let mut rest = source.as_str();
    let mut conditions: Vec<&str> = Vec::new(); // of the loops around
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
                if changes_its_loop(tag, &mut conditions) {
                    let line = 1 + out.matches('\n').count();
                    return Err(format!(
                        "line {line}: sets what the condition of the loop around it asks; that is \
                         not supported: put the condition into the loop, as an if"
                    ));
                }
                rewrite_tag(tag, statement, &mut out);
                if word_of(&tag[2..]) == "raw" {
                    let end = end_of_raw(rest).unwrap_or(rest.len());
                    out.push_str(&rest[..end]);
                    rest = &rest[end..];
                }
            }
        }
    }
    Ok(out + rest)
}

/// Follows the loops, and says whether a tag sets what the condition of one around it asks.
fn changes_its_loop<'t>(tag: &'t str, conditions: &mut Vec<&'t str>) -> bool {
    let inside = &tag[2..tag.len() - 2];
    match word_of(inside) {
        "for" => {
            let condition = top_level(inside, |text, at| stands(text, at, "if"));
            conditions.push(condition.map_or("", |at| &inside[at..]));
        }
        "endfor" => drop(conditions.pop()),
        "set" => {
            let name =
                inside.trim_start_matches(['-', '+']).trim_start()["set".len()..].trim_start();
            let Some((name, _)) = name.split_once('=') else { return false };
            let Some((space, _)) = name.split_once('.') else { return false };
            let asks = |c: &&str| c.char_indices().any(|(at, _)| stands(c, at, space.trim_end()));
            return conditions.iter().any(asks);
        }
        _ => {}
    }
    false
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
    let sliced = operators(inner);
    out.push_str(&tag[..2 + start]);
    out.push_str(&change(&sliced).unwrap_or(sliced));
    out.push_str(&tag[2 + start + inner.len()..]);
}

/// Makes sure that no product is left to the compiler, however the source was written.
///
/// # Errors
/// The line of such a product.
pub(super) fn check(source: &str, syntax: &SyntaxConfig) -> Result<(), String> {
    let mut before = None;
    for token in tokenize(source, false, syntax.clone()) {
        // What is no token is no template either; the compiler says so.
        let Ok((token, span)) = token else { return Ok(()) };
        if matches!(token, Token::Mul) && !matches!(before, Some(Token::Ident(SAME))) {
            let what = "a '*' that is no product, as in f(*list), is not supported";
            return Err(format!("line {}: {what}", span.start_line));
        }
        before = Some(token);
    }
    Ok(())
}

/// An expression with its backward slices as filters, and the left factors of its products through one.
fn operators(inner: &str) -> String {
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
        } else if c == '*' && is_product(inner, at) {
            out.push_str(&format!("|{SAME} "));
        }
        out.push(c);
    }
    out
}

/// Whether a `*` multiplies: it is no power, and something stands before it.
fn is_product(inner: &str, at: usize) -> bool {
    let before = inner[..at].trim_end();
    let power = inner[at + 1..].starts_with('*') || inner[..at].ends_with('*');
    !power && !before.is_empty() && !before.ends_with(['(', ','])
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
    fn rewrite(source: &str) -> String {
        super::rewrite(source).unwrap()
    }

    #[test]
    fn a_loop_that_changes_its_own_condition() {
        let around = |condition: &str, body: &str| {
            format!("a\n{{% for x in y if {condition} %}}\n{{%- set {body} %}}{{% endfor %}}")
        };
        for (condition, body) in [("n.a < 0", "n.a = 1"), ("x and not n . b", "n.a = n.a + 1")] {
            let refused = super::rewrite(&around(condition, body)).unwrap_err();
            assert!(refused.starts_with("line 3:"), "{refused}");
        }
        for (condition, body) in [("n.a < 0", "m.a = 1"), ("x", "n = n.a"), ("nn.a", "n.a = 1")] {
            rewrite(&around(condition, body));
        }
        rewrite("{% for x in y if n.a %}{% endfor %}{% set n.a = 1 %}");
    }

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
        assert_eq!(rewrite("{{ 'a*' * 3 ** 2 * b }}"), "{{ 'a*' |__same * 3 ** 2 |__same * b }}");
        assert_eq!(rewrite("{% for x in y %}"), "{% for x in ( y )|__iterable %}");
        assert_eq!(
            rewrite("{{- 'a+'|safe + f(b + c) + d | tojson() -}}"),
            "{{- __concat( 'a+'|safe , f(b + c) , d | tojson() ) -}}"
        );
    }
}
