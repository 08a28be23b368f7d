//! The readers of published models: files of safetensors, and `config.json`.

use super::{Change, KV, Target};
use gristmill_models::arch::{architecture, check_tensors, tensor};
use gristmill_models::safetensors;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// A file of weights may be anything.
pub const WEIGHTS: Target =
    Target { name: "safetensors", run: weights, seeds: weights_seeds, change: Change::Bytes };

/// A configuration may be anything.
pub const CONFIG: Target =
    Target { name: "config", run: config, seeds: config_seeds, change: Change::Json };

fn weights(bytes: &[u8]) {
    for kind in ["llama", "mixtral", "gpt_oss"] {
        read(configuration(kind).to_string().as_bytes(), bytes);
    }
}

fn config(bytes: &[u8]) {
    read(bytes, &file(&dense()));
    read(bytes, &file(&apart()));
}

/// Everything that is done with a model before it runs.
fn read(config: &[u8], weights: &[u8]) {
    let Ok(g) = safetensors::from_bytes("fuzz", config, Arc::new(weights.to_vec())) else {
        return;
    };
    for t in g.tensors() {
        let _ = g.tensor(&t.name);
    }
    let Ok(program) = architecture(&g, KV).and_then(|model| model.program()) else { return };
    if check_tensors(&program, &g).is_ok() {
        for decl in &program.tensors {
            tensor(decl, &g).expect("it was checked");
        }
    }
}

fn weights_seeds() -> Vec<(String, Vec<u8>)> {
    let all = [("dense", dense()), ("apart", apart()), ("blocks", blocks())];
    all.into_iter().map(|(name, tensors)| (name.to_owned(), file(&tensors))).collect()
}

fn config_seeds() -> Vec<(String, Vec<u8>)> {
    let kinds = [
        "llama",
        "mistral",
        "mixtral",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "gemma",
        "gemma2",
        "gemma3_text",
        "phi3",
        "granite",
        "olmo2",
        "glm4",
        "gpt_oss",
    ];
    let text = |kind: &str| serde_json::to_vec_pretty(&configuration(kind)).expect("an object");
    kinds.into_iter().map(|kind| (kind.to_owned(), text(kind))).collect()
}

/// One layer of width 32 with many of the fields that some family reads.
fn configuration(kind: &str) -> Value {
    let rope = match kind {
        "llama" => json!({ "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16 }),
        "phi3" => json!({ "type": "longrope", "short_factor": [1.0, 1.5, 2.0, 2.5],
            "long_factor": [1.0, 2.0, 3.0, 4.0] }),
        "gpt_oss" | "qwen3" => json!({ "rope_type": "yarn", "factor": 4.0, "beta_fast": 32.0,
            "beta_slow": 1.0, "truncate": false, "mscale": 1.0, "mscale_all_dim": 0.5,
            "original_max_position_embeddings": 16 }),
        "gemma3_text" => json!({ "full_attention": { "rope_type": "linear", "factor": 8.0,
            "rope_theta": 1e6 }, "sliding_attention": { "rope_type": "default" } }),
        _ => json!({ "rope_type": "default", "rope_theta": 1e4 }),
    };
    json!({
        "model_type": kind, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64,
        "original_max_position_embeddings": 16, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
        "rope_parameters": rope, "num_experts": 2, "num_local_experts": 2,
        "num_experts_per_tok": 1, "moe_intermediate_size": 32, "norm_topk_prob": true,
        "shared_expert_intermediate_size": 32, "sliding_window": 16, "use_sliding_window": true,
        "max_window_layers": 0, "layer_types": ["sliding_attention"],
        "query_pre_attn_scalar": 8, "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0, "embedding_multiplier": 2.0, "logits_scaling": 2.0,
        "residual_multiplier": 0.5, "attention_multiplier": 0.25, "partial_rotary_factor": 1.0,
        "hidden_act": if kind.starts_with("gemma") { "gelu_pytorch_tanh" } else { "silu" },
    })
}

type Tensors = Vec<(String, &'static str, Vec<usize>)>;

/// The tensors of a layer's attention and of both ends.
fn attention() -> Tensors {
    let layer = [
        ("input_layernorm", vec![32]),
        ("self_attn.q_proj", vec![32, 32]),
        ("self_attn.k_proj", vec![16, 32]),
        ("self_attn.v_proj", vec![16, 32]),
        ("self_attn.o_proj", vec![32, 32]),
        ("post_attention_layernorm", vec![32]),
    ];
    let ends = [("embed_tokens", vec![12, 32]), ("norm", vec![32])];
    let layer = layer.into_iter().map(|(n, s)| (format!("model.layers.0.{n}.weight"), s));
    let ends = ends.into_iter().map(|(n, s)| (format!("model.{n}.weight"), s));
    ends.chain(layer).map(|(n, s)| (n, "F16", s)).collect()
}

fn dense() -> Tensors {
    let mlp = ["gate", "up", "down"]
        .map(|n| (format!("model.layers.0.mlp.{n}_proj.weight"), "BF16", vec![32, 32]));
    attention().into_iter().chain(mlp).collect()
}

/// Experts one by one.
fn apart() -> Tensors {
    let of = |i: usize| {
        ["w1", "w2", "w3"].map(|w| {
            let name = format!("model.layers.0.block_sparse_moe.experts.{i}.{w}.weight");
            (name, "BF16", vec![32, 32])
        })
    };
    let router = ("model.layers.0.block_sparse_moe.gate.weight".to_owned(), "F32", vec![2, 32]);
    attention().into_iter().chain([router]).chain(of(0)).chain(of(1)).collect()
}

/// Experts in one tensor, as MXFP4 and transposed.
fn blocks() -> Tensors {
    let experts = [
        ("experts.gate_up_proj_blocks", "U8", vec![2, 64, 1, 16]),
        ("experts.gate_up_proj_scales", "U8", vec![2, 64, 1]),
        ("experts.gate_up_proj_bias", "BF16", vec![2, 64]),
        ("experts.down_proj", "BF16", vec![2, 32, 32]),
        ("experts.down_proj_bias", "BF16", vec![2, 32]),
        ("router.weight", "BF16", vec![2, 32]),
        ("router.bias", "BF16", vec![2]),
    ];
    let experts = experts.map(|(n, t, s)| (format!("model.layers.0.mlp.{n}"), t, s));
    let sinks = ("model.layers.0.self_attn.sinks".to_owned(), "BF16", vec![4]);
    attention().into_iter().chain(experts).chain([sinks]).collect()
}

/// A file of these tensors, whose bytes count up.
fn file(tensors: &Tensors) -> Vec<u8> {
    let mut header = Map::new();
    let mut at = 0;
    for (name, dtype, shape) in tensors {
        let width = match *dtype {
            "U8" => 1,
            "F32" => 4,
            _ => 2,
        };
        let end = at + width * shape.iter().product::<usize>();
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [at, end] });
        header.insert(name.clone(), entry);
        at = end;
    }
    let header = Value::Object(header).to_string();
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend((0..at).map(|i| i as u8));
    out
}
