"""A Gaussian diffusion model of the first sentences of stories (Li et al. 2022, "Diffusion-LM").

Each token of a text has a row of a table that does not learn, its embedding. The network is shown
the embeddings of a text with normal noise at some time of the square root schedule, and tells the
noise. A text is made the other way: from noise alone, time by time, until every row is near the
embedding of a token. The names are those of crates/models/src/arch/denoiser.rs.

Two things differ from the paper, both because the model is so small. The table is not learned along:
its rows are those of the story model in the directions where the tokens of first sentences differ
most, scaled to one length, so that what is alike stays together and the nearest row is the one of the
largest product. And in training a hidden layer guesses the tokens as well, which teaches it more in a
step than the noise does; the file has nothing of it.
"""

import collections
import functools
import math
import random
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .requests import END
from .story import PLOTS
from .template import match, write

MOST_WEIGHT = 100.0  # of the noise's error where there is next to nothing but noise
MOST_USED = 256  # at most so many tokens are in first sentences
END_OF_TIMES = 0xFFFFFFFF

Batch = collections.namedtuple("Batch", "inputs classes times noise")


@dataclass
class Config:
    vocab: int = 2048
    latent: int = 16
    context: int = 24
    dim: int = 160
    layers: int = 4
    heads: int = 5
    ffn: int = 640
    time: int = 160
    times: int = 400
    rope_base: float = 10000.0
    eps: float = 1e-5

    def dict(self):
        return asdict(self)


def sqrt_schedule(times):
    return torch.tensor([max(1 - math.sqrt(t / times + 1e-4), 1e-6) for t in range(times)], dtype=torch.float32)


