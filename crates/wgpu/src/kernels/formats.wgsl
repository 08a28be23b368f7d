// How each format stores a unit of 32 weights of a row. A block's body begins at word `b` of `w`; its
// number is `i`. `quad` gives the four integers of quad `j` (0..8) of unit `u`, the first in the
// lowest byte; `sc` and `mn` the integer scale and minimum of a run of the unit; `scales` the scale
// and the minimum of the block; and
//
//     value = scale (sc - SC_ZERO) (q - ZERO) - minimum mn
//
// A section begins with `//:` and its name; `format.rs` says which ones a format is made of.

//: F32
fn weight4(i: u32, b: u32, u: u32, j: u32) -> vec4<f32> {
    let at = b + j * 4u;
    return vec4<f32>(bitcast<f32>(w[at]), bitcast<f32>(w[at + 1u]), bitcast<f32>(w[at + 2u]), bitcast<f32>(w[at + 3u]));
}

//: F16
fn weight4(i: u32, b: u32, u: u32, j: u32) -> vec4<f32> {
    let at = b + j * 2u;
    return vec4<f32>(unpack2x16float(w[at]), unpack2x16float(w[at + 1u]));
}

//: BF16
fn weight4(i: u32, b: u32, u: u32, j: u32) -> vec4<f32> {
    let at = b + j * 2u;
    let x = w[at];
    let y = w[at + 1u];
    return bitcast<vec4<f32>>(vec4<u32>(x << 16u, x & 0xffff0000u, y << 16u, y & 0xffff0000u));
}

//: INTEGERS
fn factors(i: u32, b: u32, u: u32, run: u32) -> vec2<f32> {
    var s = scales(i, b);
    s.x *= $UNIT;
#if SC
    s.x *= f32(i32(sc(b, u, run)) - $SC_ZERO);
#endif
#if MIN
#if SC
    s.y *= f32(mn(b, u, run));
#endif
#else
    s.y = 0.0;
#endif
    return s;
}
fn weight4(i: u32, b: u32, u: u32, j: u32) -> vec4<f32> {
    let s = factors(i, b, u, j / (8u / $RUNSu));
    let q = vec4<f32>(unpack4xU8(quad(b, u, j))) - vec4<f32>(f32(zero(i)));
#if MIN
    return q * s.x - vec4<f32>(s.y);
#else
    return q * s.x;
#endif
}

//: SCALE_HALF
fn scales(i: u32, b: u32) -> vec2<f32> {
    return vec2<f32>(unpack2x16float(w[p.d_at + (i >> 1u)] >> ((i & 1u) * 16u)).x, 0.0);
}

//: SCALE_HALVES
fn scales(i: u32, b: u32) -> vec2<f32> {
    return unpack2x16float(w[p.d_at + i]);
}

//: SCALE_OFFSET
fn scales(i: u32, b: u32) -> vec2<f32> {
    return unpack2x16float(w[p.d_at + i]) * vec2<f32>(1.0, -1.0);
}

//: SCALE_SINGLE
fn scales(i: u32, b: u32) -> vec2<f32> {
    return vec2<f32>(bitcast<f32>(w[p.d_at + i]), 0.0);
}

//: SCALE_EXPONENT
fn scales(i: u32, b: u32) -> vec2<f32> {
    let e = (w[p.d_at + (i >> 2u)] >> ((i & 3u) * 8u)) & 255u;
    return vec2<f32>(bitcast<f32>(select((e - 1u) << 23u, 0x00200000u << e, e < 2u)), 0.0);
}

//: SCALE_WORD0
fn scales(i: u32, b: u32) -> vec2<f32> {
    return unpack2x16float(w[b]);
}

//: SCALE_IQ1_M
fn scales(i: u32, b: u32) -> vec2<f32> {
    let x = w[b + 12u];
    let y = w[b + 13u];
    let bits = ((x >> 12u) & 15u) | ((x >> 24u) & 0xf0u) | ((y >> 4u) & 0xf00u) | ((y >> 16u) & 0xf000u);
    return vec2<f32>(unpack2x16float(bits).x, 0.0);
}

//: ZERO_ALL
fn zero(i: u32) -> i32 {
    return $ZERO;
}

