//! The names of tensors: from those of `transformers` to those of GGUF.

/// What a published tensor is to a model.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Target {
    /// The tensor of this name.
    Whole(String),
    /// The tensor of this name, a matrix published with its rows as columns.
    Turned(String),
    /// One matrix of the stack of this name.
    Member { stack: String, index: usize },
    /// Experts in one tensor, with gate and up together.
    Experts { blk: String, part: Part },
}

/// The parts of experts that are one tensor for all experts of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    GateUp,
    GateUpBias,
    GateUpBlocks,
    GateUpScales,
    Down,
    DownBias,
    DownBlocks,
    DownScales,
}

/// Names outside the layers, after the prefixes of the body.
const GLOBAL: [(&str, &str); 5] = [
    ("embed_tokens.weight", "token_embd.weight"),
    ("norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight"),
    ("lm_head.bias", "output.bias"),
    // The classes of a decoder that reranks.
    ("score.weight", "cls.output.weight"),
];

/// Names within a layer, without `.weight` or `.bias`.
const LAYER: [(&str, &str); 24] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
    ("post_self_attn_layernorm", "post_attention_norm"),
    ("post_mlp_layernorm", "post_ffw_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    // Gate over up, as GGUF's files have it too.
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.gate", "ffn_gate_inp"),
    ("mlp.router", "ffn_gate_inp"),
    ("block_sparse_moe.gate", "ffn_gate_inp"),
    ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_expert.up_proj", "ffn_up_shexp"),
    ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
    ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
    ("self_attn.sinks", "attn_sinks"),
];

/// Names of one expert's matrices.
const EXPERT: [(&str, &str); 6] = [
    ("gate_proj", "ffn_gate_exps"),
    ("up_proj", "ffn_up_exps"),
    ("down_proj", "ffn_down_exps"),
    ("w1", "ffn_gate_exps"),
    ("w3", "ffn_up_exps"),
    ("w2", "ffn_down_exps"),
];

/// Names of what holds all experts.
const EXPERTS: [(&str, Part); 8] = [
    ("gate_up_proj", Part::GateUp),
    ("gate_up_proj_bias", Part::GateUpBias),
    ("gate_up_proj_blocks", Part::GateUpBlocks),
    ("gate_up_proj_scales", Part::GateUpScales),
    ("down_proj", Part::Down),
    ("down_proj_bias", Part::DownBias),
    ("down_proj_blocks", Part::DownBlocks),
    ("down_proj_scales", Part::DownScales),
];

/// What the tensor `name` of a model of the kind `model_type` is; nothing for one that is no part of
/// a language model, such as those of a vision tower.
pub(super) fn target(model_type: &str, name: &str) -> Option<Target> {
    match model_type {
        "rwkv7" => return super::names_rwkv7::target(name),
        t if super::facts::is_encoder(t) => return super::names_bert::target(name),
        _ => {}
    }
    // A model of several kinds of input has its decoder under a name of its own.
    let mut own = name;
    for prefix in ["model.", "language_model.", "model."] {
        own = own.strip_prefix(prefix).unwrap_or(own);
    }
    if let Some((_, to)) = GLOBAL.iter().find(|n| n.0 == own) {
        return Some(Target::Whole((*to).into()));
    }
    let (layer, rest) = own.strip_prefix("layers.")?.split_once('.')?;
    let number = |s: &str| s.parse::<u32>().ok().filter(|n| n.to_string() == s);
    let blk = format!("blk.{}", number(layer)?);

    let experts = rest.strip_prefix("mlp.").or_else(|| rest.strip_prefix("block_sparse_moe."));
    if let Some(rest) = experts.and_then(|r| r.strip_prefix("experts.")) {
        if let Some(&(_, part)) = EXPERTS.iter().find(|e| e.0 == rest) {
            return Some(Target::Experts { blk, part });
        }
        let (index, part) = rest.split_once('.')?;
        let (part, kind) = part.rsplit_once('.')?;
        let to = EXPERT.iter().find(|e| e.0 == part)?.1;
        let stack = format!("{blk}.{to}.{kind}");
        return Some(Target::Member { stack, index: number(index)? as usize });
    }

    let (part, kind) = match rest.rsplit_once('.') {
        Some((part, kind @ ("weight" | "bias"))) => (part, kind),
        _ => (rest, "weight"),
    };
    // One name for two places: before the feed-forward, or after attention where both are normed.
    let to = match (part, model_type) {
        ("post_attention_layernorm", "gemma2" | "gemma3" | "gemma3_text" | "olmo2" | "gpt_oss") => {
            "post_attention_norm"
        }
        ("post_attention_layernorm", _) => "ffn_norm",
        _ => LAYER.iter().find(|n| n.0 == part)?.1,
    };
    Some(Target::Whole(format!("{blk}.{to}.{kind}")))
}
