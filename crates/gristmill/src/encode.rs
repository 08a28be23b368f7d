//! Vectors and relevances: what is made of a model that reads whole texts.

use crate::model::Model;
use gristmill_core::{Error, Result};
use gristmill_engine::{Encoding, Text};
use gristmill_ir::{Op, Output, Program};
use gristmill_models::Tokenizer;

/// The program without the scaling to length one at its end.
pub fn unnormalized(mut program: Program) -> Program {
    for (output, value) in &mut program.outputs {
        let made = program.nodes.iter().find(|n| n.outputs.contains(value));
        if *output == Output::Pooled
            && let Some(Op::Normalize { x, .. }) = made.map(|n| &n.op)
        {
            *value = *x;
        }
    }
    program
}

/// The first `dimensions` elements of a vector, scaled to length one where it was: what models
/// trained in the manner of Kusupati et al. (2022, "Matryoshka") are made for. A vector of zeros
/// stays.
pub fn truncated(vector: &[f32], dimensions: usize, normalize: bool) -> Vec<f32> {
    let first = &vector[..dimensions.min(vector.len())];
    if !normalize || first.len() == vector.len() {
        return first.to_vec();
    }
    let square: f64 = first.iter().map(|&v| f64::from(v).powi(2)).sum();
    let length = square.sqrt().max(1e-12);
    first.iter().map(|&v| (f64::from(v) / length) as f32).collect()
}

/// How well a text answers a query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Relevance {
    /// What the model gives: a logit, or the difference of the logits of yes and no.
    pub score: f32,
    /// Its logistic function, from 0 to 1.
    pub probability: f32,
}

impl Relevance {
    fn of(score: f32) -> Relevance {
        let probability = (1.0 / (1.0 + (-f64::from(score)).exp())) as f32;
        Relevance { score, probability }
    }
}

/// How a model is asked, and where its answer stands.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Asked {
    /// Both texts in one, and one score.
    Pair,
    /// A prompt, and two classes or words: yes and no.
    YesNo { yes: usize, no: usize },
}

/// A model that judges texts by a query.
#[derive(Debug)]
pub struct Reranker {
    asked: Asked,
}

/// The prompt of a decoder that answers yes or no, as its authors publish it (Zhang et al. 2025,
/// "Qwen3 Embedding"): before the texts and after them.
const PROMPT: [&str; 2] = [
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and \
     the Instruct provided. Note that the answer can only be \"yes\" or \"no\".<|im_end|>\n\
     <|im_start|>user\n",
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
];

impl Reranker {
    /// How `model` is asked, whose program gives `width` numbers of this kind for a text.
    ///
    /// # Errors
    /// [`Error::Model`] for one that gives embeddings, or more classes than are known here.
    pub fn new(
        model: &Model,
        tokenizer: &Tokenizer,
        encoding: Encoding,
        width: usize,
    ) -> Result<Reranker> {
        let wrong = |what: String| Err(Error::model(model.name(), what));
        let asked = match (encoding, width) {
            (Encoding::Scores, 1) => Asked::Pair,
            (Encoding::Scores, 2) => {
                let key = format!("{}.classifier.output_labels", model.architecture()?);
                let labels = model.labels(&key)?;
                let at = |name: &str| labels.iter().position(|l| l.eq_ignore_ascii_case(name));
                let yes = at("yes").unwrap_or(0);
                Asked::YesNo { yes, no: 1 - yes }
            }
            (Encoding::Scores, n) => {
                return wrong(format!("has {n} classes; a reranker has one, or yes and no"));
            }
            (Encoding::Logits, _) => match (tokenizer.token_id("yes"), tokenizer.token_id("no")) {
                (Some(yes), Some(no)) => Asked::YesNo { yes: yes as usize, no: no as usize },
                _ => return wrong("has no words 'yes' and 'no' to answer with".into()),
            },
            (Encoding::Pooled, _) => {
                return wrong("gives vectors and no scores; see `gristmill embed`".into());
            }
        };
        Ok(Reranker { asked })
    }

    /// The tokens that ask for one text. `most` tokens hold it: what of the text is beyond is left
    /// out where `cut`.
    ///
    /// # Errors
    /// [`Error::Usage`] for texts that are too long together; [`Error::Model`] for a model whose
    /// tokenizer makes no pairs.
    pub fn text(
        &self,
        tokenizer: &Tokenizer,
        [query, instruction]: [&str; 2],
        text: &str,
        (most, cut): (usize, bool),
    ) -> Result<Text> {
        let whole = self.whole(tokenizer, [query, instruction], text)?;
        if whole.ids.len() <= most {
            return Ok(whole);
        }
        if !cut {
            return Err(Error::Usage(format!(
                "the query and a text take {} tokens together and the model holds {most}; shorten \
                 them, or cut the text with --truncate",
                whole.ids.len()
            )));
        }
        // The text's tokens are the last before those that every text ends with.
        let empty = self.whole(tokenizer, [query, instruction], "")?;
        let behind = match self.asked {
            Asked::Pair => tokenizer.tokens_behind(),
            Asked::YesNo { .. } => tokenizer.encode(PROMPT[1], false, true).len(),
        };
        if empty.ids.len() >= most {
            return Err(Error::Usage(format!(
                "the query alone takes {} of the {most} tokens that the model holds",
                empty.ids.len()
            )));
        }
        let (end, over) = (whole.ids.len() - behind, whole.ids.len() - most);
        let without = |list: &[u32]| match list.is_empty() {
            true => vec![],
            false => [&list[..end - over], &list[end..]].concat(),
        };
        Ok(Text { ids: without(&whole.ids), types: without(&whole.types) })
    }

    fn whole(
        &self,
        tokenizer: &Tokenizer,
        [query, instruction]: [&str; 2],
        text: &str,
    ) -> Result<Text> {
        match self.asked {
            Asked::Pair => {
                let (ids, types) = tokenizer.encode_pair(query, text).ok_or_else(|| {
                    Error::model("the tokenizer", "puts nothing between two texts")
                })?;
                Ok(Text { ids, types })
            }
            Asked::YesNo { .. } => {
                let [before, after] = PROMPT.map(|p| tokenizer.encode(p, false, true));
                let asked =
                    format!("<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {text}");
                let asked = tokenizer.encode(&asked, false, false);
                Ok([before, asked, after].concat().into())
            }
        }
    }

    /// What the numbers that came of a text say.
    pub fn relevance(&self, numbers: &[f32]) -> Relevance {
        match self.asked {
            Asked::Pair => Relevance::of(numbers[0]),
            Asked::YesNo { yes, no } => Relevance::of(numbers[yes] - numbers[no]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_dimensions_have_length_one_again() {
        let v = [0.6f32, 0.0, 0.8];
        assert_eq!(truncated(&v, 2, true), [1.0, 0.0]);
        assert_eq!(truncated(&v, 2, false), [0.6, 0.0]);
        assert_eq!(truncated(&v, 9, true), v);
        assert_eq!(truncated(&[0.0, 0.0, 1.0], 2, true), [0.0, 0.0]);
    }

    #[test]
    fn a_score_of_nothing_is_a_half() {
        assert_eq!(Relevance::of(0.0).probability, 0.5);
        assert!(
            Relevance::of(-800.0).probability == 0.0 && Relevance::of(800.0).probability == 1.0
        );
    }
}
