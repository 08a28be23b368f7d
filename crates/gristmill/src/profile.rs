//! Where the time of steps goes: by operation and layer, beside what the machine can do.
//!
//! An operation that reads so many bytes and computes so much takes at least the longer of the two at
//! the measured ceilings; the share of the ceiling is that time over the time it took. Bytes are those
//! of weights, keys and values: what lies between operations is in the caches.

use crate::work::Work;
use gristmill_cpu::Ceilings;
use gristmill_engine::Timed;
use gristmill_ir::{Op, Program, StateKind};
use gristmill_models::Gguf;
use serde_json::json;
use std::fmt::{self, Write as _};
use std::io;

/// Timed steps of a program over a file's weights.
pub struct Profile<'p> {
    nodes: Vec<Node<'p>>,
    ceilings: Ceilings,
    /// Whether quantized weights meet int8 activations.
    int8: bool,
    steps: Vec<Timed>,
}

/// One operation.
struct Node<'p> {
    /// Its name without its layer, such as `attn_out`.
    name: &'p str,
    /// Its whole name, such as `blk.3.attn_out`.
    whole: &'p str,
    layer: Option<u32>,
    op: &'static str,
    work: Work,
    /// The page group that it reads keys and values of.
    group: Option<usize>,
}

/// Which steps: generating runs one token of each sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Prompt,
    Generation,
}

fn phase(step: &Timed) -> Phase {
    if step.tokens > step.seqs { Phase::Prompt } else { Phase::Generation }
}

/// Time and costs, summed.
#[derive(Clone, Copy, Default)]
struct Sum {
    calls: u64,
    nanoseconds: u64,
    bytes: f64,
    ops: f64,
    /// Seconds it would take at the ceilings.
    least: f64,
}

/// The layer of `blk.3.attn_out`, and what is left of its name.
fn layer(name: &str) -> (Option<u32>, &str) {
    let parts = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    match parts.and_then(|(n, rest)| Some((n.parse().ok()?, rest))) {
        Some((n, rest)) => (Some(n), rest),
        None => (None, name),
    }
}

