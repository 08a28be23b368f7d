//! Shapes: what each operation takes and gives.
//!
//! [`Program::push`] asks [`Program::shapes_of`], so a recorded program cannot be ill-shaped; parsed
//! text goes through the same door, and [`Program::verify`] checks what remains.

use crate::op::*;
use crate::program::{Program, Rows, Shape, StateKind};
use gristmill_core::{Error, Result};

type Checked<T> = std::result::Result<T, String>;

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Checked<()> {
    if holds { Ok(()) } else { Err(what()) }
}

/// Checks that a function has one argument, where there is no gate beside it.
fn is_of_one(act: Act) -> Checked<()> {
    ensure(act != Act::SwigluClamped, || "swiglu_clamped is of a gate and an up".into())
}

impl Program {
    fn has_width(&self, v: Value, width: u32) -> Checked<()> {
        let got = self.shape(v).width;
        ensure(got == width, || format!("%{} has width {got}, not {width}", v.0))
    }

    fn same_shape(&self, a: Value, b: Value) -> Checked<()> {
        let (s, t) = (self.shape(a), self.shape(b));
        ensure(s == t, || format!("%{} is {s:?} but %{} is {t:?}", a.0, b.0))
    }

    fn is_of_tokens(&self, v: Value) -> Checked<()> {
        let got = self.shape(v).rows;
        ensure(got == Rows::Tokens, || format!("%{} has a row for {got:?}, not for Tokens", v.0))
    }

    /// Checks that a weight is `[rows, cols]` in each of `experts` matrices.
    fn is_matrix(&self, t: Tensor, experts: u32, rows: u32, cols: u32) -> Checked<()> {
        let d = self.decl(t);
        ensure((d.experts, d.rows, d.cols) == (experts, rows, cols), || {
            format!(
                "{} is [{}, {}, {}], not [{experts}, {rows}, {cols}]",
                d.name, d.experts, d.rows, d.cols
            )
        })
    }

