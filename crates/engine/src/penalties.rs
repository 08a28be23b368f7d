//! What penalties and DRY take from the logits of a row, worked out from the ids of its sequence.
//!
//! The device gets a few numbers for the tokens concerned; it keeps no history. Arrays grow when a
//! request is submitted, so that a step allocates nothing.
//!
//! DRY asks how long a repetition each token would make longer. Where the text ends with `w` and
//! holds `w` before, followed by `t`, then `t` would. For every earlier place the longest such `w`
//! that ends there is what the Z-algorithm gives (Gusfield 1997, "Algorithms on Strings"), run
//! backwards from the end of the text, in linear time.

use crate::sampling::SamplingParams;
use gristmill_ir::Penalty;

/// The penalties of a step, and scratch to work them out.
#[derive(Default)]
pub(crate) struct Penalties {
    /// Row after row, a token at most once in each.
    pub list: Vec<Penalty>,
    /// Beside `list`: the longest repetition that the token would go on, plus 1; 0: none.
    repeats: Vec<u32>,
    /// Where each token of the vocabulary stands in `list`, plus 1; all 0 between two rows.
    place: Vec<u32>,
    /// For each place, counted back from the last token: how many tokens that end there are the
    /// last tokens of the text.
    matches: Vec<u32>,
}

/// The last `n` tokens; all where `n` is negative.
fn last(tokens: &[u32], n: i32) -> &[u32] {
    usize::try_from(n).map_or(tokens, |n| &tokens[tokens.len().saturating_sub(n)..])
}

/// How many tokens of a text of `len` tokens have penalties at most, with `vocab` of them there.
pub(crate) fn room(p: &SamplingParams, len: usize, vocab: usize) -> usize {
    let reach = |on: bool, n: i32| match usize::try_from(n) {
        _ if !on => 0,
        Ok(n) => n.min(len),
        Err(_) => len,
    };
    let most = reach(p.penalises(), p.repeat_last_n).max(reach(p.dries(), p.dry_penalty_last_n));
    most.min(vocab)
}

impl Penalties {
    /// Makes room for `tokens` penalties in a step, over texts of at most `len` tokens.
    pub fn reserve(&mut self, tokens: usize, len: usize, vocab: usize) {
        if tokens == 0 {
            return;
        }
        self.list.reserve(tokens.saturating_sub(self.list.len()));
        self.repeats.reserve(tokens.saturating_sub(self.repeats.len()));
        self.matches.reserve(len.saturating_sub(self.matches.len()));
        self.place.resize(vocab, 0);
    }

    pub fn clear(&mut self) {
        self.list.clear();
        self.repeats.clear();
    }

    /// Adds those of a row, the next, after the text `tokens`; its breakers are sorted.
    pub fn add(&mut self, row: u32, tokens: &[u32], p: &SamplingParams) {
        let from = self.list.len();
        if p.penalises() {
            for &token in last(tokens, p.repeat_last_n) {
                let at = self.at(row, token);
                self.list[at].subtract += 1.0; // a count, until all are counted
            }
            for e in &mut self.list[from..] {
                e.repeat = p.repeat_penalty;
                e.subtract = e.subtract * p.frequency_penalty + p.presence_penalty;
            }
        }
        if p.dries() {
            self.find_repeats(row, last(tokens, p.dry_penalty_last_n), p);
            for (e, &repeat) in self.list[from..].iter_mut().zip(&self.repeats[from..]) {
                e.subtract += dry_penalty(repeat, p);
            }
        }
        for e in &self.list[from..] {
            self.place[e.token as usize] = 0;
        }
    }

    /// Where a token of a row stands in the list, now if not before.
    fn at(&mut self, row: u32, token: u32) -> usize {
        let place = &mut self.place[token as usize];
        if *place == 0 {
            self.list.push(Penalty { row, token, repeat: 1.0, subtract: 0.0 });
            self.repeats.push(0);
            *place = self.list.len() as u32;
        }
        *place as usize - 1
    }

