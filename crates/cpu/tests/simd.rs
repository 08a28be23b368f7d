//! Every operation of the vocabulary on every instruction set this machine has, against plain
//! arithmetic on one number at a time.

use gristmill_cpu::simd::{Isa, Simd, WithSimd, byte_in_column, math};
use half::{bf16, f16};

/// The instruction sets of this machine; of them those that `GRISTMILL_TEST_SETS` names, if it does
/// (`best`: the one that would be chosen).
fn sets() -> impl Iterator<Item = Isa> {
    let names = std::env::var("GRISTMILL_TEST_SETS").unwrap_or_default();
    Isa::available().filter(move |isa| {
        let named = |n: &str| n == isa.name() || n == "best" && *isa == Isa::best();
        names.is_empty() || names.split(',').any(named)
    })
}

/// Values of every kind: ordinary, tiny, huge, ties, and the special ones.
fn samples() -> Vec<f32> {
    let mut v = vec![0.0, -0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 65504.0, 65520.0, 1e-8, 6e-8, -3e38];
    v.extend([f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MIN_POSITIVE, 1e-42, 3.4e38]);
    let mut state = 7u64;
    while v.len() < 4096 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        v.push(f32::from_bits((state >> 32) as u32));
        v.push(((state >> 40) as f32 / 65536.0 - 128.0) * 0.37);
    }
    v.truncate(4096);
    v
}

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

/// Applies a two-operand operation to all of `a` and `b`.
struct Map<'a, F>(&'a [f32], &'a [f32], F);
trait Op {
    fn apply<S: Simd>(&self, s: S, a: S::F32, b: S::F32) -> S::F32;
}
impl<F: Op> WithSimd for Map<'_, F> {
    type Output = Vec<f32>;
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) -> Vec<f32> {
        let mut out = vec![0.0; self.0.len()];
        for i in (0..out.len()).step_by(S::LANES) {
            // SAFETY: the lengths are equal and multiples of every LANES.
            unsafe {
                let (a, b) = (s.load(self.0.as_ptr().add(i)), s.load(self.1.as_ptr().add(i)));
                s.store(out.as_mut_ptr().add(i), self.2.apply(s, a, b));
            }
        }
        out
    }
}

macro_rules! check {
    ($name:literal, |$s:ident, $a:ident, $b:ident| $simd:expr, $plain:expr) => {{
        struct F;
        impl Op for F {
            #[inline(always)]
            fn apply<S: Simd>(&self, $s: S, $a: S::F32, $b: S::F32) -> S::F32 {
                $simd
            }
        }
        let x = samples();
        let y: Vec<f32> = x.iter().rev().copied().collect();
        for isa in sets() {
            let out = isa.vectorize(Map(&x, &y, F)).unwrap();
            for (i, &o) in out.iter().enumerate() {
                let ($a, $b) = (x[i], y[i]);
                let e: f32 = $plain;
                assert!(same(o, e), "{isa} {}({}, {}): {o} instead of {e}", $name, $a, $b);
            }
        }
    }};
}

#[test]
fn arithmetic() {
    check!("add", |s, a, b| s.add(a, b), a + b);
    check!("sub", |s, a, b| s.sub(a, b), a - b);
    check!("mul", |s, a, b| s.mul(a, b), a * b);
    check!("div", |s, a, b| s.div(a, b), a / b);
    check!("min", |s, a, b| s.min(a, b), if a < b { a } else { b });
    check!("max", |s, a, b| s.max(a, b), if a > b { a } else { b });
    check!("sqrt", |s, a, _b| s.sqrt(a), a.sqrt());
    check!("abs", |s, a, _b| s.abs(a), a.abs());
    check!("copysign", |s, a, b| s.copysign(a, b), a.copysign(b));
    check!("select_lt", |s, a, b| s.select_lt(a, b, b, a), if a < b { b } else { a });
    check!("round", |s, a, _b| s.round(a), a.round_ties_even());
}

