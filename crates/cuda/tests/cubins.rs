//! The machine code that is shipped, looked at without a GPU: made from the sources that lie beside it,
//! with every kernel, the parameters that are sent to it, and the instructions that it is fast by.

mod emulator;

use emulator::Emulator;
use object::{Object, ObjectSection};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

fn here(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)
}

/// Fowler, Noll and Vo's 64-bit hash (FNV-1a).
fn fnv(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Of all sources, as `cargo xtask cubin` takes it.
fn sources_hash() -> u64 {
    let entries = std::fs::read_dir(here("kernels")).expect("there are kernels");
    let mut files: Vec<PathBuf> = entries.map(|e| e.expect("a file").path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "cu" || e == "h"));
    files.sort();
    let mut all = vec![];
    for path in files {
        all.extend(path.file_name().unwrap().as_encoded_bytes());
        all.push(0);
        all.extend(std::fs::read(path).unwrap());
    }
    fnv(&all)
}

/// A kernel's line: registers, bytes of stack, of spills and of shared memory, and instructions.
struct Line {
    registers: u32,
    stack: u32,
    spills: u32,
    found: String,
}

/// The hash each target was made from, and its kernels.
fn list() -> BTreeMap<String, (u64, BTreeMap<String, Line>)> {
    let text = std::fs::read_to_string(here("cubins/list")).expect("the list is there");
    let mut targets: BTreeMap<String, (u64, BTreeMap<String, Line>)> = BTreeMap::new();
    let mut last = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["sources", _] => {}
            ["target", name, _, made] => {
                last = name.to_owned();
                let made = u64::from_str_radix(made, 16).expect("a hash");
                targets.insert(last.clone(), (made, BTreeMap::new()));
            }
            [name, registers, stack, spills, _, ref found @ ..] => {
                let n = |s: &str| s.parse().expect("a number");
                let (registers, stack, spills) = (n(registers), n(stack), n(spills));
                let line = Line { registers, stack, spills, found: found.join(" ") };
                targets.get_mut(&last).expect("a target").1.insert(name.to_owned(), line);
            }
            _ => panic!("what is `{line}`"),
        }
    }
    targets
}

/// The images of a target.
fn images(target: &str) -> Vec<Vec<u8>> {
    let file = std::fs::File::open(here(&format!("cubins/{target}.zst"))).expect("it is there");
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(file).expect("it is compressed");
    let mut all = vec![];
    decoder.read_to_end(&mut all).expect("it is whole");
    let (mut rest, mut found) = (&all[..], vec![]);
    while let Some((length, more)) = rest.split_first_chunk::<8>() {
        let (image, more) = more.split_at(u64::from_le_bytes(*length) as usize);
        found.push(image.to_vec());
        rest = more;
    }
    found
}

/// Kernels of a target with the bytes of their parameters.
fn kernels_of(target: &str) -> BTreeMap<String, u32> {
    /// What an entry of `.nv.info` is called that holds the size of the parameters.
    const CBANK_PARAM_SIZE: u8 = 0x19;
    let mut found = BTreeMap::new();
    for image in images(target) {
        let file = object::File::parse(&image[..]).expect("it is ELF");
        for section in file.sections() {
            let name = section.name().unwrap_or_default();
            let Some(kernel) = name.strip_prefix(".nv.info.gm_") else { continue };
            let data = section.data().expect("it has content");
            // Entries of four bytes: form, name, value; form 4 has as many bytes more as its value.
            let mut at = 0;
            while let Some(&[form, what, low, high]) =
                data.get(at..at + 4).and_then(|d| d.first_chunk())
            {
                let value = u32::from(low) | u32::from(high) << 8;
                if what == CBANK_PARAM_SIZE {
                    found.insert(kernel.to_owned(), value);
                }
                at += 4 + if form == 4 { value as usize } else { 0 };
            }
        }
    }
    found
}

fn machine_targets() -> Vec<String> {
    list().into_keys().filter(|t| t.starts_with("sm_")).collect()
}

#[test]
fn made_from_these_sources() {
    let now = sources_hash();
    for (target, (made, _)) in list() {
        assert_eq!(made, now, "{target} is of other sources: run `cargo xtask cubin {target}`");
    }
}

#[test]
fn every_kernel_with_its_parameters() {
    let Some(emulator) = Emulator::new() else { return };
    let host = emulator.kernels();
    assert!(host.len() > 150, "{} kernels", host.len());
    for target in machine_targets() {
        let found = kernels_of(&target);
        let names = |m: &BTreeMap<String, u32>| m.keys().cloned().collect::<BTreeSet<_>>();
        let missing: Vec<_> = names(&host).difference(&names(&found)).cloned().collect();
        assert!(missing.is_empty(), "{target} lacks {missing:?}");
        for (kernel, &bytes) in &host {
            assert_eq!(found[kernel], bytes, "{target}: parameters of {kernel}");
        }
        println!("{target}: {} kernels", found.len());
    }
}

#[test]
fn small_enough() {
    let entries = std::fs::read_dir(here("cubins")).unwrap();
    let bytes: u64 = entries.map(|e| e.unwrap().metadata().unwrap().len()).sum();
    println!("{bytes} bytes of machine code");
    assert!(bytes < 12 << 20);
}

/// Tensor cores, wide loads and products of bytes where they are meant to be; nothing is spilled there.
#[test]
fn fast_instructions() {
    for target in machine_targets() {
        for (kernel, line) in &list()[&target].1 {
            let has = |what: &str| line.found.split(' ').any(|f| f.split('=').next() == Some(what));
            let needs = |what: &str| assert!(has(what), "{target}: {kernel} has no {what}");
            let old = target == "sm_75";
            if kernel.starts_with("gemm_half") || (kernel.starts_with("gemm_brain") && !old) {
                needs("HMMA");
                needs("LDSM");
                if !old {
                    needs("LDGSTS");
                }
            }
            if kernel.starts_with("gemm_int8") {
                needs("IMMA");
            }
            if kernel.starts_with("gemv_int8") || kernel.starts_with("gemv4_int8") {
                needs("IDP");
                needs("LDG.E.128");
            }
            if kernel.starts_with("decode_") {
                needs("LDG.E.128");
            }
            let streams = kernel.starts_with("gem") || kernel.starts_with("decode_");
            // Tiles of attention fill the registers of Turing.
            let most = if old && kernel.starts_with("tiles_half") { 264 } else { 24 };
            if streams || kernel.starts_with("tiles_") {
                let spills = line.spills;
                assert!(spills <= most, "{target}: {kernel} spills {spills} bytes");
            }
            assert!(line.registers <= 255 && line.stack <= 1024, "{target}: {kernel}");
        }
    }
}
