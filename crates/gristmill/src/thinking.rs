//! What a model thinks before it answers, told apart from the answer.
//!
//! Models that think first write their thoughts between two tags, or in channels. The tags are
//! text for some models and special tokens for others. They count only where an answer may begin:
//! a model may well write about `<think>` in the midst of one.

/// Tags around thoughts.
const TAGS: [(&str, &str); 4] = [
    ("<think>", "</think>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
];
/// Special tokens of the format with channels: `<|channel|>NAME<|message|>...<|end|><|start|>ROLE`.
const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
const START: &str = "<|start|>";
const END: &str = "<|end|>";
/// Channels that are not meant for the user.
const INNER: [&str; 2] = ["analysis", "commentary"];

/// Variables of chat templates that switch thinking on and off.
pub const SWITCHES: [&str; 2] = ["enable_thinking", "thinking"];

/// The tag that a prompt ends with, so that the model begins by thinking.
pub fn opened_by(prompt: &str) -> Option<&'static str> {
    let end = prompt.trim_end();
    TAGS.iter().map(|t| t.0).find(|tag| end.ends_with(tag))
}

/// What a piece of text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Meant for the user.
    Answer,
    /// A thought, or a tag around one.
    Thought,
}

#[derive(Debug)]
enum State {
    /// An answer or a tag may begin; `held` may be the beginning of a tag, after spaces.
    Open {
        after: Part,
    },
    Answer,
    Thought {
        close: &'static str,
    },
    /// The name of a channel or a role.
    Header,
}

/// Sorts the text of an answer as it comes.
#[derive(Debug)]
pub struct Splitter {
    state: State,
    /// Text that is not sorted yet: it may be the beginning of a tag. In a header, its name.
    held: String,
}

impl Splitter {
    /// `opens` is the tag at the end of the prompt, where there is one.
    pub fn new(opens: Option<&str>) -> Splitter {
        let close = opens.and_then(|o| TAGS.iter().find(|t| t.0 == o)).map(|t| t.1);
        let state =
            close.map_or(State::Open { after: Part::Answer }, |c| State::Thought { close: c });
        Splitter { state, held: String::new() }
    }

    /// Sorts text that the model wrote; `sink` takes the pieces, in order.
    pub fn text(&mut self, text: &str, sink: &mut dyn FnMut(Part, &str)) {
        self.held.push_str(text);
        loop {
            match self.state {
                State::Header => return,
                State::Answer => {
                    take(&mut self.held, usize::MAX, Part::Answer, sink);
                    return;
                }
                State::Open { after } => {
                    let spaces = self.held.len() - self.held.trim_start().len();
                    let begun = &self.held[spaces..];
                    if let Some(&(open, close)) = TAGS.iter().find(|t| begun.starts_with(t.0)) {
                        take(&mut self.held, spaces + open.len(), Part::Thought, sink);
                        self.state = State::Thought { close };
                    } else if TAGS.iter().any(|t| t.0.starts_with(begun)) {
                        return; // also where nothing but spaces came
                    } else {
                        take(&mut self.held, spaces, after, sink);
                        self.state = State::Answer;
                    }
                }
                State::Thought { close } => match self.held.find(close) {
                    Some(at) => {
                        take(&mut self.held, at + close.len(), Part::Thought, sink);
                        self.state = State::Open { after: Part::Thought };
                    }
                    None => {
                        let sure = self.held.len() - overlap(&self.held, close);
                        take(&mut self.held, sure, Part::Thought, sink);
                        return;
                    }
                },
            }
        }
    }

    /// Sorts a special token, by its name. It is shown only as a tag.
    pub fn special(&mut self, name: &str, sink: &mut dyn FnMut(Part, &str)) {
        if matches!(self.state, State::Thought { close } if close == name) {
            take(&mut self.held, usize::MAX, Part::Thought, sink);
            let shown = if name == END { "\n\n" } else { name };
            sink(Part::Thought, shown);
            self.state = State::Open { after: Part::Thought };
            return;
        }
        match (name, &self.state) {
            (CHANNEL | START, _) => {
                self.finish(sink);
                self.state = State::Header;
            }
            (MESSAGE, State::Header) => {
                // A role without a channel speaks to the user, as in `assistant<|message|>`.
                let name = std::mem::take(&mut self.held);
                let thinks = INNER.iter().any(|c| name.trim().starts_with(c));
                self.state = if thinks { State::Thought { close: END } } else { State::Answer };
            }
            (_, State::Open { .. }) => {
                if let Some(&(open, close)) = TAGS.iter().find(|t| t.0 == name) {
                    take(&mut self.held, usize::MAX, Part::Thought, sink);
                    sink(Part::Thought, open);
                    self.state = State::Thought { close };
                }
            }
            _ => {}
        }
    }

