//! What the text of the source may not contain. Part of `cargo xtask layers`.
//!
//! The rules read code with comments and strings blanked out and without closing test modules.

use crate::layers::Violation;
use crate::source::{SourceFile, files, is_word, words};
use anyhow::Result;
use std::path::Path;

const CPU: &str = "crates/cpu/src/";
const KERNELS: &str = "crates/cpu/src/kernels";

/// Where `unsafe` may stand, and why.
const UNSAFE: &[(&str, &str)] = &[
    ("crates/core/src/element.rs", "which types are plain data"),
    ("crates/cpu/src/simd", "intrinsics and target features"),
    ("crates/cpu/src/kernels", "raw pointers into packed weights and workspaces"),
    ("crates/cpu/examples", "calls kernels as a plan does, to time them"),
    ("crates/cpu/src/pool", "workers borrow a job for as long as it runs"),
    ("crates/cpu/src/plan", "the workspace is cut into disjoint values"),
    ("crates/cpu/src/memory.rs", "aligned memory on large pages"),
    ("crates/cpu/src/backend.rs", "launches a plan over the context's workspace"),
    ("crates/cpu/src/weights.rs", "members pack disjoint groups of one buffer"),
    ("crates/models/src/source", "mapped files, and the signal of one that shrinks"),
    ("crates/gristmill/src/main.rs", "a variable is set before there is a second thread"),
    ("crates/cuda/src/driver", "calls into the driver"),
    ("crates/cuda/src/module", "calls into the driver"),
    ("crates/wgpu/src/passthrough", "shaders passed through, experimental features"),
    ("crates/wgpu/src/leftovers.rs", "calls that give freed memory and pages of libraries back"),
];

/// Where `dyn` may stand in the CPU backend: files that begin with the first text, lines that
/// contain the second, and why.
const DYN: &[(&str, &str, &str)] = &[
    (CPU, "dyn FnMut(&TensorDecl)", "`Backend::load` calls back for each tensor, once"),
    ("crates/cpu/src/plan", "dyn Fn(Value) -> At", "looks up where values lie, at compile"),
];

/// Storage formats, as they could appear in the name of a function.
const FORMATS: &[&str] = &[
    "f64", "f32", "f16", "bf16", "i8", "u8", "int8", "int4", "q4_0", "q4_1", "q5_0", "q5_1",
    "q8_0", "q8_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_k", "iq1_s", "iq1_m", "iq2_xxs",
    "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_nl", "iq4_xs", "tq1_0", "tq2_0", "mxfp4", "q2",
    "q3", "q4", "q5", "q6", "q8",
];

/// Names of modules that say nothing about what is inside.
const NAMELESS: &[&str] = &["utils", "util", "helpers", "helper", "common", "misc"];

/// Lines of a file that needs no excuse.
const LONG: usize = 1000;
/// Lines of `ir` all together: beyond, it is becoming a compiler.
const IR_LINES: usize = 3000;

/// Applies every rule to the tree; returns how many files were read.
pub fn check(root: &Path, found: &mut Vec<Violation>) -> Result<usize> {
    let sources =
        files(root, &["crates", "xtask", "training"], &["rs", "py", "cu", "wgsl", "metal"])?;
    for file in &sources {
        check_shape(file, found);
        if file.path.ends_with(".rs") {
            check_code(file, found);
        }
    }
    check_backends(&sources, found);

    let ir = sources.iter().filter(|f| f.path.starts_with("crates/ir/src/"));
    let lines: usize = ir.map(|f| f.text.lines().count()).sum();
    if lines > IR_LINES {
        let what = format!("ir has {lines} lines, more than {IR_LINES}: it is becoming a compiler");
        push(found, "crates/ir/src/lib.rs", 1, "size", what);
    }

    let pages = ["README.md", "CONTRIBUTING.md"];
    for page in pages {
        if let Ok(text) = std::fs::read_to_string(root.join(page)) {
            check_page(root, page, &text, found);
        }
    }
    Ok(sources.len() + pages.len())
}

fn push(found: &mut Vec<Violation>, file: &str, line: usize, rule: &'static str, what: String) {
    found.push(Violation { file: file.to_owned(), line, rule, what });
}

