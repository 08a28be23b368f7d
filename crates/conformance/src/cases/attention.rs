//! Queries, keys and values, and attention over what was written.
//!
//! Keys and values show only through attention, so each kind of projection has two cases: one gives
//! the queries, one what attention makes of them.

use super::*;
use crate::work::Edit;

/// A projection and an attention.
#[derive(Clone)]
struct Spec {
    name: &'static str,
    width: u32,
    /// Query heads, key heads, elements of a head.
    heads: [u32; 3],
    rope: Option<Rope>,
    /// Whether there are frequency divisors.
    factors: bool,
    qk_norm: Option<(QkNorm, NormKind)>,
    /// Whether those norms have weights.
    norm_weights: bool,
    /// In place of one by the root of the elements of a head.
    scale: Option<f32>,
    /// 0: none, 1: one for all, 3: one each.
    biases: usize,
    /// One matrix for all three.
    fused: bool,
    window: Option<u32>,
    softcap: Option<f32>,
    sinks: bool,
    kv: (DType, DType),
    weights: (DType, DType),
    activations: Activations,
}

const PLAIN: Spec = Spec {
    name: "plain",
    width: 64,
    heads: [4, 2, 16],
    rope: None,
    factors: false,
    qk_norm: None,
    norm_weights: true,
    scale: None,
    biases: 0,
    fused: false,
    window: None,
    softcap: None,
    sinks: false,
    kv: (DType::F32, DType::F32),
    weights: (DType::F32, DType::F32),
    activations: Activations::F32,
};

const ROPE: Rope = Rope {
    pairs: RopePairs::Halves,
    dims: 16,
    theta: 10000.0,
    factors: None,
    scale: 1.0,
    magnitude: 1.0,
    yarn: None,
    sections: None,
};

impl Spec {
    /// The program, its queries, and the result of its attention.
    fn record(&self, name: &str) -> (Program, Value, Value) {
        let (mut p, x) = reading(name, self.width);
        let [heads, kv_heads, head_dim] = self.heads;
        let (q, k) = (heads * head_dim, kv_heads * head_dim);
        let group = p.group(self.window);
        let (k_type, v_type) = self.kv;
        let cache = p.state(StateKind::Paged { group, k, v: k, k_type, v_type });
        let w = match self.fused {
            true => vec![p.tensor("w.q", q + 2 * k, self.width)],
            false => {
                [("w.q", q), ("w.k", k), ("w.v", k)].map(|(n, r)| p.tensor(n, r, self.width)).into()
            }
        };
        let bias = match self.biases {
            0 => vec![],
            1 => vec![p.vector("bias", q + 2 * k)],
            _ => [("bias.q", q), ("bias.k", k), ("bias.v", k)].map(|(n, r)| p.vector(n, r)).into(),
        };
        let mut qk_norm = |name: &str, all: u32| {
            let (over, kind) = self.qk_norm?;
            let all = norm(&mut p, name, kind, if over == QkNorm::Head { head_dim } else { all });
            Some(match self.norm_weights {
                true => all,
                false => Norm { weight: None, bias: None, ..all },
            })
        };
        let (q_norm, k_norm) = (qk_norm("q", q), qk_norm("k", k));
        let rope = self
            .rope
            .clone()
            .map(|r| Rope { factors: self.factors.then(|| p.vector("factors", r.dims / 2)), ..r });
        let norm_over = self.qk_norm.map_or(QkNorm::Head, |n| n.0);
        let sinks = self.sinks.then(|| p.vector("sinks", heads));
        let qkv = Op::Qkv {
            x,
            w,
            bias,
            heads,
            kv_heads,
            head_dim,
            q_norm,
            k_norm,
            norm_over,
            rope,
            cache,
        };
        let queries = p.one("qkv", qkv).expect("shapes agree");
        let attention = Op::Attention {
            q: queries,
            cache,
            heads,
            kv_heads,
            head_dim,
            scale: self.scale.unwrap_or(1.0 / (head_dim as f32).sqrt()),
            softcap: self.softcap,
            window: self.window,
            sinks,
        };
        let out = p.one("attention", attention).expect("shapes agree");
        (p, queries, out)
    }

