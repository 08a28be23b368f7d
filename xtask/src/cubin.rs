//! Machine code of the CUDA backend: compiles `crates/cuda/kernels/*.cu` for every target.
//!
//! No toolkit and no GPU: compilers are Python wheels at pinned versions, in virtual environments under
//! `target/cuda-compilers` (or where `GRISTMILL_CUDA_COMPILERS` says). Code for a target is made by the
//! oldest compiler that knows it, so that older drivers take it: 12.4 where that is enough, whose code
//! runs from driver 525 on, else 13.0, from 580 on.
//!
//! Each target becomes `crates/cuda/cubins/TARGET.zst`: for each source the length of its image in
//! eight bytes, then the image, all compressed. `cubins/list` holds the hash of the sources, each
//! target's compiler and, a line a kernel, what a test holds against bounds.

use crate::tools::root;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A compiler: the environment's name, its wheels, and its library in there.
struct Compiler {
    name: &'static str,
    version: &'static str,
    wheels: &'static [&'static str],
    library: &'static str,
}

const OLD: Compiler = Compiler {
    name: "cuda12",
    version: "12.4.127",
    wheels: &["nvidia-cuda-nvrtc-cu12==12.4.127"],
    library: "cuda_nvrtc/lib/libnvrtc.so.12",
};
const NEW: Compiler = Compiler {
    name: "cuda13",
    version: "13.0.88",
    wheels: &["nvidia-cuda-nvrtc==13.0.88", "nvidia-cuda-nvdisasm==13.5.37"],
    library: "cu13/lib/libnvrtc.so.13",
};

const TARGETS: [(&str, &Compiler); 8] = [
    ("sm_90", &OLD),
    ("sm_80", &OLD),
    ("sm_75", &OLD),
    ("compute_75", &OLD),
    ("sm_86", &OLD),
    ("sm_89", &OLD),
    ("sm_100", &NEW),
    ("sm_120", &NEW),
];

/// Runs the chore: all targets, or those that are named. `--setup` fetches the compilers first.
pub fn run(args: &[String]) -> Result<()> {
    let root = root()?;
    let home = std::env::var_os("GRISTMILL_CUDA_COMPILERS")
        .map_or_else(|| root.join("target/cuda-compilers"), PathBuf::from);
    let (flags, names): (Vec<&String>, Vec<&String>) =
        args.iter().partition(|a| a.starts_with("--"));
    if flags.iter().any(|f| *f == "--setup") {
        setup(&home)?;
    }
    let known = |n: &&String| TARGETS.iter().any(|t| t.0 == n.as_str());
    if let Some(name) = names.iter().find(|n| !known(n)) {
        bail!("no target is called `{name}`");
    }
    let kernels = root.join("crates/cuda/kernels");
    let hash = sources_hash(&kernels)?;
    let out = root.join("crates/cuda/cubins");
    std::fs::create_dir_all(&out)?;
    let mut list = List::read(&out.join("list"), hash);
    for (target, compiler) in TARGETS {
        if !names.is_empty() && !names.iter().any(|n| n.as_str() == target) {
            continue;
        }
        let made = compile(&home, &kernels, target, compiler)?;
        let mut container = vec![];
        for image in &made.images {
            container.extend((image.len() as u64).to_le_bytes());
            container.extend(image);
        }
        let packed = zstd::encode_all(&container[..], 19)?;
        let path = out.join(format!("{target}.zst"));
        std::fs::write(&path, &packed)?;
        println!(
            "{target}: {} kernels, {} of {} bytes",
            made.lines.len(),
            packed.len(),
            container.len()
        );
        list.targets.insert(target.to_owned(), (compiler.version.to_owned(), hash, made.lines));
        list.write(&out.join("list"))?;
    }
    Ok(())
}

fn setup(home: &Path) -> Result<()> {
    for c in [&OLD, &NEW] {
        let at = home.join(c.name);
        run_command(Command::new("python3").args(["-m", "venv"]).arg(&at))?;
        let pip = at.join("bin/pip");
        run_command(Command::new(pip).args(["install", "-q"]).args(c.wheels))?;
    }
    Ok(())
}

