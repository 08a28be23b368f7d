//! One row: the fields of `llama-bench`, in its order, and ours after them.

use super::{Setup, Test, Times};
use gristmill::cpu::detect;
use gristmill::{Activations, DType, Error, Gguf, Model};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The commit this was built from, where the build says so.
const COMMIT: &str = match option_env!("GRISTMILL_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// A test that was run.
pub struct Record {
    pub test: String,
    pub model: String,
    pub model_bytes: u64,
    pub parameters: u64,
    pub threads: usize,
    pub backend: String,
    /// Tokens a second: mean and standard deviation.
    pub speed: (f64, f64),
    /// Bytes read a second, and the processor's share of its ceiling, where generating is what was
    /// measured.
    pub read: Option<(f64, Option<f64>)>,
    /// Operations a second, and the processor's share of its ceiling, where a prompt is what was
    /// measured.
    pub ops: Option<(f64, Option<f64>)>,
    /// Operations for each byte that must be read, and operations a second, of any test.
    pub intensity: f64,
    pub total_ops: f64,
    fields: Vec<(&'static str, Value)>,
}

/// Mean and standard deviation of a sample.
fn spread(samples: &[f64]) -> (f64, f64) {
    let n = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / n;
    let square = samples.iter().map(|s| (s - mean).powi(2)).sum::<f64>();
    (mean, if samples.len() > 1 { (square / (n - 1.0)).sqrt() } else { 0.0 })
}

/// The least of some times that `share` of them do not exceed.
fn percentile(times: &[u64], share: f64) -> Option<u64> {
    let mut times = times.to_vec();
    times.sort_unstable();
    let rank = (share * times.len() as f64).ceil() as usize;
    times.get(rank.saturating_sub(1)).copied()
}

impl Record {
    /// The row of a test from its times, under a title and with a note.
    pub fn new(
        setup: &Setup<'_>,
        test: &Test,
        Times { samples, steps }: &Times,
        [title, remark]: [&str; 2],
    ) -> Record {
        let Setup { model, settings, options, ceilings, work, device, gpu } = setup;
        let ns: Vec<f64> = samples.iter().map(|&s| s as f64).collect();
        let per_second: Vec<f64> = ns.iter().map(|t| 1e9 * f64::from(test.tokens()) / t).collect();
        let (time, speed) = (spread(&ns), spread(&per_second));
        let seconds = time.0 / 1e9;
        let depth = u64::from(test.depth);
        let int8 = settings.activations == Activations::Int8 && work.quantized;
        let peak = if int8 { ceilings.int8_ops } else { ceilings.f32_ops };
        // The ceilings are the processor's.
        let share = |rate: f64, most: f64| gpu.is_empty().then_some(rate / most);
        let read = (test.prompt == 0).then(|| {
            let bytes = work.decode_bytes(depth, test.generate.into(), test.parallel.into());
            let rate = bytes / seconds;
            (rate, share(rate, ceilings.read_bytes))
        });
        let ops = (test.generate == 0).then(|| {
            let ops = work.ops(depth, test.prompt.into(), 1);
            let rate = f64::from(test.parallel) * ops / seconds;
            (rate, share(rate, peak))
        });
        let seqs = u64::from(test.parallel);
        let all_ops = seqs as f64
            * (work.ops(depth, test.prompt.into(), 1)
                + work.ops(
                    depth + u64::from(test.prompt),
                    test.generate.into(),
                    test.generate.into(),
                ));
        let all_bytes = work.decode_bytes(depth, (test.generate + test.prompt.min(1)).into(), seqs);
        // Steps that run a prompt say nothing of how long a token takes.
        let steps: &[u64] = if test.prompt == 0 { steps } else { &[] };
        let name = describe(model);
        let bytes = model.tensor_bytes();
        let rounded = |v: f64| json!((v * 1e6).round() / 1e6);
        let giga = |v: f64| rounded(v / 1e9);
        let fields = vec![
            ("build_commit", json!(COMMIT)),
            ("build_number", json!(0)),
            ("cpu_info", json!(detect::model_name())),
            ("gpu_info", json!(gpu)),
            ("backends", json!(device.to_uppercase())),
            ("model_filename", json!(model.gguf().name())),
            ("model_type", json!(name)),
            ("model_size", json!(bytes)),
            ("model_n_params", json!(model.parameters())),
            ("n_batch", json!(options.token_budget)),
            ("n_ubatch", json!(options.token_budget)),
            ("n_threads", json!(settings.cpu.threads)),
            ("cpu_mask", json!("0x0")),
            ("cpu_strict", json!(false)),
            ("poll", json!(50)),
            ("type_k", json!(lower(settings.kv.k))),
            ("type_v", json!(lower(settings.kv.v))),
            ("n_gpu_layers", json!(0)),
            ("n_cpu_moe", json!(0)),
            ("split_mode", json!("none")),
            ("main_gpu", json!(0)),
            ("no_kv_offload", json!(gpu.is_empty())),
            ("flash_attn", json!(true)),
            ("devices", json!(device)),
            ("tensor_split", json!("0.00")),
            ("tensor_buft_overrides", json!("none")),
            ("use_mmap", json!(true)),
            ("use_direct_io", json!(false)),
            ("embeddings", json!(false)),
            ("no_op_offload", json!(gpu.is_empty())),
            ("no_host", json!(false)),
            ("repack", json!(true)),
            ("fit_target", json!(0)),
            ("fit_min_ctx", json!(0)),
            ("n_prompt", json!(test.prompt)),
            ("n_gen", json!(test.generate)),
            ("n_depth", json!(test.depth)),
            ("test_time", json!(now())),
            ("avg_ns", json!(time.0.round() as u64)),
            ("stddev_ns", json!(time.1.round() as u64)),
            ("avg_ts", rounded(speed.0)),
            ("stddev_ts", rounded(speed.1)),
            ("samples_ns", json!(samples)),
            ("samples_ts", json!(per_second.iter().map(|&t| rounded(t)).collect::<Vec<_>>())),
            ("isa", json!(settings.cpu.isa.name())),
            ("activations", json!(if int8 { "int8" } else { "f32" })),
            ("read_gb_s", json!(read.map(|r| giga(r.0)))),
            ("read_share", json!(read.and_then(|r| r.1.map(rounded)))),
            ("gop_s", json!(ops.map(|o| giga(o.0)))),
            ("gop_share", json!(ops.and_then(|o| o.1.map(rounded)))),
            ("n_parallel", json!(test.parallel)),
            ("step_p50_ns", json!(percentile(steps, 0.5))),
            ("step_p95_ns", json!(percentile(steps, 0.95))),
            ("title", json!(title)),
            ("note", json!(remark)),
            ("ceiling_read_gb_s", giga(ceilings.read_bytes)),
            ("ceiling_int8_gop_s", giga(ceilings.int8_ops)),
            ("ceiling_f32_gop_s", giga(ceilings.f32_ops)),
        ];
        Record {
            test: test.name(),
            model: name,
            model_bytes: bytes,
            parameters: model.parameters(),
            threads: settings.cpu.threads,
            backend: device.to_uppercase(),
            speed,
            read,
            ops,
            intensity: all_ops / all_bytes,
            total_ops: all_ops / seconds,
            fields,
        }
    }

    /// All fields, in order.
    pub fn json(&self) -> Value {
        Value::Object(self.fields.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect())
    }

    /// Names and values for CSV, which has no lists.
    pub fn flat(&self) -> impl Iterator<Item = (&'static str, String)> {
        let flat = self.fields.iter().filter(|(_, v)| !v.is_array());
        flat.map(|(k, v)| {
            let text = match v {
                Value::String(s) => s.clone(),
                Value::Bool(b) => u8::from(*b).to_string(),
                Value::Null => String::new(),
                other => other.to_string(),
            };
            (*k, text)
        })
    }
}

/// Adds a row to a file, an object a line; without one, only sees that it could.
///
/// # Errors
/// [`Error::Io`] with the file's name.
pub fn append(path: &Path, record: Option<&Record>) -> gristmill::Result<()> {
    let what = || format!("appending to {}", path.display());
    let write = || {
        let mut file = File::options().create(true).append(true).open(path)?;
        record.map_or(Ok(()), |r| file.write_all(format!("{}\n", r.json()).as_bytes()))
    };
    write().map_err(|source| Error::Io { what: what(), source })
}

fn lower(t: DType) -> String {
    t.name().to_lowercase()
}

/// `llama 4.8M Q4_K - Small`: architecture, weights, format.
fn describe(model: &Model) -> String {
    let arch = model.gguf().opt::<&str>("general.architecture").ok().flatten().unwrap_or("?");
    let size = crate::term::count(model.parameters()).replace(' ', "");
    format!("{arch} {size} {}", format_of(model.gguf()))
}

/// What `general.file_type` says, or the type of most bytes.
fn format_of(gguf: &Gguf) -> String {
    let known = match gguf.opt::<u32>("general.file_type").ok().flatten() {
        Some(0) => "all F32",
        Some(1) => "F16",
        Some(2) => "Q4_0",
        Some(7) => "Q8_0",
        Some(14) => "Q4_K - Small",
        Some(15) => "Q4_K - Medium",
        Some(16) => "Q5_K - Small",
        Some(17) => "Q5_K - Medium",
        Some(18) => "Q6_K",
        Some(32) => "BF16",
        _ => "",
    };
    if !known.is_empty() {
        return known.to_owned();
    }
    let bytes_of =
        |d: DType| -> usize { gguf.tensors().filter(|t| t.dtype == d).map(|t| t.bytes).sum() };
    DType::all().max_by_key(|&d| bytes_of(d)).map_or(String::new(), |d| d.name().to_owned())
}

/// The time, as `2026-11-21T09:30:00Z`.
fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    time_text(seconds)
}

/// Seconds since 1970 as a date. Days to years by the calendar's cycle of 400 years, which begins
/// in March so that the leap day comes last.
fn time_text(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + next;
    let (h, m, s) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{date:02}T{h:02}:{m:02}:{s:02}Z")
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(time_text(0), "1970-01-01T00:00:00Z");
        assert_eq!(time_text(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(time_text(1_767_225_599), "2025-12-31T23:59:59Z");
    }

    #[test]
    fn mean_and_deviation() {
        assert_eq!(spread(&[2.0, 4.0, 6.0]), (4.0, 2.0));
        assert_eq!(spread(&[3.0]), (3.0, 0.0));
    }

    #[test]
    fn percentiles() {
        let times: Vec<u64> = (1..=20).rev().collect();
        let at = |share| percentile(&times, share);
        assert_eq!((at(0.5), at(0.95), at(1.0)), (Some(10), Some(19), Some(20)));
        assert_eq!((percentile(&[7], 0.5), percentile(&[], 0.5)), (Some(7), None));
    }
}
