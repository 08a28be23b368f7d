//! Damaged files: no panic, and no allocation beyond what the file's size accounts for.

mod common;

use common::{open, small};
use proptest::prelude::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Bytes this thread has allocated since it last looked.
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; the counter beside it is a
// thread-local without a destructor that allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATED.try_with(|n| n.set(n.get() + layout.size()));
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises about `ptr` and `layout` are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

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

/// Twice what a sound file needs: an error's text takes the rest.
fn limit() -> usize {
    2 * exercise(small())
}

#[test]
fn every_field_may_hold_any_size() {
    let sound = small();
    let header = open(sound.clone()).unwrap().tensors()[0].offset;
    let limit = limit();
    assert!(limit < 64 << 10, "{limit}");
    // Fields are not aligned: each position is tried, so each field is among them.
    for at in 0..header - 8 {
        for value in [0, 1, 1 << 31, 1 << 63, u64::MAX, 0xffff_ffff] {
            for width in [4, 8] {
                let mut b = sound.clone();
                b[at..at + width].copy_from_slice(&u64::to_le_bytes(value)[..width]);
                assert!(exercise(b) <= limit, "{value:#x} at {at}");
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
