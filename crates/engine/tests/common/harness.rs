//! Runs requests and holds every token against the oracle.

use super::{Fake, Model, continuation};
use gristmill_core::Result;
use gristmill_engine::{Engine, Event, Finish, Request, RequestId, SequenceId};
use std::collections::BTreeMap;

struct Tracked {
    tokens: Vec<u32>,
    request: Request,
    got: Vec<u32>,
}

/// An engine whose events are checked as they come.
pub struct Harness {
    pub engine: Engine<Fake>,
    pub fake: Fake,
    model: Model,
    live: BTreeMap<RequestId, Tracked>,
    /// Sequences kept, with their tokens.
    pub kept: Vec<(SequenceId, Vec<u32>)>,
    pub finished: Vec<(RequestId, Finish, Vec<u32>)>,
    events: Vec<Event>,
}

impl Harness {
    pub fn new(model: &Model, options: gristmill_engine::EngineOptions) -> Self {
        let (engine, fake) = super::engine(model, options);
        let (live, kept) = (BTreeMap::new(), vec![]);
        let model = model.clone();
        Harness { engine, fake, model, live, kept, finished: vec![], events: vec![] }
    }

    pub fn submit(&mut self, request: Request) -> Result<RequestId> {
        let mut tokens = vec![];
        if let Some(p) = request.parent {
            let parent = self.kept.iter().find(|k| k.0 == p.sequence);
            tokens = parent.map_or(vec![], |k| k.1[..p.len.unwrap_or(k.1.len())].to_vec());
        }
        tokens.extend(&request.prompt);
        let id = self.engine.submit(request.clone())?;
        self.live.insert(id, Tracked { tokens, request, got: vec![] });
        Ok(id)
    }

    /// Requests not ended.
    pub fn live(&self) -> Vec<RequestId> {
        self.live.keys().copied().collect()
    }

    pub fn release(&mut self, at: usize) {
        let (id, _) = self.kept.remove(at);
        assert!(self.engine.release(id));
        assert!(!self.engine.release(id), "released once");
    }

    /// One step; what the pool does not hold afterwards is filled with garbage.
    pub fn step(&mut self) -> Result<()> {
        let result = self.engine.step(&mut self.events);
        for event in std::mem::take(&mut self.events) {
            self.check(&event);
        }
        let engine = &self.engine;
        self.fake.poison(|group, page| engine.page_refs(group, page) == 0);
        result.map(|_| ())
    }

    fn check(&mut self, event: &Event) {
        let t = self.live.get_mut(&event.id).expect("an event of a live request");
        t.got.extend(event.token);
        let context = self.engine.options().context as usize;
        let most = t.request.max_tokens.min(context - t.tokens.len());
        let Some(finish) = event.finish else { return };
        let (params, stop) = (&t.request.sampling, &t.request.stop_ids);
        let all = continuation(&self.model, &t.tokens, most, params, stop);
        let stopped = all.last().is_some_and(|l| stop.contains(l));
        match finish {
            Finish::Cancelled => assert_eq!(t.got, all[..t.got.len()], "a prefix"),
            Finish::Stop => assert!(stopped && t.got == all),
            Finish::Length => assert!(!stopped && t.got == all),
        }
        let t = self.live.remove(&event.id).expect("looked up above");
        assert_eq!(event.sequence.is_some(), t.request.keep);
        if let Some(id) = event.sequence {
            let tokens = [t.tokens, t.got.clone()].concat();
            assert_eq!(self.engine.tokens(id), Some(&tokens[..]));
            self.kept.push((id, tokens));
        }
        self.finished.push((event.id, finish, t.got));
    }

    /// Steps until nothing is left; fails when that takes too long.
    pub fn run(&mut self) {
        for _ in 0..100_000 {
            if self.engine.is_idle() {
                assert!(self.live.is_empty(), "idle with requests that have not ended");
                return;
            }
            self.step().expect("the device does not fail now");
        }
        panic!("the engine does not come to an end: {:?}", self.engine.snapshot());
    }

    /// Lets everything go and checks that every page and slot came back.
    pub fn close(&mut self) {
        while !self.kept.is_empty() {
            self.release(0);
        }
        let snapshot = self.engine.snapshot();
        for pool in snapshot.pages.iter().chain([&snapshot.slots]) {
            assert_eq!((pool.used, pool.resting), (0, 0), "a leak: {snapshot:?}");
        }
        assert_eq!((snapshot.running, snapshot.waiting, snapshot.kept), (0, 0, 0));
    }
}
