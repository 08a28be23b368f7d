//! Times the matmul kernels of every instruction set of this machine, single products from
//! memory or cache, beside the read bandwidth that bounds them.
//!
//! `cargo run --release -p gristmill-cpu --example kernels -- [word…]`, where words choose:
//! `gemv`, `gemm` or `zeros` (one token by weights that lie by rows and by columns, with `zeros=80`
//! percent of its elements zero), `int8` or `f32` activations, `t=16` tokens, `rows=512`,
//! `cols=4096`, formats, instruction sets, the
//! number of rounds.
//!
//! Times are of the thread on its processor. The instruction sets take turns within a round, and the median over the rounds and matrices is
//! printed. On a machine that does other things, compare columns of one run only, or ask for the
//! `best` instead of the median.

use gristmill_core::{DType, HostTensor, quant};
use gristmill_cpu::kernels::matmul::{MatmulArgs, MatmulKernel, PrepareArgs, select_for};
use gristmill_cpu::pack::{Layout, Packed};
use gristmill_cpu::simd::{Isa, Simd, WithSimd};
use gristmill_ir::Activations;
use std::sync::{Arc, Barrier};

const DTYPES: [DType; 7] =
    [DType::Q4_K, DType::Q8_0, DType::Q6_K, DType::Q5_K, DType::Q4_0, DType::F16, DType::F32];

/// Seconds this thread has run: unlike the time of day, it stands still while the thread waits for
/// a processor.
#[cfg(target_os = "linux")]
fn seconds() -> f64 {
    #[repr(C)]
    struct Time {
        seconds: std::ffi::c_long,
        nanoseconds: std::ffi::c_long,
    }
    const THREAD_CPU_TIME: std::ffi::c_int = 3;
    unsafe extern "C" {
        fn clock_gettime(clock: std::ffi::c_int, time: *mut Time) -> std::ffi::c_int;
    }
    let mut time = Time { seconds: 0, nanoseconds: 0 };
    // SAFETY: it writes one `timespec`, which `Time` is on 64-bit Linux.
    unsafe { clock_gettime(THREAD_CPU_TIME, &mut time) };
    time.seconds as f64 + time.nanoseconds as f64 * 1e-9
}

#[cfg(not(target_os = "linux"))]
fn seconds() -> f64 {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed().as_secs_f64()
}

/// 64-byte aligned memory that all threads write their own parts of.
struct Memory(Vec<u8>);
impl Memory {
    fn new(bytes: usize) -> Self {
        Memory(vec![0; bytes + 64])
    }
    fn at(&self) -> usize {
        let p = self.0.as_ptr();
        p as usize + p.align_offset(64)
    }
}

/// One product to time.
struct Case {
    kernel: MatmulKernel,
    /// Copies of the matrix, so that together they do not fit a cache.
    weights: Vec<Packed>,
    x: Memory,
    y: Memory,
    scratch: Vec<Memory>,
    tokens: usize,
}

impl Case {
    fn new(isa: Isa, t: &HostTensor, form: Activations, tokens: usize, copies: usize) -> Case {
        let input: Vec<f32> =
            (0..tokens * t.cols).map(|i| ((i * 37 % 201) as f32 - 100.0) / 100.0).collect();
        let layout = Layout::new(isa, t.dtype, [1, t.rows, t.cols]).unwrap();
        Case::of(layout, t, form, &input, copies)
    }

    /// The product of `input` by weights in this order.
    fn of(layout: Layout, t: &HostTensor, form: Activations, input: &[f32], copies: usize) -> Case {
        let kernel = select_for(&layout, form).unwrap();
        let tokens = input.len() / t.cols;
        let x = Memory::new(kernel.activation_bytes(tokens, t.cols));
        // SAFETY: `x` has the size the kernel asks for.
        unsafe {
            kernel.prepare(&PrepareArgs {
                x: input.as_ptr(),
                x_stride: t.cols,
                rows: std::ptr::null(),
                tokens,
                cols: t.cols,
                out: x.at() as *mut u8,
                tiles: 0..kernel.tiles(tokens),
            });
        }
        Case {
            kernel,
            weights: (0..copies).map(|_| Packed::of(layout.clone(), t).unwrap()).collect(),
            x,
            y: Memory::new(tokens * t.rows * 4),
            scratch: (0..2).map(|_| Memory::new(kernel.scratch_bytes(t.cols))).collect(),
            tokens,
        }
    }

