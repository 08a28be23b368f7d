// Many rows of activations in 16 bits by a matrix, on the matrix units: tiles of 128 by 128, two units
// of 32 inputs at a time. Weights become 16-bit numbers on their way into shared memory, a unit a
// thread, while the codes of the next step are already on theirs; activations are copied as they are,
// one step ahead. Eight warps, each 32 rows of weights by 64 of activations.
#include "projection.h"

struct Half {
    MEMBER u32 two(float a, float b) { return two_halves(a, b); }
    MEMBER void mma(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) { mma_half(c, a, b); }
};
struct Brain {
    MEMBER u32 two(float a, float b) { return two_bf16(a, b); }
    MEMBER void mma(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) { mma_bf16(c, a, b); }
};

// 16-bit elements from a row in shared memory to the next: rows of 16 bytes of eight of them lie in
// different banks.
const u32 STRIDE = 72;
const u32 TILE = 128 * STRIDE;

template <class F, class T>
DEVICE void gemm_half(const Projection& p) {
    DYNAMIC_SHARED(memory);
    u16* ws = (u16*)memory;
    u16* xs = ws + TILE;  // two steps
    u32 all = rows_of(p.ints, p.kind, p.k);
    u32 block = blockIdx.x, t0 = blockIdx.y * 128;
    const Part& part = p.parts[part_of(p, 128, block)];
    const Weight& w = part.w;
    u32 row0 = block * 128, rows = part.rows;
    if (t0 >= all) return;
    u32 i = threadIdx.x, lane = i % 32, warp = i / 32;
    u32 my_row = warp % 4 * 32, my_token = warp / 4 * 64;
    u32 units = w.units, steps = (units + 1) / 2;
    u32 row = row0 + i / 2 < rows ? row0 + i / 2 : 0;
    u64 weights = (u64)row * units;

    // Eight 16-byte pieces of each of 128 rows, four a thread.
    auto fetch = [&](u32 step) {
        UNROLL
        for (int n = 0; n < 4; n++) {
            u32 piece = n * 256 + i, t = piece / 8, c = step * 64 + piece % 8 * 8;
            bool there = t0 + t < all && c < units * 32;
            u64 from = there ? (u64)(t0 + t) * p.x_stride + c : 0;
            copy16(xs + step % 2 * TILE + t * STRIDE + piece % 8 * 8, (const u16*)p.x + from, there);
        }
        copies_close();
    };
    float v[32];
    auto decode = [&](u32 step) {
        u32 unit = 2 * step + i % 2;
        if (unit < units) {
            values_of<F>(w, weights + unit, v);
        } else {
            UNROLL
            for (int e = 0; e < 32; e++) v[e] = 0.0f;
        }
    };
    auto multiply = [&](float (&acc)[2][8][4], const u16* w, const u16* x) {
        UNROLL
        for (int k = 0; k < 4; k++) {
            u32 a[2][4];
            UNROLL
            for (int m = 0; m < 2; m++)
                load_matrices(a[m], w + (my_row + 16 * m + lane % 16) * STRIDE + 16 * k + lane / 16 * 8);
            UNROLL
            for (int n = 0; n < 4; n++) {
                // Sixteen rows of activations: both halves of the inputs of the first eight, then of
                // the others.
                u32 r[4];
                u32 t = my_token + 16 * n + lane / 16 * 8 + lane % 8;
                load_matrices(r, x + t * STRIDE + 16 * k + lane / 8 % 2 * 8);
                u32 b[2][2] = {{r[0], r[1]}, {r[2], r[3]}};
                UNROLL
                for (int m = 0; m < 2; m++)
                    UNROLL
                    for (int h = 0; h < 2; h++) T::mma(acc[m][2 * n + h], a[m], b[h]);
            }
        }
    };
    float acc[2][8][4] = {};
    for (u32 next = 0; next <= steps; next++) {
        if (next < steps) {
            fetch(next);
            decode(next);
        }
        if (next > 0) {
            multiply(acc, ws, xs + (next - 1) % 2 * TILE);
            block_sync();
        }
        if (next == steps) break;
        UNROLL
        for (int j = 0; j < 4; j++) {
            uint4 eight = {T::two(v[8 * j], v[8 * j + 1]), T::two(v[8 * j + 2], v[8 * j + 3]),
                       T::two(v[8 * j + 4], v[8 * j + 5]), T::two(v[8 * j + 6], v[8 * j + 7])};
            *(uint4*)(ws + i / 2 * STRIDE + i % 2 * 32 + j * 8) = eight;
        }
        copies_wait<0>();
        block_sync();
    }
    u32 g = lane / 4, q = lane % 4;
    UNROLL
    for (int m = 0; m < 2; m++)
        UNROLL
        for (int n = 0; n < 8; n++)
            UNROLL
            for (int r = 0; r < 4; r++) {
                u32 to = row0 + my_row + 16 * m + g + r / 2 * 8, t = t0 + my_token + 8 * n + 2 * q + r % 2;
                if (to < rows && t < all) finish(p, t, 0, part.out_at + to, acc[m][n][r]);
            }
}

// Tables of points are rare: they take another way.
#define GEMM(name, F) KERNEL(gemm_half_##name, Projection, 256) { gemm_half<F, Half>(p); }
FOR_DENSE(GEMM)
FOR_PLAIN(GEMM)
#undef GEMM
#define GEMM(name, F) KERNEL(gemm_brain_##name, Projection, 256) { gemm_half<F, Brain>(p); }
FOR_DENSE(GEMM)
FOR_PLAIN(GEMM)
