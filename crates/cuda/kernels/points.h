// Formats that look their elements up in a table of points: codes of the file, word for word. Sums of
// signs and points are bytes around 64.
#pragma once
#include "planes.h"

// Negates the bytes of integers around 64 whose bit of `signs` is set.
DEVICE u32 negate_quad(u32 quad, u32 signs) {
    u32 s = signs & 15;
    s |= s << 7;
    s = (s | s << 14) & 0x01010101u;
    return (quad ^ ((s << 7) - s)) + s;
}

// Of eight elements with seven signs; the eighth makes the number of negative ones even.
DEVICE u32 even_signs(u32 signs, u32 half) {
    if (half == 0) return signs;
    return (signs & 127) >> 4 | (u32)(__popc(signs & 127) & 1) << 3;
}

DEVICE u32 odd(u32 a, u32 from_bit, u32 bits) { return (a >> from_bit & ((1u << bits) - 1)) << 1 | 1; }

// Each format: words of a block; quad j of unit u of the block at b; the odd scale of a half; what
// scales are multiplied with.
struct Iq3S {
    static const u32 WORDS = 27;
    MEMBER float unit() { return 1.0f; }
    MEMBER u32 quad(const u32* b, const u32* grid, u32 u, u32 j) {
        u32 low = b[2 * u + (j >> 2)] >> 8 * (j & 3) & 255;
        u32 high = b[16 + (u >> 2)] >> (8 * (u & 3) + j) & 1;
        return negate_quad(grid[low | high << 8], b[18 + u] >> 4 * j);
    }
    MEMBER u32 sc(const u32* b, u32 u, u32) { return odd(b[26], 4 * u, 4); }
};

struct Iq3Xxs {
    static const u32 WORDS = 24;
    MEMBER float unit() { return 0.25f; }
    MEMBER u32 quad(const u32* b, const u32* grid, u32 u, u32 j) {
        u32 index = b[2 * u + (j >> 2)] >> 8 * (j & 3) & 255;
        return negate_quad(grid[index], even_signs(b[16 + u] >> 7 * (j >> 1), j & 1));
    }
    MEMBER u32 sc(const u32* b, u32 u, u32) { return odd(b[16 + u], 28, 4); }
};

struct Iq2S {
    static const u32 WORDS = 20;
    MEMBER float unit() { return 0.125f; }
    MEMBER u32 quad(const u32* b, const u32* grid, u32 u, u32 j) {
        u32 k = j >> 1;
        u32 low = b[u] >> 8 * k & 255;
        u32 high = b[16 + (u >> 2)] >> (8 * (u & 3) + 2 * k) & 3;
        return negate_quad(grid[2 * (low | high << 8) + (j & 1)], b[8 + u] >> 4 * j);
    }
    MEMBER u32 sc(const u32* b, u32 u, u32 half) { return odd(b[18 + (u >> 2)], 8 * (u & 3) + 4 * half, 4); }
};

struct Iq2Xs {
    static const u32 WORDS = 18;
    MEMBER float unit() { return 0.125f; }
    MEMBER u32 quad(const u32* b, const u32* grid, u32 u, u32 j) {
        u32 k = j >> 1;
        u32 code = b[2 * u + (k >> 1)] >> 16 * (k & 1);
        return negate_quad(grid[2 * (code & 511) + (j & 1)], even_signs(code >> 9, j & 1));
    }
    MEMBER u32 sc(const u32* b, u32 u, u32 half) { return odd(b[16 + (u >> 2)], 8 * (u & 3) + 4 * half, 4); }
};

struct Iq2Xxs {
    static const u32 WORDS = 16;
    MEMBER float unit() { return 0.125f; }
    MEMBER u32 quad(const u32* b, const u32* grid, u32 u, u32 j) {
        u32 k = j >> 1;
        u32 index = b[2 * u] >> 8 * k & 255;
        return negate_quad(grid[2 * index + (j & 1)], even_signs(b[2 * u + 1] >> 7 * k, j & 1));
    }
    MEMBER u32 sc(const u32* b, u32 u, u32) { return odd(b[2 * u + 1], 28, 4); }
};

// A point of IQ1 moved by an eighth up or down.
DEVICE u32 moved(const u32* grid, u32 index, u32 j, u32 down) {
    return grid[2 * index + (j & 1)] + 0x02020202u - (down & 1) * 0x02020202u;
}

struct Iq1S {
    static const u32 WORDS = 12;
    MEMBER float unit() { return 0.125f; }
    MEMBER u32 quad(const u32* b, const u32* grid, u32 u, u32 j) {
        u32 k = j >> 1;
        u32 code = b[8 + (u >> 1)] >> 16 * (u & 1);
        u32 low = b[u] >> 8 * k & 255;
        return moved(grid, low | (code >> 3 * k & 7) << 8, j, code >> 15);
    }
    MEMBER u32 sc(const u32* b, u32 u, u32) { return odd(b[8 + (u >> 1)], 16 * (u & 1) + 12, 3); }
};

struct Iq1M {
    static const u32 WORDS = 14;
    MEMBER float unit() { return 0.125f; }
    MEMBER u32 quad(const u32* b, const u32* grid, u32 u, u32 j) {
        u32 k = j >> 1;
        u32 code = b[8 + (u >> 1)] >> (16 * (u & 1) + 4 * k);
        u32 low = b[u] >> 8 * k & 255;
        return moved(grid, low | (code & 7) << 8, j, code >> 3);
    }
    MEMBER u32 sc(const u32* b, u32 u, u32 half) {
        return odd(b[12 + (u >> 2)], 16 * (u >> 1 & 1) + 6 * (u & 1) + 3 * half, 3);
    }
};

struct UnitQuads { u32 q[8]; };

// Called, since it is long, and these formats are rare.
template <class C>
CALLED UnitQuads looked_up(const u32* b, const u32* grid, u32 u) {
    UnitQuads e;
    UNROLL
    for (int j = 0; j < 8; j++) e.q[j] = C::quad(b, grid, u, j);
    return e;
}

template <class C>
struct Points {
    static const bool INTEGERS = true;
    MEMBER void quads(const Weight& w, u64 i, u32 (&q)[8]) {
        UnitQuads e = looked_up<C>((const u32*)w.q + (i >> 3) * C::WORDS, w.grid, (u32)i & 7);
        UNROLL
        for (int j = 0; j < 8; j++) q[j] = e.q[j];
    }
    MEMBER void factors(const Weight& w, u64 i, Factors& f) {
        u64 block = i >> 3;
        const u32* b = (const u32*)w.q + block * C::WORDS;
        u16 d;
        if (w.scales == SCALE_NONE) {
            // Four bits of it in each of the last halves of words.
            d = (u16)((b[12] >> 12 & 15) | (b[12] >> 24 & 0xf0) | (b[13] >> 4 & 0xf00) | (b[13] >> 16 & 0xf000));
        } else {
            d = ((const u16*)w.scale)[block];
        }
        float scale = C::unit() * half_float(d);
        f.s[0] = scale * (float)C::sc(b, (u32)i & 7, 0);
        f.s[1] = scale * (float)C::sc(b, (u32)i & 7, 1);
        f.m[0] = f.m[1] = 0.0f;
    }
    MEMBER i32 zero(const Weight&, u64) { return 64; }
};
