//! The backend of the hash model; see the module above. It allocates nothing once it is warm.

use super::text::Control;
use super::{Model, VOCAB, confidence, logit, logprob, mix, pick};
use gristmill_core::{DType, Error, HostTensor, Result};
use gristmill_ir::*;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;

/// What a page holds for a token: its index and its id. This is neither.
const POISON: u64 = 0xdead_dead_dead_dead;

/// In place of a group: slots.
const SLOTS: usize = usize::MAX;

/// When the waker of an unfinished step is woken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wakes {
    AtOnce,
    FromAnotherThread,
}

/// What goes wrong in the next step that gets there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trouble {
    Launch,
    Sample,
    Finish,
}

#[derive(Clone)]
pub struct Fake {
    model: Model,
    shared: Arc<Mutex<Shared>>,
}

/// Everything: the context of this backend is empty, so that tests can look inside.
struct Shared {
    layout: Layout,
    /// Cells of each group, `page * page_tokens + offset`.
    cells: Vec<Vec<u64>>,
    /// State and tokens in it, of each slot.
    states: Vec<(u64, u32)>,
    /// The last token sampled for each slot, with its index in its sequence.
    last: Vec<Option<(u32, u64)>>,
    /// Sequences of the batch that name each page.
    namers: Vec<Vec<u32>>,
    unfinished: VecDeque<Entry>,
    spare: Vec<Entry>,
    launched: u64,
    polls: u32,
    wakes: Wakes,
    trouble: Option<Trouble>,
    ledger: Ledger,
    /// Tokens that came as `Last`, and page copies, so far.
    lasts: u64,
    copies: u64,
}

#[derive(Default)]
struct Entry {
    step: u64,
    /// The hash of each wanted row.
    rows: Vec<u64>,
    picked: Vec<Picked>,
    /// How many there are, which profiles show in place of times.
    tokens: u64,
    /// (group, page, slot of the sequence) of every page the step may touch.
    named: Vec<(usize, u32, u32)>,
    polls: u32,
}

impl Fake {
    pub fn new(model: Model) -> Self {
        let shared = Shared {
            layout: Layout {
                page_tokens: 1,
                pages: vec![],
                host_pages: vec![],
                slots: 0,
                max: Size { tokens: 0, seqs: 0, rows: 0, one_token_a_seq: false },
                in_flight: 0,
            },
            cells: vec![],
            states: vec![],
            last: vec![],
            namers: vec![],
            unfinished: VecDeque::with_capacity(8),
            spare: vec![],
            launched: 0,
            polls: 0,
            wakes: Wakes::AtOnce,
            trouble: None,
            ledger: Ledger::default(),
            lasts: 0,
            copies: 0,
        };
        Fake { model, shared: Arc::new(Mutex::new(shared)) }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("no test goes on after a panic")
    }

    /// Each step answers "not yet" this often.
    pub fn slow(&self, polls: u32, wakes: Wakes) {
        let mut s = self.lock();
        (s.polls, s.wakes) = (polls, wakes);
    }

    pub fn trouble(&self, t: Trouble) {
        self.lock().trouble = Some(t);
    }

    /// Whether a failure is still to come.
    pub fn in_trouble(&self) -> bool {
        self.lock().trouble.is_some()
    }

    /// Tokens that came as `Last`, and pages copied.
    pub fn counts(&self) -> (u64, u64) {
        let s = self.lock();
        (s.lasts, s.copies)
    }

    /// Fills pages with garbage where `free` says that nobody holds them.
    pub fn poison(&self, free: impl Fn(usize, u32) -> bool) {
        let s = &mut *self.lock();
        let page_tokens = s.layout.page_tokens as usize;
        for (group, cells) in s.cells.iter_mut().enumerate() {
            for (page, cells) in cells.chunks_mut(page_tokens).enumerate() {
                if free(group, page as u32) {
                    cells.fill(POISON);
                }
            }
        }
    }
}

impl Shared {
    fn fails(&mut self, t: Trouble) -> Result<()> {
        if self.trouble != Some(t) {
            return Ok(());
        }
        self.trouble = None;
        Err(Error::Runtime(format!("the device failed at {t:?}")))
    }

