//! `gristmill run`: an answer to a prompt, or a chat.
//!
//! Where there is a prompt, or a pipe to read one from, it is one answer; at a terminal without a
//! prompt it is a chat. The model's words go to stdout as they come, whole characters only;
//! everything else goes to stderr.

use crate::answer::{self, Think, Voice, ms, rate};
use crate::args::{
    Ids, Loading, RunsOn, Threads, load, loading_bar, model_help, open, parse_ids, plan,
};
use crate::chat::{self, Chat, Options};
use crate::device;
use crate::diffusion::{self, DiffusionArgs, NoiseArgs};
use crate::profiling::Profiling;
use crate::resolve::{self, Source};
use crate::sampling::{SamplingArgs, Suggested};
use crate::term::{Done, Stop, catch_interrupts, json, note, out, usage};
use clap::Args;
use gristmill::state::{self, Fingerprint};
use gristmill::{
    Backend, ChatTemplate, Conversation, Decoder, Device, Engine, Error, Finish, Model, ModelInfo,
    Parent, Prompter, Request, SamplingParams, SavedState, SequenceId, Settings, Tokenizer,
    bundled, files,
};
use serde_json::json;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

#[derive(Args)]
#[command(after_help = "Examples:
  gristmill run                                 a chat with the model inside this binary
  gristmill run \"Tell me a story about a fox\"
  gristmill run model.gguf \"Why is the sky blue?\" --temp 0 -n 100
  echo \"Once upon a time\" | gristmill run --raw

A word without a flag is a model when it exists as a path, ends in .gguf or .safetensors, contains
a slash or a colon, or names a model inside this binary. A single word with a digit, a dot or a
hyphen that is none of these is an error; anything else is a prompt for `stories`.

How tokens are chosen is said, in this order, by the command line, by the variables, by the model's
publisher (general.sampling.* in a GGUF file, generation_config.json beside safetensors), and by the
defaults shown here.")]
#[command(next_help_heading = "Prompt")]
pub struct RunArgs {
    /// A model, a prompt, or both in this order
    #[arg(value_name = "MODEL] [PROMPT")]
    words: Vec<String>,

    #[arg(short, long, help = model_help(bundled::STORIES))]
    model: Option<String>,

    /// The prompt (default: standard input, where that is a pipe)
    #[arg(short, long, conflicts_with = "file")]
    prompt: Option<String>,

    /// Take the prompt from a file; `-`: from standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// The prompt as token ids, such as 1,2,3, taken as they are
    #[arg(long, value_parser = parse_ids, conflicts_with_all = ["prompt", "file", "raw"])]
    ids: Option<Ids>,

    /// Continue the prompt as it is: no chat template, BOS where the model wants one
    #[arg(long)]
    raw: bool,

    /// What the model shall be like, also -sys: the system message, for models that have one
    #[arg(long, value_name = "TEXT", alias = "system-prompt", conflicts_with_all = ["raw", "ids"])]
    system: Option<String>,

    /// Another chat template than the model's own: the template itself, in Jinja
    #[arg(long, value_name = "JINJA", conflicts_with_all = ["raw", "ids", "chat_template_file"])]
    chat_template: Option<String>,

    /// The same, from a file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["raw", "ids"])]
    chat_template_file: Option<PathBuf>,

    /// Templates are always Jinja
    #[arg(long, hide = true)]
    jinja: bool,

