// Operations that read each element once. A thread computes an element.
#include "numbers.h"
#include "step.h"

struct Rows {
    const u32* ints;
    float* out;
    const float* x;
    const float* y;
    const float* gate;
    u32 width;
    u32 stride;    // of the result
    u32 x_stride;
    u32 y_stride;
    u32 kind;
    u32 k;
    u32 act;
    u32 input;     // which input of the host
};

// Gives the element of a thread to `body`; X is its row.
#define X (p.x + (u64)row * p.x_stride)
#define ROWS(name, body)                                                    \
    KERNEL(name, Rows, 128) {                                               \
        u32 i = blockIdx.x * 128 + threadIdx.x, row = blockIdx.y;           \
        if (i >= p.width || row >= rows_of(p.ints, p.kind, p.k)) return;    \
        float* out = p.out + (u64)row * p.stride + i;                       \
        body                                                                \
    }

ROWS(read, { *out = bits_float(array(p.ints, AT_INPUTS + p.input)[(u64)row * p.width + i]); })

ROWS(add, {
    float factor = p.gate ? sigmoid(p.gate[(u64)row * p.y_stride]) : 1.0f;
    *out = X[i] + factor * p.y[(u64)row * p.stride + i];
})

ROWS(lerp, {
    float to = p.y[(u64)row * p.stride + i];
    *out = X[i] + p.gate[(u64)row * p.stride + i] * (to - X[i]);
})

ROWS(select_rows, { *out = p.x[(u64)array(p.ints, AT_ROWS)[row] * p.x_stride + i]; })

ROWS(gated, { *out = gated(p.act, X[i], X[p.width + i]); })

ROWS(pool, {
    u32 begin = array(p.ints, AT_STARTS)[row];
    u32 end = array(p.ints, AT_STARTS)[row + 1];
    float v = 0.0f;
    if (p.act == 0) {
        for (u32 t = begin; t < end; t++) v += p.x[(u64)t * p.x_stride + i];
        v /= (float)(end - begin);
    } else {
        v = p.x[(u64)(p.act == 1 ? begin : end - 1) * p.x_stride + i];
    }
    *out = v;
})

// The results of the experts of a token, by their weights, in order.
ROWS(choices, {
    float sum = 0.0f;
    u32 n = p.input;
    for (u32 c = 0; c < n; c++)
        sum += p.y[(u64)row * p.y_stride + n + c] * p.x[((u64)row * n + c) * p.x_stride + i];
    *out = sum;
})

struct Route {
    const u32* ints;
    float* x;              // scores; probabilities afterwards
    float* out;            // k numbers of experts, then their weights
    const float* choice_bias;
    u32 experts;
    u32 k;
    u32 x_stride;
    u32 stride;
    u32 gating;            // 0 softmax over all, 1 over the chosen, 2 sigmoid
    u32 renormalise;
    float scale;
    u32 pad;
};

// The experts of each token from the scores of its router, the best first; of equal scores the lower
// number is the better. A thread takes a token.
KERNEL(route, Route, 64) {
    u32 t = blockIdx.x * 64 + threadIdx.x;
    if (t >= p.ints[TOKENS]) return;
    float* x = p.x + (u64)t * p.x_stride;
    float* out = p.out + (u64)t * p.stride;
    if (p.gating == 0) {
        float top = -3.0e38f, sum = 0.0f;
        for (u32 e = 0; e < p.experts; e++) top = fmaxf(top, x[e]);
        for (u32 e = 0; e < p.experts; e++) sum += expf(x[e] - top);
        for (u32 e = 0; e < p.experts; e++) x[e] = expf(x[e] - top) / sum;
    }
    if (p.gating == 2)
        for (u32 e = 0; e < p.experts; e++) x[e] = sigmoid(x[e]);
    // The best that comes after the one before it.
    float before = 3.0e38f;
    u32 before_id = 0;
    for (u32 c = 0; c < p.k; c++) {
        float best = -3.0e38f;
        u32 id = p.experts;
        for (u32 e = 0; e < p.experts; e++) {
            float v = x[e];
            if (p.choice_bias) v += p.choice_bias[e];
            bool later = c == 0 || v < before || (v == before && e > before_id);
            if (later && (v > best || id == p.experts)) {
                best = v;
                id = e;
            }
        }
        // Scores that are no numbers choose somebody too.
        if (id == p.experts) id = c;
        before = best;
        before_id = id;
        out[c] = (float)id;
        out[p.k + c] = x[id];
    }
    float* weights = out + p.k;
    if (p.gating == 1) {
        float most = weights[0], sum = 0.0f;
        for (u32 c = 0; c < p.k; c++) most = fmaxf(most, weights[c]);
        for (u32 c = 0; c < p.k; c++) sum += expf(weights[c] - most);
        for (u32 c = 0; c < p.k; c++) weights[c] = expf(weights[c] - most) / sum;
    }
    float sum = 1.0f;
    if (p.renormalise) {
        sum = 0.0f;
        for (u32 c = 0; c < p.k; c++) sum += weights[c];
    }
    for (u32 c = 0; c < p.k; c++) weights[c] = weights[c] / sum * p.scale;
}
