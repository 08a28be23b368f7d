//! Mixtures of experts: every gating, crowded and idle experts, stacks in every format.

use super::*;

pub(super) fn cases() -> Vec<Case> {
    let mut all = routes();
    all.extend(gates());
    all.extend(downs());
    all.extend(crowds());
    all
}

/// A router.
#[derive(Clone, Copy)]
struct Router {
    experts: u32,
    k: u32,
    gating: Gating,
    bias: bool,
    choice_bias: bool,
    renormalise: bool,
    scale: f32,
}

const ROUTER: Router = Router {
    experts: 5,
    k: 2,
    gating: Gating::Softmax,
    bias: false,
    choice_bias: false,
    renormalise: true,
    scale: 1.0,
};

impl Router {
    fn record(&self, p: &mut Program, x: Value) -> Value {
        let experts = self.experts;
        let op = Op::Route {
            x,
            w: p.tensor("w.router", experts, p.shape(x).width),
            bias: self.bias.then(|| p.vector("bias.router", experts)),
            choice_bias: self.choice_bias.then(|| p.vector("bias.choice", experts)),
            k: self.k,
            gating: self.gating,
            renormalise: self.renormalise,
            scale: self.scale,
        };
        p.one("route", op).expect("shapes agree")
    }
}

const GATINGS: [Gating; 3] = [Gating::Softmax, Gating::SoftmaxChosen, Gating::Sigmoid];

/// What a router gives: every gating, from one expert to all, with and without all else.
fn routes() -> Vec<Case> {
    let mut all = vec![];
    let mut add = |r: Router, width: u32, dtype: DType, a: Activations| {
        let Router { experts, k, gating, bias, choice_bias, renormalise, scale } = r;
        let name = format!(
            "route {k} of {experts} {gating:?} {bias} {choice_bias} {renormalise} {scale} {width} \
             {dtype} {a:?}"
        );
        let (mut p, x) = reading(&name, width);
        let y = r.record(&mut p, x);
        p.output(Output::Hidden, y);
        let mut case = case_of(name, p, a, |_| dtype);
        // The numbers of experts are results too, and larger than their weights.
        case.tolerance /= f64::from(experts);
        all.push(case);
    };
    let sizes = [(1, 1), (3, 1), (3, 2), (5, 5), (8, 2), (17, 4), (40, 40)];
    for gating in GATINGS {
        for (i, (experts, k)) in sizes.into_iter().enumerate() {
            let width = [64, 17, 200][i % 3];
            let plain = Router { experts, k, gating, renormalise: false, ..ROUTER };
            add(plain, width, DType::F32, Activations::F32);
            add(Router { renormalise: true, ..plain }, width, DType::F32, Activations::F32);
            let (bias, choice_bias, scale) = (true, true, 2.5);
            let full = Router { bias, choice_bias, scale, renormalise: i % 2 == 0, ..plain };
            add(full, width, DType::F32, Activations::F32);
        }
    }
    for (dtype, a) in [
        (DType::F16, Activations::F32),
        (DType::Q8_0, Activations::F32),
        (DType::Q8_0, Activations::Int8),
        (DType::Q4_K, Activations::Int8),
    ] {
        add(Router { experts: 19, k: 3, ..ROUTER }, 256, dtype, a);
    }
    all
}

/// Gated units of stacks: two, or one that holds both; biases of either kind; every format.
fn gates() -> Vec<Case> {
    let mut all = vec![];
    let mut add = |act: Act, r: Router, (gate, up): (DType, DType), (split, biases), a| {
        let width = [33, 40, 5, 17][biases + usize::from(split)];
        let cols = if gate.block_len().max(up.block_len()) == 1 { 72 } else { 256 };
        let (n, k) = (r.experts, r.k);
        let name = format!("expert_gate_up {act:?} {k} of {n} {gate} {up} {split} {biases} {a:?}");
        let (mut p, x) = reading(&name, cols);
        let route = r.record(&mut p, x);
        let w = match split {
            true => ["w.gate", "w.up"].map(|s| p.tensor_stack(s, n, width, cols)).into(),
            false => vec![p.tensor_stack("w.gate", n, 2 * width, cols)],
        };
        let bias = match biases {
            0 => vec![],
            1 => vec![p.tensor("bias", n, 2 * width)],
            _ => ["bias.gate", "bias.up"].map(|s| p.tensor(s, n, width)).into(),
        };
        let op = Op::ExpertGateUp { x, route, w, bias, act };
        let y = p.one("y", op).expect("shapes agree");
        p.output(Output::Hidden, y);
        all.push(case_of(name, p, a, |name| match name {
            "w.router" => DType::F32,
            "w.up" => up,
            _ => gate,
        }));
    };
    let f32 = (DType::F32, DType::F32);
    let acts = [Act::Silu, Act::GeluTanh, Act::SwigluClamped, Act::Gelu, Act::Relu, Act::None];
    for (i, act) in acts.into_iter().enumerate() {
        let r = Router { experts: [5, 1, 8][i % 3], k: [2, 1, 8][i % 3], ..ROUTER };
        add(act, r, f32, (true, i % 3), Activations::F32);
        add(act, r, f32, (false, (i + 1) % 3), Activations::F32);
    }
    for (i, dtype) in DENSE.into_iter().chain(BLOCKS).enumerate() {
        let forms: &[Activations] = match dtype.block_len() {
            1 => &[Activations::F32],
            _ => &[Activations::F32, Activations::Int8],
        };
        for &a in forms {
            let r = Router { experts: 3 + i as u32, k: 1 + i as u32 % 3, ..ROUTER };
            add(Act::Silu, r, (dtype, dtype), (true, i % 3), a);
            add(Act::SwigluClamped, r, (dtype, dtype), (false, (i + 2) % 3), a);
        }
    }
    for a in [Activations::F32, Activations::Int8] {
        add(Act::Silu, ROUTER, (DType::Q4_K, DType::Q6_K), (true, 0), a);
        add(Act::Silu, ROUTER, (DType::Q8_0, DType::F16), (true, 2), a);
    }
    all
}

