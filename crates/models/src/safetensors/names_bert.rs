//! BERT and its kin: the names of their tensors, and the facts that `config.json` has of them.
//!
//! RoBERTa and XLM-R count positions from one past the id that pads, so the first rows of their
//! table stand for no position and are left out, as converters to GGUF do.

use super::config::Config;
use super::facts::Facts;
use super::names::Target;
use gristmill_core::Result;
use std::path::Path;

/// Names outside the layers, without the model's own prefix.
const GLOBAL: [(&str, &str); 9] = [
    ("embeddings.word_embeddings", "token_embd"),
    ("embeddings.position_embeddings", "position_embd"),
    ("embeddings.token_type_embeddings", "token_types"),
    ("embeddings.LayerNorm", "token_embd_norm"),
    // The head of a reranker: a layer with tanh, then the classes.
    ("pooler.dense", "cls"),
    ("classifier.dense", "cls"),
    ("classifier.out_proj", "cls.output"),
    ("classifier", "cls.output"),
    ("emb_ln", "token_embd_norm"),
];

/// Names within a layer.
const LAYER: [(&str, &str); 8] = [
    ("attention.self.query", "attn_q"),
    ("attention.self.key", "attn_k"),
    ("attention.self.value", "attn_v"),
    ("attention.output.dense", "attn_output"),
    ("attention.output.LayerNorm", "attn_output_norm"),
    ("intermediate.dense", "ffn_up"),
    ("output.dense", "ffn_down"),
    ("output.LayerNorm", "layer_output_norm"),
];

/// What a tensor is.
pub(super) fn target(name: &str) -> Option<Target> {
    let own = ["bert.", "roberta."].iter().find_map(|p| name.strip_prefix(p)).unwrap_or(name);
    let (part, kind) = own.rsplit_once('.').filter(|p| matches!(p.1, "weight" | "bias"))?;
    if let Some((_, to)) = GLOBAL.iter().find(|n| n.0 == part) {
        return Some(Target::Whole(format!("{to}.{kind}")));
    }
    let (layer, part) = part.strip_prefix("encoder.layer.")?.split_once('.')?;
    let n = layer.parse::<u32>().ok().filter(|n| n.to_string() == layer)?;
    let to = LAYER.iter().find(|l| l.0 == part)?.1;
    Some(Target::Whole(format!("blk.{n}.{to}.{kind}")))
}

/// Rows of the table of positions that stand for no position.
///
/// # Errors
/// When the field is of another type.
pub(super) fn unused_positions(c: &Config, model_type: &str) -> Result<usize> {
    match model_type {
        "roberta" | "xlm-roberta" => Ok(c.opt::<u32>("pad_token_id")?.unwrap_or(1) as usize + 1),
        _ => Ok(0),
    }
}

/// The facts that only these have.
///
/// # Errors
/// [`gristmill_core::Error::Model`] naming the field that says what is not implemented.
pub(super) fn facts(c: &Config, f: &mut Facts) -> Result<()> {
    f.set("attention.layer_norm_epsilon", c.opt("layer_norm_eps")?.unwrap_or(1e-12f32))?;
    f.set("attention.causal", false)?;
    let act: &str = c.opt("hidden_act")?.unwrap_or("gelu");
    if act != "gelu" {
        return Err(c.wrong("hidden_act", format_args!("is '{act}', which does not run")));
    }
    let positions: &str = c.opt("position_embedding_type")?.unwrap_or("absolute");
    if positions != "absolute" {
        let what = format_args!("is '{positions}', which does not run");
        return Err(c.wrong("position_embedding_type", what));
    }
    if c.opt::<bool>("is_decoder")? == Some(true) {
        return Err(c.wrong("is_decoder", "is true, which does not run"));
    }
    Ok(())
}

/// How the model makes one result of a text: `pooling_type` as GGUF numbers it. A model for classes
/// says so in `architectures`, one for embeddings in the file that sentence-transformers puts
/// beside it.
///
/// # Errors
/// [`gristmill_core::Error::Model`] for a file that is damaged or asks for what is not implemented.
pub(super) fn pooling(c: &Config, folder: &Path) -> Result<Option<u32>> {
    let classes: Option<Vec<&str>> = c.opt("architectures")?;
    if classes.is_some_and(|a| a.iter().any(|a| a.ends_with("ForSequenceClassification"))) {
        return Ok(Some(4));
    }
    let path = folder.join("1_Pooling").join("config.json");
    if !path.exists() {
        return Ok(None);
    }
    let p = Config::open(&path)?;
    let ways = [("mean_tokens", 1), ("cls_token", 2), ("lasttoken", 3)];
    let mut found = None;
    for key in p.keys().filter_map(|k| k.strip_prefix("pooling_mode_")) {
        if p.opt::<bool>(&format!("pooling_mode_{key}"))? != Some(true) {
            continue;
        }
        match (ways.iter().find(|w| w.0 == key), found) {
            (Some(&(_, n)), None) => found = Some(n),
            _ => {
                let what = "is true; one of mean, first or last token runs, and one alone";
                return Err(p.wrong(&format!("pooling_mode_{key}"), what));
            }
        }
    }
    Ok(found)
}