/// Loads, stores, tails, horizontal operations and conversions at one instruction set.
struct Memory<'a>(&'a [f32]);
impl WithSimd for Memory<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let x = self.0;
        for at in (0..x.len() - S::LANES).step_by(S::LANES) {
            let x = &x[at..at + S::LANES];
            let (h, b): (Vec<f16>, Vec<bf16>) =
                x.iter().map(|&v| (f16::from_f32(v), bf16::from_f32(v))).unzip();
            for n in 0..=S::LANES {
                let mut out = [[77.0f32; 17]; 3];
                let mut half = [f16::ONE; 17];
                let mut brain = [bf16::ONE; 17];
                // SAFETY: every pointer is to at least `n` elements, `n <= LANES <= 16`.
                unsafe {
                    s.store_n(out[0].as_mut_ptr(), n, s.load_n(x.as_ptr(), n));
                    s.store(out[1].as_mut_ptr(), s.load_f16_n(h.as_ptr(), n));
                    s.store(out[2].as_mut_ptr(), s.load_bf16_n(b.as_ptr(), n));
                    s.store_f16_n(half.as_mut_ptr(), n, s.load(x.as_ptr()));
                    s.store_bf16_n(brain.as_mut_ptr(), n, s.load(x.as_ptr()));
                    if n == S::LANES {
                        s.store(out[0].as_mut_ptr(), s.load(x.as_ptr()));
                        s.store(out[1].as_mut_ptr(), s.load_f16(h.as_ptr()));
                        s.store(out[2].as_mut_ptr(), s.load_bf16(b.as_ptr()));
                        s.store_f16(half.as_mut_ptr(), s.load(x.as_ptr()));
                        s.store_bf16(brain.as_mut_ptr(), s.load(x.as_ptr()));
                    }
                }
                for i in 0..17 {
                    let name = S::ISA;
                    let e = if i < n { x[i] } else { 77.0 };
                    assert!(same(out[0][i], e), "{name} f32 {n} {i}");
                    if i < S::LANES {
                        let e = if i < n { h[i].to_f32() } else { 0.0 };
                        assert!(same(out[1][i], e), "{name} load f16 {n} {i} {} {e}", out[1][i]);
                        let e = if i < n { b[i].to_f32() } else { 0.0 };
                        assert!(same(out[2][i], e), "{name} load bf16 {n} {i}");
                    }
                    let e = if i < n { h[i] } else { f16::ONE };
                    assert!(same(half[i].to_f32(), e.to_f32()), "{name} store f16 {n} {i}");
                    let e = if i < n { b[i] } else { bf16::ONE };
                    assert!(same(brain[i].to_f32(), e.to_f32()), "{name} store bf16 {n} {i}");
                }
            }
            let small: Vec<f32> =
                (0..S::LANES).map(|i| ((at + 37 * i) % 255) as f32 - 127.0).collect();
            let bytes: Vec<i8> = small.iter().map(|&v| v as i8).collect();
            let mut words = [0i32; 16];
            let mut back = [0.0f32; 32];
            // SAFETY: all arrays hold LANES elements.
            unsafe {
                let v = s.load(small.as_ptr());
                assert_eq!(s.sum(v), small.iter().sum::<f32>());
                assert_eq!(s.max_across(v), small.iter().copied().fold(-1e9, f32::max));
                s.bytes_store(words.as_mut_ptr().cast(), s.words_of(v));
                s.store(back.as_mut_ptr(), s.load_i8(bytes.as_ptr()));
                s.store(back.as_mut_ptr().add(16), s.load_u8(bytes.as_ptr().cast()));
                let pairs = [0.5, 1.5, 2.5, 3.5];
                for n in (1..=pairs.len()).filter(|n| S::LANES == 1 || n % 2 == 0) {
                    let n = n.min(S::LANES);
                    let mut swapped = [0.0f32; 16];
                    s.store(swapped.as_mut_ptr(), s.load_swapped(pairs.as_ptr(), 0, n));
                    let due = [1.5, 0.5, 3.5, 2.5];
                    assert!((0..S::LANES).all(|l| swapped[l] == if l < n { due[l] } else { 0.0 }));
                }
            }
            for i in 0..S::LANES {
                assert_eq!(words[i] as f32, small[i]);
                assert_eq!(back[i], small[i]);
                assert_eq!(back[16 + i], f32::from(bytes[i] as u8));
            }
        }
    }
}