    /// A case of these steps; rows to read are made here.
    fn case(&self, what: &str, room: Room, works: Vec<Work>) -> Case {
        let name = format!("{what} {} {:?}", self.name, self.heads);
        let (mut p, queries, out) = self.record(&name);
        match what {
            "qkv" => p.nodes.truncate(2),
            _ => p.output(Output::Hidden, out),
        }
        if what == "qkv" {
            p.values.truncate(2);
            p.output(Output::Hidden, queries);
        }
        let seed = name.bytes().fold(3u64, |h, b| h.wrapping_mul(37).wrapping_add(b.into()));
        let (first, rest) = self.weights;
        let weights = Weights::random(&p, seed ^ 1, |n| if n == "w.q" { first } else { rest });
        // A value near the middle between two that the cache can hold may become either.
        let stored = match self.kv {
            (DType::F32, DType::F32) => 0.0,
            (DType::BF16, _) | (_, DType::BF16) => 4e-3,
            _ => 5e-4,
        };
        let tolerance = tolerance(self.activations) + if what == "qkv" { 0.0 } else { stored };
        let options = options(self.activations);
        let rows = Some(seed);
        Case { name, program: p, weights, options, room, works, rows, tolerance }
    }
}

/// Causal sequences that grow: writes the next tokens of each that is named.
#[derive(Default)]
struct Script {
    lens: [u32; 16],
    works: Vec<Work>,
}

impl Script {
    /// A step of the next `n` tokens of each sequence.
    fn step(&mut self, parts: &[(usize, u32)]) -> &mut Self {
        let mut part = |&(seq, n): &(usize, u32)| {
            let from = self.lens[seq];
            self.lens[seq] += n;
            Part::causal(seq, from, vec![0; n as usize])
        };
        let parts = parts.iter().map(&mut part).collect();
        self.works.push(Work::of(parts));
        self
    }

    /// Changes made before the last step.
    fn edits(&mut self, edits: Vec<Edit>) -> &mut Self {
        self.works.last_mut().expect("there is a step").edits = edits;
        self
    }
}

/// Prompts, chunks and decodes of three sequences, in steps of all sizes.
fn ragged() -> Vec<Work> {
    let mut s = Script::default();
    s.step(&[(0, 13), (2, 1), (1, 19)]).step(&[(1, 8), (0, 1)]).step(&[(2, 33)]);
    s.step(&[(0, 1), (1, 1), (2, 1)]).step(&[(1, 5), (0, 30)]).step(&[(2, 1), (0, 2)]);
    s.works
}

pub(super) fn cases() -> Vec<Case> {
    let mut all = vec![];
    for spec in specs() {
        all.push(spec.case("qkv", Room::of(40, 4), ragged()));
        all.push(spec.case("attention", Room::of(40, 4), ragged()));
    }
    all.extend(long());
    all.extend(far_sinks());
    all.push(bidirectional());
    all.push(blocks());
    all.push(tree());
    all.extend(shared());
    all
}

