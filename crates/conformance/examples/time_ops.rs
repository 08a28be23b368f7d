//! How long an operation takes on the CPU: `cargo run --release -p gristmill-conformance --example
//! time_ops [threads [operation]]`.
//!
//! Each line is the median step of a plan that holds the operation and what it needs to read, with
//! the weights (or keys and values) it streams a second. Compare GB/s with the machine's measured
//! memory bandwidth.

use gristmill_conformance::device::{Device, Room};
use gristmill_conformance::random::Random;
use gristmill_conformance::weights::Weights;
use gristmill_conformance::work::{Part, Work};
use gristmill_core::DType;
use gristmill_cpu::{Cpu, CpuOptions};
use gristmill_ir::*;
use std::time::Instant;

fn reading(width: u32) -> (Program, Value) {
    let mut p = Program::new("timed");
    let x = p.one("x", Op::Read { input: Input::Hidden, width }).expect("it has no shapes");
    (p, x)
}

/// A matrix of so many outputs and inputs.
fn linear(rows: u32, cols: u32) -> Program {
    let (mut p, x) = reading(cols);
    let w = p.tensor("w", rows, cols);
    let op = Op::Linear { x, w, bias: None, act: Act::None, scale: 1.0, softcap: None };
    let y = p.one("linear", op).expect("shapes agree");
    p.output(Output::Hidden, y);
    p
}

fn norm(width: u32) -> Program {
    let (mut p, x) = reading(width);
    let weight = Some(p.vector("norm", width));
    let norm = Norm { kind: NormKind::Rms, weight, bias: None, eps: 1e-5, offset: 0.0 };
    let y = p.one("norm", Op::Norm { x, norm }).expect("shapes agree");
    p.output(Output::Hidden, y);
    p
}

/// Attention behind a projection as narrow as can be.
fn attention(heads: u32, kv_heads: u32, head_dim: u32, dtype: DType) -> Program {
    let (mut p, x) = reading(1);
    let group = p.group(None);
    let (q, k) = (heads * head_dim, kv_heads * head_dim);
    let cache = p.state(StateKind::Paged { group, k, v: k, k_type: dtype, v_type: dtype });
    let w = vec![p.tensor("w", q + 2 * k, 1)];
    let qkv = Op::Qkv {
        x,
        w,
        bias: vec![],
        heads,
        kv_heads,
        head_dim,
        q_norm: None,
        k_norm: None,
        norm_over: QkNorm::Head,
        rope: None,
        cache,
    };
    let q = p.one("qkv", qkv).expect("shapes agree");
    let scale = 1.0 / (head_dim as f32).sqrt();
    let (softcap, window, sinks) = (None, None, None);
    let op = Op::Attention { q, cache, heads, kv_heads, head_dim, scale, softcap, window, sinks };
    let y = p.one("attention", op).expect("shapes agree");
    p.output(Output::Hidden, y);
    p
}

/// A mixture of so many experts, of which a token uses `k`.
fn experts(n: u32, k: u32, width: u32, inner: u32) -> Program {
    let (mut p, x) = reading(width);
    let route = Op::Route {
        x,
        w: p.tensor("router", n, width),
        bias: None,
        choice_bias: None,
        k,
        gating: Gating::Softmax,
        renormalise: true,
        scale: 1.0,
    };
    let route = p.one("route", route).expect("shapes agree");
    let w = ["gate", "up"].map(|s| p.tensor_stack(s, n, inner, width)).into();
    let up = Op::ExpertGateUp { x, route, w, bias: vec![], act: Act::Silu };
    let x = p.one("gate_up", up).expect("shapes agree");
    let w = p.tensor_stack("down", n, width, inner);
    let down = Op::ExpertDown { x, route, w, bias: None };
    let y = p.one("down", down).expect("shapes agree");
    p.output(Output::Hidden, y);
    p
}

