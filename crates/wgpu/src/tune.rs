//! Shapes of workgroups and tiles, and which of them an adapter likes best: those of the kernels of
//! matrix products, in which nearly all of the time goes.

use crate::adapter::Adapter;
use crate::backend::{Wgpu, WgpuOptions};
use gristmill_core::{DType, Error, HostTensor, Result};
use gristmill_ir::{
    Act, Activations, Backend, Batch, Input, Layout, Op, Options, Output, Program, Results, Size,
    TensorDecl, Token,
};
use std::fmt::{Display, Formatter};
use std::str::FromStr;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

/// Shapes of the kernels of matrix products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shapes {
    /// Rows of weights that a workgroup reads for one row of activations.
    pub rows: u32,
    /// Its threads, a power of two.
    pub threads: u32,
    /// Outputs of a tile for many rows of activations, a multiple of 16.
    pub tile_rows: u32,
    /// Rows of activations of a tile, a multiple of 16.
    pub tile_tokens: u32,
    /// Whether kernels written in the adapter's own language are taken, where there are some: on Metal.
    pub written: bool,
    /// Outputs of a tile, and its rows of activations, on units that multiply matrices of f16, multiples
    /// of 32; 0 leaves them alone.
    pub units: [u32; 2],
}

/// Good anywhere.
pub(crate) const DEFAULT: Shapes =
    Shapes { rows: 4, threads: 64, tile_rows: 64, tile_tokens: 32, written: false, units: [0; 2] };
/// Threads of a tile.
pub(crate) const TILE_THREADS: u32 = 256;

impl Default for Shapes {
    fn default() -> Self {
        DEFAULT
    }
}

impl Shapes {
    /// Whether kernels can have them on a device that offers so much memory to a workgroup, in bytes.
    pub fn fit(&self, memory: u32) -> bool {
        let Shapes { rows, threads, tile_rows, tile_tokens, .. } = *self;
        // A unit of 32 of each row in f32: both sides of a tile lie in a workgroup's memory.
        let tile = [tile_rows, tile_tokens].iter().all(|n| (16..=128).contains(n) && n % 16 == 0)
            && 128 * (tile_rows + tile_tokens) <= memory;
        let vector = (1..=16).contains(&rows)
            && (16..=256).contains(&threads)
            && threads.is_power_of_two()
            && rows <= threads
            && 4 * rows * threads <= memory;
        // Both sides in f16 with rows of 40, and what eight subgroups store.
        let [r, t] = self.units;
        let units = [r, t] == [0; 2]
            || [r, t].iter().all(|n| (32..=128).contains(n) && n % 32 == 0)
                && 80 * (r + t) + 8192 <= memory;
        tile && vector && units
    }

    /// Whether units that multiply matrices are used.
    pub fn cooperates(&self) -> bool {
        self.units != [0; 2]
    }
}

impl Display for Shapes {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Shapes { rows, threads, tile_rows, tile_tokens, written, units: [r, t] } = self;
        write!(f, "{rows} {threads} {tile_rows} {tile_tokens} {} {r} {t}", u32::from(*written))
    }
}

impl FromStr for Shapes {
    type Err = String;

    /// Reads what [`Display`] writes.
    fn from_str(text: &str) -> Result<Shapes, String> {
        let numbers: Vec<u32> = text.split(' ').filter_map(|n| n.parse().ok()).collect();
        match numbers[..] {
            [rows, threads, tile_rows, tile_tokens, written @ 0..=1, r, t]
                if text.split(' ').count() == 7 =>
            {
                let (written, units) = (written == 1, [r, t]);
                Ok(Shapes { rows, threads, tile_rows, tile_tokens, written, units })
            }
            _ => Err(format!("'{text}' is not four sizes, a 0 or 1 and two sizes")),
        }
    }
}

/// What was tried: the shapes, and seconds of the product.
pub type Tried = (Shapes, f64);

/// Outputs and inputs of the matrix that is tried.
const SIZE: [u32; 2] = [2048, 2048];
/// Rows of activations: of a decode, of a prompt, of one in f16.
const ROWS: [u32; 3] = [1, 64, 64];
/// Times each is run, at most.
const TIMES: usize = 12;
/// Seconds after which a shape has been run often enough; one that is slower than that is run once.
const ENOUGH: f64 = 0.25;

