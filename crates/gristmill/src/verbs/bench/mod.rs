//! `gristmill bench`: tokens a second, beside what the machine can do at most.
//!
//! The tests and the names of their fields are those of `llama-bench`, so that its scripts read
//! the output: `ppN` runs a prompt of N tokens, `tgN` generates N tokens one at a time, `ppN+tgM`
//! does both, `@ dN` after N tokens. The measured ceilings stand beside each speed: reading is what
//! bounds generation, arithmetic is what bounds prompts.

mod compare;
mod html;
mod kernels;
mod record;
mod table;

use crate::args::{ModelArgs, RunsOn, load, plan};
use crate::device::Devices;
use crate::term::{Done, catch_interrupts, check_interrupt, note, usage};
use clap::{Args, ValueEnum};
use gristmill::cpu::Ceilings;
use gristmill::engine::{Parent, SequenceId};
use gristmill::work::Work;
use gristmill::{Backend, Device, Engine, EngineOptions, Error, Model, Request, Settings};
use record::Record;
use std::path::PathBuf;
use std::time::Instant;
use table::Table;

#[derive(Args)]
#[command(after_help = "Examples:
  gristmill bench model.gguf -p 512 -n 128 -r 5 -o md
  gristmill bench model.gguf --device wgpu,cpu     the same tests on both, in turns
  gristmill bench --kernels --device wgpu,cpu      single operations, by the devices' own clocks

Shares (% read, % peak) are of what the processor can do, so rows of other devices have none.")]
pub struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,

    /// Lengths of prompts to run, with commas between; 0: none
    #[arg(short = 'p', long, value_delimiter = ',', default_value = "512", value_name = "N")]
    n_prompt: Vec<u32>,

    /// Numbers of tokens to generate; 0: none
    #[arg(short = 'n', long, value_delimiter = ',', default_value = "128", value_name = "N")]
    n_gen: Vec<u32>,

    /// A prompt and then tokens, in one test; also -pg; may be repeated
    #[arg(long = "pg", value_name = "P,N", value_parser = pair)]
    pg: Vec<(u32, u32)>,

    /// Tokens before the test begins
    #[arg(short = 'd', long, value_delimiter = ',', default_value = "0", value_name = "N")]
    n_depth: Vec<u32>,

    /// Time single operations instead of a model, by format and instruction set, beside the scalar
    /// build of the same kernels, or on the devices that --device names; words choose: parts of names
    /// (matvec, matmul, experts, dequantize, norm, softmax, attention), formats, instruction sets
    #[arg(long, value_name = "WORDS", value_delimiter = ',', num_args = 0..=1,
          require_equals = true, default_missing_value = "")]
    kernels: Option<Vec<String>>,

    /// Sequences that run at once, with commas between, also -npl; speeds are of all together
    #[arg(long, alias = "npl", value_delimiter = ',', default_value = "1", value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    n_parallel: Vec<u32>,

    /// How often each test is run
    #[arg(short, long, default_value_t = 5, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,

    /// Numbers of threads (default: every core)
    #[arg(short, long, value_delimiter = ',', value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Vec<u32>,

    /// How the results are written
    #[arg(short, long, value_enum, default_value = "md")]
    output: Format,

    /// Do not run each test once before it is measured
    #[arg(long)]
    no_warmup: bool,

    /// Add every row to this file too, an object a line
    #[arg(long, value_name = "FILE")]
    append: Option<PathBuf>,

    /// What these rows are called in records
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    title: String,

    /// What else is to be known of them
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,

    /// Compare with the rows of this file (written with -o json, -o jsonl or --append): the ratio of
    /// each test to the latest like it; below 0.95 is exit code 1
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,

    /// Write a page with plots of the rows, and of those of --compare beside them
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    #[command(flatten)]
    runs_on: RunsOn,

    /// Nothing on stderr but errors
    #[arg(short, long)]
    quiet: bool,
}

/// Formats of the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A Markdown table
    Md,
    /// Comma-separated values
    Csv,
    /// An array of objects
    Json,
    /// An object a line
    Jsonl,
}

fn pair(text: &str) -> Result<(u32, u32), String> {
    let two = text.split_once(',').and_then(|(p, g)| Some((p.parse().ok()?, g.parse().ok()?)));
    two.filter(|&(p, g)| p > 0 && g > 0).ok_or_else(|| "it must be two numbers, as 512,128".into())
}

/// One test: `prompt` tokens at once, then `generate` one at a time, after `depth`; of `parallel`
/// sequences each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    pub prompt: u32,
    pub generate: u32,
    pub depth: u32,
    pub parallel: u32,
}

