//! `gristmill run` on a masked diffusion model: an answer that resolves in place. What comes from
//! Gaussian noise is in `noise`.

mod args;
mod canvas;
mod noise;

pub use args::DiffusionArgs;
pub use noise::{NoiseArgs, from_noise};

use crate::answer::{ms, rate};
use crate::term::{Done, check_interrupt, json, note};
use canvas::Canvas;
use gristmill::engine::diffuse::{DiffuseRequest, Diffusion};
use gristmill::{Decoder, Device, Engine, Tokenizer};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// In place of a token that is not found yet.
const MASKED: &str = "░";

/// What is shown, and what is said about it.
pub struct Show {
    /// JSON when done, and no text before.
    pub json: bool,
    /// Nothing on stderr.
    pub quiet: bool,
    /// The device's name.
    pub device: String,
    /// Time until the model was loaded.
    pub loaded: Duration,
}

/// Fills in an answer and shows how it comes.
pub fn fill_in(
    engine: &mut Engine<Device>,
    request: DiffuseRequest,
    tokenizer: &Arc<Tokenizer>,
    show: &Show,
) -> Done {
    let begin = Instant::now();
    let mut canvas = Canvas::new(!show.json);
    let mut passes: Vec<Vec<u32>> = vec![];
    let mut drawing = Ok(());
    let ended = engine.diffuse(request, &mut |d| {
        check_interrupt()?;
        passes.push(d.committed().to_vec());
        if drawing.is_ok() {
            drawing = canvas.draw(|| text_of(tokenizer, d, answer(d)));
        }
        Ok(())
    });
    // The place of the last drawing is taken by what is written at the end, or left as it is.
    if ended.is_err() {
        canvas.leave()?;
    }
    let d = ended?;
    drawing?;
    let time = begin.elapsed();
    let ids = answer(&d);
    let text = text_of(tokenizer, &d, ids);
    let (tokens, forwards) = (d.answer().len(), d.forwards());
    let per_forward = tokens as f64 / f64::from(forwards.max(1));
    let finish = if ids.len() < tokens { "stop" } else { "length" };
    if show.json {
        json(&json!({
            "ids": d.answer(),
            "text": text,
            "prompt_ids": d.request().prompt,
            "finish": finish,
            "forwards": forwards,
            "tokens_per_forward": (per_forward * 1e3).round() / 1e3,
            "tok_s": rate(tokens, time),
            "fill_ms": ms(time),
            "load_ms": ms(show.loaded),
            "passes": passes,
            "device": show.device,
        }))?;
    } else {
        canvas.finish(&text)?;
    }
    if !show.quiet {
        note(format_args!(
            "prompt: {} tokens; filled in: {tokens} tokens in {forwards} forwards, {per_forward:.2} \
             a forward, at {:.1} tok/s ({finish})",
            d.request().prompt.len(),
            rate(tokens, time).unwrap_or(0.0),
        ));
    }
    Ok(())
}

/// What was filled in, up to where the text ends.
fn answer(d: &Diffusion) -> &[u32] {
    let ids = d.answer();
    let end = ids.iter().position(|id| d.request().end_ids.contains(id));
    &ids[..end.unwrap_or(ids.len())]
}

/// The text of ids, some of them masks: whole stretches between them, since a character may take
/// several tokens.
fn text_of(tokenizer: &Arc<Tokenizer>, d: &Diffusion, ids: &[u32]) -> String {
    let mask = d.request().mask;
    let mut text = String::new();
    for stretch in ids.chunk_by(|&a, &b| (a == mask) == (b == mask)) {
        if stretch[0] == mask {
            text.push_str(&MASKED.repeat(stretch.len()));
            continue;
        }
        let mut decoder = Decoder::continuing(tokenizer.clone());
        stretch.iter().for_each(|&id| text.push_str(&decoder.push(id)));
        text.push_str(&decoder.finish());
    }
    text
}
