//! What opening takes, of files made to need much: packed with the tiniest keys, tensors and strings.
//!
//! A head is copied, so a file that is all head is in memory once; and a row of its tables takes 8 or
//! 12 bytes of ours, at least 15 and 27 of the file's. So the least for GGUF is a little over one and a
//! half times the file. Safetensors give a name and a shape to each tensor, under the file's name and
//! under GGUF's, some hundred bytes each, and a header takes 60 at least: the reader bounds their
//! number by the size of the file.

#[path = "common/counting.rs"]
mod counting;

use counting::memory;
use gristmill_models::gguf::Gguf;
use gristmill_models::{LoadMode, Tokenizer, safetensors};
use std::sync::Arc;

/// The `i`th shortest name.
fn name(mut i: usize) -> String {
    let mut name = String::new();
    while i > 0 {
        name.push(char::from(b'#' + (i % 57) as u8));
        i /= 57;
    }
    name
}

fn string(out: &mut Vec<u8>, s: &[u8]) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s);
}

/// A GGUF of these keys (name, type, encoded value), and scalars of one byte at alignment 1.
fn gguf(keys: &[(String, u32, Vec<u8>)], tensors: usize) -> Vec<u8> {
    let mut b = b"GGUF\x03\0\0\0".to_vec();
    b.extend((tensors as u64).to_le_bytes());
    b.extend((keys.len() as u64 + 1).to_le_bytes());
    string(&mut b, b"general.alignment");
    b.extend([4u32, 1].map(u32::to_le_bytes).concat());
    for (key, ty, value) in keys {
        string(&mut b, key.as_bytes());
        b.extend(ty.to_le_bytes());
        b.extend(value);
    }
    for i in 0..tensors {
        string(&mut b, name(i).as_bytes());
        b.extend([0u32, 24].map(u32::to_le_bytes).concat()); // no dimension, I8
        // The last first, so that nothing is in order.
        b.extend(((tensors - 1 - i) as u64).to_le_bytes());
    }
    b.extend(std::iter::repeat_n(7, tensors));
    b
}

fn array(ty: u32, n: usize, elements: &[u8]) -> Vec<u8> {
    [&ty.to_le_bytes()[..], &(n as u64).to_le_bytes(), elements].concat()
}

/// Files of a few MiB, and of a few hundred bytes, that are nothing but tables.
fn packed() -> Vec<(&'static str, Vec<u8>)> {
    let keys = |n: usize, ty, value: &[u8]| -> Vec<_> {
        (0..n).map(|i| (name(i), ty, value.to_vec())).collect()
    };
    let one = |ty, value| vec![("k".to_owned(), ty, value)];
    let strings = |n: usize| array(8, n, &vec![0; 8 * n]);
    vec![
        ("keys", gguf(&keys(65_000, 0, &[1]), 0)),
        ("few keys", gguf(&keys(60, 0, &[1]), 0)),
        ("keys of empty arrays", gguf(&keys(65_000, 9, &array(0, 0, &[])), 0)),
        ("tensors", gguf(&[], 300_000)),
        ("few tensors", gguf(&[], 40)),
        ("both", gguf(&keys(65_000, 7, &[0]), 60_000)),
        ("empty strings", gguf(&one(9, strings(500_000)), 0)),
        ("an array", gguf(&one(9, array(0, 4 << 20, &vec![3; 4 << 20])), 0)),
        (
            "a string",
            gguf(&one(8, [&(4u64 << 20).to_le_bytes()[..], &vec![b'x'; 4 << 20]].concat()), 0),
        ),
    ]
}

