//! Weights on the device: matrices as they are stored, in planes of words, cut into pieces that a kernel
//! can see; vectors as f32.

use crate::format::Format;
use crate::gpu::{Gpu, lock, mib};
use gristmill_core::{DType, Error, HostTensor, Result, quant};
use gristmill_ir::{Program, Tensor, TensorDecl};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use wgpu::{Buffer, BufferUsages, Features};

/// Shared by every program and plan of a model.
#[derive(Clone)]
pub struct Weights(Arc<Inner>);

struct Inner {
    gpu: Arc<Gpu>,
    matrices: HashMap<String, Arc<Matrix>>,
    /// As stored, on the host: what plans ask for is derived from them.
    vectors: HashMap<String, Box<[f32]>>,
    derived: Mutex<HashMap<String, Buffer>>,
    grids: Mutex<Vec<(DType, Buffer)>>,
}

/// A stack of matrices.
pub(crate) struct Matrix {
    pub format: Format,
    pub rows: usize,
    pub cols: usize,
    pub pieces: Vec<Piece>,
}

/// Some rows of a stack, in one buffer: the bodies of their blocks, their scales, their zeros.
pub(crate) struct Piece {
    pub buffer: Buffer,
    /// The first row, counted through all matrices of the stack.
    pub first: usize,
    pub rows: usize,
    /// Where scales and zeros begin, in words.
    pub scales_at: usize,
    pub zeros_at: usize,
}

impl Matrix {
    /// Units of 32 elements of a row, the last one filled up; whole blocks.
    pub fn units(&self) -> usize {
        self.cols.div_ceil(self.format.block) * self.format.units()
    }
}

impl Weights {
    /// Uploads all that `uses` name; see [`gristmill_ir::Backend::load`].
    pub(crate) fn load(
        gpu: &Arc<Gpu>,
        uses: &[&Program],
        tensor: &mut dyn FnMut(&TensorDecl) -> Result<HostTensor>,
    ) -> Result<Weights> {
        let (mut matrices, mut vectors) = (HashMap::new(), HashMap::new());
        let mut staged = 0;
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
                    let what = format!("is {host:?}, the model needs {expected:?}");
                    return Err(Error::model(&decl.name, what));
                }
                let named = |e: Error| match e {
                    Error::Memory(what) => Error::Memory(format!("{}: {what}", decl.name)),
                    e => Error::model(&decl.name, e.to_string()),
                };
                if is_matrix {
                    staged += host.bytes().len();
                    if staged > STAGED {
                        give_back_staged(gpu)?;
                        staged = 0;
                    }
                    let matrix = upload(gpu, &host).map_err(named)?;
                    matrices.insert(decl.name.clone(), Arc::new(matrix));
                } else {
                    let mut values = vec![0.0; host.elements()];
                    quant::dequantize(host.dtype, host.bytes(), &mut values).map_err(named)?;
                    vectors.insert(decl.name.clone(), values.into());
                }
            }
        }
        give_back_staged(gpu)?;
        let (derived, grids) = (Mutex::default(), Mutex::default());
        Ok(Weights(Arc::new(Inner { gpu: gpu.clone(), matrices, vectors, derived, grids })))
    }

    pub(crate) fn matrix(&self, name: &str) -> Result<Arc<Matrix>> {
        self.0.matrices.get(name).cloned().ok_or_else(|| missing(name))
    }

    /// The values of a vector as stored.
    pub(crate) fn values(&self, name: &str) -> Result<&[f32]> {
        self.0.vectors.get(name).map(|v| &**v).ok_or_else(|| missing(name))
    }

    /// Vectors one after the other, or such a row for each expert, and the length of a row.
    pub(crate) fn stacked(&self, program: &Program, parts: &[Tensor]) -> Result<(Buffer, u32)> {
        let decls: Vec<&TensorDecl> = parts.iter().map(|&t| program.decl(t)).collect();
        let length = decls.iter().map(|d| d.cols).sum();
        let values = |d: &&TensorDecl| Ok((self.values(&d.name)?, d.cols as usize));
        let parts: Vec<(&[f32], usize)> = decls.iter().map(values).collect::<Result<_>>()?;
        let names: Vec<&str> = decls.iter().map(|d| d.name.as_str()).collect();
        let rows = decls.first().map_or(0, |d| d.rows as usize);
        let row = |r: usize| parts.iter().map(move |&(v, n)| &v[r * n..(r + 1) * n]);
        let all = || (0..rows).flat_map(row).flatten().copied().collect();
        Ok((self.derive(names.join(" | "), all)?, length))
    }

    /// Numbers computed from vectors, once.
    pub(crate) fn derive<T: bytemuck::NoUninit>(
        &self,
        key: String,
        values: impl FnOnce() -> Vec<T>,
    ) -> Result<Buffer> {
        if let Some(known) = lock(&self.0.derived).get(&key) {
            return Ok(known.clone());
        }
        let values = values();
        let made = self.0.gpu.filled(&key, bytemuck::cast_slice(&values), BufferUsages::STORAGE)?;
        lock(&self.0.derived).insert(key, made.clone());
        Ok(made)
    }

    /// The points of a format that looks them up.
    pub(crate) fn grid(&self, format: &Format) -> Result<Option<Buffer>> {
        let Some(points) = format.grid() else { return Ok(None) };
        let mut grids = lock(&self.0.grids);
        if let Some(known) = grids.iter().find(|g| g.0 == format.dtype) {
            return Ok(Some(known.1.clone()));
        }
        let bytes = bytemuck::cast_slice(points);
        let made = self.0.gpu.filled("a table of points", bytes, BufferUsages::STORAGE)?;
        grids.push((format.dtype, made.clone()));
        Ok(Some(made))
    }
}