class Block(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.heads = cfg.heads
        self.attn_norm = nn.LayerNorm(cfg.dim, cfg.eps)
        self.attn_qkv = nn.Linear(cfg.dim, 3 * cfg.dim)
        self.attn_output = nn.Linear(cfg.dim, cfg.dim)
        self.ffn_norm = nn.LayerNorm(cfg.dim, cfg.eps)
        self.ffn_up = nn.Linear(cfg.dim, cfg.ffn)
        self.ffn_down = nn.Linear(cfg.ffn, cfg.dim)

    def forward(self, h, time, cos, sin):
        b, n, dim = h.shape
        q, k, v = self.attn_qkv(self.attn_norm(h)).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v)
        h = h + self.attn_output(y.transpose(1, 2).reshape(b, n, dim)) + time
        return h + self.ffn_down(F.gelu(self.ffn_up(self.ffn_norm(h))))


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Denoiser(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.token_embd = nn.Embedding(cfg.vocab, cfg.latent)
        self.token_embd.weight.requires_grad_(False)
        self.diffusion = nn.Module()
        self.diffusion.register_buffer("alphas", sqrt_schedule(cfg.times))
        self.time_embd_0, self.time_embd_1 = nn.Linear(cfg.dim, cfg.time), nn.Linear(cfg.time, cfg.dim)
        self.latent_in, self.latent_out = nn.Linear(cfg.latent, cfg.dim), nn.Linear(cfg.dim, cfg.latent)
        self.blk = nn.ModuleList(Block(cfg) for _ in range(cfg.layers))
        self.output_norm = nn.LayerNorm(cfg.dim, cfg.eps)
        self.guess = nn.Sequential(nn.LayerNorm(cfg.dim, cfg.eps), nn.Linear(cfg.dim, MOST_USED))  # in training alone
        half = cfg.dim // cfg.heads // 2
        angles = torch.arange(cfg.context)[:, None] * cfg.rope_base ** (-torch.arange(half, dtype=torch.float64) / half)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)
        half = cfg.dim // 2
        angles = torch.arange(cfg.times)[:, None] * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / (half - 1))
        self.register_buffer("sinusoids", torch.cat((angles.sin(), angles.cos()), -1).float(), persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2 and "token_embd" not in name:
                # Blocks start close to the identity, and times as if there were none.
                small = 0.2 if any(s in name for s in ("attn_output", "ffn_down", "time_embd_1")) else 1.0
                nn.init.normal_(p, std=small * p.shape[1] ** -0.5)
            elif name.endswith("bias"):
                nn.init.zeros_(p)
        # So the noise that is told starts as what is shown, which is nearly right where there is most.
        nn.init.orthogonal_(self.latent_in.weight, gain=(cfg.dim / cfg.latent) ** 0.5)
        self.latent_out.weight.data.copy_(self.latent_in.weight.data.T * cfg.latent / cfg.dim)

    def forward(self, x, times, guess=False):
        """The noise in x, [texts, tokens, latent], at the times [texts]; with guess (it, logits of the tokens)."""
        n = x.shape[1]
        cos, sin = self.cos[:n].to(x.dtype), self.sin[:n].to(x.dtype)
        time = self.time_embd_1(F.silu(self.time_embd_0(self.sinusoids[times].to(x.dtype))))[:, None]
        h, guessed = self.latent_in(x), None
        for i, block in enumerate(self.blk):
            h = block(h, time, cos, sin)
            if guess and i == len(self.blk) - 2:
                guessed = self.guess(h)
        noise = self.latent_out(self.output_norm(h))
        return (noise, guessed) if guess else noise

    def exported(self):
        """What an engine needs, by name."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("guess")}

    def parameter_count(self):
        return sum(value.numel() for value in self.exported().values())


def new_model():
    return Denoiser(Config())


def sentence(rng):
    """The first sentence of a story."""
    return write(rng.choice(rng.choice(PLOTS).beats["open"]), {}, rng)


OPENINGS = list({nodes: None for plot in PLOTS for nodes in plot.beats["open"]})


def parses(text):
    """Whether the generator could have written this first sentence."""
    return any(end == len(text) for nodes in OPENINGS for end, _ in match(nodes, text, 0, {}))


def encode(tok, text, length):
    ids = tok.encode(text).ids
    return ids + [tok.token_to_id(END)] * (length - len(ids))


def text_of(tok, ids):
    end = tok.token_to_id(END)
    return tok.decode(ids[: ids.index(end)] if end in ids else ids)


@functools.lru_cache
def classes(tok):
    """The tokens of first sentences, numbered."""
    rng = random.Random("tokens of first sentences")
    used = sorted({i for _ in range(8000) for i in encode(tok, sentence(rng), Config.context)})
    assert len(used) <= MOST_USED
    return {token: number for number, token in enumerate(used)}


def start_from(model, stories, tok):
    """Makes the table of embeddings of the story model's."""
    cfg, used, table = model.cfg, list(classes(tok)), stories["token_embd.weight"].double()
    mean = table[used].mean(0)
    _, sizes, directions = torch.linalg.svd(table[used] - mean, full_matrices=False)
    rows = (table - mean) @ directions[: cfg.latent].T / sizes[: cfg.latent]
    rows *= math.sqrt(cfg.latent) / rows.norm(dim=1, keepdim=True)
    model.token_embd.weight.data.copy_(rows)


def batch(tok, seed, step, rows, length=Config.context, times=Config.times, latent=Config.latent):
    """The batch of one step, a function of its arguments alone.

    inputs: [rows, length] ids, classes: their numbers; times: [rows], even over the batch;
    noise: [rows, length, latent].
    """
    rng = random.Random(f"denoiser {seed} {step}")
    ids = [encode(tok, sentence(rng), length) for _ in range(rows)]
    numbered = torch.tensor([[classes(tok).get(i, MOST_USED - 1) for i in row] for row in ids])
    start = rng.random()
    at = torch.tensor([int((start + i / rows) % 1 * times) for i in range(rows)])
    noise = torch.randn(rows, length, latent, generator=torch.Generator().manual_seed(rng.getrandbits(62)))
    return Batch(torch.tensor(ids), numbered, at, noise)


def noised(model, inputs, times, noise):
    share = model.diffusion.alphas[times][:, None, None]
    return share.sqrt() * model.token_embd(inputs) + (1 - share).sqrt() * noise


def loss_of(model, inputs, numbered, times, noise):
    """The error of the noise, weighted, with the cross-entropy of the guess; and the error alone, plain.

    The paper counts the error of the embeddings that the noise tells, which is that of the noise times
    (1 - alpha) / alpha; the noise itself counts 1. In between lies 1 / alpha, bounded.
    """
    told, guessed = model(noised(model, inputs, times, noise), times, guess=True)
    each = (told - noise).square().mean((1, 2))
    weight = (1 / model.diffusion.alphas[times]).clamp(max=MOST_WEIGHT)
    guess = F.cross_entropy(guessed.flatten(0, 1), numbered.flatten())
    return (each * weight).mean() + 0.3 * guess, each.mean().detach()


def heldout(tok, seed, count=512):
    """A batch of sentences from a stream of their own, over all times."""
    return batch(tok, f"held out {seed}", 0, count)


@torch.no_grad()
def heldout_loss(model, held):
    """The plain error of the noise."""
    return (model(noised(model, held.inputs, held.times, held.noise), held.times) - held.noise).square().mean().item()


def spread(times, steps):
    """Times of so many steps, and the end."""
    return [times * (steps - i) // steps - 1 for i in range(steps)] + [END_OF_TIMES]


def philox(key, counter):
    """Philox 4x32-10 (Salmon et al. 2011) of counters [..., 4]."""
    c = [np.asarray(counter[..., i], dtype=np.uint64) for i in range(4)]
    k, low = [np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32)], np.uint64(0xFFFFFFFF)
    high = np.uint64(32)
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(b >> high) ^ c[1] ^ k[0], b & low, (a >> high) ^ c[3] ^ k[1], a & low]
        k = [(k[0] + np.uint64(0x9E3779B9)) & low, (k[1] + np.uint64(0xBB67AE85)) & low]
    return np.stack(c, -1)