fn specs() -> Vec<Spec> {
    let rope = Some(ROPE);
    let with = |dims, r: Rope| Some(Rope { dims, ..r });
    let yarn = Some(Yarn { original_context: 64, fast: 32.0, slow: 1.0, truncate: true });
    let adjacent = Rope { pairs: RopePairs::Adjacent, ..ROPE };
    let yarned = Rope { yarn, scale: 0.25, magnitude: 1.14, ..adjacent.clone() };
    let yarned_halves = Rope { pairs: RopePairs::Halves, theta: 150.0, ..yarned.clone() };
    let yarned_part = Rope { dims: 12, scale: 1.0 / 32.0, ..yarned_halves.clone() };
    let exact = yarned_part.yarn.clone().map(|y| Yarn { truncate: false, ..y });
    let yarned_exact = Rope { yarn: exact, ..yarned_part.clone() };
    let longrope = Rope { dims: 12, magnitude: 1.19, ..ROPE };
    let sections = Rope { sections: Some([3, 3, 2]), ..ROPE };
    let (f16, bf16) = (DType::F16, DType::BF16);
    let mut all = vec![PLAIN];
    for heads in [
        [1, 1, 8],
        [2, 1, 8],
        [8, 1, 16],
        [8, 8, 16],
        [4, 1, 64],
        [3, 1, 72],
        [2, 2, 80],
        [4, 2, 80],
        [2, 1, 128],
        [2, 2, 256],
    ] {
        all.push(Spec { name: "heads", heads, rope: with(heads[2], ROPE), ..PLAIN });
    }
    all.extend([
        Spec { name: "rope halves", rope: rope.clone(), ..PLAIN },
        Spec { name: "rope adjacent", rope: Some(adjacent.clone()), ..PLAIN },
        Spec { name: "rope partial", rope: with(6, ROPE), ..PLAIN },
        Spec { name: "rope partial adjacent", rope: with(10, adjacent.clone()), ..PLAIN },
        Spec { name: "rope factors", rope: rope.clone(), factors: true, ..PLAIN },
        Spec { name: "rope linear", rope: Some(Rope { scale: 0.125, ..ROPE }), ..PLAIN },
        Spec { name: "rope yarn", rope: Some(yarned), ..PLAIN },
        Spec { name: "rope yarn halves", rope: Some(yarned_halves), ..PLAIN },
        Spec { name: "rope yarn partial", rope: Some(yarned_part), ..PLAIN },
        Spec { name: "rope yarn not truncated", rope: Some(yarned_exact), ..PLAIN },
        Spec { name: "rope longrope", rope: Some(longrope), factors: true, ..PLAIN },
        Spec { name: "rope sections", rope: Some(sections), ..PLAIN },
        Spec { name: "bias", biases: 1, ..PLAIN },
        Spec { name: "biases", biases: 3, rope: rope.clone(), ..PLAIN },
        Spec { name: "fused", fused: true, biases: 1, ..PLAIN },
        Spec { name: "window", window: Some(10), ..PLAIN },
        Spec { name: "window of one", window: Some(1), ..PLAIN },
        Spec { name: "window of a page", window: Some(32), ..PLAIN },
        Spec { name: "softcap", softcap: Some(1.5), ..PLAIN },
        Spec { name: "scale", scale: Some(0.07), ..PLAIN },
        Spec { name: "fused biases", fused: true, biases: 3, rope, ..PLAIN },
        Spec { name: "sinks", sinks: true, ..PLAIN },
        Spec { name: "all", sinks: true, softcap: Some(3.0), window: Some(20), ..PLAIN },
        Spec { name: "kv f16", kv: (f16, f16), ..PLAIN },
        Spec { name: "kv bf16", kv: (bf16, bf16), ..PLAIN },
        Spec { name: "kv f16", kv: (f16, f16), heads: [2, 1, 72], ..PLAIN },
        Spec { name: "kv bf16", kv: (bf16, bf16), heads: [2, 1, 80], ..PLAIN },
    ]);
    for (over, kind) in [
        (QkNorm::Head, NormKind::Rms),
        (QkNorm::Full, NormKind::Rms),
        (QkNorm::Head, NormKind::Layer),
    ] {
        let qk_norm = Some((over, kind));
        let name = if over == QkNorm::Head { "norm of heads" } else { "norm of all" };
        let name = if kind == NormKind::Layer { "layer norm of heads" } else { name };
        all.push(Spec { name, qk_norm, rope: Some(adjacent.clone()), biases: 1, ..PLAIN });
    }
    let qk_norm = Some((QkNorm::Full, NormKind::Layer));
    all.push(Spec { name: "layer norm of all", qk_norm, heads: [3, 1, 24], ..PLAIN });
    let qk_norm = Some((QkNorm::Full, NormKind::Rms));
    all.push(Spec { name: "norm of all fused", qk_norm, fused: true, ..PLAIN });
    let qk_norm = Some((QkNorm::Head, NormKind::Rms));
    all.push(Spec { name: "norm without weights", qk_norm, norm_weights: false, ..PLAIN });
    for activations in [Activations::F32, Activations::Int8] {
        let int8 = activations == Activations::Int8;
        let wide = Spec { width: 256, activations, rope: Some(ROPE), ..PLAIN };
        let name = |f: &'static str, i: &'static str| if int8 { i } else { f };
        all.extend([
            Spec {
                name: name("q8", "q8 int8"),
                weights: (DType::Q8_0, DType::Q8_0),
                ..wide.clone()
            },
            Spec {
                name: name("mixed", "mixed int8"),
                weights: (DType::Q4_K, DType::Q6_K),
                biases: 3,
                ..wide.clone()
            },
            Spec {
                name: name("mixed with dense", "mixed with dense int8"),
                weights: (DType::Q5_K, DType::BF16),
                ..wide.clone()
            },
            Spec {
                name: name("fused q4", "fused q4 int8"),
                weights: (DType::Q4_0, DType::Q4_0),
                fused: true,
                ..wide
            },
        ]);
    }
    all
}