    fn check_shape(&self, size: &Size, b: &Batch<'_>, groups: usize) {
        let (tokens, seqs) = (b.tokens.len(), b.kv_len.len());
        assert!(seqs > 0 && tokens >= seqs, "a sequence without tokens");
        assert!(tokens <= size.tokens as usize && seqs <= size.seqs as usize);
        assert!(b.rows.len() <= size.rows as usize);
        assert!(!size.one_token_a_seq || tokens == seqs);
        assert!(size.tokens <= self.layout.max.tokens && size.rows <= self.layout.max.rows);
        assert_eq!((b.positions.len(), b.kv_index.len()), (tokens, tokens));
        assert_eq!((b.visible.len(), b.slots.len()), (tokens, seqs));
        assert_eq!(b.seq_starts.len(), seqs + 1);
        assert_eq!((b.seq_starts[0], b.seq_starts[seqs]), (0, tokens as u32));
        assert!(b.seq_starts.is_sorted_by(|a, b| a < b), "sequences are contiguous, none empty");
        assert!(b.rows.is_sorted_by(|a, b| a < b));
        assert!(b.rows.iter().all(|&r| (r as usize) < tokens));
        assert_eq!(b.page_starts.len(), groups * seqs + 1);
        assert_eq!(b.page_starts.last().copied(), Some(b.pages.len() as u32));
        let unique = |list: &[u32]| list.iter().enumerate().all(|(i, s)| !list[..i].contains(s));
        assert!(unique(b.slots) && unique(b.state_out), "two sequences in one slot");
        assert!(b.slots.iter().all(|&s| s < self.layout.slots));
    }

    /// A page about to be used anew: no step in flight may name it for somebody else.
    fn check_write(&self, group: usize, page: u32, slot: u32) {
        for entry in &self.unfinished {
            let other = |&&(g, p, s): &&(usize, u32, u32)| (g, p) == (group, page) && s != slot;
            if let Some((_, _, s)) = entry.named.iter().find(other) {
                panic!("page {page} is written for slot {slot}, a step in flight has it for {s}");
            }
        }
    }

    /// A slot used anew must not be named by a step in flight either.
    fn name_slots(&mut self, b: &Batch<'_>, named: &mut Vec<(usize, u32, u32)>) {
        for (s, &slot) in b.slots.iter().enumerate() {
            let from = b.state_in.get(s).copied();
            let starts = b.kv_index[b.seq_starts[s] as usize] == 0;
            if starts || from.is_some_and(|from| from != slot) {
                let mut all = self.unfinished.iter().flat_map(|e| &e.named);
                assert!(!all.any(|n| (n.0, n.1) == (SLOTS, slot)), "slot {slot} is in flight");
            }
            named.push((SLOTS, slot, slot));
            named.extend(from.map(|from| (SLOTS, from, slot)));
        }
    }

    fn run_moves(&mut self, b: &Batch<'_>, named: &mut Vec<(usize, u32, u32)>) {
        for m in b.moves {
            let Move::Page { group, from, to } = *m else { panic!("unexpected {m:?}") };
            let (group, n) = (group as usize, self.layout.page_tokens as usize);
            self.check_write(group, to, u32::MAX);
            let (from_at, to_at) = (from as usize * n, to as usize * n);
            self.cells[group].copy_within(from_at..from_at + n, to_at);
            named.push((group, from, u32::MAX));
            self.copies += 1;
        }
    }

    fn token(&mut self, t: Token, slot: u32, index: u32) -> u32 {
        match t {
            Token::Id(id) => {
                assert!(id < VOCAB);
                id
            }
            Token::Last(s) => {
                assert_eq!(s, slot, "the last token of another sequence");
                let (id, counter) = self.last[s as usize].expect("a slot that sampled");
                assert_eq!(counter, index.into(), "not the last token of this sequence");
                self.lasts += 1;
                id
            }
        }
    }

