//! Models in safetensors: what they record, that their tensors are those of the same model in GGUF,
//! and that no bytes of a file, an index or a configuration do worse than an error.

mod common;

use gristmill_core::{DType, Result, quant};
use gristmill_models::arch::{KvTypes, architecture, check_tensors, tensor};
use gristmill_models::{Gguf, safetensors};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::Path;

const KV: KvTypes = KvTypes { k: DType::F32, v: DType::F32 };

/// A file of these tensors: the header's JSON, then the data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// Tensors of F32 zeros one after the other.
fn zeros(tensors: &[(String, Vec<usize>)]) -> Vec<u8> {
    let mut at = 0;
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    for (name, shape) in tensors {
        let end = at + 4 * shape.iter().product::<usize>();
        let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [at, end] });
        header.insert(name.clone(), entry);
        at = end;
    }
    file(&Value::Object(header).to_string(), &vec![0; at])
}

fn config() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "intermediate_size": 12, "max_position_embeddings": 32,
        "rms_norm_eps": 1e-5, "rope_theta": 500.0, "tie_word_embeddings": true
    })
}

/// The tensors of that configuration, as they are published.
fn tensors() -> Vec<(String, Vec<usize>)> {
    let layer = [
        ("input_layernorm", vec![8]),
        ("self_attn.q_proj", vec![8, 8]),
        ("self_attn.k_proj", vec![4, 8]),
        ("self_attn.v_proj", vec![4, 8]),
        ("self_attn.o_proj", vec![8, 8]),
        ("post_attention_layernorm", vec![8]),
        ("mlp.gate_proj", vec![12, 8]),
        ("mlp.up_proj", vec![12, 8]),
        ("mlp.down_proj", vec![8, 12]),
    ];
    let name = |n: &str| format!("model.layers.0.{n}.weight");
    let layer = layer.into_iter().map(|(n, shape)| (name(n), shape));
    let ends = [("model.embed_tokens.weight", vec![5, 8]), ("model.norm.weight", vec![8])];
    ends.into_iter().map(|(n, s)| (n.to_owned(), s)).chain(layer).collect()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    /// The small model.
    fn whole() -> Folder {
        Folder::new()
            .with("config.json", config().to_string())
            .with("model.safetensors", zeros(&tensors()))
    }

    fn with(self, name: &str, content: impl AsRef<[u8]>) -> Folder {
        std::fs::write(self.0.path().join(name), content).unwrap();
        self
    }

    fn open(&self) -> Result<Gguf> {
        safetensors::open(self.0.path())
    }

    /// Opens the model and records its program.
    fn record(&self) -> Result<()> {
        let gguf = self.open()?;
        let program = architecture(&gguf, KV)?.program()?;
        check_tensors(&program, &gguf)?;
        program.tensors.iter().try_for_each(|d| tensor(d, &gguf).map(|_| ()))
    }

    /// The message of the refusal, which names the place.
    fn refusal(&self) -> String {
        let error = self.record().expect_err("must be refused");
        assert_eq!(error.exit_code(), 3, "{error}");
        let text = error.to_string();
        assert!(text.contains(&self.0.path().display().to_string()), "{text}");
        text
    }
}

#[test]
fn a_folder_or_its_file() {
    let folder = Folder::whole();
    folder.record().unwrap();
    let gguf = safetensors::open(folder.0.path().join("model.safetensors")).unwrap();
    assert_eq!(gguf.get::<u32>("llama.embedding_length").unwrap(), 8);
    assert_eq!(gguf.get_str("llama.rope.pairs").unwrap(), "halves");
    assert_eq!(gguf.get_f32("llama.rope.freq_base").unwrap(), 500.0);
    assert_eq!(gguf.tensor_info("blk.0.ffn_down.weight").unwrap().shape, [12, 8, 1, 1]);
    assert!(gguf.check_writable().is_err());
    assert!(gguf.check_unchanged().is_ok());
}

