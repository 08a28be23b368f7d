//! `gristmill diff`: two ways to run a model, operation by operation.
//!
//! Runs the same tokens on side A, then on side B, reads back every value that an operation
//! computes, and shows how far they are apart; the first that departs beyond the tolerance is
//! where to look. Sides differ in settings, in the file, or in both.

use crate::args::{
    ActivationsArg, ComputeArg, Ids, KvArg, Loading, loading_bar, model_help, open, parse_ids,
    source,
};
use crate::device::{self, Layers, Wanted};
use crate::term::{Done, catch_interrupts, check_interrupt, json, note, out, usage};
use clap::{Args, ValueEnum};
use gristmill::ir::Shape;
use gristmill::{
    Activations, CpuOptions, DType, Error, Isa, KvTypes, Model, Result, Settings, bundled,
};
use serde_json::json;

#[derive(Args)]
#[command(after_help = "Examples:
  gristmill diff model.gguf --ids 1,2,3                      the fast way against the reference
  gristmill diff model.gguf -p \"Once\" --a cpu=scalar --b cpu=avx2 --tolerance 1e-5
  gristmill diff model-f16.gguf model-q4_k.gguf --ids 1,2,3 --tolerance 0.1

  gristmill diff model.gguf --ids 1,2,3 --device cpu,wgpu    the processor against a GPU

A side is a list of key=value: device (cpu, wgpu, wgpu:1), cpu (naive, scalar, avx2 and so on),
activations (int8, f32), compute (f32, f16), cache (f16, f32, bf16), threads, model (a file). What it leaves out is as `run` has it. Without --a, side
A is the reference, cpu=naive,activations=f32,cache=f32, where the sides run one file; with two
files it is as side B.

A value departs when its largest difference is above the tolerance times its largest magnitude on
side A. The exit code is 1 when some value departs, 0 when none does.")]
pub struct DiffArgs {
    #[arg(value_name = "MODEL", help = model_help(bundled::STORIES))]
    model: Option<String>,

    /// The file of side B (default: the same)
    #[arg(value_name = "OTHER")]
    other: Option<String>,

    /// The tokens, such as 1,2,3
    #[arg(long, value_parser = parse_ids, required_unless_present = "prompt",
          conflicts_with = "prompt")]
    ids: Option<Ids>,

    /// The tokens as text, taken as it is: no chat template, BOS where the model wants one
    #[arg(short, long)]
    prompt: Option<String>,

    /// Side A, which is compared with
    #[arg(long, value_name = "SETTINGS", value_parser = parse_side)]
    a: Option<Side>,

    /// Side B
    #[arg(long, value_name = "SETTINGS", value_parser = parse_side)]
    b: Option<Side>,

    /// The devices of side A and side B, both with activations=f32,cache=f32 unless said otherwise
    #[arg(long, env = "GRISTMILL_DIFF_DEVICES", value_name = "A,B", value_parser = parse_devices)]
    device: Option<(Wanted, Wanted)>,

    /// What still counts as the same: a part of a value's largest magnitude
    #[arg(long, value_name = "T", default_value_t = 1e-3)]
    tolerance: f64,

    /// End after this operation
    #[arg(long, value_name = "NODE")]
    stop_after: Option<String>,

    #[command(flatten)]
    loading: Loading,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Nothing on stderr but errors
    #[arg(short, long)]
    quiet: bool,
}

/// How one side runs.
#[derive(Clone, Debug, Default, PartialEq)]
struct Side {
    device: Option<Wanted>,
    cpu: Option<Isa>,
    activations: Option<ActivationsArg>,
    compute: Option<ComputeArg>,
    cache: Option<KvArg>,
    threads: Option<usize>,
    model: Option<String>,
}

/// Reads two devices, as `cpu,wgpu`.
fn parse_devices(text: &str) -> Result<(Wanted, Wanted), String> {
    let two = text.split_once(',').ok_or("it must be two devices, as cpu,wgpu")?;
    Ok((device::parse(two.0.trim())?, device::parse(two.1.trim())?))
}

