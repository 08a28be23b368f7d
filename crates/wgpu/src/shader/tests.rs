//! Every shader there can be, written by naga for Vulkan, Metal and DX12, and its text as it was looked
//! at last.

use super::*;
use crate::adapter::Cooperative;
use crate::plan::recipes::products;
use crate::tune::Shapes;
use gristmill_core::{DType, quant};
use naga::Module;
use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use std::fmt::Write;

#[test]
fn conditions_and_names() {
    let text = "a $X // b\n#if Y\nc\n#else\n$Xu\n#endif\n";
    let of = |defines: &[(&'static str, String)]| expand(text, defines);
    assert_eq!(of(&[("X", "1".into())]).unwrap(), "a 1\n1u\n");
    assert_eq!(of(&[("X", "1".into()), ("Y", "1".into())]).unwrap(), "a 1\nc\n");
    assert!(of(&[]).is_err());
}

/// Each shader with its name.
fn all() -> Vec<(String, Recipe)> {
    let mut all = vec![];
    let mut add = |name: String, recipe: Recipe| all.push((name, recipe));
    let plain = "attention_merge int8 moves normalize prepare rope route sample time_embed unmask \
                 wkv7_keys wkv7_out";
    for kernel in plain.split(' ') {
        add(kernel.into(), Recipe::new(kernel));
    }
    for (outs, stores) in [(1, false), (2, true), (3, false), (0, true)] {
        let recipe = crate::plan::recipes::token_shift(outs, stores);
        add(format!("token_shift {outs} {stores}"), recipe);
    }
    for dim in [64, 128] {
        add(format!("wkv7 {dim}"), crate::plan::recipes::wkv7(dim));
    }
    for flag in [false, true] {
        add(format!("denoise {flag}"), crate::plan::recipes::denoise(flag));
        add(format!("slots {flag}"), Recipe::new("slots").flag("STORE", flag));
    }
    add("norm".into(), Recipe::new("norm").define("SOURCE", "x"));
    let sum = Recipe::new("norm").define("SOURCE", "total").flag("RESIDUAL", true);
    add("norm of a sum".into(), sum);
    for what in ["READ", "ADD", "SEQUENCE", "LERP", "SELECT", "GATED", "POOL", "CHOICES"] {
        add(format!("rows {what}"), Recipe::new("rows").flag(what, true));
    }
    for dim in [64, 128, 256] {
        add(format!("qkv {dim}"), crate::plan::recipes::qkv(dim));
        for (sharing, words, decodes) in [(1, dim, false), (4, dim / 2, true), (8, dim, true)] {
            let name = format!("attention {dim} {sharing} {words} {decodes}");
            add(name, crate::plan::recipes::attention(dim, sharing, words, decodes).0);
        }
    }
    for dtype in DType::all().filter(|&d| quant::is_supported(d)) {
        let format = Format::of(dtype).unwrap();
        add(format!("embed {dtype}"), Recipe::new("embed").over(&format));
        for (int8, tail, experts) in [
            (false, false, false),
            (true, false, false),
            (false, true, false),
            (false, false, true),
            (true, false, true),
        ] {
            if (int8 && !format.is_integers()) || (tail && format.is_integers()) {
                continue;
            }
            let name = format!("{dtype} {int8} {tail} {experts}");
            let kinds = [int8, tail, experts];
            let (vector, (tile, _)) = products(&format, kinds, [false; 2], None, Shapes::default());
            add(format!("matvec {name}"), vector);
            let (vector, _) = products(&format, kinds, [true, false], None, Shapes::default());
            add(format!("matvec subgroups {name}"), vector);
            if !experts {
                add(format!("matmul {name}"), tile);
            }
            if !int8 {
                let (vector, (tile, _)) =
                    products(&format, kinds, [true; 2], None, Shapes::default());
                add(format!("matvec half {name}"), vector);
                if !experts {
                    add(format!("matmul half {name}"), tile);
                }
            }
        }
    }
    all
}

/// A shader that is valid with what every kernel may use and what is `allowed` besides, and can be said in
/// SPIR-V and MSL: its module, and its text for Metal.
fn accepted(name: &str, text: &str, allowed: Capabilities) -> (Module, ModuleInfo, String) {
    // Halves as bits of a word are part of WebGPU, subgroups are asked for where they are used.
    let allowed = allowed
        | Capabilities::SUBGROUP
        | Capabilities::SHADER_FLOAT16
        | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let module = naga::front::wgsl::parse_str(text)
        .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(text)));
    let info = Validator::new(ValidationFlags::all(), allowed)
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all())
        .validate(&module)
        .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(text)));
    let options = spv::Options { lang_version: (1, 3), ..spv::Options::default() };
    spv::write_vec(&module, &info, &options, None)
        .unwrap_or_else(|e| panic!("{name} as SPIR-V: {e}"));
    let options = msl::Options { lang_version: (2, 4), ..msl::Options::default() };
    let (metal, _) = msl::write_string(&module, &info, &options, &msl::PipelineOptions::default())
        .unwrap_or_else(|e| panic!("{name} as MSL: {e}"));
    (module, info, metal)
}

