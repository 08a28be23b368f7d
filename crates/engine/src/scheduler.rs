//! Who runs how many tokens in the next step: plain numbers in, plain numbers out; no clock, no
//! model, no memory of its own but scratch.
//!
//! Sequences come oldest first. Those that decode run first, a token each; what is left of the
//! budget goes to prompts, in chunks, oldest first; then waiting ones are admitted in order, each
//! only when the pages of its whole prompt are there beside what running prompts still need.
//!
//! When a running sequence finds no page, somebody else gives theirs up and is computed again
//! later: first kept sequences that nobody runs, then the newest running one, never an older one
//! than the one in need. So the oldest always advances, and since a request that would not fit
//! alone is refused when it is submitted, everything ends. Giving up waits until no step is in
//! flight, for only then are the pages free at once and all sampled tokens known.

use crate::pages::{pages_for, peak_pages};
use gristmill_ir::Group;

/// What does not change between steps.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The most tokens of a step.
    pub token_budget: u32,
    /// The most sequences of a step.
    pub max_seqs: u32,
    /// Prompts are cut at multiples of this.
    pub chunk_multiple: u32,
    /// Tokens of a page.
    pub page_tokens: u32,
    /// Page groups.
    pub groups: Vec<Group>,
}

/// A sequence as the scheduler sees it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Whether it runs already.
    pub running: bool,
    /// Tokens whose keys and values are there (or in flight).
    pub computed: u32,
    /// Tokens that can be computed now.
    pub ready: u32,
    /// Whether it needs a slot to run.
    pub needs_slot: bool,
}

/// The pages of a candidate in one group.
#[derive(Clone, Copy, Debug, Default)]
pub struct Holding {
    /// Entries of its page table.
    pub entries: u32,
    /// Entries that hold a page.
    pub held: u32,
    /// Whether the page of its next token is shared, so that writing takes one more.
    pub copy: bool,
}

/// Everything a decision depends on.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Oldest first; running ones before waiting ones. Of the waiting only the first few need be
    /// here.
    pub candidates: &'a [Candidate],
    /// A holding for each (candidate, group), candidate by candidate.
    pub holdings: &'a [Holding],
    /// Pages of each group that can be had now.
    pub free: &'a [u32],
    /// Pages of each group in kept sequences that nobody runs.
    pub kept: &'a [u32],
    /// Slots that can be had now.
    pub free_slots: u32,
    /// Slots of kept sequences.
    pub kept_slots: u32,
    /// Whether a step is in flight.
    pub in_flight: bool,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Launch what was written to `run`, if anything.
    Run,
    /// Take the pages of the kept sequence least recently used, and ask again.
    EvictKept,
    /// Take the pages of this candidate, which goes back to waiting, and ask again.
    Preempt(usize),
    /// Launch nothing until no step is in flight, and ask again.
    Drain,
}

/// Decides steps. It remembers nothing between them.
pub struct Scheduler {
    limits: Limits,
    free: Vec<u32>,
    reserved: Vec<u32>,
}

impl Scheduler {
    /// A scheduler within these limits.
    pub fn new(limits: Limits) -> Self {
        let groups = limits.groups.len();
        Scheduler { limits, free: vec![0; groups], reserved: vec![0; groups] }
    }

    /// Pages of each group that a sequence of `tokens` tokens needs when it has the pool to itself;
    /// with fewer it can never finish.
    pub fn least_pages(&self, tokens: u32) -> impl Iterator<Item = u32> {
        let l = &self.limits;
        l.groups.iter().map(move |g| peak_pages(g.window, tokens, l.chunk_multiple, l.page_tokens))
    }

    /// Decides the next step: `run` receives `(candidate, tokens)` pairs, oldest running first,
    /// admitted ones last.
    pub fn schedule(&mut self, input: &Input<'_>, run: &mut Vec<(usize, u32)>) -> Decision {
        run.clear();
        self.free.copy_from_slice(input.free);
        let mut budget = self.limits.token_budget;
        let running = input.candidates.iter().take_while(|c| c.running).count();
        for decoding in [true, false] {
            for (i, c) in input.candidates[..running].iter().enumerate() {
                if c.ready == 0 || (c.ready == 1) != decoding {
                    continue;
                }
                let wanted = self.cut(c, c.ready.min(budget));
                if wanted == 0 {
                    continue; // the budget is spent
                }
                let n = self.cut(c, wanted.min(self.room(input, i)));
                if n == 0 {
                    let Some(victim) = victim(input, i, running) else { continue };
                    return give_way(input, victim, run);
                }
                self.take(input, i, n);
                budget -= n;
                run.push((i, n));
            }
        }
        self.admit(input, running, budget, run)
    }

