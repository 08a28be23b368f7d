//! The configuration of LLaDA, whose fields have names of their own (those of OLMo): read as if
//! `transformers` had written it.

use super::config::Config;
use gristmill_core::Result;
use serde_json::Value;

/// The `model_type` of these files.
const KIND: &str = "llada";

/// Fields of another name: theirs, and that of `transformers`.
const FIELDS: [(&str, &str); 8] = [
    ("d_model", "hidden_size"),
    ("n_layers", "num_hidden_layers"),
    ("n_heads", "num_attention_heads"),
    ("n_kv_heads", "num_key_value_heads"),
    ("mlp_hidden_size", "intermediate_size"),
    ("max_sequence_length", "max_position_embeddings"),
    ("activation_type", "hidden_act"),
    ("weight_tying", "tie_word_embeddings"),
];

/// Switches, and the only setting that runs.
const SWITCHES: [(&str, bool); 8] = [
    ("alibi", false),
    ("rope", true),
    ("include_bias", false),
    ("include_qkv_bias", false),
    ("attention_layer_norm", false),
    ("multi_query_attention", false),
    ("scale_logits", false),
    ("input_emb_norm", false),
];

/// Gives the fields of a LLaDA model their usual names; leaves others as they are.
///
/// # Errors
/// [`gristmill_core::Error::Model`] naming the field that says what does not run.
pub(super) fn translate(c: &mut Config) -> Result<()> {
    if !matches!(c.opt::<&str>("model_type"), Ok(Some(KIND))) {
        return Ok(());
    }
    for (field, only) in SWITCHES {
        if c.opt::<bool>(field)?.is_some_and(|on| on != only) {
            return Err(c.wrong(field, format_args!("is {}; only {only} runs", !only)));
        }
    }
    for (field, only) in [("block_type", "llama"), ("layer_norm_type", "rms")] {
        if let Some(other) = c.opt::<&str>(field)?.filter(|&v| v != only) {
            return Err(c.wrong(field, format_args!("is '{other}'; only '{only}' runs")));
        }
    }
    if let Some(clip) = c.opt::<f64>("clip_qkv")? {
        return Err(c.wrong("clip_qkv", format_args!("is {clip}, which does not run")));
    }
    for (theirs, usual) in FIELDS {
        c.rename(theirs, usual);
    }
    if c.opt::<u32>("num_key_value_heads")?.is_none() {
        let heads: u32 = c.get("num_attention_heads")?;
        c.set("num_key_value_heads", Value::from(heads));
    }
    Ok(())
}

/// The usual name of a tensor of a LLaDA model.
pub(super) fn tensor_name(name: &str) -> Option<String> {
    let own = name.strip_prefix("model.transformer.")?;
    for (theirs, usual) in
        [("wte.", "model.embed_tokens."), ("ln_f.", "model.norm."), ("ff_out.", "lm_head.")]
    {
        if let Some(rest) = own.strip_prefix(theirs) {
            return Some(format!("{usual}{rest}"));
        }
    }
    let (layer, rest) = own.strip_prefix("blocks.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    let usual = match part {
        "q_proj" | "k_proj" | "v_proj" => format!("self_attn.{part}"),
        "attn_out" => "self_attn.o_proj".into(),
        "attn_norm" => "input_layernorm".into(),
        "ff_norm" => "post_attention_layernorm".into(),
        "ff_proj" => "mlp.gate_proj".into(),
        "up_proj" => "mlp.up_proj".into(),
        "ff_out" => "mlp.down_proj".into(),
        _ => return None,
    };
    Some(format!("model.layers.{layer}.{usual}.{kind}"))
}
