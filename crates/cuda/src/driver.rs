//! What is asked of a driver.
//!
//! [`Driver`] is the few calls that everything else is made of. There is one real one, [`real`]; tests
//! bring others: one that plays a device by running the same kernels on the host, and some that lack
//! something.

pub mod choose;
pub mod memory;
pub mod real;

use gristmill_core::Result;

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its place in the driver's list.
    pub index: u32,
    /// What its maker calls it.
    pub name: String,
    /// `GPU-` and 32 digits.
    pub uuid: String,
    /// Compute capability, such as `[9, 0]`.
    pub chip: [u32; 2],
    /// Streaming multiprocessors.
    pub processors: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Whether its memory is the host's.
    pub unified: bool,
    /// The newest interface that the driver has: 1000 times the major version, 10 times the minor.
    pub interface: u32,
}

/// One run of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// What [`Driver::kernel`] gave.
    pub kernel: u64,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of shared memory besides what the kernel declares.
    pub shared: u32,
    /// The structure of parameters.
    pub params: &'a [u8],
}

/// A device with one queue. Everything is enqueued in order, unless it says that it waits. Addresses
/// are numbers: of memory of the device, or of host memory that was asked for here.
///
/// # Safety
/// Methods that are `unsafe` take addresses as they are: the memory must have been given by
/// `allocate` or `host_allocate` of the same driver, hold the bytes named, and live until what was
/// enqueued has ended.
pub trait Driver: Send + Sync + 'static {
    /// What the device is.
    fn facts(&self) -> &Facts;

    /// A kernel by the name in its file.
    ///
    /// # Errors
    /// [`gristmill_core::Error::Device`] for a kernel that the machine code lacks.
    fn kernel(&self, name: &str) -> Result<u64>;

    /// Memory of the device.
    ///
    /// # Errors
    /// [`gristmill_core::Error::Memory`] with what was asked for and what is free.
    fn allocate(&self, bytes: u64) -> Result<u64>;

    /// Gives it back, after all that was enqueued.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn free(&self, at: u64);

    /// Host memory that the device copies from and to.
    ///
    /// # Errors
    /// [`gristmill_core::Error::Memory`].
    fn host_allocate(&self, bytes: u64) -> Result<u64>;

    /// Gives it back.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn host_free(&self, at: u64);

    /// Copies, between any two memories.
    ///
    /// # Errors
    /// Whatever the driver says.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<()>;

    /// Fills memory of the device with a byte.
    ///
    /// # Errors
    /// Whatever the driver says.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn fill(&self, at: u64, byte: u8, bytes: u64) -> Result<()>;

    /// Runs a kernel.
    ///
    /// # Errors
    /// Whatever the driver says.
    ///
    /// # Safety
    /// The parameters are those of the kernel, and the memory that they name holds what it reads and
    /// writes.
    unsafe fn launch(&self, l: &Launch<'_>) -> Result<()>;

    /// From now on launches are kept in place of being run.
    ///
    /// # Errors
    /// Whatever the driver says.
    fn capture(&self) -> Result<()>;

    /// Ends that; gives what was kept.
    ///
    /// # Errors
    /// Whatever the driver says.
    fn captured(&self) -> Result<u64>;

    /// Runs what was kept.
    ///
    /// # Errors
    /// Whatever the driver says.
    ///
    /// # Safety
    /// As for each launch in it.
    unsafe fn replay(&self, graph: u64) -> Result<()>;

    /// Forgets it.
    fn forget(&self, graph: u64);

    /// A mark for places in the queue.
    ///
    /// # Errors
    /// Whatever the driver says.
    fn event(&self) -> Result<u64>;

    /// Puts the mark behind all that was enqueued.
    ///
    /// # Errors
    /// Whatever the driver says.
    fn record(&self, event: u64) -> Result<()>;

    /// Whether the device has come to it.
    ///
    /// # Errors
    /// What has failed before it.
    fn reached(&self, event: u64) -> Result<bool>;

    /// Waits until it has.
    ///
    /// # Errors
    /// What has failed before it.
    fn wait(&self, event: u64) -> Result<()>;

    /// Gives the mark back.
    fn forget_event(&self, event: u64);

    /// Waits for all that was enqueued.
    ///
    /// # Errors
    /// What has failed.
    fn wait_all(&self) -> Result<()>;

    /// Bytes of memory that are free, and all.
    fn memory(&self) -> (u64, u64);
}
