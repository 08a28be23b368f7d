//! Model files that are damaged, are no files, or change while they are read: one line that names
//! the file, exit code 3, no signal.

mod common;

use common::{code, gristmill, run, stderr, stdout};
use gristmill::{Cpu, CpuOptions, LoadMode, Model, Settings};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn bundled() -> Vec<u8> {
    fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/bundled/stories.gguf")).unwrap()
}

/// One line about the file, nothing on stdout.
fn refused(output: &Output, path: &Path) -> String {
    let text = stderr(output);
    assert_eq!(code(output), 3, "{}: {text}", path.display());
    let errors: Vec<&str> = text.lines().collect();
    assert_eq!(errors.len(), 1, "{text}");
    let name = path.file_stem().unwrap().to_string_lossy();
    assert!(errors[0].starts_with("error: ") && errors[0].contains(&*name), "{text}");
    assert_eq!(stdout(output), "");
    errors[0].to_owned()
}

fn try_to_run(path: &Path) -> Output {
    run(&["run", "-q", "-n", "1", "-m", path.to_str().unwrap(), "-p", "hi"])
}

#[test]
fn cut_at_every_32nd() {
    let dir = tempfile::tempdir().unwrap();
    let whole = bundled();
    let path = dir.path().join("cut.gguf");
    for i in 0..32 {
        fs::write(&path, &whole[..whole.len() * i / 32]).unwrap();
        let why = refused(&try_to_run(&path), &path);
        assert!(i == 0 || why.contains("at byte"), "{why}");
        refused(&run(&["inspect", path.to_str().unwrap()]), &path);
    }
}

#[test]
fn every_field_of_the_header() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("header.gguf");
    let edges = [0, 1, 1 << 31, 1 << 63, u64::MAX];
    // Magic, version, tensors, keys, and of the first key its length, its type, its value's length.
    let first_key = "general.architecture".len();
    for (at, width) in [(0, 4), (4, 4), (8, 8), (16, 8), (24, 8), (32 + first_key, 4)] {
        for edge in edges.into_iter().chain([99, 0x4655_4747]) {
            let mut bytes = bundled();
            let new = &u64::to_le_bytes(edge)[..width];
            if bytes[at..at + width] == *new {
                continue;
            }
            bytes[at..at + width].copy_from_slice(new);
            fs::write(&path, bytes).unwrap();
            refused(&try_to_run(&path), &path);
        }
    }
    let mut swapped = bundled();
    swapped[4..8].reverse();
    fs::write(&path, swapped).unwrap();
    assert!(refused(&try_to_run(&path), &path).contains("big-endian GGUF (version 3)"));
}

