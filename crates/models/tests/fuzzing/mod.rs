//! Targets and mutations for fuzzing the readers of model files; shared by the tests, which replay
//! the corpora, and by `examples/fuzz.rs`, which looks for more (`cargo xtask fuzz`).
//!
//! A target takes any bytes at all and may do anything with them but panic, end the process, hang,
//! or allocate without bound. A case is a number: the same seed and number give the same bytes.
#![allow(dead_code)] // tests and driver use their own parts

mod published;
mod texts;

use gristmill_core::DType;
use gristmill_models::arch::{KvTypes, architecture, check_tensors, supported};
use gristmill_models::chat::{ChatTemplate, Message};
use gristmill_models::gguf::{Encode, Gguf, GgufWriter};
use gristmill_models::tokenizer::{Decoder, Tokenizer};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A reader under test.
pub struct Target {
    /// Its name, and that of its folder of the corpus.
    pub name: &'static str,
    /// Reads bytes that may be anything.
    pub run: fn(&[u8]),
    /// Sound files to begin with, by name.
    pub seeds: fn() -> Vec<(String, Vec<u8>)>,
    /// How files are changed.
    pub change: Change,
}

/// How the files of a corpus are changed.
#[derive(Clone, Copy)]
pub enum Change {
    /// Byte by byte: see [`mutated`].
    Bytes,
    /// Mostly value by value, so that they stay JSON.
    Json,
    /// Mostly word by word.
    Words,
}

impl Target {
    /// A file near those of the corpus.
    pub fn case(&self, corpus: &[(PathBuf, Vec<u8>)], random: &mut Random) -> Vec<u8> {
        let text = match self.change {
            Change::Bytes => None,
            _ if random.below(8) == 0 => None,
            Change::Json => texts::changed_json(corpus, random),
            Change::Words => texts::changed_words(corpus, random),
        };
        text.unwrap_or_else(|| mutated(corpus, random))
    }
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "gguf", run: gguf, seeds: gguf_seeds, change: Change::Bytes },
    published::WEIGHTS,
    published::CONFIG,
    texts::TOKENIZER,
    texts::TEMPLATE,
];

/// The folder of a target's corpus.
pub fn corpus(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(target.name)
}

/// The files of a folder, in the order of their names.
pub fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    paths.sort();
    paths.into_iter().map(|p| (p.clone(), std::fs::read(p).expect("readable"))).collect()
}

const KV: KvTypes = KvTypes { k: DType::F16, v: DType::F16 };

/// Everything that is done with a GGUF file before its weights are used.
fn gguf(bytes: &[u8]) {
    let Ok(g) = Gguf::from_bytes("fuzz.gguf", Arc::new(bytes.to_vec())) else { return };
    for (key, value) in g.metadata() {
        let _ = (value.as_int(), g.get_strs(key), g.get::<Vec<u32>>(key), g.get_str(key));
    }
    for t in g.tensors() {
        if let Ok(t) = g.tensor(&t.name) {
            assert_eq!(t.bytes().len(), t.row_bytes() * t.rows * t.experts);
        }
    }
    if let Ok(program) = architecture(&g, KV).and_then(|model| model.program()) {
        let _ = check_tensors(&program, &g);
    }
    if let Ok(tokenizer) = Tokenizer::from_gguf(&g) {
        let tokenizer = Arc::new(tokenizer);
        let ids = tokenizer.encode("A b<s> \u{e9}\u{1f98a}\n  12", true, true);
        let mut decoder = Decoder::new(tokenizer);
        ids.iter().for_each(|&id| drop(decoder.push(id)));
    }
    if let Ok(Some(template)) = ChatTemplate::from_gguf(&g) {
        let _ = template.render(&[Message::new("user", "hi")], true, "<s>", "</s>");
    }
}

/// A small model of every architecture, with vocabularies of several kinds.
fn gguf_seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = vec![("kinds".to_owned(), kinds())];
    for (i, arch) in supported().enumerate() {
        seeds.push((arch.to_owned(), model(arch, i)));
    }
    seeds
}

