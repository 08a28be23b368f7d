"""Masked diffusion on the body of the story model: what it is shown, and how it is judged.

A canvas is a prompt, a story, and `<|end|>` up to its last place. In training some of its places
hold `<|mask|>` instead, and the model says what was there. Row i of the logits is about place i + 1,
as in the causal model whose weights this one starts from (Dream, Ye et al. 2025, does the same with
Qwen 2.5). Texts are filled in block after block, and the model learns both ways of doing so:

- causal blocks (BD3, Arriola et al. 2025): a place sees what is before its block, and the block.
  A canvas stands here twice, as it is and with masks, and what is masked sees the finished blocks
  before its own, so every block of a canvas teaches something;
- open blocks (LLaDA, Nie et al. 2025): every place sees every other, masks to come included. A
  canvas is what a sampler meets: a story as far as it is told, a block some of whose places are
  masked, and masks from there on.

With k of a block's B masked places drawn evenly from 1 to B, the mean loss of the k places, times B,
is an unbiased bound of the block's nats.
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
ASKED = 64  # places of an open canvas that are learned from at most

LENGTHS = (144, 208, 288)  # of open canvases: a text may be cut short, as it is when few tokens are asked for
OPEN_BLOCKS = (8, 16, 32, 32)
CAUSAL_BLOCKS = (4, 8, 16)

Batch = collections.namedtuple("Batch", "inputs at targets weights places sight caution", defaults=(1.0,))


def new_model():
    return Llama(Config(vocab=MASK_ID + 1, causal=False))


def start_from(model, causal):
    """Takes over the weights of a causal story model.

    The mask begins as zero: it then has neither key nor value in the first block, and what the model
    knows stays almost as it was. (The mean of all tokens costs eight nats.)
    """
    table = causal["token_embd.weight"]
    model.load_state_dict({**causal, "token_embd.weight": torch.cat((table, torch.zeros_like(table[:1])))})


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


def block_sight(length, block, copies=1):
    """What sees what, [n, n] with n = (1 + copies) length: finished places their block and those before,
    masked ones their own block of their own copy and the finished ones before it."""
    of = torch.arange(length) // block
    here, before = of[:, None] == of, of[:, None] > of
    masked = torch.cat((before.repeat(copies, 1), torch.block_diag(*[here] * copies).bool()), 1)
    finished = torch.cat((here | before, torch.zeros(length, copies * length, dtype=torch.bool)), 1)
    return torch.cat((finished, masked))


def causal_batch(tok, seed, step, rows, slot_weight=1.0, blocks=CAUSAL_BLOCKS, copies=1, length=256):
    """The batch of one step, a function of its arguments alone.

    inputs: [rows, (1 + copies) length], the canvas and masked copies of it. at: [rows * copies * length]
    rows of the flattened logits; targets and weights, of the same shape: what belongs there and how
    much it counts. The weights of the batch sum to about 1. The end of a finished block is about
    the first place of the next, whatever is masked there.
    """
    rng = random.Random(f"causal {seed} {step}")
    block = rng.choice(blocks)
    count, start, drawn = rows * copies * length // block, rng.random(), 0
    inputs, at, targets, weights = [], [], [], []
    for row in range(rows):
        ids, weight, begin, _ = canvas(tok, rng, length, slot_weight)
        row_at = row * (1 + copies) * length
        shown = list(ids)
        for copy in range(1, copies + 1):
            masked, counts = list(ids), [0.0] * length
            for first in range(begin // block * block, length, block):
                # Even over the batch: fewer surprises (Kingma et al. 2021).
                share, drawn = (start + drawn / count) % 1, drawn + 1
                last = first + block
                hidden = hidden_places(rng, max(first, begin), last, share)
                for i in hidden:
                    masked[i], counts[i] = MASK_ID, weight[i] * (last - max(first, begin)) / len(hidden)
            shown += masked
            at += [row_at + max(0, i - 1) + copy * length * (i % block > 0) for i in range(length)]
            targets += ids
            weights += counts
        inputs.append(shown)
    weights = torch.tensor(weights) / (rows * copies * length * 0.75)
    places = torch.arange(length).repeat(1 + copies)
    return Batch(torch.tensor(inputs), torch.tensor(at), torch.tensor(targets), weights, places,
                 block_sight(length, block, copies))


def open_batch(tok, seed, step, rows, slot_weight=1.0, blocks=OPEN_BLOCKS, anywhere=0.5):
    """The same for open blocks; inputs: [rows, length], length being one of LENGTHS; at: [rows * 64].

    anywhere: how many of the rows have masks in any place of the text, as many as chance says (LLaDA's own
    training): every one of them teaches something. The others are what a sampler meets.
    """
    rng = random.Random(f"diffusion {seed} {step}")
    length, start = rng.choice(LENGTHS), rng.random()
    inputs = []
    at, targets, weights = torch.zeros(3, rows, ASKED).unbind(0)
    at, targets = at.long(), targets.long()
    for row in range(rows):
        ids, weight, begin, end = canvas(tok, rng, length, slot_weight)
        share = (start + row / rows) % 1
        kind = rng.random()
        if kind < anywhere:
            first, last = begin, length
            hidden = sorted(rng.sample(range(first, last), min(last - first, int(share * (last - first)) + 1)))
        else:
            room = (end, length) if rng.random() < 0.08 and end < length else (begin, end)
            first = rng.randrange(*room)
            last = min(length, first + rng.choice(blocks))
            hidden = hidden_places(rng, first, last, share)
        learned = rng.sample(hidden, min(len(hidden), ASKED))
        for n, i in enumerate(learned):
            at[row, n], targets[row, n], weights[row, n] = row * length + i - 1, ids[i], weight[i]
        masked = set(hidden)
        inputs.append([MASK_ID if i in masked or i >= last else t for i, t in enumerate(ids)])
    weights = weights.flatten()
    return Batch(torch.tensor(inputs), at.flatten(), targets.flatten(), weights / weights.sum(), None, None)


def loss_of(model, inputs, at, targets, weights, places, sight, caution=1.0):
    """Weighted cross-entropy of the masked places, and its plain mean over them.

    caution: above 1, a place whose left neighbour is masked too learns to be that much less sure:
    its probabilities are the true ones to the power of 1 / caution, normalised. A sampler that takes the
    surest place first then takes one before its neighbour only where little else could stand there.
    """
    logits = model(inputs, at=at, places=places, sight=sight)
    alone = inputs.flatten()[at] == MASK_ID
    each = F.cross_entropy(torch.where(alone[:, None], logits * caution, logits), targets, reduction="none")
    known = (weights > 0).float()
    return (each * weights).sum(), ((each * known).sum() / known.sum()).detach()


@torch.no_grad()
def heldout_bound(model, documents, block=4, length=256, blocks="causal", seed=1):
    """Upper bound of the mean negative log-likelihood per token of stories, in nats.

    Block after block up to the one where the story ends, all of which counts: causal blocks from the
    start of the text, or open ones in `length` places behind <|bos|> (block = length is the bound of
    plain masked diffusion). The masks of a block are any k of its B places, k even over 1 to B: one draw
    for each block.
    """
    rng = random.Random(f"bound {seed}")
    total = count = drawn = 0
    for ids in documents:
        end, text = ids[-1], ids[: length + 1]
        count += len(text) - 1
        text = torch.tensor(text + [end] * (2 * length - len(text)))
        rows, places = [], []
        causal = blocks == "causal"
        for start in range(0 if causal else 1, len(ids), block):
            first, last = max(start, 1), start + block
            if first == last:
                continue
            share = (drawn * 0.6180339887498949 + rng.random() / len(documents)) % 1
            drawn += 1
            hidden = rng.sample(range(first, last), int(share * (last - first)) + 1)
            row = text[:last] if causal else text[: length + 1].clone()
            row = row.clone()
            row[last:] = row[hidden] = MASK_ID
            rows.append(row)
            places.append((hidden, last - first))
        if causal:
            size = len(rows[-1])
            masked = torch.cat([row[-block:] for row in rows])
            masked = torch.cat((text[: size - len(masked)], masked))  # in blocks of one the first is told
            told = model(torch.cat((text[:size], masked))[None], places=torch.arange(size).repeat(2),
                         sight=block_sight(size, block))[0]
        else:
            told = model(torch.stack(rows))
        for row, (hidden, size_of) in enumerate(places):
            hidden = torch.tensor(hidden)
            if causal:
                logits = told[hidden - 1 + size * (hidden % block > 0)]
            else:
                logits = told[row, hidden - 1]
            total += F.cross_entropy(logits, text[hidden]).item() * size_of
    return total / count


@torch.no_grad()
def fill(model, prompts, length=256, block=4, blocks="causal", temperature=0.0, seed=0, threshold=None):
    """LLaDA's sampler, everything that is seen run in every pass: (answers, passes).

    Causal blocks lie at multiples of their length from the start of the text, open ones begin behind
    the prompt. In a pass each row commits the place it is surest of, and with a threshold every other
    at least that sure. Surety is the probability of the token, without the noise by which it was drawn
    (Gumbel's, times the temperature). passes: for each, what it left of the rows, and the smallest
    lead of what it chose: of a token's score over the next, of a place's surety over the next, of any
    surety over the threshold or below it.
    """
    rng = torch.Generator().manual_seed(seed)
    start = len(prompts[0])
    x = torch.cat((torch.tensor(prompts), torch.full((len(prompts), length), MASK_ID)), 1)
    of = torch.arange(x.shape[1]) // block
    sight = of[:, None] >= of if blocks == "causal" else None
    first, passes = start, []
    while first < x.shape[1]:
        last = min(first + block - (first % block if blocks == "causal" else 0), x.shape[1])
        seen = last if blocks == "causal" else x.shape[1]
        while (masked := x[:, first:last] == MASK_ID).any():
            logits = model(x[:, :seen], sight=None if sight is None else sight[:seen, :seen])[:, first - 1 : last - 1]
            noise = -torch.log(-torch.log(torch.rand(logits.shape, generator=rng).clamp(1e-20, 1 - 1e-7)))
            best = (logits + temperature * noise if temperature else logits).topk(2)
            told = best.indices[..., 0]
            surety = logits.softmax(-1).gather(-1, told[..., None])[..., 0].masked_fill(~masked, -1.0)
            order = surety.sort(-1, descending=True)
            chosen = torch.zeros_like(masked).scatter(1, order.indices[:, :1], True)
            ahead = order.values[:, 0] - (order.values[:, 1] if last - first > 1 else -1.0)
            if threshold is not None:
                chosen |= surety >= threshold
                ahead = ahead.masked_fill(order.values[:, 0] >= threshold, 1.0)
                ahead = torch.minimum(ahead, (surety - threshold).abs().masked_fill(~masked, 1.0).min(-1).values)
            chosen &= masked
            of_tokens = (best.values[..., 0] - best.values[..., 1]).masked_fill(~chosen, 1e9).min(-1).values
            x[:, first:last] = torch.where(chosen, told, x[:, first:last])
            passes.append((x[:, start:].tolist(), torch.minimum(ahead, of_tokens).min().item()))
        first = last
    return x[:, start:].tolist(), passes
