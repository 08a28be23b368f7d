"""A Llama in plain PyTorch: RMSNorm, rotary positions, grouped queries, SwiGLU, tied embeddings.

Causal, or (for masked diffusion) every token sees every other.

The rotary embedding turns adjacent pairs (2i, 2i+1), the order in which Llama
GGUF files keep the query and key rows, so the export permutes nothing.
"""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Config:
    vocab: int = 2048
    dim: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    ffn: int = 768
    context: int = 512
    rope_base: float = 10000.0
    eps: float = 1e-5
    causal: bool = True

    def dict(self):
        return asdict(self)


class RMSNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def rotary_table(cfg, length):
    freqs = cfg.rope_base ** (-torch.arange(0, cfg.head_dim, 2, dtype=torch.float64) / cfg.head_dim)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * freqs
    return angles.cos().float(), angles.sin().float()


def rotate(x, cos, sin):
    """x: [batch, heads, time, head_dim]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class Block(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        q, kv = cfg.heads * cfg.head_dim, cfg.kv_heads * cfg.head_dim
        self.attn_norm = RMSNorm(cfg.dim, cfg.eps)
        self.attn_q = nn.Linear(cfg.dim, q, bias=False)
        self.attn_k = nn.Linear(cfg.dim, kv, bias=False)
        self.attn_v = nn.Linear(cfg.dim, kv, bias=False)
        self.attn_output = nn.Linear(q, cfg.dim, bias=False)
        self.ffn_norm = RMSNorm(cfg.dim, cfg.eps)
        self.ffn_gate = nn.Linear(cfg.dim, cfg.ffn, bias=False)
        self.ffn_up = nn.Linear(cfg.dim, cfg.ffn, bias=False)
        self.ffn_down = nn.Linear(cfg.ffn, cfg.dim, bias=False)

    def forward(self, x, cos, sin, cache=None, sight=None):
        cfg, (b, t, _) = self.cfg, x.shape
        h = self.attn_norm(x)
        split = lambda y: y.view(b, t, -1, cfg.head_dim).transpose(1, 2)
        q = rotate(split(self.attn_q(h)), cos, sin)
        k, v = rotate(split(self.attn_k(h)), cos, sin), split(self.attn_v(h))
        if cache is not None:
            if cache:
                k, v = torch.cat((cache[0], k), 2), torch.cat((cache[1], v), 2)
            cache[:] = [k, v]
        group = cfg.heads // cfg.kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        # A cached step of one token sees all that came before it; a whole prompt is causal.
        y = F.scaled_dot_product_attention(q, k, v, sight, is_causal=sight is None and cfg.causal and t > 1)
        x = x + self.attn_output(y.transpose(1, 2).reshape(b, t, -1))
        h = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h))


class Llama(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.token_embd = nn.Embedding(cfg.vocab, cfg.dim)
        self.blk = nn.ModuleList(Block(cfg) for _ in range(cfg.layers))
        self.output_norm = RMSNorm(cfg.dim, cfg.eps)
        cos, sin = rotary_table(cfg, cfg.context)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                std = 0.05 if "embd" in name else p.shape[1] ** -0.5
                # Blocks start close to the identity: what they add back is small at first.
                # Attention starts soft: a head that is sure of itself too early learns no more.
                small = ("attn_output", "ffn_down", "attn_q", "attn_k")
                nn.init.normal_(p, std=std * (0.4 if any(s in name for s in small) else 1.0))

    def empty_state(self, batch):
        """For each layer a list that comes to hold its keys and values."""
        return [[] for _ in self.blk]

    def forward(self, ids, state=None, at=None, places=None, sight=None):
        """Logits [batch, time, vocab]. state: of `empty_state`, gone on from and changed.

        at: [n], positions in the flattened ids; then only their logits are made, [n, vocab].
        places: [time], where the tokens stand, if not one behind the other. sight: [time, time], what
        sees what, if neither all that came before nor everything.
        """
        start = state[0][0].shape[2] if state and state[0] else 0
        x = self.token_embd(ids)
        places = torch.arange(start, start + ids.shape[1]) if places is None else places
        cos, sin = self.cos[places], self.sin[places]
        for i, block in enumerate(self.blk):
            x = block(x, cos, sin, None if state is None else state[i], sight)
        x = x if at is None else x.flatten(0, 1)[at]
        return F.linear(self.output_norm(x), self.token_embd.weight)

    def parameter_count(self):
        return sum(p.numel() for p in self.parameters())