/// Median seconds of a step of `n` tokens behind `before` keys.
fn time(cpu: &Cpu, p: &Program, dtype: DType, a: Activations, n: u32, before: u32) -> f64 {
    let Op::Read { width, .. } = p.nodes[0].op else { unreachable!("programs here read") };
    let weights = Weights::random(p, 1, |_| dtype);
    let options = Options { activations: a, ..Options::default() };
    let pages = (before + n).div_ceil(32) + 1;
    let room = Room::of(n.max(512), 1).paged(pages, 32);
    let mut d = Device::new(cpu, p, &weights, &options, &room).expect("it runs here");
    let mut random = Random::new(2);
    let mut step = |from: u32, n: u32| {
        let mut work = Work::of(vec![Part::causal(0, from, vec![0; n as usize])]);
        work.hidden = random.normals((n * width) as usize);
        work
    };
    if !p.groups.is_empty() {
        for from in (0..before).step_by(512) {
            d.run(&step(from, (before - from).min(512)), &[]).expect("a step");
        }
    }
    let work = step(before, n);
    let mut times = vec![];
    let start = Instant::now();
    while times.len() < 5 || start.elapsed().as_secs_f64() < 0.5 {
        let at = Instant::now();
        let step = d.launch(&work).expect("a step");
        times.push(at.elapsed().as_secs_f64());
        d.finish(step).expect("a step");
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() -> gristmill_core::Result<()> {
    let mut options = CpuOptions::from_env()?;
    if let Some(n) = std::env::args().nth(1).and_then(|a| a.parse().ok()) {
        options.threads = n;
    }
    let cpu = Cpu::new(options)?;
    println!("{}", cpu.capabilities().name);
    println!("{:44} {:>10} {:>8} {:>9}", "operation", "µs", "GB/s", "GFLOP/s");
    let line = |what: String, seconds: f64, bytes: f64, flops: f64| {
        let (gb, gf) = (bytes / seconds / 1e9, flops / seconds / 1e9);
        println!("{what:44} {:>10.1} {gb:>8.2} {gf:>9.1}", seconds * 1e6);
    };
    let only = std::env::args().nth(2).unwrap_or_default();
    let wants = |name: &str| name.starts_with(&only);
    let (rows, cols) = (4096u32, 4096u32);
    let p = linear(rows, cols);
    for dtype in [DType::F16, DType::Q8_0, DType::Q4_0, DType::Q4_K, DType::Q6_K] {
        for n in [1, 8, 128].into_iter().filter(|_| wants("linear")) {
            let seconds = time(&cpu, &p, dtype, Activations::Int8, n, 0);
            let elements = f64::from(rows) * f64::from(cols);
            let bytes = elements * dtype.bits_per_element() / 8.0;
            let what = format!("linear {dtype} {cols} to {rows}, {n} tokens");
            line(what, seconds, bytes, 2.0 * elements * f64::from(n));
        }
    }
    for n in [1, 128].into_iter().filter(|_| wants("norm")) {
        let seconds = time(&cpu, &norm(4096), DType::F32, Activations::F32, n, 0);
        let bytes = f64::from(2 * 4 * 4096 * n);
        line(format!("norm 4096, {n} tokens"), seconds, bytes, bytes / 2.0);
    }
    for n in [1, 8, 128].into_iter().filter(|_| wants("experts")) {
        let (all, k, width, inner) = (32, 4, 2048, 768);
        let p = experts(all, k, width, inner);
        let seconds = time(&cpu, &p, DType::Q4_K, Activations::Int8, n, 0);
        // Every expert that is chosen is read once: by chance, those of `n` tokens are so many.
        let missed = (1.0 - f64::from(k) / f64::from(all)).powi(n as i32);
        let each = 3.0 * f64::from(width) * f64::from(inner);
        let bytes = f64::from(all) * (1.0 - missed) * each * DType::Q4_K.bits_per_element() / 8.0;
        let what = format!("experts Q4_K {k} of {all}, {width} by {inner}, {n} tokens");
        line(what, seconds, bytes, 2.0 * each * f64::from(k * n));
    }
    let steps = [(1, 512), (1, 1024), (1, 4096), (128, 1024)];
    for (n, before) in steps.into_iter().filter(|_| wants("attention")) {
        let p = attention(32, 8, 128, DType::F16);
        let seconds = time(&cpu, &p, DType::F32, Activations::F32, n, before);
        let keys = f64::from(before + n);
        let flops = 4.0 * 32.0 * 128.0 * keys * f64::from(n);
        let what = format!("attention 32/8 heads of 128, {n} after {before}");
        line(what, seconds, keys * 8.0 * 128.0 * 2.0 * 2.0, flops);
    }
    Ok(())
}
