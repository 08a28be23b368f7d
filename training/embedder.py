"""A BERT in plain PyTorch, with its WordPiece vocabulary: vectors of texts, and scores of pairs.

One network for both. A text's vector is the mean of its tokens' states, scaled to length one; a
pair's score comes of the state of [CLS], by a layer with tanh and a projection. Parameters have the
names of the GGUF file. Texts are packed: nothing but attention sees padding.
"""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import nn

PAD, UNK, CLS, SEP, MASK = SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@dataclass
class Config:
    vocab: int = 2048
    dim: int = 256
    layers: int = 2
    heads: int = 8
    ffn: int = 768
    context: int = 320
    eps: float = 1e-5

    def dict(self):
        return asdict(self)


def train_tokenizer(texts, vocab):
    """Lower-cased WordPiece, cut into words as BERT cuts them."""
    tok = Tokenizer(models.WordPiece(unk_token=UNK))
    tok.normalizer = normalizers.BertNormalizer(lowercase=True)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.decoder = decoders.WordPiece()
    ascii_marks = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    tok.train_from_iterator(texts, trainers.WordPieceTrainer(
        vocab_size=vocab, special_tokens=SPECIALS, show_progress=False, initial_alphabet=ascii_marks))
    return tok


class Batch:
    """Texts or pairs of texts, packed. ids, positions, types: [tokens]; `at`: their places in [texts, longest]."""

    def __init__(self, tok, texts, context):
        """texts: strings, or pairs of them; what goes beyond the context is cut off the last."""
        cls, sep = tok.token_to_id(CLS), tok.token_to_id(SEP)
        parts = [(t,) if isinstance(t, str) else t for t in texts]
        encoded = iter(tok.encode_batch([p for ps in parts for p in ps], add_special_tokens=False))
        ids, positions, types, lengths = [], [], [], []
        for ps in parts:
            row, kinds = [cls], [0]
            for i, _ in enumerate(ps):
                more = next(encoded).ids
                if i == len(ps) - 1:
                    more = more[: context - len(row) - 1]
                row += more + [sep]
                kinds += [i] * (len(more) + 1)
            ids += row
            types += kinds
            positions += range(len(row))
            lengths.append(len(row))
        self.ids, self.positions, self.types = torch.tensor(ids), torch.tensor(positions), torch.tensor(types)
        self.lengths = torch.tensor(lengths)
        self.longest = max(lengths)
        self.rows = torch.repeat_interleave(torch.arange(len(lengths)), self.lengths)
        self.at = self.rows * self.longest + self.positions
        self.seen = torch.arange(self.longest)[None] < self.lengths[:, None]
        self.first = torch.cumsum(self.lengths, 0) - self.lengths


class Block(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.heads = cfg.heads
        self.attn_q, self.attn_k, self.attn_v, self.attn_output = (nn.Linear(cfg.dim, cfg.dim) for _ in range(4))
        self.attn_output_norm = nn.LayerNorm(cfg.dim, cfg.eps)
        self.ffn_up, self.ffn_down = nn.Linear(cfg.dim, cfg.ffn), nn.Linear(cfg.ffn, cfg.dim)
        self.layer_output_norm = nn.LayerNorm(cfg.dim, cfg.eps)

    def forward(self, x, batch):
        n, dim = len(batch.lengths), x.shape[1]

        def padded(y):
            wide = y.new_zeros(n * batch.longest, dim).index_copy(0, batch.at, y)
            return wide.view(n, batch.longest, self.heads, -1).transpose(1, 2)

        q, k, v = padded(self.attn_q(x)), padded(self.attn_k(x)), padded(self.attn_v(x))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=batch.seen[:, None, None])
        y = y.transpose(1, 2).reshape(-1, dim)[batch.at]
        x = self.attn_output_norm(x + self.attn_output(y))
        return self.layer_output_norm(x + self.ffn_down(F.gelu(self.ffn_up(x))))


class Head(nn.Linear):
    """The layer before the score, and the score."""

    def __init__(self, dim):
        super().__init__(dim, dim)
        self.output = nn.Linear(dim, 1)

    def forward(self, x):
        return self.output(torch.tanh(super().forward(x)))[:, 0]


class Bert(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.token_embd = nn.Embedding(cfg.vocab, cfg.dim)
        self.position_embd = nn.Embedding(cfg.context, cfg.dim)
        self.token_types = nn.Embedding(2, cfg.dim)
        self.token_embd_norm = nn.LayerNorm(cfg.dim, cfg.eps)
        self.blk = nn.ModuleList(Block(cfg) for _ in range(cfg.layers))
        self.cls = Head(cfg.dim)
        for name, p in self.named_parameters():
            if "position" in name or "types" in name:
                nn.init.zeros_(p)
            elif "embd.weight" in name:
                nn.init.normal_(p, std=0.05)
            elif p.dim() == 2:
                nn.init.normal_(p, std=p.shape[1] ** -0.5 * (1.2 if "attn_output" in name else 0.3 if "ffn_down" in name else 1.0))
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    @torch.no_grad()
    def tell_places(self):
        """Gives positions and types their first values, once words have theirs: a fraction of these.

        The types are opposites, and the first layer's keys have what tells them apart mirrored: a token
        looks for its like at first, and sooner in the other text. In the last layer every token, so [CLS]
        too, looks at all of the first text. That is how a query's words find a passage's, and [CLS] hears
        of it; from random weights it is learned slowly.
        """
        size = self.token_embd.weight.square().mean().sqrt().item()
        self.position_embd.weight.normal_(std=0.1 * size)
        apart = torch.randn(self.cfg.dim)
        apart /= apart.norm()
        self.token_types.weight.copy_(torch.stack((-apart, apart)) * 0.35 * size * self.cfg.dim**0.5)
        first, last = self.blk[0], self.blk[-1]
        first.attn_k.weight.copy_(first.attn_q.weight - 2 * torch.outer(first.attn_q.weight @ apart, apart))
        last.attn_q.weight.mul_(0.3)
        last.attn_q.bias.copy_(-6 * last.attn_k.weight @ apart)

    def states(self, batch, words=False):
        """The last states of all tokens, [tokens, dim]; with `words` those before the first layer."""
        x = self.token_embd(batch.ids) + self.position_embd(batch.positions) + self.token_types(batch.types)
        x = self.token_embd_norm(x)
        for block in self.blk if not words else ():
            x = block(x, batch)
        return x

    def vectors(self, batch, words=False):
        """[texts, dim], each of length one."""
        x = self.states(batch, words)
        total = x.new_zeros(len(batch.lengths), x.shape[1]).index_add(0, batch.rows, x)
        return F.normalize(total / batch.lengths[:, None], dim=1)

    def scores(self, batch):
        """[pairs]: above zero for a passage that answers."""
        return self.cls(self.states(batch)[batch.first])

    def parameter_count(self):
        return sum(p.numel() for p in self.parameters())
