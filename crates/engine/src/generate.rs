//! Steps: decide, take pages, launch, sample, wait, report.

use crate::batch::Part;
use crate::engine::Engine;
use crate::pages::pages_for;
use crate::request::{Event, Finish, RequestId};
use crate::scheduler::{Candidate, Decision, Holding, Input};
use crate::sequence::{NO_SLOT, Sequence};
use crate::waker::block_on;
use gristmill_core::{Error, Result};
use gristmill_ir::{Backend, Step};
use std::task::{Poll, Waker};

/// A step that was finished; all zero where there was nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepInfo {
    /// Its number, from 1.
    pub step: u64,
    /// Sequences in it.
    pub seqs: u32,
    /// Tokens run, of all sequences.
    pub tokens: u32,
    /// Tokens sampled.
    pub sampled: u32,
}

/// A step launched and not finished.
#[derive(Debug)]
pub(crate) struct InFlight {
    step: Step,
    info: StepInfo,
    /// Whose token each sampled row is.
    rows: Vec<Row>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    index: usize,
    id: RequestId,
    epoch: u32,
}

impl InFlight {
    pub fn new(seqs: usize) -> Self {
        InFlight { step: Step(0), info: StepInfo::default(), rows: Vec::with_capacity(seqs) }
    }
}

impl<B: Backend> Engine<B> {
    /// Runs a step and waits for it; its events are added to `events`. Does nothing when idle.
    ///
    /// # Errors
    /// [`Error::Runtime`] when the device failed. Nothing is lost: what was running waits to be
    /// computed again, with the same results.
    pub fn step(&mut self, events: &mut Vec<Event>) -> Result<StepInfo> {
        let waker = self.thread.get();
        block_on(|| self.poll(events, &waker))
    }

    /// Steps until nothing is left to do and returns all events.
    ///
    /// # Errors
    /// As [`Engine::step`].
    pub fn run_to_end(&mut self) -> Result<Vec<Event>> {
        let mut events = vec![];
        while !self.is_idle() {
            self.step(&mut events)?;
        }
        Ok(events)
    }