    /// Chat turn by turn, also -cnv: the default at a terminal without a prompt. With a prompt,
    /// that is the first turn; from a pipe, each line is one
    #[arg(short, long, alias = "conversation", help_heading = "Chat",
          conflicts_with_all = ["raw", "ids", "json"])]
    interactive: bool,

    /// Whether a model that can think first does, and whether its thoughts are shown (default: as
    /// the model likes, shown)
    #[arg(long, value_enum, value_name = "WHETHER", help_heading = "Chat",
          conflicts_with_all = ["raw", "ids"])]
    think: Option<Think>,

    /// Where typed lines are kept for the next chat (default: `gristmill/history` in
    /// $XDG_STATE_HOME or ~/.local/state)
    #[arg(long, value_name = "FILE", help_heading = "Chat", conflicts_with = "no_history")]
    history: Option<PathBuf>,

    /// Keep no typed lines
    #[arg(long, help_heading = "Chat")]
    no_history: bool,

    /// Tokens to generate at most; negative: until the end or the context is full (default)
    #[arg(short = 'n', long, value_name = "N", aliases = ["max-tokens", "num-predict"],
          default_value_t = -1,
          allow_negative_numbers = true, hide_default_value = true, help_heading = "Length")]
    predict: i64,

    /// Tokens of prompt and answer together; 0: the model's context, or what fits in memory
    #[arg(short, long, value_name = "N", alias = "max-model-len", default_value_t = 0,
          value_parser = clap::value_parser!(u32).range(0..=0x3fff_ffff), help_heading = "Length")]
    ctx_size: u32,

    /// Tokens of a prompt that are run at once, also -ub; 0: as many as suit
    #[arg(short, long, value_name = "N", alias = "ubatch-size", default_value_t = 0,
          value_parser = clap::value_parser!(u32).range(0..=0xffff), help_heading = "Length")]
    batch_size: u32,

    /// Go on after the model said it is done
    #[arg(long, help_heading = "Length")]
    ignore_eos: bool,

    /// Go on from a state that was saved with --state-out: the prompt is what comes next
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "State of recurrent models",
        conflicts_with = "interactive"
    )]
    state_in: Option<PathBuf>,

    /// Save the state when done, to go on from with --state-in; with -n 0 after the prompt, with
    /// nothing generated
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "State of recurrent models",
        conflicts_with = "interactive"
    )]
    state_out: Option<PathBuf>,

    #[command(flatten)]
    sampling: SamplingArgs,

    #[command(flatten)]
    diffusion: DiffusionArgs,

    #[command(flatten)]
    noise: NoiseArgs,

    #[command(flatten)]
    runs_on: RunsOn,

    #[command(flatten)]
    loading: Loading,

    #[command(flatten)]
    threads: Threads,

    /// Show the devices of this machine, and nothing else
    #[arg(long, help_heading = "Device and precision")]
    list_devices: bool,

    /// Print JSON when done, and no text before
    #[arg(long, help_heading = "Output")]
    json: bool,

    /// Show where the time went when done: by operation and layer, with bytes and operations a second
    /// and the share of what this machine can do; with =FILE also as a trace for chrome://tracing or
    /// Perfetto. GRISTMILL_PROFILE=1 asks for the tables
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true,
          default_missing_value = "1", conflicts_with = "interactive", help_heading = "Output")]
    profile: Option<PathBuf>,

    /// Nothing on stderr but errors, and a warning where memory cuts the context short
    #[arg(short, long, conflicts_with = "verbose", help_heading = "Output")]
    quiet: bool,

    /// More on stderr: the seed, the prompt's tokens, the time to load; in a chat, how many tokens
    /// each turn ran, and how fast
    #[arg(short, long, help_heading = "Output")]
    verbose: bool,
}

impl RunArgs {
    /// How tokens are chosen. Without a seed each call has another.
    ///
    /// # Errors
    /// [`Error::Usage`] for a value out of range.
    pub fn sampling_params(&self) -> gristmill::Result<SamplingParams> {
        self.sampling.params()
    }

    /// Whether little is said.
    pub fn quiet(&self) -> bool {
        self.quiet
    }

    /// Whether much is said.
    pub fn verbose(&self) -> bool {
        self.verbose
    }

    /// What becomes of thoughts.
    pub fn think(&self) -> Option<Think> {
        self.think
    }

    /// Whether the prompt is read and nothing said.
    fn only_reads(&self) -> bool {
        self.predict == 0 && self.state_out.is_some()
    }

    /// Tokens to generate at most.
    ///
    /// # Errors
    /// [`Error::Usage`] for none.
    pub fn predict(&self) -> gristmill::Result<usize> {
        match self.predict {
            // The prompt is run by asking for what follows it.
            0 if self.only_reads() => Ok(1),
            0 => Err(Error::Usage(
                "--predict is 0; it must be at least 1, or negative for no limit".into(),
            )),
            n => Ok(usize::try_from(n).unwrap_or(usize::MAX)),
        }
    }

    /// A request for an answer to this prompt.
    ///
    /// # Errors
    /// [`Error::Usage`] for an option out of range.
    pub fn request(&self, tokenizer: &Tokenizer, prompt: Vec<u32>) -> gristmill::Result<Request> {
        let mut request = Request::new(prompt, self.predict()?);
        request.sampling = self.sampling_params()?;
        request.sampling.dry_breakers = self.sampling.breakers(tokenizer);
        if self.verbose {
            note(format_args!("seed: {}", request.sampling.seed));
        }
        if !self.ignore_eos {
            request.stop_ids = tokenizer.end_of_generation().to_vec();
        }
        Ok(request)
    }

