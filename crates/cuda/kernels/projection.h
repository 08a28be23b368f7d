// What the kernels of matrix products share: parameters, and what follows a product.
#pragma once
#include "int8.h"
#include "numbers.h"
#include "points.h"
#include "step.h"

// A matrix, and where its results go in a row of them.
struct Part {
    Weight w;
    u32 rows;
    u32 out_at;
};

struct Projection {
    // Up to three matrices of one class beside each other; blocks of the first come first.
    Part parts[3];
    const u32* ints;
    const u8* x;            // f32, or signed bytes, or 16-bit numbers
    const u8* x_scales;     // of signed bytes: a scale and the sums of both halves, for each unit
    float* out;
    const float* bias;
    const float* route;     // of experts
    u32 cols;
    u32 x_stride;           // elements
    u32 x_share;            // rows of the result that share one of x
    u32 out_stride;
    u32 kind;               // what a row of the result stands for
    u32 k;
    u32 act;
    u32 biases;             // elements of a row of biases, 0 without
    u32 route_stride;
    u32 gated;              // the first two are gate and up: the results are those of gated units
    float scale;
    float cap;
};

// Which matrix a block of so many rows is of; `block` becomes its number within that.
DEVICE u32 part_of(const Projection& p, u32 rows, u32& block) {
    u32 part = 0;
    UNROLL
    for (int i = 0; i < 2; i++) {
        u32 blocks = (p.parts[i].rows + rows - 1) / rows;
        if ((int)part == i && block >= blocks) part++, block -= blocks;
    }
    return part;
}

// A result before anything but its bias.
DEVICE float biased(const Projection& p, u32 e, u32 at, float y) {
    return p.biases ? y + p.bias[e * p.biases + at] : y;
}

// Called, since tiles end in many of it.
CALLED void finish(const Projection& p, u32 t, u32 e, u32 at, float y) {
    y = activate(p.act, biased(p, e, at, y));
    p.out[(u64)t * p.out_stride + at] = capped(p.scale * y, p.cap);
}

// Makes a kernel of every class of weights: `FOR_ALL(K)`, or of some.
#define FOR_DENSE(K) K(f32, F32) K(f16, F16) K(bf16, BF16)
#define FOR_PLAIN(K) \
    K(p1, Plain<1>) K(p2, Plain<2>) K(p3, Plain<3>) K(p4, Plain<4>) K(p5, Plain<5>) K(p6, Plain<6>) \
    K(p8, Plain<8>) K(l4, Looked)
#define FOR_POINTS(K) \
    K(iq3_s, Points<Iq3S>) K(iq3_xxs, Points<Iq3Xxs>) K(iq2_s, Points<Iq2S>) K(iq2_xs, Points<Iq2Xs>) \
    K(iq2_xxs, Points<Iq2Xxs>) K(iq1_s, Points<Iq1S>) K(iq1_m, Points<Iq1M>)
#define FOR_INTEGERS(K) FOR_PLAIN(K) FOR_POINTS(K)
#define FOR_ALL(K) FOR_DENSE(K) FOR_INTEGERS(K)
