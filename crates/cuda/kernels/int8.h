// Activations as signed bytes in units of 32: the largest of a unit becomes 127, 126, 125 or 124,
// whichever leaves the least error; then the scale is the best for these integers by least squares.
#pragma once
#include "device.h"

// The scale of a unit of activations and the sums of its halves, 16 bits each.
struct UnitScale { float scale; u32 sums; };

DEVICE i32 half_sum(u32 sums, int half) { return half ? (i32)sums >> 16 : (i32)(sums << 16) >> 16; }

DEVICE float rounded(float x) { return truncf(x + (x < 0.0f ? -0.5f : 0.5f)); }

// Makes a unit, whose elements the lanes of a warp have.
DEVICE void unit_int8(float x, u8* codes, UnitScale* scale) {
    u32 lane = threadIdx.x % 32;
    float peak = fabsf(x);
    UNROLL
    for (int m = 16; m > 0; m /= 2) peak = fmaxf(peak, lanes_xor(peak, m));
    // Errors in units of the step for 127.
    float part = peak > 0.0f ? x / peak : 0.0f, errors[4], top = 127.0f;
    UNROLL
    for (int n = 0; n < 4; n++) {
        float now = 127.0f - (float)n, scaled = part * now, off = (scaled - rounded(scaled)) * (127.0f / now);
        errors[n] = off * off;
    }
    UNROLL
    for (int m = 16; m > 0; m /= 2)
        UNROLL
        for (int n = 0; n < 4; n++) errors[n] += lanes_xor(errors[n], m);
    float least = errors[0];
    UNROLL
    for (int n = 1; n < 4; n++)
        if (errors[n] < least) least = errors[n], top = 127.0f - (float)n;
    i32 q = (i32)rounded(part * top);
    // At most 32 times 127 squared: exact in f32, and so the halves' sums packed in one word.
    float products = x * (float)q, squares = (float)(q * q);
    u32 sum = (u32)q;
    UNROLL
    for (int m = 16; m > 0; m /= 2) {
        products += lanes_xor(products, m);
        squares += lanes_xor(squares, m);
        if (m < 16) sum += lanes_xor(sum, m);
    }
    u32 other = lanes_xor(sum, 16);
    codes[lane] = (u8)q;
    if (lane == 0) *scale = UnitScale{products / fmaxf(squares, 1.0f), (sum & 0xffff) | other << 16};
}
