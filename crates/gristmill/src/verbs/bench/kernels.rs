//! Where the time of a step goes, kernel by kernel, as the GPU's own timestamps tell.

use super::Test;
use crate::term::{Done, check_interrupt, out};
use gristmill::cpu::Ceilings;
use gristmill::wgpu::KernelTime;
use gristmill::{Device, Engine, Request, Wgpu};

/// Steps of a generation that are added up, after one that is not.
const STEPS: usize = 8;

/// A table for the first prompt among the tests, and one for steps of one token.
pub fn table(engine: &mut Engine<Device>, gpu: &Wgpu, tests: &[Test], ceilings: &Ceilings) -> Done {
    let prompt = tests.iter().map(|t| t.prompt).find(|&p| p > 0);
    gpu.time_kernels(true)?;
    if let Some(n) = prompt {
        // Of a long prompt the first step.
        let times = steps(engine, gpu, n, 1)?;
        out(&lines(&format!("a prompt of {n}"), &times[..1], ceilings))?;
    }
    if tests.iter().any(|t| t.generate > 0) {
        let times = steps(engine, gpu, 1, STEPS + 1)?;
        out(&lines("one token", &times[1..], ceilings))?;
    }
    gpu.time_kernels(false)?;
    Ok(())
}

/// Runs a prompt of `n` tokens and steps that follow it; the times of each step.
fn steps(
    engine: &mut Engine<Device>,
    gpu: &Wgpu,
    n: u32,
    steps: usize,
) -> Done<Vec<Vec<KernelTime>>> {
    let vocab = engine.vocab().max(1);
    let mut events = vec![];
    let mut all = vec![];
    let ids: Vec<u32> = (0..n).map(|i| i % vocab).collect();
    engine.submit(Request::new(ids, steps))?;
    while !engine.is_idle() {
        check_interrupt()?;
        engine.step(&mut events)?;
        all.push(gpu.kernel_times()?);
    }
    all.resize(all.len().max(steps), vec![]);
    Ok(all)
}

/// The mean of several steps, as Markdown.
fn lines(what: &str, steps: &[Vec<KernelTime>], ceilings: &Ceilings) -> String {
    let n = steps.len().max(1) as f64;
    let mut sums: Vec<KernelTime> = vec![];
    for k in steps.iter().flatten() {
        match sums.iter_mut().find(|s| s.kernel == k.kernel) {
            Some(s) => {
                s.calls += k.calls;
                s.nanos += k.nanos;
                s.bytes += k.bytes;
            }
            None => sums.push(k.clone()),
        }
    }
    sums.sort_by_key(|k| std::cmp::Reverse(k.nanos));
    let total: u64 = sums.iter().map(|k| k.nanos).sum();
    let mut text = format!(
        "\n{what}: {:.3} ms of kernels\n\n| kernel | calls | ms | % | GB/s | % read |\n\
         | --- | ---: | ---: | ---: | ---: | ---: |\n",
        total as f64 / n / 1e6
    );
    for k in &sums {
        let rate = if k.nanos == 0 { 0.0 } else { k.bytes as f64 / k.nanos as f64 };
        let read = match (k.bytes, ceilings.read_bytes) {
            (0, _) => ["".to_owned(), "".to_owned()],
            (_, r) => [format!("{rate:.2}"), format!("{:.0}", 100.0 * 1e9 * rate / r.max(1.0))],
        };
        text.push_str(&format!(
            "| {} | {:.0} | {:.3} | {:.1} | {} | {} |\n",
            k.kernel,
            f64::from(k.calls) / n,
            k.nanos as f64 / n / 1e6,
            100.0 * k.nanos as f64 / total.max(1) as f64,
            read[0],
            read[1]
        ));
    }
    text
}
