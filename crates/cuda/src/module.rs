//! Machine code: which of what was built ahead suits a chip.
//!
//! `cargo xtask cubin` compiles `kernels/*.cu` for each target and leaves in `cubins/` a container for
//! each: its images one after the other, compressed. `cubins/list` says with which compiler, from
//! which text, and how many registers each kernel takes.

use gristmill_core::{Error, Result};
use std::io::Read;

/// A target that there is machine code for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Compute capability; of PTX the least that it runs on.
    pub chip: [u32; 2],
    /// The interface that a driver must have.
    pub interface: u32,
    /// Whether the driver compiles it for any newer chip.
    pub text: bool,
    bytes: &'static [u8],
}

macro_rules! targets {
    ($($file:literal [$major:literal, $minor:literal] $interface:literal $text:literal)+) => {
        &[$(Target {
            chip: [$major, $minor],
            interface: $interface,
            text: $text,
            bytes: include_bytes!(concat!("../cubins/", $file)),
        }),+]
    };
}

/// Compilers 12 make code for drivers from 525 on, 13 for those from 580 on.
const TARGETS: &[Target] = targets!(
    "sm_75.zst" [7, 5] 12_000 false
    "sm_80.zst" [8, 0] 12_000 false
    "sm_86.zst" [8, 6] 12_000 false
    "sm_89.zst" [8, 9] 12_000 false
    "sm_90.zst" [9, 0] 12_000 false
    "sm_100.zst" [10, 0] 13_000 false
    "sm_120.zst" [12, 0] 13_000 false
    "compute_75.zst" [7, 5] 12_040 true
);

/// The target for a chip: machine code of its generation that is not newer than it is, else the text
/// that the driver compiles.
pub(crate) fn choose(chip: [u32; 2]) -> Option<Target> {
    // Nothing stands for a target that was not compiled yet.
    let there = || TARGETS.iter().filter(|t| !t.bytes.is_empty() && t.chip <= chip);
    let exact = there().filter(|t| !t.text && t.chip[0] == chip[0]).max_by_key(|t| t.chip);
    exact.or_else(|| there().find(|t| t.text)).copied()
}

/// The images of the target for a chip.
///
/// # Errors
/// [`Error::Device`] for a chip that none suits.
pub(crate) fn load(chip: [u32; 2]) -> Result<Vec<Vec<u8>>> {
    let [major, minor] = chip;
    let none = || Error::Device(format!("no machine code for compute capability {major}.{minor}"));
    images(choose(chip).ok_or_else(none)?.bytes)
}

/// A container: for each image its length in eight bytes, then its bytes.
fn images(compressed: &[u8]) -> Result<Vec<Vec<u8>>> {
    let damaged = || Error::Device("this program's own machine code is damaged".into());
    let mut all = vec![];
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(compressed).map_err(|_| damaged())?;
    decoder.read_to_end(&mut all).map_err(|_| damaged())?;
    let (mut rest, mut found) = (&all[..], vec![]);
    while let Some((length, more)) = rest.split_first_chunk::<8>() {
        let length = u64::from_le_bytes(*length) as usize;
        let (image, more) = more.split_at_checked(length).ok_or_else(damaged)?;
        found.push(image.to_vec());
        rest = more;
    }
    Ok(found)
}
