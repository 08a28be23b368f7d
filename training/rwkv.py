"""An RWKV-7 (Peng et al. 2025) in plain PyTorch, its recurrence in matrix form.

Parameters are named and shaped as the tensors of a GGUF file of architecture `rwkv7`. The head is
the embedding table.
"""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

DECAY = 0.6065306597126334  # e^-0.5: what a token's decay is at most, in nats
CHUNK = 32


@dataclass
class Config:
    vocab: int = 2048
    dim: int = 256
    layers: int = 4
    head_size: int = 64
    ffn: int = 768
    context: int = 512  # a recommendation only: nothing depends on it
    decay_rank: int = 32
    iclr_rank: int = 32
    value_rank: int = 32
    gate_rank: int = 64
    eps: float = 1e-5

    def dict(self):
        return asdict(self)


def new_model():
    return Rwkv7(Config())


def wkv_recurrent(r, g, k, v, a, b, state):
    """The recurrence as it is defined. All of [batch, heads, time, 64]; state: [batch, heads, 64 keys, 64 values].

    S <- diag(e^g) S + b (a S) + k v, one token after the other; y = r S. Gives (y, state).
    """
    out = []
    for t in range(r.shape[2]):
        row = lambda x: x[:, :, t, None]
        removed = row(a) @ state
        state = row(g).exp().mT * state + row(b).mT @ removed + row(k).mT @ row(v)
        out.append(row(r) @ state)
    return torch.cat(out, 2), state


