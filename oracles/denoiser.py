"""A tiny Gaussian denoiser with its trace in numpy, f64 throughout.

    python oracles/denoiser.py crates/conformance/tests/denoiser

writes `model.gguf` (F32, see crates/models/src/arch/denoiser.rs for the names), and as raw
little-endian f32 `start.bin` [tokens, latent], `noise.bin` [steps, tokens, latent], and for each rule
`RULE.bin` [steps, tokens, latent], the latents after each step, and `block.bin` [tokens, width], what
the first layer adds up to at the first time; `ids.txt` has a line a rule: the tokens of the last
latents. The formulas are those of the papers: layer norm (Ba et al. 2016), GELU with erf (Hendrycks
and Gimpel 2016), rotary positions (Su et al. 2021), DDIM (Song et al. 2021, equations 12 and 16),
DDPM (Ho et al. 2020, equations 6, 7 and 11).
"""

import math
import pathlib
import sys

import gguf
import numpy as np

VOCAB, LATENT, WIDTH, HEADS, FFN, LAYERS, TIME = 40, 8, 32, 2, 48, 2, 48
TOKENS, CONTEXT, TIMES, STEPS, EPS, THETA = 11, 16, 400, 50, 1e-5, 10000.0

random = np.random.default_rng(7)


def matrix(rows, cols):
    return (random.standard_normal((rows, cols)) / 2 / math.sqrt(cols)).astype(np.float32)


def vector(n, around=0.0):
    return (around + 0.2 * random.standard_normal(n)).astype(np.float32)


w = {"token_embd.weight": random.standard_normal((VOCAB, LATENT)).astype(np.float32)}
for name, rows, cols in [("latent_in", WIDTH, LATENT), ("latent_out", LATENT, WIDTH),
                         ("time_embd_0", TIME, WIDTH), ("time_embd_1", WIDTH, TIME)]:
    w[f"{name}.weight"], w[f"{name}.bias"] = matrix(rows, cols), vector(rows)
norms = ["output_norm"]
for i in range(LAYERS):
    for name, rows, cols in [("attn_qkv", 3 * WIDTH, WIDTH), ("attn_output", WIDTH, WIDTH),
                             ("ffn_up", FFN, WIDTH), ("ffn_down", WIDTH, FFN)]:
        w[f"blk.{i}.{name}.weight"], w[f"blk.{i}.{name}.bias"] = matrix(rows, cols), vector(rows)
    norms += [f"blk.{i}.attn_norm", f"blk.{i}.ffn_norm"]
for name in norms:
    w[f"{name}.weight"], w[f"{name}.bias"] = vector(WIDTH, 1.0), vector(WIDTH)
times = np.arange(TIMES)
w["diffusion.alphas"] = np.maximum(1 - np.sqrt(times / TIMES + 1e-4), 1e-6).astype(np.float32)

stored, w = w, {name: values.astype(np.float64) for name, values in w.items()}
EPS = float(np.float32(EPS))
alphas = w["diffusion.alphas"]


