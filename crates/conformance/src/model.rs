//! Small whole models, recorded here so that the suite depends on no architecture's reader.

use gristmill_core::{DType, Result};
use gristmill_ir::*;

/// A decoder of the LLaMA kind: RMS norms, rotation, grouped queries, gated units, a tied head.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// Tokens.
    pub vocab: u32,
    /// Elements of a hidden state.
    pub width: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Elements of the gated unit.
    pub ffn: u32,
    /// Experts in place of one gated unit, and how many a token uses.
    pub experts: Option<[u32; 2]>,
    /// The window of each layer.
    pub windows: Vec<Option<u32>>,
    /// Type of keys and values.
    pub kv: DType,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder {
            vocab: 131,
            width: 256,
            heads: 4,
            kv_heads: 2,
            head_dim: 64,
            ffn: 512,
            experts: None,
            windows: vec![None, None],
            kv: DType::F32,
        }
    }
}

impl Decoder {
    /// The program.
    ///
    /// # Errors
    /// [`gristmill_core::Error::Usage`] for sizes that do not go together.
    pub fn record(&self) -> Result<Program> {
        let mut program = Program::new("decoder");
        let p = &mut program;
        p.prefix_closed = true;
        let &Decoder { width, heads, kv_heads, head_dim, .. } = self;
        let (q_width, kv_width) = (heads * head_dim, kv_heads * head_dim);
        let rms = |p: &mut Program, name: String| {
            let weight = Some(p.vector(format!("norm.{name}"), width));
            Norm { kind: NormKind::Rms, weight, bias: None, eps: 1e-5, offset: 0.0 }
        };
        let matrix =
            |x, w| Op::Linear { x, w, bias: None, act: Act::None, scale: 1.0, softcap: None };
        let table = p.tensor("table", self.vocab, width);
        let mut x =
            p.one("embed", Op::Embed { table, scale: 1.0, positions: None, types: None })?;
        let norm = rms(p, "0.attn".into());
        let mut normed = p.one("norm", Op::Norm { x, norm })?;
        for (i, &window) in self.windows.iter().enumerate() {
            let group = p.group(window);
            let (k_type, v_type) = (self.kv, self.kv);
            let cache =
                p.state(StateKind::Paged { group, k: kv_width, v: kv_width, k_type, v_type });
            let rows = [("q", q_width), ("k", kv_width), ("v", kv_width)];
            let w = rows.map(|(n, rows)| p.tensor(format!("{i}.{n}"), rows, width)).into();
            let rope = Some(Rope {
                pairs: RopePairs::Halves,
                dims: head_dim,
                theta: 10000.0,
                factors: None,
                scale: 1.0,
                magnitude: 1.0,
                yarn: None,
                sections: None,
            });
            let qkv = Op::Qkv {
                x: normed,
                w,
                bias: vec![],
                heads,
                kv_heads,
                head_dim,
                q_norm: None,
                k_norm: None,
                norm_over: QkNorm::Head,
                rope,
                cache,
            };
            let q = p.one(format!("{i}.qkv"), qkv)?;
            let scale = 1.0 / (head_dim as f32).sqrt();
            let (softcap, sinks) = (None, None);
            let attention = Op::Attention {
                q,
                cache,
                heads,
                kv_heads,
                head_dim,
                scale,
                softcap,
                window,
                sinks,
            };
            let mut attention = p.one(format!("{i}.attn"), attention)?;
            let last = i + 1 == self.windows.len();
            if last && self.experts.is_none() {
                x = p.one("select", Op::SelectRows { x })?;
                attention = p.one("select_attn", Op::SelectRows { x: attention })?;
            }
            let w = p.tensor(format!("{i}.o"), width, q_width);
            let delta = p.one(format!("{i}.attn_out"), matrix(attention, w))?;
            let norm = rms(p, format!("{i}.ffn"));
            let add = Op::AddNorm { x, delta, post: None, scale: 1.0, norm };
            (x, normed) = p.two(format!("{i}.ffn_norm"), add)?;
            let delta = match self.experts {
                Some(experts) => self.mixture(p, i, experts, normed)?,
                None => {
                    let w = ["gate", "up"].map(|n| p.tensor(format!("{i}.{n}"), self.ffn, width));
                    let (w, bias, act) = (w.into(), vec![], Act::Silu);
                    let unit = Op::GateUp { x: normed, w, bias, act };
                    let unit = p.one(format!("{i}.gate_up"), unit)?;
                    let w = p.tensor(format!("{i}.down"), width, self.ffn);
                    p.one(format!("{i}.ffn_down"), matrix(unit, w))?
                }
            };
            let norm = rms(p, format!("{}.attn", i + 1));
            let add = Op::AddNorm { x, delta, post: None, scale: 1.0, norm };
            (x, normed) = p.two(format!("{i}.end"), add)?;
            if last && self.experts.is_some() {
                // Every token is routed, so rows are chosen behind the experts.
                normed = p.one("select", Op::SelectRows { x: normed })?;
            }
        }
        let logits = p.one("output", matrix(normed, table))?;
        p.output(Output::Logits, logits);
        p.verify()?;
        Ok(program)
    }