    fn are_vectors<'a>(&self, ts: impl IntoIterator<Item = &'a Tensor>, len: u32) -> Checked<()> {
        ts.into_iter().try_for_each(|&t| self.is_matrix(t, 1, 1, len))
    }

    fn norm_fits(&self, n: &Norm, width: u32) -> Checked<()> {
        self.are_vectors(n.weight.iter().chain(&n.bias), width)
    }

    /// Checks that matrices stacked over each other have `cols` inputs; gives the sum of outputs.
    fn stacked(&self, w: &[Tensor], cols: u32) -> Checked<u32> {
        ensure(!w.is_empty(), || "no weight".into())?;
        w.iter().try_fold(0, |rows, &t| {
            let d = self.decl(t);
            self.is_matrix(t, self.decl(w[0]).experts, d.rows, cols)?;
            Ok(rows + d.rows)
        })
    }

    fn stacked_bias(&self, bias: &[Tensor], experts: u32, rows: u32) -> Checked<()> {
        let total: u32 = bias.iter().map(|&b| self.decl(b).cols).sum();
        let fits = bias.iter().all(|&b| self.decl(b).rows == experts);
        ensure(bias.is_empty() || (fits && total == rows), || {
            format!("biases of {total} elements for {rows} outputs")
        })
    }

    /// Checks that a value says which of `experts` experts each token uses; gives how many it uses.
    fn is_route(&self, v: Value, experts: u32) -> Checked<u32> {
        // A route stands shortly before the experts that it is for.
        let node = self.nodes.iter().rev().find(|n| n.outputs.contains(&v));
        match node.map(|n| &n.op) {
            Some(Op::Route { w, k, .. }) if self.decl(*w).rows == experts => Ok(*k),
            Some(Op::Route { w, .. }) => {
                Err(format!("%{} chooses among {}, not {experts}", v.0, self.decl(*w).rows))
            }
            _ => Err(format!("%{} is no route", v.0)),
        }
    }

    fn is_slot(&self, s: State, elems: u32) -> Checked<()> {
        match self.states[s.index()] {
            StateKind::Slot { elems: e, .. } if e == elems => Ok(()),
            other => Err(format!("${} is {other:?}, not a slot of {elems} elements", s.0)),
        }
    }

    /// Checks that a state is a slot of whole rows of `width` elements.
    fn is_slot_of_rows(&self, s: State, width: u32) -> Checked<()> {
        match self.states[s.index()] {
            StateKind::Slot { elems, .. } if width > 0 && elems % width == 0 && elems > 0 => Ok(()),
            other => Err(format!("${} is {other:?}, not a slot of rows of {width}", s.0)),
        }
    }

    fn is_cache(&self, s: State, k: u32, v: u32) -> Checked<()> {
        match self.states[s.index()] {
            StateKind::Paged { k: a, v: b, .. } if (a, b) == (k, v) => Ok(()),
            other => Err(format!("${} is {other:?}, not pages of {k} and {v} elements", s.0)),
        }
    }

    /// Checks that the pages of a cache are kept for as long as a window looks back.
    fn keeps(&self, s: State, window: Option<u32>) -> Checked<()> {
        let StateKind::Paged { group, .. } = self.states[s.index()] else { return Ok(()) };
        // A group that does not exist is reported by `verify`.
        let kept = self.groups.get(usize::from(group)).and_then(|g| g.window);
        ensure(kept.is_none_or(|kept| window.is_some_and(|w| w <= kept)), || {
            format!("a window of {window:?} over ${}, whose pages go after {kept:?}", s.0)
        })
    }

    /// The shapes of the values that `op` computes.
    pub(crate) fn shapes_of(&self, op: &Op) -> Checked<Vec<Shape>> {
        let mut known = Ok(());
        op.visit(&mut |r| {
            let ok = match r {
                Ref::Value(v) => v.index() < self.values.len(),
                Ref::Tensor(t) => t.index() < self.tensors.len(),
                Ref::State(s) => s.index() < self.states.len(),
            };
            if !ok {
                known = Err(format!("{r:?} does not exist here"));
            }
        });
        known?;
        let tokens = |width| Ok(vec![Shape { rows: Rows::Tokens, width }]);
        let like = |x: Value, width| Ok(vec![Shape { rows: self.shape(x).rows, width }]);
        match op {
            Op::Embed { table, positions, types, .. } => {
                let width = self.decl(*table).cols;
                for &t in positions.iter().chain(types) {
                    let d = self.decl(t);
                    self.is_matrix(t, 1, d.rows, width)?;
                }
                tokens(width)
            }
            Op::Read { width, .. } => tokens(*width),
            Op::Norm { x, norm } => {
                let s = self.shape(*x);
                self.norm_fits(norm, s.width)?;
                Ok(vec![s])
            }
            Op::AddNorm { x, delta, post, norm, .. } => {
                self.same_shape(*x, *delta)?;
                let s = self.shape(*x);
                for n in post.iter().chain([norm]) {
                    self.norm_fits(n, s.width)?;
                }
                Ok(vec![s, s])
            }
            Op::Qkv {
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
            } => {
                let (q, k) = (heads * head_dim, kv_heads * head_dim);
                ensure(*kv_heads > 0 && heads % kv_heads == 0, || {
                    format!("{heads} query heads cannot share {kv_heads} key heads")
                })?;
                let rows = self.stacked(w, self.shape(*x).width)?;
                ensure(rows == q + 2 * k, || {
                    format!("{rows} outputs for {heads} + 2·{kv_heads} heads of {head_dim}")
                })?;
                self.stacked_bias(bias, 1, rows)?;
                for (n, all) in [(q_norm, q), (k_norm, k)] {
                    let len = if *norm_over == QkNorm::Head { *head_dim } else { all };
                    n.iter().try_for_each(|n| self.norm_fits(n, len))?;
                }
                if let Some(r) = rope {
                    ensure(r.dims <= *head_dim && r.dims % 2 == 0, || {
                        format!("{} of {head_dim} elements cannot rotate in pairs", r.dims)
                    })?;
                    self.are_vectors(&r.factors, r.dims / 2)?;
                }
                self.is_cache(*cache, k, k)?;
                tokens(q)
            }
            Op::Attention { q, cache, heads, kv_heads, head_dim, window, sinks, .. } => {
                ensure(*kv_heads > 0 && heads % kv_heads == 0, || {
                    format!("{heads} query heads cannot share {kv_heads} key heads")
                })?;
                self.has_width(*q, heads * head_dim)?;
                self.is_cache(*cache, kv_heads * head_dim, kv_heads * head_dim)?;
                self.keeps(*cache, *window)?;
                self.are_vectors(sinks, *heads)?;
                tokens(heads * head_dim)
            }
            Op::Linear { x, w, bias, act, .. } => {
                is_of_one(*act)?;
                let rows = self.stacked(&[*w], self.shape(*x).width)?;
                self.are_vectors(bias, rows)?;
                like(*x, rows)
            }
            Op::GateUp { x, w, bias, .. } => {
                let rows = self.stacked(w, self.shape(*x).width)?;
                ensure(rows % 2 == 0, || format!("{rows} outputs are no gate and up"))?;
                self.stacked_bias(bias, 1, rows)?;
                like(*x, rows / 2)
            }
            Op::Route { x, w, bias, choice_bias, k, .. } => {
                let experts = self.stacked(&[*w], self.shape(*x).width)?;
                self.are_vectors(bias.iter().chain(choice_bias), experts)?;
                ensure(*k > 0 && *k <= experts, || format!("{k} of {experts} experts"))?;
                self.is_of_tokens(*x)?;
                // k ids, then k weights.
                tokens(2 * k)
            }
            Op::ExpertGateUp { x, route, w, bias, .. } => {
                let rows = self.stacked(w, self.shape(*x).width)?;
                ensure(rows % 2 == 0, || format!("{rows} outputs are no gate and up"))?;
                let experts = self.decl(w[0]).experts;
                self.stacked_bias(bias, experts, rows)?;
                self.is_of_tokens(*x)?;
                let k = self.is_route(*route, experts)?;
                Ok(vec![Shape { rows: Rows::Choices(k), width: rows / 2 }])
            }
            Op::ExpertDown { x, route, w, bias } => {
                let experts = self.decl(*w).experts;
                let k = self.is_route(*route, experts)?;
                let s = self.shape(*x);
                ensure(s.rows == Rows::Choices(k), || format!("%{} has {:?}", x.0, s.rows))?;
                let rows = self.stacked(&[*w], s.width)?;
                bias.iter().try_for_each(|&b| self.is_matrix(b, 1, experts, rows))?;
                tokens(rows)
            }
            Op::Add { x, y, gate } => {
                self.same_shape(*x, *y)?;
                gate.iter().try_for_each(|&g| self.has_width(g, 1))?;
                Ok(vec![self.shape(*x)])
            }
            Op::SelectRows { x } => {
                Ok(vec![Shape { rows: Rows::Wanted, width: self.shape(*x).width }])
            }
            Op::TokenShift { x, mix, state } => {
                let s = self.shape(*x);
                let n = self.decl(*mix).rows;
                self.is_matrix(*mix, 1, n, s.width)?;
                self.is_slot(*state, s.width)?;
                Ok(vec![s; n as usize])
            }
            Op::LowRank { x, a, mid, b, bias, act } => {
                is_of_one(*mid)?;
                is_of_one(*act)?;
                let rank = self.stacked(&[*a], self.shape(*x).width)?;
                let rows = self.stacked(&[*b], rank)?;
                self.are_vectors(bias, rows)?;
                like(*x, rows)
            }
            Op::Lerp { from, to, t } => {
                self.same_shape(*from, *to)?;
                self.same_shape(*from, *t)?;
                Ok(vec![self.shape(*from)])
            }
            Op::Wkv7 { r, decay, k, v, a, g, k_k, k_a, r_k, heads, norm, state } => {
                let s = self.shape(*r);
                for x in [decay, k, v, a, g] {
                    self.same_shape(*r, *x)?;
                }
                self.are_vectors([k_k, k_a, r_k], s.width)?;
                self.norm_fits(norm, s.width)?;
                ensure(*heads > 0 && s.width.is_multiple_of(*heads), || {
                    format!("{heads} heads in a width of {}", s.width)
                })?;
                self.is_slot(*state, s.width * (s.width / heads))?;
                Ok(vec![s])
            }
            Op::Pool { x, .. } => Ok(vec![Shape { rows: Rows::Seqs, width: self.shape(*x).width }]),
            Op::Normalize { x, width } => {
                let s = self.shape(*x);
                ensure(*width <= s.width, || format!("{width} of {} elements", s.width))?;
                like(*x, *width)
            }
            Op::TimeEmbed { width } => {
                ensure(*width >= 4 && width % 2 == 0, || format!("width {width}"))?;
                Ok(vec![Shape { rows: Rows::Seqs, width: *width }])
            }
            Op::AddSequence { x, y } => {
                let s = self.shape(*x);
                let wanted = Shape { rows: Rows::Seqs, width: s.width };
                ensure(self.shape(*y) == wanted, || format!("%{} is not {wanted:?}", y.0))?;
                Ok(vec![s])
            }
            Op::LoadSlot { state, width } => {
                self.is_slot_of_rows(*state, *width)?;
                tokens(*width)
            }
            Op::StoreSlot { x, state } => {
                self.is_of_tokens(*x)?;
                self.is_slot_of_rows(*state, self.shape(*x).width)?;
                Ok(vec![self.shape(*x)])
            }
            Op::Denoise { x, eps, schedule, eta, noise, .. } => {
                self.is_of_tokens(*x)?;
                self.same_shape(*x, *eps)?;
                noise.iter().try_for_each(|z| self.same_shape(*x, *z))?;
                ensure((0.0..=1.0).contains(eta), || format!("eta {eta} is not between 0 and 1"))?;
                self.are_vectors([schedule], self.decl(*schedule).cols)?;
                Ok(vec![self.shape(*x)])
            }
            Op::AllReduce { x } => Ok(vec![self.shape(*x)]),
        }
    }

    /// Checks what recording cannot: groups that do not exist, results that do not exist, a cache
    /// read before it is written.
    ///
    /// # Errors
    /// [`Error::Usage`] with the state, value or operation.
    pub fn verify(&self) -> Result<()> {
        for (i, s) in self.states.iter().enumerate() {
            if let StateKind::Paged { group, .. } = s
                && usize::from(*group) >= self.groups.len()
            {
                return Err(Error::Usage(format!("state ${i} is of group {group}, not declared")));
            }
        }
        for (output, v) in &self.outputs {
            if v.index() >= self.values.len() {
                return Err(Error::Usage(format!("output {} is no value", output.name())));
            }
        }
        let mut written = vec![false; self.states.len()];
        for n in &self.nodes {
            match n.op {
                Op::Qkv { cache, .. } => written[cache.index()] = true,
                Op::Attention { cache, .. } if !written[cache.index()] => {
                    return Err(Error::Usage(format!(
                        "attention `{}` reads ${} before a qkv writes it",
                        n.name, cache.0
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
