// Rows of activations by a few rows of a matrix: a block reads ROWS rows of weights once, each thread
// every 128th unit of 32, for up to TOKENS rows of activations; it adds up at the end. So every warp
// reads half a kibibyte of codes side by side, and a thread has ROWS such loads on their way.
#include "projection.h"

const u32 THREADS = 128;

template <class F, bool INT8, int ROWS, int TOKENS>
DEVICE void gemv(const Projection& p) {
    u32 t0 = blockIdx.y * TOKENS, all = rows_of(p.ints, p.kind, p.k);
    if (t0 >= all) return;
    u32 block = blockIdx.x, e = 0;
    // Of gated units a block takes half as many, and both matrices' rows of each.
    u32 part = p.gated ? 0 : part_of(p, ROWS, block), row = block * (p.gated ? ROWS / 2 : ROWS);
    if (p.route) e = (u32)p.route[(u64)(t0 / p.k) * p.route_stride + t0 % p.k];
    const Part& first = p.parts[part];
    u32 units = first.w.units, rows = first.rows;
    u64 at[ROWS];
    const Weight* w[ROWS];
    UNROLL
    for (int r = 0; r < ROWS; r++) {
        u32 mine = p.gated ? row + r / 2 : row + r;
        // Rows beyond the last are not written.
        at[r] = ((u64)e * rows + (mine < rows ? mine : 0)) * units;
        w[r] = p.gated && r % 2 ? &p.parts[1].w : &first.w;
    }
    float acc[TOKENS][ROWS] = {};
    for (u32 unit = threadIdx.x; unit < units; unit += THREADS) {
        if constexpr (INT8) {
            u32 q[ROWS][8];
            Factors f[ROWS];
            UNROLL
            for (int r = 0; r < ROWS; r++) F::quads(*w[r], at[r] + unit, q[r]);
            UNROLL
            for (int r = 0; r < ROWS; r++) F::factors(*w[r], at[r] + unit, f[r]);
            UNROLL
            for (int n = 0; n < TOKENS; n++) {
                if (t0 + n >= all) break;
                u64 of_x = (u64)((t0 + n) / p.x_share) * units + unit;
                const uint4* from = (const uint4*)p.x + 2 * of_x;
                uint4 a = from[0], b = from[1];
                u32 x[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
                UnitScale s = ((const UnitScale*)p.x_scales)[of_x];
                i32 sums[2] = {half_sum(s.sums, 0), half_sum(s.sums, 1)};
                UNROLL
                for (int r = 0; r < ROWS; r++) {
                    i32 zero = F::zero(*w[r], at[r] + unit);
                    float y = 0.0f;
                    UNROLL
                    for (int h = 0; h < 2; h++) {
                        i32 dot = -zero * sums[h];
                        UNROLL
                        for (int j = 0; j < 4; j++) dot = dot4(q[r][4 * h + j], x[4 * h + j], dot);
                        y += f[r].s[h] * (float)dot - f[r].m[h] * (float)sums[h];
                    }
                    acc[n][r] += s.scale * y;
                }
            }
        } else {
            UNROLL
            for (int n = 0; n < TOKENS; n++) {
                if (t0 + n >= all) break;
                const float* from = (const float*)p.x + (u64)((t0 + n) / p.x_share) * p.x_stride + unit * 32;
                float x[32];
                UNROLL
                for (int j = 0; j < 8; j++) {
                    // What lies behind a row is not read.
                    float4 v = {0.0f, 0.0f, 0.0f, 0.0f};
                    u32 c = unit * 32 + 4 * j;
                    if (c < p.cols) v = ((const float4*)from)[j];
                    x[4 * j] = v.x, x[4 * j + 1] = v.y, x[4 * j + 2] = v.z, x[4 * j + 3] = v.w;
                    if (c + 4 > p.cols) {
                        UNROLL
                        for (int i = 0; i < 4; i++)
                            if (c + i >= p.cols) x[4 * j + i] = 0.0f;
                    }
                }
                UNROLL
                for (int r = 0; r < ROWS; r++) {
                    float v[32];
                    values_of<F>(*w[r], at[r] + unit, v);
                    float sum = 0.0f;
                    UNROLL
                    for (int i = 0; i < 32; i++) sum += v[i] * x[i];
                    acc[n][r] += sum;
                }
            }
        }
    }
    SHARED float sums[TOKENS * ROWS][THREADS / 32];
    u32 warp = threadIdx.x / 32;
    UNROLL
    for (int n = 0; n < TOKENS; n++)
        UNROLL
        for (int r = 0; r < ROWS; r++) {
            float sum = warp_sum(acc[n][r]);
            if (threadIdx.x % 32 == 0) sums[n * ROWS + r][warp] = sum;
        }
    block_sync();
    u32 i = threadIdx.x, t = t0 + i / ROWS;
    if (i >= TOKENS * ROWS || t >= all) return;
    float sum = 0.0f;
    for (u32 n = 0; n < THREADS / 32; n++) sum += sums[i][n];
    if (!p.gated) {
        if (row + i % ROWS < rows) finish(p, t, e, first.out_at + row + i % ROWS, sum);
        return;
    }
    u32 unit = row + i % ROWS / 2;
    if (i % 2 || unit >= rows) return;
    float up = 0.0f;
    for (u32 n = 0; n < THREADS / 32; n++) up += sums[i + 1][n];
    p.out[(u64)t * p.out_stride + unit] =
        gated(p.act, biased(p, e, unit, sum), biased(p, e, rows + unit, up));
}

// One row of activations. Four at a time where that is common: others take tiles of many.
#define ONE(name, F) KERNEL(gemv_##name, Projection, 128) { gemv<F, false, 2, 1>(p); }
#define FOUR(name, F) KERNEL(gemv4_##name, Projection, 128) { gemv<F, false, 2, 4>(p); }
#define ONE_INT8(name, F) KERNEL(gemv_int8_##name, Projection, 128) { gemv<F, true, 4, 1>(p); }
#define FOUR_INT8(name, F) KERNEL(gemv4_int8_##name, Projection, 128) { gemv<F, true, 2, 4>(p); }
FOR_ALL(ONE)
FOR_DENSE(FOUR)
FOR_INTEGERS(ONE_INT8)
FOR_PLAIN(FOUR_INT8)
