// Gaussian diffusion: the embedding of time, what it is added to, latents in slots, and the step from one
// time to the next, whose factors are worked out in f64, since at the end of the noise they are a
// hundred times the result.
#include "numbers.h"
#include "step.h"

struct Diffuse {
    const u32* ints;
    const u32* derived;
    const float* x;
    const float* y;         // rows of sequences, or the estimated noise
    const float* noise;     // or none: drawn
    const float* schedule;  // cumulative alphas
    float* state;
    float* out;
    u32 width;
    u32 stride;
    u32 capacity;
    u32 slot_words;
    u32 rule;               // 0 DDIM, 1 DDPM, 2 the estimate
    float eta;
};

// sin then cos of `t 10000^(-i / (width/2 - 1))` for the time of each sequence.
KERNEL(time_embed, Diffuse, 64) {
    u32 i = blockIdx.x * 64 + threadIdx.x, s = blockIdx.y, half = p.width / 2;
    if (i >= half || s >= p.ints[SEQS]) return;
    double angle = (double)array(p.ints, AT_TIMES)[2 * s] * pow(10000.0, -(double)i / (double)(half - 1));
    float* to = p.out + (u64)s * p.stride;
    to[i] = (float)sin(angle);
    to[half + i] = (float)cos(angle);
}

KERNEL(add_sequence, Diffuse, 128) {
    u32 i = blockIdx.x * 128 + threadIdx.x, t = blockIdx.y;
    if (i >= p.width || t >= p.ints[TOKENS]) return;
    u32 s = p.derived[p.capacity + t];
    p.out[(u64)t * p.stride + i] = p.x[(u64)t * p.stride + i] + p.y[(u64)s * p.stride + i];
}

// Rows of tokens in the slots of their sequences: read, or written where there is `x`.
KERNEL(slot_rows, Diffuse, 128) {
    u32 i = blockIdx.x * 128 + threadIdx.x, t = blockIdx.y;
    if (i >= p.width || t >= p.ints[TOKENS]) return;
    u32 s = p.derived[p.capacity + t];
    u64 at = (u64)(t - array(p.ints, AT_STARTS)[s]) * p.width + i;
    float* out = p.out + (u64)t * p.stride + i;
    if (p.x) {
        float v = p.x[(u64)t * p.stride + i];
        *out = v;
        p.state[(u64)array(p.ints, AT_STATE_OUT)[s] * p.slot_words + at] = v;
    } else {
        u32 slot = array(p.ints, AT_STATE_IN)[s];
        *out = slot == NOBODY ? 0.0f : p.state[(u64)slot * p.slot_words + at];
    }
}

// `gristmill_ir::Op::Denoise`.
KERNEL(denoise, Diffuse, 128) {
    u32 i = blockIdx.x * 128 + threadIdx.x, t = blockIdx.y;
    if (i >= p.width || t >= p.ints[TOKENS]) return;
    u32 s = p.derived[p.capacity + t];
    const u32* times = array(p.ints, AT_TIMES) + 2 * s;
    double now = p.schedule[times[0]], next = times[1] == NOBODY ? 1.0 : (double)p.schedule[times[1]];
    double of_x = 1.0 / sqrt(now), of_eps = -sqrt((1.0 - now) / now), alpha = now / next;
    double sigma = (double)p.eta * sqrt((1.0 - next) / (1.0 - now) * (1.0 - alpha));
    if (p.rule == 0) {
        double along = 1.0 - next - sigma * sigma;
        of_x *= sqrt(next);
        // Rounding may take this a hair below zero.
        of_eps = sqrt(next) * of_eps + sqrt(along > 0.0 ? along : 0.0);
    } else if (p.rule == 1) {
        of_x = 1.0 / sqrt(alpha);
        of_eps = -of_x * (1.0 - alpha) / sqrt(1.0 - now);
    } else {
        sigma = 0.0;
    }
    u64 at = (u64)t * p.stride + i;
    double sum = of_x * (double)p.x[at] + of_eps * (double)p.y[at];
    if (sigma != 0.0) {
        double z;
        if (p.noise) {
            z = p.noise[at];
        } else {
            const u32* seed = p.ints[AT_SEEDS] ? array(p.ints, AT_SEEDS) + 2 * s : nullptr;
            u32 index = array(p.ints, AT_INDEX)[t];
            Words4 w = philox(seed ? seed[0] : 0, seed ? seed[1] : 0, Words4{i / 4, index, times[0], 4});
            u32 pair = i % 4 / 2 * 2;
            double u = ((double)word_of(w, pair) + 0.5) / 4294967296.0;
            double v = ((double)word_of(w, pair + 1) + 0.5) / 4294967296.0;
            double radius = sqrt(-2.0 * log(u)), angle = 2.0 * 3.14159265358979323846 * v;
            z = radius * (i % 2 ? sin(angle) : cos(angle));
        }
        sum += sigma * z;
    }
    p.out[at] = (float)sum;
}