    /// Seconds for each of the copies, one after the other, with `threads` threads.
    fn run(&self, threads: usize) -> Vec<f64> {
        let start = Barrier::new(threads);
        let work = |i: usize| {
            let mut times = vec![];
            for w in &self.weights {
                start.wait();
                let t = seconds();
                let granule = w.layout().granule().unwrap_or(1);
                let granules = w.layout().groups() / granule;
                let share = |i: usize| granules * i / threads * granule;
                // SAFETY: sizes as the kernel asks; workers have disjoint groups and scratch.
                unsafe {
                    self.kernel.matmul(&MatmulArgs {
                        weights: w.matrix(0).as_ptr(),
                        rows: w.rows(),
                        cols: w.cols(),
                        x: self.x.at() as *const u8,
                        tokens: self.tokens,
                        y: self.y.at() as *mut f32,
                        y_stride: w.rows(),
                        groups: share(i)..share(i + 1),
                        scratch: self.scratch[i].at() as *mut u8,
                    });
                }
                times.push(seconds() - t);
            }
            times
        };
        std::thread::scope(|s| {
            let work = &work;
            let others: Vec<_> = (1..threads).map(|i| s.spawn(move || work(i))).collect();
            let mut times = work(0);
            for other in others {
                let other = other.join().expect("a worker does not panic");
                times.iter_mut().zip(other).for_each(|(a, b)| *a = a.max(b));
            }
            times
        })
    }
}

fn tensor(dtype: DType, rows: usize, cols: usize) -> HostTensor {
    // Values from -1 to 1; a part of them is quantized and repeated, since speed does not depend
    // on them.
    let part = 16 * cols;
    let values: Vec<f32> =
        (0..part).map(|i| ((i * 7919 % 2003) as f32 - 1001.0) / 1001.0).collect();
    let bytes = quant::quantize(dtype, &values).expect("whole blocks").repeat(rows / 16);
    let range = 0..bytes.len();
    HostTensor::new("w", dtype, [1, rows, cols], Arc::new(bytes), range).expect("whole rows")
}

fn typical(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    if std::env::args().any(|a| a == "best") { v[0] } else { v[v.len() / 2] }
}

/// GB/s of plain reading with one thread: the sum of a large array on wide registers.
fn bandwidth(rounds: usize) -> f64 {
    struct Sum<'a>(&'a [f32]);
    impl WithSimd for Sum<'_> {
        type Output = f32;
        #[inline(always)]
        fn with_simd<S: Simd>(self, s: S) -> f32 {
            // Four streams, asked for ahead: one stream alone leaves a core waiting.
            let part = self.0.len() / 4;
            let mut sums = [s.zero(); 4];
            for i in (0..part).step_by(S::LANES) {
                for (j, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: within part `j`; parts are multiples of every LANES.
                    let p = unsafe { self.0.as_ptr().add(j * part + i) };
                    s.prefetch(p.cast::<u8>().wrapping_add(4096));
                    // SAFETY: as above.
                    *sum = s.add(*sum, unsafe { s.load(p) });
                }
            }
            s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
        }
    }
    let data = vec![1.0f32; 16 << 20];
    let times = (0..rounds).map(|_| {
        let t = seconds();
        std::hint::black_box(Isa::best().vectorize(Sum(&data)));
        seconds() - t
    });
    (64 << 20) as f64 / 1e9 / typical(times.collect())
}

