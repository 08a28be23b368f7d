//! The integers of a step, written into arrays that are reused from step to step.
//!
//! All arrays are made as large as the largest step needs, so that a step allocates nothing.

use crate::options::EngineOptions;
use crate::pages::{Table, pages_for};
use crate::penalties::{Penalties, room};
use crate::sequence::{NO_SLOT, Sequence};
use gristmill_ir::{Batch, Move, SampleBatch, Sampling, Token, Unmask};
use std::ops::Range;

/// A part of a sequence to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// Which sequence, in whatever table the caller keeps.
    pub seq: usize,
    /// Tokens to run, from the first not computed.
    pub tokens: u32,
}

/// A stretch of a text to run, whatever is computed of the rest.
pub(crate) struct Span<'s> {
    /// Places.
    pub tokens: Range<u32>,
    /// Keys of the text once these have written theirs.
    pub keys: u32,
    /// The token of a place.
    pub id: &'s dyn Fn(u32) -> u32,
    /// Where the keys end that a place sees, from the first on.
    pub sees: &'s dyn Fn(u32) -> u32,
    /// Places whose outputs are wanted, in order.
    pub rows: &'s [u32],
}

/// The arrays of [`Batch`] and [`SampleBatch`].
#[derive(Default)]
pub(crate) struct Arrays {
    /// Whether a token sees nothing after it; otherwise a sequence runs as a whole.
    causal: bool,
    /// Copies before the step; written while pages are taken, before `fill`.
    pub moves: Vec<Move>,
    tokens: Vec<Token>,
    positions: Vec<[u32; 3]>,
    kv_index: Vec<u32>,
    visible: Vec<[u32; 2]>,
    seq_starts: Vec<u32>,
    kv_len: Vec<u32>,
    slots: Vec<u32>,
    state_in: Vec<u32>,
    state_out: Vec<u32>,
    pages: Vec<u32>,
    page_starts: Vec<u32>,
    rows: Vec<u32>,
    params: Vec<Sampling>,
    row_slots: Vec<u32>,
    bias: Vec<(u32, u32, f32)>,
    penalties: Penalties,
    unmask: Vec<Unmask>,
    combine: Vec<(u32, u32, f32)>,
}

impl Arrays {
    pub fn new(o: &EngineOptions, groups: usize, causal: bool) -> Self {
        let (tokens, seqs) = (o.token_budget as usize, o.max_seqs as usize);
        let table = pages_for(o.context, o.page_tokens) as usize;
        Arrays {
            causal,
            moves: Vec::with_capacity(seqs * groups),
            tokens: Vec::with_capacity(tokens),
            positions: Vec::with_capacity(tokens),
            kv_index: Vec::with_capacity(tokens),
            visible: Vec::with_capacity(tokens),
            seq_starts: Vec::with_capacity(seqs + 1),
            kv_len: Vec::with_capacity(seqs),
            slots: Vec::with_capacity(seqs),
            state_in: Vec::with_capacity(seqs),
            state_out: Vec::with_capacity(seqs),
            pages: Vec::with_capacity(seqs * groups * table),
            page_starts: Vec::with_capacity(seqs * groups + 1),
            rows: Vec::with_capacity(tokens),
            params: Vec::with_capacity(seqs),
            row_slots: Vec::with_capacity(seqs),
            bias: vec![],
            penalties: Penalties::default(),
            unmask: vec![],
            combine: vec![],
        }
    }

