//! From an operation to its kernel, with the scratch that it needs: the one match on what a program
//! says, when it is compiled.

use super::{
    At, Kernel, attention, denoise, embed, experts, grouping, linear, norm, projection, recurrent,
    rows,
};
use crate::kernels::table::Table;
use crate::weights::Weights;
use gristmill_core::{Error, Result};
use gristmill_ir::{Node, Op, Options, Program, Rope, Rows, Shape, Size, Tensor, Value};

/// Names of the operations that [`Compiler::kernel`] knows.
pub(crate) const OPS: [&str; 24] = [
    "embed",
    "read",
    "norm",
    "add_norm",
    "qkv",
    "attention",
    "linear",
    "gate_up",
    "route",
    "expert_gate_up",
    "expert_down",
    "add",
    "select_rows",
    "pool",
    "normalize",
    "token_shift",
    "low_rank",
    "lerp",
    "wkv7",
    "time_embed",
    "add_sequence",
    "load_slot",
    "store_slot",
    "denoise",
];

/// What nodes are compiled from.
pub(super) struct Compiler<'a> {
    pub(super) program: &'a Program,
    pub(super) weights: &'a Weights,
    pub(super) table: Table,
    pub(super) options: &'a Options,
    pub(super) size: Size,
    pub(super) members: usize,
    pub(super) page_tokens: usize,
    /// Most items of an attention that shares out spans.
    pub(super) split_items: usize,
    /// Distinct rotations and where their tables lie.
    pub(super) ropes: Vec<(&'a Rope, usize)>,
}

impl<'a> Compiler<'a> {
    /// Where the table of a rotation lies.
    pub(super) fn rope_offset(&self, rope: &Rope) -> usize {
        // `compile` listed every rotation of the program.
        self.ropes.iter().find(|r| r.0 == rope).map_or(0, |r| r.1)
    }

    /// A vector with `offset` added to every value; null where there is none.
    pub(super) fn vector(&self, t: Option<Tensor>, offset: f32) -> Result<*const f32> {
        match t {
            Some(t) => self.weights.vector(&self.program.decl(t).name, offset),
            None => Ok(std::ptr::null()),
        }
    }

    /// Most rows of this kind.
    pub(super) fn bound(&self, rows: Rows) -> usize {
        match rows {
            Rows::Tokens => self.size.tokens as usize,
            Rows::Seqs => self.size.seqs as usize,
            Rows::Wanted => self.size.rows as usize,
            Rows::Choices(k) => self.size.tokens as usize * k as usize,
        }
    }

    pub(super) fn bytes(&self, s: Shape) -> usize {
        self.bound(s.rows) * s.width as usize * size_of::<f32>()
    }

    /// Scratch of a projection whose products are not yet the node's values, and of the products.
    fn products(&self, w: &[Tensor], rows: usize) -> usize {
        let outputs: usize = w.iter().map(|&w| self.program.decl(w).rows as usize).sum();
        projection::scratch(self, w, rows) + projection::products_bytes(rows, outputs)
    }

    /// Scratch of a node, beside its values.
    pub(super) fn scratch(&self, n: &'a Node) -> usize {
        match &n.op {
            Op::Qkv { x, w, .. } | Op::GateUp { x, w, .. } => {
                self.products(w, self.bound(self.program.shape(*x).rows))
            }
            Op::Route { x, w, .. } => self.products(&[*w], self.bound(self.program.shape(*x).rows)),
            Op::ExpertGateUp { w, .. } => {
                let rows = self.bound(self.program.shape(n.outputs[0]).rows);
                let experts = self.program.decl(w[0]).experts as usize;
                grouping::bytes(rows, experts) + self.products(w, rows)
            }
            Op::ExpertDown { x, w, .. } => {
                let rows = self.bound(self.program.shape(*x).rows);
                let experts = self.program.decl(*w).experts as usize;
                grouping::bytes(rows, experts) + self.products(&[*w], rows)
            }
            Op::Linear { x, w, .. } => {
                let rows = self.bound(self.program.shape(*x).rows);
                projection::scratch(self, &[*w], rows)
            }
            Op::Embed { table, .. } => embed::scratch(self, self.program.decl(*table).cols),
            Op::Attention { heads, kv_heads, head_dim, .. } => {
                attention::scratch(self, [*heads, *kv_heads, *head_dim])
            }
            Op::LowRank { x, a, b, .. } => {
                let rows = self.bound(self.program.shape(*x).rows);
                recurrent::low_rank_scratch(self, rows, *a, *b)
            }
            Op::Wkv7 { r, heads, .. } => {
                let dim = self.program.shape(*r).width / heads;
                recurrent::wkv7_scratch(self, dim as usize)
            }
            _ => 0,
        }
    }

