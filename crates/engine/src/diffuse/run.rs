//! A diffusion on the engine's device.

use super::{DiffuseRequest, Diffusion, Pass};
use crate::batch::Span;
use crate::engine::Engine;
use crate::pages::Table;
use crate::waker::block_until;
use gristmill_core::{Error, Result};
use gristmill_ir::{Backend, Size, UNMASK};

/// Called after every pass with the text as it stands. An error ends the diffusion.
pub type Watch<'w> = dyn FnMut(&Diffusion) -> Result<()> + 'w;

impl<B: Backend> Engine<B> {
    /// Fills in a text, pass after pass, while nothing else runs. Gives the end state.
    ///
    /// # Errors
    /// [`Error::Usage`] while requests run and for what [`DiffuseRequest::validate`] refuses;
    /// [`Error::Device`] on a device that proposes no tokens for masked places, and when the text is
    /// longer than a step, which is never cut here; [`Error::Memory`] when the pages do not hold it;
    /// those of `watch`; and [`Error::Runtime`] when the device failed.
    pub fn diffuse(&mut self, request: DiffuseRequest, watch: &mut Watch<'_>) -> Result<Diffusion> {
        if !self.is_idle() {
            return Err(Error::Usage("a diffusion runs only while no request runs".into()));
        }
        let device = self.runner.backend.capabilities();
        if !device.ops.contains(&UNMASK) {
            return Err(Error::Device(format!(
                "{} proposes no tokens for masked places (`{UNMASK}`)",
                device.name
            )));
        }
        let mut d = Diffusion::new(request, self.options.context, self.vocab())?;
        let copies = if d.request().guidance > 0.0 { 2 } else { 1 };
        let (total, steps) = (d.ids().len() as u32, &self.options);
        if copies > steps.max_seqs || total.saturating_mul(copies) > steps.token_budget {
            return Err(Error::Device(format!(
                "{total} tokens, {copies} times, are more than a step of {} tokens in {} sequences; \
                 a text whose tokens see each other is not cut",
                steps.token_budget, steps.max_seqs
            )));
        }
        let rows = d.request().block_length.min(d.request().length) * copies;
        let tokens = total * copies;
        let one_token_a_seq = tokens == copies;
        self.runner.prepare(Size { tokens, seqs: copies, rows, one_token_a_seq })?;
        let groups = self.memory.groups.len();
        let mut tables: Vec<Vec<Table>> =
            (0..copies).map(|_| (0..groups).map(|_| Table::default()).collect()).collect();
        let result = self.run_diffusion(&mut d, &mut tables, watch);
        let last = self.runner.next_step() - 1;
        for tables in &mut tables {
            for (table, pool) in tables.iter_mut().zip(&mut self.memory.pages) {
                table.clear(pool, last);
            }
        }
        result.map(|()| d)
    }

    fn run_diffusion(
        &mut self,
        d: &mut Diffusion,
        tables: &mut [Vec<Table>],
        watch: &mut Watch<'_>,
    ) -> Result<()> {
        let total = d.ids().len() as u32;
        for tables in tables.iter_mut() {
            self.grow_tables(tables, 0..total)?;
        }
        while let Some(pass) = d.next_pass() {
            self.run_pass(d, &pass, tables)?;
            d.apply(&self.scratch.results.picked)?;
            watch(d)?;
        }
        Ok(())
    }

    /// Launches a pass and waits for what it proposes, which is then in the scratch.
    fn run_pass(&mut self, d: &Diffusion, pass: &Pass, tables: &[Vec<Table>]) -> Result<()> {
        let (mask, prompt) = (d.request().mask, d.prompt_len());
        let arrays = &mut self.runner.arrays;
        arrays.begin();
        for copy in 0..tables.len() {
            // The second copy is the one without the prompt.
            let id = |i: u32| if copy == 1 && i < prompt { mask } else { d.ids()[i as usize] };
            let sees = |i: u32| d.sees(i);
            let span = Span {
                tokens: pass.tokens.clone(),
                keys: pass.keys,
                id: &id,
                sees: &sees,
                rows: &pass.rows,
            };
            arrays.span(&span, copy as u32);
        }
        arrays.end(tables);
        let guided = (tables.len() > 1).then_some(d.request().guidance);
        arrays.propose(&pass.unmask, &pass.forbidden, guided);
        let number = self.runner.next_step();
        let step = self.runner.launch()?;
        let sampled = self.runner.sample(step);
        let waker = self.thread.get();
        let (runner, results) = (&mut self.runner, &mut self.scratch.results);
        results.picked.clear();
        let finished = block_until(|| runner.finish(step, results, &waker));
        self.memory.finished(number);
        self.counters.steps += 1;
        self.counters.tokens +=
            u64::from(pass.tokens.end - pass.tokens.start) * tables.len() as u64;
        sampled.and(finished)
    }
}
