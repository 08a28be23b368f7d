//! Matrix products against f64 sums over the reference dequantization, which knows nothing of
//! packing, on every instruction set this machine has.

use gristmill_core::{DType, HostTensor, quant};
use gristmill_cpu::Isa;
use gristmill_cpu::kernels::matmul::{MatmulArgs, MatmulKernel, PrepareArgs, select, select_for};
use gristmill_cpu::pack::{Layout, Packed};
use gristmill_ir::{Activations, Prefill};
use proptest::prelude::*;
use std::sync::Arc;

const DENSE: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
/// Every block format.
fn blocks() -> impl Iterator<Item = DType> {
    DType::all().filter(|&d| d.block_len() > 1 && quant::is_supported(d))
}

struct Random(u64);
impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
    fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }
}

/// Quantized values, or random codes where a format has no quantizer.
fn tensor(dtype: DType, [experts, rows, cols]: [usize; 3], values: &[f32]) -> HostTensor {
    let bytes = quant::quantize(dtype, values).unwrap_or_else(|_| {
        let mut state =
            values.iter().fold(1u64, |h, v| h.wrapping_mul(31) ^ u64::from(v.to_bits()));
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            state ^ state >> 31
        };
        quant::sample(dtype, values.len(), 0.6, &mut random).unwrap()
    });
    let range = 0..bytes.len();
    HostTensor::new("w", dtype, [experts, rows, cols], Arc::new(bytes), range).unwrap()
}

/// Memory for `bytes` aligned to 64; see [`align`].
fn aligned(bytes: usize) -> Vec<u8> {
    vec![0; bytes + 64]
}

fn align(v: &mut [u8]) -> *mut u8 {
    let p = v.as_mut_ptr();
    p.wrapping_add(p.align_offset(64))
}

/// `[tokens][rows]` of expert `expert`, computed in `workers` shares.
fn product(
    isa: Isa,
    w: &Packed,
    expert: usize,
    form: Activations,
    x: &[f32],
    tokens: usize,
    workers: usize,
) -> Vec<f32> {
    assert_eq!(isa, w.layout().isa());
    product_by(select_for(w.layout(), form).unwrap(), w, expert, x, tokens, workers)
}

fn product_by(
    kernel: MatmulKernel,
    w: &Packed,
    expert: usize,
    x: &[f32],
    tokens: usize,
    workers: usize,
) -> Vec<f32> {
    let (rows, cols) = (w.rows(), w.cols());
    let mut prepared = aligned(kernel.activation_bytes(tokens, cols));
    let mut scratch = aligned(kernel.scratch_bytes(cols));
    let y_stride = rows + 3;
    let mut y = vec![f32::NAN; tokens * y_stride];
    let tiles = kernel.tiles(tokens);
    let granule = w.layout().granule().unwrap_or(1);
    let granules = w.layout().groups() / granule;
    for i in 0..workers {
        let share = |n: usize| n * i / workers..n * (i + 1) / workers;
        // SAFETY: x, prepared, scratch and y have the sizes the kernel asks for.
        unsafe {
            kernel.prepare(&PrepareArgs {
                x: x.as_ptr(),
                x_stride: cols,
                rows: std::ptr::null(),
                tokens,
                cols,
                out: align(&mut prepared),
                tiles: share(tiles),
            });
        }
    }
    for i in 0..workers {
        // SAFETY: as above, and the matrix was packed for this instruction set.
        unsafe {
            kernel.matmul(&MatmulArgs {
                weights: w.matrix(expert).as_ptr(),
                rows,
                cols,
                x: align(&mut prepared),
                tokens,
                y: y.as_mut_ptr(),
                y_stride,
                groups: granules * i / workers * granule..granules * (i + 1) / workers * granule,
                scratch: align(&mut scratch),
            });
        }
    }
    assert!(y.chunks(y_stride).all(|r| r[rows..].iter().all(|v| v.is_nan())), "wrote past a row");
    y.chunks(y_stride).flat_map(|r| r[..rows].to_vec()).collect()
}