#[test]
fn memory_and_conversions() {
    for isa in sets() {
        isa.vectorize(Memory(&samples())).unwrap();
    }
}

/// Every f16 and every bf16 widened, and narrowed again from itself, from the middle to the next,
/// and from beside both.
struct Halves;
impl WithSimd for Halves {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        for bits in (0..=u16::MAX).step_by(16) {
            let mut from = [0u16; 16];
            from.iter_mut().zip(bits..=u16::MAX).for_each(|(f, bits)| *f = bits);
            for at in (0..16).step_by(S::LANES) {
                let mut wide = [[0.0f32; 16]; 2];
                // SAFETY: LANES elements from `at` on, since LANES divides 16.
                unsafe {
                    s.store(wide[0].as_mut_ptr(), s.load_f16(from.as_ptr().add(at).cast()));
                    s.store(wide[1].as_mut_ptr(), s.load_bf16(from.as_ptr().add(at).cast()));
                }
                for (l, &bits) in from[at..at + S::LANES].iter().enumerate() {
                    let e = [f16::from_bits(bits).to_f32(), bf16::from_bits(bits).to_f32()];
                    for (wide, e) in wide.iter().zip(e) {
                        assert!(same(wide[l], e), "{} {bits:#06x}: {} not {e}", S::ISA, wide[l]);
                    }
                }
            }
            for bits in from {
                let numbers = [
                    f32::from(f16::from_bits(bits)).to_bits(),
                    // Halfway to the next f16, in the units of a subnormal one or not.
                    match bits & 0x7fff {
                        0..0x400 => ((f32::from(bits & 0x3ff) + 0.5) / 16_777_216.0).to_bits(),
                        _ => f32::from(f16::from_bits(bits)).to_bits() + 0x1000,
                    },
                    u32::from(bits) << 16,
                    u32::from(bits) << 16 | 0x8000,
                ];
                let x: [f32; 16] = std::array::from_fn(|i| {
                    f32::from_bits(numbers[i / 4].wrapping_add(i as u32 % 4).wrapping_sub(1))
                });
                for at in (0..16).step_by(S::LANES) {
                    let (mut half, mut brain) = ([f16::ONE; 16], [bf16::ONE; 16]);
                    // SAFETY: LANES elements from `at` on, since LANES divides 16.
                    unsafe {
                        let v = s.load(x.as_ptr().add(at));
                        s.store_f16(half.as_mut_ptr(), v);
                        s.store_bf16(brain.as_mut_ptr(), v);
                    }
                    for (l, &x) in x[at..at + S::LANES].iter().enumerate() {
                        let (h, b) = (f16::from_f32(x), bf16::from_f32(x));
                        let name = S::ISA;
                        assert!(same(half[l].to_f32(), h.to_f32()), "{name} {x:e} {:?}", half[l]);
                        assert!(same(brain[l].to_f32(), b.to_f32()), "{name} {x:e} {:?}", brain[l]);
                    }
                }
            }
        }
    }
}

#[test]
fn every_half_is_converted_exactly() {
    for isa in sets() {
        isa.vectorize(Halves).unwrap();
    }
}

