//! Programs recorded from small configurations made here, as text: what each family computes can
//! be read in `snapshots/`. And every reference file at hand records and holds what it names.

mod common;

use gristmill_core::{DType, HostTensor, Result};
use gristmill_ir::{Output, Program};
use gristmill_models::Gguf;
use gristmill_models::arch::{
    KvTypes, Model, Visibility, architecture, check_tensors, fit_to_context, supported, tensor,
};
use gristmill_models::gguf::GgufWriter;
use std::sync::Arc;

const KV: KvTypes = KvTypes { k: DType::F16, v: DType::Q8_0 };

/// A configuration: metadata under the architecture's prefix, and the tensors that tell facts.
#[derive(Clone, Default)]
struct Config {
    arch: &'static str,
    ints: Vec<(&'static str, u32)>,
    floats: Vec<(&'static str, f32)>,
    texts: Vec<(&'static str, &'static str)>,
    pattern: Option<Vec<bool>>,
    /// `[experts, rows, cols]` of each.
    tensors: Vec<(String, [usize; 3])>,
}

impl Config {
    /// 2 layers of width 32: 4 heads of 8 with 2 for keys and values, 48 elements within.
    fn new(arch: &'static str) -> Config {
        Config {
            arch,
            ints: vec![
                ("context_length", 64),
                ("embedding_length", 32),
                ("block_count", 2),
                ("feed_forward_length", 48),
                ("attention.head_count", 4),
            ],
            tensors: vec![("token_embd.weight".into(), [1, 40, 32])],
            ..Config::default()
        }
    }

    /// The same for a decoder with RMS norms.
    fn decoder(arch: &'static str) -> Config {
        let c = Config::new(arch).int("attention.head_count_kv", 2);
        c.float("attention.layer_norm_rms_epsilon", 1e-5)
    }

    fn int(mut self, key: &'static str, n: u32) -> Config {
        self.ints.retain(|i| i.0 != key);
        self.ints.push((key, n));
        self
    }

    fn float(mut self, key: &'static str, x: f32) -> Config {
        self.floats.push((key, x));
        self
    }

    fn text(mut self, key: &'static str, s: &'static str) -> Config {
        self.texts.push((key, s));
        self
    }

    fn tensor(mut self, name: &str, rows: usize, cols: usize) -> Config {
        self.tensors.push((name.into(), [1, rows, cols]));
        self
    }

    fn file(&self) -> Gguf {
        let mut w = GgufWriter::new("test.gguf");
        let key = |k: &str| format!("{}.{k}", self.arch);
        w.set("general.architecture", self.arch).unwrap();
        for (k, n) in &self.ints {
            w.set(&key(k), *n).unwrap();
        }
        for (k, x) in &self.floats {
            w.set(&key(k), *x).unwrap();
        }
        for (k, s) in &self.texts {
            w.set(&key(k), *s).unwrap();
        }
        if let Some(pattern) = &self.pattern {
            w.set(&key("attention.sliding_window_pattern"), pattern.as_slice()).unwrap();
        }
        let zeros = |(name, [e, r, c]): &(String, [usize; 3])| {
            let bytes: Arc<Vec<u8>> = Arc::new(vec![0; e * r * c * 4]);
            let range = 0..bytes.len();
            HostTensor::new(name, DType::F32, [*e, *r, *c], bytes, range).unwrap()
        };
        let tensors: Vec<HostTensor> = self.tensors.iter().map(zeros).collect();
        let bytes = w.write(vec![], &tensors).unwrap();
        Gguf::from_bytes("test.gguf", Arc::new(bytes)).unwrap()
    }

    fn model(&self) -> Result<Model> {
        architecture(&self.file(), KV)
    }

    fn program(&self) -> Program {
        self.model().unwrap().program().unwrap()
    }

    /// The same with every tensor that its program names.
    fn complete(&self) -> Config {
        let all = self.program().tensors;
        let shape = |n: [u32; 3]| n.map(|n| n as usize);
        let tensors = all.into_iter().map(|d| (d.name, shape([d.experts, d.rows, d.cols])));
        let tensors = tensors.chain(self.spare());
        Config { tensors: tensors.collect(), ..self.clone() }
    }

    /// Tensors of the file that the program does not name, such as one of two sets of divisors.
    fn spare(&self) -> Vec<(String, [usize; 3])> {
        let named = self.program().tensors;
        let spare = |t: &&(String, [usize; 3])| named.iter().all(|d| d.name != t.0);
        self.tensors.iter().filter(spare).cloned().collect()
    }
}

/// The program as a snapshot; it parses back, and does not depend on how much of the file is there.
fn snapshot(name: &str, config: &Config) {
    let program = config.program();
    let text = program.to_string();
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!(name, text);
    });
    assert_eq!(text.parse::<Program>().unwrap(), program);

