"""The same facts told twice: what the sentence embedder learns from and is judged by.

Facts are a plot with a value for every variable. A telling is a run of the plot's beats, each by
one of its templates, so two tellings of the same run say the same in other words. A cluster is
several facts, each with another hero, object, place or the like, told twice by the same run of beats: every member
is a hard one beside the others.

Heroes in places are kept apart: a part of these pairs never occurs in training, and what is held
out has no other.
"""

import re
import zlib

from . import world
from .story import PARAGRAPH, PLOTS
from .template import write

# Variables that belong together, the one that others hang on first.
GROUPS = [("hero", "hero.kind"), ("friend", "friend.kind"), ("elder", "elder.role"), ("obj", "obj.color"),
          ("place", "place.spot"), ("place2", "place2.spot"), ("gift", "part"), ("plant",), ("tool",), ("fear",),
          ("trap",), ("game",)]
_GROUP = {key: group for group in GROUPS for key in group}


def is_held_out(bindings):
    """Whether this hero in this place is kept from training."""
    return zlib.crc32(f"{bindings['hero']} {bindings['place']}".encode()) % 8 == 0


def new_facts(rng, held_out, plot=None, fixed=()):
    """(plot, bindings), all variables of the plot bound, those of `fixed` to its values."""
    while True:
        one = plot or rng.choice(PLOTS)
        bindings = dict(fixed)
        tell(one, one.order, bindings, rng)
        if "place" not in bindings:
            bindings["place"] = rng.choice(world.domain("place", bindings))
        if is_held_out(bindings) == held_out:
            return one, bindings


def tell(plot, beats, bindings, rng, other_than=()):
    """Text of these (beat, optional) of a plot, and the template taken for each; `other_than` are not taken."""
    text, gap, taken = "", "", {}
    avoid = dict(other_than)
    for beat, optional in beats:
        if beat == "¶":
            gap = PARAGRAPH if text else ""
        elif not optional or rng.random() < 0.5:
            templates = plot.beats[beat]
            ways = [i for i in range(len(templates)) if i != avoid.get(beat)]
            taken[beat] = rng.choice(ways or [0])
            text += gap + write(templates[taken[beat]], bindings, rng)
            gap = " "
    return text, taken


def run_of_beats(plot, rng, count):
    """So many beats of a plot that follow one another, with the paragraphs between them."""
    places = [i for i, (beat, _) in enumerate(plot.order) if beat != "¶"]
    count = min(count, len(places))
    first = rng.randrange(len(places) - count + 1)
    return plot.order[places[first] : places[first + count - 1] + 1]


def says(text, value):
    """Whether a text says a value, in any case."""
    return re.search(rf"\b{re.escape(value)}\b", text, re.I) is not None


def said_keys(text, bindings):
    return {key for key, value in bindings.items() if says(text, value)}


def changed(bindings, key, rng, held_out):
    """The same bindings with another value of a variable, and new ones of those that belong to it."""
    group = [k for k in _GROUP[key] if k in bindings]
    for _ in range(100):
        out = {k: v for k, v in bindings.items() if k not in group}
        for k in group:
            out[k] = rng.choice(world.domain(k, out))
        if out[key] != bindings[key] and out.get("place") != out.get("place2") and is_held_out(out) == held_out:
            return out
    return None


def cluster(rng, beats, size, held_out, changes=1):
    """`size` pairs of texts, each two tellings of the same facts; a run of so many beats, the same for all.

    Every pair differs from the first in `changes` values, or as many as there are, that both of its texts
    say, and in what belongs to them.
    """
    while True:
        plot, base = new_facts(rng, held_out)
        run = run_of_beats(plot, rng, beats)
        pairs, seen = [], []
        for _ in range(20 * size):
            facts, keys = base, set()
            if pairs:
                shared = sorted(said_keys(pairs[0][0], base) & said_keys(pairs[0][1], base))
                if not shared:
                    break
                firsts = {_GROUP[k]: k for k in rng.sample(shared, len(shared))}
                keys = set(rng.sample(sorted(firsts.values()), min(changes, len(firsts))))
                for key in sorted(keys):
                    facts = facts and changed(facts, key, rng, held_out)
                if facts is None or any(all(facts[k] == s[k] for k in shared) for s in seen):
                    continue
            one, taken = tell(plot, run, facts, rng)
            two, _ = tell(plot, run, facts, rng, taken)
            both = said_keys(one, facts) & said_keys(two, facts)
            if one == two or (keys - both if pairs else len(both) < 2):
                continue
            pairs.append((one, two))
            seen.append(facts)
            if len(pairs) == size:
                return pairs
