//! `tokenizer.json` files, against the `tokenizers` crate and stored ids.

mod common;

use common::data;
use gristmill_models::Tokenizer;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::OnceLock;

fn load(path: &Path) -> Tokenizer {
    let json = std::fs::read(path).unwrap();
    let config = std::fs::read(path.with_file_name("tokenizer_config.json")).ok();
    Tokenizer::from_json("tokenizer.json", &json, config.as_deref()).unwrap()
}

fn from_value(json: &Value) -> gristmill_core::Result<Tokenizer> {
    Tokenizer::from_json("test", &serde_json::to_vec(json).unwrap(), None)
}

fn ids(list: &Value) -> Option<Vec<u32>> {
    Some(list.as_array()?.iter().map(|id| id.as_u64().unwrap() as u32).collect())
}

/// Folders of models with stored ids.
const GOLDEN: [&str; 9] =
    ["llama", "mistral", "qwen2", "qwen3", "qwen3moe", "gemma2", "llada", "bert", "bert-rerank"];

#[test]
fn golden_models_give_the_stored_ids() {
    for name in GOLDEN.into_iter().chain(["dream", "rwkv7"]) {
        let Some(golden) = data(&format!("golden/{name}/golden.json")) else { return };
        let t = match name {
            "rwkv7" => {
                let path = golden.with_file_name("rwkv_vocab_first511.txt");
                Tokenizer::from_rwkv_text(name, &std::fs::read_to_string(path).unwrap()).unwrap()
            }
            _ => load(&golden.with_file_name("tokenizer.json")),
        };
        let golden: Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
        let mut n = 0;
        for case in golden["tokenizer"].as_array().into_iter().flatten() {
            let text = case["text"].as_str().unwrap();
            for (key, special) in [("ids", true), ("ids_plain", false)] {
                if let Some(want) = ids(&case[key]) {
                    assert_eq!(t.encode(text, special, true), want, "{name}: {text:?}");
                    n += 1;
                }
            }
        }
        eprintln!("{name}: {n} cases, {t:?}");
    }
}

