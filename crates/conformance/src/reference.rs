//! The operations by their definitions: f64, plain vectors, one element after the other.
//!
//! A value is a list of rows. The keys and values of a sequence are lists that grow, by logical
//! index: there are no pages. Four roundings are part of the definition and done here too: weights
//! are what their format holds, keys and values are rounded to the type of the cache, the angle of
//! a rotation is an f32 product (as in the programs that models are trained with), and where
//! activations are int8, those entering a quantized matrix are `d q` in blocks of 32, as
//! [`Rounded`](crate::scalar::Rounded) says.

mod experts;
mod recurrent;
mod rope;

use crate::scalar::{activate, cap, gated, int8, narrow};
use crate::weights::Weights;
use crate::work::{Edit, TokenOf, Work};
use gristmill_core::Result;
use gristmill_ir::*;
use std::collections::HashMap;

/// A value: rows of elements.
pub type Table = Vec<Vec<f64>>;

/// A state of one sequence: keys and values by logical index, or a slot.
#[derive(Clone, Debug, Default)]
struct Cache {
    k: Table,
    v: Table,
    slot: Vec<f64>,
}

struct Weight {
    values: Vec<f64>,
    rows: usize,
    cols: usize,
    /// Whether its activations may be int8: it is stored in blocks.
    blocks: bool,
}

/// A program that can be run, with the sequences it has seen.
pub struct Reference<'a> {
    program: &'a Program,
    weights: Vec<Weight>,
    int8: bool,
    /// One cache for each state of a sequence.
    sequences: HashMap<usize, Vec<Cache>>,
    /// How near two scores came, of which a router preferred one, relative to the larger.
    nearest: f64,
}

impl<'a> Reference<'a> {
    /// A program with its weights.
    ///
    /// # Errors
    /// Those of [`Weights::tensor`].
    pub fn new(program: &'a Program, weights: &Weights, activations: Activations) -> Result<Self> {
        let load = |d: &TensorDecl| {
            let blocks = weights.dtype(&d.name).is_some_and(|t| t.block_len() > 1);
            let (rows, cols) = (d.rows as usize, d.cols as usize);
            Ok(Weight { values: weights.values(d)?, rows, cols, blocks })
        };
        let weights = program.tensors.iter().map(load).collect::<Result<_>>()?;
        let int8 = activations == Activations::Int8;
        let sequences = HashMap::new();
        Ok(Reference { program, weights, int8, sequences, nearest: f64::INFINITY })
    }

    /// Whether every choice of experts so far was one that f32 can tell too: to others no backend
    /// can be held.
    pub fn choices_are_clear(&self) -> bool {
        self.nearest > 2e-6
    }

    /// Runs a step and gives every value of the program.
    pub fn run(&mut self, work: &Work) -> Vec<Table> {
        work.edits.iter().for_each(|e| self.edit(e));
        let mut values = vec![vec![]; self.program.values.len()];
        for node in &self.program.nodes {
            let results = self.op(&node.op, &values, work);
            for (v, rows) in node.outputs.iter().zip(results) {
                values[v.index()] = rows;
            }
        }
        values
    }

    /// The named results of a step, row after row.
    pub fn outputs(&mut self, work: &Work) -> Vec<(Output, Vec<f64>)> {
        let values = self.run(work);
        let of = |&(output, v): &(Output, Value)| (output, values[v.index()].concat());
        self.program.outputs.iter().map(of).collect()
    }

    fn edit(&mut self, e: &Edit) {
        let held = |s: usize| self.sequences.get(&s).cloned().unwrap_or_default();
        match *e {
            Edit::Fork { from, to } => {
                self.sequences.insert(to, held(from));
            }
            Edit::Share { from, to, keys } => {
                let mut caches = held(from);
                for list in caches.iter_mut().flat_map(|c| [&mut c.k, &mut c.v]) {
                    list.truncate(keys as usize);
                }
                self.sequences.insert(to, caches);
            }
            Edit::Key { seq, from, to } => {
                for c in self.sequences.entry(seq).or_default() {
                    for list in [&mut c.k, &mut c.v].into_iter().filter(|l| !l.is_empty()) {
                        list[to as usize] = list[from as usize].clone();
                    }
                }
            }
        }
    }