def wkv_chunked(r, g, k, v, a, b, state, chunk=CHUNK):
    """The same in matrix form: chunks of tokens at once, the state only from chunk to chunk.

    time must be a multiple of chunk. Exponents are taken from the middle of a chunk, so that none
    exceeds chunk / 2 * DECAY.
    """
    batch, heads, time, size = r.shape
    r, g, k, v, a, b = (x.reshape(batch, heads, time // chunk, chunk, size) for x in (r, g, k, v, a, b))
    sums = g.cumsum(3)
    middle, last = sums[..., chunk // 2 : chunk // 2 + 1, :], sums[..., -1:, :]
    at, before = (sums - middle).exp(), (sums - g - middle).exp()
    back = (middle - sums).exp()
    k_, b_, a_, r_ = k * back, b * back, a * before, r * at
    upto = torch.ones(chunk, chunk, dtype=r.dtype).tril()
    below = upto.tril(-1)
    r_k, r_b = (r_ @ k_.mT) * upto, (r_ @ b_.mT) * upto
    a_b, a_k = (a_ @ b_.mT) * below, (a_ @ k_.mT) * below
    # (I - a_b)^-1 = (I + a_b) (I + a_b^2) (I + a_b^4) ..., which ends: a_b is strictly lower triangular.
    one = torch.eye(chunk, dtype=r.dtype)
    inverse, power = one + a_b, a_b
    for _ in range(chunk.bit_length() - 2):
        power = power @ power
        inverse = inverse + inverse @ power
    u = inverse @ (a_k @ v)
    w = inverse @ (a * (sums - g).exp())
    inner, reads = r_k @ v + r_b @ u, r * sums.exp()
    reads = reads + r_b @ w
    to_end = (last - sums).exp()
    k_end, b_end = (k * to_end).mT, (b * to_end).mT
    new = k_end @ v + b_end @ u
    moves = torch.diag_embed(last.squeeze(3).exp()) + b_end @ w
    out = []
    for c in range(time // chunk):
        out.append(inner[:, :, c] + reads[:, :, c] @ state)
        state = moves[:, :, c] @ state + new[:, :, c]
    return torch.stack(out, 2).reshape(batch, heads, time, size), state


class Vector(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.weight = nn.Parameter(value)


class Block(nn.Module):
    def __init__(self, cfg, index):
        super().__init__()
        self.cfg, self.first = cfg, index == 0
        dim = cfg.dim
        linear = lambda to, of: nn.Linear(of, to, bias=False)
        self.attn_norm, self.attn_norm_2 = nn.LayerNorm(dim, cfg.eps), nn.LayerNorm(dim, cfg.eps)
        for name in ("receptance", "key", "value", "output"):
            setattr(self, f"time_mix_{name}", linear(dim, dim))
        # Starting values after the authors' training code: early layers mix and forget more evenly.
        deep, early = index / max(1, cfg.layers - 1), 1 - index / cfg.layers
        ramp = torch.arange(dim) / dim
        powers = torch.tensor([0.2, 0.9, 0.7, 0.7, 0.9, 0.2])[:, None] * early  # r, w, k, v, a, g
        self.time_mix_lerp_fused = Vector((1 - ramp ** powers)[:, None, None])
        self.channel_mix_lerp_k = Vector((1 - ramp ** (early ** 4))[None, None])
        start = {"w": -6.5 + 5 * ramp ** (0.85 + deep ** 0.5), "a": torch.zeros(dim), "v": torch.ones(dim)}
        ranks = {"w": cfg.decay_rank, "a": cfg.iclr_rank, "v": cfg.value_rank, "g": cfg.gate_rank}
        for which, rank in ranks.items():
            if which == "v" and self.first:
                continue
            if which in start:
                setattr(self, f"time_mix_{which}0", Vector(start[which]))
            setattr(self, f"time_mix_{which}1", linear(rank, dim))
            setattr(self, f"time_mix_{which}2", linear(dim, rank))
        self.time_mix_k_k = Vector(torch.full((dim,), 0.85))
        self.time_mix_k_a = Vector(torch.ones(dim))
        self.time_mix_r_k = Vector(torch.zeros(dim))
        self.time_mix_ln = nn.GroupNorm(dim // cfg.head_size, dim, 64e-5)
        self.channel_mix_key, self.channel_mix_value = linear(cfg.ffn, dim), linear(dim, cfg.ffn)

    def low_rank(self, which, x, inner):
        part = lambda n: getattr(self, f"time_mix_{which}{n}")
        return part(2)(inner(part(1)(x)))

    def time_mix(self, x, state, first):
        """x: [batch, time, dim], normed; state: what `empty_state` gives a layer, changed."""
        (b, t, dim), size = x.shape, self.cfg.head_size
        past = torch.cat((state[0][:, None], x[:, :-1]), 1) - x
        state[0] = x[:, -1]
        r, w, k, v, a, g = (x + past * m[0, 0] for m in self.time_mix_lerp_fused.weight)
        r, k, v, v_in = self.time_mix_receptance(r), self.time_mix_key(k), self.time_mix_value(v), v
        w = -DECAY * torch.sigmoid(self.time_mix_w0.weight + self.low_rank("w", w, torch.tanh))
        a = torch.sigmoid(self.time_mix_a0.weight + self.low_rank("a", a, lambda y: y))
        g = self.low_rank("g", g, torch.sigmoid)
        if self.first:
            first = v
        else:
            v = v + (first - v) * torch.sigmoid(self.time_mix_v0.weight + self.low_rank("v", v_in, lambda y: y))
        heads = lambda y: y.view(b, t, -1, size).transpose(1, 2)
        kk = F.normalize(heads(k * self.time_mix_k_k.weight), dim=-1, eps=1e-12)
        k = k + k * (a - 1) * self.time_mix_k_a.weight
        wkv = wkv_recurrent if t % CHUNK else wkv_chunked
        y, state[1] = wkv(heads(r), heads(w), heads(k), heads(v), -kk, kk * heads(a), state[1])
        y = self.time_mix_ln(y.transpose(1, 2).reshape(b * t, dim)).view(b, t, dim)
        bonus = (heads(r) * heads(k) * self.time_mix_r_k.weight.view(-1, 1, size)).sum(-1, keepdim=True) * heads(v)
        y = y + bonus.transpose(1, 2).reshape(b, t, dim)
        return self.time_mix_output(y * g), first

    def channel_mix(self, x, state):
        past = torch.cat((state[2][:, None], x[:, :-1]), 1) - x
        state[2] = x[:, -1]
        return self.channel_mix_value(F.relu(self.channel_mix_key(x + past * self.channel_mix_lerp_k.weight[0])) ** 2)

    def forward(self, x, state, first):
        delta, first = self.time_mix(self.attn_norm(x), state, first)
        x = x + delta
        return x + self.channel_mix(self.attn_norm_2(x), state), first


class Rwkv7(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.token_embd = nn.Embedding(cfg.vocab, cfg.dim)
        self.token_embd_norm = nn.LayerNorm(cfg.dim, cfg.eps)
        self.blk = nn.ModuleList(Block(cfg, i) for i in range(cfg.layers))
        self.output_norm = nn.LayerNorm(cfg.dim, cfg.eps)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                std = 0.05 if "embd" in name else p.shape[1] ** -0.5
                small = ("time_mix_output", "channel_mix_value", "w1", "a1", "v1")
                nn.init.normal_(p, std=std * (0.3 if any(s in name for s in small) else 1.0))

    def empty_state(self, batch):
        """For each layer the last token of its two mixes and the matrices of its heads."""
        cfg, size = self.cfg, self.cfg.head_size
        dtype = self.token_embd.weight.dtype
        zeros = lambda *shape: torch.zeros(batch, *shape, dtype=dtype)
        return [[zeros(cfg.dim), zeros(cfg.dim // size, size, size), zeros(cfg.dim)] for _ in range(cfg.layers)]

    def forward(self, ids, state=None):
        """Logits [batch, time, vocab]. state: of `empty_state`, gone on from and changed."""
        state = self.empty_state(ids.shape[0]) if state is None else state
        x, first = self.token_embd_norm(self.token_embd(ids)), None
        for block, of_layer in zip(self.blk, state):
            x, first = block(x, of_layer, first)
        return F.linear(self.output_norm(x), self.token_embd.weight)

    def parameter_count(self):
        return sum(p.numel() for p in self.parameters())
