//! `cargo xtask fuzz`: files that break a reader, looked for.
//!
//! The targets and the driver are in `crates/models` (`tests/fuzzing`, `examples/fuzz.rs`), beside
//! the corpora that the tests replay; this builds and runs the driver.

use crate::tools;
use anyhow::{Result, bail};

/// Runs the driver with the arguments as they are.
pub fn run(args: &[String]) -> Result<()> {
    let status = tools::cargo()
        .args(["run", "--release", "-p", "gristmill-models", "--example", "fuzz", "--"])
        .args(args)
        .current_dir(tools::root()?)
        .status()?;
    if !status.success() {
        bail!("something was found, or it was called wrongly");
    }
    Ok(())
}