    /// The experts of layer `i`.
    fn mixture(&self, p: &mut Program, i: usize, [n, k]: [u32; 2], x: Value) -> Result<Value> {
        let (width, ffn) = (self.width, self.ffn);
        let route = Op::Route {
            x,
            w: p.tensor(format!("{i}.router"), n, width),
            bias: None,
            choice_bias: None,
            k,
            gating: Gating::Softmax,
            renormalise: true,
            scale: 1.0,
        };
        let route = p.one(format!("{i}.route"), route)?;
        let w = ["gate", "up"].map(|s| p.tensor_stack(format!("{i}.{s}"), n, ffn, width)).into();
        let unit = Op::ExpertGateUp { x, route, w, bias: vec![], act: Act::Silu };
        let x = p.one(format!("{i}.gate_up"), unit)?;
        let w = p.tensor_stack(format!("{i}.down"), n, width, ffn);
        p.one(format!("{i}.ffn_down"), Op::ExpertDown { x, route, w, bias: None })
    }
}

/// A model of the RWKV-7 kind: shifts, low-rank networks, the recurrence, squares of what is above
/// zero.
#[derive(Clone, Debug)]
pub struct Recurrent {
    /// Tokens.
    pub vocab: u32,
    /// Elements of a hidden state.
    pub width: u32,
    /// Heads.
    pub heads: u32,
    /// Elements of the channel mix.
    pub ffn: u32,
    /// Rank of the small networks.
    pub rank: u32,
    /// Layers.
    pub layers: u32,
}

impl Default for Recurrent {
    fn default() -> Self {
        Recurrent { vocab: 131, width: 128, heads: 2, ffn: 256, rank: 32, layers: 2 }
    }
}

impl Recurrent {
    /// The program.
    ///
    /// # Errors
    /// [`gristmill_core::Error::Usage`] for sizes that do not go together.
    pub fn record(&self) -> Result<Program> {
        let mut program = Program::new("recurrent");
        let p = &mut program;
        p.prefix_closed = true;
        let &Recurrent { vocab, width, heads, ffn, rank, layers } = self;
        let layer = |p: &mut Program, name: &str, eps| Norm {
            kind: NormKind::Layer,
            weight: Some(p.vector(format!("norm.{name}"), width)),
            bias: Some(p.vector(format!("bias.norm.{name}"), width)),
            eps,
            offset: 0.0,
        };
        let linear = |p: &mut Program, name: String, x, rows, act| {
            let w = p.tensor(&name, rows, p.shape(x).width);
            p.one(name, Op::Linear { x, w, bias: None, act, scale: 1.0, softcap: None })
        };
        let low_rank = |p: &mut Program, name: String, x, mid, act| {
            let a = p.tensor(format!("{name}1"), rank, width);
            let b = p.tensor(format!("{name}2"), width, rank);
            let bias = Some(p.vector(format!("bias.{name}"), width));
            p.one(name, Op::LowRank { x, a, mid, b, bias, act })
        };
        let slot = |p: &mut Program, elems| p.state(StateKind::Slot { elems, dtype: DType::F32 });
        let table = p.tensor("table", vocab, width);
        let embed = Op::Embed { table, scale: 1.0, positions: None, types: None };
        let mut x = p.one("embed", embed)?;
        let norm = layer(p, "0.time", 1e-5);
        let mut normed = p.one("norm", Op::Norm { x, norm })?;
        let mut first = None;
        for i in 0..layers {
            let name = |s: &str| format!("{i}.{s}");
            let mix = p.tensor(format!("bias.{i}.mix"), 6, width);
            let state = slot(p, width);
            let mixed = p.push(name("shift"), Op::TokenShift { x: normed, mix, state })?;
            let [xr, xw, xk, xv, xa, xg] = mixed[..] else { unreachable!("mix has six rows") };
            let r = linear(p, name("r"), xr, width, Act::None)?;
            let k = linear(p, name("k"), xk, width, Act::None)?;
            let mut v = linear(p, name("v"), xv, width, Act::None)?;
            let decay = low_rank(p, name("w"), xw, Act::Tanh, Act::Decay)?;
            let a = low_rank(p, name("a"), xa, Act::None, Act::Sigmoid)?;
            let g = low_rank(p, name("g"), xg, Act::Sigmoid, Act::None)?;
            if let Some(to) = first {
                let t = low_rank(p, name("t"), xv, Act::None, Act::Sigmoid)?;
                v = p.one(name("lerp"), Op::Lerp { from: v, to, t })?;
            }
            first = first.or(Some(v));
            let wkv = Op::Wkv7 {
                r,
                decay,
                k,
                v,
                a,
                g,
                k_k: p.vector(format!("norm.{i}.k_k"), width),
                k_a: p.vector(format!("norm.{i}.k_a"), width),
                r_k: p.vector(format!("bias.{i}.r_k"), width),
                heads,
                norm: layer(p, &name("wkv"), 64e-5),
                state: slot(p, width * (width / heads)),
            };
            let y = p.one(name("wkv"), wkv)?;
            let delta = linear(p, name("out"), y, width, Act::None)?;
            let norm = layer(p, &name("channel"), 1e-5);
            let add = Op::AddNorm { x, delta, post: None, scale: 1.0, norm };
            (x, normed) = p.two(name("channel"), add)?;
            let mix = p.tensor(format!("bias.{i}.channel_mix"), 1, width);
            let state = slot(p, width);
            let shift = Op::TokenShift { x: normed, mix, state };
            let shifted = p.one(name("channel_shift"), shift)?;
            let key = linear(p, name("key"), shifted, ffn, Act::Relu2)?;
            let delta = linear(p, name("value"), key, width, Act::None)?;
            let norm = layer(p, &format!("{}.time", i + 1), 1e-5);
            let add = Op::AddNorm { x, delta, post: None, scale: 1.0, norm };
            (x, normed) = p.two(name("end"), add)?;
        }
        let normed = p.one("select", Op::SelectRows { x: normed })?;
        let logits = linear(p, "output".into(), normed, vocab, Act::None)?;
        p.output(Output::Logits, logits);
        p.verify()?;
        Ok(program)
    }
}

