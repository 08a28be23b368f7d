//! Attention over paged keys and values with an online softmax (Milakov and Gimelshein 2018; Dao
//! et al. 2022).
//!
//! An item of work is a few tokens of one sequence and one key head, with all the query heads that
//! share it: each key and value is read once for all of them. Keys are walked page by page, see
//! [`page`], in blocks of [`KEYS`]; after the scores of a block, for each query row,
//!
//! ```text
//! m' = max(m, max s)    p = e^(s - m')    l' = l e^(m - m') + Σ p    o' = o e^(m - m') + p V
//! ```
//!
//! Keys are grouped into spans of [`SPAN`] by their absolute index. A span starts afresh, and
//! spans are merged in order; so one sequence gives the same bits whatever the batch, the chunking
//! of its prompt and the threads, and a long decode can share its spans between threads.

// Tiles are indexed by row and register: that is what their loops say.
#![allow(clippy::needless_range_loop)]

mod page;

pub use page::VALUE_BLOCK;

use super::stored::Stored;
use crate::simd::{Simd, WithSimd, math};
use gristmill_core::DType;
use std::ops::Range;

/// Keys of a span.
pub const SPAN: usize = 512;
/// Keys whose scores are turned into exponentials at once, at least: few enough to stay in cache,
/// enough that what is done once for a row costs little beside them.
const KEYS: usize = 128;
/// Tokens of one item of work.
pub const TILE: usize = 8;
/// Query rows that share a register of keys or values, at most.
const MOST_ROWS: usize = 8;

/// Arguments of an [`AttentionFn`].
#[derive(Clone, Copy)]
pub struct AttentionArgs {
    /// Queries, `[token][heads head_dim]`.
    pub q: *const f32,
    /// Results, of the same shape.
    pub out: *mut f32,
    /// Pages of keys, `[page][kv head][element][token]`.
    pub k_pages: *const u8,
    /// Pages of values, `[page][block][token][element]`: blocks of [`VALUE_BLOCK`] elements of all
    /// heads, the last one narrower where they are no whole number.
    pub v_pages: *const u8,
    /// Tokens of a page; an even number of registers that divides [`SPAN`].
    pub page_tokens: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Multiplies the scores.
    pub scale: f32,
    /// `cap · tanh(s / cap)`; 0: none.
    pub softcap: f32,
    /// Positions a token looks back, itself included; 0: all.
    pub window: u32,
    /// One more score for each head, or null.
    pub sinks: *const f32,
    /// Visible keys `[from, to)` of each token.
    pub visible: *const [u32; 2],
    /// Logical index of each token, for the window.
    pub kv_index: *const u32,
    /// Tree masks of each token, or null.
    pub ancestors: *const u64,
}

/// An item of work.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    /// First token.
    pub token: u32,
    /// Tokens, at most [`TILE`].
    pub tokens: u32,
    /// Offset of the sequence's page table in the batch's pages, modulo 2^32: entries before the
    /// first that is needed may not be there.
    pub table: u32,
    /// Logical index where the sequence's tree begins; `u32::MAX`: no tree.
    pub tree_base: u32,
    /// First and last span.
    pub spans: [u32; 2],
}

/// Floats of scratch that a worker needs.
pub fn scratch_len(heads: usize, kv_heads: usize, head_dim: usize, page_tokens: usize) -> usize {
    let rows = (heads / kv_heads * TILE).next_multiple_of(MOST_ROWS);
    // Queries, scores, the running maximum, sum, and result, and the span's; a page as f32.
    let scores = block_keys(page_tokens);
    rows * (head_dim + scores + 2 * (head_dim + 2) + 1) + head_dim * page_tokens + 64
}

/// Keys of a block: whole pages, and whole blocks make a span.
fn block_keys(page_tokens: usize) -> usize {
    if KEYS.is_multiple_of(page_tokens) { KEYS } else { page_tokens }
}