#[test]
fn rwkv_world_gives_the_stored_ids() {
    let Some(path) = data("tokenizers/rwkv-world/rwkv_vocab_v20230424.txt") else { return };
    let t = Tokenizer::from_rwkv_text("world", &std::fs::read_to_string(&path).unwrap()).unwrap();
    let golden = std::fs::read(path.with_file_name("golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    for case in golden.as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(t.encode(text, true, false), ids(&case["ids"]).unwrap(), "{text:?}");
    }
    for bad in ["1 'a' 2", "x 'a' 1", "1 'a", "1 '\\x4' 1", "1 'a' 1\n1 'b' 1"] {
        let e = Tokenizer::from_rwkv_text("world", bad).unwrap_err().to_string();
        assert!(e.contains("line "), "{bad}: {e}");
    }
}

struct Pair {
    name: String,
    /// Whether it brings characters to one form, by tables of characters.
    normalizes: bool,
    ours: Tokenizer,
    theirs: tokenizers::Tokenizer,
}

impl Pair {
    fn new(name: &str, json: &Value) -> Pair {
        let bytes = serde_json::to_vec(json).unwrap();
        Pair {
            name: name.into(),
            normalizes: !json["normalizer"].is_null(),
            ours: Tokenizer::from_json(name, &bytes, None).unwrap(),
            theirs: tokenizers::Tokenizer::from_bytes(&bytes).unwrap(),
        }
    }
}

fn read(path: &str) -> Option<Value> {
    Some(serde_json::from_slice(&std::fs::read(data(path)?).unwrap()).unwrap())
}

/// The small files, and GPT-NeoX's with each of the ways that models cut words.
fn pairs() -> &'static [Pair] {
    static PAIRS: OnceLock<Vec<Pair>> = OnceLock::new();
    PAIRS.get_or_init(|| {
        let mut out = Vec::new();
        for name in GOLDEN {
            let json = read(&format!("golden/{name}/tokenizer.json"));
            out.extend(json.map(|json| Pair::new(name, &json)));
        }
        let Some(neox) = read("tokenizers/gpt-neox-20B/20B_tokenizer.json") else { return out };
        out.push(Pair::new("neox", &neox));
        let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false,
            "trim_offsets": true, "use_regex": false});
        let whole = json!({"type": "ByteLevel", "add_prefix_space": false,
            "trim_offsets": true, "use_regex": true});
        let split = |pattern: &str| {
            json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
                "invert": false})
        };
        let llama = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        let ways = [
            ("starcoder", json!([{"type": "Digits", "individual_digits": true}, whole])),
            ("digits", json!([{"type": "Digits", "individual_digits": false}, whole])),
            (
                "falcon",
                json!([{"type": "Punctuation", "behavior": "Contiguous"}, whole,
                    split("[0-9][0-9][0-9]")]),
            ),
            ("punctuation", json!([{"type": "Punctuation", "behavior": "Isolated"}, whole])),
            (
                "deepseek",
                json!([split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"),
                    split("[一-龥ࠀ-一가-퟿]+"), {"type": "Digits", "individual_digits": true},
                    byte_level]),
            ),
            (
                "deepseek 3",
                json!([split(r"\p{N}{1,3}"), split("[一-龥\u{3040}-ゟ゠-ヿ]+"),
                    split("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"),
                    byte_level]),
            ),
            ("llama 3", json!([split(llama), byte_level])),
            (
                "gpt-4",
                json!([split(r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"), byte_level]),
            ),
            (
                "removed",
                json!([{"type": "Split", "pattern": {"Regex": llama}, "behavior": "Removed",
                    "invert": true}, byte_level]),
            ),
            (
                "prefix",
                json!([{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                    "use_regex": true}]),
            ),
            (
                "bloom",
                json!([split(" ?[^(\\s|[.,!?…。，、।۔،])]+"), byte_level]),
            ),
        ];
        for (name, parts) in ways {
            let mut json = neox.clone();
            json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": parts});
            out.push(Pair::new(name, &json));
        }
        // Every manner of added token, with a normalizer that changes letters.
        let mut json = neox;
        json["normalizer"] = json!({"type": "Sequence", "normalizers":
            [{"type": "NFKC"}, {"type": "Lowercase"}]});
        for (i, text) in ["<A>", "<b>", "xqj", "ß-Ü", "  x"].into_iter().enumerate() {
            for flags in 0..4 {
                let n = 4 * i + flags;
                json["added_tokens"].as_array_mut().unwrap().push(json!({
                    "id": 50_277 + n, "content": format!("{text}{}", "z".repeat(flags)),
                    "single_word": n % 5 == 0, "lstrip": n % 3 == 0, "rstrip": n % 4 == 0,
                    "normalized": n % 2 == 0, "special": n % 7 == 0,
                }));
            }
        }
        out.push(Pair::new("manners", &json));
        out.extend(small());
        out
    })
}

