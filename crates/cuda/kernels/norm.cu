// Norms of rows, a block each.
#include "int8.h"
#include "numbers.h"
#include "step.h"

const int THREADS = 512;

struct Norm {
    const u32* ints;
    const float* x;
    float* out;
    const float* weights;  // then biases
    const float* delta;    // of a residual, or none
    float* total;
    const float* post;     // weights and biases of a norm of `delta`
    u8* codes;             // where the result goes as signed bytes too, or none
    UnitScale* scales;
    u32 width;
    u32 stride;
    u32 kind;
    u32 k;
    u32 layer;
    float eps;
    float scale;
    u32 post_kind;         // 0 none, 1 RMS, 2 layer norm
    float post_eps;
    u32 pad;
};

// Middle and inverse spread of a row.
DEVICE float2 spread(const float* x, u32 width, bool layer, float eps) {
    float middle = 0.0f, sum = 0.0f;
    if (layer) {
        for (u32 i = threadIdx.x; i < width; i += THREADS) sum += x[i];
        middle = block_sum<THREADS>(sum) / (float)width;
    }
    sum = 0.0f;
    for (u32 i = threadIdx.x; i < width; i += THREADS) {
        float v = x[i] - middle;
        sum += v * v;
    }
    return float2{middle, 1.0f / sqrtf(block_sum<THREADS>(sum) / (float)width + eps)};
}

// Alone, or of `x + scale post(delta)`, whose sum is kept.
KERNEL(norm, Norm, 512) {
    u32 row = blockIdx.x;
    if (row >= rows_of(p.ints, p.kind, p.k)) return;
    u64 at = (u64)row * p.stride;
    const float* from = p.x + at;
    if (p.delta) {
        float2 s = {0.0f, 1.0f};
        if (p.post_kind) s = spread(p.delta + at, p.width, p.post_kind == 2, p.post_eps);
        // A thread reads later what it wrote itself.
        for (u32 i = threadIdx.x; i < p.width; i += THREADS) {
            float v = p.delta[at + i];
            if (p.post_kind) v = (v - s.x) * s.y * p.post[i] + p.post[p.width + i];
            p.total[at + i] = p.x[at + i] + p.scale * v;
        }
        from = p.total + at;
    }
    float2 s = spread(from, p.width, p.layer, p.eps);
    for (u32 i = threadIdx.x; i < p.width; i += THREADS)
        p.out[at + i] = (from[i] - s.x) * s.y * p.weights[i] + p.weights[p.width + i];
    if (!p.codes) return;
    block_sync();
    u32 units = p.width / 32;
    for (u32 unit = threadIdx.x / 32; unit < units; unit += THREADS / 32) {
        u64 to = (u64)row * units + unit;
        unit_int8(p.out[at + unit * 32 + threadIdx.x % 32], p.codes + 32 * to, p.scales + to);
    }
}

struct Normalize {
    const u32* ints;
    const float* x;
    float* out;
    u32 width;
    u32 stride;
    u32 x_stride;
    u32 kind;
    u32 k;
    u32 pad;
};

// The first elements of a row, scaled to length one.
KERNEL(normalize, Normalize, 512) {
    u32 row = blockIdx.x;
    if (row >= rows_of(p.ints, p.kind, p.k)) return;
    const float* x = p.x + (u64)row * p.x_stride;
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < p.width; i += THREADS) sum += x[i] * x[i];
    float inverse = 1.0f / fmaxf(sqrtf(block_sum<THREADS>(sum)), 1e-12f);
    for (u32 i = threadIdx.x; i < p.width; i += THREADS) p.out[(u64)row * p.stride + i] = x[i] * inverse;
}