    fn admit(
        &mut self,
        input: &Input<'_>,
        mut running: usize,
        mut budget: u32,
        run: &mut Vec<(usize, u32)>,
    ) -> Decision {
        self.reserved.fill(0);
        for i in 0..running {
            let n = run.iter().find(|r| r.0 == i).map_or(0, |r| r.1);
            self.reserve(input, i, n);
        }
        let mut slots = input.free_slots;
        while let Some(c) = input.candidates.get(running)
            && running < self.limits.max_seqs as usize
        {
            let i = running;
            let wanted = self.cut(c, c.ready.min(budget));
            if wanted == 0 {
                break;
            }
            if c.needs_slot && slots == 0 {
                if input.kept_slots > 0 {
                    return give_way(input, Decision::EvictKept, run);
                }
                break;
            }
            // 0: the pages are there; 1: they would be without the kept sequences; 2: not even so.
            let short = (0..self.free.len())
                .map(|g| {
                    let need = self.outstanding(input, i, g, 0) + self.reserved[g];
                    u32::from(need > self.free[g]) + u32::from(need > self.free[g] + input.kept[g])
                })
                .max()
                .unwrap_or(0);
            let n = self.cut(c, wanted.min(self.room(input, i)));
            let alone = running == 0;
            let kept = input.kept.iter().any(|&n| n > 0);
            if kept && (short == 1 || alone && n == 0) {
                return give_way(input, Decision::EvictKept, run);
            }
            if n == 0 || (short > 0 && !alone) {
                break;
            }
            self.take(input, i, n);
            self.reserve(input, i, n);
            slots -= u32::from(c.needs_slot);
            budget -= n;
            run.push((i, n));
            running += 1;
        }
        Decision::Run
    }

    /// `n` tokens of a candidate, fewer where the cut would not be at a multiple.
    fn cut(&self, c: &Candidate, n: u32) -> u32 {
        if n >= c.ready {
            return c.ready;
        }
        let end = c.computed + n;
        (end - end % self.limits.chunk_multiple).saturating_sub(c.computed)
    }

    fn holding<'a>(&self, input: &Input<'a>, i: usize, g: usize) -> &'a Holding {
        &input.holdings[i * self.free.len() + g]
    }

    /// Tokens of candidate `i` for which there are pages.
    fn room(&self, input: &Input<'_>, i: usize) -> u32 {
        let group = |g: usize| {
            let h = self.holding(input, i, g);
            match self.free[g].checked_sub(u32::from(h.copy)) {
                Some(free) => {
                    h.entries.saturating_add(free).saturating_mul(self.limits.page_tokens)
                }
                None => 0,
            }
        };
        let tokens = (0..self.free.len()).map(group).min().unwrap_or(u32::MAX);
        tokens.saturating_sub(input.candidates[i].computed)
    }

    /// New pages for `n` more tokens of candidate `i`.
    fn pages(&self, input: &Input<'_>, i: usize, g: usize, n: u32) -> u32 {
        let h = self.holding(input, i, g);
        let end = pages_for(input.candidates[i].computed + n, self.limits.page_tokens);
        if n == 0 { 0 } else { end.saturating_sub(h.entries) + u32::from(h.copy) }
    }

    fn take(&mut self, input: &Input<'_>, i: usize, n: u32) {
        for g in 0..self.free.len() {
            self.free[g] = self.free[g].saturating_sub(self.pages(input, i, g, n));
        }
    }

    /// Pages that candidate `i` still needs for all its tokens once `n` of them have theirs. In a
    /// windowed group others come back meanwhile, so only the peak counts.
    fn outstanding(&self, input: &Input<'_>, i: usize, g: usize, n: u32) -> u32 {
        let (l, c) = (&self.limits, &input.candidates[i]);
        let taken = self.pages(input, i, g, n);
        let tokens = c.computed + c.ready;
        let peak = peak_pages(l.groups[g].window, tokens, l.token_budget, l.page_tokens);
        let held = self.holding(input, i, g).held + taken;
        (self.pages(input, i, g, c.ready) - taken).min(peak.saturating_sub(held))
    }

    /// Sets aside what a running candidate still needs, and a page to grow into.
    fn reserve(&mut self, input: &Input<'_>, i: usize, n: u32) {
        for g in 0..self.reserved.len() {
            self.reserved[g] += self.outstanding(input, i, g, n) + 1;
        }
    }
}

/// Who gives way to candidate `i`, if anybody.
fn victim(input: &Input<'_>, i: usize, running: usize) -> Option<Decision> {
    if input.kept.iter().any(|&n| n > 0) {
        return Some(Decision::EvictKept);
    }
    (i + 1 < running).then_some(Decision::Preempt(running - 1))
}

fn give_way(input: &Input<'_>, victim: Decision, run: &mut Vec<(usize, u32)>) -> Decision {
    run.clear();
    if input.in_flight { Decision::Drain } else { victim }
}
