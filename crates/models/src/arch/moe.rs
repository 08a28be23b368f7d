//! Mixtures of experts: a decoder whose feed-forward is chosen by a router, token by token.
//! Qwen 2 adds experts that every token uses, behind a gate; Qwen 3 renormalises the weights of
//! the chosen ones; Mixtral is `llama` with experts. gpt-oss (OpenAI 2025) has biases everywhere, a
//! clamped gate, a learned sink a head and a window in every second layer.

use super::decoder::{Decoder, Ffn};
use super::meta::{MAX_WIDTH, Meta};
use super::parts::project;
use gristmill_core::Result;
use gristmill_ir::{
    Act, Architecture, Gating, Op, Program, QkNorm, RopePairs, Tensor, Value, Yarn,
};

/// The facts of a mixture.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Experts {
    /// How many there are.
    pub(super) count: u32,
    /// How many a token uses.
    pub(super) used: u32,
    /// Inner elements of each.
    pub(super) width: u32,
    /// Inner elements of the experts that every token uses.
    pub(super) shared_width: Option<u32>,
    pub(super) gating: Gating,
    /// Whether the weights of the chosen experts are scaled to sum to one.
    pub(super) renormalise: bool,
    /// Multiplies the weights.
    pub(super) scale: f32,
    /// Whether `exp_probs_b.bias` is added for choosing.
    pub(super) choice_bias: bool,
    /// Whether the router and the experts have biases.
    pub(super) bias: bool,
}

pub(super) fn read(m: &Meta<'_>) -> Result<Box<dyn Architecture + Send + Sync>> {
    let alternate = m.arch == "gpt-oss";
    let mut d = Decoder::read(m, RopePairs::Halves, |i| !alternate || i % 2 == 0)?;
    let Some(mut experts) = experts(m)? else {
        return Err(m.wrong("expert_count", "is missing or 0 in a mixture of experts"));
    };
    match m.arch {
        "qwen2moe" => {
            d.qkv_bias = true;
            let key = "expert_shared_feed_forward_length";
            experts.shared_width = Some(width(m, key, "blk.0.ffn_up_shexp.weight")?);
        }
        "gpt-oss" => {
            d.ffn_norm = "post_attention_norm";
            d.sinks = true;
            d.act = Act::SwigluClamped;
            experts.gating = Gating::SoftmaxChosen;
            // Its ramp between the frequencies is published without rounding its ends.
            let exact = m.opt("rope.scaling.yarn_truncate")?.unwrap_or(false);
            for layer in &mut d.layers {
                layer.rope.yarn = layer.rope.yarn.take().map(|y| Yarn { truncate: exact, ..y });
            }
        }
        _ => {
            d.qk_norm = Some(QkNorm::Head);
            experts.renormalise = m.opt("expert_weights_norm")?.unwrap_or(true);
        }
    }
    mix(m, &mut d, experts)?;
    Ok(Box::new(d))
}

/// What the metadata says of experts; nothing where it says there are none.
pub(super) fn experts(m: &Meta<'_>) -> Result<Option<Experts>> {
    if m.opt::<u32>("expert_count")?.unwrap_or(0) == 0 {
        return Ok(None);
    }
    let count = m.count("expert_count", MAX_WIDTH)?;
    let gating = match m.opt::<u32>("expert_gating_func")? {
        None | Some(0 | 1) => Gating::Softmax,
        Some(2) => Gating::Sigmoid,
        Some(3) => Gating::SoftmaxChosen,
        Some(n) => return Err(m.wrong("expert_gating_func", format_args!("is {n}, not 1 to 3"))),
    };
    Ok(Some(Experts {
        count,
        used: m.count("expert_used_count", count)?,
        width: width(m, "expert_feed_forward_length", "blk.0.ffn_up_exps.weight")?,
        shared_width: None,
        gating,
        renormalise: m.opt("expert_weights_norm")?.unwrap_or(false),
        scale: m.opt_positive("expert_weights_scale")?.unwrap_or(1.0),
        choice_bias: m.has("blk.0.exp_probs_b.bias"),
        bias: m.has("blk.0.ffn_down_exps.bias"),
    }))
}