#[test]
fn shards_by_an_index() {
    let all = tensors();
    let (a, b) = all.split_at(4);
    let place = |(i, (name, _)): (usize, &(String, Vec<usize>))| {
        (name.clone(), Value::from(if i < 4 { "a.safetensors" } else { "b.safetensors" }))
    };
    let map: serde_json::Map<_, _> = all.iter().enumerate().map(place).collect();
    let index = |map: &serde_json::Map<String, Value>| json!({ "weight_map": map }).to_string();
    let folder = |map: &serde_json::Map<String, Value>| {
        let f = Folder::new().with("config.json", config().to_string());
        let f = f.with("a.safetensors", zeros(a)).with("b.safetensors", zeros(b));
        f.with("model.safetensors.index.json", index(map))
    };
    folder(&map).record().unwrap();

    let changed = |name: &str, file: &str| {
        let mut map = map.clone();
        map.insert(name.into(), file.into());
        folder(&map).refusal()
    };
    let elsewhere = changed("model.norm.weight", "../b.safetensors");
    assert!(elsewhere.contains("names '../b.safetensors', no file beside"), "{elsewhere}");
    assert!(changed("model.norm.weight", "b.safetensors").contains("'model.norm.weight' is in 'b"));
    assert!(changed("x", "c.safetensors").contains("c.safetensors: no such file"));
    let twice = folder(&map).with("b.safetensors", zeros(&all));
    assert!(twice.refusal().contains("is in 'a.safetensors' and 'b.safetensors'"));
    for (text, message) in [
        ("", "is empty"),
        ("{}", "missing field `weight_map`"),
        ("{\"weight_map\": {}}", "names no tensor"),
        ("{\"weight_map\": {\"a\": 1}}", "is no index"),
        ("[[[[", "is no index"),
    ] {
        let text = folder(&map).with("model.safetensors.index.json", text).refusal();
        assert!(text.contains(message), "{message}: {text}");
    }
}

#[test]
fn paths_that_are_no_model() {
    let at = |folder: &Folder, message: &str| {
        let text = folder.refusal();
        assert!(text.contains(message), "{message}: {text}");
    };
    at(&Folder::new(), "is a directory without 'model.safetensors'");
    at(&Folder::new().with("x.gguf", "x"), "name the .gguf file inside it, such as 'x.gguf'");
    at(&Folder::new().with("model.safetensors", zeros(&tensors())), "there is no 'config.json'");
    let adapter = Folder::new().with("adapter_config.json", "{}");
    at(&adapter.with("adapter_model.safetensors", zeros(&tensors())), "holds an adapter");
    let part = Folder::whole().with("model-00001-of-00002.safetensors", zeros(&tensors()));
    let part = safetensors::open(part.0.path().join("model-00001-of-00002.safetensors"));
    assert!(part.unwrap_err().to_string().contains("is one of several files"));
    assert!(safetensors::open("/nowhere/model.safetensors").unwrap_err().exit_code() == 3);
}

#[test]
fn configurations() {
    let with = |key: &str, value: Value| {
        let mut c = config();
        c[key] = value;
        Folder::whole().with("config.json", c.to_string())
    };
    for (key, value, message) in [
        ("model_type", json!("mamba"), "'mamba' is not supported; those that are: llama, mistral"),
        ("model_type", json!(null), "field 'model_type' is missing"),
        ("hidden_size", json!("8"), "field 'hidden_size' is '8', not a whole number"),
        ("hidden_size", json!(-1), "field 'hidden_size' is -1, not a whole number"),
        ("hidden_size", json!(1u64 << 40), "field 'hidden_size' is 1099511627776, not a whole"),
        ("num_hidden_layers", json!(0), "'llama.block_count' is 0"),
        ("num_hidden_layers", json!(2), "tensor 'blk.1.attn_norm.weight' is missing"),
        ("num_attention_heads", json!(0), "cannot rotate"),
        (
            "intermediate_size",
            json!(13),
            "tensor 'blk.0.ffn_gate.weight' has shape [8, 12], not [8, 13]",
        ),
        ("rms_norm_eps", json!(0), "'llama.attention.layer_norm_rms_epsilon' is 0"),
        ("rms_norm_eps", json!([1]), "field 'rms_norm_eps' is a list of 1, not a number"),
        ("rope_theta", json!(-3), "field 'rope_theta' is -3, not a number above zero"),
        ("hidden_act", json!("relu"), "field 'hidden_act' is 'relu', which does not run"),
        ("tie_word_embeddings", json!(false), "no tensor 'lm_head.weight'"),
        (
            "rope_scaling",
            json!({ "rope_type": "dynamic", "factor": 2.0 }),
            "'rope_type' is 'dynamic'",
        ),
        ("rope_scaling", json!({ "rope_type": "linear" }), "field 'factor' is missing"),
        (
            "rope_scaling",
            json!({ "rope_type": "longrope", "short_factor": [1, 2, 3],
            "long_factor": [1, 2] }),
            "field 'short_factor' is not 2 numbers above zero",
        ),
        ("rope_scaling", json!("yarn"), "field 'rope_scaling' is 'yarn', not an object"),
        ("quantization_config", json!({ "quant_method": "hqq" }), "has the method 'hqq'"),
        ("head_dim", json!(3), "cannot rotate in pairs"),
    ] {
        let text = with(key, value).refusal();
        assert!(text.contains(message), "{message}: {text}");
    }
    for (text, message) in [
        ("", "is empty"),
        ("[]", "is not a JSON object"),
        ("{\"a\": ", "is not JSON"),
        ("\u{0}\u{1}", "is not JSON"),
    ] {
        let text = Folder::whole().with("config.json", text).refusal();
        assert!(text.contains(message), "{message}: {text}");
    }
    for (depth, message) in [(10_000, "is not JSON"), (100_000, "has 100000 values, more than")] {
        let text = Folder::whole().with("config.json", "[".repeat(depth)).refusal();
        assert!(text.contains(message), "{message}: {text}");
    }
    let long = " ".repeat(2 << 20);
    assert!(Folder::whole().with("config.json", long).refusal().contains("more than the 1048576"));
}

