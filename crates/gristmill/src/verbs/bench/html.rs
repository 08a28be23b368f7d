//! `bench --html`: one self-contained page with the rows and plots of them.

use super::record::Record;
use gristmill::{Result, files};
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;

/// Width and height of a plot.
const W: f64 = 560.0;
const H: f64 = 320.0;
/// Its margins.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 46.0;
/// Colours of series: first those of Okabe and Ito, told apart by those who see few colours.
const COLOURS: [&str; 12] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#8c564b",
    "#7f7f7f", "#bcbd22", "#2f4b7c", "#a05195",
];

const STYLE: &str = "
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1b1b; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.05rem; margin: 0 0 .3rem }
.plots { display: flex; flex-wrap: wrap; gap: 2rem } figure { margin: 0; max-width: 560px }
ul { list-style: none; margin: 0; padding: 0; columns: 2; font-size: .85rem }
i { display: inline-block; width: .7rem; height: .7rem; margin-right: .4rem }
table { border-collapse: collapse; margin-top: 1.5rem; font-variant-numeric: tabular-nums }
td, th { padding: .2rem .7rem; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child, td:nth-child(2), th:nth-child(2) { text-align: left }
svg text { font: 12px system-ui, sans-serif; fill: #333 } .grid { stroke: #e4e4e4 }
.old { stroke-dasharray: 5 4 }
@media (prefers-color-scheme: dark) { body { background: #16181c; color: #e6e6e6 }
  svg text { fill: #ccc } .grid { stroke: #33373d } td, th { border-color: #33373d } }
";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A line of a plot, or points without one.
struct Series {
    name: String,
    /// Whether it is of an earlier run.
    old: bool,
    points: Vec<(f64, f64)>,
    /// What each point says when pointed at, if they are points without a line; a point of a line
    /// says the series' name.
    labels: Vec<String>,
}

/// A number as an axis shows it.
fn label(n: f64) -> String {
    match n {
        n if n >= 1e6 => format!("{}M", (n / 1e5).round() / 10.0),
        n if n >= 1e4 => format!("{}k", (n / 1e2).round() / 10.0),
        n if n >= 10.0 || n.fract() == 0.0 => format!("{}", n.round()),
        n => format!("{n:.2}"),
    }
}

/// Places for marks on an axis from 0 to at least `most`: about five of them, round numbers apart.
fn marks(most: f64) -> Vec<f64> {
    let rough = (most / 5.0).max(1e-9);
    let unit = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|s| s * unit >= rough).unwrap_or(10.0) * unit;
    (0..).map(|i| f64::from(i) * step).take_while(|m| *m < most + step).collect()
}

/// Powers of ten that hold all of these.
fn decades(values: impl Iterator<Item = f64> + Clone) -> Vec<f64> {
    let low = values.clone().fold(f64::INFINITY, f64::min).log10().floor() as i32;
    let high = values.fold(0.0, f64::max).log10().ceil() as i32;
    (low..=high.max(low + 1)).map(|e| 10f64.powi(e)).collect()
}

/// A plot of series, with logarithmic axes where asked for.
fn plot(title: &str, [x, y]: [&str; 2], series: &[Series], logarithmic: bool) -> String {
    let all = || series.iter().flat_map(|s| s.points.iter().copied());
    let (x_marks, y_marks) = match logarithmic {
        true => (decades(all().map(|p| p.0)), decades(all().map(|p| p.1))),
        false => {
            let most = |f: fn((f64, f64)) -> f64| all().map(f).fold(0.0, f64::max);
            (marks(most(|p| p.0)), marks(most(|p| p.1)))
        }
    };
    let scale = |v: f64, marks: &[f64]| {
        let of = |v: f64| if logarithmic { v.max(1e-12).log10() } else { v };
        let (low, high) = (of(marks[0]), of(marks[marks.len() - 1]));
        (of(v) - low) / (high - low).max(1e-12)
    };
    let at = |(px, py): (f64, f64)| {
        let right = LEFT + scale(px, &x_marks) * (W - LEFT - RIGHT);
        (right, H - BOTTOM - scale(py, &y_marks) * (H - BOTTOM - TOP))
    };
    let mut svg = format!(
        "<figure><h2>{}</h2><svg viewBox=\"0 0 {W} {H}\" width=\"{W}\" role=\"img\">",
        escape(title)
    );
    let (bottom, right) = (H - BOTTOM, W - RIGHT);
    for &m in &y_marks {
        let (_, py) = at((x_marks[0], m));
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{py:.1}\" y2=\"{py:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            py + 4.0,
            label(m)
        );
    }
    for &m in &x_marks {
        let (px, _) = at((m, y_marks[0]));
        let _ = write!(
            svg,
            "<text x=\"{px:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 16.0,
            label(m)
        );
    }
    let _ = write!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
         <text x=\"12\" y=\"{:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 12 {:.1})\">{}</text>",
        (LEFT + right) / 2.0,
        H - 8.0,
        escape(x),
        (TOP + bottom) / 2.0,
        (TOP + bottom) / 2.0,
        escape(y)
    );
    let mut names: Vec<&str> = vec![];
    for s in series {
        let known = names.iter().position(|n| *n == s.name).unwrap_or_else(|| {
            names.push(&s.name);
            names.len() - 1
        });
        let colour = COLOURS[known % COLOURS.len()];
        let places: Vec<(f64, f64)> = s.points.iter().copied().map(at).collect();
        if s.labels.is_empty() {
            let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let class = if s.old { " class=\"old\"" } else { "" };
            let _ = write!(
                svg,
                "<polyline{class} points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                path.join(" ")
            );
        }
        for (i, ((px, py), (vx, vy))) in places.iter().zip(&s.points).enumerate() {
            let name = s.labels.get(i).unwrap_or(&s.name);
            let _ = write!(
                svg,
                "<circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"3.5\" fill=\"{colour}\"><title>{}: {}, {}\
                 </title></circle>",
                escape(name),
                label(*vx),
                label(*vy)
            );
        }
    }
    svg.push_str("</svg><ul>");
    for (i, name) in names.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let _ = write!(svg, "<li><i style=\"background: {colour}\"></i>{}</li>", escape(name));
    }
    svg + "</ul></figure>"
}

/// Speed against one field, a series for each of the tests that differ in it only.
fn against(rows: &[(&Value, bool)], field: &str) -> Vec<Series> {
    let mut series: Vec<Series> = vec![];
    for &(row, old) in rows {
        let count = |name: &str| row[name].as_u64().unwrap_or(u64::from(name == "n_parallel"));
        let mut name = match (count("n_prompt"), count("n_gen")) {
            (p, 0) => format!("prompt of {p}"),
            (0, n) => format!("generating {n}"),
            (p, n) => format!("prompt of {p}, generating {n}"),
        };
        for (other, of) in
            [("n_depth", "after"), ("n_threads", "threads"), ("n_parallel", "sequences")]
        {
            if other != field && rows.iter().any(|(r, _)| r[other] != row[other]) {
                let _ = write!(name, ", {of} {}", count(other));
            }
        }
        let point = (count(field) as f64, row["avg_ts"].as_f64().unwrap_or(0.0));
        match series.iter_mut().find(|s| s.name == name && s.old == old) {
            Some(s) => s.points.push(point),
            None => series.push(Series { name, old, points: vec![point], labels: vec![] }),
        }
    }
    series.iter_mut().for_each(|s| s.points.sort_by(|a, b| a.0.total_cmp(&b.0)));
    series
}

/// Operations a second against operations a byte, under the ceilings measured with the most threads.
fn roofline(records: &[Record]) -> Option<String> {
    let threads = records.iter().map(|r| r.threads).max()?;
    let those = || records.iter().filter(|r| r.threads == threads);
    let row = those().next()?.json();
    let giga = |name: &str| row[name].as_f64().filter(|v| *v > 0.0);
    let (read, int8, f32) =
        (giga("ceiling_read_gb_s")?, giga("ceiling_int8_gop_s")?, giga("ceiling_f32_gop_s")?);
    let roof = |name: &str, peak: f64| {
        let points = [0.1, peak / read, 10_000.0].map(|x| (x, (x * read).min(peak))).to_vec();
        Series { name: name.into(), old: true, points, labels: vec![] }
    };
    let of = |name: &str, wanted: fn(&Record) -> bool| {
        let some = || those().filter(|r| wanted(r));
        let points = some().map(|r| (r.intensity, r.total_ops / 1e9)).collect();
        Series {
            name: name.into(),
            old: false,
            points,
            labels: some().map(|r| r.test.clone()).collect(),
        }
    };
    let prompts = of("prompts", |r| r.ops.is_some());
    let generation = of("generation", |r| r.read.is_some());
    let both = of("both", |r| r.ops.is_none() && r.read.is_none());
    let mut series = vec![roof("int8 ceiling", int8), roof("f32 ceiling", f32)];
    series.extend([prompts, generation, both].into_iter().filter(|s| !s.points.is_empty()));
    let title = format!("Roofline, {threads} threads");
    Some(plot(&title, ["operations a byte read", "GOP/s"], &series, true))
}

/// Writes the page.
///
/// # Errors
/// [`Error::Io`] with the file's name.
pub fn write(
    path: &Path,
    title: &str,
    remark: &str,
    records: &[Record],
    baseline: Option<&[Value]>,
) -> Result<()> {
    let now: Vec<Value> = records.iter().map(Record::json).collect();
    let rows: Vec<(&Value, bool)> = now
        .iter()
        .map(|r| (r, false))
        .chain(baseline.unwrap_or_default().iter().map(|r| (r, true)))
        .collect();
    let title = if title.is_empty() { "gristmill bench" } else { title };
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{0}</title><style>{STYLE}</style><h1>{0}</h1><p>{1}</p>",
        escape(title),
        escape(remark)
    );
    let text = |row: &Value, name: &str| match &row[name] {
        Value::String(s) => escape(s),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    if let Some(row) = now.first() {
        let _ = write!(
            page,
            "<p>{} · {} · {} · {}</p>",
            text(row, "model_type"),
            text(row, "model_filename"),
            text(row, "cpu_info"),
            text(row, "isa")
        );
    }
    page.push_str("<div class=\"plots\">");
    page.push_str(&roofline(records).unwrap_or_default());
    for (field, name) in [
        ("n_depth", "tokens before"),
        ("n_threads", "threads"),
        ("n_parallel", "sequences at once"),
    ] {
        let mut values: Vec<u64> = now.iter().filter_map(|r| r[field].as_u64()).collect();
        values.sort_unstable();
        values.dedup();
        if values.len() > 1 {
            let title = format!("Tokens a second against {name}");
            page.push_str(&plot(&title, [name, "tokens a second"], &against(&rows, field), false));
        }
    }
    page.push_str("</div>");
    if baseline.is_some() {
        page.push_str("<p>Dashed: the earlier run.</p>");
    }
    let columns = [
        "test",
        "model_type",
        "n_threads",
        "avg_ts",
        "stddev_ts",
        "read_gb_s",
        "read_share",
        "gop_s",
        "gop_share",
        "test_time",
    ];
    page.push_str("<table><tr>");
    for c in columns {
        let _ = write!(page, "<th>{c}</th>");
    }
    for (row, record) in now.iter().zip(records) {
        let _ = write!(page, "</tr><tr><td>{}</td>", escape(&record.test));
        for c in &columns[1..] {
            let _ = write!(page, "<td>{}</td>", text(row, c));
        }
    }
    page.push_str("</tr></table></html>\n");
    files::write_bytes(path, page.as_bytes())
}