/// Every shader is valid, and can be said in the languages of the three systems.
#[test]
fn naga_accepts_all() {
    for (name, recipe) in all() {
        let text = recipe.text().unwrap();
        let (module, info, _) = accepted(&name, &text, Capabilities::empty());
        let options =
            hlsl::Options { shader_model: hlsl::ShaderModel::V6_2, ..hlsl::Options::default() };
        let mut out = String::new();
        hlsl::Writer::new(&mut out, &options, &hlsl::PipelineOptions::default())
            .write(&module, &info, None)
            .unwrap_or_else(|e| panic!("{name} as HLSL: {e}"));
        assert!(bindings(&text).len() <= 9, "{name}: more than eight storage bindings");
    }
}

/// FNV-1a.
fn fingerprint(text: &str) -> u64 {
    let step = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325u64, step)
}

/// The text of a few shaders in full, and of all as a number.
#[test]
fn texts() {
    let mut numbers = String::new();
    for (name, recipe) in all() {
        let text = recipe.text().unwrap();
        writeln!(numbers, "{name}: {:016x}", fingerprint(&text)).unwrap();
    }
    insta::assert_snapshot!("numbers", numbers);
    for (name, recipe) in all() {
        let full = ["matvec Q4_K true false false", "matmul F16 false true false", "embed IQ2_XS"];
        if full.contains(&name.as_str()) {
            insta::assert_snapshot!(name.replace(' ', "_"), recipe.text().unwrap());
        }
    }
}

/// Kernels on units that multiply matrices, with their names.
fn cooperative() -> Vec<(String, Recipe)> {
    let mut all = vec![];
    for dtype in DType::all().filter(|&d| quant::is_supported(d)) {
        let format = Format::of(dtype).unwrap();
        for (side, threads, subgroups, sizes) in [(16, 128, 4, [64, 32]), (8, 256, 8, [32, 64])] {
            for tail in [false, true] {
                if tail && format.is_integers() {
                    continue;
                }
                let shapes = Shapes { units: sizes, ..Shapes::default() };
                let units = Some(Cooperative { side, threads, subgroups });
                let kinds = [false, tail, false];
                let (_, (tile, tiles)) = products(&format, kinds, [true; 2], units, shapes);
                assert_eq!(tiles, sizes);
                // Nothing else has them.
                for (kinds, half) in [(kinds, false), ([true, tail, false], true)] {
                    let (_, (other, _)) = products(&format, kinds, [true, half], units, shapes);
                    assert_eq!(other.kernel, "matmul");
                }
                all.push((format!("{dtype} {side} {tail}"), tile));
            }
        }
    }
    all
}

/// They are valid and can be said in the languages of the two systems that have such units, and their texts
/// are those that were looked at last; what naga makes of them for Metal is what
/// `tests/metal/check.py` runs. Metal itself has matrices of eight by eight only.
#[test]
fn cooperative_texts() {
    let mut numbers = String::new();
    for (name, recipe) in cooperative() {
        let text = recipe.text().unwrap();
        let (_, _, metal) = accepted(&name, &text, Capabilities::COOPERATIVE_MATRIX);
        assert!(bindings(&text).len() <= 9, "{name}: more than eight storage bindings");
        writeln!(numbers, "{name}: {:016x}", fingerprint(&text)).unwrap();
        let file = name.replace(' ', "_");
        if ["Q4_K 16 false", "F16 8 true"].contains(&name.as_str()) {
            insta::assert_snapshot!(format!("cooperative_{file}"), text);
            insta::assert_snapshot!(format!("cooperative_{file}_metal"), metal);
        }
    }
    insta::assert_snapshot!("cooperative_numbers", numbers);
}

/// Each kernel written for Metal with its name and text.
fn written() -> Vec<(String, String)> {
    let text = |(name, recipe): (String, Recipe)| {
        let written = metal::text(&recipe).unwrap_or_else(|e| panic!("{name}: {e}"));
        written.map(|w| (name, w.0))
    };
    all().into_iter().filter_map(text).collect()
}

/// Nothing of WGSL is left in what is said anew for Metal, and everything bound has a place.
#[test]
fn metal_is_no_wgsl() {
    let texts = written();
    assert!(texts.len() > 70, "{}", texts.len());
    for (name, text) in &texts {
        let words = ["let ", "var ", "fn ", "u32(", "i32(", "f32(", "vec2<", "vec4<", "->", "$"];
        for left in words {
            let found = text.lines().find(|l| l.contains(left));
            assert_eq!(found, None, "{name}: `{left}` is left");
        }
        assert!(
            text.contains("kernel void gristmill(constant Parameters& p [[buffer(0)]]"),
            "{name}"
        );
        let bound = text.matches("[[buffer(").count();
        assert!((6..=9).contains(&bound), "{name}: {bound} buffers");
    }
}

/// As [`texts`].
#[test]
fn metal_texts() {
    let mut numbers = String::new();
    for (name, text) in written() {
        writeln!(numbers, "{name}: {:016x}", fingerprint(&text)).unwrap();
        let full = ["matmul Q4_K false false false", "attention 128 8 128 true", "wkv7 64"];
        if full.contains(&name.as_str()) {
            insta::assert_snapshot!(format!("metal_{}", name.replace(' ', "_")), text);
        }
    }
    insta::assert_snapshot!("metal_numbers", numbers);
}
