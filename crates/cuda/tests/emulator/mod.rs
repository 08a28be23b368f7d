//! A device that is played: kernels compiled for the host by a C++ compiler, run at once.

use gristmill_core::{Error, Result};
use gristmill_cuda::driver::{Driver, Facts, Launch};
use libloading::{Library, Symbol};
use std::collections::HashMap;
use std::ffi::{CStr, c_char};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

type Kernel = unsafe extern "C" fn(*const u8, u32, u32);
type Run = unsafe extern "C" fn(Kernel, *const u32, u32, u32, *const u8, u32) -> *const c_char;

/// Sources of kernels.
pub fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

fn cu_files() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(kernels()).expect("there are kernels");
    let mut files: Vec<PathBuf> = entries.map(|e| e.expect("a file").path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "cu"));
    files.sort();
    files
}

/// Whether an object is newer than everything that it may be made of.
fn is_fresh(object: &Path, sources: &[PathBuf]) -> bool {
    let time = |p: &Path| p.metadata().and_then(|m| m.modified()).ok();
    let made = time(object);
    made.is_some() && sources.iter().all(|s| time(s) <= made)
}

/// Compiles all kernels into one library; nothing where there is no compiler.
fn build() -> Option<PathBuf> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    if Command::new(&compiler).arg("--version").output().is_err() {
        return None;
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulator");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels");
    std::fs::create_dir_all(&out).expect("a folder for objects");
    let mut shared: Vec<PathBuf> = std::fs::read_dir(kernels())
        .expect("there are kernels")
        .map(|e| e.expect("a file").path())
        .filter(|f| f.extension().is_some_and(|e| e == "h"))
        .collect();
    shared.push(here.join("emulated.h"));
    let mut objects = vec![];
    let mut jobs = vec![];
    for source in cu_files().into_iter().chain([here.join("emulator.cpp")]) {
        let stem = source.file_stem().expect("a name").to_string_lossy().into_owned();
        let object = out.join(format!("{stem}.o"));
        let mut sources = shared.clone();
        sources.push(source.clone());
        if !is_fresh(&object, &sources) {
            let mut c = Command::new(&compiler);
            c.args(["-x", "c++", "-std=c++17", "-O2", "-fPIC", "-c", "-U_FORTIFY_SOURCE"]);
            c.args(["-fno-strict-aliasing", "-ffp-contract=off", "-Wno-unknown-pragmas"]);
            c.arg("-I").arg(&here).arg("-o").arg(&object).arg(&source);
            jobs.push((stem, c));
        }
        objects.push(object);
    }
    // Two at a time: tests share the machine.
    for pair in jobs.chunks_mut(2) {
        let running: Vec<_> = pair
            .iter_mut()
            .map(|(n, c)| (n.clone(), c.spawn().expect("the compiler runs")))
            .collect();
        for (name, mut child) in running {
            assert!(child.wait().expect("it ends").success(), "{name} does not compile");
        }
    }
    let library = out.join("libkernels.so");
    if !is_fresh(&library, &objects) {
        let mut c = Command::new(&compiler);
        let linked = c.arg("-shared").arg("-o").arg(&library).args(&objects).arg("-lm").status();
        assert!(linked.expect("the linker runs").success());
    }
    Some(library)
}

struct Recorded {
    kernel: u64,
    grid: [u32; 3],
    threads: u32,
    shared: u32,
    params: Vec<u8>,
}

/// What is kept of a played device.
#[derive(Default)]
struct State {
    /// Lengths of what was allocated.
    memory: HashMap<u64, u64>,
    capturing: Option<Vec<Recorded>>,
    graphs: HashMap<u64, Arc<Vec<Recorded>>>,
    numbers: u64,
    /// What is not allowed to be exceeded.
    most: u64,
}

/// A device that is played.
pub struct Emulator {
    facts: Facts,
    library: &'static Library,
    state: Mutex<State>,
}

