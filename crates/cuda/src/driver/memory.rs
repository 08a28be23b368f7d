//! Memory of a device and of the host, with its length: what is copied lies within.

use super::{Driver, Launch};
use gristmill_core::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A device, and how much of its memory is ours.
pub(crate) struct Gpu {
    pub driver: Box<dyn Driver>,
    pub used: AtomicU64,
    /// Buffers made so far.
    pub made: AtomicU64,
}

/// Every buffer begins at a multiple of this.
pub(crate) const ALIGN: usize = 256;

/// Memory of a device; given back when the last owner goes.
#[derive(Clone)]
pub(crate) struct Buffer(Arc<Owned>);

struct Owned {
    gpu: Arc<Gpu>,
    at: u64,
    bytes: u64,
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.gpu.used.fetch_sub(self.bytes, Ordering::Relaxed);
        // SAFETY: the address came from this driver, and this was its last owner; what was enqueued
        // with it comes first.
        unsafe { self.gpu.driver.free(self.at) }
    }
}

impl Buffer {
    pub fn at(&self) -> u64 {
        self.0.at
    }

    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }
}

/// Host memory that a device copies from and to.
pub(crate) struct Pinned {
    gpu: Arc<Gpu>,
    at: u64,
    bytes: usize,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // What still copies from or to it comes first.
        let _ = self.gpu.driver.wait_all();
        // SAFETY: the address came from this driver, and nothing uses it any more.
        unsafe { self.gpu.driver.host_free(self.at) }
    }
}

impl Pinned {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn get(&self) -> &[u8] {
        // SAFETY: the driver gave so many bytes, which were filled with zeros; the device writes them
        // only within steps whose end is waited for before they are read.
        unsafe { std::slice::from_raw_parts(self.at as *const u8, self.bytes) }
    }

    pub fn get_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nobody else has them.
        unsafe { std::slice::from_raw_parts_mut(self.at as *mut u8, self.bytes) }
    }
}

fn outside(what: &str) -> Error {
    Error::Runtime(format!("a copy that leaves {what}"))
}

impl Gpu {
    pub fn new(driver: Box<dyn Driver>) -> Arc<Gpu> {
        Arc::new(Gpu { driver, used: AtomicU64::new(0), made: AtomicU64::new(0) })
    }

    /// Memory for at least one byte. Its content is whatever was there.
    pub fn buffer(self: &Arc<Self>, what: &str, bytes: u64) -> Result<Buffer> {
        let bytes = bytes.max(16).next_multiple_of(ALIGN as u64);
        let at = self.driver.allocate(bytes).map_err(|e| match e {
            Error::Memory(said) => Error::Memory(format!("{what}: {said}")),
            other => other,
        })?;
        self.used.fetch_add(bytes, Ordering::Relaxed);
        self.made.fetch_add(1, Ordering::Relaxed);
        Ok(Buffer(Arc::new(Owned { gpu: self.clone(), at, bytes })))
    }

    /// A buffer with this content; waits.
    pub fn filled(self: &Arc<Self>, what: &str, bytes: &[u8]) -> Result<Buffer> {
        let buffer = self.buffer(what, bytes.len() as u64)?;
        let mut staged = self.pinned(bytes.len())?;
        staged.get_mut()[..bytes.len()].copy_from_slice(bytes);
        self.upload(&buffer, 0, &staged, 0, bytes.len())?;
        self.driver.wait_all()?;
        Ok(buffer)
    }

    pub fn zeroed(self: &Arc<Self>, what: &str, bytes: u64) -> Result<Buffer> {
        let buffer = self.buffer(what, bytes)?;
        self.fill(&buffer, 0)?;
        Ok(buffer)
    }

    pub fn pinned(self: &Arc<Self>, bytes: usize) -> Result<Pinned> {
        let bytes = bytes.max(64);
        let at = self.driver.host_allocate(bytes as u64)?;
        // SAFETY: the driver gave so many bytes, and nobody else has them yet.
        unsafe { std::ptr::write_bytes(at as *mut u8, 0, bytes) };
        Ok(Pinned { gpu: self.clone(), at, bytes })
    }

    pub fn fill(&self, buffer: &Buffer, byte: u8) -> Result<()> {
        // SAFETY: all of a buffer of this driver; it is freed only after what was enqueued.
        unsafe { self.driver.fill(buffer.at(), byte, buffer.bytes()) }
    }

    pub fn upload(
        &self,
        to: &Buffer,
        at: u64,
        from: &Pinned,
        from_at: usize,
        n: usize,
    ) -> Result<()> {
        if at + n as u64 > to.bytes() || from_at + n > from.bytes {
            return Err(outside("memory on its way up"));
        }
        // SAFETY: both lie within, and host memory waits for the queue before it goes.
        unsafe { self.driver.copy(to.at() + at, from.at + from_at as u64, n as u64) }
    }

    pub fn download(
        &self,
        to: &mut Pinned,
        to_at: usize,
        from: &Buffer,
        at: u64,
        n: usize,
    ) -> Result<()> {
        if at + n as u64 > from.bytes() || to_at + n > to.bytes {
            return Err(outside("memory on its way down"));
        }
        // SAFETY: as for `upload`.
        unsafe { self.driver.copy(to.at + to_at as u64, from.at() + at, n as u64) }
    }

    /// Runs a kernel whose parameters were encoded by [`crate::plan::arguments`], over buffers that the
    /// caller keeps.
    pub fn launch(&self, l: &Launch<'_>) -> Result<()> {
        // SAFETY: the structure has the layout of the kernel, which a test compares with the machine
        // code; addresses are of buffers of a plan, its weights and its context, which outlive the
        // step; sizes are the bounds that the batch was checked against.
        unsafe { self.driver.launch(l) }
    }

    /// Runs a captured list of launches.
    pub fn replay(&self, graph: u64) -> Result<()> {
        // SAFETY: as for each launch; the graph is made anew when a buffer moves.
        unsafe { self.driver.replay(graph) }
    }
}

/// Bytes for people.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}
