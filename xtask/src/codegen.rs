//! `cargo xtask codegen`: kernels are compiled into straight code.
//!
//! Kernels are generic over the instruction set and must be inlined whole into the function that
//! carries the target features. One missing `#[inline(always)]` leaves a call for every vector
//! operation: correct, several times slower, and silent. So the release binary may hold no
//! intrinsic of `core::core_arch` as a function of its own, and no kernel may call anything inside
//! a loop.

use crate::disassembly::{self, Function};
use crate::tools;
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// Intrinsics that may be functions of their own: a part of the name, and why.
const INTRINSICS: &[(&str, &str)] =
    &[("::_xgetbv", "detection by the standard library, once"), ("::__cpuid", "detection, once")];

/// Calls that may stand inside a loop of a kernel: a part of the kernel's name, a part of the
/// callee's, and why.
const CALLS: &[(&str, &str, &str)] = &[
    (
        "gristmill_cpu::kernels",
        "::vectorize",
        "the entry of an instruction set: one call for a whole range of rows",
    ),
    (
        "gristmill_cpu::kernels::matmul",
        "a function pointer",
        "the same entry, its address kept in a register, or the converter of a format: one call for a \
         piece of a row group",
    ),
    (
        "gristmill_cpu::kernels::matmul",
        "gristmill_cpu::kernels::matmul::panel::convert",
        "the converter of a format where it is known: one call for a piece of a row group",
    ),
    ("gristmill_cpu", "memset", "clears a whole row or page; the library's loop is the best one"),
    (
        "gristmill_cpu::kernels::matmul::select",
        "detect",
        "chooses a kernel when a plan is compiled; computes nothing",
    ),
];

fn is_kernel(name: &str) -> bool {
    let vectorized = name.contains("gristmill_cpu::simd") && name.contains("vectorize");
    let not_computing = ["core::ptr::drop_in_place", "core::fmt::", "core::clone::Clone"];
    (vectorized || name.contains("gristmill_cpu::kernels"))
        && !not_computing.iter().any(|n| name.contains(n))
}

/// The instruction set that a function is an instance for.
fn instruction_set(name: &str) -> Option<&str> {
    let (_, of) = name.split_once("<gristmill_cpu::simd::")?;
    of.split_once(" as ")?.0.rsplit("::").next()
}

/// Checks the binary named by `--binary`, or the release build.
pub fn run(args: &[String]) -> Result<()> {
    let binary = tools::binary(args)?;
    let symbols = symbols(&binary)?;
    if symbols.is_empty() {
        bail!("{} has no symbols: was it stripped?", binary.display());
    }
    let slots = slots(&binary, &symbols)?;

    let intrinsics: Vec<&str> = symbols
        .values()
        .map(String::as_str)
        .filter(|n| n.contains("core::core_arch::"))
        // Glue of types that hold registers computes nothing.
        .filter(|n| !n.contains("drop_in_place<") && !n.contains(" as core::fmt::"))
        .filter(|n| !INTRINSICS.iter().any(|(part, _)| n.contains(part)))
        .collect();

    let mut callers: BTreeMap<String, String> = BTreeMap::new();
    let mut found: Vec<(u64, String)> = Vec::new();
    let (mut kernels, mut instructions) = (0, 0);
    let mut sets: BTreeMap<String, usize> = BTreeMap::new();
    disassemble(&binary, |f| {
        for callee in called(&f).filter(|c| intrinsics.contains(c)) {
            callers.entry(callee.to_owned()).or_insert_with(|| f.name.clone());
        }
        if !is_kernel(&f.name) {
            return;
        }
        kernels += 1;
        instructions += f.instructions.len();
        if let Some(set) = instruction_set(&f.name) {
            *sets.entry(set.to_owned()).or_default() += 1;
        }
        for call in disassembly::calls_in_loops(&f, &slots) {
            let allowed = CALLS.iter().any(|c| f.name.contains(c.0) && call.callee.contains(c.1));
            if !allowed {
                found.push((call.address, format!("`{}` calls `{}`", f.name, call.callee)));
            }
        }
    })?;
    if kernels == 0 {
        bail!(
            "{} holds no function of gristmill_cpu::kernels: nothing was checked; if they moved, \
             mend `is_kernel` in {}",
            binary.display(),
            file!()
        );
    }

    for name in &intrinsics {
        let by = callers.get(*name).map_or(String::new(), |c| format!(", called by `{c}`"));
        println!(
            "intrinsic: `{name}` is a function of its own{by}: what uses it must be #[inline(always)]"
        );
    }
    // One line for all instances of a generic kernel.
    let places = places(&binary, &found)?;
    let mut lines: BTreeMap<String, usize> = BTreeMap::new();
    for ((_, what), place) in found.iter().zip(places) {
        *lines.entry(format!("{place}: call in a loop: {what}")).or_default() += 1;
    }
    for (line, times) in &lines {
        println!("{line} ({times} times): inline it, move it out, or give a reason in `CALLS`");
    }
    if !(intrinsics.is_empty() && lines.is_empty()) {
        bail!("{} violations in {}", intrinsics.len() + lines.len(), binary.display());
    }
    let sets: Vec<String> = sets.iter().map(|(set, n)| format!("{set} {n}")).collect();
    println!(
        "codegen: {kernels} kernel functions ({}), {instructions} instructions: no intrinsic left \
         as a call, no call inside a loop",
        sets.join(", ")
    );
    Ok(())
}

