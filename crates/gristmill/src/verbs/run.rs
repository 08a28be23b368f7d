//! `gristmill run`: text from a prompt.
//!
//! The model's words go to stdout as they come, whole characters only; everything else goes to
//! stderr.

use crate::args::{Ids, Loading, RunsOn, Threads, load, open, parse_ids, plan};
use crate::device;
use crate::resolve::{self, Source};
use crate::sampling::SamplingArgs;
use crate::term::{
    Done, Stop, catch_interrupts, check_interrupt, interrupted, json, note, out, usage,
};
use clap::Args;
use gristmill::{
    Backend, Cpu, Decoder, Engine, Error, Finish, Model, Request, Settings, Tokenizer,
};
use serde_json::json;
use std::io::{IsTerminal, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Args)]
#[command(after_help = "Examples:
  gristmill run \"Tell me a story about a fox\"
  gristmill run model.gguf \"Why is the sky blue?\" --temp 0 -n 100
  echo \"Once upon a time\" | gristmill run --raw

A word without a flag is a model when it exists as a path, ends in .gguf or .safetensors, contains
a slash or a colon, or names the bundled model (stories). A single word with a digit, a dot or a
hyphen that is none of these is an error; anything else is a prompt for the bundled model.")]
pub struct RunArgs {
    /// A model, a prompt, or both in this order
    #[arg(value_name = "MODEL] [PROMPT")]
    words: Vec<String>,

    /// The model: a .gguf file, or `stories`, the one inside this binary (default)
    #[arg(short, long)]
    model: Option<String>,

    /// The prompt (default: standard input, where that is a pipe)
    #[arg(short, long)]
    prompt: Option<String>,

    /// The prompt as token ids, such as 1,2,3, taken as they are
    #[arg(long, value_parser = parse_ids, conflicts_with_all = ["prompt", "raw"])]
    ids: Option<Ids>,

    /// Continue the prompt as it is: no chat template, BOS where the model wants one
    #[arg(long)]
    raw: bool,

    /// Print JSON when done, and no text before
    #[arg(long)]
    json: bool,

    /// Tokens to generate at most; negative: until the end or the context is full (default)
    #[arg(short = 'n', long, value_name = "N", alias = "max-tokens", default_value_t = -1,
          allow_negative_numbers = true, hide_default_value = true)]
    predict: i64,

    /// Tokens of prompt and answer together; 0: the model's context, or what fits in memory
    #[arg(short, long, value_name = "N", alias = "max-model-len", default_value_t = 0,
          value_parser = clap::value_parser!(u32).range(0..=0x3fff_ffff))]
    ctx_size: u32,

    /// Go on after the model said it is done
    #[arg(long)]
    ignore_eos: bool,

    #[command(flatten)]
    sampling: SamplingArgs,

    #[command(flatten)]
    runs_on: RunsOn,

    #[command(flatten)]
    loading: Loading,

    #[command(flatten)]
    threads: Threads,

    /// Nothing on stderr but errors, and a warning where memory cuts the context short
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,

    /// More on stderr: the seed, the prompt's tokens, the time to load
    #[arg(short, long)]
    verbose: bool,
}

pub fn run(args: RunArgs, started: Instant) -> Done {
    let mut sampling = args.sampling.params()?;
    device::choose(args.runs_on.device)?; // before anything is read
    if args.predict == 0 {
        return usage("--predict is 0; it must be at least 1, or negative for no limit");
    }
    let exists = |p: &str| Path::new(p).exists();
    let (source, mut text) = resolve::model_and_prompt(
        args.model.as_deref(),
        args.prompt.as_deref(),
        &args.words,
        exists,
    )?;
    if args.ids.is_some() && text.is_some() {
        return usage("--ids is the prompt, so no other can be given");
    }
    if source == Source::Bundled && args.words.len() == 1 && args.prompt.is_none() && !args.quiet {
        note("no model named: this is a prompt for the bundled one (stories)");
    }
    if text.is_none() && args.ids.is_none() {
        text = piped()?;
    }
    catch_interrupts();
    let settings = args.runs_on.settings(args.threads.threads)?;
    let model = open(&source, &args.loading)?;
    let settings = Settings { context: args.ctx_size, ..settings };
    let cpu = args.runs_on.open(&settings, args.quiet)?;
    let device = cpu.capabilities().name;
    let program = model.program(settings.kv)?;
    let plan = plan(&model, &program, &settings, settings.max_seqs, args.quiet)?;
    let tokenizer = model.tokenizer()?;
    sampling.dry_breakers = args.sampling.breakers(&tokenizer);
    let (ids, decoder) = prompt(&model, &tokenizer, &args, text.as_deref())?;
    let engine = load(&model, cpu, program, settings.engine_options(plan.context))?;
    let load_time = started.elapsed();
    if args.verbose {
        note(format_args!("seed: {}", sampling.seed));
        note(format_args!("prompt: {ids:?}"));
        note(format_args!("loaded in {:.0} ms", ms(load_time)));
    }

    let mut request = Request::new(ids, usize::try_from(args.predict).unwrap_or(usize::MAX));
    request.sampling = sampling;
    if !args.ignore_eos {
        request.stop_ids = tokenizer.end_of_generation().to_vec();
    }
    let prompt_ids = request.prompt.clone();
    let answer = generate(engine, request, decoder, !args.json)?;
    if args.json {
        json(&json!({
            "ids": answer.ids,
            "text": answer.text,
            "prompt_ids": prompt_ids,
            "finish": answer.finish_name(),
            "load_ms": ms(load_time),
            "prefill_ms": ms(answer.prefill),
            "prefill_tok_s": rate(prompt_ids.len(), answer.prefill),
            "decode_tok_s": rate(answer.ids.len().saturating_sub(1), answer.decode),
            "device": format!("cpu ({device})"),
        }))?;
    } else if std::io::stdout().is_terminal() {
        out("\n")?;
    }
    if !args.quiet {
        note(statistics(prompt_ids.len(), &answer));
    }
    if answer.finish == Finish::Cancelled { Err(Stop::Interrupted) } else { Ok(()) }
}