    /// Makes room for the bias and the penalties of steps with up to `max_seqs` of the `live`
    /// sequences in them.
    pub fn reserve<'s>(
        &mut self,
        live: impl Iterator<Item = &'s Sequence>,
        max_seqs: usize,
        vocab: usize,
    ) {
        // Of each: all together, and the most of one.
        let (mut bias, mut penalties, mut len) = ([0, 0], [0, 0], 0);
        let count = |sum: &mut [usize; 2], n: usize| *sum = [sum[0] + n, sum[1].max(n)];
        for s in live {
            count(&mut bias, s.sampling.logit_bias.len());
            count(&mut penalties, room(&s.sampling, s.limit as usize, vocab));
            len = len.max(s.limit as usize);
        }
        let most = |[all, one]: [usize; 2]| all.min(one.saturating_mul(max_seqs));
        self.bias.reserve(most(bias).saturating_sub(self.bias.len()));
        self.penalties.reserve(most(penalties), len, vocab);
    }

    /// Writes a step. Outputs are wanted for tokens whose index in their sequence lies in `wanted`,
    /// or, where that is `None`, for the last token of each sequence that is then complete, which
    /// is to be sampled.
    pub fn fill<'s>(
        &mut self,
        parts: &[Part],
        seq: impl Fn(usize) -> &'s Sequence,
        recurrent: bool,
        wanted: Option<Range<u32>>,
    ) {
        self.begin();
        for part in parts {
            let s = seq(part.seq);
            let end = s.computed + part.tokens;
            for i in s.computed..end {
                self.token(s, i, if self.causal { i + 1 } else { end });
                if wanted.as_ref().is_some_and(|w| w.contains(&i)) {
                    self.rows.push(self.tokens.len() as u32 - 1);
                }
            }
            self.seq_starts.push(self.tokens.len() as u32);
            self.kv_len.push(end);
            self.slots.push(s.slot);
            if recurrent {
                self.state_in.push(s.state_from);
                self.state_out.push(s.slot);
            }
            if wanted.is_none() && end == s.len() {
                self.rows.push(self.tokens.len() as u32 - 1);
                self.sample(s);
            }
        }
        let groups = parts.first().map_or(0, |p| seq(p.seq).tables.len());
        self.page_starts.push(0);
        for group in 0..groups {
            for part in parts {
                self.pages.extend_from_slice(seq(part.seq).tables[group].pages());
                self.page_starts.push(self.pages.len() as u32);
            }
        }
    }

    /// Begins a step of spans.
    pub fn begin(&mut self) {
        self.clear();
        self.seq_starts.push(0);
    }

    /// Writes a span of the text that has the next place in the step; nothing of it is sampled as a
    /// token that follows.
    pub fn span(&mut self, span: &Span<'_>, slot: u32) {
        let first = self.tokens.len() as u32;
        for i in span.tokens.clone() {
            self.tokens.push(Token::Id((span.id)(i)));
            self.positions.push([i; 3]);
            self.kv_index.push(i);
            self.visible.push([0, (span.sees)(i)]);
        }
        self.rows.extend(span.rows.iter().map(|row| first + row - span.tokens.start));
        self.seq_starts.push(self.tokens.len() as u32);
        self.kv_len.push(span.keys);
        self.slots.push(slot);
    }

    /// Ends a step of spans, with the page tables of each.
    pub fn end(&mut self, tables: &[Vec<Table>]) {
        self.page_starts.push(0);
        for group in 0..tables.first().map_or(0, Vec::len) {
            for tables in tables {
                self.pages.extend_from_slice(tables[group].pages());
                self.page_starts.push(self.pages.len() as u32);
            }
        }
    }

    /// What is proposed from the rows of the first span; with guidance, away from those of the
    /// second.
    pub fn propose(&mut self, unmask: &[Unmask], forbidden: &[u32], guidance: Option<f32>) {
        self.unmask.extend_from_slice(unmask);
        let rows = self.rows.len() as u32 / if guidance.is_some() { 2 } else { 1 };
        for row in 0..rows {
            self.bias.extend(forbidden.iter().map(|&id| (row, id, f32::NEG_INFINITY)));
            self.combine.extend(guidance.map(|g| (row, rows + row, g)));
        }
    }

    fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.kv_index.clear();
        self.visible.clear();
        self.seq_starts.clear();
        self.kv_len.clear();
        self.slots.clear();
        self.state_in.clear();
        self.state_out.clear();
        self.pages.clear();
        self.page_starts.clear();
        self.rows.clear();
        self.params.clear();
        self.row_slots.clear();
        self.bias.clear();
        self.penalties.clear();
        self.unmask.clear();
        self.combine.clear();
    }

    fn token(&mut self, s: &Sequence, i: u32, sees: u32) {
        // A token not known yet is always the last one, and always in the slot.
        self.tokens.push(match s.tokens.get(i as usize) {
            Some(&id) if !(s.last_in_slot && i + 1 == s.len()) => Token::Id(id),
            _ => Token::Last(s.slot),
        });
        self.positions.push([i; 3]);
        self.kv_index.push(i);
        self.visible.push([0, sees]);
    }

    fn sample(&mut self, s: &Sequence) {
        let row = self.params.len() as u32;
        self.params.push(s.sampling.device(s.len().into(), s.mu));
        self.bias.extend(s.sampling.logit_bias.iter().map(|&(token, v)| (row, token, v)));
        self.penalties.add(row, &s.tokens, &s.sampling);
        self.row_slots.push(s.slot);
        debug_assert_ne!(s.slot, NO_SLOT, "a running sequence has a slot");
    }

    /// Rows whose outputs are wanted.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Tokens in all.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    pub fn batch(&self) -> Batch<'_> {
        Batch {
            moves: &self.moves,
            tokens: &self.tokens,
            positions: &self.positions,
            kv_index: &self.kv_index,
            visible: &self.visible,
            seq_starts: &self.seq_starts,
            kv_len: &self.kv_len,
            slots: &self.slots,
            state_in: &self.state_in,
            state_out: &self.state_out,
            pages: &self.pages,
            page_starts: &self.page_starts,
            rows: &self.rows,
            ..Batch::default()
        }
    }

    pub fn sample_batch(&self) -> SampleBatch<'_> {
        SampleBatch {
            params: &self.params,
            slots: &self.row_slots,
            bias: &self.bias,
            penalties: &self.penalties.list,
            unmask: &self.unmask,
            combine: &self.combine,
            ..SampleBatch::default()
        }
    }
}
