//! The reader and the writer agree, and the reader says what is wrong with a file.

mod common;

use common::{all_files, open, refusal, small};
use gristmill_core::DType;
use gristmill_models::gguf::{Array, Encode, Gguf, GgufWriter, Value};
use std::sync::Arc;

#[test]
fn reads_what_was_written() {
    let g = open(small()).unwrap();
    assert_eq!((g.version(), g.alignment(), g.tensors().len()), (3, 32, 3));
    assert_eq!(g.get_str("general.architecture").unwrap(), "llama");
    assert_eq!(g.get_u32("llama.block_count").unwrap(), 5);
    assert_eq!(g.get_u32("a.u8").unwrap(), 200);
    assert_eq!(g.get::<i32>("a.i8").unwrap(), -3);
    assert_eq!(g.get::<i64>("a.i64").unwrap(), -(1 << 40));
    assert_eq!(g.get::<usize>("a.u64").unwrap(), 1 << 40);
    assert_eq!(g.get_f32("a.f32").unwrap(), 0.5);
    assert_eq!(g.get_f32("a.f64").unwrap(), 0.25);
    assert!(g.get_bool("a.bool").unwrap());
    assert_eq!(g.get_strs("a.strings").unwrap(), ["one", "", "über"]);
    assert_eq!(g.get::<Vec<f32>>("a.floats").unwrap(), [1.0, -2.0]);
    assert_eq!(g.get::<Vec<bool>>("a.bools").unwrap(), [true, false]);
    assert!(g.get::<Array<'_>>("a.empty").unwrap().is_empty());
    assert_eq!(g.opt::<u32>("absent").unwrap(), None);
    let keys: Vec<&str> = g.metadata().map(|(k, _)| k).take(3).collect();
    assert_eq!(keys, ["general.architecture", "general.alignment", "llama.block_count"]);

    let t = g.tensor("stack").unwrap();
    assert_eq!((t.dtype, t.experts, t.rows, t.cols), (DType::Q8_0, 2, 3, 32));
    assert!(t.bytes().iter().enumerate().all(|(i, &b)| b == i as u8));
    let t = g.tensor("vector").unwrap();
    assert_eq!((t.experts, t.rows, t.cols), (1, 1, 5));
    assert_eq!(t.bytes()[4..8], 2.0f32.to_le_bytes());
    assert!(g.tensors().all(|t| t.offset.is_multiple_of(32)));
}

#[test]
fn getters_name_the_key_and_what_it_is() {
    let g = open(small()).unwrap();
    for (error, wanted) in [
        (g.get_u32("none").unwrap_err(), "'none' is missing"),
        (g.get_u32("a.i8").unwrap_err(), "'a.i8' is -3, out of range of u32"),
        (g.get_u32("a.f32").unwrap_err(), "'a.f32' is of type F32, not an integer"),
        (g.get_f32("a.u8").unwrap_err(), "'a.u8' is of type U8, not a float"),
        (g.get_bool("a.u8").unwrap_err(), "'a.u8' is of type U8, not a bool"),
        (g.get_str("a.u8").unwrap_err(), "'a.u8' is of type U8, not a string"),
        (g.get_strs("a.floats").unwrap_err(), "'a.floats' has elements of type F32"),
        (g.get::<Vec<u32>>("a.floats").unwrap_err(), "'a.floats' has an element that is of type"),
        (g.tensor("none").unwrap_err(), "tensor 'none' is missing"),
    ] {
        assert!(error.to_string().contains(wanted), "{error}");
        assert_eq!(error.exit_code(), 3);
    }
}

#[test]
fn tensors_outlive_the_reader_and_share_its_bytes() {
    let bytes = Arc::new(small());
    let g = Gguf::from_bytes("small", bytes.clone()).unwrap();
    let t = g.tensor("matrix").unwrap();
    drop(g);
    assert!(bytes.as_ptr_range().contains(&t.bytes().as_ptr()));
}

#[test]
fn wrong_beginnings() {
    let with = |at: usize, new: &[u8]| {
        let mut b = small();
        b[at..at + new.len()].copy_from_slice(new);
        refusal(b)
    };
    assert!(with(0, b"GGUG").contains("not a GGUF file"));
    assert!(with(0, b"ggjt").contains("old GGML"));
    assert!(with(0, b"PK\x03\x04").contains("zip"));
    assert!(with(4, &1u32.to_le_bytes()).contains("version 1 is not supported"));
    assert!(with(4, &99u32.to_le_bytes()).contains("version 99 is not supported"));
    assert!(with(4, &3u32.to_be_bytes()).contains("big-endian GGUF (version 3)"));
    assert!(refusal(Vec::new()).contains("magic"));
    let mut two = small();
    two[4] = 2;
    assert_eq!(open(two).unwrap().version(), 2);
}

#[test]
fn a_truncated_file_is_refused() {
    let whole = small();
    let header = open(whole.clone()).unwrap().tensors().next().unwrap().offset;
    let cuts = (0..header).chain((0..32).map(|i| whole.len() * i / 32));
    for cut in cuts {
        let what = refusal(whole[..cut].to_vec());
        assert!(what.contains("at byte") && what.lines().count() == 1, "{cut}: {what}");
    }
    // The padding after the last tensor is not data.
    let last = open(whole.clone()).unwrap().tensors().last().map(|t| t.offset + t.bytes).unwrap();
    assert!(open(whole[..last].to_vec()).is_ok());
    assert!(open(whole[..last - 1].to_vec()).is_err());
}

/// A file of `keys` (name, type, encoded value) and `tensors` (name, dims, type, offset), `data`
/// bytes long after the header.
fn raw(keys: &[(&[u8], u32, &[u8])], tensors: &[(&str, &[u64], u32, u64)], data: usize) -> Vec<u8> {
    let mut b = b"GGUF\x03\0\0\0".to_vec();
    b.extend((tensors.len() as u64).to_le_bytes());
    b.extend((keys.len() as u64).to_le_bytes());
    for (key, ty, value) in keys {
        b.extend((key.len() as u64).to_le_bytes());
        b.extend(*key);
        b.extend(ty.to_le_bytes());
        b.extend(*value);
    }
    for (name, dims, ty, offset) in tensors {
        name.encode(&mut b);
        b.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|d| b.extend(d.to_le_bytes()));
        b.extend(ty.to_le_bytes());
        b.extend(offset.to_le_bytes());
    }
    b.resize(b.len().next_multiple_of(32) + data, 0);
    b
}

