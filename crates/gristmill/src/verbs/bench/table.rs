//! Rows to stdout, in the format asked for, each as soon as it is there.

use super::Format;
use super::record::Record;
use crate::term::{Done, count, out, size};

/// The output so far.
pub struct Table {
    format: Format,
    rows: usize,
}

/// Heading and width of a column; a negative width is aligned to the left.
const COLUMNS: [(&str, i32); 11] = [
    ("model", -30),
    ("size", 10),
    ("params", 10),
    ("backend", -10),
    ("threads", 7),
    ("test", 15),
    ("t/s", 20),
    ("GB/s", 8),
    ("% read", 7),
    ("GOP/s", 9),
    ("% peak", 7),
];

impl Table {
    /// An empty one.
    pub fn new(format: Format) -> Table {
        Table { format, rows: 0 }
    }

    /// Writes a row, and before the first what comes before it.
    pub fn row(&mut self, r: &Record) -> Done {
        let first = self.rows == 0;
        self.rows += 1;
        match self.format {
            Format::Md => {
                if first {
                    out(&format!("{}{}", line(&COLUMNS.map(|c| c.0.to_owned())), rule()))?;
                }
                out(&line(&cells(r)))
            }
            Format::Csv => {
                if first {
                    let names: Vec<_> = r.flat().map(|f| f.0).collect();
                    out(&format!("{}\n", names.join(",")))?;
                }
                let values: Vec<_> =
                    r.flat().map(|f| format!("\"{}\"", f.1.replace('"', "\"\""))).collect();
                out(&format!("{}\n", values.join(",")))
            }
            Format::Json => {
                let before = if first { "[\n" } else { ",\n" };
                let text = format!("{:#}", r.json()).replace('\n', "\n  ");
                out(&format!("{before}  {text}"))
            }
            Format::Jsonl => out(&format!("{}\n", r.json())),
        }
    }

    /// Writes what comes after the last row.
    pub fn end(self) -> Done {
        if self.format == Format::Json { out("\n]\n") } else { Ok(()) }
    }
}

fn cells(r: &Record) -> [String; 11] {
    let percent = |x: Option<f64>| x.map_or(String::new(), |x| format!("{:.1}", x * 100.0));
    let share = |x: Option<(f64, Option<f64>)>| match x {
        Some((rate, share)) => [format!("{:.2}", rate / 1e9), percent(share)],
        None => [String::new(), String::new()],
    };
    let [read, read_share] = share(r.read);
    let [ops, ops_share] = share(r.ops);
    [
        r.model.clone(),
        size(r.model_bytes),
        count(r.parameters),
        r.backend.clone(),
        r.threads.to_string(),
        r.test.clone(),
        format!("{:.2} ± {:.2}", r.speed.0, r.speed.1),
        read,
        read_share,
        ops,
        ops_share,
    ]
}

fn line(cells: &[String; 11]) -> String {
    let mut text = String::from("|");
    for (cell, (_, width)) in cells.iter().zip(COLUMNS) {
        let w = width.unsigned_abs() as usize;
        if width < 0 {
            text.push_str(&format!(" {cell:<w$} |"));
        } else {
            text.push_str(&format!(" {cell:>w$} |"));
        }
    }
    text + "\n"
}

fn rule() -> String {
    let mut text = String::from("|");
    for (_, width) in COLUMNS {
        let dashes = "-".repeat(width.unsigned_abs() as usize - usize::from(width > 0));
        text.push_str(&format!(" {dashes}{} |", if width > 0 { ":" } else { "" }));
    }
    text + "\n"
}
