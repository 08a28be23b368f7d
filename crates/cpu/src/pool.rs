//! A team of threads for regions of microseconds.
//!
//! A step is one region: the whole team runs the same function over the plan's nodes and meets at
//! a barrier after each phase. The caller is the team's first member, so a pool of one has no
//! threads at all (the browser). Waiting spins within a bound, because the next phase is usually
//! microseconds away, then parks, because the machine may be busy or the next step far off.
//!
//! Within a phase, [`Team::each`] hands out index ranges from a shared counter: a slow core takes
//! fewer. A phase may hand out one index space only; the barrier at its end starts the next.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering::*};
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

struct Shared {
    members: usize,
    /// Number of regions begun; workers wait for it to change.
    region: Line<AtomicU32>,
    /// Number of barriers passed.
    epoch: Line<AtomicU32>,
    /// Members that have arrived at the current barrier.
    arrived: Line<AtomicUsize>,
    /// Next index of the phase's index space.
    next: Line<AtomicUsize>,
    /// Valid from the region's start to its last barrier.
    job: AtomicPtr<Job>,
    /// A member panicked in the region.
    panicked: AtomicBool,
    closing: AtomicBool,
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    bell: Condvar,
}

impl Shared {
    /// Waits until `counter` differs from `seen`: spins, then gives way, then parks.
    fn wait(&self, counter: &AtomicU32, seen: u32) {
        for turn in 0..SPINS + YIELDS {
            if counter.load(Acquire) != seen {
                return;
            }
            if turn < SPINS {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        // Announced before the last look, so that whoever changes the counter either is seen here
        // or sees the sleeper.
        self.sleepers.fetch_add(1, SeqCst);
        while counter.load(SeqCst) == seen {
            guard = self.bell.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, SeqCst);
    }

    fn advance(&self, counter: &AtomicU32) {
        counter.fetch_add(1, SeqCst);
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

    /// Ends a phase: returns when every member has called it. Writes made before are seen after.
    pub fn barrier(&self) {
        let s = self.shared;
        let seen = s.epoch.0.load(Acquire);
        if s.arrived.0.fetch_add(1, AcqRel) + 1 == s.members {
            s.arrived.0.store(0, Relaxed);
            s.next.0.store(0, Relaxed);
            s.advance(&s.epoch.0);
        } else {
            s.wait(&s.epoch.0, seen);
        }
    }

    /// Shares `0..count` among the members, `chunk` indices at a time. At most once a phase.
    #[inline]
    pub fn each(&self, count: usize, chunk: usize, mut f: impl FnMut(Range<usize>)) {
        let chunk = chunk.max(1);
        loop {
            let from = self.shared.next.0.fetch_add(chunk, Relaxed);
            if from >= count {
                return;
            }
            f(from..(from + chunk).min(count));
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
    /// A team of `members`, of which `members - 1` are new threads.
    ///
    /// # Errors
    /// What the system says when it gives no thread.
    pub fn new(members: usize) -> std::io::Result<Pool> {
        let members = members.max(1);
        let shared = Arc::new(Shared {
            members,
            region: Line(AtomicU32::new(0)),
            epoch: Line(AtomicU32::new(0)),
            arrived: Line(AtomicUsize::new(0)),
            next: Line(AtomicUsize::new(0)),
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

    /// Runs `f` once on every member and returns when all are done.
    ///
    /// # Panics
    /// When a member panicked: the pool is whole again, the region's results are not.
    pub fn run<F: Fn(&Team<'_>) + Sync>(&mut self, f: F) {
        unsafe fn enter<F: Fn(&Team<'_>) + Sync>(captured: *const (), team: &Team<'_>) {
            // SAFETY: `run` passed the address of an `F` that outlives the region.
            unsafe { (*captured.cast::<F>())(team) }
        }
        let s = &*self.shared;
        let job = Job { entry: enter::<F>, captured: (&raw const f).cast() };
        s.job.store((&raw const job).cast_mut(), Release);
        s.next.0.store(0, Relaxed);
        s.advance(&s.region.0);
        member_turn(&Team { member: 0, shared: s }, &job);
        if s.panicked.swap(false, AcqRel) {
            panic!("a worker thread panicked");
        }
    }
}

/// Runs the region and meets the others at its end, also when it panicked.
fn member_turn(team: &Team<'_>, job: &Job) {
    // SAFETY: `Pool::run` made the pair, and waits at the last barrier below before it lets go
    // of what the function captured.
    let run = std::panic::AssertUnwindSafe(|| unsafe { (job.entry)(job.captured, team) });
    if std::panic::catch_unwind(run).is_err() {
        // The others may be waiting at a barrier this member will never reach: there is no safe
        // way on but to end the process when the team is larger than one.
        if team.len() > 1 {
            eprintln!("gristmill: a worker panicked inside a step");
            std::process::abort();
        }
        team.shared.panicked.store(true, Release);
    }
    team.barrier();
}

fn worker(shared: &Shared, member: usize) {
    let mut seen = 0;
    loop {
        shared.wait(&shared.region.0, seen);
        seen = seen.wrapping_add(1);
        if shared.closing.load(Acquire) {
            return;
        }
        // SAFETY: the region has begun, so its job is published, and `Pool::run` keeps it alive
        // until this member too has met the last barrier. (The pointer is not used after that.)
        let job = unsafe { &*shared.job.load(Acquire) };
        member_turn(&Team { member, shared }, job);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closing.store(true, Release);
        self.shared.advance(&self.shared.region.0);
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

    #[test]
    #[cfg_attr(target_family = "wasm", ignore = "no threads")]
    fn writes_before_a_barrier_are_seen_after() {
        let mut pool = Pool::new(4).unwrap();
        let cells: Vec<AtomicUsize> = (0..4).map(|_| AtomicUsize::new(0)).collect();
        pool.run(|team| {
            for turn in 1..500 {
                cells[team.member].store(turn, Relaxed);
                team.barrier();
                assert!(cells.iter().all(|c| c.load(Relaxed) == turn));
                team.barrier();
            }
        });
    }

    #[test]
    #[cfg_attr(target_family = "wasm", ignore = "no threads")]
    fn a_parked_team_wakes() {
        let mut pool = Pool::new(2).unwrap();
        let count = AtomicUsize::new(0);
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            pool.run(|_| {
                count.fetch_add(1, Relaxed);
            });
        }
        assert_eq!(count.load(Relaxed), 6);
    }
}