#[test]
fn damaged_tables_are_refused_by_name() {
    let one = |t: (&str, &[u64], u32, u64)| refusal(raw(&[], &[t], 64));
    assert!(open(raw(&[], &[("t", &[16], 0, 0)], 64)).is_ok());
    assert!(one(("t", &[17], 0, 0)).contains("tensor 't' (68 bytes"));
    assert!(one(("t", &[16], 0, 32)).contains("truncated"));
    assert!(one(("t", &[16], 0, 8)).contains("not a multiple of the alignment 32"));
    assert!(one(("t", &[1, 1, 1, 1, 1], 0, 0)).contains("5 dimensions"));
    assert!(one(("t", &[4, 0], 0, 0)).contains("dimension 1 of tensor 't' is 0"));
    assert!(one(("t", &[4], 4, 0)).contains("unknown type id 4"));
    assert!(one(("t", &[16], 8, 0)).contains("Q8_0 blocks of 32"));
    assert!(one(("t", &[1 << 32, 1 << 32], 0, 0)).contains("overflows"));
    assert!(one(("t", &[4], 0, u64::MAX - 31)).contains("truncated"));

    let two = |a: (&str, &[u64], u32, u64), b| refusal(raw(&[], &[a, b], 128));
    assert!(two(("a", &[8], 0, 0), ("a", &[8], 0, 32)).contains("tensor 'a' appears twice"));
    assert!(two(("a", &[16], 0, 0), ("b", &[8], 0, 32)).contains("'a' and 'b' overlap"));
    assert!(two(("b", &[8], 0, 32), ("a", &[16], 0, 0)).contains("'a' and 'b' overlap"));
    assert!(two(("a", &[8], 0, 0), ("b", &[8], 0, 0)).contains("overlap"));

    let key = |k: &[(&[u8], u32, &[u8])]| refusal(raw(k, &[], 64));
    assert!(key(&[(b"k", 4, &[1, 0, 0, 0]), (b"k", 0, &[1])]).contains("'k' appears twice"));
    assert!(key(&[(b"\xff\xfe", 0, &[1])]).contains("metadata key 0 is not UTF-8"));
    assert!(key(&[(b"k", 13, &[1])]).contains("'k' is of unknown type 13"));
    assert!(key(&[(b"k", 7, &[2])]).contains("bool with value 2"));
    assert!(key(&[(b"k", 8, &u64::MAX.to_le_bytes())]).contains("the value of 'k' takes"));
    let array = |ty: u32, n: u64| [&ty.to_le_bytes()[..], &n.to_le_bytes()].concat();
    assert!(key(&[(b"k", 9, &array(9, 1))]).contains("array of arrays"));
    assert!(key(&[(b"k", 9, &array(99, 1))]).contains("elements of unknown type 99"));
    assert!(key(&[(b"k", 9, &array(12, u64::MAX / 4))]).contains("claims"));
    assert!(key(&[(b"k", 9, &array(8, 1 << 40))]).contains("claims"));
    for bad in [0u32, 3, 48] {
        let what = key(&[(b"general.alignment", 4, &bad.to_le_bytes())]);
        assert!(what.contains("not a power of two"), "{what}");
    }
    let what = key(&[(b"general.alignment", 6, &[0, 0, 0, 0])]);
    assert!(what.contains("of type F32, not U32"), "{what}");
    let huge = (&b"general.alignment"[..], 4, &(1u32 << 31).to_le_bytes()[..]);
    assert!(refusal(raw(&[huge], &[("t", &[8], 0, 0)], 64)).contains("truncated"));

    let strange = [&array(8, 1)[..], &1u64.to_le_bytes(), b"\xff"].concat();
    let g = open(raw(&[(b"k", 9, &strange)], &[], 0)).unwrap();
    assert!(g.get_strs("k").unwrap_err().to_string().contains("'k' has element 0"));
}

