//! A text that resolves in place on a terminal: drawn, taken away, drawn again.

use crate::term::{Done, is_dumb, out, printable};
use console::{Term, measure_text_width};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Time between two drawings: what comes faster nobody sees.
const PAUSE: Duration = Duration::from_millis(40);

/// Where the text stands. On anything but a terminal only the end is written.
pub struct Canvas {
    terminal: Option<Term>,
    /// Lines of the last drawing above the cursor.
    above: usize,
    drawn: Option<Instant>,
}

impl Canvas {
    /// On stdout; `show` is false where nothing is to be written before the end.
    pub fn new(show: bool) -> Canvas {
        let live = show && std::io::stdout().is_terminal() && !is_dumb();
        Canvas { terminal: live.then(Term::stdout), above: 0, drawn: None }
    }

    /// Draws the text as it stands, unless it was drawn just now. Of one that is higher than the
    /// terminal the end.
    pub fn draw(&mut self, text: impl FnOnce() -> String) -> Done {
        let Some(terminal) = &self.terminal else { return Ok(()) };
        if self.drawn.is_some_and(|at| at.elapsed() < PAUSE) {
            return Ok(());
        }
        let (height, width) = terminal.size();
        let lines = wrap(&printable(&text()), usize::from(width).max(2) - 1);
        let most = usize::from(height).max(3) - 2;
        let shown = &lines[lines.len().saturating_sub(most)..];
        out(&format!("{}{}", self.erase(), shown.join("\n")))?;
        self.above = shown.len().saturating_sub(1);
        self.drawn = Some(Instant::now());
        Ok(())
    }

    /// Writes the text for good; on a terminal its line is ended.
    pub fn finish(&mut self, text: &str) -> Done {
        let erase = self.erase();
        self.above = 0;
        if std::io::stdout().is_terminal() {
            return out(&format!("{erase}{}\n", printable(text)));
        }
        out(text)
    }

    /// Leaves the last drawing as it is: what comes next begins below it.
    pub fn leave(&mut self) -> Done {
        self.above = 0;
        if self.drawn.take().is_some() { out("\n") } else { Ok(()) }
    }

    /// What takes the last drawing away, line by line: some terminals keep a copy of a screen that is
    /// cleared at once.
    fn erase(&self) -> String {
        match self.drawn {
            None => String::new(),
            Some(_) => format!("\r\x1b[2K{}", "\x1b[1A\x1b[2K".repeat(self.above)),
        }
    }
}

/// The lines of a text, none wider than `width` columns.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![];
    for line in text.split('\n') {
        let (mut part, mut wide) = (String::new(), 0);
        for c in line.chars() {
            let mut buffer = [0; 4];
            let w = measure_text_width(c.encode_utf8(&mut buffer));
            if wide + w > width && !part.is_empty() {
                lines.push(std::mem::take(&mut part));
                wide = 0;
            }
            part.push(c);
            wide += w;
        }
        lines.push(part);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit() {
        assert_eq!(wrap("abcde\nf\n", 2), ["ab", "cd", "e", "f", ""]);
        assert_eq!(wrap("日本語", 4), ["日本", "語"]);
        assert_eq!(wrap("", 4), [""]);
    }
}
