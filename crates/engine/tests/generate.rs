//! Requests run by the engine over the fake device give what the oracle says.

mod common;

use common::harness::Harness;
use common::*;
use gristmill_core::Error;
use gristmill_engine::*;

fn request(len: usize, seed: u64, max_tokens: usize) -> Request {
    Request::new(text(len, seed), max_tokens)
}

#[test]
fn one_request() {
    for model in [plain(), everything()] {
        for in_flight in [1, 2, 3] {
            let mut h = Harness::new(&model, EngineOptions { in_flight, ..small() });
            h.submit(request(37, 1, 30)).unwrap();
            h.run();
            assert_eq!(h.finished[0].2.len(), 30);
            h.close();
            let (lasts, copies) = h.fake.counts();
            assert_eq!((lasts, copies), (29, 0), "every token after the first came from its slot");
            assert_eq!(h.engine.snapshot().tokens, 37 + 29, "the last token is not computed");
        }
    }
}

#[test]
fn many_requests_in_few_pages() {
    for in_flight in [1, 2, 3] {
        let pages = PageCount::Each(20);
        let options = EngineOptions { pages, in_flight, max_seqs: 6, token_budget: 20, ..small() };
        let mut h = Harness::new(&plain(), options);
        for i in 0..12 {
            h.submit(request(3 + 4 * i, i as u64, 20)).unwrap();
        }
        h.run();
        assert!(h.engine.snapshot().preemptions > 0, "the test is to preempt");
        h.close();
    }
}

#[test]
fn first_come_first_served() {
    let mut h = Harness::new(&plain(), EngineOptions { pages: PageCount::Each(12), ..small() });
    let ids: Vec<_> = (0..8).map(|i| h.submit(request(20, i, 5)).unwrap()).collect();
    h.run();
    assert_eq!(h.finished.iter().map(|f| f.0).collect::<Vec<_>>(), ids);
}

#[test]
fn who_gave_way_goes_on_before_those_that_wait() {
    let options = EngineOptions { pages: PageCount::Each(16), max_seqs: 3, ..small() };
    let mut h = Harness::new(&plain(), options);
    let ids: Vec<_> = (0..7).map(|i| h.submit(request(8, i, 40)).unwrap()).collect();
    h.run();
    assert!(h.engine.snapshot().preemptions > 0, "the test is to preempt");
    assert_eq!(h.finished.iter().map(|f| f.0).collect::<Vec<_>>(), ids);
}

#[test]
fn an_engine_moves_between_threads() {
    let (mut engine, fake) = engine(&plain(), small());
    fake.slow(1, Wakes::FromAnotherThread);
    engine.submit(request(8, 1, 4)).unwrap();
    engine.step(&mut vec![]).unwrap();
    let rest = std::thread::spawn(move || engine.run_to_end().unwrap());
    assert_eq!(rest.join().unwrap().len(), 3);
}

#[test]
fn windows_bound_the_pages_of_long_texts() {
    let model = Model { windows: vec![Some(6)], recurrent: false };
    let options = EngineOptions { pages: PageCount::Each(4), max_seqs: 1, ..small() };
    let mut h = Harness::new(&model, options);
    h.submit(request(100, 1, 60)).unwrap();
    h.run();
    assert!(h.engine.snapshot().pages[0].peak <= 4);
    h.close();
}

#[test]
fn stops_and_lengths() {
    let model = plain();
    let mut h = Harness::new(&model, small());
    let mut r = request(10, 5, 40);
    let all = expect(&model, &r);
    r.stop_ids = vec![all[7], VOCAB + 5];
    let first = all.iter().position(|t| *t == all[7]).unwrap();
    h.submit(r.clone()).unwrap();
    r.max_tokens = 1;
    r.stop_ids.clear();
    h.submit(r.clone()).unwrap();
    // Longer than the context: ends when it is full.
    r.max_tokens = usize::MAX;
    h.submit(r).unwrap();
    h.run();
    let mut ends: Vec<_> = h.finished.iter().map(|f| (f.0.0, f.1, f.2.len())).collect();
    ends.sort_by_key(|e| e.0);
    let full = 200 - 10;
    let expected =
        [(0, Finish::Stop, first + 1), (1, Finish::Length, 1), (2, Finish::Length, full)];
    assert_eq!(ends, expected);
}