/// Sequences longer than a span of keys that a backend may compute apart (512 on the CPU), in
/// chunks and then decoding together and alone.
fn long() -> Vec<Case> {
    let script = || {
        let mut s = Script::default();
        s.step(&[(0, 400), (1, 30)]).step(&[(2, 130), (0, 300), (1, 1)]).step(&[(2, 405)]);
        s.step(&[(0, 1), (1, 1), (2, 1)]).step(&[(2, 1), (0, 1)]).step(&[(0, 1)]);
        s.step(&[(1, 3), (2, 1)]).step(&[(0, 1), (1, 1), (2, 1)]);
        s.works
    };
    let rope = Some(ROPE);
    let f16 = (DType::F16, DType::F16);
    [
        (Spec { name: "long", rope: rope.clone(), ..PLAIN }, 32),
        (Spec { name: "long gqa", heads: [8, 1, 8], rope: rope.clone(), ..PLAIN }, 64),
        (Spec { name: "long window", window: Some(600), ..PLAIN }, 32),
        (Spec { name: "long sinks", sinks: true, heads: [6, 2, 24], ..PLAIN }, 32),
        (Spec { name: "long one head", heads: [1, 1, 40], kv: f16, ..PLAIN }, 64),
        (Spec { name: "long short window", window: Some(40), ..PLAIN }, 32),
        (
            Spec { name: "long all", window: Some(520), sinks: true, softcap: Some(4.0), ..PLAIN },
            64,
        ),
        (Spec { name: "long f16", kv: f16, heads: [2, 1, 72], ..PLAIN }, 128),
    ]
    .into_iter()
    .map(|(mut spec, page_tokens)| {
        spec.rope = spec.rope.map(|r| Rope { dims: spec.heads[2], ..r });
        let room = Room::of(440, 4).paged(2048 / page_tokens, page_tokens);
        spec.case("attention", room, script())
    })
    .collect()
}

/// Sinks far above all scores, far below, and between: next to nothing is left of the first.
fn far_sinks() -> Vec<Case> {
    let mut all = vec![];
    for (name, window) in [("far sinks", None), ("far sinks in a window", Some(7))] {
        let spec = Spec { name, sinks: true, window, ..PLAIN };
        let mut case = spec.case("attention", Room::of(40, 4), ragged());
        let sinks = case.program.tensors.iter().find(|t| t.name == "sinks").cloned();
        case.weights.set(&sinks.expect("it has sinks"), &[120.0, -120.0, 9.0, 0.5]);
        all.push(case);
    }
    all
}