#[cfg(unix)]
#[test]
fn what_is_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo.gguf");
    if Command::new("mkfifo").arg(&fifo).status().is_ok_and(|s| s.success()) {
        let mut child = gristmill()
            .args(["run", "-q", "-m", fifo.to_str().unwrap(), "-p", "hi"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let begin = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if begin.elapsed() > Duration::from_secs(20) {
                child.kill().unwrap();
                panic!("it waits for somebody to write to the FIFO");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let why = refused(&child.wait_with_output().unwrap(), &fifo);
        assert!(why.contains("not a regular file"), "{why}");
    }
    let why = refused(&try_to_run(dir.path()), dir.path());
    assert!(why.contains("is a directory"), "{why}");
    let why = refused(&try_to_run("/dev/zero".as_ref()), "/dev/zero".as_ref());
    assert!(why.contains("not a regular file"), "{why}");
    let looped = dir.path().join("loop.gguf");
    std::os::unix::fs::symlink(&looped, &looped).unwrap();
    refused(&try_to_run(&looped), &looped);
}

#[cfg(unix)]
#[test]
fn no_permission() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = dir.path().join("secret.gguf");
    fs::write(&path, bundled()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    let args = ["run", "-q", "-n", "1", "-m", path.to_str().unwrap(), "-p", "hi"];
    let output = if File::open(&path).is_err() {
        run(&args)
    } else {
        // Nothing is forbidden to the superuser: somebody else, then, from a place he can see.
        let program = dir.path().join("gristmill");
        fs::copy(env!("CARGO_BIN_EXE_gristmill"), &program).unwrap();
        let mut other = Command::new("setpriv");
        other.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).args(args);
        match other.stdin(Stdio::null()).output() {
            Ok(output) if output.status.code() != Some(127) => output,
            _ => {
                eprintln!("left out: this user may read everything, and there is no setpriv");
                return;
            }
        }
    };
    let why = refused(&output, &path);
    assert!(why.contains("no permission"), "{why}");
}

#[test]
fn a_part_that_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("m.gguf").display().to_string();
    let source = dir.path().join("whole.gguf");
    fs::write(&source, bundled()).unwrap();
    let output = run(&["copy", source.to_str().unwrap(), &to, "--split-max-size", "2400K"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let part = |no: u32| dir.path().join(format!("m-{no:05}-of-00003.gguf"));
    assert!(stderr(&output).contains("m-00003-of-00003.gguf"), "{}", stderr(&output));
    // Split it says the same as whole.
    let text = |path: &Path| {
        let args = ["run", "-q", "--temp", "0", "-n", "8", "-m", path.to_str().unwrap(), "-p", "x"];
        let output = run(&args);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        stdout(&output)
    };
    assert_eq!(text(&part(1)), text(&source));
    let why = refused(&try_to_run(&part(2)), &part(2));
    assert!(why.contains("name its first part, 'm-00001-of-00003.gguf'"), "{why}");
    // Joined it is a file that a copy of the whole is.
    for (from, to) in [(part(1), "joined.gguf"), (source.clone(), "again.gguf")] {
        let to = dir.path().join(to).display().to_string();
        assert_eq!(code(&run(&["copy", "-q", from.to_str().unwrap(), &to])), 0);
    }
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    assert!(read("joined.gguf") == read("again.gguf"));
    fs::remove_file(part(2)).unwrap();
    let output = try_to_run(&part(1));
    let why = refused(&output, "m".as_ref());
    assert!(why.contains("m-00002-of-00003.gguf: no such file: part 2 of 3"), "{why}");
}

/// Cut while it is loaded, at every 16th of the way: an error that names the file, from whichever
/// tensor it is noticed at.
#[test]
fn it_shrinks_while_it_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("shrinks.gguf");
    let whole = bundled();
    for mode in [LoadMode::Mmap, LoadMode::Read] {
        for part in 0..16u64 {
            fs::write(&path, &whole).unwrap();
            let model = Model::open_with(&path, mode).unwrap();
            let settings = Settings { context: 64, ..Settings::default() };
            let program = model.program(settings.kv).unwrap();
            let cpu = Cpu::new(CpuOptions { threads: 2, ..settings.cpu }).unwrap();
            let mut calls = 0;
            let loaded =
                model.engine_on(cpu, program, settings.engine_options(64), false, &mut |_, _| {
                    if calls == part {
                        let file = File::options().write(true).open(&path).unwrap();
                        file.set_len(whole.len() as u64 * part / 16 + 1).unwrap();
                    }
                    calls += 1;
                    Ok(())
                });
            let Err(e) = loaded else { panic!("{mode:?} {part}: it loaded") };
            let text = e.to_string();
            assert_eq!(e.exit_code(), 3, "{text}");
            assert!(text.contains("shrinks.gguf") && text.lines().count() == 1, "{text}");
        }
    }
}

/// The same from outside, at moments nobody chose: it ran, or it says why not.
#[test]
fn it_shrinks_while_it_is_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.gguf");
    let whole = bundled();
    for wait in [0u64, 3, 6, 10, 15, 25] {
        fs::write(&path, &whole).unwrap();
        let child = gristmill()
            .args(["run", "-q", "-n", "2", "-m", path.to_str().unwrap(), "-p", "hi"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        File::options().write(true).open(&path).unwrap().set_len(100_000).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = stderr(&output);
        assert!(matches!(code(&output), 0 | 3), "{text}");
        assert!(code(&output) == 0 || text.contains("run.gguf"), "{text}");
    }
}
