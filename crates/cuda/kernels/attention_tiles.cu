// Attention of many tokens on the matrix units, for heads of 64 or 128 elements in 16 bits: a block takes
// 64 tokens of a head, a warp 16 of them, and walks their keys 64 at a time. Scores, weights and sums
// stay in registers; keys of the next tile are on their way while values are multiplied, and the other
// way round.
#include "attention.h"

const u32 THREADS = 128;

struct Half {
    MEMBER u32 two(float a, float b) { return two_halves(a, b); }
    MEMBER void mma(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) { mma_half(c, a, b); }
};
struct Brain {
    MEMBER u32 two(float a, float b) { return two_bf16(a, b); }
    MEMBER void mma(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) { mma_bf16(c, a, b); }
};

// What few models need is called, since it stands in many places.
CALLED float soft(float s, float cap) { return capped(s, cap); }
CALLED bool ancestor(const Attention& p, u32 t, u32 tree, u32 key) { return in_tree(p, t, tree, key); }

// The largest or the sum over the four lanes that have a row.
DEVICE float quad_max(float v) {
    v = fmaxf(v, lanes_xor(v, 1));
    return fmaxf(v, lanes_xor(v, 2));
}
DEVICE float quad_sum(float v) {
    v += lanes_xor(v, 1);
    return v + lanes_xor(v, 2);
}

// The tokens of a block that are of one sequence, and the keys that they see. Where these do not join,
// what lies between may never have been written.
struct Segment {
    const u32* table;
    u32 t0, t1;
    uint2 span;
    bool gaps;
};

DEVICE Segment segment_of(const Attention& p, const u32* table, u32 t0, u32 t1) {
    Segment g = {table, t0, t1, seen(p, t0), false};
    for (u32 t = t0 + 1; t < t1; t++) {
        uint2 s = seen(p, t);
        g.gaps |= s.x > g.span.y || s.y < g.span.x;
        g.span = uint2{min(g.span.x, s.x), max(g.span.y, s.y)};
    }
    return g;
}

DEVICE bool anybody_sees(const Attention& p, const Segment& g, u32 key) {
    bool some = false;
    for (u32 t = g.t0; t < g.t1; t++) {
        uint2 s = seen(p, t);
        some |= key >= s.x && key < s.y;
    }
    return some;
}

// Starts bringing the keys or values of 64 keys; those that are not there as zeros.
template <int DIM>
DEVICE void fetch(const Attention& p, const Segment& g, u16* tile, u32 first, u32 head, bool value) {
    const u32 PIECES = DIM / 8;
    UNROLL
    for (u32 n = 0; n < 64 * PIECES / THREADS; n++) {
        u32 i = n * THREADS + threadIdx.x, key = first + i / PIECES;
        bool there = key < g.span.y && held(p, g.table, key);
        if (g.gaps) there = there && anybody_sees(p, g, key);
        const u8* from = there ? row_of(p, g.table, key, head, value) : p.cache;
        copy16(tile + i / PIECES * (DIM + 8) + i % PIECES * 8, from + i % PIECES * 16, there);
    }
    copies_close();
}

