"""What is measured: parts, their rows, and the sides of each row, which take turns."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import models
import programs as run
from programs import Test

SMALL = "tinyllama-1.1b"
BIG = {"llama-3.1-8b", "llama-2-7b"}
KNOWN = {
    SMALL: ["Q4_K_M", "Q8_0", "Q4_0", "Q6_K", "F16"],
    "qwen3-0.6b": ["Q4_K_M", "Q8_0"],
    "llama-3.1-8b": ["Q4_K_M"],
    "llama-2-7b": ["Q4_K_M"],
    "rwkv7-0.4b": ["Q4_K_M", "Q8_0"],
    "bert-base": ["Q4_K_M"],
    "tiny": ["Q4_K_M", "Q8_0", "F16"],
}
DEFAULT = [SMALL, "qwen3-0.6b", "llama-3.1-8b", "llama-2-7b"]


@dataclass
class Row:
    """`sides`: a name and what takes a sample, given the file. Ours begin with `gristmill`."""

    part: str
    model: str
    format: str
    test: str
    threads: int
    sides: dict[str, Callable]
    unit: str = "tok/s"
    rounds: int = 99
    # Done once before the first round.
    before: Callable | None = None

    def key(self):
        return (self.part, self.model, self.format, self.test, self.threads)


@dataclass
class Plan:
    programs: run.Programs
    models: list
    formats: list
    cores: int
    quick: bool

    def files(self, formats=None, decoders=True):
        """(model, format) of those that are chosen, among `formats` if given."""
        for model in self.models:
            if decoders == (models.SHAPES[model].arch == "bert"):
                continue
            for format_ in KNOWN[model]:
                if (formats is None or format_ in formats) and format_ in self.formats:
                    yield model, format_

    def small(self, *formats):
        """The files of the parts that look at one model only: the first that is chosen."""
        return [(m, f) for m, f in self.files(formats) if m == self.models[0]]

    def tokens(self, n):
        return max(n // 8, 4) if self.quick else n

    def threads(self, model):
        """All cores, and one; of the big ones all only, as they take long."""
        return [self.cores] if model in BIG or self.cores == 1 else [self.cores, 1]


# ---- Sides ----


def ours(plan, test, threads, *extra, env=None):
    return lambda file: run.gristmill(plan.programs, file, test, threads, *extra, env=env)


def llama(plan, test, threads, *extra, folder=None):
    program = (folder or plan.programs.llama) / "llama-bench"
    return lambda file: run.llama_bench(program, file, test, threads, *extra)


def peers(plan, test, threads, flash=False):
    """llama.cpp by default and without repacking, which hides its faster kernels for some formats."""
    sides = {
        "llama.cpp": llama(plan, test, threads),
        "llama.cpp --repack 0": llama(plan, test, threads, "--repack", 0),
    }
    if flash:
        sides["llama.cpp --repack 0 -fa 0"] = llama(plan, test, threads, "--repack", 0, "-fa", 0)
    for name, program in plan.programs.others.items():
        sides[name] = partial(_other, program, test, threads)
    return sides


def _other(program, test, threads, file):
    return run.llama_bench(program, file, test, threads)


# ---- Parts ----


def decode(plan):
    for model, format_ in plan.files():
        test = Test(generate=plan.tokens(16 if model in BIG else 64))
        for threads in plan.threads(model):
            sides = {"gristmill": ours(plan, test, threads), **peers(plan, test, threads)}
            if format_ == "Q8_0" and models.SHAPES[model].arch != "rwkv7" and plan.programs.candle:
                sides["candle"] = partial(_candle, plan.programs, test, threads)
            rounds = 3 if model in BIG else 99
            yield Row("decode", model, format_, test.name(), threads, sides, rounds=rounds)


def _candle(p, test, threads, file):
    return run.candle(p, file, test, threads)


def _prompts(part, plan, length, threads_of):
    for model, format_ in plan.files():
        if length > 512 and model != plan.models[0]:
            continue
        for threads in threads_of(model):
            test = Test(prompt=plan.tokens(length))
            sides = {"gristmill": ours(plan, test, threads)}
            if format_ != "F16":
                sides["gristmill --prefill fast"] = ours(plan, test, threads, "--prefill", "fast")
            if models.SHAPES[model].arch == "rwkv7":
                sides["gristmill --chunked"] = ours(plan, test, threads, "--chunked")
            sides |= peers(plan, test, threads, flash=length > 512)
            rounds = 3 if model in BIG or length > 512 else 99
            yield Row(part, model, format_, test.name(), threads, sides, rounds=rounds)


def prefill(plan):
    yield from _prompts("prefill", plan, 512, plan.threads)


def prefill_2048(plan):
    yield from _prompts("prefill-2048", plan, 2048, lambda _: [plan.cores])


def avx2(plan):
    if plan.programs.llama_avx2 is None:
        return
    env = {"GRISTMILL_CPU": "avx2"}
    threads = plan.cores
    for model, format_ in plan.small("Q4_K_M", "Q8_0"):
        for test in (Test(generate=plan.tokens(64)), Test(prompt=plan.tokens(512))):
            other = partial(llama, plan, test, threads, folder=plan.programs.llama_avx2)
            sides = {
                "gristmill": ours(plan, test, threads, env=env),
                "llama.cpp": other(),
                "llama.cpp --repack 0": other("--repack", 0),
            }
            yield Row("avx2", model, format_, test.name(), threads, sides)


def batch(plan):
    threads = plan.cores
    program = plan.programs.llama / "llama-batched-bench"
    for model, format_ in plan.small("Q4_K_M"):
        for parallel in (4, 16):
            test = Test(generate=plan.tokens(64), parallel=parallel)
            them = partial(_batched, program, test, threads)
            sides = {
                "gristmill": ours(plan, test, threads),
                "llama.cpp": partial(them, ()),
                "llama.cpp --no-repack": partial(them, ("--no-repack",)),
            }
            yield Row("batch", model, format_, test.name(), threads, sides)


def _batched(program, test, threads, extra, file):
    return run.llama_batched(program, file, test, threads, *extra)


def depth(plan):
    threads = plan.cores
    for model, format_ in plan.small("Q4_K_M"):
        for before in (2048, 8192):
            test = Test(generate=plan.tokens(32), depth=plan.tokens(before))
            sides = {
                "gristmill": ours(plan, test, threads),
                "llama.cpp -fa 0": llama(plan, test, threads, "-fa", 0),
                "llama.cpp -fa 1": llama(plan, test, threads, "-fa", 1),
            }
            rounds = 5 if before == 2048 else 3
            yield Row("depth", model, format_, test.name(), threads, sides, rounds=rounds)


def _cached(plan):
    """Where `--pack-cache` keeps its file."""
    return plan.programs.work / "cache"


def memory(plan):
    threads = plan.cores
    p = plan.programs
    cached = {"GRISTMILL_CACHE_DIR": str(_cached(plan))}
    completion = p.llama / "llama-completion"

    def rss(sample):
        return {**sample, "value": sample["rss"]}

    def packed(file):
        return run.gristmill_run(p, file, 16, threads, "--pack-cache", env=cached)

    big = [(m, f) for m, f in plan.files(["Q4_K_M"]) if m in BIG]
    for model, format_ in [*plan.small("Q4_K_M", "Q8_0"), *big]:
        sides = {
            "gristmill": lambda f: rss(run.gristmill_run(p, f, 16, threads)),
            "llama.cpp": lambda f: rss(run.llama_run(completion, f, 16, threads)),
            "llama.cpp --no-repack": lambda f: rss(run.llama_run(completion, f, 16, threads, "--no-repack")),
        }
        before = None
        if model not in BIG:  # the cache of a big one is as large again
            sides["gristmill --pack-cache"] = lambda f: rss(packed(f))
            before = packed
        if format_ == "Q8_0" and p.candle:
            test = Test(generate=16)
            sides["candle"] = lambda f, test=test: rss(run.candle(p, f, test, threads))
        yield Row("memory", model, format_, "16 tokens", threads, sides, "bytes", 3, before)


def first_token(plan):
    threads = plan.cores
    p = plan.programs
    cached = {"GRISTMILL_CACHE_DIR": str(_cached(plan))}
    completion = p.llama / "llama-completion"

    def packed(file):
        return run.gristmill_run(p, file, 1, threads, "--pack-cache", env=cached)

    sides = {
        "gristmill": lambda f: run.gristmill_run(p, f, 1, threads),
        "gristmill --pack-cache": packed,
        "llama.cpp": lambda f: run.llama_run(completion, f, 1, threads),
        "llama.cpp --no-repack": lambda f: run.llama_run(completion, f, 1, threads, "--no-repack"),
    }

    def cold(side):
        def forgotten(file):
            run.forget(file, _cached(plan))
            return side(file)

        return forgotten

    from_disk = {name: cold(side) for name, side in {**sides, "reading the file": run.reading}.items()}
    for model, format_ in plan.small("Q4_K_M"):
        for test, these in (("warm", sides), ("cold", from_disk)):
            yield Row("first-token", model, format_, test, threads, these, "s", 99, packed)


def busy(plan):
    threads = plan.cores
    if threads < 2:
        return
    for model, format_ in plan.small("Q4_K_M"):
        for test in (Test(generate=plan.tokens(64)), Test(prompt=plan.tokens(512))):

            def beside(side):
                def disturbed(file):
                    with run.busy():
                        return side(file)

                return disturbed

            alone, them = ours(plan, test, threads), llama(plan, test, threads)
            sides = {
                "gristmill": alone,
                "gristmill, one core less": ours(plan, test, threads - 1),
                "gristmill, one core busy": beside(alone),
                "llama.cpp": them,
                "llama.cpp, one core busy": beside(them),
            }
            yield Row("busy", model, format_, test.name(), threads, sides)


def embed(plan):
    for model, format_ in plan.files(decoders=False):
        shape = models.SHAPES[model]
        skipped = ("token_embd.weight",)
        used = [t for t in shape.tensors() if t.fill is None and t.name not in skipped]
        ops = sum(2 * t.shape[0] * t.shape[1] for t in used)
        for threads in plan.threads(model):
            test = Test(prompt=512)
            sides = {
                "gristmill": lambda f, t=threads, test=test: run.gristmill_embed(plan.programs, f, test, t, ops),
                "llama.cpp": llama(plan, test, threads, "-embd", 1),
                "llama.cpp --repack 0": llama(plan, test, threads, "-embd", 1, "--repack", 0),
            }
            yield Row("embed", model, format_, test.name(), threads, sides)


PARTS = {
    "decode": decode,
    "prefill": prefill,
    "prefill-2048": prefill_2048,
    "avx2": avx2,
    "batch": batch,
    "depth": depth,
    "memory": memory,
    "first-token": first_token,
    "busy": busy,
    "embed": embed,
}
