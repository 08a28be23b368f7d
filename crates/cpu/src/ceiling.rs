//! The ceilings of this machine, measured: what a speed is a percentage of.
//!
//! The whole team runs each loop of [`crate::kernels::ceiling`] for some tens of milliseconds,
//! several times; the best time counts, since everything that disturbs makes it longer.

use crate::backend::Cpu;
use crate::kernels::ceiling::{Mma, MulAdd, Read};
use crate::memory::Buffer;
use crate::pool::Pool;
use crate::simd::{Isa, IsaVisitor, Simd};
use gristmill_core::{Error, Result};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// What the machine can do at most with a number of threads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceilings {
    /// Bytes read a second, from memory that no cache holds.
    pub read_bytes: f64,
    /// Operations of int8 dot products a second, multiplications and additions counted apart.
    pub int8_ops: f64,
    /// Operations of f32 multiply-adds a second.
    pub f32_ops: f64,
}

/// Bytes read in a pass, where memory allows: larger than any cache.
const BYTES: usize = 512 << 20;
/// Bytes that a member takes at a time.
const CHUNK: usize = 1 << 20;
/// How long an arithmetic loop should take.
const LOOP: Duration = Duration::from_millis(30);
/// Passes of each loop.
const PASSES: usize = 5;

impl Cpu {
    /// Measures the ceilings with this device's instruction set and threads; some seconds.
    ///
    /// # Errors
    /// [`Error::Memory`] when there is not enough memory to read from.
    pub fn ceilings(&self) -> Result<Ceilings> {
        struct Measure<'p>(&'p mut Pool);
        impl IsaVisitor for Measure<'_> {
            type Output = Result<Ceilings>;
            fn visit<S: Simd>(self, s: S) -> Result<Ceilings> {
                measure(s, self.0)
            }
        }
        let isa: Isa = self.options().isa;
        let measured = isa.visit(Measure(&mut self.pool()));
        measured.unwrap_or_else(|| Err(Error::Device(format!("this machine does not have {isa}"))))
    }
}

fn measure<S: Simd>(s: S, pool: &mut Pool) -> Result<Ceilings> {
    let members = pool.members() as f64;
    let mul_add = rounds(|n| _ = black_box(s.vectorize(MulAdd(n))));
    let mma = rounds(|n| _ = black_box(s.vectorize(Mma(n))));
    let f32_time = best(pool, |_| _ = black_box(s.vectorize(MulAdd(mul_add))));
    let int8_time = best(pool, |_| _ = black_box(s.vectorize(Mma(mma))));

    let (used, total) = crate::detect::memory();
    let free = total.saturating_sub(used) as usize;
    let bytes = if free == 0 { BYTES / 4 } else { BYTES.min(free / 4) } / CHUNK * CHUNK;
    let mut buffer = Buffer::zeroed(bytes.max(CHUNK))?;
    buffer.as_mut_slice().fill(1); // memory that was never written is not there to be read
    let data = buffer.as_slice();
    let read_time = best(pool, |team| {
        team.each(data.len() / CHUNK, 1, |chunks| {
            for c in chunks {
                black_box(s.vectorize(Read(&data[c * CHUNK..(c + 1) * CHUNK])));
            }
        });
    });
    Ok(Ceilings {
        read_bytes: data.len() as f64 / read_time,
        int8_ops: members * (mma * Mma::ops::<S>()) as f64 / int8_time,
        f32_ops: members * (mul_add * MulAdd::OPS * S::LANES) as f64 / f32_time,
    })
}

/// How many rounds take about [`LOOP`].
fn rounds(run: impl Fn(usize)) -> usize {
    let mut n = 1000;
    loop {
        let start = Instant::now();
        run(n);
        let time = start.elapsed();
        if time * 4 >= LOOP {
            return (n as f64 * LOOP.as_secs_f64() / time.as_secs_f64()) as usize + 1;
        }
        n *= 2;
    }
}

/// Seconds of the best of several passes of the whole team.
fn best(pool: &mut Pool, run: impl Fn(&crate::pool::Team<'_>) + Sync) -> f64 {
    let pass = || {
        let start = Instant::now();
        pool.run(&run);
        start.elapsed().as_secs_f64()
    };
    std::iter::repeat_with(pass).take(PASSES).fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use crate::{Cpu, CpuOptions, Isa};

    #[test]
    fn ceilings_are_numbers() {
        let threads = if cfg!(target_family = "wasm") { 1 } else { 2 };
        let cpu = Cpu::new(CpuOptions { isa: Isa::best(), threads, poison: false }).unwrap();
        let c = cpu.ceilings().unwrap();
        for v in [c.read_bytes, c.int8_ops, c.f32_ops] {
            assert!(v.is_finite() && v > 1e6, "{c:?}");
        }
    }
}
