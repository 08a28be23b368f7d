// Many rows of activations by a matrix, exactly: tiles of 64 rows of weights by 64 of activations, a
// unit of 32 inputs at a time. A thread adds up 4 x 4 of the results.
#include "projection.h"

template <class F>
DEVICE void gemm(const Projection& p) {
    SHARED float ws[32][68];
    SHARED float xs[32][68];
    u32 all = rows_of(p.ints, p.kind, p.k);
    u32 block = blockIdx.x, t0 = blockIdx.y * 64;
    const Part& part = p.parts[part_of(p, 64, block)];
    const Weight& w = part.w;
    u32 row0 = block * 64, rows = part.rows;
    if (t0 >= all) return;
    u32 i = threadIdx.x, mine_row = i % 16 * 4, mine_token = i / 16 * 4;
    float acc[4][4] = {};
    for (u32 unit = 0; unit < w.units; unit++) {
        block_sync();
        if (i < 64) {
            float v[32];
            u32 row = row0 + i < rows ? row0 + i : 0;
            values_of<F>(w, (u64)row * w.units + unit, v);
            UNROLL
            for (int e = 0; e < 32; e++) ws[e][i] = v[e];
        } else {
            for (u32 n = i - 64; n < 64 * 8; n += 192) {
                u32 t = t0 + n / 8, c = unit * 32 + n % 8 * 4;
                float4 v = {0.0f, 0.0f, 0.0f, 0.0f};
                if (t < all && c < p.cols) v = *(const float4*)((const float*)p.x + (u64)t * p.x_stride + c);
                float four[4] = {v.x, v.y, v.z, v.w};
                UNROLL
                for (int e = 0; e < 4; e++) xs[n % 8 * 4 + e][n / 8] = c + e < p.cols ? four[e] : 0.0f;
            }
        }
        block_sync();
        UNROLL
        for (int e = 0; e < 32; e++) {
            float4 u = *(const float4*)&ws[e][mine_row], x = *(const float4*)&xs[e][mine_token];
            float a[4] = {u.x, u.y, u.z, u.w}, b[4] = {x.x, x.y, x.z, x.w};
            UNROLL
            for (int n = 0; n < 4; n++)
                UNROLL
                for (int r = 0; r < 4; r++) acc[n][r] += a[r] * b[n];
        }
    }
    UNROLL
    for (int n = 0; n < 4; n++)
        UNROLL
        for (int r = 0; r < 4; r++) {
            u32 t = t0 + mine_token + n, row = row0 + mine_row + r;
            if (t < all && row < rows) finish(p, t, 0, part.out_at + row, acc[n][r]);
        }
}

#define GEMM(name, F) KERNEL(gemm_##name, Projection, 256) { gemm<F>(p); }
FOR_ALL(GEMM)
