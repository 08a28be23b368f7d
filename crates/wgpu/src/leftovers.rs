//! What compilers of drivers leave behind.

/// Gives memory that has been freed back to the system, where the C library keeps it for later: a driver
/// that compiles shaders on the processor frees tens of megabytes, and an engine has no use for them.
/// Takes milliseconds; other libraries than glibc do so by themselves.
pub(crate) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it takes and returns no pointer, may be called by any thread at any time (its manual calls it
    // MT-Safe), and touches no memory but what the allocator itself holds as free.
    unsafe {
        libc::malloc_trim(0);
    }
}
