//! What belongs to the device: weights, context, plans; and the launch of a step.

use crate::batch::Arrays;
use crate::options::EngineOptions;
use crate::profile::Profile;
use gristmill_core::{Error, HostTensor, Result};
use gristmill_ir::{Backend, Layout, Program, Results, Size, Step, TensorDecl};
use std::task::Waker;

pub(crate) struct Runner<B: Backend> {
    pub backend: B,
    pub context: B::Context,
    pub arrays: Arrays,
    /// Where steps are timed.
    pub profile: Option<Profile>,
    program: Program,
    weights: B::Weights,
    /// Smallest first.
    plans: Vec<(Size, B::Plan)>,
    options: EngineOptions,
    /// Steps launched so far; steps are numbered from 1.
    launched: u64,
}

impl<B: Backend> Runner<B> {
    /// As [`crate::Engine::packed`].
    pub fn packed(&self, name: &str) -> Option<&[u8]> {
        self.backend.packed(&self.weights, name)
    }

    pub fn new(
        backend: B,
        program: Program,
        tensor: &mut dyn FnMut(&TensorDecl) -> Result<HostTensor>,
        layout: &Layout,
        options: &EngineOptions,
    ) -> Result<Self> {
        let weights = backend.load(&[&program], tensor, &options.options)?;
        let context = backend.create(&program.states, layout)?;
        let mut runner = Runner {
            arrays: Arrays::new(options, program.groups.len(), program.prefix_closed),
            backend,
            context,
            program,
            weights,
            plans: vec![],
            options: options.clone(),
            profile: None,
            launched: 0,
        };
        for size in sizes(options) {
            runner.compile(size)?;
        }
        Ok(runner)
    }

    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The number that the next step launched will have.
    pub fn next_step(&self) -> u64 {
        self.launched + 1
    }

    /// Makes sure that steps of this size can be launched.
    ///
    /// # Errors
    /// Those of [`Backend::compile`].
    pub fn prepare(&mut self, size: Size) -> Result<()> {
        if self.plans.iter().any(|(s, _)| holds(s, &size)) { Ok(()) } else { self.compile(size) }
    }

    fn compile(&mut self, size: Size) -> Result<()> {
        let Runner { backend, program, weights, context, options, .. } = self;
        let plan = backend.compile(program, weights, context, size, &options.options)?;
        self.plans.push((size, plan));
        self.plans.sort_by_key(|(s, _)| (s.tokens, s.rows, s.seqs, !s.one_token_a_seq));
        Ok(())
    }

    /// Launches the step in `arrays` with the smallest plan that holds it. The copies in it are
    /// done with, and the step has its number, only if this succeeds.
    ///
    /// # Errors
    /// Those of [`Backend::launch`].
    pub fn launch(&mut self) -> Result<Step> {
        let batch = self.arrays.batch();
        let actual = Size {
            tokens: self.arrays.tokens() as u32,
            seqs: batch.kv_len.len() as u32,
            rows: self.arrays.rows() as u32,
            one_token_a_seq: self.arrays.tokens() == batch.kv_len.len(),
        };
        let Some((_, plan)) = self.plans.iter().find(|(size, _)| holds(size, &actual)) else {
            return Err(Error::Runtime(format!("no plan holds a step of {actual:?}")));
        };
        let start = self.profile.as_ref().map(Profile::now);
        let step = self.backend.launch(plan, &mut self.context, &batch)?;
        if let (Some(profile), Some(start)) = (&mut self.profile, start) {
            profile.launched(start, &batch, &self.program.groups);
        }
        self.arrays.moves.clear();
        self.launched += 1;
        Ok(step)
    }

    /// Asks for the oldest step that was launched; `false` when it has not ended yet. Notes how long its
    /// operations took, where they are timed.
    ///
    /// # Errors
    /// Those of [`Backend::finish`].
    pub fn finish(&mut self, step: Step, results: &mut Results, waker: &Waker) -> Result<bool> {
        let ended = self.backend.finish(&mut self.context, step, results, waker);
        if let Some(profile) = &mut self.profile
            && !matches!(ended, Ok(false))
        {
            profile.finish(self.backend.times(&mut self.context, step));
        }
        ended
    }

    /// Samples the step just launched, if anything of it is to be sampled.
    ///
    /// # Errors
    /// Those of [`Backend::sample`].
    pub fn sample(&mut self, step: Step) -> Result<()> {
        if self.arrays.rows() == 0 {
            return Ok(());
        }
        self.backend.sample(&mut self.context, step, &self.arrays.sample_batch())
    }
}

/// Whether a plan of size `plan` runs a step of size `step`.
fn holds(plan: &Size, step: &Size) -> bool {
    plan.tokens >= step.tokens
        && plan.seqs >= step.seqs
        && plan.rows >= step.rows
        && (step.one_token_a_seq || !plan.one_token_a_seq)
}

/// The plans of an engine: decoding, and steps with prompts in them, each with its buckets.
fn sizes(o: &EngineOptions) -> Vec<Size> {
    let buckets = |extra: &[u32], most: u32| {
        let mut all: Vec<u32> = extra.iter().copied().filter(|&n| n > 0 && n < most).collect();
        all.push(most);
        all.sort_unstable();
        all.dedup();
        all
    };
    let decode = buckets(&o.decode_buckets, o.max_seqs).into_iter();
    let decode = decode.map(|n| Size { tokens: n, seqs: n, rows: n, one_token_a_seq: true });
    let mixed = buckets(&o.mixed_buckets, o.token_budget).into_iter().map(|n| {
        let seqs = n.min(o.max_seqs);
        Size { tokens: n, seqs, rows: seqs, one_token_a_seq: false }
    });
    decode.chain(mixed).collect()
}
