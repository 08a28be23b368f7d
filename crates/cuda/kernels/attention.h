// Parameters of attention, and what every way of computing it shares.
#pragma once
#include "numbers.h"
#include "step.h"

struct Attention {
    const u32* ints;
    const u32* derived;
    const float* q;
    const u8* cache;
    float* out;
    const float* sinks;  // a score of each head, or none
    float* shares;       // results of parts of the keys: dim sums, the largest score, the mass
    u64 page_bytes;
    u64 values_at;
    u32 heads;
    u32 kv_heads;
    u32 dim;
    u32 stride;          // of queries and results
    u32 capacity;
    u32 group;
    u32 page_tokens;
    u32 k_kind;
    u32 v_kind;
    u32 window;          // 0xffffffff: none
    float scale;
    float cap;
    u32 tile_heads;      // query heads and tokens that a block takes
    u32 tile_tokens;
    u32 tile_keys;
    u32 most_splits;     // 0: every block sees all keys
    u32 split_keys;
    u32 pages;           // that there are
};

const float LEAST = -3.0e38f;

// The keys [x, y) that a token sees, before the tree.
DEVICE uint2 seen(const Attention& p, u32 t) {
    const u32* v = array(p.ints, AT_VISIBLE) + 2 * t;
    u32 index = array(p.ints, AT_INDEX)[t], first = v[0];
    if (p.window <= index) first = max(first, index + 1 - p.window);
    return uint2{first, v[1]};
}

DEVICE bool in_tree(const Attention& p, u32 t, u32 tree, u32 key) {
    if (p.ints[AT_ANCESTORS] == 0 || key < tree) return true;
    u32 n = key - tree;
    return n < 64 && (array(p.ints, AT_ANCESTORS)[2 * t + n / 32] >> n % 32 & 1);
}

// Parts that the keys of a token are cut into: as many as its own length asks for, so that one graph
// serves every length.
DEVICE u32 splits_of(const Attention& p, u32 t) {
    if (p.most_splits == 0) return 1;
    uint2 s = seen(p, t);
    u32 n = (s.y - s.x + p.split_keys - 1) / p.split_keys;
    return min(max(n, 1u), p.most_splits);
}

// Whether a key lies in a page: between those that different tokens see there may be none.
DEVICE bool held(const Attention& p, const u32* table, u32 key) { return table[key / p.page_tokens] < p.pages; }

// Where the row of a head of a key begins in the cache.
DEVICE const u8* row_of(const Attention& p, const u32* table, u32 key, u32 head, bool value) {
    u32 page = table[key / p.page_tokens], kind = value ? p.v_kind : p.k_kind;
    const u8* from = p.cache + page * p.page_bytes + (value ? p.values_at : 0);
    return from + (u64)(key % p.page_tokens * p.kv_heads + head) * p.dim * size_of(kind);
}

// Where the results of a token's head go: as they are, or as a part of the keys.
DEVICE float* result_of(const Attention& p, u32 t, u32 h, u32 split, u32 splits) {
    if (splits == 1) return p.out + (u64)t * p.stride + h * p.dim;
    return p.shares + (((u64)t * p.heads + h) * p.most_splits + split) * (p.dim + 2);
}