    /// Notes the longest repetition that each token would go on.
    fn find_repeats(&mut self, row: u32, tokens: &[u32], p: &SamplingParams) {
        let allowed = p.dry_allowed_length as usize;
        let (n, unbroken) = (tokens.len(), unbroken(tokens, &p.dry_breakers));
        if n <= allowed || unbroken < allowed {
            return;
        }
        let back = |i: usize| tokens[n - 1 - i];
        self.matches.clear();
        self.matches.resize(n, 0);
        // What reaches furthest so far: `[from, to)` are the last tokens once more.
        let (mut from, mut to) = (0, 0);
        for k in 1..n {
            let mut len = match k < to {
                true => (self.matches[k - from] as usize).min(to - k),
                false => 0,
            };
            while k + len < n && back(len) == back(k + len) {
                len += 1;
            }
            self.matches[k] = len as u32;
            if k + len > to {
                (from, to) = (k, k + len);
            }
            let (len, next) = (len.min(unbroken), back(k - 1));
            // A breaker that is one token is what every text may repeat.
            if len >= allowed && p.dry_breakers.binary_search_by(|b| b[..].cmp(&[next])).is_err() {
                let at = self.at(row, next);
                self.repeats[at] = self.repeats[at].max(len as u32 + 1);
            }
        }
    }
}

/// How many tokens stand behind the last breaker; all where there is none.
fn unbroken(tokens: &[u32], breakers: &[Vec<u32>]) -> usize {
    for (at, head) in tokens.iter().enumerate().rev() {
        let first = breakers.partition_point(|b| b[0] < *head);
        let same = breakers[first..].iter().take_while(|b| b[0] == *head);
        let ends = same.filter(|b| tokens[at..].starts_with(b)).map(|b| at + b.len());
        if let Some(end) = ends.max() {
            return tokens.len() - end;
        }
    }
    tokens.len()
}