/// Exactness of the integer products at every pair of values, and the byte operations.
struct Integers;
impl WithSimd for Integers {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let n = 4 * S::LANES;
        let value = |a: S::I32| {
            let mut out = [0.0f32; 16];
            // SAFETY: 16 >= LANES.
            unsafe { s.store(out.as_mut_ptr(), s.i32_to_f32(a)) };
            out
        };
        for x0 in -127i32..=127 {
            for w0 in -128i32..=127 {
                // All four products extreme together is where 16-bit pair sums would saturate.
                let other = if (x0 + w0) % 3 == 0 { (w0, x0) } else { (-w0 / 2, -x0) };
                let x: [i32; 4] = [x0, x0, other.1, x0];
                let x4 = x.map(|v| v as i8 as u8);
                #[repr(align(4))]
                struct Aligned([u8; 4]);
                let x4 = Aligned(x4);
                let row = |r: usize| [w0, w0, other.0, (w0 ^ r as i32).clamp(-128, 127)];
                let signed: Vec<u8> =
                    (0..n).map(|i| (row(i / 4)[i % 4] + S::S8_BIAS) as u8).collect();
                let unsigned: Vec<u8> = (0..n).map(|i| (row(i / 4)[i % 4] & 127) as u8).collect();
                // SAFETY: the vectors hold 4 * LANES bytes, and x4 is four aligned bytes.
                let (a, b) = unsafe {
                    let x = s.bytes_broadcast(x4.0.as_ptr());
                    (
                        value(s.mma_s8(s.i32_zero(), s.bytes_load(signed.as_ptr()), x)),
                        value(s.mma_u7(s.i32_zero(), s.bytes_load(unsigned.as_ptr()), x)),
                    )
                };
                for r in 0..S::LANES {
                    let dot: i32 = (0..4).map(|i| (row(r)[i] + S::S8_BIAS) * x[i]).sum();
                    assert_eq!(a[r], dot as f32, "{} s8 w {:?} x {x:?}", S::ISA, row(r));
                    let dot: i32 = (0..4).map(|i| (row(r)[i] & 127) * x[i]).sum();
                    assert_eq!(b[r], dot as f32, "{} u7 w {:?} x {x:?}", S::ISA, row(r));
                }
            }
        }
        // Two fragments by two tokens, on top of what the accumulators held.
        #[repr(align(4))]
        struct Tokens([[u8; 8]; 2]);
        let mut state = 5u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as i32
        };
        for round in 0..2000 {
            let mut pick = |least: i32| match round {
                0 => least,
                1 => 127,
                _ => next().rem_euclid(128 - least) + least,
            };
            let w: [Vec<i32>; 2] = std::array::from_fn(|_| (0..n).map(|_| pick(-128)).collect());
            let x: [[i32; 8]; 2] = std::array::from_fn(|_| std::array::from_fn(|_| pick(-127)));
            let before = [[1000 + round], [-70_000]];
            let packed = w
                .each_ref()
                .map(|w| -> Vec<u8> { w.iter().map(|w| (w + S::S8_BIAS) as u8).collect() });
            let tokens = Tokens(x.map(|x| x.map(|v| v as i8 as u8)));
            // SAFETY: fragments of 4 * LANES bytes, eight aligned bytes, and aligned integers.
            let pair = unsafe {
                let acc = before.each_ref().map(|b| s.i32_broadcast(b.as_ptr()));
                let w = packed.each_ref().map(|w| s.bytes_load(w.as_ptr()));
                let x = tokens.0.each_ref().map(|x| x.as_ptr());
                s.dots_of_pair(s.mma_pair(s.dots_in_pair(acc), w, x))
            };
            for (t, dots) in pair.map(value).iter().enumerate() {
                for r in 0..S::LANES {
                    let sum: i32 = (0..8)
                        .map(|i| (w[i / 4][4 * r + i % 4] + S::S8_BIAS) * x[i / 4][4 * t + i % 4])
                        .sum();
                    assert_eq!(dots[r], (sum + before[t][0]) as f32, "{} pair {r} {t}", S::ISA);
                }
            }
        }
        let bytes: Vec<u8> = (0..n).map(|i| (i * 89 + 7) as u8).collect();
        let other: Vec<u8> = (0..n).map(|i| (i * 31 + 3) as u8).collect();
        // SAFETY: vectors of 4 * LANES bytes, arrays of 64.
        unsafe {
            let (a, b) = (s.bytes_load(bytes.as_ptr()), s.bytes_load(other.as_ptr()));
            let get = |v: S::Bytes| {
                let mut out = [0u8; 64];
                s.bytes_store(out.as_mut_ptr(), v);
                out
            };
            let (and, xor, or) =
                (get(s.bytes_and(a, 0x35)), get(s.bytes_xor(a, 0x80)), get(s.bytes_or(a, b)));
            let (shl, shr) = (get(s.bytes_shl(a, 3)), get(s.bytes_shr(a, 5)));
            for i in 0..n {
                assert_eq!(and[i], bytes[i] & 0x35);
                assert_eq!(xor[i], bytes[i] ^ 0x80);
                assert_eq!(or[i], bytes[i] | other[i]);
                assert_eq!(shl[i] & 0xf8, bytes[i] << 3 & 0xf8);
                assert_eq!(shr[i] & 7, bytes[i] >> 5);
            }
            for i in 0..4 {
                let mut out = [0.0f32; 16];
                s.store(out.as_mut_ptr(), s.bytes_lane(a, i as u32));
                for r in 0..S::LANES {
                    assert_eq!(out[r], f32::from(bytes[4 * r + i]));
                }
            }
            let columns: [Vec<u8>; 4] =
                std::array::from_fn(|j| (0..n).map(|i| (i * 37 + j * 101 + 5) as u8).collect());
            let quads = s.bytes_quads(columns.each_ref().map(|c| s.bytes_load(c.as_ptr())));
            let mut taken = vec![false; n];
            for (i, quad) in quads.map(get).iter().enumerate() {
                for row in 0..S::LANES {
                    let at = byte_in_column(S::LANES, i, row);
                    let expected = columns.each_ref().map(|c| c[at]);
                    assert_eq!(quad[4 * row..][..4], expected, "{} group {i} row {row}", S::ISA);
                    assert!(!std::mem::replace(&mut taken[at], true), "{} byte {at}", S::ISA);
                }
            }
            let seed = [-12345i32];
            let shifted = value(s.i32_shl(s.i32_broadcast(seed.as_ptr()), 7));
            assert!(shifted[..S::LANES].iter().all(|&v| v == -12345.0 * 128.0));
        }
    }
}

