"""Seconds-long checks of the generator, its parser and the models; no test framework.

Without torch those of the models are left out.

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


def test_chunked_recurrence_is_the_recurrence():
    torch = _torch()
    if torch is None:
        return
    from . import rwkv

    torch.manual_seed(1)
    normal = lambda *shape: torch.randn(*shape, dtype=torch.float64)
    for fastest in (False, True):
        r, k, v, kk = (normal(2, 3, 4 * rwkv.CHUNK, 64) for _ in range(4))
        a, decay = torch.rand_like(r), torch.ones_like(r) if fastest else torch.rand_like(r)
        kk = torch.nn.functional.normalize(kk, dim=-1)
        given = (r, -rwkv.DECAY * decay, k, v, -kk, kk * a, normal(2, 3, 64, 64))
        for told, expected in zip(rwkv.wkv_chunked(*given), rwkv.wkv_recurrent(*given)):
            assert (told - expected).abs().max() < 1e-11 * expected.abs().max()
        exact, state = rwkv.wkv_recurrent(*given)
        rounded, _ = rwkv.wkv_chunked(*(x.float() for x in given))
        assert (rounded - exact).abs().max() < 1e-5 * exact.abs().max()


def test_a_state_goes_on_where_the_text_was_cut():
    torch = _torch()
    if torch is None:
        return
    from . import rwkv

    torch.manual_seed(2)
    model = rwkv.new_model().double()
    ids = torch.randint(2048, (2, 2 * rwkv.CHUNK))
    state = model.empty_state(2)
    parts = [model(ids[:, :40], state), model(ids[:, 40:41], state), model(ids[:, 41:], state)]
    assert (torch.cat(parts, 1) - model(ids)).abs().max() < 1e-9


def test_both_streams_of_causal_blocks_are_what_a_sampler_sees():
    """Every block of the masked canvas, against the text up to that block run by itself."""
    torch = _torch()
    if torch is None:
        return
    from . import diffusion

    torch.manual_seed(3)
    model, block, length = diffusion.new_model(), 8, 32
    text = torch.randint(2048, (length,))
    masked = torch.where(torch.rand(length) < 0.5, diffusion.MASK_ID, text)
    both = model(torch.cat((text, masked))[None], places=torch.arange(length).repeat(2),
                 sight=diffusion.block_sight(length, block))[0]
    of = torch.arange(length) // block
    for first in range(block, length, block):
        last = first + block
        seen = torch.cat((text[:first], masked[first:last]))
        alone = model(seen[None], sight=(of[:, None] >= of)[:last, :last])[0, first - 1 : last - 1]
        rows = torch.arange(first - 1, last - 1)
        assert (both[rows + length * (rows >= first)] - alone).abs().max() < 1e-3


def test_masks_lie_where_they_should():
    if _torch() is None:
        return
    from . import diffusion

    rng = random.Random(11)
    for _ in range(500):
        share = rng.random()
        hidden = diffusion.hidden_places(rng, 7, 23, share)
        assert len(hidden) == len(set(hidden)) == int(share * 16) + 1 and set(hidden) <= set(range(7, 23))


def test_the_noise_of_a_denoiser_is_the_engines():
    """Philox against the known answers published with the reference implementation (Random123)."""
    if _torch() is None:
        return
    import numpy as np

    from . import denoiser

    for key, counter, words in (
        (0, [0] * 4, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        (2 ** 64 - 1, [2 ** 32 - 1] * 4, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (0x299F31D0A4093822, [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
         [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]),
    ):
        assert denoiser.philox(key, np.array(counter)).tolist() == words
    z = denoiser.noise_of(3, 1000, 50, denoiser.END_OF_TIMES)
    assert abs(z.mean()) < 0.02 and abs((z ** 2).mean() - 1) < 0.03


def test_first_sentences_parse_and_others_do_not():
    if _torch() is None:
        return
    from . import denoiser

    for i in range(300):
        text = denoiser.sentence(random.Random(f"first sentence {i}"))
        assert denoiser.parses(text), text
        assert not denoiser.parses(text[:-1]) and not denoiser.parses(text.replace(" ", "  ", 1)), text
    assert not denoiser.parses("Once there was a girl named Pip who lived in the forest.")


def test_steps_of_a_denoiser_end_where_its_noise_says():
    """A network that knew the text would be led to it, with new noise and without."""
    torch = _torch()
    if torch is None:
        return
    from . import denoiser

    model = denoiser.new_model()
    wanted = torch.randint(2048, (model.cfg.context,))
    clean = model.token_embd(wanted)
    share = model.diffusion.alphas
    model.forward = lambda x, t: (x - share[t][:, None, None].sqrt() * clean) / (1 - share[t][:, None, None]).sqrt()
    for eta in (0.0, 0.5, 1.0):
        seen = []
        denoiser.write_texts(model, [1], 20, eta, watch=seen.append)
        assert (seen[-1][0] - clean).abs().max() < 1e-3


def _torch():
    try:
        import torch
    except ImportError:
        print("left out: no torch")
        return None
    return torch


def main():
    tests = [(n, f) for n, f in sorted(globals().items()) if n.startswith("test_")]
    for name, test in tests:
        test()
        print("ok", name)
    print(f"{len(tests)} tests passed")


if __name__ == "__main__":
    main()