    /// The cache of a sequence for one state.
    fn cache(&mut self, seq: usize, state: State) -> &mut Cache {
        let states = self.program.states.len();
        let caches = self.sequences.entry(seq).or_default();
        caches.resize_with(states, Cache::default);
        &mut caches[state.index()]
    }

    fn vector(&self, t: Tensor) -> &[f64] {
        &self.weights[t.index()].values
    }

    fn row(&self, t: Tensor, r: u32) -> &[f64] {
        let w = &self.weights[t.index()];
        &w.values[r as usize * w.cols..][..w.cols]
    }

    /// `w x` for matrices over each other, plus their biases over each other.
    fn project(&self, x: &[f64], w: &[Tensor], bias: &[Tensor]) -> Vec<f64> {
        self.project_by(0, x, w, bias)
    }

    /// The same with the matrices and the rows of biases of one expert.
    fn project_by(&self, expert: usize, x: &[f64], w: &[Tensor], bias: &[Tensor]) -> Vec<f64> {
        let mut y = vec![];
        for w in w.iter().map(|t| &self.weights[t.index()]) {
            let x = if self.int8 && w.blocks { int8(x) } else { x.to_vec() };
            let rows = w.values.chunks(w.cols).skip(expert * w.rows).take(w.rows);
            y.extend(rows.map(|row| dot(row, &x)));
        }
        let bias = bias.iter().flat_map(|&b| self.row(b, expert as u32));
        y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        y
    }

    fn norm(&self, x: &[f64], n: &Norm) -> Vec<f64> {
        let mean = match n.kind {
            NormKind::Rms => 0.0,
            NormKind::Layer => x.iter().sum::<f64>() / x.len() as f64,
        };
        let square = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64;
        let factor = 1.0 / (square + f64::from(n.eps)).sqrt();
        let element = |(i, v): (usize, &f64)| {
            let w = n.weight.map_or(1.0, |w| self.vector(w)[i] + f64::from(n.offset));
            (v - mean) * factor * w + n.bias.map_or(0.0, |b| self.vector(b)[i])
        };
        x.iter().enumerate().map(element).collect()
    }

