//! Readers of texts, `tokenizer.json` and chat templates, and the changes that keep a text near one
//! that is read: a JSON file stays JSON, a template is changed by words.

use super::{Change, Random, Target};
use gristmill_models::chat::ChatTemplate;
use gristmill_models::tokenizer::{Decoder, Tokenizer};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::sync::Arc;

/// A `tokenizer.json` may be anything.
pub const TOKENIZER: Target =
    Target { name: "tokenizer", run: tokenizer, seeds: tokenizer_seeds, change: Change::Json };

/// A chat template may be any program.
pub const TEMPLATE: Target =
    Target { name: "template", run: template, seeds: template_seeds, change: Change::Words };

const TEXT: &str =
    "A b<s> ab \u{e9}e\u{301}\u{1f98a}\n\n  12345'll\u{2581}[CLS]\u{4eca},a.</s>\t\r\n";

fn tokenizer(bytes: &[u8]) {
    let config = json!({ "bos_token": "<s>", "eos_token": { "content": "</s>" },
        "add_bos_token": true, "mask_token": "a" });
    for config in [None, Some(config.to_string())] {
        let config = config.as_ref().map(|c| c.as_bytes());
        let Ok(t) = Tokenizer::from_json("fuzz", bytes, config) else { continue };
        let t = t.with_generation_config("fuzz", br#"{"eos_token_id": [1, 0]}"#).ok();
        let Some(t) = t.map(Arc::new) else { continue };
        for special in [false, true] {
            let ids = t.encode(TEXT, special, special);
            assert!(ids.iter().all(|&id| (id as usize) < t.vocab_size()));
            let mut decoder = Decoder::new(t.clone());
            ids.iter().for_each(|&id| drop(decoder.push(id)));
            let _ = t.decode(&ids);
        }
        let _ = t.decode(&[0, 1, 2, 3, u32::MAX, 5, 4, 1 << 20]);
    }
}

fn template(bytes: &[u8]) {
    let Ok(source) = std::str::from_utf8(bytes) else { return };
    let Ok(t) = ChatTemplate::new("fuzz", source) else { return };
    // Enough for what templates do, and little enough for many cases.
    let t = t.with_clock(|| 1_700_000_000).with_budget(32 << 20);
    let messages = json!([
        { "role": "system", "content": "Be \u{e9} brief." },
        { "role": "user", "content": "Hi <there>\n" },
        { "role": "assistant", "content": null, "tool_calls": [{ "id": "call00001",
            "type": "function", "function": { "name": "f", "arguments": { "x": [1, 2.5] } } }] },
        { "role": "tool", "tool_call_id": "call00001", "name": "f", "content": "3" },
        { "role": "user", "content": [{ "type": "text", "text": "And?" }] },
    ]);
    let tools = json!([{ "type": "function", "function": { "name": "f", "description": "d",
        "parameters": { "type": "object", "properties": { "x": { "type": "array" } } } } }]);
    for tools in [None, Some(tools)] {
        let variables = Map::from_iter(tools.map(|t| ("tools".to_owned(), t)));
        if let Err(e) = t.render_json(&messages, &variables, true, "<s>", "</s>") {
            let text = e.to_string();
            assert!(!text.contains("the template engine failed"), "{text}");
            assert_eq!(text.lines().count(), 1, "{text}");
        }
    }
}

/// A small file of each kind of tokenizer.
fn tokenizer_seeds() -> Vec<(String, Vec<u8>)> {
    let added = |names: &[&str]| -> Value {
        let one = |(id, name): (usize, &&str)| {
            json!({ "id": id, "content": name,
            "single_word": false, "lstrip": false, "rstrip": id == 1, "normalized": false,
            "special": true })
        };
        names.iter().enumerate().map(one).collect()
    };
    let ids = |tokens: &[&str]| -> Value {
        tokens
            .iter()
            .enumerate()
            .map(|(i, t)| ((*t).to_owned(), json!(i)))
            .collect::<Map<_, _>>()
            .into()
    };
    let special = ["<s>", "</s>", "<unk>"];
    let after = json!({ "type": "TemplateProcessing",
        "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } },
            { "Sequence": { "id": "A", "type_id": 0 } }],
        "special_tokens": { "<s>": { "id": "<s>", "ids": [0], "tokens": ["<s>"] } } });
    let split = |pattern: &str| {
        json!({ "type": "Split", "pattern": { "Regex": pattern },
        "behavior": "Isolated", "invert": false })
    };
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "use_regex": false });
    let merged = json!({ "type": "BPE", "ignore_merges": true, "unk_token": null,
        "vocab": ids(&["<s>", "</s>", "<unk>", "a", "b", "\u{120}", "ab", "\u{120}ab", "1", "2"]),
        "merges": ["a b", ["\u{120}", "ab"]] });
    let words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let llama3 = json!({ "added_tokens": added(&special), "normalizer": null,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [split(words), bytes] },
        "post_processor": { "type": "Sequence",
            "processors": [{ "type": "ByteLevel" }, after.clone()] },
        "decoder": { "type": "ByteLevel" }, "model": merged.clone() });
    let gpt2 = json!({ "added_tokens": added(&special), "normalizer": { "type": "NFC" },
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": true },
        "post_processor": { "type": "RobertaProcessing", "cls": ["<s>", 0], "sep": ["</s>", 1] },
        "model": merged.clone() });
    let parts = json!([{ "type": "Punctuation" }, { "type": "Digits", "individual_digits": true },
        { "type": "ByteLevel", "add_prefix_space": false, "use_regex": true }]);
    let falcon = json!({ "added_tokens": added(&special),
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": parts }, "model": merged });
    let marked = [
        "<s>",
        "</s>",
        "<unk>",
        "<0x0A>",
        "<0xC3>",
        "<0xA9>",
        "\u{2581}",
        "a",
        "b",
        "ab",
        "\u{2581}ab",
    ];
    let mistral = json!({ "added_tokens": added(&special),
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "\u{2581}" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "\u{2581}" }] },
        "post_processor": after.clone(),
        "decoder": { "type": "Sequence", "decoders": [{ "type": "ByteFallback" },
            { "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 1, "stop": 0 }] },
        "model": { "type": "BPE", "byte_fallback": true, "fuse_unk": true, "unk_token": "<unk>",
            "vocab": ids(&marked), "merges": ["a b", "\u{2581} ab"] } });
    let scores: Value =
        marked.iter().enumerate().map(|(i, t)| json!([t, -0.5 * i as f64])).collect();
    let unigram = json!({ "added_tokens": added(&special),
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Precompiled", "precompiled_charsmap": "BAAAAAAEAAB4AA==" },
            { "type": "Strip", "strip_left": true, "strip_right": true },
            { "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": "\u{2581}" }] },
        "pre_tokenizer": { "type": "Metaspace", "replacement": "\u{2581}",
            "prepend_scheme": "first", "split": true },
        "post_processor": after,
        "model": { "type": "Unigram", "unk_id": 2, "byte_fallback": true, "vocab": scores } });
    let pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "##b", "##e", "ab", ",", "1"];
    let bert = json!({ "added_tokens": added(&pieces[..4]),
        "normalizer": { "type": "BertNormalizer", "clean_text": true,
            "handle_chinese_chars": true, "strip_accents": null, "lowercase": true },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": { "type": "BertProcessing", "cls": ["[CLS]", 2], "sep": ["[SEP]", 3] },
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": ids(&pieces) } });
    let all = [
        ("llama3", llama3),
        ("gpt2", gpt2),
        ("falcon", falcon),
        ("mistral", mistral),
        ("unigram", unigram),
        ("bert", bert),
    ];
    let text = |v: &Value| serde_json::to_vec_pretty(v).expect("an object");
    all.iter().map(|(name, v)| ((*name).to_owned(), text(v))).collect()
}

/// What templates are written with.
fn template_seeds() -> Vec<(String, Vec<u8>)> {
    let all = [
        (
            "turns",
            "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 \
            % 2 == 1) %}{{ raise_exception('roles') }}{% endif %}<|{{ m.role | upper }}|>\n{{ \
            m['content'] | trim if m.content is string else m.content | tojson }}{{ eos_token \
            }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
        ),
        (
            "macros",
            "{%- macro one(m, first=false) -%}[{{ m.role }}{{ ' ' ~ caller(m) if caller \
            }}]{%- endmacro -%}\n{% for m in messages[::-1] %}{% call(x) one(m, loop.first) %}{{ \
            x.content[1:-1] if x.content is string }}{% endcall %}{% else %}none{% endfor %}",
        ),
        (
            "state",
            "{% set ns = namespace(n=0, last=none, all=[]) %}{% for m in messages if m.role != \
            'tool' %}{% set ns.n = ns.n + loop.index %}{% set ns.all = ns.all + [m.role] \
            %}{% if loop.last %}{% set ns.last = m %}{% break %}{% endif %}{% endfor %}{{ ns.n // 2 \
            }}|{{ ns.all | join(', ') }}|{{ ns.last.keys() | list }}|{{ 2 ** 3 % 5 - -1.5 }}",
        ),
        (
            "filters",
            "{{ messages | map(attribute='role') | unique | sort | list }} {{ messages | \
            selectattr('role', 'equalto', 'user') | list | length }} {{ 'a-b-c'.split('-', 1)[::-1] \
            }} {{ ' x '.strip().upper().startswith('X') }} {{ '%s=%d' | format('a', 5) }} {{ [3, 1] \
            | sort(reverse=true) | first }} {{ {'a': 1}.items() | list | tojson(indent=2) }} {{ \
            range(3) | list | batch(2) | list }} {{ 'ab' * 3 }} {{ strftime_now('%d %b %Y') }} {{ \
            'x' | indent(4) | replace('x', 'y') | default('z') }}",
        ),
        (
            "tools",
            "{% if tools is defined and tools is not none %}{% for t in tools %}{{ t | \
            tojson(indent=4) }}{% for k, v in t.function.parameters.properties.items() %}{{ k }}: {{ \
            v.type | default('any', true) }}{{ ', ' if not loop.last }}{% endfor %}{% endfor %}{% \
            endif %}{% for m in messages if m.tool_calls is defined %}{% for c in m.tool_calls \
            %}{{ c.function.arguments | tojson }}{{ c.id | length == 9 and 'ok' or \
            raise_exception('id') }}{% endfor %}{% endfor %}{% filter lower %}DONE{% endfilter %}{% \
            set b %}{% raw %}{{ x }}{% endraw %}{% endset %}{{ b }}{% generation %}g{% \
            endgeneration %}{# end #}",
        ),
        (
            "growth",
            "{% set ns = namespace(t='ab', l=[1], d={}) %}{% for i in range(40) %}{% set ns.t = ns.t \
            ~ ns.t %}{% set ns.t = ns.t + ns.t %}{% set ns.t = ns.t * 3 %}{% set ns.l = ns.l + ns.l \
            %}{% set ns.l = [ns.l, ns.l] %}{% set ns.d = {'a': ns.d, 'b': ns.d} %}{% set ns.t = \
            [ns.t, ns.t] | join(ns.t) %}{% set ns.t = ns.t | replace('a', ns.t) | indent(4) %}{% set \
            ns.t = '%s%s' | format(ns.t, ns.t) %}{% set c %}{{ ns.t }}raw{{ ns.l }}{% endset %}{% set \
            ns.t = c %}{% set ns.l = (ns.t | list)[1:] %}{{ ns.l == ns.l[::-1] }}{% endfor %}",
        ),
    ];
    all.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec())).into()
}

