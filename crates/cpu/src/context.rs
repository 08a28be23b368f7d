//! Everything with a fixed address: states, the workspace, the integers of a step.

use crate::kernels::attention::{Item, SPAN, TILE, VALUE_BLOCK};
use crate::memory::Buffer;
use crate::plan::{Marks, Plan};
use crate::sample::Candidate;
use gristmill_core::{Error, Result};
use gristmill_ir::{
    Batch, Layout, Ledger, Move, Output, Results, Rows, StateKind, Step, Times, Token,
};
use std::ops::Range;

/// Memory of one state.
pub(crate) enum StateMemory {
    /// Keys `[page][element][token]`, values `[page][block][token][element]`, see
    /// [`VALUE_BLOCK`]; bytes of a page of each, and of an element of each.
    Paged {
        group: usize,
        k: Buffer,
        v: Buffer,
        k_page: usize,
        v_page: usize,
        k_elem: usize,
        v_elem: usize,
    },
    /// `[slot][elems]`.
    Slot { slots: Buffer, bytes: usize },
}

/// Where a result of the latest step lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub output: Output,
    pub offset: usize,
    pub width: usize,
    pub rows: Rows,
}

/// States, workspace and rings of one engine.
pub struct Context {
    pub(crate) layout: Layout,
    pub(crate) states: Vec<StateMemory>,
    pub(crate) workspace: Buffer,
    pub(crate) ints: Integers,
    /// The last sampled token of each slot.
    pub(crate) last: Vec<u32>,
    /// Rows written by the host, for each input.
    pub(crate) inputs: [Vec<f32>; 2],
    pub(crate) step: u64,
    /// Copies to and from host memory so far.
    pub(crate) copies: u64,
    /// Results of the step that is latest.
    pub(crate) placed: Vec<Placed>,
    /// Results of the steps in flight, by number.
    pub(crate) results: Vec<(u64, Results)>,
    pub(crate) host: Vec<Buffer>,
    /// A slot of every state, one after the other.
    pub(crate) host_slot: Buffer,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) adjusted: Vec<f32>,
    pub(crate) ledger: Ledger,
    pub(crate) poison: bool,
    /// While steps are timed: of the step that is latest, and of those in flight as in `results`.
    pub(crate) marks: Option<Marks>,
    pub(crate) times: Vec<(u64, Times)>,
}

/// The integers of a step, resolved and checked; allocated once.
#[derive(Default)]
pub(crate) struct Integers {
    pub ids: Vec<u32>,
    pub types: Vec<u32>,
    pub positions: Vec<[u32; 3]>,
    pub kv_index: Vec<u32>,
    pub visible: Vec<[u32; 2]>,
    pub ancestors: Vec<u64>,
    pub seq_starts: Vec<u32>,
    /// Slots that the state of each sequence is read from and written to; empty without slots.
    pub state_in: Vec<u32>,
    pub state_out: Vec<u32>,
    /// Which sequence writes each slot.
    writers: Vec<u32>,
    /// Diffusion times of each sequence and the keys of its noise; empty where there are none.
    pub times: Vec<[u32; 2]>,
    pub seeds: Vec<u64>,
    pub pages: Vec<u32>,
    pub rows: Vec<u32>,
    pub groups: Vec<GroupWork>,
}

/// What attention over one page group needs.
#[derive(Default)]
pub(crate) struct GroupWork {
    pub window: Option<u32>,
    /// Where the keys and values of each token go.
    pub cache_rows: Vec<u32>,
    pub items: Vec<Item>,
    /// First and last item of each token, when spans are shared out.
    pub token_items: Vec<[u32; 2]>,
    /// Whether an item is one span of one token.
    pub split: bool,
}

/// Bytes of `n` times `elems` elements.
fn bytes_of(n: u32, elems: u32, dtype: gristmill_core::DType) -> Result<usize> {
    let all = (n as usize).checked_mul(elems as usize).and_then(|all| dtype.bytes(all));
    all.ok_or_else(|| Error::Memory(format!("{n} times {elems} elements of {dtype}")))
}

