//! A team of threads for regions of microseconds.
//!
//! A step is one region: the team runs the same function over the plan's nodes, phase by phase. In a
//! phase [`Team::each`] hands out index ranges, so a slow core takes fewer; [`Team::barrier`] ends it
//! once all indices are done. Nobody waits for a *member*: on a busy machine one that the system has
//! put aside, and that holds no indices, is late, and finds the phases that were done without it over
//! when it comes. A pool of one has no threads at all (the browser).
//!
//! Hence the rule for what runs in a region: between phases a member may be late, so what a phase has
//! written is read only within [`Team::each`] of a later one. Outside of it there is only what holds for
//! the whole region.
//!
//! Waiting spins within a bound, because the next phase is usually microseconds away, then parks,
//! because the machine may be busy or the next step far off.

use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Turns of the spin loop before giving way: some tens of microseconds, the length of most phases.
const SPINS: u32 = 1_000;
/// Times the core is offered to whoever else wants it before parking: on a busy machine the partner
/// waits for this very core.
const YIELDS: u32 = 50;

/// What a region runs: a function of a team member, and what the function captured. It lies on
/// the stack of [`Pool::run`] for as long as the region lasts.
struct Job {
    entry: unsafe fn(*const (), &Team<'_>),
    captured: *const (),
}

#[repr(align(128))]
struct Line<T>(T);

/// The phase of a region in one word: its number, how many ranges are being worked on, and the next
/// index to hand out.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Phase {
    number: u32,
    busy: u32,
    next: u32,
}

impl Phase {
    const NUMBERS: u32 = 1 << 20;
    const ONE_BUSY: u64 = 1 << 32;
    /// Members whose ranges can be counted.
    const MEMBERS: usize = (1 << 12) - 1;

    fn word(self) -> u64 {
        u64::from(self.number % Self::NUMBERS) << 44
            | u64::from(self.busy) << 32
            | u64::from(self.next)
    }

    fn of(word: u64) -> Phase {
        let busy = (word >> 32) as u32 & Self::MEMBERS as u32;
        Phase { number: (word >> 44) as u32, busy, next: word as u32 }
    }

    /// The beginning of the phase after this one.
    fn after(self) -> Phase {
        Phase { number: (self.number + 1) % Self::NUMBERS, busy: 0, next: 0 }
    }
}

/// Who may be in a region, in one word: its number, whether it can be entered, and how many workers are
/// in it.
const OPEN: u64 = 1 << 31;
const INSIDE: u64 = OPEN - 1;

struct Shared {
    members: usize,
    region: Line<AtomicU64>,
    phase: Line<AtomicU64>,
    /// Valid while the region is open or somebody is in it.
    job: AtomicPtr<Job>,
    /// The caller panicked in the region.
    panicked: AtomicBool,
    closing: AtomicBool,
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    bell: Condvar,
}

impl Shared {
    /// Waits until `done` says so of `word`: spins, then gives way, then parks. Gives the word.
    fn wait(&self, word: &AtomicU64, done: impl Fn(u64) -> bool) -> u64 {
        for turn in 0..SPINS + YIELDS {
            let seen = word.load(Acquire);
            if done(seen) {
                return seen;
            }
            if turn < SPINS {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        // Announced before the last look, so that whoever changes the word either is seen here
        // or sees the sleeper.
        self.sleepers.fetch_add(1, SeqCst);
        let seen = loop {
            let seen = word.load(SeqCst);
            if done(seen) {
                break seen;
            }
            guard = self.bell.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, SeqCst);
        seen
    }

    /// Wakes those who are parked, after a word has changed.
    fn wake(&self) {
        if self.sleepers.load(SeqCst) > 0 {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.bell.notify_all();
        }
    }
}

/// One member's view of a region.
pub struct Team<'a> {
    /// 0 is the caller.
    pub member: usize,
    shared: &'a Shared,
    /// The phase it is at, and whether it has handed out the indices of that.
    at: Cell<u32>,
    shared_out: Cell<bool>,
}

impl Team<'_> {
    /// Number of members.
    pub fn len(&self) -> usize {
        self.shared.members
    }

    /// Never: a team has at least the caller.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Ends a phase: returns when all its indices are done. What was written for them is seen by those
    /// who work on the next.
    pub fn barrier(&self) {
        if !self.shared_out.replace(false) {
            self.close(0);
        }
        let at = self.at.get();
        self.shared.wait(&self.shared.phase.0, |word| Phase::of(word).number != at);
        self.at.set((at + 1) % Phase::NUMBERS);
    }

