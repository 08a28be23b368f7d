//! Damaged files: no panic, and no allocation beyond what the file's size accounts for.

mod common;
#[path = "common/counting.rs"]
mod counting;

use common::{open, small};
use counting::{ALLOCATED, LARGEST};
use gristmill_models::LoadMode;
use gristmill_models::gguf::Gguf;
use proptest::prelude::*;
/// Reads all of a file that may be damaged, and returns the bytes allocated on the way.
fn exercise(bytes: Vec<u8>) -> usize {
    let before = ALLOCATED.get();
    if let Ok(g) = open(bytes) {
        for (key, value) in g.metadata() {
            let _ = (value.as_int(), g.get_strs(key).map(|s| s.len()));
            let _ = (g.get::<Vec<u32>>(key), g.get::<Vec<f32>>(key), g.get_str(key));
        }
        for t in g.tensors() {
            if let Ok(t) = g.tensor(&t.name) {
                assert_eq!(t.bytes().len(), t.row_bytes() * t.rows * t.experts);
            }
        }
    }
    ALLOCATED.get() - before
}

/// A sparse file of this length that begins with `head`: nothing but its claims is large.
fn sparse(name: &str, head: &[u8], len: u64) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("gristmill-{name}-{}", std::process::id()));
    std::fs::write(&path, head).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(len).unwrap();
    path
}

/// Claims that a file of a terabyte could hold, for all that its length says: they are refused all
/// the same, before memory is taken for them.
#[test]
fn a_long_file_may_not_claim_what_no_model_has() {
    let head = |tensors: u64, keys: u64| {
        [b"GGUF\x03\0\0\0".to_vec(), tensors.to_le_bytes().into(), keys.to_le_bytes().into()]
            .concat()
    };
    let key = |ty: u32, value: &[u8]| {
        [&head(0, 1)[..], &1u64.to_le_bytes(), b"k", &ty.to_le_bytes(), value].concat()
    };
    let array = |ty: u32, n: u64| [&ty.to_le_bytes()[..], &n.to_le_bytes()].concat();
    for (what, head) in [
        ("1000000000 tensors", head(1_000_000_000, 0)),
        ("1000000000 metadata keys", head(0, 1_000_000_000)),
        ("longer than 256 MiB", key(8, &(1u64 << 39).to_le_bytes())),
        ("longer than 256 MiB", key(9, &array(0, 1 << 39))),
        ("longer than 256 MiB", key(9, &array(8, 1 << 32))),
    ] {
        for mode in [LoadMode::Mmap, LoadMode::Read] {
            let path = sparse("sparse", &head, 1 << 40);
            LARGEST.set(0);
            let e = Gguf::open_with(&path, mode).unwrap_err();
            let largest = LARGEST.get();
            std::fs::remove_file(&path).unwrap();
            let text = e.to_string();
            assert!(text.contains(what) && text.contains("at byte"), "{text}");
            assert_eq!((e.exit_code(), text.lines().count()), (3, 1));
            assert!(largest <= 256 << 20, "{largest}");
        }
    }
}

/// Twice what a sound file needs: an error's text takes the rest.
fn limit() -> usize {
    2 * exercise(small())
}

#[test]
fn every_field_may_hold_any_size() {
    let sound = small();
    let header = open(sound.clone()).unwrap().tensors().next().unwrap().offset;
    let limit = limit();
    assert!(limit < 64 << 10, "{limit}");
    // Fields are not aligned: each position is tried, so each field is among them.
    for at in 0..header - 8 {
        for value in [0, 1, 1 << 31, 1 << 63, u64::MAX, 0xffff_ffff] {
            for width in [4, 8] {
                let mut b = sound.clone();
                b[at..at + width].copy_from_slice(&u64::to_le_bytes(value)[..width]);
                let len = b.len();
                LARGEST.set(0);
                assert!(exercise(b) <= limit, "{value:#x} at {at}");
                // A list of texts beside the file's own is larger, by a few times; but for small ones
                // no allocation is above the size of the file.
                let largest = LARGEST.get();
                assert!(largest <= len.max(4096), "{largest} for {value:#x} at {at}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn mutated_files_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut b = small();
        for (at, byte) in changes {
            let at = at.index(b.len());
            b[at] = byte;
        }
        if let Some(cut) = cut {
            b.truncate(cut.index(b.len()));
        }
        prop_assert!(exercise(b) <= limit());
    }

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut b = b"GGUF\x03\0\0\0".to_vec();
        b.extend(noise);
        prop_assert!(exercise(b) <= limit());
    }
}
