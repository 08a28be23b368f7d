//! Logits of given tokens: the same whatever the chunks and the company.

mod common;

use common::*;
use gristmill_core::Error;
use gristmill_engine::*;

fn rows(model: &Model, ids: &[u32]) -> Vec<f32> {
    let row = |n| {
        let h = oracle(model, &ids[..n]);
        (0..VOCAB).map(move |t| logit(h, t))
    };
    (1..=ids.len()).flat_map(row).collect()
}

#[test]
fn chunks_do_not_matter() {
    for model in [plain(), everything()] {
        let (mut engine, _) = engine(&model, EngineOptions { token_budget: 64, ..small() });
        let ids = text(61, 1);
        let expected = rows(&model, &ids);
        for chunk in [1, 3, 16, 64, 1000] {
            assert!(engine.logits(&ids, chunk).unwrap() == expected, "chunks of {chunk}");
        }
        assert_eq!(engine.snapshot().pages[0].used, 0);
    }
}

#[test]
fn company_does_not_matter() {
    for model in [plain(), everything()] {
        let (mut engine, _) = engine(&model, small());
        let texts: Vec<_> = [40, 1, 17, 23].iter().map(|&n| text(n, n as u64)).collect();
        let prompts: Vec<&[u32]> = texts.iter().map(|t| &t[..]).collect();
        for chunk in [1, 3, 16] {
            let got = engine.logits_many(&prompts, chunk).unwrap();
            for (got, ids) in got.iter().zip(&prompts) {
                assert!(*got == rows(&model, ids));
            }
        }
    }
}

#[test]
fn some_positions() {
    let (mut engine, _) = engine(&plain(), small());
    let ids = text(30, 1);
    let mut seen = vec![];
    engine
        .each_logits(&[&ids], 8, 20..24, &mut |prompt, at, row| {
            assert_eq!(row[5], logit(oracle(&plain(), &ids[..=at]), 5));
            seen.push((prompt, at));
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, [(0, 20), (0, 21), (0, 22), (0, 23)]);
}

#[test]
fn takes_the_pages_of_kept_sequences() {
    let options = EngineOptions { pages: PageCount::Each(12), kept_slots: 0, ..small() };
    let model = everything();
    let mut h = harness::Harness::new(&model, options);
    for i in 0..3 {
        h.submit(Request { keep: true, ..Request::new(text(12, i), 4) }).unwrap();
    }
    h.run();
    let ids = text(44, 5);
    assert!(h.engine.logits(&ids, 16).unwrap() == rows(&model, &ids));
    let parent = Some(Parent { sequence: h.kept[0].0, len: None });
    h.submit(Request { parent, ..Request::new(text(3, 7), 4) }).unwrap();
    h.run();
    h.close();
    assert!(matches!(h.engine.logits(&text(60, 1), 16), Err(Error::Memory(_))));
    h.close();
}

#[test]
fn refused() {
    let (mut engine, _) = engine(&plain(), small());
    let ids = text(5, 1);
    let bad = [
        engine.logits(&[], 1),
        engine.logits(&ids, 0),
        engine.logits(&[VOCAB], 1),
        engine.logits(&text(201, 1), 16),
        engine.logits_many(&[&ids[..]; 5], 16).map(|_| vec![]),
    ];
    assert!(bad.iter().all(|b| matches!(b, Err(Error::Usage(_)))));
    engine.submit(Request::new(ids.clone(), 1)).unwrap();
    assert!(matches!(engine.logits(&ids, 1), Err(Error::Usage(_))));
}

#[test]
fn a_failure_gives_everything_back() {
    let (mut engine, fake) = engine(&everything(), small());
    for trouble in [Trouble::Launch, Trouble::Finish] {
        fake.trouble(trouble);
        assert!(engine.logits(&text(20, 1), 8).is_err());
        let stop = engine.each_logits(&[&text(20, 1)], 8, 0..1, &mut |_, _, _| {
            Err(Error::Usage("enough".into()))
        });
        assert!(stop.is_err());
        let snapshot = engine.snapshot();
        assert!(snapshot.pages.iter().all(|p| p.used == 0 && p.resting == 0));
        assert!(engine.logits(&text(20, 1), 8).is_ok());
    }
}
