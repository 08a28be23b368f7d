//! What wgpu cannot vouch for: shaders that reach the driver as they are, in its own language, and features
//! that it calls experimental.

use crate::shader::metal;
use wgpu::{
    Device, ExperimentalFeatures, PassthroughShaderEntryPoint, ShaderModule,
    ShaderModuleDescriptorPassthrough,
};

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