//: ZERO_BLOCK
fn zero(i: u32) -> i32 {
    return i32((w[p.z_at + (i >> 2u)] >> ((i & 3u) * 8u)) & 255u);
}

//: Q8
fn quad(b: u32, u: u32, j: u32) -> u32 {
    return w[b + u * 8u + j] ^ 0x80808080u;
}

//: NIBBLES
fn quad(b: u32, u: u32, j: u32) -> u32 {
    return (w[b + u * 4u + (j & 3u)] >> ((j >> 2u) * 4u)) & 0x0f0f0f0fu;
}

//: FIVES
fn quad(b: u32, u: u32, j: u32) -> u32 {
    let low = (w[b + 1u + (j & 3u)] >> ((j >> 2u) * 4u)) & 0x0f0f0f0fu;
    let h = (w[b] >> (4u * j)) & 15u;
    return low | ((h & 1u) << 4u) | ((h & 2u) << 11u) | ((h & 4u) << 18u) | ((h & 8u) << 25u);
}

//: PACKED
fn quad(b: u32, u: u32, j: u32) -> u32 {
    return (w[b + u * $BITSu + j % $BITSu] >> (j / $BITSu * $BITSu)) & $MASKu;
}

//: SIX_BIT_PAIRS
fn six_byte(b: u32, n: u32) -> u32 {
    return (w[b + 1u + (n >> 2u)] >> ((n & 3u) * 8u)) & 255u;
}
fn sc(b: u32, u: u32, run: u32) -> u32 {
    if u < 4u { return six_byte(b, u) & 63u; }
    return (six_byte(b, u + 4u) & 15u) | ((six_byte(b, u - 4u) >> 6u) << 4u);
}
fn mn(b: u32, u: u32, run: u32) -> u32 {
    if u < 4u { return six_byte(b, u + 4u) & 63u; }
    return (six_byte(b, u + 4u) >> 4u) | ((six_byte(b, u) >> 6u) << 4u);
}

//: Q4_K
fn quad(b: u32, u: u32, j: u32) -> u32 {
    return (w[b + 4u + (u >> 1u) * 8u + j] >> ((u & 1u) * 4u)) & 0x0f0f0f0fu;
}

//: Q5_K
fn quad(b: u32, u: u32, j: u32) -> u32 {
    let low = (w[b + 12u + (u >> 1u) * 8u + j] >> ((u & 1u) * 4u)) & 0x0f0f0f0fu;
    return low | (((w[b + 4u + j] >> u) & 0x01010101u) << 4u);
}

//: Q6_K
fn quad(b: u32, u: u32, j: u32) -> u32 {
    let t = u & 3u;
    let low = (w[b + (u >> 2u) * 16u + (t & 1u) * 8u + j] >> ((t >> 1u) * 4u)) & 0x0f0f0f0fu;
    let high = (w[b + 32u + (u >> 2u) * 8u + j] >> (2u * t)) & 0x03030303u;
    return low | (high << 4u);
}
fn sc(b: u32, u: u32, run: u32) -> u32 {
    let s = 2u * u + run;
    return ((w[b + 48u + (s >> 2u)] >> ((s & 3u) * 8u)) & 255u) ^ 128u;
}

//: PAIRS
fn quad(b: u32, u: u32, j: u32) -> u32 {
    return (w[b + (u >> 2u) * 8u + j] >> (2u * (u & 3u))) & 0x03030303u;
}

//: Q2_K
fn quad(b: u32, u: u32, j: u32) -> u32 {
    return (w[b + 4u + (u >> 2u) * 8u + j] >> (2u * (u & 3u))) & 0x03030303u;
}
fn sc(b: u32, u: u32, run: u32) -> u32 {
    return (w[b + (u >> 1u)] >> (16u * (u & 1u) + 8u * run)) & 15u;
}
fn mn(b: u32, u: u32, run: u32) -> u32 {
    return (w[b + (u >> 1u)] >> (16u * (u & 1u) + 8u * run + 4u)) & 15u;
}