    /// The kernel of an operation, whose values lie where `at` says.
    ///
    /// # Errors
    /// [`Error::Device`] for an operation or a format that does not run here; those of the weights.
    pub(super) fn kernel(
        &self,
        n: &'a Node,
        at: &dyn Fn(Value) -> At,
        scratch: usize,
    ) -> Result<Kernel> {
        let out = at(n.outputs[0]);
        Ok(match &n.op {
            Op::Embed { table, scale, positions, types } => {
                let optional = [*positions, *types];
                Kernel::Embed(embed::Embed::new(self, *table, optional, *scale, out, scratch)?)
            }
            Op::Read { input, .. } => Kernel::Read(embed::Read { input: *input, out }),
            Op::Norm { x, norm } => Kernel::Norm(norm::Norm::new(self, at(*x), norm, out)?),
            Op::AddNorm { x, delta, post, scale, norm } => {
                let inputs = [at(*x), at(*delta)];
                let outs = [out, at(n.outputs[1])];
                let norms = (post.as_ref(), norm);
                Kernel::AddNorm(norm::AddNorm::new(self, inputs, outs, *scale, norms)?)
            }
            Op::Qkv { x, .. } => {
                Kernel::Qkv(attention::Qkv::new(self, &n.op, at(*x), out, scratch)?)
            }
            Op::Attention { q, .. } => {
                let a = attention::Attention::new(self, &n.op, at(*q), out, scratch)?;
                Kernel::Attention(a)
            }
            Op::Linear { x, w, bias, act, scale, softcap } => {
                let finish = linear::Finish {
                    bias: *bias,
                    act: *act,
                    scale: *scale,
                    softcap: softcap.unwrap_or(0.0),
                };
                Kernel::Linear(linear::Linear::new(self, at(*x), *w, finish, out, scratch)?)
            }
            Op::GateUp { x, w, bias, act } => {
                let g = linear::GateUp::new(self, at(*x), w, bias, *act, out, scratch)?;
                Kernel::GateUp(g)
            }
            Op::Route { x, w, bias, choice_bias, gating, renormalise, scale, .. } => {
                let choice = experts::Choice {
                    bias: *bias,
                    choice_bias: *choice_bias,
                    gating: *gating,
                    renormalise: *renormalise,
                    scale: *scale,
                };
                let r = experts::Route::new(self, at(*x), *w, &choice, out, scratch)?;
                Kernel::Route(r)
            }
            Op::ExpertGateUp { x, route, w, bias, act } => {
                let (inputs, w) = ([at(*x), at(*route)], (&w[..], &bias[..]));
                let g = experts::ExpertGateUp::new(self, inputs, w, *act, out, scratch)?;
                Kernel::ExpertGateUp(g)
            }
            Op::ExpertDown { x, route, w, bias } => {
                let inputs = [at(*x), at(*route)];
                let d = experts::ExpertDown::new(self, inputs, *w, *bias, out, scratch)?;
                Kernel::ExpertDown(d)
            }
            Op::Add { x, y, gate } => {
                Kernel::Add(rows::Add { x: at(*x), y: at(*y), gate: gate.map(at), out })
            }
            Op::SelectRows { x } => Kernel::SelectRows(rows::SelectRows { x: at(*x), out }),
            Op::Pool { x, how } => Kernel::Pool(rows::Pool { x: at(*x), how: *how, out }),
            Op::Normalize { x, .. } => Kernel::Normalize(rows::Normalize { x: at(*x), out }),
            Op::TokenShift { x, mix, state } => {
                let outs = n.outputs.iter().map(|&v| at(v)).collect();
                let shift = recurrent::TokenShift::new(self, at(*x), *mix, *state, outs)?;
                Kernel::TokenShift(shift)
            }
            Op::LowRank { x, a, mid, b, bias, act } => {
                let (w, acts) = ([*a, *b], [*mid, *act]);
                let l = recurrent::LowRank::new(self, at(*x), w, *bias, acts, out, scratch)?;
                Kernel::LowRank(l)
            }
            Op::Lerp { from, to, t } => {
                let inputs = [at(*from), at(*to), at(*t)];
                Kernel::Lerp(recurrent::Lerp { kernel: self.table.lerp, inputs, out })
            }
            Op::Wkv7 { .. } => Kernel::Wkv7(recurrent::Wkv7::new(self, &n.op, at, out, scratch)?),
            Op::TimeEmbed { .. } => Kernel::TimeEmbed(denoise::TimeEmbed { out }),
            Op::AddSequence { x, y } => {
                Kernel::AddSequence(denoise::AddSequence { x: at(*x), y: at(*y), out })
            }
            Op::LoadSlot { state, .. } => {
                Kernel::Slots(denoise::Slots::new(self, *state, None, out)?)
            }
            Op::StoreSlot { x, state } => {
                Kernel::Slots(denoise::Slots::new(self, *state, Some(at(*x)), out)?)
            }
            Op::Denoise { x, eps, schedule, eta, rule, noise } => {
                let values = [at(*x), at(*eps), out];
                let (noise, how) = (noise.map(at), (*eta, *rule));
                Kernel::Denoise(denoise::Denoise::new(self, values, noise, *schedule, how)?)
            }
            other => {
                return Err(Error::Device(format!(
                    "the cpu backend has no kernel for `{}` yet",
                    other.name()
                )));
            }
        })
    }
}
