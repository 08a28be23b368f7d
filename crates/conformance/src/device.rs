//! A backend with a program on it, and the paging that an engine would do.
//!
//! Pages are handed out in random order, so neighbours in a sequence never lie side by side but by
//! chance; before anything runs, every page is filled with bytes of ones, which are no number in
//! any float format: what is read without having been written shows in the results.

use crate::random::Random;
use crate::weights::Weights;
use crate::work::{Edit, Part, Work};
use gristmill_core::{Error, Result};
use gristmill_ir::*;
use std::task::Waker;

/// How large a context is made.
#[derive(Clone, Debug)]
pub struct Room {
    /// Tokens of a page.
    pub page_tokens: u32,
    /// Pages of every group.
    pub pages: u32,
    /// Slots, and so sequences.
    pub slots: u32,
    /// The largest step.
    pub max: Size,
}

impl Room {
    /// Room for steps of so many tokens and sequences, all of whose outputs may be wanted.
    pub fn of(tokens: u32, seqs: u32) -> Room {
        let max = Size { tokens, seqs, rows: tokens, one_token_a_seq: false };
        Room { page_tokens: 32, pages: 24, slots: seqs.max(8), max }
    }

    /// The same with so many pages of so many tokens.
    pub fn paged(self, pages: u32, page_tokens: u32) -> Room {
        Room { pages, page_tokens, ..self }
    }

    fn layout(&self, groups: usize) -> Layout {
        Layout {
            page_tokens: self.page_tokens,
            pages: vec![self.pages; groups],
            host_pages: vec![2; groups],
            slots: self.slots,
            max: self.max,
            in_flight: 1,
        }
    }
}

/// The integers of a step, owned.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)] // the fields of `Batch`
pub struct Arrays {
    pub moves: Vec<Move>,
    pub tokens: Vec<Token>,
    pub types: Vec<u32>,
    pub positions: Vec<[u32; 3]>,
    pub kv_index: Vec<u32>,
    pub visible: Vec<[u32; 2]>,
    pub ancestors: Vec<u64>,
    pub seq_starts: Vec<u32>,
    pub kv_len: Vec<u32>,
    pub tree_base: Vec<u32>,
    pub slots: Vec<u32>,
    pub state_in: Vec<u32>,
    pub state_out: Vec<u32>,
    pub pages: Vec<u32>,
    pub page_starts: Vec<u32>,
    pub rows: Vec<u32>,
}

impl Arrays {
    /// As a backend takes them.
    pub fn batch(&self) -> Batch<'_> {
        Batch {
            moves: &self.moves,
            tokens: &self.tokens,
            types: &self.types,
            positions: &self.positions,
            kv_index: &self.kv_index,
            visible: &self.visible,
            ancestors: &self.ancestors,
            seq_starts: &self.seq_starts,
            kv_len: &self.kv_len,
            tree_base: &self.tree_base,
            slots: &self.slots,
            state_in: &self.state_in,
            state_out: &self.state_out,
            pages: &self.pages,
            page_starts: &self.page_starts,
            rows: &self.rows,
            ..Batch::default()
        }
    }
}

/// A program on a backend.
pub struct Device<'a, B: Backend> {
    /// The backend.
    pub backend: &'a B,
    /// Its context.
    pub context: B::Context,
    /// The program compiled for the room's largest step.
    pub plan: B::Plan,
    /// The same for a token of each sequence.
    decode: B::Plan,
    groups: Vec<Group>,
    room: Room,
    /// Page table of each sequence in each group.
    tables: Vec<Vec<Vec<u32>>>,
    /// Pages nobody holds, by group.
    free: Vec<Vec<u32>>,
    /// Whether the program keeps states in slots.
    recurrent: bool,
    /// The slot that holds the state of each sequence.
    held: Vec<u32>,
}

