//! `gristmill bench --kernels`: single operations by format and instruction set, beside what the
//! machine can do and the scalar build of the same kernels; or on the devices that `--device` names, as
//! their own clocks have it.

use super::{BenchArgs, Format};
use crate::device::{self, Wanted};
use crate::term::{Done, check_interrupt, note, out, usage};
use gristmill::cpu::Ceilings;
use gristmill::ir::Options;
use gristmill::kernels::{Case, Running, Shape, medians};
use gristmill::{Activations, Backend, Cpu, CpuOptions, DType, Device, Isa};
use serde_json::{Value, json};

/// Formats that are timed unless others are named.
const FORMATS: [DType; 9] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::Q8_0,
    DType::Q6_K,
    DType::Q5_K,
    DType::Q4_K,
    DType::Q4_0,
    DType::MXFP4,
];

/// Where operations are timed: on an instruction set, or on a device that is no processor.
struct Side {
    name: String,
    isa: Option<Isa>,
    device: Device,
}

/// One operation on one of them.
struct Row {
    name: String,
    dtype: DType,
    side: String,
    /// Whether the measured ceilings are those of the side.
    is_cpu: bool,
    /// Nanoseconds, the median.
    time: f64,
    bytes: f64,
    ops: f64,
    /// How many times as fast as the scalar and the naive build.
    over: [Option<f64>; 2],
}

/// What the words of `--kernels` ask for; everything of a kind of which none is named.
#[derive(Default)]
struct Words {
    isas: Vec<Isa>,
    formats: Vec<DType>,
    /// Parts of names.
    names: Vec<String>,
}

impl Words {
    fn read(words: &[String]) -> Words {
        let mut wanted = Words::default();
        for word in words {
            if let Some(isa) = Isa::from_name(word) {
                wanted.isas.push(isa);
            } else if let Some(format) = DType::from_name(&word.to_uppercase()) {
                wanted.formats.push(format);
            } else {
                wanted.names.push(word.clone());
            }
        }
        wanted
    }

    fn has(&self, case: &Case) -> bool {
        (self.formats.is_empty() || self.formats.contains(&case.dtype))
            && (self.names.is_empty() || self.names.iter().any(|n| case.name.contains(n)))
    }

    fn cases(&self) -> gristmill::Result<Vec<Case>> {
        let product = |dtype, rows, cols, tokens, from_memory| {
            Case::product(dtype, Shape { rows, cols, tokens, from_memory })
        };
        let or =
            |some: &'static [DType]| if self.formats.is_empty() { some } else { &self.formats };
        let mut cases = vec![product(DType::F32, 256, 1024, 1, false)?];
        for &dtype in or(&FORMATS) {
            cases.push(Case::dequantize(dtype, 4096, 64)?);
            cases.push(product(dtype, 4096, 4096, 1, true)?);
            cases.push(product(dtype, 1024, 4096, 1, false)?);
            cases.push(product(dtype, 256, 4096, 16, false)?);
            cases.push(product(dtype, 256, 4096, 256, false)?);
        }
        for &dtype in or(&[DType::Q4_K]) {
            for (down, tokens) in [(false, 1), (true, 1), (false, 16), (true, 16)] {
                cases.push(Case::experts(dtype, down, tokens)?);
            }
        }
        cases.push(Case::norm(4096, 64)?);
        cases.push(Case::softmax(4096)?);
        cases.push(Case::attention(1, 2047, DType::F16)?);
        cases.push(Case::attention(128, 896, DType::F16)?);
        cases.retain(|case| self.has(case));
        Ok(cases)
    }
}

