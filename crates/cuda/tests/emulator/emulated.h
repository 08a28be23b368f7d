// The machine that kernels see when they are compiled for the host: threads of a block are fibers of
// one thread of the system, switched where they wait for each other. Blocks run one after the other.
//
// What would be a mistake on a device is an error here: threads of a block that wait at different
// places, and lanes that are missing where a warp works together. Fibers take turns forwards and
// backwards, so that a missing barrier shows.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

struct uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };

#define DEVICE static inline
#define MEMBER static inline
#define CALLED static
#define CONSTANT static const
// One block runs at a time.
#define SHARED static
#define DYNAMIC_SHARED(name) uint4* name = (uint4*)emulated::dynamic_shared
#define KERNEL(name, P, threads)                                           \
    static void name##_kernel(const P& p);                                 \
    extern "C" const unsigned gm_##name##_bytes;                           \
    const unsigned gm_##name##_bytes = sizeof(P);                          \
    extern "C" void gm_##name(const void* raw, unsigned bytes, unsigned most) { \
        emulated::check(#name, bytes, sizeof(P), most, threads);           \
        name##_kernel(*(const P*)raw);                                     \
    }                                                                      \
    static void name##_kernel(const P& p)
#define UNROLL
#define ROLLED
#define __restrict__

namespace emulated {

struct Place { unsigned x, y, z; };
extern Place thread_index, block_index, grid_size;
extern unsigned char dynamic_shared[];

void check(const char* name, unsigned bytes, unsigned size, unsigned threads, unsigned most);
void sync_block();
// Gives 16 bytes to the other lanes; returns those of all 32, good until the next call but one.
const unsigned (*exchange(const unsigned (&mine)[4]))[4];
unsigned lane();

template <class To, class From>
inline To cast(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

float half_float(unsigned short h);
unsigned short float_half(float f);
inline float bf16_float(unsigned short h) { return cast<float>((unsigned)h << 16); }

void mma(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], float (*number)(unsigned short));
void mma_int8(int (&c)[4], const unsigned (&a)[2], unsigned b);
void load_matrices(unsigned (&r)[4], const void* row, bool transposed);

}  // namespace emulated

#define threadIdx emulated::thread_index
#define blockIdx emulated::block_index
#define gridDim emulated::grid_size

static inline void __syncthreads() { emulated::sync_block(); }

template <class T>
static inline T __shfl_xor_sync(unsigned, T v, int mask) {
    unsigned mine[4] = {emulated::cast<unsigned>(v), 0, 0, 0};
    return emulated::cast<T>(emulated::exchange(mine)[emulated::lane() ^ mask][0]);
}

static inline unsigned atomicAdd(unsigned* at, unsigned v) {
    unsigned old = *at;
    *at = old + v;
    return old;
}

static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
static inline int __popc(unsigned v) { return __builtin_popcount(v); }
template <class T>
static inline T min(T a, T b) { return b < a ? b : a; }
template <class T>
static inline T max(T a, T b) { return a < b ? b : a; }
using std::fabs;
