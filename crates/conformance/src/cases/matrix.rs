//! Matrices: Linear with what follows it, gated units, every format in both forms of activations.

use super::*;

pub(super) fn cases() -> Vec<Case> {
    let mut all = vec![];
    for dtype in DENSE {
        for (cols, rows) in
            [(1, 1), (17, 33), (64, 16), (172, 40), (200, 1), (256, 17), (288, 31), (1100, 5)]
        {
            all.push(linear(dtype, Activations::F32, cols, rows));
        }
    }
    for dtype in BLOCKS {
        let shapes = match dtype.block_len() {
            32 => vec![(32, 1), (64, 17), (256, 40), (288, 33), (1120, 5)],
            _ => vec![(256, 1), (512, 33), (768, 40), (1280, 16)],
        };
        for (cols, rows) in shapes {
            all.push(linear(dtype, Activations::F32, cols, rows));
            all.push(linear(dtype, Activations::Int8, cols, rows));
        }
    }
    for dtype in further_blocks() {
        let cols = dtype.block_len() as u32;
        for (cols, rows) in [(cols, 33), (3 * cols, 17)] {
            all.push(linear(dtype, Activations::F32, cols, rows));
            all.push(linear(dtype, Activations::Int8, cols, rows));
        }
    }
    all.extend(epilogues());
    all.extend(gates());
    for dtype in DENSE.into_iter().chain(BLOCKS) {
        for rows in [512, 768] {
            all.push(after_zeros(dtype, Activations::F32, rows));
            if dtype.block_len() > 1 {
                all.push(after_zeros(dtype, Activations::Int8, rows));
            }
        }
    }
    all
}

/// A product with what max(x, 0)² has left: none, all, or a part of the elements of a row.
fn after_zeros(dtype: DType, a: Activations, rows: u32) -> Case {
    let cols = 256;
    let name = format!("linear after relu2 {dtype} {a:?} to {rows}");
    let (mut p, x) = reading(&name, cols);
    let mut linear = |name: &str, x, rows, act| {
        let w = p.tensor(name, rows, cols);
        let op = Op::Linear { x, w, bias: None, act, scale: 1.0, softcap: None };
        p.one(format!("by {name}"), op).expect("shapes agree")
    };
    let squares = linear("one", x, cols, Act::Relu2);
    let y = linear("w", squares, rows, Act::None);
    p.output(Output::Hidden, y);
    let mut case = case_of(name, p, a, |name| if name == "one" { DType::F32 } else { dtype });
    let n = cols as usize;
    let one: Vec<f32> = (0..n * n).map(|i| f32::from(u8::from(i % (n + 1) == 0))).collect();
    let decl = case.program.tensors.iter().find(|d| d.name == "one");
    case.weights.set(decl.expect("it was declared"), &one);
    let mut random = Random::new(case.rows.take().unwrap_or_default());
    let shares = [0.2, 1.0, 0.0, 0.05, 0.5];
    for work in &mut case.works {
        let shares = (0..work.tokens().count()).map(|t| shares[t % shares.len()]);
        work.hidden = shares.flat_map(|share| random.rows_above_zero(n, share)).collect();
    }
    case
}

fn linear(dtype: DType, a: Activations, cols: u32, rows: u32) -> Case {
    let name = format!("linear {dtype} {a:?} {cols} to {rows}");
    let (mut p, x) = reading(&name, cols);
    let w = p.tensor("w", rows, cols);
    let op = Op::Linear { x, w, bias: None, act: Act::None, scale: 1.0, softcap: None };
    let y = p.one("y", op).expect("shapes agree");
    p.output(Output::Hidden, y);
    case_of(name, p, a, |_| dtype)
}

const ACTS: [Act; 9] = [
    Act::None,
    Act::Silu,
    Act::Gelu,
    Act::GeluTanh,
    Act::Relu,
    Act::Relu2,
    Act::Tanh,
    Act::Sigmoid,
    Act::Decay,
];

/// Every function, with and without bias, scale and cap. The inputs of the functions reach ±12.
fn epilogues() -> Vec<Case> {
    let mut all = vec![];
    for (i, act) in ACTS.into_iter().enumerate() {
        for (bias, scale, softcap) in
            [(false, 1.0, None), (true, 1.0, None), (true, 0.6, Some(2.5)), (false, -3.0, None)]
        {
            let rows = [33, 40, 7][i % 3];
            let name = format!("linear then {act:?} {bias} {scale} {softcap:?}");
            let (mut p, x) = reading(&name, 64);
            let w = p.tensor("w", rows, 64);
            let bias = bias.then(|| p.vector("bias", rows));
            let op = Op::Linear { x, w, bias, act, scale, softcap };
            let y = p.one("y", op).expect("shapes agree");
            let mut case = case_f32(name, p, Output::Hidden, y);
            case.write_rows();
            for work in &mut case.works {
                work.hidden.iter_mut().for_each(|v| *v *= 4.0);
            }
            all.push(case);
        }
    }
    all
}

/// Two matrices of one or two formats, one that stacks both, biases of either kind.
fn gates() -> Vec<Case> {
    let mut all = vec![];
    let formats = [
        (DType::F32, DType::F32),
        (DType::Q4_K, DType::Q4_K),
        (DType::Q4_K, DType::Q6_K),
        (DType::Q8_0, DType::F16),
        (DType::Q4_0, DType::Q5_K),
        (DType::BF16, DType::BF16),
    ];
    let acts = ACTS.into_iter().chain([Act::SwigluClamped]);
    let mut add = |act: Act, (gate, up): (DType, DType), split: bool, biases: usize, a| {
        let width = [33, 40, 5, 17][biases + usize::from(split)];
        let cols = if gate == DType::F32 { 72 } else { 256 };
        let name = format!("gate_up {act:?} {gate} {up} {split} {biases} {a:?}");
        let (mut p, x) = reading(&name, cols);
        let w = match split {
            true => ["w.gate", "w.up"].map(|n| p.tensor(n, width, cols)).into(),
            false => vec![p.tensor("w.gate", 2 * width, cols)],
        };
        let bias = match biases {
            0 => vec![],
            1 => vec![p.vector("bias", 2 * width)],
            _ => ["bias.gate", "bias.up"].map(|n| p.vector(n, width)).into(),
        };
        let y = p.one("y", Op::GateUp { x, w, bias, act }).expect("shapes agree");
        p.output(Output::Hidden, y);
        all.push(case_of(name, p, a, |n| if n == "w.up" { up } else { gate }));
    };
    for (i, act) in acts.enumerate() {
        add(act, formats[0], i % 2 == 0, i % 3, Activations::F32);
        add(act, formats[0], i % 2 == 1, (i + 1) % 3, Activations::F32);
    }
    for (i, f) in formats.into_iter().enumerate().skip(1) {
        for a in [Activations::F32, Activations::Int8] {
            add(Act::Silu, f, true, i % 3, a);
            add(Act::GeluTanh, f, false, (i + 1) % 3, a);
        }
    }
    all
}