    /// The chat template that was given, else the model's own.
    fn prompter(&self, model: &Model, tokenizer: &Tokenizer) -> gristmill::Result<Prompter> {
        let (name, source) = match (&self.chat_template, &self.chat_template_file) {
            (Some(source), _) => ("--chat-template".to_owned(), source.clone()),
            (None, Some(path)) => (path.display().to_string(), read_text(path)?),
            (None, None) => return Prompter::new(model, tokenizer),
        };
        if self.chat_template.is_some() && !source.contains("{%") && !source.contains("{{") {
            return Err(Error::Usage(format!(
                "--chat-template takes the template itself, and '{source}' has no {{{{ or {{% in \
                 it; --chat-template-file takes a file"
            )));
        }
        Ok(Prompter::with(Some(ChatTemplate::new(name, &source)?), tokenizer))
    }
}

pub fn run(args: RunArgs, started: Instant) -> Done {
    if args.list_devices {
        return crate::verbs::devices::show(args.runs_on.device.one()?);
    }
    args.sampling_params()?;
    device::choose(args.runs_on.device.one()?)?; // before anything is read
    args.predict()?;
    let exists = |p: &str| Path::new(p).exists();
    let (source, mut text) = resolve::model_and_prompt(
        args.model.as_deref(),
        args.prompt.as_deref(),
        &args.words,
        exists,
    )?;
    if text.is_some() && (args.ids.is_some() || args.file.is_some()) {
        return usage("the prompt is given twice");
    }
    if matches!(source, Source::Bundled(_))
        && args.words.len() == 1
        && args.prompt.is_none()
        && !args.quiet
    {
        note("no model named: this is a prompt for stories, the one inside this binary");
    }
    if let Some(path) = &args.file {
        let read = if path.as_os_str() == "-" { piped()? } else { Some(read_text(path)?) };
        text = read.map(|t| without_line_feed(&t).to_owned());
    }
    let at_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let nothing_given = text.is_none() && args.file.is_none() && args.ids.is_none();
    let chats = args.interactive || nothing_given && at_terminal && !args.raw && !args.json;
    if nothing_given && !chats {
        text = piped()?;
    }
    catch_interrupts();
    let settings = args.runs_on.settings(args.threads.threads)?;
    let model = open(&source, &args.loading)?;
    let settings = Settings { context: args.ctx_size, batch: args.batch_size, ..settings };
    let info = model.info(settings.kv)?;
    if info.is_denoiser() {
        return from_noise(&args, &model, &info, settings, text.is_some(), started);
    }
    args.noise.check_unused(model.name())?;
    if args.diffusion.apply_to(&info) {
        return fill_in(&args, &model, info, settings, text.as_deref(), started);
    }
    args.diffusion.check_unused(model.name())?;
    let (device, settings) = args.runs_on.open(settings, &model, args.quiet)?;
    let named = format!("{} ({})", device.kind(), device.capabilities().name);
    let profiling = Profiling::asked(args.profile.as_ref(), &settings)?;
    let program = model.program(settings.kv)?;
    let plan = plan(&model, &program, &settings, settings.max_seqs, args.quiet)?;
    let tokenizer = model.tokenizer()?;
    let suggested = Suggested::by(&model)?;
    if args.verbose {
        suggested.say();
    }
    let options = Options::new(suggested);
    let args = if options.are_suggested() { options.args().map_err(Error::Usage)? } else { args };
    if chats && profiling.is_some() {
        return usage("--profile is for one answer; give a prompt");
    }
    if chats && (args.state_in.is_some() || args.state_out.is_some()) {
        return usage("--state-in and --state-out are for one answer; give a prompt");
    }
    let fingerprint = match (&args.state_in, &args.state_out) {
        (None, None) => None,
        _ => Some(Fingerprint::of(&model, &program)?),
    };
    if chats {
        let prompter = args.prompter(&model, &tokenizer)?;
        let engine =
            load(&model, device, program, &settings, settings.engine_options(plan.context))?;
        let history = args.history.clone().or_else(chat::history_file);
        let history = history.filter(|_| !args.no_history);
        let talk = Conversation { system: args.system.clone(), ..Conversation::default() };
        let chat =
            Chat::new((args, options), engine, tokenizer, prompter, talk, model.name().to_owned())?;
        return chat.run(text, history);
    }
    let (ids, mut voice) = prompt(&model, &tokenizer, &args, text.as_deref())?;
    let mut engine =
        load(&model, device, program, &settings, settings.engine_options(plan.context))?;
    let load_time = started.elapsed();
    if args.verbose {
        note(format_args!("prompt: {ids:?}"));
        note(format_args!("loaded in {:.0} ms", ms(load_time)));
    }
    let mut request = args.request(&tokenizer, ids)?;
    if let (Some(path), Some(of)) = (&args.state_in, fingerprint) {
        go_on(&mut engine, &mut request, &state::read(path, of)?, tokenizer.bos())?;
    }
    request.keep = args.state_out.is_some();
    let prompt_ids = request.prompt.clone();
    engine.profile(profiling.is_some())?;
    let id = engine.submit(request)?;
    let mut answer = answer::follow(&mut engine, id, &mut voice, None)?;
    if let (Some(path), Some(of)) = (&args.state_out, fingerprint) {
        let mut saved = engine.state(SequenceId(id.0))?;
        if args.only_reads() {
            saved.tokens.truncate(saved.computed as usize);
            answer.ids.clear();
            answer.text.clear();
        }
        state::write(path, of, &saved)?;
        if !args.quiet {
            let n = saved.tokens.len();
            note(format_args!("wrote the state after {n} tokens to {}", path.display()));
        }
    }
    if args.json {
        let mut shown = json!({
            "ids": answer.ids,
            "text": answer.text,
            "prompt_ids": prompt_ids,
            "finish": answer.finish_name(),
            "load_ms": ms(load_time),
            "prefill_ms": ms(answer.prefill),
            "prefill_tok_s": rate(prompt_ids.len(), answer.prefill),
            "decode_tok_s": rate(answer.ids.len().saturating_sub(1), answer.decode),
            "device": named,
        });
        if !answer.thinking.is_empty() && args.think != Some(Think::Hide) {
            shown["thinking"] = json!(answer.thinking);
        }
        json(&shown)?;
    } else if std::io::stdout().is_terminal() {
        out("\n")?;
    }
    if !args.quiet {
        note(answer.statistics(prompt_ids.len()));
    }
    if let Some(profiling) = &profiling {
        profiling.show(&mut engine, &model)?;
    }
    if answer.finish == Finish::Cancelled { Err(Stop::Interrupted) } else { Ok(()) }
}

