//! The suite on the very kernels, played on the host; on a GPU where `GRISTMILL_TEST_CUDA` is set.

mod emulator;

use emulator::Emulator;
use gristmill_conformance::check::{self, Prepared};
use gristmill_conformance::{hostile, ledger, sampling, short_suite, suite};
use gristmill_cuda::{Cuda, CudaOptions, devices};
use gristmill_ir::Backend;
use std::sync::OnceLock;

/// Whether a GPU must be there.
fn on_a_gpu() -> bool {
    std::env::var_os("GRISTMILL_TEST_CUDA").is_some_and(|v| !v.is_empty())
}

/// One device for all tests.
fn device() -> Option<&'static Cuda> {
    static DEVICE: OnceLock<Option<Cuda>> = OnceLock::new();
    let options = CudaOptions { poison: true };
    let open = || {
        if on_a_gpu() {
            let all = devices().expect("GRISTMILL_TEST_CUDA is set");
            let device = gristmill_cuda::driver::choose::take(all, "").expect("one can be used");
            println!("on {}", device.name());
            return Some(Cuda::open(&device, options).expect("the device opens"));
        }
        Some(Cuda::over(Box::new(Emulator::new()?), options))
    };
    DEVICE.get_or_init(open).as_ref()
}

/// All of it on a GPU; a part that has everything where it is played.
fn prepared() -> &'static [Prepared] {
    static SUITE: OnceLock<Vec<Prepared>> = OnceLock::new();
    let whole = on_a_gpu() || std::env::var_os("GRISTMILL_TEST_WHOLE").is_some();
    SUITE.get_or_init(|| if whole { suite() } else { short_suite() })
}

fn run<'a>(cuda: &Cuda, all: impl IntoIterator<Item = &'a Prepared>) {
    let only = std::env::var("GRISTMILL_TEST_CASE").unwrap_or_default();
    let (mut ran, mut worst, mut failed) = (0, (0.0, ""), 0);
    for p in all.into_iter().filter(|p| p.case.name.contains(&only)) {
        assert!(p.runs_on(&cuda.capabilities()), "{}: everything runs here", p.case.name);
        match p.check(cuda) {
            Ok(w) if w > worst.0 => worst = (w, &p.case.name),
            Ok(_) => {}
            Err(what) => {
                println!("{}: {what}", p.case.name);
                failed += 1;
            }
        }
        ran += 1;
    }
    let (share, of) = worst;
    println!("{ran} cases; the worst uses {:.0} % of its tolerance: {of}", 100.0 * share);
    assert_eq!(failed, 0, "see above");
}

/// Every operation against f64, on a workspace full of NaN.
#[test]
fn operations() {
    if let Some(cuda) = device() {
        run(cuda, prepared());
    }
}

#[test]
fn samples() {
    if let Some(cuda) = device() {
        sampling::check(cuda).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn only_integers_cross() {
    if let Some(cuda) = device() {
        ledger::check(cuda).unwrap();
    }
}

#[test]
fn bad_batches_are_refused() {
    if let Some(cuda) = device() {
        let n = hostile::check(cuda).unwrap_or_else(|e| panic!("{e:#?}"));
        println!("{n} refused");
    }
}

/// Pages that no sequence holds keep every byte.
#[test]
fn free_pages_are_not_written() {
    if let Some(cuda) = device() {
        let n = check::untouched(cuda, prepared()).unwrap();
        println!("{n} pages looked at");
        assert!(n > 50, "{n} pages looked at");
    }
}
