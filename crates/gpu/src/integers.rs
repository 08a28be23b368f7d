//! The integers of a step: checked, and laid out as kernels read them (`step.wgsl`, `step.h`).

use gristmill_core::{Error, Result};
use gristmill_ir::{Batch, Layout, Move, Op, Program, State, StateKind, Tensor, Token};

/// Words of the head.
const HEAD: usize = 32;
/// Where a device puts how many share the keys of a sequence, if it wants that in the head.
pub const SPLITS: usize = 3;
/// The topmost bit tells a slot from an id.
const SLOT: u32 = 1 << 31;

/// Bounds that a program sets to its batches.
#[derive(Clone, Debug, Default)]
pub struct Bounds {
    /// Windows of the page groups.
    pub windows: Vec<Option<u32>>,
    /// Rows of the tables of ids, positions and types.
    pub tables: [u32; 3],
    /// Elements of a row of each input that is read.
    pub inputs: [Option<u32>; 2],
    /// Whether states lie in slots.
    pub recurrent: bool,
    /// Tokens of a sequence that slots have rows for.
    pub slot_rows: u32,
    /// Whether sequences need times, and the cumulative alphas that these are of.
    pub timed: bool,
    /// See [`Bounds::timed`].
    pub schedules: Vec<Vec<f32>>,
}

impl Bounds {
    /// What the tables, inputs and slots of a program bound; `schedule` gives the values of one.
    ///
    /// # Errors
    /// Those of `schedule`.
    pub fn of(
        program: &Program,
        mut schedule: impl FnMut(Tensor) -> Result<Vec<f32>>,
    ) -> Result<Bounds> {
        let mut bounds = Bounds {
            windows: program.groups.iter().map(|g| g.window).collect(),
            recurrent: program.states.iter().any(|s| matches!(s, StateKind::Slot { .. })),
            tables: [u32::MAX; 3],
            inputs: [None; 2],
            slot_rows: u32::MAX,
            timed: false,
            schedules: vec![],
        };
        let rows = |state: &State, width: u32| match program.states[state.index()] {
            StateKind::Slot { elems, .. } => elems / width.max(1),
            StateKind::Paged { .. } => u32::MAX,
        };
        for n in &program.nodes {
            match &n.op {
                Op::Embed { table, positions, types, .. } => {
                    let tables = [Some(*table), *positions, *types];
                    for (bound, table) in bounds.tables.iter_mut().zip(tables) {
                        if let Some(t) = table {
                            *bound = (*bound).min(program.decl(t).rows);
                        }
                    }
                }
                Op::Read { input, width } => bounds.inputs[*input as usize] = Some(*width),
                Op::LoadSlot { state, width } => {
                    bounds.slot_rows = bounds.slot_rows.min(rows(state, *width));
                }
                Op::StoreSlot { x, state } => {
                    let width = program.shape(*x).width;
                    bounds.slot_rows = bounds.slot_rows.min(rows(state, width));
                }
                Op::TimeEmbed { .. } => bounds.timed = true,
                Op::Denoise { schedule: s, .. } => {
                    bounds.timed = true;
                    bounds.schedules.push(schedule(*s)?);
                }
                _ => {}
            }
        }
        Ok(bounds)
    }
}

/// Built anew in each step, in the same memory.
pub struct Integers {
    /// The head, then the arrays.
    pub words: Vec<u32>,
    /// For [`Batch::check_slots`].
    writers: Vec<u32>,
}

fn bad(what: impl Into<String>) -> Error {
    Error::Runtime(format!("batch: {}", what.into()))
}

impl Integers {
    /// Room for the largest step of a layout.
    pub fn new(layout: &Layout) -> Integers {
        let mut new = Integers { words: vec![], writers: vec![0; layout.slots as usize] };
        new.words.reserve(new.expected(layout) as usize);
        new
    }

    /// Words that a step of the layout takes, where sequences share no pages.
    pub fn expected(&self, layout: &Layout) -> u64 {
        let (tokens, seqs) = (u64::from(layout.max.tokens), u64::from(layout.max.seqs));
        let pages: u64 = layout.pages.iter().map(|&p| u64::from(p)).sum();
        let groups = layout.pages.len() as u64;
        HEAD as u64
            + 12 * tokens
            + 10 * (seqs + 1)
            + pages
            + groups * seqs
            + u64::from(layout.max.rows)
            + 64
    }

