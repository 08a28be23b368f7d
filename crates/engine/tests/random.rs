//! Random requests, cancellations, conversations and failures, on engines of random sizes: every
//! token is what the oracle says, everything ends, and no page is lost.

mod common;

use common::harness::Harness;
use common::*;
use gristmill_core::Error;
use gristmill_engine::*;
use proptest::prelude::*;

/// What a user does; numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Act {
    Submit { len: usize, seed: u64, max_tokens: usize, stop: bool, keep: bool, how: usize },
    GoOn { which: usize, len: usize, cut: Option<usize>, max_tokens: usize, keep: bool },
    Release(usize),
    Cancel(usize),
    Step(usize),
    Fail(Trouble),
}

fn act() -> impl Strategy<Value = Act> {
    let submit = (0usize..50, any::<u64>(), 1usize..20, any::<[bool; 2]>(), 0usize..8).prop_map(
        |(len, seed, max_tokens, [stop, keep], how)| Act::Submit {
            len: len + 1,
            seed,
            max_tokens,
            stop,
            keep,
            how,
        },
    );
    let cut = prop_oneof![2 => Just(None), 1 => (0usize..60).prop_map(Some)];
    let go_on = (any::<usize>(), 0usize..20, cut, 1usize..12, any::<bool>()).prop_map(
        |(which, len, cut, max_tokens, keep)| Act::GoOn { which, len, cut, max_tokens, keep },
    );
    let trouble = prop_oneof![Just(Trouble::Launch), Just(Trouble::Sample), Just(Trouble::Finish)];
    prop_oneof![
        6 => submit,
        4 => go_on,
        2 => any::<usize>().prop_map(Act::Release),
        1 => any::<usize>().prop_map(Act::Cancel),
        6 => (1usize..12).prop_map(Act::Step),
        1 => trouble.prop_map(Act::Fail),
    ]
}

fn model() -> impl Strategy<Value = Model> {
    let windows = prop_oneof![
        Just(vec![None]),
        (1u32..30).prop_map(|w| vec![Some(w)]),
        (1u32..30).prop_map(|w| vec![None, Some(w)]),
        Just(vec![]),
        Just(vec![Some(3), None, Some(17)]),
    ];
    (windows, any::<bool>()).prop_map(|(windows, recurrent)| {
        let recurrent = recurrent || windows.is_empty();
        Model { windows, recurrent }
    })
}

fn options() -> impl Strategy<Value = EngineOptions> {
    let pages = prop_oneof![
        1 => Just(PageCount::Full),
        6 => (4u32..60).prop_map(PageCount::Each),
    ];
    let sizes = (1u32..7, 0u32..20, 1u32..9, 1u32..6, 0u32..4);
    (sizes, pages, 1u32..4).prop_map(|(sizes, pages, in_flight)| {
        let (max_seqs, extra, chunk_multiple, half_page, kept_slots) = sizes;
        EngineOptions {
            context: 100,
            max_seqs,
            token_budget: max_seqs - 1 + chunk_multiple + extra,
            chunk_multiple,
            page_tokens: 2 * half_page,
            pages,
            kept_slots,
            in_flight,
            decode_buckets: vec![2],
            mixed_buckets: vec![5],
            ..EngineOptions::default()
        }
    })
}

/// Ways to choose, some of which need to know the text.
fn sampling(how: usize, seed: u64) -> SamplingParams {
    let hot = SamplingParams { temperature: 0.8, seed, ..SamplingParams::default() };
    let penalties = SamplingParams {
        repeat_penalty: 1.2,
        frequency_penalty: 0.3,
        presence_penalty: -0.7,
        repeat_last_n: (seed % 40) as i32 - 1,
        ..hot.clone()
    };
    let dry = |p: SamplingParams| SamplingParams {
        dry_multiplier: 0.7,
        dry_allowed_length: (seed % 3) as u32,
        dry_penalty_last_n: (seed % 50) as i32 - 1,
        // In no order.
        dry_breakers: vec![vec![3, 1], vec![90], vec![3], vec![3, 1, 2], vec![2, 2]],
        ..p
    };
    let logit_bias = vec![(7, 1.5), (3, -2.0), (7, f32::NEG_INFINITY)];
    match how {
        0 | 1 => hot,
        2 => SamplingParams { logit_bias, ..hot },
        3 => penalties,
        4 => dry(hot),
        5 => SamplingParams { mirostat: Mirostat::V2, ..hot },
        6 => SamplingParams { mirostat: Mirostat::V1, logit_bias, ..dry(penalties) },
        _ => SamplingParams::default(),
    }
}

fn perform(h: &mut Harness, model: &Model, act: &Act) {
    let submitted = match *act {
        Act::Submit { len, seed, max_tokens, stop, keep, how } => {
            // In half of them a few tokens come again and again.
            let mut prompt = text(len, seed);
            if seed % 2 == 0 {
                prompt.iter_mut().for_each(|t| *t %= 4);
            }
            let mut r = Request { keep, ..Request::new(prompt, max_tokens) };
            r.sampling = sampling(how, seed);
            if stop {
                let tokens = expect(model, &r);
                r.stop_ids = vec![tokens[tokens.len() / 2]];
            }
            h.submit(r)
        }
        Act::GoOn { which, len, cut, max_tokens, keep } if !h.kept.is_empty() => {
            let (sequence, tokens) = &h.kept[which % h.kept.len()];
            let cut = cut.map(|c| c.min(tokens.len()));
            if cut.unwrap_or(tokens.len()) + len == 0 {
                return;
            }
            let parent = Some(Parent { sequence: *sequence, len: cut });
            h.submit(Request { parent, keep, ..Request::new(text(len, 3), max_tokens) })
        }
        Act::Release(which) if !h.kept.is_empty() => return h.release(which % h.kept.len()),
        Act::Cancel(which) => {
            let live = h.live();
            if !live.is_empty() {
                h.engine.cancel(live[which % live.len()]); // perhaps for the second time
            }
            return;
        }
        Act::Step(n) => {
            // A failure is reported once, and then everything goes on.
            (0..n).for_each(|_| drop(h.step()));
            return;
        }
        Act::Fail(trouble) => return h.fake.trouble(trouble),
        Act::GoOn { .. } | Act::Release(_) => return,
    };
    match submitted {
        Ok(_) => {}
        // Too long for so few pages, or for the context: refused at once, so nothing waits forever.
        Err(Error::Memory(_) | Error::Usage(_)) => {}
        Err(other) => panic!("{other}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 600,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn everything_is_what_the_oracle_says(
        model in model(),
        options in options(),
        polls in 0u32..2,
        acts in prop::collection::vec(act(), 1..40),
    ) {
        let mut h = Harness::new(&model, options);
        h.fake.slow(polls, Wakes::AtOnce);
        for act in &acts {
            perform(&mut h, &model, act);
        }
        while h.fake.in_trouble() && !h.engine.is_idle() {
            drop(h.step());
        }
        h.run();
        h.close();
    }
}
