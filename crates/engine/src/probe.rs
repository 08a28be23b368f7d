//! One pass of a program with its values read back: for tests, for `--stop-after`, for `diff`.
//!
//! The second level of use, below whole steps: no scheduler, no sampling, one sequence from its
//! first token, and as results whatever the program names
//! ([`Program::stop_after`](gristmill_ir::Program::stop_after),
//! [`Program::watched`](gristmill_ir::Program::watched)). Works on any device, since it uses the
//! contract alone, and for programs that do not generate.

use crate::pages::pages_for;
use crate::waker::{ThreadWaker, block_until};
use gristmill_core::{Error, HostTensor, Result};
use gristmill_ir::{
    Backend, Batch, Layout, Node, Options, Output, Program, Results, Shape, Size, TensorDecl, Token,
};

/// A value of a pass: the operation, which of its values, the shape, and the numbers row by row.
pub struct Seen<'s> {
    /// The operation.
    pub node: &'s Node,
    /// Which of its values, from 0.
    pub index: usize,
    /// What a row stands for, and elements of a row.
    pub shape: Shape,
    /// `[rows, width]`.
    pub values: &'s [f32],
}

impl Seen<'_> {
    /// The operation's name, and `:` and which value where it computes several.
    pub fn name(&self) -> String {
        match self.node.outputs.len() {
            1 => self.node.name.clone(),
            _ => format!("{}:{}", self.node.name, self.index),
        }
    }
}

/// A program on a device, ready for one pass after the other.
pub struct Probe<B: Backend> {
    backend: B,
    program: Program,
    context: B::Context,
    plan: B::Plan,
    tokens: u32,
    page_tokens: u32,
}

impl<B: Backend> Probe<B> {
    /// Loads the weights of `program` through `tensor` and compiles it for passes of up to
    /// `tokens` tokens.
    ///
    /// # Errors
    /// Those of the backend and of `tensor`.
    pub fn new(
        backend: B,
        program: Program,
        tensor: &mut dyn FnMut(&TensorDecl) -> Result<HostTensor>,
        tokens: u32,
        options: &Options,
    ) -> Result<Probe<B>> {
        let page_tokens = backend.capabilities().page_multiple.max(1);
        let size = Size { tokens, seqs: 1, rows: tokens, one_token_a_seq: tokens == 1 };
        let layout = Layout {
            page_tokens,
            pages: vec![pages_for(tokens, page_tokens); program.groups.len()],
            host_pages: vec![0; program.groups.len()],
            slots: 1,
            max: size,
            in_flight: 1,
        };
        let weights = backend.load(&[&program], tensor, options)?;
        let mut context = backend.create(&program.states, &layout)?;
        let plan = backend.compile(&program, &weights, &mut context, size, options)?;
        Ok(Probe { backend, program, context, plan, tokens, page_tokens })
    }

    /// Runs the tokens, every one's outputs wanted, and shows every result of the program that is
    /// a value of an operation, in order.
    ///
    /// # Errors
    /// [`Error::Usage`] for no token or more than it was made for; those of the backend and of
    /// `see`.
    pub fn run(&mut self, ids: &[u32], see: &mut dyn FnMut(Seen<'_>) -> Result<()>) -> Result<()> {
        let n = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        if n == 0 || n > self.tokens {
            return Err(Error::Usage(format!("{n} tokens; it must be 1 to {}", self.tokens)));
        }
        let causal = self.program.prefix_closed;
        let all: Vec<u32> = (0..n).collect();
        let tokens: Vec<Token> = ids.iter().map(|&id| Token::Id(id)).collect();
        let positions: Vec<[u32; 3]> = all.iter().map(|&i| [i; 3]).collect();
        let visible: Vec<[u32; 2]> =
            all.iter().map(|&i| [0, if causal { i + 1 } else { n }]).collect();
        let held = pages_for(n, self.page_tokens);
        let groups = self.program.groups.len() as u32;
        // Every group has pages of its own, so each table counts from 0.
        let pages: Vec<u32> = (0..groups).flat_map(|_| 0..held).collect();
        let page_starts: Vec<u32> = (0..=groups).map(|g| g * held).collect();
        let batch = Batch {
            tokens: &tokens,
            positions: &positions,
            kv_index: &all,
            visible: &visible,
            seq_starts: &[0, n],
            kv_len: &[n],
            slots: &[0],
            state_in: &[u32::MAX],
            state_out: &[0],
            pages: &pages,
            page_starts: &page_starts,
            rows: &all,
            ..Batch::default()
        };
        let Probe { backend, program, context, plan, .. } = self;
        let step = backend.launch(plan, context, &batch)?;
        let waker = ThreadWaker::default().get();
        let mut values = vec![];
        let mut shown = Ok(());
        for &(output, value) in &program.outputs {
            let Output::Value(_) = output else { continue };
            let of = |n: &&Node| n.outputs.contains(&value);
            let Some(node) = program.nodes.iter().find(of) else { continue };
            let index = node.outputs.iter().position(|&v| v == value).unwrap_or(0);
            shown = block_until(|| backend.read(context, step, output, &mut values, &waker))
                .and_then(|()| {
                    see(Seen { node, index, shape: program.shape(value), values: &values })
                });
            if shown.is_err() {
                break;
            }
        }
        // A launched step is finished once, also one of which nothing more is wanted.
        let mut results = Results::default();
        let finished = block_until(|| backend.finish(context, step, &mut results, &waker));
        shown.and(finished)
    }
}
