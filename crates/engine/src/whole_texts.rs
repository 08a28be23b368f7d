//! Whole texts on a device: what [`Encoder`](crate::Encoder), [`Probe`](crate::Probe) and
//! [`Denoiser`](crate::denoise::Denoiser) have in common.
//!
//! Every text of a step is in it from its first token to its last, so pages and slots are counted
//! anew in each step and nobody schedules them. One step is in flight, and is waited for.

use crate::pages::pages_for;
use crate::waker::{ThreadWaker, block_until};
use gristmill_core::{HostTensor, Result};
use gristmill_ir::{
    Backend, Batch, Layout, Options, Output, Program, Results, Size, Step, TensorDecl,
};

/// A device with weights, and room for a step of whole texts.
pub(crate) struct WholeTexts<B: Backend> {
    pub backend: B,
    pub context: B::Context,
    weights: B::Weights,
    /// The largest step.
    size: Size,
    options: Options,
    groups: usize,
    page_tokens: u32,
    thread: ThreadWaker,
}

impl<B: Backend> WholeTexts<B> {
    /// Loads the weights of `programs`, one or several with the same states, through `tensor`, and
    /// makes room for steps of `size`.
    ///
    /// # Errors
    /// Those of the backend and of `tensor`.
    pub fn new(
        backend: B,
        programs: &[&Program],
        tensor: &mut dyn FnMut(&TensorDecl) -> Result<HostTensor>,
        size: Size,
        options: &Options,
    ) -> Result<WholeTexts<B>> {
        let page_tokens = backend.capabilities().page_multiple.max(1);
        let (groups, states) = (programs[0].groups.len(), &programs[0].states);
        // The last page of each text may be nearly empty.
        let pages = pages_for(size.tokens, page_tokens).saturating_add(size.seqs - 1);
        let layout = Layout {
            page_tokens,
            pages: vec![pages; groups],
            host_pages: vec![0; groups],
            slots: size.seqs,
            max: size,
            in_flight: 1,
        };
        let weights = backend.load(programs, tensor, options)?;
        let context = backend.create(states, &layout)?;
        let (options, thread) = (*options, ThreadWaker::default());
        Ok(WholeTexts { backend, context, weights, size, options, groups, page_tokens, thread })
    }

    /// A plan of one of the programs, for the largest step.
    ///
    /// # Errors
    /// Those of [`Backend::compile`].
    pub fn compile(&mut self, program: &Program) -> Result<B::Plan> {
        let WholeTexts { backend, context, weights, size, options, .. } = self;
        backend.compile(program, weights, context, *size, options)
    }

    /// Where the tokens of texts of these lengths lie in a step. A token sees its text, but in a
    /// `causal` program only up to itself.
    pub fn places(&self, lengths: &[u32], causal: bool) -> Places {
        let mut p = Places { seq_starts: vec![0], kv_len: lengths.to_vec(), ..Places::default() };
        let (mut table, mut table_ends) = (0, vec![]);
        for &n in lengths {
            p.positions.extend((0..n).map(|i| [i; 3]));
            p.kv_index.extend(0..n);
            p.visible.extend((0..n).map(|i| [0, if causal { i + 1 } else { n }]));
            p.seq_starts.push(p.kv_index.len() as u32);
            table += pages_for(n, self.page_tokens);
            table_ends.push(table);
        }
        p.slots = (0..lengths.len() as u32).collect();
        p.from_zero = vec![u32::MAX; lengths.len()];
        // Every group has pages of its own, so its tables are those of the first.
        p.page_starts.push(0);
        for group in 0..self.groups as u32 {
            p.pages.extend(0..table);
            p.page_starts.extend(table_ends.iter().map(|end| group * table + end));
        }
        p
    }

    /// Launches a step.
    ///
    /// # Errors
    /// Those of [`Backend::launch`].
    pub fn launch(&mut self, plan: &B::Plan, batch: &Batch<'_>) -> Result<Step> {
        self.backend.launch(plan, &mut self.context, batch)
    }

    /// Waits for a result of a step and puts it into `values`.
    ///
    /// # Errors
    /// Those of [`Backend::read`].
    pub fn read(&mut self, step: Step, output: Output, values: &mut Vec<f32>) -> Result<()> {
        let waker = self.thread.get();
        let (backend, context) = (&self.backend, &mut self.context);
        block_until(|| backend.read(context, step, output, values, &waker))
    }

    /// Waits for the end of a step, which is to be done once for each, also where nothing of it is
    /// wanted any more.
    ///
    /// # Errors
    /// Those of [`Backend::finish`].
    pub fn finish(&mut self, step: Step) -> Result<Results> {
        let mut results = Results::default();
        let waker = self.thread.get();
        let (backend, context) = (&self.backend, &mut self.context);
        block_until(|| backend.finish(context, step, &mut results, &waker))?;
        Ok(results)
    }
}

/// The integers of a step that follow from the lengths of its texts.
#[derive(Default)]
pub(crate) struct Places {
    positions: Vec<[u32; 3]>,
    /// The place of each token in its text.
    pub kv_index: Vec<u32>,
    visible: Vec<[u32; 2]>,
    /// First token of each text, and the number of all.
    pub seq_starts: Vec<u32>,
    kv_len: Vec<u32>,
    slots: Vec<u32>,
    from_zero: Vec<u32>,
    pages: Vec<u32>,
    page_starts: Vec<u32>,
}

impl Places {
    /// A batch that lacks its tokens and what is wanted of them; states begin from nothing.
    pub fn batch(&self) -> Batch<'_> {
        Batch {
            positions: &self.positions,
            kv_index: &self.kv_index,
            visible: &self.visible,
            seq_starts: &self.seq_starts,
            kv_len: &self.kv_len,
            slots: &self.slots,
            state_in: &self.from_zero,
            state_out: &self.slots,
            pages: &self.pages,
            page_starts: &self.page_starts,
            ..Batch::default()
        }
    }
}
