//! Decisions of the scheduler, from plain numbers.

use gristmill_engine::pages::pages_for;
use gristmill_engine::scheduler::*;
use gristmill_ir::Group;
use proptest::prelude::*;

fn limits(token_budget: u32) -> Limits {
    let groups = vec![Group { window: None }];
    Limits { token_budget, max_seqs: 4, chunk_multiple: 4, page_tokens: 4, groups }
}

fn candidate(running: bool, computed: u32, ready: u32) -> Candidate {
    Candidate { running, computed, ready, needs_slot: !running }
}

/// Decides for one group, each candidate holding just the pages of what is computed.
fn decide(
    limits: Limits,
    candidates: &[Candidate],
    free: u32,
    kept: u32,
    in_flight: bool,
) -> (Decision, Vec<(usize, u32)>) {
    let hold = |c: &Candidate| {
        let entries = pages_for(c.computed, limits.page_tokens);
        Holding { entries, held: entries, copy: false }
    };
    let holdings: Vec<_> = candidates.iter().map(hold).collect();
    let input = Input {
        candidates,
        holdings: &holdings,
        free: &[free],
        kept: &[kept],
        free_slots: 4,
        kept_slots: 0,
        in_flight,
    };
    let mut run = vec![];
    (Scheduler::new(limits).schedule(&input, &mut run), run)
}

#[test]
fn decodes_first_then_prompts_to_the_budget() {
    let c = [
        candidate(true, 4, 20),
        candidate(true, 9, 1),
        candidate(true, 12, 0),
        candidate(false, 0, 9),
    ];
    // 10: one decodes; 9 are left, cut to 8; the last cannot have 4.
    assert_eq!(decide(limits(10), &c, 99, 0, false), (Decision::Run, vec![(1, 1), (0, 8)]));
    let run = vec![(1, 1), (0, 20), (3, 4)];
    assert_eq!(decide(limits(26), &c, 99, 0, false), (Decision::Run, run));
    let run = vec![(1, 1), (0, 20), (3, 9)];
    assert_eq!(decide(limits(30), &c, 99, 0, false), (Decision::Run, run));
}

#[test]
fn admits_only_whole_prompts_and_in_order() {
    let c = [candidate(true, 8, 1), candidate(false, 0, 40), candidate(false, 0, 2)];
    // The first that waits needs 10 pages, and the running one keeps one to grow into.
    assert_eq!(decide(limits(16), &c, 10, 0, false), (Decision::Run, vec![(0, 1)]));
    let run = vec![(0, 1), (1, 12)];
    assert_eq!(decide(limits(16), &c, 12, 0, false), (Decision::Run, run));
    // With nobody running it starts with what there is.
    assert_eq!(decide(limits(16), &c[1..], 3, 0, false), (Decision::Run, vec![(0, 12)]));
}

#[test]
fn the_newest_gives_way_once_nothing_is_in_flight() {
    let c = [candidate(true, 8, 1), candidate(true, 8, 1), candidate(true, 7, 1)];
    assert_eq!(decide(limits(8), &c, 2, 0, false).1, [(0, 1), (1, 1), (2, 1)]);
    assert_eq!(decide(limits(8), &c, 1, 0, false), (Decision::Preempt(2), vec![]));
    assert_eq!(decide(limits(8), &c, 1, 0, true), (Decision::Drain, vec![]));
    assert_eq!(decide(limits(8), &c, 1, 3, false), (Decision::EvictKept, vec![]));
    // The newest itself waits for the others.
    assert_eq!(decide(limits(8), &c[..2], 1, 0, false), (Decision::Run, vec![(0, 1)]));
}

#[test]
fn kept_sequences_give_way_only_where_it_helps() {
    let c = [candidate(true, 8, 1), candidate(false, 0, 40)];
    assert_eq!(decide(limits(16), &c, 6, 5, false), (Decision::Run, vec![(0, 1)]));
    assert_eq!(decide(limits(16), &c, 6, 6, false), (Decision::EvictKept, vec![]));
    assert_eq!(decide(limits(16), &c, 6, 6, true), (Decision::Drain, vec![]));
}

#[test]
fn a_shared_page_costs_another() {
    let candidates = [candidate(true, 6, 1), candidate(true, 6, 1)];
    let shared = Holding { entries: 2, held: 2, copy: true };
    let mut input = Input {
        candidates: &candidates,
        holdings: &[shared, shared],
        free: &[2],
        kept: &[0],
        free_slots: 0,
        kept_slots: 0,
        in_flight: false,
    };
    let mut run = vec![];
    let mut scheduler = Scheduler::new(limits(8));
    assert_eq!((scheduler.schedule(&input, &mut run), run.len()), (Decision::Run, 2));
    input.free = &[1];
    assert_eq!((scheduler.schedule(&input, &mut run), run.len()), (Decision::Run, 1));
    input.free = &[0];
    assert_eq!(scheduler.schedule(&input, &mut run), Decision::Preempt(1));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_more_than_there_is(
        budget in 8u32..40,
        free in 0u32..40,
        kept in 0u32..3,
        in_flight: bool,
        sizes in prop::collection::vec((any::<bool>(), 0u32..30, 0u32..30), 1..8),
    ) {
        let mut c: Vec<_> = sizes
            .iter()
            .map(|&(running, computed, ready)| match running {
                true => candidate(true, computed, ready),
                false => candidate(false, 0, ready + 1),
            })
            .collect();
        c.sort_by_key(|c| !c.running);
        let l = limits(budget);
        let running = c.iter().filter(|c| c.running).count();
        prop_assume!(running <= 4);
        let (decision, run) = decide(l.clone(), &c, free, kept, in_flight);
        if decision != Decision::Run {
            prop_assert!(run.is_empty());
            prop_assert_eq!(decision == Decision::Drain, in_flight);
            if let Decision::Preempt(i) = decision {
                prop_assert!(i > 0 && i + 1 == running && kept == 0);
            }
            return Ok(());
        }
        prop_assert!(run.iter().map(|r| r.1).sum::<u32>() <= budget);
        let mut pages = 0;
        for &(i, n) in &run {
            let end = c[i].computed + n;
            prop_assert!(n >= 1 && n <= c[i].ready);
            prop_assert!(n == c[i].ready || end.is_multiple_of(4), "cut at {end}");
            pages += pages_for(end, 4) - pages_for(c[i].computed, 4);
        }
        prop_assert!(pages <= free);
        // Admitted in order, none skipped, never more than fit.
        let admitted: Vec<_> = run.iter().map(|r| r.0).filter(|&i| i >= running).collect();
        prop_assert!(admitted.iter().enumerate().all(|(k, &i)| i == running + k));
        prop_assert!(running + admitted.len() <= 4);
        // Whoever is first in line runs unless pages are short.
        if free >= 40 && c[0].ready > 0 {
            prop_assert!(run.iter().any(|r| r.0 == 0));
        }
    }
}
