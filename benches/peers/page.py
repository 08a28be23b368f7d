"""The page of figures, drawn from a record. Nothing on it is typed: whether a row reaches its goals is
worked out by `goals`."""

import statistics

import goals

TITLES = {
    "decode": "Decode",
    "prefill": "Prefill, 512 tokens",
    "prefill-2048": "Prefill, 2,048 tokens",
    "avx2": "AVX2 beside AVX2",
    "batch": "Several sequences at once",
    "depth": "Decode after many tokens",
    "memory": "Memory",
    "first-token": "Load and first token",
    "busy": "Beside a process that keeps one core busy",
    "embed": "Embeddings",
}
SAYS = {
    "decode": "Tokens a second, one at a time; the ceiling is the memory's read bandwidth.",
    "prefill": "Tokens a second of a prompt; the ceiling is the int8 peak, for F16 the f32 peak. "
    "`--prefill fast` rounds weights once more, the other line keeps every scale of the file.",
    "prefill-2048": "The same, where attention weighs more.",
    "avx2": "Ours told to use AVX2 (`GRISTMILL_CPU=avx2`), llama.cpp built for AVX2 and no more. The "
    "ceilings are those of AVX2.",
    "batch": "Tokens a second of all sequences together.",
    "depth": "Tokens a second after 2,048 and 8,192 others; the ceiling counts keys and values that are "
    "read besides the weights.",
    "memory": "The most memory that the process had at a time (resident, mapped files included), to "
    "generate 16 tokens in a context of 512.",
    "first-token": "The whole process, from its start over loading and a prompt of five tokens to the end "
    "after one token. Warm: the file is in the system's memory. Cold: it is not, and neither is the "
    "packed copy.",
    "busy": "Another process runs without end on one core. What is asked: no less than 95 % of what one "
    "thread fewer reaches undisturbed.",
    "embed": "Texts of 512 tokens, tokens a second; the ceiling is the int8 peak.",
}


def number(value):
    if value is None:
        return "–"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f}"


def measured(f, side, unit=None):
    """The median, and the least and the most in brackets."""
    values = f.values(side)
    if not values:
        return "–"
    scale = {"bytes": 1 / 2**20}.get(unit or f.unit, 1)
    values = sorted(v * scale for v in values)
    middle = number(statistics.median(values))
    return f"{middle} ({number(values[0])}–{number(values[-1])})" if len(values) > 1 else middle


def percent(share):
    return "–" if share is None else f"{100 * share:.0f} %"


def asked(f, side):
    return "; ".join(f"{g.text}: {'yes' if g.holds else '**no**'}" for g in goals.of(f, side)) or "–"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def ceiling(f):
    """What bounds the row, in its own unit."""
    side = next((s for s in f.ours() if f.values(s, "rate") and f.values(s, "share")), None)
    if side is None:
        return "–"
    most = f.median(side, "rate") / f.median(side, "share")
    read = f.test.startswith("tg")
    return f"{number(most)} {'GB/s' if read else 'GOP/s'}"


def speeds(figures):
    """Rows in tokens a second: one line for each of our sides."""
    lines = []
    for f in figures:
        best = f.best_peer()
        rest = [s for s in f.peers() if s != best]
        for side in f.ours():
            ratios = f.ratios(side, best) if best else []
            ratio = f"{f.ratio(side, best):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})" if ratios else "–"
            rate = f.median(side, "rate")
            tail = f.median(side, "p95_ms")
            latency = f"{number(f.median(side, 'p50_ms'))} / {number(tail)}" if tail else "–"
            lines.append(
                [
                    f"{f.model} {f.format}",
                    f.test,
                    str(f.threads),
                    side,
                    measured(f, side),
                    latency,
                    f"{measured(f, best)} {best}" if best else "–",
                    ", ".join(f"{number(f.median(s))} {s}" for s in rest) or "–",
                    ratio,
                    number(rate),
                    percent(f.share(side)),
                    percent(f.share(best)) if best else "–",
                    ceiling(f),
                    asked(f, side),
                ]
            )
    head = ["model", "test", "threads", "ours", "tok/s", "ms a token, p50 / p95", "best peer, tok/s"]
    head += ["other peers", "ratio", "GB/s or GOP/s", "of the ceiling", "best peer of it", "ceiling", "goals"]
    # Columns that no line has anything for are left out.
    used = [i for i in range(len(head)) if any(line[i] != "–" for line in lines)]
    return table([head[i] for i in used], [[line[i] for i in used] for line in lines])


