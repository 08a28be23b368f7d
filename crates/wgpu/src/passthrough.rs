//! Shaders that reach the driver as they are, in its own language.

use crate::shader::metal;
use wgpu::{Device, PassthroughShaderEntryPoint, ShaderModule, ShaderModuleDescriptorPassthrough};

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
