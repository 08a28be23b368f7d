//! An allocator that counts what each thread has taken.
#![allow(dead_code)] // each test file uses its own part

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Bytes this thread has taken in all.
    pub static ALLOCATED: Cell<usize> = const { Cell::new(0) };
    /// The largest allocation since it was last set to 0.
    pub static LARGEST: Cell<usize> = const { Cell::new(0) };
    /// Bytes taken and not given back.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    /// The most of them at one time since it was last set.
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

fn count(more: usize, less: usize) {
    let _ = ALLOCATED.try_with(|n| n.set(n.get() + more.saturating_sub(less)));
    let _ = LARGEST.try_with(|n| n.set(n.get().max(more)));
    let _ = LIVE.try_with(|n| {
        n.set(n.get() + more as isize - less as isize);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(n.get())));
    });
}

// SAFETY: every call goes to the system's allocator unchanged; the counters beside it are
// thread-locals without destructors that allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the caller's promises about `ptr` and `layout` are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }

    // A large block grows by moving its pages, not by a copy beside it.
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size, layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Of what `f` does on this thread: the most bytes that were taken at one time beyond those before it,
/// and the largest allocation.
pub fn memory<T>(f: impl FnOnce() -> T) -> (usize, usize) {
    let before = LIVE.get();
    PEAK.set(before);
    LARGEST.set(0);
    drop(f());
    ((PEAK.get() - before) as usize, LARGEST.get())
}
