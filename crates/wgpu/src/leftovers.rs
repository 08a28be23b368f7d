//! What compilers of drivers leave behind.
//!
//! A driver that compiles shaders on the processor frees tens of megabytes that the C library keeps for
//! later, and has touched as many of code that nothing else runs (software Vulkan's is LLVM). An engine has
//! no use for either.

/// Gives freed memory back to the system, and takes pages of libraries out of this process until they are
/// touched again: the kernel keeps them, so that costs microseconds. Takes milliseconds. Other systems than
/// Linux with glibc do the first by themselves, and nothing is done there.
pub(crate) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: it takes and returns no pointer, may be called by any thread at any time (its manual calls
        // it MT-Safe), and touches no memory but what the allocator itself holds as free.
        unsafe { libc::malloc_trim(0) };
        // SAFETY: the callback has the type that is asked for, uses its argument only while it runs, does
        // not unwind, and gets no data.
        unsafe { libc::dl_iterate_phdr(Some(linux::let_go), std::ptr::null_mut()) };
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod linux {
    use libc::{MADV_DONTNEED, PF_W, PT_DYNAMIC, PT_LOAD, c_int, c_void, dl_phdr_info, size_t};

    /// Segments below this are left alone, in bytes.
    const SMALL: usize = 1 << 20;

    // Of the System V ABI: `DT_TEXTREL`, `DT_FLAGS` and `DF_TEXTREL`.
    const TEXT: isize = 22;
    const FLAGS: isize = 30;
    const TEXT_FLAG: usize = 4;

    /// An entry of a library's dynamic section, of which the last has the tag 0.
    #[repr(C)]
    struct Entry {
        tag: isize,
        value: usize,
    }

    /// Whether the loader changes code of the library where it lies: by these entries it says so.
    ///
    /// # Safety
    /// The section is there.
    unsafe fn is_relocated_in_place(mut entry: *const Entry) -> bool {
        loop {
            // SAFETY: the caller's promise; the one before was not the last.
            let Entry { tag, value } = unsafe { entry.read() };
            match tag {
                0 => return false,
                TEXT => return true,
                FLAGS if value & TEXT_FLAG != 0 => return true,
                _ => entry = entry.wrapping_add(1),
            }
        }
    }

    /// For one loaded library: its code and constants leave the process.
    pub(super) unsafe extern "C" fn let_go(
        info: *mut dl_phdr_info,
        _: size_t,
        _: *mut c_void,
    ) -> c_int {
        // SAFETY: `dl_iterate_phdr` passes a valid description, and holds the loader's lock until this
        // returns: no library comes or goes.
        let info = unsafe { &*info };
        // SAFETY: the name is a string that ends in zero, empty for the program itself, or null.
        let named = !info.dlpi_name.is_null() && unsafe { *info.dlpi_name } != 0;
        if !named || info.dlpi_phdr.is_null() {
            return 0;
        }
        // SAFETY: these are the library's headers, in memory as long as it is loaded.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
        // SAFETY: it takes no pointer.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(1) as usize;
        let at = |vaddr| info.dlpi_addr.wrapping_add(vaddr) as usize;
        // SAFETY: the section is a part of the library's memory.
        let changed = |vaddr| unsafe { is_relocated_in_place(at(vaddr) as *const Entry) };
        if headers.iter().any(|h| h.p_type == PT_DYNAMIC && changed(h.p_vaddr)) {
            return 0;
        }
        for h in headers {
            if h.p_type != PT_LOAD || h.p_flags & PF_W != 0 {
                continue;
            }
            let first = at(h.p_vaddr);
            // Whole pages of the segment; what the file does not hold is not part of it.
            let (start, end) =
                (first.next_multiple_of(page), (first + h.p_filesz as usize) / page * page);
            if end.saturating_sub(start) < SMALL {
                continue;
            }
            // SAFETY: these pages are a private mapping of a file, loaded from a segment that is never
            // written (what a loader relocates is in segments with `PF_W`, but for libraries that say
            // otherwise, which were left out), and stay mapped while the lock is held. When touched, by
            // any thread, they are read from the file again: the same bytes. Refused, it changes nothing.
            unsafe { libc::madvise(start as *mut c_void, end - start, MADV_DONTNEED) };
        }
        0
    }
}
