//! Pages of KV cache: who holds which, and when one may be used again.
//!
//! A [`Pool`] hands out the ids of one page group (or slots, which follow the same rules). Ids are
//! counted by reference: forking a [`Table`] shares its pages, and writing into a shared page first
//! copies it ([`Move::Page`]). Steps are numbered from 1; a page given back rests until the last
//! step that names it has finished, so that no step in flight reads what a later one writes.
//!
//! Where a window bounds how far back a group looks, pages wholly out of it are given back early;
//! their entries in the table become [`NO_PAGE`] so that later ones keep their places.

use gristmill_ir::Move;
use std::ops::Range;

/// In a page table: given back because it is wholly out of the window.
pub const NO_PAGE: u32 = u32::MAX;

/// Pages that `tokens` tokens take.
pub fn pages_for(tokens: u32, page_tokens: u32) -> u32 {
    tokens.div_ceil(page_tokens)
}

/// The first token that the one at index `next` sees through `window`.
pub fn first_visible(window: Option<u32>, next: u32) -> u32 {
    window.map_or(0, |w| (next + 1).saturating_sub(w))
}

/// The most pages that a sequence of `tokens` tokens ever holds at once when it runs in steps of up
/// to `chunk` tokens: all, or those that a window and a chunk can touch.
pub fn peak_pages(window: Option<u32>, tokens: u32, chunk: u32, page_tokens: u32) -> u32 {
    let all = pages_for(tokens, page_tokens);
    let Some(window) = window else { return all };
    let span = window.saturating_sub(1).saturating_add(chunk);
    all.min(span.saturating_sub(1).div_ceil(page_tokens).saturating_add(1))
}

#[derive(Clone, Copy, Default)]
struct Entry {
    /// Tables that hold it.
    refs: u32,
    /// The last step known to name it.
    busy: u64,
    /// Reserved for the prefix cache: the hash of every token up to the end of this page.
    _hash: u64,
}

/// The ids `0..n`, each free, held, or resting until a step has finished. Allocates nothing after
/// it is made.
pub struct Pool {
    entries: Vec<Entry>,
    free: Vec<u32>,
    resting: Vec<u32>,
    finished: u64,
    peak: u32,
}

impl Pool {
    /// A pool of `n` free ids.
    pub fn new(n: u32) -> Self {
        Pool {
            entries: vec![Entry::default(); n as usize],
            free: (0..n).rev().collect(),
            resting: Vec::with_capacity(n as usize),
            finished: 0,
            peak: 0,
        }
    }

    /// Ids in all.
    pub fn total(&self) -> u32 {
        self.entries.len() as u32
    }

    /// Ids that can be had now.
    pub fn available(&self) -> u32 {
        self.free.len() as u32
    }

    /// Ids given back that a step in flight may still name.
    pub fn resting(&self) -> u32 {
        self.resting.len() as u32
    }

    /// Ids that somebody holds.
    pub fn used(&self) -> u32 {
        self.total() - self.available() - self.resting()
    }

    /// The most ids ever held at once.
    pub fn peak(&self) -> u32 {
        self.peak
    }

    /// How many hold this id; 0 for one that is free or does not exist.
    pub fn refs(&self, id: u32) -> u32 {
        self.entries.get(id as usize).map_or(0, |e| e.refs)
    }

    /// An id for one holder, if there is one.
    pub fn alloc(&mut self) -> Option<u32> {
        let id = self.free.pop()?;
        self.entries[id as usize].refs = 1;
        self.peak = self.peak.max(self.used());
        Some(id)
    }

    /// One more holder of an id that is held.
    pub fn share(&mut self, id: u32) {
        self.entries[id as usize].refs += 1;
    }

    /// Notes that a step names the id.
    pub fn touch(&mut self, id: u32, step: u64) {
        let busy = &mut self.entries[id as usize].busy;
        *busy = step.max(*busy);
    }

    /// One holder fewer; `last` is the last step in which that holder named it.
    pub fn release(&mut self, id: u32, last: u64) {
        self.touch(id, last);
        let entry = &mut self.entries[id as usize];
        debug_assert!(entry.refs > 0, "released more often than held");
        entry.refs = entry.refs.saturating_sub(1);
        if entry.refs == 0 {
            let list = if entry.busy <= self.finished { &mut self.free } else { &mut self.resting };
            list.push(id);
        }
    }

