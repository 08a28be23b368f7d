//! States of recurrent models in files, so that a long text is read once.
//!
//! A file is, little-endian: the eight bytes `gm-state`; the version, a `u32`; the model's
//! fingerprint, 16 bytes; how many tokens the text has and how many of them the state has read,
//! `u32` each; the bytes of the state, a `u64`; the tokens, `u32` each; the state, f32; and the
//! fingerprint of everything before. It may come from anywhere, so every length is checked against
//! the file's before anything is taken for it, and the state must be of finite numbers.

use crate::files::{cannot_write, write_bytes};
use crate::model::Model;
use gristmill_core::{Error, Result};
use gristmill_engine::SavedState;
use gristmill_ir::Program;
use std::fs::File;
use std::io::Read;
use std::path::Path;

const MAGIC: &[u8; 8] = b"gm-state";
/// Of files written now.
const VERSION: u32 = 1;
/// Bytes before the tokens.
const HEAD: usize = 8 + 4 + 16 + 4 + 4 + 8;
/// Bytes after the state.
const TAIL: usize = 16;
/// The longest file that is read: more than any model's state and a million tokens.
const MOST: u64 = 1 << 30;
/// Bytes of each tensor that a model is known by.
const SAMPLE: usize = 256;

/// What a model is known by: the same for the same weights in the same types, whatever the file is
/// called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 16]);

/// FNV-1a of 128 bits (Fowler, Noll, Vo): against mistakes, not against forgery.
struct Fnv(u128);

impl Fnv {
    fn new() -> Fnv {
        Fnv(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    fn add(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.0 = (self.0 ^ u128::from(b)).wrapping_mul(0x0100_0000_0000_0000_0000_013b);
        }
    }

    fn end(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }
}

impl Fingerprint {
    /// Of a model: the text of its program, and of every tensor of that its type and its first
    /// bytes.
    ///
    /// # Errors
    /// [`Error::Model`] when a tensor is missing or the file has changed.
    pub fn of(model: &Model, program: &Program) -> Result<Fingerprint> {
        let mut sum = Fnv::new();
        sum.add(program.to_string().as_bytes());
        for decl in &program.tensors {
            let tensor = gristmill_models::arch::tensor(decl, model.gguf())?;
            sum.add(decl.name.as_bytes());
            sum.add(tensor.dtype.to_string().as_bytes());
            let bytes = tensor.bytes();
            sum.add(&bytes[..bytes.len().min(SAMPLE)]);
        }
        model.gguf().check_unchanged()?;
        Ok(Fingerprint(sum.end()))
    }