def sides(figures, unit):
    """Rows of which each side is a line."""
    lines = []
    for f in figures:
        for side in f.sides:
            values = [f"{f.model} {f.format}", f.test, str(f.threads), side, measured(f, side)]
            if unit == "MiB":
                values.append(f"{f.median(side) / f.file_bytes:.2f}")
            lines.append([*values, asked(f, side) if side.startswith("gristmill") else "–"])
    head = ["model", "test", "threads", "program", unit]
    head += ["times the file"] if unit == "MiB" else []
    return table([*head, "goals"], lines)


def summary(record):
    """How many goals are reached, and which are not."""
    asked_of = {}
    for part, title in TITLES.items():
        for f in record.part(part):
            for side in f.ours():
                for goal in goals.of(f, side):
                    where = f"{f.model} {f.format}" + (f", {f.test}" if len(f.test) > 6 else "")
                    where += f", {threads(f.threads)}"
                    asked_of.setdefault((title, side, goal.text), []).append((goal.holds, where))
    every = [holds for all_ in asked_of.values() for holds, _ in all_]
    lines = []
    for words, all_ in asked_of.items():
        missed = [where for holds, where in all_ if not holds]
        reached = f"{len(all_) - len(missed)} of {len(all_)}"
        lines.append([*words, reached, "; ".join(missed) or "–"])
    total = f"{sum(every)} of {len(every)} are reached."
    return [total, "", *table(["part", "ours", "at least, or at most", "rows", "not reached"], lines)]


def threads(n):
    return f"{n} thread" + ("s" if n > 1 else "")


def ceilings(record):
    """The machine's limits over all rows that measured them, by threads and instruction set."""
    found = {}
    for row in record.rows.values():
        kind = "AVX2" if row["part"] == "avx2" else "best"
        for samples in row["samples"].values():
            for s in samples:
                if "read" in s:
                    found.setdefault((row["threads"], kind), []).append(s)
    lines = []
    for (threads, kind), samples in sorted(found.items()):
        values = []
        for name in ("read", "int8", "f32"):
            each = sorted(s[name] for s in samples)
            values.append(f"{number(statistics.median(each))} ({number(each[0])}–{number(each[-1])})")
        lines.append([str(threads), kind, *values])
    head = ["threads", "instruction set", "read, GB/s", "int8, GOP/s", "f32, GOP/s"]
    return table(head, lines)


def text(record, plots):
    """The whole page. `plots`: {title: file name}."""
    m = record.machine
    rows = list(record.rows.values())
    commits = sorted({r["commit"] for r in rows})
    times = sorted(r["time"][:10] for r in rows)
    peers = sorted({p for r in rows for p in r["peers"]})
    days = times[0] if times[0] == times[-1] else f"{times[0]} to {times[-1]}"
    lines = [
        "# Beside other engines, on the processor",
        "",
        "`benches/peers/measure` wrote this page from the samples in the JSON file beside it; how it",
        "measures is told in [benches/peers](../../benches/peers/README.md).",
        "",
        f"- Processor: {m['cpu']}, {m['cores']} cores, {m['memory_gib']} GiB; {m['system']}",
        f"- Commit: {', '.join(commits)}; {days}",
        f"- Peers: {', '.join(peers)}",
        "",
        "Figures are medians of the rounds, with the least and the most in brackets; ratios are taken round",
        "by round. The models have random weights.",
        "",
        "## Goals",
        "",
        *summary(record),
        "",
        "## Ceilings",
        "",
        "Measured by every run of ours, in its own process, so beside each row.",
        "",
        *ceilings(record),
    ]
    for title, file in plots.items():
        lines += ["", f"![{title}]({file})"]
    for part, title in TITLES.items():
        figures = record.part(part)
        if not figures:
            continue
        lines += ["", f"## {title}", "", SAYS[part], ""]
        if part == "memory":
            lines += sides(figures, "MiB")
        elif part == "first-token":
            lines += sides(figures, "s")
        elif part == "busy":
            lines += sides(figures, "tok/s")
        else:
            lines += speeds(figures)
    return "\n".join(lines) + "\n"
