// The recurrence of RWKV-7 as `wkv7.wgsl` has it, behind which it stands: a workgroup for each head of
// each sequence, a thread a column of S, here in vectors of four.

constant constexpr uint FOURS = ($DIM + 3) / 4;

kernel void gristmill($ARGUMENTS,
        uint3 wg [[threadgroup_position_in_grid]], uint at [[thread_index_in_threadgroup]]) {
    const Kernel k{$BOUND};
    // r, w, κ, b, and k' of the token. What is beyond the head stays zero, and so adds nothing.
    threadgroup float4 rs[FOURS], ws[FOURS], kappas[FOURS], bs[FOURS], ks[FOURS];
    const uint seq = wg.y;
    const uint head = wg.x * k.p.dim;
    const uint slot = k.ints[k.ints[k.AT_STATE_IN] + seq];
    const uint from_state = slot * k.p.slot_words + head * k.p.dim;
    const uint to_state = k.ints[k.ints[k.AT_STATE_OUT] + seq] * k.p.slot_words + head * k.p.dim;
    float4 s[$PARTS][FOURS];
    for (uint part = 0; part < $PARTS; part++) {
        const uint c = part * 64u + at;
        for (uint j = 0; j < 4 * FOURS; j++) {
            const bool there = slot != 0xffffffffu && j < k.p.dim && c < k.p.dim;
            s[part][j / 4u][j % 4u] = there ? k.state[from_state + j * k.p.dim + c] : 0.0f;
        }
    }
    for (uint i = at; i < FOURS; i += 64) { rs[i] = ws[i] = kappas[i] = bs[i] = ks[i] = float4(0.0f); }
    const uint end = k.ints[k.ints[k.AT_STARTS] + seq + 1u];
    for (uint t = k.ints[k.ints[k.AT_STARTS] + seq]; t < end; t++) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
        const uint from = t * k.p.stride + head;
        const uint keys = t * k.p.made_stride + head;
        for (uint i = at; i < k.p.dim; i += 64) {
            ((threadgroup float*)rs)[i] = k.r[from + i];
            ((threadgroup float*)ws)[i] = k.decay[from + i];
            ((threadgroup float*)kappas)[i] = k.made[keys + i];
            ((threadgroup float*)bs)[i] = k.made[keys + k.p.width + i];
            ((threadgroup float*)ks)[i] = k.made[keys + 2u * k.p.width + i];
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint part = 0; part < $PARTS; part++) {
            const uint c = part * 64u + at;
            if (c >= k.p.dim) { continue; }
            const float value = k.v[from + c];
            float4 seen = float4(0.0f);
            for (uint j = 0; j < FOURS; j++) { seen += s[part][j] * kappas[j]; }
            const float all = seen.x + seen.y + seen.z + seen.w;
            float4 y = float4(0.0f);
            for (uint j = 0; j < FOURS; j++) {
                const float4 now = ws[j] * s[part][j] - bs[j] * all + ks[j] * value;
                s[part][j] = now;
                y += now * rs[j];
            }
            k.out[from + c] = y.x + y.y + y.z + y.w;
        }
    }
    for (uint part = 0; part < $PARTS; part++) {
        const uint c = part * 64u + at;
        if (c >= k.p.dim) { continue; }
        for (uint j = 0; j < k.p.dim; j++) { k.state[to_state + j * k.p.dim + c] = s[part][j / 4u][j % 4u]; }
    }
}
