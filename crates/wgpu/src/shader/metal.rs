//! Kernels written by hand for Metal. Each stands behind a kernel of WGSL with the same bindings and
//! parameters: what it needs of that, and of the files that all share (formats, functions of a number,
//! the integers of a step), is said anew in Metal's language word for word, so that it is written once.
//!
//! That works because those files keep to what both languages have: functions over numbers, with one
//! statement a line. They become members of a structure that holds what is bound.

use super::{Access, KERNELS, Recipe, bindings, expand};
use gristmill_core::{Error, Result};
use std::fmt::Write;

/// The name of the function.
pub(crate) const ENTRY: &str = "gristmill";

/// A kernel's name, its text, and its threads.
const WRITTEN: [(&str, &str, u32); 3] = [
    ("attention", include_str!("../kernels/metal/attention.metal"), 64),
    ("matmul", include_str!("../kernels/metal/matmul.metal"), 128),
    ("wkv7", include_str!("../kernels/metal/wkv7.metal"), 64),
];

/// What WGSL has and Metal calls otherwise.
const BEGIN: &str = "\
#include <metal_stdlib>
#include <metal_simdgroup_matrix>
using namespace metal;
static inline float2 unpack2x16float(uint x) { return float2(as_type<half2>(x)); }
static inline uint4 unpack4xU8(uint x) { return uint4(as_type<uchar4>(x)); }
static inline int4 unpack4xI8(uint x) { return int4(as_type<char4>(x)); }
static inline uint countOneBits(uint x) { return popcount(x); }
static inline int extractBits(int x, uint at, uint n) { return extract_bits(x, at, n); }
";

/// The kernel in Metal's language and its threads, where there is one.
///
/// # Errors
/// [`Error::Runtime`] for a slip in this crate.
pub(crate) fn text(recipe: &Recipe) -> Result<Option<(String, u32)>> {
    let Some((name, body, threads)) = WRITTEN.iter().find(|w| w.0 == recipe.kernel) else {
        return Ok(None);
    };
    // With fewer queries most of a matrix would be empty.
    if recipe.kernel == "attention" && recipe.value("SLOTS") != Some("8") {
        return Ok(None);
    }
    let slip = |what: String| Error::Runtime(format!("Metal's `{name}`: {what}"));
    let wgsl = recipe.text()?;
    // What stands before the kernel itself; that of WGSL is not asked for.
    let own = KERNELS.iter().find(|k| k.0 == *name).map_or("", |k| k.1);
    if !own.contains("@compute") {
        return Err(slip("there is no kernel of WGSL".into()));
    }
    let shared = wgsl.split("@compute").next().unwrap_or_default();
    let names = bound(shared);
    let mut arguments = String::new();
    for (place, (_, declared)) in names.iter().enumerate() {
        let _ = write!(arguments, "{declared} [[buffer({place})]], ");
    }
    let list: Vec<&str> = names.iter().map(|n| n.0.as_str()).collect();
    let mut defines = recipe.all_defines();
    defines.push(("ARGUMENTS", arguments.trim_end_matches(", ").into()));
    defines.push(("BOUND", list.join(", ")));
    let kernel = expand(body, &defines).map_err(slip)?;
    Ok(Some((format!("{BEGIN}{}{kernel}", members(shared, &names)), *threads)))
}

/// What is bound, in the order of Metal's buffers: names, and how each is declared.
fn bound(wgsl: &str) -> Vec<(String, String)> {
    let access = bindings(wgsl);
    let lines = wgsl.lines().filter(|l| l.starts_with("@group(0)"));
    let declare = |(line, (_, access)): (&str, (u32, Access))| {
        let (name, of) = line.rsplit_once("> ")?.1.split_once(": ").or_else(|| {
            let rest = line.split_once("> ")?.1;
            rest.split_once(": ")
        })?;
        let of = of.trim_end_matches(';');
        let element = of.strip_prefix("array<").and_then(|a| a.strip_suffix('>')).unwrap_or(of);
        let declared = match access {
            Access::Uniform => format!("constant {element}& {name}"),
            Access::Read => format!("device const {}* {name}", words(element)),
            Access::Write => format!("device {}* {name}", words(element)),
        };
        Some((name.to_owned(), declared))
    };
    lines.zip(access).filter_map(declare).collect()
}