/// A program whose gated units copy their rows, so that what a stack of down projections is given
/// is known to the bit: `(1 · x) · (0 · x + 1)`.
fn copying(name: &str, r: Router, width: u32) -> (Program, [Value; 2], [Tensor; 3]) {
    let (mut p, x) = reading(name, width);
    let route = r.record(&mut p, x);
    let [gate, up] = ["w.one", "w.none"].map(|s| p.tensor_stack(s, r.experts, width, width));
    let bias = ["bias.none", "bias.one"].map(|s| p.tensor(s, r.experts, width));
    let op = Op::ExpertGateUp { x, route, w: vec![gate, up], bias: bias.into(), act: Act::None };
    let copies = p.one("copies", op).expect("shapes agree");
    (p, [copies, route], [gate, up, bias[0]])
}

/// Gives the weights of [`copying`] their values.
fn set_copying(case: &mut Case, tensors: [Tensor; 3]) {
    let [gate, up, no_bias] = tensors.map(|t| case.program.decl(t).clone());
    let n = gate.cols as usize;
    let one = |i: usize| f32::from(u8::from(i % (n * n) / n == i % n));
    let ones: Vec<f32> = (0..gate.experts as usize * n * n).map(one).collect();
    case.weights.set(&gate, &ones);
    case.weights.set(&up, &vec![0.0; ones.len()]);
    let rows = no_bias.rows as usize * n;
    case.weights.set(&no_bias, &vec![0.0; rows]);
    let bias = TensorDecl { name: "bias.one".into(), ..no_bias };
    case.weights.set(&bias, &vec![1.0; rows]);
}

fn down(r: Router, dtype: DType, [width, rows]: [u32; 2], bias: bool, a: Activations) -> Case {
    let (n, k, gating) = (r.experts, r.k, r.gating);
    let name = format!("expert_down {k} of {n} {gating:?} {dtype} {width} to {rows} {bias} {a:?}");
    let (mut p, [x, route], tensors) = copying(&name, r, width);
    let w = p.tensor_stack("w.down", n, rows, width);
    let bias = bias.then(|| p.tensor("bias.down", n, rows));
    let y = p.one("y", Op::ExpertDown { x, route, w, bias }).expect("shapes agree");
    p.output(Output::Hidden, y);
    let format = |name: &str| if name == "w.down" { dtype } else { DType::F32 };
    let mut case = case_of(name, p, a, format);
    set_copying(&mut case, tensors);
    case
}

fn downs() -> Vec<Case> {
    let mut all = vec![];
    for (i, gating) in GATINGS.into_iter().enumerate() {
        for (experts, k) in [(1, 1), (4, 3), (9, 9)] {
            let r = Router { experts, k, gating, scale: 1.5, ..ROUTER };
            let shape = [[17, 33], [72, 5], [40, 1030]][i];
            all.push(down(r, DType::F32, shape, k == 3, Activations::F32));
        }
    }
    for (i, dtype) in DENSE.into_iter().chain(BLOCKS).enumerate() {
        let r = Router { experts: 3 + i as u32, k: 1 + i as u32 % 3, ..ROUTER };
        let shape = match dtype.block_len() {
            256 => [256, 40],
            _ => [96, 31],
        };
        all.push(down(r, dtype, shape, i % 2 == 0, Activations::F32));
        if dtype.block_len() > 1 {
            all.push(down(r, dtype, shape, i % 2 == 1, Activations::Int8));
        }
    }
    all
}

/// Everybody at one expert, one that nobody chooses, all alike; a whole mixture of each.
fn crowds() -> Vec<Case> {
    let mut all = vec![];
    let far = |e: usize, to: f32| move |i: usize| if i == e { to } else { 0.0 };
    let biases: [(&str, [f32; 6], Router); 4] = [
        ("one for all", std::array::from_fn(far(3, 50.0)), Router { k: 1, ..ROUTER }),
        ("one for all and another", std::array::from_fn(far(0, 30.0)), ROUTER),
        ("one for none", std::array::from_fn(far(2, -50.0)), Router { k: 4, ..ROUTER }),
        // The router's weights are zero there: nothing but the order of the experts decides.
        ("all alike", [0.0; 6], Router { k: 3, ..ROUTER }),
    ];
    for (what, bias, r) in biases {
        for (dtype, a) in [
            (DType::F32, Activations::F32),
            (DType::Q4_K, Activations::F32),
            (DType::Q8_0, Activations::Int8),
        ] {
            let r = Router { experts: 6, bias: true, ..r };
            let mut case = down(r, dtype, [256, 50], true, a);
            case.name = format!("experts, {what}, {dtype} {a:?}");
            let decl = |name: &str| {
                let found = case.program.tensors.iter().find(|t| t.name == name);
                found.cloned().expect("the router has it")
            };
            let (router, b) = (decl("w.router"), decl("bias.router"));
            case.weights.set(&b, &bias);
            if bias == [0.0; 6] {
                case.weights.set(&router, &vec![0.0; 6 * 256]);
            }
            all.push(case);
        }
    }
    all
}
