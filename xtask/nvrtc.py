"""Compiles one CUDA source to one cubin, or to PTX, with an NVRTC library of a wheel.

usage: nvrtc.py LIBRARY SOURCE ARCH OUT [OPTION...]

ARCH is `sm_90`, or `compute_75` for PTX. Prints the compiler's log; the exit status says whether it
compiled.
"""

import ctypes
import pathlib
import sys


def main():
    library, source, arch, out, *options = sys.argv[1:]
    nvrtc = ctypes.CDLL(library)
    text = pathlib.Path(source).read_bytes()
    program = ctypes.c_void_p()

    def check(status):
        if status != 0:
            nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
            sys.exit(nvrtc.nvrtcGetErrorString(status).decode())

    name = pathlib.Path(source).name.encode()
    check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, name, 0, None, None))
    flags = [f"--gpu-architecture={arch}", "--std=c++17"]
    flags += [f"--include-path={pathlib.Path(source).parent}", *options]
    array = (ctypes.c_char_p * len(flags))(*[f.encode() for f in flags])
    status = nvrtc.nvrtcCompileProgram(program, len(flags), array)
    size = ctypes.c_size_t()
    check(nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size)))
    log = ctypes.create_string_buffer(size.value)
    check(nvrtc.nvrtcGetProgramLog(program, log))
    sys.stdout.write(log.value.decode(errors="replace"))
    check(status)
    of = "PTX" if arch.startswith("compute_") else "CUBIN"
    check(getattr(nvrtc, f"nvrtcGet{of}Size")(program, ctypes.byref(size)))
    made = ctypes.create_string_buffer(size.value)
    check(getattr(nvrtc, f"nvrtcGet{of}")(program, made))
    pathlib.Path(out).write_bytes(made.raw[: size.value])


main()