    let mut complete = config.complete();
    assert_eq!(complete.program(), program);
    let mut spare: Vec<String> = config.spare().into_iter().map(|t| t.0).collect();
    assert_eq!(check_tensors(&program, &complete.file()).unwrap(), spare);
    for decl in &program.tensors {
        let t = tensor(decl, &complete.file()).unwrap();
        assert_eq!(
            [t.experts, t.rows, t.cols],
            [decl.experts, decl.rows, decl.cols].map(|n| n as usize)
        );
    }

    // All that is wrong is told at once; what is not used is told too.
    complete.tensors.push(("spare".into(), [1, 1, 1]));
    spare.push("spare".into());
    assert_eq!(check_tensors(&program, &complete.file()).unwrap(), spare);
    let missing = complete.tensors.remove(0).0;
    let wrong = complete.tensors[0].0.clone();
    complete.tensors[0].1 = [1, 3, 7];
    let error = check_tensors(&program, &complete.file()).unwrap_err().to_string();
    assert!(error.contains(&format!("tensor '{missing}' is missing")), "{error}");
    assert!(error.contains(&format!("tensor '{wrong}' has shape [7, 3], not [")), "{error}");
}

fn llama() -> Config {
    let c = Config::decoder("llama").float("rope.freq_base", 500_000.0);
    c.tensor("output.weight", 40, 32).tensor("rope_freqs.weight", 1, 4)
}

fn qwen3() -> Config {
    Config::decoder("qwen3").int("attention.key_length", 16).int("attention.value_length", 16)
}

fn gemma3() -> Config {
    let mut c = Config::decoder("gemma3").int("attention.sliding_window", 16);
    c = c.text("rope.scaling.type", "linear").float("rope.scaling.factor", 8.0);
    c.pattern = Some(vec![true, false]);
    c.float("rope.freq_base", 1e6)
}

fn qwen3moe() -> Config {
    let c = Config::decoder("qwen3moe").int("expert_count", 6).int("expert_used_count", 2);
    c.int("expert_feed_forward_length", 24)
}

/// Half of each head rotates, gate and up in one matrix.
fn glm4() -> Config {
    let c = Config::decoder("glm4").int("rope.dimension_count", 4);
    let c = c.tensor("blk.0.ffn_up.weight", 96, 32).tensor("blk.0.attn_q.bias", 1, 32);
    c.tensor("output.weight", 40, 32)
}

/// Fused matrices, three quarters of each head rotate, by two sets of divisors.
fn phi3() -> Config {
    let c = Config::decoder("phi3").int("rope.dimension_count", 6);
    let c = c.int("rope.scaling.original_context_length", 16).int("attention.sliding_window", 24);
    let c = c.float("rope.scaling.attn_factor", 1.25);
    let c = ["long", "short"]
        .into_iter()
        .fold(c, |c, s| c.tensor(&format!("rope_factors_{s}.weight"), 1, 3));
    c.tensor("blk.0.attn_qkv.weight", 64, 32).tensor("blk.0.ffn_up.weight", 96, 32)
}