/// Makes a request go on from a saved state.
fn go_on(
    engine: &mut Engine<Device>,
    request: &mut Request,
    saved: &SavedState,
    bos: Option<u32>,
) -> gristmill::Result<()> {
    let sequence = engine.adopt(saved)?;
    request.parent = Some(Parent { sequence, len: None });
    // The text has begun already.
    if bos.is_some() && request.prompt.first() == bos.as_ref() {
        request.prompt.remove(0);
    }
    Ok(())
}

/// The answer of a model that fills in masks.
fn fill_in(
    args: &RunArgs,
    model: &Model,
    info: ModelInfo,
    settings: Settings,
    text: Option<&str>,
    started: Instant,
) -> Done {
    if text.is_none() && args.ids.is_none() {
        return usage("a masked diffusion model fills in an answer: give it a prompt");
    }
    let tokenizer = model.tokenizer()?;
    let (ids, _) = prompt(model, &tokenizer, args, text)?;
    let predict = u32::try_from(args.predict()?).ok();
    let ends = tokenizer.end_of_generation();
    let request = args.diffusion.request(&info, ids, predict, &args.sampling, ends)?;
    let most = if args.ctx_size > 0 { args.ctx_size } else { info.context_length };
    request.validate(most, info.vocab_size)?;
    let copies = if request.guidance > 0.0 { 2 } else { 1 };
    let context = request.total();
    let settings = Settings { context, max_seqs: copies, whole: true, ..settings };
    let (device, settings) = args.runs_on.open(settings, model, args.quiet)?;
    let named = format!("{} ({})", device.kind(), device.capabilities().name);
    let profiling = Profiling::asked(args.profile.as_ref(), &settings)?;
    let program = model.program(settings.kv)?;
    let rows = request.block_length.min(request.length) * copies;
    let plan = plan(model, &program, &settings, rows, args.quiet)?;
    let mut engine =
        load(model, device, program, &settings, settings.engine_options(plan.context))?;
    let loaded = started.elapsed();
    if args.verbose {
        note(format_args!("seed: {}", request.seed));
        note(format_args!("prompt: {:?}", request.prompt));
        note(format_args!("loaded in {:.0} ms", ms(loaded)));
    }
    let show = diffusion::Show { json: args.json, quiet: args.quiet, device: named, loaded };
    engine.profile(profiling.is_some())?;
    diffusion::fill_in(&mut engine, request, &tokenizer, &show)?;
    profiling.map_or(Ok(()), |p| Ok(p.show(&mut engine, model)?))
}