/// Bytes on their way to a device with memory of its own before it is waited for.
const STAGED: usize = 64 << 20;

/// What was staged for uploading is given back only by a submission.
fn give_back_staged(gpu: &Gpu) -> Result<()> {
    gpu.queue.submit([]);
    gpu.wait()
}

fn missing(name: &str) -> Error {
    Error::Runtime(format!("the weight {name} was not loaded"))
}

/// Cuts a stack of matrices into pieces and fills them, block after block, straight into memory of the
/// device where it is mapped.
fn upload(gpu: &Gpu, host: &HostTensor) -> Result<Matrix> {
    let Some(format) = Format::of(host.dtype) else {
        return Err(Error::Device(format!("is in {}, which does not run on wgpu", host.dtype)));
    };
    let all_rows = host.experts * host.rows;
    let blocks = host.cols.div_ceil(format.block);
    let zero_bytes = usize::from(format.zero.is_some());
    let row_bytes = blocks * (format.body.len() + format.scale.len() + zero_bytes);
    let most = gpu.largest_piece;
    // Planes end at whole words.
    let fitting = (most.saturating_sub(64) as usize / row_bytes.max(1)).min(all_rows);
    if fitting == 0 {
        return Err(Error::Memory(format!(
            "a row needs {}, and {} allows {} in one piece",
            mib(row_bytes as u64),
            gpu.name,
            mib(most)
        )));
    }
    // Whole groups of rows, as kernels take them, where there are some.
    let fitting = if (64..all_rows).contains(&fitting) { fitting / 64 * 64 } else { fitting };
    let mut pieces = vec![];
    for first in (0..all_rows).step_by(fitting) {
        let rows = fitting.min(all_rows - first);
        pieces.push(piece(gpu, host, &format, first, rows)?);
    }
    Ok(Matrix { format, rows: host.rows, cols: host.cols, pieces })
}

fn piece(
    gpu: &Gpu,
    host: &HostTensor,
    format: &Format,
    first: usize,
    rows: usize,
) -> Result<Piece> {
    let blocks = host.cols.div_ceil(format.block);
    let (body, scale) = (format.body.len(), format.scale.len());
    let words = |bytes: usize| bytes.div_ceil(4);
    let scales_at = words(rows * blocks * body);
    let zeros_at = scales_at + words(rows * blocks * scale);
    let zeros = if format.zero.is_some() { rows * blocks } else { 0 };
    let total = zeros_at + words(zeros);
    // Where memory is shared the buffer itself is mapped, else a staging one.
    let direct = gpu.features.contains(Features::MAPPABLE_PRIMARY_BUFFERS);
    let mapped = if direct { BufferUsages::MAP_WRITE } else { BufferUsages::empty() };
    let usage = BufferUsages::STORAGE | mapped;
    let buffer = gpu.mapped_buffer("a weight", 4 * total as u64, usage)?;
    {
        let view = buffer.get_mapped_range_mut(..);
        let mut view = view.map_err(|e| Error::Runtime(format!("a mapped buffer: {e}")))?;
        let row_bytes = host.row_bytes();
        // So many rows at a time that what is staged stays in a cache.
        let step = (32 * 1024 / row_bytes.max(1)).max(1);
        let mut staged = [vec![], vec![], vec![]];
        for from in (0..rows).step_by(step) {
            let n = step.min(rows - from);
            let bytes = &host.bytes()[(first + from) * row_bytes..][..n * row_bytes];
            staged.iter_mut().for_each(Vec::clear);
            let [bodies, scales, zeros] = &mut staged;
            if format.is_integers() {
                for block in bytes.chunks_exact(format.bytes) {
                    bodies.extend_from_slice(&block[format.body.clone()]);
                    scales.extend_from_slice(&block[format.scale.clone()]);
                    zeros.extend(format.zero.map(|z| block[z]));
                }
            } else {
                for row in bytes.chunks_exact(row_bytes.max(1)) {
                    bodies.extend_from_slice(row);
                    bodies.resize(bodies.len().next_multiple_of(body), 0);
                }
            }
            for (plane, at, each) in [
                (&*bodies, 0, body),
                (&*scales, 4 * scales_at, scale),
                (&*zeros, 4 * zeros_at, usize::from(format.zero.is_some())),
            ] {
                let at = at + from * blocks * each;
                view.slice(at..at + plane.len()).copy_from_slice(plane);
            }
        }
    }
    buffer.unmap();
    Ok(Piece { buffer, first, rows, scales_at, zeros_at })
}
