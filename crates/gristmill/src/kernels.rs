//! Single operations to time, on any device: each case is a small program, its times are those that
//! the device notes for the operation ([`Backend::profile`]), so what is measured is what a model runs.
//!
//! Values do not matter to speed, but for what a router makes of them: weights are a few rows of noise
//! again and again, or zeros where a format has no quantizer.

use gristmill_core::{DType, Error, HostTensor, Result, normals, quant};
use gristmill_ir::{
    Act, Backend, Batch, Gating, Input, Layout, Norm, NormKind, Op, Options, Output, Program,
    Results, SampleBatch, Sampling, Size, StateKind, Step, TensorDecl, Token, Value,
};
use std::sync::Arc;
use std::task::Waker;

/// An operation to time.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is, such as `matvec 4096x4096`.
    pub name: String,
    /// How its weights are stored; F32 where it has none.
    pub dtype: DType,
    /// Bytes that it must read: weights as the file stores them, keys and values, inputs.
    pub bytes: f64,
    /// Multiplications and additions; 0 where they are not what takes the time.
    pub ops: f64,
    program: Program,
    tokens: u32,
    /// Tokens before them.
    before: u32,
    /// Width of the input.
    width: u32,
    /// Whether the sampling is timed, not an operation.
    samples: bool,
}

/// Tokens of a page.
const PAGE: u32 = 64;
/// Operations that are timed begin with this.
const TIMED: &str = "timed.";
/// More than caches hold.
const MEMORY: usize = 160 << 20;

/// How large a product is, and where its weights lie.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Outputs.
    pub rows: u32,
    /// Inputs.
    pub cols: u32,
    /// Rows of activations.
    pub tokens: u32,
    /// Whether weights come from memory, so many matrices that no cache holds them.
    pub from_memory: bool,
}

impl Case {
    fn new(name: String, dtype: DType, width: u32, tokens: u32) -> (Case, Result<Value>) {
        let mut program = Program::new("kernel");
        let x = program.one("x", Op::Read { input: Input::Hidden, width });
        let (bytes, ops, before, samples) = (0.0, 0.0, 0, false);
        (Case { name, dtype, bytes, ops, program, tokens, before, width, samples }, x)
    }

    /// A matrix times one or many rows.
    ///
    /// # Errors
    /// [`Error::Usage`] for columns that are not whole blocks of the format.
    pub fn product(dtype: DType, shape: Shape) -> Result<Case> {
        let Shape { rows, cols, tokens, from_memory } = shape;
        let kind = if tokens == 1 { "matvec" } else { "matmul" };
        let place = if tokens > 1 || from_memory { "" } else { " from cache" };
        let of = if tokens == 1 { String::new() } else { format!("x{tokens}") };
        let (mut case, x) =
            Case::new(format!("{kind} {rows}x{cols}{of}{place}"), dtype, cols, tokens);
        let x = x?;
        let row = dtype.bytes(cols as usize).ok_or_else(|| {
            Error::Usage(format!("{cols} columns are no whole blocks of {dtype}"))
        })?;
        let bytes = row * rows as usize;
        let copies = if from_memory { MEMORY.div_ceil(bytes) } else { 1 };
        for i in 0..copies {
            let w = case.program.tensor(format!("w{i}"), rows, cols);
            let op = Op::Linear { x, w, bias: None, act: Act::None, scale: 1.0, softcap: None };
            case.program.one(format!("{TIMED}{i}"), op)?;
        }
        (case.bytes, case.ops) = (bytes as f64, 2.0 * f64::from(rows * cols) * f64::from(tokens));
        Ok(case)
    }