    /// Gives what was held back, when nothing more comes.
    pub fn finish(&mut self, sink: &mut dyn FnMut(Part, &str)) {
        let part = match self.state {
            State::Header => return self.held.clear(),
            State::Thought { .. } => Part::Thought,
            State::Answer => Part::Answer,
            State::Open { after } if self.held.trim().is_empty() => after,
            State::Open { .. } => Part::Answer,
        };
        take(&mut self.held, usize::MAX, part, sink);
    }
}

/// Hands the first `n` bytes of `held` on, or all where there are fewer.
fn take(held: &mut String, n: usize, part: Part, sink: &mut dyn FnMut(Part, &str)) {
    let n = n.min(held.len());
    if n > 0 {
        sink(part, &held[..n]);
        held.drain(..n);
    }
}

/// Bytes at the end of `text` that may be the beginning of `tag`.
fn overlap(text: &str, tag: &str) -> usize {
    let most = tag.len().min(text.len() + 1) - 1;
    (1..=most).rev().find(|&n| text.ends_with(&tag[..n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sorts pieces; `|name|` in front marks a special token. Gives thoughts and answer.
    fn sort(opens: Option<&str>, pieces: &[&str]) -> (String, String) {
        let mut splitter = Splitter::new(opens);
        let (mut thought, mut answer) = (String::new(), String::new());
        let mut sink = |part, text: &str| match part {
            Part::Thought => thought.push_str(text),
            Part::Answer => answer.push_str(text),
        };
        for piece in pieces {
            match piece.strip_prefix('\0') {
                Some(name) => splitter.special(name, &mut sink),
                None => splitter.text(piece, &mut sink),
            }
        }
        splitter.finish(&mut sink);
        (thought, answer)
    }

    #[test]
    fn tags_of_every_kind() {
        let cases: [(Option<&str>, &[&str], &str, &str); 11] = [
            (None, &["Hello", " there"], "", "Hello there"),
            (None, &["\n", "Hi"], "", "\nHi"),
            (None, &["<thi", "nk>a", "b</th", "ink>\n", "\nHi"], "<think>ab</think>\n\n", "Hi"),
            (None, &["<thing> is"], "", "<thing> is"),
            (None, &["A <think> tag </think>"], "", "A <think> tag </think>"),
            (Some("<think>"), &["a", "</think>", "b"], "a</think>", "b"),
            (Some("<think>"), &["never ends"], "never ends", ""),
            (None, &["<thi"], "", "<thi"),
            (None, &["\0[THINK]", "a", "\0[/THINK]", "b"], "[THINK]a[/THINK]", "b"),
            (
                None,
                &[
                    "\0<|channel|>",
                    "analysis",
                    "\0<|message|>",
                    "hm",
                    "\0<|end|>",
                    "\0<|start|>",
                    "assistant",
                    "\0<|channel|>",
                    "fin",
                    "al",
                    "\0<|message|>",
                    "Hi",
                    "\0<|return|>",
                ],
                "hm\n\n",
                "Hi",
            ),
            (None, &["Hi", "\0<|im_end|>"], "", "Hi"),
        ];
        for (opens, pieces, thought, answer) in cases {
            let sorted = sort(opens, pieces);
            assert_eq!(sorted, (thought.to_owned(), answer.to_owned()), "{pieces:?}");
        }
    }

    #[test]
    fn prompts_that_open_a_thought() {
        assert_eq!(opened_by("<|assistant|><think>\n"), Some("<think>"));
        assert_eq!(opened_by("<think>\n\n</think>\n\n"), None);
    }

    proptest! {
        #[test]
        fn cutting_changes_nothing(
            text in prop::collection::vec(prop::sample::select(vec![
                "<think>", "</think>", "<", "/", "think", ">", " ", "\n", "a", "é", "[THINK]",
            ]), 0..12).prop_map(|p| p.concat()),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let whole = sort(None, &[&text]);
            let ends: Vec<usize> = text.char_indices().map(|c| c.0).collect();
            let mut at: Vec<usize> = match ends.len() {
                0 => vec![],
                n => cuts.iter().map(|c| ends[c.index(n)]).collect(),
            };
            at.extend([0, text.len()]);
            at.sort_unstable();
            let pieces: Vec<&str> = at.windows(2).map(|w| &text[w[0]..w[1]]).collect();
            prop_assert_eq!(whole.0.len() + whole.1.len(), text.len(), "nothing is lost");
            prop_assert_eq!(sort(None, &pieces), whole);
        }
    }
}
