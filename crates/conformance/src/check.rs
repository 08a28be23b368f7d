//! Runs the cases on a backend and compares.

use crate::cases::{self, Case};
use crate::device::Device;
use crate::reference::Reference;
use crate::selection;
use gristmill_core::{DType, Result};
use gristmill_ir::{Backend, Capabilities, Move, Op, Output, StateKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::thread::ScopedJoinHandle;

/// The named results of a step in f64, row after row.
pub type Expected = Vec<(Output, Vec<f64>)>;

/// A case with what is expected of each of its steps.
#[derive(Clone)]
pub struct Prepared {
    /// The case.
    pub case: Case,
    /// For each step.
    pub expected: Vec<Expected>,
}

/// All cases, with their results in f64: computed once, for all backends.
pub fn suite() -> Vec<Prepared> {
    prepare(cases::all())
}

/// The part of [`suite`] that [`selection::short`] chooses.
pub fn short_suite() -> Vec<Prepared> {
    prepare(selection::short(cases::all()))
}

/// Cases with what is expected of them, on every core: sums in f64 and slow quantizers take a while.
fn prepare(cases: Vec<Case>) -> Vec<Prepared> {
    // WebAssembly has no threads.
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let cores = if cfg!(target_family = "wasm") { 1 } else { cores };
    if cores == 1 {
        return cases.into_iter().map(Prepared::new).collect();
    }
    let waiting = Mutex::new(cases.into_iter().enumerate());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        let mut done = vec![];
        while let Some((i, case)) = next() {
            done.push((i, Prepared::new(case)));
        }
        done
    };
    let mut done: Vec<(usize, Prepared)> = std::thread::scope(|s| {
        let workers: Vec<_> = (0..cores).map(|_| s.spawn(work)).collect();
        let finish = |w: ScopedJoinHandle<'_, _>| w.join().expect("a case is prepared");
        workers.into_iter().flat_map(finish).collect()
    });
    done.sort_by_key(|d| d.0);
    done.into_iter().map(|d| d.1).collect()
}

/// The same part of a suite that is there already.
pub fn short_of(suite: &[Prepared]) -> Vec<Prepared> {
    let short = selection::short(suite.iter().map(|p| p.case.clone()).collect());
    let chosen = |p: &&Prepared| short.iter().any(|c| c.name == p.case.name);
    suite.iter().filter(chosen).cloned().collect()
}

impl Prepared {
    /// Runs a case in f64; with other rows, where it has any, as long as a choice of experts hangs
    /// on the last bits of a score.
    pub fn new(mut case: Case) -> Prepared {
        for seed in 100.. {
            case.write_rows();
            let reference = Reference::new(&case.program, &case.weights, case.options.activations);
            let mut reference = reference.expect("a case has all its weights");
            let expected = case.works.iter().map(|w| reference.outputs(w)).collect();
            if reference.choices_are_clear() {
                return Prepared { case, expected };
            }
            let reads = matches!(case.program.nodes[0].op, Op::Read { .. });
            assert!(reads, "{}: change its seed", case.name);
            case.rows = Some(seed);
        }
        unreachable!("some rows leave no doubt")
    }

    /// The operations of the case that a backend does not have.
    pub fn lacks(&self, c: &Capabilities) -> impl Iterator<Item = &'static str> {
        let names = self.case.program.nodes.iter().map(|n| n.op.name());
        names.filter(|n| !c.ops.contains(n))
    }

    /// Whether a backend says that it has all that the case needs.
    pub fn runs_on(&self, c: &Capabilities) -> bool {
        let p = &self.case.program;
        let kv = p.states.iter().all(|s| match s {
            StateKind::Paged { k_type, v_type, .. } => {
                c.kv.contains(k_type) && c.kv.contains(v_type)
            }
            StateKind::Slot { .. } => true,
        });
        kv && self.lacks(c).next().is_none()
            && self.case.weights.dtypes().all(|d| c.weights.contains(&d))
            && self.case.room.page_tokens.is_multiple_of(c.page_multiple.max(1))
    }

    /// Every result of every step on a backend.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn results<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<Vec<f32>>>> {
        let Case { program, weights, options, room, .. } = &self.case;
        let mut device = Device::new(backend, program, weights, options, room)?;
        let outputs: Vec<Output> = program.outputs.iter().map(|o| o.0).collect();
        self.case.works.iter().map(|w| device.run(w, &outputs)).collect()
    }

    /// Runs the case on a backend. Gives the largest error, as a fraction of the tolerance.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check<B: Backend>(&self, backend: &B) -> Result<f64, String> {
        let run = catch_unwind(AssertUnwindSafe(|| self.results(backend)));
        let steps = run.map_err(|_| "it panicked".to_owned())?.map_err(|e| e.to_string())?;
        let mut worst = 0.0f64;
        for (i, (expected, got)) in self.expected.iter().zip(&steps).enumerate() {
            for ((output, expected), got) in expected.iter().zip(got) {
                let place = || format!("step {i}, {}", output.name());
                let error = distance(expected, got).map_err(|e| format!("{}: {e}", place()))?;
                worst = worst.max(error / self.case.tolerance);
                if error > self.case.tolerance {
                    return Err(format!("{}: {}", place(), difference(expected, got)));
                }
            }
        }
        Ok(worst)
    }
}

