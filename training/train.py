"""Trains the story model, in one run or in phases that follow one another.

    python -m training.train --steps 1500
    python -m training.train --resume --steps 2500 --length 256 --single --slot-weight 4

Same phases, seed, batch, thread count, machine and torch: same model.
"""

import argparse
import json
import math
import os
import time

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from .data import batch, heldout
from .model import Config, Llama
from .muon import Muon
from .tokens import train_tokenizer

OUT = os.path.join(os.path.dirname(__file__), "out")


def arguments():
    a = argparse.ArgumentParser()
    a.add_argument("--steps", type=int, default=1500, help="the step at which this phase ends")
    a.add_argument("--decay-from", type=int, default=None,
                   help="step from which the learning rate falls (default: after the warm-up)")
    a.add_argument("--rows", type=int, default=8, help="windows in a batch")
    a.add_argument("--length", type=int, default=512, help="tokens in a window")
    a.add_argument("--single", action="store_true", help="one document to a window")
    a.add_argument("--slot-weight", type=float, default=1.0,
                   help="weight in the loss of what follows from the story so far (names said again, pronouns)")
    a.add_argument("--seed", type=int, default=7)
    a.add_argument("--lr", type=float, default=0.005, help="of AdamW; Muon's is --muon-lr")
    a.add_argument("--muon-lr", type=float, default=0.004)
    a.add_argument("--warmup", type=int, default=40)
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--stop-after", type=int, default=0, help="leave after this many steps (to measure)")
    a.add_argument("--out", default=OUT)
    a.add_argument("--resume", action="store_true", help="begin where the checkpoint left off")
    a.add_argument("--eager", action="store_true", help="without torch.compile (slower; needs no C++ compiler)")
    return a.parse_args()


def schedule(since, step, decay):
    """Warm-up, a plateau, and from decay[0] to decay[1] a cosine down to one fiftieth."""
    rate = min(1.0, (since + 1) / decay[2])
    if step < decay[0]:
        return rate
    return rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - decay[0]) / max(1, decay[1] - decay[0]))))


def loss_of(model, x, y, weights, spread_at, spread_ids, spread):
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
    hidden = {n: p for n, p in model.named_parameters() if p.dim() == 2 and "embd" not in n}
    # Queries and keys go slower: their product sets how sharp attention is, and at full speed
    # it saturates within a few hundred steps, after which no head learns to look a name up.
    sharp = [p for n, p in hidden.items() if "attn_q" in n or "attn_k" in n]
    matrices = [p for n, p in hidden.items() if not ("attn_q" in n or "attn_k" in n)]
    others = [p for n, p in model.named_parameters() if p.dim() != 2 or "embd" in n]
    optimizers = [Muon(matrices, lr=args.muon_lr, weight_decay=0.05),
                  Muon(sharp, lr=args.muon_lr / 2, weight_decay=0.05),
                  torch.optim.AdamW(others, lr=args.lr, betas=(0.9, 0.95), weight_decay=0.0)]
    bases = [args.muon_lr, args.muon_lr / 2, args.lr]
    step_loss = loss_of if args.eager else torch.compile(loss_of)
    print(f"{model.parameter_count()} parameters", flush=True)

    step, log, phases, tokens, began = 0, [], [], 0, time.time()
    saved = os.path.join(args.out, "checkpoint.pt")
    if args.resume and os.path.exists(saved):
        state = torch.load(saved)
        model.load_state_dict(state["model"])
        for o, s in zip(optimizers, state["optimizers"]):
            o.load_state_dict(s)
        step, log, phases, tokens = state["step"], state["log"], state["phases"], state["tokens"]
    first = last_log = step
    decay = [args.warmup + first if args.decay_from is None else args.decay_from, args.steps, args.warmup]
    phases = phases + [{"from": first, "to": step, "args": vars(args)}]
    plan = os.path.join(args.out, "decay")  # "STEPS" written here while training: decay from now to that step

    def save():
        phases[-1].update(to=step, decay=decay[:2])
        torch.save({"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers],
                    "step": step, "log": log, "phases": phases, "tokens": tokens,
                    "config": model.cfg.dict(), "args": vars(args)}, saved + ".new")
        os.replace(saved + ".new", saved)
        with open(os.path.join(args.out, "log.json"), "w") as f:
            json.dump(log, f)

    last_save = time.time()
    while step < decay[1]:
        if os.path.exists(plan):
            with open(plan) as f:
                decay[:2] = [step, int(f.read())]
            os.remove(plan)
            print(f"decay from {decay[0]} to {decay[1]}", flush=True)
        loss, plain = step_loss(model, *batch(tok, args.seed, step, args.rows, args.length, args.slot_weight, args.single))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o, base in zip(optimizers, bases):
            for group in o.param_groups:
                group["lr"] = base * schedule(step - first, step, decay)
            o.step()
        model.zero_grad(set_to_none=True)
        step += 1
        tokens += args.rows * args.length
        log.append([step, round(plain.item(), 4)])
        if step % 10 == 0 or step == first + 1:
            speed = (step - last_log) * args.rows * args.length / (time.time() - began)
            mean = sum(l for _, l in log[-10:]) / len(log[-10:])
            print(f"step {step} loss {mean:.4f} weighted {loss.item():.4f} {speed:.0f} tokens/s", flush=True)
            last_log, began = step, time.time()
        if time.time() - last_save > 120:
            save()
            last_save = time.time()
        if args.stop_after and step >= first + args.stop_after:
            return
    save()
    final = heldout_loss(model, held)
    print(f"done: {step} steps, {tokens} tokens, "
          f"held-out loss {final:.4f}, perplexity {math.exp(final):.4f}", flush=True)


if __name__ == "__main__":
    main()
