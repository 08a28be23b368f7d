//! Quantized models in safetensors: compressed-tensors, GPTQ and AWQ. Integers, zeros and scales are
//! drawn here, laid out in words as each project describes it, and read back as
//! `scale · (integer - zero)`; then what is wrong in every way that a file can be.

mod common;

use gristmill_core::{Result, bf16, f16, quant};
use gristmill_models::arch::{KvTypes, architecture, check_tensors, tensor};
use gristmill_models::{Gguf, safetensors};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

const KV: KvTypes = KvTypes { k: gristmill_core::DType::F32, v: gristmill_core::DType::F32 };

#[derive(Clone, Copy, PartialEq, Debug)]
enum Layout {
    Compressed,
    Gptq,
    GptqV2,
    Awq,
}
use Layout::*;

/// How matrices are quantized.
#[derive(Clone, Copy, Debug)]
struct Setting {
    layout: Layout,
    bits: usize,
    /// -1: a row.
    group: i64,
    /// Whether zeros differ from `2^(bits - 1)`.
    zeros: bool,
    scale: &'static str,
}

const fn setting(
    layout: Layout,
    bits: usize,
    group: i64,
    zeros: bool,
    scale: &'static str,
) -> Setting {
    Setting { layout, bits, group, zeros, scale }
}

const ALL: [Setting; 13] = [
    setting(Compressed, 4, 128, false, "BF16"),
    setting(Compressed, 4, 32, true, "F16"),
    setting(Compressed, 8, -1, false, "F16"),
    setting(Compressed, 8, 64, false, "F32"),
    setting(Compressed, 2, 64, true, "F32"),
    setting(Compressed, 1, 32, false, "BF16"),
    setting(Gptq, 4, 64, true, "F16"),
    setting(Gptq, 8, 128, false, "F16"),
    setting(Gptq, 2, 32, true, "BF16"),
    setting(GptqV2, 4, 128, true, "F16"),
    setting(Gptq, 4, -1, false, "F32"),
    setting(Awq, 4, 128, true, "F16"),
    setting(Awq, 4, 32, true, "F16"),
];

