"""What the embedder and its reranker head are measured on: facts that training never sees."""

import random

import torch
import torch.nn.functional as F

from .embedder import Batch
from .paraphrases import cluster
from .queries import heldout_cluster

_BEATS = [3, 4, 5, 6]  # of a text
_PASSAGES = [2, 3, 4]


def pool(seed, near=10):
    """100 pairs of tellings, in clusters of `near` that differ from the first in one value; 1: all of other facts.

    Of each pair the first is asked, the second found.
    """
    rng = random.Random(f"embedder held out {near} {seed}")
    return [pair for i in range(100 // near) for pair in cluster(rng, _BEATS[i % len(_BEATS)], near, True)]


def ranking_cluster(seed):
    """(5 queries, the index of the answer to each, 20 passages)."""
    rng = random.Random(f"reranker held out {seed}")
    return heldout_cluster(rng, _PASSAGES[seed % len(_PASSAGES)], 5, 20)


@torch.no_grad()
def vectors(model, tok, texts):
    return torch.cat([model.vectors(Batch(tok, texts[i : i + 50], model.cfg.context)) for i in range(0, len(texts), 50)])


@torch.no_grad()
def scores(model, tok, query, passages):
    return model.scores(Batch(tok, [(query, p) for p in passages], model.cfg.context))


def counts(tok, texts):
    """How often each piece of the vocabulary is in a text: what vectors are compared with."""
    rows = [torch.bincount(torch.tensor(tok.encode(t).ids), minlength=tok.get_vocab_size()) for t in texts]
    return F.normalize(torch.stack(rows).float(), dim=1)


def first_of_pool(vectors_of, pools, start=0, near=10):
    """How often the paraphrase is the nearest of 100: "97 of 100". vectors_of: texts to [texts, dim]."""
    first = count = 0
    for seed in range(start, start + pools):
        pairs = pool(seed, near)
        products = vectors_of([p[0] for p in pairs]) @ vectors_of([p[1] for p in pairs]).T
        first += int((products.argmax(1) == torch.arange(len(pairs))).sum())
        count += len(pairs)
    return f"{first} of {count}"


def shared(tok, query, passages):
    """How many of the query's pieces are in each passage: what scores are compared with."""
    asked = set(tok.encode(query).ids)
    return torch.tensor([len(asked & set(tok.encode(p).ids)) for p in passages])


def mean_reciprocal_rank(scores_of, clusters, start=0):
    """scores_of: (query, passages) to [passages]. Of equals the answer comes last."""
    total = count = 0
    for seed in range(start, start + clusters):
        queries, answers, passages = ranking_cluster(seed)
        for query, answer in zip(queries, answers):
            found = scores_of(query, passages)
            total += 1 / int((found >= found[answer]).sum())
            count += 1
    return total / count
