// What kernels use of the machine, each thing once with its text for the device and, where it is an
// instruction of PTX, one for the host: tests compile the same kernels with a C++ compiler, over the
// threads that `tests/emulator/emulated.h` plays.
#pragma once

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int i32;
typedef unsigned long long u64;

#ifdef __CUDACC__
#define DEVICE static __device__ __forceinline__
#define MEMBER static __device__ __forceinline__
// A function that is called from many places, and long.
#define CALLED static __device__ __noinline__
#define CONSTANT static __device__ const
#define SHARED __shared__
#define DYNAMIC_SHARED(name) extern __shared__ uint4 name[]
// A kernel takes one structure of parameters. `P` is its type, `threads` those of a block. Its symbol
// is `gm_` and its name.
#define KERNEL(name, P, threads) \
    extern "C" __global__ void __launch_bounds__(threads) gm_##name(const __grid_constant__ P p)
#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")
#define ASM(...) asm volatile(__VA_ARGS__)
#else
#include "emulated.h"
#endif

// ---- numbers as bits

DEVICE float bits_float(u32 b) {
#ifdef __CUDACC__
    return __uint_as_float(b);
#else
    return emulated::cast<float>(b);
#endif
}

DEVICE u32 float_bits(float f) {
#ifdef __CUDACC__
    return __float_as_uint(f);
#else
    return emulated::cast<u32>(f);
#endif
}

// f16 as its bits.
DEVICE float half_float(u16 h) {
#ifdef __CUDACC__
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
#else
    return emulated::half_float(h);
#endif
}

// The nearest f16, ties to even.
DEVICE u16 float_half(float f) {
#ifdef __CUDACC__
    u16 h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
#else
    return emulated::float_half(f);
#endif
}

DEVICE float bf16_float(u16 h) { return bits_float((u32)h << 16); }

// The nearest bf16, ties to even, on chips without an instruction for it too.
DEVICE u16 float_bf16(float f) {
    u32 b = float_bits(f);
    if ((b & 0x7fffffffu) > 0x7f800000u) return (u16)(b >> 16 | 64u);
    return (u16)((b + 0x7fffu + (b >> 16 & 1u)) >> 16);
}

// The lower 16 bits, then the upper ones.
DEVICE u32 two_halves(float low, float high) {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 800
    u32 both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
#endif
    return (u32)float_half(low) | (u32)float_half(high) << 16;
}

DEVICE u32 two_bf16(float low, float high) {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 800
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
#endif
    return (u32)float_bf16(low) | (u32)float_bf16(high) << 16;
}

// ---- integers

// Four products of signed bytes, added to `c`.
DEVICE i32 dot4(u32 a, u32 b, i32 c) {
#if defined(__CUDACC__)
    return __dp4a((i32)a, (i32)b, c);
#else
    for (int i = 0; i < 4; i++) c += (i32)(i8)(a >> 8 * i) * (i32)(i8)(b >> 8 * i);
    return c;
#endif
}

// ---- memory

// Sixteen bytes that are read once: they need no place in the first cache.
DEVICE uint4 load_once(const uint4* from) {
#ifdef __CUDACC__
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(from));
    return v;
#else
    return *from;
#endif
}

DEVICE uint2 load_once(const uint2* from) {
#ifdef __CUDACC__
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];"
                 : "=r"(v.x), "=r"(v.y)
                 : "l"(from));
    return v;
#else
    return *from;
#endif
}

// Copies 16 bytes to shared memory, or zeros. Where the chip can, without waiting: `copies_close`
// ends a group, `copies_wait<n>` waits until at most n of the thread's groups are on their way.
DEVICE void copy16(void* shared, const void* global, bool there) {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 800
    u32 to = (u32)__cvta_generic_to_shared(shared);
    int bytes = there ? 16 : 0;
    ASM("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes));
#else
    uint4 zero = {0, 0, 0, 0};
    *(uint4*)shared = there ? *(const uint4*)global : zero;
#endif
}

DEVICE void copies_close() {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 800
    ASM("cp.async.commit_group;");
#endif
}

template <int N>
DEVICE void copies_wait() {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 800
    ASM("cp.async.wait_group %0;" ::"n"(N));
#endif
}

// ---- threads of a warp and of a block

DEVICE void block_sync() { __syncthreads(); }

DEVICE float lanes_xor(float v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
DEVICE u32 lanes_xor(u32 v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }

DEVICE float warp_sum(float v) {
    UNROLL
    for (int m = 16; m > 0; m /= 2) v += lanes_xor(v, m);
    return v;
}

// The sum over a block of THREADS; all of them call it.
template <int THREADS>
DEVICE float block_sum(float v) {
    SHARED float parts[32];
    v = warp_sum(v);
    block_sync();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
    block_sync();
    float sum = 0.0f;
    UNROLL
    for (int i = 0; i < THREADS / 32; i++) sum += parts[i];
    return sum;
}

// ---- products of small matrices by the 32 threads of a warp
//
// With g = lane / 4 and t = lane % 4 a thread holds (PTX ISA, "Matrix Fragments for mma"):
// - of f16 or bf16: A (16 x 16) rows g, g + 8, g, g + 8 at columns 2t, 2t, 2t + 8, 2t + 8, two
//   elements each; B (16 x 8) column g at rows 2t and 2t + 8, two each; C (16 x 8) rows g, g,
//   g + 8, g + 8 at columns 2t, 2t + 1, 2t, 2t + 1
// - of signed bytes: A (16 x 16) rows g, g + 8 at columns 4t, four each; B (16 x 8) column g at
//   rows 4t, four; C as above

DEVICE void mma_half(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 800
    ASM("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif defined(__CUDACC__)
    // The half of it that older chips have, twice.
    ASM("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(b[0]));
    ASM("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[2]), "r"(a[3]), "r"(b[1]));
#else
    emulated::mma(c, a, b, emulated::half_float);
#endif
}

// Not on chips below 8.0, where no kernel that calls it is launched.
DEVICE void mma_bf16(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 800
    ASM("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif !defined(__CUDACC__)
    emulated::mma(c, a, b, emulated::bf16_float);
#endif
}

DEVICE void mma_int8(i32 (&c)[4], const u32 (&a)[2], u32 b) {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 800
    ASM("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
        "{%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(b));
#elif defined(__CUDACC__)
    ASM("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+r"(c[0]), "+r"(c[1])
        : "r"(a[0]), "r"(b));
    ASM("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+r"(c[2]), "+r"(c[3])
        : "r"(a[1]), "r"(b));
#else
    emulated::mma_int8(c, a, b);
#endif
}

// Four 8 x 8 matrices of 16-bit elements: lane l gives row l % 8 of matrix l / 8, eight elements in
// shared memory, and gets of matrix m row lane / 4, elements 2 (lane % 4) and the next, in r[m].
DEVICE void load_matrices(u32 (&r)[4], const void* row) {
#ifdef __CUDACC__
    u32 from = (u32)__cvta_generic_to_shared(row);
    ASM("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
        : "r"(from));
#else
    emulated::load_matrices(r, row, false);
#endif
}

// The same, each matrix transposed.
DEVICE void load_transposed(u32 (&r)[4], const void* row) {
#ifdef __CUDACC__
    u32 from = (u32)__cvta_generic_to_shared(row);
    ASM("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
        : "r"(from));
#else
    emulated::load_matrices(r, row, true);
#endif
}
