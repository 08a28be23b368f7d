//! A float model in a smaller format.
//!
//! Matrices go to the format asked for; vectors stay f32, because they are small and every token
//! passes through them. The head and the embedding table are the most sensitive, so a model of
//! few bits keeps them in Q6_K. A matrix whose rows are no whole number of blocks falls back to F16.
//! The error of each tensor against the file it came from is reported as it is written.

use gristmill_core::{DType, Error, Result, quant};
use gristmill_models::Gguf;
use gristmill_models::gguf::{GgufWriter, TensorInfo};
use std::io::Write;

/// The formats of a quantized model, by the names of the command line, and what
/// `general.file_type` calls a file of them.
pub const TYPES: [(&str, DType, u32); 17] = [
    ("q8_0", DType::Q8_0, 7),
    ("q4_0", DType::Q4_0, 2),
    ("q4_1", DType::Q4_1, 3),
    ("q5_0", DType::Q5_0, 8),
    ("q5_1", DType::Q5_1, 9),
    ("q2_k", DType::Q2_K, 10),
    ("q3_k", DType::Q3_K, 11),
    ("q4_k", DType::Q4_K, 14),
    ("q5_k", DType::Q5_K, 16),
    ("q6_k", DType::Q6_K, 18),
    ("iq4_nl", DType::IQ4_NL, 25),
    ("iq4_xs", DType::IQ4_XS, 30),
    ("mxfp4", DType::MXFP4, 38),
    ("tq1_0", DType::TQ1_0, 36),
    ("tq2_0", DType::TQ2_0, 37),
    ("f16", DType::F16, 1),
    ("bf16", DType::BF16, 32),
];

/// The names of [`TYPES`], for people.
pub fn type_names() -> String {
    TYPES.map(|t| t.0).join(", ")
}

/// The type of [`TYPES`] with this name, in any case.
///
/// # Errors
/// [`Error::Usage`] that says whether there is such a format, and which ones can be written.
pub fn parse_type(name: &str) -> Result<DType> {
    if let Some(t) = TYPES.iter().find(|t| t.0.eq_ignore_ascii_case(name)) {
        return Ok(t.1);
    }
    let why = match DType::from_name(name) {
        Some(d) if quant::is_supported(d) && !quant::has_quantizer(d) => {
            format!("models of {d} can be run, but there is no quantizer for it here")
        }
        Some(d) => format!("models are not written as {d}"),
        None => format!("there is no type '{name}'"),
    };
    Err(Error::Usage(format!("{why}; there are {}", type_names())))
}

/// What became of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// Its name.
    pub name: String,
    /// Elements, the fastest dimension first.
    pub shape: Vec<usize>,
    /// Its type in the file it came from.
    pub from: DType,
    /// Its type now.
    pub to: DType,
    /// The type it should have had, where its rows are no whole number of blocks of it.
    pub instead_of: Option<DType>,
    /// Bytes before and now.
    pub bytes: (u64, u64),
    /// `sqrt(Σ (x - q)² / Σ x²)` of the values; 0 where nothing was lost.
    pub rms_error: f64,
}

/// A tensor and what it becomes.
struct Planned<'g> {
    info: TensorInfo<'g>,
    to: DType,
    instead_of: Option<DType>,
}

/// Writes `gguf` to `out` with its matrices as `target`, one of [`TYPES`]; `file` stands for the
/// output in messages, and `report` hears of each tensor.
///
/// # Errors
/// [`Error::Usage`] for a target that is not in the list, [`Error::Model`] for a model that is
/// quantized already, [`Error::Io`] from writing, and what `report` returns.
pub fn quantize<W: Write>(
    gguf: &Gguf,
    out: W,
    file: &str,
    target: DType,
    report: &mut dyn FnMut(Written) -> Result<()>,
) -> Result<W> {
    gguf.check_writable()?;
    let Some(&(_, _, file_type)) = TYPES.iter().find(|t| t.1 == target) else {
        return Err(Error::Usage(format!("models are not written as {target}")));
    };
    let plan: Vec<Planned<'_>> = gguf.tensors().map(|t| planned(t, target)).collect();
    let mut writer = GgufWriter::new(file);
    for (key, value) in gguf.metadata() {
        let ours = ["general.file_type", "general.quantization_version"].contains(&key);
        if !ours && !key.starts_with("split.") {
            writer.set(key, value)?;
        }
    }
    writer.set("general.file_type", file_type)?;
    writer.set("general.quantization_version", 2u32)?;
    for p in &plan {
        writer.declare(&p.info.name, p.to, &p.info.shape[..p.info.n_dims])?;
    }
    let mut stream = writer.begin(out)?;
    for p in &plan {
        let source = gguf.tensor(&p.info.name)?;
        let (bytes, rms_error) = convert(gguf, p, source.bytes())?;
        gguf.check_unchanged()?;
        stream.tensor(&bytes)?;
        report(Written {
            name: p.info.name.to_string(),
            shape: p.info.shape[..p.info.n_dims].to_vec(),
            from: p.info.dtype,
            to: p.to,
            instead_of: p.instead_of,
            bytes: (p.info.bytes as u64, bytes.len() as u64),
            rms_error,
        })?;
    }
    stream.finish()
}