fn gpt_oss() -> Config {
    let c = Config::decoder("gpt-oss").int("expert_count", 6).int("expert_used_count", 2);
    let c = c.int("expert_feed_forward_length", 24).int("attention.sliding_window", 16);
    let c = c.text("rope.scaling.type", "yarn").float("rope.scaling.factor", 4.0);
    let c = c.int("rope.scaling.original_context_length", 16);
    let c = ["attn_q", "attn_output"]
        .into_iter()
        .fold(c, |c, s| c.tensor(&format!("blk.0.{s}.bias"), 1, 32));
    let c = c.tensor("blk.0.ffn_down_exps.bias", 6, 32);
    c.tensor("output.weight", 40, 32)
}

fn rwkv7() -> Config {
    let ranks = [
        ("wkv.head_size", 16),
        ("attention.decay_lora_rank", 5),
        ("attention.iclr_lora_rank", 6),
        ("attention.value_residual_mix_lora_rank", 7),
        ("attention.gate_lora_rank", 9),
    ];
    let c = ranks.into_iter().fold(Config::new("rwkv7"), |c, (k, n)| c.int(k, n));
    c.float("attention.layer_norm_epsilon", 1e-5).tensor("output.weight", 40, 32)
}

fn bert() -> Config {
    let c = Config::new("bert").float("attention.layer_norm_epsilon", 1e-12);
    let c = c.tensor("position_embd.weight", 64, 32).tensor("token_types.weight", 2, 32);
    ["attn_q", "attn_output", "ffn_down"]
        .into_iter()
        .fold(c.int("pooling_type", 1), |c, s| c.tensor(&format!("blk.0.{s}.bias"), 1, 32))
        .tensor("blk.0.ffn_up.bias", 1, 48)
}

#[test]
fn programs() {
    snapshot("llama", &llama());
    snapshot("qwen3", &qwen3());
    snapshot("gemma3", &gemma3());
    snapshot("qwen3moe", &qwen3moe());
    snapshot("rwkv7", &rwkv7());
    snapshot("glm4", &glm4());
    snapshot("olmo2", &Config::decoder("olmo2").tensor("output.weight", 40, 32));
    snapshot("phi3", &phi3());
    snapshot("gpt-oss", &gpt_oss());
    snapshot("llada", &Config::decoder("llada").tensor("output.weight", 40, 32));
    snapshot("denoiser", &denoiser());
    snapshot("bert", &bert());
    let labels = bert().int("pooling_type", 4).tensor("cls.weight", 32, 32);
    snapshot("bert_rerank", &labels.tensor("cls.output.weight", 1, 32));
}

fn denoiser() -> Config {
    let c = Config::new("denoiser").int("latent_length", 32);
    let c = c.float("attention.layer_norm_epsilon", 1e-5);
    c.tensor("time_embd_0.weight", 24, 32).tensor("diffusion.alphas", 1, 100)
}

/// Phi 3's two sets of divisors: the program names the one for the context it is to run with.
#[test]
fn longrope_by_context() {
    let file = phi3().complete().file();
    let program = phi3().program();
    let named = |context: u32| {
        let fitted = fit_to_context(program.clone(), &file, context).unwrap();
        let names: Vec<String> = fitted.tensors.into_iter().map(|t| t.name).collect();
        names.into_iter().filter(|n| n.starts_with("rope_")).collect::<Vec<_>>()
    };
    assert_eq!(named(16), ["rope_factors_short.weight"]);
    assert_eq!(named(17), ["rope_factors_long.weight"]);
}

/// The line of the program's text for an operation.
fn line(c: &Config, node: &str) -> String {
    let text = c.program().to_string();
    let end = format!(" # {node}");
    let found = text.lines().find(|l| l.ends_with(&end));
    found.unwrap_or_else(|| panic!("no {node} in\n{text}")).to_owned()
}

