"""Batches: windows filled with whole documents, each window opening on <|bos|>.

Every token has a weight in the loss. Requests and markers weigh nothing: they
are read, not learned. What follows from the story so far (a name said again, a
pronoun) can weigh more than the rest, which is wording and rolls of the dice:
that is where consistency is learned.

Where the story rolled the dice over a variable, the generator knows how likely
every other value was, and the target is that distribution instead of the one
value drawn. What must not be said (a friend of the hero's own kind, a spot of
another place) is then part of every target, where the draw alone would show it
only as one value among many that never comes up.
"""

import collections
import functools
import random

import torch

from .requests import document

_WIDEST = 40  # values that a variable may have: names are the most

_OPEN, _CLOSE, _CHOICE = "\x01", "\x02", "\x03"  # never in a story

Batch = collections.namedtuple("Batch", "inputs targets weights spread_at spread_ids spread")


class Marker:
    """The mark of template.write: brackets by what follows, and the choices kept in the order of the text."""

    def __init__(self):
        self.choices = []

    def __call__(self, text, follows, choices):
        if choices:
            self.choices.append((text, tuple(choices)))
            text = _CHOICE + text
        return _OPEN * follows + text + _CLOSE * follows


def encode_document(tok, doc, choices=(), slot_weight=1.0):
    """(ids, weights, spreads) of one document, marked or not.

    A weight is slot_weight to the power of how many brackets enclose the token. `spreads` maps the
    position of a token to {token: probability}: what might have stood there, of the values of `choices`.
    Only in a story told unasked: a request gives away how the dice will fall.
    """
    ids, weights, spreads, choices = [], [], {}, iter(choices)
    unasked = len(doc) == 2  # <|bos|> and a story
    for marked, target in doc:
        text, depth, starts = _unmark(marked)
        encoded = tok.encode(text)
        for start in starts if unasked else ():
            value, values = next(choices)
            lead = " " if text[start - 1 : start] == " " else ""
            first = next(i for i, (_, end) in enumerate(encoded.offsets) if end > start)
            for i, spread in enumerate(_spread(tok, lead, value, values)):
                if max(spread.values()) < 1.0 and encoded.ids[first + i] in spread:
                    spreads[len(ids) + first + i] = spread
        ids += encoded.ids
        for start, end in encoded.offsets:
            weights.append(slot_weight ** max(depth[start:end], default=0) if target else 0.0)
    return ids, weights, spreads


@functools.lru_cache(maxsize=1 << 16)
def _spread(tok, lead, value, values):
    """For each token of the value, how likely every token was there, given the value's tokens before it."""
    encoded = [_encode(tok, lead + v) for v in values]
    said, out = _encode(tok, lead + value), []
    for i, token in enumerate(said):
        counts = collections.Counter(e[i] for e in encoded if e[:i] == said[:i] and len(e) > i)
        total = sum(counts.values())
        out.append({t: n / total for t, n in counts.items()})
    return out


@functools.lru_cache(maxsize=1 << 14)
def _encode(tok, text):
    return tuple(tok.encode(text).ids)


def _unmark(text):
    """The text without marks, how many pairs of brackets enclose each character, where choices begin."""
    out, depth, starts, now = [], [], [], 0
    for c in text:
        if c == _CHOICE:
            starts.append(len(out))
        elif c in (_OPEN, _CLOSE):
            now += 1 if c == _OPEN else -1
        else:
            out.append(c)
            depth.append(now)
    if now:
        raise ValueError("unbalanced marks")
    return "".join(out), depth, starts


def batch(tok, seed, step, rows, length, slot_weight=1.0, single=False):
    """The batch of one step, a function of its arguments alone, so that a run can be resumed.

    inputs, targets, weights: [rows, length]. spread_at: [n], positions in the flattened targets where
    the tokens spread_ids, [n, 40], with the probabilities spread, [n, 40], stand for the target; n is
    fixed by rows and length, and what nobody needs is zero. Text is without end here, so what crosses
    a window's end is simply cut. `single`: one document to a window, padded if need be.
    """
    rng = random.Random(f"train {seed} {step}")
    xs, ys, ws = [], [], []
    room = rows * length // 8
    at, tokens = torch.zeros(room, dtype=torch.long), torch.zeros(room, _WIDEST, dtype=torch.long)
    spread = torch.zeros(room, _WIDEST)
    used = 0
    for row in range(rows):
        ids, weights = [], []
        while len(ids) <= length:
            if single and ids:
                more, flags, spreads = [0] * (length + 1), [0.0] * (length + 1), {}
            else:
                marker = Marker()
                doc = document(rng, mark=marker)
                more, flags, spreads = encode_document(tok, doc, marker.choices, slot_weight)
            for position, likely in spreads.items():
                position += len(ids) - 1
                if position < length and used < room:
                    at[used] = row * length + position
                    tokens[used, : len(likely)] = torch.tensor(list(likely))
                    spread[used, : len(likely)] = torch.tensor(list(likely.values()))
                    used += 1
            ids += more
            weights += flags
        xs.append(ids[:length])
        ys.append(ids[1 : length + 1])
        ws.append(weights[1 : length + 1])
    return Batch(torch.tensor(xs), torch.tensor(ys), torch.tensor(ws), at, tokens, spread)


def heldout(tok, seed, count=200):
    """Plain stories from a stream of their own, as (texts, ids)."""
    rng = random.Random(f"held out {seed}")
    docs = [document(rng, pair_share=0.0) for _ in range(count)]
    return [d[1][0] for d in docs], [encode_document(tok, d)[0] for d in docs]