/// Types and names that the languages call otherwise.
const WORDS: [(&str, &str); 14] = [
    // A name in one language, a type in the other.
    ("half", "half_"),
    ("vec2<f32>", "float2"),
    ("vec4<f32>", "float4"),
    ("vec4<f16>", "half4"),
    ("vec2<u32>", "uint2"),
    ("vec4<u32>", "uint4"),
    ("vec4<i32>", "int4"),
    ("bitcast<", "as_type<"),
    ("u32", "uint"),
    ("i32", "int"),
    ("f32", "float"),
    ("f16", "half"),
    ("let", "auto"),
    ("var", "auto"),
];

fn words(line: &str) -> String {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let begins = !out.ends_with(part);
        let fits = |w: &&(&str, &str)| {
            let after = rest.strip_prefix(w.0);
            after.is_some_and(|a| !w.0.ends_with(part) || !a.starts_with(part))
        };
        match WORDS.iter().filter(|_| begins).find(fits) {
            Some((from, to)) => {
                out.push_str(to);
                rest = &rest[from.len()..];
            }
            None => {
                out.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    out
}

/// The structure of all that is bound, with the functions over it.
fn members(wgsl: &str, names: &[(String, String)]) -> String {
    let mut parameters = String::new();
    let mut out = String::from("struct Kernel {\n");
    for (_, declared) in names {
        let _ = writeln!(out, "{declared};");
    }
    let mut in_parameters = false;
    for line in wgsl.lines() {
        if line.starts_with("@group")
            || line.starts_with("var<workgroup>")
            || line.starts_with("enable")
        {
            continue;
        }
        in_parameters |= line.starts_with("struct ");
        if in_parameters {
            let field = line.trim().trim_end_matches(',').split_once(": ");
            match field {
                Some((name, of)) => _ = writeln!(parameters, "{} {name};", words(of)),
                None => parameters.push_str(if line == "}" { "};\n" } else { line }),
            }
            in_parameters = line != "}";
            continue;
        }
        out.push_str(&statement(line));
        out.push('\n');
    }
    out.push_str("};\n");
    parameters + &out
}

/// A line outside of structures.
fn statement(line: &str) -> String {
    if let Some(rest) = line.strip_prefix("fn ") {
        return function(rest).unwrap_or_else(|| line.to_owned());
    }
    if let Some((name, value)) = line.strip_prefix("const ").and_then(|c| c.split_once(": u32 = "))
    {
        return format!("enum : uint {{ {name} = {} }};", value.trim_end_matches(';'));
    }
    if let Some((name, of)) = line.strip_prefix("alias ").and_then(|a| a.split_once(" = ")) {
        return format!("typedef {} {name};", words(of.trim_end_matches(';')));
    }
    let mut line = line.to_owned();
    // Conditions stand in brackets.
    for word in ["if ", "switch ", "while "] {
        if let Some(at) = line.find(word).filter(|&at| {
            line[..at].trim_end_matches("else ").trim_end_matches([' ', '}']).is_empty()
        }) && let Some(end) = line[at..].find(" {")
        {
            line.insert(at + end, ')');
            line.insert(at + word.len(), '(');
        }
    }
    if line.trim_start().starts_with("case ") && line.ends_with('}') {
        line.push_str(" break;");
    }
    words(&line)
}

/// `name(a: u32) -> f32 { ...` as a member.
fn function(rest: &str) -> Option<String> {
    let (name, rest) = rest.split_once('(')?;
    let (arguments, rest) = rest.split_once(')')?;
    let (of, body) = rest.split_once('{')?;
    let of = of.trim().strip_prefix("->").map_or("void", str::trim);
    let arguments = arguments.split(", ").filter_map(|a| a.split_once(": "));
    let arguments: Vec<String> = arguments.map(|(n, of)| words(&format!("{of} {n}"))).collect();
    Some(format!("{} {name}({}) const {{{body}", words(of), arguments.join(", ")))
}
