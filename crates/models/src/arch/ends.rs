//! What becomes of the last hidden states: logits, an embedding, or scores.

use super::meta::Meta;
use super::parts::linear;
use super::{Visibility, Wanted};
use gristmill_core::Result;
use gristmill_ir::{Act, Op, Output, Pooling, Program, Value};

/// The end of a model, after its last norm.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum End {
    /// Scores of the vocabulary, by `output.weight`, or by the embedding table where `tied`.
    Logits { vocab: u32, tied: bool, scale: f32, softcap: Option<f32> },
    /// The hidden state of every token.
    Hidden,
    /// One vector of length one for each sequence.
    Embedding(Pooling),
    /// Scores of each sequence: a pooled row, where `dense` a layer with tanh, a projection.
    Scores { pooling: Pooling, dense: bool, projection: &'static str, bias: bool, classes: u32 },
}

impl End {
    /// The end of a language model, unless the file says that it is an embedding model.
    pub(super) fn of_decoder(m: &Meta<'_>) -> Result<End> {
        Ok(match End::pooled(m)? {
            Some(end) => end,
            None => End::Logits {
                vocab: m.vocab()?,
                tied: !m.has("output.weight"),
                scale: 1.0,
                softcap: None,
            },
        })
    }

    /// The end that is wanted, else the one that `pooling_type` names: 1 mean, 2 first token, 3 last
    /// token, 4 a reranker.
    pub(super) fn pooled(m: &Meta<'_>) -> Result<Option<End>> {
        match m.wanted {
            Wanted::Vectors(how) => return Ok(Some(End::Embedding(how))),
            // `cls` alone may be BERT's pooler, which scores nothing.
            Wanted::Scores if m.has("cls.output.weight") => return End::scores(m).map(Some),
            Wanted::Scores | Wanted::AsFile => {}
        }
        let how = match m.opt::<u32>("pooling_type")? {
            None | Some(0) => return Ok(None),
            Some(1) => Pooling::Mean,
            Some(2) => Pooling::Cls,
            Some(3) => Pooling::Last,
            Some(4) => return End::scores(m).map(Some),
            Some(n) => return Err(m.wrong("pooling_type", format_args!("is {n}, not 0 to 4"))),
        };
        Ok(Some(End::Embedding(how)))
    }

    /// A reranker has `cls` and `cls.output`, or one of them alone.
    fn scores(m: &Meta<'_>) -> Result<End> {
        let two = m.has("cls.output.weight");
        let projection = if two { "cls.output" } else { "cls" };
        let Some(classes) = m.rows(&format!("{projection}.weight"))? else {
            return Err(m.wrong("pooling_type", "says reranker, but there is no 'cls.weight'"));
        };
        let causal = m.visibility == Visibility::Causal;
        Ok(End::Scores {
            pooling: if causal { Pooling::Last } else { Pooling::Cls },
            dense: two && m.has("cls.weight"),
            projection,
            bias: m.has(&format!("{projection}.bias")),
            classes,
        })
    }

    /// Whether only the rows whose outputs are wanted matter.
    pub(super) fn selects(&self) -> bool {
        matches!(self, End::Logits { .. })
    }

    /// Records the end. `x` are the normed states: of the wanted rows for logits, else of all.
    pub(super) fn record(&self, p: &mut Program, x: Value) -> Result<()> {
        let width = p.shape(x).width;
        match *self {
            End::Logits { vocab, tied, scale, softcap } => {
                let name = if tied { "token_embd.weight" } else { "output.weight" };
                let w = p.tensor(name, vocab, width);
                let logits = Op::Linear { x, w, bias: None, act: Act::None, scale, softcap };
                let logits = p.one("output", logits)?;
                p.output(Output::Logits, logits);
            }
            End::Hidden => p.output(Output::Hidden, x),
            End::Embedding(how) => {
                let x = p.one("pool", Op::Pool { x, how })?;
                let x = p.one("normalize", Op::Normalize { x, width })?;
                p.output(Output::Pooled, x);
            }
            End::Scores { pooling, dense, projection, bias, classes } => {
                let mut x = p.one("pool", Op::Pool { x, how: pooling })?;
                if dense {
                    x = linear(p, "cls", "cls", width, x, true, Act::Tanh)?;
                }
                let x = linear(p, "scores", projection, classes, x, bias, Act::None)?;
                p.output(Output::Scores, x);
            }
        }
        Ok(())
    }
}