#[test]
fn tables_of_gguf_take_little_more_than_half_the_file() {
    for (what, bytes) in packed() {
        let len = bytes.len();
        let bytes = Arc::new(bytes);
        let g = Gguf::from_bytes("packed", bytes.clone()).unwrap();
        let (keys, tensors) = (g.metadata().len(), g.tensors().len());
        drop(g);
        let check = |how: &str, (peak, largest): (usize, usize)| {
            let ratio = peak as f64 / len as f64;
            println!("{what}, {how}: {len} bytes, {keys} keys, {tensors} tensors: {ratio:.2}");
            assert!(peak <= len * 8 / 5 + 4096, "{what}, {how}: {peak} bytes for a file of {len}");
            assert!(largest <= len.max(4096), "{what}, {how}: {largest} for a file of {len}");
        };
        check("opened", memory(|| Gguf::from_bytes("packed", bytes.clone()).unwrap()));
        // Damaged at its end, so that everything is read before it is refused.
        let cut = Arc::new(bytes[..len - 1].to_vec());
        check("cut", memory(|| Gguf::from_bytes("packed", cut.clone()).map(drop)));
        let path = std::env::temp_dir().join(format!("gristmill-packed-{}", std::process::id()));
        std::fs::write(&path, &*bytes).unwrap();
        for mode in [LoadMode::Mmap, LoadMode::Read] {
            check("from a file", memory(|| Gguf::open_with(&path, mode).unwrap()));
        }
        std::fs::remove_file(&path).unwrap();
    }
}

/// One that claims as many rows as its bytes could hold, and holds none.
#[test]
fn claims_take_no_more() {
    let head = |tensors: u64, keys: u64| {
        [b"GGUF\x03\0\0\0".to_vec(), tensors.to_le_bytes().into(), keys.to_le_bytes().into()]
            .concat()
    };
    for len in [100usize, 10_000, 800_000] {
        let left = len as u64 - 24;
        for (tensors, keys) in
            [(left / 24, 0), (0, (left / 13).min(65_536)), (left / 24, left / 26)]
        {
            let mut bytes = head(tensors, keys.min(65_536));
            bytes.resize(len, 0xff);
            let bytes = Arc::new(bytes);
            let (peak, largest) = memory(|| Gguf::from_bytes("claims", bytes.clone()).unwrap_err());
            assert!(peak <= len * 8 / 5 + 4096, "{tensors}, {keys}: {peak} for {len}");
            assert!(largest <= len.max(4096), "{tensors}, {keys}: {largest} for {len}");
        }
    }
}

