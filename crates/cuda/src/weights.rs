//! Weights on the device: matrices in planes, vectors as f32.

use crate::driver::Launch;
use crate::driver::memory::{Buffer, Gpu, Pinned};
use crate::format::{Format, Repack};
use crate::plan::arguments::{Args, Resource};
use gristmill_core::{DType, Error, HostTensor, Result, quant};
use gristmill_ir::{Program, Tensor, TensorDecl};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shared by every program and plan of a model.
#[derive(Clone)]
pub struct Weights(Arc<Inner>);

struct Inner {
    gpu: Arc<Gpu>,
    matrices: HashMap<String, Arc<Matrix>>,
    /// As stored, on the host: what plans ask for is derived from them.
    vectors: HashMap<String, Box<[f32]>>,
    derived: Mutex<HashMap<String, Buffer>>,
}

/// A stack of matrices.
pub(crate) struct Matrix {
    pub format: Format,
    pub rows: usize,
    pub cols: usize,
    buffer: Buffer,
    /// Where planes begin: codes, their upper bits, what units have, scales, zeros.
    planes: [Option<u64>; 5],
    grid: Option<Buffer>,
}

impl Matrix {
    /// Units of 32 elements of a row, the last one filled up.
    pub fn units(&self) -> usize {
        self.cols.div_ceil(32)
    }

    /// `Weight` of `planes.h`.
    pub fn push(&self, mut a: Args) -> Args {
        for plane in self.planes {
            a = match plane {
                Some(at) => a.ptr(Resource::Held(self.buffer.clone(), at)),
                None => a.ptr(Resource::None),
            };
        }
        let grid = self.grid.as_ref().map_or(Resource::None, |g| Resource::Held(g.clone(), 0));
        a.ptr(grid)
            .u(self.units() as u32)
            .u(self.format.shift())
            .u(self.format.scales as u32)
            .u(self.format.zero as u32)
            .u(self.format.table)
            .u(0)
    }
}

pub(crate) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Weights {
    /// Uploads all that `uses` name; see [`gristmill_ir::Backend::load`].
    pub(crate) fn load(
        gpu: &Arc<Gpu>,
        uses: &[&Program],
        tensor: &mut dyn FnMut(&TensorDecl) -> Result<HostTensor>,
    ) -> Result<Weights> {
        let (mut matrices, mut vectors) = (HashMap::new(), HashMap::new());
        let mut stage = Stage::new(gpu)?;
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
                    let matrix = stage.upload(&host).map_err(named)?;
                    matrices.insert(decl.name.clone(), Arc::new(matrix));
                } else {
                    let mut values = vec![0.0; host.elements()];
                    quant::dequantize(host.dtype, host.bytes(), &mut values).map_err(named)?;
                    vectors.insert(decl.name.clone(), values.into());
                }
            }
        }
        gpu.driver.wait_all()?;
        let derived = Mutex::default();
        Ok(Weights(Arc::new(Inner { gpu: gpu.clone(), matrices, vectors, derived })))
    }

    pub(crate) fn matrix(&self, name: &str) -> Result<Arc<Matrix>> {
        self.0.matrices.get(name).cloned().ok_or_else(|| missing(name))
    }

    /// The values of a vector as stored.
    pub(crate) fn values(&self, name: &str) -> Result<&[f32]> {
        self.0.vectors.get(name).map(|v| &**v).ok_or_else(|| missing(name))
    }

    /// Vectors one after the other, or such a row for each expert, and the length of a row.
    pub(crate) fn stacked(&self, program: &Program, parts: &[Tensor]) -> Result<(Resource, u32)> {
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

    /// A vector computed from others, once.
    pub(crate) fn derive(
        &self,
        key: String,
        values: impl FnOnce() -> Vec<f32>,
    ) -> Result<Resource> {
        if let Some(known) = lock(&self.0.derived).get(&key) {
            return Ok(Resource::Held(known.clone(), 0));
        }
        let made = self.0.gpu.filled(&key, bytemuck::cast_slice(&values()))?;
        lock(&self.0.derived).insert(key, made.clone());
        Ok(Resource::Held(made, 0))
    }
}

fn missing(name: &str) -> Error {
    Error::Runtime(format!("the weight {name} was not loaded"))
}

/// Bytes that are on their way at a time.
const STAGED: usize = 8 << 20;

/// Two pieces of host memory and of the device's that weights pass through in turns: one is filled
/// while the other is copied and repacked.
struct Stage {
    gpu: Arc<Gpu>,
    halves: [(Pinned, Buffer, u64); 2],
    turn: usize,
    grids: HashMap<&'static str, Buffer>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.gpu.driver.wait_all();
        self.halves.iter().for_each(|h| self.gpu.driver.forget_event(h.2));
    }
}

