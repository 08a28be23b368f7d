//! Which device generates faster: eight steps of a token through the first layers of the model, on
//! each. One layer and two, so that what a step costs by itself is told from what a layer costs. The
//! verdict is kept, by the model's shape, the adapter and its driver.

use gristmill::{Device, Model, Result, Settings, Wgpu, ir::Program};
use serde_json::json;
use std::time::Instant;

/// Steps that are timed.
const STEPS: usize = 8;
/// The file of verdicts.
const FILE: &str = "devices.json";

/// Seconds of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    pub cpu: f64,
    pub gpu: f64,
}

/// What a verdict is kept by: the model's program with the types of its weights, and who raced.
fn key(model: &Model, program: &Program, settings: &Settings, adapter: &str) -> String {
    let mut sum = 0xcbf2_9ce4_8422_2325u64; // FNV-1a
    let mut add = |text: &str| {
        for b in text.bytes() {
            sum = (sum ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    add(&program.to_string());
    for decl in &program.tensors {
        let dtype = model.gguf().tensor_info(&decl.name).map(|t| t.dtype.to_string());
        add(&dtype.unwrap_or_default());
    }
    let cpu = gristmill::cpu::detect::model_name();
    format!(
        "{sum:016x} {:?} {} {} {} {} of {cpu}, {adapter}, {}",
        settings.activations,
        settings.compute,
        settings.passthrough,
        settings.cpu.isa,
        settings.cpu.threads,
        env!("CARGO_PKG_VERSION")
    )
}

/// Who is faster, now or at an earlier time.
///
/// # Errors
/// Those of loading and running on either.
pub fn run(model: &Model, settings: &Settings, gpu: &Wgpu, adapter: &str) -> Result<Verdict> {
    let program = model.program(settings.kv)?;
    let key = key(model, &program, settings, adapter);
    if let Some(v) = gristmill::cache::get(FILE, &key)
        && let (Some(cpu), Some(gpu)) = (v["cpu"].as_f64(), v["gpu"].as_f64())
    {
        return Ok(Verdict { cpu, gpu });
    }
    let cpu = seconds(model, settings, &program, &mut || {
        gristmill::Cpu::new(settings.cpu).map(Device::from)
    })?;
    let gpu = seconds(model, settings, &program, &mut || Ok(gpu.clone().into()))?;
    gristmill::cache::put(FILE, &key, json!({"cpu": cpu, "gpu": gpu}));
    Ok(Verdict { cpu, gpu })
}

/// The name of the last operation of the first `n` layers, and how many layers there are.
fn ends(program: &Program, n: usize) -> Option<(&str, usize)> {
    let layer = |name: &str| name.strip_prefix("blk.")?.split('.').next()?.parse::<usize>().ok();
    let layers = program.nodes.iter().filter_map(|n| layer(&n.name)).max()? + 1;
    let last = program.nodes.iter().rfind(|node| layer(&node.name).is_some_and(|l| l < n))?;
    Some((&last.name, layers))
}

/// What a step of the whole model would take.
fn seconds(
    model: &Model,
    settings: &Settings,
    program: &Program,
    device: &mut dyn FnMut() -> Result<Device>,
) -> Result<f64> {
    let Some((_, layers)) = ends(program, 1) else { return Ok(f64::INFINITY) };
    let mut times = [0.0f64; 2];
    for (time, n) in times.iter_mut().zip([1, 2.min(layers)]) {
        let name = ends(program, n).map_or("", |e| e.0);
        let part = program.stop_after(name)?;
        let options = settings.engine_options(2).options;
        let mut probe = model.probe_on(device()?, part, 1, &options, &mut |_, _| Ok(()))?;
        *time = f64::INFINITY;
        // The first step binds and compiles what it needs.
        for step in 0..=STEPS {
            let start = Instant::now();
            probe.run(&[0], &mut |_| Ok(()))?;
            if step > 0 {
                *time = time.min(start.elapsed().as_secs_f64());
            }
        }
    }
    let [one, two] = times;
    Ok(one + (two - one).max(0.0) * (layers - 1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gristmill::{WgpuOptions, wgpu};

    /// On an adapter that is a processor in truth both are about as fast as they are; that they are
    /// timed at all, and once, is what can be shown.
    #[test]
    fn both_are_timed_once() {
        let Some(adapter) = wgpu::adapters().into_iter().find(|a| a.lacks().is_none()) else {
            println!("SKIPPED: there is no adapter of Vulkan, Metal or DX12 here");
            return;
        };
        let gpu = Wgpu::new(&adapter, WgpuOptions::default()).unwrap();
        let model = Model::bundled().unwrap();
        let settings = Settings::default();
        let program = model.program(settings.kv).unwrap();
        let t = seconds(&model, &settings, &program, &mut || Ok(gpu.clone().into())).unwrap();
        assert!(t > 0.0 && t < 10.0, "{t}");
        let (last, layers) = ends(&program, 1).unwrap();
        assert!(last.starts_with("blk.0.") && layers > 1, "{last} of {layers}");
        let same = key(&model, &program, &settings, "a") == key(&model, &program, &settings, "b");
        assert!(!same, "adapters have verdicts of their own");
    }
}
