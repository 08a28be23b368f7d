//! Whole texts in, one result a text out: embeddings and rerankers.
//!
//! Nothing is generated and nothing outlives a step, so there is no scheduler: texts are put into
//! steps in order, as many as fit, each text whole. A program gives pooled vectors or class scores;
//! a decoder gives the logits after the last token of each text. Since the backend's results do not
//! depend on what else is in a step, a text gives the same numbers alone and among others.

use crate::pages::pages_for;
use crate::waker::{ThreadWaker, block_on};
use gristmill_core::{Error, HostTensor, Result};
use gristmill_ir::{
    Backend, Batch, Layout, Options, Output, Program, Results, Size, TensorDecl, Token,
};
use std::task::Poll;

/// The most texts of a step.
const MAX_SEQS: u32 = 64;

/// A text as tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// Token ids.
    pub ids: Vec<u32>,
    /// The type of each token, or empty: all 0.
    pub types: Vec<u32>,
}

impl From<Vec<u32>> for Text {
    fn from(ids: Vec<u32>) -> Text {
        Text { ids, types: vec![] }
    }
}

/// What a program makes of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// A vector.
    Pooled,
    /// A score for each class.
    Scores,
    /// The scores of the vocabulary after its last token.
    Logits,
}

/// A program on a device, ready for texts.
pub struct Encoder<B: Backend> {
    backend: B,
    program: Program,
    context: B::Context,
    plan: B::Plan,
    encoding: Encoding,
    size: Size,
    /// Pages of every group.
    pages: u32,
    page_tokens: u32,
    width: usize,
}

impl<B: Backend> Encoder<B> {
    /// Loads the weights of `program` through `tensor` and compiles it for steps of up to `tokens`
    /// tokens, which is also the longest text.
    ///
    /// # Errors
    /// [`Error::Device`] for a program that gives nothing for a whole text; those of the backend and
    /// of `tensor`.
    pub fn new(
        backend: B,
        program: Program,
        tensor: &mut dyn FnMut(&TensorDecl) -> Result<HostTensor>,
        tokens: u32,
        options: &Options,
    ) -> Result<Encoder<B>> {
        let found = [
            (Output::Pooled, Encoding::Pooled),
            (Output::Scores, Encoding::Scores),
            (Output::Logits, Encoding::Logits),
        ];
        let found = found.into_iter().find_map(|(o, e)| Some((program.output_value(o)?, e)));
        let Some((value, encoding)) = found else {
            return Err(Error::Device(format!(
                "`{}` gives the states of all tokens and nothing for a whole text; say how they are \
                 pooled",
                program.name
            )));
        };
        let width = program.shape(value).width as usize;
        let tokens = tokens.max(1);
        let seqs = MAX_SEQS.min(tokens);
        let page_tokens = backend.capabilities().page_multiple.max(1);
        let size = Size { tokens, seqs, rows: seqs, one_token_a_seq: tokens == 1 };
        // The last page of each text may be nearly empty.
        let pages = pages_for(tokens, page_tokens).saturating_add(seqs);
        let layout = Layout {
            page_tokens,
            pages: vec![pages; program.groups.len()],
            host_pages: vec![0; program.groups.len()],
            slots: seqs,
            max: size,
            in_flight: 1,
        };
        let weights = backend.load(&[&program], tensor, options)?;
        let mut context = backend.create(&program.states, &layout)?;
        let plan = backend.compile(&program, &weights, &mut context, size, options)?;
        Ok(Encoder { backend, program, context, plan, encoding, size, pages, page_tokens, width })
    }

    /// What comes of a text.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Numbers that come of a text.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The most tokens of a text.
    pub fn max_tokens(&self) -> u32 {
        self.size.tokens
    }