    /// One of the products of a mixture of 64 experts, of which each token uses 8: those with the gates
    /// and ups, or with the downs where `down` is set.
    ///
    /// # Errors
    /// None that this shape has.
    pub fn experts(dtype: DType, down: bool, tokens: u32) -> Result<Case> {
        let [all, k, width, inner] = [64, 8, 1024, 512];
        let [cols, rows] = if down { [inner, width] } else { [width, 2 * inner] };
        let part = if down { "down" } else { "up" };
        let name = format!("experts {part} {k} of {all} {rows}x{cols}x{tokens}");
        let (mut case, x) = Case::new(name, dtype, width, tokens);
        let (x, p) = (x?, &mut case.program);
        let route = Op::Route {
            x,
            w: p.tensor("router", all, width),
            bias: None,
            choice_bias: None,
            k,
            gating: Gating::Softmax,
            renormalise: true,
            scale: 1.0,
        };
        let route = p.one("route", route)?;
        let w = ["gate", "up"].map(|name| p.tensor_stack(name, all, inner, width)).into();
        let up = Op::ExpertGateUp { x, route, w, bias: vec![], act: Act::Silu };
        if down {
            let x = p.one("up", up)?;
            let w = p.tensor_stack("down", all, width, inner);
            p.one(format!("{TIMED}0"), Op::ExpertDown { x, route, w, bias: None })?;
        } else {
            p.one(format!("{TIMED}0"), up)?;
        }
        // An expert is read once, if any token chose it; by chance, this share of them is missed.
        let missed = (1.0 - f64::from(k) / f64::from(all)).powi(tokens as i32);
        let each = dtype.bytes((rows * cols) as usize).unwrap_or(0);
        case.bytes = f64::from(all) * (1.0 - missed) * each as f64;
        case.ops = 2.0 * f64::from(rows * cols) * f64::from(k * tokens);
        Ok(case)
    }

    /// Rows of an embedding table as numbers.
    ///
    /// # Errors
    /// As [`Case::product`].
    pub fn dequantize(dtype: DType, cols: u32, tokens: u32) -> Result<Case> {
        let (mut case, _) = Case::new(format!("dequantize {cols}x{tokens}"), dtype, cols, tokens);
        let table = case.program.tensor("w0", tokens, cols);
        let op = Op::Embed { table, scale: 1.0, positions: None, types: None };
        case.program.one(format!("{TIMED}0"), op)?;
        let elements = f64::from(cols) * f64::from(tokens);
        case.bytes = dtype.bytes(elements as usize).unwrap_or(0) as f64;
        Ok(case)
    }

    /// A root-mean-square norm.
    ///
    /// # Errors
    /// None that this shape has.
    pub fn norm(cols: u32, tokens: u32) -> Result<Case> {
        let (mut case, x) = Case::new(format!("norm {cols}x{tokens}"), DType::F32, cols, tokens);
        let weight = case.program.vector("w0", cols);
        let (kind, weight) = (NormKind::Rms, Some(weight));
        let norm = Norm { kind, weight, bias: None, eps: 1e-5, offset: 0.0 };
        case.program.one(format!("{TIMED}0"), Op::Norm { x: x?, norm })?;
        case.bytes = 4.0 * f64::from(cols) * f64::from(tokens);
        Ok(case)
    }

    /// Attention of `tokens` rows after `before` others: 32 heads over 4 of keys, of 64 elements.
    ///
    /// # Errors
    /// None that this shape has.
    pub fn attention(tokens: u32, before: u32, kv: DType) -> Result<Case> {
        let [heads, kv_heads, head_dim, cols] = [32, 4, 64, 32];
        let kind = if tokens == 1 { "decode" } else { "prefill" };
        let name = format!("attention {kind}, {tokens} after {before}");
        let (mut case, x) = Case::new(name, kv, cols, tokens);
        let p = &mut case.program;
        let group = p.group(None);
        let wide = kv_heads * head_dim;
        let state = StateKind::Paged { group, k: wide, v: wide, k_type: kv, v_type: kv };
        let cache = p.state(state);
        let w = vec![p.tensor("qkv", (heads + 2 * kv_heads) * head_dim, cols)];
        let q = Op::Qkv {
            x: x?,
            w,
            bias: vec![],
            heads,
            kv_heads,
            head_dim,
            q_norm: None,
            k_norm: None,
            norm_over: gristmill_ir::QkNorm::Head,
            rope: None,
            cache,
        };
        let q = p.one("qkv", q)?;
        let attention = Op::Attention {
            q,
            cache,
            heads,
            kv_heads,
            head_dim,
            scale: 0.125,
            softcap: None,
            window: None,
            sinks: None,
        };
        p.one(format!("{TIMED}0"), attention)?;
        let keys = f64::from(before) + (f64::from(tokens) + 1.0) / 2.0;
        case.ops = 4.0 * f64::from(heads * head_dim) * f64::from(tokens) * keys;
        let row = 2 * kv.bytes(wide as usize).unwrap_or(0);
        case.bytes = row as f64 * f64::from(before + tokens);
        case.before = before;
        Ok(case)
    }