/// Every kind of metadata, and tensors of one to four dimensions.
fn kinds() -> Vec<u8> {
    let mut w = GgufWriter::new("kinds");
    set(&mut w, "general.alignment", 64u32);
    set(&mut w, "u8", 200u8);
    set(&mut w, "i8", -3i8);
    set(&mut w, "u16", 60_000u16);
    set(&mut w, "i16", -300i16);
    set(&mut w, "i32", -70_000i32);
    set(&mut w, "u64", 1u64 << 40);
    set(&mut w, "i64", -(1i64 << 40));
    set(&mut w, "f32", 0.5f32);
    set(&mut w, "f64", 0.25f64);
    set(&mut w, "bool", true);
    set(&mut w, "strings", ["one", "", "\u{fc}ber"].as_slice());
    set(&mut w, "floats", [1.0f32, -2.0].as_slice());
    set(&mut w, "bools", [true, false].as_slice());
    set(&mut w, "empty", [0i32; 0].as_slice());
    tensors(
        w,
        &[
            ("one".into(), DType::F32, vec![5]),
            ("two".into(), DType::Q8_0, vec![32, 3]),
            ("three".into(), DType::F16, vec![2, 3, 2]),
            ("four".into(), DType::Q4_0, vec![32, 2, 1, 2]),
        ],
    )
}

fn set(w: &mut GgufWriter, key: &str, value: impl Encode) {
    w.set(key, value).expect("each key once");
}

/// The file with these tensors, whose bytes count up.
fn tensors(mut w: GgufWriter, all: &[(String, DType, Vec<usize>)]) -> Vec<u8> {
    for (name, dtype, shape) in all {
        w.declare(name, *dtype, shape).expect("sound");
    }
    let mut stream = w.begin(Vec::new()).expect("memory");
    for (_, dtype, shape) in all {
        let n = dtype.bytes(shape[0]).expect("blocks") * shape[1..].iter().product::<usize>();
        let bytes: Vec<u8> = (0..n).map(|i| i as u8).collect();
        stream.tensor(&bytes).expect("as declared");
    }
    stream.finish().expect("all of them")
}

/// One layer of width 32 with the tensors that its program names.
fn model(arch: &str, vocabulary: usize) -> Vec<u8> {
    let head = |w: &mut GgufWriter| {
        set(w, "general.architecture", arch);
        for (key, n) in [
            ("context_length", 64u32),
            ("embedding_length", 32),
            ("block_count", 1),
            ("feed_forward_length", 32),
            ("attention.head_count", 4),
            ("attention.head_count_kv", if arch.contains("bert") { 4 } else { 2 }),
            ("attention.sliding_window", 16),
            ("rope.dimension_count", 8),
            ("expert_count", 4),
            ("expert_used_count", 2),
            ("expert_feed_forward_length", 32),
            ("expert_shared_feed_forward_length", 32),
            ("wkv.head_size", 8),
            ("attention.decay_lora_rank", 8),
            ("attention.iclr_lora_rank", 8),
            ("attention.value_residual_mix_lora_rank", 8),
            ("attention.gate_lora_rank", 8),
            ("token_shift_count", 2),
        ] {
            set(w, &format!("{arch}.{key}"), n);
        }
        for key in ["attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"] {
            set(w, &format!("{arch}.{key}"), 1e-5f32);
        }
        vocabulary_of(w, vocabulary);
    };
    // What the program names is asked of a file that has no more than the table.
    let mut w = GgufWriter::new(arch);
    head(&mut w);
    let table = ("token_embd.weight".to_owned(), DType::Q4_0, vec![32, TOKENS.len()]);
    let bare = tensors(w, &[table]);
    let bare = Gguf::from_bytes(arch, Arc::new(bare.clone())).map(|g| (bare, g));
    let (bare, g) = bare.expect("what was written is read");
    let Ok(program) = architecture(&g, KV).and_then(|m| m.program()) else { return bare };
    let all: Vec<_> = program
        .tensors
        .iter()
        .map(|d| {
            let [cols, rows, experts] = [d.cols, d.rows, d.experts].map(|n| n as usize);
            let matrix = rows > 1 && cols.is_multiple_of(32);
            let dtype = if matrix { DType::Q4_0 } else { DType::F32 };
            let shape = match (rows, experts) {
                (1, 1) => vec![cols],
                (_, 1) => vec![cols, rows],
                _ => vec![cols, rows, experts],
            };
            (d.name.clone(), dtype, shape)
        })
        .collect();
    let mut w = GgufWriter::new(arch);
    head(&mut w);
    tensors(w, &all)
}

