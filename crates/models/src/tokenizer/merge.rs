//! Merging neighbours, best first: what byte-pair encoding and SentencePiece's variant share.
//!
//! A text is a chain of symbols. Every adjacent pair that may be joined waits in a queue by its
//! priority, then by its place from the left; joining one makes at most two new pairs. A queue
//! entry is stale when either symbol has changed since, which its length tells. `n` bytes take
//! `O(n log n)`, whatever the text.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// No neighbour.
const END: u32 = u32::MAX;

/// A piece of the text, and its token where it is one.
#[derive(Clone, Copy)]
pub(super) struct Symbol {
    pub start: u32,
    /// Zero once joined to its left neighbour.
    pub len: u32,
    pub id: u32,
    prev: u32,
    next: u32,
}

/// A pair that may be joined. Ordered by priority (lower first), then from the left.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    priority: u32,
    left: u32,
    right: u32,
    len: u32,
    id: u32,
}

/// The chain and the queue; kept between words so that they allocate once.
#[derive(Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Pair>>,
}

impl Merger {
    /// Forgets the last text.
    pub fn clear(&mut self) {
        self.symbols.clear();
        self.queue.clear();
    }

    /// Appends a symbol of `len` bytes with its token, or `NONE`.
    pub fn push(&mut self, len: u32, id: u32) {
        let at = self.symbols.len() as u32;
        let start = self.symbols.last().map_or(0, |s| s.start + s.len);
        if let Some(last) = self.symbols.last_mut() {
            last.next = at;
        }
        let prev = at.checked_sub(1).unwrap_or(END);
        self.symbols.push(Symbol { start, len, id, prev, next: END });
    }

    /// Joins pairs until none may be joined. `find` gives the priority of a pair and the token it
    /// becomes. Then the symbols are those that [`Merger::symbols`] yields.
    pub fn run(&mut self, find: impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>) {
        for left in 1..self.symbols.len() as u32 {
            self.offer(left - 1, left, &find);
        }
        while let Some(Reverse(pair)) = self.queue.pop() {
            let (l, r) = (self.symbols[pair.left as usize], self.symbols[pair.right as usize]);
            if l.len == 0 || r.len == 0 || l.len + r.len != pair.len {
                continue;
            }
            self.symbols[pair.right as usize].len = 0;
            let joined = Symbol { len: pair.len, id: pair.id, next: r.next, ..l };
            self.symbols[pair.left as usize] = joined;
            if joined.next != END {
                self.symbols[joined.next as usize].prev = pair.left;
                self.offer(pair.left, joined.next, &find);
            }
            if joined.prev != END {
                self.offer(joined.prev, pair.left, &find);
            }
        }
    }

    fn offer(
        &mut self,
        left: u32,
        right: u32,
        find: &impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>,
    ) {
        let (l, r) = (&self.symbols[left as usize], &self.symbols[right as usize]);
        if let Some((priority, id)) = find(l, r) {
            self.queue.push(Reverse(Pair { priority, left, right, len: l.len + r.len, id }));
        }
    }

    /// The symbols that are left, in order.
    pub fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter().filter(|s| s.len > 0)
    }
}
