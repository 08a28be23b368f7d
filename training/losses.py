"""The loss of models that go on token by token, and their held-out loss."""

import torch
import torch.nn.functional as F


def next_token_loss(model, x, y, weights, spread_at, spread_ids, spread):
    """Weighted mean over the tokens, and the plain mean over those that count at all.

    Where a spread is known (see data.py) the first takes it as the target: cross-entropy with the
    generator's own distribution, less that distribution's entropy, which no model can lower.
    """
    told = model(x).flatten(0, 1).log_softmax(1)
    each = -told.gather(1, y.flatten()[:, None])[:, 0]
    weights = weights.flatten()
    known = (weights > 0).float()
    plain = ((each * known).sum() / known.sum()).detach()
    drawn = torch.zeros_like(weights).index_add(0, spread_at, spread.sum(1))
    apart = spread * (spread.clamp(min=1e-9).log() - told[spread_at[:, None], spread_ids])
    total = (each * weights * (1 - drawn)).sum() + (apart.sum(1) * weights[spread_at]).sum()
    return total / weights.sum(), plain


@torch.no_grad()
def heldout_loss(model, documents):
    """Mean negative log-likelihood per token over the documents, each alone from its <|bos|>."""
    total, count = 0.0, 0
    for ids in documents:
        ids = torch.tensor(ids[: model.cfg.context])
        logits = model(ids[None, :-1])[0]
        total += F.cross_entropy(logits, ids[1:], reduction="sum").item()
        count += len(ids) - 1
    return total / count
