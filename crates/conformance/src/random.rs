//! A seeded generator of test data: SplitMix64 (Steele, Lea and Flood 2014).

use crate::scalar::Rounded;

/// The same seed gives the same data on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66_D1CE_4E5B)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform below `n`.
    pub fn below(&mut self, n: u32) -> u32 {
        (self.unit() * f64::from(n)) as u32
    }

    /// Standard normal (Box and Muller 1958).
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        (radius * (2.0 * std::f64::consts::PI * self.unit()).cos()) as f32
    }

    /// `n` standard normal numbers.
    pub fn normals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }

    /// `n` token ids below `vocab`.
    pub fn ids(&mut self, n: usize, vocab: u32) -> Vec<u32> {
        (0..n).map(|_| self.below(vocab)).collect()
    }

    /// Brings a list into random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i as u32 + 1) as usize);
        }
    }

    /// Rows for a matmul whose activations become int8 blocks of 32: normal numbers, none of which
    /// lies so near the middle between two integers, and no block so near the choice between two
    /// roundings, that the last bit of an f32 decides.
    pub fn rows_off_ties(&mut self, n: usize) -> Vec<f32> {
        (0..n).step_by(32).flat_map(|i| self.block_off_ties(32.min(n - i))).collect()
    }

    fn block_off_ties(&mut self, n: usize) -> Vec<f32> {
        loop {
            let x = self.normals(n);
            let exact: Vec<f64> = x.iter().map(|&v| v.into()).collect();
            if off_ties(&exact) {
                return x;
            }
        }
    }

    /// Rows of which about a `share` is above zero, and of which that holds for `max(x, 0)²`.
    pub fn rows_above_zero(&mut self, n: usize, share: f64) -> Vec<f32> {
        let block = |i| loop {
            let mut x = self.normals(32.min(n - i));
            for v in &mut x {
                *v = if self.unit() < share { v.abs() } else { -v.abs() };
            }
            let squares: Vec<f64> = x.iter().map(|&v| f64::from(v.max(0.0)).powi(2)).collect();
            // One number alone is the same however it is rounded.
            if squares.iter().filter(|v| **v > 0.0).count() < 2 || off_ties(&squares) {
                break x;
            }
        };
        (0..n).step_by(32).flat_map(block).collect()
    }
}

/// Whether no last bit decides how a block of activations is rounded.
fn off_ties(x: &[f64]) -> bool {
    let rounded = Rounded::of(x);
    let step = x.iter().fold(0.0f64, |m, v| m.max(v.abs())) / rounded.top;
    let off_ties = x.iter().all(|v| ((v / step).abs().fract() - 0.5).abs() > 1e-4);
    off_ties && rounded.lead > 1e-3
}
