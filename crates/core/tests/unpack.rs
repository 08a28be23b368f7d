//! Quantized matrices as the packing code of other projects wrote them (`unpack/make.py`), and
//! matrices that cannot be.

use gristmill_core::quant::{self, PackedLayout, PackedMatrix};
use gristmill_core::{DType, Error};

struct Case {
    name: String,
    head: [usize; 6],
    parts: [Vec<u8>; 4],
}

impl Case {
    fn read(path: &std::path::Path) -> Case {
        let bytes = std::fs::read(path).unwrap();
        let head: [usize; 10] = std::array::from_fn(|i| {
            u32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().unwrap()) as usize
        });
        let mut rest = &bytes[40..];
        let parts = [6, 7, 8, 9].map(|i| {
            let (part, more) = rest.split_at(head[i]);
            rest = more;
            part.to_vec()
        });
        assert!(rest.is_empty());
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        Case { name, head: head[..6].try_into().unwrap(), parts }
    }

    fn matrix(&self) -> PackedMatrix<'_> {
        let [layout, bits, rows, cols, group, scale] = self.head;
        use PackedLayout::*;
        PackedMatrix {
            name: &self.name,
            layout: [CompressedTensors, Gptq, GptqV2, Awq][layout],
            bits,
            rows,
            cols,
            group: (group > 0).then_some(group),
            weights: &self.parts[0],
            scales: &self.parts[1],
            scale_type: [DType::F16, DType::BF16, DType::F32][scale],
            zeros: (!self.parts[2].is_empty()).then_some(&self.parts[2]),
        }
    }
}

fn cases() -> Vec<Case> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/unpack");
    let files = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    files.filter(|p| p.extension().is_some_and(|e| e == "bin")).map(|p| Case::read(&p)).collect()
}

#[test]
fn values_are_those_of_the_file() {
    let cases = cases();
    assert_eq!(cases.len(), 10);
    for case in cases {
        let (dtype, rows) = case.matrix().rows().unwrap();
        let mut values = vec![0.0; case.head[2] * case.head[3]];
        quant::dequantize(dtype, &rows, &mut values).unwrap();
        for (i, (v, e)) in values.iter().zip(case.parts[3].as_chunks::<4>().0).enumerate() {
            let e = f32::from_le_bytes(*e);
            assert_eq!(*v, e, "{} element {i}", case.name);
        }
    }
}

#[test]
fn blocks_are_as_long_as_groups_allow() {
    let expected = [
        ("ct_w4_g128", DType::I4_128_F32),
        ("ct_w4_g32_zeros", DType::I4_32_F16),
        ("ct_w8_row", DType::I8_64_F16),
        ("ct_w2_g64_zeros", DType::I2_64_F32),
        ("ct_w1_g32", DType::I1_32_F16),
        ("gptq_w4_g64", DType::I4_64_F16),
        ("gptq_v2_w4_g64", DType::I4_64_F16),
        ("gptq_w8_g128", DType::I8_128_F16),
        ("gptq_w2_g32", DType::I2_32_F16),
        ("awq_w4_g64", DType::I4_64_F16),
    ];
    for case in cases() {
        let (_, dtype) = expected.iter().find(|e| e.0 == case.name).unwrap();
        assert_eq!(case.matrix().rows().unwrap().0, *dtype, "{}", case.name);
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    for case in cases() {
        let whole = case.matrix();
        let refused = |m: PackedMatrix<'_>, why: &str| match m.rows() {
            Err(e @ Error::Model { .. }) => {
                let text = e.to_string();
                assert!(text.contains(m.name) && text.contains(why), "{text}");
            }
            other => panic!("{}: {why}: {:?}", m.name, other.map(|o| o.0)),
        };
        refused(PackedMatrix { bits: 3, ..whole }, "3 bits");
        refused(PackedMatrix { bits: 0, ..whole }, "0 bits");
        refused(PackedMatrix { rows: 0, ..whole }, "0 rows");
        refused(PackedMatrix { rows: whole.rows + 32, ..whole }, "bytes of");
        refused(PackedMatrix { rows: usize::MAX / 2, ..whole }, "bytes of");
        refused(PackedMatrix { cols: whole.cols * 128, group: Some(128), ..whole }, "bytes of");
        refused(PackedMatrix { group: Some(48), ..whole }, "groups of 48");
        refused(PackedMatrix { group: Some(0), ..whole }, "groups of 0");
        refused(PackedMatrix { cols: 33, group: None, ..whole }, "groups of 33");
        refused(PackedMatrix { weights: &whole.weights[1..], ..whole }, "bytes of weights");
        refused(PackedMatrix { scales: &[], ..whole }, "bytes of scales");
        refused(PackedMatrix { scale_type: DType::I32, ..whole }, "scales in I32");
        refused(PackedMatrix { zeros: Some(&[0; 2]), ..whole }, "bytes of zeros");
        if whole.layout != PackedLayout::CompressedTensors {
            refused(PackedMatrix { zeros: None, ..whole }, "no qzeros");
        }
        if whole.bits == 8 && whole.layout == PackedLayout::Gptq {
            let zeros = vec![0x7e; whole.zeros.unwrap().len()];
            refused(PackedMatrix { zeros: Some(&zeros), ..whole }, "symmetric");
        }
    }
}