    /// Of the weights that a program uses, whatever it makes of them: the name, type and shape of each,
    /// and its first, middle and last bytes.
    ///
    /// # Errors
    /// As [`Fingerprint::of`].
    pub fn of_weights(model: &Model, program: &Program) -> Result<Fingerprint> {
        let mut sum = Fnv::new();
        for (decl, used) in program.tensors.iter().zip(program.used_tensors()) {
            if !used {
                continue;
            }
            let tensor = gristmill_models::arch::tensor(decl, model.gguf())?;
            sum.add(format!("{tensor:?}").as_bytes());
            let (bytes, n) = (tensor.bytes(), tensor.bytes().len());
            let sample = SAMPLE.min(n);
            for at in [0, (n - sample) / 2, n - sample] {
                sum.add(&bytes[at..at + sample]);
            }
        }
        model.gguf().check_unchanged()?;
        Ok(Fingerprint(sum.end()))
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// Writes a state, whole or not at all. A file that is there is replaced only when it is a state
/// too.
///
/// # Errors
/// [`Error::Io`] when it cannot be written, [`Error::Usage`] when something else is there.
pub fn write(path: &Path, model: Fingerprint, saved: &SavedState) -> Result<()> {
    let failed = |source| cannot_write(path, source);
    if path.exists() {
        let mut magic = [0; 8];
        let regular = std::fs::metadata(path).map_err(failed)?.is_file();
        let mut read = || File::open(path).and_then(|mut f| f.read_exact(&mut magic)).is_ok();
        if !(regular && read() && &magic == MAGIC) {
            return Err(complain(path, "exists and is no saved state; give another name"));
        }
    }
    let mut bytes = Vec::with_capacity(HEAD + 4 * saved.tokens.len() + saved.bytes.len() + TAIL);
    bytes.extend_from_slice(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(model.0);
    bytes.extend((saved.tokens.len() as u32).to_le_bytes());
    bytes.extend(saved.computed.to_le_bytes());
    bytes.extend((saved.bytes.len() as u64).to_le_bytes());
    bytes.extend(saved.tokens.iter().flat_map(|t| t.to_le_bytes()));
    bytes.extend_from_slice(&saved.bytes);
    let mut sum = Fnv::new();
    sum.add(&bytes);
    bytes.extend(sum.end());
    write_bytes(path, &bytes)
}

/// Reads a state of the model.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Usage`] when it is no state, of another version or
/// model, or damaged; both with its name.
pub fn read(path: &Path, model: Fingerprint) -> Result<SavedState> {
    let failed = |source| Error::Io { what: format!("reading {}", path.display()), source };
    // Looked at before it is opened: opening a pipe may wait for ever.
    let meta = std::fs::metadata(path).map_err(failed)?;
    if !meta.is_file() {
        return Err(complain(path, "is not a file"));
    }
    if meta.len() > MOST {
        return Err(complain(path, "is too long for a saved state"));
    }
    let mut bytes = vec![];
    File::open(path).map_err(failed)?.take(MOST).read_to_end(&mut bytes).map_err(failed)?;
    parse(&bytes, model).map_err(|what| complain(path, &what))
}

/// Reads the bytes of a file.
///
/// # Errors
/// What is wrong with them.
fn parse(bytes: &[u8], model: Fingerprint) -> Result<SavedState, String> {
    let mut rest = bytes;
    let mut take = |n: usize| -> Result<&[u8], String> {
        let (taken, after) = rest.split_at_checked(n).ok_or("is cut short")?;
        rest = after;
        Ok(taken)
    };
    if take(8).is_ok_and(|magic| magic != MAGIC) || bytes.len() < 8 {
        return Err("is no saved state".into());
    }
    let version = word(take(4)?);
    if version != VERSION {
        return Err(format!("is of version {version}; this program reads version {VERSION}"));
    }
    let of = take(16)?;
    let [tokens, computed] = [word(take(4)?), word(take(4)?)];
    let size = take(8)?.iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b));
    let whole = 4 * u128::from(tokens) + u128::from(size) + (HEAD + TAIL) as u128;
    if whole != bytes.len() as u128 {
        return Err(format!(
            "has {} bytes where its head says {whole}: it is damaged",
            bytes.len()
        ));
    }
    let mut sum = Fnv::new();
    sum.add(&bytes[..bytes.len() - TAIL]);
    if sum.end() != bytes[bytes.len() - TAIL..] {
        return Err("is damaged: its contents are not what was written".into());
    }
    if of != model.0 {
        return Err("was saved with another model, or with this one in another type".into());
    }
    if computed == 0 || computed > tokens {
        return Err(format!("is damaged: it has read {computed} of {tokens} tokens"));
    }
    let tokens = take(4 * tokens as usize)?.chunks_exact(4).map(word).collect();
    // It fits in the file, so it fits in a usize.
    let state = take(size as usize)?;
    let finite = |b: &[u8]| f32::from_bits(word(b)).is_finite();
    if !state.len().is_multiple_of(4) || !state.chunks_exact(4).all(finite) {
        return Err("is damaged: its state holds what is no number".into());
    }
    Ok(SavedState { tokens, computed, bytes: state.to_vec() })
}

/// Four bytes as a number.
fn word(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |n, &b| n << 8 | u32::from(b))
}

fn complain(path: &Path, what: &str) -> Error {
    Error::Usage(format!("{}: {what}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OURS: Fingerprint = Fingerprint([7; 16]);

    fn some_state() -> SavedState {
        let bytes = (0..6).flat_map(|i| (i as f32 / 3.0).to_le_bytes()).collect();
        SavedState { tokens: vec![5, 9, 2], computed: 2, bytes }
    }

    /// The published test vectors of FNV-1a, 128 bits.
    #[test]
    fn the_sum_is_fnv() {
        let of = |text: &str| {
            let mut sum = Fnv::new();
            sum.add(text.as_bytes());
            sum.0
        };
        assert_eq!(of(""), 0x6c62272e07bb014262b821756295c58d);
        assert_eq!(of("a"), 0xd228cb696f1a8caf78912b704e4a8964);
        assert_eq!(of("foobar"), 0x343e1662793c64bf6f0d3597ba446f18);
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.state");
        for _ in 0..2 {
            write(&path, OURS, &some_state()).unwrap();
            assert_eq!(read(&path, OURS).unwrap(), some_state());
        }
        let other = read(&path, Fingerprint([8; 16])).unwrap_err().to_string();
        assert!(other.contains("another model") && other.contains("a.state"), "{other}");
        std::fs::write(dir.path().join("letter.txt"), "Dear Sir or Madam").unwrap();
        for path in [dir.path().join("letter.txt"), dir.path().to_owned()] {
            assert!(read(&path, OURS).is_err());
            assert!(write(&path, OURS, &some_state()).is_err());
        }
        assert!(read(&dir.path().join("nothing"), OURS).is_err());
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2, "nothing else is left behind");
    }

    /// Bytes of a file with some of them replaced and the sum at its end made right again.
    fn changed(at: usize, new: &[u8]) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.state");
        write(&path, OURS, &some_state()).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at..at + new.len()].copy_from_slice(new);
        let end = bytes.len() - TAIL;
        let mut sum = Fnv::new();
        sum.add(&bytes[..end]);
        bytes[end..].copy_from_slice(&sum.end());
        bytes
    }

    #[test]
    fn each_field_is_checked() {
        for (at, new, what) in [
            (0, &b"x"[..], "no saved state"),
            (8, &[2], "version 2"),
            (12, &[0], "another model"),
            (28, &[4], "its head says"),
            (31, &[255], "its head says"),
            (32, &[4], "has read 4 of 3"),
            (32, &[0], "has read 0 of 3"),
            (43, &[255], "its head says"),
            (HEAD + 12, &f32::NAN.to_le_bytes(), "no number"),
        ] {
            let said = parse(&changed(at, new), OURS).unwrap_err();
            assert!(said.contains(what), "{at}: {said}");
        }
    }

    proptest! {
        /// One changed byte, or an end that is missing, is noticed.
        #[test]
        fn damage_is_noticed(at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<bool>()) {
            let mut bytes = changed(0, b"g");
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if cut {
                bytes.truncate(at);
            }
            prop_assert!(parse(&bytes, OURS).is_err());
        }
    }
}
