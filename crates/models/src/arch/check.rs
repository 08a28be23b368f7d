//! Whether a file holds the weights that a program names.

use crate::Gguf;
use crate::gguf::TensorInfo;
use gristmill_core::quant::is_supported;
use gristmill_core::{HostTensor, Result};
use gristmill_ir::{Program, TensorDecl};

/// Checks that the file has every tensor of the program, in its shape and in a format that is
/// implemented. Returns the names of the tensors of the file that the program does not use.
///
/// # Errors
/// [`gristmill_core::Error::Model`] that lists every tensor that does not fit.
pub fn check_tensors(program: &Program, gguf: &Gguf) -> Result<Vec<String>> {
    let wrong: Vec<String> =
        program.tensors.iter().filter_map(|decl| problem(decl, gguf)).collect();
    if !wrong.is_empty() {
        return Err(gguf.error(format!(
            "{} of the {} tensors of architecture '{}' do not fit:\n  {}",
            wrong.len(),
            program.tensors.len(),
            program.name,
            wrong.join("\n  ")
        )));
    }
    Ok(unused(program, gguf))
}

/// The tensors of the file that the program does not name.
fn unused(program: &Program, gguf: &Gguf) -> Vec<String> {
    let used: std::collections::HashSet<&str> =
        program.tensors.iter().map(|d| d.name.as_str()).collect();
    let names = gguf.tensors().map(|t| t.name);
    names.filter(|n| !used.contains(n.as_ref())).map(Into::into).collect()
}

/// The tensor of a declaration, in the declaration's shape.
///
/// # Errors
/// [`gristmill_core::Error::Model`] when the file has no such tensor or it does not fit.
pub fn tensor(decl: &TensorDecl, gguf: &Gguf) -> Result<HostTensor> {
    match problem(decl, gguf) {
        Some(what) => Err(gguf.error(what)),
        None => gguf.tensor_as(&decl.name, shape(decl)),
    }
}

fn shape(decl: &TensorDecl) -> [usize; 3] {
    [decl.experts, decl.rows, decl.cols].map(|n| n as usize)
}

fn problem(decl: &TensorDecl, gguf: &Gguf) -> Option<String> {
    let name = &decl.name;
    let Some(info) = gguf.tensor_info(name) else {
        return Some(format!("tensor '{name}' is missing"));
    };
    if !is_supported(info.dtype) {
        let dtype = info.dtype;
        return Some(format!("tensor '{name}' is of type {dtype}, which is not implemented"));
    }
    let [experts, rows, cols] = shape(decl);
    (!fits(&info, [cols, rows, experts])).then(|| {
        let got = &info.shape[..info.n_dims];
        format!("tensor '{name}' has shape {got:?}, not {:?}", trimmed(&[cols, rows, experts]))
    })
}

/// Whether the dimensions agree, whatever ones stand between them; those of a vector may be any
/// that hold as many elements.
fn fits(info: &TensorInfo<'_>, wanted: [usize; 3]) -> bool {
    let [cols, rows, experts] = wanted;
    if (rows, experts) == (1, 1) {
        return info.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) == Some(cols);
    }
    let squeezed = |dims: &[usize]| dims.iter().copied().filter(|&d| d != 1).collect::<Vec<_>>();
    info.shape[0] == cols && squeezed(&info.shape[1..]) == squeezed(&wanted[1..])
}

/// Without the ones at the slow end.
fn trimmed(dims: &[usize]) -> &[usize] {
    let n = dims.iter().rposition(|&d| d != 1).map_or(1, |i| i + 1);
    &dims[..n]
}
