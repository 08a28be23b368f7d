//! `gristmill bench`: tokens a second, beside what the machine can do at most.
//!
//! The tests and the names of their fields are those of `llama-bench`, so that its scripts read
//! the output: `ppN` runs a prompt of N tokens, `tgN` generates N tokens one at a time, `ppN+tgM`
//! does both, `@ dN` after N tokens. The measured ceilings stand beside each speed: reading is what
//! bounds generation, arithmetic is what bounds prompts.

#[cfg(feature = "wgpu")]
mod kernels;
mod record;
mod table;

use crate::args::{ModelArgs, RunsOn, load, plan};
use crate::device::Wanted;
use crate::term::{Done, catch_interrupts, check_interrupt, note, usage};
use clap::{Args, ValueEnum};
use gristmill::cpu::Ceilings;
use gristmill::engine::{Parent, SequenceId};
use gristmill::work::Work;
use gristmill::{Device, Engine, EngineOptions, Error, Model, Request, Settings};
use record::Record;
use std::time::Instant;
use table::Table;

#[derive(Args)]
#[command(after_help = "Example: gristmill bench model.gguf -p 512 -n 128 -r 5 -o md")]
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

    /// Another device, to run the same tests there in turns with the first
    #[arg(long, value_name = "DEVICE", value_parser = crate::device::parse)]
    beside: Option<Wanted>,

    /// After the tests, the time of each kernel in a step of each kind (GPUs that write timestamps)
    #[arg(long)]
    kernels: bool,

    /// Do not run each test once before it is measured
    #[arg(long)]
    no_warmup: bool,

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

/// One test: `prompt` tokens at once, then `gen` one at a time, after `depth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    pub prompt: u32,
    pub generate: u32,
    pub depth: u32,
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
        parts.join("+") + &depth
    }

    /// Tokens that its speed counts.
    pub fn tokens(&self) -> u32 {
        self.prompt + self.generate
    }

    /// Tokens of context that it needs.
    fn context(&self) -> u32 {
        self.depth + self.tokens() + 2
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
}

pub fn run(args: BenchArgs) -> Done {
    let model = args.model.open()?;
    let tests = tests(&args);
    let Some(context) = tests.iter().map(Test::context).max() else {
        return usage("there is no test to run: give -p, -n or -pg above 0");
    };
    if context > 1 << 24 {
        return usage(format!("a test of {context} tokens is out of all proportion"));
    }
    catch_interrupts();
    let mut table = Table::new(args.output);
    let threads: Vec<Option<u32>> = if args.threads.is_empty() {
        vec![None]
    } else {
        args.threads.iter().copied().map(Some).collect()
    };
    let devices: Vec<Wanted> = [args.runs_on.device].into_iter().chain(args.beside).collect();
    for threads in threads {
        let settings = Settings { context, ..args.runs_on.settings(threads)? };
        let program = model.program(settings.kv)?;
        plan(&model, &program, &settings, settings.max_seqs, args.quiet)?;
        let ceilings = gristmill::Cpu::new(settings.cpu)?.ceilings()?;
        check_interrupt()?;
        if !args.quiet {
            note(table::ceilings(&ceilings));
        }
        let work = Work::of(&program, model.gguf());
        if work.weight_bytes < CACHED && !args.quiet {
            note("this model fits in the caches, which are faster than the memory measured above");
        }
        let options = options(&settings, context);
        let mut sides = vec![];
        for &wanted in &devices {
            let on = RunsOn { device: wanted, ..args.runs_on.clone() };
            let device = on.open(&settings, &model, args.quiet)?;
            if device.kind() != "cpu" && !args.quiet {
                note("percentages are of what the processor can do, not of the GPU");
            }
            let kind = device.kind();
            #[cfg(feature = "wgpu")]
            let gpu = match &device {
                Device::Wgpu(gpu) => Some(gpu.clone()),
                Device::Cpu(_) | Device::Split(_) => None,
            };
            let engine = load(&model, device, program.clone(), options.clone())?;
            sides.push(Side {
                kind,
                engine,
                #[cfg(feature = "wgpu")]
                gpu,
            });
        }
        for test in &tests {
            let times = measure(&mut sides, test, &args)?;
            for (side, samples) in sides.iter().zip(&times) {
                let (model, settings, options) = (&model, &settings, &options);
                let setup = Setup { model, settings, options, ceilings, work, device: side.kind };
                table.row(&Record::new(&setup, test, samples))?;
            }
        }
        if args.kernels {
            let timed = timed(&mut sides, &tests, &ceilings)?;
            if !timed {
                return usage("--kernels times the kernels of a GPU; name one with --device wgpu");
            }
        }
    }
    table.end()
}

