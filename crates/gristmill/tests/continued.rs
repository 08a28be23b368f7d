//! A conversation that goes on runs only what is new, and answers as if it had run all of it.

use gristmill::{
    Continued, Conversation, Decoder, Device, Engine, Exchange, Model, Prompter, Request, Settings,
    Tokenizer,
};

/// Runs a request to its end: the tokens generated, and the tokens of the prompt that were run.
fn answer(
    engine: &mut Engine<Device>,
    continued: &mut Continued,
    tokenizer: &Tokenizer,
    ids: &[u32],
    most: usize,
) -> (Vec<u32>, usize) {
    let before = engine.snapshot().tokens;
    let reuse = continued.reuse(tokenizer, ids);
    let mut request = Request::new(vec![], most);
    request.stop_ids = tokenizer.end_of_generation().to_vec();
    continued.submit(engine, reuse, request).unwrap();
    let mut generated = vec![];
    while !engine.is_idle() {
        let mut events = vec![];
        engine.step(&mut events).unwrap();
        for event in events {
            continued.note(engine, &event);
            generated.extend(event.token);
        }
    }
    let run = (engine.snapshot().tokens - before) as usize;
    // All that was generated but the last token is run too.
    let run = run - (generated.len() - 1);
    (generated, run)
}

#[test]
fn only_new_tokens_are_run() {
    let model = Model::bundled().unwrap();
    let tokenizer = model.tokenizer().unwrap();
    let prompter = Prompter::new(&model, &tokenizer).unwrap();
    let settings = Settings { context: 512, ..Settings::default() };
    let mut engine = model.engine(&settings).unwrap();
    let mut continued = Continued::default();
    let mut talk = Conversation::default();
    let mut held = 0; // tokens whose keys and values the engine has
    let questions = ["A story about a fox", "And a bear?", "Then what?", "  Oh — why?\n"];
    for (turn, question) in questions.into_iter().enumerate() {
        let ids = prompter.prompt(&tokenizer, &talk, question).unwrap().ids;
        // Some answers come to their end, others are cut.
        let (got, run) = answer(&mut engine, &mut continued, &tokenizer, &ids, 12 + 30 * turn);
        assert_eq!(run, ids.len() - held, "turn {turn}");
        assert!(turn == 0 || run < 30, "turn {turn} ran {run} of {}", ids.len());

        // A new engine, which has to run it all, says the same.
        let mut fresh = (model.engine(&settings).unwrap(), Continued::default());
        let all = answer(&mut fresh.0, &mut fresh.1, &tokenizer, &ids, 12 + 30 * turn);
        assert_eq!(all, (got.clone(), ids.len()), "turn {turn}");

        held = ids.len() + got.len() - 1;
        let mut decoder = Decoder::continuing(tokenizer.clone());
        let text = got.iter().map(|&id| decoder.push(id)).collect();
        let exchange = Exchange { question: question.into(), answer: text, ..Default::default() };
        talk.exchanges.push(exchange);
    }
}

#[test]
fn a_past_that_is_told_otherwise() {
    let model = Model::bundled().unwrap();
    let tokenizer = model.tokenizer().unwrap();
    let prompter = Prompter::new(&model, &tokenizer).unwrap();
    let mut engine = model.engine(&Settings::default()).unwrap();
    let mut continued = Continued::default();
    let mut talk = Conversation::default();
    let first = prompter.prompt(&tokenizer, &talk, "A story about a fox").unwrap().ids;
    answer(&mut engine, &mut continued, &tokenizer, &first, 40);
    // As a template that leaves thoughts out would tell it.
    let (question, said) = ("A story about a fox".to_owned(), "There was none.".to_owned());
    let thinking = String::new();
    talk.exchanges.push(Exchange { question, answer: said, thinking });
    let second = prompter.prompt(&tokenizer, &talk, "And then?").unwrap().ids;
    let (got, run) = answer(&mut engine, &mut continued, &tokenizer, &second, 20);
    assert!(run <= second.len() - first.len() && run > 5, "{run} of {}", second.len());
    let mut fresh = (model.engine(&Settings::default()).unwrap(), Continued::default());
    let all = answer(&mut fresh.0, &mut fresh.1, &tokenizer, &second, 20);
    assert_eq!(all, (got, second.len()));
    // The very same prompt again: its last token alone gives the first scores.
    let (again, run) = answer(&mut engine, &mut continued, &tokenizer, &second, 20);
    assert_eq!((again, run), (all.0, 1));
    // Nothing of it is kept.
    continued.forget(&mut engine);
    let snapshot = engine.snapshot();
    assert_eq!((snapshot.kept, snapshot.pages[0].used), (0, 0));
    assert_eq!(answer(&mut engine, &mut continued, &tokenizer, &first, 3).1, first.len());
}

#[test]
fn a_prompt_that_is_refused_changes_nothing() {
    let model = Model::bundled().unwrap();
    let tokenizer = model.tokenizer().unwrap();
    let mut engine = model.engine(&Settings { context: 64, ..Settings::default() }).unwrap();
    let mut continued = Continued::default();
    let ids: Vec<u32> = (10..40).collect();
    answer(&mut engine, &mut continued, &tokenizer, &ids, 5);
    let long: Vec<u32> = (10..90).collect();
    let reuse = continued.reuse(&tokenizer, &long);
    assert_eq!(reuse.len(), 80);
    assert!(continued.submit(&mut engine, reuse, Request::new(vec![], 5)).is_err());
    assert_eq!(answer(&mut engine, &mut continued, &tokenizer, &ids, 5).1, 1);
}
