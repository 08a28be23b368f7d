"""Trains the story model. Same seed, steps, batch and thread count: same model.

    python -m training.train --steps 1500
"""

import argparse
import json
import math
import os
import time

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from .data import IGNORE, batch, heldout
from .model import Config, Llama
from .muon import Muon
from .tokens import train_tokenizer

OUT = os.path.join(os.path.dirname(__file__), "out")


def arguments():
    a = argparse.ArgumentParser()
    a.add_argument("--steps", type=int, default=1500)
    a.add_argument("--rows", type=int, default=8, help="windows of 512 tokens in a batch")
    a.add_argument("--seed", type=int, default=7)
    a.add_argument("--lr", type=float, default=0.012, help="of AdamW; Muon's is --muon-lr")
    a.add_argument("--muon-lr", type=float, default=0.015)
    a.add_argument("--warmup", type=int, default=40)
    a.add_argument("--retarget", default="", metavar="AT:STEPS",
                   help="from step AT on, let the schedule end at STEPS instead (a run cut to fit its time)")
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--stop-after", type=int, default=0, help="leave after this many steps (to measure)")
    a.add_argument("--out", default=OUT)
    a.add_argument("--resume", action="store_true")
    a.add_argument("--eager", action="store_true", help="without torch.compile (slower; needs no C++ compiler)")
    return a.parse_args()


def schedule(step, steps, warmup):
    """Warm-up, then a cosine down to one fiftieth."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def loss_of(model, x, y):
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten(), ignore_index=IGNORE)


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


def main():
    args = arguments()
    os.makedirs(args.out, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(args.seed)

    path = os.path.join(args.out, "tokenizer.json")
    if not os.path.exists(path):
        train_tokenizer(args.seed).save(path)
    tok = Tokenizer.from_file(path)
    _, held = heldout(tok, args.seed)

    model = Llama(Config())
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "embd" not in n]
    others = [p for n, p in model.named_parameters() if p.dim() != 2 or "embd" in n]
    optimizers = [Muon(matrices, lr=args.muon_lr, weight_decay=0.05),
                  torch.optim.AdamW(others, lr=args.lr, betas=(0.9, 0.95), weight_decay=0.0)]
    bases = [args.muon_lr, args.lr]
    step_loss = loss_of if args.eager else torch.compile(loss_of)
    print(f"{model.parameter_count()} parameters", flush=True)

    at, total = (int(n) for n in args.retarget.split(":")) if args.retarget else (args.steps, args.steps)
    step, log, began = 0, [], time.time()
    saved = os.path.join(args.out, "checkpoint.pt")
    if args.resume and os.path.exists(saved):
        state = torch.load(saved)
        model.load_state_dict(state["model"])
        for o, s in zip(optimizers, state["optimizers"]):
            o.load_state_dict(s)
        step, log = state["step"], state["log"]

    def save():
        torch.save({"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers],
                    "step": step, "log": log, "config": model.cfg.dict(), "args": vars(args)}, saved + ".new")
        os.replace(saved + ".new", saved)
        with open(os.path.join(args.out, "log.json"), "w") as f:
            json.dump(log, f)

    last_save, first = time.time(), step
    while step < total:
        x, y = batch(tok, args.seed, step, args.rows, model.cfg.context)
        loss = step_loss(model, x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o, base in zip(optimizers, bases):
            for group in o.param_groups:
                group["lr"] = base * schedule(step, args.steps if step < at else total, args.warmup)
            o.step()
        model.zero_grad(set_to_none=True)
        step += 1
        log.append([step, round(loss.item(), 4)])
        if step % 10 == 0 or step == 1:
            speed = (step - first) * x.numel() / (time.time() - began)
            print(f"step {step} loss {loss.item():.4f} {speed:.0f} tokens/s", flush=True)
        if step % 250 == 0:
            print(f"step {step} held-out loss {heldout_loss(model, held[:50]):.4f}", flush=True)
        if time.time() - last_save > 120:
            save()
            last_save = time.time()
        if args.stop_after and step >= args.stop_after:
            return
    save()
    final = heldout_loss(model, held)
    print(f"done: {step} steps, {step * args.rows * model.cfg.context} tokens, "
          f"held-out loss {final:.4f}, perplexity {math.exp(final):.4f}", flush=True)


if __name__ == "__main__":
    main()