/// Inner elements of experts: by their key, by their tensor in files older than the key, or those of
/// a dense layer.
fn width(m: &Meta<'_>, key: &str, tensor: &str) -> Result<u32> {
    let told = match m.opt_count(key, MAX_WIDTH)? {
        None => m.rows(tensor)?.filter(|&n| n <= MAX_WIDTH),
        told => told,
    };
    told.map_or_else(|| m.count("feed_forward_length", MAX_WIDTH), Ok)
}

/// Gives a decoder these experts in every layer after the first, dense ones; a layer between them
/// whose tensors are those of a dense one stays so.
pub(super) fn mix(m: &Meta<'_>, d: &mut Decoder, experts: Experts) -> Result<()> {
    let dense = m.opt::<u32>("leading_dense_block_count")?.unwrap_or(0);
    for (i, layer) in d.layers.iter_mut().enumerate().skip(dense as usize) {
        if !m.has(&format!("blk.{i}.ffn_up.weight")) {
            layer.ffn = Ffn::Experts(experts.clone());
        }
    }
    Ok(())
}

impl Experts {
    /// Records the mixture of layer `blk` for `x`.
    pub(super) fn record(&self, p: &mut Program, blk: &str, act: Act, x: Value) -> Result<Value> {
        let width = p.shape(x).width;
        let stack = |p: &mut Program, name: &str, rows, cols| {
            p.tensor_stack(format!("{blk}.{name}.weight"), self.count, rows, cols)
        };
        let choice_bias =
            self.choice_bias.then(|| p.vector(format!("{blk}.exp_probs_b.bias"), self.count));
        let route = Op::Route {
            x,
            w: p.tensor(format!("{blk}.ffn_gate_inp.weight"), self.count, width),
            bias: self.bias.then(|| p.vector(format!("{blk}.ffn_gate_inp.bias"), self.count)),
            choice_bias,
            k: self.used,
            gating: self.gating,
            renormalise: self.renormalise,
            scale: self.scale,
        };
        let route = p.one(format!("{blk}.route"), route)?;
        let bias = |p: &mut Program, name: &str, len| -> Option<Tensor> {
            self.bias.then(|| p.tensor(format!("{blk}.{name}.bias"), self.count, len))
        };
        let parts = ["ffn_gate_exps", "ffn_up_exps"];
        let gate_up = Op::ExpertGateUp {
            x,
            route,
            w: parts.map(|name| stack(p, name, self.width, width)).to_vec(),
            bias: parts.iter().filter_map(|name| bias(p, name, self.width)).collect(),
            act,
        };
        let hidden = p.one(format!("{blk}.gate_up"), gate_up)?;
        let w = stack(p, "ffn_down_exps", width, self.width);
        let bias = bias(p, "ffn_down_exps", width);
        let down = Op::ExpertDown { x: hidden, route, w, bias };
        let y = p.one(format!("{blk}.ffn_down"), down)?;
        match self.shared_width {
            Some(shared) => self.add_shared(p, blk, act, x, y, shared),
            None => Ok(y),
        }
    }

    /// `y + σ(gate x) · shared(x)`.
    fn add_shared(
        &self,
        p: &mut Program,
        blk: &str,
        act: Act,
        x: Value,
        y: Value,
        shared: u32,
    ) -> Result<Value> {
        let width = p.shape(x).width;
        let name = |s: &str| format!("{blk}.{s}");
        let w = ["ffn_gate_shexp", "ffn_up_shexp"]
            .map(|s| p.tensor(format!("{blk}.{s}.weight"), shared, width))
            .to_vec();
        let h = p.one(name("shared_gate_up"), Op::GateUp { x, w, bias: vec![], act })?;
        let h = project(p, &name("shared_down"), &name("ffn_down_shexp"), width, h)?;
        let gate = project(p, &name("shared_gate"), &name("ffn_gate_inp_shexp"), 1, x)?;
        p.one(name("shared_add"), Op::Add { x: y, y: h, gate: Some(gate) })
    }
}