/// GOP/s of integer products and GFLOP/s of f32 products on registers alone, one thread.
fn peaks(isa: Isa, rounds: usize) -> (f64, f64) {
    /// Whether integer products, and how many rounds of 24.
    struct Run(bool, usize);
    impl WithSimd for Run {
        /// Operations done.
        type Output = f64;
        #[inline(always)]
        fn with_simd<S: Simd>(self, s: S) -> f64 {
            let bytes = [3u8; 64];
            // SAFETY: 64 bytes are at least a fragment.
            let w = unsafe { s.bytes_load(bytes.as_ptr()) };
            let half = s.splat(std::hint::black_box(0.5));
            let (mut dots, mut sums) = ([s.i32_zero(); 24], [half; 24]);
            for _ in 0..self.1 {
                if self.0 {
                    dots.iter_mut().for_each(|d| *d = s.mma_u7(*d, w, w));
                } else {
                    sums.iter_mut().for_each(|a| *a = s.fma(*a, half, *a));
                }
            }
            for d in dots {
                std::hint::black_box(s.sum(s.i32_to_f32(d)));
            }
            for a in sums {
                std::hint::black_box(s.sum(a));
            }
            (self.1 * 24 * S::LANES * 2 * if self.0 { 4 } else { 1 }) as f64
        }
    }
    let best = |integers| {
        let speeds = (0..rounds).map(|_| {
            let t = seconds();
            let work = isa.vectorize(Run(integers, 20_000)).expect("an available instruction set");
            (seconds() - t) / work
        });
        1e-9 / typical(speeds.collect())
    };
    (best(true), best(false))
}

