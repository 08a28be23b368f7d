//! A part of the suite for where all of it takes too long, such as under an emulator.
//!
//! What a case tries shows in it: the operations with every field that is set and every choice that
//! has a name, the formats of the weights they read, the types of states, the sizes that fill a
//! register and those that do not, what the batches do. The part is chosen so that all of this is
//! in it, by the cheapest case that has it; so an operation, a field or a format that is new to the
//! suite is in the part too.

use crate::cases::Case;
use crate::work::{Edit, Work};
use gristmill_ir::{Op, Program, Ref};
use std::collections::{BTreeMap, BTreeSet};

/// Of these cases the cheapest that together try all that they try.
pub fn short(mut cases: Vec<Case>) -> Vec<Case> {
    cases.sort_by_cached_key(cost);
    let mut chosen: Vec<(Case, BTreeSet<String>)> = vec![];
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for case in cases {
        let tried = tries(&case);
        if tried.iter().any(|what| !times.contains_key(what)) {
            tried.iter().for_each(|what| *times.entry(what.clone()).or_default() += 1);
            chosen.push((case, tried));
        }
    }
    // A dearer one may have all that a cheaper one was taken for.
    for at in (0..chosen.len()).rev() {
        let tried = &chosen[at].1;
        if tried.iter().all(|what| times[what] > 1) {
            tried.iter().for_each(|what| *times.entry(what.clone()).or_default() -= 1);
            chosen.remove(at);
        }
    }
    chosen.into_iter().map(|(case, _)| case).collect()
}

/// About how many products a case takes: those of its matrices and those of its attention.
pub fn cost(case: &Case) -> u64 {
    let p = &case.program;
    let matrices = p.tensors.iter().map(|t| u64::from(t.rows) * u64::from(t.cols));
    let matrices: u64 = matrices.sum();
    let caches: u64 =
        p.groups.len() as u64 * p.values.iter().map(|v| u64::from(v.width)).sum::<u64>();
    let of = |w: &Work| {
        let keys = |p: &crate::work::Part| p.len() as u64 * u64::from(p.kv_len());
        let tokens = w.tokens().count() as u64;
        tokens * matrices + w.parts.iter().map(keys).sum::<u64>() * caches
    };
    case.works.iter().map(of).sum()
}

/// Everything that a case tries, in words.
pub fn tries(case: &Case) -> BTreeSet<String> {
    let p = &case.program;
    let mut all = BTreeSet::new();
    let text = p.to_string();
    for line in text.lines() {
        match line.split_once(" = ") {
            Some((_, op)) => all.extend(forms(op.split(" # ").next().unwrap_or(op))),
            // Numbers of states and widths of outputs are of no concern, their types are.
            None if line.starts_with("state") || line.starts_with("output") => {
                let kinds = line.split(' ').filter(|w| w.starts_with(char::is_alphabetic));
                let kinds: Vec<&str> = kinds.filter(|w| !w.contains('=')).collect();
                all.insert(kinds.join(" "));
            }
            None => {}
        }
    }
    for node in &p.nodes {
        matrices(&node.op, case, &mut all);
    }
    for (t, _) in p.tensors.iter().zip(p.meets_zeros()).filter(|t| t.1) {
        let dtype = case.weights.dtype(&t.name).map(|d| d.to_string()).unwrap_or_default();
        all.insert(format!("zeros meet {dtype}, {:?}", case.options.activations));
    }
    all.insert(format!("batch_invariant={}", case.options.batch_invariant));
    for work in &case.works {
        batches(work, p, &mut all);
    }
    all
}

/// What an operation in the text form has: fields, choices by name, lengths of lists, and whether a
/// size is one, fills registers, or does not.
fn forms(op: &str) -> Vec<String> {
    let mut words = op.split(['(', ')', '[', ']', ',', ' ']).filter(|w| !w.is_empty());
    let name = words.next().unwrap_or_default();
    let mut fields: Vec<(String, usize)> = vec![(name.to_owned(), 0)];
    for word in words {
        match (word.split_once('='), fields.last_mut()) {
            (Some((field, value)), _) => {
                let said = match value.parse::<u32>() {
                    Ok(n) => format!("{name} {field}={}", size(n)),
                    Err(_) if value.starts_with(char::is_alphabetic) => format!("{name} {word}"),
                    Err(_) => format!("{name} {field}"),
                };
                fields.push((said, 0));
            }
            (None, Some(list)) => list.1 += 1,
            (None, None) => {}
        }
    }
    fields.into_iter().map(|(field, items)| format!("{field} {items}")).collect()
}

