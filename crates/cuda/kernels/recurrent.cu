// The operations of RWKV-7: the mix with the token before, and the recurrence.
//
// States lie in slots of f32. A sequence reads the slot `state_in` (none: zeros) and writes
// `state_out`; the batch was checked so that nobody writes what another one reads.
#include "numbers.h"
#include "step.h"

struct TokenShift {
    const u32* ints;
    const u32* derived;
    const float* x;
    float* state;
    const float* mixes;
    float* outs[6];   // a value for each row of mixes
    u32 count;
    u32 width;
    u32 stride;
    u32 capacity;
    u32 slot_words;
    u32 store;        // whether the last tokens go to their slots
};

// `x + mix (last - x)`. What came before a sequence's first token lies in its slot.
KERNEL(token_shift, TokenShift, 128) {
    u32 i = blockIdx.x * 128 + threadIdx.x, t = blockIdx.y;
    if (i >= p.width || t >= p.ints[TOKENS]) return;
    u32 seq = p.derived[p.capacity + t];
    const u32* starts = array(p.ints, AT_STARTS);
    u64 at = (u64)t * p.stride + i;
    float own = p.x[at];
    if (p.count) {
        float last = 0.0f;
        if (t > starts[seq]) {
            last = p.x[at - p.stride];
        } else {
            u32 slot = array(p.ints, AT_STATE_IN)[seq];
            if (slot != NOBODY) last = p.state[(u64)slot * p.slot_words + i];
        }
        UNROLL
        for (u32 n = 0; n < 6; n++)
            if (n < p.count) p.outs[n][at] = own + p.mixes[n * p.width + i] * (last - own);
    }
    if (p.store && t + 1 == starts[seq + 1])
        p.state[(u64)array(p.ints, AT_STATE_OUT)[seq] * p.slot_words + i] = own;
}

struct Wkv7 {
    const u32* ints;
    const float* r;
    const float* decay;
    const float* k;
    const float* v;
    const float* a;
    const float* g;
    float* made;           // of each token κ, b and k'
    float* state;
    float* out;
    const float* keys;     // k_k, then k_a
    const float* weights;  // of the norm, its biases, then r_k
    u32 width;
    u32 dim;
    u32 stride;
    u32 made_stride;
    u32 slot_words;
    u32 layer;
    float eps;
    u32 pad;
};

// Of each head of each token, what the recurrence makes of its keys: κ = k ⊙ k_k, scaled to length
// one; b = κ ⊙ a; k' = k + k ⊙ (a - 1) ⊙ k_a.
KERNEL(wkv7_keys, Wkv7, 64) {
    u32 t = blockIdx.y, head = blockIdx.x * p.dim;
    if (t >= p.ints[TOKENS]) return;
    u64 at = (u64)t * p.stride + head;
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < p.dim; i += 64) {
        float v = p.k[at + i] * p.keys[head + i];
        sum += v * v;
    }
    float inverse = 1.0f / fmaxf(sqrtf(block_sum<64>(sum)), 1e-12f);
    float* to = p.made + (u64)t * p.made_stride + head;
    for (u32 i = threadIdx.x; i < p.dim; i += 64) {
        float key = p.k[at + i], rate = p.a[at + i], kappa = key * p.keys[head + i] * inverse;
        to[i] = kappa;
        to[p.width + i] = kappa * rate;
        to[2 * p.width + i] = key + key * (rate - 1.0f) * p.keys[p.width + head + i];
    }
}

// A block for each head of each sequence, a token after the other:
//
//     S = diag(w) S - b (κᵀ S) + k' vᵀ        y = rᵀ S
//
// with the old S on the right. A thread holds a column of S, which is of values: so no sum crosses
// threads. In slots S lies `[head][key][value]`. Heads of more than DIM elements take several rounds.
template <int DIM>
DEVICE void wkv7(const Wkv7& p) {
    SHARED float rs[DIM], ws[DIM], kappas[DIM], bs[DIM], ks[DIM];
    u32 seq = blockIdx.y, head = blockIdx.x * p.dim, c = threadIdx.x;
    if (seq >= p.ints[SEQS]) return;
    u32 slot = array(p.ints, AT_STATE_IN)[seq];
    const float* from = p.state + (u64)slot * p.slot_words + head * p.dim;
    float* to = p.state + (u64)array(p.ints, AT_STATE_OUT)[seq] * p.slot_words + head * p.dim;
    bool mine = c < p.dim;
    float s[DIM];
    UNROLL
    for (u32 j = 0; j < DIM; j++) s[j] = slot != NOBODY && j < p.dim && mine ? from[j * p.dim + c] : 0.0f;
    const u32* starts = array(p.ints, AT_STARTS);
    u32 end = starts[seq + 1];
    for (u32 t = starts[seq]; t < end; t++) {
        u64 at = (u64)t * p.stride + head;
        const float* made = p.made + (u64)t * p.made_stride + head;
        block_sync();
        rs[c] = mine ? p.r[at + c] : 0.0f;
        ws[c] = mine ? p.decay[at + c] : 0.0f;
        kappas[c] = mine ? made[c] : 0.0f;
        bs[c] = mine ? made[p.width + c] : 0.0f;
        ks[c] = mine ? made[2 * p.width + c] : 0.0f;
        block_sync();
        float value = mine ? p.v[at + c] : 0.0f, seen = 0.0f, y = 0.0f;
        UNROLL
        for (u32 j = 0; j < DIM; j++) seen += s[j] * kappas[j];
        UNROLL
        for (u32 j = 0; j < DIM; j++) {
            s[j] = ws[j] * s[j] - bs[j] * seen + ks[j] * value;
            y += s[j] * rs[j];
        }
        if (mine) p.out[at + c] = y;
    }
    UNROLL
    for (u32 j = 0; j < DIM; j++)
        if (j < p.dim && mine) to[j * p.dim + c] = s[j];
}
KERNEL(wkv7_32, Wkv7, 32) { wkv7<32>(p); }
KERNEL(wkv7_64, Wkv7, 64) { wkv7<64>(p); }
KERNEL(wkv7_128, Wkv7, 128) { wkv7<128>(p); }

// What follows, for each head of each token, in place: `(norm(y) + (Σ r ⊙ k' ⊙ r_k) v) ⊙ g`.
KERNEL(wkv7_out, Wkv7, 64) {
    u32 t = blockIdx.y, head = blockIdx.x * p.dim;
    if (t >= p.ints[TOKENS]) return;
    u64 at = (u64)t * p.stride + head;
    const float* keys = p.made + (u64)t * p.made_stride + 2 * p.width + head;
    const float* r_k = p.weights + 2 * p.width + head;
    float* out = p.out + at;
    float sum = 0.0f, mean = 0.0f;
    for (u32 i = threadIdx.x; i < p.dim; i += 64) sum += p.r[at + i] * keys[i] * r_k[i];
    float own = block_sum<64>(sum);
    if (p.layer) {
        sum = 0.0f;
        for (u32 i = threadIdx.x; i < p.dim; i += 64) sum += out[i];
        mean = block_sum<64>(sum) / (float)p.dim;
    }
    sum = 0.0f;
    for (u32 i = threadIdx.x; i < p.dim; i += 64) sum += (out[i] - mean) * (out[i] - mean);
    float inverse = 1.0f / sqrtf(block_sum<64>(sum) / (float)p.dim + p.eps);
    for (u32 i = threadIdx.x; i < p.dim; i += 64) {
        float normed = (out[i] - mean) * inverse * p.weights[head + i] + p.weights[p.width + head + i];
        out[i] = (normed + own * p.v[at + i]) * p.g[at + i];
    }
}
