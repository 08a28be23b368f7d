//! A mapped file that may be cut short by others without ending the process.
//!
//! Reading a mapped page that the file no longer has raises SIGBUS, which ends a process that does
//! not handle it. No check of the length beforehand can exclude that: the file may be cut between
//! the check and the read. So the first mapping installs a handler: where the address that failed
//! lies in one of our mappings, it puts pages of zeros over the rest of that mapping and notes
//! where; the read goes on, and whoever used the bytes learns from [`Mapping::lost`] that they are
//! not the file's. Any other SIGBUS goes to the handler that was there before.
//!
//! The other way to be safe, `read` (see [`super::LoadMode`]), maps nothing and installs nothing.
//! On Windows a mapped file cannot be cut.

use std::fs::File;
use std::io;

/// A mapping of the first bytes of a file, read-only and private.
pub(super) struct Mapping {
    #[cfg(unix)]
    region: &'static guard::Region,
    map: memmap2::Mmap,
}

impl Mapping {
    /// Maps `len` bytes.
    pub fn new(file: &File, len: usize) -> io::Result<Mapping> {
        // SAFETY: the mapping is read-only and only shared slices of it are handed out, all behind
        // the Arc that keeps it mapped. Should the file be cut, its pages become zeros (above).
        // What cannot be proved is that nobody writes to the file meanwhile, as for every program
        // that maps one: only tensor data is read from here, any bits of which are valid numbers,
        // and never a length, an offset or a string.
        let map = unsafe { memmap2::MmapOptions::new().len(len).map(file) }?;
        Ok(Mapping {
            #[cfg(unix)]
            region: guard::register(map.as_ptr() as usize, len)?,
            map,
        })
    }

    /// Gives back the memory of all pages; whoever reads one again has it read from the file again.
    pub fn release(&self) {
        // SAFETY: the mapping is of a file and nobody can write to it, so its pages hold nothing that
        // the file does not; that the file may have changed meanwhile is so at every read.
        #[cfg(unix)]
        let _ = unsafe { self.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }

    /// The first byte that was read and that the file did not have.
    pub fn lost(&self) -> Option<usize> {
        #[cfg(unix)]
        return self.region.lost();
        #[cfg(not(unix))]
        None
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(unix)]
impl Drop for Mapping {
    fn drop(&mut self) {
        // Before the memory goes and may become something else.
        self.region.release();
    }
}

/// A kind of file system on which every page touched may be a request over a network.
#[cfg(target_os = "linux")]
pub(super) fn slow_to_map(file: &File) -> Option<&'static str> {
    use std::os::fd::AsRawFd;
    const KINDS: [(i64, &str); 7] = [
        (0x6969, "NFS"),
        (0x517b, "SMB"),
        (0xff53_4d42, "CIFS"),
        (0xfe53_4d42, "SMB2"),
        (0x6573_5546, "FUSE"),
        (0x0102_1997, "9P"),
        (0x00c3_6400, "Ceph"),
    ];
    // SAFETY: all zeros is a valid value of this plain structure.
    let mut about: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: an open file and a structure of the right type to write to.
    if unsafe { libc::fstatfs(file.as_raw_fd(), &mut about) } != 0 {
        return None;
    }
    #[allow(clippy::unnecessary_cast)] // its type differs between systems
    let kind = about.f_type as i64 & 0xffff_ffff;
    KINDS.iter().find(|k| k.0 == kind).map(|k| k.1)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn slow_to_map(_: &File) -> Option<&'static str> {
    None
}

/// The handler and the list of mappings it looks after.
#[cfg(unix)]
mod guard {
    use std::io;
    use std::ptr::null_mut;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

    /// A mapping. Regions are never freed, only used again, so that the handler may walk their
    /// list at any moment.
    pub(super) struct Region {
        taken: AtomicBool,
        /// 0: none.
        start: AtomicUsize,
        end: AtomicUsize,
        /// Offset of the first byte lost; `usize::MAX`: none.
        lost: AtomicUsize,
        next: *mut Region,
    }

    // SAFETY: `next` is written before the region is shared and never after; what it points to is
    // never freed. All else is atomic.
    unsafe impl Sync for Region {}

    static REGIONS: AtomicPtr<Region> = AtomicPtr::new(null_mut());
    /// Whoever handled the signal before.
    static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();
    static INSTALLED: OnceLock<Result<usize, i32>> = OnceLock::new();

    impl Region {
        pub fn lost(&self) -> Option<usize> {
            Some(self.lost.load(Ordering::Acquire)).filter(|&at| at != usize::MAX)
        }

        pub fn release(&self) {
            self.start.store(0, Ordering::Release);
            self.taken.store(false, Ordering::Release);
        }

