// Before the operations of a step: what follows from its integers, and copies of pages and slots.
#include "numbers.h"
#include "step.h"

struct Prepare {
    const u32* ints;
    u32* derived;     // id and sequence of each token, then its place in each page group
    const u32* last;  // the token that each slot sampled last
    u32 capacity;
    u32 groups;
    u32 page_tokens;
    u32 pad;
};

KERNEL(prepare, Prepare, 64) {
    u32 t = blockIdx.x * 64 + threadIdx.x;
    if (t >= p.ints[TOKENS]) return;
    // The topmost bit tells a slot from an id.
    u32 token = array(p.ints, AT_IDS)[t];
    p.derived[t] = token >= 0x80000000u ? p.last[token & 0x7fffffffu] : token;
    const u32* starts = array(p.ints, AT_STARTS);
    u32 seq = 0, end = p.ints[SEQS];
    while (end - seq > 1) {
        u32 middle = (seq + end) / 2;
        if (starts[middle] <= t) seq = middle;
        else end = middle;
    }
    p.derived[p.capacity + t] = seq;
    u32 index = array(p.ints, AT_INDEX)[t];
    for (u32 g = 0; g < p.groups; g++) {
        u32 table = array(p.ints, AT_PAGE_STARTS)[g * p.ints[SEQS] + seq];
        u32 page = array(p.ints, AT_PAGES)[table + index / p.page_tokens];
        p.derived[(2 + g) * p.capacity + t] = page * p.page_tokens + index % p.page_tokens;
    }
}

struct Moves {
    const u32* ints;
    u32* state;
    u32 slots;       // 1: a state of slots, 0: of pages
    u32 group;
    u32 words;       // of a slot or a page
    u32 page_tokens;
    u32 k_halves;    // of the keys of a token, two bytes each
    u32 v_halves;
};

// One after the other in one state: a single block, so that each sees what those before have done.
KERNEL(moves, Moves, 256) {
    for (u32 m = 0; m < p.ints[MOVES]; m++) {
        // The kind (0 row, 1 page, 2 slot) lies above the group.
        const u32* move = array(p.ints, AT_MOVES) + 3 * m;
        u32 kind = move[0] >> 8;
        bool mine = (move[0] & 255) == p.group;
        if ((kind == 2 && p.slots) || (kind == 1 && !p.slots && mine)) {
            u32* to = p.state + (u64)move[2] * p.words;
            const u32* from = p.state + (u64)move[1] * p.words;
            for (u32 i = threadIdx.x; i < p.words; i += 256) to[i] = from[i];
        }
        if (kind == 0 && !p.slots && mine) {
            u16* to = (u16*)(p.state + (u64)(move[2] / p.page_tokens) * p.words);
            const u16* from = (const u16*)(p.state + (u64)(move[1] / p.page_tokens) * p.words);
            u32 t = move[2] % p.page_tokens, s = move[1] % p.page_tokens;
            u32 values = p.k_halves * p.page_tokens;
            for (u32 i = threadIdx.x; i < p.k_halves; i += 256) to[t * p.k_halves + i] = from[s * p.k_halves + i];
            for (u32 i = threadIdx.x; i < p.v_halves; i += 256)
                to[values + t * p.v_halves + i] = from[values + s * p.v_halves + i];
        }
        block_sync();
    }
}

struct Rope {
    const u32* ints;
    const float* frequencies;
    float* out;     // cosine and sine for each pair of each token
    u32 pairs;
    u32 first;      // pairs driven by the first component of a position, and by the first two
    u32 second;
    float magnitude;
};

// Cosines and sines of the rotations of a step. The angle is an f32 product, as models are trained
// with; it is turned exactly, however large it is.
KERNEL(rope, Rope, 64) {
    u32 i = blockIdx.x * 64 + threadIdx.x, t = blockIdx.y;
    if (i >= p.pairs || t >= p.ints[TOKENS]) return;
    u32 component = i >= p.second ? 2 : i >= p.first ? 1 : 0;
    float angle = (float)array(p.ints, AT_POSITIONS)[3 * t + component] * p.frequencies[i];
    float* to = p.out + 2 * ((u64)t * p.pairs + i);
    to[0] = p.magnitude * cosf(angle);
    to[1] = p.magnitude * sinf(angle);
}