/// The side to compare with where none is named.
const REFERENCE: &str = "cpu=naive,activations=f32,cache=f32";

/// Reads `key=value,key=value`.
///
/// # Errors
/// What is wrong with it, for clap.
fn parse_side(text: &str) -> Result<Side, String> {
    let mut side = Side::default();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let Some((key, value)) = part.split_once('=') else {
            return Err(format!("'{part}' is no key=value"));
        };
        match key.trim() {
            "device" => side.device = Some(device::parse(value)?),
            "cpu" => {
                let isa = Isa::from_name(value).filter(|i| i.is_available());
                side.cpu = Some(isa.ok_or_else(|| {
                    let names: Vec<&str> = Isa::available().map(Isa::name).collect();
                    format!("this machine runs {}, not '{value}'", names.join(", "))
                })?);
            }
            "activations" => side.activations = Some(ActivationsArg::from_str(value, true)?),
            "compute" => side.compute = Some(ComputeArg::from_str(value, true)?),
            "cache" => side.cache = Some(KvArg::from_str(value, true)?),
            "threads" => {
                let n = value.parse().ok().filter(|n| (1..=1024).contains(n));
                side.threads = Some(n.ok_or_else(|| format!("'{value}' is not 1 to 1024"))?);
            }
            "model" => side.model = Some(value.to_owned()),
            other => {
                return Err(format!(
                    "'{other}' is none of device, cpu, activations, compute, cache, threads, model"
                ));
            }
        }
    }
    Ok(side)
}

impl Side {
    fn settings(&self) -> Result<Settings> {
        let mut cpu = CpuOptions::from_env()?;
        cpu.isa = self.cpu.unwrap_or(cpu.isa);
        cpu.threads = self.threads.unwrap_or(cpu.threads);
        let activations = match self.activations {
            Some(ActivationsArg::F32) => Activations::F32,
            _ => Activations::Int8,
        };
        let t = self.cache.unwrap_or(KvArg::F16).dtype();
        let compute = self.compute.map_or(DType::F32, ComputeArg::dtype);
        let kv = KvTypes { k: t, v: t };
        Ok(Settings { cpu, activations, compute, kv, ..Settings::default() })
    }

    fn describe(&self, model: &Model, settings: &Settings) -> String {
        let activations = match settings.activations {
            Activations::F32 => "f32",
            Activations::Int8 => "int8",
        };
        let (isa, n) = (settings.cpu.isa, settings.cpu.threads);
        let (file, cache) = (model.gguf().name(), settings.kv.k.name().to_lowercase());
        let compute = match settings.compute {
            DType::F32 => String::new(),
            other => format!("compute={},", other.name().to_lowercase()),
        };
        format!("{file}: cpu={isa},activations={activations},{compute}cache={cache},threads={n}")
    }
}

/// A value of side A.
struct Held {
    name: String,
    op: &'static str,
    shape: Shape,
    values: Vec<f32>,
}

/// How far a value of side B is from that of side A.
struct Row {
    name: String,
    op: &'static str,
    shape: (usize, usize),
    /// The largest difference, and the largest magnitude on side A.
    max: (f64, f64),
    /// Root of the mean square of the differences, and of side A.
    rms: (f64, f64),
}

impl Row {
    fn of(a: &Held, b: &[f32]) -> Row {
        let (mut max, mut squares) = ((0f64, 0f64), (0f64, 0f64));
        for (&x, &y) in a.values.iter().zip(b) {
            // The same bits are no difference, infinities and NaN included; else NaN is all of it.
            let d = match x.to_bits() == y.to_bits() {
                true => 0.0,
                false => (f64::from(x) - f64::from(y)).abs(),
            };
            let d = if d.is_nan() { f64::INFINITY } else { d };
            let x = f64::from(x).abs();
            max = (max.0.max(d), max.1.max(x));
            squares = (squares.0 + d * d, squares.1 + x * x);
        }
        let n = a.values.len().max(1) as f64;
        let width = (a.shape.width as usize).max(1);
        Row {
            name: a.name.clone(),
            op: a.op,
            shape: (a.values.len() / width, width),
            max,
            rms: ((squares.0 / n).sqrt(), (squares.1 / n).sqrt()),
        }
    }

