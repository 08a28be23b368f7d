//! The operations of RWKV: states that begin at zero, go on, are forked, and change their slots.

use super::*;
use crate::work::Edit;

pub(super) fn cases() -> Vec<Case> {
    let mut all = vec![];
    for (width, mixes) in [(1, 1), (17, 3), (64, 6), (300, 2), (513, 1)] {
        all.push(shift(width, mixes));
    }
    for (i, dtype) in DENSE.into_iter().chain(BLOCKS).enumerate() {
        let (width, rank) = match dtype.block_len() {
            1 => [(17, 5), (64, 32), (200, 7)][i],
            32 => (96, 32),
            _ => (512, 256),
        };
        all.push(low_rank(dtype, Activations::F32, width, rank));
        if dtype.block_len() > 1 {
            all.push(low_rank(dtype, Activations::Int8, width, rank));
        }
    }
    for width in [1, 17, 64, 300] {
        all.push(lerp(width));
    }
    for [heads, dim] in [[1, 1], [3, 5], [2, 8], [2, 17], [1, 33], [3, 64], [1, 96], [1, 128]] {
        for invariant in [true, false] {
            all.push(wkv7(heads, dim, invariant));
        }
    }
    all
}

/// Steps in which sequences come, go on alone and together, begin anew, and are forked.
fn steps(random: &mut Random, width: u32) -> Vec<Work> {
    let sizes: [&[(usize, u32)]; 8] = [
        &[(0, 5), (1, 1)],
        &[(0, 1), (1, 1)],
        &[(2, 3), (0, 1), (1, 20)],
        &[(3, 1), (0, 1)],
        &[(0, 70), (3, 2)],
        &[(0, 1), (1, 1), (2, 1), (3, 1)],
        // Of one that begins anew nothing is left.
        &[(0, 0), (1, 66)],
        &[(0, 90)],
    ];
    let mut lens = [0u32; 4];
    let mut works = vec![];
    for (i, step) in sizes.into_iter().enumerate() {
        let mut edits = vec![];
        if i == 3 {
            edits.push(Edit::Fork { from: 1, to: 3 });
            lens[3] = lens[1];
        }
        let mut parts = vec![];
        for &(seq, n) in step {
            let n = if n == 0 { std::mem::take(&mut lens[seq]).min(9) } else { n };
            parts.push(Part::causal(seq, lens[seq], vec![0; n as usize]));
            lens[seq] += n;
        }
        let tokens: usize = parts.iter().map(Part::len).sum();
        works.push(Work { edits, parts, hidden: random.normals(tokens * width as usize) });
    }
    works
}

fn case(name: String, mut p: Program, v: Value, invariant: bool, tolerance: f64) -> Case {
    p.output(Output::Hidden, v);
    let Op::Read { width, .. } = p.nodes[0].op else { unreachable!("these begin with a read") };
    let weights = Weights::random(&p, 51, |_| DType::F32);
    let works = steps(&mut Random::new(52), width);
    let options = Options { batch_invariant: invariant, ..options(Activations::F32) };
    Case { name, program: p, weights, options, room: Room::of(100, 4), works, tolerance }
}

fn slot(p: &mut Program, elems: u32) -> State {
    p.state(StateKind::Slot { elems, dtype: DType::F32 })
}

fn shift(width: u32, mixes: u32) -> Case {
    let name = format!("token_shift {width} {mixes}");
    let (mut p, x) = reading(&name, width);
    let mix = p.tensor("bias.mix", mixes, width);
    let state = slot(&mut p, width);
    let mixed = p.push("mixed", Op::TokenShift { x, mix, state }).expect("shapes agree");
    let last = mixed[mixes as usize - 1];
    let y = p.one("y", Op::Lerp { from: mixed[0], to: x, t: last }).expect("shapes agree");
    case(name, p, y, true, F32)
}

fn low_rank(dtype: DType, a: Activations, width: u32, rank: u32) -> Case {
    let name = format!("low_rank {dtype} {a:?} {width} {rank}");
    let (mut p, x) = reading(&name, width);
    let op = Op::LowRank {
        x,
        a: p.tensor("a", rank, width),
        mid: if rank == 7 { Act::Sigmoid } else { Act::Tanh },
        b: p.tensor("b", 19, rank),
        bias: (rank != 7).then(|| p.vector("bias", 19)),
        act: if rank == 5 { Act::Decay } else { Act::Sigmoid },
    };
    let y = p.one("y", op).expect("shapes agree");
    p.output(Output::Hidden, y);
    let mut case = case_of(name, p, a, |_| dtype);
    if a == Activations::Int8 {
        // What lies between is rounded too, and may be near the middle between two integers.
        case.tolerance = 5e-3;
    }
    case
}

fn lerp(width: u32) -> Case {
    let name = format!("lerp {width}");
    let (mut p, x) = reading(&name, width);
    let [to, t] = ["to", "t"].map(|n| {
        let norm = norm(&mut p, n, NormKind::Layer, width);
        p.one(n, Op::Norm { x, norm }).expect("shapes agree")
    });
    let y = p.one("y", Op::Lerp { from: x, to, t }).expect("shapes agree");
    case_f32(name, p, Output::Hidden, y)
}

/// The recurrence, and in its place the form for many tokens where results may depend on how many
/// come at once.
fn wkv7(heads: u32, dim: u32, invariant: bool) -> Case {
    let name = format!("wkv7 {heads} of {dim} invariant {invariant}");
    let width = heads * dim;
    let (mut p, x) = reading(&name, width);
    let y = record_wkv7(&mut p, x, heads);
    // Fifty tokens of a delta rule with random keys lose some digits in any order of summation.
    case(name, p, y, invariant, 5e-5)
}

/// A recurrence whose six inputs are projections of `x`.
pub fn record_wkv7(p: &mut Program, x: Value, heads: u32) -> Value {
    let width = p.shape(x).width;
    let mut project = |name: &str, act| {
        let w = p.tensor(name, width, width);
        let bias = Some(p.vector(format!("bias.{name}"), width));
        let op = Op::Linear { x, w, bias, act, scale: 1.0, softcap: None };
        p.one(name, op).expect("shapes agree")
    };
    let r = project("r", Act::None);
    let decay = project("decay", Act::Decay);
    let k = project("k", Act::None);
    let v = project("v", Act::None);
    let a = project("a", Act::Sigmoid);
    let g = project("g", Act::None);
    let mut own = norm(p, "y", NormKind::Layer, width);
    own.eps = 64e-5;
    let wkv = Op::Wkv7 {
        r,
        decay,
        k,
        v,
        a,
        g,
        k_k: p.vector("norm.k_k", width),
        k_a: p.vector("norm.k_a", width),
        r_k: p.vector("bias.r_k", width),
        heads,
        norm: own,
        state: slot(p, width * (width / heads)),
    };
    p.one("wkv7", wkv).expect("shapes agree")
}
