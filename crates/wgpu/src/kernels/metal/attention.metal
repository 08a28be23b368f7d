// Attention over pages as `attention.wgsl` has it, behind which it stands where a workgroup has eight
// queries: products with keys and with values in matrices of 8 by 8. Of a block of 64 keys each of the
// two simdgroups scores half; of the results each holds half of the elements.

typedef simdgroup_matrix<float, 8, 8> matrix_8x8;

// Elements of a head in whole matrices, and matrices of a simdgroup.
constant constexpr uint WIDTH = (2 * $QUERIES / 8 + 7) / 8 * 8;
constant constexpr uint MINE = (WIDTH / 8 + 1) / 2;
constant constexpr uint TILE = WIDTH > 64 ? WIDTH : 64;

// An element of a cached row whose words lie `stride` apart.
static inline float element(Kernel k, uint kind, uint from, uint stride, uint e) {
    if (e >= k.p.dim) { return 0.0f; }
    if (kind == 0u) { return as_type<float>(k.cache[from + e * stride]); }
    const float2 pair = k.loaded(kind, k.cache[from + e / 2u * stride]);
    return e % 2u == 0u ? pair.x : pair.y;
}

kernel void gristmill($ARGUMENTS,
        uint3 wg [[threadgroup_position_in_grid]], uint3 n [[threadgroups_per_grid]],
        uint at [[thread_index_in_threadgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]]) {
    const Kernel k{$BOUND};
    threadgroup float queries[8 * WIDTH]; // and in the end the results
    threadgroup float tile[8 * TILE];
    threadgroup float scores[8 * 64];
    threadgroup float diagonal[64];
    threadgroup float parts[64];
    threadgroup uint value_at[64];
    threadgroup float largest[8], total[8], shrink[8];
    const uint sharing = k.p.heads / k.p.kv_heads;
    const uint tiles = (sharing + $HEADS - 1) / $HEADS;
    const uint kv_head = wg.x / tiles;
    const uint first_head = wg.x % tiles * $HEADS;
    const uint end = min((wg.y + 1u) * $TOKENS, k.ints[k.TOKENS]);
    uint t0 = wg.y * $TOKENS;
    // A tile that reaches into another sequence is done one sequence after the other.
    while (t0 < end) {
        const uint seq = k.derived[k.p.capacity + t0];
        const uint t1 = min(end, k.ints[k.ints[k.AT_STARTS] + seq + 1u]);
        const uint table = k.ints[k.AT_PAGES] + k.ints[k.ints[k.AT_PAGE_STARTS] + k.p.group * k.ints[k.SEQS] + seq];
        const uint tree = k.ints[k.AT_TREE] != 0u ? k.ints[k.ints[k.AT_TREE] + seq] : k.NOBODY;
        uint2 span = k.seen(t0);
        for (uint t = t0 + 1u; t < t1; t++) {
            const uint2 s = k.seen(t);
            span = uint2(min(span.x, s.x), max(span.y, s.y));
        }
        // This workgroup's share of the blocks.
        const uint blocks = (span.y + 63u) / 64u - span.x / 64u;
        const uint share = (blocks + n.z - 1u) / n.z;
        const uint first_block = span.x / 64u + wg.z * share;
        const uint last_block = min(first_block + share, (span.y + 63u) / 64u);

        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint i = at; i < 8 * WIDTH; i += 64) {
            const uint head = first_head + i / WIDTH % $HEADS;
            const uint t = t0 + i / WIDTH / $HEADS;
            const uint e = i % WIDTH;
            const bool there = t < t1 && head < sharing && e < k.p.dim;
            queries[i] = there ? k.q[t * k.p.stride + (kv_head * sharing + head) * k.p.dim + e] : 0.0f;
        }
        if (at < 8u) {
            largest[at] = -3.0e38f;
            total[at] = 0.0f;
        }
        matrix_8x8 acc[MINE];
        for (uint f = 0; f < MINE; f++) { acc[f] = matrix_8x8(0.0f); }
        for (uint block = first_block; block < last_block; block++) {
            const uint key = block * 64u + at;
            // Which slots see this key.
            uint mask = 0u;
            for (uint slot = 0; slot < 8; slot++) {
                const uint t = t0 + slot / $HEADS;
                if (t < t1) {
                    const uint2 s = k.seen(t);
                    if (key >= s.x && key < s.y && k.in_tree(t, tree, key)) { mask |= 1u << slot; }
                }
            }
            uint keys_at = 0u;
            uint values_at = k.NOBODY;
            if (mask != 0u) {
                const uint page = k.ints[table + key / k.p.page_tokens] * k.p.page_words;
                const uint token = key % k.p.page_tokens;
                values_at = page + k.p.kv_heads * k.p.k_words * k.p.page_tokens
                    + (token * k.p.kv_heads + kv_head) * k.p.v_words;
                keys_at = page + kv_head * k.p.k_words * k.p.page_tokens + token;
            }
            matrix_8x8 s[4];
            for (uint c = 0; c < 4; c++) { s[c] = matrix_8x8(0.0f); }
            for (uint e = 0; e < WIDTH; e += 8) {
                threadgroup_barrier(mem_flags::mem_threadgroup);
                for (uint i = 0; i < 8; i++) {
                    tile[i * 64u + at] = mask != 0u ? element(k, k.p.k_kind, keys_at, k.p.page_tokens, e + i) : 0.0f;
                }
                threadgroup_barrier(mem_flags::mem_threadgroup);
                matrix_8x8 q;
                simdgroup_load(q, queries + e, WIDTH);
                for (uint c = 0; c < 4; c++) {
                    matrix_8x8 keys;
                    simdgroup_load(keys, tile + (4u * simdgroup + c) * 8u, 64);
                    simdgroup_multiply_accumulate(s[c], q, keys, s[c]);
                }
            }
            for (uint c = 0; c < 4; c++) { simdgroup_store(s[c], scores + (4u * simdgroup + c) * 8u, 64); }
            value_at[at] = values_at;
            threadgroup_barrier(mem_flags::mem_threadgroup);
            for (uint slot = 0; slot < 8; slot++) {
                const float score = k.capped(k.p.scale * scores[slot * 64u + at], k.p.cap);
                scores[slot * 64u + at] = (mask >> slot & 1u) == 1u ? score : -3.0e38f;
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);
            // Eight threads a slot.
            threadgroup float* mine = scores + at / 8u * 64u + at % 8u * 8u;
            float most = -3.0e38f;
            for (uint i = 0; i < 8; i++) { most = max(most, mine[i]); }
            parts[at] = most;
            threadgroup_barrier(mem_flags::mem_threadgroup);
            if (at < 8u) {
                float top = largest[at];
                for (uint i = 0; i < 8; i++) { top = max(top, parts[at * 8u + i]); }
                shrink[at] = k.exp_(largest[at] - top);
                largest[at] = top;
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);
            float sum = 0.0f;
            for (uint i = 0; i < 8; i++) {
                mine[i] = mine[i] > -1.0e38f ? k.exp_(mine[i] - largest[at / 8u]) : 0.0f;
                sum += mine[i];
            }
            parts[at] = sum;
            diagonal[at] = at / 8u == at % 8u ? shrink[at / 8u] : 0.0f;
            threadgroup_barrier(mem_flags::mem_threadgroup);
            if (at < 8u) {
                float all = total[at] * shrink[at];
                for (uint i = 0; i < 8; i++) { all += parts[at * 8u + i]; }
                total[at] = all;
            }
            matrix_8x8 less;
            simdgroup_load(less, diagonal, 8);
            for (uint f = 0; f < MINE; f++) {
                matrix_8x8 old = acc[f];
                simdgroup_multiply(acc[f], less, old);
            }
            for (uint c = 0; c < 64; c += 8) {
                threadgroup_barrier(mem_flags::mem_threadgroup);
                for (uint i = at; i < 8 * WIDTH; i += 64) {
                    const uint from = value_at[c + i / WIDTH];
                    tile[i] = from != k.NOBODY ? element(k, k.p.v_kind, from, 1u, i % WIDTH) : 0.0f;
                }
                threadgroup_barrier(mem_flags::mem_threadgroup);
                matrix_8x8 weights;
                simdgroup_load(weights, scores + c, 64);
                for (uint f = 0; f < MINE; f++) {
                    if ((simdgroup * MINE + f) * 8u >= WIDTH) { continue; }
                    matrix_8x8 values;
                    simdgroup_load(values, tile + (simdgroup * MINE + f) * 8u, WIDTH);
                    simdgroup_multiply_accumulate(acc[f], weights, values, acc[f]);
                }
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint f = 0; f < MINE; f++) {
            const uint e = (simdgroup * MINE + f) * 8u;
            if (e < WIDTH) { simdgroup_store(acc[f], queries + e, WIDTH); }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint slot = 0; slot < 8; slot++) {
            const uint head = first_head + slot % $HEADS;
            const uint t = t0 + slot / $HEADS;
            if (t >= t1 || head >= sharing) { continue; }
            const uint h = kv_head * sharing + head;
            device float* to = k.out + t * k.p.stride + h * k.p.dim;
            float factor = 1.0f;
            if (n.z == 1u) {
                float all = total[slot];
                if (k.p.sinks != 0u) {
                    const float most = max(largest[slot], k.sinks[h]);
                    factor = k.exp_(largest[slot] - most);
                    all = all * factor + k.exp_(k.sinks[h] - most);
                }
                factor = factor / all;
            } else {
                to = k.shares + ((t * k.p.heads + h) * k.p.most_splits + wg.z) * (k.p.dim + 2u);
                if (at == 0u) {
                    to[k.p.dim] = largest[slot];
                    to[k.p.dim + 1u] = total[slot];
                }
            }
            for (uint e = at; e < k.p.dim; e += 64) { to[e] = queries[slot * WIDTH + e] * factor; }
        }
        t0 = t1;
    }
}