fn called(f: &Function) -> impl Iterator<Item = &str> {
    f.instructions.iter().filter_map(|i| match &i.flow {
        disassembly::Flow::Call(disassembly::Callee::Named(name)) => Some(name.as_str()),
        _ => None,
    })
}

/// Addresses of functions and their demangled names.
fn symbols(binary: &Path) -> Result<BTreeMap<u64, String>> {
    let text = tools::output(Command::new("nm").arg("-C").arg(binary))?;
    Ok(text
        .lines()
        .filter_map(|line| {
            let (address, rest) = line.split_once(' ')?;
            let (kind, name) = rest.split_once(' ')?;
            let address = u64::from_str_radix(address, 16).ok()?;
            ["t", "T", "w", "W"].contains(&kind).then(|| (address, name.to_owned()))
        })
        .collect())
}

/// Which function each pointer filled by the loader holds: calls between crates go through them.
fn slots(binary: &Path, symbols: &BTreeMap<u64, String>) -> Result<HashMap<u64, String>> {
    let text = tools::output(Command::new("readelf").args(["-r", "-W"]).arg(binary))?;
    Ok(text.lines().filter_map(|line| relocation(line, symbols)).collect())
}

/// `5b9e8  8 R_X86_64_RELATIVE  4a100` or `5b9f8  2d00000006 R_X86_64_GLOB_DAT  0 sinf@GLIBC + 0`
fn relocation(line: &str, symbols: &BTreeMap<u64, String>) -> Option<(u64, String)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let slot = u64::from_str_radix(words.first()?, 16).ok()?;
    let name = match *words.get(2)? {
        "R_X86_64_RELATIVE" => symbols.get(&u64::from_str_radix(words.get(3)?, 16).ok()?)?.clone(),
        _ => (*words.get(4)?).to_owned(),
    };
    Some((slot, name))
}

fn disassemble(binary: &Path, each: impl FnMut(Function)) -> Result<()> {
    let mut child = Command::new("objdump")
        .args(["-d", "-C", "--no-show-raw-insn"])
        .arg(binary)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| tools::missing("objdump"))?;
    let out = child.stdout.take().context("objdump has no output")?;
    let mut lines = BufReader::new(out).lines().map_while(Result::ok);
    let format = lines.find(|l| l.contains("file format")).unwrap_or_default();
    if !format.contains("elf64-x86-64") {
        bail!("only x86-64 ELF files are understood, not `{format}`");
    }
    disassembly::functions(lines, each);
    if !child.wait()?.success() {
        bail!("objdump failed");
    }
    Ok(())
}