/// Small models of the kinds that have no file.
fn small() -> Vec<Pair> {
    let pieces = [
        "▁", "▁a", "▁b", "a", "b", "c", "▁the", "th", "e", "▁c", "ab", "▁▁", "é", ".", ",", "t",
        "h",
    ];
    let mut vocab = vec![json!(["<s>", 0.0]), json!(["</s>", 0.0]), json!(["<unk>", 0.0])];
    vocab.extend(pieces.iter().enumerate().map(|(i, p)| json!([p, -1.0 - 0.37 * i as f64])));
    let added: Vec<Value> = ["<s>", "</s>", "<unk>"]
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let post = json!({"type": "RobertaProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0],
        "trim_offsets": true, "add_prefix_space": true});
    let file = |normalizer: Value, pre: Value, model: Value| {
        json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": post,
            "decoder": null, "model": model})
    };
    let unigram = json!({"type": "Unigram", "unk_id": 2, "vocab": vocab, "byte_fallback": false});
    let metaspace = |scheme: &str, split: bool| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split});
    let words = json!({"type": "Sequence", "pretokenizers":
        [{"type": "WhitespaceSplit"}, metaspace("always", true)]});
    let collapse = json!({"type": "Sequence", "normalizers": [{"type": "Nmt"}, {"type": "NFKC"},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]});
    let strip = json!({"type": "Sequence", "normalizers": [
        {"type": "Strip", "strip_left": false, "strip_right": true},
        {"type": "Replace", "pattern": {"String": "``"}, "content": "\""},
        {"type": "NFD"}, {"type": "StripAccents"}]});
    let mut bytes = vocab.clone();
    bytes.extend((0..256).map(|b| json!([format!("<0x{b:02X}>"), -9.0])));
    let fallback = json!({"type": "Unigram", "unk_id": 2, "vocab": bytes, "byte_fallback": true});
    let ids: serde_json::Map<String, Value> = bytes
        .iter()
        .enumerate()
        .map(|(id, t)| (t[0].as_str().unwrap().into(), id.into()))
        .collect();
    let bpe = |fuse: bool, fallback: bool| {
        json!({"type": "BPE", "dropout": null, "unk_token": "<unk>",
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": fuse,
            "byte_fallback": fallback, "ignore_merges": false, "vocab": ids,
            "merges": [["▁", "▁"], ["t", "h"], ["▁", "a"], ["a", "b"], ["▁", "b"]]})
    };
    let marks = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
    [
        ("unigram always", file(json!(null), metaspace("always", true), unigram.clone())),
        ("unigram first", file(json!(null), metaspace("first", true), unigram.clone())),
        ("unigram never", file(json!(null), metaspace("never", false), unigram.clone())),
        ("unigram words", file(collapse.clone(), words, unigram.clone())),
        ("unigram collapse", file(collapse, metaspace("always", false), unigram.clone())),
        ("unigram strip", file(strip, metaspace("always", true), unigram)),
        ("unigram bytes", file(json!(null), metaspace("always", true), fallback)),
        ("bpe fuse", file(marks.clone(), json!(null), bpe(true, false))),
        ("bpe plain", file(marks.clone(), json!(null), bpe(false, false))),
        ("bpe bytes", file(marks, json!(null), bpe(true, true))),
        ("bpe first", file(json!(null), metaspace("first", true), bpe(true, true))),
    ]
    .iter()
    .map(|(name, json)| Pair::new(name, json))
    .collect()
}

