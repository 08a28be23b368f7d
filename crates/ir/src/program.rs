//! Recording a program.
//!
//! A model's architecture reads its configuration and calls [`Program::push`] (through the short
//! forms [`Program::one`] and [`Program::two`]) once for each operation, in order. Every value is
//! assigned once and its shape is known and checked at that moment, so an error names the
//! operation that a model file does not fit.

use crate::op::{Act, Op, Ref, State, Tensor, Value};
use gristmill_core::{DType, Error, Result};
use std::collections::{HashMap, HashSet};

/// What a row of a value stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rows {
    /// A token of the batch.
    Tokens,
    /// A sequence of the batch.
    Seqs,
    /// A token whose outputs are wanted.
    Wanted,
    /// A token and one of its `k` experts.
    Choices(u32),
}

/// The shape of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// What a row stands for.
    pub rows: Rows,
    /// Elements of a row.
    pub width: u32,
}

/// A weight the program names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorDecl {
    /// The name in GGUF's scheme; other containers map theirs to it.
    pub name: String,
    /// Matrices in the stack; 1 for a plain matrix or vector.
    pub experts: u32,
    /// Output features; 1 for a vector.
    pub rows: u32,
    /// Input features.
    pub cols: u32,
}

/// Layers that share page tables: those with the same window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Positions a layer looks back, where it does not look back to the start; pages wholly out of
    /// every window can be freed.
    pub window: Option<u32>,
}

/// Memory that outlives a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateKind {
    /// Keys and values of one layer, in pages of a group.
    Paged {
        /// Which page table.
        group: u8,
        /// Elements of the keys of a token, all heads.
        k: u32,
        /// Elements of the values of a token, all heads.
        v: u32,
        /// Type of the stored keys.
        k_type: DType,
        /// Type of the stored values.
        v_type: DType,
    },
    /// A fixed piece for each sequence: RWKV states, latents, hidden carries.
    Slot {
        /// Elements a slot.
        elems: u32,
        /// Their type.
        dtype: DType,
    },
}

/// What a program can give besides its states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// Scores of the vocabulary, for each wanted row.
    Logits,
    /// Hidden states, for each token (of the last layer, or at a cut).
    Hidden,
    /// A vector for each sequence.
    Pooled,
    /// Class scores for each sequence.
    Scores,
    /// A value inside the program, to be looked at: see [`Program::watched`].
    Value(Value),
}

impl Output {
    const NAMES: [(Output, &str); 4] = [
        (Output::Logits, "logits"),
        (Output::Hidden, "hidden"),
        (Output::Pooled, "pooled"),
        (Output::Scores, "scores"),
    ];

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|n| n.0 == self).map_or("value", |n| n.1)
    }

    /// The result of this name that `value` is.
    pub(crate) fn from_name(name: &str, value: Value) -> Option<Output> {
        let named = Self::NAMES.iter().find(|n| n.1 == name).map(|n| n.0);
        named.or((name == "value").then_some(Output::Value(value)))
    }
}

/// An operation of a program with the values it computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Such as `blk.3.attn`: unique, and what `--stop-after` takes.
    pub name: String,
    /// What is computed, from what.
    pub op: Op,
    /// The values, in the order the operation documents.
    pub outputs: Vec<Value>,
}

/// A straight line of operations over named weights, states and outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// The architecture.
    pub name: String,
    /// Whether the keys and values of a prompt do not depend on the text after it: the condition
    /// for sharing prefixes. True for causal models, false for LLaDA and Dream.
    pub prefix_closed: bool,
    /// Page groups.
    pub groups: Vec<Group>,
    /// Weights.
    pub tensors: Vec<TensorDecl>,
    /// States.
    pub states: Vec<StateKind>,
    /// Operations in the order of execution.
    pub nodes: Vec<Node>,
    /// Shapes of the values.
    pub values: Vec<Shape>,
    /// Named results.
    pub outputs: Vec<(Output, Value)>,
    names: Names,
}

/// What is named already: so that recording takes time linear in the program, however many layers a
/// file claims.
#[derive(Clone, Debug, Default)]
struct Names {
    tensors: HashMap<String, Tensor>,
    nodes: HashSet<String>,
}

impl PartialEq for Names {
    /// They follow from the lists of weights and operations, which are compared.
    fn eq(&self, _: &Names) -> bool {
        true
    }
}

