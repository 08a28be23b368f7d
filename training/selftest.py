"""Seconds-long checks of the generator and its parser; no test framework, no torch.

    python -m training.selftest
"""

import random
import re

from . import grammar, world
from .requests import document
from .story import PLOTS, write_story

COUNT = 1000


def stories(seed, count=COUNT):
    rng = random.Random(seed)
    return [write_story(rng) for _ in range(count)]


def test_same_seed_same_text():
    docs = lambda: [document(random.Random(f"x{i}")) for i in range(200)]
    assert docs() == docs()
    assert [s[0] for s in stories(3, 50)] == [s[0] for s in stories(3, 50)]
    assert [s[0] for s in stories(3, 50)] != [s[0] for s in stories(4, 50)]


def test_every_written_story_parses():
    for text, bound, plot in stories(1):
        result = grammar.parse(text)
        assert result.ok, (result.reason, text)
        for key in ("hero", "friend", "elder", "obj"):
            assert result.bindings.get(key) == bound.get(key), (key, text)
        assert not grammar.strangers(result, text)


def test_lengths():
    words = [len(t.split()) for t, _, _ in stories(2)]
    assert 80 <= min(words) and max(words) <= 230, (min(words), max(words))


def test_a_swapped_name_does_not_parse():
    rng, tried = random.Random(5), 0
    for text, bound, _ in stories(5):
        places = [m.span() for m in re.finditer(rf"\b{bound['hero']}\b", text)]
        start, end = rng.choice(places[1:] or places)
        if len(places) < 2:
            continue
        other = rng.choice([n for n in world.GIRLS + world.BOYS if n != bound["hero"]])
        tried += 1
        assert not grammar.parse(text[:start] + other + text[end:]).ok, text
    assert tried > COUNT * 0.9


def test_a_changed_object_does_not_parse():
    tried = 0
    for text, bound, _ in stories(6):
        hits = list(re.finditer(rf"\b{bound.get('obj', '~')}\b", text))
        if len(hits) < 2:
            continue
        other = "lantern" if bound["obj"] != "lantern" else "kite"
        start, end = hits[-1].span()
        tried += 1
        assert not grammar.parse(text[:start] + other + text[end:]).ok, text
    assert tried > COUNT * 0.4


def test_a_changed_place_does_not_parse():
    """A story that names its place a second time must name the same one."""
    tried = 0
    for text, bound, _ in stories(7):
        hits = list(re.finditer(rf"the {bound['place']}\b", text))
        if len(hits) < 2 or bound.get("place2"):
            continue
        other = "harbor" if bound["place"] != "harbor" else "river"
        start, end = hits[-1].span()
        tried += 1
        assert not grammar.parse(f"{text[:start]}the {other}{text[end:]}").ok, text
    assert tried > 50


def test_a_wrong_pronoun_does_not_parse():
    """Every she/he belongs to somebody whose name fixes it; turning one around breaks the story."""
    rng, tried, caught = random.Random(8), 0, 0
    for text, _, _ in stories(8):
        hits = list(re.finditer(r"\b(he|she|He|She)\b", text))
        if not hits:
            continue
        hit = rng.choice(hits)
        turned = {"he": "she", "she": "he", "He": "She", "She": "He"}[hit.group()]
        tried += 1
        caught += not grammar.parse(text[: hit.start()] + turned + text[hit.end() :]).ok
    assert caught == tried, (caught, tried)


def test_a_dropped_sentence_does_not_parse():
    """Beats are needed: cutting a paragraph's end out of the middle leaves no story."""
    for text, _, _ in stories(9, 300):
        first, middle, last = text.split("\n\n")
        assert not grammar.parse(f"{first}\n\n{last}").ok
        assert not grammar.parse(f"{first}\n\n{middle}").ok
        assert not grammar.parse(text + " The end.").ok
        assert not grammar.parse(text[: len(text) // 2]).ok


def test_every_plot_and_template_is_reachable():
    seen = {plot.name for _, _, plot in stories(10)}
    assert seen == {p.name for p in PLOTS}


def main():
    tests = [(n, f) for n, f in sorted(globals().items()) if n.startswith("test_")]
    for name, test in tests:
        test()
        print("ok", name)
    print(f"{len(tests)} tests passed")


if __name__ == "__main__":
    main()
