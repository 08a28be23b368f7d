//! `gristmill run` on a Gaussian denoiser: a text out of noise, which resolves in place.

use super::Show;
use super::args::{DiffusionArgs, OF_NEXT_TOKENS, OWN};
use super::canvas::Canvas;
use crate::answer::{ms, rate};
use crate::cli;
use crate::term::{Done, check_interrupt, json, note, usage};
use clap::Args;
use gristmill::engine::denoise::{Denoiser, first_noise, spread};
use gristmill::{Decoder, Device, Result, Tokenizer};
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;

/// Steps when nobody says how many.
const STEPS: u32 = 50;

/// How a Gaussian denoiser goes from noise to a text; --steps says in how many steps.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Gaussian diffusion")]
pub struct NoiseArgs {
    /// New noise in each step, 0 to 1: 0 is DDIM, 1 is DDPM (default: 0)
    #[arg(long, value_name = "ETA", allow_negative_numbers = true)]
    eta: Option<f32>,
}

/// Ids of options that say what a prompt is, which there is none of.
const OF_PROMPTS: [&str; 6] =
    ["ids", "raw", "system", "chat_template", "chat_template_file", "batch_size"];

/// Ids of options for answers that grow.
const OF_ANSWERS: [&str; 6] =
    ["predict", "ctx_size", "state_in", "state_out", "profile", "history"];

impl NoiseArgs {
    /// # Errors
    /// [`gristmill::Error::Usage`] where one of these is given for a model that does not begin with
    /// noise.
    pub fn check_unused(&self, model: &str) -> Done {
        match self.eta {
            Some(_) => usage(format!(
                "--eta is for Gaussian diffusion, and {model} does not begin with noise"
            )),
            None => Ok(()),
        }
    }

    /// How much new noise each step adds.
    ///
    /// # Errors
    /// [`gristmill::Error::Usage`] where it is out of range, where there is a prompt, and for options
    /// that mean nothing to `model`.
    pub fn eta(&self, model: &str, prompt: bool) -> Done<f32> {
        let given = |ids: &[&'static str]| ids.iter().copied().find(|id| cli::is_given(id));
        let own = OWN.into_iter().filter(|&id| id != "steps").collect::<Vec<_>>();
        let unused = [
            (&OF_PROMPTS[..], "is for prompts"),
            (&OF_ANSWERS, "is for answers that grow token by token"),
            (&own, "is for masked diffusion"),
            (&OF_NEXT_TOKENS, "says how a next token is chosen"),
            (&["temp", "top_p", "top_k"], "says how a token is chosen"),
        ];
        let takes =
            format!("{model} brings a whole text out of noise; it takes --steps, --eta and --seed");
        for (ids, why) in unused {
            if let Some(id) = given(ids) {
                return usage(format!("--{} {why}, and {takes}", id.replace('_', "-")));
            }
        }
        if prompt {
            return usage(format!("there is a prompt, and {takes}"));
        }
        match self.eta.unwrap_or(0.0) {
            eta if (0.0..=1.0).contains(&eta) => Ok(eta),
            eta => usage(format!("--eta is {eta}; it must be between 0 and 1")),
        }
    }
}

impl DiffusionArgs {
    /// Steps of a denoiser.
    pub fn denoising_steps(&self) -> u32 {
        self.steps.unwrap_or(STEPS)
    }
}

/// Makes a text from the noise of a seed and shows how it comes.
pub fn from_noise(
    denoiser: &mut Denoiser<Device>,
    (steps, eta, seed): (u32, f32, u64),
    tokenizer: &Arc<Tokenizer>,
    show: &Show,
) -> Done {
    let begin = Instant::now();
    let mut canvas = Canvas::new(!show.json);
    let mut drawing = Ok(());
    let text_of = |ids: &[u32]| text_of(tokenizer, ids);
    let mut watch = |_: usize, _: &[f32], ids: &[u32]| -> Result<()> {
        check_interrupt()?;
        if drawing.is_ok() {
            drawing = canvas.draw(|| text_of(ids).0);
        }
        Ok(())
    };
    let times = spread(denoiser.times(), steps)?;
    let noise = first_noise(seed, denoiser.tokens(), denoiser.width());
    let made = denoiser.run(&noise, &times, seed, &mut |_| vec![], Some(&mut watch));
    // The place of the last drawing is taken by what is written at the end, or left as it is.
    if made.is_err() {
        canvas.leave()?;
    }
    let ids = made?;
    drawing?;
    let time = begin.elapsed();
    let (text, ended) = text_of(&ids);
    let finish = if ended { "stop" } else { "length" };
    if show.json {
        json(&json!({
            "ids": ids,
            "text": text,
            "finish": finish,
            "steps": steps,
            "eta": eta,
            "seed": seed,
            "tok_s": rate(ids.len(), time),
            "denoise_ms": ms(time),
            "load_ms": ms(show.loaded),
            "device": show.device,
        }))?;
    } else {
        canvas.finish(&text)?;
    }
    if !show.quiet {
        note(format_args!(
            "from noise: {} tokens in {steps} steps, at {:.1} tok/s ({finish})",
            ids.len(),
            rate(ids.len(), time).unwrap_or(0.0),
        ));
    }
    Ok(())
}

/// The text up to where it ends, and whether it does.
fn text_of(tokenizer: &Arc<Tokenizer>, ids: &[u32]) -> (String, bool) {
    let end = ids.iter().position(|id| tokenizer.end_of_generation().contains(id));
    let mut decoder = Decoder::new(tokenizer.clone());
    let mut text = String::new();
    ids[..end.unwrap_or(ids.len())].iter().for_each(|&id| text.push_str(&decoder.push(id)));
    text.push_str(&decoder.finish());
    (text, end.is_some())
}