type Files<'f> = &'f [(PathBuf, Vec<u8>)];

/// A JSON file near those of the corpus; `None` where the one that was drawn is not JSON.
pub fn changed_json(corpus: Files<'_>, random: &mut Random) -> Option<Vec<u8>> {
    let parsed = |random: &mut Random| -> Option<Value> {
        serde_json::from_slice(&corpus[random.below(corpus.len())].1).ok()
    };
    let mut file = parsed(random)?;
    for _ in 0..=random.below(4) {
        let mut other = parsed(random)?;
        let new = match random.below(2) {
            0 => edge(random),
            _ => node(&mut other, random).take(),
        };
        match (node(&mut file, random), random.below(4)) {
            (Value::Array(list), 0 | 1) => match random.below(list.len() + 1) {
                at if at < list.len() && random.below(2) == 0 => drop(list.remove(at)),
                at => list.insert(at, new),
            },
            (Value::Object(fields), 0 | 1) => {
                let key = fields.keys().nth(random.below(fields.len())).cloned();
                let key = key.unwrap_or_default();
                if random.below(2) == 0 {
                    fields.remove(&key);
                } else {
                    fields.insert(edge(random).as_str().map_or(key, str::to_owned), new);
                }
            }
            (Value::String(text), 0 | 1) => {
                let chars: Vec<char> = text.chars().collect();
                let (a, b) = (random.below(chars.len() + 1), random.below(chars.len() + 1));
                let piece = new.as_str().unwrap_or(WORDS[random.below(WORDS.len())]);
                *text = chars[..a].iter().collect::<String>() + piece;
                text.extend(&chars[b..]);
            }
            (place, _) => *place = new,
        }
    }
    serde_json::to_vec(&file).ok()
}