pub fn run(args: &BenchArgs, words: &[String]) -> Done {
    let asked = Words::read(words);
    let cases = asked.cases()?;
    if cases.is_empty() {
        return usage(format!(
            "--kernels {}: there is no such kernel; words are parts of names (matvec, matmul, \
             experts, dequantize, norm, softmax, attention), formats and instruction sets",
            words.join(",")
        ));
    }
    let all = if asked.isas.is_empty() { Isa::available().collect() } else { asked.isas.clone() };
    crate::term::catch_interrupts();
    let default = device::cpu_options(None)?;
    let threads = args.threads.first().map_or(1, |&n| n as usize);
    let open = |isa| Cpu::new(CpuOptions { isa, threads, ..default });
    let ceilings = open(default.isa)?.ceilings()?;
    // Instruction sets beside each other, unless devices are named: then the best one stands for the
    // processor.
    let named = &args.runs_on.device.0;
    let mut sides = vec![];
    for &wanted in named {
        let best = [default.isa];
        let isas = match wanted {
            Wanted::Auto | Wanted::Cpu if named.len() == 1 || !asked.isas.is_empty() => &all[..],
            Wanted::Auto | Wanted::Cpu => &best[..],
            other => {
                sides.push(gpu(other, !args.runs_on.no_passthrough)?);
                continue;
            }
        };
        for &isa in isas {
            let (name, device) = (isa.name().to_owned(), open(isa)?.into());
            sides.push(Side { name, isa: Some(isa), device });
        }
    }
    if !args.quiet {
        note(format_args!("{threads} threads; {ceilings}"));
        for side in sides.iter().filter(|s| s.isa.is_none()) {
            note(format_args!("{}: {}", side.name, side.device.capabilities().name));
        }
    }
    let options = Options {
        activations: args.runs_on.activations(),
        compute: args.runs_on.compute.dtype(),
        prefill: args.runs_on.prefill(),
        ..Options::default()
    };
    let mut first = true;
    for case in &cases {
        let mut running: Vec<_> = sides
            .iter()
            .map(|side| Running::new(&side.device, case, &options))
            .collect::<gristmill::Result<_>>()?;
        let times = medians(&mut running, args.repetitions, check_interrupt)?;
        let of = |isa| sides.iter().position(|s| s.isa == Some(isa)).map(|i| times[i]);
        for (side, &time) in sides.iter().zip(&times) {
            let over = [Isa::Scalar, Isa::Naive].map(|slow| Some(of(slow)? / time));
            let row = Row {
                name: case.name.clone(),
                dtype: case.dtype,
                side: side.name.clone(),
                is_cpu: side.isa.is_some(),
                time,
                bytes: case.bytes,
                ops: case.ops,
                over,
            };
            row.write(args.output, first, (options.activations, threads, &ceilings))?;
            first = false;
        }
    }
    if args.output == Format::Json { out("\n]\n") } else { Ok(()) }
}

/// A device that is no processor.
fn gpu(wanted: Wanted, passthrough: bool) -> Done<Side> {
    let (name, device) = device::open_alone(wanted, passthrough)?;
    Ok(Side { name, isa: None, device })
}

type Common<'c> = (Activations, usize, &'c Ceilings);

impl Row {
    /// The share of the ceiling: the least time the processor needs over the time it took.
    fn share(&self, (activations, _, ceilings): Common<'_>) -> Option<f64> {
        let int8 = activations == Activations::Int8 && self.dtype.block_len() > 1;
        let peak = if int8 { ceilings.int8_ops } else { ceilings.f32_ops };
        let least = (self.bytes / ceilings.read_bytes).max(self.ops / peak);
        self.is_cpu.then_some(least * 1e9 / self.time)
    }

    fn write(&self, format: Format, first: bool, common: Common<'_>) -> Done {
        let fields = self.fields(common);
        let text = |v: &Value| match v {
            Value::String(s) => s.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        match format {
            Format::Md => {
                let names: Vec<&str> = fields.iter().map(|f| f.0).collect();
                if first {
                    let rule = " --- |".repeat(names.len());
                    out(&format!("| {} |\n|{rule}\n", names.join(" | ")))?;
                }
                let cells: Vec<String> = fields.iter().map(|f| text(&f.1)).collect();
                out(&format!("| {} |\n", cells.join(" | ")))
            }
            Format::Csv => {
                if first {
                    let names: Vec<&str> = fields.iter().map(|f| f.0).collect();
                    out(&format!("{}\n", names.join(",")))?;
                }
                let cells: Vec<String> =
                    fields.iter().map(|f| format!("\"{}\"", text(&f.1))).collect();
                out(&format!("{}\n", cells.join(",")))
            }
            Format::Json | Format::Jsonl => {
                let object: serde_json::Map<String, Value> =
                    fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
                let object = Value::Object(object);
                match (format, first) {
                    (Format::Json, true) => out(&format!("[\n  {object}")),
                    (Format::Json, false) => out(&format!(",\n  {object}")),
                    _ => out(&format!("{object}\n")),
                }
            }
        }
    }

    fn fields(&self, common: Common<'_>) -> Vec<(&'static str, Value)> {
        let rounded = |v: f64, digits: i32| {
            let unit = 10f64.powi(digits);
            json!((v * unit).round() / unit)
        };
        let rate =
            |n: f64, digits| if n > 0.0 { rounded(n / self.time, digits) } else { json!(null) };
        let over = |o: Option<f64>| o.map_or(json!(null), |o| rounded(o, 2));
        let activations = if common.0 == Activations::Int8 { "int8" } else { "f32" };
        vec![
            ("kernel", json!(self.name)),
            ("type", json!(self.dtype.name())),
            ("activations", json!(activations)),
            ("isa", json!(self.side)),
            ("threads", json!(self.is_cpu.then_some(common.1))),
            ("us", rounded(self.time / 1e3, 2)),
            ("GB/s", rate(self.bytes, 2)),
            ("GOP/s", rate(self.ops, 1)),
            ("% ceiling", self.share(common).map_or(json!(null), |s| rounded(100.0 * s, 1))),
            ("x scalar", over(self.over[0])),
            ("x naive", over(self.over[1])),
        ]
    }
}
