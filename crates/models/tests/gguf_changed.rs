//! Files that others change while they are open, in every load mode: the answer is the data or an
//! error that names the file, never a signal.

mod common;

use common::small;
use gristmill_core::HostTensor;
use gristmill_models::LoadMode;
use gristmill_models::gguf::{Gguf, GgufWriter};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const MODES: [LoadMode; 2] = [LoadMode::Mmap, LoadMode::Read];

/// A folder that is removed with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("gristmill-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Two tensors of 64 KiB each, of ones and of twos.
fn large(path: &Path) {
    let tensor = |name: &str, x: f32| HostTensor::from_f32(name, 64, 256, &[x; 64 * 256]);
    let w = GgufWriter::new("large");
    w.write(File::create(path).unwrap(), &[tensor("first", 1.0), tensor("second", 2.0)]).unwrap();
}

fn cut(path: &Path, len: u64) {
    File::options().write(true).open(path).unwrap().set_len(len).unwrap();
}

#[test]
fn every_mode_gives_the_same() {
    let folder = Folder::new("modes");
    let path = folder.0.join("small.gguf");
    fs::write(&path, small()).unwrap();
    let reference = Gguf::from_bytes("memory", std::sync::Arc::new(small())).unwrap();
    assert_eq!(reference.load_choice().0, "memory");
    for mode in [LoadMode::Auto, LoadMode::Mmap, LoadMode::Read] {
        let g = Gguf::open_with(&path, mode).unwrap();
        assert!(g.tensors().eq(reference.tensors()));
        assert!(g.metadata().eq(reference.metadata()));
        for t in g.tensors() {
            let (ours, theirs) = (g.tensor(&t.name).unwrap(), reference.tensor(&t.name).unwrap());
            assert_eq!(ours.bytes(), theirs.bytes(), "{mode:?}");
        }
        let (choice, why) = g.load_choice();
        match mode {
            LoadMode::Auto => assert!(why.starts_with("auto: it "), "{why}"),
            LoadMode::Mmap => assert_eq!((choice, why), ("mmap", "asked for")),
            LoadMode::Read => assert_eq!((choice, why), ("read", "asked for")),
        }
        g.check_unchanged().unwrap();
    }
}

#[test]
fn cut_before_a_tensor_is_asked_for() {
    let folder = Folder::new("cut");
    for mode in MODES {
        let path = folder.0.join("m.gguf");
        large(&path);
        let g = Gguf::open_with(&path, mode).unwrap();
        cut(&path, g.tensor_info("second").unwrap().offset as u64 + 10);
        assert_eq!(g.tensor("first").unwrap().bytes()[..4], 1f32.to_le_bytes(), "{mode:?}");
        let e = g.tensor("second").unwrap_err();
        let text = e.to_string();
        assert!(text.contains("m.gguf") && text.contains("tensor 'second' left"), "{text}");
        assert_eq!((e.exit_code(), text.lines().count()), (3, 1));
        assert!(g.check_unchanged().is_err());
        // What was read of the head is ours.
        assert_eq!(g.tensors().len(), 2);
    }
}

#[test]
fn cut_while_a_tensor_is_used() {
    let folder = Folder::new("used");
    let path = folder.0.join("m.gguf");
    for _ in 0..3 {
        large(&path);
        let g = Gguf::open_with(&path, LoadMode::Mmap).unwrap();
        let (first, second) = (g.tensor("first").unwrap(), g.tensor("second").unwrap());
        assert_eq!(second.bytes()[65_532..], 2f32.to_le_bytes());
        let middle = g.tensor_info("second").unwrap().offset + 20_000;
        cut(&path, middle as u64);
        // Pages that the file lost read as zeros, in any order, and on any thread.
        assert_eq!(second.bytes()[65_532..], [0; 4]);
        let sum = |t: &HostTensor| t.bytes().iter().map(|&b| u64::from(b)).sum::<u64>();
        std::thread::scope(|s| {
            let work: Vec<_> = (0..4).map(|_| s.spawn(|| (sum(&first), sum(&second)))).collect();
            for w in work {
                let (first, second) = w.join().unwrap();
                assert_eq!(first, 64 * 256 * (0x80 + 0x3f), "what is before the cut is whole");
                assert!(second < 64 * 256 * 0x40);
            }
        });
        let text = g.check_unchanged().unwrap_err().to_string();
        assert!(text.contains("m.gguf: tensor 'second': the file ends before"), "{text}");
    }
    // A new mapping, perhaps at the same address, knows nothing of the old one.
    large(&path);
    let g = Gguf::open_with(&path, LoadMode::Mmap).unwrap();
    assert_eq!(g.tensor("second").unwrap().bytes()[65_532..], 2f32.to_le_bytes());
    g.check_unchanged().unwrap();
}

