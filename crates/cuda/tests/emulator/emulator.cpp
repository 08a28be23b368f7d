// The fibers, and the instructions that a warp does together.

#include "emulated.h"

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>
#include <ucontext.h>

namespace emulated {

Place thread_index, block_index, grid_size;
alignas(1024) unsigned char dynamic_shared[256 * 1024];

namespace {

const unsigned MOST = 1024, STACK = 512 * 1024;

enum State { READY, AT_BLOCK, AT_WARP, DONE };

struct Fiber {
    jmp_buf at;
    ucontext_t begin;
    bool begun;
    State state;
};

struct Warp {
    unsigned arrived, left, turn;
    unsigned values[2][32][4];
};

Fiber fibers[MOST];
Warp warps[MOST / 32];
jmp_buf scheduler;
unsigned current, threads, waiting, done;
void (*kernel)(const void*, unsigned, unsigned);
const void* params;
unsigned param_bytes;
char message[256];

void pause(State state) {
    fibers[current].state = state;
    if (!_setjmp(fibers[current].at)) _longjmp(scheduler, 1);
}

void fiber_main() {
    for (;;) {
        kernel(params, param_bytes, threads);
        done++;
        warps[current / 32].left++;
        pause(DONE);
    }
}

void fail(const char* what) {
    if (!message[0])
        snprintf(message, sizeof message, "%s (block %u %u %u, thread %u)", what, block_index.x,
                 block_index.y, block_index.z, current);
}

void resume(unsigned i) {
    current = i;
    thread_index = {i, 0, 0};
    Fiber& f = fibers[i];
    if (_setjmp(scheduler)) return;
    if (f.begun) _longjmp(f.at, 1);
    f.begun = true;
    getcontext(&f.begin);
    f.begin.uc_stack.ss_sp = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    f.begin.uc_stack.ss_size = STACK;
    makecontext(&f.begin, fiber_main, 0);
    setcontext(&f.begin);
}

bool run_block() {
    waiting = done = 0;
    for (unsigned i = 0; i < threads; i++) fibers[i].state = READY;
    for (unsigned w = 0; w * 32 < threads; w++) warps[w].arrived = warps[w].left = 0;
    bool backwards = false;
    while (done < threads) {
        bool moved = false;
        for (unsigned n = 0; n < threads; n++) {
            unsigned i = backwards ? threads - 1 - n : n;
            if (fibers[i].state == READY) {
                resume(i);
                moved = true;
            }
        }
        backwards = !backwards;
        if (waiting && waiting + done == threads) {
            waiting = 0;
            for (unsigned i = 0; i < threads; i++)
                if (fibers[i].state == AT_BLOCK) fibers[i].state = READY;
        } else if (!moved) {
            fail("threads wait for each other for ever");
            return false;
        }
    }
    return true;
}

}  // namespace

void check(const char* name, unsigned bytes, unsigned size, unsigned now, unsigned most) {
    if (bytes == size && now <= most) return;
    fprintf(stderr, "kernel %s: %u bytes of parameters for %u, %u threads for %u\n", name, bytes, size, now, most);
    abort();
}

unsigned lane() { return current % 32; }

void sync_block() {
    waiting++;
    pause(AT_BLOCK);
}

const unsigned (*exchange(const unsigned (&mine)[4]))[4] {
    Warp& w = warps[current / 32];
    unsigned turn = w.turn;
    memcpy(w.values[turn & 1][current % 32], mine, sizeof mine);
    if (w.left) fail("a lane is missing where its warp works together");
    if (++w.arrived == 32) {
        w.arrived = 0;
        w.turn++;
        unsigned first = current / 32 * 32;
        for (unsigned i = first; i < first + 32; i++)
            if (i != current) fibers[i].state = READY;
    } else {
        pause(AT_WARP);
    }
    return w.values[turn & 1];
}

float half_float(unsigned short h) {
    unsigned sign = (h & 0x8000u) << 16, e = h >> 10 & 31, m = h & 1023;
    if (e == 31) return cast<float>(sign | 0x7f800000u | m << 13);
    if (e == 0) return cast<float>(sign | cast<unsigned>((float)m * 0x1p-24f));
    return cast<float>(sign | (e + 112) << 23 | m << 13);
}

unsigned short float_half(float f) {
    unsigned b = cast<unsigned>(f), sign = b >> 16 & 0x8000, a = b & 0x7fffffffu;
    if (a >= 0x7f800000u) return sign | (a > 0x7f800000u ? 0x7e00 : 0x7c00);
    if (a >= 0x477ff000u) return sign | 0x7c00;
    // Below the normal numbers of f16, units are 2^-24; adding 1/2 leaves them, rounded, as lowest bits.
    if (a < 0x38800000u) return sign | (cast<unsigned>(cast<float>(a) + 0.5f) - 0x3f000000u);
    return sign | ((a + 0xfff + (a >> 13 & 1) - 0x38000000u) >> 13);
}

void mma(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], float (*number)(unsigned short)) {
    unsigned more[4] = {b[0], b[1], 0, 0};
    const unsigned(*as)[4] = exchange(a);
    float rows[2][16];
    unsigned g = lane() / 4, t = lane() % 4;
    for (int half = 0; half < 2; half++)
        for (unsigned k = 0; k < 16; k++) {
            unsigned word = as[g * 4 + k % 8 / 2][half + k / 8 * 2];
            rows[half][k] = number(k % 2 ? word >> 16 : word & 0xffff);
        }
    const unsigned(*bs)[4] = exchange(more);
    for (int i = 0; i < 4; i++) {
        unsigned column = 2 * t + i % 2;
        float sum = c[i];
        for (unsigned k = 0; k < 16; k++) {
            unsigned word = bs[column * 4 + k % 8 / 2][k / 8];
            sum += rows[i / 2][k] * number(k % 2 ? word >> 16 : word & 0xffff);
        }
        c[i] = sum;
    }
}

