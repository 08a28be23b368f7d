// How matrices lie on the device: in planes, each dense and aligned to 16 bytes, of units of 32 weights.
//
// Unit `i` of a matrix has eight quads of four small integers. `quads` gives them, a byte each, the
// first element in the lowest; `factors` the scale and the minimum of both halves of 16 elements; and
//
//     value = scale (q - zero) - minimum
//
// Codes that share a byte lie so that one mask gives a quad: bits `b s ..` of word `k` are quad
// `k + words s`. `repack.cu` brings the formats of files into this form; those with tables of points
// keep the words that they have there.
#pragma once
#include "device.h"

// How scales are stored: a record for each block, and two bytes for each unit where there are `sub`.
const u32 SCALE_HALF = 0;      // f16
const u32 SCALE_SINGLE = 1;    // f32
const u32 SCALE_PAIR = 2;      // scale and minimum, f16
const u32 SCALE_PAIR_SUB = 3;  // the same, times (scale, minimum) of the unit
const u32 SCALE_HALF_SUB = 4;  // f16, times signed (first half, second half) of the unit
const u32 SCALE_PAIR_NIBBLES = 5;  // scale and minimum, times four bits each for each half
const u32 SCALE_EXPONENT = 6;  // a power of two, halved
const u32 SCALE_NONE = 7;      // inside of the words

struct Weight {
    const u8* q;      // codes
    const u8* high;   // their upper bits, where they take more than a power of two of them
    const u8* sub;
    const u8* scale;
    const u8* zeros;  // a byte for each block, or none
    const u32* grid;  // points
    u32 units;        // of a row
    u32 shift;        // units of a block, as a power of two
    u32 scales;       // one of the above
    i32 zero;
    u32 table;        // of `Looked`: 0 IQ4, 1 MXFP4
    u32 pad;
};

struct Factors { float s[2], m[2]; };

DEVICE u32 spread_bit(u32 word, u32 s) { return word >> s & 0x01010101u; }

DEVICE void scales_of(const Weight& w, u64 i, Factors& f) {
    u64 block = i >> w.shift;
    float d, m = 0.0f;
    u32 kind = w.scales;
    if (kind == SCALE_SINGLE) {
        d = ((const float*)w.scale)[block];
    } else if (kind == SCALE_HALF || kind == SCALE_HALF_SUB) {
        d = half_float(((const u16*)w.scale)[block]);
    } else if (kind == SCALE_EXPONENT) {
        u32 e = w.scale[block];
        d = bits_float(e < 2 ? 0x00200000u << e : (e - 1) << 23);
    } else {
        u32 pair = ((const u32*)w.scale)[block];
        d = half_float((u16)pair);
        m = half_float((u16)(pair >> 16));
    }
    f.s[0] = f.s[1] = d;
    f.m[0] = f.m[1] = m;
    if (kind == SCALE_PAIR_SUB) {
        u32 sub = ((const u16*)w.sub)[i];
        f.s[0] = f.s[1] = d * (float)(sub & 255);
        f.m[0] = f.m[1] = m * (float)(sub >> 8);
    } else if (kind == SCALE_HALF_SUB) {
        u32 sub = ((const u16*)w.sub)[i];
        f.s[0] = d * (float)(i8)(sub & 255);
        f.s[1] = d * (float)(i8)(sub >> 8);
    } else if (kind == SCALE_PAIR_NIBBLES) {
        u32 sub = ((const u16*)w.sub)[i];
        f.s[0] = d * (float)(sub & 15);
        f.m[0] = m * (float)(sub >> 4 & 15);
        f.s[1] = d * (float)(sub >> 8 & 15);
        f.m[1] = m * (float)(sub >> 12);
    }
}

// Codes of BITS bits: 1, 2, 4 or 8 of them in `q`, the others in `high`.
template <int BITS>
struct Plain {
    static const bool INTEGERS = true;
    static const int LOW = BITS == 8 ? 8 : BITS >= 4 ? 4 : BITS >= 2 ? 2 : 1;
    static const int HIGH = BITS - LOW;