impl Stage {
    fn new(gpu: &Arc<Gpu>) -> Result<Stage> {
        let half = || -> Result<_> {
            let event = gpu.driver.event()?;
            gpu.driver.record(event)?;
            Ok((gpu.pinned(STAGED)?, gpu.buffer("weights on their way", STAGED as u64)?, event))
        };
        let grids = HashMap::new();
        Ok(Stage { gpu: gpu.clone(), halves: [half()?, half()?], turn: 0, grids })
    }

    fn upload(&mut self, host: &HostTensor) -> Result<Matrix> {
        let Some(format) = Format::of(host.dtype) else {
            return Err(Error::Device(format!("is in {}, which does not run on CUDA", host.dtype)));
        };
        let rows = host.experts * host.rows;
        let units = rows * host.cols.div_ceil(32);
        let blocks = units >> format.shift();
        let [low, high] = format.code_bytes();
        let integers = format.is_integers();
        let sub = if format.scales.has_sub() { 2 * units } else { 0 };
        let scale = if integers { blocks * format.scales.bytes() } else { 0 };
        let zeros = if format.zeros { blocks } else { 0 };
        let sizes = [units * low, units * high, sub, scale, zeros];
        let mut planes = [None; 5];
        let mut bytes = 0u64;
        for (plane, size) in planes.iter_mut().zip(sizes) {
            if size > 0 {
                *plane = Some(bytes);
                bytes += (size as u64).next_multiple_of(256);
            }
        }
        let buffer = self.gpu.buffer("a weight", bytes)?;
        let grid = match format.grid() {
            Some(points) if !self.grids.contains_key(format.class) => {
                let made = self.gpu.filled("a table of points", bytemuck::cast_slice(points))?;
                self.grids.insert(format.class, made.clone());
                Some(made)
            }
            Some(_) => self.grids.get(format.class).cloned(),
            None => None,
        };
        let (rows, cols) = (host.rows, host.cols);
        let matrix = Matrix { format, rows, cols, buffer, planes, grid };
        self.fill(&matrix, host)?;
        Ok(matrix)
    }

    /// Sends a tensor piece by piece, each whole blocks or, of plain numbers, whole rows.
    fn fill(&mut self, m: &Matrix, host: &HostTensor) -> Result<()> {
        let f = &m.format;
        let each = match f.repack {
            Repack::Rows(_) => host.row_bytes(),
            _ => f.dtype.block_bytes(),
        };
        let at_a_time = STAGED / each.max(1);
        if at_a_time == 0 {
            return Err(Error::Memory(format!("a row takes {each} bytes")));
        }
        for (piece, bytes) in host.bytes().chunks(at_a_time * each.max(1)).enumerate() {
            let first = (piece * at_a_time) as u64;
            let n = (bytes.len() / each) as u64;
            let (pinned, staged, event) = &mut self.halves[self.turn];
            self.turn = 1 - self.turn;
            self.gpu.driver.wait(*event)?;
            pinned.get_mut()[..bytes.len()].copy_from_slice(bytes);
            self.gpu.upload(staged, 0, pinned, 0, bytes.len())?;
            let (kernel, first, threads, block, shift) = match f.repack {
                Repack::Units(name, _) => {
                    let units = 1u64 << f.shift();
                    (format!("repack_{name}"), first * units, n * units, each as u32, f.shift())
                }
                Repack::Words(words) => {
                    ("repack_words".into(), first, n * u64::from(words), each as u32, words)
                }
                Repack::Rows(size) => {
                    let halves = m.units() as u32 * 16 * size;
                    ("repack_rows".into(), first, n * u64::from(halves), each as u32, halves)
                }
            };
            let mut a = Args::new().ptr(Resource::Held(staged.clone(), 0));
            for plane in m.planes {
                a = a.ptr(plane.map_or(Resource::None, |at| Resource::Held(m.buffer.clone(), at)));
            }
            let a = a.long(first).long(threads).u(block).u(f.body).u(f.scale_at).u(shift);
            let params = a.encode(&|_| 0);
            let kernel = self.gpu.driver.kernel(&kernel)?;
            let grid = [threads.div_ceil(128) as u32, 1, 1];
            self.gpu.launch(&Launch { kernel, grid, threads: 128, shared: 0, params: &params })?;
            self.gpu.driver.record(*event)?;
        }
        Ok(())
    }
}

/// Whether a format's matrices run here.
pub(crate) fn runs(dtype: DType) -> bool {
    Format::of(dtype).is_some() && quant::is_supported(dtype)
}