//: Q3_K
fn quad(b: u32, u: u32, j: u32) -> u32 {
    let low = (w[b + 8u + (u >> 2u) * 8u + j] >> (2u * (u & 3u))) & 0x03030303u;
    let high = (w[b + j] >> u) & 0x01010101u;
    return low | (high << 2u);
}
fn sc(b: u32, u: u32, run: u32) -> u32 {
    let s = 2u * u + run;
    let low = (w[b + 24u + ((s & 7u) >> 2u)] >> (8u * (s & 3u) + (s >> 3u) * 4u)) & 15u;
    let high = (w[b + 26u] >> (8u * (s & 3u) + (s >> 2u) * 2u)) & 3u;
    return low | (high << 4u);
}

//: TQ1_0
// A byte is a fraction whose digits in base three are the elements.
fn third(bytes: u32, power: u32) -> u32 {
    return ((((bytes * power) & 0x00ff00ffu) * 3u) >> 8u) & 0x00ff00ffu;
}
fn quad(b: u32, u: u32, j: u32) -> u32 {
    let e = 32u * u + 4u * j;
    var word = j;
    var n = u;
    if e >= 240u {
        word = 12u;
        n = (e - 240u) / 4u;
    } else if e >= 160u {
        word = 8u + (e & 15u) / 4u;
        n = (e - 160u) / 16u;
    }
    var power = 1u;
    for (var k = 0u; k < n; k++) { power *= 3u; }
    let bytes = w[b + word];
    return third(bytes & 0x00ff00ffu, power) | (third((bytes >> 8u) & 0x00ff00ffu, power) << 8u);
}

//: LOOKUP_IQ4
fn lookup(n: u32) -> u32 {
    // -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113, each plus 128.
    var word = 0x3f2d1801u;
    switch n >> 2u {
        case 1u: { word = 0x766a5d4fu; }
        case 2u: { word = 0xa6998d81u; }
        case 3u: { word = 0xf1d9c5b5u; }
        default: {}
    }
    return (word >> ((n & 3u) * 8u)) & 255u;
}

//: LOOKUP_MXFP4
fn lookup(n: u32) -> u32 {
    // Twice 0 .5 1 1.5 2 3 4 6 and their negatives, each plus 64.
    var word = 0x43424140u;
    switch n >> 2u {
        case 1u: { word = 0x4c484644u; }
        case 2u: { word = 0x3d3e3f40u; }
        case 3u: { word = 0x34383a3cu; }
        default: {}
    }
    return (word >> ((n & 3u) * 8u)) & 255u;
}

//: LOOKUPS
fn lookups(word: u32, j: u32) -> u32 {
    let n = (word >> ((j >> 2u) * 4u)) & 0x0f0f0f0fu;
    return lookup(n & 15u) | (lookup((n >> 8u) & 15u) << 8u) | (lookup((n >> 16u) & 15u) << 16u) | (lookup(n >> 24u) << 24u);
}

//: LOOKED_UP
fn quad(b: u32, u: u32, j: u32) -> u32 {
    return lookups(w[b + (j & 3u)], j);
}

//: IQ4_XS
fn quad(b: u32, u: u32, j: u32) -> u32 {
    return lookups(w[b + 2u + 4u * u + (j & 3u)], j);
}
fn sc(b: u32, u: u32, run: u32) -> u32 {
    return ((w[b + 1u] >> (4u * u)) & 15u) | (((w[b] >> (16u + 2u * u)) & 3u) << 4u);
}

//: SIGNS
// Negates the bytes of integers around 64 whose bit of `signs` is set.
fn negate_quad(quad: u32, signs: u32) -> u32 {
    var s = signs & 15u;
    s |= s << 7u;
    s = (s | (s << 14u)) & 0x01010101u;
    return (quad ^ ((s << 7u) - s)) + s;
}
// Of eight elements with seven signs; the eighth makes the number of negative ones even.
fn even_signs(signs: u32, half: u32) -> u32 {
    if half == 0u { return signs; }
    return ((signs & 127u) >> 4u) | ((countOneBits(signs & 127u) & 1u) << 3u);
}
fn odd(a: u32, from_bit: u32, bits: u32) -> u32 {
    return (((a >> from_bit) & ((1u << bits) - 1u)) << 1u) | 1u;
}

