// Rows of a table: the ids', positions' or types' of the tokens. A thread gathers a unit of 32.
#include "projection.h"

struct Embed {
    Weight w;
    const u32* ints;
    const u32* derived;
    float* out;
    u32 width;
    u32 stride;
    u32 source;  // 0 ids, 1 positions, 2 types
    u32 adds;    // whether to add to what is there
    float scale;
    u32 pad;
};

template <class F>
DEVICE void embed(const Embed& p) {
    u32 unit = blockIdx.x * 64 + threadIdx.x, t = blockIdx.y;
    if (unit >= p.w.units || t >= p.ints[TOKENS]) return;
    u32 id = p.derived[t];
    if (p.source == 1) id = array(p.ints, AT_POSITIONS)[3 * t];
    if (p.source == 2) id = p.ints[AT_TYPES] ? array(p.ints, AT_TYPES)[t] : 0;
    float v[32];
    values_of<F>(p.w, (u64)id * p.w.units + unit, v);
    UNROLL
    for (u32 e = 0; e < 32; e++) {
        if (unit * 32 + e >= p.width) break;
        float* to = p.out + (u64)t * p.stride + unit * 32 + e;
        float y = v[e] * p.scale;
        *to = p.adds ? *to + y : y;
    }
}

#define EMBED(name, F) KERNEL(embed_##name, Embed, 64) { embed<F>(p); }
FOR_ALL(EMBED)