    fn relative((d, x): (f64, f64)) -> f64 {
        if d == 0.0 { 0.0 } else { d / x }
    }

    fn departs(&self, tolerance: f64) -> bool {
        self.max.0.is_infinite() || self.max.0 > tolerance * self.max.1
    }
}

pub fn run(args: DiffArgs) -> Done {
    if args.tolerance < 0.0 || !args.tolerance.is_finite() {
        return usage(format!("--tolerance is {}; it must be 0 or more", args.tolerance));
    }
    let mut b = args.b.clone().unwrap_or_default();
    b.model = b.model.or_else(|| args.other.clone());
    let mut a = match &args.a {
        Some(a) => a.clone(),
        None if b.model.is_some() => Side { model: None, ..b.clone() },
        None => parse_side(REFERENCE).map_err(Error::Usage)?,
    };
    if let Some((first, second)) = args.device {
        for (side, device) in [(&mut a, first), (&mut b, second)] {
            side.device = Some(device);
            side.activations = side.activations.or(Some(ActivationsArg::F32));
            side.cache = side.cache.or(Some(KvArg::F32));
        }
        if args.a.is_none() {
            a.cpu = None;
        }
    }
    a.model = a.model.or_else(|| args.model.clone());
    b.model = b.model.or_else(|| a.model.clone());
    let of = |m: &Option<String>| source(m.as_ref(), bundled::STORIES);
    let model = open(&of(&a.model), &args.loading)?;
    let ids = match (&args.ids, &args.prompt) {
        (Some(Ids(ids)), _) => ids.clone(),
        (None, Some(text)) => model.tokenizer()?.prompt(text),
        (None, None) => return usage("give --ids or --prompt"),
    };
    catch_interrupts();

    let mut held = vec![];
    let mut each = |name: String, op, shape, values: &[f32]| {
        held.push(Held { name, op, shape, values: values.to_vec() });
        Ok(())
    };
    let a_is = pass(&args, 'A', &a, &model, &ids, &mut each)?;
    let other = match a.model == b.model {
        true => model,
        false => open(&of(&b.model), &args.loading)?,
    };
    let mut rows: Vec<Row> = vec![];
    let mut expected = held.iter();
    let mut each = |name: String, op, shape, values: &[f32]| {
        let wanted = expected.next().filter(|h| (&h.name, h.op, h.shape) == (&name, op, shape));
        let Some(wanted) = wanted.filter(|h| h.values.len() == values.len()) else {
            return Err(Error::Usage(format!(
                "the sides run different programs: side A has no `{name}` ({op}) of this shape \
                 here"
            )));
        };
        rows.push(Row::of(wanted, values));
        Ok(())
    };
    let b_is = pass(&args, 'B', &b, &other, &ids, &mut each)?;
    if rows.len() < held.len() {
        return usage(format!(
            "the sides run different programs: side B ends before `{}`",
            held[rows.len()].name
        ));
    }
    report(&args, [&a_is, &b_is], &rows)
}

/// What is done with an output: its name, the operation's, its shape and its values.
type Visit<'a> = dyn FnMut(String, &'static str, Shape, &[f32]) -> Result<()> + 'a;

/// Runs one side and hands over each value: its name, its operation, its shape, its numbers.
/// Returns what the side is.
fn pass(
    args: &DiffArgs,
    label: char,
    side: &Side,
    model: &Model,
    ids: &[u32],
    each: &mut Visit<'_>,
) -> Done<String> {
    let settings = side.settings()?;
    let described = side.describe(model, &settings);
    if !args.quiet {
        note(format_args!("side {label}: {described}"));
    }
    let program = model.program(settings.kv)?;
    let program = match &args.stop_after {
        Some(node) => program.stop_after(node)?,
        None => program,
    };
    let tokens = u32::try_from(ids.len()).unwrap_or(u32::MAX);
    let options = settings.engine_options(tokens).options;
    let (device, line) =
        device::open(side.device.unwrap_or(Wanted::Cpu), Layers::Auto, &settings, model)?;
    if !args.quiet && side.device.is_some() {
        note(line);
    }
    let mut bar = loading_bar();
    let watched = program.watched();
    let mut probe = model.probe_on(device, watched, tokens, &options, &mut |a, b| bar.at(a, b))?;
    bar.end();
    probe.run(ids, &mut |seen| {
        check_interrupt()?;
        each(seen.name(), seen.node.op.name(), seen.shape, seen.values)
    })?;
    Ok(described)
}

