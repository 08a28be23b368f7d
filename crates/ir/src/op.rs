//! The operations. This page is the whole language.
//!
//! Operations are coarse and already fused, so that a model reads like its paper and a backend has
//! one kernel for each: there is no rewriting pass. Field types say what an operation touches:
//! [`Value`]s are computed, [`Tensor`]s are weights, [`State`]s outlive the step. A field with a
//! default is left out of the text form when it has that value.
//!
//! Shapes: a value has a row for each token, sequence, wanted output row or (token, expert) pair
//! ([`Rows`](crate::Rows)) and `width` elements a row. A weight is `[rows = outputs, cols =
//! inputs]`, as in the files.

use gristmill_core::id_type;

id_type! {
    /// A value computed by an operation.
    Value;
    /// A weight of the model.
    Tensor;
    /// Memory that outlives a step: a paged KV cache or a slot a sequence.
    State;
}

/// One field of an operation, for those who only want the references in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ref {
    /// An input.
    Value(Value),
    /// A weight.
    Tensor(Tensor),
    /// A state read or written.
    State(State),
}

/// What any field can do; implemented for the few field types below and in `text`.
pub(crate) trait Field: Sized {
    fn visit(&self, _f: &mut dyn FnMut(Ref)) {}
    fn print(&self, w: &mut crate::text::Printer<'_>);
    fn parse(r: &mut crate::text::Parser<'_>) -> gristmill_core::Result<Self>;
}

macro_rules! default_of {
    ($r:ident, $f:ident) => {
        return Err($r.missing(stringify!($f)))
    };
    ($r:ident, $f:ident, $d:expr) => {
        $d
    };
}

/// Declares a struct of fields with its text form.
macro_rules! record {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$fdoc:meta])* $f:ident: $t:ty $(= $d:expr)?,)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {$($(#[$fdoc])* pub $f: $t,)*}
        impl Field for $name {
            fn visit(&self, f: &mut dyn FnMut(Ref)) {
                $(self.$f.visit(f);)*
            }
            fn print(&self, w: &mut crate::text::Printer<'_>) {
                w.open();
                $(if true $(&& self.$f != $d)? { w.field(stringify!($f), &self.$f); })*
                w.close();
            }
            fn parse(r: &mut crate::text::Parser<'_>) -> gristmill_core::Result<Self> {
                r.open()?;
                $(let $f: $t = if r.field(stringify!($f))? { Field::parse(r)? }
                    else { default_of!(r, $f $(, $d)?) };)*
                r.close()?;
                Ok($name {$($f),*})
            }
        }
    };
}

/// Declares an enum of names with its text form.
macro_rules! names {
    ($(#[$doc:meta])* $name:ident {$($(#[$vdoc:meta])* $v:ident = $text:literal,)+}) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {$($(#[$vdoc])* $v,)+}
        impl Field for $name {
            fn print(&self, w: &mut crate::text::Printer<'_>) {
                w.word(match self {$($name::$v => $text,)+});
            }
            fn parse(r: &mut crate::text::Parser<'_>) -> gristmill_core::Result<Self> {
                match r.word()? {
                    $($text => Ok($name::$v),)+
                    other => Err(r.unknown(stringify!($name), other)),
                }
            }
        }
    };
}

/// Declares the operations with everything that follows from their fields.
macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident = $text:literal {
        $($(#[$fdoc:meta])* $f:ident: $t:ty $(= $d:expr)?,)*
    })+) => {
        /// An operation with its inputs and attributes; the types of its fields say which is which.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs)] // each operation documents its fields in its sentence
        pub enum Op {$($(#[$doc])* $name {$($(#[$fdoc])* $f: $t,)*},)+}
        impl Op {
            /// The name in the text form.
            pub fn name(&self) -> &'static str {
                match self {$(Op::$name {..} => $text,)+}
            }
            /// Calls `f` with every value, weight and state the operation names, in field order.
            pub fn visit(&self, f: &mut dyn FnMut(Ref)) {
                match self {$(Op::$name {$($f),*} => {$($f.visit(f);)*})+}
            }
            pub(crate) fn print(&self, w: &mut crate::text::Printer<'_>) {
                w.word(self.name());
                w.open();
                match self {$(Op::$name {$($f),*} => {
                    $(if true $(&& *$f != $d)? { w.field(stringify!($f), $f); })*
                })+}
                w.close();
            }
            pub(crate) fn parse(r: &mut crate::text::Parser<'_>) -> gristmill_core::Result<Op> {
                match r.word()? {
                    $($text => {
                        r.open()?;
                        $(let $f: $t = if r.field(stringify!($f))? { Field::parse(r)? }
                            else { default_of!(r, $f $(, $d)?) };)*
                        r.close()?;
                        Ok(Op::$name {$($f),*})
                    })+
                    other => Err(r.unknown("operation", other)),
                }
            }
        }
    };
}

names! {
    /// What is subtracted before dividing by the spread.
    NormKind {
        /// Root mean square: nothing.
        Rms = "rms",
        /// Layer norm: the mean.
        Layer = "layer",
    }
}

record! {
    /// A normalisation over the elements of a row.
    Norm {
        /// RMS or layer norm.
        kind: NormKind,
        /// Multiplied after normalising, `[1, width]`.
        weight: Option<Tensor> = None,
        /// Added last, `[1, width]`.
        bias: Option<Tensor> = None,
        /// Added to the mean square or the variance.
        eps: f32,
        /// Added to every weight: 1 where the file stores weights around zero.
        offset: f32 = 0.0,
    }
}

names! {
    /// Functions of one number.
    Act {
        /// x
        None = "none",
        /// x σ(x)
        Silu = "silu",
        /// x/2 (1 + erf(x/√2))
        Gelu = "gelu",
        /// The tanh approximation of GELU.
        GeluTanh = "gelu_tanh",
        /// max(x, 0)
        Relu = "relu",
        /// max(x, 0)²
        Relu2 = "relu2",
        /// tanh x
        Tanh = "tanh",
        /// σ(x)
        Sigmoid = "sigmoid",
        /// exp(-e^(-1/2) σ(x)): the decay of RWKV-7.
        Decay = "decay",
        /// In a gated unit: clamp(g, ≤7)·σ(1.702 g)·(clamp(u, ±7) + 1), of gpt-oss.
        SwigluClamped = "swiglu_clamped",
    }
}

names! {
    /// Which two elements of a head rotate together.
    RopePairs {
        /// (2i, 2i+1): files of the `llama` kind.
        Adjacent = "adjacent",
        /// (i, i + dims/2): the Hugging Face and NeoX order.
        Halves = "halves",
    }
}

record! {
    /// Rotary position embedding. Pair `i` turns by `position · scale · theta^(-2i/dims) / factors[i]`.
    Rope {
        /// Pairs of elements.
        pairs: RopePairs,
        /// Elements of a head that rotate, the first ones.
        dims: u32,
        /// Base of the geometric sequence of frequencies.
        theta: f32,
        /// Frequency divisors, `[1, dims/2]` (llama3 and longrope scalings).
        factors: Option<Tensor> = None,
        /// Linear position scale, 1 / factor.
        scale: f32 = 1.0,
        /// Multiplies the rotated elements (YaRN, longrope).
        magnitude: f32 = 1.0,
        /// YaRN: interpolation between scaled and unscaled frequencies.
        yarn: Option<Yarn> = None,
        /// M-RoPE: pairs driven by each of the three position components.
        sections: Option<[u32; 3]> = None,
    }
}

record! {
    /// YaRN's ramp: pairs that turn more than `fast` times within the original context keep their
    /// frequency, those that turn less than `slow` times are scaled.
    Yarn {
        /// Tokens the model was trained on before scaling.
        original_context: u32,
        /// Rotations above which a pair is left alone.
        fast: f32,
        /// Rotations below which a pair is fully scaled.
        slow: f32,
        /// Whether the ends of the ramp are whole pairs.
        truncate: bool = true,
    }
}

names! {
    /// What a norm of queries and keys runs over.
    QkNorm {
        /// Each head by itself.
        Head = "head",
        /// All heads together.
        Full = "full",
    }
}

names! {
    /// How a router's scores become weights of its chosen experts.
    Gating {
        /// Softmax over all experts, then choose.
        Softmax = "softmax",
        /// Choose, then softmax over the chosen.
        SoftmaxChosen = "softmax_chosen",
        /// Sigmoid of each, then choose.
        Sigmoid = "sigmoid",
    }
}

names! {
    /// How a sequence becomes one vector.
    Pooling {
        /// The mean over its tokens.
        Mean = "mean",
        /// Its first token.
        Cls = "cls",
        /// Its last token.
        Last = "last",
    }
}

names! {
    /// How a Gaussian diffusion goes from `x` at time t to time s, with `ab` the cumulative alphas,
    /// `a = ab_t / ab_s` and `e` the noise that is estimated to be in `x`.
    DenoiseRule {
        /// `sqrt(ab_s) x0 + sqrt(1 - ab_s - σ²) e + σ z` with `x0 = (x - sqrt(1 - ab_t) e) /
        /// sqrt(ab_t)` and `σ = eta sqrt((1 - ab_s) / (1 - ab_t)) sqrt(1 - a)` (Song et al. 2021).
        Ddim = "ddim",
        /// `(x - (1 - a) / sqrt(1 - ab_t) e) / sqrt(a) + eta sqrt((1 - ab_s) / (1 - ab_t) (1 - a)) z`
        /// (Ho et al. 2020); the same as the first where `eta` is 1.
        Ddpm = "ddpm",
        /// `x0` of the first: the estimate of what is without noise.
        Estimate = "estimate",
    }
}

names! {
    /// Values handed to a program by the host or by the part before a cut.
    Input {
        /// Hidden states at a layer boundary.
        Hidden = "hidden",
        /// Embeddings in place of token ids (images, prompts tuned as vectors).
        Embeddings = "embeddings",
    }
}

ops! {
    /// A row of `table` for each token, times `scale`; plus the rows of its position and type.
    Embed = "embed" {
        table: Tensor,
        scale: f32 = 1.0,
        positions: Option<Tensor> = None,
        types: Option<Tensor> = None,
    }
    /// Rows written by the host before the step.
    Read = "read" {
        input: Input,
        width: u32,
    }
    /// A norm of its own.
    Norm = "norm" {
        x: Value,
        norm: Norm,
    }
    /// The residual: `sum = x + scale · post(delta)` and `normed = norm(sum)`.
    AddNorm = "add_norm" {
        x: Value,
        delta: Value,
        post: Option<Norm> = None,
        scale: f32 = 1.0,
        norm: Norm,
    }
    /// Queries, keys and values of one projection each (or of one fused matrix), with the norm of
    /// queries and keys and the rotation; keys and values go to `cache`, the queries are the value.
    Qkv = "qkv" {
        x: Value,
        w: Vec<Tensor>,
        bias: Vec<Tensor> = vec![],
        heads: u32,
        kv_heads: u32,
        head_dim: u32,
        q_norm: Option<Norm> = None,
        k_norm: Option<Norm> = None,
        norm_over: QkNorm = QkNorm::Head,
        rope: Option<Rope> = None,
        cache: State,
    }
    /// softmax(scale · q kᵀ) v over the keys a token sees: `cap·tanh(s/cap)` where capped, the
    /// last `window` positions where windowed, one more learned score a head where there are sinks.
    Attention = "attention" {
        q: Value,
        cache: State,
        heads: u32,
        kv_heads: u32,
        head_dim: u32,
        scale: f32,
        softcap: Option<f32> = None,
        window: Option<u32> = None,
        sinks: Option<Tensor> = None,
    }
    /// `cap(scale · act(w x + bias))`.
    Linear = "linear" {
        x: Value,
        w: Tensor,
        bias: Option<Tensor> = None,
        act: Act = Act::None,
        scale: f32 = 1.0,
        softcap: Option<f32> = None,
    }
    /// act(gate x) ⊙ (up x), from two matrices or from one that stacks them.
    GateUp = "gate_up" {
        x: Value,
        w: Vec<Tensor>,
        bias: Vec<Tensor> = vec![],
        act: Act,
    }
    /// The `k` experts of each token and their weights. `choice_bias` is added for choosing only.
    Route = "route" {
        x: Value,
        w: Tensor,
        bias: Option<Tensor> = None,
        choice_bias: Option<Tensor> = None,
        k: u32,
        gating: Gating,
        renormalise: bool = false,
        scale: f32 = 1.0,
    }
    /// GateUp by the experts of each token: a row for each (token, choice).
    ExpertGateUp = "expert_gate_up" {
        x: Value,
        route: Value,
        w: Vec<Tensor>,
        bias: Vec<Tensor> = vec![],
        act: Act,
    }
    /// Down projection by the experts of each token, summed with the routing weights.
    ExpertDown = "expert_down" {
        x: Value,
        route: Value,
        w: Tensor,
        bias: Option<Tensor> = None,
    }
    /// `x + y`, or where `gate` is given `x + σ(gate) ⊙ y` (one gate a row: shared experts).
    Add = "add" {
        x: Value,
        y: Value,
        gate: Option<Value> = None,
    }
    /// The rows of the batch whose outputs are wanted.
    SelectRows = "select_rows" {
        x: Value,
    }
    /// RWKV's mix with the token before: `x + mix[i] ⊙ (last - x)`, a value for each row of `mix`;
    /// `state` carries the last token of a sequence to its next step.
    TokenShift = "token_shift" {
        x: Value,
        mix: Tensor,
        state: State,
    }
    /// `act(bias + b · mid(a · x))`, `a` and `b` of low rank.
    LowRank = "low_rank" {
        x: Value,
        a: Tensor,
        mid: Act = Act::None,
        b: Tensor,
        bias: Option<Tensor> = None,
        act: Act = Act::None,
    }
    /// `from + t ⊙ (to - from)`.
    Lerp = "lerp" {
        from: Value,
        to: Value,
        t: Value,
    }
    /// The recurrence of RWKV-7 from its projections to the gated, group-normed output.
    Wkv7 = "wkv7" {
        r: Value,
        decay: Value,
        k: Value,
        v: Value,
        a: Value,
        g: Value,
        k_k: Tensor,
        k_a: Tensor,
        r_k: Tensor,
        heads: u32,
        norm: Norm,
        state: State,
    }
    /// A vector for each sequence.
    Pool = "pool" {
        x: Value,
        how: Pooling,
    }
    /// The first `width` elements of each row, scaled to length one.
    Normalize = "normalize" {
        x: Value,
        width: u32,
    }
    /// sin then cos of `t · 10000^(-i / (width/2 - 1))` for the time of each sequence.
    TimeEmbed = "time_embed" {
        width: u32,
    }
    /// Adds the row of a token's sequence to each token.
    AddSequence = "add_sequence" {
        x: Value,
        y: Value,
    }
    /// The slot of each sequence as rows of its tokens, of the first token first: latents, hidden
    /// states carried over; zeros where a sequence starts from none.
    LoadSlot = "load_slot" {
        state: State,
        width: u32,
    }
    /// Stores the rows of each sequence's tokens in its slot; the value is `x`.
    StoreSlot = "store_slot" {
        x: Value,
        state: State,
    }
    /// One step of a Gaussian diffusion along the times `[t, s]` of each sequence, indices into
    /// `schedule`, which holds the cumulative alphas, `[1, times]`; from the second on `u32::MAX` is
    /// the end, where alpha is 1. The noise `z` is `noise`, or where that is not given standard
    /// normal: element `e` of the token of index `i` is the cosine (`e` even) or sine of `2π v` times
    /// `sqrt(-2 ln u)`, with `u` and `v` words `e mod 4 / 2 · 2` and the next of Philox under the
    /// sequence's seed at `[e / 4, i, t, 4]`, as `(w + 1/2) / 2^32` (Box and Muller 1958).
    Denoise = "denoise" {
        x: Value,
        eps: Value,
        schedule: Tensor,
        eta: f32,
        rule: DenoiseRule = DenoiseRule::Ddim,
        noise: Option<Value> = None,
    }
    /// The sum over the devices of a group; inserted when a program is sharded.
    AllReduce = "all_reduce" {
        x: Value,
    }
}

impl Rope {
    /// Radians a position for each pair, `dims/2` numbers, computed in f64. `factors` are the
    /// values of the tensor of that name where there is one.
    ///
    /// YaRN as published (Peng et al. 2023): the ramp runs between the pairs that make `fast` and
    /// `slow` turns in the original context.
    pub fn frequencies(&self, factors: Option<&[f32]>) -> Vec<f32> {
        let dims = f64::from(self.dims);
        let theta = f64::from(self.theta);
        (0..self.dims / 2)
            .map(|i| {
                let plain = theta.powf(-2.0 * f64::from(i) / dims);
                let scaled = plain * f64::from(self.scale);
                let mixed = self.yarn.as_ref().map_or(scaled, |y| {
                    let pair_with = |turns: f32| {
                        let wavelength = f64::from(y.original_context)
                            / (f64::from(turns) * 2.0 * std::f64::consts::PI);
                        dims * wavelength.ln() / (2.0 * theta.ln())
                    };
                    let (low, high) = (pair_with(y.fast), pair_with(y.slow));
                    let (low, high) =
                        if y.truncate { (low.floor(), high.ceil()) } else { (low, high) };
                    let (low, high) = (low.max(0.0), high.min(dims - 1.0));
                    let ramp = (f64::from(i) - low) / (high - low).max(0.001);
                    let kept = 1.0 - ramp.clamp(0.0, 1.0);
                    scaled * (1.0 - kept) + plain * kept
                });
                (mixed / factors.map_or(1.0, |f| f64::from(f[i as usize]))) as f32
            })
            .collect()
    }
}