const TOKENS: [&str; 12] = [
    "<unk>",
    "<s>",
    "</s>",
    "<0x0A>",
    "a",
    "b",
    "ab",
    "\u{2581}",
    "\u{120}",
    "\u{2581}b",
    "1",
    "2",
];

/// The keys of a tokenizer, of one kind or another.
fn vocabulary_of(w: &mut GgufWriter, kind: usize) {
    let model = ["llama", "gpt2", "bert", "rwkv"][kind % 4];
    set(w, "tokenizer.ggml.model", model);
    set(w, "tokenizer.ggml.pre", ["default", "llama-bpe", "qwen2"][kind % 3]);
    set(w, "tokenizer.ggml.tokens", TOKENS.as_slice());
    let types = [2i32, 3, 3, 6, 1, 1, 1, 1, 1, 1, 1, 4];
    set(w, "tokenizer.ggml.token_type", types.as_slice());
    let scores: Vec<f32> = (0..TOKENS.len()).map(|i| -(i as f32)).collect();
    set(w, "tokenizer.ggml.scores", scores.as_slice());
    set(w, "tokenizer.ggml.merges", ["a b", "\u{120} ab"].as_slice());
    set(w, "tokenizer.ggml.unknown_token_id", 0u32);
    set(w, "tokenizer.ggml.bos_token_id", 1u32);
    set(w, "tokenizer.ggml.eos_token_id", 2u32);
    set(w, "tokenizer.ggml.add_bos_token", true);
    set(
        w,
        "tokenizer.chat_template",
        "{{ bos_token }}{% for m in messages %}{{ m['role'] | upper }}: {{ m.content }}{% endfor %}",
    );
}

/// Numbers that differ for every case (SplitMix64).
pub struct Random(u64);

impl Random {
    /// Those of one case.
    pub fn of(seed: u64, case: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ case.wrapping_mul(0xd134_2543_de82_ef95))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`; 0 when that is 0.
    fn below(&mut self, n: usize) -> usize {
        (self.next() % (n.max(1) as u64)) as usize
    }
}

/// Numbers at which readers go wrong.
const EDGES: [u64; 20] = [
    0,
    1,
    2,
    3,
    7,
    8,
    31,
    32,
    33,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 63,
    u64::MAX - 31,
    u64::MAX,
];

/// A file near those of the corpus: one of them with a few changes.
fn mutated(corpus: &[(PathBuf, Vec<u8>)], random: &mut Random) -> Vec<u8> {
    let mut b = corpus[random.below(corpus.len())].1.clone();
    // Most of what can go wrong is in the head of a file, which is short.
    let near = |b: &[u8], random: &mut Random| {
        let end = if random.below(4) > 0 { b.len().min(4096) } else { b.len() };
        random.below(end)
    };
    for _ in 0..=random.below(6) {
        if b.is_empty() {
            break;
        }
        let at = near(&b, random);
        match random.below(10) {
            0 => b[at] ^= 1 << random.below(8),
            1 => b[at] = random.next() as u8,
            2..=4 => {
                // A field of some width, or an edge beside what it was.
                let width = [1, 2, 4, 8][random.below(4)].min(b.len() - at);
                let mut old = [0; 8];
                old[..width].copy_from_slice(&b[at..at + width]);
                let new = match random.below(3) {
                    0 => u64::from_le_bytes(old).wrapping_add(EDGES[random.below(20)]),
                    1 => u64::from_le_bytes(old).wrapping_sub(EDGES[random.below(20)]),
                    _ => EDGES[random.below(20)],
                };
                b[at..at + width].copy_from_slice(&new.to_le_bytes()[..width]);
            }
            5 => {
                let n = random.below(16).min(b.len() - at);
                b.drain(at..at + n);
            }
            6 => {
                let n = random.below(16);
                let bytes: Vec<u8> = (0..n).map(|_| random.next() as u8).collect();
                b.splice(at..at, bytes);
            }
            7 => b.truncate(at),
            8 => {
                // A piece of this file elsewhere in it.
                let from = near(&b, random);
                let n = random.below(64).min(b.len() - from.max(at));
                b.copy_within(from..from + n, at);
            }
            _ => {
                // A piece of another file.
                let other = &corpus[random.below(corpus.len())].1;
                let from = random.below(other.len());
                let n = random.below(64).min(other.len() - from).min(b.len() - at);
                b[at..at + n].copy_from_slice(&other[from..from + n]);
            }
        }
    }
    b
}