/// Some value of a file.
fn node<'v>(value: &'v mut Value, random: &mut Random) -> &'v mut Value {
    let n = match &*value {
        Value::Array(list) => list.len(),
        Value::Object(fields) => fields.len(),
        _ => 0,
    };
    if n == 0 || random.below(4) == 0 {
        return value;
    }
    let at = random.below(n);
    let inner = match value {
        Value::Array(list) => list.get_mut(at),
        Value::Object(fields) => fields.values_mut().nth(at),
        _ => None,
    };
    node(inner.expect("below their number"), random)
}

/// Values at which readers go wrong.
fn edge(random: &mut Random) -> Value {
    const TEXTS: [&str; 12] = [
        "",
        " ",
        "a",
        "\u{2581}",
        "\u{0}",
        "\u{e9}",
        "\u{1f98a}",
        "<0x41>",
        "<0xGG>",
        "\u{120}",
        "\\s+",
        "(?:a|b{2,3}",
    ];
    match random.below(8) {
        0 => Value::Null,
        1 => json!(random.below(2) == 0),
        2 => json!(super::EDGES[random.below(20)]),
        3 => json!(-(random.below(1 << 20) as i64)),
        4 => json!([0.5, -1e308, 1e-320, 1e308][random.below(4)]),
        5 => json!([]),
        6 => json!("ab".repeat(random.below(2000))),
        _ => json!(TEXTS[random.below(TEXTS.len())]),
    }
}