fn report(args: &DiffArgs, sides: [&str; 2], rows: &[Row]) -> Done {
    let first = rows.iter().find(|r| r.departs(args.tolerance));
    if args.json {
        let table: Vec<_> = rows
            .iter()
            .map(|r| {
                // JSON has no infinity: null, then.
                json!({
                    "node": r.name,
                    "op": r.op,
                    "shape": [r.shape.0, r.shape.1],
                    "max_abs": r.max.0,
                    "max_rel": Row::relative(r.max),
                    "rms_rel": Row::relative(r.rms),
                    "departs": r.departs(args.tolerance),
                })
            })
            .collect();
        json(&json!({
            "a": sides[0],
            "b": sides[1],
            "tolerance": args.tolerance,
            "first": first.map(|r| &r.name),
            "values": table,
        }))?;
    } else {
        let widest = rows.iter().map(|r| r.name.len()).max().unwrap_or(0).max(4);
        out(&format!(
            "{:<widest$}  {:<14} {:>14} {:>11} {:>11} {:>11}\n",
            "node", "operation", "shape", "max abs", "max rel", "rms rel"
        ))?;
        for r in rows {
            let shape = format!("[{}, {}]", r.shape.0, r.shape.1);
            let mark = if r.departs(args.tolerance) { "  departs" } else { "" };
            out(&format!(
                "{:<widest$}  {:<14} {shape:>14} {:>11.3e} {:>11.3e} {:>11.3e}{mark}\n",
                r.name,
                r.op,
                r.max.0,
                Row::relative(r.max),
                Row::relative(r.rms)
            ))?;
        }
    }
    match first {
        None => {
            if !args.quiet {
                note(format_args!(
                    "no operation departs beyond {} of its magnitude",
                    args.tolerance
                ));
            }
            Ok(())
        }
        Some(r) => Err(Error::Runtime(format!(
            "the first operation to depart is `{}` ({}): by {:.3e}, {:.3e} of its magnitude, above \
             the tolerance of {}",
            r.name,
            r.op,
            r.max.0,
            Row::relative(r.max),
            args.tolerance
        ))
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gristmill::ir::Rows;

    #[test]
    fn sides() {
        let side = parse_side("cpu=scalar, activations=f32,cache=bf16,threads=3").unwrap();
        assert_eq!(side.cpu, Isa::from_name("scalar"));
        assert_eq!(side.threads, Some(3));
        assert_eq!(side.settings().unwrap().activations, Activations::F32);
        assert_eq!(parse_side("").unwrap(), Side::default());
        assert!(parse_side(REFERENCE).is_ok());
        for wrong in ["cpu", "cpu=quantum", "x=1", "threads=0", "activations=f64"] {
            assert!(parse_side(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn differences() {
        let shape = Shape { rows: Rows::Tokens, width: 2 };
        let nan = f32::NAN;
        let held = |values| Held { name: "n".into(), op: "add", shape, values };
        let r = Row::of(&held(vec![1.0, -4.0, nan, 0.0]), &[1.0, -3.0, nan, 0.0]);
        assert_eq!((r.max, r.shape), ((1.0, 4.0), (2, 2)));
        assert!(r.departs(0.2) && !r.departs(0.25));
        assert!(Row::of(&held(vec![0.0, 1.0]), &[nan, 1.0]).departs(1e9));
        assert!(!Row::of(&held(vec![0.0, 0.0]), &[0.0, 0.0]).departs(0.0));
    }
}