#[test]
fn headers() {
    let refused = |bytes: Vec<u8>, message: &str| {
        let text = Folder::whole().with("model.safetensors", bytes).refusal();
        assert!(text.contains(message), "{message}: {text}");
    };
    let whole = zeros(&tensors());
    for i in 0..32 {
        let cut = whole[..whole.len() * i / 32].to_vec();
        refused(cut, if i == 0 { "is empty" } else { "truncated" });
    }
    for length in [0, 1, 1 << 31, 1 << 63, u64::MAX, whole.len() as u64] {
        let mut bytes = whole.clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        refused(bytes, "header");
    }
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(
            "{{\"a\": {{\"dtype\": \"{dtype}\", \"shape\": {shape}, \"data_offsets\": {offsets}}}}}"
        )
    };
    for (header, message) in [
        (one("F99", "[2]", "[0, 8]"), "tensor 'a' is of unknown type 'F99'"),
        (one("F32", "[3]", "[0, 8]"), "tensor 'a' has 8 bytes, which is no F32 of shape [3]"),
        (one("F32", "[2]", "[8, 0]"), "tensor 'a' lies at 8 to 0"),
        (one("F32", "[2]", "[8, 16]"), "tensor 'a' lies at 8 to 16 of 8 bytes"),
        (one("F32", "[1]", "[4, 8]"), "4 bytes before tensor 'a' belong to none"),
        (one("F32", "[1]", "[0, 4]"), "the last 4 bytes belong to no tensor"),
        (one("F32", "[0]", "[0, 0]"), "tensor 'a' of shape [0] is empty"),
        (one("F32", "[4294967296, 4294967296]", "[0, 8]"), "tensor 'a' has 8 bytes"),
        (one("F32", "[18446744073709551615, 2]", "[0, 8]"), "tensor 'a' has 8 bytes"),
        (one("F32", "[-1]", "[0, 8]"), "tensor 'a': invalid value"),
        (one("F32", "[1,1,1,1,1,1,1,1,2]", "[0, 8]"), "a list of up to 8 dimensions"),
        (one("F32", "[2]", "[0, 8, 16]"), "tensor 'a'"),
        (one("F4", "[3]", "[0, 8]"), "tensor 'a' has 8 bytes, which is no F4"),
        ("{\"a\": 1}".into(), "tensor 'a': invalid type"),
        ("{\"a\": {\"dtype\": \"F32\", \"shape\": [2]}}".into(), "missing field `data_offsets`"),
        ("[]".into(), "the header is not valid"),
        ("{} x".into(), "the header is not valid"),
        ("{}".into(), "the last 8 bytes belong to no tensor"),
        ("{\"a\":".repeat(20_000), "the header is not valid"),
    ] {
        refused(file(&header, &[0; 8]), message);
    }
    let two = |a: &str, b: &str, [i, j]: [usize; 2]| {
        let entry = |from: usize| {
            format!("{{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[{from},{}]}}", from + 4)
        };
        file(&format!("{{\"{a}\":{},\"{b}\":{}}}", entry(i), entry(j)), &[0; 8])
    };
    refused(two("a", "a", [0, 4]), "tensor 'a' appears twice");
    refused(two("a", "b", [0, 0]), "tensors 'a' and 'b' overlap");
    refused(file("{\"\u{fffd}", &[0; 8]), "the header is not valid");
    let mut not_text = file("{\"a\"", &[0; 8]);
    not_text[10] = 0xff;
    refused(not_text, "the header is not valid");
}

proptest! {
    /// Whatever one byte becomes, the answer is a model or an error.
    #[test]
    fn any_byte(at in 0usize..1500, to: u8) {
        let mut bytes = zeros(&tensors());
        bytes[at] = to;
        let _ = Folder::whole().with("model.safetensors", bytes).record();
        let mut text = config().to_string().into_bytes();
        let at = at % text.len();
        text[at] = to;
        let _ = Folder::whole().with("config.json", text).record();
    }
}