/// Rules about a file as a whole.
fn check_shape(file: &SourceFile, found: &mut Vec<Violation>) {
    let lines = file.text.lines().count();
    let excused = file.text.lines().take(40).any(|l| l.contains("1,000 lines"));
    if lines > LONG && !excused {
        let what = format!(
            "{lines} lines: split it, or let its opening comment say `Over 1,000 lines because …`"
        );
        push(found, &file.path, 1, "length", what);
    }
    // `tests/common/` is what Cargo calls the code that integration tests share.
    let path = file.path.replace("/tests/common/", "/tests/");
    let parts = path.split('/').map(|p| p.split('.').next().unwrap_or(p));
    if let Some(name) = parts.into_iter().find(|p| NAMELESS.contains(p)) {
        let what = format!("`{name}` says nothing: name the file after what it holds");
        push(found, &file.path, 1, "names", what);
    }
}

/// Rules about lines of Rust code.
fn check_code(file: &SourceFile, found: &mut Vec<Violation>) {
    let path = file.path.as_str();
    let in_tests = path.split('/').any(|p| p == "tests" || p == "benches");
    let may_be_unsafe = in_tests || UNSAFE.iter().any(|(place, _)| inside(path, place));

    for (i, line) in file.code().iter().enumerate() {
        let mut say = |rule: &'static str, what: String| push(found, path, i + 1, rule, what);
        let has = |word: &str| words(line).any(|w| w == word);

        if has("unsafe") && !may_be_unsafe {
            say(
                "unsafe",
                "not here: only where `UNSAFE` in xtask/src/rules.rs has a reason".into(),
            );
        }
        if let Some(name) = after(line, "mod").filter(|n| !in_tests && NAMELESS.contains(n)) {
            say("names", format!("`mod {name}` says nothing: name it after what it holds"));
        }
        if !path.starts_with(CPU) {
            continue;
        }
        if has("TypeId") || has("type_name") {
            say("dispatch", "types are told apart by the compiler: add a generic parameter".into());
        }
        if has("dyn") && !DYN.iter().any(|d| path.starts_with(d.0) && line.contains(d.1)) {
            let what = "store a function pointer instead, or give a reason in `DYN` in \
                        xtask/src/rules.rs";
            say("dispatch", what.into());
        }
        if !inside(path, KERNELS) {
            continue;
        }
        if line.contains("cfg(feature") || line.contains("cfg!(feature") {
            say("kernels", "no feature flags inside kernels".into());
        }
        if let Some((name, format)) = after(line, "fn").and_then(|n| Some((n, format_in(n)?))) {
            let what = format!(
                "`{name}` is written for {format}: write it once, generic over the format \
                 (conversions belong to simd/)"
            );
            say("kernels", what);
        }
    }
}

/// Whether `path` is the module `place`: the file, or anything in the folder.
fn inside(path: &str, place: &str) -> bool {
    path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '.']))
}

/// The identifier after a keyword.
fn after<'a>(line: &'a str, keyword: &str) -> Option<&'a str> {
    let mut words = words(line);
    words.find(|w| *w == keyword)?;
    words.next()
}

/// The storage format that a function is named after.
fn format_in(name: &str) -> Option<&'static str> {
    let name = format!("_{}_", name.to_ascii_lowercase());
    let named = |f: &str| name.contains(&format!("_{f}_"));
    FORMATS.iter().copied().find(|f| named(f) || named(&f.replace('_', "")))
}

/// A device is one type for all precisions: one `impl Backend for` a device crate.
fn check_backends(sources: &[SourceFile], found: &mut Vec<Violation>) {
    for device in ["crates/cpu/src/", "crates/cuda/src/", "crates/wgpu/src/"] {
        let mut of_device = sources.iter().filter(|f| f.path.starts_with(device)).peekable();
        if of_device.peek().is_none() {
            continue;
        }
        let places: Vec<(String, usize)> = of_device
            .flat_map(|f| {
                let code = f.code().into_iter().enumerate();
                let path = f.path.clone();
                code.filter(|(_, l)| implements_backend(l)).map(move |(i, _)| (path.clone(), i + 1))
            })
            .collect();
        let rule = "one backend";
        if places.is_empty() {
            let what = "no `impl Backend for` in this crate yet: a device crate has exactly one";
            push(found, &format!("{device}lib.rs"), 1, rule, what.into());
        }
        for (path, line) in places.iter().skip(1) {
            let what = "a second `impl Backend for`: precision is an option, not a type";
            push(found, path, *line, rule, what.into());
        }
    }
}

fn implements_backend(line: &str) -> bool {
    line.trim_start().starts_with("impl")
        && line.split_once("Backend for ").is_some_and(|(head, _)| !head.ends_with(is_word))
}

