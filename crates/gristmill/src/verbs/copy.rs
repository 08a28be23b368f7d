//! `gristmill copy`: a model written again, tensor for tensor and key for key, as one file or
//! split over several.

use crate::args::{Loading, byte_bar};
use crate::term::{Done, catch_interrupts, check_interrupt, note, size};
use clap::Args;
use gristmill::Gguf;
use gristmill::models::gguf;
use std::path::PathBuf;

#[derive(Args)]
#[command(after_help = "Examples:
  gristmill copy model.gguf parts/model.gguf --split-max-size 2G
  gristmill copy parts/model-00001-of-00003.gguf whole.gguf")]
pub struct CopyArgs {
    /// A model; of a split one, its first file
    input: PathBuf,

    /// Where to write it; where it is split, NAME-00001-of-0000N.gguf and so on
    output: PathBuf,

    /// Split into files with at most so many bytes of tensors: a number, or one with K, M or G
    /// (of 1024)
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    split_max_size: Option<u64>,

    #[command(flatten)]
    loading: Loading,

    /// Nothing on stderr but errors
    #[arg(short, long)]
    quiet: bool,
}

pub fn run(args: CopyArgs) -> Done {
    if !args.input.exists() {
        return Err(crate::resolve::missing(&args.input.display().to_string()).into());
    }
    let model = Gguf::open_with(&args.input, args.loading.mode())?;
    catch_interrupts();
    let total = model.tensors().map(|t| t.bytes as u64).sum();
    let bar = (!args.quiet).then(|| byte_bar("writing", total));
    let written = gguf::copy(&model, &args.output, args.split_max_size, &mut |done| {
        check_interrupt()?;
        if let Some(bar) = &bar {
            bar.set_position(done);
        }
        Ok(())
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    for path in written? {
        if !args.quiet {
            let bytes = std::fs::metadata(&path).map_or(0, |m| m.len());
            note(format_args!("wrote {}: {}", path.display(), size(bytes)));
        }
    }
    Ok(())
}

/// `1000`, `64K`, `500M`, `2G`.
///
/// # Errors
/// What is wrong with it, for clap.
fn parse_size(text: &str) -> Result<u64, String> {
    let upper = text.trim().to_ascii_uppercase();
    let (digits, unit) = match upper.trim_end_matches('B').trim_end_matches('I') {
        t if t.ends_with('K') => (&t[..t.len() - 1], 1 << 10),
        t if t.ends_with('M') => (&t[..t.len() - 1], 1 << 20),
        t if t.ends_with('G') => (&t[..t.len() - 1], 1u64 << 30),
        t => (t, 1),
    };
    let n = digits.trim().parse::<u64>().ok().filter(|&n| n > 0);
    n.and_then(|n| n.checked_mul(unit))
        .ok_or_else(|| format!("'{text}' is no size such as 500M or 2G"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, n) in [("7", 7), ("64K", 64 << 10), ("500m", 500 << 20), ("2GiB", 2 << 30)] {
            assert_eq!(parse_size(text), Ok(n), "{text}");
        }
        for text in ["", "0", "-1", "x", "2T", "99999999999G"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
