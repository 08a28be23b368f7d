"""Trains the sentence embedder and its reranker head.

The words alone come first, as the mean of their vectors: that is quick, and most of what tells
stories apart. Then everything, embedder and reranker in every step.

    python -m training.train_embedder      # --resume goes on from the checkpoint

Same arguments, machine and torch version: same model.
"""

import argparse
import json
import math
import os
import random
import shutil
import time
from functools import partial

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from .embedder import Batch, Bert, Config, train_tokenizer
from .judge_embedder import first_of_pool, mean_reciprocal_rank, scores, vectors
from .muon import Muon
from .paraphrases import cluster
from .queries import example
from .requests import document

OUT = os.path.join(os.path.dirname(__file__), "out", "embedder")
_BEATS = [2, 3, 4, 2, 3, 4, 5, 6, 13]  # of a text, each as likely; 13 is a whole story
_TOKENS_A_BEAT, _QUERY = 17, 15
SCALE = 80.0  # of cosines, in the loss


def texts_for_vocabulary(seed, count=4000):
    rng = random.Random(f"embedder vocabulary {seed}")
    for _ in range(count):
        yield from (t for t, _ in document(rng)[1:])
        yield example(rng, 2, 1)[0]


def examples(rng, tokens, easy=False):
    """(pairs of tellings, (query, passages) four to each), about so many tokens of each, all texts of one length."""
    beats = rng.choice(_BEATS[:3] if easy else _BEATS)
    clusters = max(2, round(tokens[0] / (8 * beats * _TOKENS_A_BEAT)))
    queries = max(2, round(tokens[1] / (4 * (_QUERY + beats * _TOKENS_A_BEAT)))) if tokens[1] else 0
    pairs = [p for _ in range(clusters) for p in cluster(rng, beats, 4, False)]
    return pairs, [example(rng, beats, 4, 0.2 if easy else 0.6) for _ in range(queries)]


def contrast_of(model, tok, pairs, words=False):
    z = model.vectors(Batch(tok, [t for p in pairs for t in p], model.cfg.context), words)
    near = (SCALE * z @ z.T).fill_diagonal_(float("-inf"))
    return F.cross_entropy(near, torch.arange(len(z)) ^ 1)  # the other telling, among all others


def ranking_of(model, tok, asked):
    batch = Batch(tok, [(q, p) for q, passages in asked for p in passages], model.cfg.context)
    scores = model.scores(batch).view(len(asked), -1)
    first = torch.zeros(len(asked), dtype=torch.long)
    truth = F.one_hot(first, scores.shape[1]).float()
    return F.cross_entropy(scores, first) + 0.5 * F.binary_cross_entropy_with_logits(scores, truth)


def schedule(step, steps, warmup):
    """Warm-up, a plateau, and over the last two fifths a cosine down to one fiftieth."""
    fall = max(0.0, (step - 0.6 * steps) / (0.4 * steps))
    return min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * fall)))