/// Zeros for so many pieces of `bytes` bytes.
fn pieces(n: u32, bytes: usize) -> Result<Buffer> {
    let all = (n as usize).checked_mul(bytes);
    Buffer::zeroed(all.ok_or_else(|| Error::Memory(format!("{n} times {bytes} bytes")))?)
}

/// Where piece `i` lies in a buffer of pieces of `bytes` bytes, `None` where it has no such piece.
///
/// Numbers of pieces come with the batch: times their size they may be more than an address holds.
pub(crate) fn piece(buffer: &Buffer, i: u32, bytes: usize) -> Option<Range<usize>> {
    let from = (i as usize).checked_mul(bytes)?;
    let to = from.checked_add(bytes)?;
    (to <= buffer.len()).then_some(from..to)
}

impl Context {
    pub(crate) fn new(states: &[StateKind], layout: &Layout, poison: bool) -> Result<Context> {
        let fill = |mut b: Buffer| {
            if poison {
                b.as_mut_slice().fill(0xFF);
            }
            b
        };
        let mut memories = vec![];
        for s in states {
            memories.push(match *s {
                StateKind::Paged { group, k, v, k_type, v_type } => {
                    let group = usize::from(group);
                    let pages = *layout.pages.get(group).ok_or_else(|| {
                        Error::Runtime(format!("no page count for group {group}"))
                    })?;
                    let k_page = bytes_of(layout.page_tokens, k, k_type)?;
                    let v_page = bytes_of(layout.page_tokens, v, v_type)?;
                    let k = fill(pieces(pages, k_page)?);
                    let v = fill(pieces(pages, v_page)?);
                    let (k_elem, v_elem) = (k_type.block_bytes(), v_type.block_bytes());
                    StateMemory::Paged { group, k, v, k_page, v_page, k_elem, v_elem }
                }
                StateKind::Slot { elems, dtype } => {
                    let bytes = bytes_of(1, elems, dtype)?;
                    let slots = fill(pieces(layout.slots, bytes)?);
                    StateMemory::Slot { slots, bytes }
                }
            });
        }
        let host = (0..layout.pages.len())
            .map(|g| {
                let page: usize = memories.iter().map(|m| m.page_bytes(g)).sum();
                pieces(layout.host_pages.get(g).copied().unwrap_or(0), page)
            })
            .collect::<Result<_>>()?;
        let slot = |m: &StateMemory| match m {
            StateMemory::Slot { bytes, .. } => *bytes,
            StateMemory::Paged { .. } => 0,
        };
        let host_slot = Buffer::zeroed(memories.iter().map(slot).sum())?;
        let in_flight = layout.in_flight.max(1) as usize;
        let rows = layout.max.rows as usize;
        let result = || Results { picked: Vec::with_capacity(rows), top: vec![], wanted: vec![] };
        Ok(Context {
            states: memories,
            workspace: Buffer::zeroed(0)?,
            ints: Integers::with_capacity(layout),
            last: vec![u32::MAX; layout.slots as usize],
            inputs: [vec![], vec![]],
            step: 0,
            copies: 0,
            placed: vec![],
            results: (0..in_flight).map(|_| (0, result())).collect(),
            host,
            host_slot,
            candidates: vec![],
            adjusted: vec![],
            ledger: Ledger::default(),
            layout: layout.clone(),
            poison,
            marks: None,
            times: vec![],
        })
    }