    /// Writes the tokens of sequence `s` to its pages and pushes the hashes of its wanted rows.
    fn run_sequence(&mut self, model: &Model, b: &Batch<'_>, s: usize, rows: &mut Vec<u64>) {
        let (seqs, slot) = (b.kv_len.len(), b.slots[s]);
        let tokens = b.seq_starts[s]..b.seq_starts[s + 1];
        let (n, first) = (self.layout.page_tokens, b.kv_index[tokens.start as usize]);
        assert_eq!(first + tokens.len() as u32, b.kv_len[s]);
        let mut state = (7, 0);
        if model.recurrent {
            if b.state_in[s] != u32::MAX {
                state = self.states[b.state_in[s] as usize];
            }
            assert_eq!(state.1, first, "a state of another length");
        }
        for t in tokens {
            let (index, at) = (b.kv_index[t as usize], t as usize);
            assert_eq!(index, first + t - b.seq_starts[s], "keys in order");
            assert_eq!(b.visible[at], [0, index + 1]);
            assert_eq!(b.positions[at], [index; 3]);
            let id = self.token(b.tokens[at], slot, index);
            state = (mix(state.0, id.into()), index + 1);
            let mut h = 1;
            for (group, window) in model.windows.iter().enumerate() {
                let start = b.page_starts[group * seqs + s] as usize;
                let table = &b.pages[start..b.page_starts[group * seqs + s + 1] as usize];
                assert_eq!(table.len() as u32, b.kv_len[s].div_ceil(n));
                let cell = |j: u32| table[(j / n) as usize] * n + j % n;
                let page = table[(index / n) as usize];
                assert_eq!(self.namers[group][page as usize], 1, "a shared page is written");
                if index % n == 0 {
                    self.check_write(group, page, slot);
                }
                self.cells[group][cell(index) as usize] = (u64::from(index) << 32) | u64::from(id);
                let from = window.map_or(0, |w| (index + 1).saturating_sub(w));
                for j in from..=index {
                    let value = self.cells[group][cell(j) as usize];
                    assert_ne!(value, POISON, "a page was used after it was given back");
                    assert_eq!(value >> 32, j.into(), "the key of another token");
                    h = mix(h, value & 0xffff_ffff);
                }
            }
            if model.recurrent {
                h = mix(h, state.0);
            }
            if b.rows.binary_search(&t).is_ok() {
                rows.push(h);
            }
        }
        if model.recurrent {
            self.states[b.state_out[s] as usize] = state;
        }
    }

    /// Notes who names which page, and that each table is made of pages that exist.
    fn name_pages(&mut self, model: &Model, b: &Batch<'_>, named: &mut Vec<(usize, u32, u32)>) {
        let seqs = b.kv_len.len();
        self.namers.iter_mut().for_each(|n| n.fill(0));
        for (i, w) in b.page_starts.windows(2).enumerate() {
            let (group, s) = (i / seqs, i % seqs);
            let first = b.kv_index[b.seq_starts[s] as usize];
            let seen = model.windows[group].map_or(0, |w| (first + 1).saturating_sub(w));
            for (k, &page) in b.pages[w[0] as usize..w[1] as usize].iter().enumerate() {
                let end = (k as u32 + 1) * self.layout.page_tokens;
                if page == u32::MAX {
                    assert!(end <= seen, "a page in the window was given back");
                    continue;
                }
                assert!(end > seen, "a page out of the window is still held");
                self.namers[group][page as usize] += 1;
                named.push((group, page, b.slots[s]));
            }
        }
    }
}