fn is_float(t: DType) -> bool {
    matches!(t, DType::F32 | DType::F16 | DType::BF16)
}

/// What a tensor becomes.
fn planned(info: TensorInfo<'_>, target: DType) -> Planned<'_> {
    let (to, instead_of) = becomes(&info, target);
    Planned { info, to, instead_of }
}

/// The type that a tensor gets, and the one that it should have got.
fn becomes(info: &TensorInfo<'_>, target: DType) -> (DType, Option<DType>) {
    let name = &*info.name;
    if !is_float(info.dtype) && !quant::is_supported(info.dtype) {
        return (info.dtype, None); // integers and the like
    }
    // Vectors, norms of several heads, and the routers of experts.
    let matrix = info.shape[1] > 1 && name.ends_with(".weight");
    let small = name.ends_with("_norm.weight") || name.contains("ffn_gate_inp");
    if !matrix || small {
        return (DType::F32, None);
    }
    let head = name == "output.weight" || name == "token_embd.weight";
    let low = target.block_len() > 32 && target.bits_per_element() < 6.0
        || matches!(target, DType::IQ4_NL | DType::MXFP4);
    let wanted = if head && low { DType::Q6_K } else { target };
    if wanted.bytes(info.shape[0]).is_some() {
        return (wanted, None);
    }
    (DType::F16, Some(wanted))
}

/// The tensor's bytes in its new type, and the error.
fn convert(gguf: &Gguf, p: &Planned<'_>, source: &[u8]) -> Result<(Vec<u8>, f64)> {
    let (from, to) = (p.info.dtype, p.to);
    if from == to {
        return Ok((source.to_vec(), 0.0));
    }
    if !is_float(from) {
        return Err(gguf.error(format!(
            "tensor '{}' is {from}: the model is quantized already, and doing it again would lose \
             more; start from its F32, F16 or BF16 file",
            p.info.name
        )));
    }
    let cols = p.info.shape[0];
    let row = from.bytes(cols).unwrap_or(source.len()).max(1);
    let rows = source.len() / row;
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let share = rows.div_ceil(threads).max(1);
    let parts: Vec<Result<Part>> = std::thread::scope(|scope| {
        let work: Vec<_> = source
            .chunks(share * row)
            .map(|part| scope.spawn(move || convert_rows(from, to, cols, row, part)))
            .collect();
        let lost = || Err(Error::Runtime("a thread that quantized ended early".into()));
        work.into_iter().map(|w| w.join().unwrap_or_else(|_| lost())).collect()
    });
    let mut all = Part::default();
    for part in parts {
        let part = part?;
        all.bytes.extend_from_slice(&part.bytes);
        all.error += part.error;
        all.norm += part.norm;
    }
    let rms = if all.norm > 0.0 { (all.error / all.norm).sqrt() } else { 0.0 };
    Ok((all.bytes, rms))
}

/// Some rows: their bytes, and the sums of squares of error and of values.
#[derive(Default)]
struct Part {
    bytes: Vec<u8>,
    error: f64,
    norm: f64,
}

fn convert_rows(from: DType, to: DType, cols: usize, row: usize, source: &[u8]) -> Result<Part> {
    let mut part = Part::default();
    let (mut x, mut back) = (vec![0.0; cols], vec![0.0; cols]);
    for source in source.chunks_exact(row) {
        quant::dequantize(from, source, &mut x)?;
        let bytes = quant::quantize(to, &x)?;
        quant::dequantize(to, &bytes, &mut back)?;
        for (a, b) in x.iter().zip(&back) {
            part.error += f64::from(a - b).powi(2);
            part.norm += f64::from(*a).powi(2);
        }
        part.bytes.extend_from_slice(&bytes);
    }
    Ok(part)
}