/// Floats of a partial result: maximum, sum, result.
pub fn partial_len(head_dim: usize) -> usize {
    head_dim + 2
}

/// Runs one item for one key head. Where `partials` is not null, the item has one token and one
/// span, whose running softmax goes there, `[head][partial_len]`, instead of to the result.
///
/// # Safety
/// The pointers hold what `args` documents for all tokens of the item and all pages of its table;
/// `scratch` holds [`scratch_len`] floats of this worker's own; the instruction set is present.
pub type AttentionFn = unsafe fn(
    &AttentionArgs,
    &Item,
    pages: *const u32,
    kv_head: usize,
    scratch: *mut f32,
    partials: *mut f32,
);

/// Merges the partial results `[item][head][partial_len]` of a range of (token, head) pairs; the
/// items of a token are those from `items[token][0]` to `items[token][1]`, in order of spans.
///
/// # Safety
/// As [`AttentionFn`]; `items` has an entry for each token of the range.
pub type MergeFn =
    unsafe fn(&AttentionArgs, partials: *mut f32, items: *const [u32; 2], Range<usize>);

/// The kernel for these stored types; `None` for a type that caches cannot have.
pub fn select<S: Simd>(k: DType, v: DType) -> Option<AttentionFn> {
    super::for_kv_types!(S, k, v, attend)
}

/// An [`AttentionFn`] for any elements.
///
/// # Safety
/// As [`AttentionFn`].
pub(super) unsafe fn attend<S: Simd, K: Stored, V: Stored>(
    args: &AttentionArgs,
    item: &Item,
    pages: *const u32,
    kv_head: usize,
    scratch: *mut f32,
    partials: *mut f32,
) {
    let marker = std::marker::PhantomData;
    let op = Attend::<K, V> { args, item, pages, kv_head, scratch, partials, marker };
    // SAFETY: the caller's promise.
    unsafe { S::assume() }.vectorize(op);
}

/// Merges partials; see [`MergeFn`].
///
/// # Safety
/// As [`MergeFn`].
pub unsafe fn merge<S: Simd>(
    args: &AttentionArgs,
    partials: *mut f32,
    items: *const [u32; 2],
    pairs: Range<usize>,
) {
    // SAFETY: the caller's promise.
    unsafe { S::assume() }.vectorize(Merge { args, partials, items, pairs });
}

struct Attend<'a, K, V> {
    args: &'a AttentionArgs,
    item: &'a Item,
    pages: *const u32,
    kv_head: usize,
    scratch: *mut f32,
    partials: *mut f32,
    marker: std::marker::PhantomData<(K, V)>,
}

/// The running softmax of the rows of an item: maximum, sum of exponentials, weighted values.
#[derive(Clone, Copy)]
struct Running {
    max: *mut f32,
    sum: *mut f32,
    out: *mut f32,
}

impl Running {
    /// Nothing seen yet.
    ///
    /// # Safety
    /// The pointers hold `rows` rows of results of `d` elements.
    #[inline(always)]
    unsafe fn reset<S: Simd>(self, s: S, rows: usize, d: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            for r in 0..rows {
                *self.max.add(r) = f32::NEG_INFINITY;
                *self.sum.add(r) = 0.0;
            }
            super::norm::zero(s, self.out, rows * d);
        }
    }
}

/// Joins a later part to an earlier one, both relative to their own maximum. This one function
/// merges spans wherever that happens, so the order and the roundings are the same everywhere.
///
/// # Safety
/// Both hold one row of `d` elements.
#[inline(always)]
unsafe fn join<S: Simd>(s: S, into: Running, part: Running, d: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let (old, new) = (*into.max, *part.max);
        if new == f32::NEG_INFINITY {
            return;
        }
        let max = old.max(new);
        let exp = |v: f32| s.max_across(math::exp(s, s.splat(v)));
        let keep = if old == max { 1.0 } else { exp(old - max) };
        let take = if new == max { 1.0 } else { exp(new - max) };
        *into.max = max;
        *into.sum = *into.sum * keep + *part.sum * take;
        let (keep, take) = (s.splat(keep), s.splat(take));
        super::norm::map(
            s,
            d,
            #[inline(always)]
            |i, n| {
                let a = s.mul(s.load_n(into.out.add(i), n), keep);
                s.store_n(into.out.add(i), n, s.fma(s.load_n(part.out.add(i), n), take, a));
            },
        );
    }
}

