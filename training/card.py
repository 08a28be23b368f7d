"""Rewrites the card of a model from its checkpoint, its log, and what the checks print.

    python -m training.card                                     # the story model
    python -m training.card --kind tales-rwkv --binary target/release/gristmill

The table of `cargo xtask bundle` stays as it is; what is measured through the binary stays where no
binary is given.
"""

import argparse
import json
import math
import os
import random
import re
import subprocess

import torch

from . import check, denoiser, diffusion, grammar, plots_a, plots_b, rwkv, sample, shared_beats, world
from .data import heldout
from .kinds import KINDS
from .losses import heldout_loss
from .requests import document
from .story import PLOTS, write_story

HERE = os.path.dirname(__file__)
QUANTIZATIONS, RATES = "quantizations", "rates"


def kept(text, what, new):
    """What stands between two marks of the old card, or `new`, with its marks."""
    begin, finish = f"<!-- {what}: begin -->", f"<!-- {what}: end -->"
    old = re.search(re.escape(begin) + "\n(.*?)" + re.escape(finish), text, re.S)
    body = old.group(1).strip() if new is None and old else new or ""
    return f"{begin}\n{body}\n{finish}"


def parsing(texts):
    return sum(grammar.parse(t.strip()).ok for t in texts)


def rates(model, tok, count=200):
    rows = []
    for label, temperature, top_p in [("temperature 0.8", 0.8, 1.0), ("temperature 1.0, top-p 0.95", 1.0, 0.95),
                                      ("temperature 1.0", 1.0, 1.0)]:
        texts = sample.sample(model, tok, sample.prompt_ids(tok), count, temperature, top_p, seed=1)
        rows.append(f"| {label} | {parsing(texts)} of {count} | {len(set(texts))} |")
    return "\n".join(rows)


def run(binary, file, *args):
    """What `gristmill run --json` says."""
    out = subprocess.run([binary, "run", "-q", "--json", "-m", file, *map(str, args)], capture_output=True, text=True)
    if out.returncode:
        raise SystemExit(f"{binary} run -m {file}: {out.stderr}")
    return json.loads(out.stdout)


def rwkv_rates(binary, file, count=100):
    """Stories told unasked, and asked for, through the binary."""
    rows = ["| asked for | options | stories that parse | different stories |", "| --- | --- | --- | --- |"]
    wishes = check.wishes(count, seed=2)
    for options in (["--temp", 0.8], ["--temp", 0.5]):
        for asked in (False, True):
            prompt = lambda i: [wishes[i]] if asked else ["--ids", 0]
            texts = [run(binary, file, *options, "--seed", i + 1, *prompt(i))["text"] for i in range(count)]
            rows.append(f"| {'yes' if asked else 'no'} | `{' '.join(map(str, options))}` | {parsing(texts)} of {count} | {len(set(texts))} |")
    return "\n".join(rows)


FILL = ["--algorithm", "llada", "--blocks", "causal", "-n", 255]
PLAIN, FAST = ["--threshold", 2], ["--cache", "dual", "--threshold", 0.9]
FILLS = [(["--block-length", 1, "--temp", 0.7, *FAST], 50), (["--block-length", 4, "--temp", 0.5, *FAST], 20)]


def diffusion_rates(binary, file):
    """Stories told unasked with seeds 1, 2, ..., and what the dual cache changes where nothing is drawn."""
    rows = [f"| options besides `{' '.join(map(str, FILL))}` | stories that parse | different stories | forwards a story |",
            "| --- | --- | --- | --- |"]
    for options, count in FILLS:
        told = [run(binary, file, *FILL, *options, "--ids", 0, "--seed", i + 1) for i in range(count)]
        texts = [t["text"] for t in told]
        forwards = sum(t["forwards"] for t in told) / count
        rows.append(f"| `{' '.join(map(str, options))}` | {parsing(texts)} of {count} | {len(set(texts))} | {forwards:.1f} |")
    return "\n".join(rows) + "\n\n" + dual_against_plain(binary, file)


