//! `cargo xtask bundle`: the models inside the binary, from what `training/` exported.
//!
//! Quantizes an f32 model to every type that could be shipped, measures each on the held-out stories,
//! writes the table of the model's card, and copies the chosen type to where the binary includes it
//! from. Run it after `python -m training.export`, then build again.

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

use crate::tools;

/// How a model is measured on what is held out.
#[derive(Clone, Copy, PartialEq)]
enum Measure {
    /// Perplexity, by the binary itself.
    Perplexity,
    /// The bound of masked diffusion in nats per token, by `training/bound.py`.
    Bound,
    /// The error of the noise that a Gaussian denoiser tells, by the same.
    Noise,
}

/// A model that can be shipped.
struct Bundle {
    name: &'static str,
    /// Where training left `model-f32.gguf` and `heldout_ids.json`.
    folder: &'static str,
    measure: Measure,
    /// Types tried.
    types: &'static [&'static str],
    /// The type shipped unless the command line says otherwise.
    shipped: &'static str,
    /// What may be shipped inside the binary.
    most_bytes: u64,
}

const BUNDLES: [Bundle; 4] = [
    Bundle {
        name: "stories",
        folder: "training/out",
        measure: Measure::Perplexity,
        types: &["f16", "q8_0", "q6_k", "q5_k", "q4_k", "q4_0"],
        shipped: "q8_0",
        most_bytes: 6_000_000,
    },
    Bundle {
        name: "tales-rwkv",
        folder: "training/out/tales-rwkv",
        measure: Measure::Perplexity,
        types: &["f16", "q8_0", "q6_k", "q5_k", "q4_k"],
        shipped: "q8_0",
        most_bytes: 4_000_000,
    },
    Bundle {
        name: "tales-diffusion",
        folder: "training/out/tales-diffusion",
        measure: Measure::Bound,
        types: &["q8_0", "q6_k", "q5_k", "q4_k", "q4_0"],
        shipped: "q5_k",
        most_bytes: 4_000_000,
    },
    Bundle {
        name: "tales-denoiser",
        folder: "training/out/tales-denoiser",
        measure: Measure::Noise,
        types: &["f16", "q8_0"],
        shipped: "f16",
        most_bytes: 4_000_000,
    },
];
const MARKS: [&str; 2] = ["<!-- quantizations: begin -->", "<!-- quantizations: end -->"];

/// Runs the chore for a model (stories); `--type NAME` chooses what is shipped.
pub fn run(args: &[String]) -> Result<()> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (name, shipped) = match args[..] {
        [] => ("stories", None),
        ["--type", kind] => ("stories", Some(kind)),
        [name] => (name, None),
        [name, "--type", kind] => (name, Some(kind)),
        _ => bail!("usage: cargo xtask bundle [MODEL] [--type q8_0]"),
    };
    let Some(model) = BUNDLES.iter().find(|b| b.name == name) else {
        let names: Vec<&str> = BUNDLES.iter().map(|b| b.name).collect();
        bail!("there is no model '{name}'; there are {}", names.join(", "));
    };
    let shipped = shipped.unwrap_or(model.shipped);
    if !model.types.contains(&shipped) {
        bail!("'{shipped}' is not among {}", model.types.join(", "));
    }
    let root = tools::root()?;
    let binary = tools::binary(&[])?;
    let bundled = format!("crates/gristmill/bundled/{name}.gguf");
    let folder = root.join("target/bundle");
    std::fs::create_dir_all(&folder)?;
    let what = match model.measure {
        Measure::Perplexity => "held-out perplexity",
        Measure::Bound => "held-out bound, nats per token",
        Measure::Noise => "held-out error of the noise",
    };
    let mut table = format!("| weights | file size | {what} |\n| --- | --- | --- |\n");
    let source = root.join(model.folder).join("model-f32.gguf");
    let mut files = vec![("f32", source.clone())];
    for kind in model.types {
        let file = folder.join(format!("{name}-{kind}.gguf"));
        let done = Command::new(&binary)
            .args(["quantize".as_ref(), source.as_os_str(), file.as_os_str()])
            .args(["--type", kind])
            .status()?;
        if !done.success() {
            bail!("quantizing {} to {kind} failed", source.display());
        }
        files.push((kind, file));
    }
    for (kind, file) in &files {
        let bytes = std::fs::metadata(file).with_context(|| file.display().to_string())?.len();
        let ids = root.join(model.folder).join("heldout_ids.json");
        let figure = match model.measure {
            Measure::Perplexity => perplexity(&binary, file, &ids, kind == &"f32")?,
            Measure::Bound => bound(&root, file, "tales-diffusion", "bound")?,
            Measure::Noise => bound(&root, file, "tales-denoiser", "error")?,
        };
        println!("{kind:5} {bytes:9} bytes  {what} {figure}");
        table += &format!("| {kind} | {:.2} MB | {figure} |\n", bytes as f64 / 1e6);
        if kind == &shipped {
            let most = model.most_bytes;
            if bytes > most {
                bail!("{kind} takes {bytes} bytes, more than the {most} that may be shipped");
            }
            std::fs::copy(file, root.join(&bundled)).with_context(|| bundled.clone())?;
        }
    }
    fill_card(&root.join(format!("training/cards/{name}.md")), &table)?;
    println!("shipped {shipped} as {bundled}");
    Ok(())
}

/// The held-out perplexity that the binary prints. The f32 row is exact; the others run as users
/// run them, with int8 activations.
fn perplexity(binary: &Path, model: &Path, ids: &Path, exact: bool) -> Result<String> {
    let activations = if exact { "f32" } else { "int8" };
    let mut command = Command::new(binary);
    command.args([
        "perplexity".as_ref(),
        model.as_os_str(),
        "--ids-file".as_ref(),
        ids.as_os_str(),
    ]);
    command.args(["--activations", activations]);
    said(&mut command, "perplexity")
}

/// What `training/bound.py` prints after `word` for a model of this kind. Python is that of `PYTHON`, or of `.venv`.
fn bound(root: &Path, model: &Path, kind: &str, word: &str) -> Result<String> {
    let python = std::env::var_os("PYTHON").unwrap_or_else(|| ".venv/bin/python".into());
    let mut command = Command::new(python);
    command.current_dir(root).args(["-m", "training.bound"]).arg(model).args(["--kind", kind]);
    said(&mut command, word)
}

/// The word after `word` in what a program prints.
fn said(command: &mut Command, word: &str) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command.output().with_context(|| format!("starting {name}"))?;
    let text = String::from_utf8_lossy(&out.stdout);
    match text.split_whitespace().skip_while(|w| *w != word).nth(1) {
        Some(v) if out.status.success() => Ok(v.to_owned()),
        _ => bail!("{name} said no {word}: {}", String::from_utf8_lossy(&out.stderr)),
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