/// A mixture whose experts are apart: they become stacks, and all that is wrong is told at once.
#[test]
fn experts_become_stacks() {
    let mut c = config();
    c["model_type"] = "mixtral".into();
    c["num_local_experts"] = 3.into();
    c["num_experts_per_tok"] = 2.into();
    let mut all: Vec<_> = tensors().into_iter().filter(|t| !t.0.contains(".mlp.")).collect();
    all.push(("model.layers.0.block_sparse_moe.gate.weight".into(), vec![3, 8]));
    for i in 0..3 {
        for (w, shape) in [("w1", [12, 8]), ("w2", [8, 12]), ("w3", [12, 8])] {
            let name = format!("model.layers.0.block_sparse_moe.experts.{i}.{w}.weight");
            all.push((name, shape.to_vec()));
        }
    }
    let folder = |all: &[(String, Vec<usize>)]| {
        let folder = Folder::new().with("config.json", c.to_string());
        folder.with("model.safetensors", zeros(all))
    };
    let whole = folder(&all);
    whole.record().unwrap();
    let info = whole.open().unwrap();
    let info = info.tensor_info("blk.0.ffn_down_exps.weight").unwrap().clone();
    assert_eq!((info.shape, info.n_dims), ([12, 8, 3, 1], 3));

    let lacking: Vec<_> = all.iter().filter(|t| !t.0.contains("experts.1.w2")).cloned().collect();
    let mut lacking = lacking;
    lacking.iter_mut().find(|t| t.0.contains("experts.2.w1")).unwrap().1 = vec![6, 8];
    let text = folder(&lacking).refusal();
    assert!(text.contains("'blk.0.ffn_down_exps.weight' lacks the tensor of expert 1"), "{text}");
    assert!(text.contains("experts.2.w1.weight' of shape [6, 8] does not fit"), "{text}");
}

/// The values of a tensor.
fn values(gguf: &Gguf, name: &str) -> Vec<f32> {
    let t = gguf.tensor(name).unwrap();
    let mut out = vec![0.0; t.elements()];
    quant::dequantize(t.dtype, t.bytes(), &mut out).unwrap();
    out
}

/// The reference models hold the same numbers in both containers, but for the order of rows of
/// queries and keys in files of the kind `llama` and the one that Gemma's norms lack.
#[test]
fn reference_folders_hold_what_their_gguf_files_hold() {
    for name in ["llama", "mistral", "qwen2", "qwen3", "qwen3moe", "gemma2", "llada", "dream"] {
        let Some(folder) = common::data(&format!("golden/{name}")) else { return };
        let own = safetensors::open(&folder).unwrap_or_else(|e| panic!("{e}"));
        let program = architecture(&own, KV).and_then(|m| m.program()).unwrap();
        assert_eq!(check_tensors(&program, &own).unwrap(), [""; 0], "{name}");
        let gguf = Gguf::open(folder.join("model-f16.gguf")).unwrap();
        for decl in &program.tensors {
            let (ours, theirs) = (values(&own, &decl.name), values(&gguf, &decl.name));
            let reordered = ["llama", "llada"]
                .contains(&own.get_str("general.architecture").unwrap())
                && ["attn_q.", "attn_k."].iter().any(|s| decl.name.contains(s));
            let norm = name == "gemma2" && decl.name.contains("norm");
            if decl.name == "rope_freqs.weight" {
                let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * b;
                assert!(ours.iter().zip(&theirs).all(near), "{ours:?} {theirs:?}");
                continue;
            }
            match (reordered, norm) {
                (true, _) => assert_eq!(sorted(&ours), sorted(&theirs), "{name} {}", decl.name),
                (_, true) => assert!(ours.iter().zip(&theirs).all(|(a, b)| a + 1.0 == *b)),
                _ => assert_eq!(ours, theirs, "{name} {}", decl.name),
            }
        }
        let names: Vec<_> = program.tensors.iter().map(|t| &t.name).collect();
        let theirs = architecture(&gguf, KV).and_then(|m| m.program()).unwrap();
        assert_eq!(names, theirs.tensors.iter().map(|t| &t.name).collect::<Vec<_>>());
    }
}

fn sorted(x: &[f32]) -> Vec<f32> {
    let mut x = x.to_vec();
    x.sort_by(f32::total_cmp);
    x
}

#[test]
fn only_folders_and_files_of_that_name() {
    let folder = Folder::new();
    assert!(safetensors::is_one(folder.0.path()));
    assert!(safetensors::is_one(Path::new("x.SafeTensors")));
    assert!(!safetensors::is_one(Path::new("x.gguf")));
}