fn run_command(c: &mut Command) -> Result<String> {
    let out = c.output().with_context(|| format!("{c:?}"))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(out.status.success(), "{c:?}\n{text}{}", String::from_utf8_lossy(&out.stderr));
    Ok(text)
}

/// Where Python keeps the wheels of an environment.
fn wheels(home: &Path, c: &Compiler) -> Result<PathBuf> {
    let lib = home.join(c.name).join("lib");
    let versions = std::fs::read_dir(&lib)
        .with_context(|| format!("{}: run `cargo xtask cubin --setup`", lib.display()))?;
    for version in versions {
        let at = version?.path().join("site-packages/nvidia");
        if at.is_dir() {
            return Ok(at);
        }
    }
    bail!("{}: no wheels of NVIDIA; run `cargo xtask cubin --setup`", lib.display())
}

/// Files that end so, by name.
fn files(folder: &Path, ends: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = vec![];
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| ends.iter().any(|end| e == *end)) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Fowler, Noll and Vo's 64-bit hash (FNV-1a).
fn fnv(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Of all sources, by name: what the committed code was made from.
fn sources_hash(kernels: &Path) -> Result<u64> {
    let mut all = vec![];
    for path in files(kernels, &["cu", "h"])? {
        all.extend(path.file_name().unwrap_or_default().as_encoded_bytes());
        all.push(0);
        all.extend(std::fs::read(path)?);
    }
    Ok(fnv(&all))
}

/// A source with all that it includes, each once, each before what includes it.
fn included(kernels: &Path, file: &Path, all: &mut String) -> Result<()> {
    let text = std::fs::read_to_string(file)?;
    for line in text.lines() {
        let name = line.strip_prefix("#include \"").and_then(|l| l.strip_suffix('"'));
        let path = name.map(|n| kernels.join(n)).filter(|p| p.exists());
        if let Some(path) = path {
            let whole = std::fs::read_to_string(&path)?;
            if !all.contains(&whole) {
                included(kernels, &path, all)?;
            }
        }
    }
    all.push_str(&text);
    Ok(())
}

struct Made {
    images: Vec<Vec<u8>>,
    lines: Vec<String>,
}

fn compile(home: &Path, kernels: &Path, target: &str, compiler: &Compiler) -> Result<Made> {
    let wheel = wheels(home, compiler)?;
    let library = wheel.join(compiler.library);
    let kept = root()?.join("target/cuda-kept");
    std::fs::create_dir_all(&kept)?;
    let mut made = Made { images: vec![], lines: vec![] };
    for source in files(kernels, &["cu"])? {
        let stem = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut text = String::new();
        included(kernels, &source, &mut text)?;
        let key = format!("{stem}.{target}.{}.{:016x}", compiler.version, fnv(text.as_bytes()));
        let (image, log) = (kept.join(format!("{key}.cubin")), kept.join(format!("{key}.log")));
        if !image.exists() || !log.exists() {
            println!("{target}: {stem}");
            let mut c = Command::new("python3");
            c.arg(root()?.join("xtask/nvrtc.py")).arg(&library).arg(&source).arg(target);
            let new = kept.join(format!("{target}.new"));
            c.arg(&new).env("LD_LIBRARY_PATH", library.parent().unwrap_or(&wheel));
            if target.starts_with("sm_") {
                c.arg("--ptxas-options=-v");
            }
            let said = run_command(&mut c)?;
            std::fs::rename(&new, &image)?;
            std::fs::write(&log, said)?;
        }
        let mut bytes = std::fs::read(&image)?;
        if target.starts_with("compute_") {
            // The driver wants a zero at the end of a text.
            bytes.push(0);
        } else {
            let instructions = instructions(home, &image).unwrap_or_default();
            made.lines.extend(kernel_lines(&std::fs::read_to_string(&log)?, &instructions));
        }
        made.images.push(bytes);
    }
    made.lines.sort();
    Ok(made)
}

/// Of each kernel its registers, bytes of stack and spills, shared memory, and the instructions that
/// tell how it works.
fn kernel_lines(log: &str, found: &BTreeMap<String, String>) -> Vec<String> {
    let mut lines = vec![];
    let (mut name, mut stack, mut spills) = ("", 0, 0);
    let number_before = |line: &str, what: &str| -> u32 {
        let Some(at) = line.find(what) else { return 0 };
        let before = line[..at].trim_end();
        before.rsplit([' ', ',']).next().and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            name = rest.split('\'').next().unwrap_or_default();
            (stack, spills) = (0, 0);
        } else if line.contains("bytes stack frame") && !name.is_empty() {
            stack = stack.max(number_before(line, "bytes stack frame"));
            spills += number_before(line, "bytes spill stores")
                + number_before(line, "bytes spill loads");
        } else if line.contains("Used ") && !name.is_empty() {
            let registers = number_before(line, "registers");
            let shared = number_before(line, "bytes smem");
            let kernel = name.trim_start_matches("gm_");
            let extra = found.get(kernel).map_or("", String::as_str);
            lines.push(format!("{kernel} {registers} {stack} {spills} {shared}{extra}"));
            name = "";
        }
    }
    lines
}