/// What else lies in the worker's scratch.
#[derive(Clone, Copy)]
struct Own {
    /// Queries, a row each.
    q: *mut f32,
    /// Scores of a block of keys, a row each.
    scores: *mut f32,
    /// Keys or values of one head in a page.
    wide: *mut f32,
}

impl<K: Stored, V: Stored> WithSimd for Attend<'_, K, V> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let a = self.args;
        let (d, p) = (a.head_dim, a.page_tokens);
        let group = a.heads / a.kv_heads;
        let tokens = self.item.tokens as usize;
        let rows = tokens * group;
        let padded = rows.next_multiple_of(MOST_ROWS);
        // SAFETY: the worker's scratch holds these, by `scratch_len`; token and page indices are
        // the item's, which the caller vouches for.
        unsafe {
            let q = self.scratch;
            let scores = q.add(padded * d);
            let part = {
                let max = scores.add(padded * block_keys(p));
                Running { max, sum: max.add(padded), out: max.add(2 * padded) }
            };
            let total = {
                let max = part.out.add(padded * d);
                Running { max, sum: max.add(padded), out: max.add(2 * padded) }
            };
            let own = Own { q, scores, wide: total.out.add(padded * d) };
            // Rows in the order (token, head of the group); rows beyond are zero.
            for r in 0..padded {
                let to = q.add(r * d);
                if r < rows {
                    let token = self.item.token as usize + r / group;
                    let head = self.kv_head * group + r % group;
                    let from = a.q.add((token * a.heads + head) * d);
                    let scale = s.splat(a.scale);
                    super::norm::map(
                        s,
                        d,
                        #[inline(always)]
                        |i, n| {
                            s.store_n(to.add(i), n, s.mul(s.load_n(from.add(i), n), scale));
                        },
                    );
                } else {
                    super::norm::zero(s, to, d);
                }
            }
            let [first, last] = self.item.spans;
            total.reset(s, rows, d);
            for span in first..=last {
                part.reset(s, padded, d);
                self.span(s, span as usize, own, part);
                if !self.partials.is_null() {
                    self.keep(s, part);
                    return;
                }
                for r in 0..rows {
                    let row = |x: Running| Running {
                        max: x.max.add(r),
                        sum: x.sum.add(r),
                        out: x.out.add(r * d),
                    };
                    join(s, row(total), row(part), d);
                }
            }
            for r in 0..rows {
                let token = self.item.token as usize + r / group;
                let head = self.kv_head * group + r % group;
                let to = a.out.add((token * a.heads + head) * d);
                finish(s, a, head, *total.max.add(r), *total.sum.add(r), total.out.add(r * d), to);
            }
        }
    }
}

/// Whether keys or values are better converted once than for each block of rows.
#[inline(always)]
fn worth_widening<T: Stored>(rows: usize) -> bool {
    T::DTYPE != DType::F32 && rows > MOST_ROWS
}