template <class T, int DIM>
DEVICE void tiles(const Attention& p) {
    // Rows of 16 bytes of eight of them lie in different banks.
    const u32 ROW = DIM + 8;
    SHARED uint4 memory[2 * 64 * ROW / 8];
    u16* ks = (u16*)memory;
    u16* vs = ks + 64 * ROW;
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, quad = lane % 4;
    u32 h = blockIdx.x, kv_head = h / (p.heads / p.kv_heads), tokens = p.ints[TOKENS];
    // Tiles with the most keys come first.
    u32 t0 = (gridDim.y - 1 - blockIdx.y) * 64, end = min(t0 + 64, tokens);
    while (t0 < end) {
        u32 seq = p.derived[p.capacity + t0];
        u32 t1 = min(end, array(p.ints, AT_STARTS)[seq + 1]);
        const u32* table = array(p.ints, AT_PAGES) + array(p.ints, AT_PAGE_STARTS)[p.group * p.ints[SEQS] + seq];
        u32 tree = p.ints[AT_TREE] ? array(p.ints, AT_TREE)[seq] : NOBODY;
        Segment seg = segment_of(p, table, t0, t1);
        uint2 span = seg.span;
        // Two rows of a thread.
        u32 row[2] = {t0 + warp * 16 + g, t0 + warp * 16 + g + 8};
        uint2 sees[2];
        const float* q[2];
        UNROLL
        for (int r = 0; r < 2; r++) {
            bool there = row[r] < t1;
            sees[r] = there ? seen(p, row[r]) : uint2{0, 0};
            q[r] = p.q + (u64)(there ? row[r] : t0) * p.stride + h * DIM;
        }
        u32 a[DIM / 16][4];
        UNROLL
        for (int k = 0; k < DIM / 16; k++)
            UNROLL
            for (int i = 0; i < 4; i++) {
                const float* from = q[i % 2] + 16 * k + 2 * quad + i / 2 * 8;
                a[k][i] = T::two(p.scale * from[0], p.scale * from[1]);
            }
        float acc[DIM / 8][4] = {}, top[2] = {LEAST, LEAST}, mass[2] = {0.0f, 0.0f};
        block_sync();
        fetch<DIM>(p, seg, ks, span.x, kv_head, false);
        fetch<DIM>(p, seg, vs, span.x, kv_head, true);
        for (u32 key0 = span.x; key0 < span.y; key0 += 64) {
            copies_wait<1>();
            block_sync();
            float s[8][4] = {};
            UNROLL
            for (int k = 0; k < DIM / 16; k++)
                UNROLL
                for (int n = 0; n < 4; n++) {
                    u32 r[4];
                    load_matrices(r, ks + (16 * n + lane / 16 * 8 + lane % 8) * ROW + 16 * k + lane / 8 % 2 * 8);
                    u32 b[2][2] = {{r[0], r[1]}, {r[2], r[3]}};
                    T::mma(s[2 * n], a[k], b[0]);
                    T::mma(s[2 * n + 1], a[k], b[1]);
                }
            block_sync();
            // Behind the last tile there is nothing to bring, and a group of nothing.
            if (key0 + 64 < span.y) fetch<DIM>(p, seg, ks, key0 + 64, kv_head, false);
            else copies_close();

            float now[2] = {top[0], top[1]};
            UNROLL
            for (int n = 0; n < 8; n++)
                UNROLL
                for (int i = 0; i < 4; i++) {
                    u32 key = key0 + 8 * n + 2 * quad + i % 2;
                    bool visible = key >= sees[i / 2].x && key < sees[i / 2].y;
                    if (tree != NOBODY) visible = visible && ancestor(p, row[i / 2], tree, key);
                    if (p.cap != 0.0f) s[n][i] = soft(s[n][i], p.cap);
                    s[n][i] = visible ? s[n][i] : LEAST;
                    now[i / 2] = fmaxf(now[i / 2], s[n][i]);
                }
            float shrink[2], sum[2] = {0.0f, 0.0f};
            UNROLL
            for (int r = 0; r < 2; r++) {
                now[r] = quad_max(now[r]);
                shrink[r] = expf(top[r] - now[r]);
                top[r] = now[r];
            }
            UNROLL
            for (int n = 0; n < 8; n++)
                UNROLL
                for (int i = 0; i < 4; i++) {
                    s[n][i] = s[n][i] > -1.0e38f ? expf(s[n][i] - now[i / 2]) : 0.0f;
                    sum[i / 2] += s[n][i];
                }
            UNROLL
            for (int r = 0; r < 2; r++) mass[r] = mass[r] * shrink[r] + quad_sum(sum[r]);
            UNROLL
            for (int n = 0; n < DIM / 8; n++)
                UNROLL
                for (int i = 0; i < 4; i++) acc[n][i] *= shrink[i / 2];

            copies_wait<1>();
            block_sync();
            UNROLL
            for (int k = 0; k < 4; k++) {
                u32 w[4] = {T::two(s[2 * k][0], s[2 * k][1]), T::two(s[2 * k][2], s[2 * k][3]),
                            T::two(s[2 * k + 1][0], s[2 * k + 1][1]), T::two(s[2 * k + 1][2], s[2 * k + 1][3])};
                UNROLL
                for (int n = 0; n < DIM / 16; n++) {
                    u32 r[4];
                    load_transposed(r, vs + (16 * k + lane / 8 % 2 * 8 + lane % 8) * ROW + 16 * n + lane / 16 * 8);
                    u32 b[2][2] = {{r[0], r[1]}, {r[2], r[3]}};
                    T::mma(acc[2 * n], w, b[0]);
                    T::mma(acc[2 * n + 1], w, b[1]);
                }
            }
            block_sync();
            if (key0 + 64 < span.y) fetch<DIM>(p, seg, vs, key0 + 64, kv_head, true);
            else copies_close();
        }
        copies_wait<0>();
        UNROLL
        for (int r = 0; r < 2; r++) {
            if (row[r] >= t1) continue;
            float factor = 1.0f, all = mass[r];
            if (p.sinks) {
                float most = fmaxf(top[r], p.sinks[h]);
                factor = expf(top[r] - most);
                all = all * factor + expf(p.sinks[h] - most);
            }
            factor /= all;
            float* to = p.out + (u64)row[r] * p.stride + h * DIM + 2 * quad;
            UNROLL
            for (int n = 0; n < DIM / 8; n++) {
                to[8 * n] = acc[n][2 * r] * factor;
                to[8 * n + 1] = acc[n][2 * r + 1] * factor;
            }
        }
        t0 = t1;
    }
}

KERNEL(tiles_half_64, Attention, 128) { tiles<Half, 64>(p); }
KERNEL(tiles_half_128, Attention, 128) { tiles<Half, 128>(p); }
KERNEL(tiles_brain_64, Attention, 128) { tiles<Brain, 64>(p); }
KERNEL(tiles_brain_128, Attention, 128) { tiles<Brain, 128>(p); }