    /// Notes that every step up to `step` has finished.
    pub fn finished(&mut self, step: u64) {
        self.finished = self.finished.max(step);
        let (entries, finished, free) = (&self.entries, self.finished, &mut self.free);
        self.resting.retain(|&id| {
            let rests = entries[id as usize].busy > finished;
            if !rests {
                free.push(id);
            }
            rests
        });
    }
}

/// The pages of one sequence in one group, in order of its tokens.
#[derive(Default)]
pub struct Table {
    pages: Vec<u32>,
    /// Leading entries that are [`NO_PAGE`].
    dropped: usize,
}

impl Table {
    /// Makes room for `pages` pages in all, so that growing allocates nothing.
    pub fn reserve_capacity(&mut self, pages: u32) {
        self.pages.reserve_exact((pages as usize).saturating_sub(self.pages.len()));
    }

    /// Page ids, [`NO_PAGE`] where given back.
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// Entries, given back or not.
    pub fn len(&self) -> u32 {
        self.pages.len() as u32
    }

    /// Whether it has no entry.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Pages held among the first `entries`.
    pub fn held(&self, entries: u32) -> u32 {
        (entries as usize).min(self.pages.len()).saturating_sub(self.dropped) as u32
    }

    /// Whether the page that holds token `at` exists and somebody else holds it too.
    pub fn is_shared(&self, pool: &Pool, at: u32, page_tokens: u32) -> bool {
        let page = self.pages.get((at / page_tokens) as usize);
        page.is_some_and(|&p| pool.refs(p) > 1)
    }

    /// Makes the pages of `tokens` this table's own: takes new ones beyond its end and copies
    /// shared ones. `step` is the step that will write them. Answers `false`, with nothing changed,
    /// when the pool has too few.
    pub fn grow(
        &mut self,
        pool: &mut Pool,
        tokens: Range<u32>,
        page_tokens: u32,
        step: u64,
        group: u8,
        moves: &mut Vec<Move>,
    ) -> bool {
        let first = (tokens.start / page_tokens) as usize;
        let end = pages_for(tokens.end, page_tokens) as usize;
        let old = first.min(self.pages.len())..end.min(self.pages.len());
        let copies = self.pages[old.clone()].iter().filter(|&&p| pool.refs(p) > 1).count();
        if copies + end.saturating_sub(self.pages.len()) > pool.available() as usize {
            return false;
        }
        for entry in &mut self.pages[old] {
            if pool.refs(*entry) > 1
                && let Some(to) = pool.alloc()
            {
                moves.push(Move::Page { group, from: *entry, to });
                pool.release(*entry, step);
                *entry = to;
            }
        }
        while self.pages.len() < end
            && let Some(page) = pool.alloc()
        {
            self.pages.push(page);
        }
        true
    }

    /// Gives back the pages whose tokens all come before token `first`.
    pub fn drop_before(&mut self, pool: &mut Pool, first: u32, page_tokens: u32, last: u64) {
        let end = ((first / page_tokens) as usize).min(self.pages.len());
        while self.dropped < end {
            let page = std::mem::replace(&mut self.pages[self.dropped], NO_PAGE);
            pool.release(page, last);
            self.dropped += 1;
        }
    }

    /// Whether it can serve a sequence of `tokens` tokens: every page from token `first` on is
    /// there.
    pub fn covers(&self, first: u32, tokens: u32, page_tokens: u32) -> bool {
        pages_for(tokens, page_tokens) <= self.len()
            && self.dropped <= (first / page_tokens) as usize
    }

    /// A table that shares the pages of the first `tokens` tokens.
    pub fn fork(&self, pool: &mut Pool, tokens: u32, page_tokens: u32) -> Table {
        let end = (pages_for(tokens, page_tokens) as usize).min(self.pages.len());
        let dropped = self.dropped.min(end);
        self.pages[dropped..end].iter().for_each(|&p| pool.share(p));
        Table { pages: self.pages[..end].to_vec(), dropped }
    }

    /// Gives back everything after the first `tokens` tokens.
    pub fn truncate(&mut self, pool: &mut Pool, tokens: u32, page_tokens: u32, last: u64) {
        let end = pages_for(tokens, page_tokens) as usize;
        while self.pages.len() > end
            && let Some(page) = self.pages.pop()
        {
            if page != NO_PAGE {
                pool.release(page, last);
            }
        }
        self.dropped = self.dropped.min(self.pages.len());
    }

    /// Gives everything back.
    pub fn clear(&mut self, pool: &mut Pool, last: u64) {
        self.truncate(pool, 0, 1, last);
    }
}
