// Attention over pages without ever holding more scores than a tile of keys: a block takes a few query
// heads that share a key head, of a few tokens, over all of their keys or a part. Keys, then values of a
// tile are brought into shared memory as f32; a thread computes whole scores.
#include "attention.h"

const u32 THREADS = 128;

DEVICE void load_rows(const Attention& p, float* tile, const u32* table, u32 first, u32 last, u32 head, bool value) {
    u32 stride = p.dim + 1, kind = value ? p.v_kind : p.k_kind;
    for (u32 i = threadIdx.x; i < p.tile_keys * p.dim; i += THREADS) {
        u32 key = first + i / p.dim;
        float v = 0.0f;
        if (key < last && held(p, table, key)) v = loaded(kind, row_of(p, table, key, head, value), i % p.dim);
        tile[i / p.dim * stride + i % p.dim] = v;
    }
}

KERNEL(attention, Attention, 128) {
    DYNAMIC_SHARED(memory);
    u32 thread = threadIdx.x, dim = p.dim;
    u32 slots = p.tile_heads * p.tile_tokens, keys = p.tile_keys;
    float* queries = (float*)memory;
    float* acc = queries + slots * dim;
    float* tile = acc + slots * dim;
    float* scores = tile + keys * (dim + 1);
    float* largest = scores + slots * keys;
    float* total = largest + slots;
    float* shrink = total + slots;

    u32 sharing = p.heads / p.kv_heads, tiles = (sharing + p.tile_heads - 1) / p.tile_heads;
    u32 kv_head = blockIdx.x / tiles, first_head = blockIdx.x % tiles * p.tile_heads;
    u32 t0 = blockIdx.y * p.tile_tokens, end = min(t0 + p.tile_tokens, p.ints[TOKENS]);
    // A tile that reaches into another sequence is done one sequence after the other.
    while (t0 < end) {
        u32 seq = p.derived[p.capacity + t0];
        u32 t1 = min(end, array(p.ints, AT_STARTS)[seq + 1]);
        const u32* table = array(p.ints, AT_PAGES) + array(p.ints, AT_PAGE_STARTS)[p.group * p.ints[SEQS] + seq];
        u32 tree = p.ints[AT_TREE] ? array(p.ints, AT_TREE)[seq] : NOBODY;
        uint2 span = seen(p, t0);
        for (u32 t = t0 + 1; t < t1; t++) {
            uint2 s = seen(p, t);
            span = uint2{min(span.x, s.x), max(span.y, s.y)};
        }
        // This block's part.
        u32 splits = splits_of(p, t0), split = blockIdx.z;
        if (split >= splits) return;
        u32 share = ((span.y - span.x + splits - 1) / splits + keys - 1) / keys * keys;
        u32 begin = span.x + split * share, last = min(begin + share, span.y);

        block_sync();
        for (u32 i = thread; i < slots * dim; i += THREADS) {
            u32 slot = i / dim, head = first_head + slot % p.tile_heads, t = t0 + slot / p.tile_heads;
            bool there = t < t1 && head < sharing;
            queries[i] = there ? p.q[(u64)t * p.stride + (kv_head * sharing + head) * dim + i % dim] : 0.0f;
            acc[i] = 0.0f;
        }
        for (u32 i = thread; i < slots; i += THREADS) {
            largest[i] = LEAST;
            total[i] = 0.0f;
        }
        for (u32 key0 = begin; key0 < last; key0 += keys) {
            block_sync();
            load_rows(p, tile, table, key0, last, kv_head, false);
            block_sync();
            for (u32 i = thread; i < slots * keys; i += THREADS) {
                u32 slot = i / keys, key = key0 + i % keys, t = t0 + slot / p.tile_heads;
                float score = LEAST;
                if (t < t1 && key < last) {
                    uint2 s = seen(p, t);
                    if (key >= s.x && key < s.y && in_tree(p, t, tree, key)) {
                        const float* a = queries + slot * dim;
                        const float* b = tile + i % keys * (dim + 1);
                        float sum = 0.0f;
                        for (u32 e = 0; e < dim; e++) sum += a[e] * b[e];
                        score = capped(p.scale * sum, p.cap);
                    }
                }
                scores[i] = score;
            }
            block_sync();
            load_rows(p, tile, table, key0, last, kv_head, true);
            // A slot is one thread's.
            for (u32 slot = thread; slot < slots; slot += THREADS) {
                float* s = scores + slot * keys;
                float top = largest[slot], sum = 0.0f;
                for (u32 k = 0; k < keys; k++) top = fmaxf(top, s[k]);
                for (u32 k = 0; k < keys; k++) {
                    float e = s[k] > -1.0e38f ? expf(s[k] - top) : 0.0f;
                    s[k] = e;
                    sum += e;
                }
                shrink[slot] = expf(largest[slot] - top);
                largest[slot] = top;
                total[slot] = total[slot] * shrink[slot] + sum;
            }
            block_sync();
            for (u32 i = thread; i < slots * dim; i += THREADS) {
                const float* s = scores + i / dim * keys;
                float sum = acc[i] * shrink[i / dim];
                // What nobody sees may never have been written.
                for (u32 k = 0; k < keys; k++)
                    if (s[k] != 0.0f) sum += s[k] * tile[k * (dim + 1) + i % dim];
                acc[i] = sum;
            }
        }
        block_sync();
        for (u32 i = thread; i < slots * dim; i += THREADS) {
            u32 slot = i / dim, head = first_head + slot % p.tile_heads, t = t0 + slot / p.tile_heads;
            if (t >= t1 || head >= sharing) continue;
            u32 h = kv_head * sharing + head;
            float* to = result_of(p, t, h, split, splits);
            float factor = 1.0f;
            if (splits == 1) {
                float all = total[slot], top = largest[slot];
                if (p.sinks) {
                    float most = fmaxf(top, p.sinks[h]);
                    factor = expf(top - most);
                    all = all * factor + expf(p.sinks[h] - most);
                }
                factor /= all;
            } else if (i % dim == 0) {
                to[dim] = largest[slot];
                to[dim + 1] = total[slot];
            }
            to[i % dim] = acc[i] * factor;
        }
        t0 = t1;
    }
}

// Joins the parts of a head of a token.
KERNEL(attention_merge, Attention, 128) {
    u32 h = blockIdx.x, t = blockIdx.y, dim = p.dim;
    if (t >= p.ints[TOKENS]) return;
    u32 splits = splits_of(p, t);
    // One part wrote its results itself.
    if (splits < 2) return;
    const float* parts = result_of(p, t, h, 0, splits);
    u32 each = dim + 2;
    float top = p.sinks ? p.sinks[h] : LEAST;
    for (u32 s = 0; s < splits; s++) top = fmaxf(top, parts[s * each + dim]);
    float all = p.sinks ? expf(p.sinks[h] - top) : 0.0f;
    for (u32 s = 0; s < splits; s++) all += parts[s * each + dim + 1] * expf(parts[s * each + dim] - top);
    for (u32 i = threadIdx.x; i < dim; i += THREADS) {
        float sum = 0.0f;
        for (u32 s = 0; s < splits; s++) sum += parts[s * each + i] * expf(parts[s * each + dim] - top);
        p.out[(u64)t * p.stride + h * dim + i] = sum / all;
    }
}
