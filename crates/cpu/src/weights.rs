//! Weights in memory: one packed copy of each matrix, vectors as f32.

use crate::pack::{Layout, Packed};
use crate::pool::Pool;
use crate::simd::Isa;
use gristmill_core::{DType, Error, HostTensor, Result, quant};
use gristmill_ir::{Program, Tensor, TensorDecl};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

/// Shared by every program and plan of a model.
#[derive(Clone)]
pub struct Weights(Arc<Inner>);

struct Inner {
    matrices: HashMap<String, Arc<Packed>>,
    /// Values as stored; with the offset of a norm added, or joined, when a plan asks for that.
    vectors: HashMap<String, Box<[f32]>>,
    derived: Mutex<HashMap<String, Box<[f32]>>>,
}

impl Weights {
    /// Packs all that `uses` name; see [`gristmill_ir::Backend::load`].
    pub(crate) fn load(
        isa: Isa,
        pool: &mut Pool,
        uses: &[&Program],
        tensor: &mut dyn FnMut(&TensorDecl) -> Result<HostTensor>,
    ) -> Result<Weights> {
        let mut matrices = HashMap::new();
        let mut vectors = HashMap::new();
        let by_columns = by_columns(uses);
        for program in uses {
            let declared =
                program.tensors.iter().zip(program.used_tensors()).zip(program.matrices());
            for ((decl, used), is_matrix) in declared {
                let known = matrices.contains_key(&decl.name) || vectors.contains_key(&decl.name);
                if known || !used {
                    continue;
                }
                let host = tensor(decl)?;
                let expected = [decl.experts, decl.rows, decl.cols].map(|n| n as usize);
                if [host.experts, host.rows, host.cols] != expected {
                    return Err(Error::model(
                        &decl.name,
                        format!("is {host:?}, the model needs {expected:?}"),
                    ));
                }
                if is_matrix {
                    let named = |e: Error| Error::model(&decl.name, e.to_string());
                    let mut layout = Layout::new(isa, host.dtype, expected).map_err(named)?;
                    if by_columns.contains(decl.name.as_str()) && pays_by_columns(host.dtype) {
                        layout = layout.by_columns();
                    }
                    let packed = match host.form() {
                        Some(_) => Packed::kept(layout, host).map_err(named)?,
                        None => pack(layout, pool, &host)?,
                    };
                    matrices.insert(decl.name.clone(), Arc::new(packed));
                } else {
                    let mut values = vec![0.0; host.elements()];
                    quant::dequantize(host.dtype, host.bytes(), &mut values)
                        .map_err(|e| Error::model(&decl.name, e.to_string()))?;
                    vectors.insert(decl.name.clone(), values.into());
                }
            }
        }
        Ok(Weights(Arc::new(Inner { matrices, vectors, derived: Mutex::default() })))
    }

    /// A packed matrix.
    pub(crate) fn matrix(&self, name: &str) -> Result<Arc<Packed>> {
        self.0.matrices.get(name).cloned().ok_or_else(|| missing(name))
    }

    /// The bytes of a packed matrix.
    pub(crate) fn packed(&self, name: &str) -> Option<&[u8]> {
        self.0.matrices.get(name).map(|m| m.bytes())
    }

    /// The values of a vector as stored.
    pub(crate) fn values(&self, name: &str) -> Result<&[f32]> {
        self.0.vectors.get(name).map(|v| &**v).ok_or_else(|| missing(name))
    }

    /// A vector with `offset` added to every value. The address lives as long as the weights.
    pub(crate) fn vector(&self, name: &str, offset: f32) -> Result<*const f32> {
        let values = self.values(name)?;
        if offset == 0.0 {
            return Ok(values.as_ptr());
        }
        Ok(self
            .derive(format!("{name} + {offset}"), || values.iter().map(|v| v + offset).collect()))
    }

    /// Vectors one after the other, or such a row for each expert; null when there are none.
    pub(crate) fn stacked(&self, program: &Program, parts: &[Tensor]) -> Result<*const f32> {
        let decls: Vec<&TensorDecl> = parts.iter().map(|&t| program.decl(t)).collect();
        match decls[..] {
            [] => Ok(std::ptr::null()),
            [one] => self.vector(&one.name, 0.0),
            [first, ..] => {
                let values = |d: &&TensorDecl| Ok((self.values(&d.name)?, d.cols as usize));
                let parts: Vec<(&[f32], usize)> =
                    decls.iter().map(values).collect::<Result<_>>()?;
                let names: Vec<&str> = decls.iter().map(|d| d.name.as_str()).collect();
                let row = |r: usize| parts.iter().map(move |&(v, n)| &v[r * n..(r + 1) * n]);
                let rows = || (0..first.rows as usize).flat_map(row).flatten().copied().collect();
                Ok(self.derive(names.join(" | "), rows))
            }
        }
    }

    /// A vector computed from others, once. Entries are never removed or changed, so a boxed
    /// slice keeps its address for the life of the weights.
    fn derive(&self, key: String, values: impl FnOnce() -> Vec<f32>) -> *const f32 {
        let mut derived = self.0.derived.lock().unwrap_or_else(PoisonError::into_inner);
        derived.entry(key).or_insert_with(|| values().into()).as_ptr()
    }
}

/// Names of the matrices that meet mostly zeros in every program that uses them.
fn by_columns<'a>(uses: &[&'a Program]) -> HashSet<&'a str> {
    let all = |wanted: bool| {
        let marks = uses.iter().map(|p| (p, p.meets_zeros(), p.used_tensors()));
        let named = marks.flat_map(|(p, meets, used)| {
            let marks = p.tensors.iter().zip(meets).zip(used);
            marks
                .filter(|((_, meets), used)| *used && *meets == wanted)
                .map(|m| m.0.0.name.as_str())
        });
        named.collect::<HashSet<_>>()
    };
    let other = all(false);
    all(true).into_iter().filter(|name| !other.contains(name)).collect()
}

/// Whether weights of a format that meet zeros are read faster by columns: those of a byte or more. The
/// columns of four bits are short, and lines that do not follow each other come slowly: with half of the
/// activations zero, as with random weights, they take a fifth longer than by rows, and gain only
/// from two thirds on; whole bytes are even there, and gain from then on.
fn pays_by_columns(dtype: DType) -> bool {
    dtype.bytes(256).is_some_and(|bytes| bytes >= 256)
}

fn missing(name: &str) -> Error {
    Error::Runtime(format!("the weight {name} was not loaded"))
}

/// Packs one tensor with the whole team.
fn pack(layout: Layout, pool: &mut Pool, host: &HostTensor) -> Result<Packed> {
    let named = |e: Error| Error::model(&host.name, e.to_string());
    let mut packed = Packed::zeroed(layout.clone())?;
    let bytes = layout.part_bytes();
    let parts = layout.experts() * layout.parts();
    struct Out(*mut u8);
    // SAFETY: members write disjoint parts of the one buffer they are given.
    unsafe impl Sync for Out {}
    let out = Out(packed.bytes_mut().as_mut_ptr());
    let failed = Mutex::new(None);
    pool.run(|team| {
        let out = &out;
        team.each(parts, if layout.granule().is_some() { 1 } else { 4 }, |range| {
            // SAFETY: the parts of the range are this member's, within the buffer.
            let to = unsafe {
                let at = out.0.add(range.start * bytes);
                std::slice::from_raw_parts_mut(at, range.len() * bytes)
            };
            if let Err(e) = layout.pack_parts(host, range, to) {
                *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
            }
        });
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(e) => Err(named(e)),
        None => Ok(packed),
    }
}