/// A model family: reads its configuration when built, records when asked.
pub trait Architecture {
    /// Records the whole model.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the operation whose shapes do not agree.
    fn record(&self, p: &mut Program) -> Result<()>;
}

impl Program {
    /// An empty program.
    pub fn new(name: impl Into<String>) -> Self {
        Program {
            name: name.into(),
            prefix_closed: false,
            groups: vec![],
            tensors: vec![],
            states: vec![],
            nodes: vec![],
            values: vec![],
            outputs: vec![],
            names: Names::default(),
        }
    }

    /// A matrix of the model, `rows` outputs by `cols` inputs. Naming it twice gives the same one.
    pub fn tensor(&mut self, name: impl AsRef<str>, rows: u32, cols: u32) -> Tensor {
        self.tensor_stack(name, 1, rows, cols)
    }

    /// A vector of the model.
    pub fn vector(&mut self, name: impl AsRef<str>, len: u32) -> Tensor {
        self.tensor_stack(name, 1, 1, len)
    }

    /// A stack of matrices, one for each expert.
    pub fn tensor_stack(
        &mut self,
        name: impl AsRef<str>,
        experts: u32,
        rows: u32,
        cols: u32,
    ) -> Tensor {
        let name = name.as_ref();
        self.known_tensor(name).unwrap_or_else(|| {
            let new = Tensor(self.tensors.len() as u32);
            self.tensors.push(TensorDecl { name: name.to_owned(), experts, rows, cols });
            self.names.tensors.insert(name.to_owned(), new);
            new
        })
    }

    /// The weight of this name, if it is declared.
    pub(crate) fn known_tensor(&self, name: &str) -> Option<Tensor> {
        self.names.tensors.get(name).copied()
    }

    /// The page group with this window.
    pub fn group(&mut self, window: Option<u32>) -> u8 {
        let known = self.groups.iter().position(|g| g.window == window);
        known.unwrap_or_else(|| {
            self.groups.push(Group { window });
            self.groups.len() - 1
        }) as u8
    }

    /// A new state.
    pub fn state(&mut self, kind: StateKind) -> State {
        self.states.push(kind);
        State(self.states.len() as u32 - 1)
    }

    /// Records an operation under a unique name and returns its values.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the operation when its inputs do not fit.
    pub fn push(&mut self, name: impl Into<String>, op: Op) -> Result<Vec<Value>> {
        let name = name.into();
        let fail = |what: String| Error::Usage(format!("{} `{name}`: {what}", op.name()));
        if self.names.nodes.contains(&name) {
            return Err(fail("there is an operation of this name already".into()));
        }
        let shapes = self.shapes_of(&op).map_err(fail)?;
        let first = self.values.len() as u32;
        let outputs: Vec<Value> = (first..first + shapes.len() as u32).map(Value).collect();
        self.values.extend(shapes);
        self.names.nodes.insert(name.clone());
        self.nodes.push(Node { name, op, outputs: outputs.clone() });
        Ok(outputs)
    }

    /// Records an operation with one value.
    ///
    /// # Errors
    /// As [`Program::push`].
    pub fn one(&mut self, name: impl Into<String>, op: Op) -> Result<Value> {
        self.push(name, op).map(|v| v[0])
    }

    /// Records an operation with two values, such as [`Op::AddNorm`].
    ///
    /// # Errors
    /// As [`Program::push`].
    pub fn two(&mut self, name: impl Into<String>, op: Op) -> Result<(Value, Value)> {
        self.push(name, op).map(|v| (v[0], v[1]))
    }

    /// Names a result.
    pub fn output(&mut self, output: Output, value: Value) {
        self.outputs.push((output, value));
    }

    /// The value of a named result.
    pub fn output_value(&self, output: Output) -> Option<Value> {
        self.outputs.iter().find(|o| o.0 == output).map(|o| o.1)
    }

    /// The shape of a value.
    pub fn shape(&self, v: Value) -> Shape {
        self.values[v.index()]
    }

    /// The declaration of a weight.
    pub fn decl(&self, t: Tensor) -> &TensorDecl {
        &self.tensors[t.index()]
    }