fn table(title: &str, unit: &str, isas: &[Isa], rows: Vec<(DType, Vec<f64>)>) {
    print!("{title}, {unit}\n{:6}", "");
    isas.iter().for_each(|i| print!(" {:>11}", i.name()));
    println!("   best/scalar best/naive");
    for (dtype, speeds) in rows {
        print!("{:6}", dtype.name());
        speeds.iter().for_each(|s| print!(" {s:11.2}"));
        let of = |isa| isas.iter().position(|&i| i == isa).map_or(f64::NAN, |i| speeds[i]);
        let best = speeds.last().copied().unwrap_or(f64::NAN);
        println!("   {:11.1} {:10.1}", best / of(Isa::Scalar), best / of(Isa::Naive));
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let has = |w: &str| words.iter().any(|a| a == w);
    let rounds = words.iter().find_map(|w| w.parse().ok()).unwrap_or(7);
    let named = |names: &dyn Fn(&str) -> bool| words.iter().any(|w| names(w));
    let isas: Vec<Isa> = Isa::available()
        .filter(|&i| has(i.name()) || !named(&|w| Isa::from_name(w).is_some()))
        .collect();
    let dtypes: Vec<DType> = DTYPES
        .into_iter()
        .filter(|&d| has(d.name()) || !named(&|w| DType::from_name(w).is_some()))
        .collect();
    let batches: Vec<usize> = match words.iter().find_map(|w| w.strip_prefix("t=")?.parse().ok()) {
        Some(t) => vec![t],
        None => vec![512, 16, 4],
    };
    let number = |key: &str, default: usize| {
        words.iter().find_map(|w| w.strip_prefix(key)?.parse().ok()).unwrap_or(default)
    };
    let shape = [number("rows=", 512), number("cols=", 4096)];
    if has("zeros") {
        for threads in [1, 2] {
            zeros(
                [number("rows=", 1024), number("cols=", 4096)],
                number("zeros=", 80),
                threads,
                rounds,
                &dtypes,
            );
        }
        return;
    }
    if !has("gemm") {
        gemv([4096, 4096], 128 << 20, 1, rounds, &dtypes, &isas);
        gemv([4096, 4096], 128 << 20, 2, rounds, &dtypes, &isas);
        gemv([1024, 4096], 0, 1, rounds, &dtypes, &isas);
    }
    if !has("gemv") {
        for form in [Activations::Int8, Activations::F32] {
            if has("int8") && form == Activations::F32 || has("f32") && form == Activations::Int8 {
                continue;
            }
            for &tokens in &batches {
                gemm(shape, tokens, form, rounds, &dtypes, &isas);
            }
        }
    }
}

/// Times of each case, taking turns.
fn times(cases: &[Case], threads: usize, rounds: usize) -> Vec<f64> {
    let mut times = vec![vec![]; cases.len()];
    for _ in 0..rounds {
        for (c, t) in cases.iter().zip(&mut times) {
            t.extend(c.run(threads));
        }
    }
    times.into_iter().map(typical).collect()
}

fn gemv(
    [rows, cols]: [usize; 2],
    bytes: usize,
    threads: usize,
    rounds: usize,
    dtypes: &[DType],
    isas: &[Isa],
) {
    let mut out = vec![];
    for &dtype in dtypes {
        let t = tensor(dtype, rows, cols);
        let copies = (bytes / t.bytes().len()).max(1);
        let cases: Vec<Case> =
            isas.iter().map(|&i| Case::new(i, &t, Activations::Int8, 1, copies)).collect();
        let times = times(&cases, threads, rounds);
        let read = |c: &Case| c.weights[0].bytes().len() as f64;
        out.push((dtype, cases.iter().zip(times).map(|(c, t)| read(c) / t / 1e9).collect()));
    }
    let place = if bytes > 0 { "from memory" } else { "from cache" };
    println!("\nreading: {:.1} GB/s with 1 thread", bandwidth(rounds));
    table(&format!("GEMV {rows} x {cols} {place}, {threads} threads"), "GB/s", isas, out);
}

/// One token of which a part is zero, by weights that lie by rows and by columns.
fn zeros(
    [rows, cols]: [usize; 2],
    percent: usize,
    threads: usize,
    rounds: usize,
    dtypes: &[DType],
) {
    let isa = Isa::best();
    println!("\n{rows} x {cols} from memory, {percent} % zeros, {isa}, {threads} threads, µs");
    let mut state = 9u64;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    let input: Vec<f32> = (0..cols)
        .map(|_| if random(100) < percent { 0.0 } else { 0.5 + random(1000) as f32 / 2000.0 })
        .collect();
    for &dtype in dtypes {
        let t = tensor(dtype, rows, cols);
        let copies = ((128 << 20) / t.bytes().len()).max(1);
        let by_rows = Layout::new(isa, dtype, [1, rows, cols]).unwrap();
        let orders = [by_rows.clone(), by_rows.by_columns()];
        let cases = orders.map(|order| Case::of(order, &t, Activations::Int8, &input, copies));
        let times = times(&cases, threads, rounds);
        println!(
            "{:6} by rows {:8.1}, by columns {:8.1}: {:.2} times as fast",
            dtype.name(),
            1e6 * times[0],
            1e6 * times[1],
            times[0] / times[1]
        );
    }
}

fn gemm(
    [rows, cols]: [usize; 2],
    tokens: usize,
    form: Activations,
    rounds: usize,
    dtypes: &[DType],
    isas: &[Isa],
) {
    let mut out = vec![];
    for &dtype in dtypes {
        // Fewer rows than a model's, the same work for each: the plain ones take their time.
        let few = |i: Isa| if i < Isa::Avx2 { rows.min(32) } else { rows };
        let cases: Vec<Case> = isas
            .iter()
            .map(|&i| Case::new(i, &tensor(dtype, few(i), cols), form, tokens, 1))
            .collect();
        let times = times(&cases, 1, rounds);
        let work = |c: &Case| 2.0 * (c.weights[0].rows() * cols * tokens) as f64;
        out.push((dtype, cases.iter().zip(times).map(|(c, t)| work(c) / t / 1e9).collect()));
    }
    let (int, float) = peaks(Isa::best(), rounds);
    println!("\npeak: {int:.0} GOP/s int8, {float:.0} GFLOP/s f32");
    table(&format!("GEMM {rows} x {cols} x {tokens}, {form:?}, 1 thread"), "GOP/s", isas, out);
}
