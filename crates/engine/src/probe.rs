//! One pass of a program with its values read back: for tests, for `--stop-after`, for `diff`.
//!
//! The second level of use, below whole steps: no scheduler, no sampling, one sequence from its
//! first token, and as results whatever the program names
//! ([`Program::stop_after`](gristmill_ir::Program::stop_after),
//! [`Program::watched`](gristmill_ir::Program::watched)). Works on any device, since it uses the
//! contract alone, and for programs that do not generate.

use crate::whole_texts::WholeTexts;
use gristmill_core::{Error, HostTensor, Result};
use gristmill_ir::{
    Backend, Batch, Node, Options, Output, Program, Shape, Size, TensorDecl, Token,
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
    device: WholeTexts<B>,
    program: Program,
    plan: B::Plan,
    tokens: u32,
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
        let size = Size { tokens, seqs: 1, rows: tokens, one_token_a_seq: tokens == 1 };
        let mut device = WholeTexts::new(backend, &[&program], tensor, size, options)?;
        let plan = device.compile(&program)?;
        Ok(Probe { device, program, plan, tokens })
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
        let Probe { device, program, plan, .. } = self;
        let places = device.places(&[n], program.prefix_closed);
        let tokens: Vec<Token> = ids.iter().map(|&id| Token::Id(id)).collect();
        let batch = Batch { tokens: &tokens, rows: &places.kv_index, ..places.batch() };
        let step = device.launch(plan, &batch)?;
        let mut values = vec![];
        let mut shown = Ok(());
        for &(output, value) in &program.outputs {
            let Output::Value(_) = output else { continue };
            let of = |n: &&Node| n.outputs.contains(&value);
            let Some(node) = program.nodes.iter().find(of) else { continue };
            let index = node.outputs.iter().position(|&v| v == value).unwrap_or(0);
            shown = device.read(step, output, &mut values).and_then(|()| {
                see(Seen { node, index, shape: program.shape(value), values: &values })
            });
            if shown.is_err() {
                break;
            }
        }
        // A launched step is finished once, also one of which nothing more is wanted.
        let finished = device.finish(step);
        shown.and(finished.map(|_| ()))
    }
}