#[test]
fn facts_that_set_families_apart() {
    let has = |c: &Config, node: &str, part: &str| {
        let line = line(c, node);
        assert!(line.contains(part), "{part} is not in {line}");
    };
    // A head tied to the embedding, a window, YaRN.
    let plain = Config::decoder("llama");
    has(&plain, "output", "w=@token_embd.weight");
    has(&plain.clone().int("attention.sliding_window", 16), "blk.1.attn", "window=16");
    let yarn = plain.text("rope.scaling.type", "yarn").float("rope.scaling.factor", 4.0);
    let yarn = yarn.int("rope.scaling.original_context_length", 16);
    let ramp = "scale=0.25, magnitude=1.1386294, yarn=(original_context=16, fast=32, slow=1)";
    has(&yarn, "blk.0.qkv", ramp);

    has(&Config::decoder("qwen2"), "blk.0.qkv", "bias=[@blk.0.attn_q.bias, @blk.0.attn_k.bias");
    let phi = Config::decoder("phi3").tensor("blk.0.attn_qkv.weight", 64, 32);
    let phi = phi.tensor("blk.0.ffn_up.weight", 96, 32);
    has(&phi, "blk.1.qkv", "w=[@blk.1.attn_qkv.weight]");
    has(&phi, "blk.1.gate_up", "w=[@blk.1.ffn_up.weight]");
    let granite = ["embedding_scale", "residual_scale", "logit_scale", "attention.scale"];
    let granite = granite.into_iter().fold(Config::decoder("granite"), |c, k| c.float(k, 4.0));
    has(&granite, "embed", "scale=4");
    has(&granite, "blk.0.ffn_norm", "scale=4");
    has(&granite, "blk.0.attn", "scale=4");
    has(&granite, "output", "scale=0.25");

    let gemma = Config::decoder("gemma2").int("attention.sliding_window", 16);
    has(&gemma, "blk.0.attn", "softcap=50, window=16)");
    has(&gemma, "blk.1.attn", "softcap=50)");
    has(&gemma, "output", "softcap=30");
    has(&gemma, "blk.0.ffn_norm", "post=(kind=rms, weight=@blk.0.post_attention_norm.weight");
    has(&Config::decoder("gemma"), "blk.0.gate_up", "act=gelu_tanh");

    let qwen = Config::decoder("qwen2moe").int("expert_count", 6).int("expert_used_count", 2);
    has(&qwen, "blk.0.shared_add", "gate=%");
    assert!(!line(&qwen, "blk.0.route").contains("renormalise"));
    let mixtral = Config::decoder("llama").int("expert_count", 6).int("expert_used_count", 2);
    has(&mixtral, "blk.0.route", "renormalise=true");
    has(&mixtral.int("leading_dense_block_count", 1), "blk.0.gate_up", "= gate_up(");

    let nomic = Config::new("nomic-bert").float("attention.layer_norm_epsilon", 1e-12);
    let nomic = nomic.tensor("blk.0.attn_qkv.weight", 96, 32);
    let nomic = nomic.tensor("blk.0.ffn_gate.weight", 48, 32);
    has(&nomic, "blk.1.qkv", "w=[@blk.1.attn_qkv.weight], heads=4");
    has(&nomic, "blk.1.gate_up", "act=silu");
    assert!(nomic.program().output_value(Output::Hidden).is_some());
    let embedding = qwen3().int("pooling_type", 3);
    has(&embedding, "pool", "how=last");
}

#[test]
fn what_an_engine_needs_to_know() {
    let info = llama().model().unwrap().info;
    assert_eq!((info.vocab_size, info.context_length, info.width, info.layers), (40, 64, 32, 2));
    assert_eq!((info.visibility, info.mask_token), (Visibility::Causal, None));
    assert!(llama().program().prefix_closed && rwkv7().program().prefix_closed);
    for c in [Config::decoder("llada"), Config::decoder("dream"), bert()] {
        assert_eq!(c.model().unwrap().info.visibility, Visibility::Bidirectional);
        assert!(!c.program().prefix_closed);
    }
    assert!(Config::decoder("dream").model().unwrap().info.shift_logits);
    assert_eq!(supported().count(), 20);
}