/// One sequence and room for what lies before it.
fn options(settings: &Settings, context: u32) -> EngineOptions {
    let options = settings.engine_options(context);
    let pages = 2 * context.div_ceil(options.page_tokens) + 2;
    EngineOptions { pages: gristmill::engine::PageCount::Each(pages), ..options }
}

/// The tests, in the order of `llama-bench`.
fn tests(args: &BenchArgs) -> Vec<Test> {
    let mut all = vec![];
    for &depth in &args.n_depth {
        let test = |prompt, generate| Test { prompt, generate, depth };
        all.extend(args.n_prompt.iter().map(|&p| test(p, 0)));
        all.extend(args.n_gen.iter().map(|&g| test(0, g)));
        all.extend(args.pg.iter().map(|&(p, g)| test(p, g)));
    }
    all.retain(|t| t.tokens() > 0);
    all
}

/// A device with the model on it.
struct Side {
    kind: &'static str,
    engine: Engine<Device>,
    #[cfg(feature = "wgpu")]
    gpu: Option<gristmill::Wgpu>,
}

/// Shows where the time goes on each GPU; whether there is one.
fn timed(sides: &mut [Side], tests: &[Test], ceilings: &Ceilings) -> Done<bool> {
    #[cfg(not(feature = "wgpu"))]
    let _ = (sides, tests, ceilings);
    #[allow(unused_mut)] // without GPUs
    let mut any = false;
    #[cfg(feature = "wgpu")]
    for side in sides {
        if let Some(gpu) = &side.gpu {
            kernels::table(&mut side.engine, gpu, tests, ceilings)?;
            any = true;
        }
    }
    Ok(any)
}

/// Nanoseconds of each repetition on each device, the devices taking turns.
fn measure(sides: &mut [Side], test: &Test, args: &BenchArgs) -> Done<Vec<Vec<u64>>> {
    let mut requests = vec![];
    for side in &mut *sides {
        requests.push(prepare(&mut side.engine, test, args)?);
    }
    let mut times = vec![vec![]; sides.len()];
    for _ in 0..args.repetitions {
        for ((side, request), times) in sides.iter_mut().zip(&requests).zip(&mut times) {
            times.push(go(&mut side.engine, request.clone())?.0);
        }
    }
    Ok(times)
}

/// The request of a test, after what comes before it.
fn prepare(engine: &mut Engine<Device>, test: &Test, args: &BenchArgs) -> Done<Request> {
    let vocab = engine.vocab().max(1);
    let mut state = 1u32;
    let mut ids = |n: u32| -> Vec<u32> {
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % vocab
        };
        std::iter::repeat_with(next).take(n as usize).collect()
    };
    let before = match test.depth {
        0 => None,
        n => {
            let mut request = Request::new(ids(n), 1);
            request.keep = true;
            Some(go(engine, request)?.1)
        }
    };
    // A prompt of p tokens gives one token by itself, and each further token is a step.
    let prompt = ids(test.prompt.max(1));
    let tokens = if test.prompt > 0 { test.generate + 1 } else { test.generate };
    let mut request = Request::new(prompt, tokens as usize);
    if let Some(sequence) = before.flatten() {
        request.parent = Some(Parent { sequence, len: Some(test.depth as usize) });
    }
    if !args.no_warmup {
        go(engine, request.clone())?;
    }
    Ok(request)
}

/// Runs a request to its end: nanoseconds, and the sequence it leaves.
fn go(engine: &mut Engine<Device>, request: Request) -> Done<(u64, Option<SequenceId>)> {
    let expected = request.max_tokens;
    let mut events = Vec::with_capacity(expected);
    let start = Instant::now();
    engine.submit(request)?;
    while !engine.is_idle() {
        check_interrupt()?;
        engine.step(&mut events)?;
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
        let name = |prompt, generate, depth| Test { prompt, generate, depth }.name();
        assert_eq!(name(512, 0, 0), "pp512");
        assert_eq!(name(0, 128, 1024), "tg128 @ d1024");
        assert_eq!(name(512, 128, 0), "pp512+tg128");
        assert_eq!(pair("512,128"), Ok((512, 128)));
        assert!(pair("512").is_err() && pair("0,1").is_err());
    }
}
