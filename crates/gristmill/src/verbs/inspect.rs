//! `gristmill inspect`: what is in a model file, and what of it runs where.

use crate::args::ModelArgs;
use crate::term::{Done, count, json, out, size};
use clap::Args;
use gristmill::ir::Capabilities;
use gristmill::models::arch;
use gristmill::models::gguf::{Array, Value};
use gristmill::placement::Placement;
use gristmill::{Backend, Cpu, CpuOptions, DType, Gguf, MemoryPlan, Model, Result, Settings};
use serde_json::json;
use std::collections::HashMap;
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
    let settings = Settings::default();
    if args.program {
        return out(&arch::architecture(model.gguf(), settings.kv)?.program()?.to_string());
    }
    let cpu = Cpu::new(CpuOptions { threads: 1, ..CpuOptions::from_env()? })?;
    let fate = Fate::of(&model, &settings, &cpu.capabilities());
    if args.json { json(&as_json(&model, &fate)) } else { out(&text(&model, &fate)) }
}

/// What becomes of a model here.
struct Fate {
    /// What runs where; or why there is no program.
    placement: Result<Placement>,
    /// Tensors that are missing or of another shape.
    unfit: Option<String>,
    /// What it takes, and its context; or why it does not fit.
    memory: Option<Result<MemoryPlan>>,
}

impl Fate {
    fn of(model: &Model, settings: &Settings, device: &Capabilities) -> Fate {
        let gguf = model.gguf();
        // Without the check of the tensors, so that everything that does not run is listed.
        let recorded = arch::architecture(gguf, settings.kv).and_then(|a| a.program());
        match recorded {
            Err(e) => Fate { placement: Err(e), unfit: None, memory: None },
            Ok(program) => Fate {
                placement: Ok(Placement::of(&program, gguf, device)),
                unfit: arch::check_tensors(&program, gguf).err().map(|e| e.to_string()),
                memory: Some(model.memory_plan(&program, settings, settings.max_seqs)),
            },
        }
    }

    /// Whether it runs, and in words.
    fn verdict(&self) -> (bool, String) {
        let placement = match &self.placement {
            Ok(placement) => placement,
            Err(e) => return (false, format!("does not run: {e}")),
        };
        let lacking = placement.lacking();
        match (&lacking[..], &self.unfit) {
            ([], None) => (true, "runs on cpu".into()),
            ([], Some(why)) => (false, format!("does not run: {why}")),
            (l, _) => {
                let what = l.join("\n  ");
                (false, format!("does not run on cpu yet; it lacks kernels for:\n  {what}"))
            }
        }
    }

    /// Where each tensor of the program runs: a device, or `nowhere`.
    fn devices(&self) -> HashMap<&str, &'static str> {
        let device = |runs: bool| if runs { "cpu" } else { "nowhere" };
        let tensors = self.placement.iter().flat_map(|p| &p.tensors);
        tensors.map(|t| (t.name.as_str(), device(t.runs))).collect()
    }
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

fn text(model: &Model, fate: &Fate) -> String {
    let gguf = model.gguf();
    let devices = fate.devices();
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
        let device = devices.get(&*t.name).copied().unwrap_or("not used");
        let kind = t.dtype.name();
        let _ = writeln!(out, "  {:<40} {kind:<7} {shape:<20} {bytes:>12}  {device}", t.name);
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
    if let Ok(p) = &fate.placement {
        let device = |runs: bool| if runs { "cpu" } else { "nowhere" };
        out.push_str("\noperation            times  runs on\n");
        for o in &p.ops {
            let _ = writeln!(out, "  {:<18} {:>5}  {}", o.name, o.times, device(o.runs));
        }
        for (t, runs) in &p.caches {
            let _ = writeln!(out, "  {:<18} {:>5}  {}", format!("cache of {t}"), "", device(*runs));
        }
    }
    let memory = match &fate.memory {
        Some(Ok(plan)) => format!("\n{plan}\n"),
        Some(Err(e)) => format!("\nmemory: {e}\n"),
        None => String::new(),
    };
    out.push_str(&memory);
    let _ = writeln!(out, "\n{}", fate.verdict().1);
    out
}

fn as_json(model: &Model, fate: &Fate) -> serde_json::Value {
    let gguf = model.gguf();
    let devices = fate.devices();
    let metadata: serde_json::Map<_, _> =
        gguf.metadata().map(|(k, v)| (k.to_owned(), value_json(&v))).collect();
    let tensors: Vec<_> = gguf
        .tensors()
        .map(|t| {
            let shape = &t.shape[..t.n_dims];
            json!({
                "name": t.name,
                "type": t.dtype.name(),
                "shape": shape,
                "bytes": t.bytes,
                "device": devices.get(&*t.name).filter(|d| **d != "nowhere"),
            })
        })
        .collect();
    let placed = |runs: bool| runs.then_some("cpu");
    let operations: Vec<_> = fate
        .placement
        .iter()
        .flat_map(|p| &p.ops)
        .map(|o| json!({ "name": o.name, "times": o.times, "device": placed(o.runs) }))
        .collect();
    let lacking = fate.placement.as_ref().map(Placement::lacking).unwrap_or_default();
    let plan = fate.memory.as_ref().and_then(|m| m.as_ref().ok());
    let memory = plan.map(|p| {
        json!({
            "weights": p.need.weights,
            "cache": p.need.states,
            "workspace": p.need.workspace,
            "free": p.free,
            "context": p.context,
            "model_context": p.model_context,
            "fits": p.fits,
        })
    });
    let (mode, why_mode) = gguf.load_choice();
    let (runs, why) = fate.verdict();
    json!({
        "file": gguf.name(),
        "version": gguf.version(),
        "file_bytes": gguf.file_bytes(),
        "architecture": gguf.opt::<&str>("general.architecture").ok().flatten(),
        "parameters": model.parameters(),
        "tensor_bytes": model.tensor_bytes(),
        "metadata": metadata,
        "tensors": tensors,
        "operations": operations,
        "lacking": lacking,
        "memory": memory,
        "load": { "mode": mode, "why": why_mode },
        "runs": { "cpu": runs },
        "verdict": why,
    })
}
