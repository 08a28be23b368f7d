//! Source files, and Rust code with everything that is not code blanked out.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A text file of the repository.
pub struct SourceFile {
    /// Relative to the root, with `/`.
    pub path: String,
    /// As it stands.
    pub text: String,
}

impl SourceFile {
    /// The code of a Rust file line by line: no comment, no string, and nothing from a closing
    /// `#[cfg(test)] mod tests` on.
    pub fn code(&self) -> Vec<String> {
        let lines: Vec<String> = blank(&self.text).lines().map(str::to_owned).collect();
        let tests = lines
            .windows(2)
            .position(|w| w[0].trim() == "#[cfg(test)]" && w[1].trim().starts_with("mod tests"));
        lines[..tests.unwrap_or(lines.len())].to_vec()
    }
}

/// Every file below `dirs` with one of these extensions, in the order of their paths. Hidden
/// directories and build outputs are left out.
pub fn files(root: &Path, dirs: &[&str], extensions: &[&str]) -> Result<Vec<SourceFile>> {
    let mut found = Vec::new();
    let mut todo: Vec<PathBuf> = dirs.iter().map(|d| root.join(d)).collect();
    while let Some(dir) = todo.pop() {
        if !dir.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                if !(name.starts_with('.') || name == "target" || name == "out") {
                    todo.push(path);
                }
            } else if path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x)) {
                let text = fs::read(&path).with_context(|| format!("{}", path.display()))?;
                let relative = path.strip_prefix(root).unwrap_or(&path);
                found.push(SourceFile {
                    path: relative.to_string_lossy().replace('\\', "/"),
                    text: String::from_utf8_lossy(&text).into_owned(),
                });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Whether a character may stand in an identifier.
pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The identifiers and keywords of a line.
pub fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c| !is_word(c)).filter(|w| !w.is_empty())
}

/// Rust text with comments, strings and character literals turned to spaces; lines stay lines.
pub fn blank(text: &str) -> String {
    let c: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    while i < c.len() {
        let end = match c[i] {
            '/' if c.get(i + 1) == Some(&'/') => until(&c, i, |c, j| c[j] == '\n'),
            '/' if c.get(i + 1) == Some(&'*') => block_comment(&c, i),
            '"' => quoted(&c, i + 1, '"'),
            'r' if !(i > 0 && is_word(c[i - 1]) && c[i - 1] != 'b' && c[i - 1] != 'c') => {
                raw_string(&c, i)
            }
            '\'' if c.get(i + 1) == Some(&'\\') => quoted(&c, i + 1, '\''),
            '\'' if c.get(i + 2) == Some(&'\'') => i + 3, // a character, not a lifetime
            _ => i,
        };
        if end == i {
            out.push(c[i]);
            i += 1;
        } else {
            out.extend(c[i..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            i = end;
        }
    }
    out
}

fn until(c: &[char], from: usize, stop: impl Fn(&[char], usize) -> bool) -> usize {
    (from..c.len()).find(|&j| stop(c, j)).unwrap_or(c.len())
}

/// Where the block comment that begins at `i` ends; they nest.
fn block_comment(c: &[char], mut i: usize) -> usize {
    let mut depth = 0;
    while i < c.len() {
        match (c[i], c.get(i + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                i += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                i += 2;
                if depth == 0 {
                    return i;
                }
            }
            _ => i += 1,
        }
    }
    i
}

/// Where a literal ends whose opening quote stands before `i`.
fn quoted(c: &[char], mut i: usize, quote: char) -> usize {
    while i < c.len() && c[i] != quote {
        i += if c[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(c.len())
}

/// Where the raw string that begins at `i` ends; `i` itself when there is none.
fn raw_string(c: &[char], i: usize) -> usize {
    let open = until(c, i + 1, |c, j| c[j] != '#');
    let hashes = open - i - 1;
    if c.get(open) != Some(&'"') {
        return i;
    }
    let closes =
        |c: &[char], j: usize| c[j] == '"' && (1..=hashes).all(|h| c.get(j + h) == Some(&'#'));
    (until(c, open + 1, closes) + 1 + hashes).min(c.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_stays() {
        let text =
            "a /* dyn /* b */ */ c // dyn\n\"dyn \\\" x\" d 'y' '\\'' e<'a> r#\"dyn \" \"# f";
        let left: Vec<Vec<String>> =
            blank(text).lines().map(|l| words(l).map(str::to_owned).collect()).collect();
        assert_eq!(left, [vec!["a", "c"], vec!["d", "e", "a", "f"]]);
    }

    #[test]
    fn names_that_end_in_r_open_no_raw_string() {
        assert_eq!(blank("for x in br\"q\" {}").trim_end(), "for x in b     {}");
        assert_eq!(blank("var \"q\""), "var    ");
    }

    #[test]
    fn closing_tests_are_no_code() {
        let file = SourceFile {
            path: String::new(),
            text: "fn a() {}\n#[cfg(test)]\nmod tests {\n    use x;\n}\n".to_owned(),
        };
        assert_eq!(file.code(), ["fn a() {}"]);
    }
}
