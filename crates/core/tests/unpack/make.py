#!/usr/bin/env python3
"""Makes the small quantized matrices beside this file with the packing code of other projects.

    python make.py COMPRESSED_TENSORS AUTOAWQ

The arguments are the folders of the unpacked packages compressed-tensors (0.20) and autoawq
(0.2.9); torch and numpy are needed too. A file is little-endian: ten u32 (layout, bits, rows,
columns, group or 0, type of the scales, then the lengths in bytes of what follows), the weights,
the scales, the zeros, and the values `(q - zero) * scale`, computed in f64, as f32.
"""

import importlib.util
import pathlib
import struct
import sys

import numpy as np
import torch

LAYOUTS = {"compressed-tensors": 0, "gptq": 1, "gptq_v2": 2, "awq": 3}
SCALES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2}


def module(path):
    """A file of a package, without the package's other dependencies."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def raw(tensor):
    if tensor is None:
        return b""
    return tensor.flatten().clone().view(torch.uint8).numpy().tobytes()


def write(name, layout, bits, q, zero, group, packed, scales, zeros):
    """`q` and `zero` are unsigned, `[rows][cols]` and `[rows][groups]`; `scales` `[rows][groups]`
    but for the layouts that have them the other way round."""
    rows, cols = q.shape
    per_row = scales if layout == "compressed-tensors" else scales.T
    wide = per_row.double().repeat_interleave(cols // per_row.shape[1], 1)
    offsets = zero.double().repeat_interleave(cols // zero.shape[1], 1)
    exact = ((q.double() - offsets) * wide).numpy().astype("<f4").tobytes()
    parts = [raw(packed), raw(scales), raw(zeros), exact]
    head = [LAYOUTS[layout], bits, rows, cols, group or 0, SCALES[scales.dtype]]
    header = struct.pack("<10I", *head, *map(len, parts))
    (pathlib.Path(__file__).parent / f"{name}.bin").write_bytes(header + b"".join(parts))


def main():
    ours, awq = (pathlib.Path(p) for p in sys.argv[1:3])
    ct = module(next(ours.rglob("pack_quantized/helpers.py")))
    awq = module(next(awq.rglob("utils/packing_utils.py")))
    torch.manual_seed(7)

    def integers(bits, rows, cols):
        return torch.randint(0, 1 << bits, (rows, cols), dtype=torch.int32)

    def scales(rows, groups, dtype):
        return (torch.rand(rows, groups) * 0.02 + 0.001).to(dtype)

    for name, bits, rows, cols, group, dtype, symmetric in [
        ("ct_w4_g128", 4, 5, 256, 128, torch.bfloat16, True),
        ("ct_w4_g32_zeros", 4, 9, 96, 32, torch.float16, False),
        ("ct_w8_row", 8, 5, 192, None, torch.float16, True),
        ("ct_w2_g64_zeros", 2, 17, 64, 64, torch.float32, False),
        ("ct_w1_g32", 1, 3, 64, 32, torch.float16, True),
    ]:
        groups = cols // (group or cols)
        half = 1 << (bits - 1)
        q = integers(bits, rows, cols)
        zero = torch.full((rows, groups), half) if symmetric else integers(bits, rows, groups)
        packed = ct.pack_to_int32((q - half).to(torch.int8), bits)
        zeros = None
        if not symmetric:
            zeros = ct.pack_to_int32((zero - half).to(torch.int8), bits, packed_dim=0)
        scale = scales(rows, groups, dtype)
        write(name, "compressed-tensors", bits, q, zero, group, packed, scale, zeros)

    # GPTQ keeps zeros less 1, so 0 stands for 1 and all ones for 2^bits.
    for name, bits, rows, cols, group, symmetric in [
        ("gptq_w4_g64", 4, 16, 128, 64, False),
        ("gptq_w8_g128", 8, 8, 128, 128, True),
        ("gptq_w2_g32", 2, 16, 64, 32, False),
    ]:
        groups = cols // group
        q = integers(bits, rows, cols)
        zero = integers(bits, rows, groups) + 1
        if symmetric:
            zero = torch.full((rows, groups), 1 << (bits - 1), dtype=torch.int32)
        packed, zeros = awq.pack_exllama(q.T.contiguous(), (zero - 1).T.contiguous(), bits)
        scale = scales(rows, groups, torch.float16).T
        write(name, "gptq", bits, q, zero, group, packed, scale, zeros)
        if name == "gptq_w4_g64":
            zero = zero - 1
            write("gptq_v2_w4_g64", "gptq_v2", bits, q, zero, group, packed, scale, zeros)

    # AWQ's own packing needs its GPU modules, but its unpacking does not: random words are as good
    # as any.
    rows, cols, group = 16, 128, 64
    packed = torch.randint(-(1 << 31), 1 << 31, (cols, rows // 8)).to(torch.int32)
    zeros = torch.randint(-(1 << 31), 1 << 31, (cols // group, rows // 8)).to(torch.int32)
    q, zero = awq.reverse_awq_order(*awq.unpack_awq(packed, zeros, 4), 4)
    q, zero = (t.to(torch.int32).bitwise_and(15).T for t in (q, zero))
    scale = scales(rows, cols // group, torch.float16).T
    write("awq_w4_g64", "awq", 4, q, zero, group, packed, scale, zeros)


if __name__ == "__main__":
    main()
