// From the blocks of files to the planes of `planes.h`, when weights are loaded: a thread a unit.
#include "planes.h"

struct Repack {
    const u8* from;  // blocks, one after the other
    u8* q;
    u8* high;
    u8* sub;
    u8* scale;
    u8* zeros;
    u64 first;  // the unit of the matrix that the first of these becomes
    u64 units;  // how many there are
    u32 block_bytes;
    u32 body;   // where codes begin in a block
    u32 scale_at;
    u32 shift;
};

DEVICE u32 word(const u8* b, u32 n) {
    b += 4 * n;
    return (u32)b[0] | (u32)b[1] << 8 | (u32)b[2] << 16 | (u32)b[3] << 24;
}

DEVICE u32 nibbles(u32 w, u32 high) { return w >> 4 * high & 0x0f0f0f0fu; }

// Each format: bits of a code; quad j of unit u; the two bytes of `sub`; what `scale` holds.
struct Bare {
    static const u32 SCALES = SCALE_HALF;
    MEMBER u32 sub(const u8*, u32) { return 0; }
};
struct Eight : Bare {
    static const int BITS = 8;
    MEMBER u32 quad(const u8* b, u32 u, u32 j) { return word(b, u * 8 + j); }
};
struct EightSingle : Eight { static const u32 SCALES = SCALE_SINGLE; };
struct Nibbles : Bare {
    static const int BITS = 4;
    MEMBER u32 quad(const u8* b, u32, u32 j) { return nibbles(word(b, j & 3), j >> 2); }
};
struct NibblesPair : Nibbles { static const u32 SCALES = SCALE_PAIR; };
struct NibblesExponent : Nibbles { static const u32 SCALES = SCALE_EXPONENT; };
struct Fives : Bare {
    static const int BITS = 5;
    MEMBER u32 quad(const u8* b, u32, u32 j) {
        u32 h = word(b, 0) >> 4 * j & 15;
        return nibbles(word(b, 1 + (j & 3)), j >> 2) | (h & 1) << 4 | (h & 2) << 11 | (h & 4) << 18 | (h & 8) << 25;
    }
};
struct FivesPair : Fives { static const u32 SCALES = SCALE_PAIR; };