/// The int8 form of a block of activations, from its definition, and by what part the error of the
/// next best rounding is larger.
fn rounded(b: &[f32]) -> (Vec<f64>, f64) {
    let largest = b.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let inverse = if largest > 1e-30 { 1.0 / largest } else { 0.0 };
    let exact = |v: f32, top: f32| f64::from(v * (top * inverse));
    let error = |top: f32| -> f64 {
        let squares = b.iter().map(|&v| (exact(v, top) - exact(v, top).round_ties_even()).powi(2));
        squares.sum::<f64>() / f64::from(top * top)
    };
    let mut tops = [127.0, 126.0, 125.0, 124.0].map(|top| (error(top), top));
    tops.sort_by(|a, b| a.0.total_cmp(&b.0));
    let [(least, top), (next, _), ..] = tops;
    let q: Vec<f64> = b.iter().map(|&v| exact(v, top).round_ties_even()).collect();
    let products: f64 = b.iter().zip(&q).map(|(&v, q)| f64::from(v) * q).sum();
    let scale = products / q.iter().map(|q| q * q).sum::<f64>().max(1.0);
    (q.into_iter().map(|q| q * scale).collect(), (next - least) / least)
}

fn quantized(x: &[f32], block: usize) -> Vec<f64> {
    x.chunks_exact(block).flat_map(|b| rounded(b).0).collect()
}

/// Activations whose best rounding, in blocks of so many, does not hang on the last bits of a sum.
fn activations(random: &mut Random, n: usize, block: usize) -> Vec<f32> {
    let one = |i| loop {
        let values = random.vec(block.min(n - i));
        if rounded(&values).1 > 1e-5 {
            return values;
        }
    };
    (0..n).step_by(block).flat_map(one).collect()
}

/// (sum, sum of magnitudes) for each token and row.
fn truth(w: &[f32], x: &[f64], cols: usize) -> Vec<(f64, f64)> {
    let mut out = vec![];
    for x in x.chunks_exact(cols) {
        for w in w.chunks_exact(cols) {
            let products = w.iter().zip(x).map(|(&w, &x)| f64::from(w) * x);
            out.push(products.fold((0.0, 0.0), |(s, a), p| (s + p, a + p.abs())));
        }
    }
    out
}

fn check(isa: Isa, dtype: DType, form: Activations, rows: usize, cols: usize, tokens: usize) {
    let mut random = Random((rows * 31 + cols * 7 + tokens) as u64);
    let t = tensor(dtype, [1, rows, cols], &random.vec(rows * cols));
    let packed = Packed::new(isa, &t).unwrap();
    let x = activations(&mut random, tokens * cols, 32);
    compare(&packed, &t, form, &x, tokens);
}

/// Compares the products of packed weights with sums in f64.
fn compare(packed: &Packed, t: &HostTensor, form: Activations, x: &[f32], tokens: usize) {
    let (isa, dtype, rows, cols) = (packed.layout().isa(), t.dtype, t.rows, t.cols);
    let mut w = vec![0.0; rows * cols];
    quant::dequantize(dtype, t.bytes(), &mut w).unwrap();
    // Dense weights take f32 activations whatever is asked for.
    let exact: Vec<f64> = match select(isa, dtype, form).unwrap().activations() {
        Activations::Int8 => quantized(x, 32),
        Activations::F32 => x.iter().map(|&v| v.into()).collect(),
    };
    let y = product(isa, packed, 0, form, x, tokens, 1);
    for (i, (&y, (e, magnitude))) in y.iter().zip(truth(&w, &exact, cols)).enumerate() {
        // Minima are summed apart from the products they offset, hence the factor.
        let bound = 4e-6 * magnitude + 1e-6;
        assert!(
            (f64::from(y) - e).abs() <= bound,
            "{isa} {dtype} {form:?} {rows}x{cols} T {tokens}: token {} row {}: {y}, not {e}",
            i / rows,
            i % rows
        );
    }
}

