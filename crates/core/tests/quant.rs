//! Formats against independent values: blocks and their exact dequantization made by another
//! implementation (where that data is at hand), and round trips of our own quantizers.

use gristmill_core::{DType, quant};

/// Every format that is implemented.
fn implemented() -> impl Iterator<Item = DType> {
    DType::all().filter(|&d| quant::is_supported(d))
}

/// Those of them that can be written.
fn written() -> impl Iterator<Item = DType> {
    DType::all().filter(|&d| quant::has_quantizer(d))
}

/// The payload of a `.npy` file.
fn npy(path: &std::path::Path) -> Vec<u8> {
    let b = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let header = u16::from_le_bytes([b[8], b[9]]) as usize;
    b[10 + header..].to_vec()
}

#[test]
fn dequantization_is_bit_exact() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/quants");
    if !root.exists() {
        eprintln!("reference blocks not present, nothing compared");
        return;
    }
    let stored = std::fs::read_dir(&root).unwrap().flatten().filter(|e| e.path().is_dir());
    let stored: Vec<DType> =
        stored.map(|e| DType::from_name(e.file_name().to_str().unwrap()).unwrap()).collect();
    assert_eq!(stored.len(), 25);
    for dtype in stored {
        for (blocks, values) in [("blocks.npy", "dequant.npy"), ("rblocks.npy", "rdequant.npy")] {
            let bytes = npy(&root.join(dtype.name()).join(blocks));
            let expected = npy(&root.join(dtype.name()).join(values));
            let mut out = vec![0.0f32; expected.len() / 4];
            quant::dequantize(dtype, &bytes, &mut out).unwrap();
            for (i, (o, e)) in out.iter().zip(expected.chunks_exact(4)).enumerate() {
                let e = f32::from_le_bytes(e.try_into().unwrap());
                assert!(
                    o.to_bits() == e.to_bits() || (o.is_nan() && e.is_nan()),
                    "{dtype} {blocks} element {i}: {o} instead of {e}"
                );
            }
        }
    }
}

/// A quantizer must be about as good as its bits allow: the error of uniform noise, relative to
/// the root mean square of the data.
#[test]
fn quantizers_are_as_good_as_their_bits() {
    let mut state = 1u64;
    let mut gauss = || {
        let mut sum = 0.0;
        for _ in 0..12 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            sum += (state >> 40) as f32 / (1u64 << 24) as f32;
        }
        sum - 6.0
    };
    let x: Vec<f32> = (0..256 * 64).map(|_| gauss()).collect();
    for (dtype, bound) in [
        (DType::F32, 0.0),
        (DType::F16, 3e-4),
        (DType::BF16, 3e-3),
        (DType::Q8_0, 0.008),
        (DType::Q6_K, 0.025),
        (DType::Q5_K, 0.045),
        (DType::Q4_K, 0.085),
        (DType::Q4_0, 0.12),
        (DType::Q4_1, 0.09),
        (DType::Q5_0, 0.06),
        (DType::Q5_1, 0.045),
        (DType::Q2_K, 0.32),
        (DType::Q3_K, 0.18),
        (DType::Q8_K, 0.01),
        (DType::IQ4_NL, 0.085),
        (DType::IQ4_XS, 0.085),
        (DType::MXFP4, 0.13),
    ] {
        let mut y = vec![0.0; x.len()];
        quant::dequantize(dtype, &quant::quantize(dtype, &x).unwrap(), &mut y).unwrap();
        let square = |v: f32| f64::from(v).powi(2);
        let noise: f64 = x.iter().zip(&y).map(|(a, b)| square(a - b)).sum();
        let error = (noise / x.iter().map(|&a| square(a)).sum::<f64>()).sqrt();
        assert!(error <= bound, "{dtype}: relative error {error:.4} above {bound}");
    }
}

