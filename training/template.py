"""Sentence templates: one table serves both to write stories and to parse them.

Syntax of a template:
    {hero}          the value of a story variable
    {hero.he}       a form of it: he/him/his/He/His for characters, in/In for places
    {a obj.color}   the value with its indefinite article ("a red", "an orange"); {A ...} capitalised
    {hero.kind}     a dotted name that is not a form is a variable of its own
    [x|y|z]         one of several wordings (may hold variables and further brackets)

Writing binds a variable to a random member of its domain when it is first used.
Parsing binds it to whatever the text says, provided the domain allows it, and
from then on every further use must agree: that is what keeps a story consistent.
"""

from . import world


def compile_template(source):
    """Template text -> nested tuple of nodes: str | ("var", key, form, article) | ("alt", branches)."""
    nodes, end = _sequence(source, 0, "")
    if end != len(source):
        raise ValueError(f"stray bracket in template: {source}")
    return nodes


def _sequence(source, i, stops):
    nodes, literal = [], []

    def flush():
        if literal:
            nodes.append("".join(literal))
            literal.clear()

    while i < len(source) and source[i] not in stops:
        c = source[i]
        if c == "{":
            flush()
            close = source.index("}", i)
            nodes.append(_variable(source[i + 1 : close]))
            i = close + 1
        elif c == "[":
            flush()
            branches = []
            while source[i] != "]":
                branch, i = _sequence(source, i + 1, "|]")
                branches.append(branch)
            nodes.append(("alt", tuple(branches)))
            i += 1
        elif c in "]}":
            break
        else:
            literal.append(c)
            i += 1
    flush()
    return tuple(nodes), i


def _variable(body):
    article = None
    if body[:2] in ("a ", "A "):
        article, body = body[0], body[2:]
    base, _, form = body.rpartition(".")
    if base and form in world.FORMS:
        return ("var", base, form, article)
    return ("var", body, "", article)


def render(node, value):
    """The text of one variable node when its variable has this value."""
    _, key, form, article = node
    text = world.form(value, form)
    if article:
        text = ("an " if text[0].lower() in "aeiou" else "a ") + text
        if article == "A":
            text = text[0].upper() + text[1:]
    return text


def plain(text, follows, choices):
    """The mark that leaves a text as it is."""
    return text


def write(nodes, bindings, rng, mark=plain):
    """Text for a template; unbound variables are drawn and stored in `bindings`.

    `mark(text, follows, choices)` returns what to write for a variable. `follows`: 1 for what depends
    on an earlier choice (a variable said again, a name that must fit a kind), 2 where stories say it
    so rarely that it is hard to learn, else 0. `choices`: every text that might as well have stood
    there, each as often as it is likely, or None for a variable said again.
    """
    out = []
    for node in nodes:
        if isinstance(node, str):
            out.append(node)
        elif node[0] == "alt":
            out.append(write(rng.choice(node[1]), bindings, rng, mark))
        else:
            key, choices = node[1], None
            follows = (key in bindings or key in world.DEPENDENT) + (key in world.RARE)
            if key not in bindings:
                domain = world.domain(key, bindings)
                choices = [render(node, value) for value in domain]
                bindings[key] = rng.choice(domain)
            out.append(mark(render(node, bindings[key]), follows, choices))
    return "".join(out)


def match(nodes, text, pos, bindings, i=0):
    """Yield every (end, bindings) at which nodes[i:] matches text from pos."""
    if i == len(nodes):
        yield pos, bindings
        return
    node = nodes[i]
    if isinstance(node, str):
        if text.startswith(node, pos):
            yield from match(nodes, text, pos + len(node), bindings, i + 1)
    elif node[0] == "alt":
        for branch in node[1]:
            for end, bound in match(branch, text, pos, bindings):
                yield from match(nodes, text, end, bound, i + 1)
    else:
        key = node[1]
        if key in bindings:
            said = render(node, bindings[key])
            if text.startswith(said, pos):
                yield from match(nodes, text, pos + len(said), bindings, i + 1)
        else:
            for value in world.domain(key, bindings):
                said = render(node, value)
                if text.startswith(said, pos):
                    yield from match(nodes, text, pos + len(said), {**bindings, key: value}, i + 1)
