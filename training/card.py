"""Rewrites CARD.md from the checkpoint, its log, and what the checks print.

    python -m training.card              # quantization rows that are filled stay as they are
"""

import json
import math
import os
import random
import re

from . import check, grammar, plots_a, plots_b, sample, shared_beats, world
from .data import heldout
from .requests import document
from .story import PLOTS, write_story
from .train import OUT, heldout_loss

CARD = os.path.join(os.path.dirname(__file__), "CARD.md")
BEGIN, FINISH = "<!-- quantizations: begin -->", "<!-- quantizations: end -->"
_EMPTY = f"""{BEGIN}
| weights | file size | held-out perplexity |
| --- | --- | --- |
| f32 | {{size}} | {{ppl}} |
| f16 | | |
| q8_0 | | |
| q4_k | | |
{FINISH}"""


def rates(model, tok, count=200):
    rows = []
    for label, temperature, top_p in [("temperature 0.8", 0.8, 1.0), ("temperature 1.0, top-p 0.95", 1.0, 0.95),
                                      ("temperature 1.0", 1.0, 1.0)]:
        texts = sample.sample(model, tok, sample.prompt_ids(tok), count, temperature, top_p, seed=1)
        good = sum(grammar.parse(t.strip()).ok for t in texts)
        rows.append(f"| {label} | {good} of {count} | {len(set(texts))} |")
    return "\n".join(rows)


def phases(history):
    """One row for each stretch of training; a run that went on from a checkpoint has several."""
    return "\n".join(
        f"| {p['from'] + 1} to {p['to']} | {p['args']['rows']} x {p['args']['length']}"
        f"{', one document each' if p['args']['single'] else ''} | {p['args']['muon_lr']} | {p['args']['lr']} "
        f"| {p['args']['warmup']} steps | {'none' if p['decay'][0] >= p['to'] else 'from step {} to {}'.format(*p['decay'])} "
        f"| {p['args']['slot_weight']:g} |" for p in history if p["to"] > p["from"])


def curve(log):
    """Training loss, each figure the mean of the twenty steps up to it."""
    last = log[-1][0]
    marks = sorted({m for m in (20, 50, 100, 200, 300, 400, 500, 750, 1000, 1250, 1500, 2000) if m < last} | {last})
    mean = lambda m: sum(l for s, l in log if m - 20 < s <= m) / min(20, m)
    return "\n".join(f"| {m} | {mean(m):.4f} |" for m in marks)


def main():
    model, tok, state = sample.load(os.path.join(OUT, "checkpoint.pt"), os.path.join(OUT, "tokenizer.json"))
    args, cfg = state["args"], model.cfg
    _, held = heldout(tok, args["seed"])
    loss = heldout_loss(model, held)
    held_tokens = sum(len(i) - 1 for i in held)
    rng = random.Random("card")
    lengths = [len(write_story(rng)[0].split()) for _ in range(2000)]
    templates = sum(len(t) for p in PLOTS for b, t in p.beats.items() if b not in shared_beats.BEATS)
    templates += sum(len(t.strip().split("\n")) for t in shared_beats.BEATS.values())
    templates += sum(len(p["beats"]["moral"].strip().split("\n")) for p in plots_a.PLOTS + plots_b.PLOTS)
    gguf = os.path.join(OUT, "model-f32.gguf")
    size = f"{os.path.getsize(gguf) / 1e6:.1f} MB" if os.path.exists(gguf) else ""
    table = _EMPTY.format(size=size, ppl=f"{math.exp(loss):.4f}")
    if os.path.exists(CARD):
        old = re.search(re.escape(BEGIN) + ".*?" + re.escape(FINISH), open(CARD).read(), re.S)
        if old and re.search(r"\| q\w+ \| *\S[^|]*\|", old.group()):
            table = old.group()
    with open(os.path.join(os.path.dirname(__file__), "card.template.md")) as f:
        text = f.read()
    values = {
        "parameters": f"{model.parameter_count():,}", "layers": cfg.layers, "dim": cfg.dim, "heads": cfg.heads,
        "kv_heads": cfg.kv_heads, "head_dim": cfg.head_dim, "ffn": cfg.ffn, "context": cfg.context, "vocab": cfg.vocab,
        "steps": state["step"], "seed": args["seed"], "tokens": f"{state['tokens']:,}", "phases": phases(state["phases"]),
        "plots": len(PLOTS),
        "templates": templates, "names": len(world.ALL_NAMES), "animals": len(world.ANIMALS),
        "objects": len(world.OBJECTS), "places": len(world.PLACES), "shortest": min(lengths), "longest": max(lengths),
        "mean": sum(lengths) // len(lengths), "curve": curve(state["log"]), "rates": rates(model, tok),
        "heldout_loss": f"{loss:.4f}", "heldout_ppl": f"{math.exp(loss):.4f}", "heldout_tokens": f"{held_tokens:,}",
        "entropy": f"{generator_loss(args['seed'], held):.4f}", "quantizations": table,
        "requests": request_rate(model, tok),
    }
    for key, value in values.items():
        text = text.replace("{{" + key + "}}", str(value))
    with open(CARD, "w") as f:
        f.write(text)


class _Counting(random.Random):
    """Adds up what each choice it makes is worth in nats."""

    nats = 0.0

    def choice(self, options):
        self.nats += math.log(len(options))
        return super().choice(options)


def generator_loss(seed, held):
    """The loss of a model that knew the generator exactly: the nats it spent, per token of the held-out text.

    A hair too high: a wording that two choices lead to is counted as two.
    """
    rng = _Counting(f"held out {seed}")
    for _ in held:
        document(rng, pair_share=0.0)
    optional = -(0.7 * math.log(0.7) + 0.3 * math.log(0.3))  # the one optional beat of each plot
    return (rng.nats + optional * len(held)) / sum(len(i) - 1 for i in held)


def request_rate(model, tok, count=100):
    """(parsing, wished-for things present, wished-for things) over fresh requests, one story each."""
    wishes = check.wishes(count, seed=2)
    good = met = asked = 0
    for i, wish in enumerate(wishes):
        text = sample.sample(model, tok, sample.prompt_ids(tok, wish), 1, seed=i)[0].strip()
        good += grammar.parse(text).ok
        words = check.wished_for(wish)
        asked, met = asked + len(words), met + sum(w in text for w in words)
    return f"{good} of {count} stories parse, and {met} of the {asked} names, animals, objects and places asked for are in them"


if __name__ == "__main__":
    main()
