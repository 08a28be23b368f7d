//! The corpora of the fuzz targets, and some cases near them, every time the tests run.

mod fuzzing;

use fuzzing::{Random, TARGETS, corpus, files};

#[test]
fn the_corpora_and_cases_near_them() {
    for target in TARGETS {
        let files = files(&corpus(target));
        assert!(!files.is_empty(), "{}", corpus(target).display());
        for (path, bytes) in &files {
            eprintln!("{}", path.display());
            (target.run)(bytes);
        }
        for case in 0..2000 {
            (target.run)(&target.case(&files, &mut Random::of(1, case)));
        }
    }
}

/// The corpus was made by this code, and its sound files are read whole.
#[test]
fn the_seeds_are_those_of_the_corpus() {
    for target in TARGETS {
        for (name, bytes) in (target.seeds)() {
            let path = corpus(target).join(&name);
            let held = std::fs::read(&path).unwrap_or_default();
            assert!(
                held == bytes,
                "{} is another file: write it with `cargo xtask fuzz {} --write-seeds`",
                path.display(),
                target.name
            );
        }
    }
}
