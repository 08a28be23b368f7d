//! `cargo xtask size`: what the release binary is made of, as markdown.

use crate::source::is_word;
use crate::tools;
use anyhow::Result;
use std::collections::HashMap;
use std::process::Command;

/// Rows of the table of crates.
const CRATES: usize = 15;

/// Prints the tables for the binary named by `--binary`, or the release build.
pub fn run(args: &[String]) -> Result<()> {
    let binary = tools::binary(args)?;
    let total = std::fs::metadata(&binary)?.len();
    let name = binary.file_name().unwrap_or_default().to_string_lossy();
    println!("`{name}`: {} KiB\n", kib(total));

    let sections =
        sections(&tools::output(Command::new("objdump").args(["-h", "-w"]).arg(&binary))?);
    println!("| section | KiB |\n| --- | ---: |");
    for (name, bytes) in &sections {
        println!("| `{name}` | {} |", kib(*bytes));
    }

    let crates = crates(&tools::output(Command::new("nm").args(["-C", "-S"]).arg(&binary))?);
    println!("\nBy the crate that a symbol's path begins with:\n");
    println!("| crate | code, KiB | data, KiB |\n| --- | ---: | ---: |");
    for (name, [code, data]) in crates.iter().take(CRATES) {
        println!("| {name} | {} | {} |", kib(*code), kib(*data));
    }
    if let Some(rest) = crates.get(CRATES..).filter(|r| !r.is_empty()) {
        let sum = |i: usize| rest.iter().map(|(_, s)| s[i]).sum::<u64>();
        println!("| {} more | {} | {} |", rest.len(), kib(sum(0)), kib(sum(1)));
    }
    Ok(())
}

fn kib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1024.0)
}

/// Sections of `objdump -h -w` that take room in the file, the largest first; those of debug
/// information together.
fn sections(text: &str) -> Vec<(String, u64)> {
    let mut bytes: HashMap<String, u64> = HashMap::new();
    for line in text.lines().filter(|l| l.contains("CONTENTS")) {
        let mut words = line.split_whitespace();
        let (Some(index), Some(name), Some(size)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let (Ok(_), Ok(size)) = (index.parse::<u32>(), u64::from_str_radix(size, 16)) else {
            continue;
        };
        let name = if name.starts_with(".debug_") { ".debug_*" } else { name };
        *bytes.entry(name.to_owned()).or_default() += size;
    }
    bytes.retain(|_, size| *size >= 1024);
    let mut sections: Vec<_> = bytes.into_iter().collect();
    sections.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    sections
}

/// Bytes of code and of data by crate in `nm -C -S`, the largest first.
fn crates(text: &str) -> Vec<(String, [u64; 2])> {
    let mut bytes: HashMap<String, [u64; 2]> = HashMap::new();
    for line in text.lines() {
        let mut fields = line.splitn(4, ' ');
        let (Some(_), Some(size), Some(kind), Some(name)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let Ok(size) = u64::from_str_radix(size, 16) else { continue };
        let column = match kind {
            "t" | "T" | "w" | "W" => 0,
            "r" | "R" | "d" | "D" | "v" | "V" => 1,
            _ => continue, // zeroed memory takes no room in the file
        };
        bytes.entry(crate_of(name)).or_default()[column] += size;
    }
    let mut crates: Vec<_> = bytes.into_iter().collect();
    crates.sort_by(|a, b| (b.1[0] + b.1[1]).cmp(&(a.1[0] + a.1[1])).then_with(|| a.0.cmp(&b.0)));
    crates
}

/// The first path segment in a demangled name.
fn crate_of(name: &str) -> String {
    let Some(end) = name.find("::") else {
        let unnamed = name.starts_with("anon.") || name.starts_with(".L");
        return if unnamed { "(unnamed constants)" } else { "(C and the system)" }.to_owned();
    };
    let start = name[..end].rfind(|c| !is_word(c)).map_or(0, |at| at + 1);
    let first = &name[start..end];
    // `<[T]>::len`, `<str>::parse`: methods of built-in types.
    if first.is_empty() { "core".to_owned() } else { first.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_belong_to_crates() {
        for (name, of) in [
            ("gristmill_cpu::kernels::norm::run", "gristmill_cpu"),
            ("<&mut dyn core::fmt::Write as x::Y>::z", "core"),
            ("<[A] as core::slice::cmp::SlicePartialEq<B>>::equal", "core"),
            ("<[u8]>::to_vec", "core"),
            ("memcpy", "(C and the system)"),
            ("anon.0f1e.12", "(unnamed constants)"),
        ] {
            assert_eq!(crate_of(name), of, "{name}");
        }
        let nm = "0000000000001000 0000000000000020 t a::f\n\
                  0000000000002000 0000000000000010 r a::TABLE\n\
                  0000000000003000 0000000000000100 b a::ZERO\n                 U memcpy\n";
        assert_eq!(crates(nm), [("a".to_owned(), [0x20, 0x10])]);
    }

    #[test]
    fn debug_sections_are_one() {
        let objdump = "Idx Name          Size      VMA               Flags\n  \
                       0 .text         00002000  0000  CONTENTS, ALLOC\n  \
                       1 .debug_info   00001000  0000  CONTENTS\n  \
                       2 .debug_line   00000800  0000  CONTENTS\n  \
                       3 .bss          00100000  0000  ALLOC\n";
        let expected = [(".text".to_owned(), 0x2000), (".debug_*".to_owned(), 0x1800)];
        assert_eq!(sections(objdump), expected);
    }
}
