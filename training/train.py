"""Trains one of the models of kinds.py, in one run or in phases that follow one another.

    python -m training.train --steps 1500
    python -m training.train --resume --steps 2500 --length 256 --single --slot-weight 4
    python -m training.train --kind tales-rwkv --steps 1500 --length 256 --single
    python -m training.train --kind tales-diffusion --init training/out/checkpoint.pt --steps 1500
    python -m training.train --kind tales-denoiser --init training/out/checkpoint.pt --rows 64 --steps 2500

Same phases, seed, batch, thread count, machine and torch: same model.
"""

import argparse
import json
import math
import os
import time

import torch
from tokenizers import Tokenizer

from . import diffusion
from .kinds import KINDS, OUT
from .muon import Muon
from .tokens import train_tokenizer


def arguments():
    a = argparse.ArgumentParser()
    a.add_argument("--kind", choices=KINDS, default="stories")
    a.add_argument("--init", help="tales-diffusion, tales-denoiser: the checkpoint of a story model to start from")
    a.add_argument("--steps", type=int, default=1500, help="the step at which this phase ends")
    a.add_argument("--decay-from", type=int, default=None,
                   help="step from which the learning rate falls (default: after the warm-up)")
    a.add_argument("--rows", type=int, default=8, help="windows in a batch")
    a.add_argument("--length", type=int, default=512, help="tokens in a window (tales-diffusion draws its own)")
    a.add_argument("--single", action="store_true", help="one document to a window")
    a.add_argument("--slot-weight", type=float, default=1.0,
                   help="weight in the loss of what follows from the story so far (names said again, pronouns)")
    a.add_argument("--blocks", choices=("both", "open", "causal"), default="both",
                   help="tales-diffusion: what masks see; both: in turns")
    a.add_argument("--causal-blocks", type=int, nargs="+", default=diffusion.CAUSAL_BLOCKS, help="lengths drawn from")
    a.add_argument("--copies", type=int, default=1, help="masked copies of a canvas in causal blocks")
    a.add_argument("--caution", type=float, default=1.0, help="see diffusion.loss_of")
    a.add_argument("--only-mask", action="store_true", help="tales-diffusion: learn the mask's embedding, nothing else")
    a.add_argument("--open-blocks", type=int, nargs="+", default=diffusion.OPEN_BLOCKS, help="lengths drawn from")
    a.add_argument("--anywhere", type=float, default=0.5, help="share of open canvases with masks in any place")
    a.add_argument("--seed", type=int, default=7)
    a.add_argument("--lr", type=float, default=0.005, help="of AdamW; Muon's is --muon-lr")
    a.add_argument("--muon-lr", type=float, default=0.004)
    a.add_argument("--warmup", type=int, default=40)
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--stop-after", type=int, default=0, help="leave after this many steps (to measure)")
    a.add_argument("--out", help="default: training/out, or a folder in it named after the kind")
    a.add_argument("--resume", action="store_true", help="begin where the checkpoint left off")
    a.add_argument("--eager", action="store_true", help="without torch.compile (slower; needs no C++ compiler)")
    return a.parse_args()


def schedule(since, step, decay):
    """Warm-up, a plateau, and from decay[0] to decay[1] a cosine down to one fiftieth."""
    rate = min(1.0, (since + 1) / decay[2])
    if step < decay[0]:
        return rate
    return rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - decay[0]) / max(1, decay[1] - decay[0]))))


def main():
    args = arguments()
    kind = KINDS[args.kind]
    args.out = args.out or kind.out
    os.makedirs(args.out, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(args.seed)

    path = os.path.join(OUT, "tokenizer.json")
    if not os.path.exists(path):
        train_tokenizer(args.seed).save(path)
    tok = Tokenizer.from_file(path)
    held = kind.heldout(tok, args.seed)

    model = kind.new_model()
    if args.init:
        kind.start(model, torch.load(args.init)["model"], tok)
    edges = ("embd", "latent", "guess")
    hidden = {n: p for n, p in model.named_parameters() if p.dim() == 2 and not any(e in n for e in edges)}
    # Queries and keys go slower: their product sets how sharp attention is, and at full speed
    # it saturates within a few hundred steps, after which no head learns to look a name up.
    sharp = [p for n, p in hidden.items() if "attn_q" in n or "attn_k" in n]
    matrices = [p for n, p in hidden.items() if not ("attn_q" in n or "attn_k" in n)]
    others = [p for n, p in model.named_parameters() if n not in hidden and p.requires_grad]
    optimizers = [Muon(group, lr=args.muon_lr, weight_decay=0.05) for group in (matrices, sharp) if group]
    optimizers.append(torch.optim.AdamW(others, lr=args.lr, betas=(0.9, 0.95), weight_decay=0.0))
    bases = [args.muon_lr, args.muon_lr / 2][: len(optimizers) - 1] + [args.lr]
    if args.only_mask:
        table = model.token_embd.weight
        for p in model.parameters():
            p.requires_grad_(p is table)
        table.register_hook(lambda grad: torch.cat((torch.zeros_like(grad[:-1]), grad[-1:])))
        optimizers, bases = [torch.optim.AdamW([table], lr=args.lr, betas=(0.9, 0.95), weight_decay=0.0)], [args.lr]
    step_loss = kind.loss if args.eager else torch.compile(kind.loss, dynamic=False)
    print(f"{model.parameter_count()} parameters", flush=True)

    step, log, phases, tokens, began = 0, [], [], 0, time.time()
    saved = os.path.join(args.out, "checkpoint.pt")
    if args.resume and os.path.exists(saved):
        state = torch.load(saved)
        model.load_state_dict(state["model"])
        if len(optimizers) == len(state["optimizers"]):  # else the phase before learned the mask alone
            for o, s in zip(optimizers, state["optimizers"]):
                o.load_state_dict(s)
        step, log, phases, tokens = state["step"], state["log"], state["phases"], state["tokens"]
    first, last_tokens = step, tokens
    decay = [args.warmup + first if args.decay_from is None else args.decay_from, args.steps, args.warmup]
    phases = phases + [{"from": first, "to": step, "args": vars(args)}]
    plan = os.path.join(args.out, "decay")  # "STEPS" written here while training: decay from now to that step

    def save():
        phases[-1].update(to=step, decay=decay[:2])
        torch.save({"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers],
                    "step": step, "log": log, "phases": phases, "tokens": tokens,
                    "kind": kind.name, "config": model.cfg.dict(), "args": vars(args)}, saved + ".new")
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
        fed = kind.batch(tok, args.seed, step, args)
        loss, plain = step_loss(model, *fed)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o, base in zip(optimizers, bases):
            for group in o.param_groups:
                group["lr"] = base * schedule(step - first, step, decay)
            o.step()
        model.zero_grad(set_to_none=True)
        step += 1
        tokens += fed.inputs.numel()
        log.append([step, round(plain.item(), 4)])
        if step % 10 == 0 or step == first + 1:
            speed = (tokens - last_tokens) / (time.time() - began)
            mean = sum(l for _, l in log[-10:]) / len(log[-10:])
            print(f"step {step} loss {mean:.4f} weighted {loss.item():.4f} {speed:.0f} tokens/s", flush=True)
            last_tokens, began = tokens, time.time()
        if time.time() - last_save > 120:
            save()
            last_save = time.time()
        if args.stop_after and step >= first + args.stop_after:
            return
    save()
    final = kind.judge(model, held)
    print(f"done: {step} steps, {tokens} tokens, "
          f"held-out {kind.measure} {final:.4f}", flush=True)


if __name__ == "__main__":
    main()
