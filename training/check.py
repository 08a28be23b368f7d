"""How many stories parse under the generator's own grammar, and why the others do not.

    python -m training.check                                   # samples the checkpoint
    python -m training.check --jsonl stories.jsonl             # reads {"text": ...} lines
    python -m training.check --command 'gristmill ... --seed {seed}'   # runs a program per story

A parse binds every name, pronoun, object and place once for the whole story, so
"parses" includes "is consistent". Names nobody introduced are counted apart.
"""

import argparse
import collections
import json
import random
import shlex
import subprocess
import sys

from . import grammar, world
from .requests import request_for
from .story import write_story


def arguments():
    a = argparse.ArgumentParser()
    a.add_argument("-n", type=int, default=200)
    a.add_argument("--temperature", type=float, default=0.8)
    a.add_argument("--top-p", type=float, default=1.0)
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--requests", action="store_true", help="ask for each story with a fresh request")
    a.add_argument("--checkpoint", default="training/out/checkpoint.pt")
    a.add_argument("--jsonl", help="judge the stories of this file instead")
    a.add_argument("--command", help="judge what this command prints; {seed} and {request} are filled in")
    a.add_argument("--show", type=int, default=0, help="print this many stories")
    a.add_argument("--require", type=float, default=0.95, help="exit 1 below this parse rate")
    return a.parse_args()


def stories(args):
    """(request or None, text) pairs to judge."""
    if args.jsonl:
        with open(args.jsonl, encoding="utf-8") as f:
            rows = [json.loads(line) for line in f if line.strip()]
        return [(r.get("request"), r["text"]) for r in rows]
    asked = args.requests or (args.command and "{request}" in args.command)
    wanted = wishes(args.n, args.seed) if asked else [None] * args.n
    if args.command:
        return [(w, _run(args.command, args.seed + i, w)) for i, w in enumerate(wanted)]
    from . import sample as s  # torch is needed only here

    (model, _), tok = s.load(args.checkpoint), s.tokenizer()
    draw = lambda ids, count, seed: s.sample(model, tok, ids, count, args.temperature, args.top_p, seed)
    if not args.requests:
        return [(None, t) for t in draw(s.prompt_ids(tok), args.n, args.seed)]
    return [(w, draw(s.prompt_ids(tok, w), 1, args.seed + i)[0]) for i, w in enumerate(wanted)]


def wishes(count, seed):
    """Requests of the kind the model was trained on, from a stream of their own."""
    rng = random.Random(f"check {seed}")
    out = []
    for _ in range(count):
        _, bound, plot = write_story(rng)
        out.append(request_for(rng, bound, plot))
    return out


def _run(command, seed, request):
    filled = [part.replace("{seed}", str(seed)).replace("{request}", request or "")
              for part in shlex.split(command)]
    return subprocess.run(filled, capture_output=True, text=True, check=True).stdout


def main():
    args = arguments()
    judged = [(w, t.strip(), grammar.parse(t.strip())) for w, t in stories(args)]
    for wish, text, result in judged[: args.show]:
        print("-" * 72)
        print((f"> {wish}\n" if wish else "") + text)
        print(f"[{'parses: ' + result.plot if result.ok else 'does not parse: ' + result.reason}]")
    failed = [j for j in judged if not j[2].ok]
    strange = 0
    for wish, text, result in failed:
        unknown = grammar.strangers(result, text)
        strange += bool(unknown)
        print(f"FAIL {result.reason}" + (f"; names not introduced: {sorted(unknown)}" if unknown else ""))
    plots = collections.Counter(r.plot for _, _, r in judged if r.ok)
    rate = 1 - len(failed) / len(judged)
    print(f"{len(judged)} stories, {len(set(t for _, t, _ in judged))} different; "
          f"{len(judged) - len(failed)} parse ({rate:.1%}); {strange} with a name nobody introduced")
    print("plots: " + ", ".join(f"{k} {v}" for k, v in plots.most_common()))
    if any(w for w, _, _ in judged):
        _report_wishes(judged)
    sys.exit(rate < args.require)


def wished_for(wish):
    """The names, animals, objects and places of this world that a request mentions."""
    plain = " " + "".join(c if c.isalnum() or c == "." else " " for c in wish.rstrip(".")) + " "
    return [w for w in world.ALL_NAMES + world.ANIMALS + world.OBJECTS + list(world.PLACES) if f" {w} " in plain]


def _report_wishes(judged):
    pairs = [(w, text) for wish, text, _ in judged if wish for w in wished_for(wish)]
    print(f"requests: {sum(w in text for w, text in pairs)} of {len(pairs)} things of this world "
          "that were asked for are in the story")


if __name__ == "__main__":
    main()
