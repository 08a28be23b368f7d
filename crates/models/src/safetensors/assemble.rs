//! The tensors that programs name, out of those that files hold.

use super::container::{Entry, Kind as Stored};
use super::names::{Part, Target, target};
use super::packed::{Parts, Role};
use super::quantization::Quantization;
use crate::gguf::{PackedPieces, Pick, Piece, Recipe, TensorInfo};
use crate::source::Source;
use gristmill_core::{DType, Error, Result};
use std::collections::{BTreeMap, HashMap};

/// A tensor and, where it is made, from what.
pub(super) type Made = (TensorInfo<'static>, Option<Recipe>);

/// A tensor of a file, which is the model's `part`th.
#[derive(Clone, Copy)]
pub(super) struct Held<'a> {
    pub(super) part: usize,
    pub(super) entry: &'a Entry,
}

impl Held<'_> {
    pub(super) fn piece(&self) -> Piece {
        Piece { part: self.part, range: self.entry.range.clone() }
    }
}

/// What decides which tensors a model has.
pub(super) struct Kind {
    /// The field `model_type`.
    pub(super) model_type: &'static str,
    /// How matrices are stored that are no floats.
    pub(super) quantization: Option<Quantization>,
    /// First rows of the table of positions that stand for none.
    pub(super) unused_positions: usize,
}

impl Kind {
    /// What a tensor is to the model; of a quantized matrix, what the matrix is, and the layer and
    /// the tensor's role in it.
    pub(super) fn place<'n>(&self, name: &'n str) -> (Option<Target>, Option<(&'n str, Role)>) {
        if let Some((layer, role)) = self.quantization.as_ref().and_then(|q| q.part(name))
            && let Some(to) = target(self.model_type, &format!("{layer}.weight"))
        {
            return (Some(to), Some((layer, role)));
        }
        (target(self.model_type, name), None)
    }
}

/// The head of a model, as programs call it.
pub(super) const OUTPUT: &str = "output.weight";
/// The table of positions.
const POSITIONS: &str = "position_embd.weight";

/// Gives every tensor its place in a model, in the order of `files`; quantized matrices come last.
/// What is no part of a decoder keeps its name. The head of a `tied` model is the table of its tokens.
///
/// # Errors
/// [`Error::Model`] that lists every tensor that does not fit: of a type that is not implemented, a
/// stack with members missing or unlike, experts of another shape, what cannot be packed.
pub(super) fn assemble(
    name: &str,
    kind: &Kind,
    tied: bool,
    held: &[Held<'_>],
    files: &[Source],
) -> Result<Vec<Made>> {
    let mut a = Assembly { model_type: kind.model_type, made: vec![], wrong: vec![] };
    let mut stacks: BTreeMap<String, BTreeMap<usize, Held<'_>>> = BTreeMap::new();
    let mut experts: BTreeMap<String, HashMap<Part, Held<'_>>> = BTreeMap::new();
    let mut quantized: BTreeMap<&str, (Target, Parts<'_>)> = BTreeMap::new();
    for &h in held {
        let name = &h.entry.name;
        match kind.place(name) {
            (Some(to), Some((layer, role))) => {
                quantized.entry(layer).or_insert((to, Parts::default())).1.set(role, h);
            }
            (Some(Target::Whole(to)), _) if to == OUTPUT && tied => {}
            (Some(Target::Whole(to)), _) if to == POSITIONS && kind.unused_positions > 0 => {
                a.without_rows(to, h, kind.unused_positions);
            }
            (Some(Target::Whole(to)), _) => a.whole(to, h),
            (Some(Target::Turned(to)), _) => match h.entry.shape[..] {
                [rows, cols] => a.columns(to, h, [1, rows, cols], Pick::all(cols)),
                _ => a.misshapen(h),
            },
            (Some(Target::Member { stack, index }), _) => {
                if stacks.entry(stack).or_default().insert(index, h).is_some() {
                    a.wrong.push(format!("tensor '{name}' is there under two names"));
                }
            }
            (Some(Target::Experts { blk, part }), _) => {
                if experts.entry(blk).or_default().insert(part, h).is_some() {
                    a.wrong.push(format!("tensor '{name}' is there under two names"));
                }
            }
            (None, _) => {
                // Not ours to judge: a type that is not implemented does not matter here.
                if let Stored::Number(_) = h.entry.kind {
                    a.whole(name.clone(), h);
                }
            }
        }
    }
    for (name, members) in stacks {
        a.stack(name, &members);
    }
    for (blk, parts) in experts {
        a.experts(&blk, &parts);
    }
    if let Some(q) = &kind.quantization {
        a.quantized(q, tied, quantized, files);
    }
    if a.wrong.is_empty() {
        return Ok(a.made);
    }
    let (n, list) = (a.wrong.len(), a.wrong.join("\n  "));
    Err(Error::model(name, format!("{n} tensors cannot be used:\n  {list}")))
}

struct Assembly<'m> {
    model_type: &'m str,
    made: Vec<Made>,
    wrong: Vec<String>,
}

/// A row of the table for a tensor of this shape, the slowest dimension first; more than four are
/// folded into the slowest.
fn info(name: String, dtype: DType, slowest_first: &[usize]) -> Option<TensorInfo<'static>> {
    let mut shape = [1usize; 4];
    for (i, &d) in slowest_first.iter().rev().enumerate() {
        shape[i.min(3)] = shape[i.min(3)].checked_mul(d)?;
    }
    let rows = shape[1..].iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    let bytes = dtype.bytes(shape[0])?.checked_mul(rows)?;
    let n_dims = slowest_first.len().min(4);
    let name = name.into();
    Some(TensorInfo { name, dtype, shape, n_dims, offset: 0, bytes, part: 0 })
}