    /// The values an operation reads, each once.
    pub fn inputs(op: &Op) -> Vec<Value> {
        let mut values = vec![];
        op.visit(&mut |r| {
            if let Ref::Value(v) = r
                && !values.contains(&v)
            {
                values.push(v);
            }
        });
        values
    }

    /// Which of the weights some operation names; a program that was cut declares others too.
    pub fn used_tensors(&self) -> Vec<bool> {
        let mut used = vec![false; self.tensors.len()];
        for node in &self.nodes {
            node.op.visit(&mut |r| {
                if let Ref::Tensor(t) = r {
                    used[t.index()] = true;
                }
            });
        }
        used
    }

    /// Which of the weights some operation reads as a matrix; the others are vectors.
    pub fn matrices(&self) -> Vec<bool> {
        let mut found = vec![false; self.tensors.len()];
        let mut mark = |tensors: &[Tensor]| tensors.iter().for_each(|t| found[t.index()] = true);
        for node in &self.nodes {
            match &node.op {
                Op::Embed { table, positions, types, .. } => {
                    mark(&[*table]);
                    mark(positions.as_slice());
                    mark(types.as_slice());
                }
                Op::Qkv { w, .. } | Op::GateUp { w, .. } | Op::ExpertGateUp { w, .. } => mark(w),
                Op::Linear { w, .. } | Op::Route { w, .. } | Op::ExpertDown { w, .. } => {
                    mark(&[*w])
                }
                Op::LowRank { a, b, .. } => mark(&[*a, *b]),
                _ => {}
            }
        }
        found
    }

    /// Which of the weights are the matrix of a [`Op::Linear`], and nothing else, whose input is mostly
    /// zeros: what max(x, 0) has left of another product. A kernel may then read only the columns that
    /// meet something else.
    pub fn meets_zeros(&self) -> Vec<bool> {
        let mut zeros = vec![false; self.values.len()];
        let (mut meets, mut other) =
            (vec![false; self.tensors.len()], vec![false; self.tensors.len()]);
        for node in &self.nodes {
            if let Op::Linear { act, .. } | Op::GateUp { act, .. } = node.op {
                zeros[node.outputs[0].index()] = matches!(act, Act::Relu | Act::Relu2);
            }
            let matrix = match node.op {
                Op::Linear { x, w, .. } if zeros[x.index()] => Some(w),
                _ => None,
            };
            node.op.visit(&mut |r| {
                if let Ref::Tensor(t) = r {
                    let uses = if matrix == Some(t) { &mut meets } else { &mut other };
                    uses[t.index()] = true;
                }
            });
        }
        meets.iter().zip(other).map(|(&meets, other)| meets && !other).collect()
    }

    /// The same program up to and including the operation `name`, with the values of that
    /// operation as its results ([`Output::Value`]): for looking at one value of a pass. The
    /// weights and states of the rest stay declared.
    ///
    /// # Errors
    /// [`Error::Usage`] listing names like it when there is no such operation.
    pub fn stop_after(&self, name: &str) -> Result<Program> {
        let Some(end) = self.nodes.iter().position(|n| n.name == name) else {
            let last = name.rsplit('.').next().unwrap_or(name);
            let alike = |n: &&str| n.ends_with(last);
            let names = || self.nodes.iter().map(|n| n.name.as_str());
            let mut near: Vec<&str> = names().filter(alike).take(5).collect();
            if near.is_empty() {
                near = names().take(5).collect();
            }
            return Err(Error::Usage(format!(
                "there is no operation `{name}`; there are {}, and others",
                near.join(", ")
            )));
        };
        let mut cut = self.clone();
        for gone in cut.nodes.drain(end + 1..) {
            cut.names.nodes.remove(&gone.name);
        }
        cut.values.truncate(cut.nodes[end].outputs.last().map_or(0, |v| v.index() + 1));
        cut.outputs = cut.nodes[end].outputs.iter().map(|&v| (Output::Value(v), v)).collect();
        Ok(cut)
    }

    /// The same program with every value that an operation computes as a result
    /// ([`Output::Value`]), so that none of them gives its memory to another: for looking into a
    /// whole pass.
    pub fn watched(&self) -> Program {
        let values = self.nodes.iter().flat_map(|n| &n.outputs);
        let outputs = values.map(|&v| (Output::Value(v), v)).collect();
        Program { outputs, ..self.clone() }
    }
}