#[test]
fn block_formats_at_odd_sizes() {
    for isa in Isa::available() {
        for dtype in blocks() {
            let b = dtype.block_len();
            for (rows, blocks, tokens) in
                [(1, 1, 1), (7, 3, 2), (16, 2, 3), (33, 1, 5), (40, 2, 12), (40, 1, 30), (65, 3, 1)]
            {
                check(isa, dtype, Activations::Int8, rows, b * blocks, tokens);
                check(isa, dtype, Activations::F32, rows, b * blocks, tokens);
            }
        }
    }
}

/// Weights in whole bytes with a scale for each 256, from the definition, and what each may be off
/// where its rounding hangs on the last bits.
fn coarse(w: &[f32]) -> Vec<(f64, f64)> {
    let block = |b: &[f32]| {
        let largest = b.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let step = f64::from(largest) / 127.0;
        let one = move |&v: &f32| {
            let exact = f64::from(v) / step.max(1e-30);
            let q = exact.round_ties_even();
            (q * step, if (exact - q).abs() > 0.4999 { step } else { 0.0 })
        };
        b.iter().map(one).collect::<Vec<_>>()
    };
    w.chunks_exact(256).flat_map(block).collect()
}

/// Products for many tokens where a second rounding is allowed; with fewer there is none.
#[test]
fn fast_products_are_rounded_twice() {
    for isa in Isa::available() {
        for dtype in blocks() {
            let kernel = select(isa, dtype, Activations::Int8).unwrap();
            let fast = kernel.with_prefill(Prefill::Fast);
            for (rows, cols, tokens) in [(7, 256, 32), (40, 512, 47), (65, 768, 37)] {
                let mut random = Random((rows + cols + tokens) as u64);
                let t = tensor(dtype, [1, rows, cols], &random.vec(rows * cols));
                let packed = Packed::new(isa, &t).unwrap();
                let x = activations(&mut random, tokens * cols, 256);
                let mut w = vec![0.0; rows * cols];
                quant::dequantize(dtype, t.bytes(), &mut w).unwrap();
                let y = product_by(fast, &packed, 0, &x, tokens, 2);
                let (w, xq) = (coarse(&w), quantized(&x, 256));
                for (i, y) in y.into_iter().enumerate() {
                    let x = &xq[i / rows * cols..][..cols];
                    let w = &w[i % rows * cols..][..cols];
                    let (mut exact, mut bound) = (0.0, 1e-6);
                    for (&(w, off), x) in w.iter().zip(x) {
                        exact += w * x;
                        bound += off * x.abs() + 4e-6 * (w * x).abs();
                    }
                    let (token, row) = (i / rows, i % rows);
                    assert!(
                        (f64::from(y) - exact).abs() <= bound,
                        "{isa} {dtype} {rows}x{cols}: token {token} row {row}: {y}, not {exact}"
                    );
                }
                let few = &x[..31 * cols];
                let exact = product_by(kernel, &packed, 0, few, 31, 1);
                assert_eq!(product_by(fast, &packed, 0, few, 31, 1), exact, "{isa} {dtype}");
            }
        }
    }
}

#[test]
fn dense_formats_at_odd_sizes() {
    for isa in Isa::available() {
        for dtype in DENSE {
            for (rows, cols, tokens) in
                [(1, 1, 1), (7, 172, 2), (16, 31, 3), (33, 300, 5), (40, 64, 12), (40, 172, 30)]
            {
                check(isa, dtype, Activations::F32, rows, cols, tokens);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..Default::default() })]
    #[test]
    fn any_shape(rows in 1usize..40, n in 1usize..4, tokens in 1usize..31, i in 0usize..50) {
        let dtype = DENSE.into_iter().chain(blocks()).nth(i).unwrap();
        let cols = if i < 3 { n * 61 } else { n * dtype.block_len() };
        for isa in Isa::available() {
            check(isa, dtype, Activations::Int8, rows, cols, tokens);
            check(isa, dtype, Activations::F32, rows, cols, tokens);
        }
    }
}

