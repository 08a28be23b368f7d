//! A GPU proves itself before it is taken without being named: it runs the model inside this binary, and
//! its logits must be the processor's.

use gristmill::{Cpu, CpuOptions, Device, Model, Result, Settings, Wgpu};

/// The largest difference, as a part of the largest logit.
const TOLERANCE: f32 = 1e-3;

/// Runs the bundled model on both.
///
/// # Errors
/// What departs, or what the GPU said, in words.
pub fn same_as_cpu(gpu: Wgpu, cpu: CpuOptions) -> Result<(), String> {
    let expected = Cpu::new(cpu).and_then(|cpu| logits(cpu.into())).map_err(|e| e.to_string())?;
    let got = logits(gpu.into()).map_err(|e| e.to_string())?;
    let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let far = expected.iter().zip(&got).map(|(a, b)| (a - b).abs());
    let apart = far.fold(0.0f32, |m, d| if d.is_nan() { f32::INFINITY } else { m.max(d) });
    if expected.len() != got.len() || expected.is_empty() || apart > TOLERANCE * largest {
        return Err(format!(
            "on a small model its logits are {apart:.2e} off the processor's, whose largest is \
             {largest:.2e}; name it to use it all the same"
        ));
    }
    Ok(())
}

/// The logits of a few tokens of the bundled model.
fn logits(device: Device) -> Result<Vec<f32>> {
    let model = Model::bundled()?;
    let settings = Settings::exact();
    let program = model.program(settings.kv)?;
    let last = program.nodes.last().map(|n| n.name.clone()).unwrap_or_default();
    let program = program.stop_after(&last)?;
    let ids = model.chat_prompt("Tell me a story about a fox")?;
    let options = settings.engine_options(ids.len() as u32).options;
    let tokens = ids.len() as u32;
    let mut probe = model.probe_on(device, program, tokens, &options, &mut |_, _| Ok(()))?;
    let mut all = vec![];
    probe.run(&ids, &mut |seen| {
        all.extend_from_slice(seen.values);
        Ok(())
    })?;
    Ok(all)
}