impl Test {
    /// Its name, as `llama-bench` writes it.
    pub fn name(&self) -> String {
        let mut parts = vec![];
        if self.prompt > 0 {
            parts.push(format!("pp{}", self.prompt));
        }
        if self.generate > 0 {
            parts.push(format!("tg{}", self.generate));
        }
        let depth = if self.depth > 0 { format!(" @ d{}", self.depth) } else { String::new() };
        let times = if self.parallel > 1 { format!(" x {}", self.parallel) } else { String::new() };
        parts.join("+") + &depth + &times
    }

    /// Tokens that its speed counts.
    pub fn tokens(&self) -> u32 {
        self.parallel * (self.prompt + self.generate)
    }

    /// Tokens of context that it needs.
    fn context(&self) -> u32 {
        self.depth + self.prompt + self.generate + 2
    }
}

/// Bytes of weights that large caches hold.
const CACHED: u64 = 64 << 20;

/// What the rows of one run have in common.
pub struct Setup<'m> {
    pub model: &'m Model,
    pub settings: &'m Settings,
    pub options: &'m EngineOptions,
    pub ceilings: Ceilings,
    pub work: Work,
    /// What `--device` calls it.
    pub device: &'static str,
    /// Its name, where it is no processor.
    pub gpu: &'m str,
}

pub fn run(args: BenchArgs) -> Done {
    if let Some(words) = &args.kernels {
        let words: Vec<String> = words.iter().filter(|w| !w.is_empty()).cloned().collect();
        return kernels::run(&args, &words);
    }
    let model = args.model.open()?;
    let tests = tests(&args);
    let Some(context) = tests.iter().map(Test::context).max() else {
        return usage("there is no test to run: give -p, -n or -pg above 0");
    };
    if context > 1 << 24 {
        return usage(format!("a test of {context} tokens is out of all proportion"));
    }
    // Before anything takes long.
    let baseline = args.compare.as_deref().map(compare::read).transpose()?;
    let mut records: Vec<Record> = vec![];
    if let Some(path) = &args.append {
        record::append(path, None)?;
    }
    let parallel = args.n_parallel.iter().copied().max().unwrap_or(1);
    catch_interrupts();
    let mut table = Table::new(args.output);
    let threads: Vec<Option<u32>> = if args.threads.is_empty() {
        vec![None]
    } else {
        args.threads.iter().copied().map(Some).collect()
    };
    for threads in threads {
        let settings = Settings { context, max_seqs: parallel, ..args.runs_on.settings(threads)? };
        let program = model.program(settings.kv)?;
        plan(&model, &program, &settings, settings.max_seqs, args.quiet)?;
        let ceilings = gristmill::Cpu::new(settings.cpu)?.ceilings()?;
        check_interrupt()?;
        if !args.quiet {
            note(ceilings);
        }
        let work = Work::of(&program, model.gguf());
        if work.weight_bytes < CACHED && !args.quiet {
            note("this model fits in the caches, which are faster than the memory measured above");
        }
        let mut sides = vec![];
        for &wanted in &args.runs_on.device.0 {
            let on = RunsOn { device: Devices(vec![wanted]), ..args.runs_on.clone() };
            let (device, suited) = on.open(settings.clone(), &model, args.quiet)?;
            let options = options(&suited, context);
            let kind = device.kind();
            let gpu = if kind == "cpu" { String::new() } else { device.capabilities().name };
            let engine = load(&model, device, program.clone(), &settings, options.clone())?;
            sides.push(Side { kind, gpu, options, engine });
        }
        for test in &tests {
            let times = measure(&mut sides, test, &args)?;
            for (side, times) in sides.iter().zip(&times) {
                let (model, settings, options) = (&model, &settings, &side.options);
                let (device, gpu) = (side.kind, side.gpu.as_str());
                let setup = Setup { model, settings, options, ceilings, work, device, gpu };
                let record = Record::new(&setup, test, times, [&args.title, &args.note]);
                table.row(&record)?;
                if let Some(path) = &args.append {
                    record::append(path, Some(&record))?;
                }
                records.push(record);
            }
        }
    }
    table.end()?;
    if let Some(path) = &args.html {
        html::write(path, &args.title, &args.note, &records, baseline.as_deref())?;
        note(format_args!("wrote plots to {}", path.display()));
    }
    match baseline {
        Some(baseline) => compare::show(&records, &baseline, args.output),
        None => Ok(()),
    }
}

/// Room for the sequences and what lies before each.
fn options(settings: &Settings, context: u32) -> EngineOptions {
    let options = settings.engine_options(context);
    // What lies before each sequence, and the sequence itself.
    let pages = settings.max_seqs * (2 * context.div_ceil(options.page_tokens) + 2);
    EngineOptions { pages: gristmill::engine::PageCount::Each(pages), ..options }
}