void mma_int8(int (&c)[4], const unsigned (&a)[2], unsigned b) {
    unsigned mine[4] = {a[0], a[1], b, 0};
    const unsigned(*all)[4] = exchange(mine);
    unsigned g = lane() / 4, t = lane() % 4;
    for (int i = 0; i < 4; i++)
        for (unsigned k = 0; k < 16; k++) {
            int x = (signed char)(all[g * 4 + k / 4][i / 2] >> k % 4 * 8);
            int y = (signed char)(all[(2 * t + i % 2) * 4 + k / 4][2] >> k % 4 * 8);
            c[i] += x * y;
        }
}

void load_matrices(unsigned (&r)[4], const void* row, bool transposed) {
    uint64_t p = (uint64_t)row;
    unsigned mine[4] = {(unsigned)p, (unsigned)(p >> 32), 0, 0};
    if (p % 16) fail("a row of a matrix does not begin at 16 bytes");
    const unsigned(*all)[4] = exchange(mine);
    unsigned g = lane() / 4, t = lane() % 4;
    for (int m = 0; m < 4; m++) {
        auto element = [&](unsigned i, unsigned j) -> unsigned {
            const unsigned* at = all[m * 8 + i];
            return ((const unsigned short*)(at[0] | (uint64_t)at[1] << 32))[j];
        };
        r[m] = transposed ? element(2 * t, g) | element(2 * t + 1, g) << 16
                          : element(g, 2 * t) | element(g, 2 * t + 1) << 16;
    }
    // Nobody goes on to overwrite what another still reads.
    exchange(mine);
}

// Runs a kernel over a grid; null, or what went wrong.
extern "C" const char* emulator_launch(void (*k)(const void*, unsigned, unsigned), const unsigned* grid,
                                       unsigned n, unsigned shared, const void* p, unsigned bytes) {
    kernel = k;
    params = p;
    param_bytes = bytes;
    threads = n;
    message[0] = 0;
    grid_size = {grid[0], grid[1], grid[2]};
    if (n == 0 || n > MOST || n % 32 || shared > sizeof dynamic_shared) return "a block of that shape";
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                block_index = {x, y, z};
                // What a block leaves behind is not there for the next.
                memset(dynamic_shared, 0xff, shared);
                if (!run_block() || message[0]) return message;
            }
    return nullptr;
}

}  // namespace emulated
