"""Queries with passages that answer them and passages that nearly do: the reranker's text.

A query is a request or a question that names some values of a story's facts. A passage answers it
when its facts have every one of these values; where a query names none, when it is of the same
plot. The passages that nearly do share some values, or the plot.
"""

from .paraphrases import changed, new_facts, run_of_beats, says, tell
from .requests import _ASK as ASK
from .template import compile_template, write
from .story import PLOTS
from .world import PLACES

_QUESTIONS = {
    "lost": """
Who lost {a obj.color} {obj}?
Where did {hero} find the {obj} again?
Which {hero.kind} lost {a obj}?
Who helped {hero} look for the {obj}?
""",
    "found": """
Who found {a obj.color} {obj}?
Whose {obj} did {hero} find?
Which {hero.kind} gave {a obj} back to {friend}?
Who found {a obj} {place.spot}?
""",
    "gift": """
Who made {a gift} for {friend}?
What did {hero} need for the {gift}?
Which {hero.kind} made {a gift}?
""",
    "quarrel": """
Who quarreled over {a obj.color} {obj}?
Why did {hero} and {friend} argue?
Which {hero.kind} would not share {a obj}?
""",
    "fear": """
Who was afraid of {fear}?
What was {hero} afraid of?
Which {hero.kind} had to go to {elder}?
""",
    "garden": """
Who grew {a plant}?
Where did the {plant} of {hero} come from?
Which {hero.kind} planted a seed?
""",
    "delivery": """
Who took the {obj} to the {place2}?
What did {hero} carry to the {place2}?
How did {hero} get past with a {tool}?
""",
    "rescue": """
Who saved {friend} with a {tool}?
Who was stuck {trap}?
How did {hero} save {friend}?
""",
    "newcomer": """
Who was kind to {friend} the {friend.kind}?
Which {hero.kind} went to the new neighbor with {a obj}?
How did {hero} and {friend} become friends?
""",
    "race": """
Did {hero} win the race?
Which {hero.kind} ran in the race {place.in}?
""",
}
_QUESTIONS = {name: [compile_template(q) for q in text.strip().split("\n")] for name, text in _QUESTIONS.items()}
_ELEMENTS = [compile_template(t) for t in """
a story with {hero}
a story about {hero} and {a obj}
a story about {a hero.kind} and {a obj.color} {obj}
a short story with {a hero.kind} named {hero}
a story about {hero} and {friend} {place.in}
a story with {a hero.kind}, {a friend.kind} and {a obj}
a bedtime story about {a hero.kind} {place.in}
a story with {hero} and {a obj} {place.in}
a story about {a hero.kind} and {a friend.kind}
""".strip().split("\n")]


def _keys(nodes):
    """The variables that a template names."""
    out = set()
    for node in nodes:
        if not isinstance(node, str):
            out |= set().union(*map(_keys, node[1])) if node[0] == "alt" else {node[1]}
    return out


def new_query(rng, plot, bindings):
    """(query, the variables it names) for a story."""
    dice = rng.random()
    table = plot.requests if dice < 0.4 else _ELEMENTS if dice < 0.7 else _QUESTIONS[plot.name]
    fitting = [t for t in table if _keys(t) <= bindings.keys()] or [plot.requests[0]]
    nodes = rng.choice(fitting)
    text = write(nodes, dict(bindings), rng)
    return (text if dice >= 0.7 else rng.choice(ASK).replace("{s}", text)), sorted(_keys(nodes))


def answers(query, facts):
    """Whether facts (plot, bindings) answer a query (text, plot, values)."""
    _, plot, values = query
    return set(values) <= set(facts[1].values()) if values else facts[0] is plot


def _passage(rng, plot, bindings, beats, must_say):
    """A run of beats that says all of these values; None where it is not found soon."""
    for _ in range(6):
        text, _ = tell(plot, run_of_beats(plot, rng, beats), bindings, rng)
        if all(says(text, v) for v in must_say):
            return text
    return None


def topic(rng, beats, held_out, facts=None):
    """(query, facts, passage): a query is (text, plot, values)."""
    while True:
        plot, bindings = facts or new_facts(rng, held_out)
        for _ in range(8):
            text, keys = new_query(rng, plot, bindings)
            if any(k not in bindings for k in keys):
                continue
            values = [bindings[k] for k in keys]
            passage = _passage(rng, plot, bindings, beats, values)
            if passage:
                return (text, plot, values, keys), (plot, bindings), passage
        facts = None


def _near(rng, query, facts, beats, held_out, same_plot=0.6):
    """(facts, passage) close to a query that they do not answer; None where it did not come out."""
    _, plot, values, keys = query
    bindings, said = facts[1], []
    if keys and rng.random() < same_plot:
        key = rng.choice(keys)  # The same story with another of what was asked for.
        near = changed(bindings, key, rng, held_out)
        if near is None:
            return None
        other, said = (plot, near), [near[key]]
    else:
        shared = [k for k in ("hero", "hero.kind", "obj", "friend", "place") if k in bindings]
        kept = rng.sample(shared, rng.randint(0, min(2, len(shared))))
        if {"hero", "hero.kind"} <= set(kept):
            kept.remove("hero")
        try:
            other = new_facts(rng, held_out, rng.choice(PLOTS), {k: bindings[k] for k in kept})
        except IndexError:  # A kept value left nothing to choose from.
            return None
    if answers(query[:3], other):
        return None
    passage = _passage(rng, *other, beats, said)
    return passage and (other, passage)


def example(rng, beats, count, same_plot=0.6):
    """(query text, passages), of which the first alone answers it; `same_plot` is how likely others are of its plot."""
    query, facts, passage = topic(rng, beats, False)
    passages = [passage]
    while len(passages) < count:
        near = _near(rng, query, facts, beats, False, same_plot)
        if near and near[1] not in passages:
            passages.append(near[1])
    return query[0], passages


def heldout_cluster(rng, beats, queries, count):
    """(queries, answers, passages): `count` passages, of which each query has exactly one, at its index in answers."""
    while True:
        asked, passages = [], []
        first = topic(rng, beats, True)
        for attempt in range(200):
            if len(asked) == queries:
                break
            facts = first[1]
            if asked:
                key = rng.choice(sorted({"hero", "obj", "place", "friend", "hero.kind"} & facts[1].keys()))
                near = changed(facts[1], key, rng, True)
                facts = (facts[0], near) if near and rng.random() < 0.6 else new_facts(rng, True, None, {"hero.kind": facts[1]["hero.kind"]})
            query, facts, passage = topic(rng, beats, True, facts)
            clash = any(answers(query[:3], f) for f, _ in passages) or any(answers(q[:3], facts) for q, _ in asked)
            if not clash:
                asked.append((query, len(passages)))
                passages.append((facts, passage))
        for attempt in range(1000):
            if len(asked) < queries or len(passages) == count:
                break
            query, at = rng.choice(asked)
            near = _near(rng, query, passages[at][0], beats, True)
            if near and not any(answers(q[:3], near[0]) for q, _ in asked) and near[1] not in [p for _, p in passages]:
                passages.append(near)
        if len(asked) == queries and len(passages) == count:
            return [q[0] for q, _ in asked], [at for _, at in asked], [p for _, p in passages]
