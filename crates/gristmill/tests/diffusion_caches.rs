//! What the caches of a diffusion change: nothing where they must not, to the bit on the processor and
//! within 1e-3 on the device that `GRISTMILL_TEST_DEVICE` names; and what that proposes by chance. On the
//! bundled model, whose weights know nothing of masks; that matters to the words alone.

mod common;

use gristmill::core::philox;
use gristmill::engine::diffuse::{Blocks, Cache, DiffuseRequest, Ends, Rank, Rule};
use gristmill::ir::{Picked, Surety};
use gristmill::{Cpu, Device, Engine, Model, Settings};

/// The processor, or the device to test.
fn device(settings: &Settings, named: Option<String>) -> Device {
    match named.as_deref().map(|n| n.strip_prefix("wgpu:").and_then(|i| i.parse::<u32>().ok())) {
        None => Device::Cpu(Cpu::new(settings.cpu).unwrap()),
        #[cfg(feature = "wgpu")]
        Some(Some(i)) => {
            let adapter = gristmill::wgpu::choose(Some(i)).unwrap();
            Device::Wgpu(gristmill::Wgpu::new(&adapter, Default::default()).unwrap())
        }
        _ => panic!("GRISTMILL_TEST_DEVICE is {named:?}; it must be wgpu:N"),
    }
}

fn engine_on(settings: Settings, threads: usize, named: Option<String>) -> Engine<Device> {
    let mut settings = Settings { context: 128, max_seqs: 2, whole: true, ..settings };
    settings.cpu.threads = threads;
    let model = Model::bundled().unwrap();
    let program = model.program(settings.kv).unwrap();
    let options = settings.engine_options(settings.context);
    let device = device(&settings, named);
    model.engine_on(device, program, options, false, &mut |_, _| Ok(())).unwrap()
}

fn engine(settings: Settings, threads: usize) -> Engine<Device> {
    engine_on(settings, threads, common::device())
}

/// Precisions: f32 throughout, and what is used unless something else is asked for. With activations
/// of 8 bits what is 1e-6 apart may come out a step apart, so a device is held to the first only.
fn precisions() -> Vec<Settings> {
    match common::device() {
        None => vec![Settings::exact(), Settings::default()],
        Some(_) => vec![Settings::exact()],
    }
}

/// Whether everything is tried. A device that a processor plays takes a tenth of a second and more for a
/// pass, and there are two thousand of them: there one case of each kind is, unless
/// `GRISTMILL_TEST_LONG` is set.
fn whole() -> bool {
    let long = std::env::var_os("GRISTMILL_TEST_LONG").is_some_and(|v| !v.is_empty());
    long || common::device().is_none()
}

/// The first of them on such a device.
fn some<T>(all: &[T]) -> &[T] {
    if whole() { all } else { &all[..1] }
}

/// Ids that are no mask.
fn prompt(n: usize, mask: u32) -> Vec<u32> {
    (0..n as u32).map(|i| philox(3, [i, 0, 0, 0])[0] % mask).collect()
}

/// The text, and every proposal of every pass.
type Run = (Vec<u32>, Vec<Vec<Picked>>);

fn run(engine: &mut Engine<Device>, request: DiffuseRequest) -> Run {
    let mut all = vec![];
    let d = engine.diffuse(request, &mut |d| {
        all.push(d.proposed().to_vec());
        Ok(())
    });
    (d.unwrap().ids().to_vec(), all)
}

/// Checks that two are the same: the texts, and what was proposed so far apart at most.
fn check_same(a: &Run, b: &Run, apart: f32, what: &str) {
    assert_eq!(a.0, b.0, "{what}");
    assert_eq!(a.1.len(), b.1.len(), "{what}");
    let pairs = a.1.iter().flatten().zip(b.1.iter().flatten());
    for (a, b) in pairs {
        let far = (a.confidence - b.confidence).abs().max((a.logprob - b.logprob).abs());
        assert!(a.id == b.id && far <= apart, "{what}: {a:?}, {b:?}");
    }
}

/// To the bit on the processor.
fn apart() -> f32 {
    if common::device().is_some() { 1e-3 } else { 0.0 }
}