    /// The softmax of sampling: the maximum of a row of logits and the sum of their exponentials.
    ///
    /// # Errors
    /// None that this shape has.
    pub fn softmax(vocab: u32) -> Result<Case> {
        let shape = Shape { rows: vocab, cols: 32, tokens: 1, from_memory: false };
        let mut case = Case::product(DType::F32, shape)?;
        case.name = format!("softmax {vocab}");
        let logits = case.program.nodes.last().map(|n| n.outputs[0]);
        case.program.output(Output::Logits, logits.ok_or_else(|| Error::Runtime("none".into()))?);
        (case.bytes, case.ops, case.samples) = (4.0 * f64::from(vocab), 0.0, true);
        Ok(case)
    }
}

/// So many normal numbers, the same for the same seed.
fn noise(seed: u64, n: usize) -> Vec<f32> {
    let blocks = (0u32..).flat_map(|block| normals(seed, [block, 0, 0, 0]));
    blocks.take(n).map(|v| v as f32).collect()
}

/// A weight of a case.
fn weight(dtype: DType, decl: &TensorDecl) -> Result<HostTensor> {
    let shape = [decl.experts, decl.rows, decl.cols].map(|n| n as usize);
    // Every expert has scores of its own.
    let (dtype, part) = match &*decl.name {
        "router" => (DType::F32, shape[1]),
        "qkv" => (DType::F32, 16),
        _ if decl.rows == 1 => (DType::F32, 1),
        _ => (dtype, 16),
    };
    let values = noise(1, shape[1].min(part) * shape[2]);
    let total = dtype.bytes(shape.iter().product()).unwrap_or(0);
    let bytes: Vec<u8> = match quant::quantize(dtype, &values) {
        Ok(some) => some.iter().copied().cycle().take(total).collect(),
        Err(_) => vec![0; total],
    };
    let range = 0..total;
    HostTensor::new(&decl.name, dtype, shape, Arc::new(bytes), range)
        .ok_or_else(|| Error::Runtime(format!("{} is not of whole {dtype} blocks", decl.name)))
}

/// A case on a device.
pub struct Running<'b, B: Backend> {
    backend: &'b B,
    context: B::Context,
    plan: B::Plan,
    case: Case,
    input: Vec<f32>,
    pages: Vec<u32>,
}

impl<'b, B: Backend> Running<'b, B> {
    /// Loads and compiles.
    ///
    /// # Errors
    /// Those of the device: a format or an operation that does not run there, or no memory.
    pub fn new(backend: &'b B, case: &Case, options: &Options) -> Result<Self> {
        let weights =
            backend.load(&[&case.program], &mut |decl| weight(case.dtype, decl), options)?;
        let tokens = case.tokens;
        let max = Size { tokens, seqs: 1, rows: tokens, one_token_a_seq: tokens == 1 };
        let pages = (case.before + tokens).div_ceil(PAGE);
        let layout = Layout {
            page_tokens: PAGE,
            pages: vec![pages; case.program.groups.len()],
            host_pages: vec![0; case.program.groups.len()],
            slots: 1,
            max,
            in_flight: 1,
        };
        let mut context = backend.create(&case.program.states, &layout)?;
        let plan = backend.compile(&case.program, &weights, &mut context, max, options)?;
        backend.profile(&mut context, true)?;
        let input = noise(2, (tokens * case.width) as usize);
        let groups = case.program.groups.len() as u32;
        let pages = (0..groups).flat_map(|_| 0..pages).collect();
        Ok(Running { backend, context, plan, case: case.clone(), input, pages })
    }

