//! Tokenizers against the outputs of other implementations.

mod common;

use common::data;
use gristmill_models::tokenizer::Decoder;
use gristmill_models::{Gguf, Tokenizer};
use proptest::prelude::*;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

fn load(path: &Path) -> Tokenizer {
    let gguf = Gguf::open(path).unwrap();
    let start = Instant::now();
    let t = Tokenizer::from_gguf(&gguf).unwrap();
    eprintln!("{:?} in {:?}", t, start.elapsed());
    t
}

/// Texts and the ids that llama.cpp gives for them, for eight vocabularies.
#[test]
fn vocabularies_give_the_stored_ids() {
    for name in
        ["gpt-2", "llama-bpe", "qwen2", "deepseek-llm", "falcon", "mpt", "llama-spm", "bert-bge"]
    {
        let file = format!("tokenizers/gguf/ggml-vocab-{name}.gguf");
        let Some(path) = data(&file) else { return };
        let tokenizer = load(&path);
        let read = |end: &str| std::fs::read_to_string(format!("{}{end}", path.display())).unwrap();
        let (inputs, outputs) = (read(".inp"), read(".out"));
        let cases: Vec<&str> = inputs.split("\n__ggml_vocab_test__\n").collect();
        let mut n = 0;
        for (text, line) in cases.iter().zip(outputs.lines()) {
            let want: Vec<u32> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(tokenizer.encode(text, false, false), want, "{name}: {text:?}");
            n += 1;
        }
        assert_eq!(n, outputs.lines().count(), "{name}");
        eprintln!("{name}: {n} cases");
    }
}

/// Texts and the ids that Hugging Face's libraries (or the model's own code) give for them, with
/// and without special tokens.
#[test]
fn golden_models_give_the_stored_ids() {
    for name in [
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
        "qwen3moe",
        "gemma2",
        "llada",
        "bert",
        "bert-rerank",
        "rwkv7",
    ] {
        let Some(path) = data(&format!("golden/{name}/model-f16.gguf")) else { return };
        let tokenizer = load(&path);
        let golden = std::fs::read(path.with_file_name("golden.json")).unwrap();
        let golden: serde_json::Value = serde_json::from_slice(&golden).unwrap();
        let mut n = 0;
        for case in golden["tokenizer"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            for (key, special) in [("ids", true), ("ids_plain", false)] {
                if let Some(want) = ids(&case[key]) {
                    // These libraries read special tokens in every text.
                    assert_eq!(tokenizer.encode(text, special, true), want, "{name}: {text:?}");
                    n += 1;
                }
            }
        }
        eprintln!("{name}: {n} cases");
    }
}

fn ids(list: &serde_json::Value) -> Option<Vec<u32>> {
    let list = list.as_array()?;
    Some(list.iter().map(|id| id.as_u64().unwrap() as u32).collect())
}

