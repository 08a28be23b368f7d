// A head of a token after the projection: its norm, its rotation, and where it goes. Queries are the
// value; keys and values go to the pages, `[token][head][element]` each.
#include "numbers.h"
#include "step.h"

const int THREADS = 64;

struct Qkv {
    const u32* ints;
    const u32* derived;
    const float* x;
    u8* cache;
    float* out;
    const float* turns;    // cosines and sines
    const float* weights;  // of the norm of queries, then of keys; with biases
    u64 page_bytes;
    u64 values_at;         // where values begin in a page
    u32 heads;
    u32 kv_heads;
    u32 dim;
    u32 x_stride;
    u32 out_stride;
    u32 capacity;
    u32 group;
    u32 page_tokens;
    u32 k_kind;
    u32 v_kind;
    u32 norms;             // bits: 1 queries, 2 keys
    u32 layer;             // bits: which of these are layer norms
    u32 full;              // whether a norm runs over all heads
    float q_eps;
    float k_eps;
    u32 k_norm_at;
    u32 pairs;             // of elements that rotate, 0: none
    u32 adjacent;
};

KERNEL(qkv, Qkv, 64) {
    DYNAMIC_SHARED(memory);
    float* head = (float*)memory;
    u32 h = blockIdx.x, t = blockIdx.y, thread = threadIdx.x;
    if (t >= p.ints[TOKENS]) return;
    u64 at = (u64)t * p.x_stride + h * p.dim;
    // 0 a query, 1 a key, 2 a value
    u32 role = h < p.heads ? 0 : h < p.heads + p.kv_heads ? 1 : 2;
    for (u32 i = thread; i < p.dim; i += THREADS) head[i] = p.x[at + i];
    if (role < 2 && p.norms >> role & 1) {
        // The row that the norm runs over, and the place of this head in it.
        u64 row = at;
        u32 length = p.dim;
        if (p.full) {
            row = (u64)t * p.x_stride + role * p.heads * p.dim;
            length = (role ? p.kv_heads : p.heads) * p.dim;
        }
        const float* w = p.weights + (at - row) + (role ? p.k_norm_at : 0);
        float mean = 0.0f, sum = 0.0f;
        if (p.layer >> role & 1) {
            for (u32 i = thread; i < length; i += THREADS) sum += p.x[row + i];
            mean = block_sum<THREADS>(sum) / (float)length;
        }
        sum = 0.0f;
        for (u32 i = thread; i < length; i += THREADS) {
            float v = p.x[row + i] - mean;
            sum += v * v;
        }
        float inverse = 1.0f / sqrtf(block_sum<THREADS>(sum) / (float)length + (role ? p.k_eps : p.q_eps));
        for (u32 i = thread; i < p.dim; i += THREADS) head[i] = (head[i] - mean) * inverse * w[i] + w[length + i];
    }
    block_sync();
    if (role < 2) {
        for (u32 i = thread; i < p.pairs; i += THREADS) {
            const float* turn = p.turns + 2 * ((u64)t * p.pairs + i);
            u32 a = p.adjacent ? 2 * i : i, b = p.adjacent ? 2 * i + 1 : i + p.pairs;
            float u = head[a], v = head[b];
            head[a] = u * turn[0] - v * turn[1];
            head[b] = u * turn[1] + v * turn[0];
        }
        block_sync();
    }
    if (role == 0) {
        for (u32 i = thread; i < p.dim; i += THREADS) p.out[(u64)t * p.out_stride + h * p.dim + i] = head[i];
        return;
    }
    u32 place = p.derived[(2 + p.group) * p.capacity + t];
    u32 kind = role == 2 ? p.v_kind : p.k_kind;
    u32 kv_head = h - p.heads - (role == 2 ? p.kv_heads : 0);
    u8* page = p.cache + place / p.page_tokens * p.page_bytes + (role == 2 ? p.values_at : 0);
    u8* to = page + (u64)(place % p.page_tokens * p.kv_heads + kv_head) * p.dim * size_of(kind);
    for (u32 i = thread; i < p.dim; i += THREADS) store(kind, to, i, head[i]);
}
