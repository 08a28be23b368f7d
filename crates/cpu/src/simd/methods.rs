//! How the methods of an instruction set are written: an expression of intrinsics each.
#![allow(unused_macros)] // where there is portable code only

/// Implements methods that work on registers alone.
macro_rules! ops {
    ($(fn $name:ident($s:ident $(, $arg:ident: $t:ty)*) -> $r:ty { $($body:tt)* })+) => {$(
        #[inline(always)]
        fn $name($s $(, $arg: $t)*) -> $r {
            // SAFETY: register operations only, and the token proves the instructions exist.
            #[allow(unused_unsafe)]
            unsafe { $($body)* }
        }
    )+};
}

/// Implements methods that touch memory.
macro_rules! memory_ops {
    ($(fn $name:ident($s:ident $(, $arg:ident: $t:ty)*) $(-> $r:ty)? { $($body:tt)* })+) => {$(
        #[inline(always)]
        unsafe fn $name($s $(, $arg: $t)*) $(-> $r)? {
            // SAFETY: the caller promises the memory, the token the instructions; every access
            // is unaligned and of exactly the promised extent (masked lanes are not accessed).
            #[allow(unused_unsafe)]
            unsafe { $($body)* }
        }
    )+};
}