/// Operations on fragments as words and as bytes.
struct Fragments;
impl WithSimd for Fragments {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        static ONE: [[u32; 1]; 256] = {
            let mut t = [[0; 1]; 256];
            let mut i = 0;
            while i < 256 {
                t[i] = [(i * i) as u32 ^ 0x8000_0001];
                i += 1;
            }
            t
        };
        static TWO: [[u32; 2]; 8] =
            [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10], [11, 12], [13, 14], [15, u32::MAX]];
        let table: [u8; 16] = std::array::from_fn(|i| ((i * 17) ^ 0xa5) as u8);
        let mut state = 3u64;
        for n in 0..200u32 {
            let [a, b]: [[u32; 16]; 2] = std::array::from_fn(|_| {
                std::array::from_fn(|_| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
                    (state >> 32) as u32
                })
            });
            let check = |name: &str, got: S::Bytes, expected: &dyn Fn(usize) -> u32| {
                let mut out = [0u32; 16];
                // SAFETY: a fragment is at most sixteen words.
                unsafe { s.bytes_store(out.as_mut_ptr().cast(), got) };
                for l in 0..S::LANES {
                    assert_eq!(out[l], expected(l), "{} {name} of {:#x} {:#x}", S::ISA, a[l], b[l]);
                }
            };
            // SAFETY: as above.
            let (x, y) =
                unsafe { (s.bytes_load(a.as_ptr().cast()), s.bytes_load(b.as_ptr().cast())) };
            check("splat", s.words_splat(a[0]), &|_| a[0]);
            let few: [u8; 16] = std::array::from_fn(|l| a[l] as u8);
            // SAFETY: sixteen bytes.
            check("bytes", unsafe { s.words_load_u8(few.as_ptr()) }, &|l| a[l] & 255);
            check("and", s.words_and(x, b[0]), &|l| a[l] & b[0]);
            check("xor", s.words_xor(x, y), &|l| a[l] ^ b[l]);
            check("add", s.words_add(x, y), &|l| a[l].wrapping_add(b[l]));
            check("sub", s.words_sub(x, y), &|l| a[l].wrapping_sub(b[l]));
            check("mul", s.words_mul(x, b[0]), &|l| a[l].wrapping_mul(b[0]));
            check("shl", s.words_shl(x, n % 32), &|l| a[l] << (n % 32));
            check("shr", s.words_shr(x, n % 32), &|l| a[l] >> (n % 32));
            check("lookup", s.words_lookup(&ONE, x, 0), &|l| ONE[a[l] as usize % 256][0]);
            let part = n as usize % 2;
            check("lookup", s.words_lookup(&TWO, x, part), &|l| TWO[a[l] as usize % 8][part]);
            let nibbles = s.words_and(x, 0x0f0f_0f0f);
            check("bytes", s.bytes_lookup(&table, nibbles), &|l| {
                u32::from_le_bytes(a[l].to_le_bytes().map(|b| table[usize::from(b % 16)]))
            });
        }
    }
}