    MEMBER void quads(const Weight& w, u64 i, u32 (&q)[8]) {
        if (LOW == 8) {
            uint4 a = load_once((const uint4*)w.q + 2 * i), b = load_once((const uint4*)w.q + 2 * i + 1);
            q[0] = a.x, q[1] = a.y, q[2] = a.z, q[3] = a.w;
            q[4] = b.x, q[5] = b.y, q[6] = b.z, q[7] = b.w;
        } else if (LOW == 4) {
            uint4 a = load_once((const uint4*)w.q + i);
            const u32 m = 0x0f0f0f0fu;
            q[0] = a.x & m, q[1] = a.y & m, q[2] = a.z & m, q[3] = a.w & m;
            q[4] = a.x >> 4 & m, q[5] = a.y >> 4 & m, q[6] = a.z >> 4 & m, q[7] = a.w >> 4 & m;
        } else if (LOW == 2) {
            uint2 a = load_once((const uint2*)w.q + i);
            UNROLL
            for (int s = 0; s < 4; s++) {
                q[2 * s] = a.x >> 2 * s & 0x03030303u;
                q[2 * s + 1] = a.y >> 2 * s & 0x03030303u;
            }
        } else {
            u32 a = ((const u32*)w.q)[i];
            UNROLL
            for (int s = 0; s < 8; s++) q[s] = spread_bit(a, s);
        }
        if (HIGH == 1) {
            u32 h = ((const u32*)w.high)[i];
            UNROLL
            for (int s = 0; s < 8; s++) q[s] |= spread_bit(h, s) << LOW;
        } else if (HIGH == 2) {
            uint2 h = load_once((const uint2*)w.high + i);
            UNROLL
            for (int s = 0; s < 4; s++) {
                q[2 * s] |= (h.x >> 2 * s & 0x03030303u) << LOW;
                q[2 * s + 1] |= (h.y >> 2 * s & 0x03030303u) << LOW;
            }
        }
    }
    MEMBER void factors(const Weight& w, u64 i, Factors& f) { scales_of(w, i, f); }
    MEMBER i32 zero(const Weight& w, u64 i) { return w.zeros ? (i32)w.zeros[i >> w.shift] : w.zero; }
};

// Four bits that say which of sixteen numbers: as signed bytes.
struct Looked {
    static const bool INTEGERS = true;
    MEMBER u32 look(u32 n, u32 table) {
        // -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113; or twice 0 .5 1 1.5 2 3 4 6
        // and their negatives.
        const u32 iq4[4] = {0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u};
        const u32 mx4[4] = {0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu};
        u32 out = 0;
        UNROLL
        for (int b = 0; b < 4; b++) {
            u32 c = n >> 8 * b & 15, at = c >> 2;
            u32 x = at == 0 ? iq4[0] : at == 1 ? iq4[1] : at == 2 ? iq4[2] : iq4[3];
            u32 y = at == 0 ? mx4[0] : at == 1 ? mx4[1] : at == 2 ? mx4[2] : mx4[3];
            out |= ((table ? y : x) >> 8 * (c & 3) & 255) << 8 * b;
        }
        return out;
    }
    MEMBER void quads(const Weight& w, u64 i, u32 (&q)[8]) {
        Plain<4>::quads(w, i, q);
        UNROLL
        for (int j = 0; j < 8; j++) q[j] = look(q[j], w.table);
    }
    MEMBER void factors(const Weight& w, u64 i, Factors& f) { scales_of(w, i, f); }
    MEMBER i32 zero(const Weight&, u64) { return 0; }
};

// ---- numbers that are stored as they are

struct F32 {
    static const bool INTEGERS = false;
    MEMBER float4 four(const Weight& w, u64 at) {
        uint4 v = load_once((const uint4*)w.q + at);
        return float4{bits_float(v.x), bits_float(v.y), bits_float(v.z), bits_float(v.w)};
    }
};

struct F16 {
    static const bool INTEGERS = false;
    MEMBER float4 four(const Weight& w, u64 at) {
        uint2 v = load_once((const uint2*)w.q + at);
        return float4{half_float((u16)v.x), half_float((u16)(v.x >> 16)), half_float((u16)v.y), half_float((u16)(v.y >> 16))};
    }
};

struct BF16 {
    static const bool INTEGERS = false;
    MEMBER float4 four(const Weight& w, u64 at) {
        uint2 v = load_once((const uint2*)w.q + at);
        return float4{bits_float(v.x << 16), bits_float(v.x & 0xffff0000u), bits_float(v.y << 16), bits_float(v.y & 0xffff0000u)};
    }
};

// The 32 values of a unit.
template <class F>
DEVICE void values_of(const Weight& w, u64 i, float (&v)[32]) {
    if constexpr (F::INTEGERS) {
        u32 q[8];
        Factors f;
        F::quads(w, i, q);
        F::factors(w, i, f);
        // As a byte above 2^23, and so a float without a conversion.
        float zero = 8388736.0f + (float)F::zero(w, i);
        UNROLL
        for (int e = 0; e < 32; e++) {
            u32 byte = (q[e / 4] ^ 0x80808080u) >> e % 4 * 8 & 255;
            v[e] = (bits_float(0x4b000000u | byte) - zero) * f.s[e / 16] - f.m[e / 16];
        }
    } else {
        UNROLL
        for (int j = 0; j < 8; j++) {
            float4 x = F::four(w, i * 8 + j);
            v[4 * j] = x.x, v[4 * j + 1] = x.y, v[4 * j + 2] = x.z, v[4 * j + 3] = x.w;
        }
    }
}