impl<'a, B: Backend> Device<'a, B> {
    /// Loads, creates and compiles.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn new(
        backend: &'a B,
        program: &Program,
        weights: &Weights,
        options: &Options,
        room: &Room,
    ) -> Result<Self> {
        program.verify()?;
        let loaded = backend.load(&[program], &mut |d| weights.tensor(d), options)?;
        let groups = program.groups.clone();
        let mut context = backend.create(&program.states, &room.layout(groups.len()))?;
        let plan = backend.compile(program, &loaded, &mut context, room.max, options)?;
        let seqs = room.max.seqs;
        let size = Size { tokens: seqs, seqs, rows: seqs, one_token_a_seq: true };
        let decode = backend.compile(program, &loaded, &mut context, size, options)?;
        let mut random = Random::new(0x9A6E5);
        let free = groups.iter().map(|_| {
            let mut pages: Vec<u32> = (0..room.pages).collect();
            random.shuffle(&mut pages);
            pages
        });
        let free = free.collect();
        let tables = vec![vec![vec![]; groups.len()]; room.slots as usize];
        let room = room.clone();
        let recurrent = program.states.iter().any(|s| matches!(s, StateKind::Slot { .. }));
        let held = (0..room.slots).collect();
        let mut device =
            Device { backend, context, plan, decode, groups, room, tables, free, recurrent, held };
        for group in 0..device.groups.len() {
            device.backend.host_page(&mut device.context, group as u8, 0).fill(0xFF);
            let to_all = |to| Move::Page { group: group as u8, from: 0, to };
            let moves: Vec<Move> = (0..device.room.pages).map(to_all).collect();
            device.restore(&moves)?;
        }
        Ok(device)
    }

    /// Copies pages from host memory and waits.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn restore(&mut self, moves: &[Move]) -> Result<()> {
        let step = self.backend.restore(&mut self.context, moves)?;
        self.finish(step).map(|_| ())
    }

    /// The bytes of a page.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn page(&mut self, group: u8, page: u32) -> Result<Vec<u8>> {
        let moves = [Move::Page { group, from: page, to: 1 }];
        let step = self.backend.save(&mut self.context, &moves)?;
        self.finish(step)?;
        Ok(self.backend.host_page(&mut self.context, group, 1).to_vec())
    }

    /// Pages of a group that no sequence holds.
    pub fn free_pages(&self, group: u8) -> &[u32] {
        &self.free[usize::from(group)]
    }

    /// The page tables of a sequence, one a group.
    pub fn tables(&self, seq: usize) -> &[Vec<u32>] {
        &self.tables[seq]
    }

    /// Ends a step.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn finish(&mut self, step: Step) -> Result<Results> {
        let mut results = Results::default();
        while !self.backend.finish(&mut self.context, step, &mut results, Waker::noop())? {
            std::thread::yield_now();
        }
        Ok(results)
    }

    /// A result of a launched step, before it is finished.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn read(&mut self, step: Step, output: Output) -> Result<Vec<f32>> {
        let mut out = vec![];
        while !self.backend.read(&mut self.context, step, output, &mut out, Waker::noop())? {
            std::thread::yield_now();
        }
        Ok(out)
    }

    /// Runs a step and gives the results named, row after row.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn run(&mut self, work: &Work, outputs: &[Output]) -> Result<Vec<Vec<f32>>> {
        let step = self.launch(work)?;
        let results = outputs.iter().map(|&o| self.read(step, o)).collect();
        self.finish(step)?;
        results
    }

    /// Launches a step, on the plan for decoding where it is one.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn launch(&mut self, work: &Work) -> Result<Step> {
        let arrays = self.arrays(work)?;
        if !work.hidden.is_empty() {
            self.backend.write(&mut self.context, Input::Hidden, &work.hidden)?;
        }
        let seqs = work.parts.len();
        let decodes = arrays.tokens.len() == seqs && arrays.rows.len() <= seqs;
        let plan = if decodes { &self.decode } else { &self.plan };
        self.backend.launch(plan, &mut self.context, &arrays.batch())
    }

    /// The integers of a step; takes the pages it needs and gives back those that a window has left.
    ///
    /// # Errors
    /// [`Error::Memory`] when the room has too few pages.
    pub fn arrays(&mut self, work: &Work) -> Result<Arrays> {
        let mut a = Arrays { seq_starts: work.starts(), rows: work.rows(), ..Arrays::default() };
        for e in &work.edits {
            self.edit(e, &mut a.moves)?;
        }
        for part in &work.parts {
            self.grow(part)?;
            a.tokens.extend(part.ids.iter().map(|&id| Token::Id(id)));
            a.types.extend(&part.types);
            a.positions.extend(&part.positions);
            a.kv_index.extend(&part.kv_index);
            a.visible.extend(&part.visible);
            a.kv_len.push(part.kv_len());
            a.slots.push(part.seq as u32);
            if self.recurrent {
                self.place_state(part, &mut a);
            }
        }
        if work.parts.iter().any(|p| !p.ancestors.is_empty()) {
            for p in &work.parts {
                // A tree that begins behind the last key is no tree.
                let base = if p.ancestors.is_empty() { p.kv_len() } else { p.tree_base };
                a.tree_base.push(base);
                let bits = (0..p.len()).map(|t| p.ancestors.get(t).copied().unwrap_or(0));
                a.ancestors.extend(bits);
            }
        }
        a.page_starts.push(0);
        for g in 0..self.groups.len() {
            for part in &work.parts {
                a.pages.extend(&self.tables[part.seq][g]);
                a.page_starts.push(a.pages.len() as u32);
            }
        }
        Ok(a)
    }

    /// Where a part reads its state and writes it: in a room with slots to spare every other step of
    /// a sequence writes another slot than it reads.
    fn place_state(&mut self, part: &Part, a: &mut Arrays) {
        let spare = self.room.max.seqs;
        let begins = part.kv_index[0] == 0;
        let held = &mut self.held[part.seq];
        a.state_in.push(if begins { u32::MAX } else { *held });
        if self.room.slots >= 2 * spare && !part.len().is_multiple_of(3) {
            *held = if *held < spare { *held + spare } else { *held - spare };
        }
        a.state_out.push(*held);
    }

    fn take(&mut self, group: usize) -> Result<u32> {
        let page = self.free[group].pop();
        page.ok_or_else(|| Error::Memory("the room of a test has too few pages".into()))
    }

    fn grow(&mut self, part: &Part) -> Result<()> {
        let p = self.room.page_tokens;
        for g in 0..self.groups.len() {
            while (self.tables[part.seq][g].len() as u32) < part.kv_len().div_ceil(p) {
                let page = self.take(g)?;
                self.tables[part.seq][g].push(page);
            }
            let Some(w) = self.groups[g].window else { continue };
            let oldest = part.kv_index.iter().map(|&i| (i + 1).saturating_sub(w)).min();
            for entry in 0..(oldest.unwrap_or(0) / p) as usize {
                let page = std::mem::replace(&mut self.tables[part.seq][g][entry], u32::MAX);
                if page != u32::MAX {
                    self.free[g].push(page);
                }
            }
        }
        Ok(())
    }

    fn edit(&mut self, e: &Edit, moves: &mut Vec<Move>) -> Result<()> {
        let p = self.room.page_tokens;
        if let (Edit::Fork { from, to }, true) = (*e, self.recurrent) {
            moves.push(Move::Slot { from: self.held[from], to: self.held[to] });
        }
        for g in 0..self.groups.len() {
            let group = g as u8;
            match *e {
                Edit::Fork { from, to } => {
                    for i in 0..self.tables[from][g].len() {
                        let (from, page) = (self.tables[from][g][i], self.take(g)?);
                        self.tables[to][g].push(page);
                        moves.push(Move::Page { group, from, to: page });
                    }
                }
                Edit::Share { from, to, keys } => {
                    let shared = self.tables[from][g][..(keys / p) as usize].to_vec();
                    self.tables[to][g] = shared;
                }
                Edit::Key { seq, from, to } => {
                    let table = &self.tables[seq][g];
                    let row = |i: u32| table[(i / p) as usize] * p + i % p;
                    moves.push(Move::Row { group, from: row(from), to: row(to) });
                }
            }
        }
        Ok(())
    }
}