def dual_against_plain(binary, file, count=4, block=4):
    """The plain algorithm (one token a pass, nothing kept) and the fast one, greedy, on the same requests."""
    forwards, same, total, good = [0, 0], 0, 0, [0, 0]
    for wish in check.wishes(count, seed=3):
        pair = [run(binary, file, *FILL, "--block-length", block, *options, "--temp", 0, wish) for options in (PLAIN, FAST)]
        ends = [p["ids"].index(1) if 1 in p["ids"] else len(p["ids"]) for p in pair]
        ids = [p["ids"][: max(ends)] for p in pair]
        same, total = same + sum(a == b for a, b in zip(*ids)), total + max(ends)
        for i, p in enumerate(pair):
            forwards[i], good[i] = forwards[i] + p["forwards"], good[i] + parsing([p["text"]])
    return (f"Greedy, blocks of {block}, {count} requests: `{' '.join(map(str, FAST))}` takes {forwards[1] / count:.1f} forwards a "
            f"story, the plain algorithm {forwards[0] / count:.0f}; {same} of {total} tokens are the same ({same / total:.1%}); "
            f"{good[1]} and {good[0]} of the {count} stories parse.")


def denoiser_rates(binary, file, count=200):
    """Sentences of seeds 1, 2, ..., and the first of them as they are."""
    rows = ["| options | sentences that parse | different sentences |", "| --- | --- | --- |"]
    for options in ([], ["--eta", 0.5], ["--eta", 1], ["--steps", 10]):
        texts = [run(binary, file, *options, "--seed", i + 1)["text"] for i in range(count)]
        said = f"`{' '.join(map(str, options))}`" if options else "none (50 steps of DDIM)"
        rows.append(f"| {said} | {sum(map(denoiser.parses, texts))} of {count} | {len(set(texts))} |")
        first = first if options else texts[:8]
    return "\n".join(rows + ["", "The first eight of the first row:", "", *(f"- {text}" for text in first)])


def _rows(args):
    return args["rows"] // 2 if args.get("blocks") == "causal" else args["rows"]


def _window(args):
    if args.get("kind") == "tales-denoiser":
        return denoiser.Config.context
    if args.get("kind") != "tales-diffusion":
        return args["length"]
    if args["blocks"] != "causal":
        return "open canvases, then half as many causal ones"
    return f"256, causal blocks of {args.get('causal_blocks', [4])[0]}, {args.get('copies', 1)} masked"


def phases(history):
    """One row for each stretch of training; a run that went on from a checkpoint has several."""
    return "\n".join(
        f"| {p['from'] + 1} to {p['to']} | {_rows(p['args'])} x "
        f"{_window(p['args'])}"
        f"{', one document each' if p['args']['single'] else ''} | {p['args']['muon_lr']} | {p['args']['lr']} "
        f"| {p['args']['warmup']} steps | {'none' if p['decay'][0] >= p['to'] else 'from step {} to {}'.format(*p['decay'])} "
        f"| {p['args']['slot_weight']:g} |" for p in history if p["to"] > p["from"])


def curve(log):
    """Training loss, each figure the mean of the twenty steps up to it."""
    last = log[-1][0]
    marks = sorted({m for m in (20, 50, 100, 200, 300, 400, 500, 750, 1000, 1250, 1500, 2000) if m < last} | {last})
    mean = lambda m: sum(l for s, l in log if m - 20 < s <= m) / min(20, m)
    return "\n".join(f"| {m} | {mean(m):.4f} |" for m in marks)


def of_stories(model, tok, state, held):
    """Values of the story model's card alone."""
    loss = heldout_loss(model, held)
    rng = random.Random("card")
    lengths = [len(write_story(rng)[0].split()) for _ in range(2000)]
    templates = sum(len(t) for p in PLOTS for b, t in p.beats.items() if b not in shared_beats.BEATS)
    templates += sum(len(t.strip().split("\n")) for t in shared_beats.BEATS.values())
    templates += sum(len(p["beats"]["moral"].strip().split("\n")) for p in plots_a.PLOTS + plots_b.PLOTS)
    return {
        "plots": len(PLOTS), "templates": templates, "names": len(world.ALL_NAMES), "animals": len(world.ANIMALS),
        "objects": len(world.OBJECTS), "places": len(world.PLACES), "shortest": min(lengths), "longest": max(lengths),
        "mean": sum(lengths) // len(lengths), "rates": rates(model, tok), "requests": request_rate(model, tok),
        "heldout_loss": f"{loss:.4f}", "heldout_ppl": f"{math.exp(loss):.4f}",
    }