/// Our quantizers are about as good as those of another implementation on the same rows.
#[test]
fn quantizers_keep_up_with_others() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/quants");
    if !root.exists() {
        eprintln!("reference blocks not present, nothing compared");
        return;
    }
    for dtype in written().filter(|d| d.block_len() > 1 && root.join(d.name()).exists()) {
        let floats = |name: &str| -> Vec<f32> {
            let bytes = npy(&root.join(dtype.name()).join(name));
            bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
        };
        let (x, theirs) = (floats("src.npy"), floats("dequant.npy"));
        let mut ours = vec![0.0; x.len()];
        quant::dequantize(dtype, &quant::quantize(dtype, &x).unwrap(), &mut ours).unwrap();
        // The mean over rows, of very different sizes, of the error relative to the row.
        let error = |y: &[f32]| {
            let rows = x.chunks_exact(dtype.block_len()).zip(y.chunks_exact(dtype.block_len()));
            let each = rows.map(|(x, y)| {
                let square = |v: f32| f64::from(v).powi(2);
                let noise: f64 = x.iter().zip(y).map(|(a, b)| square(a - b)).sum();
                (noise / x.iter().map(|&v| square(v)).sum::<f64>().max(1e-30)).sqrt()
            });
            each.sum::<f64>() / (x.len() / dtype.block_len()) as f64
        };
        let (ours, theirs) = (error(&ours), error(&theirs));
        eprintln!("{dtype}: {ours:.4}, theirs {theirs:.4}");
        assert!(ours <= 1.1 * theirs + 1e-4, "{dtype}: error {ours:.4}, theirs {theirs:.4}");
    }
}

#[test]
fn degenerate_blocks_stay_finite() {
    for dtype in written() {
        for value in [0.0f32, 1.0, -1.0, 1e-30] {
            let x = [value; 256];
            let mut y = [f32::NAN; 256];
            quant::dequantize(dtype, &quant::quantize(dtype, &x).unwrap(), &mut y).unwrap();
            for v in y {
                assert!((v - value).abs() <= 0.05 * value.abs() + 1e-6, "{dtype}: {value} -> {v}");
            }
        }
    }
}

#[test]
fn ternary_values_come_back() {
    for dtype in [DType::TQ1_0, DType::TQ2_0] {
        let x: Vec<f32> = (0..512).map(|i| (i * i % 7 % 3) as f32 * 0.25 - 0.25).collect();
        let mut y = vec![0.0; x.len()];
        quant::dequantize(dtype, &quant::quantize(dtype, &x).unwrap(), &mut y).unwrap();
        assert_eq!(x, y, "{dtype}");
    }
}

/// Formats are read or refused, and written or refused, by name.
#[test]
fn what_cannot_be_written_says_so() {
    assert_eq!(implemented().count(), 50);
    for dtype in implemented().filter(|&d| !quant::has_quantizer(d)) {
        let e = quant::quantize(dtype, &[0.0; 256]).unwrap_err().to_string();
        assert!(e.contains(dtype.name()) && e.contains("no quantizer"), "{e}");
    }
    assert!(quant::dequantize(DType::Q8_1, &[0; 36], &mut [0.0; 32]).is_err());
}

/// Packed integers, by their definition in f64: within half a step of what went in.
#[test]
fn packed_integers_are_within_half_a_step() {
    let x: Vec<f32> = (0..1024).map(|i| ((i * 7919 % 1024) as f32 / 300.0 - 1.2).sin()).collect();
    for bits in [1, 2, 4, 8] {
        for block in [32, 64, 128] {
            for wide in [false, true] {
                let dtype = quant::packed_type(bits, block, wide).unwrap();
                let mut y = vec![0.0; x.len()];
                quant::dequantize(dtype, &quant::quantize(dtype, &x).unwrap(), &mut y).unwrap();
                for (x, y) in x.chunks_exact(block).zip(y.chunks_exact(block)) {
                    let low = x.iter().copied().fold(0.0f32, f32::min);
                    let high = x.iter().copied().fold(0.0f32, f32::max);
                    let step = match bits {
                        8 => high.max(-low) / 127.0,
                        _ => (high - low) / ((1 << bits) - 1) as f32,
                    };
                    // A zero in between is rounded too.
                    let most = if bits == 8 { 0.502 } else { 1.002 } * step + 1e-6;
                    for (x, y) in x.iter().zip(y) {
                        assert!((x - y).abs() <= most, "{dtype}: {x} became {y}, step {step}");
                    }
                }
            }
        }
    }
}