#[test]
fn fragments_as_words() {
    for isa in sets() {
        isa.vectorize(Fragments).unwrap();
    }
}

#[test]
fn integer_products_are_exact() {
    for isa in sets() {
        isa.vectorize(Integers).unwrap();
    }
}

/// Largest error of a function over a sweep: (relative to the value, relative to max(1, |x|)).
fn sweep<F: Op + Copy>(isa: Isa, f: F, low: f32, high: f32, truth: fn(f64) -> f64) -> (f64, f64) {
    const N: usize = 1 << 18;
    let x: Vec<f32> =
        (0..N).map(|i| (low + (high - low) * (i as f32 / (N - 1) as f32)).min(high)).collect();
    let out = isa.vectorize(Map(&x, &x, f)).unwrap();
    let mut worst = (0.0f64, 0.0f64);
    for (&x, &y) in x.iter().zip(&out) {
        let t = truth(x.into());
        let e = (f64::from(y) - t).abs();
        worst.0 = worst.0.max(if t == 0.0 { e } else { e / t.abs() });
        worst.1 = worst.1.max(e / f64::from(x.abs()).max(1.0));
        assert!(!e.is_nan(), "{isa}: {y} at {x}");
    }
    worst
}

/// erf to 1e-12 or better: its Taylor series, or the continued fraction of erfc for large z.
fn erf(z: f64) -> f64 {
    if z.abs() > 3.0 {
        let a = z.abs();
        let mut f = a;
        for k in (1..200).rev() {
            f = a + (f64::from(k) / 2.0) / f;
        }
        return (1.0 - (-a * a).exp() / (f * std::f64::consts::PI.sqrt())).copysign(z);
    }
    let (mut sum, mut term) = (0.0, z);
    for k in 0..200 {
        sum += term / f64::from(2 * k + 1);
        term *= -z * z / f64::from(k + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

macro_rules! function {
    ($name:ident) => {{
        #[derive(Clone, Copy)]
        struct F;
        impl Op for F {
            #[inline(always)]
            fn apply<S: Simd>(&self, s: S, a: S::F32, _: S::F32) -> S::F32 {
                math::$name(s, a)
            }
        }
        F
    }};
}

#[test]
fn functions_within_their_stated_errors() {
    let gelu = |x: f64| 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2));
    let gelu_tanh = |x: f64| {
        0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
    };
    for isa in sets() {
        let e = sweep(isa, function!(exp), math::EXP_MIN, math::EXP_MAX, f64::exp);
        assert!(e.0 < 3e-7, "{isa} exp {e:?}");
        let e = sweep(isa, function!(exp), -1.0, 1.0, f64::exp);
        assert!(e.0 < 3e-7, "{isa} exp {e:?}");
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let e = sweep(isa, function!(sigmoid), -80.0, 80.0, sigmoid);
        assert!(e.0 < 5e-7, "{isa} sigmoid {e:?}");
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let e = sweep(isa, function!(silu), -80.0, 80.0, silu);
        assert!(e.0 < 5e-7, "{isa} silu {e:?}");
        for bound in [0.6, 3.0, 100.0] {
            let e = sweep(isa, function!(tanh), -bound, bound, f64::tanh);
            assert!(e.0 < 1e-6, "{isa} tanh {e:?}");
        }
        for bound in [1.0, 10.0, 1000.0] {
            let e = sweep(isa, function!(gelu_tanh), -bound, bound, gelu_tanh);
            assert!(e.1 < 2e-6, "{isa} gelu_tanh {e:?}");
            let e = sweep(isa, function!(gelu_erf), -bound, bound, gelu);
            assert!(e.1 < 2e-6, "{isa} gelu_erf {e:?}");
        }
    }
}

#[test]
fn tails_are_safe() {
    let x = [-f32::INFINITY, -3e38, -1e4, -88.0, 89.0, 1e4, 3e38, f32::INFINITY];
    let x: Vec<f32> = x.iter().chain(&x).copied().collect();
    for isa in sets() {
        let exp = isa.vectorize(Map(&x, &x, function!(exp))).unwrap();
        assert_eq!(&exp[..4], &[0.0; 4]);
        assert_eq!(&exp[4..8], &[f32::INFINITY; 4]);
        let sigmoid = isa.vectorize(Map(&x, &x, function!(sigmoid))).unwrap();
        assert!(sigmoid[..4].iter().all(|&v| (0.0..1e-37).contains(&v)), "{sigmoid:?}");
        assert_eq!(&sigmoid[4..8], &[1.0; 4]);
        for f in [
            isa.vectorize(Map(&x, &x, function!(silu))).unwrap(),
            isa.vectorize(Map(&x, &x, function!(gelu_tanh))).unwrap(),
            isa.vectorize(Map(&x, &x, function!(gelu_erf))).unwrap(),
        ] {
            // Finite inputs: nothing on the left, the identity on the right.
            assert!(f[1..4].iter().all(|&v| v.abs() < 1e-35), "{isa} {f:?}");
            assert_eq!(&f[4..8], &x[4..8]);
        }
        let nan = isa.vectorize(Map(&[f32::NAN; 16], &[0.0; 16], function!(exp))).unwrap();
        assert!(nan.iter().all(|v| v.is_nan()));
    }
}

/// Elements that no instruction set knows go lane by lane, rounded like any other.
struct AnyElement;
impl WithSimd for AnyElement {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        use gristmill_cpu::kernels::stored::Stored;
        let x: [f32; 16] = std::array::from_fn(|i| i as f32 * 20.25 - 150.5);
        for n in 0..=S::LANES {
            let (mut wide, mut narrow) = ([7.0f64; 17], [7i8; 17]);
            let mut back = [[0.0f32; 16]; 2];
            // SAFETY: every array has at least `n <= LANES <= 16` elements.
            unsafe {
                f64::store_n(s, wide.as_mut_ptr(), n, s.load(x.as_ptr()));
                i8::store_n(s, narrow.as_mut_ptr(), n, s.load(x.as_ptr()));
                s.store(back[0].as_mut_ptr(), f64::load_n(s, wide.as_ptr(), n));
                s.store(back[1].as_mut_ptr(), i8::load_n(s, narrow.as_ptr(), n));
            }
            for i in 0..17 {
                let (v, w) = if i < n {
                    // Ties to even, and saturating.
                    (f64::from(x[i]), x[i].round_ties_even().clamp(-128.0, 127.0) as i8)
                } else {
                    (7.0, 7)
                };
                assert_eq!((wide[i], narrow[i]), (v, w), "{} {n} {i}", S::ISA);
                if i < S::LANES {
                    let e = if i < n { [v as f32, f32::from(w)] } else { [0.0; 2] };
                    assert_eq!([back[0][i], back[1][i]], e, "{} {n} {i}", S::ISA);
                }
            }
        }
    }
}

#[test]
fn any_element_can_be_stored() {
    for isa in sets() {
        isa.vectorize(AnyElement).unwrap();
    }
}