/// An encoder of the BERT kind: positions and types, layer norms, biases, everything sees
/// everything; a mean of length one.
///
/// # Errors
/// [`gristmill_core::Error::Usage`] for sizes that do not go together.
pub fn encoder(vocab: u32, context: u32, width: u32, heads: u32) -> Result<Program> {
    let mut program = Program::new("encoder");
    let p = &mut program;
    let head_dim = width / heads;
    let layer = |p: &mut Program, name: &str| Norm {
        kind: NormKind::Layer,
        weight: Some(p.vector(format!("norm.{name}"), width)),
        bias: Some(p.vector(format!("bias.norm.{name}"), width)),
        eps: 1e-12,
        offset: 0.0,
    };
    let linear = |p: &mut Program, name: &str, x, rows, cols, act| {
        let w = p.tensor(name, rows, cols);
        let bias = Some(p.vector(format!("bias.{name}"), rows));
        p.one(name, Op::Linear { x, w, bias, act, scale: 1.0, softcap: None })
    };
    let table = p.tensor("table", vocab, width);
    let positions = Some(p.tensor("table.positions", context, width));
    let types = Some(p.tensor("table.types", 2, width));
    let x = p.one("embed", Op::Embed { table, scale: 1.0, positions, types })?;
    let norm = layer(p, "embed");
    let mut x = p.one("norm", Op::Norm { x, norm })?;
    let group = p.group(None);
    for i in 0..2 {
        let (k_type, v_type) = (DType::F32, DType::F32);
        let cache = p.state(StateKind::Paged { group, k: width, v: width, k_type, v_type });
        let w = vec![p.tensor(format!("{i}.qkv"), 3 * width, width)];
        let bias = vec![p.vector(format!("bias.{i}.qkv"), 3 * width)];
        let qkv = Op::Qkv {
            x,
            w,
            bias,
            heads,
            kv_heads: heads,
            head_dim,
            q_norm: None,
            k_norm: None,
            norm_over: QkNorm::Head,
            rope: None,
            cache,
        };
        let q = p.one(format!("{i}.qkv"), qkv)?;
        let attention = Op::Attention {
            q,
            cache,
            heads,
            kv_heads: heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            softcap: None,
            window: None,
            sinks: None,
        };
        let attention = p.one(format!("{i}.attn"), attention)?;
        let delta = linear(p, &format!("{i}.attn_out"), attention, width, width, Act::None)?;
        let norm = layer(p, &format!("{i}.attn"));
        // The norm comes after the sum, and what is summed next is its result.
        let (_, normed) = p.two(
            format!("{i}.attn_norm"),
            Op::AddNorm { x, delta, post: None, scale: 1.0, norm },
        )?;
        let unit = linear(p, &format!("{i}.up"), normed, 2 * width, width, Act::Gelu)?;
        let delta = linear(p, &format!("{i}.down"), unit, width, 2 * width, Act::None)?;
        let norm = layer(p, &format!("{i}.end"));
        let add = Op::AddNorm { x: normed, delta, post: None, scale: 1.0, norm };
        (_, x) = p.two(format!("{i}.end"), add)?;
    }
    let pooled = p.one("pool", Op::Pool { x, how: Pooling::Mean })?;
    let pooled = p.one("normalize", Op::Normalize { x: pooled, width })?;
    p.output(Output::Pooled, pooled);
    p.output(Output::Hidden, x);
    p.verify()?;
    Ok(program)
}
