//! The driver of this machine, through its library, which is opened when it is first asked for.

use super::choose::{Library, explain};
use super::memory::mib;
use super::{Driver, Facts, Launch};
use crate::module;
use cudarc::driver::sys::{self, CUresult};
use gristmill_core::{Error, Result};
use std::ffi::{CStr, CString, c_void};
use std::ptr::null_mut;

/// What a call says; the words are the driver's own.
fn said(code: CUresult) -> Result<(), (u32, String)> {
    if code == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let mut words = std::ptr::null();
    // SAFETY: the driver writes a pointer to a text that lives for ever, or leaves null.
    let known = unsafe { sys::cuGetErrorString(code, &mut words) } == CUresult::CUDA_SUCCESS;
    let text = match known && !words.is_null() {
        // SAFETY: a text of the driver's, ended by a zero.
        true => unsafe { CStr::from_ptr(words) }.to_string_lossy().into_owned(),
        false => "an unknown error".to_owned(),
    };
    Err((code as u32, text))
}

/// The library that is installed here.
pub struct Installed;

impl Library for Installed {
    fn present(&self) -> bool {
        // In WSL the library lies where no loader looks; once it is open, it is found by its name.
        #[cfg(target_os = "linux")]
        {
            let file = "/usr/lib/wsl/lib/libcuda.so.1";
            if std::path::Path::new(file).exists() {
                // SAFETY: opens a library, whose code at start is trusted as the driver is.
                let _ = unsafe { libloading::Library::new(file) }.map(std::mem::forget);
            }
        }
        // SAFETY: as above.
        unsafe { sys::is_culib_present() }
    }

    fn start(&self) -> Result<(), (u32, String)> {
        // SAFETY: the library is there; the only flag is 0.
        said(unsafe { sys::cuInit(0) })
    }

    fn interface(&self) -> u32 {
        let mut v = 0;
        // SAFETY: writes a number.
        match unsafe { sys::cuDriverGetVersion(&mut v) } {
            CUresult::CUDA_SUCCESS => v.max(0) as u32,
            _ => 0,
        }
    }

    fn list(&self) -> Result<Vec<Facts>, (u32, String)> {
        let mut n = 0;
        // SAFETY: writes a number.
        said(unsafe { sys::cuDeviceGetCount(&mut n) })?;
        (0..n).map(|i| facts(i, self.interface())).collect()
    }
}

fn facts(index: i32, interface: u32) -> Result<Facts, (u32, String)> {
    use sys::CUdevice_attribute as A;
    let mut device = 0;
    // SAFETY: the index is below the count; writes a handle.
    said(unsafe { sys::cuDeviceGet(&mut device, index) })?;
    let mut name = [0u8; 256];
    // SAFETY: writes at most so many bytes, the last of them zero.
    said(unsafe { sys::cuDeviceGetName(name.as_mut_ptr().cast(), 256, device) })?;
    let name = CStr::from_bytes_until_nul(&name).unwrap_or(c"").to_string_lossy().into_owned();
    let mut uuid = sys::CUuuid { bytes: [0; 16] };
    // SAFETY: writes 16 bytes.
    said(unsafe { sys::cuDeviceGetUuid(&mut uuid, device) })?;
    let digits: String = uuid.bytes.iter().map(|&b| format!("{:02x}", b as u8)).collect();
    let mut memory = 0;
    // SAFETY: writes a number.
    said(unsafe { sys::cuDeviceTotalMem_v2(&mut memory, device) })?;
    let attribute = |a| {
        let mut v = 0;
        // SAFETY: writes a number.
        said(unsafe { sys::cuDeviceGetAttribute(&mut v, a, device) }).map(|()| v.max(0) as u32)
    };
    Ok(Facts {
        index: index as u32,
        name,
        uuid: format!("GPU-{digits}"),
        chip: [
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ],
        processors: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        memory: memory as u64,
        unified: attribute(A::CU_DEVICE_ATTRIBUTE_INTEGRATED)? != 0,
        interface,
    })
}

/// A device of this machine, with one queue and all machine code for its chip.
pub struct Real {
    facts: Facts,
    device: sys::CUdevice,
    context: usize,
    stream: usize,
    modules: Vec<usize>,
}

fn explained(code: CUresult) -> Result<()> {
    said(code).map_err(|(code, text)| explain(code, &text))
}