#[test]
fn a_fourth_dimension_counts_matrices_too() {
    let g = open(raw(&[], &[("t", &[2, 2, 2, 2], 0, 0)], 64)).unwrap();
    assert_eq!(g.tensors().next().unwrap().shape, [2, 2, 2, 2]);
    let t = g.tensor("t").unwrap();
    assert_eq!((t.experts, t.rows, t.cols), (4, 2, 2));
}

#[test]
fn the_writer_refuses_what_cannot_be_read() {
    let mut w = GgufWriter::new("out");
    w.set("k", 1u32).unwrap();
    assert!(w.set("k", 2u32).is_err());
    assert!(w.set("general.alignment", 3u32).is_err());
    assert!(w.declare("t", DType::U32, &[4]).is_err());
    assert!(w.declare("t", DType::Q8_0, &[33]).is_err());
    assert!(w.declare("t", DType::F32, &[]).is_err());
    assert!(w.declare("t", DType::F32, &[usize::MAX / 4, 3]).is_err());
    w.declare("t", DType::F32, &[4]).unwrap();
    assert!(w.declare("t", DType::F32, &[4]).is_err());
    let mut s = w.begin(Vec::new()).unwrap();
    assert!(s.tensor(&[0; 15]).is_err());
    s.tensor(&[0; 16]).unwrap();
    assert!(s.tensor(&[0; 16]).is_err());
    assert!(s.finish().is_ok());
}

