//! `gristmill inspect`: what is in a model file, and what of it runs where.

use crate::args::ModelArgs;
use crate::term::{Done, count, json, out, size};
use clap::Args;
use gristmill::ir::{Capabilities, StateKind};
use gristmill::models::gguf::{Array, Value};
use gristmill::{Backend, Cpu, CpuOptions, DType, Gguf, KvTypes, Model, Program, Result, Settings};
use serde_json::json;
use std::fmt::Write;

#[derive(Args)]
#[command(after_help = "Example: gristmill inspect model.gguf --program")]
pub struct InspectArgs {
    #[command(flatten)]
    model: ModelArgs,

    /// Print the program that the model records, and nothing else
    #[arg(long, conflicts_with = "json")]
    program: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Elements of an array that are shown.
const SHOWN: usize = 6;
/// Characters of a text that are shown.
const TEXT: usize = 96;

pub fn run(args: InspectArgs) -> Done {
    let model = args.model.open()?;
    let kv: KvTypes = Settings::default().kv;
    if args.program {
        return out(&gristmill::models::arch::architecture(model.gguf(), kv)?
            .program()?
            .to_string());
    }
    let cpu = Cpu::new(CpuOptions { threads: 1, ..CpuOptions::from_env()? })?;
    let uses = model.program(kv).map(|p| uses(&p, model.gguf(), &cpu.capabilities()));
    if args.json { json(&as_json(&model, &uses)) } else { out(&text(&model, &uses)) }
}

/// Something the program needs, how often, and whether the processor has it.
struct Use {
    kind: &'static str,
    name: String,
    times: usize,
    bytes: u64,
    cpu: bool,
}

/// Every operation and type of a program.
fn uses(program: &Program, gguf: &Gguf, cpu: &Capabilities) -> Vec<Use> {
    let mut all: Vec<Use> = vec![];
    let mut add = |kind, name: &str, bytes: u64, cpu| match all
        .iter_mut()
        .find(|u| u.kind == kind && u.name == name)
    {
        Some(u) => {
            u.times += 1;
            u.bytes += bytes;
        }
        None => all.push(Use { kind, name: name.to_owned(), times: 1, bytes, cpu }),
    };
    for node in &program.nodes {
        let name = node.op.name();
        add("operation", name, 0, cpu.ops.contains(&name));
    }
    for decl in &program.tensors {
        if let Some(t) = gguf.tensor_info(&decl.name) {
            let runs = cpu.weights.contains(&t.dtype);
            add("weights", t.dtype.name(), t.bytes as u64, runs);
        }
    }
    for state in &program.states {
        if let StateKind::Paged { k_type, v_type, .. } = state {
            for t in [k_type, v_type] {
                add("cache", t.name(), 0, cpu.kv.contains(t));
            }
        }
    }
    all
}

/// A value on one line; long arrays and texts are cut.
fn short(value: &Value<'_>) -> String {
    match value {
        Value::Str(s) => text_of(s),
        Value::Array(a) => array(a),
        Value::U8(v) => v.to_string(),
        Value::I8(v) => v.to_string(),
        Value::U16(v) => v.to_string(),
        Value::I16(v) => v.to_string(),
        Value::U32(v) => v.to_string(),
        Value::I32(v) => v.to_string(),
        Value::U64(v) => v.to_string(),
        Value::I64(v) => v.to_string(),
        Value::F32(v) => v.to_string(),
        Value::F64(v) => v.to_string(),
        Value::Bool(v) => v.to_string(),
    }
}

fn text_of(s: &str) -> String {
    let cut: String = s.chars().take(TEXT).collect();
    if cut.len() < s.len() {
        return format!("{cut:?}... ({} bytes)", s.len());
    }
    format!("{cut:?}")
}

fn array(a: &Array<'_>) -> String {
    let first: Vec<String> = a.iter().take(SHOWN).map(|v| short(&v)).collect();
    let rest = if a.len() > SHOWN { format!(", ... {} in all", a.len()) } else { String::new() };
    format!("[{}{rest}]", first.join(", "))
}

fn value_json(value: &Value<'_>) -> serde_json::Value {
    match value {
        Value::Str(s) => json!(s),
        Value::Array(a) => {
            let first: Vec<_> = a.iter().take(SHOWN).map(|v| value_json(&v)).collect();
            json!({ "len": a.len(), "first": first })
        }
        Value::F32(v) => json!(v),
        Value::F64(v) => json!(v),
        Value::Bool(v) => json!(v),
        Value::U64(v) => json!(v),
        other => json!(other.as_int().and_then(|v| i64::try_from(v).ok())),
    }
}

/// Bytes and elements by type, the largest first.
fn by_type(gguf: &Gguf) -> Vec<(DType, usize, u64)> {
    let mut types: Vec<(DType, usize, u64)> = vec![];
    for t in gguf.tensors() {
        match types.iter_mut().find(|x| x.0 == t.dtype) {
            Some(x) => {
                x.1 += 1;
                x.2 += t.bytes as u64;
            }
            None => types.push((t.dtype, 1, t.bytes as u64)),
        }
    }
    types.sort_by_key(|x| std::cmp::Reverse(x.2));
    types
}

/// What the uses amount to.
fn verdict(uses: &Result<Vec<Use>>) -> (bool, String) {
    match uses {
        Ok(uses) => {
            let lacking: Vec<String> =
                uses.iter().filter(|u| !u.cpu).map(|u| format!("{} {}", u.kind, u.name)).collect();
            match &lacking[..] {
                [] => (true, "runs on cpu".into()),
                l => (false, format!("does not run on cpu yet: it lacks {}", l.join(", "))),
            }
        }
        Err(e) => (false, format!("does not run: {e}")),
    }
}

fn text(model: &Model, uses: &Result<Vec<Use>>) -> String {
    let gguf = model.gguf();
    let mut out = format!(
        "{}: GGUF {}, {}, {} metadata keys, {} tensors\n\nmetadata\n",
        gguf.name(),
        gguf.version(),
        size(gguf.file_bytes() as u64),
        gguf.metadata().len(),
        gguf.tensors().len()
    );
    // Writing to a String cannot fail.
    for (key, value) in gguf.metadata() {
        let _ = writeln!(out, "  {key} = {}", short(&value));
    }
    out.push_str("\ntensors\n");
    for t in gguf.tensors() {
        let shape = format!("{:?}", &t.shape[..t.n_dims]);
        let bytes = size(t.bytes as u64);
        let _ = writeln!(out, "  {:<40} {:<7} {shape:<20} {bytes:>12}", t.name, t.dtype.name());
    }
    let (bytes, n) = (model.tensor_bytes(), model.parameters());
    let bits = bytes as f64 * 8.0 / n.max(1) as f64;
    let _ = writeln!(
        out,
        "\ntotal: {} parameters, {}, {bits:.2} bits a parameter",
        count(n),
        size(bytes)
    );
    for (t, n, bytes) in by_type(gguf) {
        let _ = writeln!(out, "  {:<7} {n:>5} tensors {:>12}", t.name(), size(bytes));
    }
    if let Ok(info) = model.info(Settings::default().kv) {
        let _ = writeln!(
            out,
            "\narchitecture: {}, {} layers, width {}, vocabulary {}, context {}",
            info.architecture, info.layers, info.width, info.vocab_size, info.context_length
        );
    }
    if let Ok(uses) = uses {
        out.push_str("\nwhat it needs                     times         cpu\n");
        for u in uses {
            let yes = if u.cpu { "yes" } else { "no" };
            let bytes = if u.bytes > 0 { size(u.bytes) } else { String::new() };
            let what = format!("{} {}", u.kind, u.name);
            let _ = writeln!(out, "  {what:<28} {:>8} {yes:>11}  {bytes}", u.times);
        }
    }
    let _ = writeln!(out, "\n{}", verdict(uses).1.replace("\n  ", "\n    "));
    out
}

fn as_json(model: &Model, uses: &Result<Vec<Use>>) -> serde_json::Value {
    let gguf = model.gguf();
    let metadata: serde_json::Map<_, _> =
        gguf.metadata().map(|(k, v)| (k.to_owned(), value_json(&v))).collect();
    let tensors: Vec<_> = gguf
        .tensors()
        .iter()
        .map(|t| {
            let shape = &t.shape[..t.n_dims];
            json!({ "name": t.name, "type": t.dtype.name(), "shape": shape, "bytes": t.bytes })
        })
        .collect();
    let needs: Vec<_> = uses
        .iter()
        .flatten()
        .map(|u| json!({ "kind": u.kind, "name": u.name, "times": u.times, "cpu": u.cpu }))
        .collect();
    let (runs, why) = verdict(uses);
    json!({
        "file": gguf.name(),
        "version": gguf.version(),
        "file_bytes": gguf.file_bytes(),
        "architecture": gguf.opt::<&str>("general.architecture").ok().flatten(),
        "parameters": model.parameters(),
        "tensor_bytes": model.tensor_bytes(),
        "metadata": metadata,
        "tensors": tensors,
        "needs": needs,
        "runs": { "cpu": runs },
        "verdict": why,
    })
}