/// Words that templates know, and some that make work.
const WORDS: &[&str] = &[
    "{{",
    "}}",
    "{%",
    "%}",
    "{%-",
    "-%}",
    "{#",
    "#}",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "|",
    "~",
    ".",
    ",",
    ":",
    "=",
    "==",
    "!=",
    "<",
    ">=",
    "+",
    "-",
    "*",
    "**",
    "/",
    "//",
    "%",
    "'",
    "\"",
    "0",
    "-1",
    "1",
    "9223372036854775807",
    "99999999999999999999",
    "1e308",
    "0.5",
    "100000",
    "''",
    "[]",
    "{}",
    "none",
    "true",
    "messages",
    "tools",
    "loop",
    "loop.index",
    "loop.previtem",
    "namespace()",
    "range",
    "self",
    "caller",
    "varargs",
    "if",
    "else",
    "elif",
    "endif",
    "for",
    "in",
    "endfor",
    "recursive",
    "set",
    "endset",
    "macro",
    "endmacro",
    "call",
    "endcall",
    "block",
    "include 'chat'",
    "not",
    "is",
    "and",
    "defined",
    "| tojson",
    "| list",
    "| join",
    "| indent(99999999)",
    "| batch(0)",
    "| slice(0)",
    "| round(99)",
    "| length",
    "| sort",
    "| groupby('role')",
    "| int",
    "[::0]",
    "[::-1]",
    "[-9:9:-2]",
    ".split('')",
    ".replace('', 'aaaaaaaa')",
    ".format(1)",
    ".zfill(1000000000)",
    "loop(messages)",
    "strftime_now('%')",
    "{% for i in range(60) %}",
    "{% set ns.t = ns.t ~ ns.t %}",
    "{% set ns.l = [ns.l, ns.l] %}",
    "{% set ns.l = ns.l + ns.l %}",
    "{% set ns.d = dict(ns.d, a=ns.d) %}",
    "* 99999",
    "| join(ns.t)",
    "| map('replace', '', ns.t)",
    "| list",
    "| sum(start=[])",
    "| format(ns.t, ns.t)",
    ".join(ns.l)",
    "in ns.l",
    "== ns.l",
    "ns",
    "ns.t",
    "ns.l",
];

/// A template near those of the corpus, changed by words.
pub fn changed_words(corpus: Files<'_>, random: &mut Random) -> Option<Vec<u8>> {
    let split = |random: &mut Random| -> Option<Vec<&str>> {
        std::str::from_utf8(&corpus[random.below(corpus.len())].1).ok().map(tokens)
    };
    let mut file = split(random)?;
    for _ in 0..=random.below(5) {
        let at = random.below(file.len() + 1);
        let end = (at + random.below(8)).min(file.len());
        match random.below(6) {
            0 => drop(file.drain(at..end)),
            1 => drop(file.splice(at..end, file[at..end].repeat(2))),
            2 | 3 => {
                let n = 1 + random.below(3);
                let new: Vec<&str> = (0..n).map(|_| WORDS[random.below(WORDS.len())]).collect();
                let until = if random.below(2) == 0 { at } else { end };
                file.splice(at..until, new);
            }
            4 => {
                let from = random.below(file.len() + 1);
                let piece = file[from..(from + random.below(30)).min(file.len())].to_vec();
                file.splice(at..at, piece);
            }
            _ => {
                let other = split(random)?;
                let from = random.below(other.len() + 1);
                let until = (from + random.below(30)).min(other.len());
                file.splice(at..end, other[from..until].iter().copied());
            }
        }
    }
    Some(file.concat().into_bytes())
}

/// Names, numbers, spaces and marks.
fn tokens(text: &str) -> Vec<&str> {
    let class = |c: char| match c {
        'a'..='z' | 'A'..='Z' | '_' | '0'..='9' => 0,
        ' ' | '\n' => 1,
        '{' | '%' | '}' | '#' | '-' => 2,
        _ => 3,
    };
    let mut out = vec![];
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let same = |&(i, c): &(usize, char)| i > 0 && (class(c) != class(first) || class(c) == 3);
        let end = rest.char_indices().find(same).map_or(rest.len(), |(i, _)| i);
        let (word, more) = rest.split_at(end);
        out.push(word);
        rest = more;
    }
    out
}