#[derive(Clone)]
struct Tensor {
    kind: &'static str,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// A model and what its quantized matrices are worth, under GGUF's names.
#[derive(Clone)]
struct Model {
    config: Value,
    tensors: BTreeMap<String, Tensor>,
    values: BTreeMap<String, Vec<f32>>,
}

/// A number that depends on nothing but its arguments (splitmix64).
fn random(seed: u64, i: usize) -> u64 {
    let mut z = seed.wrapping_add((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Words of `bits` each from the lowest bits up, the integers of every row of `n` by themselves.
fn words(integers: &[u32], n: usize, bits: usize) -> Vec<u32> {
    let row = |row: &[u32]| -> Vec<u32> {
        let word = |w: &[u32]| w.iter().enumerate().fold(0, |a, (i, &q)| a | q << (i * bits));
        row.chunks(32 / bits).map(word).collect()
    };
    integers.chunks(n).flat_map(row).collect()
}

fn transposed<T: Copy>(x: &[T], cols: usize) -> Vec<T> {
    (0..cols).flat_map(|c| x.chunks(cols).map(move |row| row[c])).collect()
}

/// Eight neighbours in the order in which AWQ has them.
fn interleaved(x: &[u32]) -> Vec<u32> {
    x.chunks(8).flat_map(|c| [0, 2, 4, 6, 1, 3, 5, 7].map(|i| c[i])).collect()
}

fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

impl Model {
    fn new(kind: &str, quantization: Value) -> Model {
        let config = json!({
            "model_type": kind, "hidden_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4,
            "num_key_value_heads": 2, "intermediate_size": 256, "max_position_embeddings": 32,
            "rms_norm_eps": 1e-5, "rope_theta": 500.0, "tie_word_embeddings": true,
            "quantization_config": quantization,
        });
        let mut m = Model { config, tensors: BTreeMap::new(), values: BTreeMap::new() };
        for (name, shape) in [
            ("model.embed_tokens", vec![5, 128]),
            ("model.norm", vec![128]),
            ("model.layers.0.input_layernorm", vec![128]),
            ("model.layers.0.post_attention_layernorm", vec![128]),
        ] {
            m.zeros(&format!("{name}.weight"), &shape);
        }
        m
    }

    /// A model of the kind `llama`, all of whose layers are quantized.
    fn llama(s: Setting) -> Model {
        let mut m = Model::new("llama", described(s));
        for (i, (layer, rows, cols)) in LAYERS.into_iter().enumerate() {
            m.quantized(&format!("model.layers.0.{layer}"), [rows, cols], s, i as u64);
        }
        m
    }

    fn zeros(&mut self, name: &str, shape: &[usize]) {
        let bytes = vec![0; 4 * shape.iter().product::<usize>()];
        self.set(name, "F32", shape, bytes);
    }

    fn set(&mut self, name: &str, kind: &'static str, shape: &[usize], bytes: Vec<u8>) {
        self.tensors.insert(name.into(), Tensor { kind, shape: shape.to_vec(), bytes });
    }

    /// Adds the tensors of a layer; gives its values.
    fn quantized(
        &mut self,
        layer: &str,
        [rows, cols]: [usize; 2],
        s: Setting,
        seed: u64,
    ) -> Vec<f32> {
        let Setting { layout, bits, group, zeros, scale } = s;
        let group = usize::try_from(group).unwrap_or(cols);
        let groups = cols / group;
        let below = 1u64 << bits;
        let q: Vec<u32> = (0..rows * cols).map(|i| (random(seed, i) % below) as u32).collect();
        // What GPTQ stores is one less.
        let least = u64::from(layout == Gptq);
        let zero = |i| if zeros { random(seed + 1000, i) % below + least } else { below / 2 };
        let z: Vec<u32> = (0..rows * groups).map(|i| zero(i) as u32).collect();
        let d: Vec<f32> = (0..rows * groups)
            .map(|i| {
                let n = (1 + random(seed + 2000, i) % 99) as f32;
                // Exact in the type of the scales.
                if scale == "F32" { n / 1000.0 } else { n / 1024.0 }
            })
            .collect();
        let values = (0..rows * cols).map(|i| {
            let g = i / cols * groups + i % cols / group;
            (f64::from(d[g]) * (f64::from(q[i]) - f64::from(z[g]))) as f32
        });
        let values: Vec<f32> = values.collect();

        let per = 32 / bits;
        let (across, down) = (cols.div_ceil(per), rows.div_ceil(per));
        let name = |part: &str| format!("{layer}.{part}");
        let scales = |d: &[f32]| -> Vec<u8> {
            d.iter()
                .flat_map(|&d| match scale {
                    "F32" => d.to_le_bytes().to_vec(),
                    "F16" => f16::from_f32(d).to_le_bytes().to_vec(),
                    _ => bf16::from_f32(d).to_le_bytes().to_vec(),
                })
                .collect()
        };
        match layout {
            Compressed => {
                self.set(
                    &name("weight_packed"),
                    "I32",
                    &[rows, across],
                    bytes_of(&words(&q, cols, bits)),
                );
                self.set(&name("weight_scale"), scale, &[rows, groups], scales(&d));
                let shape = [rows, cols].map(|n| (n as u64).to_le_bytes()).concat();
                self.set(&name("weight_shape"), "I64", &[2], shape);
                if zeros {
                    // Packed down the rows.
                    let z = words(&transposed(&z, groups), rows, bits);
                    let z = transposed(&z, down);
                    self.set(&name("weight_zero_point"), "I32", &[down, groups], bytes_of(&z));
                }
            }
            Gptq | GptqV2 => {
                let w = transposed(&words(&q, cols, bits), across);
                self.set(&name("qweight"), "I32", &[across, rows], bytes_of(&w));
                self.set(&name("scales"), scale, &[groups, rows], scales(&transposed(&d, groups)));
                let z: Vec<u32> = z.iter().map(|z| z - least as u32).collect();
                let z = words(&transposed(&z, groups), rows, bits);
                self.set(&name("qzeros"), "I32", &[groups, down], bytes_of(&z));
                let order: Vec<u32> = (0..cols).map(|c| (c / group) as u32).collect();
                self.set(&name("g_idx"), "I32", &[cols], bytes_of(&order));
            }
            Awq => {
                let w = words(&interleaved(&transposed(&q, cols)), rows, bits);
                self.set(&name("qweight"), "I32", &[cols, down], bytes_of(&w));
                self.set(&name("scales"), scale, &[groups, rows], scales(&transposed(&d, groups)));
                let z = words(&interleaved(&transposed(&z, groups)), rows, bits);
                self.set(&name("qzeros"), "I32", &[groups, down], bytes_of(&z));
            }
        }
        if let Some((_, to)) = NAMES.iter().find(|n| layer.ends_with(n.0)) {
            self.values.insert((*to).into(), values.clone());
        }
        values
    }

    fn file(&self) -> Vec<u8> {
        let mut header = Map::new();
        let mut data = vec![];
        for (name, t) in &self.tensors {
            let at = data.len();
            data.extend(&t.bytes);
            let entry =
                json!({ "dtype": t.kind, "shape": t.shape, "data_offsets": [at, data.len()] });
            header.insert(name.clone(), entry);
        }
        let header = Value::Object(header).to_string();
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
    }

    fn open(&self) -> Result<Gguf> {
        let config = self.config.to_string();
        safetensors::from_bytes("folder", config.as_bytes(), Arc::new(self.file()))
    }

    /// Opens the model, records its program and makes its tensors.
    fn record(&self) -> Result<Gguf> {
        let gguf = self.open()?;
        let program = architecture(&gguf, KV)?.program()?;
        let unused = check_tensors(&program, &gguf)?;
        assert_eq!(unused, [""; 0]);
        program.tensors.iter().try_for_each(|d| tensor(d, &gguf).map(|_| ()))?;
        Ok(gguf)
    }

    /// Checks that every quantized matrix has its values, in the type `dtype` where one is named.
    fn holds(&self, dtype: Option<&str>) {
        let gguf = self.record().unwrap_or_else(|e| panic!("{e}"));
        for (name, expected) in &self.values {
            let t = gguf.tensor(name).unwrap();
            assert!(dtype.is_none_or(|d| d == t.dtype.name()), "{name} is {}", t.dtype);
            let mut values = vec![0.0; t.elements()];
            quant::dequantize(t.dtype, t.bytes(), &mut values).unwrap();
            assert_eq!(values.len(), expected.len(), "{name}");
            let other = values.iter().zip(expected).position(|(a, b)| a != b);
            assert_eq!(other, None, "{name} {:?}", self.config["quantization_config"]);
        }
        assert!(!self.values.is_empty());
    }

    /// The message of the refusal, which is one line but for lists.
    fn refusal(&self) -> String {
        let error = match self.record() {
            Err(e) => e,
            Ok(_) => panic!("must be refused: {}", self.config["quantization_config"]),
        };
        assert_eq!(error.exit_code(), 3, "{error}");
        let text = error.to_string();
        assert!(text.starts_with("folder"), "{text}");
        text
    }
}

/// Layers of the model, rows, columns.
const LAYERS: [(&str, usize, usize); 7] = [
    ("self_attn.q_proj", 128, 128),
    ("self_attn.k_proj", 64, 128),
    ("self_attn.v_proj", 64, 128),
    ("self_attn.o_proj", 128, 128),
    ("mlp.gate_proj", 256, 128),
    ("mlp.up_proj", 256, 128),
    ("mlp.down_proj", 128, 256),
];
const NAMES: [(&str, &str); 10] = [
    ("self_attn.q_proj", "blk.0.attn_q.weight"),
    ("self_attn.k_proj", "blk.0.attn_k.weight"),
    ("self_attn.v_proj", "blk.0.attn_v.weight"),
    ("self_attn.o_proj", "blk.0.attn_output.weight"),
    ("mlp.gate_proj", "blk.0.ffn_gate.weight"),
    ("mlp.up_proj", "blk.0.ffn_up.weight"),
    ("mlp.down_proj", "blk.0.ffn_down.weight"),
    ("self_attn.qkv_proj", "blk.0.attn_qkv.weight"),
    ("mlp.gate_up_proj", "blk.0.ffn_up.weight"),
    ("lm_head", "output.weight"),
];

/// The setting as `config.json` has it.
fn described(s: Setting) -> Value {
    match s.layout {
        Compressed => json!({
            "quant_method": "compressed-tensors", "format": "pack-quantized",
            "config_groups": { "group_0": group(s) },
            "ignore": ["lm_head", "re:.*gate$"], "kv_cache_scheme": null, "sparsity_config": {},
            "transform_config": {}, "quantization_status": "compressed",
        }),
        Gptq | GptqV2 => json!({
            "quant_method": "gptq", "bits": s.bits, "group_size": s.group, "sym": !s.zeros,
            "desc_act": false, "static_groups": false, "damp_percent": 0.01,
            "checkpoint_format": if s.layout == Gptq { "gptq" } else { "gptq_v2" },
        }),
        Awq => json!({
            "quant_method": "awq", "bits": s.bits, "group_size": s.group, "zero_point": true,
            "version": "gemm", "modules_to_not_convert": null, "backend": "autoawq",
        }),
    }
}

/// A group of compressed-tensors.
fn group(s: Setting) -> Value {
    let (strategy, size) = match s.group {
        -1 => ("channel", Value::Null),
        n => ("group", n.into()),
    };
    json!({
        "targets": ["Linear"], "input_activations": null, "output_activations": null,
        "weights": { "num_bits": s.bits, "type": "int", "symmetric": !s.zeros, "dynamic": false,
            "strategy": strategy, "group_size": size, "actorder": null, "block_structure": null },
    })
}

#[test]
fn values_are_scale_times_integer_less_zero() {
    let types = [
        "I4_128_F32",
        "I4_32_F16",
        "I8_128_F16",
        "I8_64_F32",
        "I2_64_F32",
        "I1_32_F32",
        "I4_64_F16",
        "I8_128_F16",
        "I2_32_F32",
        "I4_128_F16",
        "I4_128_F32",
        "I4_128_F16",
        "I4_32_F16",
    ];
    for (s, dtype) in ALL.into_iter().zip(types) {
        Model::llama(s).holds(Some(dtype));
    }
}

/// What is left out is a float, and stays one; a quantized head is a head.
#[test]
fn layers_of_floats_and_heads() {
    for s in ALL {
        let mut m = Model::llama(s);
        let layer = "model.layers.0.self_attn.o_proj";
        m.tensors.retain(|name, _| !name.starts_with(layer));
        m.values.remove("blk.0.attn_output.weight");
        m.zeros(&format!("{layer}.weight"), &[128, 128]);
        let field = if s.layout == Compressed { "ignore" } else { "modules_to_not_convert" };
        m.config["quantization_config"][field] = json!([layer]);
        m.holds(None);
        m.config["quantization_config"][field] = json!(["model.layers.0.mlp.up_proj"]);
        let text = m.refusal();
        assert!(text.contains("model.layers.0.mlp.up_proj: is quantized, though"), "{text}");

        let mut m = Model::llama(s);
        m.config["tie_word_embeddings"] = false.into();
        m.config["quantization_config"]["ignore"] = json!([]);
        m.quantized("lm_head", [8, 128], s, 77);
        m.zeros("model.embed_tokens.weight", &[8, 128]);
        m.holds(None);
        // Of a tied model it is not looked at.
        m.config["tie_word_embeddings"] = true.into();
        m.values.remove("output.weight");
        m.holds(None);
    }
}

/// Layers of different settings: the one that fits is taken.
#[test]
fn several_settings() {
    let (four, eight) = (ALL[0], ALL[3]);
    let mut m = Model::llama(four);
    let layer = "model.layers.0.mlp.down_proj";
    m.tensors.retain(|name, _| !name.starts_with(layer));
    m.quantized(layer, [128, 256], eight, 9);
    assert!(m.refusal().contains("down_proj: has 'weight_shape' [128, 256], but"));
    m.config["quantization_config"]["config_groups"]["group_1"] = group(eight);
    m.holds(None);
    m.config["quantization_config"]["config_groups"]["group_1"] = group(ALL[1]);
    let text = m.refusal();
    assert!(text.contains("down_proj: fits none of the 2 settings; of the first: has"), "{text}");
    // A format of the group's own.
    m.config["quantization_config"]["config_groups"]["group_1"] = group(eight);
    m.config["quantization_config"]["format"] = "mixed-precision".into();
    assert!(m.refusal().contains("field 'format' is 'mixed-precision'"));
    for name in ["group_0", "group_1"] {
        let format = &mut m.config["quantization_config"]["config_groups"][name]["format"];
        *format = "pack-quantized".into();
    }
    m.holds(None);

    let mut m = Model::llama(ALL[6]);
    m.tensors.retain(|name, _| !name.starts_with(layer));
    m.quantized(layer, [128, 256], ALL[7], 9);
    assert!(m.refusal().contains("down_proj: has 'scales' of shape [2, 128], not [8, 128]"));
    let dynamic = json!({ "+:.*down.*": { "bits": 8, "group_size": 128 }, "-:.*head": {} });
    m.config["quantization_config"]["dynamic"] = dynamic;
    m.holds(None);
}

#[test]
fn experts_become_stacks() {
    for s in ALL {
        let mut m = Model::new("mixtral", described(s));
        m.config["num_local_experts"] = 3.into();
        m.config["num_experts_per_tok"] = 2.into();
        for (i, (layer, rows, cols)) in LAYERS.into_iter().take(4).enumerate() {
            m.quantized(&format!("model.layers.0.{layer}"), [rows, cols], s, i as u64);
        }
        let moe = "model.layers.0.block_sparse_moe";
        m.zeros(&format!("{moe}.gate.weight"), &[3, 128]);
        for (w, part, shape) in
            [("w1", "gate", [256, 128]), ("w2", "down", [128, 256]), ("w3", "up", [256, 128])]
        {
            let one = |i: u64| m.quantized(&format!("{moe}.experts.{i}.{w}"), shape, s, 50 + i);
            let stack = [0, 1, 2].map(one).concat();
            m.values.insert(format!("blk.0.ffn_{part}_exps.weight"), stack);
        }
        m.holds(None);
        let info = m.open().unwrap();
        let info = info.tensor_info("blk.0.ffn_down_exps.weight").unwrap().clone();
        assert_eq!((info.shape, info.n_dims), ([256, 128, 3, 1], 3));

        let mut lacking = m.clone();
        lacking.tensors.retain(|name, _| !name.contains("experts.1.w2"));
        let text = lacking.refusal();
        assert!(
            text.contains("'blk.0.ffn_down_exps.weight' lacks the tensor of expert 1"),
            "{text}"
        );
        let mut unlike = m.clone();
        unlike.quantized(&format!("{moe}.experts.2.w1"), [128, 128], s, 3);
        let text = unlike.refusal();
        assert!(text.contains("'blk.0.ffn_gate_exps.weight' has an expert 2 unlike"), "{text}");
    }
}

/// Queries, keys and values in one matrix, gate and up in another.
#[test]
fn fused_projections() {
    for s in ALL {
        let mut m = Model::new("phi3", described(s));
        for (i, (layer, rows, cols)) in [
            ("self_attn.qkv_proj", 256, 128),
            ("self_attn.o_proj", 128, 128),
            ("mlp.gate_up_proj", 512, 128),
            ("mlp.down_proj", 128, 256),
        ]
        .into_iter()
        .enumerate()
        {
            m.quantized(&format!("model.layers.0.{layer}"), [rows, cols], s, i as u64);
        }
        m.holds(None);
    }
}

#[test]
fn configurations() {
    let group = |m: &mut Model, field: &str, value: Value| {
        m.config["quantization_config"]["config_groups"]["group_0"]["weights"][field] = value;
    };
    for (field, value, message) in [
        ("num_bits", json!(3), "field 'num_bits' is 3; integers of 1, 2, 4 or 8 bits are read"),
        ("num_bits", json!(0), "field 'num_bits' is 0"),
        ("num_bits", json!(null), "field 'num_bits' is missing"),
        ("num_bits", json!("4"), "field 'num_bits' is '4', not a whole number"),
        ("group_size", json!(48), "field 'group_size' is 48; multiples of 32 are read"),
        ("group_size", json!(0), "field 'group_size' is 0"),
        ("group_size", json!(-2), "field 'group_size' is -2"),
        ("group_size", json!(null), "field 'group_size' is missing"),
        ("group_size", json!(i64::MIN), "field 'group_size' is -9223372036854775808"),
        ("group_size", json!(1u64 << 63), "field 'group_size' is 9223372036854775808, not a whole"),
        ("group_size", json!(1u64 << 62), "has groups of 4611686018427387904 in rows of 128"),
        ("strategy", json!("tensor"), "field 'strategy' is 'tensor', which is not read"),
        ("strategy", json!("block"), "field 'strategy' is 'block'"),
        ("strategy", json!("channel"), "field 'group_size' is 128, though 'strategy' is 'channel'"),
        ("type", json!("float"), "field 'type' is 'float', which is not read; 'int' is"),
        ("dynamic", json!(true), "field 'dynamic' is true"),
        ("symmetric", json!(false), "has no tensor 'weight_zero_point'"),
        ("symmetric", json!(1), "field 'symmetric' is 1, not true or false"),
        ("actorder", json!("group"), "has no tensor 'weight_g_idx'"),
        ("actorder", json!(7), "field 'actorder' is 7, not a string"),
    ] {
        let mut m = Model::llama(ALL[0]);
        group(&mut m, field, value);
        let text = m.refusal();
        assert!(text.contains(message), "{message}: {text}");
    }
    let mut m = Model::llama(ALL[0]);
    group(&mut m, "actorder", json!("static"));
    group(&mut m, "strategy", json!(null));
    m.holds(None);

    let activations = json!({ "num_bits": 8, "type": "int", "strategy": "token", "dynamic": true });
    for (s, field, value, message) in [
        (ALL[0], "format", json!("int-quantized"), "field 'format' is 'int-quantized'"),
        (ALL[0], "format", json!(null), "field 'format' is 'not named'"),
        (ALL[0], "config_groups", json!(null), "field 'config_groups' is missing"),
        (ALL[0], "config_groups", json!({}), "field 'config_groups' has no group"),
        (ALL[0], "config_groups", json!({ "W4A16": ["Linear"] }), "'W4A16' is a list of 1, not an"),
        (
            ALL[0],
            "config_groups",
            json!({ "g": { "input_activations": activations } }),
            "field 'input_activations' is there",
        ),
        (ALL[0], "kv_cache_scheme", activations.clone(), "field 'kv_cache_scheme' is there"),
        (ALL[0], "transform_config", json!({ "config_groups": {} }), "'transform_config' is there"),
        (
            ALL[0],
            "sparsity_config",
            json!({ "format": "sparse-24-bitmask" }),
            "'sparse-24-bitmask'",
        ),
        (ALL[0], "ignore", json!(3), "field 'ignore' is 3, not a list of strings"),
        (ALL[0], "quant_method", json!("fp8"), "field 'quantization_config' has the method 'fp8'"),
        (ALL[0], "quant_method", json!(null), "has the method 'not named'"),
        (ALL[0], "quant_method", json!("gptq"), "field 'format' is 'pack-quantized'"),
        (ALL[0], "quant_method", json!("awq"), "field 'format' is 'pack-quantized'"),
        (ALL[6], "bits", json!(3), "field 'bits' is 3"),
        (ALL[6], "bits", json!(8), "has 'scales' of shape [2, 128], not [1, 128]"),
        (ALL[6], "bits", json!(1u64 << 40), "field 'bits' is 1099511627776, not a whole number"),
        (ALL[6], "group_size", json!(128), "has 'scales' of shape [2, 128], not [1, 128]"),
        (ALL[6], "checkpoint_format", json!("marlin"), "field 'checkpoint_format' is 'marlin'"),
        (ALL[6], "is_marlin_format", json!(true), "field 'is_marlin_format' is true"),
        (ALL[6], "pack_dtype", json!("int16"), "field 'pack_dtype' is 'int16'"),
        (ALL[6], "dynamic", json!({ "a": { "bits": 3 } }), "field 'bits' is 3"),
        (ALL[6], "bits", json!(null), "field 'bits' is missing"),
        (ALL[6], "quant_method", json!("awq"), "has groups of 64 in rows of 16; only multiples"),
        (ALL[6], "quant_method", json!("compressed-tensors"), "'config_groups' is missing"),
        (ALL[11], "version", json!("gemv"), "field 'version' is 'gemv'"),
        (ALL[11], "bits", json!(8), "field 'bits' is 8; AWQ has 4"),
        (ALL[11], "zero_point", json!(false), "field 'zero_point' is false"),
        (ALL[11], "backend", json!("llm-awq"), "field 'backend' is 'llm-awq'"),
        (ALL[11], "quant_method", json!("gptq"), "has 'scales' of shape [1, 128], not [8, 16]"),
    ] {
        let mut m = Model::llama(s);
        m.config["quantization_config"][field] = value;
        let text = m.refusal();
        assert!(text.contains(message), "{message}: {text}");
    }
    for (s, message) in
        [(ALL[0], "weight_packed' is quantized"), (ALL[11], "qweight' is quantized")]
    {
        let mut m = Model::llama(s);
        m.config["quantization_config"] = Value::Null;
        let text = m.refusal();
        assert!(text.contains("field 'quantization_config' does not say how '"), "{text}");
        assert!(text.contains(message), "{text}");
    }
    // The older name of the field.
    let mut m = Model::llama(ALL[0]);
    m.config["compression_config"] = m.config["quantization_config"].take();
    m.holds(None);
}

#[test]
fn tensors_that_do_not_fit() {
    const LAYER: &str = "model.layers.0.mlp.up_proj";
    let edit = |s: Setting, part: &str, change: &dyn Fn(&mut Tensor)| {
        let mut m = Model::llama(s);
        change(m.tensors.get_mut(&format!("{LAYER}.{part}")).expect(part));
        m.refusal()
    };
    for s in ALL {
        let parts: Vec<String> = {
            let prefix = format!("{LAYER}.");
            let m = Model::llama(s);
            m.tensors.keys().filter_map(|k| k.strip_prefix(&prefix)).map(str::to_owned).collect()
        };
        for part in &parts {
            // Absent.
            let mut m = Model::llama(s);
            m.tensors.remove(&format!("{LAYER}.{part}"));
            if part == "g_idx" {
                m.holds(None);
                m.config["quantization_config"]["desc_act"] = true.into();
            }
            let text = m.refusal();
            assert!(text.contains(&format!("{LAYER}: has no tensor '{part}'")), "{text}");
            // Of another shape, of the same bytes and of none of them.
            let text = edit(s, part, &|t| t.shape.insert(0, 1));
            assert!(text.contains(&format!("{LAYER}: has '{part}' of shape [1, ")), "{text}");
            let text = edit(s, part, &|t| {
                t.shape = vec![t.bytes.len()];
                t.kind = "U8";
            });
            assert!(text.contains(&format!("{LAYER}: has '{part}' of shape [")), "{text}");
            let text = edit(s, part, &|t| {
                t.bytes.extend_from_within(..);
                t.shape[0] *= 2;
            });
            assert!(text.contains(&format!("{LAYER}: has ")), "{text}");
            // Of another type with as many bytes.
            let text = edit(s, part, &|t| {
                t.kind = match t.kind {
                    "I32" | "F32" => "U32",
                    "I64" => "F64",
                    _ => "I16",
                }
            });
            assert!(text.contains(&format!("{LAYER}: has '{part}' of type ")), "{text}");
        }
        // A float beside it.
        let mut m = Model::llama(s);
        m.zeros(&format!("{LAYER}.weight"), &[256, 128]);
        assert!(m.refusal().contains("two tensors are the model's 'blk.0.ffn_up.weight'"));
    }
    for shape in [
        [256u64, 127],
        [256, 136],
        [255, 128],
        [0, 0],
        [u64::MAX, 128],
        [256, 1 << 63],
        [1 << 62; 2],
    ] {
        let bytes = shape.map(u64::to_le_bytes).concat();
        let text = edit(ALL[0], "weight_shape", &|t| t.bytes = bytes.clone());
        let known = ["has 'weight_shape' [", "only multiples of 32 can be packed"];
        assert!(known.iter().any(|k| text.contains(k)), "{shape:?}: {text}");
    }
    let text = edit(ALL[7], "qzeros", &|t| t.bytes[5] = 0x7e);
    assert!(text.contains("up_proj: has zeros of eight bits; only symmetric ones"), "{text}");
    let text = edit(ALL[0], "weight_scale", &|t| t.kind = "I16");
    assert!(text.contains("has 'weight_scale' of type I16, not F16 or BF16 or F32"), "{text}");
    for (at, to) in [(0usize, 1i32), (127, 0), (64, 2), (3, -1), (5, i32::MIN), (9, i32::MAX)] {
        let text = edit(ALL[6], "g_idx", &|t| {
            t.bytes[4 * at..4 * at + 4].copy_from_slice(&to.to_le_bytes());
        });
        let message = format!("has 'g_idx' that puts column {at} into group {to}, not {}", at / 64);
        assert!(text.contains(&message), "{message}: {text}");
        assert!(text.contains("'desc_act' or 'actorder'"), "{text}");
    }
    // Zeros where there should be none, and an order of compressed-tensors.
    let mut m = Model::llama(ALL[0]);
    m.set(&format!("{LAYER}.weight_zero_point"), "I32", &[32, 1], vec![0; 128]);
    assert!(m.refusal().contains("has zeros, though 'symmetric' is true"));
    let mut m = Model::llama(ALL[1]);
    let order = |f: fn(u32) -> u32| bytes_of(&(0..128).map(f).collect::<Vec<_>>());
    m.set(&format!("{LAYER}.weight_g_idx"), "I32", &[128], order(|i| i / 32));
    m.holds(None);
    m.set(&format!("{LAYER}.weight_g_idx"), "I32", &[128], order(|i| i % 4));
    assert!(m.refusal().contains("has 'weight_g_idx' that puts column 1 into group 1, not 0"));
}

proptest! {
    /// Whatever one byte becomes, the answer is a model or an error.
    #[test]
    fn any_byte(which in 0usize..13, at in 0usize..4000, to: u8) {
        let m = Model::llama(ALL[which]);
        let mut bytes = m.file();
        bytes[at] = to;
        let config = m.config.to_string();
        let read = |config: &[u8], bytes: Vec<u8>| {
            let Ok(gguf) = safetensors::from_bytes("fuzz", config, Arc::new(bytes)) else { return };
            gguf.tensors().iter().for_each(|t| drop(gguf.tensor(&t.name)));
        };
        read(config.as_bytes(), bytes);
        let mut config = config.into_bytes();
        let at = at % config.len();
        config[at] = to;
        read(&config, m.file());
    }
}
