// Many rows of activations in signed bytes by a matrix of integers: tiles of 64 by 64, on the matrix
// units, a unit of 32 inputs at a time, whose halves each have their scale. Four warps, each 32 x 32.
#include "projection.h"

template <class F>
DEVICE void gemm_int8(const Projection& p) {
    // Rows of 48 bytes: eight of them at a word each lie in different banks.
    SHARED u32 wq[64][12];
    SHARED u32 xq[64][12];
    SHARED Factors wf[64];
    SHARED float wz[64];
    SHARED UnitScale xs[64];
    u32 all = rows_of(p.ints, p.kind, p.k);
    u32 block = blockIdx.x, t0 = blockIdx.y * 64;
    const Part& part = p.parts[part_of(p, 64, block)];
    const Weight& w = part.w;
    u32 row0 = block * 64, rows = part.rows;
    if (t0 >= all) return;
    u32 i = threadIdx.x, lane = i % 32, warp = i / 32;
    u32 g = lane / 4, q4 = lane % 4, my_row = warp % 2 * 32, my_token = warp / 2 * 32;
    float acc[2][4][4] = {};
    for (u32 unit = 0; unit < w.units; unit++) {
        block_sync();
        if (i < 64) {
            u32 row = row0 + i < rows ? row0 + i : 0;
            u64 at = (u64)row * w.units + unit;
            u32 q[8];
            F::quads(w, at, q);
            UNROLL
            for (int j = 0; j < 8; j++) wq[i][j] = q[j];
            F::factors(w, at, wf[i]);
            wz[i] = (float)F::zero(w, at);
        } else {
            u32 n = i - 64, t = t0 + n;
            uint4 a = {0, 0, 0, 0}, b = a;
            UnitScale s = {0.0f, 0};
            if (t < all) {
                u64 of_x = (u64)t * w.units + unit;
                a = ((const uint4*)p.x)[2 * of_x];
                b = ((const uint4*)p.x)[2 * of_x + 1];
                s = ((const UnitScale*)p.x_scales)[of_x];
            }
            *(uint4*)&xq[n][0] = a;
            *(uint4*)&xq[n][4] = b;
            xs[n] = s;
        }
        block_sync();
        UNROLL
        for (int h = 0; h < 2; h++) {
            u32 a[2][2];
            UNROLL
            for (int m = 0; m < 2; m++) {
                a[m][0] = wq[my_row + 16 * m + g][4 * h + q4];
                a[m][1] = wq[my_row + 16 * m + g + 8][4 * h + q4];
            }
            UNROLL
            for (int n = 0; n < 4; n++) {
                u32 b = xq[my_token + 8 * n + g][4 * h + q4];
                UNROLL
                for (int m = 0; m < 2; m++) {
                    i32 c[4] = {0, 0, 0, 0};
                    mma_int8(c, a[m], b);
                    UNROLL
                    for (int r = 0; r < 4; r++) {
                        u32 row = my_row + 16 * m + g + r / 2 * 8, t = my_token + 8 * n + 2 * q4 + r % 2;
                        float sum = (float)half_sum(xs[t].sums, h);
                        float y = wf[row].s[h] * ((float)c[r] - wz[row] * sum) - wf[row].m[h] * sum;
                        acc[m][n][r] += xs[t].scale * y;
                    }
                }
            }
        }
    }
    UNROLL
    for (int m = 0; m < 2; m++)
        UNROLL
        for (int n = 0; n < 4; n++)
            UNROLL
            for (int r = 0; r < 4; r++) {
                u32 row = row0 + my_row + 16 * m + g + r / 2 * 8, t = t0 + my_token + 8 * n + 2 * q4 + r % 2;
                if (row < rows && t < all) finish(p, t, 0, part.out_at + row, acc[m][n][r]);
            }
}

#define GEMM(name, F) KERNEL(gemm_int8_##name, Projection, 128) { gemm_int8<F>(p); }
FOR_INTEGERS(GEMM)
