//! `gristmill quantize`: a float model in a smaller format.

use crate::args::{Loading, byte_bar};
use crate::term::{Done, catch_interrupts, check_interrupt, note, size, usage};
use clap::Args;
use gristmill::files::write_whole;
use gristmill::quantize::{self, Written};
use gristmill::{DType, Gguf};
use std::fs;
use std::path::PathBuf;

#[derive(Args)]
#[command(after_help = "Example: gristmill quantize model-f32.gguf model-q4_k.gguf --type q4_k")]
pub struct QuantizeArgs {
    /// A model in F32, F16 or BF16
    input: PathBuf,

    /// Where to write it
    output: PathBuf,

    #[arg(short, long = "type", value_name = "TYPE", value_parser = quantize::parse_type,
          help = format!("The format of the matrices: {}", quantize::type_names()))]
    target: DType,

    #[command(flatten)]
    loading: Loading,

    /// Show every tensor with its error: the root of the mean square, relative to the values
    #[arg(short, long)]
    verbose: bool,

    /// Nothing on stderr but errors
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
}

pub fn run(args: QuantizeArgs) -> Done {
    if !args.input.exists() {
        return Err(crate::resolve::missing(&args.input.display().to_string()).into());
    }
    let gguf = Gguf::open_with(&args.input, args.loading.mode())?;
    let file = args.output.display().to_string();
    if fs::canonicalize(&args.output).ok() == fs::canonicalize(&args.input).ok() {
        return usage(format!("{file} is the model itself; write to another file"));
    }
    catch_interrupts();
    let total = gguf.tensors().map(|t| t.bytes as u64).sum();
    let bar = (!args.quiet && !args.verbose).then(|| byte_bar("quantizing", total));
    let (mut before, mut after) = (0, 0);
    let mut see = |t: Written| -> gristmill::Result<()> {
        check_interrupt()?;
        before += t.bytes.0;
        after += t.bytes.1;
        if let Some(bar) = &bar {
            bar.set_position(before);
        }
        if let (Some(wanted), false) = (t.instead_of, args.quiet) {
            note(format_args!(
                "{}: rows of {} are no whole number of {wanted} blocks of {}: written as {}",
                t.name,
                t.shape[0],
                wanted.block_len(),
                t.to
            ));
        }
        if args.verbose {
            let shape = format!("{:?}", t.shape);
            note(format_args!(
                "{:<32} {shape:>16} {:>5} -> {:<5} {:>11}  relative RMS error {:.6}",
                t.name,
                t.from.name(),
                t.to.name(),
                size(t.bytes.1),
                t.rms_error
            ));
        }
        Ok(())
    };
    let done = write_whole(&args.output, |out| {
        quantize::quantize(&gguf, out, &file, args.target, &mut see).map(|_| ())
    });
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    done?;
    if !args.quiet {
        note(format_args!("wrote {file}: {} of tensors, from {}", size(after), size(before)));
    }
    Ok(())
}