    /// Makes the workspace at least `bytes` long.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<()> {
        if self.workspace.len() < bytes {
            self.workspace = Buffer::zeroed(bytes)?;
        }
        Ok(())
    }

    pub(crate) fn next_step(&mut self) -> Step {
        self.step += 1;
        Step(self.step)
    }

    /// The place for a step's results.
    pub(crate) fn results_of(&mut self, s: Step) -> &mut (u64, Results) {
        let n = self.results.len() as u64;
        &mut self.results[(s.0 % n) as usize]
    }

    /// Copies before a step.
    pub(crate) fn apply(&mut self, moves: &[Move]) -> Result<()> {
        for m in moves {
            let tokens = self.layout.page_tokens;
            if let Move::Page { group, .. } | Move::Row { group, .. } = *m
                && usize::from(group) >= self.layout.pages.len()
            {
                return Err(no_such("page group", group.into()));
            }
            for s in &mut self.states {
                match (*m, s) {
                    (
                        Move::Page { group, from, to },
                        StateMemory::Paged { group: g, k, v, k_page, v_page, .. },
                    ) if usize::from(group) == *g => {
                        copy_within(k, *k_page, from, to)?;
                        copy_within(v, *v_page, from, to)?;
                    }
                    (
                        Move::Row { group, from, to },
                        StateMemory::Paged { group: g, k, v, k_page, v_page, k_elem, v_elem },
                    ) if usize::from(group) == *g => {
                        let rows = [from, to].map(|r| (r / tokens, (r % tokens) as usize));
                        let tokens = tokens as usize;
                        copy_token(k, *k_page, *k_elem, 1, tokens, rows)?;
                        copy_token(v, *v_page, *v_elem, VALUE_BLOCK, tokens, rows)?;
                    }
                    (Move::Slot { from, to }, StateMemory::Slot { slots, bytes }) => {
                        copy_within(slots, *bytes, from, to)?;
                    }
                    _ => {}
                }
            }
            if let Move::Slot { from, to } = *m {
                let token = *self.last.get(from as usize).ok_or_else(|| no_such("slot", from))?;
                *self.last.get_mut(to as usize).ok_or_else(|| no_such("slot", to))? = token;
            }
        }
        Ok(())
    }
}

impl Context {
    /// Copies a slot of every state to (`out`) or from host memory.
    pub(crate) fn swap_slot(&mut self, slot: u32, out: bool) -> Result<()> {
        let mut at = 0;
        let host = self.host_slot.as_mut_slice();
        for s in &mut self.states {
            let StateMemory::Slot { slots, bytes } = s else { continue };
            let at_slot = piece(slots, slot, *bytes).ok_or_else(|| no_such("slot", slot))?;
            let held = &mut slots.as_mut_slice()[at_slot];
            let host = &mut host[at..at + *bytes];
            if out {
                host.copy_from_slice(held)
            } else {
                held.copy_from_slice(host)
            }
            at += *bytes;
        }
        Ok(())
    }
}

fn no_such(what: &str, index: u32) -> Error {
    Error::Runtime(format!("{what} {index} does not exist"))
}

/// Copies one token of pages `[block][token][element]` with blocks of so many elements, the last one
/// narrower. `rows` are (page, token), from and to.
fn copy_token(
    buffer: &mut Buffer,
    page: usize,
    elem: usize,
    block: usize,
    tokens: usize,
    rows: [(u32, usize); 2],
) -> Result<()> {
    let mut places = [(0, 0); 2];
    for (place, (p, token)) in places.iter_mut().zip(rows) {
        *place = (piece(buffer, p, page).ok_or_else(|| no_such("page", p))?.start, token);
    }
    let all = buffer.as_mut_slice();
    let width = page / (elem * tokens);
    for e in (0..width).step_by(block) {
        let n = (width - e).min(block);
        let [from, to] = places.map(|(start, token)| start + (e * tokens + token * n) * elem);
        all.copy_within(from..from + n * elem, to);
    }
    Ok(())
}

fn copy_within(buffer: &mut Buffer, bytes: usize, from: u32, to: u32) -> Result<()> {
    let place = |i: u32| piece(buffer, i, bytes).ok_or_else(|| no_such("page or slot", i));
    let (from, to) = (place(from)?, place(to)?);
    buffer.as_mut_slice().copy_within(from, to.start);
    Ok(())
}