    /// Runs texts and hands `see` the number of each and what came of it, in order.
    ///
    /// # Errors
    /// [`Error::Usage`] for a text without tokens, longer than [`Encoder::max_tokens`] (texts that
    /// see themselves whole cannot be cut into steps), or with another number of types; those of the
    /// backend and of `see`.
    pub fn run(
        &mut self,
        texts: &[Text],
        see: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        for (i, t) in texts.iter().enumerate() {
            let (n, most) = (t.ids.len(), self.size.tokens);
            if n == 0 || n > most as usize {
                return Err(Error::Usage(format!(
                    "text {} has {n} tokens; it must have 1 to {most}",
                    i + 1
                )));
            }
            if !t.types.is_empty() && t.types.len() != n {
                let types = t.types.len();
                return Err(Error::Usage(format!(
                    "text {} has {n} tokens and {types} types",
                    i + 1
                )));
            }
        }
        let mut values = vec![];
        let mut first = 0;
        while first < texts.len() {
            let (mut end, mut tokens) = (first, 0);
            while let Some(t) = texts.get(end)
                && end - first < self.size.seqs as usize
                && tokens + t.ids.len() <= self.size.tokens as usize
            {
                tokens += t.ids.len();
                end += 1;
            }
            self.step(&texts[first..end], &mut values)?;
            for (i, row) in values.chunks_exact(self.width.max(1)).enumerate() {
                see(first + i, row)?;
            }
            first = end;
        }
        Ok(())
    }

    /// Runs one step and reads its results.
    fn step(&mut self, texts: &[Text], values: &mut Vec<f32>) -> Result<()> {
        let causal = self.program.prefix_closed;
        let typed = texts.iter().any(|t| !t.types.is_empty());
        let (mut tokens, mut types, mut positions) = (vec![], vec![], vec![]);
        let (mut kv_index, mut visible, mut starts, mut kv_len) = (vec![], vec![], vec![0], vec![]);
        let (mut rows, mut table, mut table_starts) = (vec![], vec![], vec![0]);
        for t in texts {
            let n = t.ids.len() as u32; // at most the step's, which is a u32
            tokens.extend(t.ids.iter().map(|&id| Token::Id(id)));
            if typed {
                types.extend((0..t.ids.len()).map(|i| t.types.get(i).copied().unwrap_or(0)));
            }
            positions.extend((0..n).map(|i| [i; 3]));
            kv_index.extend(0..n);
            visible.extend((0..n).map(|i| [0, if causal { i + 1 } else { n }]));
            starts.push(tokens.len() as u32);
            kv_len.push(n);
            rows.push(tokens.len() as u32 - 1);
            let begin = table.len() as u32;
            table.extend(begin..begin + pages_for(n, self.page_tokens));
            table_starts.push(table.len() as u32);
        }
        debug_assert!(table.len() <= self.pages as usize, "a page more a text suffices");
        // Every group has pages of its own, so its tables are those of the first.
        let groups = self.program.groups.len();
        let (mut pages, mut page_starts) = (vec![], vec![0]);
        for _ in 0..groups {
            let before = pages.len() as u32;
            pages.extend_from_slice(&table);
            page_starts.extend(table_starts[1..].iter().map(|s| before + s));
        }
        let slots: Vec<u32> = (0..texts.len() as u32).collect();
        let from_zero = vec![u32::MAX; texts.len()];
        let batch = Batch {
            tokens: &tokens,
            types: &types,
            positions: &positions,
            kv_index: &kv_index,
            visible: &visible,
            seq_starts: &starts,
            kv_len: &kv_len,
            slots: &slots,
            state_in: &from_zero,
            state_out: &slots,
            pages: &pages,
            page_starts: &page_starts,
            rows: &rows,
            ..Batch::default()
        };
        let output = match self.encoding {
            Encoding::Pooled => Output::Pooled,
            Encoding::Scores => Output::Scores,
            Encoding::Logits => Output::Logits,
        };
        let Encoder { backend, context, plan, .. } = self;
        let step = backend.launch(plan, context, &batch)?;
        let waker = ThreadWaker::default().get();
        let ready = |done: bool| if done { Poll::Ready(()) } else { Poll::Pending };
        let read = block_on(|| backend.read(context, step, output, values, &waker).map(ready));
        // A launched step is finished once, also one whose results could not be read.
        let mut results = Results::default();
        let finished = block_on(|| backend.finish(context, step, &mut results, &waker).map(ready));
        read.and(finished)
    }
}
