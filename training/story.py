"""Writes a story: picks a plot, then one template for each of its beats."""

from . import plots_a, plots_b, shared_beats
from .template import compile_template, plain, write

PARAGRAPH = "\n\n"


def _compile_beat(table):
    return [compile_template(line) for line in table.strip().split("\n") if line]


class Plot:
    """A plot compiled from its tables: an ordered list of beats, some optional."""

    def __init__(self, table):
        self.name = table["name"]
        self.order = [(item.rstrip("?"), item.endswith("?")) for item in table["order"]]
        own, shared = table["beats"], shared_beats.BEATS
        # A plot may add its own wordings to a shared beat (its own moral, say).
        self.beats = {b: _compile_beat(shared.get(b, "")) + _compile_beat(own.get(b, ""))
                      for b, _ in self.order if b != "¶"}
        self.requests = [compile_template(r) for r in table["requests"].strip().split("\n")]


PLOTS = [Plot(p) for p in plots_a.PLOTS + plots_b.PLOTS]


def write_story(rng, mark=plain):
    """A new story: (text, bindings, plot). For the mark see template.write."""
    plot = rng.choice(PLOTS)
    text, bindings, gap = "", {}, ""
    for beat, optional in plot.order:
        if beat == "¶":
            gap = PARAGRAPH
        elif not optional or rng.random() < 0.7:
            text += gap + write(rng.choice(plot.beats[beat]), bindings, rng, mark)
            gap = " "
    return text, bindings, plot
