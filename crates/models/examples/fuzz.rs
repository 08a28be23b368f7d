//! Looks for files that make a reader panic, hang, end the process or take too much memory.
//!
//! `fuzz TARGET [--minutes N] [--seed S] [--write-seeds]`, as `cargo xtask fuzz` calls it. The
//! cases run in a child process with limited memory, which notes the number of each case before
//! it runs it; when the child ends before its time or stays at one case, that case is written to
//! the corpus as `found-...` and the next child goes on after it. There is no guidance by coverage:
//! the corpus holds a sound file of every kind, and the changes are those that break readers.

#[path = "../tests/fuzzing/mod.rs"]
mod fuzzing;

use fuzzing::{Random, TARGETS, Target, corpus, files};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Cases of one child.
const CASES: u64 = 20_000;
/// Address space of a child, in KiB: a reader needs a few times the size of its file.
const MEMORY: u64 = 2 << 20;
/// Seconds that one case may take.
const PATIENCE: u64 = 60;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |flag: &str| {
        let at = args.iter().position(|a| a == flag)?;
        args.get(at + 1)?.parse::<u64>().ok()
    };
    let target = args.first().and_then(|name| TARGETS.iter().find(|t| t.name == name));
    let Some(target) = target else {
        let names: Vec<&str> = TARGETS.iter().map(|t| t.name).collect();
        eprintln!("usage: fuzz TARGET [--minutes N] [--seed S] [--write-seeds]");
        eprintln!("targets: {}", names.join(", "));
        return ExitCode::from(2);
    };
    let seed = value("--seed").unwrap_or(1);
    if args.iter().any(|a| a == "--write-seeds") {
        write_seeds(target);
        return ExitCode::SUCCESS;
    }
    if let (Some(first), Some(note)) = (value("--child-from"), args.last()) {
        child(target, seed, first, Path::new(note));
        return ExitCode::SUCCESS;
    }
    let found = search(target, seed, Duration::from_secs(60 * value("--minutes").unwrap_or(1)));
    if found == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn write_seeds(target: &Target) {
    let folder = corpus(target);
    fs::create_dir_all(&folder).expect("a folder");
    for (name, bytes) in (target.seeds)() {
        fs::write(folder.join(&name), &bytes).expect("written");
        println!("{name}: {} bytes", bytes.len());
    }
}

/// Runs cases, noting each before.
fn child(target: &Target, seed: u64, first: u64, note: &Path) {
    let note = File::options().write(true).open(note).expect("the parent made it");
    let files = files(&corpus(target));
    for case in first..first + CASES {
        note.write_all_at(&case.to_le_bytes(), 0).expect("written");
        (target.run)(&target.case(&files, &mut Random::of(seed, case)));
    }
}

/// Runs children until the time is over; returns how many cases were found.
fn search(target: &Target, seed: u64, time: Duration) -> usize {
    let note = std::env::temp_dir().join(format!("fuzz-{}-{}", target.name, std::process::id()));
    let program = std::env::current_exe().expect("this program");
    let begin = Instant::now();
    let (mut first, mut found) = (0u64, 0);
    while begin.elapsed() < time {
        fs::write(&note, first.to_le_bytes()).expect("written");
        let limited = format!("ulimit -v {MEMORY}; exec \"$0\" \"$@\"");
        let mut run = Command::new("sh")
            .args(["-c", &limited])
            .arg(&program)
            .args([target.name, "--seed", &seed.to_string()])
            .args(["--child-from", &first.to_string()])
            .arg(&note)
            .stdin(Stdio::null())
            .spawn()
            .expect("a child");
        let at = || {
            let bytes = fs::read(&note).unwrap_or_default();
            bytes.try_into().map_or(first, u64::from_le_bytes)
        };
        let (mut last, mut since, mut tick) = (first, Instant::now(), Instant::now());
        let ended = loop {
            // Time in which everything was stopped, as somebody else measured, is not the case's.
            since += tick.elapsed().saturating_sub(Duration::from_secs(1));
            tick = Instant::now();
            if let Some(status) = run.try_wait().expect("our child") {
                break (!status.success()).then(|| status.to_string());
            }
            if at() != last {
                (last, since) = (at(), Instant::now());
            }
            if since.elapsed() > Duration::from_secs(PATIENCE) {
                let _ = run.kill();
                let _ = run.wait();
                break Some(format!("it took more than {PATIENCE} s"));
            }
            if begin.elapsed() >= time {
                let _ = run.kill();
                let _ = run.wait();
                break None;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let case = at();
        match ended {
            None if begin.elapsed() >= time => first = case,
            None => first += CASES,
            Some(why) => {
                let bytes = target.case(&files(&corpus(target)), &mut Random::of(seed, case));
                let path = std::env::temp_dir().join(format!("found-{seed}-{case}"));
                fs::write(&path, bytes).expect("written");
                eprintln!("case {case} of seed {seed}: {why}: {}", path.display());
                eprintln!("mend it, then put the file into {}", corpus(target).display());
                found += 1;
                first = case + 1;
            }
        }
    }
    let _ = fs::remove_file(&note);
    let seconds = begin.elapsed().as_secs();
    println!("{}: {first} cases of seed {seed} in {seconds} s, {found} found", target.name);
    found
}
