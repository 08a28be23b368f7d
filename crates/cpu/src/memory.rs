//! Memory that steps use through raw pointers: zeroed lazily, aligned for large pages.

use gristmill_core::{Error, Result};
use std::alloc::{Layout, alloc_zeroed, dealloc};

/// Size of a large page, and the alignment of buffers that are at least that long.
const LARGE_PAGE: usize = 2 << 20;

/// Owned bytes, aligned to a cache line or a large page.
pub(crate) struct Buffer {
    base: *mut u8,
    offset: usize,
    len: usize,
    layout: Layout,
}

// SAFETY: it owns its memory, like a Vec<u8>.
unsafe impl Send for Buffer {}
// SAFETY: shared access only reads.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` zero bytes.
    ///
    /// The allocator is asked for a little more with a small alignment, since only then large
    /// zeroed memory comes straight from the system, untouched until it is written.
    ///
    /// # Errors
    /// [`Error::Memory`] when the system does not give that much.
    pub(crate) fn zeroed(len: usize) -> Result<Buffer> {
        let refused = || Error::Memory(format!("the system does not give {} MiB", len >> 20));
        let align = if len >= LARGE_PAGE { LARGE_PAGE } else { 64 };
        let size = len.checked_add(align).ok_or_else(refused)?;
        let layout = Layout::from_size_align(size, 16).map_err(|_| refused())?;
        // SAFETY: the size is at least 64.
        let base = unsafe { alloc_zeroed(layout) };
        if base.is_null() {
            return Err(refused());
        }
        let offset = (base as usize).next_multiple_of(align) - base as usize;
        let mut buffer = Buffer { base, offset, len, layout };
        let whole = len / LARGE_PAGE * LARGE_PAGE;
        advise_large_pages(&mut buffer.as_mut_slice()[..whole]);
        Ok(buffer)
    }

    /// The first byte. Writing needs the right to the range written, which the contract of the
    /// kernel gives, not this type.
    pub(crate) fn ptr(&self) -> *mut u8 {
        // SAFETY: within the allocation, or one past its end when it is empty.
        unsafe { self.base.add(self.offset) }
    }

    /// Number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: `offset + len` bytes from `base` are owned, initialised, and not written while
        // this borrow lives.
        unsafe { std::slice::from_raw_parts(self.base.add(self.offset), self.len) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(self.offset), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `zeroed`.
        unsafe { dealloc(self.base, self.layout) }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.len)
    }
}

/// Asks for large pages: fewer translations to miss, and hardware prefetch does not cross the
/// border of a page. Only whole ones, so that nothing is wasted at the end.
fn advise_large_pages(pages: &mut [u8]) {
    #[cfg(target_os = "linux")]
    if !pages.is_empty() {
        use std::ffi::{c_int, c_void};
        const MADV_HUGEPAGE: c_int = 14;
        unsafe extern "C" {
            fn madvise(address: *mut c_void, length: usize, advice: c_int) -> c_int;
        }
        // SAFETY: advice about memory that is ours; it changes no contents, and a refusal is
        // harmless.
        unsafe {
            madvise(pages.as_mut_ptr().cast(), pages.len(), MADV_HUGEPAGE);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = pages;
}