    /// As [`Engine::step`], but never waits: launches what can be launched and finishes the oldest
    /// step if it is done; if not, `waker` is woken when it is.
    ///
    /// # Errors
    /// As [`Engine::step`].
    pub fn poll(&mut self, events: &mut Vec<Event>, waker: &Waker) -> Result<Poll<StepInfo>> {
        events.append(&mut self.ended);
        while self.in_flight.len() < self.options.in_flight as usize {
            match self.launch() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    self.start_over();
                    return Err(error);
                }
            }
        }
        let Some(oldest) = self.in_flight.front() else {
            if self.is_idle() {
                return Ok(Poll::Ready(StepInfo::default()));
            }
            return Err(Error::Runtime("no sequence can run: a page was lost".into()));
        };
        let (step, results) = (oldest.step, &mut self.scratch.results);
        results.picked.clear();
        let done = self.runner.finish(step, results, waker);
        if matches!(done, Ok(false)) {
            return Ok(Poll::Pending);
        }
        let Some(finished) = self.in_flight.pop_front() else { return Ok(Poll::Pending) };
        let info = finished.info;
        self.memory.finished(info.step);
        let applied = done.and_then(|_| self.apply(&finished, events));
        self.scratch.spare.push(finished);
        if let Err(error) = applied {
            self.start_over();
            return Err(error);
        }
        self.counters.steps += 1;
        self.counters.tokens += u64::from(info.tokens);
        Ok(Poll::Ready(info))
    }

    /// Launches and samples one step; `false` when nothing can run now.
    fn launch(&mut self) -> Result<bool> {
        for &index in &self.running {
            if let Some(s) = &mut self.sequences[index] {
                self.memory.drop_unseen(s);
            }
        }
        loop {
            match self.decide() {
                Decision::Run => break,
                Decision::Drain => return Ok(false),
                Decision::EvictKept => self.evict_oldest_kept("pages")?,
                Decision::Preempt(i) => {
                    self.counters.preemptions += 1;
                    self.preempt(self.running[i]);
                }
            }
        }
        if self.scratch.run.is_empty() {
            return Ok(false);
        }
        self.take_pages()?;
        let sequences = &self.sequences;
        let find = |i: usize| sequences[i].as_ref().expect("`parts` names sequences that exist");
        let recurrent = self.memory.recurrent;
        self.runner.arrays.fill(&self.scratch.parts, find, recurrent, None);
        let step = self.runner.launch()?;
        self.launched(step);
        self.runner.sample(step)?;
        Ok(true)
    }

    /// Asks the scheduler; candidates are the running sequences and then as many waiting ones as
    /// might be admitted.
    fn decide(&mut self) -> Decision {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.candidates.clear();
        scratch.holdings.clear();
        let admissible = (self.options.max_seqs as usize).saturating_sub(self.running.len());
        let indices = self.running.iter().chain(self.waiting.iter().take(admissible));
        for s in indices.filter_map(|&i| self.seq(i)) {
            let (candidate, from, shared) = self.candidate(s);
            scratch.candidates.push(candidate);
            let (memory, at) = (&self.memory, candidate.computed);
            for (table, pool) in from.tables.iter().zip(&memory.pages) {
                let entries = table.len().min(pages_for(at, memory.page_tokens));
                let inside = at % memory.page_tokens != 0;
                scratch.holdings.push(Holding {
                    entries,
                    held: table.held(entries),
                    copy: inside && (shared || table.is_shared(pool, at, memory.page_tokens)),
                });
            }
        }
        scratch.free.clear();
        scratch.free.extend(self.memory.pages.iter().map(|p| p.available()));
        scratch.kept.clear();
        scratch.kept.resize(scratch.free.len(), 0);
        let mut kept_slots = 0;
        for kept in self.kept.iter().filter(|k| k.sequence.holds()) {
            kept_slots += u32::from(kept.sequence.slot != NO_SLOT);
            for (sum, table) in scratch.kept.iter_mut().zip(&kept.sequence.tables) {
                *sum += table.held(table.len());
            }
        }
        let input = Input {
            candidates: &scratch.candidates,
            holdings: &scratch.holdings,
            free: &scratch.free,
            kept: &scratch.kept,
            free_slots: self.memory.slots.available(),
            kept_slots,
            in_flight: !self.in_flight.is_empty(),
        };
        let decision = self.scheduler.schedule(&input, &mut scratch.run);
        self.scratch = scratch;
        decision
    }

    /// A sequence as the scheduler sees it, whose pages it has or would start with, and whether
    /// those would be shared.
    fn candidate<'a>(&'a self, s: &'a Sequence) -> (Candidate, &'a Sequence, bool) {
        let start = if s.running { None } else { self.start(s) };
        let computed = start.map_or(s.computed, |(_, reuse)| reuse);
        let kept = start.map(|(at, _)| &self.kept[at]);
        let takes = kept.is_some_and(|k| k.released && k.children == 1);
        let has_slot = s.running || takes && self.memory.recurrent;
        let candidate = Candidate {
            running: s.running,
            computed,
            ready: if s.running { s.ready() } else { s.len() - computed },
            needs_slot: !has_slot,
        };
        (candidate, kept.map_or(s, |k| &k.sequence), kept.is_some() && !takes)
    }

    /// Admits who is admitted and takes the pages of the step; writes `parts`.
    fn take_pages(&mut self) -> Result<()> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let taken = self.take_pages_of(&scratch.run, &mut scratch.parts);
        self.scratch = scratch;
        taken
    }

    fn take_pages_of(&mut self, run: &[(usize, u32)], parts: &mut Vec<Part>) -> Result<()> {
        parts.clear();
        let short = || Error::Runtime("the pages or slots counted on are gone".into());
        let step = self.runner.next_step();
        for &(i, tokens) in run {
            // Admission goes in order, so candidate i becomes running sequence i.
            while self.running.len() <= i {
                let &index = self.waiting.front().ok_or_else(short)?;
                self.activate(index).ok_or_else(short)?;
            }
            let seq = self.running[i];
            let s = self.sequences[seq].as_mut().ok_or_else(short)?;
            let span = s.computed..s.computed + tokens;
            let page_tokens = self.memory.page_tokens;
            for (group, (table, pool)) in
                s.tables.iter_mut().zip(&mut self.memory.pages).enumerate()
            {
                let moves = &mut self.runner.arrays.moves;
                if !table.grow(pool, span.clone(), page_tokens, step, group as u8, moves) {
                    return Err(short());
                }
            }
            parts.push(Part { seq, tokens });
        }
        Ok(())
    }

    /// Advances the sequences of a step just launched and remembers whom its rows belong to.
    fn launched(&mut self, step: Step) {
        let number = self.runner.next_step() - 1;
        let mut entry = self.scratch.spare.pop().unwrap_or_else(|| InFlight::new(0));
        entry.step = step;
        entry.rows.clear();
        let mut info = StepInfo { step: number, ..StepInfo::default() };
        for part in &self.scratch.parts {
            let Some(s) = &mut self.sequences[part.seq] else { continue };
            s.computed += part.tokens;
            s.last_step = number;
            s.state_from = if self.memory.recurrent { s.slot } else { NO_SLOT };
            info.seqs += 1;
            info.tokens += part.tokens;
            if s.computed == s.len() {
                entry.rows.push(Row { index: part.seq, id: s.id, epoch: s.epoch });
                s.pending += 1;
                s.last_in_slot = true;
                info.sampled += 1;
            }
        }
        entry.info = info;
        self.in_flight.push_back(entry);
    }

    /// Reports the tokens of a finished step and ends the sequences that are done.
    fn apply(&mut self, finished: &InFlight, events: &mut Vec<Event>) -> Result<()> {
        for (i, row) in finished.rows.iter().enumerate() {
            let found = self.sequences.get_mut(row.index).and_then(Option::as_mut);
            let Some(s) = found.filter(|s| s.id == row.id && s.epoch == row.epoch) else {
                continue; // cancelled, ended or started over since
            };
            let Some(&picked) = self.scratch.results.picked.get(i) else {
                let rows = finished.rows.len();
                return Err(Error::Runtime(format!("the device returned {i} of {rows} tokens")));
            };
            s.pending -= 1;
            s.tokens.push(picked.id);
            s.mu = s.sampling.next_mu(s.mu, picked.confidence);
            let finish = if s.stop_ids.contains(&picked.id) {
                Some(Finish::Stop)
            } else {
                (s.tokens.len() as u32 >= s.limit).then_some(Finish::Length)
            };
            let sequence = finish.and_then(|_| self.end(row.index));
            let (token, logprob) = (Some(picked.id), picked.logprob);
            events.push(Event { id: row.id, token, logprob, finish, sequence });
        }
        Ok(())
    }

    /// Sends a running sequence back to wait, before all that wait already.
    fn preempt(&mut self, index: usize) {
        self.running.retain(|&i| i != index);
        self.waiting.push_front(index);
        if let Some(s) = &mut self.sequences[index] {
            s.running = false;
            self.memory.evict(s);
        }
    }

    /// After a failure: nothing on the device is believed any more. Every sequence waits to be
    /// computed again from its tokens; results still in flight are ignored.
    pub(crate) fn start_over(&mut self) {
        self.runner.arrays.moves.clear();
        while let Some(&index) = self.running.last() {
            self.preempt(index);
        }
        for kept in &mut self.kept {
            self.memory.evict(&mut kept.sequence);
        }
    }
}
