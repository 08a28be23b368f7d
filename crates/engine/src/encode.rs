//! Whole texts in, one result a text out: embeddings and rerankers.
//!
//! Nothing is generated and nothing outlives a step, so there is no scheduler: texts are put into
//! steps in order, as many as fit, each text whole. A program gives pooled vectors or class scores;
//! a decoder gives the logits after the last token of each text. Since the backend's results do not
//! depend on what else is in a step, a text gives the same numbers alone and among others.

use crate::whole_texts::WholeTexts;
use gristmill_core::{Error, HostTensor, Result};
use gristmill_ir::{Backend, Batch, Options, Output, Program, Size, TensorDecl, Token};

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
    device: WholeTexts<B>,
    program: Program,
    plan: B::Plan,
    encoding: Encoding,
    size: Size,
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
        let size = Size { tokens, seqs, rows: seqs, one_token_a_seq: tokens == 1 };
        let mut device = WholeTexts::new(backend, &[&program], tensor, size, options)?;
        let plan = device.compile(&program)?;
        Ok(Encoder { device, program, plan, encoding, size, width })
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
        // At most the tokens of a step, which are a u32.
        let lengths: Vec<u32> = texts.iter().map(|t| t.ids.len() as u32).collect();
        let places = self.device.places(&lengths, self.program.prefix_closed);
        let tokens: Vec<Token> =
            texts.iter().flat_map(|t| &t.ids).map(|&id| Token::Id(id)).collect();
        let mut types = vec![];
        if texts.iter().any(|t| !t.types.is_empty()) {
            for t in texts {
                types.extend((0..t.ids.len()).map(|i| t.types.get(i).copied().unwrap_or(0)));
            }
        }
        let rows: Vec<u32> = places.seq_starts[1..].iter().map(|end| end - 1).collect();
        let batch = Batch { tokens: &tokens, types: &types, rows: &rows, ..places.batch() };
        let output = match self.encoding {
            Encoding::Pooled => Output::Pooled,
            Encoding::Scores => Output::Scores,
            Encoding::Logits => Output::Logits,
        };
        let step = self.device.launch(&self.plan, &batch)?;
        let read = self.device.read(step, output, values);
        // A launched step is finished once, also one whose results could not be read.
        let finished = self.device.finish(step);
        read.and(finished.map(|_| ()))
    }
}