/// The text of a model that brings one out of noise.
fn from_noise(
    args: &RunArgs,
    model: &Model,
    info: &ModelInfo,
    settings: Settings,
    prompt: bool,
    started: Instant,
) -> Done {
    let eta = args.noise.eta(model.name(), prompt)?;
    let (steps, seed) = (args.diffusion.denoising_steps(), args.sampling_params()?.seed);
    let tokenizer = model.tokenizer()?;
    let tokens = info.context_length;
    let settings = Settings { whole: true, ..settings };
    let (device, settings) = args.runs_on.open(settings, model, args.quiet)?;
    let named = format!("{} ({})", device.kind(), device.capabilities().name);
    let program = model.program(settings.kv)?;
    plan(model, &program, &settings, tokens, args.quiet)?;
    let options = settings.engine_options(tokens).options;
    let mut bar = loading_bar();
    let mut progress = |a, b| bar.at(a, b);
    let made = model.denoiser_on(device, program, tokens, eta, &options, &mut progress);
    bar.end();
    let mut denoiser = made?;
    let loaded = started.elapsed();
    if args.verbose {
        note(format_args!("seed: {seed}"));
        note(format_args!("loaded in {:.0} ms", ms(loaded)));
    }
    let show = diffusion::Show { json: args.json, quiet: args.quiet, device: named, loaded };
    diffusion::from_noise(&mut denoiser, (steps, eta, seed), &tokenizer, &show)
}

/// The longest file that is taken for a prompt or a template, in bytes.
const LONGEST: u64 = 64 << 20;

/// A file of text.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Usage`] when it is too long or not UTF-8.
fn read_text(path: &Path) -> gristmill::Result<String> {
    let name = path.display();
    let bytes = files::read(path, LONGEST)?.ok_or_else(|| {
        let most = LONGEST >> 20;
        Error::Usage(format!("{name} is longer than {most} MiB: too much for a prompt"))
    })?;
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::Usage(format!("{name} is not UTF-8 text: byte {at}"))
    })
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
    let text = without_line_feed(&text);
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// The last line feed is the pipe's or the file's, not the prompt's.
fn without_line_feed(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

/// The tokens to begin with, and how what follows becomes words.
fn prompt(
    model: &Model,
    tokenizer: &Arc<Tokenizer>,
    args: &RunArgs,
    text: Option<&str>,
) -> gristmill::Result<(Vec<u32>, Voice)> {
    let continuing = || Decoder::continuing(tokenizer.clone());
    let stream = !args.json && !args.only_reads();
    let plain = |decoder| Voice::plain(tokenizer.clone(), decoder, stream);
    if let Some(Ids(ids)) = &args.ids {
        return Ok((ids.clone(), plain(continuing())));
    }
    match text {
        Some(text) if args.raw => Ok((tokenizer.prompt(text), plain(continuing()))),
        Some(text) => {
            let mut prompter = args.prompter(model, tokenizer)?;
            chat::prepare(&mut prompter, args.think, args.system.is_some(), args.quiet)?;
            let before = Conversation { system: args.system.clone(), ..Conversation::default() };
            let prompt = prompter.prompt(tokenizer, &before, text)?;
            let opens = prompt.opens;
            Ok((prompt.ids, Voice::chat(tokenizer.clone(), opens, args.think, stream)))
        }
        None => match tokenizer.bos() {
            // A text of its own, from its first word.
            Some(bos) => Ok((vec![bos], plain(Decoder::new(tokenizer.clone())))),
            None => Err(Error::Usage(
                "this model has no token to begin a text with; give it a prompt".into(),
            )),
        },
    }
}
