"""Parses a story with the very tables that write stories.

A story parses when its whole text is one plot's beats in order, every sentence
an instance of a template, with one value for each variable throughout. So a
name, pronoun, object or place that changes midway is not a story.
"""

import re
import sys
from dataclasses import dataclass

from . import world
from .story import PARAGRAPH, PLOTS
from .template import match

sys.setrecursionlimit(20000)


@dataclass
class Result:
    ok: bool
    plot: str
    bindings: dict
    reached: int  # how far into the text the best attempt came
    reason: str


def parse(text):
    """Decide whether the generator could have written this text."""
    best = Result(False, "", {}, -1, "empty")
    for plot in PLOTS:
        found = _parse_plot(plot, text)
        if found.ok:
            return found
        if found.reached > best.reached:
            best = found
    return best


def _parse_plot(plot, text):
    furthest = Result(False, plot.name, {}, 0, "no opening fits")

    def step(index, pos, gap, bindings):
        """Match beats from `index` on; the bindings of a complete parse, or None."""
        if index == len(plot.order):
            if pos == len(text):
                return bindings
            note(pos, bindings, "text goes on after the end")
            return None
        beat, optional = plot.order[index]
        if beat == "¶":
            return step(index + 1, pos, PARAGRAPH, bindings)
        if text.startswith(gap, pos):
            for nodes in plot.beats[beat]:
                for end, bound in match(nodes, text, pos + len(gap), bindings):
                    done = step(index + 1, end, " ", bound)
                    if done is not None:
                        return done
        note(pos, bindings, f"expected {beat!r}")
        return step(index + 1, pos, gap, bindings) if optional else None

    def note(pos, bindings, reason):
        if pos > furthest.reached:
            furthest.reached, furthest.bindings = pos, bindings
            furthest.reason = f"{plot.name}: {reason} at {text[pos:pos + 70]!r}"

    bindings = step(0, 0, "", {})
    if bindings is None:
        return furthest
    return Result(True, plot.name, bindings, len(text), "")


_NAME = re.compile(r"\b(" + "|".join(sorted(map(re.escape, world.ALL_NAMES), key=len, reverse=True)) + r")(?!\w)")


def names_in(text):
    """The people of the world that a text mentions, however it is built."""
    return set(_NAME.findall(text))


def strangers(result, text):
    """Names in the text that the (partial) parse had not introduced."""
    known = {result.bindings.get(k) for k in ("hero", "friend", "elder")}
    return names_in(text) - known