impl StateMemory {
    /// Bytes of a page of this state, when it is of group `g`.
    pub(crate) fn page_bytes(&self, g: usize) -> usize {
        match self {
            StateMemory::Paged { group, k_page, v_page, .. } if *group == g => k_page + v_page,
            _ => 0,
        }
    }
}

impl Integers {
    fn with_capacity(layout: &Layout) -> Integers {
        let tokens = layout.max.tokens as usize;
        let spans = |pages: u32| (u64::from(pages) * u64::from(layout.page_tokens)) as usize / SPAN;
        let group = |&pages: &u32| GroupWork {
            window: None,
            cache_rows: Vec::with_capacity(tokens),
            items: Vec::with_capacity(tokens + layout.max.seqs as usize + spans(pages) + 1),
            token_items: Vec::with_capacity(tokens),
            split: false,
        };
        Integers {
            ids: Vec::with_capacity(tokens),
            types: Vec::with_capacity(tokens),
            positions: Vec::with_capacity(tokens),
            kv_index: Vec::with_capacity(tokens),
            visible: Vec::with_capacity(tokens),
            ancestors: Vec::with_capacity(tokens),
            seq_starts: Vec::with_capacity(layout.max.seqs as usize + 1),
            state_in: Vec::with_capacity(layout.max.seqs as usize),
            state_out: Vec::with_capacity(layout.max.seqs as usize),
            times: Vec::with_capacity(layout.max.seqs as usize),
            seeds: Vec::with_capacity(layout.max.seqs as usize),
            writers: vec![u32::MAX; layout.slots as usize],
            pages: Vec::with_capacity(layout.pages.iter().sum::<u32>() as usize),
            rows: Vec::with_capacity(layout.max.rows as usize),
            groups: layout.pages.iter().map(group).collect(),
        }
    }

    /// Copies, resolves and checks a batch for a plan.
    pub(crate) fn fill(
        &mut self,
        b: &Batch<'_>,
        layout: &Layout,
        plan: &Plan,
        last: &[u32],
    ) -> Result<()> {
        let (windows, split_items) = (&plan.windows[..], plan.split_items);
        let bad = |what: &str| Error::Runtime(format!("batch: {what}"));
        b.check_arrays()?;
        let seqs = b.kv_len.len();
        self.ids.clear();
        for t in b.tokens {
            self.ids.push(match *t {
                Token::Id(id) => id,
                Token::Last(slot) => {
                    let known = last.get(slot as usize).filter(|&&id| id != u32::MAX);
                    *known.ok_or_else(|| bad("a slot whose last token was never sampled"))?
                }
            });
        }
        fn set<T: Copy>(to: &mut Vec<T>, from: &[T]) {
            to.clear();
            to.extend_from_slice(from);
        }
        set(&mut self.types, b.types);
        set(&mut self.positions, b.positions);
        set(&mut self.kv_index, b.kv_index);
        set(&mut self.visible, b.visible);
        set(&mut self.ancestors, b.ancestors);
        set(&mut self.seq_starts, b.seq_starts);
        set(&mut self.times, b.times);
        set(&mut self.seeds, b.seeds);
        set(&mut self.rows, b.rows);
        if plan.recurrent {
            b.check_slots(&mut self.writers)?;
            set(&mut self.state_in, b.state_in);
            set(&mut self.state_out, b.state_out);
        }
        self.pages.clear();
        if windows.is_empty() {
            return Ok(());
        }
        let starts_ok = b.page_starts.len() == windows.len() * seqs + 1
            && b.page_starts.last().is_some_and(|&end| end as usize == b.pages.len())
            && b.page_starts.windows(2).all(|w| w[0] <= w[1]);
        if !starts_ok {
            return Err(bad("page_starts do not divide the pages"));
        }
        for (g, &window) in windows.iter().enumerate() {
            self.fill_group(b, layout, g, window, split_items)?;
        }
        Ok(())
    }

