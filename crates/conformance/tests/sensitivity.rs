//! The cases can tell right from wrong: a change to any attribute of an operation changes what is
//! expected by far more than the tolerance, on the same weights and the same steps.

use gristmill_conformance::cases::{self, Case};
use gristmill_conformance::check::distance;
use gristmill_conformance::reference::Reference;
use gristmill_ir::*;
use std::sync::OnceLock;

type Change = fn(&mut Op);

/// A case, and what is changed in its operations.
const CHANGES: [(&str, Change); 40] = [
    ("attention window [4, 2, 16]", |op| {
        if let Op::Attention { window: Some(w), .. } = op {
            *w += 1;
        }
    }),
    ("attention softcap [4, 2, 16]", |op| {
        if let Op::Attention { softcap, .. } = op {
            *softcap = None;
        }
    }),
    ("attention sinks [4, 2, 16]", |op| {
        if let Op::Attention { sinks, .. } = op {
            *sinks = None;
        }
    }),
    ("attention plain [4, 2, 16]", |op| {
        if let Op::Attention { scale, .. } = op {
            *scale *= 1.01;
        }
    }),
    ("attention rope halves [4, 2, 16]", |op| rope(op, |r| r.pairs = RopePairs::Adjacent)),
    ("attention rope adjacent [4, 2, 16]", |op| rope(op, |r| r.pairs = RopePairs::Halves)),
    ("attention rope partial [4, 2, 16]", |op| rope(op, |r| r.dims = 8)),
    ("attention rope linear [4, 2, 16]", |op| rope(op, |r| r.scale = 1.0)),
    ("attention rope factors [4, 2, 16]", |op| rope(op, |r| r.factors = None)),
    ("attention rope yarn [4, 2, 16]", |op| rope(op, |r| r.yarn = None)),
    ("attention rope sections [4, 2, 16]", |op| rope(op, |r| r.sections = Some([3, 2, 3]))),
    ("qkv rope sections [4, 2, 16]", |op| rope(op, |r| r.sections = None)),
    ("attention norm of heads [4, 2, 16]", |op| {
        if let Op::Qkv { k_norm, .. } = op {
            *k_norm = None;
        }
    }),
    ("attention norm of all [4, 2, 16]", |op| {
        if let Op::Qkv { k_norm: Some(n), .. } = op {
            n.offset = 0.0;
        }
    }),
    ("attention bias [4, 2, 16]", |op| {
        if let Op::Qkv { bias, .. } = op {
            bias.clear();
        }
    }),
    ("attention rope longrope [4, 2, 16]", |op| rope(op, |r| r.magnitude = 1.0)),
    ("attention rope yarn halves [4, 2, 16]", |op| {
        rope(op, |r| r.yarn = Some(Yarn { fast: 2.0, ..r.yarn.clone().unwrap() }))
    }),
    ("attention scale [4, 2, 16]", |op| {
        if let Op::Attention { scale, .. } = op {
            *scale = 0.071;
        }
    }),
    ("attention far sinks [4, 2, 16]", |op| {
        if let Op::Attention { sinks, .. } = op {
            *sinks = None;
        }
    }),
    ("attention norm of all fused [4, 2, 16]", |op| {
        if let Op::Qkv { q_norm, .. } = op {
            *q_norm = None;
        }
    }),
    ("route 2 of 8 Softmax false false false 1 17 F32 F32", |op| {
        if let Op::Route { gating, .. } = op {
            *gating = Gating::SoftmaxChosen;
        }
    }),
    ("route 2 of 8 Sigmoid false false false 1 17 F32 F32", |op| {
        if let Op::Route { renormalise, .. } = op {
            *renormalise = true;
        }
    }),
    ("route 4 of 17 Softmax true true false 2.5 200 F32 F32", |op| {
        if let Op::Route { choice_bias, .. } = op {
            *choice_bias = None;
        }
    }),
    ("route 4 of 17 Sigmoid true true false 2.5 200 F32 F32", |op| {
        if let Op::Route { bias, .. } = op {
            *bias = None;
        }
    }),
    ("route 4 of 17 SoftmaxChosen true true false 2.5 200 F32 F32", |op| {
        if let Op::Route { scale, .. } = op {
            *scale = 2.51;
        }
    }),
    ("expert_gate_up SwigluClamped 8 of 8 F32 F32 true 2 F32", |op| {
        if let Op::ExpertGateUp { act, .. } = op {
            *act = Act::Silu;
        }
    }),
    ("expert_gate_up GeluTanh 1 of 1 F32 F32 true 1 F32", |op| {
        if let Op::ExpertGateUp { bias, .. } = op {
            bias.clear();
        }
    }),
    ("expert_down 3 of 4 Softmax F32 17 to 33 true F32", |op| {
        if let Op::ExpertDown { bias, .. } = op {
            *bias = None;
        }
    }),
    ("linear then Gelu true 1 None", |op| act(op, Act::GeluTanh)),
    ("linear then Silu true 0.6 Some(2.5)", |op| {
        if let Op::Linear { scale, .. } = op {
            *scale = 0.61;
        }
    }),
    ("linear then Silu true 1 None", |op| {
        if let Op::Linear { bias, .. } = op {
            *bias = None;
        }
    }),
    ("norm Layer 200 true true 0", |op| {
        if let Op::Norm { norm, .. } = op {
            norm.kind = NormKind::Rms;
        }
    }),
    ("norm Rms 1 true false 1", |op| {
        if let Op::Norm { norm, .. } = op {
            norm.eps *= 2.0;
        }
    }),
    ("wkv7 3 of 64 invariant true", |op| {
        if let Op::Wkv7 { norm, .. } = op {
            norm.eps = 1e-2;
        }
    }),
    ("wkv7 3 of 64 invariant false", |op| {
        if let Op::Wkv7 { k_a, k_k, .. } = op {
            *k_a = *k_k;
        }
    }),
    ("wkv7 2 of 17 invariant true", |op| {
        if let Op::Wkv7 { a, g, .. } = op {
            *a = *g;
        }
    }),
    ("low_rank F32 F32 17 5", |op| {
        if let Op::LowRank { mid, .. } = op {
            *mid = Act::None;
        }
    }),
    ("low_rank F16 F32 64 32", |op| {
        if let Op::LowRank { bias, .. } = op {
            *bias = None;
        }
    }),
    ("pool Mean 17", |op| {
        if let Op::Pool { how, .. } = op {
            *how = Pooling::Cls;
        }
    }),
    ("embed Q4_0 288 true", |op| {
        if let Op::Embed { types, .. } = op {
            *types = None;
        }
    }),
];