// Twelve bytes hold eight pairs of six bits.
DEVICE u32 six_bit_pair(const u8* s, u32 u) {
    if (u < 4) return (s[u] & 63u) | (s[u + 4] & 63u) << 8;
    u32 sc = (s[u + 4] & 15u) | (u32)(s[u - 4] >> 6) << 4;
    u32 mn = (u32)(s[u + 4] >> 4) | (u32)(s[u] >> 6) << 4;
    return sc | mn << 8;
}
struct K4 {
    static const int BITS = 4;
    static const u32 SCALES = SCALE_PAIR_SUB;
    MEMBER u32 quad(const u8* b, u32 u, u32 j) { return nibbles(word(b, 4 + (u >> 1) * 8 + j), u & 1); }
    MEMBER u32 sub(const u8* b, u32 u) { return six_bit_pair(b + 4, u); }
};
struct K5 : K4 {
    static const int BITS = 5;
    MEMBER u32 quad(const u8* b, u32 u, u32 j) {
        return nibbles(word(b, 12 + (u >> 1) * 8 + j), u & 1) | (word(b, 4 + j) >> u & 0x01010101u) << 4;
    }
};
struct K6 {
    static const int BITS = 6;
    static const u32 SCALES = SCALE_HALF_SUB;
    MEMBER u32 quad(const u8* b, u32 u, u32 j) {
        u32 t = u & 3;
        u32 low = nibbles(word(b, (u >> 2) * 16 + (t & 1) * 8 + j), t >> 1);
        return low | (word(b, 32 + (u >> 2) * 8 + j) >> 2 * t & 0x03030303u) << 4;
    }
    MEMBER u32 sub(const u8* b, u32 u) { return b[192 + 2 * u] | (u32)b[193 + 2 * u] << 8; }
};
struct Pairs : Bare {
    static const int BITS = 2;
    MEMBER u32 quad(const u8* b, u32 u, u32 j) { return word(b, (u >> 2) * 8 + j) >> 2 * (u & 3) & 0x03030303u; }
};
struct K2 {
    static const int BITS = 2;
    static const u32 SCALES = SCALE_PAIR_NIBBLES;
    MEMBER u32 quad(const u8* b, u32 u, u32 j) { return Pairs::quad(b + 16, u, j); }
    MEMBER u32 sub(const u8* b, u32 u) { return b[2 * u] | (u32)b[2 * u + 1] << 8; }
};
struct K3 {
    static const int BITS = 3;
    static const u32 SCALES = SCALE_HALF_SUB;
    MEMBER u32 quad(const u8* b, u32 u, u32 j) {
        return Pairs::quad(b + 32, u, j) | (word(b, j) >> u & 0x01010101u) << 2;
    }
    // Four lower bits of scale s in the first eight bytes, two upper ones in the last four.
    MEMBER u32 one(const u8* b, u32 s) {
        u32 low = b[96 + (s & 7)] >> (s >> 3) * 4 & 15;
        u32 high = b[104 + (s & 3)] >> (s >> 2) * 2 & 3;
        return ((low | high << 4) - 32) & 255;
    }
    MEMBER u32 sub(const u8* b, u32 u) { return one(b, 2 * u) | one(b, 2 * u + 1) << 8; }
};
struct Thirds : Bare {
    static const int BITS = 2;
    // A byte is a fraction whose digits in base three are the elements.
    MEMBER u32 third(u32 bytes, u32 power) { return (bytes * power & 0x00ff00ffu) * 3 >> 8 & 0x00ff00ffu; }
    MEMBER u32 quad(const u8* b, u32 u, u32 j) {
        u32 e = 32 * u + 4 * j, at = j, n = u, power = 1;
        if (e >= 240) {
            at = 12;
            n = (e - 240) / 4;
        } else if (e >= 160) {
            at = 8 + (e & 15) / 4;
            n = (e - 160) / 16;
        }
        for (u32 k = 0; k < n; k++) power *= 3;
        u32 bytes = word(b, at);
        return third(bytes & 0x00ff00ffu, power) | third(bytes >> 8 & 0x00ff00ffu, power) << 8;
    }
};
struct Xs4 {
    static const int BITS = 4;
    static const u32 SCALES = SCALE_HALF_SUB;
    MEMBER u32 quad(const u8* b, u32 u, u32 j) { return nibbles(word(b, 2 + 4 * u + (j & 3)), j >> 2); }
    MEMBER u32 sub(const u8* b, u32 u) {
        u32 sc = (word(b, 1) >> 4 * u & 15) | (word(b, 0) >> (16 + 2 * u) & 3) << 4;
        u32 byte = (sc - 32) & 255;
        return byte | byte << 8;
    }
};
template <int B, u32 S>
struct PackedInts {
    static const int BITS = B;
    static const u32 SCALES = S;
    MEMBER u32 quad(const u8* b, u32 u, u32 j) {
        u32 w = word(b, u * B + j % B);
        if (B == 8) return w ^ 0x80808080u;
        return w >> j / B * B & (((1u << B % 8) - 1) * 0x01010101u);
    }
    MEMBER u32 sub(const u8*, u32) { return 0; }
};

DEVICE void write_pairs(u8* to, u64 i, const u32 (&q)[8], int from_bit) {
    u32 w[2] = {0, 0};
    for (int j = 0; j < 8; j++) w[j % 2] |= (q[j] >> from_bit & 0x03030303u) << j / 2 * 2;
    ((u32*)to)[2 * i] = w[0];
    ((u32*)to)[2 * i + 1] = w[1];
}

DEVICE void write_bits(u8* to, u64 i, const u32 (&q)[8], int from_bit) {
    u32 w = 0;
    for (int j = 0; j < 8; j++) w |= (q[j] >> from_bit & 0x01010101u) << j;
    ((u32*)to)[i] = w;
}

