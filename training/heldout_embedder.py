"""Writes what the engine's test of the embedder reads: held-out texts, and vectors and scores of a few.

    python -m training.heldout_embedder --gguf crates/gristmill/bundled/tales-embed.gguf \\
        --to crates/gristmill/tests/data/tales-embed.json

Vectors and scores are PyTorch's, of the weights that the file's blocks stand for.
"""

import argparse
import json
import os

import torch

from .export_embedder import load_gguf
from .judge_embedder import pool, ranking_cluster, scores, vectors

FIRST = 5000  # seeds from here on were not looked at before training had ended
_CLUSTERS = 10


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--gguf", required=True)
    a.add_argument("--to", required=True)
    args = a.parse_args()
    torch.set_num_threads(1)
    model, tok = load_gguf(args.gguf)
    pairs, near = pool(FIRST, 1), pool(FIRST)
    ranking = [dict(zip(("queries", "answers", "passages"), ranking_cluster(FIRST + i))) for i in range(_CLUSTERS)]
    texts = [pairs[0][0], pairs[13][1], "A single line.", "Caf\u00e9 \u4e2d 42: what's this?", " ".join(p[0] for p in pairs[:3])]
    some = ranking[0]
    passages = some["passages"][:6]
    rounded = lambda values: [float(f"{v:.8g}") for v in values]
    reference = {"texts": texts, "vectors": [rounded(v) for v in vectors(model, tok, texts).tolist()],
                 "query": some["queries"][0], "passages": passages,
                 "scores": rounded(scores(model, tok, some["queries"][0], passages).tolist())}
    held = {"texts": [p[0] for p in pairs], "paraphrases": [p[1] for p in pairs],
            "near": {"texts": [p[0] for p in near], "paraphrases": [p[1] for p in near]}, "ranking": ranking, "reference": reference}
    os.makedirs(os.path.dirname(args.to), exist_ok=True)
    with open(args.to, "w") as f:
        json.dump(held, f, indent=0, separators=(",", ":"))
        f.write("\n")
    print(f"{args.to}: {os.path.getsize(args.to):,} bytes")


if __name__ == "__main__":
    main()
