"""Kernels written for Metal, and those on units that multiply matrices as naga says them for Metal, run on a
processor, against numpy in f64:

    python crates/wgpu/tests/metal/check.py

needs numpy and a C++ compiler for x86-64."""

import numpy as np
from emulate import emulate

random = np.random.default_rng(2)
NONE = 0xFFFFFFFF


def words(values):
    """Numbers as the words of a uniform or of a buffer of integers."""
    bits = [np.float32(v).view(np.uint32) if isinstance(v, float) else np.uint32(v) for v in values]
    return np.pad(np.array(bits, np.uint32), (0, 64 - len(bits)))


def step(entries, arrays):
    """The integers of a step: entries of the head, and arrays behind it that entries point to."""
    ints = np.zeros(512, np.uint32)
    for place, value in entries.items():
        ints[place] = value
    at = 32
    for place, values in arrays.items():
        values = np.ravel(values)
        ints[place] = at
        ints[at : at + len(values)] = values
        at += len(values)
    return ints


def report(what, got, expected, most):
    """Prints how far they are apart, and ends where that is too far."""
    far = np.abs(got - expected).max() / np.abs(expected).max()
    print(f"{what}: {far:.1e} of the largest number")
    if not far < most:
        raise SystemExit("that is too far")


def q4_k(rows, cols):
    """Random blocks, and their values."""
    n = rows * cols // 256
    raw = random.integers(0, 256, (n, 144), dtype=np.uint8)
    d = (random.random((n, 2)) * 0.01 + 0.001).astype(np.float16)
    raw[:, :4] = d.view(np.uint8)
    s, q = raw[:, 4:16].astype(int), raw[:, 16:].reshape(n, 4, 32)
    values = np.zeros((n, 8, 32))
    for j in range(8):
        if j < 4:
            scale, least = s[:, j] & 63, s[:, j + 4] & 63
        else:
            scale = (s[:, j + 4] & 15) | (s[:, j - 4] >> 6) << 4
            least = s[:, j + 4] >> 4 | (s[:, j] >> 6) << 4
        part = q[:, j // 2] >> 4 if j % 2 else q[:, j // 2] & 15
        values[:, j] = (d[:, 0] * 1.0 * scale)[:, None] * part - (d[:, 1] * 1.0 * least)[:, None]
    return raw.reshape(-1).view(np.uint32).copy(), values.reshape(rows, cols)


def matmul(tokens):
    """Products of a Q4_K matrix, with biases and relu."""
    rows, cols, stride = 130, 512, 132
    w, values = q4_k(rows, cols)
    x = random.normal(size=(tokens, cols)).astype(np.float32)
    bias = random.normal(size=rows).astype(np.float32)
    out = np.zeros((tokens, stride), np.float32)
    p = [rows, 0, rows, 0, rows, cols // 32, cols, len(w), len(w), cols // 4]
    p += [1, stride, 0, 0, 1, 4, rows, 0, 0, 1.0, 0.0]
    buffers = [words(p), step({0: tokens}, {}), w, x, out, bias]
    emulate("metal_matmul_Q4_K_false_false_false", buffers, (-(-rows // 64), -(-tokens // 32), 1), 128)
    expected = np.maximum(x.astype(float) @ values.T + bias, 0)
    report(f"matmul of {tokens} tokens", out[:, :rows], expected, 2e-6)


def cooperative(side, tokens):
    """The same in f16 on units of `side`: of a Q4_K matrix in tiles of 64 by 32, or of an F16 matrix whose rows
    end within a unit in tiles of 32 by 64."""
    q = side == 16
    rows, cols, stride = 130, 512 if q else 300, 132
    units, quads = -(-cols // 32), -(-cols // 4)
    x = np.full((tokens, 4 * quads), np.nan, np.float32)
    x[:, :cols] = random.normal(size=(tokens, cols))
    if q:
        w, values = q4_k(rows, cols)
        # As it is multiplied.
        values = values.astype(np.float16).astype(float)
    else:
        stored = np.zeros((rows, 32 * units), np.float16)
        stored[:, :cols] = random.normal(size=(rows, cols))
        w, values = stored.view(np.uint32).reshape(-1).copy(), stored[:, :cols].astype(float)
    bias = random.normal(size=rows).astype(np.float32)
    out = np.full((tokens, stride), np.nan, np.float32)
    p = [rows, 0, rows, 0, rows, units, cols, len(w), len(w), quads]
    p += [1, stride, 0, 0, 1, 4, rows, 0, 0, 1.0, 0.0]
    buffers = [words(p), step({0: tokens}, {}), w, x, out, bias]
    tile, threads = ([64, 32], 128) if q else ([32, 64], 256)
    name = f"cooperative_{'Q4_K_16_false' if q else 'F16_8_true'}_metal"
    emulate(name, buffers, (-(-rows // tile[0]), -(-tokens // tile[1]), 1), threads)
    rounded = x[:, :cols].astype(np.float16).astype(float)
    expected = np.maximum(rounded @ values.T + bias, 0)
    report(f"matrices of {side}, {tokens} tokens", out[:, :rows], expected, 2e-6)
    if not np.isnan(out[:, rows:]).all():
        raise SystemExit("it writes beyond its rows")


def wkv7(dim):
    """Two sequences, one of which begins anew."""
    heads, starts = 2, [0, 5, 8]
    width, tokens = heads * dim, starts[-1]
    ints = step({0: tokens, 1: 2}, {14: starts, 22: [1, NONE], 23: [2, 0]})
    r, v = (random.normal(size=(tokens, width)).astype(np.float32) for _ in range(2))
    decay = (0.5 + 0.5 * random.random((tokens, width))).astype(np.float32)
    made = (0.3 * random.normal(size=(tokens, 3, heads, dim))).astype(np.float32)
    state = random.normal(size=(3, heads, dim, dim)).astype(np.float32)
    old, out = state.astype(float), np.zeros((tokens, width), np.float32)
    p = words([width, dim, width, 3 * width, width * dim])
    emulate("metal_wkv7_64", [p, ints, r, decay, v, made, state, out], (heads, 2, 1), 64)
    for seq, (start, slot) in enumerate([(old[1], 2), (np.zeros_like(old[0]), 0)]):
        s, expected = start, []
        for t in range(starts[seq], starts[seq + 1]):
            of = lambda a: a[t].astype(float).reshape(heads, dim)
            kappa, b, k = made[t].astype(float)
            seen = np.einsum("hk,hkv->hv", kappa, s)
            s = of(decay)[..., None] * s - b[..., None] * seen[:, None] + k[..., None] * of(v)[:, None]
            expected.append(np.einsum("hk,hkv->hv", of(r), s).reshape(-1))
        report(f"wkv7 of {dim}", out[starts[seq] : starts[seq + 1]], np.array(expected), 2e-6)
        report(f"wkv7 of {dim}, state", state[slot], s, 2e-6)


def attention(kind, window, splits, sinks, cap):
    """A token of two sequences each, over pages of 32 keys in f32 (0) or f16 (1)."""
    dim, kv_heads, sharing, page = 128, 2, 8, 32
    heads, lengths, tables = kv_heads * sharing, [100, 45], [[3, 1, 6, 0], [5, 2]]
    of_head = dim if kind == 0 else dim // 2
    keys_words = kv_heads * of_head * page
    cache = np.full((8, 2 * keys_words), NONE, np.uint32)
    dtype = np.float16 if kind else np.float32
    k, v = ([random.normal(size=(n, kv_heads, dim)).astype(dtype) for n in lengths] for _ in range(2))
    for s, n in enumerate(lengths):
        for i in range(n):
            held = cache[tables[s][i // page]]
            held[:keys_words].reshape(kv_heads, of_head, page)[..., i % page] = k[s].view(np.uint32)[i]
            held[keys_words:].reshape(page, kv_heads, of_head)[i % page] = v[s].view(np.uint32)[i]
    seen = [[0, n] for n in lengths]
    ints = step({0: 2, 1: 2}, {11: [n - 1 for n in lengths], 12: seen, 14: [0, 1, 2],
                               16: tables[0] + tables[1], 17: [0, 4, 6]})
    derived = np.array([0] * 16 + [0, 1] + [0] * 46, np.uint32)
    q = random.normal(size=(2, heads, dim)).astype(np.float32)
    out, sink = np.zeros_like(q), random.normal(size=heads).astype(np.float32)
    shares = np.zeros((2, heads, 16, dim + 2), np.float32)
    p = [heads, kv_heads, dim, heads * dim, 16, 0, page, kind, kind, of_head, of_head, 2 * keys_words]
    p += [window, int(sinks), dim**-0.5, float(cap), 16]
    buffers = [words(p), ints, derived, q, cache, out, sink, shares]
    emulate("metal_attention_128_8_128_true", buffers, (kv_heads, 2, splits), 64)
    expected = np.zeros(q.shape)
    for t, n in enumerate(lengths):
        for h in range(heads):
            some = slice(max(0, n - window), n)
            scores = dim**-0.5 * (k[t][some, h // sharing].astype(float) @ q[t, h])
            scores = cap * np.tanh(scores / cap) if cap else scores
            powers = np.exp(scores)
            total = powers.sum() + (np.exp(float(sink[h])) if sinks else 0)
            expected[t, h] = powers @ v[t][some, h // sharing].astype(float) / total
    if splits > 1:
        parts = shares[:, :, :splits].astype(float)
        weights = np.exp(parts[..., dim])
        sums = np.einsum("thp,thpd->thd", weights, parts[..., :dim])
        out = sums / (weights * parts[..., dim + 1]).sum(-1)[..., None]
    report(f"attention, cache {kind}, window {window}, {splits} shares", out, expected, 5e-6)


for tokens in [5, 40]:
    matmul(tokens)
    for side in [16, 8]:
        cooperative(side, tokens)
for dim in [64, 50]:
    wkv7(dim)
attention(0, NONE, 1, False, 0)
attention(1, 20, 1, True, 0)
attention(1, NONE, 2, False, 3)
