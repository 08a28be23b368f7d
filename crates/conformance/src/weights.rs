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
use std::sync::Arc;

/// The tensors of a program by name.
#[derive(Clone, Debug, Default)]
pub struct Weights(HashMap<String, HostTensor>);

impl FromIterator<HostTensor> for Weights {
    fn from_iter<I: IntoIterator<Item = HostTensor>>(tensors: I) -> Weights {
        Weights(tensors.into_iter().map(|t| (t.name.clone(), t)).collect())
    }
}

impl Weights {
    /// Random weights; `format` says how a matrix or table is stored, by its name.
    pub fn random(p: &Program, seed: u64, format: impl Fn(&str) -> DType) -> Weights {
        let mut random = Random::new(seed);
        let tensors = p.tensors.iter().map(|decl| {
            let is = |prefix: &str| decl.name.starts_with(prefix);
            let n = (decl.experts * decl.rows * decl.cols) as usize;
            let (mut values, mut dtype) = (random.normals(n), DType::F32);
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
            } else if !is("sinks") {
                dtype = format(&decl.name);
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
        Weights(tensors.collect())
    }

    /// The tensor of a declaration, as [`gristmill_ir::Backend::load`] asks for it.
    ///
    /// # Errors
    /// [`Error::Model`] when there is none of that name.
    pub fn tensor(&self, decl: &TensorDecl) -> Result<HostTensor> {
        let found = self.0.get(&decl.name).cloned();
        found.ok_or_else(|| Error::model("test weights", format!("no tensor {}", decl.name)))
    }

    /// How a tensor is stored.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        self.0.get(name).map(|t| t.dtype)
    }

    /// Every format in it.
    pub fn dtypes(&self) -> impl Iterator<Item = DType> {
        self.0.values().map(|t| t.dtype)
    }

    /// Replaces a tensor by these values in f32.
    pub fn set(&mut self, decl: &TensorDecl, values: &[f32]) {
        self.0.insert(decl.name.clone(), stored(decl, DType::F32, values));
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
