"""Whether a row reaches what is asked of it. Each goal: what is asked, and whether it holds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    text: str
    holds: bool


# Least ratios to the best peer, by format.
DECODE = {"Q4_K_M": 1.6, "Q4_0": 1.6, "Q6_K": 1.6, "Q8_0": 1.1, "F16": 1.4}
# Tokens a second of all sequences together: 1.1e9 weights in Q4_K_M on two cores.
TOTAL = {("tinyllama-1.1b", 2, 4): 140, ("tinyllama-1.1b", 2, 16): 250}


def _least(value, least, what):
    return [] if value is None else [Goal(what, value >= least)]


def _ratio(f, side, least):
    peer = f.best_peer()
    what = "ahead of the best peer" if least == 1 else f"{least} times the best peer"
    return _least(f.ratio(side, peer) if peer else None, least, what)


def _share(f, side, percent, what="the ceiling"):
    share = f.share(side)
    return _least(None if share is None else 100 * share, percent, f"{percent} % of {what}")


def decode(f, side):
    return _ratio(f, side, DECODE[f.format]) + _share(f, side, 85)


def prefill(f, side):
    if f.format == "F16":
        return _ratio(f, side, 1.8) + _share(f, side, 80)
    fast = side.endswith("fast")
    return _ratio(f, side, 2.2 if fast else 1.8) + _share(f, side, 60 if fast else 45)


def avx2(f, side):
    return _ratio(f, side, 1.3)


def depth(f, side):
    return _ratio(f, side, 1) + _share(f, side, 70)


def batch(f, side):
    count = int(f.test.split(" x ")[1])
    total = TOTAL.get((f.model, f.threads, count))
    asked = _least(f.median(side), total, f"{total} tok/s") if total else []
    return asked + _ratio(f, side, 1)


def memory(f, side):
    share = f.median(side) / f.file_bytes
    return [Goal("110 % of the file", share <= 1.1)]


def first_token(f, side):
    most = 0.3 if side.endswith("--pack-cache") else 1.0
    return [Goal(f"{most:g} s", f.median(side) <= most)] if f.test == "warm" else []


def busy(f, side):
    if not side.endswith("one core busy"):
        return []
    ratio = f.ratio(side, "gristmill, one core less")
    return _least(ratio, 0.95, "95 % of one core less")


def embed(f, side):
    return _ratio(f, side, 3.0) + _share(f, side, 50)


OF = {
    "decode": decode,
    "prefill": prefill,
    "prefill-2048": prefill,
    "avx2": avx2,
    "batch": batch,
    "depth": depth,
    "memory": memory,
    "first-token": first_token,
    "busy": busy,
    "embed": embed,
}


def of(figures, side):
    return OF[figures.part](figures, side)
