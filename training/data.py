"""Batches: windows filled with whole documents, each window opening on <|bos|>."""

import random

import torch

from .requests import document

IGNORE = -100


def encode_document(tok, doc):
    """(ids, learned) of one document; requests and markers are read but not learned."""
    ids, learned = [], []
    for text, target in doc:
        part = tok.encode(text).ids
        ids += part
        learned += [target] * len(part)
    return ids, learned


def batch(tok, seed, step, rows, length):
    """The batch of one step, a function of (seed, step) alone, so that a run can be resumed.

    Text is without end here, so the document that crosses a window's end is simply cut.
    """
    rng = random.Random(f"train {seed} {step}")
    xs, ys = [], []
    for _ in range(rows):
        ids, learned = [], []
        while len(ids) <= length:
            more, flags = encode_document(tok, document(rng))
            ids += more
            learned += flags
        xs.append(ids[:length])
        ys.append([t if f else IGNORE for t, f in zip(ids[1 : length + 1], learned[1 : length + 1])])
    return torch.tensor(xs), torch.tensor(ys)


def heldout(tok, seed, count=200):
    """Plain stories from a stream of their own, as (texts, ids)."""
    rng = random.Random(f"held out {seed}")
    docs = [document(rng, pair_share=0.0) for _ in range(count)]
    return [d[1][0] for d in docs], [encode_document(tok, d)[0] for d in docs]