/// A failure of something that was enqueued.
fn failed(code: CUresult) -> Result<()> {
    said(code).map_err(|(code, text)| {
        Error::Runtime(format!("the GPU failed: {text} ({code}); restart the program"))
    })
}

impl Real {
    /// Opens a device.
    ///
    /// # Errors
    /// [`Error::Device`] or [`Error::Memory`], in words that say what to do.
    pub fn open(facts: Facts) -> Result<Real> {
        let mut device = 0;
        // SAFETY: the index is of a device that was listed; writes a handle.
        explained(unsafe { sys::cuDeviceGet(&mut device, facts.index as i32) })?;
        let mut context = null_mut();
        // SAFETY: writes a handle, which `drop` releases.
        explained(unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, device) })?;
        let mut real =
            Real { facts, device, context: context as usize, stream: 0, modules: vec![] };
        real.enter()?;
        let mut stream = null_mut();
        let flag = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the context is current; writes a handle.
        explained(unsafe { sys::cuStreamCreate(&mut stream, flag) })?;
        real.stream = stream as usize;
        for image in module::load(real.facts.chip)? {
            let mut handle = null_mut();
            // SAFETY: the image is a whole cubin or a text of PTX with a zero at its end.
            let code = unsafe { sys::cuModuleLoadData(&mut handle, image.as_ptr().cast()) };
            said(code).map_err(|(code, text)| {
                Error::Device(format!(
                    "{} does not take the kernels: {text} ({code})",
                    real.facts.name
                ))
            })?;
            real.modules.push(handle as usize);
        }
        Ok(real)
    }

    /// Every call is made by whatever thread.
    fn enter(&self) -> Result<()> {
        // SAFETY: a context that is retained as long as this lives.
        failed(unsafe { sys::cuCtxSetCurrent(self.context as sys::CUcontext) })
    }

    fn stream(&self) -> sys::CUstream {
        self.stream as sys::CUstream
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        if self.enter().is_err() {
            return;
        }
        // SAFETY: handles of this device, used by nobody any more.
        unsafe {
            for &m in &self.modules {
                let _ = sys::cuModuleUnload(m as sys::CUmodule);
            }
            let _ = sys::cuStreamDestroy_v2(self.stream());
            let _ = sys::cuDevicePrimaryCtxRelease_v2(self.device);
        }
    }
}

impl Driver for Real {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn kernel(&self, name: &str) -> Result<u64> {
        self.enter()?;
        let symbol = CString::new(format!("gm_{name}")).unwrap_or_default();
        for &m in &self.modules {
            let mut f = null_mut();
            // SAFETY: a loaded module and a text with a zero at its end; writes a handle.
            let code =
                unsafe { sys::cuModuleGetFunction(&mut f, m as sys::CUmodule, symbol.as_ptr()) };
            if code == CUresult::CUDA_SUCCESS {
                let attribute =
                    sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                // What older chips allow to a block less what kernels declare; where it is refused
                // the kernel asks for little.
                // SAFETY: a kernel of this module.
                let _ = unsafe { sys::cuFuncSetAttribute(f, attribute, 56 * 1024) };
                return Ok(f as u64);
            }
        }
        Err(Error::Device(format!("the machine code for {} lacks `{name}`", self.facts.name)))
    }

    fn allocate(&self, bytes: u64) -> Result<u64> {
        self.enter()?;
        let mut at = 0;
        // SAFETY: writes an address.
        said(unsafe { sys::cuMemAlloc_v2(&mut at, bytes as usize) }).map_err(|(code, text)| {
            let (free, all) = self.memory();
            let [asked, free, all] = [bytes, free, all].map(mib);
            match code {
                2 => Error::Memory(format!(
                    "{asked} do not fit on {}: {free} of {all} are free; use fewer layers on it \
                     (-ngl), a shorter context or a smaller model",
                    self.facts.name
                )),
                _ => explain(code, &text),
            }
        })?;
        Ok(at)
    }

    unsafe fn free(&self, at: u64) {
        // Waits for what is enqueued.
        let _ = self.wait_all();
        // SAFETY: the caller's.
        let _ = unsafe { sys::cuMemFree_v2(at) };
    }

    fn host_allocate(&self, bytes: u64) -> Result<u64> {
        self.enter()?;
        let mut at = null_mut();
        // SAFETY: writes an address.
        said(unsafe { sys::cuMemHostAlloc(&mut at, bytes as usize, 0) }).map_err(
            |(code, text)| match code {
                2 => Error::Memory(format!("{} of host memory cannot be pinned", mib(bytes))),
                _ => explain(code, &text),
            },
        )?;
        Ok(at as u64)
    }