#[test]
fn written_to_while_it_is_open() {
    let folder = Folder::new("written");
    let path = folder.0.join("m.gguf");
    for mode in MODES {
        large(&path);
        let g = Gguf::open_with(&path, mode).unwrap();
        g.check_unchanged().unwrap();
        File::options().append(true).open(&path).unwrap().write_all(b"more").unwrap();
        let text = g.check_unchanged().unwrap_err().to_string();
        assert!(text.contains("bytes now, and had"), "{text}");

        large(&path);
        let g = Gguf::open_with(&path, mode).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(5)).unwrap();
        let text = g.check_unchanged().unwrap_err().to_string();
        assert!(text.contains("was written to"), "{text}");

        // Another file in its place is another file: this one is still there.
        large(&path);
        let g = Gguf::open_with(&path, mode).unwrap();
        let other = folder.0.join("other");
        large(&other);
        fs::rename(&other, &path).unwrap();
        g.check_unchanged().unwrap();
        assert_eq!(g.tensor("second").unwrap().bytes()[..4], 2f32.to_le_bytes());
    }
}

/// Copies whole and split, of every reference file at hand: the same metadata, in the same order
/// and types, and the same tensors.
#[test]
fn copies_are_the_same_model() {
    let folder = Folder::new("copies");
    let own = folder.0.join("small.gguf");
    fs::write(&own, small()).unwrap();
    let mut files = common::all_files();
    files.push(own.clone());
    for path in files {
        let model = Gguf::open(&path).unwrap();
        let bytes: u64 = model.tensors().map(|t| t.bytes as u64).sum();
        for most in [None, Some(bytes / 3 + 1), Some(1)] {
            let to = folder.0.join("copy.gguf");
            let mut told = 0;
            let written = gristmill_models::gguf::copy(&model, &to, most, &mut |n| {
                told = n;
                Ok(())
            });
            let written = match written {
                Err(e) if most == Some(1) => {
                    assert!(model.tensors().len() > 1000 && e.exit_code() == 2, "{e}");
                    continue;
                }
                other => other.unwrap(),
            };
            assert_eq!(told, bytes);
            let one = model.tensors().len() < 2 || most.is_none_or(|most| bytes <= most);
            assert_eq!(one, written == [to.clone()]);
            let copy = Gguf::open(&written[0]).unwrap();
            assert!(copy.tensors().len() == model.tensors().len());
            let keys = |g: &Gguf| -> Vec<String> {
                let all = g.metadata().filter(|(k, _)| !k.starts_with("split."));
                all.map(|(k, v)| format!("{k} {:?} {v:?}", v.ty())).collect()
            };
            assert_eq!(keys(&copy), keys(&model), "{}", path.display());
            let same = model.metadata().filter(|(k, _)| !k.starts_with("split."));
            assert!(same.eq(copy.metadata().filter(|(k, _)| !k.starts_with("split."))));
            for (a, b) in model.tensors().zip(copy.tensors()) {
                assert_eq!(
                    (&a.name, a.dtype, a.shape, a.n_dims),
                    (&b.name, b.dtype, b.shape, b.n_dims)
                );
                let (a, b) = (model.tensor(&a.name).unwrap(), copy.tensor(&b.name).unwrap());
                assert!(a.bytes() == b.bytes(), "{}", a.name);
            }
            // And joined again it is the file that one copy gives.
            let joined = folder.0.join("joined.gguf");
            gristmill_models::gguf::copy(&copy, &joined, None, &mut |_| Ok(())).unwrap();
            let whole = folder.0.join("whole.gguf");
            gristmill_models::gguf::copy(&model, &whole, None, &mut |_| Ok(())).unwrap();
            assert!(fs::read(&joined).unwrap() == fs::read(&whole).unwrap());
            written.iter().for_each(|p| fs::remove_file(p).unwrap());
        }
    }
    let model = Gguf::open(&own).unwrap();
    let onto_itself = gristmill_models::gguf::copy(&model, &own, None, &mut |_| Ok(()));
    assert_eq!(onto_itself.unwrap_err().exit_code(), 2);
    assert_eq!(fs::read(&own).unwrap(), small());
}