    /// Shares `0..count` among the members, `chunk` indices at a time: each index once. At most once a
    /// phase, with the same `count` on every member.
    ///
    /// # Panics
    /// For 2^31 indices.
    #[inline]
    pub fn each(&self, count: usize, chunk: usize, mut f: impl FnMut(Range<usize>)) {
        assert!(count < 1 << 31, "{count} indices");
        let chunk = chunk.clamp(1, 1 << 30) as u32;
        let word = &self.shared.phase.0;
        self.shared_out.set(true);
        let mut seen = word.load(Acquire);
        loop {
            let phase = Phase::of(seen);
            if phase.number != self.at.get() {
                return; // done without this member
            }
            let from = phase.next as usize;
            if from >= count {
                break;
            }
            let claimed = Phase { busy: phase.busy + 1, next: phase.next + chunk, ..phase }.word();
            match word.compare_exchange_weak(seen, claimed, AcqRel, Acquire) {
                Err(now) => seen = now,
                Ok(_) => {
                    f(from..(from + chunk as usize).min(count));
                    seen = word.fetch_sub(Phase::ONE_BUSY, AcqRel) - Phase::ONE_BUSY;
                }
            }
        }
        self.close(count);
    }

    /// Begins the next phase, if all of `count` indices of this one are done.
    fn close(&self, count: usize) {
        let word = &self.shared.phase.0;
        let mut seen = word.load(Acquire);
        loop {
            let phase = Phase::of(seen);
            let over = phase.number != self.at.get();
            if over || phase.busy > 0 || (phase.next as usize) < count {
                return; // whoever finishes the last range comes here too
            }
            match word.compare_exchange_weak(seen, phase.after().word(), SeqCst, Acquire) {
                Ok(_) => return self.shared.wake(),
                Err(now) => seen = now,
            }
        }
    }

    /// A chunk that gives every member a few turns at `count` indices.
    pub fn chunk(&self, count: usize) -> usize {
        if self.len() == 1 { count } else { count.div_ceil(self.len() * 8) }
    }
}

/// The threads. Dropping the pool ends them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A team of `members`, of which `members - 1` are new threads; at most 4,095.
    ///
    /// # Errors
    /// What the system says when it gives no thread.
    pub fn new(members: usize) -> std::io::Result<Pool> {
        let members = members.clamp(1, Phase::MEMBERS);
        let shared = Arc::new(Shared {
            members,
            region: Line(AtomicU64::new(0)),
            phase: Line(AtomicU64::new(0)),
            job: AtomicPtr::new(std::ptr::null_mut()),
            panicked: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            lock: Mutex::new(()),
            bell: Condvar::new(),
        });
        let mut pool = Pool { shared, workers: vec![] };
        for member in 1..members {
            let shared = Arc::clone(&pool.shared);
            let name = format!("gristmill-{member}");
            let work = move || worker(&shared, member);
            pool.workers.push(std::thread::Builder::new().name(name).spawn(work)?);
        }
        Ok(pool)
    }

    /// Number of members.
    pub fn members(&self) -> usize {
        self.shared.members
    }

    /// Runs `f` on the caller and on every member that comes in time, and returns when all phases are
    /// done and nobody is in it any more.
    ///
    /// # Panics
    /// When the caller's turn panicked: the pool is whole again, the region's results are not.
    pub fn run<F: Fn(&Team<'_>) + Sync>(&mut self, f: F) {
        unsafe fn enter<F: Fn(&Team<'_>) + Sync>(captured: *const (), team: &Team<'_>) {
            // SAFETY: `run` passed the address of an `F` that outlives the region.
            unsafe { (*captured.cast::<F>())(team) }
        }
        let s = &*self.shared;
        let job = Job { entry: enter::<F>, captured: (&raw const f).cast() };
        s.job.store((&raw const job).cast_mut(), Relaxed);
        s.phase.0.store(0, Relaxed);
        // Nobody is inside: the last region ended so. Whoever enters sees the job and the phase.
        let number = (s.region.0.load(Relaxed) >> 32).wrapping_add(1) << 32;
        s.region.0.store(number | OPEN, SeqCst);
        s.wake();
        member_turn(&Team::new(0, s), &job);
        s.region.0.fetch_and(!OPEN, AcqRel);
        s.wait(&s.region.0, |word| word & INSIDE == 0);
        if s.panicked.swap(false, AcqRel) {
            panic!("a worker thread panicked");
        }
    }
}