#[test]
fn stories() {
    let Some(path) = data("models/stories260K/stories260K-f32.gguf") else { return };
    let golden = std::fs::read(path.with_file_name("golden.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_slice(&golden).unwrap();
    let (want, text) = (ids(&golden["greedy_ids"]).unwrap(), golden["text"].as_str().unwrap());
    let t = Arc::new(load(&path));
    assert_eq!((t.bos(), t.eos(), t.vocab_size()), (Some(1), Some(2), 512));
    // The text is what followed BOS, so its first space is the one that encoding adds.
    let plain = text.strip_prefix(' ').unwrap();
    assert_eq!(t.decode(&want), plain);
    assert_eq!(t.decode(&t.encode(plain, true, false)), plain);
    assert_eq!(t.encode(plain, false, false), want);
    let mut whole = Decoder::new(t.clone());
    let mut answer = Decoder::continuing(t.clone());
    let pieces: String = want.iter().map(|&id| whole.push(id)).collect();
    assert_eq!(pieces + &whole.finish(), plain);
    let pieces: String = want.iter().map(|&id| answer.push(id)).collect();
    assert_eq!(pieces + &answer.finish(), text);
}

#[test]
fn special_tokens_are_read_only_when_asked_for() {
    let Some(path) = data("tokenizers/gguf/ggml-vocab-qwen2.gguf") else { return };
    let t = load(&path);
    let (start, end) = (151_644, 151_645);
    let text = "<|im_start|>user\nhi<|im_end|>";
    let ids = t.encode(text, true, true);
    assert_eq!((ids[0], *ids.last().unwrap()), (start, end));
    assert_eq!(t.token_id("<|im_end|>"), Some(end));
    assert!(t.is_end_of_generation(end) && t.is_end_of_generation(151_643));
    assert!(!t.is_end_of_generation(start));
    let plain = t.encode(text, true, false);
    assert!(plain.iter().all(|id| ![start, end].contains(id)));
    assert_eq!(t.decode(&plain), text);
    assert_eq!(t.decode(&ids), "user\nhi");
    let mut shown = Decoder::new(Arc::new(t)).show_control(true);
    assert_eq!(ids.iter().map(|&id| shown.push(id)).collect::<String>(), text);
}

#[test]
fn bos_is_never_doubled() {
    let Some(path) = data("tokenizers/gguf/ggml-vocab-llama-bpe.gguf") else { return };
    let t = load(&path);
    let bos = t.bos().unwrap();
    assert_eq!(t.encode("a", true, true), t.encode("<|begin_of_text|>a", true, true));
    assert_eq!(t.encode("a", true, true)[0], bos);
    assert_eq!(t.encode("", true, false), [bos]);
    assert!(t.encode("", false, false).is_empty());
}

fn shared(
    file: &'static str,
    cell: &'static OnceLock<Option<Tokenizer>>,
) -> Option<&'static Tokenizer> {
    cell.get_or_init(|| data(file).map(|p| load(&p))).as_ref()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn what_is_encoded_decodes_to_itself(
        text in prop_oneof![any::<String>(), r"[ a-zA-Z0-9\n\t.,!?'<|>éß今😀\u{301}]{0,60}"]
    ) {
        static GPT2: OnceLock<Option<Tokenizer>> = OnceLock::new();
        static LLAMA: OnceLock<Option<Tokenizer>> = OnceLock::new();
        static DEEPSEEK: OnceLock<Option<Tokenizer>> = OnceLock::new();
        static FALCON: OnceLock<Option<Tokenizer>> = OnceLock::new();
        static SPM: OnceLock<Option<Tokenizer>> = OnceLock::new();
        static GEMMA: OnceLock<Option<Tokenizer>> = OnceLock::new();
        static RWKV: OnceLock<Option<Tokenizer>> = OnceLock::new();
        for (file, cell) in [
            ("tokenizers/gguf/ggml-vocab-gpt-2.gguf", &GPT2),
            ("tokenizers/gguf/ggml-vocab-llama-bpe.gguf", &LLAMA),
            ("tokenizers/gguf/ggml-vocab-deepseek-llm.gguf", &DEEPSEEK),
            ("tokenizers/gguf/ggml-vocab-falcon.gguf", &FALCON),
            ("tokenizers/gguf/ggml-vocab-llama-spm.gguf", &SPM),
            ("golden/gemma2/model-f16.gguf", &GEMMA),
            ("golden/rwkv7/model-f16.gguf", &RWKV),
        ] {
            if let Some(t) = shared(file, cell) {
                for special in [false, true] {
                    let ids = t.encode(&text, special, false);
                    // SentencePiece's space mark is a space to it.
                    let want = if matches!(file, f if f.contains("spm") || f.contains("gemma")) {
                        text.replace('\u{2581}', " ")
                    } else {
                        text.clone()
                    };
                    prop_assert_eq!(t.decode(&ids), want, "{}", file);
                }
            }
        }
    }
}
