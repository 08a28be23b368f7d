//! The suite on the first GPU there is. Where there is none the tests say so and pass, unless
//! `GRISTMILL_TEST_WGPU` is set: then an adapter is required, and one that is a processor will do.
//!
//! With what the adapter offers every case runs; within the limits of WebGPU, in f16 and in pieces the
//! part of them that has everything (`selection`), or with `GRISTMILL_TEST_LONG` every case there too.

#[path = "../../conformance/tests/denoiser/traces.rs"]
mod traces;

use gristmill_conformance::cases::{Case, denoise};
use gristmill_conformance::check::{self, Prepared};
use gristmill_conformance::model::Decoder;
use gristmill_conformance::weights::Weights;
use gristmill_conformance::work::{Part, Work};
use gristmill_conformance::{Device, Room, hostile, invariance, ledger, sampling, suite};
use gristmill_core::DType;
use gristmill_ir::{Activations, Backend, Layout, Options, SampleBatch, Sampling, Size};
use gristmill_wgpu::{Shapes, Wgpu, WgpuOptions, adapters};
use std::sync::OnceLock;

fn open(options: WgpuOptions) -> Option<Wgpu> {
    let required = std::env::var_os("GRISTMILL_TEST_WGPU").is_some_and(|v| !v.is_empty());
    let suits = |a: &gristmill_wgpu::Adapter| a.lacks().is_none() && (required || !a.is_software());
    let Some(adapter) = adapters().into_iter().find(suits) else {
        assert!(!required, "GRISTMILL_TEST_WGPU is set, and no adapter was found");
        println!("SKIPPED: there is no GPU with Vulkan, Metal or DX12 here");
        return None;
    };
    println!("on {}", adapter.name());
    Some(Wgpu::new(&adapter, options).expect("the device opens"))
}

/// One device for all tests: its pipelines are compiled once.
fn device() -> Option<&'static Wgpu> {
    static DEVICE: OnceLock<Option<Wgpu>> = OnceLock::new();
    let poison = WgpuOptions { poison: true, ..WgpuOptions::default() };
    DEVICE.get_or_init(|| open(poison)).as_ref()
}

/// What does not fit is an error that says so, and the device goes on.
#[test]
fn too_much_is_an_error() {
    let Some(wgpu) = device() else { return };
    let program = Decoder::default().record().unwrap();
    let mut layout = Layout {
        page_tokens: 32,
        pages: vec![1 << 22],
        host_pages: vec![0],
        slots: 1,
        max: Size { tokens: 4, seqs: 1, rows: 1, one_token_a_seq: false },
        in_flight: 1,
    };
    let said = wgpu.create(&program.states, &layout).map(|_| ()).expect_err("it cannot fit");
    assert_eq!(said.exit_code(), 5, "{said}");
    assert!(said.to_string().contains("MiB"), "{said}");
    layout.pages = vec![4];
    wgpu.create(&program.states, &layout).map(|_| ()).expect("this fits");
}

fn prepared() -> &'static [Prepared] {
    static SUITE: OnceLock<Vec<Prepared>> = OnceLock::new();
    SUITE.get_or_init(suite)
}

/// The part of them that has everything, or all.
fn some() -> Vec<Prepared> {
    let long = std::env::var_os("GRISTMILL_TEST_LONG").is_some_and(|v| !v.is_empty());
    if long { prepared().to_vec() } else { check::short_of(prepared()) }
}

fn run(wgpu: &Wgpu, all: &[Prepared]) {
    let only = std::env::var("GRISTMILL_TEST_CASE").unwrap_or_default();
    let some = all.iter().filter(|p| p.case.name.contains(&only));
    let report = check::run(wgpu, some);
    let (worst, of) = &report.worst;
    println!(
        "{} cases, {} steps, {} left out; the worst uses {:.0} % of its tolerance: {of}",
        report.ran,
        report.steps,
        report.left_out,
        100.0 * worst
    );
    for f in &report.failures {
        println!("{f}");
    }
    assert_eq!(report.left_out, 0, "everything runs here");
    assert_eq!(report.failures.len(), 0, "see above");
}

/// Every operation against f64, on a workspace full of NaN.
#[test]
fn operations() {
    if let Some(wgpu) = device() {
        run(wgpu, prepared());
    }
}

/// The same with numbers multiplied as f16, where the adapter does that.
#[test]
fn operations_in_f16() {
    if let Some(wgpu) = device() {
        in_f16(wgpu);
    }
}

/// The same on units that multiply matrices, where the adapter has some: of both sizes of tiles that are
/// furthest apart.
#[test]
fn operations_on_matrix_units() {
    for units in [[32, 32], [128, 64]] {
        let shapes = Some(Shapes { units, ..Shapes::default() });
        let options = WgpuOptions { poison: true, shapes, ..WgpuOptions::default() };
        let Some(wgpu) = open(options) else { return };
        if !wgpu.multiplies_matrices() {
            println!("SKIPPED: {} has no units that multiply matrices of f16", wgpu.name());
            return;
        }
        in_f16(&wgpu);
    }
}

fn in_f16(wgpu: &Wgpu) {
    if !wgpu.capabilities().compute.contains(&DType::F16) {
        println!("SKIPPED: {} has no f16 in shaders", wgpu.name());
        return;
    }
    let f32 = |p: &&Prepared| p.case.options.activations == Activations::F32;
    let with_matrices = |p: &&Prepared| p.case.program.matrices().contains(&true);
    let some: Vec<Prepared> = some().iter().filter(f32).filter(with_matrices).cloned().collect();
    run(wgpu, &check::in_precision(&some, DType::F16));
}

