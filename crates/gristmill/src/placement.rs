//! What of a model runs where: every operation and every tensor of its program, by device.
//!
//! The capability check before anything is allocated, and what `inspect` shows.

use gristmill_core::{DType, Error, Result};
use gristmill_ir::{Capabilities, Op, Program, StateKind};
use gristmill_models::Gguf;

/// A tensor of the file, what reads it, and whether it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorUse {
    /// Its name.
    pub name: String,
    /// Its type; `None` where the file does not have it.
    pub dtype: Option<DType>,
    /// Whether the device has kernels for the type.
    pub runs: bool,
}

/// A kind of operation, how often it occurs, and whether it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpUse {
    /// [`Op::name`].
    pub name: &'static str,
    /// Operations of the kind.
    pub times: usize,
    /// The first of them.
    pub first: String,
    /// Whether the device has it.
    pub runs: bool,
}

/// Everything a program needs of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// By kind, in order of the first use.
    pub ops: Vec<OpUse>,
    /// In the program's order, those that some operation reads.
    pub tensors: Vec<TensorUse>,
    /// Types of stored keys and values, and whether they run.
    pub caches: Vec<(DType, bool)>,
}

impl Placement {
    /// Compares a program over a file with what a device has.
    pub fn of(program: &Program, gguf: &Gguf, device: &Capabilities) -> Placement {
        let mut placement = Placement::default();
        for node in &program.nodes {
            let name = Op::name(&node.op);
            match placement.ops.iter_mut().find(|o| o.name == name) {
                Some(o) => o.times += 1,
                None => placement.ops.push(OpUse {
                    name,
                    times: 1,
                    first: node.name.clone(),
                    runs: device.ops.contains(&name),
                }),
            }
        }
        let used = program.tensors.iter().zip(program.used_tensors()).filter(|t| t.1);
        placement.tensors = used
            .map(|(decl, _)| {
                let dtype = gguf.tensor_info(&decl.name).map(|t| t.dtype);
                let runs = dtype.is_some_and(|d| device.weights.contains(&d));
                TensorUse { name: decl.name.clone(), dtype, runs }
            })
            .collect();
        for state in &program.states {
            let StateKind::Paged { k_type, v_type, .. } = *state else { continue };
            for t in [k_type, v_type] {
                if placement.caches.iter().all(|c| c.0 != t) {
                    placement.caches.push((t, device.kv.contains(&t)));
                }
            }
        }
        placement
    }

    /// What does not run, one line each: tensors first, since they are the file's matter.
    pub fn lacking(&self) -> Vec<String> {
        let tensors = self.tensors.iter().filter(|t| !t.runs).map(|t| match t.dtype {
            Some(d) => format!("tensor '{}' of type {d}", t.name),
            None => format!("tensor '{}', which is missing", t.name),
        });
        let ops =
            self.ops.iter().filter(|o| !o.runs).map(|o| {
                format!("operation `{}` ({} of them, first `{}`)", o.name, o.times, o.first)
            });
        let caches = self.caches.iter().filter(|c| !c.1).map(|c| format!("a cache of {}", c.0));
        tensors.chain(ops).chain(caches).collect()
    }

    /// # Errors
    /// [`Error::Device`] that lists everything that does not run there, naming the file.
    pub fn check(&self, gguf: &Gguf) -> Result<()> {
        let lacking = self.lacking();
        if lacking.is_empty() {
            return Ok(());
        }
        Err(Error::Device(format!(
            "{}: {} things do not run on this device yet:\n  {}",
            gguf.name(),
            lacking.len(),
            lacking.join("\n  ")
        )))
    }
}
