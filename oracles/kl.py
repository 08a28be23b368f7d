"""What eight-bit activations cost: KL(f32 reference || ours) beside KL(f32 reference || llama.cpp).

For every file of DATA/golden-llamacpp/<arch>/logits_<type>_<prompt>.npy, which llama.cpp computed
from DATA/golden/<arch>/model-<type>.gguf with its own activations of eight bits. The reference is f32
arithmetic over the same weights: `exact` for a type that holds them exactly, else `gguf.<type>.golden`
of golden.json. Ours is `gristmill logits` at its default settings. Mean over the positions, in f64.

`kl.py DATA --command gristmill --markdown FILE` writes the table; it fails where ours is worse.
"""
import argparse
import collections
import json
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

import numpy as np


def log_softmax(x):
    x = x.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def divergence(reference, got):
    """KL of each row, in nats."""
    p, q = log_softmax(reference), log_softmax(got)
    return (np.exp(p) * (p - q)).sum(axis=-1)


def comparable(folder, golden, rows):
    """How many positions llama.cpp computes as the model says: it knows no window in the files of
    architecture `llama`, so for those only the ones that see everything."""
    window = json.loads((folder / "config.json").read_text()).get("sliding_window")
    return min(rows, window) if window and golden["gguf_arch"] == "llama" else rows


def ours(command, model, ids):
    """Our logits, or what the program says instead."""
    with tempfile.TemporaryDirectory() as t:
        out = f"{t}/logits.npy"
        call = [*shlex.split(command), "logits", "-q", "-o", out, "--ids", ",".join(map(str, ids)), str(model)]
        done = subprocess.run(call, capture_output=True, text=True)
        return np.load(out) if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def measure(data, command):
    """Rows (type, arch, KL of llama.cpp by position, KL of ours), and what does not run."""
    rows, left = [], []
    for file in sorted((data / "golden-llamacpp").glob("*/logits_*.npy")):
        kind, prompt = re.fullmatch(r"logits_(.+)_([a-z]+)\.npy", file.name).groups()
        folder = data / "golden" / file.parent.name
        golden = json.loads((folder / "golden.json").read_text())
        entry = golden["gguf"][kind]
        source = golden["exact"] if entry.get("exact") else entry["golden"]
        reference = np.load(folder / source["logits"][prompt])
        # A diffusion model is given its prompt and masks.
        ids = golden["prompts"][prompt]
        got = ours(command, folder / f"model-{kind}.gguf", ids) if len(ids) == len(reference) else "takes masks with its prompt: `logits` runs causal models"
        if isinstance(got, str):
            left.append((kind, folder.name, got.replace(f"{folder}/", "").removeprefix("error: ").split(";")[0]))
            continue
        n = comparable(folder, golden, len(reference))
        peer, own = (divergence(reference[:n], x[:n]) for x in (np.load(file), got))
        rows.append((kind, folder.name, peer, own))
    return sorted(rows, key=lambda r: r[:2]), sorted(left)


def scatter(pairs, draws=2000):
    """How far the ratio of the means would differ by chance, had each model been asked at other
    positions: the standard deviation over samples of its positions, drawn with replacement."""
    random = np.random.default_rng(1)
    ratios = []
    for _ in range(draws):
        sums = np.zeros(2)
        for peer, own in pairs:
            at = random.integers(len(peer), size=len(peer))
            sums += peer[at].sum(), own[at].sum()
        ratios.append(sums[1] / sums[0])
    return np.std(ratios)


def line(name, pairs):
    """A row of the table: positions, both means, their ratio."""
    peer, own = (np.concatenate([p[i] for p in pairs]).mean() for i in (0, 1))
    n = sum(len(p[0]) for p in pairs)
    return f"| {name} | {n} | {peer:.2e} | {own:.2e} | {own / peer:.2f} ± {scatter(pairs):.2f} |", own > peer


def tables(rows):
    """The rows by format and by file, and the formats that are worse."""
    of = collections.defaultdict(list)
    for kind, _, peer, own in rows:
        of[kind].append((peer, own))
    lines = {kind: line(kind, pairs) for kind, pairs in of.items()}
    by_file = [line(f"{kind} | {arch}", [(peer, own)])[0] for kind, arch, peer, own in rows]
    return [text for text, _ in lines.values()], by_file, [kind for kind, (_, worse) in lines.items() if worse]


def markdown(rows, left, commit, device):
    by_format, by_file, _ = tables(rows)
    lines = [
        "# Eight-bit activations beside llama.cpp's",
        "",
        f"Written by `oracles/kl.py` at commit {commit}, {device}. Mean divergence from f32 arithmetic over the",
        "same file's weights, in nats, over every position that llama.cpp computes as the model says; its logits",
        "are stored beside the reference data. After the ratio, how far it would differ by chance at other",
        "positions. Tiny random models, a few dozen positions each: single rows scatter.",
        "",
        "## By format",
        "",
        "| format | positions | llama.cpp | ours | ratio |",
        "| --- | ---: | ---: | ---: | ---: |",
        *by_format,
        "",
        "## By file",
        "",
        "| format | model | positions | llama.cpp | ours | ratio |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        *by_file,
    ]
    if left:
        lines += ["", "## Not run", "", "| format | model | why |", "| --- | --- | --- |"]
        lines += [f"| {k} | {a} | {why} |" for k, a, why in left]
    return "\n".join(lines) + "\n"


def said(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("data", type=pathlib.Path)
    p.add_argument("--command", default="gristmill")
    p.add_argument("--markdown", type=pathlib.Path, help="where to write the table")
    a = p.parse_args()
    rows, left = measure(a.data, a.command)
    by_format, by_file, worse = tables(rows)
    print("\n".join(by_file + by_format))
    for kind, arch, why in left:
        print(f"not run: {kind} {arch}: {why}")
    if a.markdown:
        devices = json.loads(said(*shlex.split(a.command), "devices", "--json"))
        device = next(f"{d['name']}, {d['reason']}" for d in devices["devices"] if d["id"] == devices["chosen"])
        commit = said("git", "-C", str(pathlib.Path(__file__).parent), "rev-parse", "--short", "HEAD").strip()
        a.markdown.write_text(markdown(rows, left, commit, device))
    print(f"worse than llama.cpp: {', '.join(worse) or 'none'}")
    sys.exit(1 if worse or not rows else 0)