/// Blocks of one device run at a time, and all devices share the machine's memory of a block.
static ONE: Mutex<()> = Mutex::new(());

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Emulator {
    /// A device; nothing where there is no compiler to make it with.
    pub fn new() -> Option<Emulator> {
        static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
        let open = || {
            let Some(path) = build() else {
                println!("SKIPPED: there is no C++ compiler to play a device with");
                return None;
            };
            // SAFETY: a library that was just built, which runs nothing when it is opened.
            Some(unsafe { Library::new(path) }.expect("the library opens"))
        };
        let library = LIBRARY.get_or_init(open).as_ref()?;
        let facts = Facts {
            index: 0,
            name: "played device".into(),
            uuid: "GPU-0".into(),
            chip: [9, 0],
            processors: 4,
            memory: 4 << 30,
            unified: false,
            interface: 13_000,
        };
        let state = Mutex::new(State { most: 4 << 30, ..State::default() });
        Some(Emulator { facts, library, state })
    }

    /// Every kernel with the bytes of its parameters: those that the library's symbols name.
    #[allow(dead_code)] // not every test asks
    pub fn kernels(&self) -> std::collections::BTreeMap<String, u32> {
        use object::{Object, ObjectSymbol};
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels/libkernels.so");
        let bytes = std::fs::read(path).expect("it was built");
        let file = object::File::parse(&bytes[..]).expect("it is a library");
        let name = |s: object::Symbol<'_, '_>| {
            let name = s.name().ok()?.strip_prefix("gm_")?.strip_suffix("_bytes")?.to_owned();
            // SAFETY: a constant of this type, which lives as long as the library.
            let size =
                unsafe { self.library.get::<*const u32>(format!("gm_{name}_bytes").as_bytes()) };
            // SAFETY: as above.
            Some((name, unsafe { **size.ok()? }))
        };
        file.dynamic_symbols().filter_map(name).collect()
    }

    fn run(&self, r: &Recorded) -> Result<()> {
        let _one = lock(&ONE);
        // SAFETY: the function has this type in `emulator.cpp`; kernels have the other, and were found
        // under their names; parameters outlive the call. The kernel checks their length.
        let said = unsafe {
            let run: Symbol<'_, Run> = self.library.get(b"emulator_launch").expect("it is there");
            let kernel = std::mem::transmute::<usize, Kernel>(r.kernel as usize);
            let n = r.params.len() as u32;
            run(kernel, r.grid.as_ptr(), r.threads, r.shared, r.params.as_ptr(), n)
        };
        if said.is_null() {
            return Ok(());
        }
        // SAFETY: a text with a zero at its end, which lives until the next launch.
        let text = unsafe { CStr::from_ptr(said) }.to_string_lossy();
        Err(Error::Runtime(format!("the played device: {text}")))
    }

    fn number(&self) -> u64 {
        let mut s = lock(&self.state);
        s.numbers += 1;
        s.numbers
    }

    fn give(&self, bytes: u64) -> u64 {
        let layout =
            std::alloc::Layout::from_size_align(bytes.max(1) as usize, 256).expect("a size");
        // SAFETY: more than no bytes.
        let at = unsafe { std::alloc::alloc(layout) } as u64;
        lock(&self.state).memory.insert(at, bytes);
        at
    }

    fn take(&self, at: u64) {
        let bytes = lock(&self.state).memory.remove(&at).expect("memory that was given");
        let layout =
            std::alloc::Layout::from_size_align(bytes.max(1) as usize, 256).expect("a size");
        // SAFETY: given by `give` with this size.
        unsafe { std::alloc::dealloc(at as *mut u8, layout) }
    }

    /// Panics unless a stretch lies in memory that was given.
    fn within(&self, at: u64, bytes: u64) {
        let s = lock(&self.state);
        let holds = |(&from, &n): (&u64, &u64)| from <= at && at + bytes <= from + n;
        assert!(s.memory.iter().any(holds), "a copy outside of memory");
    }
}

impl Driver for Emulator {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn kernel(&self, name: &str) -> Result<u64> {
        // SAFETY: only the address is taken.
        let found = unsafe { self.library.get::<Kernel>(format!("gm_{name}").as_bytes()) };
        match found {
            Ok(f) => Ok(*f as usize as u64),
            Err(_) => Err(Error::Device(format!("there is no kernel `{name}`"))),
        }
    }

    fn allocate(&self, bytes: u64) -> Result<u64> {
        let used: u64 = lock(&self.state).memory.values().sum();
        if used.saturating_add(bytes) > lock(&self.state).most {
            return Err(Error::Memory(format!("{:.1} MiB do not fit", bytes as f64 / 1048576.0)));
        }
        let at = self.give(bytes);
        // SAFETY: just given. What nobody has written is no number.
        unsafe { std::ptr::write_bytes(at as *mut u8, 0xFF, bytes as usize) };
        Ok(at)
    }

    unsafe fn free(&self, at: u64) {
        self.take(at);
    }

    fn host_allocate(&self, bytes: u64) -> Result<u64> {
        Ok(self.give(bytes))
    }

    unsafe fn host_free(&self, at: u64) {
        self.take(at);
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<()> {
        if bytes > 0 {
            self.within(to, bytes);
            self.within(from, bytes);
            // SAFETY: both lie in memory that was given.
            unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes as usize) };
        }
        Ok(())
    }

    unsafe fn fill(&self, at: u64, byte: u8, bytes: u64) -> Result<()> {
        self.within(at, bytes);
        // SAFETY: it lies in memory that was given.
        unsafe { std::ptr::write_bytes(at as *mut u8, byte, bytes as usize) };
        Ok(())
    }

    unsafe fn launch(&self, l: &Launch<'_>) -> Result<()> {
        let &Launch { kernel, grid, threads, shared, params } = l;
        let recorded = Recorded { kernel, grid, threads, shared, params: params.to_vec() };
        if let Some(list) = &mut lock(&self.state).capturing {
            list.push(recorded);
            return Ok(());
        }
        self.run(&recorded)
    }

    fn capture(&self) -> Result<()> {
        lock(&self.state).capturing = Some(vec![]);
        Ok(())
    }

    fn captured(&self) -> Result<u64> {
        let number = self.number();
        let mut s = lock(&self.state);
        let list = s.capturing.take().expect("it captures");
        s.graphs.insert(number, Arc::new(list));
        Ok(number)
    }

    unsafe fn replay(&self, graph: u64) -> Result<()> {
        let list = lock(&self.state).graphs[&graph].clone();
        list.iter().try_for_each(|r| self.run(r))
    }

    fn forget(&self, graph: u64) {
        lock(&self.state).graphs.remove(&graph);
    }

    fn event(&self) -> Result<u64> {
        Ok(self.number())
    }

    fn record(&self, _: u64) -> Result<()> {
        Ok(())
    }

    fn reached(&self, _: u64) -> Result<bool> {
        Ok(true)
    }

    fn wait(&self, _: u64) -> Result<()> {
        Ok(())
    }

    fn forget_event(&self, _: u64) {}

    fn wait_all(&self) -> Result<()> {
        Ok(())
    }

    fn memory(&self) -> (u64, u64) {
        let s = lock(&self.state);
        (s.most - s.memory.values().sum::<u64>(), s.most)
    }
}
