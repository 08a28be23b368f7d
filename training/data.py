"""Batches: windows filled with whole documents, each window opening on <|bos|>.

Every token has a weight in the loss. Requests and markers weigh nothing: they
are read, not learned. What follows from the story so far (a name said again, a
pronoun) can weigh more than the rest, which is wording and rolls of the dice:
that is where consistency is learned.
"""

import random

import torch

from .requests import document

_MARKS = ("\x01", "\x02")  # never in a story


def encode_document(tok, doc, slot_weight=1.0):
    """(ids, weights) of one document, which may hold marks: slot_weight to the power of how many enclose a token."""
    ids, weights = [], []
    for marked, target in doc:
        text, depth = _unmark(marked)
        encoded = tok.encode(text)
        ids += encoded.ids
        for start, end in encoded.offsets:
            weights.append(slot_weight ** max(depth[start:end], default=0) if target else 0.0)
    return ids, weights


def _unmark(text):
    """The text without marks, and how many pairs of them enclose each character."""
    out, depth, now = [], [], 0
    for c in text:
        if c in _MARKS:
            now += 1 if c == _MARKS[0] else -1
        else:
            out.append(c)
            depth.append(now)
    if now:
        raise ValueError("unbalanced marks")
    return "".join(out), depth


def batch(tok, seed, step, rows, length, slot_weight=1.0, single=False):
    """The batch of one step, a function of its arguments alone, so that a run can be resumed.

    (inputs, targets, weights), each [rows, length]. Text is without end here, so what crosses
    a window's end is simply cut. `single`: one document to a window, padded if need be.
    """
    rng = random.Random(f"train {seed} {step}")
    xs, ys, ws = [], [], []
    for _ in range(rows):
        ids, weights = [], []
        while len(ids) <= length:
            if single and ids:
                more, flags = [0] * (length + 1), [0.0] * (length + 1)
            else:
                more, flags = encode_document(tok, document(rng, marks=_MARKS), slot_weight)
            ids += more
            weights += flags
        xs.append(ids[:length])
        ys.append(ids[1 : length + 1])
        ws.append(weights[1 : length + 1])
    return torch.tensor(xs), torch.tensor(ys), torch.tensor(ws)


def heldout(tok, seed, count=200):
    """Plain stories from a stream of their own, as (texts, ids)."""
    rng = random.Random(f"held out {seed}")
    docs = [document(rng, pair_share=0.0) for _ in range(count)]
    return [d[1][0] for d in docs], [encode_document(tok, d)[0] for d in docs]