template <class R>
DEVICE void repack(const Repack& p) {
    u64 n = (u64)blockIdx.x * 128 + threadIdx.x;
    if (n >= p.units) return;
    const u8* block = p.from + (n >> p.shift) * p.block_bytes;
    u32 u = (u32)n & ((1u << p.shift) - 1);
    u64 i = p.first + n;
    u32 q[8];
    for (int j = 0; j < 8; j++) q[j] = R::quad(block + p.body, u, j);
    if (R::BITS == 8) {
        for (int j = 0; j < 8; j++) ((u32*)p.q)[8 * i + j] = q[j];
    } else if (R::BITS >= 4) {
        for (int k = 0; k < 4; k++) ((u32*)p.q)[4 * i + k] = (q[k] & 0x0f0f0f0fu) | (q[k + 4] & 0x0f0f0f0fu) << 4;
        if (R::BITS == 5) write_bits(p.high, i, q, 4);
        if (R::BITS == 6) write_pairs(p.high, i, q, 4);
    } else if (R::BITS >= 2) {
        write_pairs(p.q, i, q, 0);
        if (R::BITS == 3) write_bits(p.high, i, q, 2);
    } else {
        write_bits(p.q, i, q, 0);
    }
    if (p.sub) ((u16*)p.sub)[i] = (u16)R::sub(block, u);
    if (u != 0) return;
    u64 b = i >> p.shift;
    const u8* s = block + p.scale_at;
    const u32 kind = R::SCALES;
    if (kind == SCALE_EXPONENT) {
        p.scale[b] = s[0];
    } else if (kind == SCALE_HALF || kind == SCALE_HALF_SUB) {
        ((u16*)p.scale)[b] = (u16)(s[0] | s[1] << 8);
    } else {
        // A block's offset is a minimum with the other sign.
        ((u32*)p.scale)[b] = word(s, 0) ^ (kind == SCALE_PAIR ? 0x80000000u : 0u);
    }
    if (p.zeros) p.zeros[b] = s[kind == SCALE_SINGLE ? 4 : 2];
}

#define REPACK(name, ...) \
    KERNEL(repack_##name, Repack, 128) { repack<__VA_ARGS__>(p); }

REPACK(q8_0, Eight)
REPACK(q8_k, EightSingle)
REPACK(q4_0, Nibbles)
REPACK(q4_1, NibblesPair)
REPACK(q5_0, Fives)
REPACK(q5_1, FivesPair)
REPACK(q4_k, K4)
REPACK(q5_k, K5)
REPACK(q6_k, K6)
REPACK(q2_k, K2)
REPACK(q3_k, K3)
REPACK(tq2_0, Pairs)
REPACK(tq1_0, Thirds)
REPACK(iq4_xs, Xs4)
REPACK(mxfp4, NibblesExponent)
REPACK(i8_f16, PackedInts<8, SCALE_HALF>)
REPACK(i8_f32, PackedInts<8, SCALE_SINGLE>)
REPACK(i4_f16, PackedInts<4, SCALE_HALF>)
REPACK(i4_f32, PackedInts<4, SCALE_SINGLE>)
REPACK(i2_f16, PackedInts<2, SCALE_HALF>)
REPACK(i2_f32, PackedInts<2, SCALE_SINGLE>)
REPACK(i1_f16, PackedInts<1, SCALE_HALF>)
REPACK(i1_f32, PackedInts<1, SCALE_SINGLE>)

// Blocks of codes into words, their scale beside them: `units` counts words here, `shift` words of a
// block.
KERNEL(repack_words, Repack, 128) {
    u64 n = (u64)blockIdx.x * 128 + threadIdx.x;
    if (n >= p.units) return;
    u64 b = n / p.shift;
    const u8* block = p.from + b * p.block_bytes;
    ((u32*)p.q)[p.first * p.shift + n] = word(block + p.body, (u32)(n % p.shift));
    if (p.scale && n % p.shift == 0)
        ((u16*)p.scale)[p.first + b] = (u16)(block[p.scale_at] | block[p.scale_at + 1] << 8);
}

// Rows of plain numbers, filled up with zeros to whole units: two bytes a thread. `units` counts
// these, `block_bytes` are those of a row, `shift` halves of a filled row; `first` is a row.
KERNEL(repack_rows, Repack, 128) {
    u64 n = (u64)blockIdx.x * 128 + threadIdx.x;
    if (n >= p.units) return;
    u64 row = n / p.shift;
    u32 at = 2 * (u32)(n % p.shift);
    const u8* from = p.from + row * p.block_bytes + at;
    ((u16*)p.q)[p.first * p.shift + n] = at < p.block_bytes ? (u16)(from[0] | from[1] << 8) : (u16)0;
}