    /// Checks a batch and lays it out. Gives nothing if it is refused.
    ///
    /// # Errors
    /// [`Error::Runtime`] for what does not exist or does not fit; [`Error::Usage`] for ids and
    /// positions outside of the model's tables.
    pub fn fill(
        &mut self,
        b: &Batch<'_>,
        layout: &Layout,
        bounds: &Bounds,
        sampled: &[bool],
        inputs: &[Vec<f32>; 2],
    ) -> Result<()> {
        b.check_arrays()?;
        check_tables(b, bounds, sampled)?;
        check_moves(b.moves, layout)?;
        if bounds.recurrent {
            b.check_slots(&mut self.writers)?;
        }
        check_times(b, bounds)?;
        for (g, &window) in bounds.windows.iter().enumerate() {
            check_group(b, layout, g, window, bounds.windows.len())?;
        }
        let (tokens, seqs) = (b.tokens.len(), b.kv_len.len());
        let w = &mut self.words;
        w.clear();
        w.resize(HEAD, 0);
        (w[0], w[1], w[2]) = (tokens as u32, seqs as u32, b.rows.len() as u32);
        w[4] = b.moves.len() as u32;
        let begin = |w: &mut Vec<u32>, place: usize, n: usize| {
            w[place] = if n > 0 { w.len() as u32 } else { 0 };
        };
        begin(w, 8, tokens);
        w.extend(b.tokens.iter().map(|t| match *t {
            Token::Id(id) => id,
            Token::Last(slot) => slot | SLOT,
        }));
        let mut array = |place: usize, values: &[u32]| {
            begin(w, place, values.len());
            w.extend_from_slice(values);
        };
        array(9, b.types);
        array(10, b.positions.as_flattened());
        array(11, b.kv_index);
        array(12, b.visible.as_flattened());
        array(13, bytemuck::cast_slice(b.ancestors));
        array(14, b.seq_starts);
        array(15, b.tree_base);
        array(16, b.pages);
        array(17, b.page_starts);
        array(18, b.rows);
        if bounds.recurrent {
            array(22, b.state_in);
            array(23, b.state_out);
        }
        array(24, b.times.as_flattened());
        array(25, bytemuck::cast_slice(b.seeds));
        begin(w, 19, b.moves.len());
        for m in b.moves {
            w.extend(match *m {
                Move::Row { group, from, to } => [u32::from(group), from, to],
                Move::Page { group, from, to } => [1 << 8 | u32::from(group), from, to],
                Move::Slot { from, to } => [2 << 8, from, to],
            });
        }
        for (i, width) in bounds.inputs.iter().enumerate() {
            let Some(width) = *width else { continue };
            let (got, needed) = (inputs[i].len(), tokens * width as usize);
            if got != needed {
                return Err(Error::Runtime(format!(
                    "{got} numbers were written where the step reads {needed}"
                )));
            }
            begin(w, 20 + i, got);
            w.extend(inputs[i].iter().map(|v| v.to_bits()));
        }
        Ok(())
    }
}

/// The slot whose content a slot has once the copies are done.
fn moved_from(moves: &[Move], slot: u32) -> u32 {
    let back = |held: u32, m: &Move| match *m {
        Move::Slot { from, to } if to == held => from,
        _ => held,
    };
    moves.iter().rev().fold(slot, back)
}

/// Ids, positions and types within the model's tables, slots that have sampled.
fn check_tables(b: &Batch<'_>, bounds: &Bounds, sampled: &[bool]) -> Result<()> {
    let [ids, positions, types] = bounds.tables;
    let outside = |what: &str, v: u32, n: u32| {
        Err(Error::Usage(format!("{what} {v} is outside the model's table of {n}")))
    };
    for t in b.tokens {
        match *t {
            Token::Id(id) if id >= ids || id >= SLOT => return outside("token id", id, ids),
            Token::Last(slot) if sampled.get(moved_from(b.moves, slot) as usize) != Some(&true) => {
                return Err(bad("a slot whose last token was never sampled"));
            }
            _ => {}
        }
    }
    if let Some(p) = b.positions.iter().find(|p| p[0] >= positions) {
        return outside("position", p[0], positions);
    }
    match b.types.iter().find(|&&t| t >= types) {
        Some(&t) => outside("token type", t, types),
        None => Ok(()),
    }
}