/// The same with no more than what WebGPU promises everywhere.
#[test]
fn operations_within_default_limits() {
    let options =
        WgpuOptions { default_limits: true, plain: true, poison: true, ..WgpuOptions::default() };
    if let Some(wgpu) = open(options) {
        run(&wgpu, &some());
    }
}

/// The logits of a sequence are the same to 1e-3 alone and among others, however its prompt is cut.
#[test]
fn batches_make_no_difference() {
    let Some(wgpu) = device() else { return };
    for subject in invariance::subjects().iter().filter(|s| s.is_f32()) {
        let apart = subject.apart(wgpu).unwrap_or_else(|e| panic!("{e}"));
        println!("{}: {apart:.1e}", subject.name);
        assert!(apart < 1e-3, "{}: {apart}", subject.name);
    }
}

/// Matrices larger than what a kernel can see at once: here, than a few rows.
#[test]
fn matrices_in_pieces() {
    let options = WgpuOptions { largest_piece: Some(6000), ..WgpuOptions::default() };
    let Some(wgpu) = open(options) else { return };
    let mut ran = 0;
    for p in &some() {
        let Case { program, weights, .. } = &p.case;
        let bytes = |d| weights.tensor(d).map_or(0, |t| t.bytes().len());
        let sizes: Vec<usize> = program.tensors.iter().map(bytes).collect();
        // Some matrix in pieces, and none in very many.
        let most = sizes.iter().copied().max().unwrap_or(0);
        let runs = p.runs_on(&wgpu.capabilities());
        let long = program.tensors.iter().any(|t| t.cols > 1200);
        if runs && !long && (6000..48_000).contains(&most) && sizes.iter().sum::<usize>() < 96_000 {
            p.check(&wgpu).unwrap_or_else(|e| panic!("{}: {e}", p.case.name));
            ran += 1;
        }
    }
    println!("{ran} cases");
    assert!(ran > 40, "{ran} cases");
}

/// Pages that no sequence holds keep every byte.
#[test]
fn free_pages_are_not_written() {
    if let Some(wgpu) = device() {
        let n = check::untouched(wgpu, &some()).unwrap();
        assert!(n > 50, "{n} pages looked at");
    }
}

#[test]
fn samples() {
    if let Some(wgpu) = device() {
        sampling::check(wgpu).unwrap_or_else(|e| panic!("{e}"));
    }
}

/// Tokens for masked places, one by one, and many of each kind: as many as lavapipe draws in seconds.
#[test]
fn proposals() {
    let Some(wgpu) = device() else { return };
    sampling::unmask::check(wgpu).unwrap_or_else(|e| panic!("{e}"));
    sampling::unmask::frequencies(wgpu, 50_000).unwrap_or_else(|e| panic!("{e}"));
}

/// A Gaussian denoiser against numpy in f64; and its own noise is that of the definition.
#[test]
fn a_denoiser() {
    let Some(wgpu) = device() else { return };
    traces::block(wgpu.name(), wgpu.clone());
    traces::fifty_steps(wgpu.name(), &mut || wgpu.clone());
    let one = traces::drawn(wgpu.clone(), 5);
    assert!(one.iter().all(|v| v.is_finite()));
    assert!(traces::far(&one, &traces::drawn(wgpu.clone(), 6)) > 0.1);
}

/// A decode step is one submission and makes no buffer.
#[test]
fn one_submission_a_step() {
    let Some(wgpu) = &open(WgpuOptions::default()) else { return };
    let model = Decoder { width: 64, ffn: 96, ..Decoder::default() };
    let program = model.record().unwrap();
    let weights = Weights::random(&program, 1, |_| DType::F32);
    let room = Room::of(40, 4);
    let mut d = Device::new(wgpu, &program, &weights, &Options::default(), &room).unwrap();
    let params = [Sampling { temperature: 0.8, ..Sampling::GREEDY }];
    let b = SampleBatch { params: &params, slots: &[0], ..SampleBatch::default() };
    let mut at = (0, 0);
    for i in 0..20 {
        let step = d.launch(&Work::of(vec![Part::causal(0, i, vec![i + 3])])).unwrap();
        wgpu.sample(&mut d.context, step, &b).unwrap();
        assert_eq!(d.finish(step).unwrap().picked.len(), 1);
        let now = (d.context.submissions(), wgpu.buffers_made());
        // The first step binds what was not bound before.
        if i > 0 {
            assert_eq!(now, (at.0 + 1, at.1), "step {i}");
        }
        at = now;
    }
}

/// So is a step of a denoiser.
#[test]
fn one_submission_a_denoise_step() {
    // Of its own, since others make buffers on theirs.
    let Some(wgpu) = &open(WgpuOptions::default()) else { return };
    let Case { program, weights, options, room, works, .. } = denoise::chain(64, false);
    let mut d = Device::new(wgpu, &program, &weights, &options, &room).unwrap();
    for (i, work) in works.iter().enumerate() {
        let before = (d.context.submissions(), wgpu.buffers_made());
        let step = d.launch(work).unwrap();
        d.finish(step).unwrap();
        let now = (d.context.submissions(), wgpu.buffers_made());
        assert_eq!(now.0, before.0 + 1, "step {i}");
        // Each of the two that steps take in turns makes room for the rows of the host once.
        assert!(i < 2 || now.1 == before.1, "step {i} makes a buffer");
    }
}

#[test]
fn only_integers_cross() {
    if let Some(wgpu) = device() {
        ledger::check(wgpu).unwrap();
    }
}

#[test]
fn bad_batches_are_refused() {
    if let Some(wgpu) = device() {
        let n = hostile::check(wgpu).unwrap_or_else(|e| panic!("{e:#?}"));
        println!("{n} refused");
    }
}
