"""Measures the embedder's file and writes its card.

    python -m training.card_embedder --gguf crates/gristmill/bundled/tales-embed.gguf
"""

import argparse
import os
from functools import partial

import torch

from .export_embedder import load, load_gguf
from .heldout_embedder import FIRST
from .judge_embedder import counts, first_of_pool, mean_reciprocal_rank, scores, shared, vectors

CARD = os.path.join(os.path.dirname(__file__), "cards", "tales-embed.md")
_TEXT = """# tales-embed

A sentence embedder with a reranker head, for tests and first tries of `gristmill embed` and `gristmill
rerank`. It knows the words of the story generator in `training/` and no others. This page is written by
`python -m training.card_embedder`.

| | |
| --- | --- |
| architecture | BERT: {layers} layers, width {dim}, {heads} heads, feed-forward {ffn}, {context} positions |
| parameters | {parameters:,} |
| file | {size:,} bytes: matrices in Q8_0, the rest in f32 |
| vocabulary | WordPiece, lower-cased, {vocab} pieces, trained on the same text |
| vectors | mean over all tokens, length one |
| scores | `[CLS] query [SEP] passage [SEP]` with token types; the state of `[CLS]`, a layer with tanh, a projection; above zero for a passage that answers |
| licence | MIT or Apache-2.0 |

## Measured

With the file's weights, in PyTorch, on facts whose hero and place never meet in training:

| | | nothing learned: counts of words, or words shared |
| --- | --- | --- |
| the paraphrase is the nearest of 100, all of other stories | {first} | {words_first} |
| the paraphrase is the nearest of 100, nine of which differ in one thing | {near} | {words_near} |
| mean reciprocal rank of the passage that answers, of 20, over {asked} queries | {mrr:.4f} | {words_mrr:.4f} |

A paraphrase is a run of a story's sentences, each told by another template of the same table, with the
same values. Candidates that differ in one thing are told by the same plot's same beats and have another
hero, object, place or the like. A query is a request or a question; of its 20 passages most share a value
with it, its plot or both. The first pool of each kind and ten clusters of passages are what
`crates/gristmill/tests/bundled.rs` runs through the engine. Nothing of all these was looked at before training
had ended; while it went on others were, drawn in the same way, and they decided nothing.

## Trained

By `python -m training.train_embedder` with {arguments}: first the words alone, then everything, embedder
and reranker in each of {steps} steps. Losses: cross-entropy of the paraphrase among the batch (cosines
times 80), cross-entropy of the answer among four passages and half of the logistic loss of each.

| step | embedder | reranker |
| --- | --- | --- |
{curve}

Not made for: any text that is not of these stories.
"""


def curve(log):
    last = log[-1][0]
    marks = sorted({m for m in (20, 50, 100, 200, 300, 400, 500, 750, 1000, 1500, 2000) if m < last} | {last})
    rows = []
    for m in marks:
        near = [row for row in log if m - 20 < row[0] <= m]
        rows.append(f"| {m} | " + " | ".join(f"{sum(r[i] for r in near) / len(near):.4f}" for i in (1, 2)) + " |")
    return "\n".join(rows)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--gguf", required=True)
    a.add_argument("--pools", type=int, default=3)
    a.add_argument("--clusters", type=int, default=24)
    args = a.parse_args()
    torch.set_num_threads(1)
    model, tok = load_gguf(args.gguf)
    state = load()[2]
    arguments = ", ".join(f"{k} {v}" for k, v in state["args"].items() if k not in ("out", "resume", "threads"))
    text = _TEXT.format(
        **model.cfg.dict(), parameters=model.parameter_count(), size=os.path.getsize(args.gguf),
        first=first_of_pool(partial(vectors, model, tok), args.pools, FIRST, 1),
        words_first=first_of_pool(partial(counts, tok), args.pools, FIRST, 1),
        near=first_of_pool(partial(vectors, model, tok), args.pools, FIRST),
        words_near=first_of_pool(partial(counts, tok), args.pools, FIRST),
        mrr=mean_reciprocal_rank(partial(scores, model, tok), args.clusters, FIRST),
        words_mrr=mean_reciprocal_rank(partial(shared, tok), args.clusters, FIRST),
        asked=5 * args.clusters, arguments=arguments, steps=state["step"], curve=curve(state["log"]))
    os.makedirs(os.path.dirname(CARD), exist_ok=True)
    with open(CARD, "w") as f:
        f.write(text)
    print(text)


if __name__ == "__main__":
    main()