fn bidirectional() -> Case {
    let sizes: [&[usize]; 4] = [&[13, 1, 19], &[40], &[2, 3, 5, 8], &[33, 7]];
    let step = |sizes: &&[usize]| {
        let part = |(seq, &n): (usize, &usize)| Part::bidirectional(seq, vec![0; n]);
        Work::of(sizes.iter().enumerate().map(part).collect())
    };
    let spec = Spec { name: "bidirectional", rope: Some(ROPE), ..PLAIN };
    spec.case("attention", Room::of(40, 4), sizes.iter().map(step).collect())
}

/// Block diffusion: a prompt, then a block whose tokens see each other, run again in place.
fn blocks() -> Case {
    let block = |seq: usize, from: u32, n: u32| {
        let mut part = Part::causal(seq, from, vec![0; n as usize]);
        part.visible.fill([0, from + n]);
        part
    };
    let works = vec![
        Work::of(vec![Part::causal(0, 0, vec![0; 21]), Part::causal(1, 0, vec![0; 7])]),
        Work::of(vec![block(0, 21, 16), block(1, 7, 8)]),
        Work::of(vec![block(0, 21, 16), block(1, 7, 8)]),
        Work::of(vec![block(1, 15, 8), block(0, 37, 16)]),
        // A part of a block, with all of it in sight.
        {
            let mut part = Part::causal(0, 40, vec![0; 5]);
            part.visible.fill([0, 53]);
            Work::of(vec![part])
        },
    ];
    let spec = Spec { name: "blocks", rope: Some(ROPE), ..PLAIN };
    spec.case("attention", Room::of(40, 4), works)
}

/// Two trees beside a plain sequence; then the keys of the accepted branch are moved together and
/// decoding goes on.
fn tree() -> Case {
    let mut s = Script::default();
    s.step(&[(0, 28), (1, 3), (2, 9)]);
    let trunk = [None, None, Some(0), Some(0), Some(2), Some(1), Some(4)];
    let branches = Work::of(vec![
        Part::tree(0, 28, vec![0; 7], &trunk),
        Part::causal(2, 9, vec![0; 1]),
        Part::tree(1, 3, vec![0; 3], &[None, Some(0), None]),
    ]);
    s.works.push(branches);
    // Accepted: 0, 2, 4, 6 of the first, 0 and 1 of the second.
    s.lens[..3].copy_from_slice(&[32, 5, 10]);
    let key = |from: u32, to: u32| Edit::Key { seq: 0, from: 28 + from, to: 28 + to };
    s.step(&[(0, 1), (1, 1), (2, 1)]).edits(vec![key(2, 1), key(4, 2), key(6, 3)]);
    s.step(&[(0, 4), (1, 2)]);
    let spec = Spec { name: "tree", rope: Some(ROPE), ..PLAIN };
    spec.case("attention", Room::of(40, 4), s.works)
}

/// Copies of sequences that go their own ways, and a long prefix that many share.
fn shared() -> Vec<Case> {
    let mut s = Script::default();
    s.step(&[(0, 40), (1, 5)]);
    s.lens[2] = 40;
    s.step(&[(0, 1), (2, 3)]).edits(vec![Edit::Fork { from: 0, to: 2 }]);
    s.step(&[(2, 30), (0, 5), (1, 1)]);
    let f16 = (DType::F16, DType::F16);
    let fork = Spec { name: "fork", kv: f16, ..PLAIN }.case("attention", Room::of(48, 4), s.works);

    let mut s = Script::default();
    for _ in 0..4 {
        s.step(&[(0, 400)]);
    }
    s.lens[1..8].fill(1600);
    let all: [(usize, u32); 8] = std::array::from_fn(|seq| (seq, 1));
    let edits = (1..8).map(|to| Edit::Share { from: 0, to, keys: 1600 }).collect();
    s.step(&all).edits(edits).step(&all).step(&[(3, 2), (5, 1)]);
    let spec = Spec { name: "shared prefix", heads: [2, 1, 8], width: 32, ..PLAIN };
    let shared = spec.case("attention", Room::of(400, 8).paged(64, 32), s.works);
    vec![fork, shared]
}
