// Activations as products take them, once for all rows of a matrix.
#include "int8.h"
#include "step.h"

struct Activations {
    const u32* ints;
    const float* x;
    u8* out;
    UnitScale* scales;
    u32 units;
    u32 cols;
    u32 stride;      // of x, in elements
    u32 kind;
    u32 k;
    u32 pad;
};

// A warp a unit.
KERNEL(int8, Activations, 128) {
    u32 unit = blockIdx.x * 4 + threadIdx.x / 32, row = blockIdx.y;
    if (unit >= p.units || row >= rows_of(p.ints, p.kind, p.k)) return;
    u64 at = (u64)row * p.units + unit;
    unit_int8(p.x[(u64)row * p.stride + unit * 32 + threadIdx.x % 32], p.out + 32 * at, p.scales + at);
}

// 16-bit numbers, rows filled up with zeros. A thread makes two.
template <bool BRAIN>
DEVICE void narrow(const Activations& p) {
    u32 i = 2 * (blockIdx.x * 128 + threadIdx.x), row = blockIdx.y;
    if (i >= p.units * 32 || row >= rows_of(p.ints, p.kind, p.k)) return;
    const float* x = p.x + (u64)row * p.stride;
    float a = i < p.cols ? x[i] : 0.0f, b = i + 1 < p.cols ? x[i + 1] : 0.0f;
    ((u32*)p.out)[((u64)row * p.units * 32 + i) / 2] = BRAIN ? two_bf16(a, b) : two_halves(a, b);
}
KERNEL(half, Activations, 128) { narrow<false>(p); }
KERNEL(brain, Activations, 128) { narrow<true>(p); }
