//! `cargo xtask bundle`: the model inside the binary, from what `training/` exported.
//!
//! Quantizes the f32 model to every type that could be shipped, measures the held-out perplexity of
//! each with the binary itself, writes the table of the model card, and copies the chosen type to
//! where the binary includes it from. Run it after `python -m training.export`, then build again.

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

use crate::tools;

const SOURCE: &str = "training/out/model-f32.gguf";
const HELD_OUT: &str = "training/out/heldout_ids.json";
const CARD: &str = "training/CARD.md";
const BUNDLED: &str = "crates/gristmill/bundled/stories.gguf";
const TYPES: [&str; 6] = ["f16", "q8_0", "q6_k", "q5_k", "q4_k", "q4_0"];
/// What may be shipped inside the binary.
const MOST_BYTES: u64 = 6_000_000;
const MARKS: [&str; 2] = ["<!-- quantizations: begin -->", "<!-- quantizations: end -->"];

/// Runs the chore; `--type NAME` chooses what is shipped (q8_0).
pub fn run(args: &[String]) -> Result<()> {
    let shipped = match args {
        [] => "q8_0",
        [flag, name] if flag == "--type" => name,
        _ => bail!("usage: cargo xtask bundle [--type q8_0]"),
    };
    let root = tools::root()?;
    let binary = tools::binary(&[])?;
    let folder = root.join("target/bundle");
    std::fs::create_dir_all(&folder)?;
    let mut table =
        String::from("| weights | file size | held-out perplexity |\n| --- | --- | --- |\n");
    let source = root.join(SOURCE);
    let mut files = vec![("f32", source.clone())];
    for name in TYPES {
        let file = folder.join(format!("stories-{name}.gguf"));
        let done = Command::new(&binary)
            .args(["quantize".as_ref(), source.as_os_str(), file.as_os_str()])
            .args(["--type", name])
            .status()?;
        if !done.success() {
            bail!("quantizing {} to {name} failed", source.display());
        }
        files.push((name, file));
    }
    for (name, file) in &files {
        let bytes = std::fs::metadata(file).with_context(|| file.display().to_string())?.len();
        let perplexity = perplexity(&binary, file, &root.join(HELD_OUT), name == &"f32")?;
        println!("{name:5} {bytes:9} bytes  perplexity {perplexity}");
        table += &format!("| {name} | {:.2} MB | {perplexity} |\n", bytes as f64 / 1e6);
        if name == &shipped {
            if bytes > MOST_BYTES {
                bail!("{name} takes {bytes} bytes, more than the {MOST_BYTES} that may be shipped");
            }
            std::fs::copy(file, root.join(BUNDLED)).context(BUNDLED)?;
        }
    }
    fill_card(&root.join(CARD), &table)?;
    println!("shipped {shipped} as {BUNDLED}");
    Ok(())
}

/// The held-out perplexity that the binary prints. The f32 row is exact; the others run as users
/// run them, with int8 activations.
fn perplexity(binary: &Path, model: &Path, ids: &Path, exact: bool) -> Result<String> {
    let activations = if exact { "f32" } else { "int8" };
    let out = Command::new(binary)
        .args(["perplexity".as_ref(), model.as_os_str(), "--ids-file".as_ref(), ids.as_os_str()])
        .args(["--activations", activations])
        .output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    let value = text.split_whitespace().skip_while(|w| *w != "perplexity").nth(1);
    match value {
        Some(v) if out.status.success() => Ok(v.to_owned()),
        _ => bail!("perplexity of {}: {}", model.display(), String::from_utf8_lossy(&out.stderr)),
    }
}

/// Replaces what stands between the marks of the card.
fn fill_card(card: &Path, table: &str) -> Result<()> {
    let text = std::fs::read_to_string(card).with_context(|| card.display().to_string())?;
    let parts = text.split_once(MARKS[0]).zip(text.split_once(MARKS[1]));
    let Some(((before, _), (_, after))) = parts else {
        bail!("{} has no marks `{}` and `{}`", card.display(), MARKS[0], MARKS[1]);
    };
    let new = format!("{before}{}\n{table}{}{after}", MARKS[0], MARKS[1]);
    std::fs::write(card, new).with_context(|| card.display().to_string())
}
