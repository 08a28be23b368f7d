//! What wgpu cannot vouch for: shaders that reach the driver as they are, in its own language; loops without
//! a counter that ends them; features that it calls experimental.

use crate::shader::metal;
use wgpu::{
    Device, ExperimentalFeatures, PassthroughShaderEntryPoint, ShaderModule,
    ShaderModuleDescriptor, ShaderModuleDescriptorPassthrough, ShaderRuntimeChecks, ShaderSource,
};

/// A kernel of ours in WGSL. wgpu would put a counter of 64 bits into every loop, so that none runs for
/// ever: it keeps drivers from unrolling and takes time and memory. Indices stay checked.
pub(crate) fn trusted(device: &Device, name: &str, text: &str) -> ShaderModule {
    let descriptor =
        ShaderModuleDescriptor { label: Some(name), source: ShaderSource::Wgsl(text.into()) };
    let mut checks = ShaderRuntimeChecks::checked();
    checks.force_loop_bounding = false;
    // SAFETY: what is left out is the counter alone, so every loop must end; the text is one of ours. Loops
    // count up to, or halve down from, a number that is fixed before they begin: a constant, a parameter of
    // a call, or an integer of a step, which `gristmill_gpu::Integers` has checked against the others. The
    // three that are written otherwise end too: `prepare` halves what lies between two sequences,
    // `attention` goes to the end of the sequence that its token lies in, which is further on, and `choice`
    // goes down to the first bin. In none is that number changed.
    unsafe { device.create_shader_module_trusted(descriptor, checks) }
}

/// Leave to ask for cooperative matrices.
pub(crate) fn experimental() -> ExperimentalFeatures {
    // SAFETY: what is acknowledged is that wgpu's own checks of such a feature may have holes. Of those
    // features one alone is asked for, cooperative matrices, and one kernel of ours uses it: it loads and
    // stores matrices that lie whole within arrays of a workgroup's memory, at indices which follow from
    // constants and from the number of the subgroup, of which there are eight at most; nothing of them comes from a file.
    unsafe { ExperimentalFeatures::enabled() }
}

/// A kernel of ours in Metal's language ([`metal::text`]), with its threads.
pub(crate) fn module(device: &Device, name: &str, (text, threads): &(String, u32)) -> ShaderModule {
    let descriptor = ShaderModuleDescriptorPassthrough {
        label: Some(name),
        entry_points: vec![PassthroughShaderEntryPoint {
            name: metal::ENTRY.into(),
            workgroup_size: (*threads, 1, 1),
        }]
        .into(),
        msl: Some(text.as_str().into()),
        ..Default::default()
    };
    // SAFETY: the text is one of ours and nothing of it comes from a file or a user but numbers that were
    // checked. It reads and writes what its twin in WGSL does, through the same bindings, and each index
    // is bounded by the same parameters; where a device lacks passthrough it is never asked for.
    unsafe { device.create_shader_module_passthrough(descriptor) }
}
