"""The programs that are compared, and what each says of one run.

Every function here runs one process and returns a sample: `value` in the unit of its row (tokens a
second, seconds or bytes), `rss`, the most memory in bytes that the process had at a time, `seconds`
that it took, and from ours `read`, `int8` and `f32`, the ceilings it measured, in 1e9 a second.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Test:
    """As `llama-bench` counts: a prompt at once or tokens one at a time, after `depth` tokens."""

    prompt: int = 0
    generate: int = 0
    depth: int = 0
    parallel: int = 1

    def name(self):
        what = f"pp{self.prompt}" if self.prompt else f"tg{self.generate}"
        depth = f" @ d{self.depth}" if self.depth else ""
        return what + depth + (f" x {self.parallel}" if self.parallel > 1 else "")


@dataclass
class Programs:
    """Where they lie. `llama` and `llama_avx2` are folders, `others` have llama-bench's arguments."""

    gristmill: Path
    llama: Path
    llama_avx2: Path | None
    candle: Path | None
    work: Path
    others: dict = field(default_factory=dict)


def child(command, env=None):
    """Runs a process to its end: its output, seconds, and the most memory it had, in bytes. Linux counts
    there what this process had when it started the other, so it is never less than some 70 MiB."""
    command = [str(word) for word in command]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, **(env or {})},
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        text, errors = out.read().decode(errors="replace"), err.read().decode(errors="replace")
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed ({process.returncode}):\n{errors[-3000:]}")
    return text, {"rss": usage.ru_maxrss * 1024, "seconds": round(seconds, 4)}


def _bench_words(model, test, threads):
    words = ["-m", model, "-p", test.prompt, "-n", test.generate, "-r", 1, "-t", threads]
    return [*words, *(["-d", test.depth] if test.depth else []), "-o", "json"]


def gristmill(p, model, test, threads, *extra, env=None):
    """Ours, in `gristmill bench`."""
    words = [*_bench_words(model, test, threads), "--device", "cpu", "-q", *extra]
    if test.parallel > 1:
        words += ["--n-parallel", test.parallel]
    text, sample = child([p.gristmill, "bench", *words], env)
    (row,) = json.loads(text)
    sample["value"] = row["avg_ts"]
    sample["read"] = row["ceiling_read_gb_s"]
    sample["int8"] = row["ceiling_int8_gop_s"]
    sample["f32"] = row["ceiling_f32_gop_s"]
    # Bytes or operations a second, and of which ceiling they are the share.
    sample["rate"] = row["read_gb_s"] or row["gop_s"]
    sample["share"] = row["read_share"] or row["gop_share"]
    if (p95 := row.get("step_p95_ns")) is not None:
        sample |= {"p50_ms": row["step_p50_ns"] / 1e6, "p95_ms": p95 / 1e6}
    if row["build_commit"] != "unknown":
        sample["commit"] = row["build_commit"]
    return sample


def llama_bench(program, model, test, threads, *extra):
    text, sample = child([program, *_bench_words(model, test, threads), *extra])
    (row,) = json.loads(text)
    return {**sample, "value": row["avg_ts"]}


def llama_batched(program, model, test, threads, *extra):
    """llama.cpp's decode of several sequences: tokens a second of all together. Each has room of its
    own, in steps of 256 tokens. The program may end before its log is written: so a second, shorter test
    comes after the one that is wanted, and where that does not help it runs again."""
    context = test.parallel * 256 * -(-(1 + test.generate) // 256)
    words = ["-m", model, "-c", context, "-npp", 1, "-ntg", f"{test.generate},2", "-npl", test.parallel]
    words += ["-t", threads, "-tb", threads, "--output-format", "jsonl", *extra]
    for _ in range(8):
        text, sample = child([program, *words])
        rows = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        if speeds := [row["speed_tg"] for row in rows if row["tg"] == test.generate]:
            return {**sample, "value": speeds[0]}
    raise SystemExit(f"{program} said nothing of {test.name()}")


def candle(p, model, test, threads):
    counts = {"RAYON_NUM_THREADS": str(threads), "CANDLE_NUM_THREADS": str(threads)}
    words = ["-p", test.prompt, "-n", test.generate, "-d", test.depth]
    text, sample = child([p.candle, model, *words], counts)
    return {**sample, "value": json.loads(text)["avg_ts"]}


# A prompt of five tokens: the text's are the beginning of a text, three bytes of a space, and a letter.
IDS = "1,300,301,302,303"
TEXT = "a"


def gristmill_run(p, model, tokens, threads, *extra, env=None):
    """The whole process: load, a short prompt, and tokens. `value`: seconds."""
    words = ["run", "-m", model, "--ids", IDS, "-n", tokens, "-c", 512, "-t", threads]
    words += ["--temp", 0, "--ignore-eos", "--device", "cpu", "-q", *extra]
    sample = child([p.gristmill, *words], env)[1]
    return {**sample, "value": sample["seconds"]}


def llama_run(program, model, tokens, threads, *extra):
    words = ["-m", model, "-p", TEXT, "-n", tokens, "-c", 512, "-t", threads, "--temp", 0]
    words += ["--ignore-eos", "--no-warmup", "-no-cnv", *extra]
    sample = child([program, *words])[1]
    return {**sample, "value": sample["seconds"]}


def gristmill_embed(p, model, test, threads, ops):
    """Texts of `test.prompt` tokens, from the time that sixteen more of them take. `ops`: operations
    by matrices for each token."""
    words = test.prompt - 2  # between [CLS] and [SEP]
    line = " ".join(f"w{300 + i % 1000}" for i in range(words))
    times = []
    for count in (1, 17):
        texts = p.work / f"texts-{count}"
        texts.write_text(f"{line}\n" * count)
        command = [p.gristmill, "embed", "-m", model, "--lines", texts, "-o", os.devnull]
        command += ["-t", threads, "--device", "cpu", "-q"]
        times.append(child(command)[1])
    seconds = times[1]["seconds"] - times[0]["seconds"]
    speed = 16 * test.prompt / max(seconds, 1e-6)
    # This verb measures no ceilings; a short test does.
    words = ["bench", "stories", "-p", 16, "-n", 0, "-r", 1, "-t", threads, "-o", "json"]
    (row,) = json.loads(child([p.gristmill, *words, "--device", "cpu", "-q"])[0])
    ceilings = {n: row[f"ceiling_{n}_{u}"] for n, u in (("read", "gb_s"), ("int8", "gop_s"), ("f32", "gop_s"))}
    rate = speed * ops / 1e9
    share = rate / ceilings["int8"]
    return {**times[1], **ceilings, "value": speed, "rate": rate, "share": share}


def reading(model):
    """Reading the file from its disk, with nothing else done. `value`: seconds."""
    start = time.monotonic()
    buffer = bytearray(8 << 20)
    with open(model, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return {"value": time.monotonic() - start}


def forget(*paths):
    """Drops files from the system's memory, so that the next read comes from the disk."""
    for path in paths:
        for file in [path] if path.is_file() else path.rglob("*"):
            if file.is_file():
                handle = os.open(file, os.O_RDONLY)
                os.fsync(handle)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(handle)


@contextmanager
def busy():
    """One core is kept busy by another process, which stays there."""
    core = max(os.sched_getaffinity(0))
    code = f"import os\nos.sched_setaffinity(0, [{core}])\nwhile True: pass"
    other = subprocess.Popen([sys.executable, "-c", code])
    try:
        time.sleep(0.2)
        yield
    finally:
        other.kill()
        other.wait()