fn size(n: u32) -> &'static str {
    match n {
        1 => "one",
        n if n.is_multiple_of(16) => "whole",
        _ => "odd",
    }
}

/// The matrices that an operation reads: their formats, each with the form of the activations that
/// it meets, and the kinds of their sizes.
fn matrices(op: &Op, case: &Case, all: &mut BTreeSet<String>) {
    let p = &case.program;
    let activations = match Program::inputs(op).as_slice() {
        [] => "nothing".to_owned(),
        _ => format!("{:?}", case.options.activations),
    };
    let mut formats = BTreeSet::new();
    op.visit(&mut |r| {
        let Ref::Tensor(t) = r else { return };
        let t = p.decl(t);
        let dtype = case.weights.dtype(&t.name).filter(|_| t.rows > 1);
        let Some(dtype) = dtype.map(|d| d.to_string()) else { return };
        all.insert(format!("{} of {dtype} with {activations}", op.name()));
        formats.insert(dtype);
        for (what, n) in [("rows", t.rows), ("columns", t.cols), ("experts", t.experts)] {
            all.insert(format!("{} of {} {what}", op.name(), size(n)));
        }
    });
    all.insert(format!("{} of {} formats", op.name(), formats.len()));
}

/// What a step does with its sequences.
fn batches(work: &Work, p: &Program, all: &mut BTreeSet<String>) {
    for edit in &work.edits {
        all.insert(match edit {
            Edit::Fork { .. } => "fork".to_owned(),
            Edit::Share { .. } => "share".to_owned(),
            Edit::Key { .. } => "key".to_owned(),
        });
    }
    let (tokens, seqs) = (work.tokens().count(), work.parts.len());
    all.insert(format!("one sequence: {}, one token each: {}", seqs == 1, tokens == seqs));
    for part in &work.parts {
        if !part.ancestors.is_empty() {
            all.insert("tree".into());
        }
        if !part.types.is_empty() {
            all.insert("types".into());
        }
        let ahead = part.visible.iter().zip(&part.kv_index).any(|(v, i)| v[1] > i + 1);
        all.insert(format!("sees ahead: {ahead}"));
        for group in &p.groups {
            // More than a backend may compute in one piece.
            let long = part.kv_len() > 512;
            all.insert(format!("long: {long}, a window: {}", group.window.is_some()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases;
    use gristmill_core::{DType, quant};
    use gristmill_ir::Activations;

    /// Counted apart from how it is chosen: every operation, every block format in a matrix with
    /// both kinds of activations.
    #[test]
    fn a_part_has_everything() {
        let all = cases::all();
        let whole: u64 = all.iter().map(cost).sum();
        let (cases, ops) = (all.len(), ops(&all));
        let part = short(all);
        let cost: u64 = part.iter().map(cost).sum();
        println!(
            "{} of {cases} cases, {:.0} % of the work",
            part.len(),
            100.0 * cost as f64 / whole as f64
        );
        assert_eq!(self::ops(&part), ops);
        assert!(5 * cost < whole, "that is not short");
        for dtype in DType::all().filter(|d| d.block_len() > 1 && quant::is_supported(*d)) {
            for activations in [Activations::F32, Activations::Int8] {
                let is = |c: &&Case| {
                    c.program.nodes.iter().any(|n| matches!(n.op, Op::Linear { .. }))
                        && c.weights.dtypes().any(|d| d == dtype)
                        && c.options.activations == activations
                };
                assert!(part.iter().any(|c| is(&c)), "{dtype} with {activations:?}");
            }
        }
    }

    fn ops(cases: &[Case]) -> BTreeSet<&'static str> {
        cases.iter().flat_map(|c| &c.program.nodes).map(|n| n.op.name()).collect()
    }
}