/// A token's result is the same bits alone, in any batch, and with any number of workers.
#[test]
fn results_do_not_depend_on_the_batch() {
    for isa in Isa::available() {
        for (dtype, form) in blocks()
            .flat_map(|d| [(d, Activations::Int8), (d, Activations::F32)])
            .chain(DENSE.map(|d| (d, Activations::F32)))
        {
            let (rows, tokens) = (75, 30);
            let cols = if dtype.block_len() == 1 { 300 } else { 512 };
            let mut random = Random(9);
            let t = tensor(dtype, [1, rows, cols], &random.vec(rows * cols));
            let w = Packed::new(isa, &t).unwrap();
            let x = random.vec(tokens * cols);
            let whole = product(isa, &w, 0, form, &x, tokens, 1);
            let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            for workers in [2, 3] {
                let shared = product(isa, &w, 0, form, &x, tokens, workers);
                assert_eq!(bits(&shared), bits(&whole), "{isa} {dtype} {form:?} {workers} workers");
            }
            for n in [1, 2, 3, 4, 5, 8, 11, 12, 13, 24, 29] {
                for start in [0, 1, tokens - n] {
                    let x = &x[start * cols..(start + n) * cols];
                    let part = product(isa, &w, 0, form, x, n, 1);
                    let same = &whole[start * rows..(start + n) * rows];
                    assert_eq!(bits(&part), bits(same), "{isa} {dtype} {form:?} {n} from {start}");
                }
            }
        }
    }
}

/// What lies by columns gives the bits of what lies by rows, for one token and for several, with any
/// number of workers, whatever part of the activations is zero.
#[test]
fn columns_give_the_same_bits() {
    let shares = [0.0, 0.02, 0.2, 0.5, 0.9, 1.0];
    let int = |d: &DType| d.block_len() > 1;
    for isa in Isa::available() {
        for dtype in DENSE.into_iter().chain(blocks()) {
            // Chunks of 32 row groups, of 48 or half of that, and of fewer.
            for (groups, cols) in [(32, 512), (48, 256), (4, 256)] {
                let lanes = Packed::new(isa, &tensor(DType::F32, [1, 1, 1], &[0.0])).unwrap();
                let rows = groups * lanes.layout().lanes();
                let layout = Layout::new(isa, dtype, [1, rows, cols]).unwrap().by_columns();
                if layout.granule().is_none() {
                    continue;
                }
                let cols = if int(&dtype) { cols } else { cols - 7 };
                let layout = Layout::new(isa, dtype, [1, rows, cols]).unwrap().by_columns();
                let mut random = Random((groups * 7 + cols) as u64);
                let t = tensor(dtype, [1, rows, cols], &random.vec(rows * cols));
                let (columns, by_rows) =
                    (Packed::of(layout, &t).unwrap(), Packed::new(isa, &t).unwrap());
                let tokens = shares.len();
                let mut x = activations(&mut random, tokens * cols, 32);
                for (x, share) in x.chunks_exact_mut(cols).zip(shares) {
                    // Some runs of 32 and of 16 are all zero.
                    let (blocks, halves) = (random.vec(cols), random.vec(cols));
                    for (k, v) in x.iter_mut().enumerate() {
                        let run = blocks[k / 32].abs() < 0.8 && halves[k / 16].abs() < 0.8;
                        if share < 1.0 && !(run && random.next().abs() < share) {
                            *v = 0.0;
                        }
                    }
                }
                for form in [Activations::Int8, Activations::F32] {
                    let bits = |v: Vec<f32>| v.into_iter().map(f32::to_bits).collect::<Vec<_>>();
                    let whole = bits(product(isa, &by_rows, 0, form, &x, tokens, 1));
                    let all = bits(product(isa, &columns, 0, form, &x, tokens, 2));
                    assert!(all == whole, "{isa} {dtype} {form:?} {rows}x{cols} together");
                    for n in [2, 3, 4, 5] {
                        let few = bits(product(isa, &columns, 0, form, &x[..n * cols], n, 2));
                        assert!(few == whole[..n * rows], "{isa} {dtype} {form:?} {n} of them");
                    }
                    for (t, x) in x.chunks_exact(cols).enumerate() {
                        for workers in [1, 3] {
                            let one = bits(product(isa, &columns, 0, form, x, 1, workers));
                            let same = one == whole[t * rows..(t + 1) * rows];
                            assert!(
                                same,
                                "{isa} {dtype} {form:?} {rows}x{cols} token {t} {workers}"
                            );
                        }
                    }
                }
            }
        }
    }
}