/// Divides by the sum, the sink counted in.
///
/// # Safety
/// `from` and `to` hold `head_dim` elements.
#[inline(always)]
unsafe fn finish<S: Simd>(
    s: S,
    a: &AttentionArgs,
    head: usize,
    max: f32,
    sum: f32,
    from: *const f32,
    to: *mut f32,
) {
    let mut inverse = if sum > 0.0 { 1.0 / sum } else { 0.0 };
    if !a.sinks.is_null() && sum > 0.0 {
        // SAFETY: a sink for each head.
        let sink = unsafe { *a.sinks.add(head) };
        // e^(sink - max) may overflow: then the sink has everything.
        inverse = 1.0 / (sum + s.max_across(math::exp(s, s.splat(sink - max))));
    }
    let inverse = s.splat(inverse);
    // SAFETY: the caller's promise.
    super::norm::map(
        s,
        a.head_dim,
        #[inline(always)]
        |i, n| unsafe {
            s.store_n(to.add(i), n, s.mul(s.load_n(from.add(i), n), inverse));
        },
    );
}

impl<K: Stored, V: Stored> Attend<'_, K, V> {
    /// The keys a token sees, `[from, to)`, window applied.
    ///
    /// # Safety
    /// `token` is of the item.
    #[inline(always)]
    unsafe fn range(&self, token: usize) -> [usize; 2] {
        let a = self.args;
        // SAFETY: entries for every token of the batch.
        let ([from, to], own) = unsafe { (*a.visible.add(token), *a.kv_index.add(token)) };
        let from = if a.window > 0 { from.max((own + 1).saturating_sub(a.window)) } else { from };
        [from as usize, to as usize]
    }

    /// The page that holds a key.
    ///
    /// # Safety
    /// Some token of the item sees a key of that page.
    #[inline(always)]
    unsafe fn page(&self, key: usize) -> usize {
        let entry = (key / self.args.page_tokens) as u32;
        // SAFETY: the caller's promise, and tables hold the pages of visible keys.
        unsafe { *self.pages.add(self.item.table.wrapping_add(entry) as usize) as usize }
    }

    /// Walks the pages of one span, a block of keys at a time.
    ///
    /// # Safety
    /// As the item; `part` is reset.
    #[inline(always)]
    unsafe fn span<S: Simd>(&self, s: S, span: usize, own: Own, part: Running) {
        let p = self.args.page_tokens;
        let keys = block_keys(p);
        let group = self.args.heads / self.args.kv_heads;
        let tokens = self.item.tokens as usize;
        let first_token = self.item.token as usize;
        // SAFETY: the caller's promise, and see each step.
        unsafe {
            let (mut low, mut high) = (usize::MAX, 0);
            for t in 0..tokens {
                let [from, to] = self.range(first_token + t);
                (low, high) = (low.min(from), high.max(to));
            }
            low = low.max(span * SPAN);
            high = high.min((span + 1) * SPAN);
            let mut block = low - low % keys;
            while block < high {
                // Pages that nobody sees may not be there.
                let used = low.max(block)..high.min(block + keys);
                self.scores(s, block, used.clone(), own);
                for r in 0..tokens * group {
                    let scores = own.scores.add(r * keys);
                    self.mask(first_token + r / group, block, scores);
                    self.softmax(s, scores, part, r);
                }
                self.weigh(s, block, used, own, part.out);
                block += keys;
            }
        }
    }

    /// Scores of all rows with the pages that hold the `used` keys of a block.
    ///
    /// # Safety
    /// As the item, of which some token sees the first and some token the last of these keys.
    #[inline(always)]
    unsafe fn scores<S: Simd>(&self, s: S, block: usize, used: Range<usize>, own: Own) {
        let a = self.args;
        let (d, p) = (a.head_dim, a.page_tokens);
        let keys = block_keys(p);
        let rows = self.item.tokens as usize * (a.heads / a.kv_heads);
        let mut at = used.start - used.start % p;
        while at < used.end {
            // SAFETY: the caller's promise; scores and queries have room for whole blocks of rows.
            unsafe {
                let keys_of = |at| {
                    let pages = a.k_pages.cast::<K>();
                    pages.add((self.page(at) * a.kv_heads + self.kv_head) * d * p)
                };
                let k = keys_of(at);
                // The next page is asked for while this one is worked on.
                let next = if at + p < used.end { keys_of(at + p) } else { k };
                let scores = own.scores.add(at - block);
                if worth_widening::<K>(rows) {
                    page::widen(s, k, next, own.wide, d * p);
                    let k = own.wide.cast_const();
                    page::for_row_blocks!(rows, |r, R| page::dot::<S, f32, R>(
                        s,
                        own.q.add(r * d),
                        [k, k],
                        scores.add(r * keys),
                        [d, p, keys]
                    ));
                } else {
                    page::for_row_blocks!(rows, |r, R| page::dot::<S, K, R>(
                        s,
                        own.q.add(r * d),
                        [k, next],
                        scores.add(r * keys),
                        [d, p, keys]
                    ));
                }
            }
            at += p;
        }
    }

    /// Adds the weighted values of the `used` keys of a block to the rows of `out`.
    ///
    /// # Safety
    /// As [`Self::scores`], which are now weights.
    #[inline(always)]
    unsafe fn weigh<S: Simd>(
        &self,
        s: S,
        block: usize,
        used: Range<usize>,
        own: Own,
        out: *mut f32,
    ) {
        let a = self.args;
        let (d, p) = (a.head_dim, a.page_tokens);
        let keys = block_keys(p);
        let rows = self.item.tokens as usize * (a.heads / a.kv_heads);
        let width = a.kv_heads * d;
        let mut at = used.start - used.start % p;
        while at < used.end {
            // SAFETY: the caller's promise; weights and results have room for whole blocks of rows.
            unsafe {
                let values_of = |at| a.v_pages.cast::<V>().add(self.page(at) * width * p);
                let values = page::Values {
                    page: values_of(at),
                    next: values_of(if at + p < used.end { at + p } else { at }),
                    width,
                    first: self.kv_head * d,
                    // Values beyond the last visible key were never written.
                    used: used.start.max(at) - at..used.end.min(at + p) - at,
                };
                let weights = own.scores.add(at - block);
                // A head's values lie together where it begins and ends with a block of them.
                if worth_widening::<V>(rows) && d.is_multiple_of(page::VALUE_BLOCK) {
                    let values = values.widened(s, own.wide, [d, p]);
                    page::for_row_blocks!(rows, |r, R| page::weigh::<S, f32, R>(
                        s,
                        weights.add(r * keys),
                        &values,
                        out.add(r * d),
                        [d, p, keys]
                    ));
                } else {
                    page::for_row_blocks!(rows, |r, R| page::weigh::<S, V, R>(
                        s,
                        weights.add(r * keys),
                        &values,
                        out.add(r * d),
                        [d, p, keys]
                    ));
                }
            }
            at += p;
        }
    }

    /// Sets the scores of keys that the token does not see to minus infinity.
    ///
    /// # Safety
    /// `scores` holds a block of scores, the first of key `at`.
    #[inline(always)]
    unsafe fn mask(&self, token: usize, at: usize, scores: *mut f32) {
        let a = self.args;
        let p = block_keys(a.page_tokens);
        // SAFETY: the caller's promise; all indices are below `p`.
        unsafe {
            let [from, to] = self.range(token);
            for j in 0..from.saturating_sub(at).min(p) {
                *scores.add(j) = f32::NEG_INFINITY;
            }
            for j in to.saturating_sub(at).min(p)..p {
                *scores.add(j) = f32::NEG_INFINITY;
            }
            let base = self.item.tree_base as usize;
            if !a.ancestors.is_null() && to > base {
                let bits = *a.ancestors.add(token);
                for key in base.max(at)..to.min(at + p) {
                    if key - base < 64 && bits >> (key - base) & 1 == 0 {
                        *scores.add(key - at) = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }

    /// Turns a row of scores into exponentials under the running maximum.
    ///
    /// # Safety
    /// `scores` holds a block; `part` holds row `r`.
    #[inline(always)]
    unsafe fn softmax<S: Simd>(&self, s: S, scores: *mut f32, part: Running, r: usize) {
        let a = self.args;
        let (d, p) = (a.head_dim, block_keys(a.page_tokens));
        // SAFETY: the caller's promise; pages are whole registers.
        unsafe {
            if a.softcap > 0.0 {
                let (cap, inverse) = (s.splat(a.softcap), s.splat(1.0 / a.softcap));
                let lowest = s.splat(f32::MIN);
                for j in (0..p).step_by(S::LANES) {
                    let v = s.load(scores.add(j));
                    let capped = s.mul(cap, math::tanh(s, s.mul(v, inverse)));
                    // What is masked stays masked.
                    s.store(scores.add(j), s.select_lt(v, lowest, v, capped));
                }
            }
            let mut most = s.splat(f32::NEG_INFINITY);
            for j in (0..p).step_by(S::LANES) {
                most = s.max(s.load(scores.add(j)), most);
            }
            let (old, new) = (*part.max.add(r), s.max_across(most));
            if new == f32::NEG_INFINITY {
                super::norm::zero(s, scores, p);
                return;
            }
            let max = if new > old { new } else { old };
            if max > old && old > f32::NEG_INFINITY {
                let keep = math::exp(s, s.splat(old - max));
                *part.sum.add(r) *= s.max_across(keep);
                super::norm::map(
                    s,
                    d,
                    #[inline(always)]
                    |i, n| {
                        let o = part.out.add(r * d + i);
                        s.store_n(o, n, s.mul(s.load_n(o, n), keep));
                    },
                );
            }
            *part.max.add(r) = max;
            let top = s.splat(max);
            let lowest = s.splat(f32::MIN);
            let mut sum = s.zero();
            for j in (0..p).step_by(S::LANES) {
                let v = s.load(scores.add(j));
                // exp clamps its input, so what is masked needs an exact zero.
                let e = s.select_lt(v, lowest, s.zero(), math::exp(s, s.sub(v, top)));
                s.store(scores.add(j), e);
                sum = s.add(sum, e);
            }
            *part.sum.add(r) += s.sum(sum);
        }
    }

    /// Stores the running softmax of the item's one token.
    ///
    /// # Safety
    /// `partials` has room for all heads.
    #[inline(always)]
    unsafe fn keep<S: Simd>(&self, s: S, part: Running) {
        let d = self.args.head_dim;
        let group = self.args.heads / self.args.kv_heads;
        for r in 0..group {
            // SAFETY: the caller's promise.
            unsafe {
                let to = self.partials.add((self.kv_head * group + r) * partial_len(d));
                *to = *part.max.add(r);
                *to.add(1) = *part.sum.add(r);
                super::norm::map(
                    s,
                    d,
                    #[inline(always)]
                    |i, n| {
                        s.store_n(to.add(2 + i), n, s.load_n(part.out.add(r * d + i), n));
                    },
                );
            }
        }
    }
}

struct Merge<'a> {
    args: &'a AttentionArgs,
    partials: *mut f32,
    items: *const [u32; 2],
    pairs: Range<usize>,
}

impl WithSimd for Merge<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let a = self.args;
        let d = a.head_dim;
        for pair in self.pairs.clone() {
            let (token, head) = (pair / a.heads, pair % a.heads);
            // SAFETY: the caller vouches for the partials of the token's items.
            unsafe {
                let at = |item: u32| {
                    let index = item as usize * a.heads + head;
                    let part = self.partials.add(index * partial_len(d));
                    Running { max: part, sum: part.add(1), out: part.add(2) }
                };
                let [first, last] = *self.items.add(token);
                // `Attend` starts from nothing, which joined with the first span is that span,
                // bit for bit.
                let total = at(first);
                for item in first + 1..=last {
                    join(s, total, at(item), d);
                }
                finish(s, a, head, *total.max, *total.sum, total.out, a.out.add(pair * d));
            }
        }
    }
}
