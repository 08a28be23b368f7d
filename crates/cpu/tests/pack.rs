//! Packed weights hold exactly the file's values, in no more than the file's bits.

use gristmill_core::{DType, HostTensor, quant};
use gristmill_cpu::Isa;
use gristmill_cpu::pack::{Layout, Packed};
use gristmill_cpu::{Cpu, CpuOptions};
use gristmill_ir::{Act, Backend, Input, Op, Options, Output, Program, TensorDecl};
use std::sync::Arc;

fn dtypes() -> impl Iterator<Item = DType> {
    DType::all().filter(|&d| quant::is_supported(d))
}

/// A tensor of random bytes whose scales are finite.
fn tensor(dtype: DType, [experts, rows, cols]: [usize; 3], seed: u64) -> HostTensor {
    let mut state = seed;
    let mut random = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        state ^ state >> 31
    };
    let elements = experts * rows * cols;
    let bytes = quant::sample(dtype, elements, 1.0, &mut random).unwrap_or_else(|| {
        let values: Vec<f32> = (0..elements).map(|_| random() as i32 as f32 / 1e9).collect();
        quant::quantize(dtype, &values).unwrap()
    });
    let range = 0..bytes.len();
    HostTensor::new("w", dtype, [experts, rows, cols], Arc::new(bytes), range).unwrap()
}

#[test]
fn gather_is_the_reference_bit_for_bit() {
    for isa in Isa::available() {
        for dtype in dtypes() {
            let block = dtype.block_len();
            for (experts, rows, blocks) in
                [(1, 1, 1), (1, 40, 3), (3, 17, 1), (2, 16, 2), (1, 33, 5)]
            {
                let cols = if block == 1 { 172 * blocks + 1 } else { block * blocks };
                let t = tensor(dtype, [experts, rows, cols], rows as u64);
                let packed = Packed::new(isa, &t).unwrap();
                let mut expected = vec![0.0; t.elements()];
                quant::dequantize(dtype, t.bytes(), &mut expected).unwrap();
                let mut row = vec![0.0; cols];
                for (r, expected) in expected.chunks_exact(cols).enumerate() {
                    packed.gather(r / rows, r % rows, &mut row);
                    for (a, b) in row.iter().zip(expected) {
                        assert_eq!(a.to_bits(), b.to_bits(), "{isa} {dtype} row {r}: {a} {b}");
                    }
                }
            }
        }
    }
}

/// The layout by columns of a tensor.
fn by_columns(isa: Isa, t: &HostTensor) -> Layout {
    Layout::new(isa, t.dtype, [t.experts, t.rows, t.cols]).unwrap().by_columns()
}

/// The same by columns, in chunks of every length; in no more bytes, and part by part.
#[test]
fn columns_hold_the_same_values() {
    for isa in Isa::available() {
        let lanes = by_columns(isa, &tensor(DType::F32, [1, 1, 1], 0)).lanes();
        for dtype in dtypes() {
            let block = dtype.block_len();
            for (experts, groups, blocks) in [(1, 32, 1), (2, 8, 2), (1, 48, 1), (1, 96, 3)] {
                let cols = if block == 1 { 45 * blocks } else { block * blocks };
                let t = tensor(dtype, [experts, groups * lanes, cols], groups as u64);
                let layout = by_columns(isa, &t);
                if layout.granule().is_none() {
                    continue;
                }
                let rows = Packed::new(isa, &t).unwrap();
                let columns = Packed::of(layout.clone(), &t).unwrap();
                let most = rows.bytes().len() + experts * 64;
                assert!(columns.bytes().len() <= most, "{isa} {dtype}");
                let mut expected = vec![0.0; t.elements()];
                quant::dequantize(dtype, t.bytes(), &mut expected).unwrap();
                let mut row = vec![0.0; cols];
                for (r, expected) in expected.chunks_exact(cols).enumerate() {
                    columns.gather(r / t.rows, r % t.rows, &mut row);
                    for (a, b) in row.iter().zip(expected) {
                        assert_eq!(a.to_bits(), b.to_bits(), "{isa} {dtype} row {r}: {a} {b}");
                    }
                }
                let mut apart = Packed::zeroed(layout.clone()).unwrap();
                for (p, out) in apart.bytes_mut().chunks_mut(layout.part_bytes()).enumerate() {
                    layout.pack_parts(&t, p..p + 1, out).unwrap();
                }
                assert!(apart.bytes() == columns.bytes(), "{isa} {dtype}");
            }
        }
    }
}