/// A file of these tensors, each of `bytes` bytes.
fn weights(names: &[String], bytes: usize) -> Vec<u8> {
    let entry = |(i, name): (usize, &String)| {
        let at = [i * bytes, (i + 1) * bytes];
        format!(r#""{name}":{{"dtype":"I8","shape":[{bytes}],"data_offsets":{at:?}}}"#)
    };
    let entries: Vec<String> = names.iter().enumerate().map(entry).collect();
    let header = format!("{{{}}}", entries.join(","));
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.resize(out.len() + names.len() * bytes, 1);
    out
}

#[test]
fn tables_of_safetensors_are_bounded_by_the_file() {
    let config = br#"{"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 8,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": true}"#;
    let tiny = |n: usize| (0..n).map(name).collect::<Vec<_>>();
    let long = |n: usize| (0..n).map(|i| format!("{:x<380}{i}", "")).collect::<Vec<_>>();
    let experts = |n: usize| -> Vec<_> {
        let of = |i| format!("model.layers.0.mlp.experts.{i}.up_proj.weight");
        (0..n).map(of).collect()
    };
    for (what, file) in [
        ("tiny", weights(&tiny(1000), 1)),
        ("many", weights(&tiny(20_000), 480)),
        ("long names", weights(&long(20_000), 80)),
        ("experts", weights(&experts(20_000), 440)),
    ] {
        let len = file.len();
        let file = Arc::new(file);
        safetensors::from_bytes("packed", config, file.clone()).unwrap();
        let open = || safetensors::from_bytes("packed", config, file.clone());
        let (peak, largest) = memory(open);
        println!("{what}: {len} bytes: {:.2}", peak as f64 / len as f64);
        assert!(peak <= 3 * len + (1 << 20), "{what}: {peak} bytes for a file of {len}");
        assert!(largest <= len.max(1 << 18), "{what}: {largest} for a file of {len}");
    }
    let most = Arc::new(weights(&tiny(40_000), 1));
    let e = safetensors::from_bytes("packed", config, most).unwrap_err().to_string();
    assert!(e.contains("tensors in ") && e.contains("bytes: damaged"), "{e}");
    let values = format!(r#"{{"model_type": [{}1]}}"#, "[],".repeat(300_000));
    let parse = || safetensors::from_bytes("packed", values.as_bytes(), Arc::new(vec![0; 16]));
    assert!(parse().unwrap_err().to_string().contains("values, more than the"));
    let (peak, _) = memory(parse);
    assert!(peak <= 4096, "{peak}");
}

/// Texts of one byte.
const SHORTEST: usize = 58;

/// The shortest text of each number: one byte, then two, then three; no backslash among them.
fn shortest(i: usize) -> Vec<u8> {
    let base = SHORTEST;
    let byte = |n: usize| b'!' + (n % base) as u8;
    match i {
        _ if i < base => vec![byte(i)],
        _ if i < base + base * base => vec![byte((i - base) / base), byte(i - base)],
        _ => vec![byte(i / base / base), byte(i / base), byte(i)],
    }
}

/// A vocabulary of this kind and nothing else, as short as it can be; `ty` is the type of all tokens,
/// where it is not left out.
fn vocabulary(kind: &str, tokens: &[Vec<u8>], merges: &[Vec<u8>], ty: Option<i32>) -> Vec<u8> {
    let strings = |list: &[Vec<u8>]| {
        let mut out = Vec::new();
        list.iter().for_each(|s| string(&mut out, s));
        array(8, list.len(), &out)
    };
    let text = |s: &str| {
        let mut out = Vec::new();
        string(&mut out, s.as_bytes());
        out
    };
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let n = tokens.len();
    let mut keys = vec![(key("model"), 8, text(kind)), (key("tokens"), 9, strings(tokens))];
    match kind {
        "gpt2" => keys.push((key("pre"), 8, text("gpt-2"))),
        "llama" | "t5" => keys.push((key("scores"), 9, array(6, n, &vec![0; 4 * n]))),
        _ => {}
    }
    if kind == "gpt2" {
        keys.push((key("merges"), 9, strings(merges)));
    }
    if let Some(ty) = ty {
        keys.push((key("token_type"), 9, array(5, n, &ty.to_le_bytes().repeat(n))));
    }
    gguf(&keys, 0)
}

#[test]
fn a_tokenizer_takes_no_block_larger_than_its_file() {
    let n = 200_000;
    let short: Vec<Vec<u8>> = (0..n).map(shortest).collect();
    let same = vec![b"a".to_vec(); n];
    let long: Vec<Vec<u8>> =
        (0..2000).map(|i| format!("{:x<1000}{i:y<1000}", i / 2).into_bytes()).collect();
    // Every pair of tokens of one byte joins into one of two.
    let pairs: Vec<Vec<u8>> = (0..SHORTEST * SHORTEST)
        .map(|i| {
            let both = shortest(SHORTEST + i);
            vec![both[0], b' ', both[1]]
        })
        .collect();
    for (what, kind, tokens, merges, ty) in [
        ("short", "gpt2", &short, &[][..], None),
        ("the same", "gpt2", &same, &[][..], None),
        ("merges", "gpt2", &short[..SHORTEST + SHORTEST * SHORTEST].to_vec(), &pairs[..], None),
        ("the same merge", "gpt2", &short, &vec![b"! !".to_vec(); n][..], None),
        ("short", "llama", &short, &[][..], None),
        ("short", "t5", &short, &[][..], None),
        ("short", "bert", &short, &[][..], None),
        ("short", "rwkv", &short, &[][..], None),
        ("special", "llama", &short, &[][..], Some(4)),
        ("long and special", "llama", &long, &[][..], Some(4)),
        ("long", "t5", &long, &[][..], None),
        ("long", "rwkv", &long, &[][..], None),
    ] {
        let file = vocabulary(kind, tokens, merges, ty);
        let len = file.len();
        let g = Gguf::from_bytes("packed", Arc::new(file)).unwrap();
        let (peak, largest) = memory(|| Tokenizer::from_gguf(&g).unwrap());
        let ratio = |n: usize| n as f64 / len as f64;
        println!("{what} {kind}: {len} bytes: {:.2}, {:.2}", ratio(peak), ratio(largest));
        assert!(largest <= len, "{what} {kind}: {largest} for a file of {len}");
        assert!(peak <= 8 * len, "{what} {kind}: {peak} for a file of {len}");
    }
}