/// What a pipe holds; nothing where stdin is a terminal or empty.
fn piped() -> Done<Option<String>> {
    let mut stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Ok(None);
    }
    let mut bytes = vec![];
    if stdin.read_to_end(&mut bytes).is_err() {
        return Ok(None); // closed: there is no prompt in it
    }
    let Ok(text) = String::from_utf8(bytes) else {
        return usage("the prompt on standard input is not UTF-8 text");
    };
    // The line feed is the pipe's, not the prompt's.
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// The tokens to begin with, and how what follows becomes text.
fn prompt(
    model: &Model,
    tokenizer: &Arc<Tokenizer>,
    args: &RunArgs,
    text: Option<&str>,
) -> gristmill::Result<(Vec<u32>, Decoder)> {
    let continuing = || Decoder::continuing(tokenizer.clone());
    if let Some(Ids(ids)) = &args.ids {
        return Ok((ids.clone(), continuing()));
    }
    match text {
        Some(text) if args.raw => Ok((model.raw_prompt_with(tokenizer, text), continuing())),
        Some(text) => Ok((model.chat_prompt_with(tokenizer, text)?, continuing())),
        None => match tokenizer.bos() {
            // A text of its own, from its first word.
            Some(bos) => Ok((vec![bos], Decoder::new(tokenizer.clone()))),
            None => Err(Error::Usage(
                "this model has no token to begin a text with; give it a prompt".into(),
            )),
        },
    }
}

/// What was generated, and how fast.
struct Answer {
    ids: Vec<u32>,
    text: String,
    finish: Finish,
    /// From the request to the first token.
    prefill: Duration,
    /// From the first token to the last.
    decode: Duration,
}

impl Answer {
    fn finish_name(&self) -> &'static str {
        match self.finish {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::Cancelled => "cancelled",
        }
    }
}

/// Runs the request, writing text as it comes where `stream` says so.
fn generate(
    mut engine: Engine<Cpu>,
    request: Request,
    mut decoder: Decoder,
    stream: bool,
) -> Done<Answer> {
    check_interrupt()?;
    let begin = Instant::now();
    let id = engine.submit(request)?;
    let mut answer = Answer {
        ids: vec![],
        text: String::new(),
        finish: Finish::Cancelled,
        prefill: Duration::ZERO,
        decode: Duration::ZERO,
    };
    let mut events = vec![];
    while !engine.is_idle() {
        if interrupted() {
            engine.cancel(id);
        }
        engine.step(&mut events)?;
        for event in events.drain(..) {
            let mut piece = String::new();
            if let Some(token) = event.token {
                if answer.ids.is_empty() {
                    answer.prefill = begin.elapsed();
                }
                answer.ids.push(token);
                piece = decoder.push(token);
            }
            if let Some(finish) = event.finish {
                answer.finish = finish;
                piece.push_str(&decoder.finish());
            }
            if stream && !piece.is_empty() {
                out(&piece)?;
            }
            answer.text.push_str(&piece);
        }
    }
    answer.decode = begin.elapsed().saturating_sub(answer.prefill);
    Ok(answer)
}

fn ms(d: Duration) -> f64 {
    (d.as_secs_f64() * 1e6).round() / 1e3
}

/// Tokens a second; `None` where there was nothing to measure.
fn rate(tokens: usize, time: Duration) -> Option<f64> {
    let rate = tokens as f64 / time.as_secs_f64();
    (tokens > 0 && rate.is_finite()).then(|| (rate * 100.0).round() / 100.0)
}

fn statistics(prompt: usize, answer: &Answer) -> String {
    let speed = |rate: Option<f64>| rate.map(|r| format!(" at {r:.1} tok/s")).unwrap_or_default();
    format!(
        "prompt: {prompt} tokens{}; generated: {} tokens{} ({})",
        speed(rate(prompt, answer.prefill)),
        answer.ids.len(),
        speed(rate(answer.ids.len().saturating_sub(1), answer.decode)),
        answer.finish_name()
    )
}
