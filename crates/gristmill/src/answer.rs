//! One answer: tokens into words on stdout, as they come and whole characters only.

use crate::term::{Done, check_interrupt, colours, interrupted, note, words};
use clap::ValueEnum;
use gristmill::models::tokenizer::TokenKind;
use gristmill::thinking::{Part, Splitter};
use gristmill::{Continued, Decoder, Device, Engine, Event, Finish, RequestId, Tokenizer};
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What becomes of a model's thoughts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Think {
    /// It shall think first, and its thoughts are shown
    On,
    /// It shall not think
    Off,
    /// It may think, and its thoughts are not shown
    Hide,
}

/// What was generated, and how fast.
pub struct Answer {
    pub ids: Vec<u32>,
    /// The answer itself.
    pub text: String,
    /// What the model thought before.
    pub thinking: String,
    pub finish: Finish,
    /// Tokens of the prompt that were run.
    pub run: usize,
    /// From the request to the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}

impl Answer {
    pub fn finish_name(&self) -> &'static str {
        match self.finish {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::Cancelled => "cancelled",
        }
    }

    /// One line: how many tokens, how fast.
    pub fn statistics(&self, prompt: usize) -> String {
        let speed =
            |rate: Option<f64>| rate.map(|r| format!(" at {r:.1} tok/s")).unwrap_or_default();
        let kept = prompt.saturating_sub(self.run);
        let new = if kept > 0 { format!(", {} of them run", self.run) } else { String::new() };
        format!(
            "prompt: {prompt} tokens{new}{}; generated: {} tokens{} ({})",
            speed(rate(self.run, self.prefill)),
            self.ids.len(),
            speed(rate(self.ids.len().saturating_sub(1), self.decode)),
            self.finish_name()
        )
    }
}

/// How tokens become words, and which are shown.
pub struct Voice {
    tokenizer: Arc<Tokenizer>,
    decoder: Decoder,
    /// For answers of a chat: sorts thoughts from what is said.
    splitter: Option<Splitter>,
    /// Whether words are written as they come.
    stream: bool,
    hide_thoughts: bool,
    /// Whether thoughts are written fainter.
    faint: bool,
    /// Whether something was said about hidden thoughts.
    said: bool,
    /// Whether the cursor stands within a line.
    within_line: bool,
    text: String,
    thinking: String,
}

impl Voice {
    /// The voice of a text that is continued as it is.
    pub fn plain(tokenizer: Arc<Tokenizer>, decoder: Decoder, stream: bool) -> Voice {
        Voice {
            tokenizer,
            decoder,
            splitter: None,
            stream,
            hide_thoughts: false,
            faint: false,
            said: false,
            within_line: false,
            text: String::new(),
            thinking: String::new(),
        }
    }

    /// The voice of an answer; `opens` is the tag by which its prompt begins a thought.
    pub fn chat(
        tokenizer: Arc<Tokenizer>,
        opens: Option<&str>,
        think: Option<Think>,
        stream: bool,
    ) -> Voice {
        Voice {
            splitter: Some(Splitter::new(opens)),
            hide_thoughts: think == Some(Think::Hide),
            faint: colours(),
            ..Voice::plain(tokenizer.clone(), Decoder::continuing(tokenizer), stream)
        }
    }

    fn token(&mut self, id: u32) -> Done {
        let text = self.decoder.push(id);
        let special = matches!(self.tokenizer.kind(id), Some(TokenKind::Control));
        let Some(mut splitter) = self.splitter.take() else {
            return self.show(Part::Answer, &text);
        };
        let mut pieces = vec![];
        let mut sink = |part: Part, text: &str| pieces.push((part, text.to_owned()));
        if special {
            splitter.special(&self.tokenizer.text(id), &mut sink);
        } else {
            splitter.text(&text, &mut sink);
        }
        self.splitter = Some(splitter);
        pieces.iter().try_for_each(|(part, text)| self.show(*part, text))
    }

    /// The end. Of a text that broke off within a character only `whole` shows the break.
    fn end(&mut self, whole: bool) -> Done {
        let rest = self.decoder.finish();
        let Some(mut splitter) = self.splitter.take() else {
            return if whole { self.show(Part::Answer, &rest) } else { Ok(()) };
        };
        let mut pieces = vec![];
        let mut sink = |part: Part, text: &str| pieces.push((part, text.to_owned()));
        if whole {
            splitter.text(&rest, &mut sink);
        }
        splitter.finish(&mut sink);
        pieces.iter().try_for_each(|(part, text)| self.show(*part, text))
    }

    fn show(&mut self, part: Part, text: &str) -> Done {
        match part {
            Part::Answer => self.text.push_str(text),
            Part::Thought => self.thinking.push_str(text),
        }
        if !self.stream || text.is_empty() {
            return Ok(());
        }
        if part == Part::Thought && self.hide_thoughts {
            if !std::mem::replace(&mut self.said, true) && std::io::stderr().is_terminal() {
                note("(thinking)");
            }
            return Ok(());
        }
        self.within_line = !text.ends_with('\n');
        if part == Part::Thought && self.faint {
            // Closed at once, so that nothing that comes between is faint.
            return crate::term::out(&format!("\x1b[2m{}\x1b[0m", crate::term::printable(text)));
        }
        words(text)
    }

    /// Ends the line of an answer that did not.
    pub fn end_line(&mut self) -> Done {
        if std::mem::take(&mut self.within_line) { words("\n") } else { Ok(()) }
    }
}

/// Runs a request that was submitted to its end, and shows what comes. Ctrl-C cancels it.
/// `continued` takes note of what the engine keeps.
pub fn follow(
    engine: &mut Engine<Device>,
    id: RequestId,
    voice: &mut Voice,
    mut continued: Option<&mut Continued>,
) -> Done<Answer> {
    if continued.is_none() {
        check_interrupt()?;
    }
    let begin = Instant::now();
    let before = engine.snapshot().tokens;
    let mut ids = vec![];
    let mut finish = Finish::Cancelled;
    let mut prefill = Duration::ZERO;
    let mut events: Vec<Event> = vec![];
    while !engine.is_idle() {
        if interrupted() {
            engine.cancel(id);
        }
        engine.step(&mut events)?;
        for event in events.drain(..) {
            if let Some(continued) = &mut continued {
                continued.note(engine, &event);
            }
            if let Some(token) = event.token {
                if ids.is_empty() {
                    prefill = begin.elapsed();
                }
                ids.push(token);
                voice.token(token)?;
            }
            if let Some(end) = event.finish {
                finish = end;
                voice.end(end == Finish::Stop || continued.is_none())?;
            }
        }
    }
    let decode = begin.elapsed().saturating_sub(prefill);
    // Every token but the last was run again to give the next.
    let all = usize::try_from(engine.snapshot().tokens - before).unwrap_or(usize::MAX);
    let run = all.saturating_sub(ids.len().saturating_sub(1));
    let (text, thinking) = (std::mem::take(&mut voice.text), std::mem::take(&mut voice.thinking));
    Ok(Answer { ids, text, thinking, finish, run, prefill, decode })
}

/// Milliseconds, to the microsecond.
pub fn ms(d: Duration) -> f64 {
    (d.as_secs_f64() * 1e6).round() / 1e3
}

/// Tokens a second; `None` where there was nothing to measure.
pub fn rate(tokens: usize, time: Duration) -> Option<f64> {
    let rate = tokens as f64 / time.as_secs_f64();
    (tokens > 0 && rate.is_finite()).then(|| (rate * 100.0).round() / 100.0)
}