/// Files that a page names must be there.
fn check_page(root: &Path, page: &str, text: &str, found: &mut Vec<Violation>) {
    for (i, line) in text.lines().enumerate() {
        for quoted in line.split('`').skip(1).step_by(2) {
            let ours = ["crates/", "xtask/", "training/", "docs/", ".ci/"];
            let is_path = ours.iter().any(|o| quoted.starts_with(o));
            let plain = !quoted.contains(|c: char| c.is_whitespace() || "*{}<>…".contains(c));
            let there = root.join(quoted).exists() || root.join(format!("{quoted}.rs")).exists();
            if is_path && plain && !quoted.contains("NAME") && !there {
                push(found, page, i + 1, "docs", format!("`{quoted}` is not there: mend the page"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules_of(path: &str, text: &str) -> Vec<(usize, &'static str)> {
        let file = SourceFile { path: path.to_owned(), text: text.to_owned() };
        let mut found = Vec::new();
        check_shape(&file, &mut found);
        check_code(&file, &mut found);
        found.iter().map(|v| (v.line, v.rule)).collect()
    }

    #[test]
    fn kernels_are_not_named_after_formats() {
        for (name, named) in [
            ("dot_q4_k", true),
            ("gemv_q4k_tile", true),
            ("q8_0", true),
            ("softmax_f32", true),
            ("matvec_int8", true),
            ("quantize_activations", false),
            ("q_norm", false),
            ("qkv", false),
            ("half16", false),
        ] {
            assert_eq!(format_in(name).is_some(), named, "{name}");
        }
    }

    #[test]
    fn dispatch_rules_hold_in_the_cpu_backend_only() {
        let code = "// dyn in a comment\nfn f(x: &dyn Fn()) {}\n";
        assert_eq!(rules_of("crates/cpu/src/plan/mod.rs", code), [(2, "dispatch")]);
        assert_eq!(rules_of("crates/models/src/chat.rs", code), []);
        let load = "fn load(t: &mut dyn FnMut(&TensorDecl) -> X) {}";
        assert_eq!(rules_of("crates/cpu/src/lib.rs", load), []);
        let id = "if TypeId::of::<T>() == x {}";
        assert_eq!(rules_of("crates/cpu/src/kernels/norm.rs", id), [(1, "dispatch")]);
    }

    #[test]
    fn unsafe_has_its_places() {
        let code = "#![deny(unsafe_op_in_unsafe_fn)]\nlet x = unsafe { y() };";
        assert_eq!(rules_of("crates/cpu/src/pool.rs", code), []);
        assert_eq!(rules_of("crates/cpu/src/kernels/norm.rs", code), []);
        assert_eq!(rules_of("crates/engine/tests/alloc.rs", code), []);
        assert_eq!(rules_of("crates/cpu/src/pooling.rs", code), [(2, "unsafe")]);
        assert_eq!(rules_of("crates/engine/src/runner.rs", code), [(2, "unsafe")]);
    }

    #[test]
    fn names_and_lengths() {
        assert_eq!(rules_of("crates/ir/src/utils.rs", ""), [(1, "names")]);
        assert_eq!(rules_of("crates/ir/src/lib.rs", "mod helpers {"), [(1, "names")]);
        assert_eq!(rules_of("crates/ir/tests/common/mod.rs", ""), []);
        let long = "\n".repeat(LONG + 1);
        assert_eq!(rules_of("crates/ir/src/op.rs", &long), [(1, "length")]);
        let excused = format!("//! Over 1,000 lines because it is a table.{long}");
        assert_eq!(rules_of("crates/ir/src/op.rs", &excused), []);
    }

    #[test]
    fn one_backend_a_device() {
        assert!(implements_backend("impl Backend for Cpu {"));
        assert!(implements_backend("impl<T: X> ir::Backend for Cpu<T> {"));
        assert!(!implements_backend("impl SubBackend for Cpu {"));
        let file = |text: &str| SourceFile {
            path: "crates/cpu/src/lib.rs".to_owned(),
            text: text.to_owned(),
        };
        for (text, count) in [
            ("", 1),
            ("impl Backend for A {}", 0),
            ("impl Backend for A {}\nimpl Backend for B {}", 1),
        ] {
            let mut found = Vec::new();
            check_backends(&[file(text)], &mut found);
            assert_eq!(found.len(), count, "{text}");
        }
    }
}