impl Backend for Fake {
    type Weights = ();
    type Context = ();
    type Plan = Size;

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "fake".into(),
            compute: vec![DType::F32],
            weights: vec![DType::F32],
            kv: vec![DType::F16],
            page_multiple: 2,
            ops: vec!["embed", "select_rows", "linear"],
        }
    }

    fn load(
        &self,
        uses: &[&Program],
        tensor: &mut dyn FnMut(&TensorDecl) -> Result<HostTensor>,
        _: &Options,
    ) -> Result<()> {
        uses.iter().flat_map(|p| &p.tensors).try_for_each(|t| tensor(t).map(|_| ()))
    }

    fn create(&self, _: &[StateKind], layout: &Layout) -> Result<()> {
        let s = &mut *self.lock();
        let cells = |&n: &u32| vec![POISON; (n * layout.page_tokens) as usize];
        s.cells = layout.pages.iter().map(cells).collect();
        s.namers = layout.pages.iter().map(|&n| vec![0; n as usize]).collect();
        s.states = vec![(POISON, u32::MAX); layout.slots as usize];
        s.last = vec![None; layout.slots as usize];
        s.layout = layout.clone();
        Ok(())
    }

    fn compile(&self, _: &Program, _: &(), _: &mut (), size: Size, _: &Options) -> Result<Size> {
        Ok(size)
    }

    fn launch(&self, size: &Size, _: &mut (), b: &Batch<'_>) -> Result<Step> {
        let s = &mut *self.lock();
        s.fails(Trouble::Launch)?;
        assert!(s.unfinished.len() < s.layout.in_flight as usize, "too many steps in flight");
        s.check_shape(size, b, self.model.windows.len());
        let mut entry = s.spare.pop().unwrap_or_default();
        entry.rows.clear();
        entry.picked.clear();
        entry.named.clear();
        entry.named.reserve(1 << 12);
        s.name_slots(b, &mut entry.named);
        s.run_moves(b, &mut entry.named);
        s.name_pages(&self.model, b, &mut entry.named);
        for i in 0..b.kv_len.len() {
            s.run_sequence(&self.model, b, i, &mut entry.rows);
        }
        s.launched += 1;
        s.ledger.ids += 4 * (b.tokens.len() * 7 + b.pages.len()) as u64;
        entry.step = s.launched;
        entry.polls = s.polls;
        entry.tokens = b.tokens.len() as u64;
        s.unfinished.push_back(entry);
        Ok(Step(s.launched))
    }

    fn sample(&self, _: &mut (), step: Step, b: &SampleBatch<'_>) -> Result<()> {
        let s = &mut *self.lock();
        s.fails(Trouble::Sample)?;
        let entry = s.unfinished.back_mut().expect("a step to sample");
        assert_eq!(entry.step, step.0, "the latest step is sampled");
        assert_eq!((b.params.len(), b.slots.len()), (entry.rows.len(), entry.rows.len()));
        assert!(b.penalties.is_sorted_by_key(|p| p.row), "penalties row after row");
        let rows = entry.rows.iter().zip(b.params).zip(b.slots);
        for (row, ((&h, p), &slot)) in rows.enumerate() {
            p.check().expect("parameters were checked");
            let mut control = Control::default();
            let of_row = |r: u32| r as usize == row;
            b.bias.iter().filter(|c| of_row(c.0)).for_each(|c| control.bias(c.1, c.2));
            let penalties = b.penalties.iter().enumerate().filter(|(_, c)| of_row(c.row));
            for (i, c) in penalties {
                let twice = b.penalties[..i].iter().any(|o| (o.row, o.token) == (c.row, c.token));
                assert!(!twice, "two penalties for a token");
                control.penalty(c.token, c.repeat, c.subtract);
            }
            control.mirostat(p.mirostat, p.mu);
            let id = pick(h, p.temperature, p.seed, p.counter, control.hash());
            s.last[slot as usize] = Some((id, p.counter));
            entry.picked.push(Picked { id, confidence: confidence(h), logprob: logprob(h) });
        }
        s.ledger.results += 12 * b.params.len() as u64;
        Ok(())
    }

    fn finish(&self, _: &mut (), step: Step, out: &mut Results, wake: &Waker) -> Result<bool> {
        let s = &mut *self.lock();
        let entry = s.unfinished.front_mut().expect("a step to finish");
        assert_eq!(entry.step, step.0, "steps finish in order");
        if entry.polls > 0 {
            entry.polls -= 1;
            match s.wakes {
                Wakes::AtOnce => wake.wake_by_ref(),
                Wakes::FromAnotherThread => {
                    let wake = wake.clone();
                    std::thread::spawn(move || {
                        std::thread::sleep(std::time::Duration::from_millis(1));
                        wake.wake();
                    });
                }
            }
            return Ok(false);
        }
        let entry = s.unfinished.pop_front().expect("looked at above");
        out.picked.clear();
        out.picked.extend_from_slice(&entry.picked);
        s.spare.push(entry);
        s.fails(Trouble::Finish)?;
        Ok(true)
    }

    fn read(
        &self,
        _: &mut (),
        step: Step,
        output: Output,
        out: &mut Vec<f32>,
        _: &Waker,
    ) -> Result<bool> {
        assert_eq!(output, Output::Logits);
        let s = &mut *self.lock();
        let entry = s.unfinished.back().expect("a step to read");
        assert_eq!(entry.step, step.0, "the latest step is read");
        for &h in &entry.rows {
            out.extend((0..VOCAB).map(|t| logit(h, t)));
        }
        s.ledger.vectors += 4 * out.len() as u64;
        Ok(true)
    }

    fn write(&self, _: &mut (), _: Input, _: &[f32]) -> Result<()> {
        unreachable!("the engine writes no inputs")
    }

    fn save(&self, _: &mut (), _: &[Move]) -> Result<Step> {
        unreachable!("the engine does not swap")
    }

    fn restore(&self, _: &mut (), _: &[Move]) -> Result<Step> {
        unreachable!("the engine does not swap")
    }

    fn host_page<'c>(&self, _: &'c mut (), _: u8, _: u32) -> &'c mut [u8] {
        unreachable!("the engine does not swap")
    }

    fn profile(&self, _: &mut (), _: bool) -> Result<()> {
        Ok(())
    }

    fn times(&self, _: &mut (), step: Step) -> Times {
        let s = self.lock();
        let entry = s.spare.last().expect("a finished step");
        assert_eq!(entry.step, step.0, "times of the step just finished");
        Times { ends: vec![entry.tokens], sampling: 0 }
    }

    fn memory(&self) -> (u64, u64) {
        (0, 0)
    }

    fn ledger(&self, _: &()) -> Ledger {
        self.lock().ledger
    }
}