#[test]
fn paths_that_are_no_files() {
    let dir = std::env::temp_dir().join(format!("gristmill-gguf-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let what = |p: &std::path::Path| Gguf::open(p).unwrap_err().to_string();
    assert!(what(&dir).contains("is a directory"));
    assert!(what(&dir.join("none")).contains("no such file"));
    std::fs::write(dir.join("empty"), b"").unwrap();
    assert!(what(&dir.join("empty")).contains("is empty"));
    if std::path::Path::new("/dev/null").exists() {
        assert!(what("/dev/null".as_ref()).contains("not a regular file"));
    }
    let fifo = dir.join("fifo");
    if std::process::Command::new("mkfifo").arg(&fifo).status().is_ok_and(|s| s.success()) {
        assert!(what(&fifo).contains("not a regular file"));
    }
    std::fs::write(dir.join("small.gguf"), small()).unwrap();
    assert_eq!(Gguf::open(dir.join("small.gguf")).unwrap().tensors().len(), 3);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn split_models_open_as_one() {
    let dir = std::env::temp_dir().join(format!("gristmill-split-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let part = |no: u16, value: f32| {
        let mut w = GgufWriter::new("part");
        w.set("split.no", no).unwrap();
        w.set("split.count", 2u16).unwrap();
        w.set("split.tensors.count", 2i32).unwrap();
        let t = gristmill_core::HostTensor::from_f32(format!("t{no}"), 1, 2, &[value, value]);
        w.write(Vec::new(), &[t]).unwrap()
    };
    let path = |no: u16| dir.join(format!("m-{no:05}-of-00002.gguf"));
    std::fs::write(path(1), part(0, 1.0)).unwrap();
    assert!(
        Gguf::open(path(1)).unwrap_err().to_string().contains("m-00002-of-00002.gguf: no such")
    );
    std::fs::write(path(2), part(1, 2.0)).unwrap();
    let g = Gguf::open(path(1)).unwrap();
    assert_eq!(g.tensor("t1").unwrap().bytes()[..4], 2.0f32.to_le_bytes());
    assert!(Gguf::open(path(2)).unwrap_err().to_string().contains("'m-00001-of-00002.gguf'"));
    std::fs::write(path(2), part(0, 2.0)).unwrap();
    assert!(Gguf::open(path(1)).unwrap_err().to_string().contains("expected 1 of 2"));
    std::fs::write(dir.join("renamed.gguf"), part(0, 1.0)).unwrap();
    let what = Gguf::open(dir.join("renamed.gguf")).unwrap_err().to_string();
    assert!(what.contains("must end in '-00001-of-00002.gguf'"), "{what}");
    std::fs::remove_dir_all(dir).unwrap();
}

/// Real files, written by another program, come back byte for byte.
#[test]
fn real_files_round_trip() {
    let mut n = 0;
    for path in all_files() {
        let g = Gguf::open(&path).unwrap();
        let mut w = GgufWriter::new("copy");
        for (key, value) in g.metadata() {
            w.set(key, value).unwrap();
        }
        for t in g.tensors() {
            w.declare(&t.name, t.dtype, &t.shape[..t.n_dims]).unwrap();
        }
        let mut s = w.begin(Vec::new()).unwrap();
        for t in g.tensors() {
            s.tensor(g.tensor(&t.name).unwrap().bytes()).unwrap();
        }
        let mut copy = s.finish().unwrap();
        let mut original = std::fs::read(&path).unwrap();
        // Writers differ only in whether they pad the very end.
        let whole = copy.len().max(original.len());
        copy.resize(whole, 0);
        original.resize(whole, 0);
        assert!(copy == original, "{}", path.display());
        let strings = g.metadata().filter_map(|(_, v)| match v {
            Value::Array(a) => Some(a.byte_strings().map(<[u8]>::len).sum::<usize>()),
            _ => None,
        });
        assert!(g.file_bytes() > strings.sum());
        n += 1;
    }
    eprintln!("{n} files");
}