#[test]
fn errors_name_the_key() {
    let longrope = Config::decoder("phi3").tensor("rope_factors_long.weight", 1, 4);
    let mut no_width = llama();
    no_width.ints.retain(|i| i.0 != "embedding_length");
    let mut no_table = llama();
    no_table.tensors.clear();
    let moe = Config::decoder("qwen3moe");
    for (config, message) in [
        (Config::decoder("mamba"), "the architecture 'mamba' is not supported; those that are: "),
        (no_width, "metadata key 'llama.embedding_length' is missing"),
        (no_table, "tensor 'token_embd.weight' is missing"),
        (llama().int("block_count", 0), "'llama.block_count' is 0, not between 1 and 4096"),
        (llama().int("attention.head_count", 5), "'llama.attention.head_count' is 5, which does"),
        (llama().int("attention.value_length", 4), "'llama.attention.value_length' is 4, but"),
        (llama().int("attention.head_count_kv", 3), "4 query heads cannot share 3 key heads"),
        (llama().int("embedding_length", u32::MAX), "'llama.embedding_length' is 4294967295, not"),
        (llama().float("rope.scaling.factor", -1.0), "'llama.rope.scaling.factor' is -1, not a"),
        (llama().text("rope.scaling.type", "su"), "'llama.rope.scaling.type' is 'su'; none"),
        (llama().text("rope.scaling.type", "longrope"), "'rope_factors_long.weight' is missing"),
        (llama().text("rope.pairs", "thirds"), "'llama.rope.pairs' is 'thirds', not halves or"),
        (Config::decoder("clip"), "architecture 'clip': this is a vision projector"),
        (llama().int("pooling_type", 9), "'llama.pooling_type' is 9, not 0 to 4"),
        (Config::decoder("gemma2"), "'gemma2.attention.sliding_window' is missing"),
        (moe.clone(), "'qwen3moe.expert_count' is missing or 0"),
        (moe.int("expert_count", 2).int("expert_used_count", 3), "is 3, not between 1 and 2"),
        (rwkv7().int("wkv.head_size", 24), "not a slot of"),
        (longrope, "tensor 'rope_factors_short.weight' is missing"),
    ] {
        let error = config.model().and_then(|m| m.program()).unwrap_err();
        assert_eq!(error.exit_code(), 3, "{error}");
        assert!(error.to_string().contains(message), "{message}: {error}");
    }
}

/// Files that are a part of a model or change one are named as what they are.
#[test]
fn what_is_no_model() {
    for (kind, arch, message) in [
        ("adapter", "llama", "architecture 'llama': this is an adapter (LoRA)"),
        ("mmproj", "clip", "architecture 'clip': this is a vision projector"),
        ("imatrix", "", "this is an importance matrix"),
    ] {
        let mut w = GgufWriter::new("test.gguf");
        w.set("general.type", kind).unwrap();
        if !arch.is_empty() {
            w.set("general.architecture", arch).unwrap();
        }
        let file = Gguf::from_bytes("test.gguf", Arc::new(w.write(vec![], &[]).unwrap())).unwrap();
        let error = architecture(&file, KV).err().expect("it is no model");
        assert_eq!(error.exit_code(), 3);
        let text = error.to_string();
        assert!(text.contains(message) && text.contains("llama, qwen2, qwen3"), "{text}");
    }
}

#[test]
fn reference_files_record_and_hold_what_they_name() {
    let files = ["golden", "models"].iter().flat_map(|d| common::files_below(d));
    let files: Vec<_> = files.collect();
    for path in &files {
        let gguf = Gguf::open(path).unwrap();
        let program = architecture(&gguf, KV).and_then(|m| m.program()).unwrap();
        let unused = check_tensors(&program, &gguf).unwrap_or_else(|e| panic!("{e}"));
        // RWKV's layer 0 has the values that the others mix theirs with.
        let known = |n: &String| n.starts_with("blk.0.time_mix_v") && program.name == "rwkv7";
        assert!(unused.iter().all(known), "{}: {unused:?}", path.display());
        for decl in &program.tensors {
            tensor(decl, &gguf).unwrap();
        }
        assert_eq!(program.to_string().parse::<Program>().unwrap(), program);
    }
    eprintln!("{} reference files", files.len());
}