    /// Runs it once: the nanoseconds of each time that the operation ran.
    ///
    /// # Errors
    /// Those of the device.
    pub fn round(&mut self) -> Result<Vec<u64>> {
        let Running { backend, context, plan, case, .. } = self;
        // Other numbers each time, with which other experts are chosen: none waits in a cache.
        self.input.rotate_left(1);
        backend.write(context, Input::Hidden, &self.input)?;
        let (from, to) = (case.before, case.before + case.tokens);
        let tokens: Vec<Token> = (0..case.tokens).map(Token::Id).collect();
        let positions: Vec<[u32; 3]> = (from..to).map(|i| [i; 3]).collect();
        let kv_index: Vec<u32> = (from..to).collect();
        let visible: Vec<[u32; 2]> = (from..to).map(|i| [0, i + 1]).collect();
        let ends: Vec<u32> = (0..=case.program.groups.len() as u32)
            .map(|g| g * (self.pages.len() as u32) / (case.program.groups.len() as u32).max(1))
            .collect();
        let batch = Batch {
            tokens: &tokens,
            positions: &positions,
            kv_index: &kv_index,
            visible: &visible,
            seq_starts: &[0, case.tokens],
            kv_len: &[to],
            slots: &[0],
            pages: &self.pages,
            page_starts: &ends,
            rows: if case.samples { &[0] } else { &[] },
            ..Batch::default()
        };
        let step = backend.launch(plan, context, &batch)?;
        if case.samples {
            let params = [Sampling { temperature: 0.0, ..Sampling::GREEDY }];
            let batch = SampleBatch { params: &params, slots: &[0], ..SampleBatch::default() };
            backend.sample(context, step, &batch)?;
        }
        self.times(step)
    }

    fn times(&mut self, step: Step) -> Result<Vec<u64>> {
        let mut results = Results::default();
        while !self.backend.finish(&mut self.context, step, &mut results, Waker::noop())? {
            std::thread::yield_now();
        }
        let times = self.backend.times(&mut self.context, step);
        if self.case.samples {
            return Ok(vec![times.sampling.max(1)]);
        }
        let (mut began, mut taken) = (0, vec![]);
        for (node, &end) in self.case.program.nodes.iter().zip(&times.ends) {
            if node.name.starts_with(TIMED) {
                taken.push(end.saturating_sub(began).max(1));
            }
            began = end;
        }
        Ok(taken)
    }
}

/// Runs a case where it is running, in turns, some rounds after one that only warms up: the median
/// nanoseconds of each. `between` is asked before every run and may end it.
///
/// # Errors
/// Those of the devices, and of `between`.
pub fn medians<B: Backend>(
    running: &mut [Running<'_, B>],
    rounds: u32,
    mut between: impl FnMut() -> Result<()>,
) -> Result<Vec<f64>> {
    let mut times: Vec<Vec<u64>> = vec![vec![]; running.len()];
    for round in 0..=rounds {
        for (running, times) in running.iter_mut().zip(&mut times) {
            between()?;
            let taken = running.round()?;
            times.extend(taken.into_iter().filter(|_| round > 0));
        }
    }
    let median = |mut times: Vec<u64>| {
        times.sort_unstable();
        times.get(times.len() / 2).map_or(f64::NAN, |&t| t as f64)
    };
    Ok(times.into_iter().map(median).collect())
}