def learn_words(model, tok, args, tell):
    """Vectors of words whose means are near for the same story and far for another."""
    optimizer = torch.optim.AdamW([*model.token_embd.parameters(), *model.token_embd_norm.parameters()], lr=4 * args.lr,
                                  betas=(0.9, 0.98), weight_decay=0.0)
    total = 0.0
    for step in range(args.word_steps):
        rng = random.Random(f"embedder words {args.seed} {step}")
        loss = contrast_of(model, tok, examples(rng, (5000, 0))[0], words=True)
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 4 * args.lr * schedule(step, args.word_steps, args.warmup)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        total += loss.item()
        if (step + 1) % 50 == 0:
            tell(f"words {step + 1} contrast {total / 50:.4f}")
            total = 0.0


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--word-steps", type=int, default=400, help="of the words alone")
    a.add_argument("--steps", type=int, default=3000, help="of everything")
    a.add_argument("--tokens", type=int, nargs=2, default=[2600, 1200], help="of embedder and reranker in a step, about")
    a.add_argument("--seed", type=int, default=7)
    a.add_argument("--lr", type=float, default=0.001, help="of AdamW; Muon's is --muon-lr")
    a.add_argument("--muon-lr", type=float, default=0.003)
    a.add_argument("--warmup", type=int, default=15)
    a.add_argument("--threads", type=int, default=1)
    a.add_argument("--out", default=OUT)
    a.add_argument("--resume", action="store_true")
    args = a.parse_args()
    os.makedirs(args.out, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)

    path = os.path.join(args.out, "tokenizer.json")
    if not os.path.exists(path):
        train_tokenizer(texts_for_vocabulary(args.seed), Config().vocab).save(path)
    tok = Tokenizer.from_file(path)
    model = Bert(Config(vocab=tok.get_vocab_size()))
    hidden = {n: p for n, p in model.named_parameters() if n.startswith("blk") and p.dim() == 2}
    # What a token looks at was set by hand, and is to stay about so.
    sharp = [p for n, p in hidden.items() if "attn_q" in n or "attn_k" in n]
    matrices = [p for n, p in hidden.items() if not ("attn_q" in n or "attn_k" in n)]
    others = [p for n, p in model.named_parameters() if not (n.startswith("blk") and p.dim() == 2)]
    optimizers = [Muon(matrices, lr=args.muon_lr, weight_decay=0.02), Muon(sharp, lr=args.muon_lr / 4, weight_decay=0.0),
                  torch.optim.AdamW(others, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.0)]
    bases = [args.muon_lr, args.muon_lr / 4, args.lr]
    print(f"{model.parameter_count()} parameters, {tok.get_vocab_size()} tokens", flush=True)

    def tell(line):
        """Prints and keeps a line of measurements."""
        print(f"{line} ({time.process_time():.0f} s)", flush=True)

    step, log, saved = 0, [], os.path.join(args.out, "checkpoint.pt")
    if args.resume and os.path.exists(saved):
        state = torch.load(saved)
        model.load_state_dict(state["model"])
        for o, s in zip(optimizers, state["optimizers"]):
            o.load_state_dict(s)
        step, log = state["step"], state["log"]

    def save():
        torch.save({"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": step,
                    "log": log, "config": model.cfg.dict(), "args": vars(args)}, saved + ".new")
        os.replace(saved + ".new", saved)

    if step == 0:
        learn_words(model, tok, args, tell)
        model.tell_places()
        save()
        shutil.copy(saved, os.path.join(args.out, "words.pt"))
    last_save = time.time()
    while step < args.steps:
        # Short ones first, of other plots: they show sooner what is to be compared.
        rng = random.Random(f"embedder {args.seed} {step}")
        pairs, asked = examples(rng, args.tokens, step < 120)
        contrast, ranking = contrast_of(model, tok, pairs), ranking_of(model, tok, asked)
        (contrast + ranking).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o, base in zip(optimizers, bases):
            for group in o.param_groups:
                group["lr"] = base * schedule(step, args.steps, args.warmup)
            o.step()
        model.zero_grad(set_to_none=True)
        step += 1
        log.append([step, round(contrast.item(), 4), round(ranking.item(), 4)])
        if step % 10 == 0:
            means = [sum(l[i] for l in log[-10:]) / len(log[-10:]) for i in (1, 2)]
            tell(f"step {step} contrast {means[0]:.4f} ranking {means[1]:.4f}")
        if step % 250 == 0:
            tell(f"held out: first {first_of_pool(partial(vectors, model, tok), 3)}, "
                 f"MRR {mean_reciprocal_rank(partial(scores, model, tok), 10):.4f}")
        if time.time() - last_save > 120:
            save()
            last_save = time.time()
    save()
    with open(os.path.join(args.out, "log.json"), "w") as f:
        json.dump(log, f)


if __name__ == "__main__":
    main()
