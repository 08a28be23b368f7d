//! `gristmill logits`: the raw scores after every token of a prompt.
//!
//! The tool for checking a port: run the same ids elsewhere in f32, and compare the arrays. With
//! `--stop-after` the program ends after an operation, and that one's values are what is written.

use crate::args::{Ids, ModelArgs, RunsOn, Threads, load, loading_bar, parse_ids, plan};
use crate::term::{Done, catch_interrupts, check_interrupt, note, out, usage};
use clap::Args;
use gristmill::files::{cannot_write, write_bytes, write_whole};
use gristmill::ir::Rows;
use gristmill::{Device, Model, Program, Settings, npy};
use std::io::Write;
use std::path::PathBuf;

#[derive(Args)]
#[command(after_help = "Example: gristmill logits model.gguf --ids 1,2,3 -o logits.npy \
                        --activations f32")]
pub struct LogitsArgs {
    #[command(flatten)]
    model: ModelArgs,

    /// The prompt as token ids, such as 1,2,3
    #[arg(long, value_parser = parse_ids, required_unless_present = "prompt",
          conflicts_with = "prompt")]
    ids: Option<Ids>,

    /// The prompt as text, taken as it is: no chat template, BOS where the model wants one
    #[arg(short, long)]
    prompt: Option<String>,

    /// Where to write an f32 array [tokens, vocabulary] (default: show the last row's best)
    #[arg(short, long, value_name = "FILE.npy")]
    output: Option<PathBuf>,

    /// End after this operation (`inspect --program` lists them, after the #) and give its values
    /// instead; NODE:1 is the second value of one that computes two
    #[arg(long, value_name = "NODE")]
    stop_after: Option<String>,

    #[command(flatten)]
    runs_on: RunsOn,

    #[command(flatten)]
    threads: Threads,

    /// Nothing on stderr but errors
    #[arg(short, long)]
    quiet: bool,
}

/// Logits of a step that are held at a time, in numbers.
const HELD: usize = 16 << 20;

pub fn run(args: LogitsArgs) -> Done {
    let model = args.model.open()?;
    let settings = args.runs_on.settings(args.threads.threads)?;
    let program = model.program(settings.kv)?;
    let ids = match (&args.ids, &args.prompt) {
        (Some(Ids(ids)), _) => ids.clone(),
        (None, Some(text)) => model.tokenizer()?.prompt(text),
        (None, None) => return usage("give --ids or --prompt"),
    };
    let (device, settings) = args.runs_on.open(settings, &model, args.quiet)?;
    catch_interrupts();
    if let Some(node) = &args.stop_after {
        return stop_after(&args, &model, device, &program, &settings, &ids, node);
    }
    let info = model.info(settings.kv)?;
    let vocab = info.vocab_size as usize;
    let context = u32::try_from(ids.len()).unwrap_or(u32::MAX);
    let whole = !program.prefix_closed;
    let chunk = if whole { context } else { (HELD / vocab.max(1)).clamp(16, 512) as u32 };
    let settings = Settings { context, whole, ..settings };
    plan(&model, &program, &settings, chunk, args.quiet)?;
    let mut engine = load(&model, device, program, &settings, settings.engine_options(context))?;

    let all = 0..usize::MAX;
    if let Some(path) = &args.output {
        write_whole(path, |out| {
            let failed = |source| cannot_write(path, source);
            out.write_all(&npy::header(&[ids.len(), vocab])).map_err(failed)?;
            engine.each_logits(&[&ids], chunk, all, &mut |_, _, row| {
                check_interrupt()?;
                out.write_all(&npy::values(row)).map_err(failed)
            })
        })?;
        if !args.quiet {
            note(format_args!("wrote f32 [{}, {vocab}] to {}", ids.len(), path.display()));
        }
        return Ok(());
    }
    let mut last = vec![];
    engine.each_logits(&[&ids], chunk, all, &mut |_, at, row| {
        check_interrupt()?;
        if at + 1 == ids.len() {
            last = row.to_vec();
        }
        Ok(())
    })?;
    let mut order: Vec<usize> = (0..last.len()).collect();
    order.sort_by(|&a, &b| last[b].total_cmp(&last[a]));
    let tokenizer = model.tokenizer().ok(); // ids were given: it may have none
    for &id in order.iter().take(10) {
        let text = tokenizer.as_ref().map(|t| format!("{:?}", t.text(id as u32)));
        out(&format!("{id:>8} {:>12.5}  {}\n", last[id], text.unwrap_or_default()))?;
    }
    Ok(())
}

/// Runs the program up to an operation and writes one of its values, or shows how it begins.
fn stop_after(
    args: &LogitsArgs,
    model: &Model,
    device: Device,
    program: &Program,
    settings: &Settings,
    ids: &[u32],
    node: &str,
) -> Done {
    let (name, index) = match node.rsplit_once(':').map(|(n, i)| (n, i.parse::<usize>())) {
        Some((name, Ok(index))) => (name, index),
        _ => (node, 0),
    };
    let cut = program.stop_after(name)?;
    let values = cut.outputs.len();
    if index >= values {
        return usage(format!("`{name}` computes {values} values, so there is no `{node}`"));
    }
    let tokens = u32::try_from(ids.len()).unwrap_or(u32::MAX);
    let options = settings.engine_options(tokens).options;
    let mut bar = loading_bar();
    let mut probe = model.probe_on(device, cut, tokens, &options, &mut |a, b| bar.at(a, b))?;
    bar.end();
    let mut found = None;
    probe.run(ids, &mut |seen| {
        if seen.index == index {
            let rows = seen.values.len() / (seen.shape.width as usize).max(1);
            found = Some((rows, seen.shape, seen.values.to_vec()));
        }
        check_interrupt()
    })?;
    let Some((rows, shape, values)) = found else {
        return usage(format!("there is no value `{node}`"));
    };
    let width = shape.width as usize;
    let what = match shape.rows {
        Rows::Tokens => "tokens".to_owned(),
        Rows::Wanted => "wanted tokens".to_owned(),
        Rows::Seqs => "sequences".to_owned(),
        Rows::Choices(k) => format!("choices ({k} a token)"),
    };
    let Some(path) = &args.output else {
        out(&format!("{node}: [{rows} {what}, {width}]\n"))?;
        for row in values.chunks(width.max(1)) {
            let first: Vec<String> = row.iter().take(8).map(|v| format!("{v:.6}")).collect();
            let rest = if width > 8 { " ..." } else { "" };
            out(&format!("  {}{rest}\n", first.join(" ")))?;
        }
        return Ok(());
    };
    write_bytes(path, &[npy::header(&[rows, width]), npy::values(&values)].concat())?;
    if !args.quiet {
        let file = path.display();
        note(format_args!("wrote {node} as f32 [{rows} {what}, {width}] to {file}"));
    }
    Ok(())
}