/// By columns lie what has integers of its own and whole granules of rows: nothing is padded.
#[test]
fn what_lies_by_columns() {
    for isa in Isa::available() {
        let layout = |dtype, rows| Layout::new(isa, dtype, [1, rows, 256]).unwrap().by_columns();
        let lanes = layout(DType::F32, 1).lanes();
        let granules = [
            (DType::F16, Some(4)),
            (DType::Q8_0, Some(4)),
            (DType::Q4_K, Some(8)),
            (DType::Q6_K, Some(16)),
            (DType::Q5_K, Some(32)),
            (DType::IQ4_XS, None),
        ];
        for (dtype, granule) in granules {
            assert_eq!(layout(dtype, 512).granule(), granule, "{isa} {dtype}");
            let n = granule.unwrap_or(4) * lanes;
            assert_eq!(layout(dtype, 3 * n).granule(), granule, "{isa} {dtype}");
            for rows in [0, 1, n - 1, n + 1, n + n / 2] {
                assert!(
                    layout(dtype, rows).granule().is_none() || lanes == 1,
                    "{isa} {dtype} {rows}"
                );
            }
        }
    }
}

/// Two products, the second of what the first left; and a third by the same matrix, of what that gave.
fn products(act: Act, again: bool) -> Program {
    let mut p = Program::new("products");
    let mut x = p.one("x", Op::Read { input: Input::Hidden, width: 512 }).unwrap();
    let [up, down] = ["up", "down"].map(|name| p.tensor(name, 512, 512));
    let all = [("hidden", up, act), ("y", down, Act::None), ("again", down, Act::None)];
    for (name, w, act) in all.into_iter().take(if again { 3 } else { 2 }) {
        let op = Op::Linear { x, w, bias: None, act, scale: 1.0, softcap: None };
        x = p.one(name, op).unwrap();
    }
    p.output(Output::Hidden, x);
    p
}

/// A backend packs by columns what meets zeros in every use, and nothing else; and only formats of a byte
/// or more.
#[test]
fn only_what_meets_zeros_lies_by_columns() {
    let isa = Isa::best();
    let cpu = Cpu::new(CpuOptions { isa, threads: 1, poison: false }).unwrap();
    let [zeros, other, both] =
        [(Act::Relu2, false), (Act::Gelu, false), (Act::Relu, true)].map(|(a, b)| products(a, b));
    let cases: [(&[&Program], bool); 5] = [
        (&[&zeros], true),
        (&[&zeros, &zeros], true),
        (&[&other], false),
        (&[&both], false),
        (&[&zeros, &other], false),
    ];
    for (dtype, pays) in [(DType::F16, true), (DType::Q8_0, true), (DType::Q4_K, false)] {
        let stored = ["up", "down"].map(|name| {
            let mut t = tensor(dtype, [1, 512, 512], name.len() as u64);
            t.name = name.into();
            t
        });
        for (uses, meets) in cases {
            let mut load = |d: &TensorDecl| Ok(stored[usize::from(d.name == "down")].clone());
            let weights = cpu.load(uses, &mut load, &Options::default()).unwrap();
            for (t, meets) in stored.iter().zip([false, meets]) {
                let rows = Packed::new(isa, t).unwrap();
                let columns = Packed::of(by_columns(isa, t), t).unwrap();
                assert!(rows.bytes() != columns.bytes());
                let due = if meets && pays { columns } else { rows };
                assert!(cpu.packed(&weights, &t.name) == Some(due.bytes()), "{dtype} {}", t.name);
            }
        }
    }
}

#[test]
fn packing_is_compact() {
    for isa in Isa::available() {
        for dtype in dtypes() {
            let t = tensor(dtype, [1, 256, 2048], 3);
            let packed = Packed::new(isa, &t).unwrap();
            let ratio = packed.bytes().len() as f64 / t.bytes().len() as f64;
            // Six-bit scales take a byte each: Q4_K grows from 4.5 to 4.625 bits. IQ1_M, whose
            // scale is spread over words of other things, has it twice: 1.75 bits become 1.81.
            let most = if dtype == DType::IQ1_M { 58.0 / 56.0 } else { 1.03 };
            assert!(ratio <= most, "{isa} {dtype}: {ratio}");
            assert_eq!(packed.bytes().as_ptr() as usize % 64, 0);
        }
    }
}

#[test]
fn groups_can_be_packed_apart() {
    for isa in Isa::available() {
        let t = tensor(DType::Q5_K, [3, 37, 512], 5);
        let whole = Packed::new(isa, &t).unwrap();
        let mut parts = Packed::zeroed(whole.layout().clone()).unwrap();
        let layout = whole.layout().clone();
        let total = layout.experts() * layout.groups();
        for (i, out) in parts.bytes_mut().chunks_mut(2 * layout.part_bytes()).enumerate() {
            layout.pack_parts(&t, 2 * i..(2 * i + 2).min(total), out).unwrap();
        }
        assert!(whole.bytes() == parts.bytes(), "{isa}");
    }
}

#[test]
fn impossible_layouts_are_errors() {
    let isa = Isa::Scalar;
    assert!(Layout::new(isa, DType::I32, [1, 1, 1]).is_err());
    assert!(Layout::new(isa, DType::Q4_K, [1, 1, 128]).is_err());
    assert!(Layout::new(isa, DType::F32, [usize::MAX, 2, 2]).is_err());
    assert!(Layout::new(isa, DType::F32, [1, usize::MAX, 1]).is_err());
}