    /// Cache rows and attention items of one group.
    fn fill_group(
        &mut self,
        b: &Batch<'_>,
        layout: &Layout,
        g: usize,
        window: Option<u32>,
        split_items: usize,
    ) -> Result<()> {
        let bad = |what: String| Error::Runtime(format!("batch: {what}"));
        let seqs = b.kv_len.len();
        let p = layout.page_tokens;
        let pages = layout.pages[g];
        let work = &mut self.groups[g];
        work.window = window;
        work.cache_rows.clear();
        work.items.clear();
        work.token_items.clear();
        // What a token sees, its window counted in.
        let sees = |t: usize| {
            let [from, to] = b.visible[t];
            let first = window.map_or(0, |w| (b.kv_index[t].saturating_add(1)).saturating_sub(w));
            [from.max(first), to]
        };
        let span = |key: u32| key / SPAN as u32;
        // Sequences that share pages may have more spans than the pages hold: then nothing is
        // shared out, which gives the same bits.
        let one_each = b.tokens.len() == seqs;
        let spans = (0..if one_each { seqs } else { 0 }).map(|t| match sees(t) {
            [from, to] if from < to => (span(to - 1) - span(from) + 1) as usize,
            _ => 0,
        });
        work.split = spans.clone().any(|n| n > 1) && spans.sum::<usize>() <= split_items;
        for s in 0..seqs {
            let starts = &b.page_starts[g * seqs + s..];
            let held = &b.pages[starts[0] as usize..starts[1] as usize];
            // Pages that a window gave back are not kept here, so that what is kept is bounded by
            // the pages that exist and not by the length of the text.
            let gone = held.iter().take_while(|&&page| page == u32::MAX).count();
            let table = (self.pages.len() as u32).wrapping_sub(gone as u32);
            self.pages.extend_from_slice(&held[gone..]);
            let tree_base = b.tree_base.get(s).copied().unwrap_or(u32::MAX);
            let range = b.seq_starts[s] as usize..b.seq_starts[s + 1] as usize;
            // Tokens of an item see keys that overlap or adjoin, so all pages between are held.
            let (mut first_token, mut seen) = (range.start, [0, 0]);
            for t in range.clone() {
                let index = b.kv_index[t];
                let [all_from, to] = b.visible[t];
                if all_from >= to || to > b.kv_len[s] || index >= b.kv_len[s] {
                    return Err(bad(format!("token {t} sees {all_from}..{to} of {}", b.kv_len[s])));
                }
                let [from, _] = sees(t);
                if from >= to {
                    return Err(bad(format!("token {t} sees nothing within its window")));
                }
                if held.len() < to.max(index + 1).div_ceil(p) as usize {
                    return Err(bad(format!("sequence {s} has no page for key {to}")));
                }
                let needed = (from / p..=(to - 1) / p).chain([index / p]);
                if let Some(page) = needed.map(|i| held[i as usize]).find(|&page| page >= pages) {
                    return Err(bad(format!("page {page} of {pages} in group {g}")));
                }
                work.cache_rows.push(held[(index / p) as usize] * p + index % p);
                let item = |t: usize, n: usize, [from, to]: [u32; 2]| Item {
                    token: t as u32,
                    tokens: n as u32,
                    table,
                    tree_base,
                    spans: [span(from), span(to - 1)],
                };
                if work.split {
                    let at = work.items.len() as u32;
                    let each = span(from)..=span(to - 1);
                    let part = |i| item(t, 1, [i * SPAN as u32, i * SPAN as u32 + 1]);
                    work.items.extend(each.map(part));
                    work.token_items.push([at, work.items.len() as u32 - 1]);
                    continue;
                }
                let apart = from > seen[1] || to < seen[0];
                if t > first_token && (apart || t - first_token == TILE) {
                    work.items.push(item(first_token, t - first_token, seen));
                    first_token = t;
                }
                seen = match t == first_token {
                    true => [from, to],
                    false => [seen[0].min(from), seen[1].max(to)],
                };
                if t + 1 == range.end {
                    work.items.push(item(first_token, t + 1 - first_token, seen));
                }
            }
        }
        Ok(())
    }
}