/// The tests, in the order of `llama-bench`.
fn tests(args: &BenchArgs) -> Vec<Test> {
    let mut all = vec![];
    for &depth in &args.n_depth {
        for &parallel in &args.n_parallel {
            let test = |prompt, generate| Test { prompt, generate, depth, parallel };
            all.extend(args.n_prompt.iter().map(|&p| test(p, 0)));
            all.extend(args.n_gen.iter().map(|&g| test(0, g)));
            all.extend(args.pg.iter().map(|&(p, g)| test(p, g)));
        }
    }
    all.retain(|t| t.tokens() > 0);
    all
}

/// A device with the model on it.
struct Side {
    kind: &'static str,
    gpu: String,
    options: EngineOptions,
    engine: Engine<Device>,
}

/// Nanoseconds of a test.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// Of each repetition.
    pub samples: Vec<u64>,
    /// Of each step of all repetitions.
    pub steps: Vec<u64>,
}

/// The times of a test on each device, the devices taking turns.
fn measure(sides: &mut [Side], test: &Test, args: &BenchArgs) -> Done<Vec<Times>> {
    let mut requests = vec![];
    for side in &mut *sides {
        requests.push(prepare(&mut side.engine, test, args)?);
    }
    let mut times = vec![Times::default(); sides.len()];
    for _ in 0..args.repetitions {
        for ((side, request), times) in sides.iter_mut().zip(&requests).zip(&mut times) {
            let sample = go(&mut side.engine, request, &mut times.steps)?.0;
            times.samples.push(sample);
        }
    }
    Ok(times)
}

/// The requests of a test, after what comes before them.
fn prepare(engine: &mut Engine<Device>, test: &Test, args: &BenchArgs) -> Done<Vec<Request>> {
    let vocab = engine.vocab().max(1);
    let mut state = 1u32;
    let mut ids = |n: u32| -> Vec<u32> {
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % vocab
        };
        std::iter::repeat_with(next).take(n as usize).collect()
    };
    let mut before = vec![None; test.parallel as usize];
    if test.depth > 0 {
        for sequence in &mut before {
            let mut request = Request::new(ids(test.depth), 1);
            request.keep = true;
            *sequence = go(engine, &[request], &mut vec![])?.1;
        }
    }
    // A prompt of p tokens gives one token by itself, and each further token is a step.
    let tokens = if test.prompt > 0 { test.generate + 1 } else { test.generate };
    let mut request = |before: Option<SequenceId>| {
        let mut request = Request::new(ids(test.prompt.max(1)), tokens as usize);
        request.parent = before.map(|sequence| Parent { sequence, len: Some(test.depth as usize) });
        request
    };
    let requests: Vec<Request> = before.into_iter().map(&mut request).collect();
    if !args.no_warmup {
        go(engine, &requests, &mut vec![])?;
    }
    Ok(requests)
}

/// Runs requests to their end: nanoseconds, and the sequence that the last leaves. The nanoseconds of
/// each step are added to `steps`.
fn go(
    engine: &mut Engine<Device>,
    requests: &[Request],
    steps: &mut Vec<u64>,
) -> Done<(u64, Option<SequenceId>)> {
    let expected = requests.iter().map(|r| r.max_tokens).sum();
    let mut events = Vec::with_capacity(expected);
    steps.reserve(expected);
    let requests = requests.to_vec();
    let start = Instant::now();
    for request in requests {
        engine.submit(request)?;
    }
    let mut before = 0;
    while !engine.is_idle() {
        check_interrupt()?;
        engine.step(&mut events)?;
        let now = start.elapsed().as_nanos() as u64;
        steps.push(now - before);
        before = now;
    }
    let time = start.elapsed().as_nanos() as u64;
    if events.len() != expected {
        return Err(Error::Runtime(format!("{} tokens came of {expected}", events.len())).into());
    }
    Ok((time.max(1), events.last().and_then(|e| e.sequence)))
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn names_of_tests() {
        let name = |prompt, generate, depth| Test { prompt, generate, depth, parallel: 1 }.name();
        let several = Test { prompt: 0, generate: 32, depth: 8, parallel: 4 };
        assert_eq!((several.name().as_str(), several.tokens()), ("tg32 @ d8 x 4", 128));
        assert_eq!(name(512, 0, 0), "pp512");
        assert_eq!(name(0, 128, 1024), "tg128 @ d1024");
        assert_eq!(name(512, 128, 0), "pp512+tg128");
        assert_eq!(pair("512,128"), Ok((512, 128)));
        assert!(pair("512").is_err() && pair("0,1").is_err());
    }
}