impl<'p> Profile<'p> {
    /// A profile of the steps of `program`, as [`gristmill_engine::Engine::timed`] gives them.
    pub fn new(
        program: &'p Program,
        gguf: &Gguf,
        ceilings: Ceilings,
        int8: bool,
        steps: Vec<Timed>,
    ) -> Profile<'p> {
        let group = |op: &Op| match op {
            Op::Attention { cache, .. } => match program.states[cache.index()] {
                StateKind::Paged { group, .. } => Some(usize::from(group)),
                StateKind::Slot { .. } => None,
            },
            _ => None,
        };
        let node = |n: &'p gristmill_ir::Node| {
            let (layer, name) = layer(&n.name);
            let (op, work) = (n.op.name(), Work::of_node(program, n, gguf));
            Node { name, whole: &n.name, layer, op, work, group: group(&n.op) }
        };
        Profile { nodes: program.nodes.iter().map(node).collect(), ceilings, int8, steps }
    }

    /// Calls `f` for each operation that ran: its step, itself, and when it began and ended.
    fn each(&self, mut f: impl FnMut(&Timed, &Node<'p>, u64, u64)) {
        for step in &self.steps {
            let mut began = 0;
            for (node, &end) in self.nodes.iter().zip(&step.times.ends) {
                f(step, node, began, end.max(began));
                began = end.max(began);
            }
        }
    }

    /// What an operation reads and computes in a step.
    fn costs(&self, step: &Timed, node: &Node<'_>) -> Sum {
        let keys = node.group.and_then(|g| step.seen.get(g)).copied().unwrap_or_default();
        let w = &node.work;
        let ops = f64::from(step.tokens) * w.ops_per_token as f64
            + f64::from(step.rows) * w.ops_per_row as f64
            + keys.pairs as f64 * w.ops_per_key as f64;
        let bytes = w.weight_bytes as f64 + keys.read as f64 * w.kv_bytes_per_key as f64;
        let Ceilings { read_bytes, int8_ops, f32_ops } = self.ceilings;
        let peak = if self.int8 && w.quantized { int8_ops } else { f32_ops };
        Sum { bytes, ops, least: (bytes / read_bytes).max(ops / peak), ..Sum::default() }
    }

    /// Sums by what `key` makes of an operation, in the order in which they first ran.
    fn sums<K: PartialEq>(&self, key: impl Fn(&Timed, &Node<'p>) -> Option<K>) -> Vec<(K, Sum)> {
        let mut sums: Vec<(K, Sum)> = vec![];
        self.each(|step, node, began, end| {
            let Some(key) = key(step, node) else { return };
            let at = sums.iter().position(|(k, _)| *k == key).unwrap_or_else(|| {
                sums.push((key, Sum::default()));
                sums.len() - 1
            });
            let (sum, costs) = (&mut sums[at].1, self.costs(step, node));
            sum.calls += 1;
            sum.nanoseconds += end - began;
            sum.bytes += costs.bytes;
            sum.ops += costs.ops;
            sum.least += costs.least;
        });
        sums
    }

    fn operations(&self, f: &mut fmt::Formatter<'_>, of: Phase) -> fmt::Result {
        let steps: Vec<&Timed> = self.steps.iter().filter(|s| phase(s) == of).collect();
        if steps.is_empty() {
            return Ok(());
        }
        let mut rows = self.sums(|step, n| (phase(step) == of).then_some((n.name, n.op)));
        let sampling: u64 = steps.iter().map(|s| s.times.sampling).sum();
        if sampling > 0 {
            let calls = steps.iter().filter(|s| s.times.sampling > 0).count() as u64;
            let sum = Sum { calls, nanoseconds: sampling, ..Sum::default() };
            rows.push((("sampling", "sample"), sum));
        }
        let tokens: u64 = steps.iter().map(|s| u64::from(s.tokens)).sum();
        let total: u64 = rows.iter().map(|(_, sum)| sum.nanoseconds).sum();
        let what = if of == Phase::Prompt { "prompt" } else { "generation" };
        let time = total as f64 / 1e6;
        writeln!(f, "{what}: {} steps, {tokens} tokens, {time:.1} ms in operations", steps.len())?;
        writeln!(
            f,
            "  {:<28} {:>6} {:>10} {:>6} {:>8} {:>9} {:>9}",
            "operation", "calls", "ms", "%", "GB/s", "GOP/s", "% ceiling"
        )?;
        rows.sort_by_key(|(_, sum)| std::cmp::Reverse(sum.nanoseconds));
        for ((name, op), sum) in &rows {
            let seconds = sum.nanoseconds.max(1) as f64 / 1e9;
            let or_blank = |value: f64, digits: usize| match value {
                0.0 => String::new(),
                value => format!("{value:.digits$}"),
            };
            let name = if name == op { (*name).to_owned() } else { format!("{name} ({op})") };
            writeln!(
                f,
                "  {name:<28} {:>6} {:>10.2} {:>6.1} {:>8} {:>9} {:>9}",
                sum.calls,
                seconds * 1e3,
                100.0 * sum.nanoseconds as f64 / total.max(1) as f64,
                or_blank(sum.bytes / seconds / 1e9, 2),
                or_blank(sum.ops / seconds / 1e9, 1),
                or_blank(100.0 * sum.least / seconds, 1)
            )?;
        }
        Ok(())
    }

    fn layers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |of: Phase| self.sums(move |s, n| (phase(s) == of).then_some(n.layer));
        let sides = [of(Phase::Prompt), of(Phase::Generation)];
        let mut layers: Vec<Option<u32>> = self.nodes.iter().map(|n| n.layer).collect();
        layers.sort_unstable_by_key(|l| (l.is_none(), *l));
        layers.dedup();
        let mut line = String::new();
        writeln!(f, "  {:<12} {:>12} {:>14}", "layer", "prompt ms", "generation ms")?;
        for layer in layers {
            line.clear();
            match layer {
                Some(n) => write!(line, "  {n:<12}")?,
                None => write!(line, "  {:<12}", "the rest")?,
            }
            for (side, width) in sides.iter().zip([12, 14]) {
                let sum = side.iter().find(|(l, _)| *l == layer);
                let time = sum.map_or(0.0, |(_, s)| s.nanoseconds as f64 / 1e6);
                write!(line, " {time:>width$.2}")?;
            }
            writeln!(f, "{line}")?;
        }
        Ok(())
    }

    /// Writes every operation of every step for a trace viewer (chrome://tracing, Perfetto): JSON in
    /// the Trace Event Format, "complete" events with times in microseconds.
    ///
    /// # Errors
    /// Those of writing.
    pub fn trace(&self, out: &mut impl io::Write) -> io::Result<()> {
        let micros = |ns: u64| ns as f64 / 1e3;
        write!(out, "{{\"displayTimeUnit\":\"ms\",\"traceEvents\":[")?;
        let name = |tid, name| json!({"ph": "M", "pid": 1, "tid": tid, "name": "thread_name", "args": {"name": name}});
        write!(out, "{},\n{}", name(1, "steps"), name(2, "operations"))?;
        for step in &self.steps {
            let of_operations = step.times.ends.last().copied().unwrap_or(0);
            let event = json!({
                "ph": "X", "pid": 1, "tid": 1, "ts": micros(step.start),
                "dur": micros(of_operations + step.times.sampling),
                "name": if phase(step) == Phase::Prompt { "prompt" } else { "generation" },
                "args": {"tokens": step.tokens, "sequences": step.seqs, "rows": step.rows},
            });
            write!(out, ",\n{event}")?;
            if step.times.sampling > 0 {
                let event = json!({
                    "ph": "X", "pid": 1, "tid": 2, "ts": micros(step.start + of_operations),
                    "dur": micros(step.times.sampling), "name": "sampling", "cat": "sample",
                });
                write!(out, ",\n{event}")?;
            }
        }
        let mut written = Ok(());
        self.each(|step, node, began, end| {
            let costs = self.costs(step, node);
            let event = json!({
                "ph": "X", "pid": 1, "tid": 2, "ts": micros(step.start + began),
                "dur": micros(end - began), "name": node.whole, "cat": node.op,
                "args": {"bytes": costs.bytes, "operations": costs.ops},
            });
            if written.is_ok() {
                written = write!(out, ",\n{event}");
            }
        });
        written?;
        writeln!(out, "\n]}}")
    }
}

/// The tables: operations of prompts, operations of generation, layers.
impl fmt::Display for Profile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.operations(f, Phase::Prompt)?;
        self.operations(f, Phase::Generation)?;
        self.layers(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(layer("blk.12.attn_out"), (Some(12), "attn_out"));
        assert_eq!(layer("output"), (None, "output"));
        assert_eq!(layer("blk.x.y"), (None, "blk.x.y"));
    }
}