/// The parts of the crate that know characters know those of Unicode 9; `young` says that the text
/// may have others.
fn check(text: &str, young: bool) -> Result<(), TestCaseError> {
    for Pair { name, normalizes, ours, theirs } in pairs() {
        if young && *normalizes {
            continue;
        }
        for special in [false, true] {
            let want = theirs.encode_fast(text, special).unwrap();
            let got = ours.encode(text, special, true);
            // A BOS that the text begins with, an EOS that it ends with, is not doubled here.
            if special && ["<s>", "</s>", "<|"].iter().any(|t| text.contains(t)) {
                continue;
            }
            prop_assert_eq!(&got, want.get_ids(), "{} {}", name, special);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn ids_are_those_of_the_tokenizers_crate(
        text in r"([ \n\t]{0,3}(the|[abcxyz]{1,6}|[A-Z][a-z]{0,6}|'(s|LL|ve)|[0-9]{1,5}|[.,!?'(/_-]{1,3}|[éß今Ж가々ǅ①]{1,3}|e\u{301}|<A>|<b>z|xqj|xqjzz|ß-ÜZ|  xz|``|▁|😀|<s>|</s>)?){0,12}"
    ) {
        check(&text, false)?;
    }

    #[test]
    fn on_any_text_too(text in any::<String>()) {
        check(&text, true)?;
    }
}

/// A file that is whole, as small as can be.
fn tiny() -> Value {
    json!({
        "added_tokens": [{"id": 3, "content": "<s>", "special": true},
            {"id": 4, "content": "<x>", "lstrip": true}],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": r"\p{N}{1,3}| ?\p{L}+"}, "behavior": "Isolated"},
            {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A"}}],
            "special_tokens": {"<s>": {"ids": [3]}}},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
    })
}

fn refusal(change: impl FnOnce(&mut Value)) -> String {
    let mut json = tiny();
    change(&mut json);
    let e = from_value(&json).expect_err("must be refused");
    assert_eq!(e.exit_code(), 3);
    e.to_string()
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let t = from_value(&tiny()).unwrap();
    assert_eq!(t.encode("abab <x>b", true, false), [3, 2, 2, 4, 1]);
    assert_eq!(t.bos(), Some(3));
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 22] = [
        (|j| j["model"]["type"] = json!("WordLevel"), "the model 'WordLevel' is not supported"),
        (
            |j| j["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
            "damaged",
        ),
        (|j| j["normalizer"] = json!({"type": "Fancy"}), "the normalizer 'Fancy'"),
        (
            |j| {
                j["normalizer"] =
                    json!({"type": "Replace", "pattern": {"Regex": "a+"}, "content": ""})
            },
            "a+",
        ),
        (|j| j["normalizer"] = json!({}), "without a type"),
        (|j| j["pre_tokenizer"] = json!({"type": "Whitespace"}), "the pre-tokenizer 'Whitespace'"),
        (
            |j| j["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!(r"\w+| b"),
            r"the alternative '\w+' of the pattern",
        ),
        (|j| j["pre_tokenizer"]["pretokenizers"][0]["behavior"] = json!("Removed"), "Split"),
        (|j| j["post_processor"] = json!({"type": "Other"}), "the post-processor 'Other'"),
        (|j| j["post_processor"]["special_tokens"]["<s>"]["ids"] = json!([9]), "adds id 9"),
        (|j| j["post_processor"]["special_tokens"] = json!({}), "template has"),
        (|j| j["model"]["merges"] = json!(["ab"]), "is not a pair"),
        (
            |j| j["model"]["merges"] = json!([["a", "c"]]),
            "names a token that is not in the vocabulary",
        ),
        (|j| j["model"]["merges"] = json!([["a", "今"]]), "stands for no byte"),
        (|j| j["model"]["merges"] = json!([["a"]]), "not of two strings"),
        (|j| j["model"]["unk_token"] = json!("?"), "'unk_token' is '?'"),
        (|j| j["model"]["vocab"]["c"] = json!(1), "id 1"),
        (|j| j["model"]["vocab"]["c"] = json!(4_000_000_000u32), "damaged"),
        (|j| j["model"]["vocab"]["c"] = json!(-1), "not a tokenizer.json that can be read"),
        (|j| j["model"]["dropout"] = json!(0.1), "dropout"),
        (|j| j["model"]["end_of_word_suffix"] = json!("</w>"), "parts of a word"),
        (|j| j["added_tokens"][0]["id"] = json!(0), "id 0, which is 'a' and '<s>'"),
    ];
    for (change, wanted) in cases {
        let what = refusal(change);
        assert!(what.contains(wanted), "{what}");
    }
    assert!(Tokenizer::from_json("test", b"{", None).unwrap_err().to_string().contains("line 1"));
}

#[test]
fn the_configuration_names_special_tokens() {
    let json = serde_json::to_vec(&tiny()).unwrap();
    let with = |config: Value| {
        Tokenizer::from_json("test", &json, Some(&serde_json::to_vec(&config).unwrap())).unwrap()
    };
    let t = with(json!({"bos_token": "<s>", "eos_token": {"content": "<x>"}}));
    assert_eq!((t.bos(), t.eos()), (Some(3), Some(4)));
    assert!(t.is_end_of_generation(4));
    assert_eq!(t.encode("a", true, false), [3, 0]);
    assert_eq!(t.encode("<s>a", true, true), [3, 0]);
    let t = with(json!({"bos_token": "<s>", "eos_token": "<x>", "add_eos_token": true}));
    assert_eq!(t.encode("a", true, false), [0, 4]);
    let t = t.with_generation_config("g", br#"{"eos_token_id": [1, 3]}"#).unwrap();
    assert_eq!(t.end_of_generation(), [1, 3, 4]);
    let e = t.with_generation_config("g", br#"{"eos_token_id": 5}"#).unwrap_err();
    assert!(e.to_string().contains("has 5"), "{e}");
}

/// A damaged file is a value or an error, soon, and what it gives are ids of its own.
#[test]
fn damaged_files_never_panic() {
    let mut files: Vec<Vec<u8>> = small_files();
    files.push(serde_json::to_vec(&tiny()).unwrap());
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 11) as usize % below.max(1)
    };
    let bits: [&[u8]; 12] = [
        b"null",
        b"-1",
        b"4294967295",
        b"1e999",
        b"\"\"",
        b"[]",
        b"{}",
        b"true",
        b"\xff",
        b"\"",
        b",",
        b"\\u0000",
    ];
    let (mut read, started) = (0, std::time::Instant::now());
    for round in 0..6000 {
        let file = &files[random(files.len())];
        let mut bytes = file.clone();
        for _ in 0..1 + random(3) {
            let at = random(bytes.len());
            match random(5) {
                0 => bytes[at] = random(256) as u8,
                1 => bytes.truncate(at),
                2 => {
                    let end = (at + random(40)).min(bytes.len());
                    bytes.drain(at..end);
                }
                3 => {
                    let from = random(file.len());
                    let piece = &file[from..(from + random(60)).min(file.len())];
                    bytes.splice(at..at, piece.iter().copied());
                }
                _ => {
                    let end = (at + random(6)).min(bytes.len());
                    bytes.splice(at..end, bits[random(bits.len())].iter().copied());
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        let Ok(t) = Tokenizer::from_json("damaged", &bytes, None) else { continue };
        read += 1;
        for special in [false, true] {
            let ids = t.encode(" ab<s> 12 é.\n<x>  the", special, special);
            assert!(ids.iter().all(|&id| (id as usize) < t.vocab_size()), "round {round}");
            let _ = t.decode(&ids);
        }
    }
    eprintln!("{read} of 6000 damaged files are still files");
    assert!(started.elapsed().as_secs() < 120);
}

/// The small files that are part of this test, as bytes.
fn small_files() -> Vec<Vec<u8>> {
    small().iter().map(|pair| pair.theirs.to_string(false).unwrap().into_bytes()).collect()
}

/// Vocabularies of real models, by kind, as `tokenizer.json` has them.
fn of_real_models() -> Option<Vec<Pair>> {
    let open = |name: &str| {
        let path = data(&format!("tokenizers/gguf/ggml-vocab-{name}.gguf"))?;
        Some(gristmill_models::Gguf::open(&path).unwrap())
    };
    let (gpt2, llama, qwen) = (open("gpt-2")?, open("llama-bpe")?, open("qwen2")?);
    let (spm, bert) = (open("llama-spm")?, open("bert-bge")?);
    let tokens = |g: &gristmill_models::Gguf| -> Vec<String> {
        let tokens = g.get_strs("tokenizer.ggml.tokens").unwrap();
        tokens.iter().map(|t| t.to_string()).collect()
    };
    let ids = |tokens: &[String]| -> Value {
        let all = tokens.iter().zip(0..).map(|(t, id)| (t.clone(), json!(id)));
        Value::Object(all.collect())
    };
    let by_bytes = |g: &gristmill_models::Gguf, whole: bool, cut: Value, normalizer: Value| {
        let merges = g.get_strs("tokenizer.ggml.merges").unwrap();
        let merges: Vec<&str> = merges.iter().map(|m| &**m).collect();
        json!({"version": "1.0", "normalizer": normalizer, "pre_tokenizer": cut,
            "model": {"type": "BPE", "vocab": ids(&tokens(g)), "merges": merges,
                "ignore_merges": whole}})
    };
    let whole = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": true});
    let cut = |pattern: &str| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                "use_regex": false}]})
    };
    let words = |numbers: &str| {
        cut(&format!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ))
    };
    // SentencePiece's vocabulary: as merges, in the order of the scores of what they make, and as it is.
    let pieces = tokens(&spm);
    let scores: Vec<f32> = spm.get("tokenizer.ggml.scores").unwrap();
    let known: std::collections::HashSet<&str> = pieces.iter().map(|p| &**p).collect();
    let mut order: Vec<usize> = (0..pieces.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let mut merges = vec![];
    for i in order {
        for (at, _) in pieces[i].char_indices().skip(1) {
            let (left, right) = pieces[i].split_at(at);
            if known.contains(left) && known.contains(right) {
                merges.push(json!([left, right]));
            }
        }
    }
    let added = json!([{"id": 0, "content": "<unk>", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true}]);
    let marks = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
    let marked = json!({"version": "1.0", "added_tokens": added, "normalizer": marks,
        "model": {"type": "BPE", "vocab": ids(&pieces), "merges": merges, "byte_fallback": true,
            "fuse_unk": true, "unk_token": "<unk>"}});
    let scored: Vec<Value> = pieces.iter().zip(&scores).map(|(p, s)| json!([p, s])).collect();
    let unigram = json!({"version": "1.0", "added_tokens": added,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always",
            "split": true},
        "model": {"type": "Unigram", "unk_id": 0, "vocab": scored, "byte_fallback": true}});
    let of_bert = tokens(&bert).into_iter().map(|t| match t.strip_prefix('▁') {
        Some(word) => word.to_owned(),
        None if t.starts_with('[') && t.len() > 1 => t,
        None => format!("##{t}"),
    });
    let wordpiece = json!({"version": "1.0",
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": ids(&of_bert.collect::<Vec<_>>())}});
    Some(vec![
        Pair::new("gpt-2, 50k", &by_bytes(&gpt2, false, whole, Value::Null)),
        Pair::new("llama 3, 128k", &by_bytes(&llama, true, words(r"\p{N}{1,3}"), Value::Null)),
        Pair::new("qwen 2, 152k", &by_bytes(&qwen, false, words(r"\p{N}"), json!({"type": "NFC"}))),
        Pair::new("llama 2 as BPE, 32k", &marked),
        Pair::new("llama 2 as unigram, 32k", &unigram),
        Pair::new("bge, WordPiece, 30k", &wordpiece),
    ])
}

/// The text of all files of the repository with one of these endings.
fn repository(endings: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let (mut folders, mut text) = (vec![root.join("docs"), root.join("crates")], String::new());
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.map(|e| e.path()).collect();
        paths.sort();
        for path in paths {
            if path.is_dir() {
                folders.push(path);
            } else if endings.iter().any(|e| path.extension().is_some_and(|x| x == *e)) {
                text += &std::fs::read_to_string(path).unwrap();
            }
        }
    }
    text
}

/// Not a check of ours alone: encoding beside the `tokenizers` crate, which keeps the words it has seen.
/// `cargo test --release -p gristmill-models --test tokenizer_json -- --ignored --nocapture beside`
#[test]
#[ignore = "prints timings; the machine must be idle"]
fn encoding_beside_the_tokenizers_crate() {
    let Some(pairs) = of_real_models() else { return };
    let many = "Wenn ein Objekt übergeben wird, 12345 Mal: Привет, мир! 今天天气很好。 안녕하세요 😀\n\n  x = y[0]\n";
    let texts = [
        ("prose", repository(&["md"])),
        ("code", repository(&["rs"])),
        ("languages", many.repeat(2000)),
    ];
    let best = |f: &mut dyn FnMut()| {
        let once = |f: &mut dyn FnMut()| {
            let start = std::time::Instant::now();
            f();
            start.elapsed().as_secs_f64()
        };
        (0..7).map(|_| once(f)).fold(f64::INFINITY, f64::min)
    };
    let mut slower = vec![];
    for pair in &pairs {
        for (what, text) in &texts {
            let whole = |ours: bool, text: &str| match ours {
                true => pair.ours.encode(text, false, false),
                false => pair.theirs.encode_fast(text, false).unwrap().get_ids().to_vec(),
            };
            // Lines alone, as messages come, and all at once.
            let lines: Vec<&str> = text.lines().take(4000).collect();
            let n = lines.iter().map(|l| l.len()).sum::<usize>();
            let differ = lines.iter().filter(|l| whole(true, l) != whole(false, l)).count();
            for (form, n, run) in [
                ("whole", text.len(), &(|ours| drop(whole(ours, text))) as &dyn Fn(bool)),
                ("lines", n, &|ours| lines.iter().for_each(|l| drop(whole(ours, l)))),
            ] {
                let rate = |ours: bool| n as f64 / 1e6 / best(&mut || run(ours));
                let (ours, theirs) = (rate(true), rate(false));
                eprintln!(
                    "| {} | {what}, {form} | {ours:.1} | {theirs:.1} | {:.1} | {differ} |",
                    pair.name,
                    ours / theirs
                );
                if ours < theirs {
                    slower.push(format!("{} {what} {form}", pair.name));
                }
            }
        }
    }
    assert!(slower.is_empty(), "slower: {slower:?}");
}