def noise_of(seed, tokens, width, time):
    """The engine's noise at a time: [tokens, width] in f64 (see `Op::Denoise`)."""
    block, token = np.meshgrid(np.arange((width + 3) // 4), np.arange(tokens))
    counter = np.stack([block, token, np.full_like(block, time), np.full_like(block, 4)], -1)
    u = (philox(seed, counter).astype(np.float64) + 0.5) / 2 ** 32
    radius, angle = np.sqrt(-2 * np.log(u[..., 0::2])), 2 * np.pi * u[..., 1::2]
    both = np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)
    return both.reshape(tokens, -1)[:, :width]


@torch.no_grad()
def write_texts(model, seeds, steps=50, eta=0.0, dtype=torch.float32, watch=None):
    """Ids of a text for each seed, by DDIM (Song et al. 2021, equation 12); at eta 1 it is DDPM.

    The steps themselves are in f64, as the engine's.
    """
    n, width = model.cfg.context, model.cfg.latent
    drawn = lambda time: torch.tensor(np.stack([noise_of(s, n, width, time) for s in seeds]))
    x = drawn(END_OF_TIMES).float().to(dtype)
    times = spread(model.cfg.times, steps)
    alphas = {**dict(enumerate(model.diffusion.alphas.double())), END_OF_TIMES: torch.tensor(1.0, dtype=torch.float64)}
    for t, s in zip(times, times[1:]):
        noise = model(x, torch.full((len(seeds),), t)).double()
        now, then = alphas[t], alphas[s]
        clean = (x.double() - (1 - now).sqrt() * noise) / now.sqrt()
        sigma = eta * ((1 - then) / (1 - now) * (1 - now / then)).sqrt()
        x = then.sqrt() * clean + (1 - then - sigma ** 2).clamp(min=0).sqrt() * noise
        x = (x + sigma * drawn(t) if sigma > 0 else x).to(dtype)
        if watch:
            watch(x)
    return (x @ model.token_embd.weight.to(dtype).T).argmax(-1).tolist()


def share_that_parses(model, tok, seeds, **how):
    texts = [text_of(tok, ids) for ids in write_texts(model, seeds, **how)]
    return sum(map(parses, texts)), texts