impl<'a> Team<'a> {
    fn new(member: usize, shared: &'a Shared) -> Team<'a> {
        Team { member, shared, at: Cell::new(0), shared_out: Cell::new(false) }
    }
}

/// Runs the region to the end of its last phase.
fn member_turn(team: &Team<'_>, job: &Job) {
    // SAFETY: `Pool::run` made the pair, and waits for all who are inside before it lets go of what the
    // function captured.
    let run = std::panic::AssertUnwindSafe(|| unsafe { (job.entry)(job.captured, team) });
    if std::panic::catch_unwind(run).is_err() {
        // The others may be waiting for the indices that this member held: there is no safe way on but
        // to end the process when the team is larger than one.
        if team.len() > 1 {
            eprintln!("gristmill: a worker panicked inside a step");
            std::process::abort();
        }
        team.shared.panicked.store(true, Release);
    } else if team.shared_out.get() {
        team.barrier();
    }
}

fn worker(shared: &Shared, member: usize) {
    let mut last = 0;
    loop {
        let seen = shared.wait(&shared.region.0, |word| word >> 32 != last);
        last = seen >> 32;
        if shared.closing.load(Acquire) {
            return;
        }
        // Into this region, if it can still be entered.
        let enter = |word: u64| (word >> 32 == last && word & OPEN != 0).then_some(word + 1);
        if shared.region.0.fetch_update(AcqRel, Acquire, enter).is_err() {
            continue;
        }
        // SAFETY: the region was open when this member entered, so its job is published, and
        // `Pool::run` keeps it alive until nobody is inside. (It is not used after that.)
        let job = unsafe { &*shared.job.load(Relaxed) };
        member_turn(&Team::new(member, shared), job);
        shared.region.0.fetch_sub(1, SeqCst);
        shared.wake();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closing.store(true, Release);
        self.shared.region.0.fetch_add(1 << 32, SeqCst);
        self.shared.wake();
        for w in self.workers.drain(..) {
            let _ = w.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(target_family = "wasm", ignore = "no threads")]
    fn every_index_once_in_every_phase() {
        for members in [1, 2, 3, 5] {
            let mut pool = Pool::new(members).unwrap();
            let hits: Vec<AtomicUsize> = (0..97).map(|_| AtomicUsize::new(0)).collect();
            for region in 1..=200 {
                pool.run(|team| {
                    for _ in 0..3 {
                        team.each(hits.len(), 5, |r| {
                            for i in r {
                                hits[i].fetch_add(1, Relaxed);
                            }
                        });
                        team.barrier();
                    }
                });
                assert!(hits.iter().all(|h| h.load(Relaxed) == 3 * region), "{members} members");
            }
        }
    }

    /// Each phase reads what the one before has written, under members that come and go.
    #[test]
    #[cfg_attr(target_family = "wasm", ignore = "no threads")]
    fn what_a_phase_writes_the_next_one_sees() {
        let mut pool = Pool::new(4).unwrap();
        struct Cells(std::cell::UnsafeCell<[u64; 64]>);
        // SAFETY: each index is one member's within a phase.
        unsafe impl Sync for Cells {}
        impl Cells {
            /// # Safety
            /// Nobody else uses the cell at this time.
            #[allow(clippy::mut_from_ref)]
            unsafe fn at(&self, i: usize) -> &mut u64 {
                // SAFETY: the caller's promise; within the array.
                unsafe { &mut *self.0.get().cast::<u64>().add(i % 64) }
            }
        }
        let (a, b) = (Cells([0; 64].into()), Cells([0; 64].into()));
        for region in 0..200u64 {
            pool.run(|team| {
                for turn in 0..20u64 {
                    let (from, to) = if turn % 2 == 0 { (&a, &b) } else { (&b, &a) };
                    team.each(64, 3, |range| {
                        if (region + turn) % 37 == 0 {
                            std::thread::sleep(std::time::Duration::from_micros(200));
                        }
                        for i in range {
                            // SAFETY: this phase only reads `from`, and writes each of `to` once.
                            unsafe { *to.at(i) = *from.at(i + 1) + 1 };
                        }
                    });
                    team.barrier();
                }
            });
            // SAFETY: the region is over.
            assert!((0..64).all(|i| unsafe { *a.at(i) } == 20 * (region + 1)), "region {region}");
        }
    }

    /// A member that is held up where it holds nothing holds up nobody.
    #[test]
    #[cfg_attr(target_family = "wasm", ignore = "no threads")]
    fn nobody_waits_for_a_late_member() {
        let mut pool = Pool::new(3).unwrap();
        let done = AtomicUsize::new(0);
        pool.run(|team| {
            if team.member == 2 {
                while done.load(Acquire) < 50 * 10 {
                    std::thread::yield_now();
                }
            }
            for _ in 0..50 {
                team.each(10, 1, |range| {
                    done.fetch_add(range.len(), AcqRel);
                });
                team.barrier();
            }
        });
        assert_eq!(done.load(Acquire), 500);
    }

    #[test]
    #[cfg_attr(target_family = "wasm", ignore = "no threads")]
    fn phases_without_indices_pass() {
        let mut pool = Pool::new(3).unwrap();
        let hits = AtomicUsize::new(0);
        pool.run(|team| {
            for _ in 0..10 {
                team.barrier();
                team.each(0, 1, |_| unreachable!("there is no index"));
                team.barrier();
                team.each(7, 2, |range| {
                    hits.fetch_add(range.len(), Relaxed);
                });
                team.barrier();
            }
        });
        assert_eq!(hits.load(Relaxed), 70);
    }

    #[test]
    #[cfg_attr(target_family = "wasm", ignore = "no threads")]
    fn a_parked_team_wakes() {
        let mut pool = Pool::new(2).unwrap();
        let both = AtomicUsize::new(0);
        for turn in 1..=3 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            // Two indices that are done at the same time: it takes both members.
            pool.run(|team| {
                team.each(2, 1, |_| {
                    both.fetch_add(1, AcqRel);
                    while both.load(Acquire) < 2 * turn {
                        std::thread::yield_now();
                    }
                });
            });
        }
        assert_eq!(both.load(Acquire), 6);
    }
}