/// Tries shapes on an adapter: the best, and what came of each for one row, for many, and for many in f16
/// where units multiply matrices. `progress` is told how many of how many have been tried.
///
/// # Errors
/// Those of the device and of `progress`.
pub fn tune(
    adapter: &Adapter,
    progress: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<(Shapes, [Vec<Tried>; 3])> {
    let memory = adapter.facts().workgroup_memory;
    let vectors = [1, 2, 4, 8]
        .into_iter()
        .flat_map(|rows| [32, 64, 128, 256].map(|threads| Shapes { rows, threads, ..DEFAULT }));
    let ways: &[bool] = if adapter.takes_metal() { &[false, true] } else { &[false] };
    let tiles = ways.iter().flat_map(|&written| {
        [16, 32, 64, 128].into_iter().flat_map(move |tile_rows| {
            [16, 32, 64].map(|tile_tokens| Shapes { tile_rows, tile_tokens, written, ..DEFAULT })
        })
    });
    // Without those units first, in the best shapes found till then.
    let units = adapter.cooperative().into_iter().flat_map(|_| {
        let some = [32, 64, 128].into_iter().flat_map(|r| [32, 64].map(|t| [r, t]));
        [[0; 2]].into_iter().chain(some).map(|units| Shapes { units, ..DEFAULT })
    });
    let fitting = |s: &Shapes| s.fit(memory);
    let kinds: [Vec<Shapes>; 3] = [
        vectors.filter(fitting).collect(),
        tiles.filter(fitting).collect(),
        units.filter(fitting).collect(),
    ];
    let all: usize = kinds.iter().map(Vec::len).sum();
    let mut best = DEFAULT;
    let mut tried = [vec![], vec![], vec![]];
    let mut done = 0;
    for (kind, shapes) in kinds.into_iter().enumerate() {
        for s in shapes {
            progress(done, all)?;
            let s = if kind == 2 { Shapes { units: s.units, ..best } } else { s };
            let seconds = match seconds(adapter, s, kind) {
                // A driver that refuses them does without.
                Err(Error::Device(_)) if s.written || s.cooperates() => f64::INFINITY,
                other => other?,
            };
            tried[kind].push((s, seconds));
            done += 1;
        }
        tried[kind].sort_by(|a, b| a.1.total_cmp(&b.1));
        if let Some((s, _)) = tried[kind].first() {
            match kind {
                0 => (best.rows, best.threads) = (s.rows, s.threads),
                1 => best = Shapes { rows: best.rows, threads: best.threads, ..*s },
                _ => best.units = s.units,
            }
        }
    }
    progress(all, all)?;
    Ok((best, tried))
}

/// The least time of a product of a Q4_K matrix with rows of a kind.
fn seconds(adapter: &Adapter, shapes: Shapes, kind: usize) -> Result<f64> {
    let rows = ROWS[kind];
    let wgpu = Wgpu::new(adapter, WgpuOptions { shapes: Some(shapes), ..Default::default() })?;
    let [outputs, width] = SIZE;
    let mut p = Program::new("tune");
    let x = p.one("x", Op::Read { input: Input::Hidden, width })?;
    let w = p.tensor("w", outputs, width);
    let linear = Op::Linear { x, w, bias: None, act: Act::None, scale: 1.0, softcap: None };
    let y = p.one("y", linear)?;
    p.output(Output::Hidden, y);
    // Zeros take as long as other numbers.
    let bytes = DType::Q4_K.bytes(width as usize).unwrap_or(0) * outputs as usize;
    let zeros: Arc<Vec<u8>> = Arc::new(vec![0; bytes]);
    let mut tensor = |_: &TensorDecl| {
        let shape = [1, outputs as usize, width as usize];
        HostTensor::new("w", DType::Q4_K, shape, zeros.clone(), 0..bytes)
            .ok_or_else(|| Error::Runtime("a matrix of zeros".into()))
    };
    let options = match kind {
        2 => Options { activations: Activations::F32, compute: DType::F16, ..Options::default() },
        _ => Options::default(),
    };
    let weights = wgpu.load(&[&p], &mut tensor, &options)?;
    let max = Size { tokens: rows, seqs: 1, rows: 1, one_token_a_seq: rows == 1 };
    let layout =
        Layout { page_tokens: 32, pages: vec![], host_pages: vec![], slots: 1, max, in_flight: 1 };
    let mut context = wgpu.create(&p.states, &layout)?;
    let plan = wgpu.compile(&p, &weights, &mut context, max, &options)?;
    let tokens = vec![Token::Id(0); rows as usize];
    let positions: Vec<[u32; 3]> = (0..rows).map(|i| [i; 3]).collect();
    let index: Vec<u32> = (0..rows).collect();
    let visible: Vec<[u32; 2]> = (0..rows).map(|i| [0, i + 1]).collect();
    let batch = Batch {
        tokens: &tokens,
        positions: &positions,
        kv_index: &index,
        visible: &visible,
        seq_starts: &[0, rows],
        kv_len: &[rows],
        slots: &[0],
        page_starts: &[0],
        ..Batch::default()
    };
    let (mut least, mut spent) = (f64::INFINITY, 0.0);
    for time in 0..=TIMES {
        if time > 1 && spent > ENOUGH {
            break;
        }
        wgpu.write(&mut context, Input::Hidden, &vec![0.0; (rows * width) as usize])?;
        let start = Instant::now();
        let step = wgpu.launch(&plan, &mut context, &batch)?;
        let mut results = Results::default();
        while !wgpu.finish(&mut context, step, &mut results, Waker::noop())? {
            std::thread::yield_now();
        }
        // The first one binds and compiles.
        if time > 0 {
            let seconds = start.elapsed().as_secs_f64();
            (least, spent) = (least.min(seconds), spent + seconds);
        }
    }
    Ok(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_as_text() {
        assert_eq!(DEFAULT.to_string().parse(), Ok(DEFAULT));
        let wrong =
            ["", "1 2 3 4", "1 2 3 4 0", "1 2 3 4 2 0 0", "a b c d e f g", "4 64 64 32 0 0 0 "];
        for wrong in wrong {
            assert!(wrong.parse::<Shapes>().is_err(), "{wrong}");
        }
        // What WebGPU promises everywhere suffices for these.
        assert!(DEFAULT.fit(16384));
        let of = |text: &str| text.parse::<Shapes>().unwrap();
        for wrong in ["0 64 64 32", "4 65 64 32", "4 64 60 32", "4 64 128 64", "16 512 64 32"] {
            assert!(!of(&format!("{wrong} 0 0 0")).fit(16384), "{wrong}");
        }
        assert!(of("4 64 64 32 0 64 32").fit(16384) && of("4 64 64 32 0 64 32").cooperates());
        for wrong in ["16 32", "32 0", "48 32", "64 64"] {
            assert!(!of(&format!("4 64 64 32 0 {wrong}")).fit(16384), "{wrong}");
        }
    }
}
