//! `cargo xtask layers`: who may depend on whom, and what may be nowhere.
//!
//! The table below is the picture of `docs/architecture.md`: arrows point down only. What source
//! text may not contain is in [`crate::rules`].

use crate::source::words;
use crate::{rules, tools};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fmt;
use std::fs;
use std::path::Path;

/// A rule that does not hold somewhere.
#[derive(Debug, PartialEq)]
pub struct Violation {
    /// Relative to the root.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// The rule's name.
    pub rule: &'static str,
    /// What is wrong and what to do.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file, self.line, self.rule, self.what)
    }
}

/// A crate, what it may depend on, and what its tests may depend on besides.
struct Layer(&'static str, &'static [&'static str], &'static [&'static str]);

/// From the bottom up. `models` and the devices do not see each other; the engine meets a device
/// in its tests only.
const LAYERS: &[Layer] = &[
    Layer("gristmill-core", &[], &[]),
    Layer("gristmill-ir", &["gristmill-core"], &[]),
    Layer("gristmill-cpu", &["gristmill-core", "gristmill-ir"], &["gristmill-conformance"]),
    Layer("gristmill-gpu", &["gristmill-core", "gristmill-ir"], &[]),
    Layer(
        "gristmill-cuda",
        &["gristmill-core", "gristmill-ir", "gristmill-gpu"],
        &["gristmill-conformance"],
    ),
    Layer(
        "gristmill-wgpu",
        &["gristmill-core", "gristmill-ir", "gristmill-gpu"],
        &["gristmill-conformance", "gristmill-models", "gristmill-engine"],
    ),
    Layer("gristmill-models", &["gristmill-core", "gristmill-ir"], &[]),
    Layer(
        "gristmill-engine",
        &["gristmill-core", "gristmill-ir", "gristmill-models"],
        &["gristmill-cpu", "gristmill-conformance"],
    ),
    Layer(
        "gristmill-conformance",
        &["gristmill-core", "gristmill-ir"],
        &[
            "gristmill-cpu",
            "gristmill-cuda",
            "gristmill-wgpu",
            "gristmill-models",
            "gristmill-engine",
        ],
    ),
    Layer(
        "gristmill",
        &[
            "gristmill-core",
            "gristmill-ir",
            "gristmill-cpu",
            "gristmill-cuda",
            "gristmill-wgpu",
            "gristmill-models",
            "gristmill-engine",
            "gristmill-conformance",
        ],
        &[],
    ),
    // Stays quick to build: chores that need the engine run the binary.
    Layer("xtask", &["gristmill-core", "gristmill-models"], &[]),
];

/// Linear algebra that others wrote: every kernel here is our own. A package is refused when its
/// name, or a part of it between dashes, is one of these.
const NO_BLAS: &[&str] = &[
    "accelerate",
    "blas",
    "blasoxide",
    "blis",
    "candle",
    "cblas",
    "clblast",
    "cublas",
    "cublaslt",
    "faer",
    "gemm",
    "lapack",
    "lapacke",
    "matrixmultiply",
    "mkl",
    "nalgebra",
    "ndarray",
    "netlib",
    "onednn",
    "openblas",
    "rocblas",
    "tch",
];

/// Runs every rule and lists what does not hold.
pub fn run(args: &[String]) -> Result<()> {
    if !args.is_empty() {
        bail!("it takes no options");
    }
    let root = tools::root()?;
    let meta = tools::metadata()?;
    let mut found = Vec::new();

    let arrows = check_arrows(&root, &meta, &mut found)?;
    let lock = fs::read_to_string(root.join("Cargo.lock")).context("reading Cargo.lock")?;
    let packages = check_lock(&lock, &mut found);
    let files = rules::check(&root, &mut found)?;

    for v in &found {
        println!("{v}");
    }
    if !found.is_empty() {
        bail!("{} violations", found.len());
    }
    println!(
        "layers: {} crates, {arrows} arrows, {packages} packages, {files} files: every rule holds",
        tools::packages(&meta).count()
    );
    Ok(())
}

/// Checks the dependencies between our own crates; returns how many there are.
fn check_arrows(root: &Path, meta: &Value, found: &mut Vec<Violation>) -> Result<usize> {
    let mut arrows = 0;
    for package in tools::packages(meta) {
        let name = text(&package["name"])?;
        let manifest = Path::new(text(&package["manifest_path"])?);
        let file = manifest.strip_prefix(root).unwrap_or(manifest).to_string_lossy();
        let source = fs::read_to_string(manifest).with_context(|| format!("reading {file}"))?;
        let mut refuse = |of: &str, what: String| {
            let line = source.lines().position(|l| words_of_manifest(l).any(|w| w == of));
            found.push(Violation {
                file: file.to_string(),
                line: line.unwrap_or(0) + 1,
                rule: "layers",
                what,
            });
        };

        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            if !dependency["path"].is_string() {
                continue; // not ours
            }
            arrows += 1;
            let to = text(&dependency["name"])?;
            if let Some(what) = refused_arrow(name, to, dependency["kind"] == "dev") {
                refuse(to, what);
            }
        }
        if layer(name).is_none() {
            refuse(name, format!("`{name}` has no place yet: give it one in {}", file!()));
        }
    }
    Ok(arrows)
}

fn text(v: &Value) -> Result<&str> {
    v.as_str().context("cargo metadata printed something unknown")
}

fn words_of_manifest(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'))
}

fn layer(name: &str) -> Option<&'static Layer> {
    LAYERS.iter().find(|l| l.0 == name)
}

fn refused_arrow(from: &str, to: &str, dev: bool) -> Option<String> {
    let Layer(_, normal, tests) = layer(from)?;
    if normal.contains(&to) || (dev && tests.contains(&to)) {
        return None;
    }
    Some(if tests.contains(&to) {
        format!("only the tests of `{from}` may see `{to}`: make it a dev-dependency")
    } else {
        format!("`{from}` may not see `{to}`: arrows point down only, see docs/architecture.md")
    })
}

/// Checks the names of all packages in `Cargo.lock`; returns how many there are.
fn check_lock(lock: &str, found: &mut Vec<Violation>) -> usize {
    let mut packages = 0;
    for (i, line) in lock.lines().enumerate() {
        let Some(name) = line.strip_prefix("name = ") else { continue };
        packages += 1;
        let name = name.trim_matches('"');
        if words(name).flat_map(|w| w.split('_')).any(|part| NO_BLAS.contains(&part)) {
            found.push(Violation {
                file: "Cargo.lock".to_owned(),
                line: i + 1,
                rule: "no BLAS",
                what: format!(
                    "`{name}` computes for us: `cargo tree -i {name}` shows who wants it; drop that"
                ),
            });
        }
    }
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrows_point_down_only() {
        assert_eq!(refused_arrow("gristmill-ir", "gristmill-core", false), None);
        assert_eq!(refused_arrow("gristmill-engine", "gristmill-cpu", true), None);
        for (from, to) in [
            ("gristmill-core", "gristmill-ir"),
            ("gristmill-models", "gristmill-cpu"),
            ("gristmill-cpu", "gristmill-models"),
            ("gristmill-engine", "gristmill-cpu"),
            ("gristmill-engine", "gristmill"),
        ] {
            assert!(refused_arrow(from, to, false).is_some(), "{from} -> {to}");
        }
    }

    #[test]
    fn the_table_is_in_order() {
        for (i, Layer(name, normal, _)) in LAYERS.iter().enumerate() {
            for to in *normal {
                let below = LAYERS.iter().position(|l| l.0 == *to);
                assert!(below.is_some_and(|b| b < i), "{name} -> {to}");
            }
        }
    }

    #[test]
    fn foreign_linear_algebra_is_found_by_parts_of_names() {
        let lock = "[[package]]\nname = \"intel-mkl-src\"\n\n[[package]]\nname = \"gemm-f16\"\n\n\
                    [[package]]\nname = \"half\"\n\n[[package]]\nname = \"ndarray_linalg\"\n";
        let mut found = Vec::new();
        assert_eq!(check_lock(lock, &mut found), 4);
        assert_eq!(found.iter().map(|v| v.line).collect::<Vec<_>>(), [2, 5, 11]);
    }
}