/// Sequences fit into their slots, and every one has times from which and to which there is a step.
fn check_times(b: &Batch<'_>, bounds: &Bounds) -> Result<()> {
    let most = bounds.slot_rows;
    if let Some(w) = b.seq_starts.windows(2).find(|w| w[1] - w[0] > most) {
        return Err(bad(format!("{} tokens for a slot of {most} rows", w[1] - w[0])));
    }
    if !bounds.timed {
        return Ok(());
    }
    let (got, seqs) = (b.times.len(), b.kv_len.len());
    if got != seqs {
        return Err(bad(format!("times of {got} of {seqs} sequences")));
    }
    if b.times.iter().any(|t| t[0] == u32::MAX) {
        return Err(bad("a step from the end"));
    }
    if !b.seeds.is_empty() && b.seeds.len() != seqs {
        return Err(bad("seeds of another number of sequences"));
    }
    for alphas in &bounds.schedules {
        for &[from, to] in b.times {
            let alpha = |t: u32| alphas.get(t as usize).copied();
            let next = if to == u32::MAX { Some(1.0) } else { alpha(to) };
            if alpha(from).is_none_or(|a| next.is_none_or(|n| n < a)) {
                return Err(bad(format!(
                    "from time {from} to {to}, which is none of {} or has more noise",
                    alphas.len()
                )));
            }
        }
    }
    Ok(())
}

fn check_moves(moves: &[Move], layout: &Layout) -> Result<()> {
    let below = |what: &str, n: u32, end: u64| match u64::from(n) < end {
        true => Ok(()),
        false => Err(Error::Runtime(format!("{what} {n} does not exist"))),
    };
    for m in moves {
        let (what, pair, end) = match *m {
            Move::Slot { from, to } => ("slot", [from, to], u64::from(layout.slots)),
            Move::Page { group, from, to } | Move::Row { group, from, to } => {
                let Some(&pages) = layout.pages.get(usize::from(group)) else {
                    return Err(Error::Runtime(format!("page group {group} does not exist")));
                };
                match m {
                    Move::Page { .. } => ("page", [from, to], u64::from(pages)),
                    _ => ("row", [from, to], u64::from(pages) * u64::from(layout.page_tokens)),
                }
            }
        };
        pair.into_iter().try_for_each(|n| below(what, n, end))?;
    }
    Ok(())
}

/// Whether every key that is seen or written in a page group lies in a page.
fn check_group(
    b: &Batch<'_>,
    layout: &Layout,
    g: usize,
    window: Option<u32>,
    groups: usize,
) -> Result<()> {
    let seqs = b.kv_len.len();
    let starts_ok = b.page_starts.len() == groups * seqs + 1
        && b.page_starts.last().is_some_and(|&end| end as usize == b.pages.len())
        && b.page_starts.windows(2).all(|w| w[0] <= w[1]);
    if !starts_ok {
        return Err(bad("page_starts do not divide the pages"));
    }
    let (p, pages) = (layout.page_tokens, layout.pages[g]);
    for s in 0..seqs {
        let starts = &b.page_starts[g * seqs + s..];
        let held = &b.pages[starts[0] as usize..starts[1] as usize];
        for t in b.seq_starts[s] as usize..b.seq_starts[s + 1] as usize {
            let index = b.kv_index[t];
            let [from, to] = b.visible[t];
            if from >= to || to > b.kv_len[s] || index >= b.kv_len[s] {
                return Err(bad(format!("token {t} sees {from}..{to} of {}", b.kv_len[s])));
            }
            let first = window.map_or(0, |w| index.saturating_add(1).saturating_sub(w));
            let from = from.max(first);
            if from >= to {
                return Err(bad(format!("token {t} sees nothing within its window")));
            }
            if held.len() * (p as usize) < to.max(index + 1) as usize {
                return Err(bad(format!("sequence {s} has no page for key {to}")));
            }
            let needed = (from / p..=(to - 1) / p).chain([index / p]);
            if let Some(page) = needed.map(|i| held[i as usize]).find(|&page| page >= pages) {
                return Err(bad(format!("page {page} of {pages} in group {g}")));
            }
        }
    }
    Ok(())
}
