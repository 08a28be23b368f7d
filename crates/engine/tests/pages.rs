//! Pools and tables: counts, sharing, and the rest before reuse.

use gristmill_engine::pages::*;
use gristmill_ir::Move;
use proptest::prelude::*;

#[test]
fn a_page_rests_until_its_last_step_has_finished() {
    let mut pool = Pool::new(2);
    let (a, b) = (pool.alloc().unwrap(), pool.alloc().unwrap());
    assert_eq!(pool.alloc(), None);
    pool.finished(3);
    pool.release(a, 3);
    assert_eq!(pool.alloc(), Some(a), "step 3 has finished");
    pool.touch(b, 7);
    pool.release(b, 5);
    pool.finished(6);
    assert_eq!((pool.available(), pool.resting(), pool.used()), (0, 1, 1));
    pool.finished(7);
    assert_eq!((pool.available(), pool.resting(), pool.used(), pool.peak()), (1, 0, 1, 2));
}

#[test]
fn writing_copies_a_shared_page_once() {
    let (mut pool, mut moves) = (Pool::new(6), vec![]);
    let mut a = Table::default();
    assert!(a.grow(&mut pool, 0..10, 4, 1, 0, &mut moves));
    assert!(moves.is_empty() && a.len() == 3);
    let mut b = a.fork(&mut pool, 6, 4);
    assert_eq!(b.pages(), &a.pages()[..2]);
    let from = a.pages()[1];
    assert!(b.grow(&mut pool, 6..9, 4, 2, 5, &mut moves));
    assert_eq!(moves, [Move::Page { group: 5, from, to: b.pages()[1] }]);
    assert_eq!((pool.refs(from), pool.refs(a.pages()[0]), pool.used()), (1, 2, 5));
    assert!(b.grow(&mut pool, 9..12, 4, 3, 5, &mut moves) && moves.len() == 1);
    // Too few pages: nothing changes.
    assert!(!b.grow(&mut pool, 12..24, 4, 4, 5, &mut moves));
    assert_eq!((b.len(), pool.used()), (3, 5));
    a.clear(&mut pool, 1);
    b.clear(&mut pool, 3);
    pool.finished(3);
    assert_eq!(pool.available(), 6);
}

#[test]
fn peaks() {
    assert_eq!(peak_pages(None, 100, 16, 8), 13);
    assert_eq!(peak_pages(Some(5), 100, 1, 4), 2);
    assert_eq!(peak_pages(Some(6), 100, 1, 4), 3);
    assert_eq!(peak_pages(Some(6), 3, 1, 4), 1);
    assert_eq!(peak_pages(Some(1), 100, 1, 4), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The peak is what a sequence really touches, at the worst alignment of its chunks.
    #[test]
    fn peak_is_reached_and_never_passed(
        window in 1u32..40, chunk in 1u32..20, page in 1u32..9, shift in 0u32..20,
    ) {
        let tokens = 300;
        let (mut pool, mut table) = (Pool::new(tokens), Table::default());
        let mut at = 0;
        while at < tokens {
            let n = if at == 0 { shift % chunk + 1 } else { chunk }.min(tokens - at);
            table.drop_before(&mut pool, first_visible(Some(window), at), page, 0);
            prop_assert!(table.grow(&mut pool, at..at + n, page, 0, 0, &mut vec![]));
            at += n;
        }
        prop_assert!(pool.peak() <= peak_pages(Some(window), tokens, chunk, page));
        if chunk == 1 {
            prop_assert_eq!(pool.peak(), peak_pages(Some(window), tokens, 1, page));
        }
    }

    /// References always are the tables that hold a page, whatever is done to them.
    #[test]
    fn references_are_holders(acts in prop::collection::vec((0u8..5, any::<u8>(), 0u32..20), 1..80)) {
        let n = 40;
        let (mut pool, mut tables, page) = (Pool::new(n), vec![(Table::default(), 0u32)], 3);
        for (step, (act, which, amount)) in acts.into_iter().enumerate() {
            let (at, step) = (usize::from(which) % tables.len(), step as u64 + 1);
            let (table, len) = &mut tables[at];
            match act {
                0 | 1 => {
                    if table.grow(&mut pool, *len..*len + amount, page, step, 0, &mut vec![]) {
                        *len += amount;
                    }
                }
                2 => {
                    let cut = amount.min(*len);
                    if table.covers(cut, cut, page) {
                        let fork = table.fork(&mut pool, cut, page);
                        tables.push((fork, cut));
                    }
                }
                3 => table.drop_before(&mut pool, amount.min(*len), page, step),
                _ => {
                    table.clear(&mut pool, step);
                    *len = 0;
                }
            }
            let held = |p: u32| tables.iter().flat_map(|t| t.0.pages()).filter(|&&q| q == p).count();
            for p in 0..n {
                prop_assert_eq!(pool.refs(p) as usize, held(p));
            }
            prop_assert_eq!(pool.available() + pool.resting() + pool.used(), n);
            pool.finished(step.saturating_sub(2));
        }
    }
}