/// What a token loses that would go on a repetition, see [`Penalties::repeats`].
fn dry_penalty(repeat: u32, p: &SamplingParams) -> f32 {
    let Some(len) = repeat.checked_sub(1) else { return 0.0 };
    let over = f64::from(len) - f64::from(p.dry_allowed_length);
    let lost = f64::from(p.dry_multiplier) * f64::from(p.dry_base).powf(over);
    lost.min(f64::from(f32::MAX)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(token, repeat, subtract)` in order of tokens.
    fn penalties(tokens: &[u32], p: &SamplingParams) -> Vec<(u32, f32, f32)> {
        let mut all = Penalties::default();
        let mut p = p.clone();
        p.dry_breakers.sort();
        // A row before it leaves nothing behind.
        let other = [1, 2, 3, 1, 2, 3, 1, 2];
        all.reserve(room(&p, other.len(), 100), other.len(), 100);
        all.add(2, &other, &p);
        let before = all.list.len();
        all.add(3, tokens, &p);
        assert!(all.place.iter().all(|&at| at == 0));
        let mut got: Vec<_> = all.list[before..]
            .iter()
            .map(|e| {
                assert_eq!(e.row, 3);
                (e.token, e.repeat, e.subtract)
            })
            .collect();
        got.sort_by_key(|e| e.0);
        got
    }

    #[test]
    fn single_tokens() {
        let p = SamplingParams {
            repeat_penalty: 1.5,
            frequency_penalty: 0.25,
            presence_penalty: 0.5,
            repeat_last_n: -1,
            ..SamplingParams::default()
        };
        // 7 three times: 3 · 0.25 + 0.5; 9 twice; 4 once.
        let text = [7, 9, 7, 4, 9, 7];
        assert_eq!(penalties(&text, &p), [(4, 1.5, 0.75), (7, 1.5, 1.25), (9, 1.5, 1.0)]);
        // The last four are 7 4 9 7.
        let four = SamplingParams { repeat_last_n: 4, ..p.clone() };
        assert_eq!(penalties(&text, &four), [(4, 1.5, 0.75), (7, 1.5, 1.0), (9, 1.5, 0.75)]);
        let none = SamplingParams { repeat_last_n: 0, ..p.clone() };
        assert_eq!(penalties(&text, &none), []);
        // Longer than the text is all of it.
        let long = SamplingParams { repeat_last_n: 64, ..p };
        assert_eq!(penalties(&text, &long).len(), 3);
        assert_eq!(penalties(&text, &SamplingParams::default()), []);
    }

    /// Multiplier 1, base 2, two tokens allowed.
    fn dry() -> SamplingParams {
        let p = SamplingParams { dry_multiplier: 1.0, dry_base: 2.0, ..SamplingParams::default() };
        assert_eq!((p.dry_allowed_length, p.dry_penalty_last_n), (2, -1));
        p
    }

    // Letters of the sequences below.
    const A: u32 = 1;
    const B: u32 = 2;
    const C: u32 = 3;
    const Y: u32 = 25;
    const DOT: u32 = 99;

    #[test]
    fn repetitions() {
        // a b c c b c y a b c: `a b c` was followed by `c`, a repetition of 3, so 2^(3-2); `b c` at
        // 5 and 6 by `y`, so 2^0; `c` at 4 by `b`, of 1 only, which is below what counts.
        let text = [A, B, C, C, B, C, Y, A, B, C];
        assert_eq!(penalties(&text, &dry()), [(C, 1.0, 2.0), (Y, 1.0, 1.0)]);
        // With 1 allowed `b` is there too, and each loses twice as much as before.
        let one = SamplingParams { dry_allowed_length: 1, ..dry() };
        assert_eq!(penalties(&text, &one), [(B, 1.0, 1.0), (C, 1.0, 4.0), (Y, 1.0, 2.0)]);
        // The last 7 tokens: c b c y a b c. Only `b c` is there before.
        let seven = SamplingParams { dry_penalty_last_n: 7, ..dry() };
        assert_eq!(penalties(&text, &seven), [(Y, 1.0, 1.0)]);
        let nothing = SamplingParams { dry_penalty_last_n: 0, ..dry() };
        assert_eq!(penalties(&text, &nothing), []);
    }

    #[test]
    fn repetitions_that_overlap() {
        // a a a a a: the last four are four tokens back once more, and `a` follows: 2^(4-2).
        assert_eq!(penalties(&[A; 5], &dry()), [(A, 1.0, 4.0)]);
        // a b a b a: the last three stand at the front, and `b` follows: 2^(3-2).
        assert_eq!(penalties(&[A, B, A, B, A], &dry()), [(B, 1.0, 2.0)]);
        // Nothing is twice; and two tokens are no more than what is allowed.
        assert_eq!(penalties(&[A, B, C], &dry()), []);
        assert_eq!(penalties(&[A, A], &dry()), []);
        assert_eq!(penalties(&[], &dry()), []);
    }

    #[test]
    fn breakers_end_repetitions() {
        let with = |breakers: &[&[u32]]| {
            let dry_breakers = breakers.iter().map(|b| b.to_vec()).collect();
            SamplingParams { dry_breakers, ..dry() }
        };
        // a b . b c a b . b c: `a b . b c` is there twice and goes on with `a`, a repetition of 5.
        let text = [A, B, DOT, B, C, A, B, DOT, B, C];
        assert_eq!(penalties(&text, &dry()), [(A, 1.0, 8.0)]);
        // Behind the last dot are 2 tokens: a repetition of 2.
        assert_eq!(penalties(&text, &with(&[&[DOT]])), [(A, 1.0, 1.0)]);
        // `. b` leaves 1 token, less than what is allowed.
        assert_eq!(penalties(&text, &with(&[&[DOT, B]])), []);
        // Of those that begin with the same token the longest that is there counts.
        assert_eq!(penalties(&text, &with(&[&[DOT, C], &[DOT], &[DOT, B]])), []);
        assert_eq!(penalties(&text, &with(&[&[DOT, C], &[DOT]])), [(A, 1.0, 1.0)]);
        // The token that would go on is a breaker: it may.
        assert_eq!(penalties(&text, &with(&[&[A]])), []);
        // A longer breaker that begins with it does not excuse it: `a y` is nowhere.
        assert_eq!(penalties(&text, &with(&[&[A, Y]])), [(A, 1.0, 8.0)]);
    }

    #[test]
    fn both_add_up_and_nothing_overflows() {
        let p = SamplingParams { presence_penalty: 0.5, ..dry() };
        assert_eq!(penalties(&[A; 5], &p), [(A, 1.0, 4.5)]);
        let steep = SamplingParams { dry_base: 1e9, ..dry() };
        assert_eq!(penalties(&[A; 90], &steep), [(A, 1.0, f32::MAX)]);
    }

    #[test]
    fn bounds() {
        let p = SamplingParams { presence_penalty: 1.0, ..SamplingParams::default() };
        assert_eq!((room(&p, 1000, 5000), room(&p, 10, 5000), room(&p, 1000, 7)), (64, 10, 7));
        assert_eq!((room(&dry(), 1000, 5000), room(&SamplingParams::default(), 9, 9)), (1000, 0));
    }
}
