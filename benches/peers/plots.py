"""Plots of a record, as small SVG files beside the page."""

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

# The same figures give the same file.
matplotlib.rcParams["svg.hashsalt"] = "gristmill"
matplotlib.rcParams["svg.fonttype"] = "none"
matplotlib.rcParams["font.size"] = 9

OURS, FAST, PEER = "#1b6ca8", "#7fb8dd", "#c9822b"
OTHERS = [PEER, "#8a5a9c", "#5d8a3c", "#777777"]


def _save(figure, path):
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)


def _bars(figures, path, title, goals, asked):
    """Percent of the ceiling: ours, and the best peer. `goals`: where lines are, `asked`: of whom."""
    figures = [f for f in figures if f.share(f.ours()[0]) is not None]
    if not figures:
        return False
    height = 0.9 + 0.42 * len(figures)
    plot, axes = plt.subplots(figsize=(7, height))
    for i, f in enumerate(figures):
        bars = [(side, FAST if "fast" in side else OURS) for side in f.ours() if "chunked" not in side]
        bars += [(best, PEER)] if (best := f.best_peer()) else []
        width = 0.84 / len(bars)
        for k, (side, colour) in enumerate(bars):
            at = i + (k - (len(bars) - 1) / 2) * width
            share = 100 * f.share(side)
            axes.barh(at, share, width, color=colour)
            axes.text(share + 0.5, at, side if colour == PEER else "", va="center", fontsize=6)
    axes.set_yticks(range(len(figures)), [f"{f.model} {f.format}, {f.threads} thr" for f in figures])
    axes.invert_yaxis()
    for percent in goals:
        axes.axvline(percent, color="0.5", linewidth=0.8, linestyle="--")
    axes.set_xlim(0, 105)
    axes.set_xlabel(f"percent of the measured ceiling; dashed: what is asked of {asked}")
    axes.set_title(title)
    _save(plot, path)
    return True


def _lines(figures, path, title, xlabel, x_of):
    """Tokens a second against a number of each row."""
    if len(figures) < 2:
        return False
    plot, axes = plt.subplots(figsize=(5, 3.2))
    colours = iter(OTHERS)
    for side in figures[0].sides:
        points = sorted((x_of(f), f.median(side)) for f in figures if f.values(side))
        colour = OURS if side.startswith("gristmill") else next(colours)
        axes.plot(*zip(*points), marker="o", color=colour, label=side)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(xlabel)
    axes.set_ylabel("tok/s")
    axes.set_title(title)
    axes.legend(fontsize=7)
    _save(plot, path)
    return True


def _joined(record, part):
    """A part's rows, and the row of plain decoding before them, as far as their sides agree."""
    rows = record.part(part)
    plain = [f for f in record.part("decode") if rows and (f.model, f.format, f.threads)
             == (rows[0].model, rows[0].format, rows[0].threads)]
    return rows + plain


def write(record, page):
    """Writes them beside the page: {title: file name}."""
    found = {}

    def add(name, title, draw, *args):
        path = page.with_name(f"{page.stem}-{name}.svg")
        if draw(*args[:1], path, title, *args[1:]):
            found[title] = path.name

    add("decode", "Decode: share of the read bandwidth", _bars, record.part("decode"), [85], "ours (blue)")
    add("prefill", "Prefill 512: share of the peak", _bars, record.part("prefill"), [45, 60],
        "ours, exact (dark) and fast (light)")
    depth = _joined(record, "depth")
    add("depth", "Decode after many tokens", _lines, depth, "tokens before",
        lambda f: int(f.test.split(" @ d")[1]) if " @ d" in f.test else 0)
    batch = _joined(record, "batch")
    add("batch", "Several sequences at once", _lines, batch, "sequences",
        lambda f: int(f.test.split(" x ")[1]) if " x " in f.test else 1)
    return found
