// Functions of one number, and the types that keys and values are stored in.
#pragma once
#include "device.h"

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// `gristmill_ir::Act`, by number.
DEVICE float activate(u32 act, float x) {
    switch (act) {
        case 1: return x * sigmoid(x);
        case 2: return 0.5f * x * erfcf(-0.70710678f * x);
        case 3: return x * sigmoid(1.5957691f * (x + 0.044715f * x * x * x));
        case 4: return fmaxf(x, 0.0f);
        case 5: { float r = fmaxf(x, 0.0f); return r * r; }
        case 6: return tanhf(x);
        case 7: return sigmoid(x);
        case 8: return expf(-0.60653066f * sigmoid(x));
        default: return x;
    }
}

// A gated unit.
DEVICE float gated(u32 act, float gate, float up) {
    if (act == 9) {
        float g = fminf(gate, 7.0f);
        return g * sigmoid(1.702f * g) * (fminf(fmaxf(up, -7.0f), 7.0f) + 1.0f);
    }
    return activate(act, gate) * up;
}

// `cap tanh(x / cap)`; 0 caps nothing.
DEVICE float capped(float x, float cap) { return cap == 0.0f ? x : cap * tanhf(x / cap); }

// Types of a cache: 0 f32, 1 f16, 2 bf16.
DEVICE u32 size_of(u32 kind) { return kind == 0 ? 4 : 2; }

DEVICE float loaded(u32 kind, const u8* at, u32 i) {
    if (kind == 0) return ((const float*)at)[i];
    u16 h = ((const u16*)at)[i];
    return kind == 1 ? half_float(h) : bf16_float(h);
}

DEVICE void store(u32 kind, u8* at, u32 i, float v) {
    if (kind == 0) ((float*)at)[i] = v;
    else ((u16*)at)[i] = kind == 1 ? float_half(v) : float_bf16(v);
}

struct Words4 { u32 x, y, z, w; };

// Philox 4x32-10 (Salmon et al. 2011).
DEVICE Words4 philox(u32 key0, u32 key1, Words4 c) {
    for (int i = 0; i < 10; i++) {
        u32 high0 = __umulhi(0xD2511F53u, c.x), low0 = 0xD2511F53u * c.x;
        u32 high1 = __umulhi(0xCD9E8D57u, c.z), low1 = 0xCD9E8D57u * c.z;
        c = Words4{high1 ^ c.y ^ key0, low1, high0 ^ c.w ^ key1, low0};
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return c;
}

DEVICE u32 word_of(const Words4& w, u32 i) { return i == 0 ? w.x : i == 1 ? w.y : i == 2 ? w.z : w.w; }
