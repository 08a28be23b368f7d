//! Gaussian diffusion: time, latents in slots, and steps from one time to the next.

use super::*;

/// Times of the schedules.
pub const TIMES: u32 = 200;

pub(super) fn cases() -> Vec<Case> {
    let mut all = vec![];
    for width in [4, 34, 64, 130, 256] {
        all.push(time_embed(width));
        all.push(add_sequence(width));
        all.push(slots(width));
        let rules = [
            (DenoiseRule::Estimate, 0.0),
            (DenoiseRule::Ddim, 0.0),
            (DenoiseRule::Ddim, 0.4),
            (DenoiseRule::Ddim, 1.0),
            (DenoiseRule::Ddpm, 1.0),
            (DenoiseRule::Ddpm, 0.0),
        ];
        for (rule, eta) in rules {
            all.push(denoise(width, rule, eta, true));
            all.push(denoise(width, rule, eta, false));
        }
    }
    all.extend([(17, false), (64, true)].map(|(width, noise)| chain(width, noise)));
    all
}

/// Times for every sequence of every step: late, early, the last step.
fn timed(mut case: Case) -> Case {
    let times =
        [[TIMES - 1, 150], [150, 149], [57, 3], [1, 0], [0, u32::MAX], [90, u32::MAX], [9, 9]];
    for (i, work) in case.works.iter_mut().enumerate() {
        for (k, part) in work.parts.iter_mut().enumerate() {
            part.times = Some(times[(i + 3 * k) % times.len()]);
            part.seed = 3 + ((i as u64) << 33) + k as u64;
        }
    }
    case
}

/// The embedding alone; then its sum with each token of its sequence.
fn time_embed(width: u32) -> Case {
    let name = format!("time_embed {width}");
    let (mut p, _) = reading(&name, width);
    let t = p.one("t", Op::TimeEmbed { width }).expect("shapes agree");
    timed(case_f32(name, p, Output::Pooled, t))
}

fn add_sequence(width: u32) -> Case {
    let name = format!("add_sequence {width}");
    let (mut p, x) = reading(&name, width);
    let y = p.one("t", Op::Pool { x, how: Pooling::Last }).expect("shapes agree");
    let z = p.one("y", Op::AddSequence { x, y }).expect("shapes agree");
    case_f32(name, p, Output::Hidden, z)
}

fn slot(p: &mut Program, width: u32) -> State {
    p.state(StateKind::Slot { elems: 40 * width, dtype: DType::F32 })
}

/// What a step loads is what the one before stored, plus its own rows.
fn slots(width: u32) -> Case {
    let name = format!("slots {width}");
    let (mut p, x) = reading(&name, width);
    let state = slot(&mut p, width);
    let before = p.one("before", Op::LoadSlot { state, width }).expect("shapes agree");
    let sum = p.one("sum", Op::Add { x, y: before, gate: None }).expect("shapes agree");
    let kept = p.one("kept", Op::StoreSlot { x: sum, state }).expect("shapes agree");
    let mut case = case_f32(name, p, Output::Hidden, kept);
    // Fewer rows than before; anew; both sequences exchange their places in the step.
    let mut random = Random::new(width.into());
    let mut step = |parts: &[(usize, usize, bool)]| {
        let n: usize = parts.iter().map(|p| p.1).sum();
        let parts = parts
            .iter()
            .map(|&(seq, n, carries)| Part { carries, ..Part::causal(seq, 0, vec![0; n]) });
        Work {
            parts: parts.collect(),
            hidden: random.rows_off_ties(n * width as usize),
            ..Work::default()
        }
    };
    case.rows = None;
    case.works = vec![
        step(&[(0, 33, false), (1, 5, false)]),
        step(&[(1, 5, true), (0, 20, true)]),
        step(&[(0, 20, true)]),
        step(&[(2, 1, false), (1, 3, true), (0, 2, false)]),
        step(&[(0, 2, true), (2, 1, true)]),
    ];
    case
}

/// One step; the noise given, or drawn. Its inputs are exact in f32, so what is off is the step's own.
fn denoise(width: u32, rule: DenoiseRule, eta: f32, given: bool) -> Case {
    let name = format!("denoise {width} {rule:?} {eta} given {given}");
    let (mut p, x) = reading(&name, width);
    let read = Op::Read { input: Input::Embeddings, width };
    let other = p.one("other", read).expect("shapes agree");
    let (eps, noise) = match given {
        true => (p.one("eps", Op::Add { x, y: x, gate: None }).expect("shapes agree"), Some(other)),
        false => (other, None),
    };
    let schedule = p.vector("schedule", TIMES);
    let step = Op::Denoise { x, eps, schedule, eta, rule, noise };
    let y = p.one("y", step).expect("shapes agree");
    let mut case = timed(case_f32(name, p, Output::Hidden, y));
    let mut random = Random::new(77);
    for work in &mut case.works {
        work.noise = random.normals(work.tokens().count() * width as usize);
    }
    case.tolerance = 1e-6;
    case
}

/// Six steps in a slot of 40 rows, from noise to the end, with a network of one matrix in between.
pub fn chain(width: u32, given: bool) -> Case {
    let name = format!("denoise chain {width} given {given}");
    let mut p = Program::new(&name);
    let state = slot(&mut p, width);
    let x = p.one("x", Op::LoadSlot { state, width }).expect("shapes agree");
    let fresh = p.one("fresh", Op::Read { input: Input::Hidden, width }).expect("shapes agree");
    let x = p.one("in", Op::Add { x, y: fresh, gate: None }).expect("shapes agree");
    let (w, act) = (p.tensor("w", width, width), Act::Tanh);
    let eps = Op::Linear { x, w, bias: None, act, scale: 1.0, softcap: None };
    let eps = p.one("eps", eps).expect("shapes agree");
    let noise = given.then(|| {
        let read = Op::Read { input: Input::Embeddings, width };
        p.one("z", read).expect("shapes agree")
    });
    let schedule = p.vector("schedule", TIMES);
    let (eta, rule) = (1.0, DenoiseRule::Ddim);
    let y = Op::Denoise { x, eps, schedule, eta, rule, noise };
    let y = p.one("y", y).expect("shapes agree");
    let y = p.one("kept", Op::StoreSlot { x: y, state }).expect("shapes agree");
    p.output(Output::Hidden, y);
    let weights = Weights::random(&p, 9, |_| DType::F32);
    let mut random = Random::new(10);
    let tokens = [7, 12];
    let n: usize = tokens.iter().sum();
    let times = [199, 160, 120, 70, 30, 10, u32::MAX];
    let works = times.windows(2).enumerate().map(|(i, w)| {
        let part = |(seq, &n): (usize, &usize)| Part {
            times: Some([w[0], w[1]]),
            seed: 40 + seq as u64,
            carries: i > 0,
            ..Part::bidirectional(seq, vec![0; n])
        };
        let numbers = n * width as usize;
        // Noise to begin with; nothing is added later.
        let hidden = if i == 0 { random.normals(numbers) } else { vec![0.0; numbers] };
        let noise = if given { random.normals(numbers) } else { vec![] };
        Work {
            parts: tokens.iter().enumerate().map(part).collect(),
            hidden,
            noise,
            ..Work::default()
        }
    });
    let works = works.collect();
    let (options, room) = (options(Activations::F32), Room::of(48, 4));
    Case { name, program: p, weights, options, room, works, rows: None, tolerance: 1e-5 }
}
