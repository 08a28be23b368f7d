//! Cargo and binutils, run as programs.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The root of the repository.
pub fn root() -> Result<PathBuf> {
    let here = std::env::var_os("CARGO_MANIFEST_DIR")
        .context("CARGO_MANIFEST_DIR is not set: start it as `cargo xtask`")?;
    Ok(Path::new(&here).parent().context("xtask has no parent directory")?.to_owned())
}

/// What `cargo metadata` says of the workspace's own crates. It reads manifests only: no network,
/// no resolution.
pub fn metadata() -> Result<Value> {
    let arguments = ["metadata", "--no-deps", "--format-version", "1"];
    let text = output(cargo().args(arguments).current_dir(root()?))?;
    serde_json::from_str(&text).context("cargo metadata did not print JSON")
}

/// Cargo, the one that runs this.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a program and returns what it printed; its messages go where ours go.
pub fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command.stderr(Stdio::inherit()).output().with_context(|| missing(&name))?;
    if !out.status.success() {
        bail!("{name} failed ({})", out.status);
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Why a program could not be started, and the way out.
pub fn missing(name: &str) -> String {
    match name {
        "nm" | "objdump" | "readelf" | "addr2line" => {
            format!("{name} is not there: install binutils (`.ci/run` does)")
        }
        _ => format!("{name} cannot be started"),
    }
}

/// The binary to look at: the one named by `--binary`, else `gristmill` built in release mode.
pub fn binary(args: &[String]) -> Result<PathBuf> {
    match args {
        [] => build(),
        [flag, path] if flag == "--binary" => {
            let path = PathBuf::from(path);
            if !path.is_file() {
                bail!("{} is no file", path.display());
            }
            Ok(path)
        }
        _ => bail!("the only option is `--binary PATH`"),
    }
}

fn build() -> Result<PathBuf> {
    let meta = metadata()?;
    if !packages(&meta).any(|p| p["name"] == "gristmill") {
        bail!("no crate `gristmill` in this workspace yet: name a program with `--binary PATH`");
    }
    let status = cargo()
        .args(["build", "--release", "--bin", "gristmill"])
        .current_dir(root()?)
        .status()
        .context("cargo cannot be started")?;
    if !status.success() {
        bail!("the build failed");
    }
    let target = meta["target_directory"].as_str().context("cargo metadata: target_directory")?;
    Ok(Path::new(target).join("release").join("gristmill"))
}

/// The crates of the workspace in `cargo metadata`.
pub fn packages(meta: &Value) -> impl Iterator<Item = &Value> {
    meta["packages"].as_array().into_iter().flatten()
}
