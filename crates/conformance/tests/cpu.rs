//! The suite on the CPU backend, for every instruction set of this machine.

use gristmill_conformance::check::{self, Prepared};
use gristmill_conformance::model::Decoder;
use gristmill_conformance::weights::Weights;
use gristmill_conformance::{
    Device, Room, hostile, invariance, ledger, sampling, short_suite, suite,
};
use gristmill_core::DType;
use gristmill_cpu::{Cpu, CpuOptions, Isa};
use gristmill_ir::{Options, StateKind};
use std::sync::OnceLock;

/// WebAssembly has no threads.
const MOST_THREADS: usize = if cfg!(target_family = "wasm") { 1 } else { 16 };

fn cpu(isa: Isa, threads: usize, poison: bool) -> Cpu {
    let threads = threads.min(MOST_THREADS);
    Cpu::new(CpuOptions { isa, threads, poison }).expect("the instruction set is available")
}

/// The instruction sets of this machine; of them those that `GRISTMILL_TEST_SETS` names, if it does
/// (`best`: the one that would be chosen): under an emulator the plainest ones take most of the time.
fn sets() -> Vec<Isa> {
    let names = std::env::var("GRISTMILL_TEST_SETS").unwrap_or_default();
    let named = |i: &Isa, n: &str| n == i.name() || n == "best" && *i == Isa::best();
    let chosen = |i: &Isa| names.is_empty() || names.split(',').any(|n| named(i, n));
    let sets: Vec<Isa> = Isa::available().filter(chosen).collect();
    assert!(!sets.is_empty(), "this machine has none of {names}");
    sets
}

/// Whether `GRISTMILL_TEST_SHORT` asks for a part of the suite.
fn short() -> bool {
    std::env::var_os("GRISTMILL_TEST_SHORT").is_some_and(|v| !v.is_empty())
}

fn prepared() -> &'static [Prepared] {
    static SUITE: OnceLock<Vec<Prepared>> = OnceLock::new();
    SUITE.get_or_init(if short() { short_suite } else { suite })
}

/// Every operation against f64, on states and a workspace full of NaN.
#[test]
fn operations() {
    let mut failed = 0;
    for isa in sets() {
        let report = check::run(&cpu(isa, 2, true), prepared());
        let (worst, of) = &report.worst;
        println!(
            "{isa}: {} cases, {} steps, {} left out; the worst uses {:.0} % of its tolerance: {of}",
            report.ran,
            report.steps,
            report.left_out,
            100.0 * worst
        );
        for f in &report.failures {
            println!("{isa}: {f}");
        }
        assert_eq!(report.left_out, 0, "the CPU runs everything here");
        failed += report.failures.len();
    }
    assert_eq!(failed, 0, "see above");
}

/// What memory held before makes no difference, to the bit.
#[test]
fn poison_changes_nothing() {
    let isa = Isa::best();
    let (clean, poisoned) = (cpu(isa, 1, false), cpu(isa, 2, true));
    for p in prepared().iter().filter(|p| !p.case.name.contains("linear")) {
        let (a, b) = (p.results(&clean), p.results(&poisoned));
        assert_eq!(a.unwrap(), b.unwrap(), "{}", p.case.name);
    }
}

/// Pages that no sequence holds keep every byte.
#[test]
fn free_pages_are_not_written() {
    for isa in sets() {
        let n = check::untouched(&cpu(isa, 2, true), prepared()).unwrap();
        assert!(n > if short() { 50 } else { 500 }, "{n} pages looked at");
    }
}

#[test]
fn batch_invariance() {
    let mut failures = vec![];
    for isa in sets() {
        for subject in invariance::subjects() {
            match subject.check(&mut |threads| cpu(isa, threads, false)) {
                Ok(rows) => println!("{isa}: {}: {rows} rows are the same bits", subject.name),
                Err(e) => failures.push(format!("{isa}: {e}")),
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// What the CPU cannot store is refused when a plan is compiled, by name, with the way out.
#[test]
fn caches_of_two_types_are_refused() {
    let cpu = cpu(Isa::best(), 1, false);
    for (k, v) in [(DType::F16, DType::BF16), (DType::F32, DType::F16), (DType::Q8_0, DType::Q8_0)]
    {
        let mut program = Decoder::default().record().unwrap();
        for state in &mut program.states {
            if let StateKind::Paged { k_type, v_type, .. } = state {
                (*k_type, *v_type) = (k, v);
            }
        }
        let weights = Weights::random(&program, 1, |_| DType::F32);
        let made =
            Device::new(&cpu, &program, &weights, &Options::default(), &Room::of(8, 1)).map(|_| ());
        let said = made.expect_err("it cannot run").to_string();
        let named = [k, v].iter().all(|t| said.contains(&t.to_string()));
        assert!(named && said.contains("0.qkv") && said.contains("BF16"), "{said}");
    }
}

#[test]
fn samples() {
    for isa in sets() {
        sampling::check(&cpu(isa, 2, true)).unwrap_or_else(|e| panic!("{isa}: {e}"));
    }
}

/// A million draws of each kind are as frequent as they are likely. What follows the logits is the
/// same on every instruction set, so one is enough.
#[test]
fn frequencies() {
    let drawn: Vec<_> = sampling::params().into_iter().filter(|p| p.temperature > 0.0).collect();
    sampling::frequencies::check(&cpu(Isa::best(), 1, false), &drawn).unwrap();
}

/// Tokens for masked places, one by one on every instruction set, and a million of each kind.
#[test]
fn proposals() {
    for isa in sets() {
        sampling::unmask::check(&cpu(isa, 2, true)).unwrap_or_else(|e| panic!("{isa}: {e}"));
    }
    sampling::unmask::frequencies(&cpu(Isa::best(), 1, false), 1_000_000).unwrap();
}

#[test]
fn only_integers_cross() {
    ledger::check(&cpu(Isa::best(), 2, true)).unwrap();
}

#[test]
fn bad_batches_are_refused() {
    let n = hostile::check(&cpu(Isa::best(), 1, true)).unwrap_or_else(|e| panic!("{e:#?}"));
    println!("{n} refused");
}