/// The same against sums in f64, of activations whose zeros are exact.
#[test]
fn columns_at_every_share_of_zeros() {
    for isa in Isa::available() {
        for dtype in DENSE.into_iter().chain(blocks()) {
            let probe = Layout::new(isa, dtype, [1, 512, 256]).unwrap().by_columns();
            let Some(granule) = probe.granule() else { continue };
            let rows = 2 * granule * probe.lanes();
            for (seed, zeros) in [0, 16, 26, 31, 32].into_iter().enumerate() {
                let mut random = Random(seed as u64 + 77);
                let t = tensor(dtype, [1, rows, 512], &random.vec(rows * 512));
                let layout = Layout::new(isa, dtype, [1, rows, 512]).unwrap().by_columns();
                let packed = Packed::of(layout, &t).unwrap();
                for tokens in [1, 2] {
                    let block = |_| loop {
                        let mut block = random.vec(32);
                        let first = (random.next().abs() * 31.0) as usize;
                        (0..zeros).for_each(|i| block[(first + 5 * i) % 32] = 0.0);
                        // A single number is the same however it is rounded.
                        if zeros > 30 || rounded(&block).1 > 1e-5 {
                            break block;
                        }
                    };
                    let x: Vec<f32> = (0..tokens * 16).flat_map(block).collect();
                    compare(&packed, &t, Activations::Int8, &x, tokens);
                    compare(&packed, &t, Activations::F32, &x, tokens);
                }
            }
        }
    }
}

#[test]
fn experts_lie_one_after_the_other() {
    for isa in Isa::available() {
        for dtype in [DType::F16, DType::Q4_K] {
            let (rows, cols) = (19, 256);
            let mut random = Random(4);
            let values = random.vec(3 * rows * cols);
            let stack = Packed::new(isa, &tensor(dtype, [3, rows, cols], &values)).unwrap();
            let x = random.vec(2 * cols);
            for e in 0..3 {
                let values = &values[e * rows * cols..(e + 1) * rows * cols];
                let one = Packed::new(isa, &tensor(dtype, [1, rows, cols], values)).unwrap();
                let a = product(isa, &stack, e, Activations::Int8, &x, 2, 1);
                assert_eq!(a, product(isa, &one, 0, Activations::Int8, &x, 2, 1));
            }
        }
    }
}

/// The extremes of the integers: weights -128 and 127, activations -127 and 127, all signs alike.
#[test]
fn extreme_integers() {
    for isa in Isa::available() {
        for weight in [0x80u8, 0x7f, 0x81] {
            let block: Vec<u8> =
                [0, 0x3c].into_iter().chain(std::iter::repeat_n(weight, 32)).collect();
            let bytes = block.repeat(17 * 4);
            let t =
                HostTensor::new("w", DType::Q8_0, [1, 17, 128], Arc::new(bytes), 0..17 * 4 * 34);
            let w = Packed::new(isa, &t.unwrap()).unwrap();
            for x in [1.0, -1.0] {
                let y = product(isa, &w, 0, Activations::Int8, &[x; 128], 1, 1);
                let e = 128.0 * f32::from(weight as i8) * x;
                assert!(
                    y.iter().all(|y| (y - e).abs() < 1e-3),
                    "{isa} {weight} {x}: {y:?} not {e}"
                );
            }
        }
    }
}

/// A dot of 4096 random products: the error relative to its typical size, root mean square.
#[test]
fn long_sums_are_accurate() {
    for isa in Isa::available() {
        for dtype in [DType::F32, DType::Q4_K] {
            let (rows, cols) = (64, 4096);
            let mut random = Random(11);
            let t = tensor(dtype, [1, rows, cols], &random.vec(rows * cols));
            let x = random.vec(cols);
            let mut w = vec![0.0; rows * cols];
            quant::dequantize(dtype, t.bytes(), &mut w).unwrap();
            let y = product(isa, &Packed::new(isa, &t).unwrap(), 0, Activations::F32, &x, 1, 1);
            let exact: Vec<f64> = x.iter().map(|&v| v.into()).collect();
            let (mut error, mut size) = (0.0, 0.0);
            for (&y, (e, _)) in y.iter().zip(truth(&w, &exact, cols)) {
                error += (f64::from(y) - e).powi(2);
                size += e * e;
            }
            let relative = (error / size).sqrt();
            assert!(relative < 1e-6, "{isa} {dtype}: {relative:e}");
        }
    }
}