/// Block diffusion with the keys and values of whole blocks kept, and with everything run anew in
/// every pass.
#[test]
fn block_diffusion_cached_is_uncached() {
    for settings in precisions() {
        let (mut one, mut two) = (engine(settings.clone(), 1), engine(settings, 2));
        let mask = one.vocab() - 1;
        let sizes = [(24, 8, 13), (32, 4, 8), (40, 16, 31), (9, 16, 0)];
        for &(length, block_length, before) in some(&sizes) {
            let request = DiffuseRequest {
                blocks: Blocks::Causal,
                block_length,
                temperature: 0.8,
                seed: 7,
                ..DiffuseRequest::new(prompt(before, mask), length, mask)
            };
            let subs = Rule::Ancestral { steps: 6 * request.block_count(), eps: 0.0 };
            for rule in [Rule::FirstHitting, Rule::Threshold(0.3), subs] {
                let request = DiffuseRequest { rule, ..request.clone() };
                let uncached = run(&mut one, request.clone());
                let cached =
                    run(&mut two, DiffuseRequest { cache: Cache::Dual, ..request.clone() });
                assert!(uncached.0[before..].iter().all(|&id| id != mask));
                check_same(&cached, &uncached, apart(), &format!("{request:?}"));
            }
        }
    }
}

/// Everything run anew in every pass, whatever is kept, with a threshold that only the surest place
/// passes: the plain algorithm with a step a token. Shifted or not, guided or not.
#[test]
fn caches_run_anew_are_the_plain_algorithm() {
    for settings in precisions() {
        let mut engine = engine(settings, 2);
        let mask = engine.vocab() - 1;
        let length = if whole() { 24 } else { 16 };
        let sureties = [Surety::Probability, Surety::Margin, Surety::Entropy];
        for (i, (shift, guidance)) in [(false, 0.0), (true, 0.0), (false, 1.5)].iter().enumerate() {
            let (shift, guidance) = (*shift, *guidance);
            for &surety in if whole() { &sureties[..] } else { &sureties[i..=i] } {
                let plain = DiffuseRequest {
                    block_length: 8,
                    shift,
                    guidance,
                    rank: Rank::Of(surety),
                    // Weights that know nothing of masks may propose one.
                    end_ids: vec![mask],
                    ends: Ends::Never,
                    ..DiffuseRequest::new(prompt(21, mask), length, mask)
                };
                let expected = run(&mut engine, plain.clone());
                assert_eq!(expected.1.len(), length as usize);
                for cache in [Cache::None, Cache::Prefix, Cache::Dual] {
                    let rule = Rule::Threshold(2.0);
                    let anew = DiffuseRequest { rule, cache, refresh: 1, ..plain.clone() };
                    let what = format!("{cache:?} {surety:?}");
                    check_same(&run(&mut engine, anew), &expected, apart(), &what);
                }
                // Kept for a block they may give another text, with as many passes.
                let kept = DiffuseRequest { cache: Cache::Dual, ..plain };
                assert_eq!(run(&mut engine, kept).1.len(), length as usize);
            }
        }
    }
}

/// By chance a device proposes what the processor does, at every place of every pass, and commits the
/// same: the noise is the seed's. Where two scores are nearer than the logits agree either may come, which
/// with these seeds is nowhere.
#[test]
fn chance_is_the_same_on_a_device() {
    let named = common::device();
    if named.is_none() {
        println!("SKIPPED: GRISTMILL_TEST_DEVICE names no device");
        return;
    }
    let mut cpu = engine_on(Settings::exact(), 2, None);
    let mut other = engine_on(Settings::exact(), 2, named);
    let mask = cpu.vocab() - 1;
    let mut draws = 0;
    for &seed in some(&[1, 2, 3]) {
        for (rank, temperature, top_p, top_k) in [
            (Rank::Random, 0.0, 1.0, 0),
            (Rank::Random, 1.0, 1.0, 0),
            (Rank::Random, 0.7, 0.9, 40),
            (Rank::Of(Surety::Probability), 0.8, 1.0, 0),
            (Rank::Of(Surety::Margin), 1.2, 0.95, 0),
            (Rank::Of(Surety::Entropy), 0.5, 1.0, 20),
        ] {
            let request = DiffuseRequest {
                block_length: 8,
                rank,
                temperature,
                top_p,
                top_k,
                seed,
                end_ids: vec![mask],
                ends: Ends::Never,
                ..DiffuseRequest::new(prompt(13, mask), 24, mask)
            };
            let expected = run(&mut cpu, request.clone());
            draws += expected.1.iter().map(Vec::len).sum::<usize>();
            check_same(&run(&mut other, request.clone()), &expected, 1e-3, &format!("{request:?}"));
        }
    }
    println!("{draws} proposals are the same");
}