/// The source lines of addresses, the innermost one of our own.
fn places(binary: &Path, found: &[(u64, String)]) -> Result<Vec<String>> {
    let mut places = Vec::with_capacity(found.len());
    for chunk in found.chunks(1000) {
        let text = tools::output(
            Command::new("addr2line")
                .args(["-a", "-i", "-e"])
                .arg(binary)
                .args(chunk.iter().map(|(address, _)| format!("{address:x}"))),
        )?;
        // A line with the address begins each answer.
        let before = places.len();
        places.extend(format!("\n{text}").split("\n0x").skip(1).map(own_line));
        if places.len() - before != chunk.len() {
            bail!("addr2line answered for {} addresses of {}", places.len() - before, chunk.len());
        }
    }
    Ok(places)
}

/// The innermost line of the CPU backend, and the kernel it was inlined into.
fn own_line(frames: &str) -> String {
    let lines: Vec<&str> = frames.lines().filter_map(|l| l.split(" (").next()).collect();
    let from = |place: &str, l: &&str| l.find(place).map(|at| l[at..].to_owned());
    let Some(inner) = lines.iter().find_map(|l| from("crates/cpu/", l)) else {
        return lines.get(1).unwrap_or(&"??:0").to_string();
    };
    match lines.iter().rev().find_map(|l| from("crates/cpu/src/kernels/", l)) {
        Some(kernel) if kernel != inner => format!("{inner} (in {kernel})"),
        _ => inner,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_functions_are_kernels() {
        assert!(is_kernel("gristmill_cpu::kernels::matmul::rows"));
        assert!(is_kernel(
            "<gristmill_cpu::simd::avx2::Avx2 as gristmill_cpu::simd::Simd>::vectorize::go"
        ));
        let sse = "<gristmill_cpu::simd::sse41::Sse41 as gristmill_cpu::simd::Simd>::vectorize::go";
        assert!(is_kernel(sse));
        assert_eq!(instruction_set(sse), Some("Sse41"));
        assert_eq!(instruction_set("gristmill_cpu::kernels::matmul::rows"), None);
        assert!(!is_kernel("gristmill_cpu::plan::compile"));
        assert!(!is_kernel("core::ptr::drop_in_place<gristmill_cpu::kernels::Softmax>"));
    }

    #[test]
    fn pointers_are_named() {
        let symbols = BTreeMap::from([(0x4a100, "core::panicking::panic".to_owned())]);
        let near = "000000000005b9e8  0000000000000008 R_X86_64_RELATIVE                    4a100";
        let far =
            "000000000005b9f8  0000002d00000006 R_X86_64_GLOB_DAT  0000000000000000 sinf@GLIBC + 0";
        assert_eq!(
            relocation(near, &symbols),
            Some((0x5b9e8, "core::panicking::panic".to_owned()))
        );
        assert_eq!(relocation(far, &symbols), Some((0x5b9f8, "sinf@GLIBC".to_owned())));
        assert_eq!(relocation("Relocation section '.rela.dyn'", &symbols), None);
    }

    #[test]
    fn the_innermost_own_line() {
        let frames = "15fad\n/rustc/1/library/core/src/num.rs:3\n\
                      /home/x/crates/cpu/src/simd/math.rs:12 (discriminator 2)\n\
                      /home/x/crates/cpu/src/kernels/norm.rs:40\n";
        let both = "crates/cpu/src/simd/math.rs:12 (in crates/cpu/src/kernels/norm.rs:40)";
        assert_eq!(own_line(frames), both);
        assert_eq!(own_line("15fad\n??:0\n"), "??:0");
    }
}