#[test]
fn zero_and_tiny_activations() {
    for isa in Isa::available() {
        let w = tensor(DType::Q4_K, [1, 16, 256], &Random(1).vec(16 * 256));
        let w = Packed::new(isa, &w).unwrap();
        for x in [0.0, 1e-38, -1e-42] {
            let y = product(isa, &w, 0, Activations::Int8, &[x; 256], 1, 1);
            assert!(y.iter().all(|y| y.abs() < 1e-30), "{isa}: {y:?}");
        }
    }
}

/// The payload of a `.npy` file.
fn npy(path: &std::path::Path) -> Vec<u8> {
    let b = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let header = u16::from_le_bytes([b[8], b[9]]) as usize;
    b[10 + header..].to_vec()
}

/// Blocks, activations and dot products of another implementation, which rounds activations to
/// integers too: in f32 we are at the exact dot product, with int8 activations as near to it as it
/// is.
#[test]
fn stored_dot_products() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/quants");
    if !root.exists() {
        eprintln!("reference blocks not present, nothing compared");
        return;
    }
    for dtype in blocks().filter(|d| root.join(d.name()).join("act.npy").exists()) {
        let read = |name: &str| npy(&root.join(dtype.name()).join(name));
        let floats = |name: &str| -> Vec<f32> {
            let bytes = read(name);
            bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
        };
        let (rows, cols) = (64, dtype.block_len());
        let bytes = read("blocks.npy");
        let range = 0..bytes.len();
        let t = HostTensor::new("w", dtype, [1, rows, cols], Arc::new(bytes), range).unwrap();
        let (weights, x, theirs) = (floats("dequant.npy"), floats("act.npy"), floats("dot.npy"));
        let exact: Vec<f64> = read("dot_exact.npy")
            .as_chunks::<8>()
            .0
            .iter()
            .map(|&b| f64::from_le_bytes(b))
            .collect();
        // Error relative to what rounding the activations of a row can do: the root of the sum of
        // squares of weights, times half a step of the largest activation.
        let size: Vec<f64> = (0..rows)
            .map(|r| {
                let row = r * cols..(r + 1) * cols;
                let norm: f64 = weights[row.clone()].iter().map(|w| f64::from(w * w)).sum();
                let most = x[row].iter().fold(0.0f32, |m, v| m.max(v.abs()));
                norm.sqrt() * f64::from(most) / 254.0 + 1e-12
            })
            .collect();
        let error = |dots: &dyn Fn(usize) -> f32| -> f64 {
            let square = |r: usize| ((f64::from(dots(r)) - exact[r]) / size[r]).powi(2);
            ((0..rows).map(square).sum::<f64>() / rows as f64).sqrt()
        };
        let bound = error(&|r| theirs[r]);
        for isa in Isa::available() {
            let w = Packed::new(isa, &t).unwrap();
            for (form, bound) in [(Activations::F32, 1e-3), (Activations::Int8, 1.1 * bound)] {
                // Row by row of the activations, the dot product is on the diagonal.
                let all = product(isa, &w, 0, form, &x, rows, 1);
                let ours = error(&|r| all[r * rows + r]);
                assert!(ours <= bound, "{isa} {dtype} {form:?}: {ours:.4} above {bound:.4}");
                for r in [0, 31, 63] {
                    let x = &x[r * cols..(r + 1) * cols];
                    let one = product(isa, &w, 0, form, x, 1, 1);
                    assert_eq!(one[r].to_bits(), all[r * rows + r].to_bits(), "{isa} {dtype}");
                }
            }
        }
    }
}
