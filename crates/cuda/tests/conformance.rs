//! The suite on the very kernels, played on the host; on a GPU where `GRISTMILL_TEST_CUDA` is set.

mod emulator;

use emulator::Emulator;
use gristmill_conformance::check::{self, Prepared};
use gristmill_conformance::{cases, hostile, ledger, sampling, selection, short_suite, suite};
use gristmill_core::DType;
use gristmill_cuda::{Cuda, CudaOptions, devices};
use gristmill_ir::{Activations, Backend, Op, StateKind};
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

/// Half a unit in the last place of a number near one in this type.
fn roundoff(dtype: DType) -> f64 {
    if dtype == DType::F16 { 2f64.powi(-11) } else { 2f64.powi(-8) }
}

/// The same with numbers multiplied as f16 and as bf16 where there are many rows. A product of two
/// rounded numbers is off by three roundings: by eight with the values between, for each matrix on the
/// way from the inputs to a result.
fn operations_in(compute: DType) {
    let Some(cuda) = device() else { return };
    let mut some = selection::short(cases::all());
    some.retain(|c| c.options.activations == Activations::F32);
    some.retain(|c| c.program.matrices().contains(&true));
    for case in &mut some {
        let matrices = case.program.matrices().iter().filter(|&&m| m).count();
        case.options.compute = compute;
        case.tolerance += 8.0 * roundoff(compute) * matrices as f64;
    }
    let all: Vec<Prepared> = some.into_iter().map(Prepared::new).collect();
    run(cuda, &all);
}

#[test]
fn operations_in_f16() {
    operations_in(DType::F16);
}

#[test]
fn operations_in_bf16() {
    operations_in(DType::BF16);
}

/// Caches in 16 bits with heads of 64 and 128 elements, which have kernels of their own: for decoding,
/// and for many tokens where products are rounded too, of queries, keys, weights and values.
fn narrow_caches(compute: DType) {
    let Some(cuda) = device() else { return };
    let mut some = cases::all();
    some.retain(|c| {
        let narrow = |s: &StateKind| {
            matches!(s, StateKind::Paged { k_type, v_type, .. }
                if *k_type != DType::F32 && *v_type != DType::F32)
        };
        let fits = |op: &Op| {
            matches!(op, Op::Attention { head_dim, .. } if [64, 128].contains(head_dim))
        };
        c.program.states.iter().any(narrow) && c.program.nodes.iter().any(|n| fits(&n.op))
    });
    some.sort_by_cached_key(selection::cost);
    some.truncate(if on_a_gpu() { usize::MAX } else { 12 });
    assert!(!some.is_empty(), "there are such cases");
    for case in &mut some {
        case.options.compute = compute;
        if compute != DType::F32 {
            let matrices = case.program.matrices().iter().filter(|&&m| m).count();
            // Keys in bf16 are multiplied as such.
            let coarse = case.program.states.iter().any(|s| {
                matches!(s, StateKind::Paged { k_type: DType::BF16, .. })
            });
            let element = if coarse { DType::BF16 } else { compute };
            case.tolerance += 8.0 * roundoff(element) * (matrices + 2) as f64;
        }
    }
    let all: Vec<Prepared> = some.into_iter().map(Prepared::new).collect();
    run(cuda, &all);
}

#[test]
fn narrow_caches_exactly() {
    narrow_caches(DType::F32);
}

#[test]
fn narrow_caches_in_f16() {
    narrow_caches(DType::F16);
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
