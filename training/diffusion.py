"""Masked diffusion on the body of the story model: what it is shown, and how it is judged.

A canvas is a prompt, a story, and `<|end|>` up to its last place. In training some of its places
hold `<|mask|>` instead, and the model says what was there; it sees the whole canvas, so attention
is not causal. Row i of the logits is about place i + 1, as in the causal model whose weights this
one starts from (Dream, Ye et al. 2025, does the same with Qwen 2.5).

Texts are filled in block after block (LLaDA, Nie et al. 2025), so most canvases are what a sampler
meets: a story as far as it is told, a block some of whose places are masked, and masks from there on.
With k of a block's B masked places drawn evenly from 1 to B, the mean loss of the k places, times B,
is an unbiased bound of the block's nats. Every row counts the same here, whatever its B.
"""

import collections
import random

import torch
import torch.nn.functional as F

from .data import Marker, encode_document
from .model import Config, Llama
from .requests import END, document

MASK = "<|mask|>"
MASK_ID = 2048  # one more than the stories' vocabulary
ASKED = 64  # places of a row that are learned from at most

LENGTHS = (144, 208, 288)  # tokens of a canvas: a text may be cut short, as it is when few are asked for
BLOCKS = (4, 8, 16, 32, 32, 64)

Batch = collections.namedtuple("Batch", "inputs at targets weights")


def new_model():
    return Llama(Config(vocab=MASK_ID + 1, causal=False))


def start_from(model, causal):
    """Takes over the weights of a causal story model; the mask begins as the mean of all tokens."""
    table = causal["token_embd.weight"]
    model.load_state_dict({**causal, "token_embd.weight": torch.cat((table, table.mean(0, keepdim=True)))})


def canvas(tok, rng, length, slot_weight):
    """(ids, weights, where the story begins, where it ends) of a prompt and its story."""
    marker = Marker()
    doc = document(rng, mark=marker)[:3]  # no second request
    doc = doc[:2] if doc[1][1] else doc
    ids, weights, _ = encode_document(tok, doc, marker.choices, slot_weight)
    begin, end = next(i for i, w in enumerate(weights) if w > 0), len(ids)
    fill = max(0, length - end)
    # One end is a choice like any other; those behind it are not worth much.
    ids, weights = ids + [tok.token_to_id(END)] * fill, weights + [0.1] * fill
    return ids[:length], weights[:length], begin, min(end, length)


def hidden_places(rng, begin, end, share):
    """Which places of a block are masked: share (0 to 1) of them, at least one.

    Half of the time any of them. Else those to the right rather: a sampler that takes what it is
    surest of finds most of a block from the left.
    """
    size = end - begin
    count = min(size, int(share * size) + 1)
    lean = rng.choice((0.0, size / 8, size / 3)) if rng.random() < 0.5 else None
    key = (lambda i: rng.random()) if lean is None else (lambda i: i + lean * rng.gauss(0, 1))
    return sorted(range(begin, end), key={i: key(i) for i in range(begin, end)}.get)[size - count :]


def batch(tok, seed, step, rows, slot_weight=1.0):
    """The batch of one step, a function of its arguments alone.

    inputs: [rows, length], length being one of LENGTHS. at: [rows * 64] rows of the flattened logits;
    targets and weights, of the same shape: what belongs there and how much it counts. The weights of
    a canvas sum to 1 / rows.
    """
    rng = random.Random(f"diffusion {seed} {step}")
    length, start = rng.choice(LENGTHS), rng.random()
    inputs = []
    at, targets, weights = torch.zeros(3, rows, ASKED).unbind(0)
    at, targets = at.long(), targets.long()
    for row in range(rows):
        ids, weight, begin, end = canvas(tok, rng, length, slot_weight)
        share = (start + row / rows) % 1  # even over the batch: fewer surprises (Kingma et al. 2021)
        kind = rng.random()
        if kind < 0.12:  # the whole text at once
            first, last = begin, length
        else:
            room = (end, length) if kind < 0.18 and end < length else (begin, end)
            first = rng.randrange(*room)
            last = min(length, first + rng.choice(BLOCKS))
        hidden = hidden_places(rng, first, last, share)
        learned = rng.sample(hidden, min(len(hidden), ASKED))
        total = sum(weight[i] for i in learned) * rows
        for n, i in enumerate(learned):
            at[row, n], targets[row, n], weights[row, n] = row * length + i - 1, ids[i], weight[i] / total
        masked = set(hidden)
        inputs.append([MASK_ID if i in masked or i >= last else t for i, t in enumerate(ids)])
    return Batch(torch.tensor(inputs), at.flatten(), targets.flatten(), weights.flatten())


def loss_of(model, inputs, at, targets, weights):
    """Weighted cross-entropy of the masked places, and its plain mean over them."""
    each = F.cross_entropy(model(inputs, at=at), targets, reduction="none")
    known = (weights > 0).float()
    return (each * weights).sum(), ((each * known).sum() / known.sum()).detach()


@torch.no_grad()
def heldout_bound(model, documents, block=32, length=256, seed=1):
    """Upper bound of the mean negative log-likelihood per token of stories, in nats.

    Block after block in `length` places behind <|bos|>, the places behind a block masked, as the
    sampler goes; block = length is the bound of plain masked diffusion. The masks of a block are any k
    of its places, k even over 1 to B: one draw for each block. What stands behind a story in the
    block where it ends counts too; later blocks do not.
    """
    rng = random.Random(f"bound {seed}")
    total = count = drawn = 0
    for ids in documents:
        end, text = ids[-1], ids[: length + 1]
        count += len(text) - 1
        text = torch.tensor(text + [end] * (length + 1 - len(text)))
        rows, places = [], []
        for first in range(1, len(ids), block):
            last = min(first + block, length + 1)
            share = (drawn * 0.6180339887498949 + rng.random() / len(documents)) % 1
            drawn += 1
            hidden = rng.sample(range(first, last), int(share * (last - first)) + 1)
            row = text.clone()
            row[last:] = row[hidden] = MASK_ID
            rows.append(row)
            places.append((hidden, last - first))
        logits = model(torch.stack(rows))
        for row, (hidden, size) in enumerate(places):
            told = logits[row, torch.tensor(hidden) - 1]
            total += F.cross_entropy(told, text[hidden]).item() * size
    return total / count
