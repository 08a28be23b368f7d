// Many rows of activations by a matrix, in tiles: a workgroup of four simdgroups computes $TOKENS rows
// by $ROWS outputs, a quarter of them each in matrices of 8 by 8, with a unit of 32 inputs of all in
// its memory. Stands behind `matmul.wgsl`.

typedef simdgroup_matrix<float, 8, 8> sum_8x8;
#if HALF
typedef half number;
typedef simdgroup_matrix<half, 8, 8> number_8x8;
#else
typedef float number;
typedef simdgroup_matrix<float, 8, 8> number_8x8;
#endif
typedef Kernel::quad_ four;

// Four activations of a row. As signed bytes they come with the scale of their unit.
static inline four activations(Kernel k, uint row, uint unit, uint j) {
#if INT8
    const uint from = (row * k.p.units + unit) * k.UNIT_WORDS;
    return four(float4(unpack4xI8(k.x[from + j])) * as_type<float>(k.x[from + 8u]));
#else
    return k.inputs4(row, unit, j);
#endif
}

kernel void gristmill($ARGUMENTS,
        uint3 wg [[threadgroup_position_in_grid]], uint3 n [[threadgroups_per_grid]],
        uint at [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
        uint simdgroup [[simdgroup_index_in_threadgroup]]) {
    const Kernel k{$BOUND};
    threadgroup four ws[$ROWS * 8];
    threadgroup four xs[$TOKENS * 8];
    threadgroup float parts[4 * 64];
    const uint R = $ROWS / 16;
    const uint T = $TOKENS / 16;
    const uint row0 = k.p.begin + (wg.x + wg.z * n.x) * $ROWS;
    const uint t0 = wg.y * $TOKENS;
    const uint tokens = k.rows_of(k.p.kind, k.p.k);
    // This simdgroup's quarter of the tile.
    const uint my_row = simdgroup % 2u * R * 8u;
    const uint my_token = simdgroup / 2u * T * 8u;
    sum_8x8 sums[T * R];
    for (uint i = 0; i < T * R; i++) { sums[i] = sum_8x8(0.0f); }
    for (uint unit = 0; unit < k.p.units; unit++) {
        const uint block = unit / $UNITS;
        const uint u = unit % $UNITS;
        for (uint q = at; q < $ROWS * 8; q += 128) {
            const uint row = min(row0 + q / 8u, k.p.first + k.p.count - 1u) - k.p.first;
            const uint i = row * (k.p.units / $UNITS) + block;
            ws[q] = four(k.weight4(i, i * $WORDS, u, q % 8u));
        }
        for (uint q = at; q < $TOKENS * 8; q += 128) {
            xs[q] = activations(k, min(t0 + q / 8u, tokens - 1u), unit, q % 8u);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint depth = 0; depth < 32; depth += 8) {
            number_8x8 x[T];
            for (uint t = 0; t < T; t++) {
                simdgroup_load(x[t], (threadgroup number*)xs + (my_token + 8u * t) * 32u + depth, 32);
            }
            for (uint r = 0; r < R; r++) {
                number_8x8 w;
                simdgroup_load(w, (threadgroup number*)ws + (my_row + 8u * r) * 32u + depth, 32, ulong2(0, 0), true);
                for (uint t = 0; t < T; t++) {
                    simdgroup_multiply_accumulate(sums[t * R + r], x[t], w, sums[t * R + r]);
                }
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    threadgroup float* part = parts + simdgroup * 64u;
    for (uint t = 0; t < T; t++) {
        for (uint r = 0; r < R; r++) {
            simdgroup_barrier(mem_flags::mem_threadgroup);
            simdgroup_store(sums[t * R + r], part, 8);
            simdgroup_barrier(mem_flags::mem_threadgroup);
            for (uint i = lane; i < 64; i += 32) {
                const uint token = t0 + my_token + 8u * t + i / 8u;
                const uint row = row0 + my_row + 8u * r + i % 8u;
                if (token < tokens && row < k.p.end) { k.finish(token, 0u, row, part[i]); }
            }
        }
    }
}
