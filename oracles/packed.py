"""Quantized matrices as compressed-tensors, GPTQ and AWQ lay them out: value = scale * (integer - zero)."""
import numpy as np
import torch

# Bits and whether zeros are all the middle; eight bits have no room for others.
SETTINGS = {
    "compressed-tensors": [(4, True), (4, False), (8, True), (2, False), (1, True)],
    "gptq": [(4, True), (4, False), (8, True), (2, False)],
    "awq": [(4, False)],
}
SCALES = {
    "compressed-tensors": [torch.float16, torch.bfloat16, torch.float32],
    "gptq": [torch.float16, torch.bfloat16],
    "awq": [torch.float16],
}
# From the lowest bits of a word up.
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def words(q, bits):
    """Integers [rows, n] as int32 words [rows, ceil(n * bits / 32)], the first in the lowest bits."""
    per = 32 // bits
    q = np.pad(q, ((0, 0), (0, -q.shape[1] % per))).reshape(q.shape[0], -1, per).astype(np.uint64)
    place = np.arange(per, dtype=np.uint64) * np.uint64(bits)
    return (q << place).sum(-1).astype(np.uint32).view(np.int32)


def nearest(w, groups, bits, symmetric, dtype, least):
    """Scales and zeros [rows, groups], integers [rows, cols], and what they are worth, f32."""
    x = w.reshape(w.shape[0], groups, -1).astype(np.float64)
    top = 2**bits - 1
    low, high = np.minimum(x.min(-1), 0), np.maximum(x.max(-1), 0)
    d = np.abs(x).max(-1) / max(2 ** (bits - 1) - 1, 1) if symmetric else (high - low) / top
    scales = torch.from_numpy(d).to(dtype)
    d = scales.double().numpy()
    zeros = np.full(d.shape, 2.0 ** (bits - 1)) if symmetric else np.clip(np.round(-low / d), least, top + least)
    q = np.clip(np.round(x / d[..., None]) + zeros[..., None], 0, top)
    values = ((q - zeros[..., None]) * d[..., None]).astype(np.float32)
    return scales, zeros.astype(np.int64), q.astype(np.int64).reshape(w.shape), values.reshape(w.shape)


def quantize(rng, layout, weights):
    """Quantizes matrices {name: f32 [rows, cols]}: their values, the tensors that stand for them, and
    `quantization_config`. The first query matrix is left a float."""
    settings, kinds = SETTINGS[layout], SCALES[layout]
    bits, symmetric = settings[rng.integers(len(settings))]
    dtype = kinds[rng.integers(len(kinds))]
    sizes = [g for g in (32, 64, 128) if all(w.shape[1] % g == 0 for w in weights.values())] + [-1]
    size = sizes[rng.integers(len(sizes))]
    form = ["gptq", "gptq_v2"][rng.integers(2)]
    least = int(layout == "gptq" and form == "gptq")
    floats = [n.removesuffix(".weight") for n in sorted(weights) if n.endswith((".q_proj.weight", ".qkv_proj.weight"))][:1]
    values, tensors = {}, {}
    for name, w in weights.items():
        layer = name.removesuffix(".weight")
        if layer in floats:
            continue
        rows, cols = w.shape
        group = cols if size == -1 else size
        d, z, q, values[name] = nearest(w, cols // group, bits, symmetric, dtype, least)
        if layout == "compressed-tensors":
            own = {"weight_packed": words(q, bits), "weight_scale": d, "weight_shape": np.array([rows, cols])}
            if not symmetric:
                own["weight_zero_point"] = words(z.T, bits).T
        elif layout == "gptq":
            own = {"qweight": words(q, bits).T, "scales": d.T, "qzeros": words(z.T - least, bits),
                   "g_idx": np.arange(cols, dtype=np.int32) // group}
        else:
            order = lambda x: x.reshape(x.shape[0], -1, 8)[..., AWQ_ORDER].reshape(x.shape)
            own = {"qweight": words(order(q.T), 4), "scales": d.T, "qzeros": words(order(z.T), 4)}
        for part, x in own.items():
            x = torch.from_numpy(np.ascontiguousarray(x)) if isinstance(x, np.ndarray) else x
            tensors[f"{layer}.{part}"] = x.contiguous()
    if layout == "compressed-tensors":
        scheme = {"num_bits": bits, "type": "int", "symmetric": symmetric, "dynamic": False,
                  "strategy": "channel" if size == -1 else "group", "group_size": None if size == -1 else size}
        group = {"targets": ["Linear"], "weights": scheme, "input_activations": None, "output_activations": None}
        config = {"format": "pack-quantized", "config_groups": {"group_0": group}, "ignore": ["lm_head", *floats]}
    elif layout == "gptq":
        config = {"bits": bits, "group_size": size, "sym": symmetric, "desc_act": False, "checkpoint_format": form}
    else:
        config = {"bits": bits, "group_size": size, "zero_point": True, "version": "gemm", "modules_to_not_convert": floats}
    return values, tensors, {"quant_method": layout} | config