def of_rwkv(model, tok, state, held):
    loss = heldout_loss(model, held)
    return {"heldout_loss": f"{loss:.4f}", "heldout_ppl": f"{math.exp(loss):.4f}", "chunk": rwkv.CHUNK, "length": state["args"]["length"]}


def of_diffusion(model, tok, state, held):
    open_until = max(p["to"] for p in state["phases"] if p["args"]["blocks"] != "causal")
    bound = lambda block, count: f"{diffusion.heldout_bound(model, held[:count], block):.4f}"
    return {"bound": bound(4, 50), "bound2": bound(2, 50), "bound1": bound(1, 50), "open_until": open_until,
            "share": state.get("blend", 1.0)}


def of_denoiser(model, tok, state, held):
    held = denoiser.heldout(tok, state["args"]["seed"])
    with torch.no_grad():
        told = model(denoiser.noised(model, held.inputs, held.times, held.noise), held.times)
    errors, alphas, rows = (told - held.noise).square().mean((1, 2)), model.diffusion.alphas[held.times], []
    for low, high in zip(bounds := (0, 0.01, 0.03, 0.1, 0.3, 0.6, 1), bounds[1:]):
        there = (alphas >= low) & (alphas < high)
        clean = (errors * (1 - alphas) / alphas)[there]
        rows.append(f"| {low} to {high} | {there.float().mean():.0%} | {errors[there].mean():.4f} | {clean.mean():.3f} |")
    return {"error": f"{errors.mean():.4f}", "by_alpha": "\n".join(rows), "heldout_sentences": len(held.inputs),
            "templates": len(denoiser.OPENINGS), "used": len(denoiser.classes(tok)), "rows": state["args"]["rows"],
            "most_weight": f"{denoiser.MOST_WEIGHT:g}"}


OF = {"stories": (of_stories, None), "tales-rwkv": (of_rwkv, rwkv_rates), "tales-diffusion": (of_diffusion, diffusion_rates),
      "tales-denoiser": (of_denoiser, denoiser_rates)}


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--kind", choices=KINDS, default="stories")
    a.add_argument("--binary", help="gristmill, to tell stories with the file that is shipped")
    a.add_argument("--file", help="default: the one that is shipped")
    asked = a.parse_args()
    kind = KINDS[asked.kind]
    model, state = sample.load(os.path.join(kind.out, "checkpoint.pt"))
    tok, args = sample.tokenizer(), state["args"]
    _, held = heldout(tok, args["seed"])
    only, told = OF[kind.name]
    path = os.path.join(HERE, "cards", kind.name + ".md")
    old = open(path).read() if os.path.exists(path) else ""
    file = asked.file or os.path.join(HERE, "..", "crates", "gristmill", "bundled", kind.name + ".gguf")
    values = {
        **model.cfg.dict(), "parameters": f"{model.parameter_count():,}", "steps": state["step"], "seed": args["seed"],
        "tokens": f"{state['tokens']:,}", "phases": phases(state["phases"]), "curve": curve(state["log"]),
        "heldout_tokens": f"{sum(len(i) - 1 for i in held):,}", "entropy": f"{generator_loss(args['seed'], held):.4f}",
        QUANTIZATIONS: kept(old, QUANTIZATIONS, None),
        RATES: told and kept(old, RATES, told(asked.binary, file) if asked.binary else None),
        **only(model, tok, state, held),
    }
    with open(os.path.join(HERE, "cards", kind.name + ".template.md")) as f:
        text = f.read()
    for key, value in values.items():
        text = text.replace("{{" + key + "}}", str(value))
    with open(path, "w") as f:
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
