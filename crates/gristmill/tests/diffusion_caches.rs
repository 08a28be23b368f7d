//! What the caches of a diffusion change: nothing where they must not, to the bit. On the bundled
//! model, whose weights know nothing of masks; that matters to the words alone.

use gristmill::core::philox;
use gristmill::engine::diffuse::{Blocks, Cache, DiffuseRequest, Rank, Rule};
use gristmill::ir::{Picked, Surety};
use gristmill::{Device, Engine, Model, Settings};

fn engine(settings: Settings, threads: usize) -> Engine<Device> {
    let mut settings = Settings { context: 128, max_seqs: 2, whole: true, ..settings };
    settings.cpu.threads = threads;
    Model::bundled().unwrap().engine(&settings).unwrap()
}

/// Precisions: f32 throughout, and what is used unless something else is asked for.
fn precisions() -> [Settings; 2] {
    [Settings::exact(), Settings::default()]
}

/// Ids that are no mask.
fn prompt(n: usize, mask: u32) -> Vec<u32> {
    (0..n as u32).map(|i| philox(3, [i, 0, 0, 0])[0] % mask).collect()
}

/// The text, and every proposal of every pass as bits.
fn run(engine: &mut Engine<Device>, request: DiffuseRequest) -> (Vec<u32>, Vec<Vec<[u32; 3]>>) {
    let mut all = vec![];
    let bits = |p: &Picked| [p.id, p.confidence.to_bits(), p.logprob.to_bits()];
    let d = engine.diffuse(request, &mut |d| {
        all.push(d.proposed().iter().map(bits).collect());
        Ok(())
    });
    (d.unwrap().ids().to_vec(), all)
}

/// Block diffusion with the keys and values of whole blocks kept, and with everything run anew in
/// every pass.
#[test]
fn block_diffusion_cached_is_uncached() {
    for settings in precisions() {
        let (mut one, mut two) = (engine(settings.clone(), 1), engine(settings, 2));
        let mask = one.vocab() - 1;
        for (length, block_length, before) in [(32, 4, 8), (24, 8, 13), (40, 16, 31), (9, 16, 0)] {
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
                assert_eq!(cached, uncached, "{request:?}");
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
        for (shift, guidance) in [(false, 0.0), (true, 0.0), (false, 1.5)] {
            for surety in [Surety::Probability, Surety::Margin, Surety::Entropy] {
                let plain = DiffuseRequest {
                    block_length: 8,
                    shift,
                    guidance,
                    rank: Rank::Of(surety),
                    // Weights that know nothing of masks may propose one.
                    end_ids: vec![mask],
                    ends: gristmill::engine::diffuse::Ends::Never,
                    ..DiffuseRequest::new(prompt(21, mask), 24, mask)
                };
                let expected = run(&mut engine, plain.clone());
                assert_eq!(expected.1.len(), 24);
                for cache in [Cache::None, Cache::Prefix, Cache::Dual] {
                    let rule = Rule::Threshold(2.0);
                    let anew = DiffuseRequest { rule, cache, refresh: 1, ..plain.clone() };
                    assert_eq!(run(&mut engine, anew), expected, "{cache:?} {surety:?}");
                }
                // Kept for a block they may give another text, with as many passes.
                let kept = DiffuseRequest { cache: Cache::Dual, ..plain };
                assert_eq!(run(&mut engine, kept).1.len(), 24);
            }
        }
    }
}