def linear(name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def norm(name, x):
    centred = x - x.mean(-1, keepdims=True)
    spread = np.sqrt((centred ** 2).mean(-1, keepdims=True) + EPS)
    return centred / spread * w[f"{name}.weight"] + w[f"{name}.bias"]


gelu = np.vectorize(lambda v: v / 2 * (1 + math.erf(v / math.sqrt(2))))


def rotate(x):
    half = x.shape[-1] // 2
    angles = np.arange(TOKENS)[:, None] * THETA ** (-np.arange(half) / half)
    sin, cos = np.sin(angles)[:, None], np.cos(angles)[:, None]
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def layer(i, h, t):
    heads = lambda x: x.reshape(TOKENS, HEADS, WIDTH // HEADS)
    q, k, v = np.split(linear(f"blk.{i}.attn_qkv", norm(f"blk.{i}.attn_norm", h)), 3, -1)
    q, k, v = rotate(heads(q)), rotate(heads(k)), heads(v)
    scores = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(WIDTH // HEADS)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = np.einsum("hqk,khd->qhd", scores / scores.sum(-1, keepdims=True), v)
    h = h + linear(f"blk.{i}.attn_output", mixed.reshape(TOKENS, WIDTH)) + t
    inner = gelu(linear(f"blk.{i}.ffn_up", norm(f"blk.{i}.ffn_norm", h)))
    return h + linear(f"blk.{i}.ffn_down", inner)


def hidden(x, time):
    """The states after the first layer and after the last."""
    half = WIDTH // 2
    angles = time * 10000.0 ** (-np.arange(half) / (half - 1))
    t = linear("time_embd_0", np.concatenate([np.sin(angles), np.cos(angles)]))
    t = linear("time_embd_1", t / (1 + np.exp(-t)))
    h = first = layer(0, linear("latent_in", x), t)
    for i in range(1, LAYERS):
        h = layer(i, h, t)
    return first, h


def features(x, time):
    return norm("output_norm", hidden(x, time)[1])


def fit(texts):
    """The output's weights and bias that tell the noise best in random texts at random times."""
    rows, noises = [], []
    for _ in range(texts):
        time = random.integers(TIMES)
        clean = w["token_embd.weight"][random.integers(VOCAB, size=TOKENS)]
        e = random.standard_normal((TOKENS, LATENT))
        x = math.sqrt(alphas[time]) * clean + math.sqrt(1 - alphas[time]) * e
        rows.append(np.c_[features(x, time), np.ones(TOKENS)])
        noises.append(e)
    rows, noises = np.concatenate(rows), np.concatenate(noises)
    best = np.linalg.lstsq(rows, noises, rcond=None)[0]
    print("variance of the noise left", np.mean((rows @ best - noises) ** 2))
    return best[:-1].T, best[-1]


for name, values in zip(["weight", "bias"], fit(2000)):
    stored[f"latent_out.{name}"] = values.astype(np.float32)
    w[f"latent_out.{name}"] = stored[f"latent_out.{name}"].astype(np.float64)

out = pathlib.Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
writer = gguf.GGUFWriter(out / "model.gguf", "denoiser")
for key, value in [("context_length", CONTEXT), ("embedding_length", WIDTH), ("block_count", LAYERS),
                   ("feed_forward_length", FFN), ("attention.head_count", HEADS),
                   ("latent_length", LATENT)]:
    writer.add_uint32(f"denoiser.{key}", value)
writer.add_float32("denoiser.attention.layer_norm_epsilon", EPS)
writer.add_float32("denoiser.rope.freq_base", THETA)
for name, values in stored.items():
    writer.add_tensor(name, values)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()


def step(rule, x, e, now, z):
    (t, s), eta = now, 1.0 if rule == "ddim1" else 0.0
    ab_t, ab_s = alphas[t], 1.0 if s is None else alphas[s]
    if rule == "ddpm":
        a = ab_t / ab_s
        mean = (x - (1 - a) / math.sqrt(1 - ab_t) * e) / math.sqrt(a)
        return mean + math.sqrt((1 - ab_s) / (1 - ab_t) * (1 - a)) * z
    clean = (x - math.sqrt(1 - ab_t) * e) / math.sqrt(ab_t)
    sigma = eta * math.sqrt((1 - ab_s) / (1 - ab_t)) * math.sqrt(1 - ab_t / ab_s)
    return math.sqrt(ab_s) * clean + math.sqrt(max(1 - ab_s - sigma ** 2, 0)) * e + sigma * z


def save(name, values):
    np.asarray(values).astype("<f4").tofile(out / f"{name}.bin")


start = random.standard_normal((TOKENS, LATENT)).astype(np.float32)
noise = random.standard_normal((STEPS, TOKENS, LATENT)).astype(np.float32)
save("start", start)
save("noise", noise)
spread = [TIMES * (STEPS - i) // STEPS - 1 for i in range(STEPS)] + [None]
save("block", hidden(start.astype(np.float64), spread[0])[0])
lines = []
for rule in ["ddim0", "ddim1", "ddpm"]:
    x, trace = start.astype(np.float64), []
    for i in range(STEPS):
        e = linear("latent_out", features(x, spread[i]))
        x = step(rule, x, e, spread[i:i + 2], noise[i].astype(np.float64))
        trace.append(x)
    save(rule, trace)
    scores = x @ w["token_embd.weight"].T
    best = np.sort(scores, -1)
    print(rule, "largest latent", np.abs(trace).max(), "smallest margin", (best[:, -1] - best[:, -2]).min())
    lines.append(" ".join(str(i) for i in scores.argmax(-1)))
(out / "ids.txt").write_text("\n".join(lines) + "\n")