    fn op(&mut self, op: &Op, values: &[Table], work: &Work) -> Vec<Table> {
        let of = |v: Value| &values[v.index()];
        vec![match op {
            Op::Embed { table, scale, positions, types } => {
                let row = |t: TokenOf<'_>| {
                    let kind = t.part.types.get(t.at).copied().unwrap_or(0);
                    let position = t.part.positions[t.at][0];
                    let mut x: Vec<f64> = self.row(*table, t.part.ids[t.at]).to_vec();
                    x.iter_mut().for_each(|v| *v *= f64::from(*scale));
                    for (table, row) in [(positions, position), (types, kind)] {
                        if let Some(table) = table {
                            x = sum(&x, 1.0, self.row(*table, row));
                        }
                    }
                    x
                };
                work.tokens().map(row).collect()
            }
            Op::Read { width, .. } => {
                let row = |r: &[f32]| r.iter().map(|&v| v.into()).collect();
                work.hidden.chunks(*width as usize).map(row).collect()
            }
            Op::Norm { x, norm } => of(*x).iter().map(|x| self.norm(x, norm)).collect(),
            Op::AddNorm { x, delta, post, scale, norm } => {
                let add = |(x, delta): (&Vec<f64>, &Vec<f64>)| match post {
                    Some(n) => sum(x, (*scale).into(), &self.norm(delta, n)),
                    None => sum(x, (*scale).into(), delta),
                };
                let sums: Table = of(*x).iter().zip(of(*delta)).map(add).collect();
                let normed = sums.iter().map(|x| self.norm(x, norm)).collect();
                return vec![sums, normed];
            }
            Op::Qkv { x, .. } => self.qkv(op, of(*x), work),
            Op::Attention { q, .. } => self.attention(op, of(*q), work),
            Op::Linear { x, w, bias, act, scale, softcap } => {
                let bias = bias.as_slice();
                let finish = |y: f64| cap(f64::from(*scale) * activate(*act, y), *softcap);
                let row = |x| self.project(x, &[*w], bias).into_iter().map(finish).collect();
                of(*x).iter().map(|x| row(x)).collect()
            }
            Op::GateUp { x, w, bias, act } => {
                let row = |x: &Vec<f64>| unit(*act, &self.project(x, w, bias));
                of(*x).iter().map(row).collect()
            }
            Op::Route { x, .. } => self.route(op, of(*x)),
            Op::ExpertGateUp { x, route, w, bias, act } => {
                self.expert_gate_up(of(*x), of(*route), (w, bias), *act)
            }
            Op::ExpertDown { x, route, w, bias } => self.expert_down(of(*x), of(*route), *w, *bias),
            Op::Add { x, y, gate } => {
                let row = |(r, (x, y)): (usize, (&Vec<f64>, &Vec<f64>))| {
                    let factor = gate.map_or(1.0, |g| activate(Act::Sigmoid, of(g)[r][0]));
                    sum(x, factor, y)
                };
                of(*x).iter().zip(of(*y)).enumerate().map(row).collect()
            }
            Op::SelectRows { x } => {
                work.rows().iter().map(|&r| of(*x)[r as usize].clone()).collect()
            }
            Op::Pool { x, how } => {
                let sequence = |w: &[u32]| {
                    let rows = &of(*x)[w[0] as usize..w[1] as usize];
                    match how {
                        Pooling::Cls => rows[0].clone(),
                        Pooling::Last => rows[rows.len() - 1].clone(),
                        Pooling::Mean => rows.iter().fold(vec![0.0; rows[0].len()], |m, r| {
                            sum(&m, 1.0 / rows.len() as f64, r)
                        }),
                    }
                };
                work.starts().windows(2).map(sequence).collect()
            }
            Op::Normalize { x, width } => {
                let row = |x: &Vec<f64>| {
                    let x = &x[..*width as usize];
                    let length = dot(x, x).sqrt().max(1e-12);
                    x.iter().map(|v| v / length).collect()
                };
                of(*x).iter().map(row).collect()
            }
            Op::TokenShift { x, mix, state } => {
                let x = of(*x).clone();
                return self.token_shift(&x, *mix, *state, work);
            }
            Op::LowRank { x, a, mid, b, bias, act } => {
                let row = |x: &Vec<f64>| {
                    let few = self.project(x, &[*a], &[]);
                    let few: Vec<f64> = few.into_iter().map(|y| activate(*mid, y)).collect();
                    let many = self.project(&few, &[*b], bias.as_slice());
                    many.into_iter().map(|y| activate(*act, y)).collect()
                };
                of(*x).iter().map(row).collect()
            }
            Op::Lerp { from, to, t } => {
                let element = |((from, to), t): ((&f64, &f64), &f64)| from + t * (to - from);
                let row = |((from, to), t): ((&Vec<f64>, &Vec<f64>), &Vec<f64>)| {
                    from.iter().zip(to).zip(t).map(element).collect()
                };
                of(*from).iter().zip(of(*to)).zip(of(*t)).map(row).collect()
            }
            Op::Wkv7 { .. } => self.wkv7(op, values, work),
            other => panic!("`{}` has no definition here yet", other.name()),
        }]
    }

    /// Queries as the value; keys and values into the caches.
    fn qkv(&mut self, op: &Op, x: &Table, work: &Work) -> Table {
        let Op::Qkv {
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
            ..
        } = op
        else {
            unreachable!("called for a qkv")
        };
        let StateKind::Paged { k_type, v_type, .. } = self.program.states[cache.index()] else {
            unreachable!("a qkv writes pages")
        };
        let frequencies =
            rope.as_ref().map(|r| rope::frequencies(r, r.factors.map(|t| self.vector(t))));
        let dim = *head_dim as usize;
        let (q_width, kv_width) = (*heads as usize * dim, *kv_heads as usize * dim);
        let mut queries = vec![];
        for (t, x) in work.tokens().zip(x) {
            let y = self.project(x, w, bias);
            let (q, rest) = y.split_at(q_width);
            let (k, v) = rest.split_at(kv_width);
            let finish = |x: &[f64], norm: &Option<Norm>| {
                let run = if *norm_over == QkNorm::Head { dim } else { x.len() };
                let normed = |x| norm.as_ref().map_or_else(|| Vec::from(x), |n| self.norm(x, n));
                let mut x: Vec<f64> = x.chunks(run).flat_map(normed).collect();
                if let (Some(rope), Some(frequencies)) = (rope, &frequencies) {
                    for head in x.chunks_mut(dim) {
                        rope::rotate(head, rope, frequencies, t.part.positions[t.at]);
                    }
                }
                x
            };
            let (q, k) = (finish(q, q_norm), finish(k, k_norm));
            let index = t.part.kv_index[t.at] as usize;
            let cache = self.cache(t.part.seq, *cache);
            for (list, row, dtype) in [(&mut cache.k, &k[..], k_type), (&mut cache.v, v, v_type)] {
                list.resize(list.len().max(index + 1), vec![]);
                list[index] = row.iter().map(|&v| narrow(dtype, v)).collect();
            }
            queries.push(q);
        }
        queries
    }

    fn attention(&mut self, op: &Op, q: &Table, work: &Work) -> Table {
        let Op::Attention {
            cache, heads, kv_heads, head_dim, scale, softcap, window, sinks, ..
        } = op
        else {
            unreachable!("called for an attention")
        };
        let dim = *head_dim as usize;
        let sharing = heads / kv_heads;
        let mut rows = vec![];
        for (t, q) in work.tokens().zip(q) {
            let sinks = sinks.map(|s| self.vector(s).to_vec());
            let seen: Vec<usize> = visible(t, *window);
            let cache = self.cache(t.part.seq, *cache);
            let mut out = vec![];
            for h in 0..*heads as usize {
                let q = &q[h * dim..][..dim];
                let at = h / sharing as usize * dim;
                let score = |&j: &usize| {
                    cap(f64::from(*scale) * dot(q, &cache.k[j][at..at + dim]), *softcap)
                };
                let scores: Vec<f64> = seen.iter().map(score).collect();
                let sink = sinks.as_ref().map_or(f64::NEG_INFINITY, |s| s[h]);
                let most = scores.iter().copied().fold(sink, f64::max);
                let total =
                    (sink - most).exp() + scores.iter().map(|s| (s - most).exp()).sum::<f64>();
                let mut sum = vec![0.0; dim];
                for (&j, s) in seen.iter().zip(&scores) {
                    let p = (s - most).exp() / total;
                    sum.iter_mut().zip(&cache.v[j][at..]).for_each(|(o, v)| *o += p * v);
                }
                out.extend(sum);
            }
            rows.push(out);
        }
        rows
    }
}

/// `act(gate) · up` of gates and ups over each other.
fn unit(act: Act, y: &[f64]) -> Vec<f64> {
    let (gate, up) = y.split_at(y.len() / 2);
    gate.iter().zip(up).map(|(&g, &u)| gated(act, g, u)).collect()
}

/// The keys a token sees.
fn visible(t: TokenOf<'_>, window: Option<u32>) -> Vec<usize> {
    let [from, to] = t.part.visible[t.at];
    let own = t.part.kv_index[t.at];
    let in_window = |&j: &u32| window.is_none_or(|w| j + w > own);
    let in_tree = |&j: &u32| {
        let Some(bits) = t.part.ancestors.get(t.at) else { return true };
        j < t.part.tree_base || bits >> (j - t.part.tree_base) & 1 == 1
    };
    (from..to).filter(in_window).filter(in_tree).map(|j| j as usize).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `x + factor · y`
fn sum(x: &[f64], factor: f64, y: &[f64]) -> Vec<f64> {
    x.iter().zip(y).map(|(x, y)| x + factor * y).collect()
}