impl Assembly<'_> {
    /// The type of a weight.
    fn number(&mut self, h: Held<'_>) -> Option<DType> {
        match h.entry.kind {
            Stored::Number(dtype) => Some(dtype),
            Stored::Other(kind) => {
                let name = &h.entry.name;
                self.wrong.push(format!("'{name}' is of type {kind}, which is not implemented"));
                None
            }
        }
    }

    /// Takes a tensor as it is.
    fn whole(&mut self, name: String, h: Held<'_>) {
        let Some(dtype) = self.number(h) else { return };
        let Some(mut t) = info(name, dtype, &h.entry.shape) else { return self.misshapen(h) };
        (t.offset, t.part) = (h.entry.range.start, h.part);
        self.made.push((t, None));
    }

    /// Takes a table but for its first rows.
    fn without_rows(&mut self, name: String, h: Held<'_>, first: usize) {
        match h.entry.shape[..] {
            [rows, cols] if rows > first => {
                let pick = Pick { first, step: 1, count: rows - first };
                self.rows(name, h, [1, rows, cols], pick);
            }
            _ => self.misshapen(h),
        }
    }

    fn misshapen(&mut self, h: Held<'_>) {
        let Entry { name, shape, .. } = h.entry;
        self.wrong.push(format!("'{name}' of shape {shape:?} does not fit the others"));
    }

    fn add(&mut self, name: String, dtype: DType, shape: &[usize], recipe: Recipe, h: Held<'_>) {
        match info(name, dtype, shape) {
            Some(t) => self.made.push((t, Some(recipe))),
            None => self.misshapen(h),
        }
    }

    /// One matrix an expert.
    fn stack(&mut self, name: String, members: &BTreeMap<usize, Held<'_>>) {
        let Some(&first) = members.values().next() else { return };
        let Some(dtype) = self.number(first) else { return };
        if let Some(missing) = (0..members.len()).find(|i| !members.contains_key(i)) {
            return self.wrong.push(format!("'{name}' lacks the tensor of expert {missing}"));
        }
        for &h in members.values() {
            if h.entry.shape != first.entry.shape || h.entry.kind != first.entry.kind {
                return self.misshapen(h);
            }
        }
        let shape = [&[members.len()], first.entry.shape.as_slice()].concat();
        let recipe = Recipe::Join(members.values().map(Held::piece).collect());
        self.add(name, dtype, &shape, recipe, first);
    }

    /// Quantized matrices, by layer.
    fn quantized(
        &mut self,
        q: &Quantization,
        tied: bool,
        layers: BTreeMap<&str, (Target, Parts<'_>)>,
        files: &[Source],
    ) {
        let mut stacks: BTreeMap<String, BTreeMap<usize, PackedPieces>> = BTreeMap::new();
        for (layer, (to, parts)) in layers {
            if tied && to == Target::Whole(OUTPUT.into()) {
                continue;
            }
            let pieces = match q.matrix(layer, &parts, files) {
                Ok(pieces) => pieces,
                Err(e) => {
                    self.wrong.push(e.to_string());
                    continue;
                }
            };
            match to {
                Target::Whole(to) | Target::Turned(to) => {
                    let shape = [pieces.form.rows, pieces.form.cols];
                    self.packed(to, &shape, vec![pieces]);
                }
                Target::Member { stack, index } => {
                    if stacks.entry(stack).or_default().insert(index, pieces).is_some() {
                        self.wrong.push(format!("'{layer}' is there under two names"));
                    }
                }
                Target::Experts { .. } => {
                    let what = "has all experts in one quantized tensor, which is not read";
                    self.wrong.push(format!("'{layer}' {what}"));
                }
            }
        }
        for (name, members) in stacks {
            let what = |p: &PackedPieces| (p.dtype, [members.len(), p.form.rows, p.form.cols]);
            let Some((dtype, shape)) = members.values().next().map(what) else { continue };
            if let Some(missing) = (0..members.len()).find(|i| !members.contains_key(i)) {
                self.wrong.push(format!("'{name}' lacks the tensor of expert {missing}"));
            } else if let Some(i) = members.values().position(|p| what(p) != (dtype, shape)) {
                self.wrong.push(format!("'{name}' has an expert {i} unlike the first"));
            } else {
                self.packed(name, &shape, members.into_values().collect());
            }
        }
    }

    fn packed(&mut self, name: String, shape: &[usize], matrices: Vec<PackedPieces>) {
        let Some(dtype) = matrices.first().map(|m| m.dtype) else { return };
        match info(name.clone(), dtype, shape) {
            Some(t) => self.made.push((t, Some(Recipe::Packed(matrices)))),
            None => self.wrong.push(format!("'{name}' of shape {shape:?} is too large")),
        }
    }

    /// All experts of a layer in tensors of their own shapes.
    fn experts(&mut self, blk: &str, parts: &HashMap<Part, Held<'_>>) {
        let name = |s: &str| format!("{blk}.ffn_{s}");
        let get = |part: Part| parts.get(&part).copied();
        // gpt-oss has inputs before outputs, and the rows of gate and up in turn.
        let turned = self.model_type == "gpt_oss";
        if let Some(h) = get(Part::GateUp) {
            self.gate_up(blk, h, turned);
        }
        if let Some(h) = get(Part::Down) {
            match (&h.entry.shape[..], turned) {
                (&[experts, inner, width], true) => {
                    let pick = Pick::all(width);
                    self.columns(name("down_exps.weight"), h, [experts, inner, width], pick);
                }
                _ => self.whole(name("down_exps.weight"), h),
            }
        }
        if let Some(h) = get(Part::GateUpBias) {
            self.gate_up_bias(blk, h);
        }
        if let Some(h) = get(Part::DownBias) {
            self.whole(name("down_exps.bias"), h);
        }
        for (blocks, scales, gate_up) in [
            (Part::GateUpBlocks, Part::GateUpScales, true),
            (Part::DownBlocks, Part::DownScales, false),
        ] {
            match (get(blocks), get(scales)) {
                (Some(b), Some(s)) => self.mxfp4(blk, [b, s], gate_up),
                (None, None) => {}
                (Some(h), None) | (None, Some(h)) => {
                    let own = &h.entry.name;
                    self.wrong.push(format!("'{own}' is there without its blocks or its scales"));
                }
            }
        }
    }

    fn columns(
        &mut self,
        name: String,
        h: Held<'_>,
        [matrices, rows, cols]: [usize; 3],
        pick: Pick,
    ) {
        let Some(dtype) = self.number(h) else { return };
        let of = h.piece();
        let element = h.entry.range.len() / (matrices * rows * cols).max(1);
        let recipe = Recipe::Columns { of, matrices, rows, cols, element, pick };
        self.add(name, dtype, &[matrices, pick.count, rows], recipe, h);
    }

    fn rows(&mut self, name: String, h: Held<'_>, [matrices, rows, cols]: [usize; 3], pick: Pick) {
        let Some(dtype) = self.number(h) else { return };
        let row_bytes = h.entry.range.len() / (matrices * rows).max(1);
        let recipe = Recipe::Rows { of: h.piece(), matrices, rows, row_bytes, pick };
        self.add(name, dtype, &[matrices, pick.count, cols], recipe, h);
    }

    /// Gate and up: rows or columns in turn, or one half after the other.
    fn gate_up(&mut self, blk: &str, h: Held<'_>, turned: bool) {
        let &[experts, a, b] = &h.entry.shape[..] else { return self.misshapen(h) };
        let both = if turned { b } else { a };
        let count = both / 2;
        if both % 2 != 0 || count == 0 {
            return self.misshapen(h);
        }
        for (i, part) in ["gate", "up"].into_iter().enumerate() {
            let name = format!("{blk}.ffn_{part}_exps.weight");
            match turned {
                true => self.columns(name, h, [experts, a, b], Pick { first: i, step: 2, count }),
                false => {
                    let pick = Pick { first: i * count, step: 1, count };
                    self.rows(name, h, [experts, a, b], pick);
                }
            }
        }
    }

    /// Biases of gate and up in turn.
    fn gate_up_bias(&mut self, blk: &str, h: Held<'_>) {
        let &[experts, both] = &h.entry.shape[..] else { return self.misshapen(h) };
        let Some(dtype) = self.number(h) else { return };
        if both % 2 != 0 {
            return self.misshapen(h);
        }
        let row_bytes = h.entry.range.len() / (experts * both);
        for (first, part) in ["gate", "up"].into_iter().enumerate() {
            let pick = Pick { first, step: 2, count: both / 2 };
            let of = h.piece();
            let recipe = Recipe::Rows { of, matrices: experts, rows: both, row_bytes, pick };
            let name = format!("{blk}.ffn_{part}_exps.bias");
            self.add(name, dtype, &[experts, both / 2], recipe, h);
        }
    }

    /// Blocks `[experts, rows, blocks of a row, 16]` and scales without the last dimension.
    fn mxfp4(&mut self, blk: &str, [blocks, scales]: [Held<'_>; 2], gate_up: bool) {
        let (&[experts, rows, row_blocks, 16], U8) = (&blocks.entry.shape[..], blocks.entry.kind)
        else {
            return self.misshapen(blocks);
        };
        if scales.entry.shape != [experts, rows, row_blocks] || scales.entry.kind != U8 {
            return self.misshapen(scales);
        }
        let picks: &[(&str, Pick)] = match gate_up {
            true if rows % 2 != 0 => return self.misshapen(blocks),
            true => &[
                ("gate", Pick { first: 0, step: 2, count: rows / 2 }),
                ("up", Pick { first: 1, step: 2, count: rows / 2 }),
            ],
            false => &[("down", Pick::all(rows))],
        };
        for &(part, pick) in picks {
            let name = format!("{blk}.ffn_{part}_exps.weight");
            let (b, s) = (blocks.piece(), scales.piece());
            let recipe =
                Recipe::Mxfp4 { blocks: b, scales: s, matrices: experts, rows, row_blocks, pick };
            let shape = [experts, pick.count, row_blocks * 32];
            self.add(name, DType::MXFP4, &shape, recipe, blocks);
        }
    }
}

/// Bytes that are no numbers by themselves.
const U8: Stored = Stored::Other("U8");
