// Attention of one token over its pages, for heads of 64 or 128 elements in 16 bits: a block takes HEADS
// query heads that share a key head, over a part of the keys. Eight lanes take a key, so that a row is
// read side by side and a warp has four keys on their way, keys and values at once; every eight lanes
// keep sums of their own, which are joined at the end.
#include "attention.h"

const u32 WARPS = 4;

DEVICE void eight(uint4 v, bool brain, float (&x)[8]) {
    u32 w[4] = {v.x, v.y, v.z, v.w};
    UNROLL
    for (int i = 0; i < 4; i++) {
        x[2 * i] = brain ? bits_float(w[i] << 16) : half_float((u16)w[i]);
        x[2 * i + 1] = brain ? bits_float(w[i] & 0xffff0000u) : half_float((u16)(w[i] >> 16));
    }
}

template <int DIM, int HEADS>
DEVICE void decode(const Attention& p) {
    const int PIECES = DIM / 64, MINE = DIM / 8;
    SHARED float parts[WARPS][HEADS][DIM + 2];
    u32 sharing = p.heads / p.kv_heads, tiles = (sharing + HEADS - 1) / HEADS;
    u32 kv_head = blockIdx.x / tiles, head0 = blockIdx.x % tiles * HEADS;
    u32 t = blockIdx.y, split = blockIdx.z;
    if (t >= p.ints[TOKENS]) return;
    u32 splits = splits_of(p, t);
    if (split >= splits) return;
    u32 seq = p.derived[p.capacity + t];
    const u32* table = array(p.ints, AT_PAGES) + array(p.ints, AT_PAGE_STARTS)[p.group * p.ints[SEQS] + seq];
    u32 tree = p.ints[AT_TREE] ? array(p.ints, AT_TREE)[seq] : NOBODY;
    uint2 span = seen(p, t);
    u32 share = (span.y - span.x + splits - 1) / splits;
    u32 begin = span.x + split * share, last = min(begin + share, span.y);
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, which = lane / 8, of_key = lane % 8;

    float q[HEADS][MINE], acc[HEADS][MINE] = {}, top[HEADS], mass[HEADS] = {};
    UNROLL
    for (int h = 0; h < HEADS; h++) {
        top[h] = LEAST;
        u32 head = kv_head * sharing + (head0 + h < sharing ? head0 + h : 0);
        const float* from = p.q + (u64)t * p.stride + head * DIM;
        UNROLL
        for (int c = 0; c < PIECES; c++)
            UNROLL
            for (int i = 0; i < 8; i++) q[h][8 * c + i] = p.scale * from[64 * c + 8 * of_key + i];
    }
    for (u32 key0 = begin + 4 * warp; key0 < last; key0 += 4 * WARPS) {
        u32 key = key0 + which;
        bool sees = key < last && in_tree(p, t, tree, key);
        u32 row = key < last ? key : key0;
        const uint4* from_k = (const uint4*)row_of(p, table, row, kv_head, false);
        const uint4* from_v = (const uint4*)row_of(p, table, row, kv_head, true);
        uint4 k[PIECES], v[PIECES];
        UNROLL
        for (int c = 0; c < PIECES; c++) k[c] = load_once(from_k + 8 * c + of_key);
        UNROLL
        for (int c = 0; c < PIECES; c++) v[c] = load_once(from_v + 8 * c + of_key);
        float score[HEADS] = {};
        UNROLL
        for (int c = 0; c < PIECES; c++) {
            float x[8];
            eight(k[c], p.k_kind == 2, x);
            UNROLL
            for (int h = 0; h < HEADS; h++)
                UNROLL
                for (int i = 0; i < 8; i++) score[h] += q[h][8 * c + i] * x[i];
        }
        UNROLL
        for (int m = 4; m > 0; m /= 2)
            UNROLL
            for (int h = 0; h < HEADS; h++) score[h] += lanes_xor(score[h], m);
        float weight[HEADS];
        UNROLL
        for (int h = 0; h < HEADS; h++) {
            float s = sees ? capped(score[h], p.cap) : LEAST;
            float now = fmaxf(top[h], s), shrink = expf(top[h] - now);
            weight[h] = sees ? expf(s - now) : 0.0f;
            top[h] = now;
            mass[h] = mass[h] * shrink + weight[h];
            UNROLL
            for (int i = 0; i < MINE; i++) acc[h][i] *= shrink;
        }
        UNROLL
        for (int c = 0; c < PIECES; c++) {
            float x[8];
            eight(v[c], p.v_kind == 2, x);
            UNROLL
            for (int h = 0; h < HEADS; h++)
                UNROLL
                for (int i = 0; i < 8; i++) acc[h][8 * c + i] += weight[h] * x[i];
        }
    }
    // The four keys of a warp, then the warps.
    UNROLL
    for (int h = 0; h < HEADS; h++) {
        float all = fmaxf(top[h], lanes_xor(top[h], 8));
        all = fmaxf(all, lanes_xor(all, 16));
        float factor = expf(top[h] - all);
        mass[h] *= factor;
        mass[h] += lanes_xor(mass[h], 8);
        mass[h] += lanes_xor(mass[h], 16);
        UNROLL
        for (int i = 0; i < MINE; i++) {
            float x = acc[h][i] * factor;
            x += lanes_xor(x, 8);
            x += lanes_xor(x, 16);
            if (which == 0) parts[warp][h][i / 8 * 64 + 8 * of_key + i % 8] = x;
        }
        if (lane == 0) {
            parts[warp][h][DIM] = all;
            parts[warp][h][DIM + 1] = mass[h];
        }
    }
    block_sync();
    for (u32 i = threadIdx.x; i < HEADS * DIM; i += 32 * WARPS) {
        u32 h = i / DIM, e = i % DIM;
        if (head0 + h >= sharing) continue;
        u32 head = kv_head * sharing + head0 + h;
        float most = LEAST, sum = 0.0f, all = 0.0f;
        UNROLL
        for (int w = 0; w < (int)WARPS; w++) most = fmaxf(most, parts[w][h][DIM]);
        UNROLL
        for (int w = 0; w < (int)WARPS; w++) {
            float factor = expf(parts[w][h][DIM] - most);
            sum += parts[w][h][e] * factor;
            all += parts[w][h][DIM + 1] * factor;
        }
        float* to = result_of(p, t, head, split, splits);
        if (splits == 1) {
            if (p.sinks) {
                float higher = fmaxf(most, p.sinks[head]);
                sum *= expf(most - higher);
                all = all * expf(most - higher) + expf(p.sinks[head] - higher);
            }
            to[e] = sum / all;
            continue;
        }
        to[e] = sum;
        if (e == 0) {
            to[DIM] = most;
            to[DIM + 1] = all;
        }
    }
}

KERNEL(decode_64_1, Attention, 128) { decode<64, 1>(p); }
KERNEL(decode_64_4, Attention, 128) { decode<64, 4>(p); }
KERNEL(decode_128_1, Attention, 128) { decode<128, 1>(p); }
KERNEL(decode_128_4, Attention, 128) { decode<128, 4>(p); }
