"""Runs kernels written for Metal, or said for it by naga, on a processor: their text is given to a C++ compiler
with a small stand-in for Metal's library. Lanes are coroutines that change at barriers, in turn; every lane holds
whole matrices. So it shows what the text computes, and nothing of what Metal makes of it."""

import hashlib
import pathlib
import re
import subprocess
import tempfile

import numpy as np

HERE = pathlib.Path(__file__).parent
BUILT = pathlib.Path(tempfile.gettempdir()) / "gristmill-metal"
SNAPSHOTS = HERE / "../../src/shader/snapshots"

# What stands for attributes of arguments.
PLACES = {
    "threadgroup_position_in_grid": "wg",
    "threadgroups_per_grid": "grid",
    "thread_index_in_threadgroup": "lane",
    "thread_index_in_simdgroup": "lane % 32",
    "simdgroup_index_in_threadgroup": "lane / 32",
}

# What kernels of matrix products bind, in order.
BOUND = ["p", "ints", "w", "x", "out", "bias"]

MAIN = """
#include <cstdio>
#include <string>
#include <ucontext.h>
#include <vector>
static ucontext_t scheduler, lanes[256];
static bool done[256];
static int current;
static std::vector<char> stacks[256];
static std::vector<char*> buffers;
static uint3 wg, grid;
namespace metal {
void threadgroup_barrier(mem_flags) { swapcontext(&lanes[current], &scheduler); }
void simdgroup_barrier(mem_flags) { swapcontext(&lanes[current], &scheduler); }
}
static void enter(int l) {
    uint lane = l;
    NAME(CALL);
    done[l] = true;
    swapcontext(&lanes[l], &scheduler);
}
// folder, buffers, grid, threads
int main(int, char** v) {
    std::string folder = v[1];
    int n = atoi(v[2]), threads = atoi(v[6]);
    grid = {(uint)atoi(v[3]), (uint)atoi(v[4]), (uint)atoi(v[5])};
    std::vector<long> sizes;
    for (int i = 0; i < n; i++) {
        FILE* f = fopen((folder + "/" + std::to_string(i)).c_str(), "rb");
        fseek(f, 0, SEEK_END);
        sizes.push_back(ftell(f));
        rewind(f);
        buffers.push_back((char*)malloc(sizes[i] + 64));
        if (fread(buffers[i], 1, sizes[i], f) != (size_t)sizes[i]) return 1;
        fclose(f);
    }
    for (uint z = 0; z < grid.z; z++) for (uint y = 0; y < grid.y; y++) for (uint x = 0; x < grid.x; x++) {
        wg = {x, y, z};
        for (int l = 0; l < threads; l++) {
            done[l] = false;
            stacks[l].resize(1 << 18);
            getcontext(&lanes[l]);
            lanes[l].uc_stack.ss_sp = stacks[l].data();
            lanes[l].uc_stack.ss_size = 1 << 18;
            makecontext(&lanes[l], (void (*)())enter, 1, l);
        }
        for (int left = threads; left;) {
            left = 0;
            for (int l = 0; l < threads; l++) {
                if (done[l]) continue;
                current = l;
                swapcontext(&scheduler, &lanes[l]);
                left += !done[l];
            }
        }
    }
    for (int i = 0; i < n; i++) {
        FILE* f = fopen((folder + "/" + std::to_string(i)).c_str(), "wb");
        fwrite(buffers[i], 1, sizes[i], f);
        fclose(f);
    }
}
"""


def build(text):
    """A program of a kernel."""
    name = "gristmill" if "kernel void gristmill(" in text else "main_"
    before, kernel = text.split(f"kernel void {name}(", 1)
    # naga's way: arrays without an end, and what Metal has without being asked.
    before = re.sub(r"^(typedef [\w:]+ \w+)\[1\];", r"\1[1 << 24];", before, flags=re.M)
    before = before.replace("#include <simd/simd.h>", "using namespace metal;")
    # What a workgroup shares; workgroups run one after the other.
    kernel = re.sub(r"^(\s+)threadgroup (?=[^=;]*\[)", r"\1static ", kernel, flags=re.M)
    calls, bound, shared = [], 0, ""
    for argument in re.split(r",(?![^\[]*\]\])", kernel.split(") {", 1)[0]):
        attribute = re.search(r"\[\[(.*?)\]\]", argument)
        if attribute is None:
            of, called = re.fullmatch(r"\s*threadgroup (\w+)& (\w+)\s*", argument).groups()
            shared += f"static {of} {called};\n"
            calls.append(called)
            continue
        if attribute.group(1) in PLACES:
            calls.append(PLACES[attribute.group(1)])
            continue
        declared = re.sub(r"\b(device|constant)\b", "", argument.split("[[")[0]).strip()
        of, called = declared.rsplit(" ", 1)
        if called == "_buffer_sizes":
            shared += "static const _mslBufferSizes sizes{};\n"
            calls.append("sizes")
            continue
        # naga has an order of its own.
        number = bound if name == "gristmill" else BOUND.index(called.split("_")[0])
        place = f"buffers[{number}]"
        calls.append(f"*({of.rstrip('&')}*){place}" if "&" in of else f"({of}){place}")
        bound += 1
    main = MAIN.replace("CALL", ", ".join(calls)).replace("NAME", name)
    source = f"{before}{shared}kernel void {name}({kernel}{main}"
    BUILT.mkdir(exist_ok=True)
    program = BUILT / hashlib.sha256(source.encode()).hexdigest()[:16]
    program.with_suffix(".cpp").write_text(source)
    flags = "-std=c++20 -O1 -mf16c -fsingle-precision-constant -w".split()
    subprocess.run(["c++", *flags, "-I", HERE, program.with_suffix(".cpp"), "-o", program], check=True)
    return program


def emulate(name, buffers, grid, threads):
    """Runs the kernel of a snapshot over arrays, which it changes in place."""
    path = SNAPSHOTS / f"gristmill_wgpu__shader__tests__{name}.snap"
    program = build(path.read_text().split("---\n", 2)[2])
    with tempfile.TemporaryDirectory() as folder:
        for i, b in enumerate(buffers):
            b.tofile(f"{folder}/{i}")
        arguments = [folder, len(buffers), *grid, threads]
        subprocess.run([program, *map(str, arguments)], check=True)
        for i, b in enumerate(buffers):
            b[...] = np.fromfile(f"{folder}/{i}", dtype=b.dtype).reshape(b.shape)