        fn hold(&self, start: usize, len: usize) {
            self.lost.store(usize::MAX, Ordering::Relaxed);
            self.end.store(start + len, Ordering::Relaxed);
            self.start.store(start, Ordering::Release);
        }
    }

    fn regions() -> impl Iterator<Item = &'static Region> {
        let first = REGIONS.load(Ordering::Acquire);
        // SAFETY: null or a region that is never freed; `next` likewise.
        let region = |at: *mut Region| unsafe { at.as_ref() };
        std::iter::successors(region(first), move |r| region(r.next))
    }

    /// Looks after `len` bytes from `start` on until the region is released.
    pub fn register(start: usize, len: usize) -> io::Result<&'static Region> {
        INSTALLED.get_or_init(install).map_err(io::Error::from_raw_os_error)?;
        let free = |r: &&Region| !r.taken.swap(true, Ordering::AcqRel);
        if let Some(region) = regions().find(free) {
            region.hold(start, len);
            return Ok(region);
        }
        let region = Box::leak(Box::new(Region {
            taken: AtomicBool::new(true),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            lost: AtomicUsize::new(usize::MAX),
            next: null_mut(),
        }));
        region.hold(start, len);
        let mut first = REGIONS.load(Ordering::Acquire);
        loop {
            region.next = first;
            match REGIONS.compare_exchange(first, region, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(region),
                Err(other) => first = other,
            }
        }
    }

    /// Installs the handler; the size of a page, or what the system said.
    fn install() -> Result<usize, i32> {
        let failed = || io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
        // SAFETY: a question without arguments in memory.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let page = usize::try_from(page).map_err(|_| failed())?;
        // SAFETY: all zeros is a valid value of this plain structure.
        let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: only asks for the present handler, into a structure of the right type.
        if unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut before) } != 0 {
            return Err(failed());
        }
        let _ = BEFORE.set(before);
        PAGE.store(page, Ordering::Release);
        // SAFETY: as above.
        let mut ours: libc::sigaction = unsafe { std::mem::zeroed() };
        ours.sa_sigaction = on_bus_error as *const () as usize;
        // On the thread's own signal stack where it has one, as the standard library's handler.
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the handler has the form that SA_SIGINFO asks for and lives for ever; what it
        // calls is allowed in handlers.
        if unsafe { libc::sigaction(libc::SIGBUS, &ours, null_mut()) } != 0 {
            return Err(failed());
        }
        Ok(page)
    }

    static PAGE: AtomicUsize = AtomicUsize::new(4096);

    /// Only atomics and system calls in here, which a handler may use.
    extern "C" fn on_bus_error(
        signal: libc::c_int,
        info: *mut libc::siginfo_t,
        context: *mut libc::c_void,
    ) {
        // SAFETY: the system passes a valid structure to a handler with SA_SIGINFO; for a signal
        // of its own making (a positive code) it holds the address that failed.
        let address = unsafe { ((*info).si_code > 0).then(|| (*info).si_addr() as usize) };
        let within = |r: &&Region| {
            let start = r.start.load(Ordering::Acquire);
            let end = r.end.load(Ordering::Relaxed);
            start != 0 && address.is_some_and(|a| (start..end).contains(&a))
        };
        if let (Some(address), Some(region)) = (address, regions().find(within)) {
            let page = PAGE.load(Ordering::Relaxed);
            let (start, end) =
                (region.start.load(Ordering::Acquire), region.end.load(Ordering::Relaxed));
            let from = address & !(page - 1);
            let protection = libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_FIXED;
            // SAFETY: the range lies in a mapping of ours that the thread which failed borrows, so
            // it stays mapped meanwhile; readers saw arbitrary bytes of a file there and now see
            // zeros.
            let zeros = unsafe {
                libc::mmap(from as *mut _, end - from, libc::PROT_READ, protection, -1, 0)
            };
            if zeros != libc::MAP_FAILED {
                region.lost.fetch_min(from.max(start) - start, Ordering::AcqRel);
                return;
            }
        }
        pass_on(signal, info, context);
    }

    /// Lets whoever was there before handle the signal.
    fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        let before = BEFORE.get();
        match before.map(|b| (b.sa_sigaction, b.sa_flags)) {
            None | Some((libc::SIG_DFL | libc::SIG_IGN, _)) => {
                // SAFETY: back to what ends the process, which the failing read, tried again,
                // then does.
                unsafe { libc::signal(signal, libc::SIG_DFL) };
            }
            Some((handler, flags)) if flags & libc::SA_SIGINFO != 0 => {
                type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
                // SAFETY: it was installed as a handler of this form.
                let handler: Handler = unsafe { std::mem::transmute(handler) };
                handler(signal, info, context);
            }
            Some((handler, _)) => {
                // SAFETY: as above, of the other form.
                let handler: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(handler) };
                handler(signal);
            }
        }
    }
}