#[test]
fn sampling_reaches_the_device() {
    let model = plain();
    let run = |seed| {
        let mut h = Harness::new(&model, small());
        let mut r = request(9, 1, 12);
        r.sampling = SamplingParams { temperature: 0.7, seed, ..SamplingParams::default() };
        h.submit(r).unwrap();
        h.run();
        h.finished.remove(0).2
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn events_carry_log_probabilities() {
    let model = plain();
    let (mut engine, _) = engine(&model, small());
    let id = engine.submit(request(9, 1, 1)).unwrap();
    let events = engine.run_to_end().unwrap();
    let h = oracle(&model, &text(9, 1));
    let token = Some(pick(h, 0.0, 0, 9, 0));
    let finish = Some(Finish::Length);
    assert_eq!(events, [Event { id, token, logprob: logprob(h), finish, sequence: None }]);
}

#[test]
fn cancelling_at_every_moment() {
    for in_flight in [1, 2] {
        for steps in 0..12 {
            let options = EngineOptions { in_flight, max_seqs: 2, ..small() };
            let mut h = Harness::new(&everything(), options);
            let ids: Vec<_> = (0..3)
                .map(|i| {
                    let keep = i == 1;
                    h.submit(Request { keep, ..request(30, i, 6) }).unwrap()
                })
                .collect();
            for _ in 0..steps {
                h.step().unwrap();
            }
            let cancelled: Vec<bool> = ids.iter().map(|&id| h.engine.cancel(id)).collect();
            assert_eq!(cancelled.iter().filter(|c| **c).count(), 3 - h.finished.len());
            h.run();
            assert!(ids.iter().all(|&id| !h.engine.cancel(id)));
            // What was kept goes on as if nothing had happened.
            let sequence = h.kept[0].0;
            let parent = Some(Parent { sequence, len: None });
            h.submit(Request { parent, ..request(5, 9, 5) }).unwrap();
            h.run();
            h.close();
        }
    }
}

#[test]
fn conversations_go_on_without_running_again() {
    for model in [plain(), everything()] {
        let mut h = Harness::new(&model, small());
        h.submit(Request { keep: true, ..request(50, 1, 10) }).unwrap();
        h.run();
        for turn in 0..4 {
            let before = h.engine.snapshot().tokens;
            let parent = Some(Parent { sequence: h.kept[0].0, len: None });
            h.submit(Request { keep: true, parent, ..request(7, turn, 6) }).unwrap();
            h.release(0); // the child takes the place of the only parent
            h.run();
            let ran = h.engine.snapshot().tokens - before;
            assert_eq!(ran, 1 + 7 + 5, "the last token, the new ones, and all but the last");
        }
        assert_eq!(h.fake.counts().1, 0, "nothing was copied");
        h.close();
    }
}

#[test]
fn a_kept_sequence_has_many_children() {
    for model in [plain(), everything()] {
        for in_flight in [1, 2] {
            let mut h = Harness::new(&model, EngineOptions { in_flight, ..small() });
            h.submit(Request { keep: true, ..request(21, 1, 6) }).unwrap();
            h.run();
            let before = h.engine.snapshot().tokens;
            let parent = Some(Parent { sequence: h.kept[0].0, len: None });
            for seed in 0..3 {
                h.submit(Request { parent, ..request(6, seed, 9) }).unwrap();
            }
            h.run();
            let ran = h.engine.snapshot().tokens - before;
            assert_eq!(ran, 3 * (1 + 6 + 8));
            assert!(h.fake.counts().1 >= 3, "each copied the page it went on in");
            h.close();
        }
    }
}

#[test]
fn a_conversation_is_taken_back() {
    let model = Model { windows: vec![None, Some(6)], recurrent: false };
    let mut h = Harness::new(&model, small());
    h.submit(Request { keep: true, ..request(40, 1, 10) }).unwrap();
    h.run();
    let sequence = h.kept[0].0;
    for len in [0, 1, 13, 40, 47, 49, 50] {
        let parent = Some(Parent { sequence, len: Some(len) });
        h.submit(Request { parent, ..request(3, 2, 9) }).unwrap();
        h.run();
    }
    // With nothing new, the last token's scores are computed once more.
    let parent = Some(Parent { sequence, len: None });
    h.submit(Request { parent, ..Request::new(vec![], 3) }).unwrap();
    h.run();
    h.close();
    // The same where the child takes the parent's place.
    for len in [13, 48] {
        let mut h = Harness::new(&plain(), small());
        h.submit(Request { keep: true, ..request(40, 1, 10) }).unwrap();
        h.run();
        let parent = Some(Parent { sequence: h.kept[0].0, len: Some(len) });
        h.submit(Request { parent, ..request(3, 2, 9) }).unwrap();
        h.release(0);
        h.run();
        h.close();
        assert_eq!(h.engine.snapshot().tokens, 49 + 3 + 8);
    }
}

#[test]
fn kept_sequences_give_way() {
    for model in [plain(), everything()] {
        let options = EngineOptions { pages: PageCount::Each(16), kept_slots: 1, ..small() };
        let mut h = Harness::new(&model, options);
        for i in 0..5 {
            h.submit(Request { keep: true, ..request(30, i, 10) }).unwrap();
        }
        h.run();
        for i in 0..5 {
            let parent = Some(Parent { sequence: h.kept[i].0, len: None });
            h.submit(Request { parent, ..request(4, 1, 8) }).unwrap();
        }
        h.run();
        h.close();
    }
}

#[test]
fn a_failing_device_loses_nothing() {
    for trouble in [Trouble::Launch, Trouble::Sample, Trouble::Finish] {
        for in_flight in [1, 2] {
            for at in [0, 2, 5, 9] {
                let mut h = Harness::new(&everything(), EngineOptions { in_flight, ..small() });
                for i in 0..4 {
                    let keep = i == 0;
                    h.submit(Request { keep, ..request(18, i, 8) }).unwrap();
                }
                for _ in 0..at {
                    h.step().unwrap();
                }
                h.fake.trouble(trouble);
                let failed = (0..3).filter(|_| h.step().is_err()).count();
                assert_eq!(failed, 1, "the failure is reported once");
                h.run();
                h.close();
            }
        }
    }
}

#[test]
fn a_launch_that_fails_is_not_timed() {
    for in_flight in [1, 2] {
        let mut h = Harness::new(&plain(), EngineOptions { in_flight, ..small() });
        h.engine.profile(true).unwrap();
        // Steps of 16, 16, 5 and then single tokens, from the beginning again after the failure.
        h.submit(request(37, 1, 4)).unwrap();
        h.step().unwrap();
        h.fake.trouble(Trouble::Launch);
        let failed = (0..3).filter(|_| h.step().is_err()).count();
        assert_eq!(failed, 1, "the failure is reported once");
        h.run();
        h.close();
        let timed = h.engine.timed();
        assert!(timed.len() >= 6 && timed.is_sorted_by_key(|t| t.start));
        for t in timed {
            assert_eq!(t.times.ends, [u64::from(t.tokens)], "the times are of another step");
        }
    }
}

#[test]
fn a_slow_device_is_waited_for() {
    for in_flight in [1, 2] {
        let mut h = Harness::new(&plain(), EngineOptions { in_flight, ..small() });
        h.fake.slow(2, Wakes::FromAnotherThread);
        h.submit(request(10, 1, 5)).unwrap();
        h.submit(request(12, 2, 5)).unwrap();
        h.run();
        h.close();
    }
}

#[test]
fn polling_does_not_wait() {
    let (mut engine, fake) = engine(&plain(), small());
    fake.slow(1, Wakes::AtOnce);
    engine.submit(request(4, 1, 2)).unwrap();
    let (mut events, waker) = (vec![], std::task::Waker::noop());
    assert!(engine.poll(&mut events, waker).unwrap().is_pending());
    assert!(engine.poll(&mut events, waker).unwrap().is_ready());
    assert_eq!(events.len(), 1);
}

#[test]
fn buckets_hold_every_step() {
    let (decode_buckets, mixed_buckets) = (vec![1, 2], vec![4, 8]);
    let options = EngineOptions { decode_buckets, mixed_buckets, ..small() };
    let mut h = Harness::new(&everything(), options);
    for i in 0..6 {
        h.submit(request(1 + 3 * i, i as u64, 7)).unwrap();
    }
    h.run();
    h.close();
}

#[test]
fn results_are_twelve_bytes_a_token() {
    let mut h = Harness::new(&plain(), small());
    h.submit(request(20, 1, 9)).unwrap();
    h.run();
    let ledger = h.engine.snapshot().ledger;
    assert_eq!((ledger.results, ledger.vectors), (12 * 9, 0));
}

#[test]
fn refused_requests() {
    let options = EngineOptions { pages: PageCount::Each(10), ..small() };
    let (mut engine, _) = engine(&plain(), options);
    let sampling = |f: fn(&mut SamplingParams)| {
        let mut r = request(3, 1, 3);
        f(&mut r.sampling);
        r
    };
    let parent = Some(Parent { sequence: SequenceId(3), len: None });
    let usage = [
        (request(0, 1, 3), "the prompt is empty"),
        (request(3, 1, 0), "max_tokens is 0"),
        (request(200, 1, 3), "has 200 tokens and the context holds 200"),
        (Request::new(vec![1, VOCAB], 3), "token 97"),
        (sampling(|s| s.temperature = f32::NAN), "temperature is NaN"),
        (sampling(|s| s.temperature = f32::INFINITY), "temperature is inf"),
        (sampling(|s| s.temperature = -1.0), "temperature is -1"),
        (sampling(|s| s.top_p = 0.0), "top_p is 0"),
        (sampling(|s| s.top_p = f32::NAN), "top_p is NaN"),
        (sampling(|s| s.min_p = 1.5), "min_p is 1.5"),
        (sampling(|s| s.top_n_sigma = -0.5), "top_n_sigma is -0.5; it must be a finite number"),
        (
            sampling(|s| s.typical_p = f32::NAN),
            "typical_p is NaN; it must be above 0 and at most 1",
        ),
        (sampling(|s| s.xtc_probability = -0.1), "xtc_probability is -0.1"),
        (sampling(|s| s.xtc_threshold = 1.1), "xtc_threshold is 1.1; it must be between 0 and 1"),
        (sampling(|s| s.repeat_penalty = 0.0), "repeat_penalty is 0; it must be a finite number"),
        (sampling(|s| s.repeat_penalty = f32::NAN), "repeat_penalty is NaN"),
        (sampling(|s| s.repeat_last_n = -2), "repeat_last_n is -2; it must be at least -1"),
        (sampling(|s| s.frequency_penalty = 101.0), "frequency_penalty is 101"),
        (sampling(|s| s.presence_penalty = f32::NAN), "presence_penalty is NaN"),
        (sampling(|s| s.dry_multiplier = -1.0), "dry_multiplier is -1"),
        (
            sampling(|s| s.dry_base = 0.9),
            "dry_base is 0.9; it must be a finite number of at least 1",
        ),
        (sampling(|s| s.dry_penalty_last_n = i32::MIN), "dry_penalty_last_n is -2147483648"),
        (sampling(|s| s.dry_breakers = vec![vec![1], vec![]]), "dry_breakers"),
        (sampling(|s| s.mirostat_tau = f32::INFINITY), "mirostat_tau is inf"),
        (sampling(|s| s.mirostat_eta = 1.5), "mirostat_eta is 1.5; it must be between 0 and 1"),
        (sampling(|s| s.logit_bias = vec![(3, f32::NAN)]), "logit_bias of token 3 is NaN"),
        (sampling(|s| s.logit_bias = vec![(3, f32::INFINITY)]), "logit_bias of token 3 is inf"),
        (sampling(|s| s.logit_bias = vec![(VOCAB, 1.0)]), "logit_bias names token 97"),
        (Request { parent, ..request(3, 1, 3) }, "sequence 3 is not kept"),
    ];
    for (request, text) in usage {
        match engine.submit(request) {
            Err(Error::Usage(what)) => assert!(what.contains(text), "{what}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    match engine.submit(request(30, 1, 12)) {
        Err(Error::Memory(what)) => assert!(what.contains("need 11 pages"), "{what}"),
        other => panic!("{other:?}"),
    }
    assert!(engine.is_idle());
    engine.submit(request(30, 1, 11)).unwrap();
    assert_eq!(engine.run_to_end().unwrap().len(), 11);
}

#[test]
fn refused_options() {
    let model = plain();
    let bad = [
        EngineOptions { context: 1, ..small() },
        EngineOptions { max_seqs: 0, ..small() },
        EngineOptions { page_tokens: 0, ..small() },
        EngineOptions { page_tokens: 5, ..small() },
        EngineOptions { in_flight: 0, ..small() },
        EngineOptions { chunk_multiple: 0, ..small() },
        EngineOptions { token_budget: 6, ..small() },
        EngineOptions { pages: PageCount::Each(0), ..small() },
        EngineOptions { pages: PageCount::Bytes(100), ..small() },
    ];
    for options in bad {
        let new = Engine::new(Fake::new(model.clone()), program(&model), &mut no_weights, options);
        assert!(matches!(new, Err(Error::Usage(_) | Error::Memory(_))));
    }
    let mut p = program(&model);
    p.prefix_closed = false;
    let fake = Fake::new(model.clone());
    let mut engine = Engine::new(fake, p, &mut no_weights, small()).unwrap();
    let refused = engine.submit(Request::new([1, 2], 3));
    assert!(matches!(refused, Err(Error::Device(_))) && engine.is_idle());
}

#[test]
fn pages_by_bytes() {
    // 64 values of 2 bytes, 4 tokens a page.
    let page = 64 * 2 * 4;
    let pages = |bytes, model: &Model| {
        let options = EngineOptions { pages: PageCount::Bytes(bytes), ..small() };
        let (engine, _) = engine(model, options);
        engine.snapshot().pages.iter().map(|p| p.total).collect::<Vec<_>>()
    };
    assert_eq!(pages(60 * page, &plain()), [60]);
    assert_eq!(pages(u64::MAX, &plain()), [4 * 50]);
    // A window of 6 and a chunk of 16 touch 6 pages at most, where the whole text takes 50.
    let windowed = Model { windows: vec![None, Some(6)], recurrent: false };
    assert_eq!(pages(56 * page, &windowed), [50, 6]);
}