//: IQ3_S
fn quad(b: u32, u: u32, j: u32) -> u32 {
    let low = (w[b + 2u * u + (j >> 2u)] >> (8u * (j & 3u))) & 255u;
    let high = (w[b + 16u + (u >> 2u)] >> (8u * (u & 3u) + j)) & 1u;
    return negate_quad(grid[low | (high << 8u)], w[b + 18u + u] >> (4u * j));
}
fn sc(b: u32, u: u32, run: u32) -> u32 {
    return odd(w[b + 26u], 4u * u, 4u);
}

//: IQ3_XXS
fn quad(b: u32, u: u32, j: u32) -> u32 {
    let index = (w[b + 2u * u + (j >> 2u)] >> (8u * (j & 3u))) & 255u;
    let signs = w[b + 16u + u] >> (7u * (j >> 1u));
    return negate_quad(grid[index], even_signs(signs, j & 1u));
}
fn sc(b: u32, u: u32, run: u32) -> u32 {
    return odd(w[b + 16u + u], 28u, 4u);
}

//: IQ2_S
fn quad(b: u32, u: u32, j: u32) -> u32 {
    let k = j >> 1u;
    let low = (w[b + u] >> (8u * k)) & 255u;
    let high = (w[b + 16u + (u >> 2u)] >> (8u * (u & 3u) + 2u * k)) & 3u;
    return negate_quad(grid[2u * (low | (high << 8u)) + (j & 1u)], w[b + 8u + u] >> (4u * j));
}
fn sc(b: u32, u: u32, run: u32) -> u32 {
    return odd(w[b + 18u + (u >> 2u)], 8u * (u & 3u) + 4u * run, 4u);
}

//: IQ2_XS
fn quad(b: u32, u: u32, j: u32) -> u32 {
    let k = j >> 1u;
    let code = w[b + 2u * u + (k >> 1u)] >> (16u * (k & 1u));
    return negate_quad(grid[2u * (code & 511u) + (j & 1u)], even_signs(code >> 9u, j & 1u));
}
fn sc(b: u32, u: u32, run: u32) -> u32 {
    return odd(w[b + 16u + (u >> 2u)], 8u * (u & 3u) + 4u * run, 4u);
}

//: IQ2_XXS
fn quad(b: u32, u: u32, j: u32) -> u32 {
    let k = j >> 1u;
    let index = (w[b + 2u * u] >> (8u * k)) & 255u;
    let signs = w[b + 2u * u + 1u] >> (7u * k);
    return negate_quad(grid[2u * index + (j & 1u)], even_signs(signs, j & 1u));
}
fn sc(b: u32, u: u32, run: u32) -> u32 {
    return odd(w[b + 2u * u + 1u], 28u, 4u);
}

//: IQ1_S
fn quad(b: u32, u: u32, j: u32) -> u32 {
    let k = j >> 1u;
    let code = w[b + 8u + (u >> 1u)] >> (16u * (u & 1u));
    let low = (w[b + u] >> (8u * k)) & 255u;
    let point = grid[2u * (low | (((code >> (3u * k)) & 7u) << 8u)) + (j & 1u)];
    return point + 0x02020202u - ((code >> 15u) & 1u) * 0x02020202u;
}
fn sc(b: u32, u: u32, run: u32) -> u32 {
    return odd(w[b + 8u + (u >> 1u)], 16u * (u & 1u) + 12u, 3u);
}

//: IQ1_M
fn quad(b: u32, u: u32, j: u32) -> u32 {
    let k = j >> 1u;
    let code = w[b + 8u + (u >> 1u)] >> (16u * (u & 1u) + 4u * k);
    let low = (w[b + u] >> (8u * k)) & 255u;
    let point = grid[2u * (low | ((code & 7u) << 8u)) + (j & 1u)];
    return point + 0x02020202u - ((code >> 3u) & 1u) * 0x02020202u;
}
fn sc(b: u32, u: u32, run: u32) -> u32 {
    return odd(w[b + 12u + (u >> 2u)], 16u * ((u >> 1u) & 1u) + 6u * (u & 1u) + 3u * run, 3u);
}
