//! A model's facts: from the fields of `config.json` to the keys of GGUF.
//!
//! One architecture has one description, in `arch`, and it reads GGUF's keys; this table says which
//! field is which. Three keys of our own say where published weights differ from converted ones:
//! `rope.pairs` (the rows of queries and keys are as published, not reordered), `norm_offset` (what
//! the weights of norms lack), `rope.scaling.yarn_truncate`.

use super::config::Config;
use super::names_bert;
use super::rope;
use crate::gguf::{Encode, GgufWriter};
use gristmill_core::Result;

/// `model_type`, the architecture in GGUF, the function of the gate.
const KINDS: [(&str, &str, Gate); 21] = [
    ("llama", "llama", Gate::Silu),
    ("mistral", "llama", Gate::Silu),
    ("mixtral", "llama", Gate::Silu),
    ("qwen2", "qwen2", Gate::Silu),
    ("qwen2_moe", "qwen2moe", Gate::Silu),
    ("qwen3", "qwen3", Gate::Silu),
    ("qwen3_moe", "qwen3moe", Gate::Silu),
    ("gemma", "gemma", Gate::Gelu),
    ("gemma2", "gemma2", Gate::Gelu),
    ("gemma3", "gemma3", Gate::Gelu),
    ("gemma3_text", "gemma3", Gate::Gelu),
    ("phi3", "phi3", Gate::Silu),
    ("granite", "granite", Gate::Silu),
    ("olmo2", "olmo2", Gate::Silu),
    ("glm4", "glm4", Gate::Silu),
    ("gpt_oss", "gpt-oss", Gate::Silu),
    ("Dream", "dream", Gate::Silu),
    ("rwkv7", "rwkv7", Gate::None),
    ("bert", "bert", Gate::None),
    ("roberta", "bert", Gate::None),
    ("xlm-roberta", "bert", Gate::None),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Gate {
    Silu,
    Gelu,
    /// There is no gated unit.
    None,
}

/// Whole numbers: the field, the key. A field that is absent gives no key.
const COUNTS: [(&str, &str); 13] = [
    ("max_position_embeddings", "context_length"),
    ("hidden_size", "embedding_length"),
    ("num_hidden_layers", "block_count"),
    ("intermediate_size", "feed_forward_length"),
    ("num_attention_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
    ("head_dim", "attention.value_length"),
    ("num_experts", "expert_count"),
    ("num_local_experts", "expert_count"),
    ("num_experts_per_tok", "expert_used_count"),
    ("moe_intermediate_size", "expert_feed_forward_length"),
    ("shared_expert_intermediate_size", "expert_shared_feed_forward_length"),
];

/// Numbers: the field, the key.
const NUMBERS: [(&str, &str); 5] = [
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
    ("embedding_multiplier", "embedding_scale"),
    ("residual_multiplier", "residual_scale"),
    ("attention_multiplier", "attention.scale"),
    ("logits_scaling", "logit_scale"),
];

/// Keys as they are written, and numbers of the configuration that programs read as tensors.
pub(super) struct Facts {
    arch: &'static str,
    writer: GgufWriter,
    keys: Vec<&'static str>,
    pub(super) tensors: Vec<(&'static str, Vec<f32>)>,
}

impl Facts {
    /// Sets a key under the architecture's prefix; the first value of a key stays.
    pub(super) fn set(&mut self, key: &'static str, value: impl Encode) -> Result<()> {
        if self.keys.contains(&key) {
            return Ok(());
        }
        self.keys.push(key);
        self.writer.set(&format!("{}.{key}", self.arch), value)
    }

    /// The metadata as a GGUF without tensors.
    pub(super) fn head(self) -> Result<Vec<u8>> {
        self.writer.write(vec![], &[])
    }
}

/// What kind of model this is: the field `model_type`, as the tables here name it.
///
/// # Errors
/// [`gristmill_core::Error::Model`] with those that are supported.
pub(super) fn model_type(c: &Config) -> Result<&'static str> {
    let name: &str = c.get("model_type")?;
    let found = KINDS.iter().find(|k| k.0 == name).map(|k| k.0);
    found.ok_or_else(|| {
        let known: Vec<&str> = KINDS.iter().map(|k| k.0).collect();
        c.error(format!(
            "the architecture '{name}' is not supported; those that are: {}",
            known.join(", ")
        ))
    })
}

/// Whether a model of this kind makes one result of a whole text.
pub(super) fn is_encoder(model_type: &str) -> bool {
    KINDS.iter().any(|k| k.0 == model_type && k.1 == "bert")
}

/// The facts of a model of the kind `model_type`, which is called `name`.
///
/// # Errors
/// [`gristmill_core::Error::Model`] naming the field that is missing, of another type, or says what
/// is not implemented.
pub(super) fn read(c: &Config, model_type: &'static str, name: &str) -> Result<Facts> {
    let known = KINDS.iter().find(|k| k.0 == model_type).copied();
    let (_, arch, gate) = known.expect("the kind is one of the table");
    let mut writer = GgufWriter::new(name);
    writer.set("general.architecture", arch)?;
    writer.set("general.name", name)?;
    let mut f = Facts { arch, writer, keys: vec![], tensors: vec![] };
    for (field, key) in COUNTS {
        if let Some(n) = c.opt::<u32>(field)? {
            f.set(key, n)?;
        }
    }
    for (field, key) in NUMBERS {
        if let Some(x) = c.opt::<f32>(field)? {
            f.set(key, x)?;
        }
    }
    if let Some(n) = c.opt::<f32>("query_pre_attn_scalar")?.filter(|_| gate == Gate::Gelu) {
        f.set("attention.scale", 1.0 / n.sqrt())?;
    }
    if gate == Gate::Gelu {
        f.set("norm_offset", 1.0f32)?;
        for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
            // 0 says that there is none, where the key's absence would not.
            f.set(key, c.opt::<f32>(key)?.unwrap_or(0.0))?;
        }
    }
    if arch.ends_with("moe") {
        f.set("expert_weights_norm", c.opt("norm_topk_prob")?.unwrap_or(false))?;
    }
    if gate == Gate::None {
        if arch == "bert" {
            names_bert::facts(c, &mut f)?;
        }
        return Ok(f);
    }
    // GLM-4 publishes the two elements of a pair side by side, the others half a head apart.
    f.set("rope.pairs", if arch == "glm4" { "adjacent" } else { "halves" })?;
    rope::read(c, model_type, &mut f)?;
    windows(c, model_type, &mut f)?;
    refuse(c, gate)?;
    if arch == "dream" {
        let mask: Option<u32> = c.opt("mask_token_id")?;
        mask.map_or(Ok(()), |id| f.writer.set("tokenizer.ggml.mask_token_id", id))?;
    }
    Ok(f)
}

/// The window and which layers have it.
fn windows(c: &Config, model_type: &str, f: &mut Facts) -> Result<()> {
    let window = c.opt::<u32>("sliding_window")?.filter(|&n| n > 0);
    let used = c.opt("use_sliding_window")?.unwrap_or(!model_type.starts_with("qwen"));
    let layers = c.get::<u32>("num_hidden_layers")?.min(1 << 16) as usize;
    let from: usize = c.opt::<u32>("max_window_layers")?.unwrap_or(0) as usize;
    let period = c.opt::<u32>("sliding_window_pattern")?.unwrap_or(6).max(1) as usize;
    let (Some(window), true) = (window, used) else {
        return Ok(());
    };
    let listed: Option<Vec<&str>> = c.opt("layer_types")?;
    let pattern: Vec<bool> = match (&listed, model_type) {
        (Some(kinds), _) => kinds.iter().map(|&k| windowed(c, k)).collect::<Result<_>>()?,
        (None, "qwen2" | "qwen3") => (0..layers).map(|i| i >= from).collect(),
        (None, "qwen2_moe") => (0..layers).map(|i| i % 2 == 0 && i < from).collect(),
        (None, "gemma2" | "gpt_oss") => (0..layers).map(|i| i % 2 == 0).collect(),
        (None, "gemma3" | "gemma3_text") => {
            (0..layers).map(|i| !(i + 1).is_multiple_of(period)).collect()
        }
        (None, "mistral" | "mixtral" | "phi3" | "qwen3_moe") => vec![true; layers],
        // The others have the field from their base class and do not look at it.
        (None, _) => vec![false; layers],
    };
    f.set("attention.sliding_window", window)?;
    f.set("attention.sliding_window_pattern", pattern.as_slice())
}

/// Whether a layer of this type has the window.
fn windowed(c: &Config, layer_type: &str) -> Result<bool> {
    match layer_type {
        "sliding_attention" => Ok(true),
        "full_attention" => Ok(false),
        other => Err(c.wrong("layer_types", format_args!("has '{other}', which does not run"))),
    }
}

/// Refuses what the fields say that nothing here computes.
fn refuse(c: &Config, gate: Gate) -> Result<()> {
    for field in ["hidden_activation", "hidden_act"] {
        let Some(act) = c.opt::<&str>(field)? else { continue };
        let fits = match gate {
            Gate::Silu => matches!(act, "silu" | "swish"),
            // The first Gemma was published with the name of the exact function, but not with it.
            Gate::Gelu => matches!(act, "gelu_pytorch_tanh" | "gelu"),
            Gate::None => true,
        };
        if !fits {
            return Err(c.wrong(field, format_args!("is '{act}', which does not run")));
        }
        break;
    }
    for (field, only) in [("swiglu_alpha", 1.702), ("swiglu_limit", 7.0)] {
        if let Some(x) = c.opt::<f64>(field)?.filter(|&x| x != only) {
            return Err(c.wrong(field, format_args!("is {x}; only {only} runs")));
        }
    }
    if c.opt::<bool>("use_bidirectional_attention")? == Some(true) {
        return Err(c.wrong("use_bidirectional_attention", "is true, which does not run"));
    }
    Ok(())
}
