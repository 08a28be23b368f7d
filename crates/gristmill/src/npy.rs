//! Arrays of f32 as `.npy`, the format of NumPy.
//!
//! Version 1.0: `\x93NUMPY`, two version bytes, the header's length as `u16`, then a Python
//! dictionary as text, padded with spaces and a line feed so that the data begins at a multiple of
//! 64, then the numbers, little-endian, the last dimension fastest.

/// The bytes before the numbers of an f32 array of this shape.
pub fn header(shape: &[usize]) -> Vec<u8> {
    let mut dims: String = shape.iter().map(|n| format!("{n}, ")).collect();
    if shape.len() > 1 {
        dims.truncate(dims.len() - 2);
    }
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({dims}), }}");
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    let padded = (out.len() + 2 + text.len() + 1).next_multiple_of(64);
    out.extend_from_slice(&((padded - 10) as u16).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    out.resize(padded - 1, b' ');
    out.push(b'\n');
    out
}

/// The bytes of numbers, which come after the header.
pub fn values(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_whole_lines_of_64() {
        for (shape, text) in [(&[3][..], "(3, )"), (&[3, 2048][..], "(3, 2048)")] {
            let h = header(shape);
            assert!(h.len().is_multiple_of(64) && h.ends_with(b"\n"));
            assert_eq!(usize::from(u16::from_le_bytes([h[8], h[9]])) + 10, h.len());
            assert!(String::from_utf8_lossy(&h).contains(text), "{}", String::from_utf8_lossy(&h));
        }
    }
}