fn rope(op: &mut Op, change: fn(&mut Rope)) {
    if let Op::Qkv { rope: Some(rope), .. } = op {
        change(rope);
    }
}

fn act(op: &mut Op, to: Act) {
    if let Op::Linear { act, .. } = op {
        *act = to;
    }
}

fn all() -> &'static [Case] {
    static CASES: OnceLock<Vec<Case>> = OnceLock::new();
    CASES.get_or_init(cases::all)
}

/// The largest difference of any result of any step.
fn far(case: &Case, changed: &Program, activations: Activations) -> f64 {
    let reference = |p, a| Reference::new(p, &case.weights, a).unwrap();
    let mut right = reference(&case.program, case.options.activations);
    let mut wrong = reference(changed, activations);
    let mut most = 0.0f64;
    for work in &case.works {
        for (a, b) in right.outputs(work).iter().zip(wrong.outputs(work)) {
            let b: Vec<f32> = b.1.iter().map(|&v| v as f32).collect();
            most = most.max(distance(&a.1, &b).unwrap());
        }
    }
    most
}

#[test]
fn changed_attributes_are_seen() {
    let cases = all();
    for (name, change) in CHANGES {
        let found = cases.iter().find(|c| c.name == name);
        let case = found.unwrap_or_else(|| panic!("there is no case {name}"));
        let mut changed = case.program.clone();
        changed.nodes.iter_mut().for_each(|n| change(&mut n.op));
        assert_ne!(changed, case.program, "{name}");
        let far = far(case, &changed, case.options.activations);
        assert!(far > 10.0 * case.tolerance, "{name}: {far:e} at {:e}", case.tolerance);
    }
}

/// So does the rounding of activations to eight bits, in every format.
#[test]
fn the_form_of_activations_is_seen() {
    let cases = all();
    let int8 = |c: &&Case| c.options.activations == Activations::Int8 && c.name.contains("linear");
    assert!(cases.iter().filter(int8).count() >= 15);
    for case in cases.iter().filter(int8) {
        let far = far(case, &case.program, Activations::F32);
        assert!(far > 5.0 * case.tolerance, "{}: {far:e}", case.name);
    }
}

#[test]
fn names_are_unique() {
    let cases = all();
    let mut names: Vec<&str> = cases.iter().map(|c| c.name.as_str()).collect();
    names.sort_unstable();
    let n = names.len();
    names.dedup();
    assert_eq!(names.len(), n);
}