    unsafe fn host_free(&self, at: u64) {
        let _ = self.enter();
        // SAFETY: the caller's.
        let _ = unsafe { sys::cuMemFreeHost(at as *mut c_void) };
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<()> {
        self.enter()?;
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the caller's.
        failed(unsafe { sys::cuMemcpyAsync(to, from, bytes as usize, self.stream()) })
    }

    unsafe fn fill(&self, at: u64, byte: u8, bytes: u64) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's.
        failed(unsafe { sys::cuMemsetD8Async(at, byte, bytes as usize, self.stream()) })
    }

    unsafe fn launch(&self, l: &Launch<'_>) -> Result<()> {
        self.enter()?;
        let [x, y, z] = l.grid;
        let mut params = [l.params.as_ptr().cast_mut().cast::<c_void>()];
        let f = l.kernel as sys::CUfunction;
        // SAFETY: the kernel has one parameter, which the driver copies; the rest is the caller's.
        failed(unsafe {
            sys::cuLaunchKernel(
                f,
                x,
                y,
                z,
                l.threads,
                1,
                1,
                l.shared,
                self.stream(),
                params.as_mut_ptr(),
                null_mut(),
            )
        })
    }

    fn capture(&self) -> Result<()> {
        self.enter()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: a stream of this device.
        failed(unsafe { sys::cuStreamBeginCapture_v2(self.stream(), mode) })
    }

    fn captured(&self) -> Result<u64> {
        self.enter()?;
        let (mut graph, mut ready) = (null_mut(), null_mut());
        // SAFETY: the stream captures; writes a handle, which is destroyed once there is a form of it
        // that runs.
        unsafe {
            failed(sys::cuStreamEndCapture(self.stream(), &mut graph))?;
            let made = failed(sys::cuGraphInstantiateWithFlags(&mut ready, graph, 0));
            let _ = sys::cuGraphDestroy(graph);
            made?;
        }
        Ok(ready as u64)
    }

    unsafe fn replay(&self, graph: u64) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's.
        failed(unsafe { sys::cuGraphLaunch(graph as sys::CUgraphExec, self.stream()) })
    }

    fn forget(&self, graph: u64) {
        let _ = self.wait_all();
        // SAFETY: a graph that `captured` gave and nothing runs.
        let _ = unsafe { sys::cuGraphExecDestroy(graph as sys::CUgraphExec) };
    }

    fn event(&self) -> Result<u64> {
        self.enter()?;
        let mut event = null_mut();
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32
            | sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC as u32;
        // SAFETY: writes a handle.
        failed(unsafe { sys::cuEventCreate(&mut event, flags) })?;
        Ok(event as u64)
    }

    fn record(&self, event: u64) -> Result<()> {
        self.enter()?;
        // SAFETY: an event and the stream of this device.
        failed(unsafe { sys::cuEventRecord(event as sys::CUevent, self.stream()) })
    }

    fn reached(&self, event: u64) -> Result<bool> {
        self.enter()?;
        // SAFETY: an event of this device.
        match unsafe { sys::cuEventQuery(event as sys::CUevent) } {
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            code => failed(code).map(|()| true),
        }
    }

    fn wait(&self, event: u64) -> Result<()> {
        self.enter()?;
        // SAFETY: an event of this device.
        failed(unsafe { sys::cuEventSynchronize(event as sys::CUevent) })
    }

    fn forget_event(&self, event: u64) {
        let _ = self.enter();
        // SAFETY: an event of this device; what still waits for it is not disturbed.
        let _ = unsafe { sys::cuEventDestroy_v2(event as sys::CUevent) };
    }

    fn wait_all(&self) -> Result<()> {
        self.enter()?;
        // SAFETY: the stream of this device.
        failed(unsafe { sys::cuStreamSynchronize(self.stream()) })
    }

    fn memory(&self) -> (u64, u64) {
        let (mut free, mut all) = (0, 0);
        if self.enter().is_err() {
            return (0, 0);
        }
        // SAFETY: writes two numbers.
        match unsafe { sys::cuMemGetInfo_v2(&mut free, &mut all) } {
            CUresult::CUDA_SUCCESS => (free as u64, all as u64),
            _ => (0, 0),
        }
    }
}
