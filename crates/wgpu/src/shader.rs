//! The text of shaders: kernels are files, put together and filled in by two tiny rules.
//!
//! `$NAME` stands for a number or a word; lines between `#if NAME` and `#endif` (with `#else` between
//! them, if need be) are kept where NAME is defined. Nothing else happens to the text.

use crate::format::Format;
use gristmill_core::{Error, Result};

const NUMBERS: &str = include_str!("kernels/numbers.wgsl");
const STEP: &str = include_str!("kernels/step.wgsl");
const FORMATS: &str = include_str!("kernels/formats.wgsl");
const RANDOM: &str = include_str!("kernels/random.wgsl");
const CHOICE: &str = include_str!("kernels/choice.wgsl");
const PROJECTION: &str = include_str!("kernels/projection.wgsl");

/// A kernel's name and text.
macro_rules! kernels {
    ($($name:literal)+) => {
        &[$(($name, include_str!(concat!("kernels/", $name, ".wgsl")))),+]
    };
}
const KERNELS: &[(&str, &str)] = kernels!(
    "attention" "attention_merge" "denoise" "embed" "int8" "matmul" "matmul_cooperative" "matvec"
    "moves" "norm" "normalize" "prepare" "qkv" "rope" "route" "rows" "sample" "slots" "time_embed"
    "token_shift" "unmask" "wkv7" "wkv7_keys" "wkv7_out"
);

pub(crate) mod metal;

/// Which shader is meant: a kernel, what is put into it, and the format of its weights.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    /// The name of the kernel's file.
    pub kernel: &'static str,
    defines: Vec<(&'static str, String)>,
    format: Option<Format>,
}

impl Recipe {
    /// A kernel as it stands.
    pub fn new(kernel: &'static str) -> Recipe {
        Recipe { kernel, defines: vec![], format: None }
    }

    /// With a name defined.
    pub fn define(mut self, name: &'static str, value: impl ToString) -> Recipe {
        self.defines.push((name, value.to_string()));
        self
    }

    /// With a name defined, if `holds`.
    pub fn flag(self, name: &'static str, holds: bool) -> Recipe {
        if holds { self.define(name, 1) } else { self }
    }

    fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.defines.iter().find(|d| d.0 == name).map(|d| d.1.as_str())
    }

    /// What is put into the text.
    fn all_defines(&self) -> Vec<(&'static str, String)> {
        let format = self.format.iter().flat_map(Format::defines);
        self.defines.iter().cloned().chain(format).collect()
    }

    /// Over weights of a format.
    pub fn over(mut self, format: &Format) -> Recipe {
        self.format = Some(format.clone());
        self
    }

    /// The text.
    ///
    /// # Errors
    /// [`Error::Runtime`] for a kernel, section or name that does not exist: a slip in this crate.
    pub fn text(&self) -> Result<String> {
        let slip = |what: String| Error::Runtime(format!("shader `{}`: {what}", self.kernel));
        let kernel = KERNELS.iter().find(|k| k.0 == self.kernel);
        let kernel = kernel.ok_or_else(|| slip("there is none of this name".into()))?.1;
        let mut parts = vec![NUMBERS];
        parts.extend(match self.kernel {
            "sample" | "unmask" => &[RANDOM, CHOICE][..],
            "denoise" => &[STEP, RANDOM],
            _ => &[STEP],
        });
        if let Some(f) = &self.format {
            if self.kernel.starts_with("mat") {
                parts.push(PROJECTION);
            }
            for name in f.sections() {
                parts.push(section(name).ok_or_else(|| slip(format!("no format section {name}")))?);
            }
        }
        parts.push(kernel);
        let enables = match (self.kernel, self.has("HALF")) {
            ("matmul_cooperative", _) => "enable f16;\nenable wgpu_cooperative_matrix;\n",
            (_, true) => "enable f16;\n",
            _ => "",
        };
        expand(&parts.concat(), &self.all_defines())
            .map(|text| format!("{enables}{text}"))
            .map_err(slip)
    }
}

/// A section of `formats.wgsl`.
fn section(name: &str) -> Option<&'static str> {
    let mut sections = FORMATS.split("//: ").skip(1);
    let found = sections.find(|s| s.lines().next() == Some(name))?;
    found.split_once('\n').map(|s| s.1)
}

/// Applies the two rules; comments are left out.
fn expand(text: &str, defines: &[(&str, String)]) -> Result<String, String> {
    let value = |name: &str| defines.iter().find(|d| d.0 == name).map(|d| d.1.as_str());
    let mut out = String::with_capacity(text.len());
    // Whether the lines of each open condition are kept.
    let mut kept: Vec<bool> = vec![];
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("#if ") {
            kept.push(value(name).is_some());
        } else if line == "#else" {
            let last = kept.last_mut().ok_or("#else without #if")?;
            *last = !*last;
        } else if line == "#endif" {
            kept.pop().ok_or("#endif without #if")?;
        } else if kept.iter().all(|&k| k) {
            let code = line.split("//").next().unwrap_or("").trim_end();
            let mut parts = code.split('$');
            out.push_str(parts.next().unwrap_or(""));
            for part in parts {
                let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
                let end = part.find(|c| !is_name(c)).unwrap_or(part.len());
                let (name, rest) = part.split_at(end);
                out.push_str(value(name).ok_or_else(|| format!("${name} has no value"))?);
                out.push_str(rest);
            }
            if !code.is_empty() {
                out.push('\n');
            }
        }
    }
    if kept.is_empty() { Ok(out) } else { Err("#if without #endif".into()) }
}

/// How a binding of a shader is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Access {
    /// Parameters.
    Uniform,
    /// Read.
    Read,
    /// Read and written.
    Write,
}

/// The bindings of a shader, by number.
pub(crate) fn bindings(text: &str) -> Vec<(u32, Access)> {
    let of = |line: &str| {
        let (number, rest) = line.strip_prefix("@group(0) @binding(")?.split_once(')')?;
        let access = if rest.contains("<uniform>") {
            Access::Uniform
        } else if rest.contains("read_write") {
            Access::Write
        } else {
            Access::Read
        };
        Some((number.parse().ok()?, access))
    };
    text.lines().filter_map(of).collect()
}

#[cfg(test)]
mod tests;