/// The largest difference, relative to the largest number expected; results of the cases are of
/// order one, so no less than a tenth.
///
/// # Errors
/// What is wrong, where lengths differ or something is not finite.
pub fn distance(expected: &[f64], got: &[f32]) -> Result<f64, String> {
    if expected.len() != got.len() {
        return Err(format!("{} numbers for {}", got.len(), expected.len()));
    }
    if let Some(i) = got.iter().position(|v| !v.is_finite()) {
        return Err(format!("element {i} of {} is {}, not {}", got.len(), got[i], expected[i]));
    }
    let scale = expected.iter().fold(0.1f64, |m, v| m.max(v.abs()));
    let far = expected.iter().zip(got).map(|(e, &g)| (e - f64::from(g)).abs());
    Ok(far.fold(0.0, f64::max) / scale)
}

/// Where two lists differ most, in words.
fn difference(expected: &[f64], got: &[f32]) -> String {
    let far = |i: &usize| (expected[*i] - f64::from(got[*i])).abs();
    let at = (0..got.len()).max_by(|a, b| far(a).total_cmp(&far(b))).unwrap_or(0);
    let wrong = (0..got.len()).filter(|i| far(i) > far(&at) / 10.0).count();
    format!(
        "element {at} of {} is {}, not {} ({wrong} are off by a tenth of that or more)",
        got.len(),
        got[at],
        expected[at]
    )
}

/// Half a unit in the last place of a number near one in this type.
fn roundoff(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 2f64.powi(-11),
        DType::BF16 => 2f64.powi(-8),
        _ => 2f64.powi(-24),
    }
}

/// The same cases in another compute precision. A product of two rounded numbers is off by three
/// roundings, and the sum of four of them by as many more: eight in all, for each matrix on the way
/// from the inputs to a result.
pub fn in_precision(suite: &[Prepared], compute: DType) -> Vec<Prepared> {
    let of = |p: &Prepared| {
        let mut case = p.case.clone();
        let matrices = case.program.matrices().iter().filter(|&&m| m).count().max(1);
        case.options.compute = compute;
        case.tolerance += 8.0 * roundoff(compute) * matrices as f64;
        Prepared { case, expected: p.expected.clone() }
    };
    suite.iter().map(of).collect()
}

/// What came of a suite.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Cases that ran.
    pub ran: usize,
    /// Steps in them.
    pub steps: usize,
    /// Cases that the backend says it cannot run.
    pub left_out: usize,
    /// The largest error as a fraction of its tolerance, and whose.
    pub worst: (f64, String),
    /// Cases that failed, each with the reason.
    pub failures: Vec<String>,
}

/// Runs every case that the backend can.
pub fn run<'p, B: Backend>(backend: &B, suite: impl IntoIterator<Item = &'p Prepared>) -> Report {
    let capabilities = backend.capabilities();
    let mut report = Report::default();
    for p in suite {
        if !p.runs_on(&capabilities) {
            report.left_out += 1;
            continue;
        }
        report.ran += 1;
        report.steps += p.case.works.len();
        match p.check(backend) {
            Ok(worst) if worst > report.worst.0 => report.worst = (worst, p.case.name.clone()),
            Ok(_) => {}
            Err(what) => report.failures.push(format!("{}: {what}", p.case.name)),
        }
    }
    report
}

/// Fills the pages that a case never takes with a pattern, runs it, and looks at them again. Gives
/// the number of pages looked at, over all cases with a cache.
///
/// # Errors
/// The first case that wrote a page it does not hold, or what the backend says.
pub fn untouched<B: Backend>(backend: &B, suite: &[Prepared]) -> Result<usize, String> {
    let mut seen = 0;
    let capabilities = backend.capabilities();
    let with_pages = suite.iter().filter(|p| !p.case.program.groups.is_empty());
    for p in with_pages.filter(|p| p.runs_on(&capabilities)) {
        let Case { name, program, weights, options, room, works, .. } = &p.case;
        let mut run = || -> Result<Option<(u8, u32)>> {
            let mut d = Device::new(backend, program, weights, options, room)?;
            // Those handed out last.
            let spare = (room.pages / 4) as usize;
            let pages: Vec<(u8, u32)> = (0..program.groups.len() as u8)
                .flat_map(|g| d.free_pages(g)[..spare].iter().map(move |&page| (g, page)))
                .collect::<Vec<_>>();
            let mut before = vec![];
            for &(group, page) in &pages {
                let bytes = backend.host_page(&mut d.context, group, 0);
                bytes.iter_mut().enumerate().for_each(|(i, b)| *b = (i % 251) as u8 ^ page as u8);
                let pattern = bytes.to_vec();
                d.restore(&[Move::Page { group, from: 0, to: page }])?;
                if d.page(group, page)? != pattern {
                    return Ok(Some((group, page)));
                }
                before.push(pattern);
            }
            for work in works {
                d.run(work, &[])?;
            }
            for (&(group, page), before) in pages.iter().zip(&before) {
                let held = !d.free_pages(group).contains(&page);
                if !held && d.page(group, page)? != *before {
                    return Ok(Some((group, page)));
                }
                seen += usize::from(!held);
            }
            Ok(None)
        };
        if let Some((group, page)) = run().map_err(|e| format!("{name}: {e}"))? {
            return Err(format!("{name}: page {page} of group {group} is not what was put there"));
        }
    }
    Ok(seen)
}
