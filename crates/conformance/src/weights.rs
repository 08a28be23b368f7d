//! Random weights for a program.
//!
//! What a tensor is for shows in the first letters of its name: `norm` (around one), `bias`,
//! `sinks`, `factors` (frequency divisors, one to four), `schedule` (cumulative alphas), `table` (rows of order one); anything else
//! is a matrix whose products with rows of order one are of order one. Only matrices and tables are
//! stored in the format asked for, as random codes where it has no quantizer.

use crate::random::Random;
use gristmill_core::{DType, Error, HostTensor, Result, quant};
use gristmill_ir::{Program, TensorDecl};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// The tensors of a program by name.
///
/// Random ones are made when the first of them is asked for: some formats take long to quantize,
/// and of a suite only a part may run.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    /// How each is stored.
    dtypes: HashMap<String, DType>,
    /// What those that are not made yet are made for, and from which seed.
    random: (Vec<TensorDecl>, u64),
    /// Those that were replaced.
    replaced: HashMap<String, HostTensor>,
    tensors: OnceLock<HashMap<String, HostTensor>>,
}

impl FromIterator<HostTensor> for Weights {
    fn from_iter<I: IntoIterator<Item = HostTensor>>(tensors: I) -> Weights {
        let tensors: HashMap<_, _> = tensors.into_iter().map(|t| (t.name.clone(), t)).collect();
        let dtypes = tensors.values().map(|t| (t.name.clone(), t.dtype)).collect();
        Weights { dtypes, tensors: tensors.into(), ..Weights::default() }
    }
}

/// Whether a tensor is a matrix or a table, and not one of the vectors that have a meaning.
fn is_matrix(name: &str) -> bool {
    !["norm", "factors", "bias", "sinks"].iter().any(|prefix| name.starts_with(prefix))
}

impl Weights {
    /// Random weights; `format` says how a matrix or table is stored, by its name.
    pub fn random(p: &Program, seed: u64, format: impl Fn(&str) -> DType) -> Weights {
        let dtype = |d: &TensorDecl| match is_matrix(&d.name) {
            true => format(&d.name),
            false => DType::F32,
        };
        let dtypes = p.tensors.iter().map(|d| (d.name.clone(), dtype(d))).collect();
        Weights { dtypes, random: (p.tensors.clone(), seed), ..Weights::default() }
    }

    fn make(&self) -> HashMap<String, HostTensor> {
        let (decls, seed) = &self.random;
        let mut random = Random::new(*seed);
        let tensors = decls.iter().map(|decl| {
            let is = |prefix: &str| decl.name.starts_with(prefix);
            let n = (decl.experts * decl.rows * decl.cols) as usize;
            let (mut values, dtype) = (random.normals(n), self.dtypes[&decl.name]);
            if is("norm") {
                values.iter_mut().for_each(|v| *v = 1.0 + 0.2 * *v);
            } else if is("factors") {
                values.iter_mut().for_each(|v| *v = 1.0 + v.abs().min(3.0));
            } else if is("schedule") {
                // The square root schedule (Li et al. 2022, "Diffusion-LM").
                let alpha = |t: usize| 1.0 - (t as f64 / n as f64 + 1e-4).sqrt();
                values = (0..n).map(|t| alpha(t) as f32).collect();
            } else if is("bias") {
                values.iter_mut().for_each(|v| *v *= 0.5);
            } else if is_matrix(&decl.name) {
                let scale = if is("table") { 1.0 } else { 1.0 / (decl.cols as f32).sqrt() };
                values.iter_mut().for_each(|v| *v *= scale);
            }
            let host = if dtype.block_len() > 1 && !quant::has_quantizer(dtype) {
                let rms = (values.iter().map(|v| v * v).sum::<f32>() / n.max(1) as f32).sqrt();
                let bytes = quant::sample(dtype, n, rms, &mut || random.bits());
                tensor(decl, dtype, bytes.expect("a block format that is implemented"))
            } else {
                stored(decl, dtype, &values)
            };
            (decl.name.clone(), host)
        });
        tensors.collect()
    }

    fn tensors(&self) -> &HashMap<String, HostTensor> {
        self.tensors.get_or_init(|| self.make())
    }

    /// The tensor of a declaration, as [`gristmill_ir::Backend::load`] asks for it.
    ///
    /// # Errors
    /// [`Error::Model`] when there is none of that name.
    pub fn tensor(&self, decl: &TensorDecl) -> Result<HostTensor> {
        let found = match self.replaced.get(&decl.name) {
            Some(tensor) => Some(tensor.clone()),
            None => self.tensors().get(&decl.name).cloned(),
        };
        found.ok_or_else(|| Error::model("test weights", format!("no tensor {}", decl.name)))
    }

    /// How a tensor is stored.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        let replaced = self.replaced.get(name).map(|t| t.dtype);
        replaced.or_else(|| self.dtypes.get(name).copied())
    }

    /// Every format in it.
    pub fn dtypes(&self) -> impl Iterator<Item = DType> {
        self.dtypes.keys().filter_map(|name| self.dtype(name))
    }

    /// Replaces a tensor by these values in f32.
    pub fn set(&mut self, decl: &TensorDecl, values: &[f32]) {
        self.replaced.insert(decl.name.clone(), stored(decl, DType::F32, values));
    }

    /// The values of a tensor, as stored.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn values(&self, decl: &TensorDecl) -> Result<Vec<f64>> {
        let host = self.tensor(decl)?;
        let mut values = vec![0.0; host.elements()];
        quant::dequantize(host.dtype, host.bytes(), &mut values)?;
        Ok(values.into_iter().map(f64::from).collect())
    }
}

fn stored(decl: &TensorDecl, dtype: DType, values: &[f32]) -> HostTensor {
    tensor(decl, dtype, quant::quantize(dtype, values).expect("a test's shapes fit its formats"))
}

fn tensor(decl: &TensorDecl, dtype: DType, bytes: Vec<u8>) -> HostTensor {
    let (shape, end) = ([decl.experts, decl.rows, decl.cols].map(|n| n as usize), bytes.len());
    HostTensor::new(&decl.name, dtype, shape, Arc::new(bytes), 0..end)
        .expect("rows are whole blocks")
}
