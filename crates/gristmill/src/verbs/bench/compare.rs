//! `bench --compare`: this run beside an earlier one.

use super::Format;
use super::record::Record;
use crate::term::{Done, note, out};
use gristmill::{Error, files};
use serde_json::Value;
use std::path::Path;

/// A test slower than this share of what it was fails.
const LEAST: f64 = 0.95;
/// The longest file of rows, in bytes.
const LONGEST: u64 = 256 << 20;

/// Fields that say that two rows are the same test.
const SAME: [&str; 10] = [
    "model_type",
    "model_size",
    "n_prompt",
    "n_gen",
    "n_depth",
    "n_parallel",
    "n_threads",
    "isa",
    "activations",
    "gpu_info",
];

/// The rows of a file: an array of objects, or an object a line.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Usage`] for what is no such file; with its name.
pub fn read(path: &Path) -> gristmill::Result<Vec<Value>> {
    let name = path.display();
    let bad = |what: String| Error::Usage(format!("--compare {name}: {what}"));
    let bytes = files::read(path, LONGEST)?.ok_or_else(|| bad("is too long".into()))?;
    let text = String::from_utf8(bytes).map_err(|_| bad("is not text".into()))?;
    let rows: Vec<Value> = if text.trim_start().starts_with('[') {
        serde_json::from_str(&text).map_err(|e| bad(format!("is not JSON: {e}")))?
    } else {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let row = |(i, line)| {
            serde_json::from_str(line).map_err(|e| bad(format!("line {}: is not JSON: {e}", i + 1)))
        };
        lines.map(row).collect::<gristmill::Result<_>>()?
    };
    let row = |v: &&Value| v["avg_ts"].is_number() && v["n_prompt"].is_number();
    match rows.iter().position(|v| !row(&v)) {
        None if rows.is_empty() => Err(bad("holds no rows".into())),
        None => Ok(rows),
        Some(i) => Err(bad(format!("row {} is none of `gristmill bench`: no avg_ts", i + 1))),
    }
}

/// The latest row like this one.
fn like<'b>(record: &Value, baseline: &'b [Value]) -> Option<&'b Value> {
    let one = Value::from(1);
    let field = |row: &Value, name: &str| match &row[name] {
        // Rows of before sequences could be parallel.
        Value::Null if name == "n_parallel" => one.clone(),
        other => other.clone(),
    };
    baseline
        .iter()
        .rev()
        .find(|row| SAME.iter().all(|name| field(row, name) == field(record, name)))
}

/// Shows each test's ratio to the earlier one: in a table where that is the output, else on stderr.
///
/// # Errors
/// [`Error::Runtime`] naming the tests that became slower than [`LEAST`] allows, and
/// [`Error::Usage`] where no test is in both.
pub fn show(records: &[Record], baseline: &[Value], format: Format) -> Done {
    let (mut slow, mut compared) = (vec![], 0);
    let say = |line: String| match format {
        Format::Md => out(&(line + "\n")),
        _ => {
            note(line);
            Ok(())
        }
    };
    if matches!(format, Format::Md) {
        say("\n| test | threads | before t/s | now t/s | ratio | % of ceiling before | now |"
            .into())?;
        say("| --- | ---: | ---: | ---: | ---: | ---: | ---: |".into())?;
    }
    for record in records {
        let (row, test) = (record.json(), &record.test);
        let Some(old) = like(&row, baseline) else {
            note(format_args!("{test}: no such test in the earlier rows"));
            continue;
        };
        compared += 1;
        let speed = |row: &Value| row["avg_ts"].as_f64().unwrap_or(0.0);
        let share = |row: &Value| {
            let share = row["read_share"].as_f64().or(row["gop_share"].as_f64());
            share.map_or(String::new(), |s| format!("{:.1}", 100.0 * s))
        };
        let ratio = speed(&row) / speed(old);
        if ratio.is_nan() || ratio < LEAST {
            slow.push(format!("{test} at {ratio:.3}"));
        }
        let (before, now, threads) = (speed(old), speed(&row), record.threads);
        say(format!(
            "| {test} | {threads} | {before:.2} | {now:.2} | {ratio:.3} | {} | {} |",
            share(old),
            share(&row)
        ))?;
    }
    if compared == 0 {
        let what = "no test of this run is among the earlier rows: another model or other options?";
        return Err(Error::Usage(what.into()).into());
    }
    if slow.is_empty() {
        return Ok(());
    }
    let list = slow.join(", ");
    Err(Error::Runtime(format!("slower than {LEAST} times the earlier run: {list}")).into())
}
