//! Philox 4x32-10: random numbers that are a function of a key and a counter.
//!
//! Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011). There is no state to carry,
//! so a token's noise depends only on the seed and its place in its sequence: the same alone and in
//! a batch, on every device.

use std::f64::consts::PI;

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Four independent uniform words for this key and counter.
#[inline]
pub fn philox(key: u64, counter: [u32; 4]) -> [u32; 4] {
    let mut k = [key as u32, (key >> 32) as u32];
    let mut c = counter;
    for _ in 0..10 {
        let product = |i: usize, v: u32| u64::from(MULTIPLIERS[i]) * u64::from(v);
        let (a, b) = (product(0, c[0]), product(1, c[2]));
        c = [(b >> 32) as u32 ^ c[1] ^ k[0], b as u32, (a >> 32) as u32 ^ c[3] ^ k[1], a as u32];
        k = [k[0].wrapping_add(WEYL[0]), k[1].wrapping_add(WEYL[1])];
    }
    c
}

/// A word as a number strictly between 0 and 1, one of 2^32.
#[inline]
pub fn unit_f64(word: u32) -> f64 {
    (f64::from(word) + 0.5) / 4_294_967_296.0
}

/// Four independent standard normal numbers for this key and counter: the first two words and the
/// last two, each pair by Box and Muller (1958), the cosine before the sine.
#[inline]
pub fn normals(key: u64, counter: [u32; 4]) -> [f64; 4] {
    let [a, b, c, d] = philox(key, counter).map(unit_f64);
    let pair = |u: f64, v: f64| {
        let radius = (-2.0 * u.ln()).sqrt();
        let (sin, cos) = (2.0 * PI * v).sin_cos();
        [radius * cos, radius * sin]
    };
    let ([a, b], [c, d]) = (pair(a, b), pair(c, d));
    [a, b, c, d]
}

/// A word as a number strictly between 0 and 1, one of 2^23.
#[inline]
pub fn unit(word: u32) -> f32 {
    ((word >> 9) as f32 + 0.5) / (1u32 << 23) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers published with the reference implementation (Random123, `kat_vectors`).
    #[test]
    fn known_answers() {
        assert_eq!(philox(0, [0; 4]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(
            philox(u64::MAX, [u32::MAX; 4]),
            [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]
        );
        assert_eq!(
            philox(0x299f31d0_a4093822, [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn unit_stays_inside() {
        assert!(unit(0) > 0.0 && unit(u32::MAX) < 1.0);
        assert!(unit_f64(0) > 0.0 && unit_f64(u32::MAX) < 1.0);
    }
}
