//! `cargo bench --bench gemm [WORDS]`: matrix products by format and instruction set, one thread. Words
//! are formats and parts of names. The cases are those of `gristmill bench --kernels`.

use gristmill::ir::Options;
use gristmill::kernels::{Case, Running, Shape, medians};
use gristmill::{Cpu, CpuOptions, DType, Isa};

const ROUNDS: u32 = 5;
const FORMATS: [DType; 5] = [DType::F32, DType::F16, DType::Q8_0, DType::Q4_K, DType::Q4_0];

fn main() -> gristmill::Result<()> {
    // Cargo adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let isas: Vec<Isa> = Isa::available().filter(|&isa| isa != Isa::Naive).collect();
    let options = |isa| CpuOptions { isa, threads: 1, poison: false };
    let cpus = isas.iter().map(|&isa| Cpu::new(options(isa))).collect::<Result<Vec<_>, _>>()?;
    println!("{:<28} {:<6} {:<12} {:>9} {:>9}", "product", "type", "isa", "GOP/s", "x scalar");
    for dtype in FORMATS {
        for tokens in [1, 16, 256] {
            let shape = Shape { rows: 256, cols: 4096, tokens, from_memory: false };
            let case = Case::product(dtype, shape)?;
            let matches =
                |w: &String| dtype.name().eq_ignore_ascii_case(w) || case.name.contains(w);
            if !words.iter().all(matches) {
                continue;
            }
            let mut running = cpus
                .iter()
                .map(|cpu| Running::new(cpu, &case, &Options::default()))
                .collect::<Result<Vec<_>, _>>()?;
            let times = medians(&mut running, ROUNDS, || Ok(()))?;
            let speeds: Vec<f64> = times.iter().map(|t| case.ops / t).collect();
            let scalar = isas.iter().position(|&isa| isa == Isa::Scalar).map(|i| speeds[i]);
            for (isa, speed) in isas.iter().zip(&speeds) {
                let over = scalar.map_or(f64::NAN, |s| speed / s);
                let (name, dtype) = (&case.name, dtype.name());
                println!("{name:<28} {dtype:<6} {:<12} {speed:>9.1} {over:>9.1}", isa.name());
            }
        }
    }
    Ok(())
}
