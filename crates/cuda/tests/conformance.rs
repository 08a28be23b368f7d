//! The suite on the very kernels: on a GPU where `GRISTMILL_TEST_CUDA` is set, played on the host where
//! `GRISTMILL_TEST_PLAYED` is, which takes minutes; else it is left out.

mod emulator;

use emulator::Emulator;
use gristmill_conformance::check::{self, Prepared};
use gristmill_conformance::model::Decoder;
use gristmill_conformance::weights::Weights;
use gristmill_conformance::work::{Part, Work};
use gristmill_conformance::{
    Device, Room, cases, hostile, ledger, sampling, selection, short_suite, suite,
};
use gristmill_core::DType;
use gristmill_cuda::{Cuda, CudaOptions, devices};
use gristmill_ir::{Activations, Backend, Layout, Options, SampleBatch, Sampling, Size};
use std::sync::OnceLock;

fn asked(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|v| !v.is_empty())
}

/// Whether a GPU must be there.
fn on_a_gpu() -> bool {
    asked("GRISTMILL_TEST_CUDA")
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
        if !asked("GRISTMILL_TEST_PLAYED") {
            println!("SKIPPED: GRISTMILL_TEST_PLAYED=1 plays a device on the host");
            return None;
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

/// Decoders with caches in 16 bits and heads of 64 and 128 elements, which have kernels of their own: for
/// decoding, with keys in several parts, and for many tokens where products are rounded too, of
/// queries, keys, weights and values.
fn narrow_caches(compute: DType) {
    let Some(cuda) = device() else { return };
    let shapes = [
        (4, 2, 64, DType::F16),
        (8, 1, 64, DType::BF16),
        (3, 3, 128, DType::F16),
        (6, 2, 128, DType::BF16),
    ];
    let case = |(heads, kv_heads, head_dim, kv): (u32, u32, u32, DType)| {
        let windows = vec![None, Some(70)];
        let shape = Decoder { heads, kv_heads, head_dim, kv, ..Decoder::default() };
        let model = Decoder { width: 64, ffn: 96, windows, ..shape };
        let program = model.record().expect("sizes go together");
        let weights = Weights::random(&program, 21, |_| DType::F32);
        let ids = |n: u32, from: u32| (from..from + n).map(|i| i * 7 % model.vocab).collect();
        let part = |seq, at, n| Part::causal(seq, at, ids(n, at));
        let works = vec![
            Work::of(vec![part(0, 0, 90), part(1, 0, 3)]),
            Work::of(vec![part(0, 90, 70), part(1, 3, 5)]),
            Work::of(vec![part(0, 160, 1), part(1, 8, 1)]),
            Work::of(vec![part(1, 9, 1)]),
        ];
        let coarse = if kv == DType::BF16 { 4e-3 } else { 1e-3 };
        let rounded = if kv == DType::BF16 { kv } else { compute };
        let matrices = program.matrices().iter().filter(|&&m| m).count() as f64 + 2.0;
        let more = if compute == DType::F32 { 0.0 } else { 8.0 * roundoff(rounded) * matrices };
        let activations = Activations::F32;
        Prepared::new(cases::Case {
            name: format!("{heads} heads on {kv_heads} of {head_dim} in {kv}"),
            program,
            weights,
            options: Options { compute, activations, batch_invariant: false, ..Options::default() },
            room: Room::of(100, 2),
            works,
            rows: None,
            tolerance: coarse + more,
        })
    };
    let all: Vec<Prepared> = shapes.map(case).into();
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

/// What does not fit is an error that says so, and the device goes on.
#[test]
fn too_much_is_an_error() {
    let Some(cuda) = device() else { return };
    let program = Decoder::default().record().unwrap();
    let mut layout = Layout {
        page_tokens: 32,
        pages: vec![1 << 24],
        host_pages: vec![0],
        slots: 1,
        max: Size { tokens: 4, seqs: 1, rows: 1, one_token_a_seq: false },
        in_flight: 1,
    };
    let said = cuda.create(&program.states, &layout).map(|_| ()).expect_err("it cannot fit");
    assert_eq!(said.exit_code(), 5, "{said}");
    assert!(said.to_string().contains("MiB"), "{said}");
    layout.pages = vec![4];
    cuda.create(&program.states, &layout).map(|_| ()).expect("this fits");
}

/// A decode step is one graph and makes no buffer, though its context grows.
#[test]
fn one_graph_a_step() {
    let Some(cuda) = device() else { return };
    let model = Decoder { width: 64, ffn: 96, ..Decoder::default() };
    let program = model.record().unwrap();
    let weights = Weights::random(&program, 1, |_| DType::F32);
    let room = Room::of(40, 4);
    let mut d = Device::new(cuda, &program, &weights, &Options::default(), &room).unwrap();
    let params = [Sampling { temperature: 0.8, ..Sampling::GREEDY }];
    let b = SampleBatch { params: &params, slots: &[0], ..SampleBatch::default() };
    let mut at = (0, 0);
    for i in 0..20 {
        let step = d.launch(&Work::of(vec![Part::causal(0, i, vec![i + 3])])).unwrap();
        cuda.sample(&mut d.context, step, &b).unwrap();
        assert_eq!(d.finish(step).unwrap().picked.len(), 1);
        let now = (d.context.replays(), cuda.buffers_made());
        if i > 0 {
            assert_eq!(now.0, at.0 + 1, "step {i}");
        }
        // Other tests make theirs beside this one, so only on a device of one's own does this hold.
        if i > 0 && on_a_gpu() {
            assert_eq!(now.1, at.1, "step {i}");
        }
        at = now;
    }
}
