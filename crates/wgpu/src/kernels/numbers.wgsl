// Functions of one number, with errors that the built-in ones do not promise, and the three types
// that keys and values are stored in.

// e^x to 2e-7 where it is a normal number, 0 below and infinite above: 2^n e^r with |r| <= ln 2 / 2.
fn exp_(x: f32) -> f32 {
    if x < -87.33 { return 0.0; }
    let y = min(x, 88.37);
    let n = round(y * 1.44269504);
    let r = fma(n, 2.1219444e-4, fma(n, -0.693359375, y));
    let e = 1.0 + r * (1.0 + r * (0.5 + r * (0.16666667 + r * (0.041666668 + r * (0.008333334 + r * 0.0013888889)))));
    return e * bitcast<f32>(u32(i32(n) + 127) << 23u);
}

fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp_(-x));
}

// (1 - e) / (1 + e) with e = e^-2|x|, its series where that would cancel.
fn tanh_(x: f32) -> f32 {
    let a = abs(x);
    let s = x * x;
    if a < 0.5 {
        return x * (1.0 + s * (-0.33333334 + s * (0.13333334 + s * (-0.053968254 + s * (0.021869488 + s * -0.008863236)))));
    }
    let e = exp_(-2.0 * a);
    let t = (1.0 - e) / (1.0 + e);
    return select(t, -t, x < 0.0);
}

fn gelu_tanh(x: f32) -> f32 {
    return x / (1.0 + exp_(-1.5957691 * (x + 0.044715 * x * x * x)));
}

// Abramowitz and Stegun 7.1.26 for the tail beyond |x|.
fn gelu_erf(x: f32) -> f32 {
    let z = abs(x) * 0.70710678;
    let t = 1.0 / (1.0 + 0.3275911 * z);
    let p = t * (0.2548296 + t * (-0.28449672 + t * (1.4214138 + t * (-1.4531521 + t * 1.0614054))));
    let tail = 0.5 * p * exp_(-z * z);
    return x * select(1.0 - tail, tail, x < 0.0);
}

fn activate(act: u32, x: f32) -> f32 {
    switch act {
        case 1u: { return x / (1.0 + exp_(-x)); }
        case 2u: { return gelu_erf(x); }
        case 3u: { return gelu_tanh(x); }
        case 4u: { return max(x, 0.0); }
        case 5u: { let r = max(x, 0.0); return r * r; }
        case 6u: { return tanh_(x); }
        case 7u: { return sigmoid(x); }
        case 8u: { return exp_(-0.60653066 * sigmoid(x)); }
        default: { return x; }
    }
}

// A gated unit.
fn gated(act: u32, gate: f32, up: f32) -> f32 {
    if act == 9u {
        let g = min(gate, 7.0);
        return g * sigmoid(1.702 * g) * (clamp(up, -7.0, 7.0) + 1.0);
    }
    return activate(act, gate) * up;
}

// `cap tanh(x / cap)`; 0 caps nothing.
fn capped(x: f32, cap: f32) -> f32 {
    if cap == 0.0 { return x; }
    return cap * tanh_(x / cap);
}

// The bits of the nearest f16, ties to even. The built-in conversion may round either way.
fn half_bits(x: f32) -> u32 {
    let b = bitcast<u32>(x);
    let sign = (b >> 16u) & 0x8000u;
    let a = b & 0x7fffffffu;
    if a >= 0x7f800000u { return sign | select(0x7c00u, 0x7e00u, a > 0x7f800000u); }
    if a >= 0x47800000u { return sign | 0x7c00u; }
    if a < 0x38800000u {
        // Subnormal: units of 2^-24. Adding 1/2 leaves them, rounded, in the lowest bits.
        return sign | (bitcast<u32>(bitcast<f32>(a) + 0.5) - 0x3f000000u);
    }
    return sign | ((a + 0x0fffu + ((a >> 13u) & 1u) - 0x38000000u) >> 13u);
}

fn bf16_bits(x: f32) -> u32 {
    let b = bitcast<u32>(x);
    if (b & 0x7fffffffu) > 0x7f800000u { return (b >> 16u) | 64u; }
    return (b + 0x7fffu + ((b >> 16u) & 1u)) >> 16u;
}

// A word of a cache of this type (0: f32, 1: f16, 2: bf16): one element or two.
fn stored(kind: u32, a: f32, b: f32) -> u32 {
    switch kind {
        case 1u: { return half_bits(a) | (half_bits(b) << 16u); }
        case 2u: { return bf16_bits(a) | (bf16_bits(b) << 16u); }
        default: { return bitcast<u32>(a); }
    }
}

fn loaded(kind: u32, word: u32) -> vec2<f32> {
    switch kind {
        case 1u: { return unpack2x16float(word); }
        case 2u: { return vec2<f32>(bitcast<f32>(word << 16u), bitcast<f32>(word & 0xffff0000u)); }
        default: { return vec2<f32>(bitcast<f32>(word), 0.0); }
    }
}

// ln x for normal x > 0 to 2e-7: x = 2^k (1 + f) with 1 + f near one, and twice the inverse
// hyperbolic tangent of f / (2 + f). Near one it keeps its relative precision.
fn ln_(x: f32) -> f32 {
    var b = bitcast<u32>(x);
    let k = i32((b + 0x004afb0du) >> 23u) - 127;
    let f = bitcast<f32>(b - (u32(k) << 23u)) - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let series = s * z * (0.6666667 + z * (0.4 + z * (0.2857143 + z * (0.22222222 + z * 0.18181819))));
    return f32(k) * 0.693359375 + (2.0 * s + (series + f32(k) * -2.1219444e-4));
}

// The product of two words: low, high.
fn product(a: u32, b: u32) -> vec2<u32> {
    let x = vec2<u32>(a & 0xffffu, a >> 16u);
    let y = vec2<u32>(b & 0xffffu, b >> 16u);
    let low = x.x * y.x;
    let m = x.x * y.y + (low >> 16u);
    let n = x.y * y.x + (m & 0xffffu);
    return vec2<u32>(a * b, x.y * y.y + (m >> 16u) + (n >> 16u));
}

// cos and sin of `r`, |r| <= 0.79, and so many quarter turns.
fn circle(r: f32, quarter: u32) -> vec2<f32> {
    let s = r * r;
    let sine = r * (1.0 + s * (-0.16666667 + s * (0.008333334 + s * (-0.00019841270 + s * 2.7557319e-6))));
    let cosine = 1.0 + s * (-0.5 + s * (0.041666668 + s * (-0.0013888889 + s * (2.4801587e-5 + s * -2.755732e-7))));
    switch quarter & 3u {
        case 1u: { return vec2<f32>(-sine, cosine); }
        case 2u: { return vec2<f32>(-cosine, -sine); }
        case 3u: { return vec2<f32>(sine, -cosine); }
        default: { return vec2<f32>(cosine, sine); }
    }
}

// cos and sin of so many 2^-32 turns, whose remainder is exact.
fn turn(turns: u32) -> vec2<f32> {
    let quarter = (turns + 0x20000000u) >> 30u;
    let rest = bitcast<i32>(turns - (quarter << 30u));
    return circle(f32(rest) * 1.4629181e-9, quarter); // pi/2 2^-30
}