/// Instructions that show what a kernel uses.
const TOLD: [&str; 8] = ["HMMA", "IMMA", "IDP", "LDG.E.128", "LDGSTS", "LDSM", "LDL", "STL"];

/// Counts them in the disassembly.
fn instructions(home: &Path, image: &Path) -> Result<BTreeMap<String, String>> {
    let disassembler = wheels(home, &NEW)?.join("cu13/bin/nvdisasm");
    let text = run_command(Command::new(disassembler).arg("-c").arg(image))?;
    let mut all = BTreeMap::new();
    let (mut name, mut counts) = (String::new(), [0u32; TOLD.len()]);
    let mut close = |name: &str, counts: &mut [u32; TOLD.len()]| {
        let mut line = String::new();
        for (what, n) in TOLD.iter().zip(counts.iter()).filter(|c| *c.1 > 0) {
            let _ = write!(line, " {what}={n}");
        }
        all.insert(name.to_owned(), line);
        *counts = [0; TOLD.len()];
    };
    for line in text.lines() {
        if let Some(section) = line.trim().strip_prefix(".section\t.text.gm_") {
            close(&name, &mut counts);
            name = section.split(',').next().unwrap_or_default().to_owned();
        }
        for (what, n) in TOLD.iter().zip(&mut counts) {
            // `LDG.E.128` may have words in between.
            let mut parts = what.split('.');
            let first = parts.next().unwrap_or_default();
            let opcode = line.split_whitespace().find(|w| w.starts_with(first));
            *n += u32::from(opcode.is_some_and(|w| parts.all(|p| w.contains(p))));
        }
    }
    close(&name, &mut counts);
    Ok(all)
}

/// What `cubins/list` holds.
struct List {
    hash: u64,
    /// Compiler, hash of the sources, and lines of kernels.
    targets: BTreeMap<String, (String, u64, Vec<String>)>,
}

impl List {
    fn read(path: &Path, hash: u64) -> List {
        let mut targets: BTreeMap<String, (String, u64, Vec<String>)> = BTreeMap::new();
        let mut last = String::new();
        for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
            let words: Vec<&str> = line.split(' ').collect();
            if let ["target", name, version, made] = words[..] {
                last = name.to_owned();
                let made = u64::from_str_radix(made, 16).unwrap_or(0);
                targets.insert(last.clone(), (version.to_owned(), made, vec![]));
            } else if let Some(t) = targets.get_mut(&last) {
                t.2.push(line.to_owned());
            }
        }
        List { hash, targets }
    }

    fn write(&self, path: &Path) -> Result<()> {
        let mut text = format!("sources {:016x}\n", self.hash);
        for (name, (version, made, lines)) in &self.targets {
            let _ = writeln!(text, "target {name} {version} {made:016x}");
            for line in lines {
                let _ = writeln!(text, "{line}");
            }
        }
        Ok(std::fs::write(path, text)?)
    }
}
