//! Operations on rows: embedding, norms, the residual, sums, selection, pooling, scaling.

use super::*;

const WIDTHS: [u32; 7] = [1, 17, 64, 172, 200, 256, 288];

pub(super) fn cases() -> Vec<Case> {
    let mut all = vec![];
    for (i, width) in WIDTHS.into_iter().enumerate() {
        all.extend(norms(width));
        all.extend(residuals(width));
        all.extend(sums(width));
        all.push(select(width));
        all.extend(pools(width));
        all.push(normalize(width, [width, width.div_ceil(2)][i % 2]));
    }
    all.extend(embeds());
    all
}

fn norms(width: u32) -> Vec<Case> {
    let mut all = vec![];
    for kind in [NormKind::Rms, NormKind::Layer] {
        for (weight, bias, offset) in
            [(false, false, 0.0), (true, false, 0.0), (true, false, 1.0), (true, true, 0.0)]
        {
            let name = format!("norm {kind:?} {width} {weight} {bias} {offset}");
            let (mut p, x) = reading(&name, width);
            let weight = weight.then(|| p.vector("norm", width));
            let bias = bias.then(|| p.vector("bias", width));
            let norm = Norm { kind, weight, bias, eps: 1e-5, offset };
            let y = p.one("y", Op::Norm { x, norm }).expect("shapes agree");
            all.push(case_f32(name, p, Output::Hidden, y));
        }
    }
    all
}

fn residuals(width: u32) -> Vec<Case> {
    let mut all = vec![];
    let posts = [None, Some(NormKind::Rms), Some(NormKind::Layer)];
    for (post, (kind, scale)) in posts.into_iter().zip([
        (NormKind::Rms, 1.0),
        (NormKind::Layer, 0.22),
        (NormKind::Rms, -1.5),
    ]) {
        for result in [0, 1] {
            let name = format!("add_norm {width} {post:?} {kind:?} {scale} {result}");
            let (mut p, x) = reading(&name, width);
            let own = norm(&mut p, "delta", NormKind::Rms, width);
            let delta = p.one("delta", Op::Norm { x, norm: own }).expect("shapes agree");
            let post = post.map(|kind| norm(&mut p, "post", kind, width));
            let norm = norm(&mut p, "next", kind, width);
            let y = p.push("y", Op::AddNorm { x, delta, post, scale, norm });
            let y = y.expect("shapes agree")[result];
            all.push(case_f32(name, p, Output::Hidden, y));
        }
    }
    all
}

fn sums(width: u32) -> Vec<Case> {
    let of = |gated: bool| {
        let name = format!("add {width} gated {gated}");
        let (mut p, x) = reading(&name, width);
        let own = norm(&mut p, "y", NormKind::Layer, width);
        let y = p.one("y", Op::Norm { x, norm: own }).expect("shapes agree");
        let gate = gated.then(|| {
            let w = p.tensor("w", 1, width);
            let (bias, act) = (None, Act::None);
            let gate = Op::Linear { x, w, bias, act, scale: 1.0, softcap: None };
            p.one("gate", gate).expect("shapes agree")
        });
        let z = p.one("z", Op::Add { x, y, gate }).expect("shapes agree");
        case_f32(name, p, Output::Hidden, z)
    };
    vec![of(false), of(true)]
}

/// Rows in any order, repeated, and none at all.
fn select(width: u32) -> Case {
    let name = format!("select_rows {width}");
    let (mut p, x) = reading(&name, width);
    let y = p.one("y", Op::SelectRows { x }).expect("shapes agree");
    let mut case = case_f32(name, p, Output::Logits, y);
    for (i, work) in case.works.iter_mut().enumerate() {
        let n = work.parts[0].len() as u32;
        work.parts[0].rows = match i % 4 {
            0 => (0..n).collect(),
            1 => vec![],
            2 => (0..n).rev().step_by(2).collect(),
            _ => vec![n - 1, 0, n - 1],
        };
        if i == 1 {
            work.parts.truncate(1);
        }
    }
    case
}

fn pools(width: u32) -> Vec<Case> {
    let of = |how| {
        let name = format!("pool {how:?} {width}");
        let (mut p, x) = reading(&name, width);
        let y = p.one("y", Op::Pool { x, how }).expect("shapes agree");
        case_f32(name, p, Output::Pooled, y)
    };
    [Pooling::Mean, Pooling::Cls, Pooling::Last].map(of).into()
}

fn normalize(width: u32, kept: u32) -> Case {
    let name = format!("normalize {kept} of {width}");
    let (mut p, x) = reading(&name, width);
    let y = p.one("y", Op::Normalize { x, width: kept }).expect("shapes agree");
    let mut case = case_f32(name, p, Output::Hidden, y);
    // A row of zeros has no direction and stays.
    case.write_rows();
    case.works[0].hidden[..width as usize].fill(0.0);
    case
}

/// A table in every format, alone and with positions and types; scaled.
fn embeds() -> Vec<Case> {
    let mut all = vec![];
    for (i, dtype) in DENSE.into_iter().chain(BLOCKS).enumerate() {
        let width = match dtype.block_len() {
            1 => [17, 172, 1][i],
            32 => 288,
            _ => 512,
        };
        for (scale, more) in [(1.0, false), (12.5, true)] {
            let name = format!("embed {dtype} {width} {more}");
            let mut p = Program::new(&name);
            let (vocab, far) = (75, 50);
            let table = p.tensor("table", vocab, width);
            let positions = more.then(|| p.tensor("table.positions", far, width));
            let types = more.then(|| p.tensor("table.types", 2, width));
            let x = p.one("x", Op::Embed { table, scale, positions, types });
            p.output(Output::Hidden, x.expect("shapes agree"));
            let mut random = Random::new(i as u64);
            let step = |n: usize| {
                let mut ids = random.ids(n, vocab);
                ids[0] = vocab - 1;
                let mut part = Part::causal(0, far - n as u32, ids);
                part.types = random.ids(n, 2);
                // Of no meaning here, but a sequence of one step holds no keys before it.
                part.kv_index = (0..n as u32).collect();
                part.visible.fill([0, n as u32]);
                Work::of(vec![part])
            };
            let works = TOKENS.map(step).into();
            let weights = Weights::random(&p, 40 + i as u64, |_| dtype);
            let (options, room) = (options(Activations::F32), Room::of(40, 4));
            all.push(Case {
                name,
                program: p,
                weights,
                options,
                room,
                works,
                rows: None,
                tolerance: 1e-6,
            });
        }
    }
    all
}
